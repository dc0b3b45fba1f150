//! Every system call that the standard library does not offer safely.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_void},
    fs, io, iter,
    mem::MaybeUninit,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Component, Path},
    ptr,
};

use super::RenameRule;

/// Never wait for a FIFO's other end, never become the owner of a terminal.
pub(super) const SAFE_OPEN_FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// For a folder that is only the start of a path.
pub(super) const FOLDER_FLAGS: i32 = libc::O_PATH | libc::O_DIRECTORY;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The file `path`, as `options` say.
pub(super) fn open(options: &fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    Ok(clear_of_streams(options.open(path)?.into())?.into())
}

/// Takes over what a system call has just opened.
fn opened(fd: i64) -> io::Result<OwnedFd> {
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    clear_of_streams(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Every descriptor of this crate comes through here. In a process that closed its standard streams a new one can be
/// 0 to 2, and then the next text on stderr would be written into an image.
fn clear_of_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // SAFETY: the call touches no memory.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
    let moved = check(moved.into())?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(moved as i32) })
}

/// Another descriptor of the same open file.
pub(super) fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<fs::File> {
    Ok(clear_of_streams(descriptor.try_clone_to_owned()?)?.into())
}

/// How a descriptor was opened: `O_*`.
pub(super) fn open_flags(descriptor: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the call touches no memory.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    Ok(check(flags.into())? as i32)
}

/// Opens `name` for reading without ever leaving `folder`, symbolic links included.
pub(super) fn open_beneath(folder: &fs::File, name: &Path) -> io::Result<fs::File> {
    match openat2_beneath(folder, name) {
        // Before Linux 5.6, and where a filter or an emulator does not know the call.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => walk_beneath(folder, name),
        result => result,
    }
}

fn openat2_beneath(folder: &fs::File, name: &Path) -> io::Result<fs::File> {
    let name = c_path(name)?;
    // SAFETY: open_how is plain integers, for which all zero is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | SAFE_OPEN_FLAGS) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path is NUL-terminated and `how` is valid for the size that is passed, both for the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, folder.as_raw_fd(), name.as_ptr(), &raw const how, size_of_val(&how))
    };
    Ok(opened(check(fd)?)?.into())
}

/// The same, folder by folder; stricter, as no symbolic link is followed at all.
fn walk_beneath(folder: &fs::File, name: &Path) -> io::Result<fs::File> {
    let outside = || io::Error::from(io::ErrorKind::CrossesDevices);
    // The way from `folder` to where we are, so that `..` goes back and never further.
    let mut way = vec![fs::File::from(clear_of_streams(folder.try_clone()?.into())?)];
    let mut parts = name.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(part) = parts.next() {
        let part = match part {
            Component::Normal(part) => c_path(Path::new(part))?,
            Component::ParentDir if way.len() > 1 => {
                way.pop();
                continue;
            }
            _ => return Err(outside()),
        };
        let flags = match parts.peek() {
            Some(_) => FOLDER_FLAGS,
            None => libc::O_RDONLY | SAFE_OPEN_FLAGS,
        };
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let at = way[way.len() - 1].as_raw_fd();
        // SAFETY: the path is NUL-terminated and lives during the call.
        let fd = match check(unsafe { libc::openat(at, part.as_ptr(), flags) }.into()) {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(outside()),
            result => result?,
        };
        way.push(opened(fd)?.into());
    }
    way.pop().ok_or_else(outside)
}

/// Renames by renameat2, which can refuse to replace and can swap, or by the plain rename, which every file system knows.
pub(super) fn rename(from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
    let flags = match rule {
        RenameRule::NoReplace => libc::RENAME_NOREPLACE,
        RenameRule::Exchange => libc::RENAME_EXCHANGE,
        RenameRule::Replace => return fs::rename(from, to),
    };
    let (from, to) = (c_path(from)?, c_path(to)?);
    let here = libc::AT_FDCWD;
    // By number: musl has no such function before version 1.2.5.
    // SAFETY: both paths are NUL-terminated and live during the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags) };
    check(result).map(drop)
}

/// Makes everything durable that the file system of an open file has.
pub(super) fn sync_file_system(file: &fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open during the call.
    check(unsafe { libc::syncfs(file.as_raw_fd()) }.into()).map(drop)
}

