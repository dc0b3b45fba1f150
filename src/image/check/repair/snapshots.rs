//! Which snapshots can be kept, and the table that names them.
//!
//! An entry that leads to no tables is given up, with all that only it had. One that only says too little or too much of
//! itself is mended. All of them are given up only where their table was, beyond doubt: not where the header may name a
//! wrong place, and the table lies somewhere else.

use std::ops::Range;

use super::{
    super::{
        super::snapshot_table::{Doubt, Entry, Item, Unread, walk},
        read::read_padded,
        structure::L1Table,
        tally::Tally,
    },
    report::LostSnapshots,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        geometry::Geometry,
        header::MAX_SNAPSHOTS,
        snapshot::{self, MAX_TABLE_BYTES, Snapshot},
        text::printable,
    },
    image::budget::{Budget, Grant},
    memory,
};

/// The snapshots of an image, judged.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Their places in the old table, and their L1 tables.
    pub(super) kept: Vec<(u32, L1Table)>,
    pub(super) lost: Vec<LostSnapshots>,
    pub(super) mended: Vec<String>,
    /// Bytes of the old table.
    pub(super) old_bytes: u64,
    /// The table of those that are kept, if it has to be written anew.
    pub(super) new_table: Vec<u8>,
    /// Something in the old table is a snapshot for sure.
    recognized: bool,
    _grants: Vec<Grant>,
}

/// What the list of a snapshot and the reason for giving it up take.
const TEXT: u64 = 256;

/// How much of a cluster is searched for the beginning of a table.
const SEARCHED: u64 = 4096;

impl Snapshots {
    /// Looks at all entries.
    pub(super) fn judge(tally: &mut Tally<'_>, budget: &Budget) -> Result<Snapshots> {
        let (file, header) = (tally.structure.file, tally.structure.header);
        let mut snapshots = Snapshots::default();
        let mut grants = Vec::new();
        let bytes = walk(file, header, |item| match item {
            Item::Entry(entry) => {
                grants.push(budget.grant(TEXT + entry.bytes.len() as u64, "snapshot table")?);
                snapshots.judge_entry(&entry, tally)
            }
            Item::Gap(unread) if unread.count == 0 => {
                grants.push(budget.grant(TEXT, "snapshot table")?);
                snapshots.mended.push(unread.to_string());
                Ok(())
            }
            Item::Gap(unread) | Item::Rest(unread) => {
                grants.push(budget.grant(TEXT, "snapshot table")?);
                let Unread { first, count, reason, .. } = unread;
                snapshots.give_up(first, count, None, reason);
                Ok(())
            }
        })?;
        snapshots.old_bytes = bytes;
        snapshots._grants = grants;
        if !snapshots.is_changed() {
            snapshots.new_table.clear();
        } else if snapshots.new_table.len() as u64 > MAX_TABLE_BYTES {
            let text = "the snapshot table would be larger than 64 MiB";
            return Err(Error::new(ErrorKind::Limit, text));
        }
        debug_assert!(snapshots.kept.len() <= MAX_SNAPSHOTS as usize);
        Ok(snapshots)
    }

    fn judge_entry(&mut self, entry: &Entry<'_>, tally: &mut Tally<'_>) -> Result<()> {
        let header = tally.structure.header;
        let snapshot = &entry.found.snapshot;
        let named = snapshot.has_plain_name() && header.snapshots_offset > 0;
        // What is found behind damage could be data that happens to lie there.
        let strange = entry.searched && !is_of_table(entry.at..entry.at + entry.bytes.len() as u64, tally)?;
        match &entry.doubt {
            _ if strange => {
                let reason = "it lies where something else lies, too".to_owned();
                self.give_up(entry.index, 1, None, reason);
                return Ok(());
            }
            Some(Doubt::Lost(reason)) => {
                self.recognized |= named;
                let named = Some(snapshot).filter(|_| header.snapshots_offset > 0);
                self.give_up(entry.index, 1, named, reason.clone());
                return Ok(());
            }
            Some(Doubt::Mendable(reason)) => {
                let name = printable(&snapshot.name);
                self.mended.push(format!("snapshot '{name}': {reason}"));
                memory::reserve(&mut self.new_table, snapshot::LARGEST_ENTRY + 8)?;
                completed(snapshot, header.size, &header.geometry).append(&mut self.new_table);
            }
            None => {
                let padded = (self.new_table.len() + entry.bytes.len()).next_multiple_of(8);
                memory::reserve(&mut self.new_table, entry.bytes.len() + 8)?;
                self.new_table.extend_from_slice(entry.bytes);
                self.new_table.resize(padded, 0);
            }
        }
        self.recognized |= named || (entry.doubt.is_none() && snapshot.l1_entries > 0);
        let table = L1Table { offset: snapshot.l1_offset, entries: snapshot.l1_entries };
        memory::push(&mut self.kept, (entry.index, table))
    }

