//! Open disks: `hol_disk`.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::ptr;

use super::bitmap::ListedBitmap;
use super::boundary::{
    Failure, Handle, Poison, as_path, boundary, buffer, give, handle, invalid, out, take, text,
};
use super::cached::{Cached, Texts};
use super::chain::identity_text;
use super::error::HOL_OK;
use super::extent::{deliver, hol_extent, hol_extent_cb};
use super::options::{
    HOL_COMPRESSION_NONE, HOL_COMPRESSION_ZLIB, HOL_COMPRESSION_ZSTD, HOL_FORMAT_QCOW2, HOL_FORMAT_RAW,
    hol_disk_options,
};
use super::structure::{Fill, Grows, fill, options};
use crate::{CompressionType, Disk, DiskOptions, Format, SnapshotInfo};

/// An open disk: an image with the files it is made of. Several threads may use it at the same time; only
/// hol_disk_close() must come alone. What was made from it (actions, transactions, jobs) keeps what it needs of it and may
/// outlive it.
pub struct hol_disk {
    pub(super) disk: Disk,
    details: Cached<Details>,
    pub(super) bitmaps: Cached<Vec<ListedBitmap>>,
    pub(super) snapshots: Cached<Vec<SnapshotInfo>>,
    /// What these have told.
    pub(super) texts: Texts,
    poison: Poison,
}

impl hol_disk {
    pub(super) fn new(disk: Disk) -> Self {
        hol_disk {
            disk,
            details: Cached::new(),
            bitmaps: Cached::new(),
            snapshots: Cached::new(),
            texts: Texts::default(),
            poison: Poison::default(),
        }
    }
}

