//! All refcounts written anew, and a bitmap directory and a snapshot table where those change: a table and blocks for
//! what is referred to, in clusters that nothing refers to and that no refcount claims, the old table and blocks not
//! counted. Where there is room behind the end of the file it is taken; not where that would turn what is missing there
//! into zeros.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

use super::{
    super::{counts::Bits, tally::Tally},
    session::Session,
    targets::Targets,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{geometry::Geometry, header::MAX_REFCOUNT_TABLE_BYTES, refcount},
    image::{
        budget::{Budget, Grant},
        edit::NewTable,
    },
    memory,
    storage::FileKind,
};

/// What is written beside new refcounts; empty where it stays as it is.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) directory: Vec<u8>,
    pub(super) snapshots: Vec<u8>,
}

/// Where new refcounts, and what is written beside them, will lie: table, blocks, bitmap directory, snapshot table, side
/// by side.
#[derive(Debug)]
pub(super) struct Layout {
    first: u64,
    table_clusters: u64,
    /// Indices in the table of the blocks that there will be, ascending.
    blocks: Vec<u64>,
    directory_clusters: u64,
    snapshot_clusters: u64,
    _grant: Option<Grant>,
}

/// What is known about room for new clusters.
#[derive(Debug)]
pub(super) struct Room {
    /// Clusters that something referred to when everything was counted, broken things too.
    pub(super) taken: Bits,
    /// A file that grows beyond this offset comes to hold what something refers to behind its end.
    pub(super) growth_limit: u64,
    /// Only a regular file grows.
    pub(super) kind: FileKind,
}

/// The clusters that have a reference, and all that may belong to what begins in the file and ends far behind it.
pub(super) fn taken(tally: &Tally<'_>, budget: &Budget) -> Result<Bits> {
    let clusters = tally.structure.clusters() + 1;
    let mut taken = Bits::new(clusters, budget)?;
    for first in (0..clusters).step_by(64) {
        let group = (first..clusters.min(first + 64)).filter(|cluster| tally.counts.get(*cluster) > 0);
        taken.set_group(first, group.fold(0, |bits, cluster| bits | 1 << (cluster - first)));
    }
    taken.set(tally.reaches_out >> tally.structure.geometry().cluster_bits..clusters);
    Ok(taken)
}

impl Layout {
    /// Finds room; `None` when there is none.
    pub(super) fn find(
        targets: &mut Targets<'_>,
        room: &Room,
        beside: &Beside,
        budget: &Budget,
    ) -> Result<Option<Layout>> {
        let per_block = targets.geometry.refcount_block_entries();
        let blocks = targets.checked / per_block + targets.old_table().len() as u64;
        let grant = budget.grant(blocks * 24, "new refcount table")?;
        let used = used_blocks(targets)?;
        let behind = Layout::at(targets.checked, &used, beside, targets)?;
        let end = behind.own().end << targets.geometry.cluster_bits;
        if room.kind == FileKind::Regular && end <= room.growth_limit {
            return Ok(Some(Layout { _grant: Some(grant), ..behind }));
        }
        // Elsewhere its own clusters may need more blocks: a row of blocks, each for 64 clusters or more.
        let most = behind.clusters() + behind.clusters() / 32 + 3;
        match find_inside(targets, room, most)? {
            Some(first) => {
                let inside = Layout::at(first, &used, beside, targets)?;
                Ok(Some(Layout { _grant: Some(grant), ..inside }))
            }
            None => Ok(None),
        }
    }

    /// The layout from cluster `first` on: its own clusters need blocks, too.
    fn at(first: u64, used: &[u64], beside: &Beside, targets: &Targets<'_>) -> Result<Layout> {
        let geometry = targets.geometry;
        let per_block = geometry.refcount_block_entries();
        let blocks = memory::copied(used)?;
        let clusters = |bytes: &[u8]| geometry.clusters_for(bytes.len() as u64);
        let (directory_clusters, snapshot_clusters) =
            (clusters(&beside.directory), clusters(&beside.snapshots));
        let mut layout =
            Layout { first, table_clusters: 1, blocks, directory_clusters, snapshot_clusters, _grant: None };
        loop {
            let own = layout.own();
            let before = own.end;
            let blocks = own.start / per_block..(own.end - 1) / per_block + 1;
            memory::reserve(&mut layout.blocks, (blocks.end - blocks.start) as usize)?;
            layout.blocks.extend(blocks);
            layout.blocks.sort_unstable();
            layout.blocks.dedup();
            let entries = layout.blocks.last().map_or(1, |last| last + 1);
            layout.table_clusters = geometry.clusters_for(entries * 8);
            if layout.table_clusters << geometry.cluster_bits > MAX_REFCOUNT_TABLE_BYTES {
                let text = "the image needs a refcount table over 8 MiB";
                return Err(Error::new(ErrorKind::Limit, text));
            }
            if layout.own().end == before {
                return Ok(layout);
            }
        }
    }

