//! What a backup has read is durable before a bitmap says so: a power cut never takes a disk back behind its own bitmap.

use std::{fs, path::Path, sync::Arc};

use holstein::{
    Access, Action, Backing, Backup, BackupOptions, BitmapMode, CompletionMode, Disk, Format, Mapping,
    OverlayOptions, Recording, SyncMode, Transaction, recover_in,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Failure, Fault, Level, OperationKind},
    },
};

use crate::{night::open, qemu::Workshop};

const SIZE: usize = 256 << 10;
const DISK: &str = "/images/disk.qcow2";
const TARGET: &str = "/backups/target.qcow2";
const OVERLAY: &str = "/images/overlay.qcow2";

/// How a copy and a bitmap come together.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The backup clears the bitmap.
    Full,
    /// The same, of what the bitmap marks, over a copy that is not durable either.
    Increment,
    /// Another action does, in the same list.
    Clear(CompletionMode),
    /// The bitmap is new.
    Add,
    /// It is new in an overlay, and cleared by the backup.
    Overlay,
}

/// A disk with a data file over a raw image; its bitmap; a full copy.
fn site(data_file: bool) -> SimulatedStorage {
    let folder = tempfile::tempdir().unwrap();
    let shop = Workshop::new(folder.path());
    fs::write(shop.path("base.raw"), vec![1; SIZE]).unwrap();
    let mut options = "cluster_size=4k,backing_file=base.raw,backing_fmt=raw".to_owned();
    if data_file {
        options += ",data_file=disk.data";
    }
    shop.create("disk.qcow2", SIZE as u64, &options);
    shop.img(&["bitmap", "--add", "-g", "4096", "disk.qcow2", "a"]);
    shop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    shop.io("disk.qcow2", "qcow2", &["write -P 2 64k 64k"]);
    let storage = SimulatedStorage::new();
    for name in ["disk.qcow2", "disk.data", "base.raw"] {
        if let Ok(bytes) = fs::read(shop.path(name)) {
            storage.insert(Path::new("/images").join(name), &bytes);
        }
    }
    storage.insert("/backups/full.qcow2", &fs::read(shop.path("full.qcow2")).unwrap());
    storage.begin();
    storage
}

/// What a program wrote that died before an fsync, in the same places of the disk and of the full copy, where clusters are
/// already.
fn write_undurable(storage: &SimulatedStorage) {
    for path in [DISK, "/backups/full.qcow2"] {
        let disk = open(storage, path, Access::Read).unwrap();
        let chain = disk.chain();
        let mut places = Vec::new();
        for guest in [32 << 10, 96 << 10, 192 << 10] {
            let run = disk.map(guest..guest + 2048).next().unwrap().unwrap();
            if let Mapping::Data { host, .. } = run.mapping {
                let file = match run.depth {
                    0 if storage.contents("/images/disk.data").is_some() && path == DISK => {
                        Path::new("/images/disk.data").to_owned()
                    }
                    depth => chain[depth].path.clone(),
                };
                places.push((file, host));
            }
        }
        drop(disk);
        for (file, host) in places {
            let file = storage.open_writable(&file).unwrap();
            assert_eq!(file.write_at(&[9; 2048], host).unwrap(), 2048);
        }
    }
}

fn run(storage: &SimulatedStorage, way: Way) -> holstein::Result<()> {
    let disk = open(storage, DISK, Access::Write)?;
    let mut list = Transaction::new();
    let mut options = BackupOptions { sync: Some(SyncMode::Full), ..BackupOptions::default() };
    let clears = |options: &mut BackupOptions, name: &str| {
        options.bitmap = Some(name.into());
        options.bitmap_mode = Some(BitmapMode::OnSuccess);
    };
    match way {
        Way::Full => clears(&mut options, "a"),
        Way::Increment => {
            clears(&mut options, "a");
            options.sync = Some(SyncMode::Incremental);
            options.backing = Some(Backing { name: "full.qcow2".into(), format: Format::Qcow2 });
        }
        Way::Clear(completion) => {
            list.set_completion(completion);
            list.add(Action::bitmap_clear(disk.clone(), "a"));
        }
        Way::Add => list.add(Action::bitmap_add(disk.clone(), "new", None, Recording::Enabled)),
        Way::Overlay => {
            list.add(Action::ExternalSnapshot {
                disk: disk.clone(),
                overlay: OVERLAY.into(),
                options: OverlayOptions::default(),
            });
            list.add(Action::bitmap_add(disk.clone(), "new", None, Recording::Enabled));
            clears(&mut options, "new");
        }
    }
    list.add(Backup { source: disk, target: TARGET.into(), options });
    list.commit().map(drop)
}

