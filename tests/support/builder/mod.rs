//! A qcow2 image builder for tests, typed from the format's specification and from nothing else.
//!
//! It shares no code with the library, so that an error of the library's own tables and offsets cannot
//! hide in the tests. [`Builder::build`] gives a valid image (the tests hold it against `qemu-img check`);
//! an [`Image`] can then be broken at named offsets. All integers of the format are big-endian.
//!
//! Clusters are laid out in this order: header, refcount table, refcount blocks, L1, L2 tables, plain
//! data, compressed data, snapshots (their L1 tables, then the snapshot table), and for each bitmap its
//! data and its table, then the bitmap directory. Whatever a bitmap needs is therefore the file's end.
#![allow(dead_code, unused_imports)] // each test program uses its own part of this

pub mod field;
mod image;
mod layout;
mod spec;

pub use image::Image;
pub use spec::{Bitmap, Builder, Cluster};

/// `length` bytes that are never zero and differ from one `seed` to the next and from place to place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8 | 1
        })
        .collect()
}

/// `length` bytes that compress well and are never zero.
pub fn text(seed: u64, length: usize) -> Vec<u8> {
    format!("cluster {seed} of a disk; ").into_bytes().into_iter().cycle().take(length).collect()
}

/// `data` as one raw deflate stream (RFC 1951, no zlib header), as qcow2 stores it.
pub fn deflate(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// `data` as one raw deflate stream of stored blocks: typed by hand, and longer than its contents.
pub fn deflate_stored(data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut chunks = data.chunks(0xFFFF).peekable();
    while let Some(chunk) = chunks.next() {
        let length = chunk.len() as u16;
        stream.push(u8::from(chunks.peek().is_none())); // BFINAL, BTYPE 00, then padding to the byte
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(chunk);
    }
    stream
}

/// `data` as one zstd frame.
pub fn zstd_frame(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 3).unwrap()
}
