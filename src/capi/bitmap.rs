//! Persistent bitmaps of a disk, for reading: `hol_bitmap_list`, `_info`, `_count`, `_extents`.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::boundary::{Failure, boundary, handle, invalid, out, text};
use super::cached::Texts;
use super::chain::identity_text;
use super::disk::hol_disk;
use super::error::HOL_OK;
use super::extent::{deliver, hol_extent, hol_extent_cb};
use super::structure::{Fill, Grows, fill};
use crate::{BitmapInfo, Error, ErrorKind};

/// In hol_bitmap_details.flags: the bitmap was not closed cleanly, or is in use.
pub const HOL_BITMAP_IN_USE: u32 = 1;
/// In hol_bitmap_details.flags: the bitmap records writes.
pub const HOL_BITMAP_AUTO: u32 = 2;
/// In hol_bitmap_details.flags: a backup can be based on the bitmap; without it reason says why not.
pub const HOL_BITMAP_USABLE: u32 = 4;
/// In hol_bitmap_details.flags: count is known.
pub const HOL_BITMAP_COUNTED: u32 = 8;
/// All flags of hol_bitmap_details.flags that this header knows; hol_constant() tells which the library knows.
pub const HOL_BITMAP_FLAGS_MASK: u32 = 15;

const _: () = assert!(
    HOL_BITMAP_FLAGS_MASK == HOL_BITMAP_IN_USE | HOL_BITMAP_AUTO | HOL_BITMAP_USABLE | HOL_BITMAP_COUNTED
);

/// What is known of a persistent bitmap. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
/// library fills the rest. Texts belong to the disk and stay until hol_disk_close().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_bitmap_details {
    /// sizeof(hol_bitmap_details)
    pub struct_size: usize,
    /// The name: bytes from the image, which need not be UTF-8.
    pub name: *const c_char,
    /// Why no backup can be based on the bitmap; NULL: it can.
    pub reason: *const c_char,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// With HOL_BITMAP_COUNTED: bytes that are dirty, in whole granules; else 0.
    pub count: u64,
    /// HOL_BITMAP_*, combined
    pub flags: u32,
    /// 0
    pub reserved: u32,
    /// The identity of the backup from which on the bitmap has every change, in the form of a UUID; NULL: not known.
    pub base: *const c_char,
    /// With base: size of the disk at that time, in bytes; else 0.
    pub base_size: u64,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_bitmap_details {}

/// A bitmap of a disk's list, with its texts, the handle's, as C wants them.
pub(super) struct ListedBitmap {
    info: BitmapInfo,
    name: *const c_char,
    reason: *const c_char,
    base: *const c_char,
}

// SAFETY: the pointers lead to texts that the handle keeps and never changes.
unsafe impl Send for ListedBitmap {}
// SAFETY: the same.
unsafe impl Sync for ListedBitmap {}

impl ListedBitmap {
    fn of(info: BitmapInfo, texts: &Texts) -> Self {
        let name = texts.keep(&info.name);
        let reason = info.unusable.as_ref().map_or(ptr::null(), |reason| texts.keep(reason));
        let base = identity_text(info.base.map(|base| base.backup), texts);
        ListedBitmap { info, name, reason, base }
    }

    fn details(&self) -> hol_bitmap_details {
        let info = &self.info;
        let flags = [
            (info.in_use, HOL_BITMAP_IN_USE),
            (info.auto, HOL_BITMAP_AUTO),
            (info.unusable.is_none(), HOL_BITMAP_USABLE),
            (info.count.is_some(), HOL_BITMAP_COUNTED),
        ];
        hol_bitmap_details {
            struct_size: 0,
            name: self.name,
            reason: self.reason,
            granularity: info.granularity,
            count: info.count.unwrap_or(0),
            flags: flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag),
            reserved: 0,
            base: self.base,
            base_size: info.base.map_or(0, |base| base.disk_size),
        }
    }
}

impl hol_disk {
    fn listed_bitmaps(&self) -> Result<Arc<Vec<ListedBitmap>>, Failure> {
        let listed = |info| ListedBitmap::of(info, &self.texts);
        self.bitmaps.of(&self.disk, || Ok(self.disk.bitmaps()?.into_iter().map(listed).collect()))
    }
}

/// Writes the number of persistent bitmaps of the disk's top image to `*number`, with those that cannot be used.
/// The list is the one of the first call, or of the first one since the bitmaps were changed.
///
/// Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_list(disk: *const hol_disk, number: *mut usize) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, number) = unsafe { (handle(disk, "disk")?, out(number, "number")?) };
        number.set(disk.listed_bitmaps()?.len());
        Ok(HOL_OK)
    })
}

/// Fills `*details` with what is known of the bitmap at `index`, from 0 to below the number that
/// hol_bitmap_list() gives.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), and as hol_bitmap_list().
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_info_at(
    disk: *const hol_disk,
    index: usize,
    details: *mut hol_bitmap_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, details): (_, Fill<_>) = unsafe { (handle(disk, "disk")?, fill(details, "details")?) };
        let list = disk.listed_bitmaps()?;
        let bitmap = list.get(index).ok_or_else(|| {
            invalid(format!("there is no bitmap {index}: {} has {}", disk.disk.path().display(), list.len()))
        })?;
        details.set(&bitmap.details());
        Ok(HOL_OK)
    })
}

/// Fills `*details` with what is known of the bitmap called `name`.
///
/// Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_INVALID_ARGUMENT (struct_size), and as hol_bitmap_list().
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_info(
    disk: *const hol_disk,
    name: *const c_char,
    details: *mut hol_bitmap_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, details): (_, _, Fill<_>) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, fill(details, "details")?) };
        let list = disk.listed_bitmaps()?;
        let bitmap = list.iter().find(|bitmap| bitmap.info.name == name.to_bytes()).ok_or_else(|| {
            let (path, name) = (disk.disk.path().display(), name.to_bytes().escape_ascii());
            Error::new(ErrorKind::BitmapNotFound, format!("{path}: there is no bitmap '{name}'"))
        })?;
        details.set(&bitmap.details());
        Ok(HOL_OK)
    })
}

/// Writes the number of bytes that the bitmap called `name` says are dirty, in whole granules, to `*dirty_bytes`. Loads
/// the bitmap.
///
/// Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (the message says why), HOL_ERR_CORRUPT, HOL_ERR_IO,
/// HOL_ERR_LIMIT, HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_count(
    disk: *const hol_disk,
    name: *const c_char,
    dirty_bytes: *mut u64,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, dirty_bytes) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, out(dirty_bytes, "dirty_bytes")?) };
        dirty_bytes.set(disk.disk.bitmap(name.to_bytes())?.count());
        Ok(HOL_OK)
    })
}

/// Calls `callback` for each part of the disk that the bitmap called `name` says is dirty: ascending, merged, ending
/// within the disk, with HOL_EXTENT_DIRTY. `opaque` is passed through and may be NULL.
///
/// Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
/// Errors: as hol_bitmap_count(), before the first callback.
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_extents(
    disk: *const hol_disk,
    name: *const c_char,
    callback: hol_extent_cb,
    opaque: *mut c_void,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        if callback.is_none() {
            return Err(Failure::Null("callback"));
        }
        let bitmap = disk.disk.bitmap(name.to_bytes())?;
        let extents = bitmap.extents().map(|range| Ok(hol_extent::of_dirty(&range)));
        // SAFETY: the callback and its argument are as the header asks.
        unsafe { deliver(extents, callback, opaque) }
    })
}
