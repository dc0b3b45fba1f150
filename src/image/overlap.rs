//! Metadata must not lie on metadata: an image whose tables overlap is refused when it is opened.
//!
//! Known from then on is what a reader trusts: header, L1 and L2 tables, refcount table and blocks, snapshot
//! table, the L1 tables of snapshots, and the bitmap directory. Guest data on them is refused when it is
//! mapped. The tables of bitmaps are checked when a bitmap is used.

use std::{fmt, ops::Range};

use super::{Qcow2, budget::Grant, qcow2::read_table};
use crate::{
    error::Result,
    format::{corrupt, l1, l2, refcount},
    memory,
};

/// What a piece of metadata is; the number is its index in the table it is found from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    Header,
    L1Table,
    L2Table(u32),
    RefcountTable,
    RefcountBlock(u32),
    SnapshotTable,
    SnapshotL1Table(u32),
    BitmapDirectory,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Header => f.write_str("the header"),
            Owner::L1Table => f.write_str("the L1 table"),
            Owner::L2Table(index) => write!(f, "the L2 table of L1 entry {index}"),
            Owner::RefcountTable => f.write_str("the refcount table"),
            Owner::RefcountBlock(index) => write!(f, "refcount block {index}"),
            Owner::SnapshotTable => f.write_str("the snapshot table"),
            Owner::SnapshotL1Table(index) => write!(f, "the L1 table of snapshot {index}"),
            Owner::BitmapDirectory => f.write_str("the bitmap directory"),
        }
    }
}

/// The host ranges of an image's metadata, none on another.
#[derive(Debug, Default)]
pub(crate) struct MetadataMap {
    /// Ascending.
    parts: Vec<(Range<u64>, Owner)>,
    _grant: Option<Grant>,
}

impl MetadataMap {
    /// Refuses an image whose metadata overlaps or is cut short by the end of the file, or whose L1 or
    /// refcount table has invalid entries.
    pub(crate) fn new(image: &Qcow2) -> Result<Self> {
        let tables = image.l1().filter(|entry| *entry != 0).count();
        let blocks = image.refcount_table().iter().filter(|entry| **entry != 0).count();
        let count = tables + blocks + image.known_snapshots().len() + 8;
        let bytes = (count * size_of::<(Range<u64>, Owner)>()) as u64;
        let grant = image.budget().grant(bytes, "list of tables")?;

        let mut parts = Vec::new();
        memory::reserve(&mut parts, count)?;
        for_each_own_range(image, |range, owner| parts.push((range, owner)))?;
        parts.sort_unstable_by_key(|(range, _)| range.start);
        for pair in parts.windows(2) {
            let [(first, owner), (second, other)] = pair else { continue };
            if first.end > second.start {
                let text =
                    format!("{other} (at {:#x}) lies on {owner} (at {:#x})", second.start, first.start);
                return Err(corrupt(text));
            }
        }
        let length = image.file().len()?;
        match parts.last() {
            // The header's cluster may be cut short; what is needed of it has been read.
            Some((range, owner)) if range.end > length && range.start > 0 => {
                let text = format!(
                    "{owner} (at {:#x}) does not lie in the file, which ends at {length:#x}",
                    range.start
                );
                Err(corrupt(text))
            }
            _ => Ok(MetadataMap { parts, _grant: Some(grant) }),
        }
    }

    /// What lies in a host range, if anything does.
    pub(crate) fn find(&self, host: &Range<u64>) -> Option<Owner> {
        let behind = self.parts.partition_point(|(part, _)| part.start < host.end);
        let (part, owner) = self.parts[..behind].last()?;
        (part.end > host.start).then_some(*owner)
    }
}

/// The metadata that has one owner each.
fn for_each_own_range(image: &Qcow2, mut see: impl FnMut(Range<u64>, Owner)) -> Result<()> {
    let (header, geometry) = (image.header(), image.geometry());
    let mut add = |offset: u64, bytes: u64, owner| match offset.checked_add(bytes) {
        Some(end) if bytes > 0 => {
            see(offset..end, owner);
            Ok(())
        }
        Some(_) => Ok(()),
        None => Err(corrupt(format!("{owner} (at {offset:#x}) does not lie in the file"))),
    };
    add(0, geometry.cluster_size(), Owner::Header)?;
    add(header.l1_offset, image.l1().len() as u64 * 8, Owner::L1Table)?;
    add(header.refcount_table_offset, image.refcount_table().len() as u64 * 8, Owner::RefcountTable)?;
    let table_bytes = if image.snapshot_damage().is_none() { image.snapshot_bytes() } else { 0 };
    add(header.snapshots_offset, table_bytes, Owner::SnapshotTable)?;
    if let Some(bitmaps) = header.extensions.bitmaps.as_ref().filter(|_| header.bitmaps_are_current()) {
        add(bitmaps.directory_offset.get(), bitmaps.directory_size.get(), Owner::BitmapDirectory)?;
    }
    for (index, snapshot) in image.known_snapshots().iter().enumerate() {
        add(snapshot.l1_offset, u64::from(snapshot.l1_entries) * 8, Owner::SnapshotL1Table(index as u32))?;
    }
    for (index, entry) in image.refcount_table().iter().enumerate() {
        if let Some(offset) = refcount::block_offset(*entry, index, geometry)? {
            add(offset, geometry.cluster_size(), Owner::RefcountBlock(index as u32))?;
        }
    }
    for (index, entry) in image.l1().enumerate() {
        if let Some(offset) = l1::l2_table_offset(entry, index, geometry)? {
            add(offset, geometry.cluster_size(), Owner::L2Table(index as u32))?;
        }
    }
    Ok(())
}

