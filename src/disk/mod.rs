//! A disk in use: an image with its chain and bitmaps, threads to read it with, and guest writes.

mod check_chain;
mod claims;
mod create;
mod fingerprint;
mod lineage;
mod outline;
mod pool;
mod recover;
mod repair;
mod resize;
#[cfg(test)]
mod short_memory_tests;
mod snapshot;
mod staged;
mod turnstile;
mod watch;
mod write;

use std::{
    collections::HashSet,
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize},
    },
};

pub use check_chain::{CheckedChain, CheckedImage};
use claims::Claims;
pub(crate) use claims::{BitmapClaim, Claim, Scope};
pub(crate) use fingerprint::{Fingerprint, Folder, Versions};
pub(crate) use lineage::Relatives;
pub(crate) use pool::Pool;
use rayon::prelude::*;
pub(crate) use recover::{
    Switch, Switched, give_up_bitmaps, give_up_if_switched, is_as_covered, is_superseded, switch,
};
pub(crate) use staged::StagedBitmaps;
use staged::Turns;
use turnstile::Turnstile;
pub(crate) use watch::Watch;
use watch::Watched;
pub(crate) use write::Pinned;
use write::{Writing, after_change};

use crate::{
    bitmap::{self, BitmapChange, BitmapInfo, DirtyBitmap},
    error::{Error, ErrorKind, Result},
    image::{Access, DiskInfo, Image, ImageOptions, LayerInfo, Map},
    storage::{FileId, HandedStorage, HostStorage, Storage, anchored, in_full},
};

/// Reads longer than this are divided among threads.
const PARALLEL_READ: usize = 4 << 20;
/// What one thread then reads at a time.
const READ_PIECE: usize = 1 << 20;

/// How to open a disk.
pub type DiskOptions = ImageOptions;

/// An open disk. A handle: clones are the same disk, which stays open (and locked) until the last one is
/// dropped. Every method may be called from several threads at once.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The image as it was parsed last; replaced as a whole when it is changed.
    image: RwLock<Arc<Image>>,
    options: DiskOptions,
    /// What running transactions will change.
    claims: Mutex<Claims>,
    /// How many keep the disk as it is.
    pins: AtomicUsize,
    /// Whose change is staged; taken before `image`.
    turn: Turns,
    /// Whether others write the image while backups read it. Taken after `image`.
    watched: Mutex<Watched>,
    /// Tables have moved that some of them may still read at their old places.
    tables_moved: AtomicBool,
    /// Passed by those who write guest data before they take `image`, and by those who look at the metadata meanwhile.
    turnstile: Turnstile,
    /// While guest data is written. Taken after `image`.
    writing: Mutex<Option<Writing>>,
    /// The image that lies on top of this one by now.
    overlay: OnceLock<PathBuf>,
    readers: OnceLock<Pool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        write::finish(self.image.get_mut().unwrap_or_else(PoisonError::into_inner), &self.writing);
    }
}

impl Disk {
    /// Opens the image at `path` for reading. A relative path keeps its meaning when the process changes its folder.
    ///
    /// # Errors
    /// `NotFound` and `Io` from the file system, `Locked` when another process writes the image, or this one by
    /// another handle (the text says which), `Corrupt`,
    /// `Unsupported`, `Encrypted` and `Limit` for images that cannot be used, `PolicyDenied` when the image
    /// names a file that may not be opened.
    pub fn open(path: impl AsRef<Path>, options: &DiskOptions) -> Result<Disk> {
        Self::open_in(Arc::new(HostStorage), path, options)
    }