/// Whether others than owner and group have rights of their own.
pub(super) fn has_access_list(file: &fs::File) -> bool {
    let name = c"system.posix_acl_access";
    // SAFETY: the name is NUL-terminated, and a buffer of no length is not touched.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), ptr::null_mut(), 0) };
    length > 0
}

/// The size of a block device.
pub(super) fn seek_end(file: &fs::File) -> io::Result<u64> {
    seek(file, 0, libc::SEEK_END)
}

fn seek(file: &fs::File, offset: u64, whence: i32) -> io::Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: lseek touches no memory; the file position it moves is used by nobody, all I/O is positional.
    let at = check(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })?;
    Ok(at as u64)
}

/// The first data at or behind `offset`; `None` when there is only a hole up to the end.
pub(super) fn seek_data(file: &fs::File, offset: u64) -> io::Result<Option<u64>> {
    seek_or_end(file, offset, libc::SEEK_DATA)
}

/// The first hole at or behind `offset`; the end of the file counts as one.
pub(super) fn seek_hole(file: &fs::File, offset: u64) -> io::Result<Option<u64>> {
    seek_or_end(file, offset, libc::SEEK_HOLE)
}

fn seek_or_end(file: &fs::File, offset: u64, whence: i32) -> io::Result<Option<u64>> {
    match seek(file, offset, whence) {
        Ok(at) => Ok(Some(at)),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a range a hole; the length of the file stays.
pub(super) fn punch(file: &fs::File, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    loop {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: fallocate touches no memory of ours.
        match check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }.into()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Shares a range, which must not be empty: an empty one would mean all that follows.
pub(super) fn clone_range(
    source: &fs::File,
    source_offset: u64,
    length: u64,
    file: &fs::File,
    offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: source.as_raw_fd().into(),
        src_offset: source_offset,
        src_length: length,
        dest_offset: offset,
    };
    loop {
        // SAFETY: the request reads a file_clone_range, and `range` is one for the whole call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
        match check(result.into()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Asks the kernel to begin writing back; only a hint, so failures do not matter here (a sync reports them).
pub(super) fn start_writeback(file: &fs::File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// What the file system of an open file says about itself.
fn file_system(file: &fs::File) -> io::Result<libc::statfs> {
    // SAFETY: statfs is plain integers, for which all zero is a valid value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid for the whole call.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut status) }.into())?;
    Ok(status)
}

/// Which bytes of a range of whole pages are not in the page cache. What the caller may not know counts as being there.
pub(super) fn absent(file: &fs::File, offset: u64, length: u64) -> io::Result<Vec<Range<u64>>> {
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let (at, size) = (libc::off_t::try_from(offset).map_err(too_large)?, length as usize);
    // SAFETY: the call touches no memory.
    let page = check(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as i64)? as u64;
    // Fewer steps than a look at each page, where few or all of them are there.
    match cached_pages(file, offset, length) {
        Ok(0) => return Ok(iter::once(offset..offset + length).collect()),
        Ok(pages) if pages >= length / page => return Ok(Vec::new()),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => return Ok(Vec::new()),
        _ => {}
    }
    let mut present = vec![0u8; length.div_ceil(page) as usize];
    // SAFETY: a new mapping, whose pages nobody can touch.
    let map =
        unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), at) };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is there, and the vector has a byte for each of its pages.
    let told = check(unsafe { libc::mincore(map, size, present.as_mut_ptr().cast()) }.into());
    // SAFETY: the mapping is ours, and nobody uses it any more.
    unsafe { libc::munmap(map, size) };
    told?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, _) in present.iter().enumerate().filter(|(_, byte)| **byte & 1 == 0) {
        let start = offset + index as u64 * page;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += page,
            _ => ranges.push(start..start + page),
        }
    }
    Ok(ranges)
}

/// How many pages of a range are in the page cache; Linux 6.5 can tell.
fn cached_pages(file: &fs::File, offset: u64, length: u64) -> io::Result<u64> {
    /// The same on all architectures.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, length];
    // Pages that are there come first, then dirty ones, those that are written back, and two counts of evicted ones.
    let mut counts = [0u64; 5];
    // SAFETY: the call reads two numbers and writes five.
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0u32) };
    check(result)?;
    Ok(counts[0])
}

/// Drops whole pages from the page cache that are as they are on disk; only a hint.
pub(super) fn drop_cached(file: &fs::File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length)) else {
        return;
    };
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_DONTNEED) };
}

