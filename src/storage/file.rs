//! An open file with its name: errors that say where, whole reads and writes, and the rule that the first
//! failure which leaves its contents unknown, as that of a sync does, is the last word on it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    FileExtent, FileId, FileKind, FileRights, FileVersion, HeldHere, Lock, PageCache, Stamp, StorageFile,
};
use crate::error::{Error, ErrorKind, Result, shown};

/// A [`StorageFile`] that knows its name. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    inner: Arc<dyn StorageFile>,
    path: Arc<Path>,
    poisoned: Arc<AtomicBool>,
}

impl File {
    pub(crate) fn new(inner: Arc<dyn StorageFile>, path: &Path) -> Self {
        File { inner, path: path.into(), poisoned: Arc::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error of this file: `'NAME': text`.
    pub(crate) fn error(&self, kind: ErrorKind, text: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("'{}': {text}", shown(&self.path)))
    }

    fn fail(&self, what: impl std::fmt::Display, cause: io::Error) -> Error {
        Error::io(format!("cannot {what} '{}'", shown(&self.path)), cause)
    }

    pub(crate) fn len(&self) -> Result<u64> {
        self.inner.len().map_err(|e| self.fail("get the length of", e))
    }

    pub(crate) fn version(&self) -> Result<FileVersion> {
        self.inner.version().map_err(|e| self.fail("get the status of", e))
    }

    pub(crate) fn content_time(&self) -> Result<Option<i128>> {
        self.inner.content_time().map_err(|e| self.fail("get the status of", e))
    }

    /// The file as it is, to tell later whether it was written.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        Stamp::of(self)
    }

    pub(crate) fn distinct_version(&self) -> Result<Option<FileVersion>> {
        self.inner.distinct_version().map_err(|e| self.fail("get the status of", e))
    }

    pub(crate) fn rights(&self) -> Result<Option<FileRights>> {
        self.inner.rights().map_err(|e| self.fail("get the status of", e))
    }

    /// Lets others use a new file, as was said when it was created.
    pub(crate) fn open_up(&self) -> Result<()> {
        self.inner.open_up().map_err(|e| self.fail("set the permissions of", e))
    }

    pub(crate) fn allocated(&self) -> Result<u64> {
        self.inner.allocated().map_err(|e| self.fail("get the status of", e))
    }

    pub(crate) fn id(&self) -> Result<FileId> {
        self.inner.id().map_err(|e| self.fail("get the status of", e))
    }

    pub(crate) fn kind(&self) -> Result<FileKind> {
        self.inner.kind().map_err(|e| self.fail("get the status of", e))
    }

    /// Fills `buf` up to the end of the file and returns how much there was. A read of nothing before the end is an
    /// error: it would make a short file of a whole one.
    pub(crate) fn read_up_to(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_through(PageCache::Keep, buf, offset)
    }

