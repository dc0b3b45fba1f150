//! Two disks with data and a bitmap, kept in memory; reads that wait, and operations that fail, on request.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use holstein::{
    Access, Backup, BackupOptions, BitmapMode, CompletionMode, Disk, DiskOptions, Event, EventKind, Job,
    JobStatus, RunningTransaction, Sharing, SyncMode, Transaction, storage::SimulatedStorage,
};

use crate::{
    qemu::Workshop,
    rng::Rng,
    watched::{Kind, Notice, WatchedStorage},
};

pub const MIB: u64 = 1 << 20;
/// What the disks hold.
pub const DATA: u64 = 12 * MIB;
/// Longer than anything that goes on for ever should be waited for.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Where things are; disks are called `one`, `two` and so on.
pub struct Site {
    pub storage: SimulatedStorage,
    watched: WatchedStorage,
    scene: Arc<Scene>,
    start: u64,
}

/// What is to happen to the operations of a run.
#[derive(Default)]
struct Scene {
    state: Mutex<SceneState>,
    changed: Condvar,
}

#[derive(Default)]
struct SceneState {
    /// Reading the data of these disks waits.
    held: HashSet<&'static str>,
    waiting: HashMap<String, usize>,
    faults: Vec<Fault>,
    /// How many operations there were of each kind.
    seen: HashMap<(String, &'static str), usize>,
}

/// Operations that fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of a disk's source or of its target.
    pub disk: &'static str,
    pub kind: Kind,
    /// So many succeed before.
    pub after: usize,
    /// So many fail.
    pub times: usize,
    pub errno: i32,
}

fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        fs::write(shop.path("noise.pat"), Rng::new(7, 7).bytes(MIB as usize, 0)).unwrap();
        shop.create("disk.qcow2", 16 * MIB, "cluster_size=64k");
        shop.img(&["bitmap", "--add", "-g", "64k", "disk.qcow2", "b"]);
        shop.io("disk.qcow2", "qcow2", &["write -s noise.pat 0 12M", "write -z 13M 1M"]);
        fs::read(shop.path("disk.qcow2")).unwrap()
    })
}

fn name_of(notice: &Notice<'_>) -> Option<String> {
    if notice.of_target() {
        let folder = notice.path.parent()?;
        return Some(folder.file_name()?.to_str()?.to_owned());
    }
    let image = notice.path.strip_prefix("/disks").ok()?;
    Some(image.file_stem()?.to_str()?.to_owned())
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::SetLen => "set length",
        Kind::Sync => "sync",
        Kind::Rename => "rename",
        Kind::SyncFolder => "sync folder",
    }
}

impl Scene {
    fn meet(&self, notice: &Notice<'_>) -> io::Result<()> {
        let Some(name) = name_of(notice) else { return Ok(()) };
        let is_source = !notice.of_target();
        // Tables are one cluster long at most.
        let is_data = is_source && notice.kind == Kind::Read && notice.length > 64 << 10;
        let mut state = self.state.lock().unwrap();
        if is_source && notice.kind != Kind::Read {
            return Ok(());
        }
        let seen = state.seen.entry((name.clone(), word(notice.kind))).or_default();
        *seen += 1;
        let fault = state.faults.iter_mut().find(|fault| fault.disk == name && fault.kind == notice.kind);
        if let Some(fault) = fault {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(io::Error::from_raw_os_error(fault.errno));
            }
        }
        if is_data && state.held.contains(name.as_str()) {
            *state.waiting.entry(name.clone()).or_default() += 1;
            self.changed.notify_all();
            while state.held.contains(name.as_str()) {
                state = self.changed.wait(state).unwrap();
            }
            *state.waiting.entry(name).or_default() -= 1;
        }
        Ok(())
    }
}

impl Site {
    pub fn new() -> Site {
        Self::with(false)
    }