/// Whether the file lies on tmpfs.
pub(super) fn is_in_memory(file: &fs::File) -> bool {
    // The C libraries do not agree on the field's type.
    file_system(file).is_ok_and(|status| status.f_type as u64 == libc::TMPFS_MAGIC as u64)
}

/// Bytes of a block of the file's file system.
pub(super) fn block_size(file: &fs::File) -> io::Result<u64> {
    Ok(file_system(file)?.f_bsize as u64)
}

fn flock(kind: i32, byte: i64) -> libc::flock {
    // SAFETY: flock is plain integers, for which all zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

fn fcntl_lock(file: &fs::File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `lock` is a valid flock for the whole call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    check(result.into()).map(drop)
}

/// Takes a shared lock on one byte, owned by this open file (not by the process).
pub(super) fn lock_shared(file: &fs::File, byte: i64) -> io::Result<()> {
    fcntl_lock(file, libc::F_OFD_SETLK, &mut flock(libc::F_RDLCK, byte))
}

/// Gives one byte back.
pub(super) fn unlock(file: &fs::File, byte: i64) -> io::Result<()> {
    fcntl_lock(file, libc::F_OFD_SETLK, &mut flock(libc::F_UNLCK, byte))
}

/// Gives back every lock that is owned by this open file.
pub(super) fn unlock_all(file: &fs::File) -> io::Result<()> {
    let mut lock = flock(libc::F_UNLCK, 0);
    // Zero reaches to the end, wherever that is.
    lock.l_len = 0;
    fcntl_lock(file, libc::F_OFD_SETLK, &mut lock)
}

/// Whether nobody else holds a lock on the byte. Takes nothing.
pub(super) fn could_lock_exclusive(file: &fs::File, byte: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, byte);
    fcntl_lock(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}

/// Random bytes of the kernel.
pub(crate) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is valid for so many bytes, which the call fills.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes always come as a whole.
    if got == bytes.len() as isize { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// The time that the kernel gives to a file that is written now: it stands still for some milliseconds each time.
/// Nanoseconds since 1970.
pub(super) fn coarse_time() -> io::Result<i128> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid for the call, which fills it.
    check(unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) }.into())?;
    Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}

/// A counter that can be waited for with poll: readable from [`EventFd::raise`] to [`EventFd::clear`].
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd touches no memory.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
        Ok(EventFd(opened(fd)?))
    }

    pub(crate) fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its 8 bytes. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    pub(crate) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is valid for its 8 bytes. An empty counter (EAGAIN) is clear already.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread of our own, in which all signals are blocked: they are meant for the program that uses the library.
///
/// The standard library leaves a destructor with the thread that *starts* one. That would keep a shared library loaded
/// until the program's own thread ends.
#[derive(Debug)]
pub(crate) struct Thread(libc::pthread_t);

// SAFETY: the identity of a thread means the same in every thread.
unsafe impl Send for Thread {}
// SAFETY: as above, and a shared reference allows nothing.
unsafe impl Sync for Thread {}

/// What a new thread is to do.
struct Task {
    name: CString,
    work: Box<dyn FnOnce() + Send>,
}

impl Thread {
    /// As in the standard library. The default of some systems is too small.
    const STACK_SIZE: usize = 2 << 20;

    pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let task = Box::into_raw(Box::new(Task { name: CString::new(name)?, work: Box::new(work) }));
        let thread = start(task);
        if thread.is_err() {
            // SAFETY: no thread has begun, so the task is still ours.
            drop(unsafe { Box::from_raw(task) });
        }
        thread
    }

    /// Waits for the end.
    pub(crate) fn join(self) {
        // SAFETY: the thread was neither joined nor detached, and `forget` keeps it from being detached.
        unsafe { libc::pthread_join(self.0, ptr::null_mut()) };
        std::mem::forget(self);
    }
}

impl Drop for Thread {
    /// The thread goes on, and leaves nothing when it ends.
    fn drop(&mut self) {
        // SAFETY: the thread was neither joined nor detached.
        unsafe { libc::pthread_detach(self.0) };
    }
}

/// Zero, or the number of an error.
fn check_number(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

fn start(task: *mut Task) -> io::Result<Thread> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the place can be written.
    check_number(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: the attributes were initialised.
    let sized = unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), Thread::STACK_SIZE) };
    let thread = check_number(sized).and_then(|()| {
        let before = block_signals()?;
        let mut thread = MaybeUninit::uninit();
        // SAFETY: the attributes were initialised, the place can be written, and the task is the new thread's.
        let created =
            unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, task.cast()) };
        // SAFETY: the set is one that the system gave; a set that is valid is never refused.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        check_number(created)?;
        // SAFETY: the call succeeded, so it has written the place.
        Ok(Thread(unsafe { thread.assume_init() }))
    });
    // SAFETY: the attributes were initialised, and are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    thread
}

