//! The actions of a transaction other than backups, each with its constructor.
//!
//! What is said of hol_action_backup() about ownership and failures holds for all.

use std::ffi::c_char;

use super::action::{hol_action, make};
use super::bitmap_change::{bytes, hol_bitmap_options, recording};
use super::boundary::{Failure, as_path, handle, invalid, text};
use super::disk::hol_disk;
use super::options::{choice, unused};
use super::structure::{Grows, option_array, options};
use crate::{Action, MergeFrom, OverlayOptions};

/// The image on top of the disk at that point of the list. The default.
pub const HOL_LAYER_TOP: u32 = 0;
/// The image below that: behind an external snapshot, the disk as it was before.
pub const HOL_LAYER_BELOW: u32 = 1;

/// A bitmap to merge from, for hol_action_bitmap_merge(). Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
/// does) and name. Texts belong to the caller and are copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_merge_source {
    /// sizeof(hol_merge_source)
    pub struct_size: usize,
    /// The name of the bitmap.
    pub name: *const c_char,
    /// Another disk, of the same size, whose top image has the bitmap; NULL: the disk whose bitmap changes.
    pub disk: *const hol_disk,
    /// HOL_LAYER_*; with another disk HOL_LAYER_TOP.
    pub layer: u32,
    /// 0
    pub reserved: u32,
}

/// How hol_action_external_snapshot() makes the new image. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
/// does); zero in every other field is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_overlay_options {
    /// sizeof(hol_overlay_options)
    pub struct_size: usize,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB; 0: 64 KiB.
    pub cluster_size: u64,
    /// The name of the disk's image as the new one records it, relative to the new one's folder; NULL: the file's name if
    /// both are in one folder, else its whole path.
    pub backing_name: *const c_char,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_merge_source {}
// SAFETY: `repr(C)`, size first; an integer and a pointer, of which zero and NULL are values.
unsafe impl Grows for hol_overlay_options {}

impl hol_merge_source {
    /// The source in Rust's words.
    ///
    /// # Safety
    /// The pointers are as the header asks.
    unsafe fn read(&self) -> Result<MergeFrom, Failure> {
        unused("source->reserved", self.reserved)?;
        // SAFETY: as promised above.
        let name = bytes(unsafe { text(self.name, "source->name") }?);
        let layers = [(HOL_LAYER_TOP, false), (HOL_LAYER_BELOW, true)];
        let below = choice("source->layer", self.layer, &layers)?;
        if self.disk.is_null() {
            return Ok(if below { MergeFrom::Below(name) } else { MergeFrom::Own(name) });
        }
        if below {
            return Err(invalid("source->layer is HOL_LAYER_TOP with another disk"));
        }
        // SAFETY: as promised above.
        let disk = unsafe { handle(self.disk, "source->disk") }?;
        Ok(MergeFrom::Other(disk.disk.clone(), name))
    }
}

/// Makes the action that adds a clean bitmap called `name` to the image that is on top of the disk at that point of the
/// list. `options` may be NULL. Errors of the start: as hol_bitmap_add().
///
/// Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as
/// hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_add(
    disk: *mut hol_disk,
    name: *const c_char,
    options: *const hol_bitmap_options,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, options) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, self::options(options, "options")?) };
        unused("options->reserved", options.reserved)?;
        let granularity = (options.granularity != 0).then_some(options.granularity);
        let recording = recording("options->recording", options.recording)?;
        Ok(Action::bitmap_add(disk.disk.clone(), bytes(name), granularity, recording))
    })
}

/// Makes the action that removes the bitmap called `name`; also one that cannot be used. Errors of the start: as
/// hol_bitmap_remove().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_remove(
    disk: *mut hol_disk,
    name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        Ok(Action::bitmap_remove(disk.disk.clone(), bytes(name)))
    })
}

