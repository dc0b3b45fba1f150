//! What each refcount is now, if that can be known, and what it shall be.

use std::{ops::Range, sync::Arc};

use super::super::{
    counts::{Bits, Counts},
    read::span,
    refcounts::Refcounts,
    tally::Tally,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        geometry::Geometry,
        refcount::{block_offset, largest},
    },
    image::budget::Budget,
};

/// Which refcount blocks can be believed.
#[derive(Debug)]
pub(super) struct Believed {
    blocks: Bits,
    /// The table lies in the file as a whole, alone, and so do all blocks that it names.
    pub(super) all: bool,
    table: bool,
}

impl Believed {
    /// Judges table and blocks after all references were counted, the table's and the blocks' own too.
    pub(super) fn judge(tally: &Tally<'_>, budget: &Budget) -> Result<Believed> {
        let (header, geometry) = (tally.structure.header, *tally.structure.geometry());
        let length = tally.structure.file.len()?;
        let alone = |host: Range<u64>| {
            let clusters = host.start >> geometry.cluster_bits..host.end >> geometry.cluster_bits;
            host.end <= length && clusters.into_iter().all(|cluster| tally.counts.get(cluster) == 1)
        };
        let entries = tally.refcounts.table();
        let table_bytes = entries.len() as u64 * 8;
        let table = table_bytes > 0
            && header.refcount_table_offset > 0
            && alone(span(header.refcount_table_offset, table_bytes));
        let mut blocks = Bits::new(entries.len() as u64, budget)?;
        let mut all = table;
        for (index, entry) in entries.iter().enumerate() {
            match block_offset(*entry, index, &geometry) {
                Ok(Some(offset)) if alone(span(offset, geometry.cluster_size())) => {
                    blocks.set(index as u64..index as u64 + 1);
                }
                Ok(None) => {}
                _ => all = false,
            }
        }
        Ok(Believed { blocks, all, table })
    }
}

/// How the refcounts get to what they shall be.
#[derive(Debug)]
pub(super) enum Way {
    /// Some go down where they are.
    InPlace,
    /// All are written anew, and these clusters hold the new ones.
    Anew { own: Range<u64> },
}

/// What each refcount shall be.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    pub(super) geometry: Geometry,
    pub(super) way: Way,
    /// Everything that can refer to clusters was read.
    pub(super) certain: bool,
    /// Clusters of the file.
    pub(super) clusters: u64,
    /// Clusters that references are known of, one more than `clusters` if something reaches behind the end.
    pub(super) checked: u64,
    references: Counts,
    refcounts: Refcounts<'a>,
    believed: Believed,
}

impl<'a> Targets<'a> {
    pub(super) fn new(tally: Tally<'a>, believed: Believed, way: Way) -> Self {
        Targets {
            geometry: *tally.structure.geometry(),
            way,
            certain: tally.report.leaks_are_certain,
            clusters: tally.structure.clusters(),
            checked: tally.checked_clusters(),
            references: tally.counts,
            refcounts: tally.refcounts,
            believed,
        }
    }

    /// How many references a cluster has; [`Counts::MOST`] stands for more, too.
    pub(super) fn references(&self, cluster: u64) -> u64 {
        if cluster < self.checked { self.references.get(cluster) } else { 0 }
    }

    /// Whether none of 64 clusters from `first` on has a reference.
    pub(super) fn group_is_unused(&self, first: u64) -> bool {
        self.references.group_is(first, 0)
    }

    /// The refcount table as it is.
    pub(super) fn old_table(&self) -> Arc<Vec<u64>> {
        self.refcounts.table()
    }

    /// Whether the block of a table entry can be believed.
    pub(super) fn believes_block(&self, index: u64) -> bool {
        index < self.refcounts.table().len() as u64 && self.believed.blocks.any(index..index + 1)
    }

    /// The refcount as it is; `None` when there is no telling.
    pub(super) fn old(&mut self, cluster: u64) -> Result<Option<u64>> {
        let index = cluster / self.geometry.refcount_block_entries();
        match self.refcounts.table().get(index as usize) {
            None | Some(0) => Ok(self.believed.table.then_some(0)),
            Some(_) if self.believed.blocks.any(index..index + 1) => self.refcounts.get(cluster),
            Some(_) => Ok(None),
        }
    }

    /// What the refcount shall be; `None` when it stays as it is and there is no telling what that is.
    pub(super) fn get(&mut self, cluster: u64) -> Result<Option<u64>> {
        match &self.way {
            Way::InPlace => Ok(self.old(cluster)?.map(|old| self.lowered(cluster, old))),
            Way::Anew { own } if own.contains(&cluster) => Ok(Some(1)),
            Way::Anew { .. } => self.counted_anew(cluster).map(Some),
        }
    }

    /// What a refcount goes down to.
    pub(super) fn lowered(&self, cluster: u64, old: u64) -> u64 {
        let references = self.references(cluster);
        match self.certain && cluster < self.checked && references < Counts::MOST {
            true => old.min(references),
            false => old,
        }
    }

    /// A refcount that does not depend on the old one, unless a broken entry may lead to the cluster.
    fn counted_anew(&mut self, cluster: u64) -> Result<u64> {
        let most = largest(self.geometry.refcount_order);
        let references = self.references(cluster);
        if references == Counts::MOST && most > Counts::MOST {
            return match self.old(cluster)? {
                Some(old) if old >= Counts::MOST => Ok(old),
                _ => Err(self.too_many_references(cluster)),
            };
        }
        let references = references.min(most);
        if self.certain {
            return Ok(references);
        }
        // What is unknown in the file may be in use.
        let old = self.old(cluster)?.unwrap_or(u64::from(cluster < self.clusters));
        Ok(references.max(old))
    }

    fn too_many_references(&self, cluster: u64) -> Error {
        let text = format!(
            "the cluster at {:#x} has {} references or more, which cannot be counted; copy the disk to a new image",
            cluster << self.geometry.cluster_bits,
            Counts::MOST
        );
        Error::new(ErrorKind::Limit, text)
    }
}