    /// The same with an image that the caller has opened, for programs that may not open files. `path` is what it is called:
    /// in messages, for the folder that names inside it start from, and in the journal of a transaction that changes its
    /// bitmaps, so that a recovery finds it. Other files are opened by their paths. The descriptor is duplicated and stays the
    /// caller's; locks are taken on its open file, so it serves one disk at a time.
    ///
    /// # Errors
    /// As [`Disk::open`]; `InvalidArgument` for a descriptor that cannot be read, that has `O_APPEND` or `O_DIRECT`, or is no
    /// regular file or block device; `Permission` for one that is open for reading only, with [`Access::Write`]; `Locked` for an
    /// open file that has locks, as of another disk.
    pub fn open_fd(
        descriptor: BorrowedFd<'_>,
        path: impl AsRef<Path>,
        options: &DiskOptions,
    ) -> Result<Disk> {
        let path = in_full(&HostStorage, path.as_ref())?;
        let storage = HandedStorage::new(path.clone(), descriptor).map_err(|e| {
            let text = format!("descriptor {} for '{}'", descriptor.as_raw_fd(), path.display());
            match e.kind() {
                io::ErrorKind::InvalidInput => Error::new(ErrorKind::InvalidArgument, format!("{text}: {e}")),
                io::ErrorKind::WouldBlock => Error::new(ErrorKind::Locked, format!("{text}: {e}")),
                _ => Error::io(text, e),
            }
        })?;
        Self::open_in(Arc::new(storage), path, options)
    }

