//! What `HOL_OPTIONS_INIT` does, for languages that cannot use it: `hol_disk_options_init` and its kin.

use std::ffi::c_int;

use super::actions::{hol_merge_source, hol_overlay_options};
use super::bitmap_change::{hol_bitmap_change, hol_bitmap_options};
use super::boundary::boundary;
use super::create::hol_create_options;
use super::error::HOL_OK;
use super::options::{hol_backup_options, hol_disk_options};
use super::structure::init;

/// Makes all of `*options` zero, its defaults, and sets its struct_size to `size`: the sizeof of the structure as the caller
/// knows it. The same as HOL_OPTIONS_INIT.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_options_init(options: *mut hol_disk_options, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(options, size, "options") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_backup_options.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_backup_options_init(options: *mut hol_backup_options, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(options, size, "options") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_create_options.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_create_options_init(options: *mut hol_create_options, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(options, size, "options") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_bitmap_options.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_options_init(options: *mut hol_bitmap_options, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(options, size, "options") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_bitmap_change.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_bitmap_change_init(change: *mut hol_bitmap_change, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(change, size, "change") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_merge_source.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_merge_source_init(source: *mut hol_merge_source, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(source, size, "source") }?;
        Ok(HOL_OK)
    })
}

/// As hol_disk_options_init(), for a hol_overlay_options.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_overlay_options_init(options: *mut hol_overlay_options, size: usize) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        unsafe { init(options, size, "options") }?;
        Ok(HOL_OK)
    })
}
