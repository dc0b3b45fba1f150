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
//! Refcounts of clusters that stay in use, as those of a snapshot, change with the deciding write: the blocks that have
//! them are written anew, and a new refcount table with them ([`reference_delta`]).
//!
//! New clusters are those that nothing refers to and whose refcount is zero: both are looked at, so that
//! neither a wrong refcount nor a wrong table costs data.

mod clusters;
mod header;
mod refcounts;
mod reference_delta;
mod references;
mod resize;
mod snapshot_plan;
mod snapshots;

use std::ops::Range;

pub(crate) use clusters::Clusters;
use clusters::Decision;
use header::NewDisk;
pub(crate) use header::{
    BitmapsField, HeaderChange, NewHeader, SnapshotTable, bases_in, check_room_for_bitmaps,
    clear_unknown_autoclear, is_marked, settle_lineage, without_mark,
};
pub(crate) use refcounts::NewTable;
pub(crate) use resize::check_resize;
pub use snapshot_plan::SnapshotChange;
pub(crate) use snapshot_plan::SnapshotPlan;

use super::Qcow2;
use crate::error::{ErrorKind, Result};

/// A change of one image, in memory until [`Edit::commit`].
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    image: &'a Qcow2,
    clusters: Clusters,
    /// New clusters of this change.
    taken: Vec<Range<u64>>,
}

impl<'a> Edit<'a> {
    /// Begins a change. Refuses an image that cannot be trusted to say what is free.
    pub(crate) fn begin(image: &'a Qcow2) -> Result<Self> {
        Ok(Edit { image, clusters: Clusters::begin(image)?, taken: Vec::new() })
    }

    /// Takes `clusters` free clusters in a row, and returns their offset.
    pub(crate) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        let offset = match clusters {
            1 => self.clusters.allocate(1)?.start,
            _ => self.clusters.allocate_row(clusters)?,
        };
        self.taken.push(offset..offset + (clusters << self.image.geometry().cluster_bits));
        Ok(offset)
    }

    /// Writes into allocated clusters.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.clusters.prepare_to_write(self.image)?;
        self.image.file().write_all(bytes, offset)
    }

    /// Takes one reference from each cluster that a range touches, once the change is published.
    pub(crate) fn release(&mut self, range: Range<u64>) {
        self.clusters.release(range);
    }

    /// Makes the change durable, all of it or, on a failure before it is decided, nothing.
    ///
    /// After a failure in the deciding moment the state is unknown: the error says so, and the image must be
    /// opened anew.
    pub(crate) fn commit(self, change: HeaderChange) -> Result<()> {
        self.stage(change)?.publish()
    }

    /// Makes everything durable but the decision. On a failure nothing has changed.
    pub(crate) fn stage(mut self, change: HeaderChange) -> Result<Staged> {
        let owned = self.clusters.prepare_to_write(self.image);
        match owned.and_then(|()| self.clusters.own(self.image, Some(change))) {
            Ok(Some(decision)) => Ok(Staged {
                clusters: self.clusters,
                taken: self.taken,
                decision,
                cluster_bits: self.image.geometry().cluster_bits,
            }),
            Ok(None) => Err(self.image.file().error(ErrorKind::Internal, "there is nothing to decide")),
            Err(error) => {
                // What cannot be given back leaks.
                let _ = self.clusters.abandon(self.image, self.taken);
                Err(error)
            }
        }
    }
}

/// A change that is durable but for the one sector that decides.
#[derive(Debug)]
pub(crate) struct Staged {
    clusters: Clusters,
    taken: Vec<Range<u64>>,
    decision: Decision,
    cluster_bits: u32,
}

impl Staged {
    /// Decides, and gives back what the change replaced. After a failure the state is unknown, and the error says so.
    pub(crate) fn publish(mut self) -> Result<()> {
        if let Some(old) = self.clusters.decide(&self.decision)? {
            self.clusters.release(old.offset..old.offset + (old.clusters << self.cluster_bits));
        }
        // What cannot be given back leaks; the change is made all the same.
        let _ = self.clusters.give_back();
        Ok(())
    }

    /// The first bytes of the file as the decision writes them.
    pub(crate) fn sector(&self) -> &[u8] {
        self.decision.sector()
    }

    /// Gives back what was taken for the change, which is not made.
    pub(crate) fn abandon(mut self, image: &Qcow2) -> Result<()> {
        self.clusters.abandon(image, self.taken)
    }
}
