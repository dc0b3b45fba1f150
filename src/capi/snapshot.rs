//! Internal snapshots of a disk: `hol_snapshot_list`, `hol_disk_snapshot_create` and `hol_disk_snapshot_delete`.

use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::time::SystemTime;

use super::boundary::{Failure, boundary, handle, invalid, out, text};
use super::cached::Texts;
use super::disk::hol_disk;
use super::error::HOL_OK;
use super::structure::{Fill, Grows, fill};
use crate::SnapshotInfo;

/// In hol_snapshot_details.flags: disk_size is known.
pub const HOL_SNAPSHOT_DISK_SIZE: u32 = 1;
/// In hol_snapshot_details.flags: icount is known.
pub const HOL_SNAPSHOT_ICOUNT: u32 = 2;
/// All flags of hol_snapshot_details.flags that this header knows; hol_constant() tells which the library knows.
pub const HOL_SNAPSHOT_FLAGS_MASK: u32 = 3;

const _: () = assert!(HOL_SNAPSHOT_FLAGS_MASK == HOL_SNAPSHOT_DISK_SIZE | HOL_SNAPSHOT_ICOUNT);

/// What is known of an internal snapshot. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
/// library fills the rest. Texts belong to the disk and stay until hol_disk_close().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_snapshot_details {
    /// sizeof(hol_snapshot_details)
    pub struct_size: usize,
    /// Its id, a number as text (invalid UTF-8 replaced).
    pub id: *const c_char,
    /// Its name (invalid UTF-8 replaced).
    pub name: *const c_char,
    /// Bytes of the state of a virtual machine that it has.
    pub vm_state_size: u64,
    /// With HOL_SNAPSHOT_DISK_SIZE: size of the disk at that time, in bytes; else 0.
    pub disk_size: u64,
    /// Nanoseconds that the virtual machine had run.
    pub vm_clock_nsec: u64,
    /// With HOL_SNAPSHOT_ICOUNT: instructions that the virtual machine had run; else 0.
    pub icount: u64,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u64,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// HOL_SNAPSHOT_*, combined
    pub flags: u32,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_snapshot_details {}

impl hol_snapshot_details {
    fn of(info: &SnapshotInfo, texts: &Texts) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        hol_snapshot_details {
            struct_size: 0,
            id: texts.keep(&info.id),
            name: texts.keep(&info.name),
            vm_state_size: info.vm_state_size,
            disk_size: info.disk_size.unwrap_or(0),
            vm_clock_nsec: info.vm_clock_nsec,
            icount: info.icount.unwrap_or(0),
            date_sec: info.date_sec.into(),
            date_nsec: info.date_nsec,
            flags: flag(info.disk_size.is_some(), HOL_SNAPSHOT_DISK_SIZE)
                | flag(info.icount.is_some(), HOL_SNAPSHOT_ICOUNT),
        }
    }
}

impl hol_disk {
    fn listed_snapshots(&self) -> Result<Arc<Vec<SnapshotInfo>>, Failure> {
        self.snapshots.of(&self.disk, || Ok(self.disk.info()?.snapshots))
    }
}

/// Writes the number of internal snapshots of the disk's image to `*number`. The list is the one of the first call, or of
/// the first one since the image was changed.
///
/// Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_snapshot_list(disk: *const hol_disk, number: *mut usize) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, number) = unsafe { (handle(disk, "disk")?, out(number, "number")?) };
        number.set(disk.listed_snapshots()?.len());
        Ok(HOL_OK)
    })
}

/// Fills `*details` with what is known of the snapshot at `index`, from 0 to below the number that hol_snapshot_list()
/// gives.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), and as hol_snapshot_list().
///
/// Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_snapshot_info_at(
    disk: *const hol_disk,
    index: usize,
    details: *mut hol_snapshot_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, details): (_, Fill<_>) = unsafe { (handle(disk, "disk")?, fill(details, "details")?) };
        let list = disk.listed_snapshots()?;
        let found = list.get(index).ok_or_else(|| {
            let path = disk.disk.path().display();
            invalid(format!("there is no snapshot {index}: {path} has {}", list.len()))
        })?;
        details.set(&hol_snapshot_details::of(found, &disk.texts));
        Ok(HOL_OK)
    })
}

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

/// As hol_disk_snapshot_create(), and fills `*details` with what the new snapshot is: its id, among others.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size; nothing has changed), and as hol_disk_snapshot_create().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_snapshot_create_details(
    disk: *mut hol_disk,
    name: *const c_char,
    details: *mut hol_snapshot_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, details): (_, _, Fill<_>) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, fill(details, "details")?) };
        let made = disk.disk.create_snapshot(name.to_bytes(), SystemTime::now())?;
        details.set(&hol_snapshot_details::of(&made, &disk.texts));
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
