//! A storage that shows every operation of interest to a watcher before it is done, and lets it fail.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use holstein::storage::{
    FileExtent, FileId, FileKind, FileStatus, FileVersion, Lock, RenameRule, Storage, StorageFile,
};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    SetLen,
    Sync,
    Rename,
    SyncFolder,
}

/// An operation that is about to be done, to the file that was opened or created by this path.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    pub kind: Kind,
    pub path: &'a Path,
    pub offset: u64,
    pub length: u64,
}

impl Notice<'_> {
    /// Whether it is about a target that has not got its name yet.
    pub fn of_target(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "tmp")
    }

    pub fn covers(&self, offset: u64) -> bool {
        (self.offset..self.offset + self.length).contains(&offset)
    }
}

/// Says whether an operation is done or how it fails.
pub type Watcher = dyn Fn(&Notice<'_>) -> io::Result<()> + Send + Sync;

/// Files of another storage, watched. Clones are the same storage.
#[derive(Clone)]
pub struct WatchedStorage {
    inner: Arc<dyn Storage>,
    watcher: Arc<Mutex<Option<Arc<Watcher>>>>,
    parallel: bool,
}

impl WatchedStorage {
    /// `parallel` says whether files call themselves better written by several threads at once, as on tmpfs.
    pub fn new(inner: impl Storage + 'static, parallel: bool) -> Self {
        WatchedStorage { inner: Arc::new(inner), watcher: Arc::default(), parallel }
    }

    pub fn watch(&self, watcher: Arc<Watcher>) {
        *self.watcher.lock().unwrap() = Some(watcher);
    }

    fn show(&self, kind: Kind, path: &Path, offset: u64, length: usize) -> io::Result<()> {
        // Not under the lock: the watcher may wait for another thread.
        let watcher = self.watcher.lock().unwrap().clone();
        watcher.map_or(Ok(()), |watch| watch(&Notice { kind, path, offset, length: length as u64 }))
    }

    fn file(&self, path: &Path, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(WatchedFile { inner, path: path.to_owned(), storage: self.clone() })
    }
}

impl fmt::Debug for WatchedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watched {:?}", self.inner)
    }
}

impl Storage for WatchedStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(path, self.inner.open(path)?))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(path, self.inner.open_writable(path)?))
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(&folder.join(name), self.inner.open_beneath(folder, name)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(path, self.inner.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        self.show(Kind::Rename, from, 0, 0)?;
        self.inner.rename(from, to, rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.inner.unlink(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.show(Kind::SyncFolder, folder, 0, 0)?;
        self.inner.sync_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(folder)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.status(path)
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.entry(path)
    }
}

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn StorageFile>,
    path: PathBuf,
    storage: WatchedStorage,
}

impl StorageFile for WatchedFile {
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
        self.storage.show(Kind::Read, &self.path, offset, buf.len())?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.storage.show(Kind::Write, &self.path, offset, buf.len())?;
        self.inner.write_at(buf, offset)
    }

    fn writes_in_parallel(&self) -> bool {
        self.storage.parallel
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.storage.show(Kind::SetLen, &self.path, length, 0)?;
        self.inner.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.show(Kind::Sync, &self.path, 0, 0)?;
        self.inner.sync()
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        self.inner.start_writeback(offset, length);
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        self.inner.extent_at(offset)
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }
}
