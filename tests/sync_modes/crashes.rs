//! What a crash or a second failure leaves of a backup that fails in the midst, in bitmap mode always: no granule is
//! clean whose data is not in a complete, durable target.

use std::{cell::RefCell, fs, io, ops::Range, path::Path, sync::Arc};

use holstein::{
    Access, Backing, Backup, BackupOptions, BitmapMode, Disk, DiskOptions, Format, SyncMode, Transaction,
    recover_in,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Failure, Fault, Level, OperationKind},
    },
};
use serde_json::Value;

use crate::{
    crash::{Trial, write_to},
    site::{KIB, MIB, alone},
    storage::{Kind, Notice, WatchedStorage},
    support::{
        qemu::{Extent, Workshop, extent, merged, rounded_out, text},
        rng::Rng,
    },
};

const SIZE: u64 = 6 * MIB + 512;
const GRANULE: u64 = 16 * KIB;
const SOURCE: &str = "/images/disk.qcow2";
const TARGET: &str = "/images/target.qcow2";

/// An image, what it held, and where it cannot be read.
struct Past {
    files: Vec<(String, Vec<u8>)>,
    guest: Vec<u8>,
    full: Vec<u8>,
    dirty: Vec<Range<u64>>,
    other: Vec<Range<u64>>,
    /// What the top image has.
    own: Vec<Extent>,
    unreadable: u64,
}

/// A moment of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Before anything.
    Start,
    /// It fails.
    Failure,
    /// Its target is about to get its name.
    Rename,
}

/// A backup that ends early.
struct Case<'a> {
    past: &'a Past,
    sync: SyncMode,
    /// Where the part ends when nothing else fails, and what is dirty then.
    end: u64,
    rest: Vec<Range<u64>>,
}

fn open(storage: &SimulatedStorage, path: &str) -> Result<Disk, String> {
    Disk::open_in(Arc::new(storage.clone()), path, &DiskOptions::default())
        .map_err(|e| format!("{path} does not open: {e}"))
}

fn contents(storage: &SimulatedStorage, path: &str) -> Result<Vec<u8>, String> {
    let disk = open(storage, path)?;
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).map_err(|e| format!("{path} cannot be read: {e}"))?;
    Ok(bytes)
}

fn bitmap(storage: &SimulatedStorage, name: &str) -> Result<Vec<Range<u64>>, String> {
    let bitmap = open(storage, SOURCE)?.bitmap(name.as_bytes());
    Ok(bitmap.map_err(|e| format!("bitmap {name}: {e}"))?.extents().collect())
}

impl Past {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        fs::write(shop.path("noise.pat"), Rng::new(4, 4).bytes(MIB as usize, 0)).unwrap();
        let size = SIZE;
        shop.create("base.qcow2", size, "");
        shop.io("base.qcow2", "qcow2", &["write -s noise.pat 0 2M"]);
        shop.create("disk.qcow2", size, "backing_file=base.qcow2,backing_fmt=qcow2,cluster_size=4k");
        shop.io("disk.qcow2", "qcow2", &["write -P 1 100k 300k"]);
        shop.img(&["bitmap", "--add", "-g", "8k", "disk.qcow2", "other"]);
        shop.img(&["bitmap", "--add", "-g", "16k", "disk.qcow2", "b"]);
        shop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
        shop.io(
            "disk.qcow2",
            "qcow2",
            &[
                "write -s noise.pat 300k 2M",
                "write -z 2500k 300k",
                "write -s noise.pat 3M 2900k",
                "write -P 7 6M 512",
            ],
        );
        shop.img(&["bitmap", "--disable", "disk.qcow2", "other"]);
        let map = shop.img_json(&["map", "-f", "qcow2", "disk.qcow2"]);
        let at = 4 * MIB + 9 * KIB;
        let holds = |run: &&Value| extent(run).start <= at && at < extent(run).end();
        let runs = map.as_array().unwrap();
        let run = runs.iter().find(holds).unwrap();
        let unreadable = run["offset"].as_u64().unwrap() + at - extent(run).start;