    /// Why nothing of the table can be repaired, if the header names a place where it is not.
    pub(super) fn misplaced(&self, tally: &mut Tally<'_>) -> Result<Option<String>> {
        let header = tally.structure.header;
        let (count, at) = (header.snapshot_count, header.snapshots_offset);
        if count == 0 || self.recognized {
            return Ok(None);
        }
        let found = find_table(tally)?;
        let is_in_file = at < tally.structure.end;
        // A table that was overwritten still has its clusters to itself. One behind the end was cut off with the rest.
        let was_here = at > 0
            && header.geometry.is_aligned(at)
            && i64::try_from(at).is_ok()
            && (!is_in_file || is_of_table(at..at + 1, tally)?);
        if was_here && found.is_none() {
            return Ok(None);
        }
        let found = found.map(|place| format!(" one seems to lie at {place:#x};")).unwrap_or_default();
        Ok(Some(format!(
            "nothing was repaired: the header counts {count} snapshots, and at {at:#x}, the place that it names, is no \
             snapshot table;{found} copy the disk to a new image to go on without the snapshots"
        )))
    }

    /// Whether the table is written anew.
    pub(super) fn is_changed(&self) -> bool {
        !self.lost.is_empty() || !self.mended.is_empty()
    }

    fn give_up(&mut self, first: u32, count: u32, snapshot: Option<&Snapshot>, reason: String) {
        let name = snapshot.map(|snapshot| snapshot.name.clone()).filter(|name| !name.is_empty());
        if let Some(last) = self.lost.last_mut()
            && (last.name.is_none() && name.is_none())
            && (last.first + last.count == first && last.reason == reason)
        {
            last.count += count;
            return;
        }
        self.lost.push(LostSnapshots { first, count, name, reason });
    }
}

/// Whether clusters belong to the snapshot table that the header names, and to nothing else.
fn is_of_table(host: Range<u64>, tally: &mut Tally<'_>) -> Result<bool> {
    let (structure, bits) = (tally.structure, tally.structure.geometry().cluster_bits);
    let table = structure.header.snapshots_offset;
    let counted = table.saturating_add(structure.snapshot_bytes);
    let refcount = tally.refcounts.get(table >> bits)?;
    for cluster in host.start >> bits..host.end.div_ceil(1 << bits) {
        let references = u64::from(cluster << bits < counted);
        if cluster >= structure.clusters()
            || tally.counts.get(cluster) != references
            || refcount == Some(0)
            || tally.refcounts.get(cluster)? != refcount
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first cluster that is in use for nothing known and looks like a snapshot table.
fn find_table(tally: &mut Tally<'_>) -> Result<Option<u64>> {
    let structure = tally.structure;
    let (header, geometry) = (structure.header, *structure.geometry());
    let mut bytes = memory::zeroed(geometry.cluster_size().min(SEARCHED) as usize)?;
    for cluster in 1..structure.clusters() {
        if tally.counts.get(cluster) > 0 || tally.refcounts.get(cluster)? == Some(0) {
            continue;
        }
        let at = cluster << geometry.cluster_bits;
        read_padded(structure.file, &mut bytes, at)?;
        let is_entry = |start: &usize| {
            let found = snapshot::find(&bytes[*start..], header.version, &geometry, structure.end);
            found.is_some()
        };
        if (0..bytes.len()).step_by(8).any(|start| is_entry(&start)) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// With a disk size, should it lack one: as large as the disk is, and its L1 table tells.
fn completed(snapshot: &Snapshot, disk_size: u64, geometry: &Geometry) -> Snapshot {
    let covered = u64::from(snapshot.l1_entries).saturating_mul(geometry.l2_coverage());
    Snapshot { disk_size: snapshot.disk_size.or(Some(disk_size.min(covered))), ..snapshot.clone() }
}
