//! A disk with a past: over a base, copied once, and written since; and what must hold of it after a backup.

use std::{
    fs, io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use holstein::{
    Access, Backing, Backup, BackupOptions, BitmapMode, CompletionMode, Compression, Disk, DiskOptions,
    EventKind, Format, Job, JobStatus, SyncMode, Transaction, storage::HostStorage,
};
use serde_json::Value;

use crate::{
    storage::{Kind, Notice, WatchedStorage},
    support::{
        command::{self, Holstein},
        qemu::{Extent, Workshop, extent, merged, rounded_out},
        rng::Rng,
    },
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// Size of the disk: its last cluster is cut off by its end.
pub const SIZE: u64 = 32 * MIB + 1536;

/// A guest offset in the midst of what changed.
pub const MIDST: u64 = 20 * MIB + 300 * KIB;

/// One test at a time: a program that another thread starts inherits open files, and their locks, for a moment.
static ALONE: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder with the disk, `disk.qcow2`, and its past: `base.qcow2`, on which it stands, and `full.qcow2`, a copy from
/// when its bitmap `b` began. Of what the top image has since the beginning the bitmap knows only a part.
pub struct Site {
    _alone: MutexGuard<'static, ()>,
    _folder: tempfile::TempDir,
    pub workshop: Workshop,
    pub holstein: Holstein,
    pub granularity: u64,
}

/// What is asked of a backup.
#[derive(Clone, Debug)]
pub struct Order {
    pub sync: SyncMode,
    pub mode: Option<BitmapMode>,
    pub cluster_size: u64,
    pub compression: Compression,
    pub completion: CompletionMode,
    /// As on tmpfs.
    pub parallel: bool,
    /// Of an increment: without its backing file.
    pub alone: bool,
}

impl Order {
    pub fn new(sync: SyncMode, mode: Option<BitmapMode>) -> Self {
        let (compression, completion) = (Compression::None, CompletionMode::Grouped);
        Order { sync, mode, cluster_size: 64 * KIB, compression, completion, parallel: false, alone: false }
    }

    pub fn backing(&self) -> Option<&'static str> {
        match self.sync {
            SyncMode::Full => None,
            SyncMode::Top => Some("base.qcow2"),
            _ if self.alone => None,
            _ => Some("full.qcow2"),
        }
    }

    pub fn options(&self) -> BackupOptions {
        let backing = |name: &str| Backing { name: name.into(), format: Format::Qcow2 };
        BackupOptions {
            sync: Some(self.sync),
            bitmap: (self.mode.is_some() || self.sync == SyncMode::Incremental).then(|| b"b".to_vec()),
            bitmap_mode: self.mode,
            backing: self.backing().map(backing),
            cluster_size: Some(self.cluster_size),
            compression: self.compression,
            ..BackupOptions::default()
        }
    }
}

/// What happens on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The source cannot be read at this guest offset.
    Unreadable(u64),
    /// Nor is it what it was.
    Changed(u64),
    /// The code panics when it reads the source at this guest offset.
    PanicInRead(u64),
    /// It panics when it writes the target, after some MiB.
    PanicInWrite,
    /// Somebody cancels while the source is read at this guest offset.
    Cancel(u64),
    /// Somebody cancels when all is copied: while the target is made durable.
    LateCancel,
    /// The target's file system is full.
    NoSpace,
    /// One write of the target fails, and no other.
    Write,
    /// It is full when the target's tables are written.
    NoSpaceForTables,
    /// Making the target durable fails, the first or the second time.
    Sync(u64),
    /// The target cannot be renamed.
    Rename,
    /// Its name cannot be made durable.
    Folder,
    /// The source cannot be written.
    SourceWrites,
}

/// How a backup ended.
pub struct Ended {
    pub job: Job,
    pub result: holstein::Result<()>,
    pub last_event: EventKind,
}

impl Ended {
    /// The error, as text.
    pub fn text(&self) -> String {
        self.job.error().map(|error| error.to_string()).unwrap_or_default()
    }
}

