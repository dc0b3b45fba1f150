//! Which library this is, and how large its structures are.

use std::ffi::{c_char, c_int};
use std::mem::size_of;

use super::boundary::{boundary, invalid, out, text};
use super::error::{self, HOL_OK};
use super::{
    actions, bitmap, bitmap_change, chain, check, create, disk, extent, job, options, recover, snapshot, txn,
};

/// The version of the library that runs, as "0.1.0"; HOL_VERSION is the version of the header. The text is
/// static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the library that runs, as a number that can be compared: HOL_VERSION_NUMBER is that of the
/// header.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_version_number() -> u32 {
    const NUMBER: u32 = decimal(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + decimal(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + decimal(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

const fn decimal(text: &str) -> u32 {
    let (bytes, mut value, mut i) = (text.as_bytes(), 0, 0);
    while i < bytes.len() {
        value = value * 10 + (bytes[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// Writes the sizeof of the structure named `type_name` ("hol_event") to `*size`: lets bindings in other
/// languages check their own declarations. HOL_ERR_INVALID_ARGUMENT when there is no such structure.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_sizeof(type_name: *const c_char, size: *mut usize) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (type_name, size) = unsafe { (text(type_name, "type_name")?, out(size, "size")?) };
        size.set(match type_name.to_bytes() {
            b"hol_disk_options" => size_of::<options::hol_disk_options>(),
            b"hol_backup_options" => size_of::<options::hol_backup_options>(),
            b"hol_create_options" => size_of::<create::hol_create_options>(),
            b"hol_disk_details" => size_of::<disk::hol_disk_details>(),
            b"hol_bitmap_details" => size_of::<bitmap::hol_bitmap_details>(),
            b"hol_bitmap_options" => size_of::<bitmap_change::hol_bitmap_options>(),
            b"hol_bitmap_change" => size_of::<bitmap_change::hol_bitmap_change>(),
            b"hol_merge_source" => size_of::<actions::hol_merge_source>(),
            b"hol_overlay_options" => size_of::<actions::hol_overlay_options>(),
            b"hol_extent" => size_of::<extent::hol_extent>(),
            b"hol_snapshot_details" => size_of::<snapshot::hol_snapshot_details>(),
            b"hol_check_report" => size_of::<check::hol_check_report>(),
            b"hol_problem" => size_of::<check::hol_problem>(),
            b"hol_layer" => size_of::<chain::hol_layer>(),
            b"hol_lineage" => size_of::<job::hol_lineage>(),
            b"hol_error_details" => size_of::<error::hol_error_details>(),
            b"hol_event" => size_of::<txn::hol_event>(),
            b"hol_report" => size_of::<job::hol_report>(),
            b"hol_recovered" => size_of::<recover::hol_recovered>(),
            b"hol_recover_report" => size_of::<recover::hol_recover_report>(),
            other => {
                return Err(invalid(format!("no structure is called '{}'", String::from_utf8_lossy(other))));
            }
        });
        Ok(HOL_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn text_and_number_are_the_packages_version() {
        // SAFETY: the version is a static string that ends with a NUL.
        let text = unsafe { CStr::from_ptr(hol_version()) }.to_str().unwrap();
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
        let parts: Vec<u32> = text.split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(hol_version_number(), parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]);
    }
}
