//! Changing the persistent bitmaps of a disk: `hol_bitmap_add` and the other single changes, and `hol_bitmap_apply`
//! for several as one step.

use std::ffi::{CStr, c_char, c_int};

use super::boundary::{Failure, boundary, handle, invalid, text, texts};
use super::disk::hol_disk;
use super::error::HOL_OK;
use super::options::{choice, unused};
use super::structure::{Grows, option_array, options};
use crate::{BitmapChange, MergeSource, Recording};

/// The bitmap records writes. The default.
pub const HOL_RECORDING_ENABLED: u32 = 0;
/// The bitmap does not record: writes are missing in it then.
pub const HOL_RECORDING_DISABLED: u32 = 1;

/// A new, clean bitmap called name, with granularity and recording.
pub const HOL_CHANGE_ADD: u32 = 1;
/// The bitmap goes; also one that cannot be used.
pub const HOL_CHANGE_REMOVE: u32 = 2;
/// All of the bitmap becomes clean.
pub const HOL_CHANGE_CLEAR: u32 = 3;
/// The bitmap records from now on.
pub const HOL_CHANGE_ENABLE: u32 = 4;
/// The bitmap does not record from now on.
pub const HOL_CHANGE_DISABLE: u32 = 5;
/// The bitmap is called new_name from now on.
pub const HOL_CHANGE_RENAME: u32 = 6;
/// What is dirty in any of the sources becomes dirty in the bitmap too.
pub const HOL_CHANGE_MERGE: u32 = 7;

/// What a new bitmap is like. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
/// other field is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_bitmap_options {
    /// sizeof(hol_bitmap_options)
    pub struct_size: usize,
    /// Bytes of the disk that one bit stands for: a power of two from 512 to 2 GiB; 0: the image's cluster size, within
    /// 4 KiB and 64 KiB.
    pub granularity: u64,
    /// HOL_RECORDING_*
    pub recording: u32,
    /// 0
    pub reserved: u32,
}

/// One change of a disk's bitmaps, for hol_bitmap_apply(). Set struct_size to the sizeof of the structure
/// (HOL_OPTIONS_INIT does), kind and name; a field that is for other kinds is zero. Texts belong to the caller and are
/// copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_bitmap_change {
    /// sizeof(hol_bitmap_change)
    pub struct_size: usize,
    /// The bitmap that changes.
    pub name: *const c_char,
    /// With HOL_CHANGE_RENAME: a name that is not in use; else NULL.
    pub new_name: *const c_char,
    /// With HOL_CHANGE_MERGE: the names of the bitmaps to merge from; else NULL.
    pub sources: *const *const c_char,
    /// With HOL_CHANGE_MERGE: how many sources there are, at least 1; else 0.
    pub source_count: usize,
    /// With HOL_CHANGE_MERGE: the disk that has the sources; they are taken as they are before the call. NULL: the disk that
    /// is changed; they are taken as the changes before this one leave them.
    pub source_disk: *const hol_disk,
    /// With HOL_CHANGE_ADD: as in hol_bitmap_options; else 0.
    pub granularity: u64,
    /// HOL_CHANGE_*; there is no default.
    pub kind: u32,
    /// With HOL_CHANGE_ADD: HOL_RECORDING_*; else 0.
    pub recording: u32,
}

// SAFETY: `repr(C)`, size first; integers, of which zero is a value.
unsafe impl Grows for hol_bitmap_options {}
// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_bitmap_change {}

pub(super) fn recording(field: &str, value: u32) -> Result<Recording, Failure> {
    let recordings =
        [(HOL_RECORDING_ENABLED, Recording::Enabled), (HOL_RECORDING_DISABLED, Recording::Disabled)];
    choice(field, value, &recordings)
}

fn add(name: &CStr, granularity: u64, recording: Recording) -> BitmapChange {
    let granularity = (granularity != 0).then_some(granularity);
    BitmapChange::Add { name: bytes(name), granularity, recording }
}

fn record(name: &CStr, recording: Recording) -> BitmapChange {
    BitmapChange::Record { name: bytes(name), recording }
}