/// Whether target and bitmap are there, the bitmap clean; then the target must be the disk.
fn judge(storage: &SimulatedStorage, way: Way) -> Result<bool, String> {
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    recover_in(&shared, "/backups").map_err(|e| e.to_string())?;
    let (path, name) = match way {
        Way::Overlay => (OVERLAY, "new"),
        Way::Add => (DISK, "new"),
        _ => (DISK, "a"),
    };
    if storage.contents(TARGET).is_none() || storage.contents(path).is_none() {
        return Ok(false);
    }
    let read = |disk: &Disk| {
        let mut bytes = vec![0; SIZE];
        disk.read_at(&mut bytes, 0).map(|()| bytes)
    };
    let disk = open(storage, path, Access::Read).map_err(|e| e.to_string())?;
    let clean = disk.bitmap(name.as_bytes()).is_ok_and(|bitmap| bitmap.count() == 0);
    if !clean {
        return Ok(false);
    }
    let target = open(storage, TARGET, Access::Read).map_err(|e| e.to_string())?;
    match (read(&disk), read(&target)) {
        (Ok(disk), Ok(target)) if disk == target => Ok(true),
        (Ok(disk), Ok(target)) => {
            let at = disk.iter().zip(&target).position(|(disk, target)| disk != target);
            Err(format!("the bitmap is clean, and the target is not the disk, from byte {at:?} on"))
        }
        failed => Err(format!("{:?} {:?}", failed.0.err(), failed.1.err())),
    }
}

const WAYS: [Way; 6] = [
    Way::Full,
    Way::Increment,
    Way::Clear(CompletionMode::Grouped),
    Way::Clear(CompletionMode::Individual),
    Way::Add,
    Way::Overlay,
];

#[test]
fn a_power_cut_takes_no_disk_back_behind_its_bitmap() {
    for (way, data_file) in WAYS.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let storage = site(data_file);
        write_undurable(&storage);
        run(&storage, way).unwrap();
        let recording = storage.recording();
        let (mut clean, mut other) = (0, 0);
        for (crash, state) in recording.states(&Level::ALL, 250, 4) {
            match judge(&state, way) {
                Ok(true) => clean += 1,
                Ok(false) => other += 1,
                Err(reason) => panic!("{way:?}, data file {data_file}, {crash}: {reason}"),
            }
        }
        println!("{way:?}, data file {data_file}: {clean} states with a clean bitmap, {other} others");
        assert!(clean > 2 && other > 50, "{way:?}: {clean} clean, {other} others");
    }
}

/// When something that was read cannot be made durable, there is nothing, and the error says which file it is.
#[test]
fn what_cannot_be_made_durable_changes_no_bitmap() {
    for way in WAYS {
        let whole = site(true);
        run(&whole, way).unwrap();
        let mut told = [0; 2];
        for nth in 1..=whole.calls(OperationKind::Sync) {
            let storage = site(true);
            storage.fail(Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO)));
            let result = run(&storage, way);
            storage.stop_failing();
            let Err(error) = result else { continue };
            for (file, told) in ["/images/base.raw", "/images/disk.data"].iter().zip(&mut told) {
                if !error.to_string().contains(file) {
                    continue;
                }
                *told += 1;
                assert!(!judge(&storage, way).unwrap(), "{way:?}: {error}");
                assert!(storage.contents(TARGET).is_none(), "{way:?}: {error}");
            }
        }
        assert_eq!(told, [1, 1], "{way:?}");
    }
}
