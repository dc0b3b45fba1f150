//! Doors to the inside for the fuzz targets: values out of bytes, without an image round them. No part of the API.
#![allow(missing_docs)] // what they give is documented where it is made

use crate::{
    error::Result,
    format::{
        bitmap,
        geometry::Geometry,
        header::Header,
        l2::{Cluster, Compressed, Rules},
    },
};

/// What a checked header says.
#[derive(Debug)]
pub struct HeaderFields {
    pub version: u32,
    pub cluster_bits: u32,
    pub refcount_order: u32,
    pub size: u64,
    pub l1: (u64, u32),
    pub refcount_table: (u64, u32),
    pub snapshots: (u64, u32),
    pub features: [u64; 3],
    pub zstd: bool,
    pub backing_name: Option<Vec<u8>>,
    pub backing_format: Option<Vec<u8>>,
    pub data_file: Option<Vec<u8>>,
    /// Count, offset and bytes of the directory.
    pub bitmaps: Option<(u32, u64, u64)>,
    pub unknown_extensions: Vec<(u32, Vec<u8>)>,
}

/// Parses the first cluster of an image, or what the file has of it.
pub fn header(cluster: &[u8]) -> Result<HeaderFields> {
    let header = Header::parse(cluster)?;
    let extensions = header.extensions;
    Ok(HeaderFields {
        version: header.version,
        cluster_bits: header.geometry.cluster_bits,
        refcount_order: header.geometry.refcount_order,
        size: header.size,
        l1: (header.l1_offset, header.l1_entries),
        refcount_table: (header.refcount_table_offset, header.refcount_table_clusters),
        snapshots: (header.snapshots_offset, header.snapshot_count),
        features: [header.incompatible, header.compatible, header.autoclear],
        zstd: header.compression == crate::format::header::CompressionType::Zstd,
        backing_name: header.backing_name,
        backing_format: extensions.backing_format,
        data_file: extensions.data_file,
        bitmaps: extensions
            .bitmaps
            .map(|b| (b.nb_bitmaps.get(), b.directory_offset.get(), b.directory_size.get())),
        unknown_extensions: extensions.unknown.into_iter().map(|e| (e.kind, e.data)).collect(),
    })
}

/// What an L2 entry says.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    Unallocated { host: Option<u64> },
    Zero { host: Option<u64> },
    Data { host: u64 },
    Compressed { host: u64, length: u32 },
    Subclusters { host: Option<u64>, allocated: u32, zero: u32 },
}

/// Decodes L2 entries of an image of this kind.
#[derive(Clone, Copy, Debug)]
pub struct L2Rules {
    pub cluster_bits: u32,
    pub extended: bool,
    pub version: u32,
    pub data_file: bool,
}

impl L2Rules {
    /// The entry of these two words, of which the second counts only if entries are extended.
    pub fn decode(&self, entry: u64, bitmap: u64) -> Result<Entry> {
        let geometry = Geometry::new(self.cluster_bits, 4, self.extended)?;
        let rules = Rules { geometry, version: self.version, data_file: self.data_file };
        let decoded = rules.decode(entry, self.extended.then_some(bitmap));
        Ok(match decoded.map_err(crate::format::corrupt)? {
            Cluster::Unallocated { host } => Entry::Unallocated { host },
            Cluster::Zero { host } => Entry::Zero { host },
            Cluster::Data { host } => Entry::Data { host },
            Cluster::Compressed(Compressed { host, length }) => Entry::Compressed { host, length },
            Cluster::Subclusters { host, allocated, zero } => Entry::Subclusters { host, allocated, zero },
        })
    }
}

/// Parses a bitmap directory of `count` entries and writes it again.
pub fn bitmap_directory(bytes: &[u8], count: u32, cluster_bits: u32) -> Result<Vec<u8>> {
    let geometry = Geometry::new(cluster_bits, 4, false)?;
    let mut again = Vec::new();
    let entries = bitmap::parse_directory(bytes, count, &geometry)?;
    entries.iter().for_each(|entry| entry.append(&mut again));
    Ok(again)
}