impl Site {
    pub fn new(granularity: u64) -> Self {
        let alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        fs::write(workshop.path("noise.pat"), Rng::new(9, 1).bytes(MIB as usize, 0)).unwrap();
        workshop.create("base.qcow2", SIZE, "");
        workshop.io("base.qcow2", "qcow2", &["write -s noise.pat 0 3M", "write -P 9 30M 2M"]);
        workshop.create("disk.qcow2", SIZE, "backing_file=base.qcow2,backing_fmt=qcow2");
        let early = ["write -P 1 1M 3M", "write -P 2 12500k 200k", "write -P 3 28M 1M", "write -z 31M 64k"];
        workshop.io("disk.qcow2", "qcow2", &early);
        workshop.img(&["bitmap", "--add", "-g", &granularity.to_string(), "disk.qcow2", "b"]);
        workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
        let holstein = Holstein::new(&workshop);
        let site = Site { _alone: alone, _folder: folder, holstein, workshop, granularity };
        site.write(&[
            "write -s noise.pat 2M 10M",
            "write -z 13M 1M",
            "write -s noise.pat 15M 12M",
            "write -P 4 30000001 1",
            "write -P 5 32M 1536",
        ]);
        fs::copy(site.path("disk.qcow2"), site.path("disk.kept")).unwrap();
        site
    }

