//! The judges of the fuzz targets: each takes any bytes and panics when something that must hold does not.
//!
//! They know the format from its specification alone and compare with plain, slow readings of it. `fuzz/` drives
//! them with libFuzzer, `tests/corpus.rs` with the inputs that are kept.
#![allow(dead_code)] // each program uses its own part of this

pub mod bitmap_directory;
pub mod header;
pub mod image;
pub mod l2;

use std::sync::Arc;

use holstein::{Access, Disk, DiskOptions, storage::MemoryStorage};

/// Takes any bytes, and panics when something is wrong.
pub type Judge = fn(&[u8]);

/// Each target with its judge.
pub const TARGETS: [(&str, Judge); 4] = [
    ("header", header::judge),
    ("l2", l2::judge),
    ("bitmap_directory", bitmap_directory::judge),
    ("image", image::judge),
];

/// Memory for the tables of an image under a judge: well below what libFuzzer allows.
pub const MEMORY: u64 = 16 << 20;

pub const IMAGE: &str = "/images/disk.qcow2";

/// Opens an image that is nothing but these bytes.
pub fn open(storage: &Arc<MemoryStorage>, access: Access) -> holstein::Result<Disk> {
    let options = DiskOptions { access, memory_limit: MEMORY, ..DiskOptions::default() };
    let opened = Disk::open_in(storage.clone(), IMAGE, &options);
    opened.inspect_err(check_text)
}

/// Error texts are for terminals: names out of an image are escaped.
pub fn check_text(error: &holstein::Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
}

/// The big-endian number of `N` bytes at `at`; what is missing there is zero.
pub fn number<const N: usize>(bytes: &[u8], at: u64) -> u64 {
    let byte = |index| bytes.get((at as usize).wrapping_add(index)).copied().unwrap_or(0);
    (0..N).fold(0, |value, index| value << 8 | u64::from(byte(index)))
}

pub fn u16_at(bytes: &[u8], at: u64) -> u64 {
    number::<2>(bytes, at)
}

pub fn u32_at(bytes: &[u8], at: u64) -> u64 {
    number::<4>(bytes, at)
}

pub fn u64_at(bytes: &[u8], at: u64) -> u64 {
    number::<8>(bytes, at)
}
