//! Extents: parts of a disk, given to C one by one.

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::ops::Range;

use super::boundary::Failure;
use super::error::HOL_OK;
use crate::Run;

/// A callback asked to stop, and so the call did.
pub const HOL_STOPPED: c_int = 1;

/// One of the images of the chain holds this part; without it the part is unallocated and reads as zeros.
pub const HOL_EXTENT_PRESENT: u32 = 1;
/// The part reads as zeros.
pub const HOL_EXTENT_ZERO: u32 = 2;
/// The part is stored as data.
pub const HOL_EXTENT_DATA: u32 = 4;
/// The part is stored compressed.
pub const HOL_EXTENT_COMPRESSED: u32 = 8;
/// host_offset says where the part is stored.
pub const HOL_EXTENT_OFFSET: u32 = 16;
/// The bitmap says that the part changed.
pub const HOL_EXTENT_DIRTY: u32 = 32;
/// All flags of hol_extent.flags that this header knows; hol_constant() tells which the library knows.
pub const HOL_EXTENT_FLAGS_MASK: u32 = 63;

const _: () = assert!(
    HOL_EXTENT_FLAGS_MASK
        == HOL_EXTENT_PRESENT
            | HOL_EXTENT_ZERO
            | HOL_EXTENT_DATA
            | HOL_EXTENT_COMPRESSED
            | HOL_EXTENT_OFFSET
            | HOL_EXTENT_DIRTY
);

/// A part of a disk. The library makes it: struct_size says how much of it this library knows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_extent {
    /// sizeof(hol_extent), the library's
    pub struct_size: usize,
    /// First byte of the part in the disk.
    pub start: u64,
    /// Bytes in the part.
    pub length: u64,
    /// With HOL_EXTENT_OFFSET: where in its file the part begins; else 0.
    pub host_offset: u64,
    /// Which image of the chain holds the part: 0 is the top.
    pub depth: u32,
    /// HOL_EXTENT_*, combined
    pub flags: u32,
}

/// Receives the extents of a disk or bitmap, ascending, in the calling thread and with no lock held: it may call
/// the library, but must not close the disk. `extent` is valid during the callback only. Return 0 to go on,
/// anything else to stop. No exception may leave it.
pub type hol_extent_cb =
    Option<unsafe extern "C" fn(extent: *const hol_extent, opaque: *mut c_void) -> c_int>;

impl hol_extent {
    /// A run of a disk's map.
    pub(super) fn of_run(run: &Run) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        hol_extent {
            struct_size: size_of::<Self>(),
            start: run.start,
            length: run.length,
            host_offset: run.offset().unwrap_or(0),
            depth: u32::try_from(run.depth).unwrap_or(u32::MAX),
            flags: flag(run.present(), HOL_EXTENT_PRESENT)
                | flag(run.zero(), HOL_EXTENT_ZERO)
                | flag(run.data(), HOL_EXTENT_DATA)
                | flag(run.compressed(), HOL_EXTENT_COMPRESSED)
                | flag(run.offset().is_some(), HOL_EXTENT_OFFSET),
        }
    }

    /// A dirty part of a bitmap.
    pub(super) fn of_dirty(range: &Range<u64>) -> Self {
        hol_extent {
            struct_size: size_of::<Self>(),
            start: range.start,
            length: range.end - range.start,
            host_offset: 0,
            depth: 0,
            flags: HOL_EXTENT_DIRTY,
        }
    }
}

/// Calls back for each extent.
///
/// # Safety
/// `callback` may be called with `opaque`.
pub(super) unsafe fn deliver(
    extents: impl Iterator<Item = Result<hol_extent, Failure>>,
    callback: hol_extent_cb,
    opaque: *mut c_void,
) -> Result<c_int, Failure> {
    let callback = callback.ok_or(Failure::Null("callback"))?;
    for extent in extents {
        let extent = extent?;
        // SAFETY: as promised above; the extent outlives the call.
        if unsafe { callback(&raw const extent, opaque) } != 0 {
            return Ok(HOL_STOPPED);
        }
    }
    Ok(HOL_OK)
}