    /// Everything as it was at first.
    pub fn reset(&self) {
        fs::copy(self.path("disk.kept"), self.path("disk.qcow2")).unwrap();
        for name in ["target.qcow2", "next.qcow2"] {
            let _ = fs::remove_file(self.path(name));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workshop.path(name)
    }

    /// A guest writes to the disk.
    pub fn write(&self, commands: &[&str]) {
        self.workshop.io("disk.qcow2", "qcow2", commands);
    }

    /// A backup to `target.qcow2`.
    pub fn back_up(&self, order: &Order, troubles: &[Trouble]) -> Ended {
        self.back_up_as(order.options(), order, troubles)
    }

    /// The same with other options.
    pub fn back_up_as(&self, options: BackupOptions, order: &Order, troubles: &[Trouble]) -> Ended {
        let places = troubles.iter().map(|trouble| (*trouble, self.place_of(*trouble))).collect();
        let storage = WatchedStorage::new(HostStorage, order.parallel);
        let access =
            if matches!(order.mode, None | Some(BitmapMode::Never)) && order.sync != SyncMode::Incremental {
                Access::Read
            } else {
                Access::Write
            };
        let disk_options = DiskOptions { access, ..DiskOptions::default() };
        let source =
            Disk::open_in(Arc::new(storage.clone()), self.path("disk.qcow2"), &disk_options).unwrap();
        let (ask, asked) = mpsc::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        storage.watch(watcher(places, self.path("disk.qcow2"), ask, cancelled.clone()));

        let mut transaction = Transaction::new();
        transaction.set_completion(order.completion);
        transaction.add(Backup { source, target: self.path("target.qcow2"), options });
        let running = transaction.start().unwrap();
        while running.wait(Some(Duration::from_millis(1))).is_none() {
            if asked.try_recv().is_ok() {
                running.cancel();
                cancelled.store(true, Ordering::SeqCst);
            }
        }
        let result = running.wait(None).unwrap();
        let mut last_event = None;
        while let Some(event) = running.next_event() {
            if event.job.is_some() {
                last_event = Some(event.kind);
            }
        }
        let job = running.jobs()[0].clone();
        assert_eq!(job.status(), JobStatus::Concluded);
        Ended { job, result, last_event: last_event.unwrap() }
    }

    /// Where in the top image's file the data is that a trouble is about.
    fn place_of(&self, trouble: Trouble) -> u64 {
        let (Trouble::Unreadable(guest)
        | Trouble::Changed(guest)
        | Trouble::PanicInRead(guest)
        | Trouble::Cancel(guest)) = trouble
        else {
            return 0;
        };
        let run = |run: &&Value| extent(run).start <= guest && guest < extent(run).end();
        let map = self.workshop.img_json(&["map", "-f", "qcow2", "disk.qcow2"]);
        let run = map.as_array().unwrap().iter().find(run).unwrap();
        assert_eq!((&run["depth"], &run["data"]), (&Value::from(0), &Value::from(true)));
        run["offset"].as_u64().unwrap() + guest - extent(run).start
    }

    /// The dirty parts as QEMU sees them; the library must agree.
    pub fn dirty(&self) -> Vec<Extent> {
        let theirs = self.workshop.dirty_extents("disk.qcow2", &["b".to_owned()]).remove(0);
        let disk = Disk::open(self.path("disk.qcow2"), &DiskOptions::default()).unwrap();
        let bitmap = disk.bitmap(b"b").unwrap();
        assert_eq!(bitmap.granularity(), self.granularity);
        let range = |range: Range<u64>| Extent { start: range.start, length: range.end - range.start };
        let ours: Vec<_> = bitmap.extents().map(range).collect();
        assert_eq!(ours, theirs);
        let granules =
            |extent: &Extent| extent.end().div_ceil(self.granularity) - extent.start / self.granularity;
        assert_eq!(bitmap.count(), ours.iter().map(granules).sum::<u64>() * self.granularity);
        ours
    }

    /// What the top image has of the disk.
    pub fn own(&self) -> Vec<Extent> {
        let map = self.workshop.img_json(&["map", "-f", "qcow2", "disk.qcow2"]);
        let own = |run: &&Value| run["depth"] == 0 && run["present"] == true;
        merged(map.as_array().unwrap().iter().filter(own).map(extent))
    }

    /// Nothing but perhaps a target has come or gone, and the disk is what it was.
    pub fn nothing_else_changed(&self, target: bool) {
        self.has_files(target);
        self.workshop.check("disk.qcow2");
        self.workshop.identical(("disk.qcow2", "qcow2"), ("disk.kept", "qcow2"));
    }

    /// Nothing changed at all.
    pub fn nothing_changed(&self) {
        self.has_files(false);
        assert!(fs::read(self.path("disk.qcow2")).unwrap() == fs::read(self.path("disk.kept")).unwrap());
    }

    fn has_files(&self, target: bool) {
        let mut names = vec!["base.qcow2", "disk.kept", "disk.qcow2", "full.qcow2", "noise.pat"];
        if target {
            names.push("target.qcow2");
        }
        let listing = self.workshop.listing();
        let mut found: Vec<_> =
            listing.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        // QEMU's daemon leaves its socket.
        found.retain(|name| *name != "nbd.sock");
        assert_eq!(found, names);
    }

    /// The guest writes on, and the next increment over `below` is the disk.
    pub fn next_increment_is_complete(&self, below: &str) {
        self.write(&["write -P 6 4100k 300k", "write -z 21M 128k", "discard 31M 64k"]);
        let next = command::Disk::new("disk.qcow2", "next.qcow2").with("bitmap", "b");
        self.holstein.backup(&next.with("sync", "incremental").with("backing", below));
        self.workshop.check("next.qcow2");
        self.workshop.check("disk.qcow2");
        self.workshop.identical(("disk.qcow2", "qcow2"), ("next.qcow2", "qcow2"));
        assert_eq!(self.dirty(), []);
    }
}

/// What is known before a backup.
pub struct Past {
    pub dirty: Vec<Extent>,
    /// What there is to copy, as the bitmap or the top image says it.
    parts: Vec<Extent>,
    granularity: u64,
    cluster_size: u64,
}

impl Past {
    pub fn of(site: &Site, order: &Order) -> Self {
        let dirty = site.dirty();
        let parts = match order.sync {
            SyncMode::None => vec![],
            SyncMode::Full => vec![Extent { start: 0, length: SIZE }],
            SyncMode::Top => site.own(),
            SyncMode::Bitmap | SyncMode::Incremental => dirty.clone(),
        };
        Past { dirty, parts, granularity: site.granularity, cluster_size: order.cluster_size }
    }

