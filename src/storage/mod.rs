//! Where bytes live: the only door between this crate and files.
//!
//! [`Storage`] knows names (open, create, rename, unlink, make a folder's entries durable) and
//! [`StorageFile`] knows bytes. [`HostStorage`] is the operating system's file system, [`MemoryStorage`]
//! keeps everything in memory, and so does [`SimulatedStorage`], for tests: it crashes and fails as it is told.
//! Layers above use `File`, which puts the file's name into every error and refuses further work on a file
//! whose sync failed once.

mod anchored;
mod file;
mod handed;
mod held;
mod host;
mod memory;
mod page_cache;
mod rights;
pub mod simulated;
mod stamp;
mod sys;

use std::{
    any::Any,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use anchored::{anchored, as_of_now, in_full};
pub(crate) use file::File;
pub(crate) use handed::HandedStorage;
pub use held::HeldHere;
pub use host::HostStorage;
pub use memory::MemoryStorage;
pub use page_cache::PageCache;
pub use rights::{FileRights, NewRights, RightsLimit};
pub use simulated::SimulatedStorage;
pub(crate) use stamp::Stamp;
pub(crate) use sys::{EventFd, Thread, random};

/// Whether two paths lead to one file, also by links. False where one of them cannot be looked at.
pub fn same_file(a: impl AsRef<Path>, b: impl AsRef<Path>) -> bool {
    let id = |path: &Path| HostStorage.status(path).ok().map(|status| status.id);
    id(a.as_ref()).is_some_and(|a| Some(a) == id(b.as_ref()))
}

/// Names: opening, creating, publishing and removing files. All paths are the caller's own words; a name
/// that was found inside an image goes through [`Storage::open_beneath`] or a policy check first.
// A method that has a default needs its line in `anchored.rs` and `handed.rs` as well.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Opens an existing file for reading. Never blocks on a FIFO; anything but a regular file or a block
    /// device is refused.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// The same for reading and writing.
    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens an existing regular file for reading whose path, `name` resolved from `folder`, never leaves
    /// `folder`, whatever symbolic links say.
    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates a file that must not exist yet, for reading and writing, which its owner alone may use.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// The same for a file that others may use as `rights` say, from [`StorageFile::open_up`] on. By default they never may.
    fn create_with(&self, path: &Path, _rights: NewRights) -> io::Result<Arc<dyn StorageFile>> {
        self.create(path)
    }

    /// Renames within one file system, atomically.
    ///
    /// # Errors
    /// `Unsupported` or `InvalidInput` for a rule that the file system does not know; nothing has changed then.
    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()>;

    /// Gives the file `from` a second name, which must be free.
    ///
    /// # Errors
    /// `Unsupported` where files have one name each, which is the default.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `folder` durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// The names in a folder, in no particular order.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// What a path leads to, symbolic links followed.
    fn status(&self, path: &Path) -> io::Result<FileStatus>;

    /// What a name itself is: a symbolic link, where there are such, is [`FileKind::Other`].
    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        self.status(path)
    }

    /// When what a path leads to was created, in nanoseconds; `None` if the storage cannot say, which is the default.
    fn created(&self, _path: &Path) -> io::Result<Option<i128>> {
        Ok(None)
    }

    /// The folder that relative paths start from now, where that can change while the process runs.
    fn folder(&self) -> Option<PathBuf> {
        None
    }

    /// The folder that relative paths start from, whatever the process does.
    fn anchor(&self) -> Option<&Path> {
        None
    }
}

/// One open file. All offsets are bytes; every method may be called from several threads at once.
#[allow(clippy::len_without_is_empty)]
pub trait StorageFile: Any + fmt::Debug + Send + Sync {
    /// Length in bytes (of a block device: its size).
    fn len(&self) -> io::Result<u64>;

    /// Length and time of the last change, to tell whether somebody wrote meanwhile.
    fn version(&self) -> io::Result<FileVersion>;

