//! The host clusters of an image that is being changed: which are free, which are ours alone, and the order in
//! which their refcounts become durable.

use std::ops::Range;

use super::{
    header::{HeaderChange, NewHeader, clear_mark, clear_unknown_autoclear, mark_staged},
    refcounts::{NewTable, Refcounts},
    reference_delta::ReferenceDelta,
    references::References,
};
use crate::{
    error::{ErrorKind, Result},
    format::{geometry::Geometry, header::incompatible},
    image::Qcow2,
    storage::File,
};

/// The clusters of one image. Nothing of them is given away unless both its refcount and the references that
/// were counted are zero, and nothing is written in place unless both are one: so neither a wrong refcount nor
/// a wrong table costs data.
#[derive(Debug)]
pub(crate) struct Clusters {
    pub(super) file: File,
    pub(super) geometry: Geometry,
    pub(super) references: References,
    pub(super) refcounts: Refcounts,
    /// What is referred to more or less often, once the change is published.
    pub(super) delta: ReferenceDelta,
    /// What has lost a reference, once the change is published.
    released: Vec<Range<u64>>,
    /// Unknown autoclear bits are gone from the file.
    prepared: bool,
    /// The header on disk has the mark of a staged change.
    marked: bool,
}

/// A header that is ready to be written.
#[derive(Debug)]
pub(crate) struct Decision {
    header: NewHeader,
    /// The refcount table that it names, if that moves.
    table: Option<NewTable>,
}

impl Decision {
    pub(crate) fn sector(&self) -> &[u8] {
        self.header.sector()
    }
}

impl Clusters {
    /// Begins a change. Refuses an image that cannot be trusted to say what is free.
    pub(crate) fn begin(image: &Qcow2) -> Result<Self> {
        image.file().ensure_writable()?;
        let refuse = |text: &str| Err(image.file().error(ErrorKind::Corrupt, text));
        if image.header().has(incompatible::CORRUPT) {
            return refuse("the image is marked as corrupt; repair it first (holstein check --repair all)");
        }
        if image.header().has(incompatible::DIRTY) {
            return refuse(
                "the refcounts are marked as stale; repair the image first (holstein check --repair all)",
            );
        }
        image.ensure_snapshots_known()?;
        let references = References::collect(image).map_err(|e| e.in_file(image.file().path()))?;
        Ok(Clusters {
            file: image.file().clone(),
            geometry: *image.geometry(),
            delta: ReferenceDelta::new(references.len(), image.budget()),
            references,
            refcounts: Refcounts::new(image)?,
            released: Vec::new(),
            prepared: false,
            marked: false,
        })
    }

    /// What has to be durable before the first write.
    pub(crate) fn prepare_to_write(&mut self, image: &Qcow2) -> Result<()> {
        if !self.prepared && clear_unknown_autoclear(&self.file, image.header())? {
            self.file.sync()?;
        }
        self.prepared = true;
        Ok(())
    }

    /// Takes up to `wanted` free clusters, at least one, that follow each other; returns their range.
    pub(crate) fn allocate(&mut self, wanted: u64) -> Result<Range<u64>> {
        let (first, count) = self.refcounts.allocate(&mut self.references, wanted)?;
        let bits = self.geometry.cluster_bits;
        Ok(first << bits..(first + count) << bits)
    }

    /// Takes `clusters` free clusters in a row, and returns their offset.
    pub(crate) fn allocate_row(&mut self, clusters: u64) -> Result<u64> {
        let first = self.refcounts.allocate_row(&mut self.references, clusters)?;
        Ok(first << self.geometry.cluster_bits)
    }

    /// Whether the cluster at `offset` has one user alone, so that this one may write it in place.
    pub(crate) fn is_exclusive(&mut self, offset: u64) -> Result<bool> {
        let cluster = offset >> self.geometry.cluster_bits;
        Ok(self.references.get(cluster) == 1 && self.refcounts.get(cluster)? == 1)
    }

    /// Takes one reference from each cluster that a range touches, once the change is published.
    pub(crate) fn release(&mut self, range: Range<u64>) {
        self.released.push(range);
    }

    /// How many ranges wait to be given back.
    pub(crate) fn waiting(&self) -> usize {
        self.released.len()
    }

    /// Makes refcounts durable, and everything else that was written: what will be referred to is owned. Returns
    /// the header that decides on `change`, or on a refcount table that had to grow; `None` if nothing is to be
    /// decided.
    pub(crate) fn own(&mut self, image: &Qcow2, change: Option<HeaderChange>) -> Result<Option<Decision>> {
        self.move_blocks()?;
        let table = self.refcounts.write_new_table(&mut self.references)?;
        let decided_later = change.as_ref().is_some_and(|change| change.decided_later);
        let decision = match (change, table) {
            (None, None) => None,
            (change, refcount_table) => {
                let change = HeaderChange { refcount_table, ..change.unwrap_or_default() };
                let header = NewHeader::build(&self.file, image.header(), &change)?;
                Some(Decision { header, table })
            }
        };
        if let Some(decision) = &decision {
            decision.header.write_outside(&self.file)?;
        }
        self.refcounts.write_blocks()?;
        self.write_moved_blocks()?;
        if decided_later {
            self.marked = mark_staged(&self.file, image.header())?;
        }
        self.file.sync()?;
        if self.refcounts.hook_blocks()? {
            self.file.sync()?;
        }
        if table.is_none() {
            self.refcounts.published(None);
        }
        Ok(decision)
    }

    /// Writes the deciding sector, durably; returns the place of the refcount table that was replaced. On an error
    /// nobody knows which of the two headers is there.
    pub(crate) fn decide(&mut self, decision: &Decision) -> Result<Option<NewTable>> {
        decision.header.publish(&self.file)?;
        self.released.extend(self.refcounts.old_blocks());
        Ok(self.refcounts.published(decision.table))
    }

    /// Gives back what was taken for a change that is not made; what the change would have released stays.
    pub(crate) fn abandon(&mut self, image: &Qcow2, taken: Vec<Range<u64>>) -> Result<()> {
        // One that stays does no harm.
        if std::mem::take(&mut self.marked) {
            let _ = clear_mark(&self.file, image.header());
        }
        self.released = taken;
        self.released.extend(self.refcounts.stay());
        self.give_back()
    }

    /// Lets the refcounts of what was released go down, as the change is published. Nothing is given back that
    /// something else refers to.
    pub(crate) fn give_back(&mut self) -> Result<()> {
        for range in std::mem::take(&mut self.released) {
            let bits = self.geometry.cluster_bits;
            for cluster in range.start >> bits..range.end.div_ceil(self.geometry.cluster_size()) {
                let left = self.references.drop_one(cluster);
                let refcount = self.refcounts.get(cluster)?;
                if refcount > left {
                    self.refcounts.lower(cluster, refcount - 1)?;
                }
            }
        }
        self.refcounts.write_blocks()
    }
}