fn merge(name: &CStr, sources: &[&CStr], source_disk: Option<&hol_disk>) -> Result<BitmapChange, Failure> {
    if sources.is_empty() {
        return Err(invalid(format!("there is nothing to merge into bitmap '{}'", name.to_string_lossy())));
    }
    let source = |source: &&CStr| match source_disk {
        None => Ok(MergeSource::Name(bytes(source))),
        Some(disk) => Ok(MergeSource::Loaded(disk.disk.bitmap(source.to_bytes())?)),
    };
    let sources = sources.iter().map(source).collect::<Result<_, Failure>>()?;
    Ok(BitmapChange::Merge { name: bytes(name), sources })
}

pub(super) fn bytes(name: &CStr) -> Vec<u8> {
    name.to_bytes().to_vec()
}

impl hol_bitmap_change {
    /// The change in Rust's words.
    ///
    /// # Safety
    /// The pointers are as the header asks.
    unsafe fn read(&self) -> Result<BitmapChange, Failure> {
        self.refuse_foreign_fields()?;
        // SAFETY: as promised above.
        let name = unsafe { text(self.name, "change->name") }?;
        match self.kind {
            HOL_CHANGE_ADD => {
                Ok(add(name, self.granularity, recording("change->recording", self.recording)?))
            }
            HOL_CHANGE_REMOVE => Ok(BitmapChange::Remove { name: bytes(name) }),
            HOL_CHANGE_CLEAR => Ok(BitmapChange::Clear { name: bytes(name) }),
            HOL_CHANGE_ENABLE => Ok(record(name, Recording::Enabled)),
            HOL_CHANGE_DISABLE => Ok(record(name, Recording::Disabled)),
            HOL_CHANGE_RENAME => {
                // SAFETY: as promised above.
                let to = unsafe { text(self.new_name, "change->new_name") }?;
                Ok(BitmapChange::Rename { name: bytes(name), to: bytes(to) })
            }
            HOL_CHANGE_MERGE => {
                // SAFETY: as promised above.
                let sources = unsafe { texts(self.sources, self.source_count, "change->sources") }?;
                let from = match self.source_disk.is_null() {
                    true => None,
                    // SAFETY: as promised above.
                    false => Some(unsafe { handle(self.source_disk, "change->source_disk") }?),
                };
                merge(name, &sources, from.as_deref())
            }
            other => Err(invalid(format!("change->kind cannot be {other}"))),
        }
    }

    /// A field that is set in vain means that the caller wanted something else.
    fn refuse_foreign_fields(&self) -> Result<(), Failure> {
        let fields = [
            ("new_name", !self.new_name.is_null(), "RENAME", HOL_CHANGE_RENAME),
            ("sources", !self.sources.is_null(), "MERGE", HOL_CHANGE_MERGE),
            ("source_count", self.source_count != 0, "MERGE", HOL_CHANGE_MERGE),
            ("source_disk", !self.source_disk.is_null(), "MERGE", HOL_CHANGE_MERGE),
            ("granularity", self.granularity != 0, "ADD", HOL_CHANGE_ADD),
            ("recording", self.recording != 0, "ADD", HOL_CHANGE_ADD),
        ];
        match fields.iter().find(|(_, set, _, kind)| *set && self.kind != *kind) {
            None => Ok(()),
            Some((field, _, kind, _)) => {
                Err(invalid(format!("change->{field} is only for kind HOL_CHANGE_{kind}")))
            }
        }
    }
}

impl hol_disk {
    fn change(&self, changes: &[BitmapChange]) -> Result<c_int, Failure> {
        self.disk.change_bitmaps(changes)?;
        Ok(HOL_OK)
    }
}

