//! Changing the metadata of an image that exists.
//!
//! An [`Edit`] replaces structures and never changes one in place. Order of writes, and what a crash leaves:
//!
//! 1. Unknown autoclear bits are cleared (only where there are any); sync. Nothing else has changed.
//! 2. *Own*: the refcounts of new clusters, and what is written into them; sync. A crash leaks these clusters.
//! 3. New refcount blocks are hooked into the refcount table (only where there are any); sync. A crash leaks.
//! 4. *Publish*: one write of the first 512 bytes of the file, which decides; sync. Before it the old state
//!    is there, after it the new one.
//! 5. *Release*: the refcounts of replaced clusters go down. A crash leaks, and so does a failure, which is
//!    none of the change.
//!
//! New clusters are those that nothing refers to and whose refcount is zero: both are looked at, so that
//! neither a wrong refcount nor a wrong table costs data.

mod header;
mod refcounts;
mod used;

use std::ops::Range;

pub(crate) use header::{BitmapsField, HeaderChange, NewHeader, clear_unknown_autoclear};
pub(crate) use refcounts::NewTable;
use refcounts::Refcounts;
use used::UsedClusters;

use super::Qcow2;
use crate::{
    error::{ErrorKind, Result},
    format::header::incompatible,
};

/// A change of one image, in memory until [`Edit::commit`].
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    image: &'a Qcow2,
    used: UsedClusters,
    refcounts: Refcounts,
    released: Vec<Range<u64>>,
    written: bool,
}

impl<'a> Edit<'a> {
    /// Begins a change. Refuses an image that cannot be trusted to say what is free.
    pub(crate) fn begin(image: &'a Qcow2) -> Result<Self> {
        image.file().ensure_writable()?;
        let refuse = |text: &str| Err(image.file().error(ErrorKind::Corrupt, text));
        if image.header().has(incompatible::CORRUPT) {
            return refuse("the image is marked as corrupt; repair it first (qemu-img check -r all)");
        }
        if image.header().has(incompatible::DIRTY) {
            return refuse(
                "the refcounts are marked as stale; repair the image first (qemu-img check -r all)",
            );
        }
        let used = UsedClusters::collect(image).map_err(|e| e.in_file(image.file().path()))?;
        Ok(Edit { image, used, refcounts: Refcounts::new(image), released: Vec::new(), written: false })
    }

    /// Takes `clusters` free clusters in a row, and returns their offset.
    pub(crate) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        self.refcounts.allocate(self.image, &mut self.used, clusters)
    }

    /// Writes into allocated clusters.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.prepare_to_write()?;
        self.image.file().write_all(bytes, offset)
    }

    /// What has to be durable before the first write.
    fn prepare_to_write(&mut self) -> Result<()> {
        if !self.written && clear_unknown_autoclear(self.image.file(), self.image.header())? {
            self.image.file().sync()?;
        }
        self.written = true;
        Ok(())
    }

    /// Gives the clusters of a range back once the change is published; those that have another user, or
    /// another refcount than 1, are left alone.
    pub(crate) fn release(&mut self, range: Range<u64>) {
        self.released.push(range);
    }

    /// Makes the change durable, all of it or, on a failure before it is decided, nothing.
    ///
    /// After a failure in the deciding moment the state is unknown: the error says so, and the image must be
    /// opened anew.
    pub(crate) fn commit(mut self, mut change: HeaderChange) -> Result<()> {
        let file = self.image.file();
        self.prepare_to_write()?;
        change.refcount_table = self.refcounts.new_table(self.image, &mut self.used)?;
        let header = NewHeader::build(file, self.image.header(), &change)?;
        header.write_outside(file)?;
        self.refcounts.write_blocks(file)?;
        file.sync()?;
        if self.refcounts.hook_blocks(self.image)? {
            file.sync()?;
        }
        header.publish(file)?;
        // What cannot be given back leaks; the change is made all the same.
        let _ = self.give_back(change.refcount_table.is_some());
        Ok(())
    }

    /// Lets the refcounts of what the published change replaced go down.
    fn give_back(mut self, table_moved: bool) -> Result<()> {
        self.refcounts.published();
        let geometry = *self.image.geometry();
        for range in std::mem::take(&mut self.released) {
            for offset in range.step_by(geometry.cluster_size() as usize) {
                if self.used.is_exclusive(offset >> geometry.cluster_bits) {
                    self.refcounts.release(self.image, offset)?;
                }
            }
        }
        if table_moved {
            let old_table = self.image.header().refcount_table_offset;
            for index in 0..u64::from(self.image.header().refcount_table_clusters) {
                self.refcounts.release(self.image, old_table + (index << geometry.cluster_bits))?;
            }
        }
        self.refcounts.write_blocks(self.image.file())
    }
}
