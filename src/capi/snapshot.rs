//! Internal snapshots of a disk: `hol_disk_snapshot_create` and `hol_disk_snapshot_delete`.

use std::ffi::{c_char, c_int};
use std::time::SystemTime;

use super::boundary::{boundary, handle, text};
use super::disk::hol_disk;
use super::error::HOL_OK;

/// Takes an internal snapshot of the disk as it is, called `name` (1 to 255 bytes), with the date of now: durable when
/// this returns, all of it or nothing. What was written before is in it. Bitmaps are not part of a snapshot, and stay as
/// they are. The disk was opened with HOL_ACCESS_WRITE.
///
/// Errors: HOL_ERR_EXISTS (a snapshot has this name, or this id), HOL_ERR_INVALID_ARGUMENT (name), HOL_ERR_WRONG_STATE
/// (opened for reading, or a running backup reads the disk), HOL_ERR_UNSUPPORTED (a raw image, or one with a data file),
/// HOL_ERR_LIMIT (a refcount cannot tell of another user, or there are too many snapshots), HOL_ERR_CORRUPT (nobody knows
/// which clusters are free), HOL_ERR_NULL, HOL_ERR_PANIC: nothing has changed. After other errors the message says if the
/// change was made all the same or if that is unknown; the disk must be opened anew then, before it is changed again.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_snapshot_create(disk: *mut hol_disk, name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        disk.disk.create_snapshot(name.to_bytes(), SystemTime::now())?;
        Ok(HOL_OK)
    })
}

/// Deletes the internal snapshot that has this id or this name. The disk and its bitmaps stay as they are.
///
/// Errors: HOL_ERR_NOT_FOUND, HOL_ERR_INVALID_ARGUMENT (several have it: as their id or as their name; the message tells
/// their ids), and as hol_disk_snapshot_create().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_snapshot_delete(disk: *mut hol_disk, id_or_name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, id_or_name) = unsafe { (handle(disk, "disk")?, text(id_or_name, "id_or_name")?) };
        disk.disk.delete_snapshot(id_or_name.to_bytes())?;
        Ok(HOL_OK)
    })
}
