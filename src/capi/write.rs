//! Guest writes and the size of a disk: `hol_disk_write` and its kin.

use std::ffi::c_int;

use super::boundary::{boundary, bytes, handle, invalid};
use super::disk::hol_disk;
use super::error::HOL_OK;

/// Writes `length` bytes from `buffer` to the disk, from byte `offset` on. Every bitmap that records has the range,
/// durably, before the data is written. The data is durable after hol_disk_flush(). The disk was opened with
/// HOL_ACCESS_WRITE and all of its chain.
///
/// After a failure the range holds old or new data, in any mixture; everything else is as it was.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_WRONG_STATE (opened for reading or without its
/// backing files, or a running backup reads it), HOL_ERR_UNSUPPORTED (a raw image), HOL_ERR_CORRUPT (the image cannot
/// be trusted to say which clusters are free), HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_LIMIT, HOL_ERR_NULL,
/// HOL_ERR_PANIC.
///
/// Threads: any; calls that use the same disk wait for each other. Blocks: yes, for input and output. From callbacks:
/// yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_write(
    disk: *mut hol_disk,
    offset: u64,
    buffer: *const u8,
    length: usize,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, buffer) = unsafe { (handle(disk, "disk")?, bytes(buffer, length, "buffer")?) };
        disk.disk.write_at(buffer, offset)?;
        Ok(HOL_OK)
    })
}

/// Makes `length` bytes of the disk from `offset` on read as zero, without storing zeros where that is possible.
/// Otherwise as hol_disk_write().
///
/// Errors: those of hol_disk_write().
///
/// Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_write_zeroes(disk: *mut hol_disk, offset: u64, length: u64) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let disk = unsafe { handle(disk, "disk") }?;
        disk.disk.write_zeroes(offset..end_of(offset, length)?)?;
        Ok(HOL_OK)
    })
}

/// Gives up what `length` bytes of the disk from `offset` on hold: the clusters that they cover whole read as zero
/// then, and their space is free for others. Where that is not possible (an image of version 2 over a backing file, a
/// raw data file) they stay as they are. Otherwise as hol_disk_write().
///
/// Errors: those of hol_disk_write().
///
/// Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_discard(disk: *mut hol_disk, offset: u64, length: u64) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let disk = unsafe { handle(disk, "disk") }?;
        disk.disk.discard(offset..end_of(offset, length)?)?;
        Ok(HOL_OK)
    })
}

/// Makes everything durable that was written to the disk.
///
/// Errors: HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_NULL, HOL_ERR_PANIC. After a failed flush nobody knows what is
/// durable; where the system refused to say, every further write fails too, and the disk must be opened anew.
///
/// Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_flush(disk: *mut hol_disk) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let disk = unsafe { handle(disk, "disk") }?;
        disk.disk.flush()?;
        Ok(HOL_OK)
    })
}

/// Changes the size of the disk to `size` bytes, a multiple of 512: durable when this returns, all of it or nothing.
/// What lies behind a smaller size is gone, what is new reads as zero, and is dirty in every bitmap. All bitmaps are
/// written for the new size with the same step; one that is inconsistent stays so.
///
/// Errors: those of hol_disk_write(); HOL_ERR_INVALID_ARGUMENT for a size that the image or one of its bitmaps cannot
/// have; HOL_ERR_UNSUPPORTED where version 2 of the format lacks what is needed.
///
/// Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_resize(disk: *mut hol_disk, size: u64) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let disk = unsafe { handle(disk, "disk") }?;
        disk.disk.resize(size)?;
        Ok(HOL_OK)
    })
}

fn end_of(offset: u64, length: u64) -> Result<u64, super::boundary::Failure> {
    offset
        .checked_add(length)
        .ok_or_else(|| invalid(format!("{length} bytes from {offset} on are no part of a disk")))
}
