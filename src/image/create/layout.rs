//! Where everything in a new qcow2 image goes.
//!
//! Host clusters are handed out in order and never again. A refcount block is the first of the clusters that
//! it counts, and is written when the last of them is taken; an L2 table is written when the guest order has
//! left it. So memory holds one block and one table, whatever the disk; beside them only the L1 and refcount
//! tables, 8 bytes for each L2 table and block.

use byteorder::{BigEndian, ByteOrder};
use zerocopy::IntoBytes;

use super::{Content, Item};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        extension,
        geometry::Geometry,
        header::{self, CompressionType, RawHeader, incompatible},
        l1::COPIED,
        l2,
    },
    image::Format,
    storage::File,
};

/// What a new qcow2 image shall be.
#[derive(Clone, Debug)]
pub(crate) struct LayoutOptions {
    /// Bytes of the disk, a multiple of 512.
    pub(crate) size: u64,
    pub(crate) cluster_size: u64,
    pub(crate) compression: CompressionType,
    /// Name and format of the image below.
    pub(crate) backing: Option<(Vec<u8>, Format)>,
}

/// A part of a writer's buffer and its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) host: u64,
    pub(crate) at: usize,
    pub(crate) length: usize,
}

/// Refcounts are 16 bits wide.
const REFCOUNT_ORDER: u32 = 4;
const MAX_REFCOUNT: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Layout {
    options: LayoutOptions,
    geometry: Geometry,
    /// The next free host cluster.
    next: u64,
    /// Behind the last compressed stream, in a cluster that has room left.
    tail: Option<u64>,
    l1: Vec<u64>,
    l2: Option<L2Table>,
    refcount_table: Vec<u64>,
    /// The refcounts of the clusters from the last block's first one on.
    refcounts: Vec<u16>,
}

/// Where the tables that the header names are.
#[derive(Debug, Default)]
struct Tables {
    l1: u64,
    refcount: u64,
    refcount_clusters: u32,
}

#[derive(Debug)]
struct L2Table {
    index: usize,
    entries: Vec<u64>,
}

impl LayoutOptions {
    /// Whether there can be such an image.
    pub(crate) fn check(&self) -> Result<()> {
        Layout::new(self.clone()).map(drop)
    }
}

