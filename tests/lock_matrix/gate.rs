//! The operating system's files, except that nothing is written to new ones before a gate is opened: a backup
//! that is at work for as long as a test wants.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use holstein::FileKind;
use holstein::storage::{
    FileExtent, FileId, FileStatus, FileVersion, HostStorage, Lock, RenameRule, Storage, StorageFile,
};

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    /// Waits until somebody wants to write.
    pub(crate) fn wait_for_writer(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.open).unwrap());
    }
}

#[derive(Debug)]
pub(crate) struct GatedStorage(pub(crate) Arc<Gate>);

impl Storage for GatedStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.open(path)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.open_writable(path)
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.open_beneath(folder, name)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = HostStorage.create(path)?;
        // The journal is written before the backup is at work.
        if path.extension().is_some_and(|end| end == "journal") {
            return Ok(file);
        }
        Ok(Arc::new(GatedFile { file, gate: self.0.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        HostStorage.rename(from, to, rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostStorage.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        HostStorage.unlink(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        HostStorage.sync_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        HostStorage.list(folder)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        HostStorage.status(path)
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        HostStorage.entry(path)
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl StorageFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn version(&self) -> io::Result<FileVersion> {
        self.file.version()
    }

    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        self.file.distinct_version()
    }

    fn content_time(&self) -> io::Result<Option<i128>> {
        self.file.content_time()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn id(&self) -> io::Result<FileId> {
        self.file.id()
    }

    fn kind(&self) -> io::Result<FileKind> {
        self.file.kind()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.gate.pass();
        self.file.write_at(buf, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        self.file.extent_at(offset)
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.file.lock(lock)
    }
}