        let names = ["base.qcow2", "disk.qcow2", "full.qcow2"];
        let read = |name: &&str| (format!("/images/{name}"), fs::read(shop.path(name)).unwrap());
        let mut past = Past {
            files: names.iter().map(read).collect(),
            guest: vec![],
            full: vec![],
            dirty: vec![],
            other: vec![],
            own: merged(runs.iter().filter(|run| run["depth"] == 0 && run["present"] == true).map(extent)),
            unreadable,
        };
        let storage = past.storage();
        past.guest = contents(&storage, SOURCE).unwrap();
        past.full = contents(&storage, "/images/full.qcow2").unwrap();
        past.dirty = bitmap(&storage, "b").unwrap();
        past.other = bitmap(&storage, "other").unwrap();
        past
    }

    fn storage(&self) -> SimulatedStorage {
        let storage = SimulatedStorage::new();
        self.files.iter().for_each(|(path, bytes)| storage.insert(path, bytes));
        storage
    }

    /// The backup, which fails; `then` is done when it does, and so on. Up to where a part was kept.
    fn back_up(
        &self,
        storage: &SimulatedStorage,
        sync: SyncMode,
        then: impl Fn(Moment) + Send + Sync + 'static,
    ) -> Option<u64> {
        let watched = WatchedStorage::new(storage.clone(), true);
        let unreadable = self.unreadable;
        watched.watch(Arc::new(move |notice: &Notice<'_>| {
            if notice.kind == Kind::Read && notice.path == Path::new(SOURCE) && notice.covers(unreadable) {
                then(Moment::Failure);
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            if notice.kind == Kind::Rename {
                then(Moment::Rename);
            }
            Ok(())
        }));
        let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
        let source = Disk::open_in(Arc::new(watched), SOURCE, &options).unwrap();
        let backing = match sync {
            SyncMode::Full => None,
            SyncMode::Top => Some("base.qcow2"),
            _ => Some("full.qcow2"),
        };
        let options = BackupOptions {
            sync: Some(sync),
            bitmap: Some(b"b".to_vec()),
            bitmap_mode: Some(BitmapMode::Always),
            backing: backing.map(|name| Backing { name: name.into(), format: Format::Qcow2 }),
            cluster_size: Some(8 * KIB),
            ..BackupOptions::default()
        };
        let mut transaction = Transaction::new();
        transaction.add(Backup { source, target: TARGET.into(), options });
        let running = transaction.start().unwrap();
        running.wait(None).unwrap().unwrap_err();
        running.jobs()[0].report().partial_end
    }
}

impl<'a> Case<'a> {
    /// One that ends here.
    fn new(past: &'a Past, sync: SyncMode, end: u64) -> Self {
        let extent = |part: &Range<u64>| Extent { start: part.start, length: part.end - part.start };
        let parts: Vec<_> = match sync {
            SyncMode::Bitmap => past.dirty.iter().map(extent).collect(),
            SyncMode::Top => past.own.clone(),
            _ => vec![Extent { start: 0, length: SIZE }],
        };
        let behind = parts.iter().filter(|part| part.end() > end);
        let behind = behind.map(|part| extent(&(part.start.max(end)..part.end())));
        let rest = rounded_out(&behind.collect::<Vec<_>>(), GRANULE, SIZE);
        Case { past, sync, end, rest: rest.iter().map(|part| part.start..part.end()).collect() }
    }

    /// One in which nothing else fails.
    fn undisturbed(past: &'a Past, sync: SyncMode) -> Self {
        let end = past.back_up(&past.storage(), sync, |_| ()).unwrap();
        assert!(end > 3 * MIB && end < 5 * MIB);
        Case::new(past, sync, end)
    }

    /// What a part shows: the disk, and behind its end what is below it.
    fn part(&self, end: u64) -> Vec<u8> {
        let behind = match self.sync {
            SyncMode::Full => vec![0; self.past.guest.len()],
            SyncMode::Top => return Vec::new(),
            _ => self.past.full.clone(),
        };
        [&self.past.guest[..end as usize], &behind[end as usize..]].concat()
    }

    /// Whether the target is there; then it is the part, whole.
    fn has_target(&self, storage: &SimulatedStorage) -> Result<bool, String> {
        for path in storage.paths() {
            let name = path.to_str().unwrap();
            if name != TARGET && self.past.files.iter().all(|(known, _)| known != name) {
                // Not to be taken for an image before it is one.
                if !name.ends_with(".tmp")
                    || open(storage, name).is_ok_and(|_| self.is_part(storage, name).is_err())
                {
                    return Err(format!("{name} is there"));
                }
            }
        }
        match storage.contents(TARGET) {
            None => Ok(false),
            Some(_) => self.is_part(storage, TARGET).map(|()| true),
        }
    }