    fn clusters(&self) -> u64 {
        self.table_clusters + self.blocks.len() as u64 + self.directory_clusters + self.snapshot_clusters
    }

    /// All clusters of the layout.
    pub(super) fn own(&self) -> Range<u64> {
        self.first..self.first + self.clusters()
    }

    /// For the header.
    pub(super) fn table(&self, geometry: &Geometry) -> NewTable {
        NewTable { offset: self.first << geometry.cluster_bits, clusters: self.table_clusters }
    }

    /// Where the bitmap directory goes.
    pub(super) fn directory_offset(&self, geometry: &Geometry) -> u64 {
        (self.own().end - self.snapshot_clusters - self.directory_clusters) << geometry.cluster_bits
    }

    /// Where the snapshot table goes.
    pub(super) fn snapshots_offset(&self, geometry: &Geometry) -> u64 {
        (self.own().end - self.snapshot_clusters) << geometry.cluster_bits
    }

    /// Writes all of it, `targets` knowing that these clusters are taken.
    pub(super) fn write(
        &self,
        session: &mut Session<'_>,
        targets: &mut Targets<'_>,
        beside: &Beside,
    ) -> Result<()> {
        let geometry = targets.geometry;
        let mut block = memory::zeroed(geometry.cluster_size() as usize)?;
        let mut table = memory::zeroed((self.table_clusters << geometry.cluster_bits) as usize)?;
        for (number, index) in self.blocks.iter().enumerate() {
            let offset = (self.first + self.table_clusters + number as u64) << geometry.cluster_bits;
            fill_block(&mut block, targets, *index)?;
            session.write(&block, offset)?;
            BigEndian::write_u64(&mut table[*index as usize * 8..], offset);
        }
        session.write(&table, self.first << geometry.cluster_bits)?;
        let parts = [
            (&beside.directory, self.directory_clusters, self.directory_offset(&geometry)),
            (&beside.snapshots, self.snapshot_clusters, self.snapshots_offset(&geometry)),
        ];
        for (bytes, clusters, offset) in parts.into_iter().filter(|(bytes, ..)| !bytes.is_empty()) {
            let mut padded = memory::zeroed((clusters << geometry.cluster_bits) as usize)?;
            padded[..bytes.len()].copy_from_slice(bytes);
            session.write(&padded, offset)?;
        }
        Ok(())
    }
}

/// Fills a refcount block; whether any of it is not zero.
fn fill_block(block: &mut [u8], targets: &mut Targets<'_>, index: u64) -> Result<bool> {
    let geometry = targets.geometry;
    let per_block = geometry.refcount_block_entries();
    block.fill(0);
    let mut any = false;
    for entry in 0..per_block {
        let cluster = index * per_block + entry;
        let count = targets.get(cluster)?.unwrap_or(0);
        if count > 0 {
            any = true;
            refcount::set(block, geometry.refcount_order, entry as usize, count);
        }
    }
    Ok(any)
}

/// The blocks that existing clusters need.
fn used_blocks(targets: &mut Targets<'_>) -> Result<Vec<u64>> {
    let per_block = targets.geometry.refcount_block_entries();
    // Refcounts behind the end stay only where a broken entry may lead there.
    let old = if targets.certain { 0 } else { targets.old_table().len() as u64 };
    let mut block = memory::zeroed(targets.geometry.cluster_size() as usize)?;
    let mut used = Vec::new();
    for index in 0..old.max(targets.checked.div_ceil(per_block)) {
        let clusters = index * per_block..(index + 1) * per_block;
        let unused = || clusters.clone().step_by(64).all(|first| targets.group_is_unused(first));
        // Where nothing is counted, only a block that can be believed has refcounts that stay.
        let known = clusters.start < targets.checked || targets.believes_block(index);
        if !known || targets.certain && unused() {
            continue;
        }
        if fill_block(&mut block, targets, index)? {
            memory::push(&mut used, index)?;
        }
    }
    Ok(used)
}

/// The first of `count` clusters in a row, in the file, that nothing refers to and no refcount claims.
fn find_inside(targets: &mut Targets<'_>, room: &Room, count: u64) -> Result<Option<u64>> {
    let mut found = 0;
    // The last cluster may be cut short.
    for cluster in 1..targets.clusters.saturating_sub(1) {
        let mut free = !room.taken.any(cluster..cluster + 1) && targets.references(cluster) == 0;
        if free {
            free = targets.old(cluster)?.map_or(targets.certain, |refcount| refcount == 0);
        }
        found = if free { found + 1 } else { 0 };
        if found == count {
            return Ok(Some(cluster + 1 - count));
        }
    }
    Ok(None)
}