/// Blocks all signals in this thread, which a new one inherits; returns what was blocked before.
fn block_signals() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the place can be written.
    check(unsafe { libc::sigfillset(all.as_mut_ptr()) }.into())?;
    // SAFETY: the first set is filled, and the place of the other can be written.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    check_number(result)?;
    // SAFETY: the call succeeded, so it has written the place.
    Ok(unsafe { before.assume_init() })
}

extern "C" fn run(task: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` gave the task away, to this thread alone.
    let task = unsafe { Box::from_raw(task.cast::<Task>()) };
    // SAFETY: the name is NUL-terminated and lives during the call; one that is too long is refused, no more.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: it is the calling thread, and the name is a string that ends with a NUL.
    unsafe { libc::pthread_setname_np(this, task.name.as_ptr()) };
    // Nothing may unwind into C, and what a panic carries could panic again when it is dropped.
    std::mem::forget(catch_unwind(AssertUnwindSafe(task.work)));
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_way_leaves_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::create_dir_all(folder.join("sub")).unwrap();
        for file in ["outside", "folder/inside", "folder/sub/deep"] {
            fs::write(root.path().join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("../outside", folder.join("escape")).unwrap();
        let folder = fs::File::open(folder).unwrap();
        for open in [openat2_beneath, walk_beneath] {
            for good in ["inside", "./sub/deep", "sub/./deep", "sub/../inside"] {
                assert!(open(&folder, Path::new(good)).is_ok(), "{good}");
            }
            for bad in ["../outside", "escape", "sub/../../outside", "/etc/passwd"] {
                let error = open(&folder, Path::new(bad)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{bad}");
            }
            assert_eq!(open(&folder, Path::new("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_file_with_an_access_list_gives_its_group_no_more_than_all() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = fs::File::create(folder.path().join("f")).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o664)).unwrap();
        assert!(!has_access_list(&file));
        assert_eq!(super::super::rights::of(&file).unwrap().mode, 0o664);
        // Version 2; owner rw-, user 7 rw-, group ---, mask rw-, others r--.
        let none = u32::MAX;
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, allowed, id) in [(1u16, 6u16, none), (2, 6, 7), (4, 0, none), (16, 6, none), (32, 4, none)]
        {
            list.extend([&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat());
        }
        let name = c"system.posix_acl_access";
        // SAFETY: the name is NUL-terminated, and the list is valid for its length.
        let set =
            unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0) };
        match check(set.into()) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            result => result.unwrap(),
        };
        assert!(has_access_list(&file));
        assert_eq!(super::super::rights::of(&file).unwrap().mode, 0o644);
    }

    fn line_of<'a>(status: &'a str, key: &str) -> &'a str {
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim()
    }

    #[test]
    fn a_thread_has_its_name_and_takes_no_signal_and_the_one_that_started_it_still_does() {
        let blocked = || fs::read_to_string("/proc/thread-self/status").unwrap();
        let before = blocked();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = Thread::spawn("holstein-test", move || tell.send(blocked()).unwrap()).unwrap();
        let inside = told.recv().unwrap();
        thread.join();
        assert_eq!(line_of(&inside, "Name:"), "holstein-test");
        let mask = u64::from_str_radix(line_of(&inside, "SigBlk:"), 16).unwrap();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1, libc::SIGXFSZ]
        {
            assert!(mask >> (signal - 1) & 1 == 1, "signal {signal} is not blocked: {mask:x}");
        }
        assert_eq!(line_of(&blocked(), "SigBlk:"), line_of(&before, "SigBlk:"));
    }

    #[test]
    fn a_thread_that_panics_ends_and_can_be_joined_or_let_go() {
        Thread::spawn("holstein-test", || std::panic::resume_unwind(Box::new(7))).unwrap().join();
        let (tell, told) = std::sync::mpsc::channel();
        drop(Thread::spawn("holstein-test", move || tell.send(7).unwrap()).unwrap());
        assert_eq!(told.recv(), Ok(7));
        assert!(Thread::spawn("a\0b", || ()).is_err());
    }
}
