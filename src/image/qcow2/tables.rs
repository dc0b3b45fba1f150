//! Reading the header and the tables that it names.

use zerocopy::IntoBytes;

use super::super::{
    budget::{Budget, Grant},
    snapshot_table::{Doubt, Item, walk},
};
use crate::{
    error::Result,
    format::{
        bitmap, corrupt,
        header::{self, Header, incompatible},
        snapshot::Snapshot,
    },
    memory,
    storage::File,
};

/// The first cluster, or what the file has of it.
pub(crate) fn read_first_cluster(file: &File) -> Result<Vec<u8>> {
    let mut cluster = vec![0; header::PREFIX];
    let got = file.read_up_to(&mut cluster, 0)?;
    cluster.truncate(got);
    let bits = header::cluster_bits(&cluster)?;
    memory::grow(&mut cluster, 1 << bits)?;
    let got = file.read_up_to(&mut cluster, 0)?;
    cluster.truncate(got);
    Ok(cluster)
}

/// Reads a table of big-endian words that must lie in the file as a whole.
pub(crate) fn read_table(
    file: &File,
    offset: u64,
    bytes: u64,
    what: &str,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<Vec<u64>> {
    check_inside(file, offset, bytes, what)?;
    grants.push(budget.grant(bytes, what)?);
    let mut table = memory::zeroed::<u64>((bytes / 8) as usize)?;
    file.read_exact(table.as_mut_bytes(), offset, what)?;
    for word in &mut table {
        *word = u64::from_be(*word);
    }
    Ok(table)
}

fn check_inside(file: &File, offset: u64, bytes: u64, what: &str) -> Result<()> {
    let length = file.len()?;
    match offset.checked_add(bytes) {
        Some(end) if end <= length => Ok(()),
        _ => Err(corrupt(format!(
            "the {what} ({bytes} bytes at {offset:#x}) does not lie in the file of {length:#x} bytes"
        ))),
    }
}

/// What a snapshot or bitmap takes beside its bytes on disk, in all the forms that it is told in.
const KEPT_PER_ENTRY: u64 = 1024;

/// The snapshots of an image, as far as they can be made out.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) list: Vec<Snapshot>,
    /// Bytes of their table.
    pub(super) bytes: u64,
    /// What is wrong with the table: nobody knows what else the snapshots own.
    pub(super) damage: Option<String>,
}

/// Reads the snapshot table. The disk can be read without it, so what is damaged in it is told and no error.
pub(super) fn read_snapshots(
    file: &File,
    header: &Header,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<Snapshots> {
    let mut list = Vec::new();
    let mut damage = None;
    let bytes = walk(file, header, |item| {
        let entry = match item {
            Item::Entry(entry) => entry,
            Item::Gap(unread) | Item::Rest(unread) => {
                damage.get_or_insert(unread.reason);
                return Ok(());
            }
        };
        if let Some(doubt) = &entry.doubt {
            damage.get_or_insert_with(|| {
                format!("snapshot {} of it, at {:#x}: {}", entry.index, entry.at, doubt.text())
            });
        }
        if !matches!(entry.doubt, Some(Doubt::Lost(_))) {
            grants.push(budget.grant(KEPT_PER_ENTRY + entry.bytes.len() as u64, "snapshot table")?);
            list.push(entry.found.snapshot.clone());
        }
        Ok(())
    })?;
    let damage = damage.or_else(|| {
        let data_file = header.snapshot_count > 0 && header.has(incompatible::DATA_FILE);
        data_file.then(|| "an image with a data file cannot have internal snapshots".to_owned())
    });
    Ok(Snapshots { list, bytes, damage })
}

pub(super) fn read_bitmap_directory(
    file: &File,
    header: &Header,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<Vec<bitmap::Entry>> {
    let Some(extension) = &header.extensions.bitmaps else { return Ok(Vec::new()) };
    let read = |grants: &mut Vec<Grant>| {
        bitmap::check_extension(extension, &header.geometry)?;
        let (offset, size) = (extension.directory_offset.get(), extension.directory_size.get());
        check_inside(file, offset, size, "bitmap directory")?;
        let kept = KEPT_PER_ENTRY * u64::from(extension.nb_bitmaps.get());
        grants.push(budget.grant(size * 2 + kept, "bitmap directory")?);
        let mut bytes = memory::zeroed(size as usize)?;
        file.read_exact(&mut bytes, offset, "bitmap directory")?;
        bitmap::parse_directory(&bytes, extension.nb_bitmaps.get(), &header.geometry)
    };
    match read(grants) {
        // Nobody maintains this directory, so its state says nothing about the image.
        Err(e) if !header.bitmaps_are_current() && !e.is_io() => Ok(Vec::new()),
        result => result,
    }
}