    /// The version as it is when no later write, by whomever, can leave it so; waits for that where the clock of the
    /// file system is slow, a second at most. `None` if writes need not show in it, which is the default.
    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        Ok(None)
    }

    /// When the contents were changed last, in nanoseconds, as a rename, a link or other rights leave it; `None` if the
    /// storage cannot say, which is the default.
    fn content_time(&self) -> io::Result<Option<i128>> {
        Ok(None)
    }

    /// Who may use the file; `None` where files have no rights, which is the default.
    fn rights(&self) -> io::Result<Option<FileRights>> {
        Ok(None)
    }

    /// Gives a new file the rights that it was created with. What the process or the file system cannot give is left out,
    /// and then nobody gets more instead. It can be done again.
    fn open_up(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that the file occupies on its file system.
    fn allocated(&self) -> io::Result<u64>;

    /// The identity of this file, equal for every name and handle of it.
    fn id(&self) -> io::Result<FileId>;

    /// What kind of file this is.
    fn kind(&self) -> io::Result<FileKind>;

    /// Reads up to `buf.len()` bytes; 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads as [`StorageFile::read_at`] does. What that brings into a cache of the system can be dropped again, the latest
    /// after [`StorageFile::end_uncached`]; what was there before stays.
    fn read_uncached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// A hint that no [`StorageFile::read_uncached`] comes soon.
    fn end_uncached(&self) {}

    /// A hint that nobody needs `length` bytes from `offset` in a cache of the system. What is not written back stays there.
    fn drop_cached(&self, _offset: u64, _length: u64) {}

    /// Writes up to `buf.len()` bytes, growing the file where needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Whether several writers of this file get on at once. On most file systems they only wait for each other.
    fn writes_in_parallel(&self) -> bool {
        false
    }

    /// Sets the length; new bytes read as zero.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes `length` bytes from `offset` a hole: they read as zero and take no place. The length of the file
    /// stays; what lies behind its end is left out.
    ///
    /// # Errors
    /// `Unsupported` where files have no holes, which is the default.
    fn punch(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes `length` bytes from `offset` the same as those of `source` from `source_offset` on, sharing their
    /// place until one of the two is written; the file grows where needed.
    ///
    /// # Errors
    /// `Unsupported` for what cannot be shared and is to be copied instead; nothing has changed then. So it is
    /// with files of different file systems, and with ranges that overlap, that end behind the end of `source`,
    /// or that are not whole blocks of the file system (the last block of `source` may be cut short where the
    /// file then ends too). By default nothing can be shared. Other errors can leave a part of it done.
    fn clone_range(
        &self,
        _source: &dyn StorageFile,
        _source_offset: u64,
        _length: u64,
        _offset: u64,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The unit in which [`StorageFile::clone_range`] can share ranges with this file: offsets and lengths are multiples of
    /// it. `None`, the default, where nothing can be shared, or where nothing is won by that. A unit is no promise: two
    /// files may still not be able to share.
    fn clone_unit(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Makes data and length durable.
    fn sync(&self) -> io::Result<()>;

    /// A hint that `length` bytes from `offset` are final, so that writing them back may begin.
    fn start_writeback(&self, _offset: u64, _length: u64) {}

    /// Whether there is data or a hole at `offset` (inside the file), and where that ends.
    fn extent_at(&self, offset: u64) -> io::Result<FileExtent>;

    /// Takes the advisory locks of `lock`, for as long as the file is open. A conflict with another user is
    /// `WouldBlock`, with [`HeldHere`] as its cause where the storage knows that the user is this process; a file system
    /// without such locks is an error of another kind.
    fn lock(&self, lock: Lock) -> io::Result<()>;
}

/// What a rename does with an existing `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameRule {
    /// Fails with `AlreadyExists`.
    NoReplace,
    /// Swaps the two names; `to` must exist.
    Exchange,
    /// The file that has the name loses it.
    Replace,
}

/// The identity of a file: file system and file on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
}

/// What changes when a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// Bytes.
    pub length: u64,
    /// Time of the last change, in a unit of the storage's choice; nobody can set it back.
    pub modified: i128,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Which file it is.
    pub id: FileId,
    /// What kind of file it is.
    pub kind: FileKind,
}

/// Kinds of files; only the first two are ever opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
    /// A folder, a FIFO, a socket, a terminal.
    Other,
}

/// A part of a file that is all data or all hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Reads as zero without being stored.
    pub hole: bool,
    /// The offset behind the part.
    pub end: u64,
}

/// How an image is used, in terms of the byte locks that QEMU takes on image files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Reads an image that nobody may write meanwhile.
    Source,
    /// Reads an image below another; nobody may write it meanwhile.
    Backing,
    /// Reads whatever is there, also while somebody writes it.
    ForceShare,
    /// Writes an image that nobody else may use meanwhile.
    Write,
}

/// Creates a file under a name that nobody else uses, with rights or for its owner alone. A network file system can make it
/// and report an error: what is there then is ours, and goes, durably.
pub(crate) fn create_under_own_name(
    storage: &dyn Storage,
    path: &Path,
    rights: Option<NewRights>,
) -> io::Result<Arc<dyn StorageFile>> {
    let created = match rights {
        Some(rights) => storage.create_with(path, rights),
        None => storage.create(path),
    };
    created.inspect_err(|e| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if e.kind() != io::ErrorKind::AlreadyExists && storage.unlink(path).is_ok() {
            let _ = storage.sync_folder(folder.unwrap_or(Path::new(".")));
        }
    })
}

/// Whether the file system, or the kernel, does not know how to rename so.
pub(crate) fn lacks_rule(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(number) => [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP].contains(&number),
        None => [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput].contains(&error.kind()),
    }
}

/// Whether the file system has no second names, or none for this file.
pub(crate) fn lacks_links(error: &io::Error) -> bool {
    const NUMBERS: [i32; 7] =
        [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP, libc::EMLINK, libc::EXDEV];
    match error.raw_os_error() {
        Some(number) => NUMBERS.contains(&number),
        None => error.kind() == io::ErrorKind::Unsupported,
    }
}
