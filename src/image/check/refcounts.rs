//! The refcounts as they are stored.

use std::sync::Arc;

use super::{
    super::budget::{Budget, Grant},
    counts::Bits,
    read::{read_padded, read_words},
};
use crate::{
    error::Result,
    format::{geometry::Geometry, header::Header, refcount},
    memory,
    storage::File,
};

/// The refcount table, and one block of refcounts at a time.
#[derive(Debug)]
pub(super) struct Refcounts<'a> {
    file: &'a File,
    geometry: Geometry,
    table: Arc<Vec<u64>>,
    /// The clusters whose refcount is exactly 1.
    once: Bits,
    /// The block that was read last, and its index in the table.
    block: Vec<u8>,
    index: Option<u64>,
    _grant: Grant,
}

impl<'a> Refcounts<'a> {
    /// Reads the table and all blocks for the first `clusters` clusters.
    pub(super) fn read(file: &'a File, header: &Header, clusters: u64, budget: &Budget) -> Result<Self> {
        let geometry = header.geometry;
        let bytes = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        let grant = budget.grant(bytes + geometry.cluster_size(), "refcount table")?;
        let mut table = Vec::new();
        memory::reserve(&mut table, (bytes / 8) as usize)?;
        read_words(file, header.refcount_table_offset, bytes / 8, |_, word| {
            table.push(word);
            Ok(())
        })?;
        let block = memory::zeroed(geometry.cluster_size() as usize)?;
        let once = Bits::new(clusters, budget)?;
        let table = Arc::new(table);
        let mut refcounts = Refcounts { file, geometry, table, once, block, index: None, _grant: grant };
        refcounts.find_once(clusters)?;
        Ok(refcounts)
    }

    fn find_once(&mut self, clusters: u64) -> Result<()> {
        let mut first = 0;
        while first < clusters {
            let behind = (self.index_of(first) + 1) * self.geometry.refcount_block_entries();
            if matches!(self.load(first)?, Place::At(_)) {
                for group in (first..behind.min(clusters)).step_by(64) {
                    let bits = self.group_once(group);
                    self.once.set_group(group, bits);
                }
            }
            first = behind;
        }
        Ok(())
    }

    /// One bit for each of 64 clusters of the loaded block whose refcount is 1.
    fn group_once(&self, first: u64) -> u64 {
        // The bytes of 64 refcounts in every width are whole words.
        let order = self.geometry.refcount_order;
        let bytes = 8 << order;
        let at = (first & (self.geometry.refcount_block_entries() - 1)) as usize / 64 * bytes;
        let group = &self.block[at..at + bytes];
        let is_all = |pattern: u64| {
            let pattern = pattern.to_be_bytes();
            group.chunks_exact(8).fold(true, |same, word| same & (word == pattern))
        };
        if is_all(0) {
            return 0;
        }
        if order == 4 && is_all(0x0001_0001_0001_0001) {
            return u64::MAX;
        }
        (0..64).fold(0, |bits, index| bits | u64::from(refcount::get(group, order, index) == 1) << index)
    }

    /// The refcount table.
    pub(super) fn table(&self) -> Arc<Vec<u64>> {
        self.table.clone()
    }

    /// The clusters whose refcount is exactly 1, of those that the check covers.
    pub(super) fn once(&self) -> &Bits {
        &self.once
    }

    /// The refcount of any cluster; `None` when the table entry for it is invalid.
    pub(super) fn get(&mut self, cluster: u64) -> Result<Option<u64>> {
        Ok(match self.load(cluster)? {
            Place::Missing => Some(0),
            Place::Invalid => None,
            Place::At(_) => {
                let entry = cluster & (self.geometry.refcount_block_entries() - 1);
                Some(refcount::get(&self.block, self.geometry.refcount_order, entry as usize))
            }
        })
    }

    /// Whether no block is there for a cluster, so that its refcount is 0.
    pub(super) fn is_missing(&self, cluster: u64) -> bool {
        self.find(cluster) == Place::Missing
    }

    /// Whether the table entry for a cluster is invalid, so that it has no readable refcount.
    pub(super) fn is_unreadable(&self, cluster: u64) -> bool {
        self.find(cluster) == Place::Invalid
    }

    fn index_of(&self, cluster: u64) -> u64 {
        cluster >> self.geometry.refcount_block_entries().ilog2()
    }

    /// Where the block for a cluster is.
    fn find(&self, cluster: u64) -> Place {
        // Reserved bits are a problem of their own and hide no block.
        let entry =
            self.table.get(self.index_of(cluster) as usize).map_or(0, |entry| entry & !refcount::RESERVED);
        match entry {
            0 => Place::Missing,
            offset if !self.geometry.is_aligned(offset) || i64::try_from(offset).is_err() => Place::Invalid,
            offset => Place::At(offset),
        }
    }

    /// Reads the block for a cluster, unless that was the last one.
    fn load(&mut self, cluster: u64) -> Result<Place> {
        let place = self.find(cluster);
        let index = Some(self.index_of(cluster));
        if let Place::At(offset) = place
            && self.index != index
        {
            self.index = None;
            read_padded(self.file, &mut self.block, offset)?;
            self.index = index;
        }
        Ok(place)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Missing,
    Invalid,
    At(u64),
}