/// Makes the action that makes all of the bitmap called `name` clean. Errors of the start: as
/// hol_bitmap_clear().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_clear(
    disk: *mut hol_disk,
    name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        Ok(Action::bitmap_clear(disk.disk.clone(), bytes(name)))
    })
}

/// Makes the action that lets the bitmap called `name` record from then on. Errors of the start: as
/// hol_bitmap_enable().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_enable(
    disk: *mut hol_disk,
    name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        Ok(Action::bitmap_enable(disk.disk.clone(), bytes(name)))
    })
}

/// Makes the action that lets the bitmap called `name` not record from then on. Errors of the start: as
/// hol_bitmap_disable().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_disable(
    disk: *mut hol_disk,
    name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        Ok(Action::bitmap_disable(disk.disk.clone(), bytes(name)))
    })
}

/// Makes the action that makes everything dirty in the bitmap called `name` that is dirty in one of the `source_count`
/// bitmaps `sources`, as they are at that point of the list. All structures have the same struct_size, which is also the
/// distance from one to the next. Errors of the start: as hol_bitmap_merge_from().
///
/// Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (no source, or a field of one), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise
/// as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_bitmap_merge(
    disk: *mut hol_disk,
    name: *const c_char,
    sources: *const hol_merge_source,
    source_count: usize,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        // SAFETY: the arguments are as the header asks.
        let sources = unsafe { option_array(sources, source_count, "sources") }?;
        if sources.is_empty() {
            return Err(invalid(format!(
                "there is nothing to merge into bitmap '{}'",
                name.to_string_lossy()
            )));
        }
        // SAFETY: the same.
        let sources = sources.iter().map(|source| unsafe { source.read() }).collect::<Result<_, _>>()?;
        Ok(Action::Merge { disk: disk.disk.clone(), name: bytes(name), sources })
    })
}

/// Makes the action that puts a new image at `overlay` on top of the disk; later actions on the disk are about that.
/// `options` may be NULL. When the transaction is done the disk goes on there: close it, and open `overlay`. Errors of the
/// start: HOL_ERR_EXISTS, HOL_ERR_NOT_FOUND (its folder), HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_UNSUPPORTED (a second
/// one for the same disk), HOL_ERR_WRONG_STATE (the disk has one already), HOL_ERR_IO, HOL_ERR_NO_SPACE.
///
/// Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as
/// hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_external_snapshot(
    disk: *mut hol_disk,
    overlay: *const c_char,
    options: *const hol_overlay_options,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, overlay, options) =
            unsafe { (handle(disk, "disk")?, text(overlay, "overlay")?, self::options(options, "options")?) };
        let backing_name = if options.backing_name.is_null() {
            None
        } else {
            // SAFETY: the arguments are as the header asks.
            let name = unsafe { text(options.backing_name, "options->backing_name") }?;
            Some(as_path(name).to_owned())
        };
        let cluster_size = (options.cluster_size != 0).then_some(options.cluster_size);
        let options = OverlayOptions { cluster_size, backing_name };
        Ok(Action::ExternalSnapshot {
            disk: disk.disk.clone(),
            overlay: as_path(overlay).to_owned(),
            options,
        })
    })
}

/// Makes the action that takes a snapshot called `name` (1 to 255 bytes) inside the image that is on top of the disk at that
/// point of the list. Errors of the start: as hol_disk_snapshot_create().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_internal_snapshot(
    disk: *mut hol_disk,
    name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        Ok(Action::snapshot_create(disk.disk.clone(), bytes(name)))
    })
}

/// Makes the action that deletes the snapshot with this id or name from the image that is on top of the disk at that point
/// of the list. Errors of the start: as hol_disk_snapshot_delete().
///
/// Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_internal_snapshot_delete(
    disk: *mut hol_disk,
    id_or_name: *const c_char,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(id_or_name, "id_or_name")?) };
        Ok(Action::snapshot_delete(disk.disk.clone(), bytes(name)))
    })
}
