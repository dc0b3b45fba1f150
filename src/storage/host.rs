//! The operating system's files.

use std::{
    any::Any,
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::UNIX_EPOCH,
    time::{Duration, Instant},
};

use super::{
    FileExtent, FileId, FileKind, FileRights, FileStatus, FileVersion, Lock, NewRights, RenameRule, Storage,
    StorageFile, held, page_cache::Windows, rights, sys,
};

/// How long [`StorageFile::distinct_version`] waits for a clock.
const PATIENCE: Duration = Duration::from_secs(2);

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostStorage;

impl Storage for HostStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = fs::OpenOptions::new();
        HostFile::checked(sys::open(options.read(true).custom_flags(sys::SAFE_OPEN_FLAGS), path)?)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(sys::SAFE_OPEN_FLAGS);
        HostFile::checked(sys::open(options, path)?)
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = fs::OpenOptions::new();
        let folder = sys::open(options.read(true).custom_flags(sys::FOLDER_FLAGS), folder)?;
        HostFile::checked(sys::open_beneath(&folder, name)?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        HostFile::checked(create_new(path, 0o600)?)
    }

    fn create_with(&self, path: &Path, rights: NewRights) -> io::Result<Arc<dyn StorageFile>> {
        let file = create_new(path, rights.first_mode())?;
        let rights = Some(rights::close(&file, rights)?);
        let (kind, windows) = (FileKind::Regular, Windows::default());
        Ok(Arc::new(HostFile { file, kind, rights, windows }))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        sys::rename(from, to, rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = sys::open(fs::OpenOptions::new().read(true), folder)?;
        match folder.sync_all() {
            // Some file systems have no fsync for folders; all of them can be synced as a whole.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => sys::sync_file_system(&folder),
            synced => synced,
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        let status = fs::metadata(path)?;
        Ok(FileStatus { id: file_id(&status), kind: file_kind(&status) })
    }

    fn created(&self, path: &Path) -> io::Result<Option<i128>> {
        let created = fs::metadata(path)?.created().ok();
        let since = created.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(since.map(|since| since.as_nanos() as i128))
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        let status = fs::symlink_metadata(path)?;
        Ok(FileStatus { id: file_id(&status), kind: file_kind(&status) })
    }

    fn folder(&self) -> Option<PathBuf> {
        env::current_dir().ok()
    }
}

fn create_new(path: &Path, mode: u32) -> io::Result<fs::File> {
    sys::open(fs::OpenOptions::new().read(true).write(true).create_new(true).mode(mode), path)
}

fn file_id(status: &fs::Metadata) -> FileId {
    // Two nodes of one block device are one disk.
    if status.file_type().is_block_device() {
        return FileId { device: u64::MAX, inode: status.rdev() };
    }
    FileId { device: status.dev(), inode: status.ino() }
}

fn file_kind(status: &fs::Metadata) -> FileKind {
    match status.file_type() {
        kind if kind.is_file() => FileKind::Regular,
        kind if kind.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::Other,
    }
}

#[derive(Debug)]
pub(super) struct HostFile {
    file: fs::File,
    kind: FileKind,
    /// Of a file that is being made: what it will have.
    rights: Option<NewRights>,
    /// What is read without leaving it in the cache.
    windows: Windows,
}

impl HostFile {
    pub(super) fn checked(file: fs::File) -> io::Result<Arc<dyn StorageFile>> {
        let kind = file_kind(&file.metadata()?);
        if kind == FileKind::Other {
            let text = "not a regular file or block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Arc::new(HostFile { file, kind, rights: None, windows: Windows::default() }))
    }
}

impl Drop for HostFile {
    /// Closing would give the locks back too, but not at once: a process that is just being started by another
    /// thread has all our descriptors until it runs its program, and with them the locks.
    fn drop(&mut self) {
        self.windows.leave(&self.file);
        // On a failure they go with the last descriptor.
        let _ = sys::unlock_all(&self.file);
    }
}

impl StorageFile for HostFile {
    fn len(&self) -> io::Result<u64> {
        match self.kind {
            FileKind::BlockDevice => sys::seek_end(&self.file),
            _ => Ok(self.file.metadata()?.len()),
        }
    }

    fn version(&self) -> io::Result<FileVersion> {
        let status = self.file.metadata()?;
        let modified = i128::from(status.ctime()) * 1_000_000_000 + i128::from(status.ctime_nsec());
        Ok(FileVersion { length: self.len()?, modified })
    }

    fn content_time(&self) -> io::Result<Option<i128>> {
        let status = self.file.metadata()?;
        Ok(Some(i128::from(status.mtime()) * 1_000_000_000 + i128::from(status.mtime_nsec())))
    }

    fn distinct_version(&self) -> io::Result<Option<FileVersion>> {
        // Other names and hosts reach a device past its inode here.
        if self.kind == FileKind::BlockDevice {
            return Ok(None);
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let version = self.version()?;
            if !is_now(version.modified, sys::coarse_time()?) {
                return Ok(Some(version));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }

    fn rights(&self) -> io::Result<Option<FileRights>> {
        rights::of(&self.file).map(Some)
    }

    fn open_up(&self) -> io::Result<()> {
        self.rights.map_or(Ok(()), |rights| rights::give(&self.file, rights))
    }

    fn allocated(&self) -> io::Result<u64> {
        // st_blocks counts units of 512 bytes, whatever the file system's block size.
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(file_id(&self.file.metadata()?))
    }

    fn kind(&self) -> io::Result<FileKind> {
        Ok(self.kind)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn read_uncached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.windows.enter(&self.file, offset, buf.len() as u64);
        self.read_at(buf, offset)
    }

    fn end_uncached(&self) {
        self.windows.leave(&self.file);
    }

    fn drop_cached(&self, offset: u64, length: u64) {
        sys::drop_cached(&self.file, offset, length);
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn writes_in_parallel(&self) -> bool {
        sys::is_in_memory(&self.file)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        // A block device has nothing behind its end that could be left out.
        let length = length.min(self.len()?.saturating_sub(offset));
        if length == 0 { Ok(()) } else { sys::punch(&self.file, offset, length) }
    }

    fn clone_range(
        &self,
        source: &dyn StorageFile,
        source_offset: u64,
        length: u64,
        offset: u64,
    ) -> io::Result<()> {
        let source: &dyn Any = source;
        let source = source.downcast_ref::<HostFile>().ok_or(io::ErrorKind::Unsupported)?;
        if length == 0 {
            return Ok(());
        }
        let result = sys::clone_range(&source.file, source_offset, length, &self.file, offset);
        result.map_err(|e| match e.raw_os_error() {
            // Another file system, one without such calls, ranges that it cannot share.
            Some(libc::EXDEV | libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) => {
                io::Error::new(io::ErrorKind::Unsupported, e)
            }
            _ => e,
        })
    }

    fn clone_unit(&self) -> io::Result<Option<u64>> {
        match self.kind {
            FileKind::Regular => sys::block_size(&self.file).map(Some),
            _ => Ok(None),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        sys::start_writeback(&self.file, offset, length);
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        let length = self.len()?;
        if self.kind == FileKind::BlockDevice {
            return Ok(FileExtent { hole: false, end: length });
        }
        let all_data = Ok(FileExtent { hole: false, end: length.max(offset) });
        let Ok(data) = sys::seek_data(&self.file, offset) else {
            // Some file systems cannot tell, and say so by various errors: a read tells of what is truly broken.
            return all_data;
        };
        match data {
            None => Ok(FileExtent { hole: true, end: length.max(offset) }),
            Some(data) if data > offset => Ok(FileExtent { hole: true, end: data }),
            Some(_) => {
                let hole = sys::seek_hole(&self.file, offset).ok().flatten();
                hole.filter(|hole| *hole > offset).map_or(all_data, |end| Ok(FileExtent { hole: false, end }))
            }
        }
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        let bytes = lock_bytes(lock);
        let refused = |byte| {
            for &held in bytes.hold {
                sys::unlock(&self.file, held)?;
            }
            Err(held::conflict(&self.file, byte))
        };
        for &byte in bytes.hold {
            match sys::lock_shared(&self.file, byte) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return refused(byte),
                locked => locked?,
            }
        }
        for &byte in bytes.test {
            if !sys::could_lock_exclusive(&self.file, byte)? {
                return refused(byte);
            }
        }
        Ok(())
    }
}

/// Bytes to hold by a shared lock, and bytes that nobody else may hold. QEMU's rule: byte 100 + p says "I use
/// permission p", byte 200 + p "I do not let others use it"; p is 0 consistent read, 1 write, 2 write
/// unchanged, 3 resize. Locks are held first and tested second, so two racers may both fail but never both win.
struct LockBytes {
    hold: &'static [i64],
    test: &'static [i64],
}

fn lock_bytes(lock: Lock) -> LockBytes {
    match lock {
        Lock::Source => LockBytes { hold: &[100, 201, 203], test: &[200, 101, 103] },
        Lock::Backing => LockBytes { hold: &[100, 201, 203], test: &[101, 103] },
        Lock::ForceShare => LockBytes { hold: &[100], test: &[200] },
        Lock::Write => LockBytes { hold: &[100, 101, 103, 201, 202, 203], test: &[200, 201, 203, 101, 103] },
    }
}

/// Whether a file that was changed at one time could be changed again at another, and nobody would see it. Some file
/// systems count whole seconds.
fn is_now(changed: i128, now: i128) -> bool {
    const SECOND: i128 = 1_000_000_000;
    if changed % SECOND == 0 { changed / SECOND == now / SECOND } else { changed == now }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own files know no SEEK_DATA and answer EINVAL, as some network file systems do.
    #[test]
    fn a_file_that_cannot_tell_its_holes_is_all_data() {
        let file = HostStorage.open("/proc/self/status".as_ref()).unwrap();
        assert_eq!(file.extent_at(0).unwrap(), FileExtent { hole: false, end: 0 });
        assert_eq!(file.extent_at(10).unwrap(), FileExtent { hole: false, end: 10 });
    }

    /// The kernel's own folders have no fsync and answer EINVAL, as those of some network file systems do.
    #[test]
    fn a_folder_without_fsync_is_synced_with_its_file_system() {
        let plain = fs::File::open("/proc/self").unwrap().sync_all();
        assert_eq!(plain.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        HostStorage.sync_folder("/proc/self".as_ref()).unwrap();
    }

    #[test]
    fn a_write_shows_in_the_version_however_soon_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = HostStorage.create(&path).unwrap();
        for byte in 0..100 {
            file.write_at(&[byte], 0).unwrap();
            let version = file.distinct_version().unwrap().unwrap();
            file.write_at(&[byte], 0).unwrap();
            assert_ne!(file.version().unwrap(), version, "write {byte}");
        }
    }

    #[test]
    fn a_change_of_this_moment_is_one() {
        let tick = 1_795_000_000_123_000_000;
        assert!(is_now(tick, tick));
        assert!(!is_now(tick, tick + 4_000_000));
        assert!(!is_now(tick + 1, tick), "a finer clock");
        // Whole seconds.
        let second = 1_795_000_000_000_000_000;
        assert!(is_now(second, tick));
        assert!(!is_now(second, second + 1_000_000_000));
    }

    #[test]
    fn a_closed_file_locks_nobody_out_while_a_process_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = HostStorage.create(&path).unwrap();
        drop(file);
        let open = || fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let ours =
            HostFile { file: open(), kind: FileKind::Regular, rights: None, windows: Windows::default() };
        // What a fork has of it.
        let forked = ours.file.try_clone().unwrap();
        ours.lock(Lock::Write).unwrap();
        let other =
            HostFile { file: open(), kind: FileKind::Regular, rights: None, windows: Windows::default() };
        assert_eq!(other.lock(Lock::Source).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        other.lock(Lock::Write).unwrap();
        drop(forked);
    }
}