    /// How many bytes of the disk there are to copy between two offsets, in whole target clusters.
    pub fn wanted(&self, range: Range<u64>) -> u64 {
        let parts = from(&rounded_out(&self.parts, self.cluster_size, SIZE), range.start);
        let clipped = |part: &Extent| part.end().min(range.end).saturating_sub(part.start);
        parts.iter().map(clipped).sum()
    }

    /// What the bitmap has when everything before `end` is in a target: the rest, in whole granules.
    pub fn rest(&self, end: u64) -> Vec<Extent> {
        rounded_out(&from(&self.parts, end), self.granularity, SIZE)
    }
}

/// The parts behind `start`.
fn from(parts: &[Extent], start: u64) -> Vec<Extent> {
    let behind = parts.iter().filter(|part| part.end() > start);
    behind
        .map(|part| Extent { start: part.start.max(start), length: part.end() - part.start.max(start) })
        .collect()
}

/// Makes trouble. Who wants a cancel waits until it has been asked for.
fn watcher(
    troubles: Vec<(Trouble, u64)>,
    source: PathBuf,
    ask: mpsc::Sender<()>,
    cancelled: Arc<AtomicBool>,
) -> Arc<crate::storage::Watcher> {
    let ask = Mutex::new(ask);
    let (written, syncs, renamed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let cancel = move || {
        ask.lock().unwrap().send(()).unwrap();
        while !cancelled.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_micros(100));
        }
    };
    Arc::new(move |notice: &Notice<'_>| {
        let sync = match notice.kind {
            Kind::Sync if notice.of_target() => syncs.fetch_add(1, Ordering::SeqCst) + 1,
            _ => 0,
        };
        if notice.kind == Kind::Rename {
            renamed.fetch_add(1, Ordering::SeqCst);
        }
        for (trouble, place) in &troubles {
            let reads = notice.kind == Kind::Read && notice.path == source && notice.covers(*place);
            let fails = match trouble {
                Trouble::Unreadable(_) if reads => libc::EIO,
                Trouble::Changed(_) if reads => {
                    touch(&source);
                    libc::EIO
                }
                Trouble::PanicInRead(_) if reads => panic!("a panic on purpose"),
                Trouble::PanicInWrite if notice.of_target() && notice.covers(9 * MIB) => {
                    assert_ne!(notice.kind, Kind::Write, "a panic on purpose");
                    continue;
                }
                Trouble::Cancel(_) if reads => {
                    cancel();
                    continue;
                }
                Trouble::LateCancel if sync == 2 => {
                    cancel();
                    continue;
                }
                Trouble::NoSpace if notice.kind == Kind::Write && notice.of_target() => {
                    let before = written.fetch_add(notice.length, Ordering::SeqCst);
                    if before + notice.length <= 9 * MIB {
                        continue;
                    }
                    libc::ENOSPC
                }
                Trouble::Write if notice.kind == Kind::Write && notice.of_target() => {
                    let before = written.fetch_add(notice.length, Ordering::SeqCst);
                    if before > 9 * MIB || before + notice.length <= 9 * MIB {
                        continue;
                    }
                    libc::EIO
                }
                Trouble::NoSpaceForTables if notice.kind == Kind::SetLen && notice.of_target() => {
                    libc::ENOSPC
                }
                Trouble::Sync(nth) if sync == *nth => libc::EIO,
                Trouble::SourceWrites if notice.kind == Kind::Write && notice.path == source => libc::EIO,
                Trouble::Rename if notice.kind == Kind::Rename => libc::EACCES,
                // Once, behind the rename: what is taken back has to be durable.
                Trouble::Folder if notice.kind == Kind::SyncFolder && renamed.load(Ordering::SeqCst) == 1 => {
                    libc::EIO
                }
                _ => continue,
            };
            return Err(io::Error::from_raw_os_error(fails));
        }
        Ok(())
    })
}

/// Somebody who heeds no locks writes the first byte of a file, as it is.
fn touch(path: &PathBuf) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&byte, 0).unwrap();
}
