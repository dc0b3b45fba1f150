//! Files in memory: for tests, and for embedders that want a scratch target.

use std::{
    any::Any,
    collections::HashMap,
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{FileExtent, FileId, FileKind, FileStatus, FileVersion, Lock, RenameRule, Storage, StorageFile};

/// A flat name space of files in memory. Folders need not exist; locks always succeed.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    files: Mutex<HashMap<PathBuf, Arc<MemoryFile>>>,
    next_inode: AtomicU64,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file with these contents under `path`, replacing what was there.
    pub fn insert(&self, path: impl Into<PathBuf>, contents: Vec<u8>) {
        let file = self.file(contents);
        self.names().insert(path.into(), file);
    }

    /// The contents of a file.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.names().get(path.as_ref()).map(|f| f.read().clone())
    }

    /// All names, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.names().keys().cloned().collect();
        paths.sort();
        paths
    }

    fn file(&self, contents: Vec<u8>) -> Arc<MemoryFile> {
        let inode = self.next_inode.fetch_add(1, Ordering::Relaxed);
        Arc::new(MemoryFile { contents: RwLock::new(contents), writes: AtomicU64::new(0), inode })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<MemoryFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, path: &Path) -> io::Result<Arc<MemoryFile>> {
        self.names().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.find(path)?)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.open(path)
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        if name.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        Ok(self.find(&folder.join(name))?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.file(Vec::new());
        let mut names = self.names();
        if names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        let mut names = self.names();
        let file = names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        match (rule, names.get(to).cloned()) {
            (RenameRule::NoReplace, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (RenameRule::NoReplace, None) => names.remove(from),
            (RenameRule::Exchange, Some(other)) => names.insert(from.to_owned(), other),
            (RenameRule::Exchange, None) => return Err(io::ErrorKind::NotFound.into()),
            // Two names of one file stay as they are.
            (RenameRule::Replace, Some(other)) if Arc::ptr_eq(&file, &other) => return Ok(()),
            (RenameRule::Replace, _) => names.remove(from),
        };
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        let file = names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        if names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.names().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let names = self.names();
        let inside = names.keys().filter(|name| folder_of(name) == folder);
        Ok(inside.filter_map(|name| name.file_name()).map(OsString::from).collect())
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        if let Ok(file) = self.find(path) {
            return Ok(FileStatus { id: file.id()?, kind: FileKind::Regular });
        }
        // Whatever a file lies in is a folder, and so is the place where one starts.
        let is_folder = path == Path::new(".") || self.names().keys().any(|name| name.starts_with(path));
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let id = FileId { device: 1, inode: hasher.finish() };
        is_folder
            .then_some(FileStatus { id, kind: FileKind::Other })
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The folder that a name lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[derive(Debug)]
struct MemoryFile {
    contents: RwLock<Vec<u8>>,
    writes: AtomicU64,
    inode: u64,
}

impl MemoryFile {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.read().len() as u64)
    }

    fn version(&self) -> io::Result<FileVersion> {
        Ok(FileVersion { length: self.len()?, modified: self.writes.load(Ordering::Relaxed).into() })
    }

    /// Every write counts.
    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        self.version().map(Some)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(FileId { device: 0, inode: self.inode })
    }

    fn kind(&self) -> io::Result<FileKind> {
        Ok(FileKind::Regular)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.read();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let count = buf.len().min(contents.len() - start);
        buf[..count].copy_from_slice(&contents[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut contents = self.write();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[start..end].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.write().resize(length, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut contents = self.write();
        let inside = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(contents.len());
        let range = inside(offset)..inside(offset.saturating_add(length));
        contents[range].fill(0);
        Ok(())
    }

    fn clone_range(
        &self,
        source: &dyn StorageFile,
        source_offset: u64,
        length: u64,
        offset: u64,
    ) -> io::Result<()> {
        let source: &dyn Any = source;
        let source = source.downcast_ref::<MemoryFile>().ok_or(io::ErrorKind::Unsupported)?;
        if std::ptr::eq(self, source) && source_offset.abs_diff(offset) < length {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Copied, not shared; with only one of the two locked at a time.
        let bytes = {
            let contents = source.read();
            let start = usize::try_from(source_offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            contents.get(start..end).ok_or(io::ErrorKind::Unsupported)?.to_vec()
        };
        if bytes.is_empty() { Ok(()) } else { self.write_at(&bytes, offset).map(drop) }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        let length = self.len()?;
        Ok(FileExtent { hole: offset >= length, end: length.max(offset) })
    }

    fn lock(&self, _lock: Lock) -> io::Result<()> {
        Ok(())
    }
}
