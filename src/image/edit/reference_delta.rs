//! Clusters in use that are referred to more or less often once a change is published, as by a snapshot.
//!
//! Flags in the tables of the disk tell which refcounts are exactly 1, so flags and refcounts have to change in one
//! moment. Refcount blocks with such refcounts are therefore not changed where they are: they get new places, in a new
//! refcount table, and the deciding sector names that.

use std::ops::Range;

use super::{super::budget::Budget, clusters::Clusters};
use crate::{
    error::{ErrorKind, Result},
    format::refcount,
    image::check::Counts,
    memory,
};

/// How many references each cluster of the file gains and loses.
#[derive(Debug)]
pub(super) struct ReferenceDelta {
    clusters: u64,
    budget: Budget,
    gained: Option<Counts>,
    lost: Option<Counts>,
}

impl ReferenceDelta {
    /// None yet, of so many clusters.
    pub(super) fn new(clusters: u64, budget: &Budget) -> Self {
        ReferenceDelta { clusters, budget: budget.clone(), gained: None, lost: None }
    }

    fn get(&self, cluster: u64) -> (u64, u64) {
        let of = |counts: &Option<Counts>| match counts {
            Some(counts) if cluster < counts.len() => counts.get(cluster),
            _ => 0,
        };
        (of(&self.gained), of(&self.lost))
    }

    fn touches(&self, cluster: u64) -> bool {
        self.get(cluster) != (0, 0)
    }

    /// The touched clusters of a range that begins with a multiple of 64.
    fn touched(&self, clusters: Range<u64>) -> impl Iterator<Item = u64> {
        let end = clusters.end.min(self.clusters);
        let touched =
            |first: u64| [&self.gained, &self.lost].into_iter().flatten().any(|c| !c.group_is(first, 0));
        let groups = (clusters.start..end).step_by(64).filter(move |first| touched(*first));
        groups.flat_map(move |first| first..end.min(first + 64)).filter(|cluster| self.touches(*cluster))
    }

    /// The refcount of a cluster that has `refcount` by now and is referred to `references` times. One that is too
    /// low already is mended.
    fn after(&self, cluster: u64, refcount: u64, references: u64) -> u64 {
        match self.get(cluster) {
            (0, 0) => refcount,
            (gained, lost) => {
                let change = |count: u64| count.saturating_add(gained).saturating_sub(lost);
                change(refcount).max(change(references))
            }
        }
    }
}

fn add(to: &mut Option<Counts>, clusters: Range<u64>, of: u64, budget: &Budget) -> Result<()> {
    if to.is_none() {
        *to = Some(Counts::new(of, budget)?);
    }
    to.as_mut().map_or(Ok(()), |counts| counts.add(clusters, 1))
}

impl Clusters {
    /// Adds a reference to each cluster that a range touches, with the moment that the change is published.
    pub(super) fn gain(&mut self, range: &Range<u64>) -> Result<()> {
        let clusters = self.clusters_of(range)?;
        add(&mut self.delta.gained, clusters, self.delta.clusters, &self.delta.budget)
    }

    /// Takes one away.
    pub(super) fn lose(&mut self, range: &Range<u64>) -> Result<()> {
        let clusters = self.clusters_of(range)?;
        add(&mut self.delta.lost, clusters, self.delta.clusters, &self.delta.budget)
    }

    fn clusters_of(&self, range: &Range<u64>) -> Result<Range<u64>> {
        let clusters =
            range.start >> self.geometry.cluster_bits..range.end.div_ceil(self.geometry.cluster_size());
        if clusters.end > self.delta.clusters {
            let text = format!("what lies at {:#x} ends behind the end of the file", range.start);
            return Err(self.file.error(ErrorKind::Corrupt, text));
        }
        Ok(clusters)
    }

    /// Whether the references to a cluster change.
    pub(super) fn is_touched(&self, cluster: u64) -> bool {
        self.delta.touches(cluster)
    }

    /// The refcount of a cluster once the change is published.
    pub(super) fn refcount_after(&mut self, cluster: u64) -> Result<u64> {
        let refcount = self.refcounts.get(cluster)?;
        Ok(self.delta.after(cluster, refcount, self.references.get(cluster)))
    }

    /// Whether a cluster may gain one more reference.
    pub(super) fn can_gain(&mut self, cluster: u64) -> Result<bool> {
        Ok(self.refcount_after(cluster)? < refcount::largest(self.geometry.refcount_order))
    }

    /// Refuses a change that some refcount has no room for.
    pub(super) fn ensure_refcounts_fit(&mut self) -> Result<()> {
        let largest = refcount::largest(self.geometry.refcount_order);
        for cluster in self.delta.touched(0..u64::MAX) {
            let refcount = self.refcounts.get(cluster)?;
            let refcount = self.delta.after(cluster, refcount, self.references.get(cluster));
            // What gains more than can be counted has no room either.
            if refcount > largest || self.delta.get(cluster).0 == Counts::MOST {
                let text = format!(
                    "the cluster at {:#x} would be referred to {refcount} times, and its refcounts of {} bits tell at \
                     most {largest}; delete a snapshot, or give the image wider refcounts (qemu-img amend -o \
                     refcount_bits=64)",
                    cluster << self.geometry.cluster_bits,
                    1 << self.geometry.refcount_order,
                );
                return Err(self.file.error(ErrorKind::Limit, text));
            }
        }
        Ok(())
    }

    /// Finds new places for the refcount blocks that change with the decision.
    pub(super) fn move_blocks(&mut self) -> Result<()> {
        if self.delta.gained.is_none() && self.delta.lost.is_none() {
            return Ok(());
        }
        let per_block = self.geometry.refcount_block_entries();
        let blocks = 0..self.delta.clusters.div_ceil(per_block);
        let moves =
            |block: &u64| self.delta.touched(block * per_block..(block + 1) * per_block).next().is_some();
        let indices = memory::collected(blocks.filter(moves).map(|block| block as usize))?;
        self.refcounts.move_blocks(&mut self.references, &indices)
    }

    /// Writes them. Whatever else is new has its refcount by now.
    pub(super) fn write_moved_blocks(&mut self) -> Result<()> {
        let (order, per_block) = (self.geometry.refcount_order, self.geometry.refcount_block_entries());
        let (delta, references) = (&self.delta, &self.references);
        self.refcounts.write_moved_blocks(|index, block| {
            let first = index as u64 * per_block;
            for cluster in delta.touched(first..first + per_block) {
                let entry = (cluster - first) as usize;
                let old = refcount::get(block, order, entry);
                refcount::set(block, order, entry, delta.after(cluster, old, references.get(cluster)));
            }
        })
    }
}
