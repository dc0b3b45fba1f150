//! A built image: its bytes, where its parts lie, and ways to break it.

use super::spec::Builder;
use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, path::Path};

/// Host offsets of an image's parts.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The refcount table.
    pub reftable: u64,
    /// Each refcount block.
    pub refblocks: Vec<u64>,
    /// The active L1 table.
    pub l1: u64,
    /// L2 tables by L1 index.
    pub l2: BTreeMap<u64, u64>,
    /// L2 entries (their own place in the file) by guest cluster.
    pub entry: BTreeMap<u64, u64>,
    /// Where the data or the compressed stream of a guest cluster begins.
    pub data: BTreeMap<u64, u64>,
    /// The snapshot table.
    pub snapshots: u64,
    /// Each snapshot's entry in it.
    pub snapshot: Vec<u64>,
    /// Each snapshot's L1 table.
    pub snapshot_l1: Vec<u64>,
    /// Each bitmap's data clusters, by the index of their table entry.
    pub bitmap_data: Vec<BTreeMap<u64, u64>>,
    /// Each bitmap's table.
    pub bitmap_table: Vec<u64>,
    /// The bitmap directory.
    pub directory: u64,
    /// Each bitmap's entry in it.
    pub bitmap: Vec<u64>,
    /// Each header extension's header (type and length; its data is 8 bytes on), the bitmaps last.
    pub extension: Vec<u64>,
    /// The end mark of the extensions.
    pub extensions_end: u64,
}

impl Places {
    /// The data of the bitmaps extension.
    pub fn bitmaps_extension(&self) -> u64 {
        self.extension.last().expect("an extension") + 8
    }
}

/// An image in memory.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where its parts lie.
    pub at: Places,
    /// What it was built from.
    pub spec: Builder,
    /// The external data file, when there is one.
    pub data_file: Option<Vec<u8>>,
    /// The file is to be this long, whatever `bytes` holds: for files that are mostly holes.
    pub length: Option<u64>,
}

impl Image {
    /// The same after a change.
    pub fn edit(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Puts bytes at `offset`; the file grows where needed.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        let end = start + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
    }

    /// Puts one byte.
    pub fn u8(&mut self, offset: u64, value: u8) {
        self.put(offset, &[value]);
    }

    /// Puts a big-endian u16.
    pub fn u16(&mut self, offset: u64, value: u16) {
        self.put(offset, &value.to_be_bytes());
    }

    /// Puts a big-endian u32.
    pub fn u32(&mut self, offset: u64, value: u32) {
        self.put(offset, &value.to_be_bytes());
    }

    /// Puts a big-endian u64.
    pub fn u64(&mut self, offset: u64, value: u64) {
        self.put(offset, &value.to_be_bytes());
    }

    /// Reads a big-endian u64.
    pub fn get(&self, offset: u64) -> u64 {
        let start = offset as usize;
        u64::from_be_bytes(self.bytes[start..start + 8].try_into().unwrap())
    }

    /// Sets bits of a big-endian u64.
    pub fn or(&mut self, offset: u64, bits: u64) {
        let value = self.get(offset) | bits;
        self.u64(offset, value);
    }

    /// Cuts the file.
    pub fn truncate(&mut self, length: u64) {
        self.bytes.truncate(length as usize);
    }

    /// The file's length.
    pub fn len(&self) -> u64 {
        self.length.unwrap_or(self.bytes.len() as u64)
    }

    /// Appends a copy of `length` bytes from `from`, and gives its offset.
    pub fn append_copy(&mut self, from: u64, length: u64) -> u64 {
        let copy = self.bytes[from as usize..(from + length) as usize].to_vec();
        let to = self.bytes.len() as u64;
        self.bytes.extend(copy);
        to
    }

    /// Writes the file, with holes where 4 KiB blocks are zero.
    pub fn write(&self, path: &Path) {
        let file = fs::File::create(path).unwrap();
        for (index, block) in self.bytes.chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                file.write_all_at(block, index as u64 * 4096).unwrap();
            }
        }
        file.set_len(self.len()).unwrap();
    }
}
