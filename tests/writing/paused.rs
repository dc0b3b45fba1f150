//! A storage whose reads can be held up: what one thread has read already arrives late.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use holstein::storage::{
    FileExtent, FileId, FileKind, FileStatus, FileVersion, Lock, RenameRule, SimulatedStorage, Storage,
    StorageFile,
};

/// Files of a simulated storage.
#[derive(Clone, Debug)]
pub struct PausedStorage {
    inner: SimulatedStorage,
    gate: Arc<Gate>,
}

/// Where a read waits.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    /// The next read at this offset will wait.
    Set(u64),
    Waiting,
}

#[derive(Debug)]
struct PausedFile {
    inner: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl PausedStorage {
    pub fn new(inner: SimulatedStorage) -> Self {
        PausedStorage { inner, gate: Arc::default() }
    }

    /// The next read at `offset` returns when [`PausedStorage::release`] lets it, with what it read before.
    pub fn hold(&self, offset: u64) {
        self.gate.set(GateState::Set(offset));
    }

    /// Waits until the read is there.
    pub fn wait(&self) {
        self.gate.wait_while(|state| state != GateState::Waiting);
    }

    pub fn release(&self) {
        self.gate.set(GateState::Open);
    }

    fn file(&self, inner: io::Result<Arc<dyn StorageFile>>) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(PausedFile { inner: inner?, gate: self.gate.clone() }))
    }
}

impl Gate {
    fn set(&self, state: GateState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }

    fn wait_while(&self, waits: impl Fn(GateState) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| waits(*state)).unwrap());
    }

    fn pass(&self, offset: u64) {
        let is_held = {
            let mut state = self.state.lock().unwrap();
            let is_held = *state == GateState::Set(offset);
            if is_held {
                *state = GateState::Waiting;
            }
            is_held
        };
        if is_held {
            self.changed.notify_all();
            self.wait_while(|state| state == GateState::Waiting);
        }
    }
}

impl Storage for PausedStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.inner.open(path))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.inner.open_writable(path))
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.inner.open_beneath(folder, name))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.inner.create(path))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        self.inner.rename(from, to, rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.inner.unlink(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.sync_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        self.inner.list(folder)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.status(path)
    }
}

impl StorageFile for PausedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn version(&self) -> io::Result<FileVersion> {
        self.inner.version()
    }

    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        self.inner.distinct_version()
    }

    fn content_time(&self) -> io::Result<Option<i128>> {
        self.inner.content_time()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn id(&self) -> io::Result<FileId> {
        self.inner.id()
    }

    fn kind(&self) -> io::Result<FileKind> {
        self.inner.kind()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, offset);
        self.gate.pass(offset);
        read
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(buf, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        self.inner.extent_at(offset)
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }
}
