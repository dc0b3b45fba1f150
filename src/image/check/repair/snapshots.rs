//! Which snapshots can be kept, and the table that names them.
//!
//! An entry that leads to no tables is given up, with all that only it had. One that only says too little or too much of
//! itself is mended.

use super::{
    super::{
        super::snapshot_table::{Doubt, walk},
        structure::{L1Table, Structure},
    },
    report::LostSnapshots,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        geometry::Geometry,
        header::MAX_SNAPSHOTS,
        snapshot::{MAX_TABLE_BYTES, Snapshot},
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
    _grants: Vec<Grant>,
}

/// What the list of a snapshot and the reason for giving it up take.
const TEXT: u64 = 256;

impl Snapshots {
    /// Looks at all entries.
    pub(super) fn judge(structure: &Structure<'_>, budget: &Budget) -> Result<Snapshots> {
        let header = structure.header;
        let mut snapshots = Snapshots::default();
        let mut grants = Vec::new();
        let walked = walk(structure.file, header, |entry| {
            let snapshot = &entry.found.snapshot;
            grants.push(budget.grant(TEXT + entry.bytes.len() as u64, "snapshot table")?);
            match entry.doubt {
                Some(Doubt::Lost(reason)) => {
                    let named = Some(snapshot).filter(|_| header.snapshots_offset > 0);
                    snapshots.give_up(entry.index, 1, named, reason);
                    return Ok(());
                }
                Some(Doubt::Mendable(reason)) => {
                    let name = printable(&snapshot.name);
                    snapshots.mended.push(format!("snapshot '{name}': {reason}"));
                    completed(snapshot, header.size, &header.geometry).append(&mut snapshots.new_table);
                }
                None => {
                    snapshots.new_table.extend_from_slice(entry.bytes);
                    let padded = snapshots.new_table.len().next_multiple_of(8);
                    memory::grow(&mut snapshots.new_table, padded)?;
                }
            }
            let table = L1Table { offset: snapshot.l1_offset, entries: snapshot.l1_entries };
            snapshots.kept.push((entry.index, table));
            Ok(())
        })?;
        if let Some(rest) = walked.rest {
            snapshots.give_up(rest.first, header.snapshot_count - rest.first, None, rest.reason);
        }
        snapshots.old_bytes = walked.bytes;
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

/// With a disk size, should it lack one: as large as the disk is, and its L1 table tells.
fn completed(snapshot: &Snapshot, disk_size: u64, geometry: &Geometry) -> Snapshot {
    let covered = u64::from(snapshot.l1_entries).saturating_mul(geometry.l2_coverage());
    Snapshot { disk_size: snapshot.disk_size.or(Some(disk_size.min(covered))), ..snapshot.clone() }
}