    /// `parallel`: with targets that several threads write at once.
    pub fn with(parallel: bool) -> Site {
        let storage = SimulatedStorage::new();
        for disk in ["one", "two", "three"] {
            storage.insert(format!("/disks/{disk}.qcow2"), image());
            storage.make_folder(format!("/{disk}"));
        }
        storage.enforce_locks();
        let watched = WatchedStorage::new(storage.clone(), parallel);
        let start = storage.digest();
        let scene = Arc::<Scene>::default();
        watched.watch({
            let scene = scene.clone();
            Arc::new(move |notice: &Notice<'_>| scene.meet(notice))
        });
        Site { storage, watched, scene, start }
    }

    /// A full backup of a disk, after which its bitmap is clean.
    pub fn backup(&self, disk: &str, options: BackupOptions) -> Backup {
        let options = BackupOptions {
            sync: Some(SyncMode::Full),
            bitmap: Some(b"b".to_vec()),
            bitmap_mode: Some(options.bitmap_mode.unwrap_or(BitmapMode::OnSuccess)),
            ..options
        };
        Backup { source: self.disk(disk), target: target(disk), options }
    }

    pub fn disk(&self, disk: &str) -> Disk {
        let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
        Disk::open_in(Arc::new(self.watched.clone()), format!("/disks/{disk}.qcow2"), &options).unwrap()
    }

    /// Starts backups of these disks.
    pub fn start(&self, completion: CompletionMode, disks: &[(&'static str, BackupOptions)]) -> Running {
        let mut transaction = Transaction::new();
        transaction.set_completion(completion);
        for (disk, options) in disks {
            transaction.add(self.backup(disk, options.clone()));
        }
        Running { transaction: transaction.start().unwrap(), events: Mutex::default() }
    }

    /// Lets reads of a disk's data wait, and with them the threads that read.
    pub fn hold(&self, disk: &'static str) {
        self.scene.state.lock().unwrap().held.insert(disk);
    }

    /// Waits until a read waits.
    pub fn held(&self, disk: &str) {
        let mut state = self.scene.state.lock().unwrap();
        while state.waiting.get(disk).is_none_or(|count| *count == 0) {
            let waited = self.scene.changed.wait_timeout(state, FOR_EVER).unwrap();
            assert!(!waited.1.timed_out(), "nobody reads {disk}");
            state = waited.0;
        }
    }

    pub fn release(&self, disk: &str) {
        self.scene.state.lock().unwrap().held.remove(disk);
        self.scene.changed.notify_all();
    }

    pub fn fail(&self, fault: Fault) {
        self.scene.state.lock().unwrap().faults.push(fault);
    }

    pub fn stop_failing(&self) {
        self.scene.state.lock().unwrap().faults.clear();
    }

    /// How many operations there were.
    pub fn seen(&self, disk: &str, kind: Kind) -> usize {
        self.scene.state.lock().unwrap().seen.get(&(disk.to_owned(), word(kind))).copied().unwrap_or(0)
    }

    /// No file has come, and nothing has changed.
    #[track_caller]
    pub fn untouched(&self) {
        let paths = self.storage.paths();
        assert_eq!(paths.len(), 3, "{paths:?}");
        assert_eq!(self.storage.digest(), self.start);
        // Nobody has the disks any more, and their bitmaps are what they were.
        self.stop_failing();
        for disk in ["one", "two", "three"] {
            assert!(self.disk(disk).bitmap(b"b").unwrap().count() > 0);
        }
    }

    /// The same backups can be made at once.
    #[track_caller]
    pub fn can_be_run_again(&self, disks: &[&'static str]) {
        self.stop_failing();
        disks.iter().for_each(|disk| self.release(disk));
        let mut transaction = Transaction::new();
        disks.iter().for_each(|disk| transaction.add(self.backup(disk, BackupOptions::default())));
        transaction.commit().unwrap();
        disks.iter().for_each(|disk| self.complete(disk));
    }

    /// The target is there, whole and sound, and the bitmap is clean.
    #[track_caller]
    pub fn complete(&self, disk: &str) {
        assert_eq!(self.dirty(disk), 0);
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        fs::write(shop.path("disk.qcow2"), self.storage.contents(source(disk)).unwrap()).unwrap();
        fs::write(shop.path("copy.qcow2"), self.storage.contents(target(disk)).unwrap()).unwrap();
        shop.check("copy.qcow2");
        shop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
    }

    /// Nothing has its name yet.
    #[track_caller]
    pub fn no_target_yet(&self) {
        let names = self.storage.paths();
        assert!(!names.iter().any(|path| path.ends_with("copy.qcow2")), "{names:?}");
    }

    /// There is no target, nor anything else that was not there.
    #[track_caller]
    pub fn no_target(&self, disk: &str) {
        let folder = PathBuf::from(format!("/{disk}"));
        let paths = self.storage.paths();
        assert!(!paths.iter().any(|path| path.starts_with(&folder)), "{paths:?}");
        assert!(self.dirty(disk) > 0);
    }

    /// How much is dirty, also while somebody has the disk.
    fn dirty(&self, disk: &str) -> u64 {
        let options = DiskOptions { sharing: Sharing::ForceShare, ..DiskOptions::default() };
        let disk = Disk::open_in(Arc::new(self.storage.clone()), source(disk), &options).unwrap();
        disk.bitmap(b"b").unwrap().count()
    }
}

pub fn source(disk: &str) -> PathBuf {
    Path::new("/disks").join(format!("{disk}.qcow2"))
}

pub fn target(disk: &str) -> PathBuf {
    PathBuf::from(format!("/{disk}/copy.qcow2"))
}

/// A transaction at work, and what it told.
pub struct Running {
    pub transaction: RunningTransaction,
    events: Mutex<Vec<Event>>,
}

impl Running {
    pub fn job(&self, index: usize) -> &Job {
        &self.transaction.jobs()[index]
    }

    /// Waits for a state of a job.
    #[track_caller]
    pub fn reaches(&self, index: usize, status: JobStatus) {
        let begin = Instant::now();
        while self.job(index).status() != status {
            let now = self.job(index).status();
            assert!(begin.elapsed() < FOR_EVER, "job {index} is {now}, not {status}: {:?}", self.job(index));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end.
    #[track_caller]
    pub fn ends(&self) -> holstein::Result<()> {
        self.transaction.wait(Some(FOR_EVER)).expect("it does not end")
    }

    /// What it told so far, without progress.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().unwrap();
        while let Some(event) = self.transaction.next_event() {
            events.push(event);
        }
        let telling = |event: &&Event| !matches!(event.kind, EventKind::Progress(_));
        events.iter().filter(telling).cloned().collect()
    }

    /// In words, for one job.
    pub fn story(&self, index: usize) -> String {
        let events = self.events();
        let own = events.iter().filter(|event| event.job == Some(index));
        let words: Vec<String> = own
            .map(|event| match &event.kind {
                EventKind::StateChanged(status) => status.to_string(),
                EventKind::Error { side, action, error } => {
                    format!("{side} error: {action} {:?}", error.kind())
                }
                EventKind::Failed(error) => format!("failed: {:?}", error.kind()),
                EventKind::Cancelled => "CANCELLED".into(),
                EventKind::Completed => "COMPLETED".into(),
                EventKind::Progress(_) | EventKind::Finished => unreachable!(),
            })
            .collect();
        words.join(", ")
    }
}