    /// The same, with files that live in `storage`.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open_in(storage: Arc<dyn Storage>, path: impl AsRef<Path>, options: &DiskOptions) -> Result<Disk> {
        let image = Image::open(anchored(storage), path.as_ref(), options)?;
        Ok(Disk(Arc::new(Inner {
            path: path.as_ref().to_owned(),
            image: RwLock::new(Arc::new(image)),
            options: options.clone(),
            claims: Mutex::default(),
            pins: AtomicUsize::new(0),
            turn: Turns::default(),
            watched: Mutex::default(),
            tables_moved: AtomicBool::new(false),
            turnstile: Turnstile::default(),
            writing: Mutex::default(),
            overlay: OnceLock::new(),
            readers: OnceLock::new(),
        })))
    }

    /// The path that the disk was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Size of the disk in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.image().size()
    }

    /// What the top image says about itself.
    ///
    /// # Errors
    /// `Io` when the file's status cannot be read.
    pub fn info(&self) -> Result<DiskInfo> {
        self.at_rest()?.info()
    }

    /// The images of the chain, the top first.
    pub fn chain(&self) -> Vec<LayerInfo> {
        self.image().chain()
    }

    /// Fills `buf` with the disk's contents from byte `offset` on. Blocks; a large read uses several threads.
    ///
    /// # Errors
    /// `InvalidArgument` when the range does not lie in the disk, `Io`, and `Corrupt` for damaged tables and
    /// compressed clusters. The contents of `buf` are then undefined.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        // Held all the way: nobody writes meanwhile.
        let image = self.0.image.read().unwrap_or_else(PoisonError::into_inner);
        image.check_range(buf.len() as u64, offset)?;
        if buf.len() < PARALLEL_READ {
            return image.read_at(buf, offset);
        }
        let pieces = |buf: &mut [u8]| {
            buf.par_chunks_mut(READ_PIECE)
                .enumerate()
                .try_for_each(|(index, piece)| image.read_at(piece, offset + (index * READ_PIECE) as u64))
        };
        self.readers()?.install(|| pieces(buf))
    }

    fn readers(&self) -> Result<&Pool> {
        if let Some(pool) = self.0.readers.get() {
            return Ok(pool);
        }
        let pool = Pool::new("holstein-read", self.0.options.thread_limit)?;
        Ok(self.0.readers.get_or_init(|| pool))
    }

    /// The runs of a guest range in bytes (clipped to the disk): which layer has it and where. Reads tables,
    /// never data. What is written meanwhile may be told or not; and when a change of the image's bitmaps, snapshots
    /// or size comes in between, the rest may be an error.
    pub fn map(&self, range: Range<u64>) -> Map {
        self.image().map(range)
    }

    /// All persistent bitmaps of the top image, those that cannot be used with the reason. Reads their data
    /// to count it, and keeps none of it.
    ///
    /// # Errors
    /// `Io`, and `Limit` when the bitmaps' tables need too much memory.
    pub fn bitmaps(&self) -> Result<Vec<BitmapInfo>> {
        self.at_rest()?.qcow2().map_or_else(|| Ok(Vec::new()), bitmap::list)
    }

    /// Loads a persistent bitmap of the top image.
    ///
    /// A bitmap that is disabled can be loaded and looked at, but a backup refuses it.
    ///
    /// # Errors
    /// `BitmapNotFound`; `BitmapUnusable` for one whose contents cannot be trusted; `Io`; `Limit`.
    pub fn bitmap(&self, name: &[u8]) -> Result<DirtyBitmap> {
        match self.at_rest()?.qcow2() {
            Some(image) => bitmap::load(image, name),
            None => Err(self.has_no_bitmaps()),
        }
    }

    /// Changes the persistent bitmaps of the top image: all changes of the list or none, durable when this
    /// returns. The disk must have been opened with [`Access::Write`].
    ///
    /// # Errors
    /// `WrongState` for a disk that was opened for reading; `BitmapNotFound`, `BitmapUnusable`, `Exists`,
    /// `InvalidArgument` and `Unsupported` for changes that cannot be; `Corrupt` for an image that cannot be
    /// trusted to say which clusters are free. Nothing has changed then, unless the error's text says that the
    /// change was made, or that this is unknown: then the disk must be opened anew before it is changed again.
    pub fn change_bitmaps(&self, changes: &[BitmapChange]) -> Result<()> {
        self.refuse_busy(&changes.iter().flat_map(BitmapChange::names).collect::<Vec<_>>())?;
        drop(self.writable_image()?);
        let mut image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        self.refuse_pinned()?;
        self.end_writing_locked(&mut image)?;
        let Some(top) = image.qcow2() else { return Ok(()) };
        let made = bitmap::change(top, changes);
        after_change(&mut image, made)
    }

    /// Makes durable what the files of the whole chain hold, except those that are known to be. Whoever wrote them need not
    /// have done so.
    pub(crate) fn make_durable(&self, known: &mut HashSet<FileId>) -> Result<()> {
        let image = self.image();
        for depth in 0..image.layer_count() {
            for file in image.layer(depth)?.files() {
                if known.insert(file.id()?) {
                    file.sync_what_is_read()?;
                }
            }
        }
        Ok(())
    }

    /// Whether two handles are of the same open disk.
    pub(crate) fn is_same(&self, other: &Disk) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// From now on the disk goes on in another image, on top of this one, which does not change any more.
    pub(crate) fn cover(&self, overlay: &Path) {
        let _ = self.0.overlay.set(overlay.to_owned());
    }

    /// Refuses to change an image that has another on top.
    pub(crate) fn refuse_covered(&self) -> Result<()> {
        let Some(overlay) = self.0.overlay.get() else { return Ok(()) };
        let text = format!(
            "'{}' lies below the image '{}' since an external snapshot; close it, and open that one",
            self.path().display(),
            overlay.display()
        );
        Err(Error::new(ErrorKind::WrongState, text))
    }

    /// The image, if its bitmaps may be changed. Nobody changes it meanwhile.
    fn writable_image(&self) -> Result<RwLockReadGuard<'_, Arc<Image>>> {
        let image = self.at_rest()?;
        self.refuse_covered()?;
        if self.0.options.access != Access::Write {
            let text =
                format!("'{}' was opened for reading; its bitmaps cannot be changed", self.path().display());
            return Err(Error::new(ErrorKind::WrongState, text));
        }
        if image.qcow2().is_none() {
            let text = format!("'{}': a raw image has no bitmaps", self.path().display());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(image)
    }

    /// How it was opened.
    pub fn options(&self) -> &DiskOptions {
        &self.0.options
    }

    pub(crate) fn image(&self) -> Arc<Image> {
        self.0.image.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
