//! Changing and looking at single bytes of an image, for what QEMU's tools do not make or show.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The header extension that names the backing file's format.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The header extension that names the feature bits.
pub const FEATURE_NAMES: u32 = 0x6803_f857;
/// The header extension that names the data file.
pub const DATA_FILE: u32 = 0x4441_5441;

/// Writes bytes at an offset of the file.
pub fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Reads bytes at an offset of the file.
pub fn peek<const N: usize>(path: &Path, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let file = OpenOptions::new().read(true).open(path).unwrap();
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// A big-endian number of four bytes.
pub fn peek32(path: &Path, offset: u64) -> u32 {
    u32::from_be_bytes(peek(path, offset))
}

/// A big-endian number of eight bytes.
pub fn peek64(path: &Path, offset: u64) -> u64 {
    u64::from_be_bytes(peek(path, offset))
}

/// Offset and length of the data of a version 3 header's extension.
pub fn extension(path: &Path, wanted: u32) -> (u64, u32) {
    let mut offset = u64::from(peek32(path, 100));
    loop {
        let (kind, length) = (peek32(path, offset), peek32(path, offset + 4));
        if kind == wanted {
            return (offset + 8, length);
        }
        assert_ne!(kind, 0, "no header extension {wanted:#x} in {}", path.display());
        offset += 8 + u64::from(length).next_multiple_of(8);
    }
}

/// A compressed cluster of an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Compressed {
    pub index: u64,
    pub offset: u64,
    /// The bytes up to the end of the last sector that it touches; the stream ends in that sector.
    pub length: u64,
}

/// The compressed clusters of an image with 8-byte L2 entries, in guest order.
pub fn compressed_clusters(path: &Path) -> Vec<Compressed> {
    let (cluster_bits, l1_size, l1) = (peek32(path, 20), peek32(path, 36), peek64(path, 40));
    let entries = (1u64 << cluster_bits) / 8;
    let offset_bits = 62 - (cluster_bits - 8);
    let mut found = Vec::new();
    for i in 0..u64::from(l1_size) {
        let table = peek64(path, l1 + 8 * i) & 0x00ff_ffff_ffff_fe00;
        for j in (0..entries).filter(|_| table != 0) {
            let entry = peek64(path, table + 8 * j);
            if entry >> 62 == 1 {
                let offset = entry & ((1 << offset_bits) - 1);
                let sectors = ((entry >> offset_bits) & ((1 << (cluster_bits - 8)) - 1)) + 1;
                found.push(Compressed {
                    index: i * entries + j,
                    offset,
                    length: sectors * 512 - offset % 512,
                });
            }
        }
    }
    found
}