impl Layout {
    pub(crate) fn new(options: LayoutOptions) -> Result<Self> {
        let geometry = Geometry::new(options.cluster_size.ilog2(), REFCOUNT_ORDER, false)?;
        let l1_entries = geometry.l1_entries_for(options.size);
        if l1_entries * 8 > header::MAX_L1_BYTES {
            let text = format!(
                "a disk of {} bytes is too large for clusters of {} bytes; use larger clusters",
                options.size, options.cluster_size
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let mut layout = Layout {
            geometry,
            // Cluster 0 is the header's, and counted by the first block behind it.
            next: 1,
            tail: None,
            l1: vec![0; l1_entries as usize],
            l2: None,
            refcount_table: Vec::new(),
            refcounts: vec![1],
            options,
        };
        layout.header(&Tables::default())?;
        layout.begin_refcount_block();
        Ok(layout)
    }

    /// Gives `item` its place; what must be written for it is appended to `extents`, joined where it fits.
    pub(crate) fn place(&mut self, file: &File, item: &Item, extents: &mut Vec<Extent>) -> Result<()> {
        let cluster_size = self.options.cluster_size;
        match item.content {
            Content::Zero => {
                for guest in (item.guest..item.guest + item.length).step_by(cluster_size as usize) {
                    self.set_entry(file, guest, l2::ZERO_ENTRY)?;
                }
            }
            Content::Data { mut at } => {
                let (mut guest, end) = (item.guest, item.guest + item.length);
                while guest < end {
                    // First the table that the entry goes to, as changing it takes a cluster too.
                    self.enter_table(file, guest)?;
                    let table_end = (guest / self.geometry.l2_coverage() + 1) * self.geometry.l2_coverage();
                    let wanted = self.geometry.clusters_for(end.min(table_end) - guest);
                    let (host, count) = self.allocate(file, wanted)?;
                    let length = count * cluster_size;
                    for offset in (0..length).step_by(cluster_size as usize) {
                        self.set_entry(file, guest + offset, l2::data_entry(host + offset))?;
                    }
                    push(extents, Extent { host, at, length: length as usize });
                    at += length as usize;
                    guest += length;
                }
            }
            Content::Stream { at, length } => {
                self.enter_table(file, item.guest)?;
                let host = self.allocate_stream(file, length as u64)?;
                let Some(entry) = l2::compressed_entry(host, length as u64, &self.geometry) else {
                    let text =
                        "the target is too large for compressed clusters; use smaller clusters or none";
                    return Err(file.error(ErrorKind::Limit, text));
                };
                self.set_entry(file, item.guest, entry)?;
                push(extents, Extent { host, at, length });
            }
        }
        Ok(())
    }

    fn set_entry(&mut self, file: &File, guest: u64, entry: u64) -> Result<()> {
        self.enter_table(file, guest)?;
        let slot = (guest >> self.geometry.cluster_bits) % self.geometry.l2_entries();
        if let Some(table) = &mut self.l2 {
            table.entries[slot as usize] = entry;
        }
        Ok(())
    }

    /// Makes the L2 table of a guest offset the current one; the one before it is complete then.
    fn enter_table(&mut self, file: &File, guest: u64) -> Result<()> {
        let index = (guest / self.geometry.l2_coverage()) as usize;
        if self.l2.as_ref().is_some_and(|table| table.index == index) {
            return Ok(());
        }
        self.write_l2_table(file)?;
        self.l2 = Some(L2Table { index, entries: vec![0; self.geometry.l2_entries() as usize] });
        Ok(())
    }

    fn write_l2_table(&mut self, file: &File) -> Result<()> {
        let Some(table) = self.l2.take() else { return Ok(()) };
        let (host, _) = self.allocate(file, 1)?;
        self.l1[table.index] = host | COPIED;
        file.write_all(&big_endian(&table.entries), host)
    }

    /// Takes up to `wanted` clusters, at least one, that follow each other.
    fn allocate(&mut self, file: &File, wanted: u64) -> Result<(u64, u64)> {
        let per_block = self.geometry.refcount_block_entries();
        if self.next == self.refcount_table.len() as u64 * per_block {
            self.write_refcount_block(file)?;
            self.refcounts.clear();
            // What lies before the new block is counted for good.
            self.tail = None;
            self.begin_refcount_block();
        }
        let count = wanted.min(self.refcount_table.len() as u64 * per_block - self.next);
        let host = self.next << self.geometry.cluster_bits;
        self.refcounts.resize(self.refcounts.len() + count as usize, 1);
        self.next += count;
        Ok((host, count))
    }

    /// The next cluster becomes the refcount block for itself and those behind it.
    fn begin_refcount_block(&mut self) {
        self.refcount_table.push(self.next << self.geometry.cluster_bits);
        self.refcounts.push(1);
        self.next += 1;
    }

    fn write_refcount_block(&self, file: &File) -> Result<()> {
        let Some(&host) = self.refcount_table.last() else { return Ok(()) };
        let mut block = vec![0; self.options.cluster_size as usize];
        BigEndian::write_u16_into(&self.refcounts, &mut block[..self.refcounts.len() * 2]);
        file.write_all(&block, host)
    }

    /// Takes room for a stream, behind the last one where that leaves it in one piece. Each host cluster that
    /// a stream touches counts it.
    fn allocate_stream(&mut self, file: &File, length: u64) -> Result<u64> {
        let cluster_size = self.options.cluster_size;
        if let Some(host) = self.tail {
            let cluster = host >> self.geometry.cluster_bits;
            let room = cluster_size - host % cluster_size;
            let counted_to = self.refcount_table.len() as u64 * self.geometry.refcount_block_entries();
            let counted_from = self.next - self.refcounts.len() as u64;
            // A stream that does not fit goes on in the next cluster, if that is free and counted here too.
            let fits = length <= room || (self.next == cluster + 1 && self.next < counted_to);
            let refcount = &mut self.refcounts[(cluster - counted_from) as usize];
            if fits && *refcount < MAX_REFCOUNT {
                *refcount += 1;
                if length > room {
                    self.allocate(file, 1)?;
                }
                self.set_tail(host + length);
                return Ok(host);
            }
        }
        let (host, _) = self.allocate(file, 1)?;
        self.set_tail(host + length);
        Ok(host)
    }

    fn set_tail(&mut self, end: u64) {
        self.tail = (!end.is_multiple_of(self.options.cluster_size)).then_some(end);
    }

    /// Writes all tables and returns the header, which makes the file an image.
    pub(crate) fn finish(&mut self, file: &File) -> Result<Vec<u8>> {
        self.write_l2_table(file)?;
        let bits = self.geometry.cluster_bits;
        let per_block = self.geometry.refcount_block_entries();
        let l1_clusters = self.geometry.clusters_for(self.l1.len() as u64 * 8);

        // L1 table, refcount table and the blocks that these need, one behind the other.
        let l1_at = self.next;
        let table_at = l1_at + l1_clusters;
        let (mut blocks, mut table_clusters) = (self.refcount_table.len() as u64, 1);
        let end = loop {
            let end = table_at + table_clusters + blocks - self.refcount_table.len() as u64;
            let needed = (end.div_ceil(per_block), self.geometry.clusters_for(blocks * 8));
            if needed.0 <= blocks && needed.1 <= table_clusters {
                break end;
            }
            (blocks, table_clusters) = (needed.0.max(blocks), needed.1.max(table_clusters));
        };
        if table_clusters << bits > header::MAX_REFCOUNT_TABLE_BYTES {
            return Err(file.error(
                ErrorKind::Limit,
                "the target needs a refcount table over 8 MiB; use larger clusters",
            ));
        }
        self.write_last_refcount_blocks(file, table_at + table_clusters, end)?;
        let mut table = self.refcount_table.clone();
        table.resize((table_clusters << bits) as usize / 8, 0);
        file.write_all(&big_endian(&table), table_at << bits)?;
        file.write_all(&big_endian(&self.l1), l1_at << bits)?;
        file.set_len(end << bits)?;

        self.header(&Tables {
            l1: l1_at << bits,
            refcount: table_at << bits,
            refcount_clusters: table_clusters as u32,
        })
    }

    /// Clusters up to `end` are in use, once each from here on; blocks not begun yet lie from cluster `at`.
    fn write_last_refcount_blocks(&mut self, file: &File, mut at: u64, end: u64) -> Result<()> {
        let per_block = self.geometry.refcount_block_entries();
        loop {
            let counted_to = self.refcount_table.len() as u64 * per_block;
            let first = counted_to - per_block;
            self.refcounts.resize((end.min(counted_to) - first) as usize, 1);
            self.write_refcount_block(file)?;
            if counted_to >= end {
                return Ok(());
            }
            self.refcount_table.push(at << self.geometry.cluster_bits);
            self.refcounts.clear();
            at += 1;
        }
    }

    fn raw_header(&self, tables: &Tables) -> RawHeader {
        let zstd = self.options.compression == CompressionType::Zstd;
        RawHeader {
            magic: header::MAGIC.into(),
            version: 3.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: self.geometry.cluster_bits.into(),
            size: self.options.size.into(),
            crypt_method: 0.into(),
            l1_size: (self.l1.len() as u32).into(),
            l1_table_offset: tables.l1.into(),
            refcount_table_offset: tables.refcount.into(),
            refcount_table_clusters: tables.refcount_clusters.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: if zstd { incompatible::COMPRESSION_TYPE } else { 0 }.into(),
            compatible_features: 0.into(),
            autoclear_features: 0.into(),
            refcount_order: REFCOUNT_ORDER.into(),
            header_length: (size_of::<RawHeader>() as u32).into(),
            compression_type: zstd.into(),
            padding: [0; 7],
        }
    }

    /// The first cluster: header, extensions, and the backing file's name behind them.
    fn header(&self, tables: &Tables) -> Result<Vec<u8>> {
        let mut raw = self.raw_header(tables);
        let mut extensions = Vec::new();
        if let Some((name, format)) = &self.options.backing {
            extension::append(&mut extensions, extension::BACKING_FORMAT, format.to_string().as_bytes());
            extension::append(&mut extensions, extension::END, &[]);
            raw.backing_file_offset = ((size_of::<RawHeader>() + extensions.len()) as u64).into();
            raw.backing_file_size = (name.len() as u32).into();
            extensions.extend_from_slice(name);
            if name.len() as u32 > header::MAX_BACKING_NAME {
                let text = format!("the backing file's name has {} bytes, over 1023", name.len());
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
        }
        let mut cluster = [raw.as_bytes(), &extensions].concat();
        if cluster.len() as u64 > self.options.cluster_size {
            let text = "the backing file's name does not fit into the first cluster; use larger clusters";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        cluster.resize(self.options.cluster_size as usize, 0);
        Ok(cluster)
    }
}

fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.host + last.length as u64 == next.host && last.at + last.length == next.at => {
            last.length += next.length;
        }
        _ => extents.push(next),
    }
}

fn big_endian(words: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; words.len() * 8];
    BigEndian::write_u64_into(words, &mut bytes);
    bytes
}
