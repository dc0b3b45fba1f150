//! Where everything in a new qcow2 image goes.
//!
//! Host clusters are handed out in order and never again. A refcount block is the first of the clusters that
//! it counts, and is written when the last of them is taken; an L2 table is written when the guest order has
//! left it. So memory holds one block and one table, whatever the disk; beside them only the L1 and refcount
//! tables, 8 bytes for each L2 table and block.
//!
//! Placing never fails because a file does: a table that cannot be written is kept, and what is placed together is
//! all placed. [`Layout::write_kept`] tells the error, and writes what was kept when it is called again. Where memory is short
//! placing fails, and the image cannot be completed any more.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use byteorder::{BigEndian, ByteOrder};

use super::{
    Content, Item,
    header::{Tables, first_cluster},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        geometry::Geometry,
        header::{self, CompressionType},
        l1::COPIED,
        l2,
        lineage::Lineage,
        refcount,
    },
    image::Format,
    memory,
    storage::File,
};

/// What a new qcow2 image shall be.
#[derive(Clone, Debug)]
pub(crate) struct LayoutOptions {
    /// Bytes of the disk, a multiple of 512.
    pub(crate) size: u64,
    /// 2 or 3.
    pub(crate) version: u32,
    pub(crate) cluster_size: u64,
    /// 16 in version 2.
    pub(crate) refcount_bits: u32,
    pub(crate) extended_l2: bool,
    pub(crate) lazy_refcounts: bool,
    pub(crate) compression: CompressionType,
    /// Name and format of the image below.
    pub(crate) backing: Option<(Vec<u8>, Format)>,
    pub(crate) data_file: Option<DataFileName>,
    /// Left out where the first cluster has no room for it.
    pub(crate) lineage: Lineage,
}

/// How an image names the file that its guest data lies in.
#[derive(Clone, Debug)]
pub(crate) struct DataFileName {
    pub(crate) name: Vec<u8>,
    /// The file is the disk at any time.
    pub(crate) raw: bool,
}

/// Some data and its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) host: u64,
    pub(crate) origin: Origin,
    pub(crate) length: usize,
}

/// Where data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From this position of the writer's buffer.
    Buffer(usize),
    /// What the source has at this guest offset, to be shared.
    Guest(u64),
}

impl Origin {
    fn advance(self, length: usize) -> Origin {
        match self {
            Origin::Buffer(at) => Origin::Buffer(at + length),
            Origin::Guest(guest) => Origin::Guest(guest + length as u64),
        }
    }
}

/// Behind this no L2 entry can point.
const MAX_HOST_OFFSET: u64 = 1 << 56;

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
    /// The memory of a table that was written, for the next one; and the same of a refcount block.
    spare_table: Option<Vec<u8>>,
    spare_block: Option<Vec<u8>>,
    refcount_table: Vec<u64>,
    /// The refcounts of the clusters from the last block's first one on.
    refcounts: Vec<u16>,
    /// How many compressed clusters may share a host cluster.
    max_refcount: u16,
    /// Tables that could not be written yet, with their places, in the order to write them.
    unwritten: VecDeque<(u64, Vec<u8>)>,
    /// Why not, until that is told.
    failure: Option<Error>,
    /// What is known of the end when everything has its place: the header and the file's length.
    end: Option<(Arc<Vec<u8>>, u64)>,
    /// Why the end can never have its place.
    broken: Option<Error>,
}

#[derive(Debug)]
struct L2Table {
    index: usize,
    /// As it is stored: one word for a cluster, or two with extended L2 entries.
    bytes: Vec<u8>,
}

impl LayoutOptions {
    /// A plain image of version 3.
    pub(crate) fn new(size: u64, cluster_size: u64) -> Self {
        LayoutOptions {
            size,
            version: 3,
            cluster_size,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: CompressionType::Zlib,
            backing: None,
            data_file: None,
            lineage: Lineage::default(),
        }
    }

    /// Whether there can be such an image.
    pub(crate) fn check(&self) -> Result<()> {
        Layout::new(self.clone()).map(drop)
    }

    /// Whether there can be one with all clusters preallocated.
    pub(crate) fn check_preallocated(&self) -> Result<()> {
        Layout::new(self.clone())?.check_preallocation()
    }
}

