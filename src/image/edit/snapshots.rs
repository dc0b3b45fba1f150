//! Taking and deleting internal snapshots, as a part of a change.
//!
//! A new snapshot takes over the L1 table of the disk and what that leads to, as it lies there. The disk gets another
//! L1 table, and a copy of each L2 table in which a flag tells that a cluster has one user alone, for now it has two; a
//! table without such flags is shared. When a snapshot goes, clusters that only the disk has left get their flags back,
//! in copies of its tables again. Nothing that the old header leads to is written, so that header and refcounts fit
//! each other at any moment.

use byteorder::{BigEndian, ByteOrder};
use zerocopy::{FromBytes, big_endian::U64};

use super::{Edit, NewDisk, SnapshotPlan, SnapshotTable};
use crate::{
    error::Result,
    format::{
        l1,
        l2::{self, COMPRESSED, COPIED},
    },
    image::{Grant, Qcow2, read_table},
    memory,
};

/// What the header shall say of the snapshots of an image and of the disk's tables; nothing where they stay.
#[derive(Debug, Default)]
pub(crate) struct NewSnapshots {
    pub(crate) table: Option<SnapshotTable>,
    pub(crate) disk: Option<NewDisk>,
    /// Tables of the disk are free afterwards, in place of which it has others.
    pub(crate) frees_tables: bool,
}

