//! Metadata must not lie on metadata: an image whose tables overlap is refused when it is opened.
//!
//! Checked here is what a reader trusts: header, L1 and L2 tables, refcount table and blocks, snapshot table
//! and bitmap directory. The tables of bitmaps are checked when a bitmap is used, data when it is written.

use super::Qcow2;
use crate::{
    error::Result,
    format::{corrupt, l1, refcount},
};

/// What a piece of metadata is; the number is its index in the table it is found from.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Header,
    L1Table,
    L2Table(u32),
    RefcountTable,
    RefcountBlock(u32),
    SnapshotTable,
    BitmapDirectory,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Header => f.write_str("the header"),
            Owner::L1Table => f.write_str("the L1 table"),
            Owner::L2Table(index) => write!(f, "the L2 table of L1 entry {index}"),
            Owner::RefcountTable => f.write_str("the refcount table"),
            Owner::RefcountBlock(index) => write!(f, "refcount block {index}"),
            Owner::SnapshotTable => f.write_str("the snapshot table"),
            Owner::BitmapDirectory => f.write_str("the bitmap directory"),
        }
    }
}

/// The parts of the image that have one place each: offset, bytes, owner.
fn fixed_parts(image: &Qcow2) -> Vec<(u64, u64, Owner)> {
    let header = image.header();
    let cluster_size = image.geometry().cluster_size();
    let mut parts = vec![
        (0, cluster_size, Owner::Header),
        (header.l1_offset, image.l1().len() as u64 * 8, Owner::L1Table),
        (header.refcount_table_offset, image.refcount_table().len() as u64 * 8, Owner::RefcountTable),
        (header.snapshots_offset, image.snapshot_bytes(), Owner::SnapshotTable),
    ];
    if let Some(bitmaps) = header.extensions.bitmaps.as_ref().filter(|_| header.bitmaps_are_current()) {
        parts.push((bitmaps.directory_offset.get(), bitmaps.directory_size.get(), Owner::BitmapDirectory));
    }
    parts.retain(|(_, bytes, _)| *bytes > 0);
    parts
}

/// Refuses an image whose metadata overlaps, or whose L1 or refcount table has invalid entries.
pub(crate) fn check(image: &Qcow2) -> Result<()> {
    let geometry = image.geometry();
    let cluster_size = geometry.cluster_size();
    let tables = (image.l1().len() + image.refcount_table().len()) as u64;
    let _grant = image.budget().grant(tables * size_of::<(u64, u64, Owner)>() as u64, "list of tables")?;

    let mut parts = fixed_parts(image);
    for (index, entry) in image.l1().iter().enumerate() {
        if let Some(offset) = l1::l2_table_offset(*entry, index, geometry)? {
            parts.push((offset, cluster_size, Owner::L2Table(index as u32)));
        }
    }
    for (index, entry) in image.refcount_table().iter().enumerate() {
        if let Some(offset) = refcount::block_offset(*entry, index, geometry)? {
            parts.push((offset, cluster_size, Owner::RefcountBlock(index as u32)));
        }
    }
    let length = image.file().len()?;
    parts.sort_unstable_by_key(|(offset, ..)| *offset);
    for pair in parts.windows(2) {
        let [(first, bytes, owner), (second, _, other)] = pair else { continue };
        if first + bytes > *second {
            return Err(corrupt(format!("{other} (at {second:#x}) lies on {owner} (at {first:#x})")));
        }
    }
    match parts.last() {
        Some((offset, _, owner)) if *offset >= length && *offset > 0 => {
            Err(corrupt(format!("{owner} (at {offset:#x}) lies behind the end of the file at {length:#x}")))
        }
        _ => Ok(()),
    }
}

/// The host ranges of all metadata but the bitmaps' own, tables of snapshots included, handed to `see` one by
/// one with their names. Reads the L1 tables of snapshots.
pub(crate) fn for_each_metadata_range(
    image: &Qcow2,
    mut see: impl FnMut(u64, u64, &dyn std::fmt::Display) -> Result<()>,
) -> Result<()> {
    let geometry = image.geometry();
    let cluster_size = geometry.cluster_size();
    for (offset, bytes, owner) in fixed_parts(image) {
        see(offset, bytes, &owner)?;
    }
    for (index, entry) in image.refcount_table().iter().enumerate() {
        if let Some(offset) = refcount::block_offset(*entry, index, geometry)? {
            see(offset, cluster_size, &Owner::RefcountBlock(index as u32))?;
        }
    }
    for (index, entry) in image.l1().iter().enumerate() {
        if let Some(offset) = l1::l2_table_offset(*entry, index, geometry)? {
            see(offset, cluster_size, &Owner::L2Table(index as u32))?;
        }
    }
    for snapshot in image.snapshots() {
        let bytes = u64::from(snapshot.l1_entries) * 8;
        see(snapshot.l1_offset, bytes, &"the L1 table of a snapshot")?;
        let mut grants = Vec::new();
        let what = "L1 table of a snapshot";
        let table = super::qcow2::read_table(
            image.file(),
            snapshot.l1_offset,
            bytes,
            what,
            image.budget(),
            &mut grants,
        )?;
        for (index, entry) in table.iter().enumerate() {
            if let Some(offset) = l1::l2_table_offset(*entry, index, geometry)? {
                see(offset, cluster_size, &"an L2 table of a snapshot")?;
            }
        }
    }
    Ok(())
}