impl Layout {
    pub(crate) fn new(options: LayoutOptions) -> Result<Self> {
        let order = options.refcount_bits.ilog2();
        let geometry = Geometry::new(options.cluster_size.ilog2(), order, options.extended_l2)?;
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
            l1: memory::zeroed(l1_entries as usize)?,
            l2: None,
            spare_table: None,
            spare_block: None,
            refcount_table: Vec::new(),
            refcounts: vec![1],
            max_refcount: u16::try_from(refcount::largest(order)).unwrap_or(u16::MAX),
            unwritten: VecDeque::new(),
            failure: None,
            end: None,
            broken: None,
            options,
        };
        first_cluster(&layout.options, &geometry, &Tables::default())?;
        layout.begin_refcount_block()?;
        Ok(layout)
    }

    /// Writes a table, or keeps it if that fails or another one is to be written before. Gives its memory back, unless it
    /// is kept.
    fn put(&mut self, file: &File, bytes: Vec<u8>, host: u64) -> Option<Vec<u8>> {
        if self.unwritten.is_empty() {
            match file.write_all(&bytes, host) {
                Ok(()) => return Some(bytes),
                Err(error) => self.failure = Some(error),
            }
        }
        self.unwritten.push_back((host, bytes));
        None
    }

    /// Tells whether a table could not be written; when that was told, tries again.
    pub(crate) fn write_kept(&mut self, file: &File) -> Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        while let Some((host, bytes)) = self.unwritten.front() {
            file.write_all(bytes, *host)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Gives `item` its place; what must be written for it is appended to `extents`, joined where it fits.
    pub(crate) fn place(&mut self, file: &File, item: &Item, extents: &mut Vec<Extent>) -> Result<()> {
        match item.content {
            Content::Zero => self.place_zeros(file, item.guest..item.guest + item.length)?,
            Content::Data { at } => self.place_data(file, item, Origin::Buffer(at), extents)?,
            Content::Shared => self.place_data(file, item, Origin::Guest(item.guest), extents)?,
            Content::Stream { at, length } => {
                self.enter_table(file, item.guest)?;
                let host = self.allocate_stream(file, length as u64)?;
                let Some(entry) = l2::compressed_entry(host, length as u64, &self.geometry) else {
                    let text =
                        "the target is too large for compressed clusters; use smaller clusters or none";
                    return Err(file.error(ErrorKind::Limit, text));
                };
                self.set_entry(file, item.guest, entry, 0)?;
                push(extents, Extent { host, origin: Origin::Buffer(at), length });
            }
        }
        Ok(())
    }

    fn place_data(
        &mut self,
        file: &File,
        item: &Item,
        mut origin: Origin,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let range = item.guest..item.guest + item.length;
        self.place_range(file, range, l2::ALL_ALLOCATED, |host, length| {
            let length = length as usize;
            push(extents, Extent { host, origin, length });
            origin = origin.advance(length);
        })
    }

    /// Gives every guest cluster its place, and writes nothing there: what a new file has not written reads as
    /// zero. A raw data file may hold something already, and all of it is the guest's. Else subclusters stay
    /// unallocated, so that a backing file shows.
    pub(crate) fn preallocate(&mut self, file: &File) -> Result<()> {
        let raw = self.options.data_file.as_ref().is_some_and(|data_file| data_file.raw);
        let subclusters = if raw { l2::ALL_ALLOCATED } else { 0 };
        let end = self.geometry.clusters_for(self.options.size) << self.geometry.cluster_bits;
        let coverage = self.geometry.l2_coverage();
        for start in (0..end).step_by(usize::try_from(coverage).unwrap_or(usize::MAX)) {
            self.place_range(file, start..end.min(start + coverage), subclusters, |_, _| ())?;
            self.write_kept(file)?;
        }
        Ok(())
    }

    /// Refuses to preallocate what the tables cannot hold.
    fn check_preallocation(&self) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let data = self.geometry.clusters_for(self.options.size);
        let tables = self.geometry.clusters_for(self.l1.len() as u64 * 8) + self.l1.len() as u64;
        let own = if self.options.data_file.is_some() { 0 } else { data };
        let (table_clusters, end) = self.refcount_space(1 + own + tables, 0);
        let text = if end.max(data) << bits > MAX_HOST_OFFSET {
            "lies partly behind what a table can point to; leave preallocation off"
        } else if table_clusters << bits > header::MAX_REFCOUNT_TABLE_BYTES {
            "needs a refcount table over 8 MiB; use larger clusters or narrower refcounts"
        } else {
            return Ok(());
        };
        let text = format!("a preallocated disk of {} bytes {text}", self.options.size);
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }

    fn place_zeros(&mut self, file: &File, range: Range<u64>) -> Result<()> {
        if self.options.version == 2 {
            // There is no entry that says zero, but what is not there is, and so is what was never written.
            if self.options.backing.is_some() {
                self.place_range(file, range, l2::ALL_ALLOCATED, |_, _| ())?;
            }
            return Ok(());
        }
        let entry = if self.options.extended_l2 { 0 } else { l2::ZERO_ENTRY };
        for guest in range.step_by(self.options.cluster_size as usize) {
            self.set_entry(file, guest, entry, l2::ALL_ZERO)?;
        }
        Ok(())
    }

    /// Gives the clusters of a guest range places for data; `placed` is told where each piece lies and how
    /// long it is.
    fn place_range(
        &mut self,
        file: &File,
        range: Range<u64>,
        subclusters: u64,
        mut placed: impl FnMut(u64, u64),
    ) -> Result<()> {
        let cluster_size = self.options.cluster_size;
        let (mut guest, end) = (range.start, range.end);
        while guest < end {
            // First the table that the entry goes to, as changing it takes a cluster too.
            self.enter_table(file, guest)?;
            let table_end = (guest / self.geometry.l2_coverage() + 1) * self.geometry.l2_coverage();
            let wanted = self.geometry.clusters_for(end.min(table_end) - guest);
            let (host, count) = match self.options.data_file {
                None => self.allocate(file, wanted)?,
                // In a data file everything has its place already.
                Some(_) => (guest, wanted),
            };
            let length = count * cluster_size;
            for offset in (0..length).step_by(cluster_size as usize) {
                self.set_entry(file, guest + offset, l2::data_entry(host + offset), subclusters)?;
            }
            placed(host, length);
            guest += length;
        }
        Ok(())
    }

    fn set_entry(&mut self, file: &File, guest: u64, entry: u64, subclusters: u64) -> Result<()> {
        self.enter_table(file, guest)?;
        let slot = ((guest >> self.geometry.cluster_bits) % self.geometry.l2_entries()) as usize;
        if let Some(table) = &mut self.l2 {
            if self.geometry.extended_l2 {
                BigEndian::write_u64_into(&[entry, subclusters], &mut table.bytes[16 * slot..][..16]);
            } else {
                BigEndian::write_u64(&mut table.bytes[8 * slot..], entry);
            }
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
        let bytes = empty(&mut self.spare_table, self.options.cluster_size)?;
        self.l2 = Some(L2Table { index, bytes });
        Ok(())
    }

    fn write_l2_table(&mut self, file: &File) -> Result<()> {
        let Some(table) = self.l2.take() else { return Ok(()) };
        let (host, _) = self.allocate(file, 1)?;
        self.l1[table.index] = host | COPIED;
        self.spare_table = self.put(file, table.bytes, host);
        Ok(())
    }

    /// Takes up to `wanted` clusters, at least one, that follow each other.
    fn allocate(&mut self, file: &File, wanted: u64) -> Result<(u64, u64)> {
        let per_block = self.geometry.refcount_block_entries();
        if self.next == self.refcount_table.len() as u64 * per_block {
            self.write_refcount_block(file)?;
            self.refcounts.clear();
            // What lies before the new block is counted for good.
            self.tail = None;
            self.begin_refcount_block()?;
        }
        let count = wanted.min(self.refcount_table.len() as u64 * per_block - self.next);
        let host = self.next << self.geometry.cluster_bits;
        memory::reserve(&mut self.refcounts, count as usize)?;
        self.refcounts.resize(self.refcounts.len() + count as usize, 1);
        self.next += count;
        Ok((host, count))
    }

    /// The next cluster becomes the refcount block for itself and those behind it.
    fn begin_refcount_block(&mut self) -> Result<()> {
        memory::push(&mut self.refcount_table, self.next << self.geometry.cluster_bits)?;
        memory::push(&mut self.refcounts, 1)?;
        self.next += 1;
        Ok(())
    }

    fn write_refcount_block(&mut self, file: &File) -> Result<()> {
        let Some(&host) = self.refcount_table.last() else { return Ok(()) };
        let mut block = empty(&mut self.spare_block, self.options.cluster_size)?;
        match self.geometry.refcount_order {
            4 => BigEndian::write_u16_into(&self.refcounts, &mut block[..self.refcounts.len() * 2]),
            order => {
                for (index, count) in self.refcounts.iter().enumerate() {
                    refcount::set(&mut block, order, index, u64::from(*count));
                }
            }
        }
        self.spare_block = self.put(file, block, host);
        Ok(())
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
            if fits && *refcount < self.max_refcount {
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

    /// Writes all tables and returns the header, which makes the file an image. Nothing can be placed afterwards; after
    /// an error it can be called again.
    pub(crate) fn finish(&mut self, file: &File) -> Result<Arc<Vec<u8>>> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let (header, length) = match &self.end {
            Some((header, length)) => (header.clone(), *length),
            None => self.place_end(file).inspect_err(|error| self.broken = Some(error.clone()))?,
        };
        self.end = Some((header.clone(), length));
        self.write_kept(file)?;
        file.set_len(length)?;
        Ok(header)
    }

    /// Places the last tables; gives the header, and the length of the file.
    fn place_end(&mut self, file: &File) -> Result<(Arc<Vec<u8>>, u64)> {
        self.write_l2_table(file)?;
        self.spare_table = None;
        let bits = self.geometry.cluster_bits;
        let l1_clusters = self.geometry.clusters_for(self.l1.len() as u64 * 8);

        // L1 table, refcount table and the blocks that these need, one behind the other.
        let l1_at = self.next;
        let table_at = l1_at + l1_clusters;
        let blocks = self.refcount_table.len() as u64;
        let (table_clusters, end) = self.refcount_space(table_at - blocks, blocks);
        if table_clusters << bits > header::MAX_REFCOUNT_TABLE_BYTES {
            return Err(file.error(
                ErrorKind::Limit,
                "the target needs a refcount table over 8 MiB; use larger clusters",
            ));
        }
        self.write_last_refcount_blocks(file, table_at + table_clusters, end)?;
        self.spare_block = None;
        let mut table = memory::zeroed((table_clusters << bits) as usize)?;
        BigEndian::write_u64_into(&self.refcount_table, &mut table[..self.refcount_table.len() * 8]);
        self.put(file, table, table_at << bits);
        let mut l1 = memory::zeroed(self.l1.len() * 8)?;
        BigEndian::write_u64_into(&self.l1, &mut l1);
        self.put(file, l1, l1_at << bits);

        let tables = Tables {
            l1: l1_at << bits,
            l1_entries: self.l1.len() as u32,
            refcount: table_at << bits,
            refcount_clusters: table_clusters as u32,
        };
        Ok((Arc::new(first_cluster(&self.options, &self.geometry, &tables)?), end << bits))
    }

    /// How many clusters of refcount table there must be, and how many clusters there are then in all, when
    /// table and blocks, `blocks` at least, count themselves and `others` more.
    fn refcount_space(&self, others: u64, mut blocks: u64) -> (u64, u64) {
        let mut table_clusters = 1;
        loop {
            let end = others + table_clusters + blocks;
            let needed_blocks = end.div_ceil(self.geometry.refcount_block_entries());
            let needed_clusters = self.geometry.clusters_for(blocks * 8);
            if needed_blocks <= blocks && needed_clusters <= table_clusters {
                return (table_clusters, end);
            }
            (blocks, table_clusters) = (needed_blocks.max(blocks), needed_clusters.max(table_clusters));
        }
    }

    /// Clusters up to `end` are in use, once each from here on; blocks not begun yet lie from cluster `at`.
    fn write_last_refcount_blocks(&mut self, file: &File, mut at: u64, end: u64) -> Result<()> {
        let per_block = self.geometry.refcount_block_entries();
        loop {
            let counted_to = self.refcount_table.len() as u64 * per_block;
            let first = counted_to - per_block;
            let counted = (end.min(counted_to) - first) as usize;
            let more = counted.saturating_sub(self.refcounts.len());
            memory::reserve(&mut self.refcounts, more)?;
            self.refcounts.resize(counted, 1);
            self.write_refcount_block(file)?;
            if counted_to >= end {
                return Ok(());
            }
            memory::push(&mut self.refcount_table, at << self.geometry.cluster_bits)?;
            self.refcounts.clear();
            at += 1;
        }
    }
}

fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last)
            if last.host + last.length as u64 == next.host
                && last.origin.advance(last.length) == next.origin =>
        {
            last.length += next.length;
        }
        _ => extents.push(next),
    }
}

/// A cluster of zeros, in the memory of another one where there is one.
fn empty(spare: &mut Option<Vec<u8>>, cluster_size: u64) -> Result<Vec<u8>> {
    match spare.take() {
        Some(mut bytes) => {
            bytes.fill(0);
            Ok(bytes)
        }
        None => memory::zeroed(cluster_size as usize),
    }
}