impl Edit<'_> {
    /// Writes what a plan for the snapshots needs. What speaks against it comes before anything is written.
    pub(crate) fn change_snapshots(&mut self, plan: &SnapshotPlan<'_>) -> Result<NewSnapshots> {
        if plan.is_empty() {
            return Ok(NewSnapshots::default());
        }
        let takes_old = plan.new.is_some();
        let (table, _grant) = self.count_references(plan)?;
        let disk = self.write_active_tables(takes_old)?;
        let table = Some(self.write_snapshot_table(table, plan.count())?);
        Ok(NewSnapshots { table, disk, frees_tables: disk.is_some() && !takes_old })
    }

    /// Refuses a plan that cannot be carried out. Changes nothing.
    pub(crate) fn rehearse_snapshots(mut self, plan: &SnapshotPlan<'_>) -> Result<()> {
        if plan.is_empty() { Ok(()) } else { self.count_references(plan).map(drop) }
    }

    /// Counts what a plan makes of the references to clusters; returns the snapshot table that there will be.
    fn count_references(&mut self, plan: &SnapshotPlan<'_>) -> Result<(Vec<u8>, Grant)> {
        let table = plan.table()?;
        for snapshot in plan.deleted() {
            self.lose_tables(snapshot.l1_offset, snapshot.l1_entries)?;
        }
        if plan.new.is_some() {
            self.gain_data()?;
        }
        self.clusters.ensure_refcounts_fit()?;
        Ok(table)
    }

    /// What the L1 table of a snapshot leads to, and itself, is not referred to by that any more.
    fn lose_tables(&mut self, l1_offset: u64, entries: u32) -> Result<()> {
        let (top, bytes) = (self.image, u64::from(entries) * 8);
        let mut grants = Vec::new();
        let what = "L1 table of a snapshot";
        let table = read_table(top.file(), l1_offset, bytes, what, top.budget(), &mut grants)?;
        self.clusters.lose(&(l1_offset..l1_offset + bytes))?;
        for_each_l2_table(top, table.iter().copied(), |_, offset, table| {
            self.clusters.lose(&(offset..offset + top.geometry().cluster_size()))?;
            for entry in table.chunks_exact(top.geometry().l2_entry_size() as usize) {
                let host = l2::host_range(BigEndian::read_u64(entry), top.geometry());
                if !host.is_empty() {
                    self.clusters.lose(&host)?;
                }
            }
            Ok(())
        })
    }

    /// What the L2 tables of the disk lead to is referred to once more. Refuses entries that cannot be.
    fn gain_data(&mut self) -> Result<()> {
        let top = self.image;
        let geometry = *top.geometry();
        for_each_l2_table(top, top.l1(), |index, _, table| {
            let first = index as u64 * geometry.l2_coverage();
            let words = <[U64]>::ref_from_bytes(table).unwrap_or_default();
            for (number, entry) in words.chunks_exact((geometry.l2_entry_size() / 8) as usize).enumerate() {
                top.decode(first + ((number as u64) << geometry.cluster_bits), entry)?;
                let host = l2::host_range(entry[0].get(), &geometry);
                if !host.is_empty() {
                    self.clusters.gain(&host)?;
                }
            }
            Ok(())
        })
    }

    /// Writes the tables of the disk that change, each to a new place; those at the old places go, or belong to a new
    /// snapshot. `None` if none changes.
    fn write_active_tables(&mut self, snapshot_takes_old: bool) -> Result<Option<NewDisk>> {
        let top = self.image;
        let geometry = top.geometry();
        let bytes = top.l1().len() as u64 * 8;
        let _grant = top.budget().grant(bytes * 2, "new L1 table")?;
        let mut new: Vec<u64> = memory::collected(top.l1())?;
        for_each_l2_table(top, top.l1(), |index, offset, table| {
            let own = offset..offset + geometry.cluster_size();
            let cluster = offset >> geometry.cluster_bits;
            let changes = self.set_copied_flags(table)?;
            if changes || (snapshot_takes_old && !self.clusters.can_gain(cluster)?) {
                let offset = self.allocate(1)?;
                self.write(offset, table)?;
                new[index] = offset | l1::COPIED;
                if !snapshot_takes_old {
                    self.clusters.lose(&own)?;
                }
                return Ok(());
            }
            if snapshot_takes_old {
                self.clusters.gain(&own)?;
            }
            if self.clusters.is_touched(cluster) {
                let copied = self.clusters.refcount_after(cluster)? == 1;
                new[index] = offset | if copied { l1::COPIED } else { 0 };
            }
            Ok(())
        })?;
        if new.is_empty() || (top.l1().eq(new.iter().copied()) && !snapshot_takes_old) {
            return Ok(None);
        }
        let header = top.header();
        if !snapshot_takes_old {
            self.release(header.l1_offset..header.l1_offset + bytes);
        }
        let clusters = geometry.clusters_for(bytes);
        let mut table = memory::zeroed((clusters << geometry.cluster_bits) as usize)?;
        BigEndian::write_u64_into(&new, &mut table[..bytes as usize]);
        let l1_offset = self.allocate(clusters)?;
        self.write(l1_offset, &table)?;
        Ok(Some(NewDisk { size: header.size, l1_offset, l1_entries: header.l1_entries }))
    }

    /// Sets the flags in an L2 table as the refcounts will be; false if they are so.
    fn set_copied_flags(&mut self, table: &mut [u8]) -> Result<bool> {
        let geometry = self.image.geometry();
        let mut differences = Vec::new();
        for (number, entry) in table.chunks_exact(geometry.l2_entry_size() as usize).enumerate() {
            let word = BigEndian::read_u64(entry);
            let host = l2::host_range(word, geometry);
            let cluster = host.start >> geometry.cluster_bits;
            if word & COMPRESSED != 0 || host.is_empty() || !self.clusters.is_touched(cluster) {
                continue;
            }
            let copied = self.clusters.refcount_after(cluster)? == 1;
            if copied != (word & COPIED != 0) {
                differences.push(number);
            }
        }
        for number in &differences {
            // The flag is the first bit of an entry.
            table[number * geometry.l2_entry_size() as usize] ^= (COPIED >> 56) as u8;
        }
        Ok(!differences.is_empty())
    }

    /// Writes the snapshot table, of so many snapshots.
    fn write_snapshot_table(&mut self, mut table: Vec<u8>, count: u32) -> Result<SnapshotTable> {
        let top = self.image;
        let old = top.header().snapshots_offset;
        self.release(old..old + top.snapshot_bytes());
        if count == 0 {
            return Ok(SnapshotTable { count, offset: 0 });
        }
        let clusters = top.geometry().clusters_for(table.len() as u64);
        memory::grow(&mut table, (clusters << top.geometry().cluster_bits) as usize)?;
        let offset = self.allocate(clusters)?;
        self.write(offset, &table)?;
        Ok(SnapshotTable { count, offset })
    }
}

/// Reads the L2 tables that an L1 table leads to, one at a time; `see` has the index of the L1 entry and the offset of
/// the table.
fn for_each_l2_table(
    image: &Qcow2,
    l1: impl Iterator<Item = u64>,
    mut see: impl FnMut(usize, u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut table = memory::zeroed(image.geometry().cluster_size() as usize)?;
    for (index, entry) in l1.enumerate() {
        if let Some(offset) = l1::l2_table_offset(entry, index, image.geometry())? {
            image.file().read_exact(&mut table, offset, "L2 table")?;
            see(index, offset, &mut table)?;
        }
    }
    Ok(())
}