/// The host ranges of all metadata but the bitmaps' own, those of snapshots included.
pub(crate) fn for_each_metadata_range(
    image: &Qcow2,
    mut see: impl FnMut(Range<u64>, &dyn fmt::Display),
) -> Result<()> {
    for_each_own_range(image, |range, owner| see(range, &owner))?;
    for_each_snapshot_l2_table(image, |offset| {
        see(offset..offset + image.geometry().cluster_size(), &"an L2 table of a snapshot");
    })
}

fn for_each_snapshot_l2_table(image: &Qcow2, mut see: impl FnMut(u64)) -> Result<()> {
    for snapshot in image.snapshots() {
        let bytes = u64::from(snapshot.l1_entries) * 8;
        let what = "L1 table of a snapshot";
        let mut grants = Vec::new();
        let table = read_table(image.file(), snapshot.l1_offset, bytes, what, image.budget(), &mut grants)?;
        for (index, entry) in table.iter().enumerate() {
            if let Some(offset) = l1::l2_table_offset(*entry, index, image.geometry())? {
                see(offset);
            }
        }
    }
    Ok(())
}

impl Qcow2 {
    /// The metadata on a host range, for a message about what lies there too.
    pub(crate) fn describe_metadata(&self, host: &Range<u64>) -> String {
        match self.metadata().find(host) {
            Some(owner) => format!("on {owner}"),
            None => "on an L2 table of a snapshot".to_owned(),
        }
    }

    /// Hands the host ranges of guest data that touch `within` to `see`, those of snapshots too, each with the
    /// number of references to it that one table makes. Clusters that lie side by side are one range. Reads all L2
    /// tables.
    pub(crate) fn for_each_data_range(
        &self,
        within: Range<u64>,
        mut see: impl FnMut(Range<u64>, u32),
    ) -> Result<()> {
        if self.external_data_file_bit() {
            return Ok(());
        }
        let geometry = self.geometry();
        let mut tables = Vec::new();
        let mut grants = Vec::new();
        let mut add = |tables: &mut Vec<u64>, offset| -> Result<()> {
            if tables.len() == tables.capacity() {
                grants.push(self.budget().grant(tables.len().max(64) as u64 * 8, "list of L2 tables")?);
                tables.reserve_exact(tables.len().max(64));
            }
            tables.push(offset);
            Ok(())
        };
        for (index, entry) in self.l1().enumerate() {
            if let Some(offset) = l1::l2_table_offset(entry, index, geometry)? {
                add(&mut tables, offset)?;
            }
        }
        let mut full = Ok(());
        for_each_snapshot_l2_table(self, |offset| {
            if full.is_ok() {
                full = add(&mut tables, offset);
            }
        })?;
        full?;
        // Snapshots share most of their tables.
        tables.sort_unstable();

        let mut bytes = memory::zeroed(geometry.cluster_size() as usize)?;
        for alike in tables.chunk_by(|a, b| a == b) {
            let (table, times) = (alike[0], alike.len() as u32);
            self.file().read_exact(&mut bytes, table, "L2 table")?;
            let mut run = 0..0;
            let mut end_run = |run: Range<u64>| {
                if run.start < within.end && run.end > within.start {
                    see(run, times);
                }
            };
            for entry in bytes.chunks_exact(geometry.l2_entry_size() as usize) {
                let entry = entry[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
                let host = l2::host_range(entry, geometry);
                if host.start == run.end && entry & l2::COMPRESSED == 0 && geometry.is_aligned(run.start) {
                    run.end = host.end;
                } else {
                    end_run(std::mem::replace(&mut run, host));
                }
            }
            end_run(run);
        }
        Ok(())
    }
}