impl Handle for hol_disk {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

/// In hol_disk_details.flags: refcounts are updated lazily.
pub const HOL_DISK_LAZY_REFCOUNTS: u32 = 1;
/// In hol_disk_details.flags: the image is marked corrupt.
pub const HOL_DISK_CORRUPT: u32 = 2;
/// In hol_disk_details.flags: the image was not closed cleanly, its refcounts may be wrong.
pub const HOL_DISK_DIRTY: u32 = 4;
/// In hol_disk_details.flags: the image has subclusters.
pub const HOL_DISK_EXTENDED_L2: u32 = 8;
/// In hol_disk_details.flags: the external data file is a raw image of the disk.
pub const HOL_DISK_DATA_FILE_RAW: u32 = 16;
/// All flags of hol_disk_details.flags that this header knows; hol_constant() tells which the library knows.
pub const HOL_DISK_FLAGS_MASK: u32 = 31;

const _: () = assert!(
    HOL_DISK_FLAGS_MASK
        == HOL_DISK_LAZY_REFCOUNTS
            | HOL_DISK_CORRUPT
            | HOL_DISK_DIRTY
            | HOL_DISK_EXTENDED_L2
            | HOL_DISK_DATA_FILE_RAW
);

/// What is known of a disk's top image. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
/// library fills the rest. Texts belong to the disk and stay until hol_disk_close().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_disk_details {
    /// sizeof(hol_disk_details)
    pub struct_size: usize,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes that the file takes in its file system.
    pub actual_size: u64,
    /// Length of the file in bytes.
    pub file_length: u64,
    /// Size of a cluster in bytes; 0 for a raw image.
    pub cluster_size: u64,
    /// Number of internal snapshots.
    pub snapshots: u64,
    /// Number of persistent bitmaps.
    pub bitmaps: u64,
    /// The backing file as the image names it; NULL: none.
    pub backing: *const c_char,
    /// The backing file's path; NULL when there is none or its name is not a path.
    pub backing_path: *const c_char,
    /// The backing file's format as the image names it; NULL: not named.
    pub backing_format: *const c_char,
    /// The external data file as the image names it; NULL: none.
    pub data_file: *const c_char,
    /// HOL_FORMAT_*
    pub format: u32,
    /// Version of the qcow2 format, 2 or 3; 0 for a raw image.
    pub version: u32,
    /// HOL_COMPRESSION_* of compressed clusters; HOL_COMPRESSION_NONE for a raw image.
    pub compression: u32,
    /// Bits of a refcount; 0 for a raw image.
    pub refcount_bits: u32,
    /// HOL_DISK_*, combined
    pub flags: u32,
    /// Number of images in the chain, with this one.
    pub layers: u32,
    /// The identity of the image, in the form of a UUID, if it is a backup that Holstein made or a copy of one; else NULL.
    pub identity: *const c_char,
    /// The identity of the backup below it, by its own header; NULL: not known.
    pub parent: *const c_char,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_disk_details {}

/// The details; their texts are the handle's.
struct Details(hol_disk_details);

// SAFETY: the pointers lead to texts that the handle keeps and never changes.
unsafe impl Send for Details {}
// SAFETY: the same.
unsafe impl Sync for Details {}

impl Details {
    fn of(disk: &Disk, texts: &Texts) -> Result<Details, Failure> {
        let info = disk.info()?;
        let text = |text: Option<&String>| text.map_or(ptr::null(), |text| texts.keep(text));
        let (backing, qcow2) = (info.backing.as_ref(), info.qcow2.as_ref());
        let flags = qcow2.map_or(0, |qcow2| {
            let flags = [
                (qcow2.lazy_refcounts, HOL_DISK_LAZY_REFCOUNTS),
                (qcow2.corrupt, HOL_DISK_CORRUPT),
                (qcow2.dirty, HOL_DISK_DIRTY),
                (qcow2.extended_l2, HOL_DISK_EXTENDED_L2),
                (qcow2.data_file_raw, HOL_DISK_DATA_FILE_RAW),
            ];
            flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
        });
        let values = hol_disk_details {
            struct_size: 0,
            virtual_size: info.virtual_size,
            actual_size: info.actual_size,
            file_length: info.file_length,
            cluster_size: qcow2.map_or(0, |qcow2| qcow2.cluster_size),
            snapshots: info.snapshots.len() as u64,
            bitmaps: qcow2.map_or(0, |qcow2| qcow2.bitmaps.len() as u64),
            backing: text(backing.map(|backing| &backing.name)),
            backing_path: text(backing.and_then(|backing| backing.full_name.as_ref())),
            backing_format: text(backing.and_then(|backing| backing.format.as_ref())),
            data_file: text(qcow2.and_then(|qcow2| qcow2.data_file.as_ref())),
            format: match info.format {
                Format::Qcow2 => HOL_FORMAT_QCOW2,
                Format::Raw => HOL_FORMAT_RAW,
            },
            version: qcow2.map_or(0, |qcow2| qcow2.version),
            compression: match qcow2.map(|qcow2| qcow2.compression) {
                None => HOL_COMPRESSION_NONE,
                Some(CompressionType::Zlib) => HOL_COMPRESSION_ZLIB,
                Some(CompressionType::Zstd) => HOL_COMPRESSION_ZSTD,
            },
            refcount_bits: qcow2.map_or(0, |qcow2| qcow2.refcount_bits),
            flags,
            layers: u32::try_from(disk.chain().len()).unwrap_or(u32::MAX),
            identity: identity_text(qcow2.and_then(|qcow2| qcow2.identity), texts),
            parent: identity_text(qcow2.and_then(|qcow2| qcow2.parent), texts),
        };
        Ok(Details(values))
    }
}

/// Opens the image at `path`, and what it is made of as far as the options allow, for reading; with HOL_ACCESS_WRITE the
/// image itself also for writing: its data, its size, its bitmaps. A relative path, and a relative
/// hol_disk_options.backing_dir, start from the folder that the process is in now, wherever it goes later.
///
/// `options` may be NULL: all defaults. On success `*disk` belongs to the caller: hol_disk_close(). On failure it is
/// NULL.
///
/// Errors: HOL_ERR_NOT_FOUND, HOL_ERR_LOCKED (somebody writes the image, or with HOL_ACCESS_WRITE
/// uses it: another process, or this one by another handle, as the message says), HOL_ERR_CORRUPT, HOL_ERR_UNSUPPORTED,
/// HOL_ERR_ENCRYPTED, HOL_ERR_POLICY_DENIED (the image names a file outside the policy), HOL_ERR_LIMIT, HOL_ERR_IO,
/// HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_open(
    path: *const c_char,
    options: *const hol_disk_options,
    disk: *mut *mut hol_disk,
) -> c_int {
    // SAFETY: the arguments are as the header asks.
    unsafe { open_with(path, options, disk, |path, options| Ok(Disk::open(path, options)?)) }
}

/// Opens a disk as `open` does.
///
/// # Safety
/// As of a function of the header.
unsafe fn open_with(
    path: *const c_char,
    options: *const hol_disk_options,
    disk: *mut *mut hol_disk,
    open: impl FnOnce(&Path, &DiskOptions) -> Result<Disk, Failure>,
) -> c_int {
    boundary(|| {
        // SAFETY: as promised above.
        let disk = unsafe { out(disk, "disk") }?;
        disk.set(ptr::null_mut());
        // SAFETY: as promised above.
        let (path, options) = unsafe { (text(path, "path")?, self::options(options, "options")?.read()?) };
        disk.set(give(hol_disk::new(open(as_path(path), &options)?)));
        Ok(HOL_OK)
    })
}