    fn is_part(&self, storage: &SimulatedStorage, path: &str) -> Result<(), String> {
        let found = contents(storage, path)?;
        let (end, guest) = (self.end as usize, &self.past.guest);
        let same = if self.sync == SyncMode::Top {
            found[..end] == guest[..end]
        } else {
            found == self.part(self.end)
        };
        if same { Ok(()) } else { Err(format!("{path} is not what was copied")) }
    }

    /// Whether the bitmap has only the rest; everything else must be in order.
    fn has_rest_only(&self, storage: &SimulatedStorage) -> Result<bool, String> {
        if contents(storage, SOURCE)? != self.past.guest {
            return Err("the disk changed".into());
        }
        for (path, bytes) in self.past.files.iter().filter(|(path, _)| path != SOURCE) {
            if storage.contents(path).as_ref() != Some(bytes) {
                return Err(format!("{path} changed"));
            }
        }
        if bitmap(storage, "other")? != self.past.other {
            return Err("another bitmap changed".into());
        }
        let found = bitmap(storage, "b")?;
        // Where the map of the top image cannot be read, all the rest may be in it.
        let all = self.end / GRANULE * GRANULE..SIZE;
        match found == self.rest || self.sync == SyncMode::Top && found == std::slice::from_ref(&all) {
            true => Ok(true),
            false if found == self.past.dirty => Ok(false),
            false => Err(format!("the bitmap has {found:?}")),
        }
    }

    /// A granule is clean only if its data is in the target, when what a dead transaction left is recovered.
    fn judge(&self, storage: &SimulatedStorage) -> Result<(bool, bool), String> {
        let there: Arc<dyn Storage> = Arc::new(storage.clone());
        recover_in(&there, "/images").map_err(|e| format!("it cannot be recovered: {e}"))?;
        let untouched = |(path, bytes): &(String, _)| storage.contents(path).as_ref() == Some(bytes);
        if storage.contents(TARGET).is_none() && self.past.files.iter().all(untouched) {
            return self.has_target(storage).map(|target| (target, false));
        }
        let (target, rest_only) = (self.has_target(storage)?, self.has_rest_only(storage)?);
        if rest_only && !target {
            return Err("the bitmap has only the rest, and there is no target".into());
        }
        Ok((target, rest_only))
    }
}

const SYNCS: [SyncMode; 3] = [SyncMode::Bitmap, SyncMode::Full, SyncMode::Top];

/// QEMU finds nothing worse than leaks in the source, and nothing in the target.
fn qemu_agrees(shop: &Workshop, storage: &SimulatedStorage, target: bool) -> Result<(), String> {
    write_to(storage, shop.folder());
    let check = |name: &str| shop.try_run("qemu-img", &["check", "-f", "qcow2", &format!("images/{name}")]);
    let source = check("disk.qcow2");
    if !matches!(source.status.code(), Some(0 | 3)) {
        return Err(format!("the source: {}", text(&source)));
    }
    if target {
        let target = check("target.qcow2");
        if !target.status.success() {
            return Err(format!("the target: {}", text(&target)));
        }
    }
    Ok(())
}

/// So many states of a recording are judged in an exhaustive run, and of each one with a second failure.
const MOST: usize = 10_000;
const MOST_AFTER_A_FAULT: usize = 300;

