//! Reading the header and the tables that it names.

use zerocopy::IntoBytes;

use super::super::budget::{Budget, Grant};
use crate::{
    error::Result,
    format::{
        bitmap, corrupt,
        header::{self, Header},
        snapshot::{self, Snapshot},
    },
    storage::File,
};

/// The first cluster, or what the file has of it.
pub(crate) fn read_first_cluster(file: &File) -> Result<Vec<u8>> {
    let mut cluster = vec![0; header::PREFIX];
    let got = file.read_up_to(&mut cluster, 0)?;
    cluster.truncate(got);
    let bits = header::cluster_bits(&cluster)?;
    cluster.resize(1 << bits, 0);
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
    let mut table = vec![0u64; (bytes / 8) as usize];
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

/// The snapshot table is walked in pieces of this size.
const SNAPSHOT_WINDOW: usize = 4 * snapshot::LARGEST_ENTRY;

/// The snapshots, and how many bytes their table has.
pub(super) fn read_snapshots(
    file: &File,
    header: &Header,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<(Vec<Snapshot>, u64)> {
    let mut snapshots = Vec::new();
    let least = u64::from(header.snapshot_count) * snapshot::SMALLEST_ENTRY;
    check_inside(file, header.snapshots_offset, least, "snapshot table")?;
    if header.snapshot_count > 0 && header.snapshots_offset == 0 {
        return Err(corrupt("the snapshot table lies on the header"));
    }
    let (mut at, mut end) = (0, 0);
    let mut window = Vec::new();
    let mut window_start = 0;
    for _ in 0..header.snapshot_count {
        if at + snapshot::LARGEST_ENTRY as u64 > window_start + window.len() as u64 {
            window.resize(SNAPSHOT_WINDOW, 0);
            window_start = at;
            let got = file.read_up_to(&mut window, header.snapshots_offset.saturating_add(at))?;
            window.truncate(got);
        }
        let rest = window.get((at - window_start) as usize..).unwrap_or_default();
        let (snapshot, length) = snapshot::parse(rest)?;
        snapshot.check(header.version, &header.geometry)?;
        check_inside(file, snapshot.l1_offset, u64::from(snapshot.l1_entries) * 8, "L1 table of a snapshot")?;
        end = at + length as u64;
        at = end.next_multiple_of(8);
        if end > snapshot::MAX_TABLE_BYTES {
            return Err(corrupt("the snapshot table is larger than 64 MiB"));
        }
        grants.push(budget.grant(KEPT_PER_ENTRY + length as u64, "snapshot table")?);
        snapshots.push(snapshot);
    }
    // The last entry's padding need not be there.
    Ok((snapshots, end))
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
        let mut bytes = vec![0; size as usize];
        file.read_exact(&mut bytes, offset, "bitmap directory")?;
        bitmap::parse_directory(&bytes, extension.nb_bitmaps.get(), &header.geometry)
    };
    match read(grants) {
        // Nobody maintains this directory, so its state says nothing about the image.
        Err(e) if !header.bitmaps_are_current() && !e.is_io() => Ok(Vec::new()),
        result => result,
    }
}
