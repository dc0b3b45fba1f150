//! A full backup on trial: its target is complete or not there, whatever crashes and whatever fails.

use std::{path::Path, sync::Arc};

use holstein::{
    Backup, BackupOptions, Compression, Disk, DiskOptions, Error, Existing, Format, Transaction,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, Level, OperationKind, Recording},
    },
};

use crate::{
    builder::{Bitmap, Builder, Cluster, pattern, text},
    crash::Trial,
};

const SOURCE: &str = "/images/source";
const TARGET: &str = "/backups/target";

/// A backup of one disk.
#[derive(Clone)]
struct Case {
    name: &'static str,
    source: Format,
    options: BackupOptions,
    /// The disk's contents.
    guest: Vec<u8>,
    files: Vec<(&'static str, Vec<u8>)>,
    /// What the target held before.
    old: Option<Vec<u8>>,
}

impl Case {
    /// A raw disk with data, zeros and an odd end, to a new qcow2 image.
    fn raw() -> Self {
        let mut guest = vec![0; (600 << 10) + 512];
        for (number, block) in guest.chunks_mut(64 << 10).enumerate().filter(|(number, _)| number % 3 != 1) {
            block.copy_from_slice(&pattern(number as u64, block.len()));
        }
        let options = BackupOptions { cluster_size: Some(4096), ..Default::default() };
        let files = vec![(SOURCE, guest.clone())];
        Case { name: "raw", source: Format::Raw, options, guest, files, old: None }
    }

    /// A qcow2 image with compressed and zero clusters and a bitmap, compressed over an older target.
    fn overwrite() -> Self {
        let mut image = Builder::new(12, 1 << 20).bitmap(Bitmap::new("b0", 16, &[0..3]));
        for number in 0..100 {
            let cluster = match number % 5 {
                0 => continue,
                1 => Cluster::Zero,
                2 => Cluster::deflate(text(number, 4096)),
                _ => Cluster::Data(pattern(number, 4096)),
            };
            image = image.cluster(number * 2, cluster);
        }
        let compression = Compression::Zlib { level: None };
        let options = BackupOptions { compression, existing: Existing::Overwrite, ..Default::default() };
        let old = Builder::new(16, 1 << 20).cluster(3, Cluster::Data(text(3, 65536)));
        let files = vec![(SOURCE, image.build().bytes), (TARGET, old.build().bytes.clone())];
        let (guest, old) = (image.guest(0..1 << 20), Some(old.guest(0..1 << 20)));
        Case { name: "overwrite", source: Format::Qcow2, options, guest, files, old }
    }

    /// The same image to a new raw file.
    fn to_raw() -> Self {
        let Case { guest, mut files, .. } = Self::overwrite();
        files.truncate(1);
        let options = BackupOptions { format: Format::Raw, ..Default::default() };
        Case { name: "to-raw", source: Format::Qcow2, options, guest, files, old: None }
    }

    fn all() -> [Case; 3] {
        [Case::raw(), Case::overwrite(), Case::to_raw()]
    }

    fn storage(&self) -> SimulatedStorage {
        let storage = SimulatedStorage::new();
        storage.make_folder("/backups");
        self.files.iter().for_each(|(path, bytes)| storage.insert(path, bytes));
        storage.enforce_locks();
        storage
    }

    fn run(&self, storage: &SimulatedStorage) -> Result<(), Error> {
        let source = open(storage, Path::new(SOURCE), self.source)?;
        let mut transaction = Transaction::new();
        transaction.add(Backup { source, target: TARGET.into(), options: self.options.clone() });
        transaction.commit().map(drop)
    }

    /// The recording of a run in which nothing fails.
    fn recorded(&self) -> Recording {
        let storage = self.storage();
        self.run(&storage).unwrap();
        storage.mark();
        storage.recording()
    }

