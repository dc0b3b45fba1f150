//! Sizes that belong together, derived once from the header.

use super::corrupt;
use crate::error::Result;

/// Smallest and largest cluster: 512 bytes and 2 MiB. The specification sets only the lower bound; the upper
/// one is QEMU's.
pub(crate) const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// How an image is cut into clusters and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) cluster_bits: u32,
    /// Refcounts are `1 << refcount_order` bits wide.
    pub(crate) refcount_order: u32,
    /// L2 entries have 16 bytes and 32 subclusters.
    pub(crate) extended_l2: bool,
}

impl Geometry {
    pub(crate) fn new(cluster_bits: u32, refcount_order: u32, extended_l2: bool) -> Result<Self> {
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(corrupt(format!("cluster_bits is {cluster_bits}, outside 9 to 21")));
        }
        if refcount_order > 6 {
            return Err(corrupt(format!("refcount_order is {refcount_order}, above 6 (64 bits)")));
        }
        if extended_l2 && cluster_bits < 14 {
            return Err(corrupt("extended L2 entries need clusters of at least 16 KiB"));
        }
        Ok(Geometry { cluster_bits, refcount_order, extended_l2 })
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The smallest unit that an L2 entry can describe.
    pub(crate) fn subcluster_bits(&self) -> u32 {
        if self.extended_l2 { self.cluster_bits - 5 } else { self.cluster_bits }
    }

    /// A bit for each subcluster of a cluster: one, or 32 of them.
    pub(crate) fn subcluster_mask(&self) -> u32 {
        if self.extended_l2 { u32::MAX } else { 1 }
    }

    /// Bytes of one L2 entry.
    pub(crate) fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of one L2 table, which fills one cluster.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Guest bytes that one L2 table covers.
    pub(crate) fn l2_coverage(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Entries that the L1 table needs for a disk of `size` bytes.
    pub(crate) fn l1_entries_for(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// Refcounts in one refcount block, which fills one cluster.
    pub(crate) fn refcount_block_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    pub(crate) fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster_size() - 1) == 0
    }

    /// `offset` rounded down to the start of its cluster.
    pub(crate) fn cluster_start(&self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    pub(crate) fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }
}
