//! A file that is open already, among the host's files.

use std::{
    ffi::OsString,
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    FileStatus, HostStorage, NewRights, RenameRule, Storage, StorageFile, held, host::HostFile, sys,
};

/// The host's file system, in which one path leads to a file that was opened by the caller, for programs that may not open
/// it themselves. All other paths are the host's.
#[derive(Debug)]
pub(crate) struct HandedStorage {
    /// Absolute.
    path: PathBuf,
    /// One for all that open the path: its locks belong to the caller's open file, and go when it is dropped.
    file: Arc<dyn StorageFile>,
    writable: bool,
}

impl HandedStorage {
    /// With a duplicate of the descriptor, which stays the caller's.
    ///
    /// # Errors
    /// `InvalidInput` for what is no regular file or block device, and for descriptors that cannot be used: those that cannot
    /// be read, and those with `O_APPEND` or `O_DIRECT`. `WouldBlock` for an open file that has locks already.
    pub(crate) fn new(path: PathBuf, descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let flags = sys::open_flags(descriptor)?;
        if flags & (libc::O_PATH | libc::O_APPEND | libc::O_DIRECT) != 0 {
            return refused(
                "the descriptor was opened with O_PATH, O_APPEND or O_DIRECT, which cannot be used",
            );
        }
        let writable = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => false,
            libc::O_RDWR => true,
            _ => return refused("the descriptor is not open for reading"),
        };
        if held::has_locks(descriptor) {
            let text =
                "the open file has locks already, as of another disk; open the file anew for each disk";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        let file = HostFile::checked(sys::duplicate(descriptor)?)?;
        Ok(HandedStorage { path, file, writable })
    }

    fn is_own(&self, path: &Path) -> bool {
        path == self.path
    }
}

impl Storage for HandedStorage {
    fn folder(&self) -> Option<PathBuf> {
        HostStorage.folder()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        if self.is_own(path) { Ok(self.file.clone()) } else { HostStorage.open(path) }
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        match self.is_own(path) {
            false => HostStorage.open_writable(path),
            true if self.writable => Ok(self.file.clone()),
            true => {
                let text = "the descriptor is open for reading only";
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
        }
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.open_beneath(folder, name)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.create(path)
    }

    fn create_with(&self, path: &Path, rights: NewRights) -> io::Result<Arc<dyn StorageFile>> {
        HostStorage.create_with(path, rights)
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

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        HostStorage.list(folder)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        match self.is_own(path) {
            true => Ok(FileStatus { id: self.file.id()?, kind: self.file.kind()? }),
            false => HostStorage.status(path),
        }
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        HostStorage.entry(path)
    }

    fn created(&self, path: &Path) -> io::Result<Option<i128>> {
        HostStorage.created(path)
    }
}