    /// Whether the target is what it shall be, or what it was where that is `allowed`.
    fn check_target(&self, storage: &SimulatedStorage, old_is_allowed: bool) -> Result<(), String> {
        for (path, bytes) in self.files.iter().filter(|(path, _)| *path != TARGET) {
            if storage.contents(path).as_ref() != Some(bytes) {
                return Err(format!("{path} was changed"));
            }
        }
        for path in storage.paths().iter().filter(|path| path.to_string_lossy().ends_with(".tmp")) {
            self.check_leftover(storage, path)?;
        }
        if storage.contents(TARGET).is_none() {
            let allowed = old_is_allowed && self.old.is_none();
            return if allowed { Ok(()) } else { Err("the target is not there".into()) };
        }
        let contents = self.guest(storage, Path::new(TARGET))?;
        if contents == self.guest || old_is_allowed && Some(&contents) == self.old.as_ref() {
            return Ok(());
        }
        let same = contents.iter().zip(&self.guest).take_while(|(a, b)| a == b).count();
        Err(format!("the target is neither old nor complete: it differs at {same:#x}"))
    }

    /// A temporary file that a crash left is complete too, or no image: nobody takes half of one for a backup.
    /// A raw file is always an image.
    fn check_leftover(&self, storage: &SimulatedStorage, path: &Path) -> Result<(), String> {
        if self.options.format == Format::Raw || open(storage, path, Format::Qcow2).is_err() {
            return Ok(());
        }
        let contents = self.guest(storage, path)?;
        if contents == self.guest || Some(&contents) == self.old.as_ref() {
            return Ok(());
        }
        Err(format!("{} is an image, but half of one", path.display()))
    }