/// As hol_disk_open(), of an image that the caller has opened as descriptor `fd`: for programs in a sandbox that may not open
/// files, and for block devices that are handed to them. `path` is what the image is called, and must not be NULL: in messages,
/// for the folder that names inside the image start from, and in the journal of a transaction that changes its bitmaps, so
/// that a recovery finds it. Files that the image names, and targets, are opened by their paths.
///
/// The descriptor is open for reading, with HOL_ACCESS_WRITE also for writing, without O_APPEND and O_DIRECT. It is duplicated
/// and stays the caller's, who may close it at once. The locks are taken on its open file, which all duplicates share: it
/// serves one disk at a time, and must not be used for locks meanwhile.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (such a descriptor cannot be used), HOL_ERR_IO (no open descriptor), HOL_ERR_PERMISSION
/// (open for reading only), HOL_ERR_LOCKED (also: the open file has locks, as of another disk), and as hol_disk_open().
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_open_fd(
    fd: c_int,
    path: *const c_char,
    options: *const hol_disk_options,
    disk: *mut *mut hol_disk,
) -> c_int {
    let open = |path: &Path, options: &DiskOptions| {
        if fd < 0 {
            return Err(invalid(format!("fd cannot be {fd}")));
        }
        // SAFETY: it is not -1; the system says whether it is open, and the caller does not close it during the call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(Disk::open_fd(descriptor, path, options)?)
    };
    // SAFETY: the arguments are as the header asks.
    unsafe { open_with(path, options, disk, open) }
}

/// Closes a disk and frees the handle, whatever is returned; what was written is durable then, or the failure tells that
/// it may not be. NULL is allowed and does nothing. Texts that were borrowed from the disk end here. Actions and
/// running transactions that use the disk keep its files open until they are freed.
///
/// Errors: those of hol_disk_flush().
///
/// Threads: any, but no other call may use the disk. Blocks: yes, for output of what was written. From callbacks: not the disk that calls back.
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_close(disk: *mut hol_disk) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        if let Some(handle) = unsafe { take(disk, "disk") }? {
            let hol_disk { disk, .. } = *handle;
            disk.close()?;
        }
        Ok(HOL_OK)
    })
}

/// Writes the disk's size in bytes to `*size`.
///
/// Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: while another thread changes the disk. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_size(disk: *const hol_disk, size: *mut u64) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, size) = unsafe { (handle(disk, "disk")?, out(size, "size")?) };
        size.set(disk.disk.size());
        Ok(HOL_OK)
    })
}

/// Fills `*details` with what is known of the disk's top image, as it was at the first call, or at the first one since
/// the disk was changed.
///
/// Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_info(disk: *const hol_disk, details: *mut hol_disk_details) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, details): (_, Fill<_>) = unsafe { (handle(disk, "disk")?, fill(details, "details")?) };
        details.set(&disk.details.of(&disk.disk, || Details::of(&disk.disk, &disk.texts))?.0);
        Ok(HOL_OK)
    })
}

/// Reads `length` bytes of the disk from `offset` on, through the chain, into `buffer`. After a failure the buffer's
/// content is undefined.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL,
/// HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_read(
    disk: *const hol_disk,
    offset: u64,
    buffer: *mut u8,
    length: usize,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, buffer) = unsafe { (handle(disk, "disk")?, self::buffer(buffer, length, "buffer")?) };
        disk.disk.read_at(buffer, offset)?;
        Ok(HOL_OK)
    })
}

/// Calls `callback` for each extent of the `length` bytes of the disk from `offset` on: neighbouring clusters that
/// are stored alike are one extent. Reads tables, never data. `opaque` is passed through and may be NULL.
///
/// Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
/// Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL,
/// HOL_ERR_PANIC; the extents before the failure have been given.
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_extents(
    disk: *const hol_disk,
    offset: u64,
    length: u64,
    callback: hol_extent_cb,
    opaque: *mut c_void,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let disk = unsafe { handle(disk, "disk") }?;
        let size = disk.disk.size();
        let end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(|| {
            invalid(format!("{length} bytes from {offset} on end past the disk, which has {size}"))
        })?;
        let extents = disk.disk.map(offset..end).map(|run| Ok(hol_extent::of_run(&run?)));
        // SAFETY: the callback and its argument are as the header asks.
        unsafe { deliver(extents, callback, opaque) }
    })
}