#[test]
fn a_crash_leaves_no_granule_clean_without_its_target() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let shop = Workshop::new(folder.path().join("state"));
    let past = Past::new();
    for sync in SYNCS {
        let case = Case::undisturbed(&past, sync);
        for from in [Moment::Start, Moment::Failure, Moment::Rename] {
            let storage = past.storage();
            // The copying makes by far the most states: what follows it is on trial again alone.
            let begin = storage.clone();
            let end = past.back_up(&storage, sync, move |now| {
                if now == from {
                    begin.begin();
                }
            });
            assert_eq!(end, Some(case.end));
            storage.mark();
            let recording = storage.recording();
            let name = format!("partial-{sync}-{from:?}");
            let trial = Trial { name: &name, recording: &recording, limit: 300, seed: 1 };
            let seen = RefCell::new([0; 4]);
            let judged = trial.judge_up_to(MOST, |crash, storage| {
                let (target, rest_only) = case.judge(storage)?;
                if recording.marks_before(crash) > 0 && !(target && rest_only) {
                    return Err(format!("it had ended; target: {target}, only the rest: {rest_only}"));
                }
                seen.borrow_mut()[usize::from(target) + 2 * usize::from(rest_only)] += 1;
                if storage.digest().is_multiple_of(12) { qemu_agrees(&shop, storage, target) } else { Ok(()) }
            });
            let Some(judged) = judged else { continue };
            let [neither, target, _, both] = seen.into_inner();
            println!("{name}: {judged:?}; neither {neither}, target alone {target}, both {both}");
            assert!(judged.contains_key(&Level::L0) && judged.contains_key(&Level::L2));
            assert_eq!(target, 0, "a target without its bitmap");
            assert!(from != Moment::Rename || both > 3, "{both}");
        }
    }
}

/// The backup that fails fails once more, at each operation that follows.
#[test]
fn a_second_failure_leaves_no_granule_clean_without_its_target() {
    let _alone = alone();
    let past = Past::new();
    let kinds = [
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::SetLen,
        OperationKind::Sync,
        OperationKind::Rename,
        OperationKind::SyncFolder,
        OperationKind::Status,
        OperationKind::Unlink,
    ];
    for sync in SYNCS {
        let undisturbed = Case::undisturbed(&past, sync).end;
        let (mut kept, mut lost, mut wrong) = (0, 0, Vec::new());
        for kind in kinds {
            for nth in 1..=most_calls(&past, sync, kind) {
                for lasting in [false, true] {
                    let storage = past.storage();
                    let fault = Fault { kinds: vec![kind], nth, failure: Failure::Errno(libc::EIO), lasting };
                    let (trouble, order) = (storage.clone(), fault.clone());
                    let end = past.back_up(&storage, sync, move |now| {
                        if now == Moment::Failure {
                            trouble.fail(order.clone());
                        }
                    });
                    storage.stop_failing();
                    *if end.is_some() { &mut kept } else { &mut lost } += 1;
                    // Batches at work can fail too, which makes the part shorter.
                    let case = Case::new(&past, sync, end.unwrap_or(undisturbed));
                    // What could not be removed may be left.
                    // Nor is it known then what was decided, when names cannot be taken back either.
                    let left = kind == OperationKind::Unlink || kind == OperationKind::SyncFolder && lasting;
                    // Without the recovery by the judge: after a failed sync the same storage is not to be trusted.
                    let recording = storage.recording();
                    let verdict = case.judge(&storage).and_then(|(target, _)| match end {
                        Some(end) if end > undisturbed || !target => Err(format!("{end} was told, {target}")),
                        None if target && !left => Err("a target is there that was not told".into()),
                        _ => Ok(()),
                    });
                    if let Err(reason) = verdict {
                        wrong.push(format!("{sync}: {fault:?}: kept up to {end:?}, but {reason}"));
                    }
                    if matches!(kind, OperationKind::Sync | OperationKind::SyncFolder) {
                        let name = format!("{sync}-{kind:?}-{nth}-{lasting}");
                        let trial = Trial { name: &name, recording: &recording, limit: 60, seed: nth };
                        trial.judge_up_to(MOST_AFTER_A_FAULT, |_, storage| case.judge(storage).map(drop));
                    }
                }
            }
        }
        println!("{sync}: {kept} kept, {lost} lost");
        assert!(kept > 20 && lost > 20, "{kept} kept, {lost} lost");
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// How often an operation is called after the failure in the midst, when nothing else fails.
fn most_calls(past: &Past, sync: SyncMode, kind: OperationKind) -> u64 {
    let storage = past.storage();
    let (seen, counted) = (Arc::new(std::sync::OnceLock::new()), storage.clone());
    let note = seen.clone();
    past.back_up(&storage, sync, move |now| {
        if now == Moment::Failure {
            note.set(counted.calls(kind)).unwrap();
        }
    });
    storage.calls(kind) - seen.get().unwrap()
}