/// Adds a clean bitmap called `name` (1 to 1023 bytes) to the disk's top image. The change is durable when this returns, as
/// that of every function here; the disk was opened with HOL_ACCESS_WRITE. `options` may be NULL: all defaults.
///
/// Errors: HOL_ERR_EXISTS, HOL_ERR_INVALID_ARGUMENT (name, options), HOL_ERR_WRONG_STATE (opened for reading, or a running backup keeps the
/// bitmap),
/// HOL_ERR_UNSUPPORTED (no qcow2 of version 3), HOL_ERR_CORRUPT (nobody knows which clusters are free), HOL_ERR_LIMIT,
/// HOL_ERR_NULL, HOL_ERR_PANIC: nothing has changed. After other errors the message says if the change was made
/// all the same or if that is unknown; the disk must be opened anew then, before it is changed again.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_add(
    disk: *mut hol_disk,
    name: *const c_char,
    options: *const hol_bitmap_options,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, options) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, self::options(options, "options")?) };
        unused("options->reserved", options.reserved)?;
        disk.change(&[add(name, options.granularity, recording("options->recording", options.recording)?)])
    })
}

/// Removes the bitmap called `name`; also one that cannot be used.
///
/// Errors: HOL_ERR_BITMAP_NOT_FOUND, and as hol_bitmap_add().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_remove(disk: *mut hol_disk, name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        disk.change(&[BitmapChange::Remove { name: bytes(name) }])
    })
}

/// Makes all of the bitmap called `name` clean.
///
/// Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (it is inconsistent), and as hol_bitmap_add().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_clear(disk: *mut hol_disk, name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        disk.change(&[BitmapChange::Clear { name: bytes(name) }])
    })
}

/// Lets the bitmap called `name` record writes from now on.
///
/// Errors: as hol_bitmap_clear().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_enable(disk: *mut hol_disk, name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        disk.change(&[record(name, Recording::Enabled)])
    })
}

/// Lets the bitmap called `name` not record writes from now on: they are missing in it then, and no backup can be based on it
/// until it is enabled.
///
/// Errors: as hol_bitmap_clear().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_disable(disk: *mut hol_disk, name: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        disk.change(&[record(name, Recording::Disabled)])
    })
}

/// Gives the bitmap called `name` another name, which is not in use.
///
/// Errors: HOL_ERR_EXISTS (`new_name`), HOL_ERR_BITMAP_NOT_FOUND (`name`), and as hol_bitmap_add().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_rename(
    disk: *mut hol_disk,
    name: *const c_char,
    new_name: *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, to) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, text(new_name, "new_name")?) };
        disk.change(&[BitmapChange::Rename { name: bytes(name), to: bytes(to) }])
    })
}

/// Makes everything dirty in the bitmap called `name` that is dirty in one of the `source_count` bitmaps that `sources`
/// names, of the same disk and of any granularity. They stay as they are.
///
/// Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (one of them; the message says why), HOL_ERR_INVALID_ARGUMENT
/// (no source), and as hol_bitmap_add().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_merge(
    disk: *mut hol_disk,
    name: *const c_char,
    sources: *const *const c_char,
    source_count: usize,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name, sources) =
            unsafe { (handle(disk, "disk")?, text(name, "name")?, texts(sources, source_count, "sources")?) };
        disk.change(&[merge(name, &sources, None)?])
    })
}

/// Makes everything dirty in the bitmap called `name` that is dirty in the bitmap `source` of another disk, which has the same
/// size; it need only be open for reading.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (the disks differ in size), and as hol_bitmap_merge().
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_merge_from(
    disk: *mut hol_disk,
    name: *const c_char,
    source_disk: *const hol_disk,
    source: *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, name) = unsafe { (handle(disk, "disk")?, text(name, "name")?) };
        // SAFETY: the arguments are as the header asks.
        let (from, source) = unsafe { (handle(source_disk, "source_disk")?, text(source, "source")?) };
        disk.change(&[merge(name, &[source], Some(&from))?])
    })
}

/// Carries out `number` changes as one step: all of them, in their order and each seeing those before it, or none. All
/// structures have the same struct_size, which is also the distance from one to the next.
///
/// Errors: those of the single functions; HOL_ERR_INVALID_ARGUMENT too for a field that is not for the change's kind.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_apply(
    disk: *mut hol_disk,
    changes: *const hol_bitmap_change,
    number: usize,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, changes) = unsafe { (handle(disk, "disk")?, option_array(changes, number, "changes")?) };
        // SAFETY: the same.
        let changes = changes.iter().map(|change| unsafe { change.read() });
        disk.change(&changes.collect::<Result<Vec<_>, _>>()?)
    })
}