    /// The same, and says what becomes of it in the page cache.
    pub(crate) fn read_through(&self, cache: PageCache, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let (rest, at) = (&mut buf[filled..], offset + filled as u64);
            let read = match cache {
                PageCache::Keep => self.inner.read_at(rest, at),
                PageCache::Drop => self.inner.read_uncached(rest, at),
            };
            match read {
                Ok(0) => {
                    let at = offset + filled as u64;
                    if self.len()? > at {
                        let text = format!("nothing could be read at offset {at}, inside the file");
                        return Err(self.error(ErrorKind::Io, text));
                    }
                    break;
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let place = format!("read {} bytes at offset {offset} of", buf.len());
                    return Err(self.fail(place, e));
                }
            }
        }
        Ok(filled)
    }

    /// Fills `buf`; a file that ends inside it is damaged, for metadata never stands for zeros.
    pub(crate) fn read_exact(&self, buf: &mut [u8], offset: u64, what: &str) -> Result<()> {
        let got = self.read_up_to(buf, offset)?;
        if got < buf.len() {
            let text = format!("the file ends at byte {} inside its {what}", offset + got as u64);
            return Err(self.error(ErrorKind::Corrupt, text));
        }
        Ok(())
    }

    pub(crate) fn write_all(&self, mut buf: &[u8], mut offset: u64) -> Result<()> {
        self.ensure_writable()?;
        while !buf.is_empty() {
            match self.inner.write_at(buf, offset) {
                Ok(0) => return Err(self.fail("write to", io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(self.fail(format!("write {} bytes at offset {offset} of", buf.len()), e));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn writes_in_parallel(&self) -> bool {
        self.inner.writes_in_parallel()
    }

    pub(crate) fn set_len(&self, length: u64) -> Result<()> {
        self.ensure_writable()?;
        self.inner.set_len(length).map_err(|e| self.fail(format!("set the length {length} of"), e))
    }

    /// The unit in which ranges can be shared with this file, if that is possible at all.
    pub(crate) fn clone_unit(&self) -> Result<Option<u64>> {
        self.inner.clone_unit().map_err(|e| self.fail("get the status of", e))
    }

    /// Makes a range the same as one of `source`, sharing its place. `Unsupported` where that cannot be; after another error
    /// a part of it may be done.
    pub(crate) fn clone_range(&self, source: &File, from: u64, length: u64, offset: u64) -> Result<()> {
        self.ensure_writable()?;
        let result = loop {
            match self.inner.clone_range(&*source.inner, from, length, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        result.map_err(|e| {
            let kind = e.kind();
            let text = format!("let '{}' share {length} bytes at offset {from} of", shown(&self.path));
            let error = source.fail(text, e);
            if kind == io::ErrorKind::Unsupported { error.of_kind(ErrorKind::Unsupported) } else { error }
        })
    }

    /// Makes everything durable. After a failure nobody knows which writes arrived, and a second sync would
    /// report success without having written them: so the file stays refused.
    pub(crate) fn sync(&self) -> Result<()> {
        self.ensure_writable()?;
        self.inner.sync().map_err(|e| {
            self.refuse_writes();
            self.fail("make durable", e)
        })
    }

    /// Makes durable what others may have written into a file that we only read. A file system that has no such operation, for
    /// it is never written, has nothing that is not durable.
    pub(crate) fn sync_what_is_read(&self) -> Result<()> {
        self.ensure_writable()?;
        match self.inner.sync() {
            Err(e)
                if e.raw_os_error().is_some_and(|number| [libc::EINVAL, libc::EROFS].contains(&number)) =>
            {
                Ok(())
            }
            synced => synced.map_err(|e| {
                self.refuse_writes();
                self.fail("make durable", e)
            }),
        }
    }

    /// Nobody knows any more what the file holds: it is not written again through any clone of this.
    pub(crate) fn refuse_writes(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Refuses a file whose contents are unknown after a failure.
    pub(crate) fn ensure_writable(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let text = "an earlier failure left the contents of this file unknown; it is not written further, \
                        and must be opened anew";
            return Err(self.error(ErrorKind::Io, text));
        }
        Ok(())
    }

    pub(crate) fn start_writeback(&self, offset: u64, length: u64) {
        self.inner.start_writeback(offset, length);
    }

    /// What was read without leaving it in the cache is dropped now.
    pub(crate) fn end_uncached(&self) {
        self.inner.end_uncached();
    }

    pub(crate) fn drop_cached(&self, offset: u64, length: u64) {
        self.inner.drop_cached(offset, length);
    }

    pub(crate) fn extent_at(&self, offset: u64) -> Result<FileExtent> {
        self.inner.extent_at(offset).map_err(|e| self.fail(format!("look for data at offset {offset} of"), e))
    }

    /// Takes the locks, or says who is in the way and what helps.
    pub(crate) fn lock(&self, lock: Lock) -> Result<()> {
        self.inner.lock(lock).map_err(|e| {
            if e.kind() != io::ErrorKind::WouldBlock {
                return match e.raw_os_error() {
                    Some(libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS | libc::EINVAL) => {
                        let text = format!(
                            "cannot lock '{}': its file system has no locks, and nothing else keeps two programs from \
                             writing one image; mount it with locks, or move the image to another file system",
                            shown(&self.path)
                        );
                        Error::io(text, e)
                    }
                    _ => self.fail("lock", e),
                };
            }
            let is_here = e.get_ref().is_some_and(|cause| cause.is::<HeldHere>());
            let text = match lock {
                Lock::Write if is_here => {
                    "this process itself has the image open by another handle; it can be changed when nobody else has it open"
                }
                Lock::Source | Lock::Backing if is_here => {
                    "this process itself writes this image by another handle; close that first, or use it \
                     (information alone can be had by force-share)"
                }
                Lock::ForceShare if is_here => "this process itself uses this image alone, by another handle",
                Lock::Write => {
                    "the image is in use by another process; it can be changed when nobody else has it open"
                }
                Lock::Source | Lock::Backing => {
                    "another process writes this image; stop it first (information alone can be had by force-share)"
                }
                Lock::ForceShare => "another process uses this image alone",
            };
            self.error(ErrorKind::Locked, text)
        })
    }
}
