//! A dirty bitmap in memory.

use std::ops::Range;

use super::BitSet;
use crate::{error::Result, memory};

/// Which granules of a disk were written: one bit each.
#[derive(Clone, Debug)]
pub struct DirtyBitmap {
    name: Vec<u8>,
    granularity_bits: u8,
    size: u64,
    bits: BitSet,
}

impl DirtyBitmap {
    pub(crate) fn new(name: Vec<u8>, granularity_bits: u8, size: u64, bits: BitSet) -> Self {
        DirtyBitmap { name, granularity_bits, size, bits }
    }

    /// Its name: bytes, usually UTF-8.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Bytes of disk that one bit stands for, a power of two.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Dirty bytes, counted in whole granules: the last one may reach past the end of the disk.
    pub fn count(&self) -> u64 {
        self.bits.count() << self.granularity_bits
    }

    /// The dirty parts of the disk in bytes: ascending, joined, clipped to the disk.
    pub fn extents(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        std::iter::successors(self.next_extent(0), |last| self.next_extent(last.end))
    }

    /// A clean bitmap of a disk of `size` bytes.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn clean(name: Vec<u8>, granularity_bits: u8, size: u64) -> Result<Self> {
        let bits = BitSet::new(size.div_ceil(1 << granularity_bits))?;
        Ok(DirtyBitmap { name, granularity_bits, size, bits })
    }

    /// The same once more.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn copied(&self) -> Result<Self> {
        memory::ensure(self.bits.memory())?;
        Ok(self.clone())
    }

    pub(crate) fn bits(&self) -> &BitSet {
        &self.bits
    }

    /// Size of the disk in bytes.
    pub(crate) fn disk_size(&self) -> u64 {
        self.size
    }

    /// Makes everything dirty that `other`, of a disk of the same size, has dirty; a granule that is dirty in
    /// part becomes dirty.
    ///
    /// # Errors
    /// `NoMemory`; nothing has changed then.
    pub(crate) fn merge(&mut self, other: &DirtyBitmap) -> Result<()> {
        // A finer granularity takes more.
        let finer = other.granularity_bits.saturating_sub(self.granularity_bits);
        memory::ensure(other.bits.memory().saturating_mul(1 << finer.min(24)).min(self.bits.most_memory()))?;
        other.extents().for_each(|extent| self.add(extent));
        Ok(())
    }

    /// Makes a part of the disk dirty.
    pub(crate) fn add(&mut self, bytes: Range<u64>) {
        self.bits.set(self.granules(&bytes));
    }

    /// The bits for a part of the disk.
    pub(crate) fn granules(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start >> self.granularity_bits..bytes.end.div_ceil(1 << self.granularity_bits)
    }

    /// Whether all of a part of the disk is dirty.
    pub(crate) fn contains(&self, bytes: &Range<u64>) -> bool {
        let bits = self.granules(bytes);
        self.bits.next_set_run(bits.start).is_some_and(|run| run.start <= bits.start && bits.end <= run.end)
    }

    /// The bitmap of the same disk with another size. What is new of it is dirty: it reads as zero, and whoever
    /// goes by the bitmap may have something else there, from before the disk was shrunk.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn resized(&self, size: u64) -> Result<Self> {
        let mut resized = DirtyBitmap::clean(self.name.clone(), self.granularity_bits, size)?;
        memory::ensure(self.bits.memory())?;
        for extent in self.extents().take_while(|extent| extent.start < size) {
            resized.add(extent.start..extent.end.min(size));
        }
        if size > self.size {
            resized.add(self.size..size);
        }
        Ok(resized)
    }

    /// The first dirty part that ends behind `from`, without what lies before `from`'s granule.
    pub(crate) fn next_extent(&self, from: u64) -> Option<Range<u64>> {
        let shift = self.granularity_bits;
        // Past the end by rounding: nothing follows.
        if from >= self.size {
            return None;
        }
        let run = self.bits.next_set_run(from >> shift)?;
        Some(run.start << shift..(run.end << shift).min(self.size))
    }
}