    fn guest(&self, storage: &SimulatedStorage, path: &Path) -> Result<Vec<u8>, String> {
        let disk = open(storage, path, self.options.format).map_err(|e| format!("does not open: {e}"))?;
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(&mut bytes, 0).map_err(|e| format!("cannot be read: {e}"))?;
        Ok(bytes)
    }
}

fn open(storage: &SimulatedStorage, path: &Path, format: Format) -> Result<Disk, Error> {
    Disk::open_in(Arc::new(storage.clone()), path, &DiskOptions { format, ..Default::default() })
}

#[test]
fn a_crash_leaves_a_complete_target_or_none() {
    for case in Case::all() {
        let recording = case.recorded();
        let trial = Trial { name: case.name, recording: &recording, limit: 1500, seed: 1 };
        let judged =
            trial.judge(|crash, storage| case.check_target(storage, recording.marks_before(crash) == 0));
        let Some(judged) = judged else { continue };
        println!("{}: {judged:?}", case.name);
        assert_eq!(judged.keys().copied().collect::<Vec<_>>(), Level::ALL, "{}", case.name);
        assert!(judged.values().sum::<usize>() > 500, "{}: {judged:?}", case.name);
    }
}

/// The trials above would find a target that is published too early.
#[test]
fn an_engine_without_syncs_is_found_out() {
    let case = Case::raw();
    let storage = case.storage();
    case.run(&storage).unwrap();
    let bytes = storage.contents(TARGET).unwrap();
    for forgets_data in [true, false] {
        let storage = case.storage();
        let careless = |storage: &dyn holstein::storage::Storage| -> std::io::Result<()> {
            let file = storage.create("/backups/tmp".as_ref())?;
            for (number, part) in bytes.chunks(64 << 10).enumerate() {
                file.write_at(part, number as u64 * (64 << 10))?;
            }
            if !forgets_data {
                file.sync()?;
            }
            let rule = holstein::storage::RenameRule::NoReplace;
            storage.rename("/backups/tmp".as_ref(), TARGET.as_ref(), rule)?;
            if forgets_data {
                storage.sync_folder("/backups".as_ref())?;
            }
            Ok(())
        };
        careless(&storage).unwrap();
        storage.mark();
        let recording = storage.recording();
        let bad = recording
            .states(&Level::ALL, 500, 1)
            .filter(|(crash, state)| case.check_target(state, recording.marks_before(crash) == 0).is_err());
        assert!(bad.count() > 0, "forgets data: {forgets_data}");
    }
}

/// What a fault of one kind can be.
fn failures(kind: OperationKind) -> Vec<(Failure, bool)> {
    let mut list: Vec<(Failure, bool)> = [libc::EIO, libc::ENOSPC]
        .into_iter()
        .flat_map(|number| [false, true].map(|lasting| (Failure::Errno(number), lasting)))
        .collect();
    if matches!(kind, OperationKind::Read | OperationKind::Write) {
        list.push((Failure::Errno(libc::EINTR), false));
        list.extend([1, 700].map(|count| (Failure::AtMost(count), false)));
        list.push((Failure::AtMost(700), true));
    }
    if kind == OperationKind::Write {
        list.extend([false, true].map(|lasting| (Failure::AtMost(0), lasting)));
    }
    list
}

/// Runs `judge` after each run in which one operation fails.
fn with_each_failure(case: &Case, mut judge: impl FnMut(&Fault, &SimulatedStorage, Result<(), Error>)) {
    let whole = case.storage();
    case.run(&whole).unwrap();
    for kind in OperationKind::ALL {
        for nth in 1..=whole.calls(kind) {
            for (failure, lasting) in failures(kind) {
                let fault = Fault { kinds: vec![kind], nth, failure, lasting };
                let storage = case.storage();
                storage.fail(fault.clone());
                let result = case.run(&storage);
                storage.stop_failing();
                judge(&fault, &storage, result);
            }
        }
    }
}

#[test]
fn a_failure_leaves_everything_as_it_was() {
    let mut wrong = Vec::new();
    for case in Case::all() {
        let before = case.storage();
        let (mut failed, mut succeeded) = (0, 0);
        with_each_failure(&case, |fault, storage, result| {
            let verdict = match &result {
                // A removal that fails is told to nobody: what was to go stays.
                Ok(()) if fault.kinds == [OperationKind::Unlink] => case.check_target(storage, false),
                Ok(()) if storage.paths().len() > case.files.len() + usize::from(case.old.is_none()) => {
                    Err(format!("files are left: {:?}", storage.paths()))
                }
                Ok(()) => case.check_target(storage, false),
                Err(_) if storage.digest() == before.digest() => Ok(()),
                // A name that cannot be withdrawn durably stays decided.
                Err(e) if e.to_string().contains("whether the transaction was decided is not known") => {
                    let shared: Arc<dyn holstein::storage::Storage> = Arc::new(storage.clone());
                    holstein::recover_in(&shared, "/backups").unwrap();
                    case.check_target(storage, false)
                }
                Err(_) => Err(format!("it is not as it was: {:?}", storage.paths())),
            };
            match result {
                Ok(()) => succeeded += 1,
                Err(_) => failed += 1,
            }
            if let Err(reason) = verdict {
                wrong.push(format!("{}: {fault:?}: {result:?}, but {reason}", case.name));
            }
        });
        println!("{}: {failed} failed, {succeeded} succeeded", case.name);
        assert!(failed > 50 && succeeded > 10, "{}: {failed} failed, {succeeded} succeeded", case.name);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A read that ends where the file does not is no end: what it did not bring is not zeros.
#[test]

fn a_read_that_returns_nothing_fails_the_backup() {
    for case in Case::all() {
        let whole = case.storage();
        case.run(&whole).unwrap();
        for (nth, lasting) in (1..=whole.calls(OperationKind::Read)).flat_map(|n| [(n, false), (n, true)]) {
            let storage = case.storage();
            let failure = Failure::AtMost(0);
            storage.fail(Fault { kinds: vec![OperationKind::Read], nth, failure, lasting });
            let result = case.run(&storage);
            storage.stop_failing();
            assert!(result.is_err(), "{}: read {nth}, lasting: {lasting}", case.name);
            assert_eq!(storage.digest(), case.storage().digest(), "{}: read {nth}", case.name);
        }
    }
}

/// After a failed sync nobody knows what is on the disk; nothing of it may appear under the final name.
#[test]
fn a_crash_after_a_failed_sync_leaves_no_half_target() {
    for case in [Case::raw(), Case::overwrite()] {
        let whole = case.storage();
        case.run(&whole).unwrap();
        for kind in [OperationKind::Sync, OperationKind::SyncFolder] {
            for nth in 1..=whole.calls(kind) {
                let storage = case.storage();
                storage.fail(Fault::once(kind, nth, Failure::Errno(libc::EIO)));
                // Only when the target has its name is a failure no reason to fail: two folders have to be durable before.
                let done = case.run(&storage).is_ok();
                assert_eq!(done, kind == OperationKind::SyncFolder && nth > 3, "{nth}");
                let name = format!("{}-{kind:?}-{nth}", case.name);
                let recording = storage.recording();
                let trial = Trial { name: &name, recording: &recording, limit: 300, seed: nth };
                trial.judge(|_, storage| case.check_target(storage, true));
            }
        }
    }
}
