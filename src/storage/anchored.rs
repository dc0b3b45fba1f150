//! Relative paths keep their meaning when the process changes its folder.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf, absolute},
    sync::Arc,
};

use crate::error::{Error, Result};

use super::{FileStatus, NewRights, RenameRule, Storage, StorageFile};

/// A storage whose relative paths start from one folder.
#[derive(Debug)]
struct Anchored {
    inner: Arc<dyn Storage>,
    /// Absolute.
    folder: PathBuf,
}

/// The same storage; its relative paths start from where the process is now, wherever it goes. Texts keep the caller's words.
pub(crate) fn anchored(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    if storage.anchor().is_some() {
        return storage;
    }
    match storage.folder() {
        Some(folder) => Arc::new(Anchored { inner: storage, folder }),
        None => storage,
    }
}

/// A path for `storage` that means the same wherever the process goes.
pub(crate) fn in_full(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    let named = match storage.anchor() {
        Some(folder) => absolute(folder.join(path)),
        None => absolute(path),
    };
    named.map_err(|e| Error::io(format!("cannot name '{}' in full", path.display()), e))
}

/// A path that means in `storage` what its words mean now.
pub(crate) fn as_of_now(storage: &dyn Storage, path: PathBuf) -> PathBuf {
    match (storage.anchor(), storage.folder()) {
        (Some(anchor), Some(now)) if anchor != now => now.join(path),
        _ => path,
    }
}

impl Anchored {
    fn at(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

/// Every method of the trait has its line here, those with a default too.
impl Storage for Anchored {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.open(&self.at(path))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.open_writable(&self.at(path))
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.open_beneath(&self.at(folder), name)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.create(&self.at(path))
    }

    fn create_with(&self, path: &Path, rights: NewRights) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.create_with(&self.at(path), rights)
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        self.inner.rename(&self.at(from), &self.at(to), rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(&self.at(from), &self.at(to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.inner.unlink(&self.at(path))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.sync_folder(&self.at(folder))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(&self.at(folder))
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.status(&self.at(path))
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.entry(&self.at(path))
    }

    fn created(&self, path: &Path) -> io::Result<Option<i128>> {
        self.inner.created(&self.at(path))
    }

    fn folder(&self) -> Option<PathBuf> {
        self.inner.folder()
    }

    fn anchor(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}
