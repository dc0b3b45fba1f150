//! The snapshot table as it lies in the file, also one that is damaged. The disk can be read without it; a change of
//! the image needs to know what the snapshots own.

use super::check::read_padded;
use crate::{
    error::Result,
    format::{
        header::{Header, MAX_SNAPSHOTS, NB_SNAPSHOTS_AT, SNAPSHOTS_OFFSET_AT},
        snapshot::{self, Found},
    },
    memory,
    storage::File,
};

/// The table is read in pieces of this size.
const WINDOW: usize = 4 * snapshot::LARGEST_ENTRY;

/// An entry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) index: u32,
    /// Where it lies in the file.
    pub(super) at: u64,
    /// As it is stored, without padding; zeros where the file has ended.
    pub(super) bytes: &'a [u8],
    pub(super) found: &'a Found,
    pub(super) doubt: Option<Doubt>,
}

/// What is wrong with an entry.
#[derive(Debug)]
pub(super) enum Doubt {
    /// Its tables are known all the same.
    Mendable(String),
    /// It leads to no tables that could be used.
    Lost(String),
}

/// What was walked.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Bytes of the table, as far as entries could be made out.
    pub(super) bytes: u64,
    pub(super) rest: Option<Rest>,
}

/// Entries that cannot be made out.
#[derive(Debug)]
pub(super) struct Rest {
    /// The first of them.
    pub(super) first: u32,
    /// Where in the file the reason is.
    pub(super) at: u64,
    pub(super) reason: String,
}

/// Hands all entries that can be made out to `see`.
pub(super) fn walk(
    file: &File,
    header: &Header,
    mut see: impl FnMut(Entry<'_>) -> Result<()>,
) -> Result<Walked> {
    let mut walked = Walked::default();
    let (count, table) = (header.snapshot_count, header.snapshots_offset);
    if count == 0 {
        return Ok(walked);
    }
    let length = file.len()?;
    if !header.geometry.is_aligned(table) || i64::try_from(table).is_err() {
        let reason = format!("the offset of the snapshot table, {table:#x}, is invalid");
        walked.rest = Some(Rest { first: 0, at: SNAPSHOTS_OFFSET_AT, reason });
        return Ok(walked);
    }
    let mut window = memory::zeroed(WINDOW.min((count as usize).saturating_mul(snapshot::LARGEST_ENTRY)))?;
    let mut window_start = None;
    for index in 0..count.min(MAX_SNAPSHOTS) {
        let start = walked.bytes.next_multiple_of(8);
        let at = table.saturating_add(start);
        let in_window = |from: u64| start + snapshot::LARGEST_ENTRY as u64 <= from + window.len() as u64;
        let from = match window_start.filter(|from| in_window(*from)) {
            Some(from) => from,
            None => {
                read_padded(file, &mut window, at)?;
                *window_start.insert(start)
            }
        };
        let bytes = window.get((start - from) as usize..).unwrap_or_default();
        let found = match snapshot::parse(bytes, header.version) {
            Ok(found) if start + found.length as u64 <= snapshot::MAX_TABLE_BYTES => found,
            Ok(_) => {
                let reason = "the snapshot table is larger than 64 MiB".to_owned();
                walked.rest = Some(Rest { first: index, at, reason });
                return Ok(walked);
            }
            Err(error) => {
                walked.rest = Some(Rest { first: index, at, reason: error.to_string() });
                return Ok(walked);
            }
        };
        walked.bytes = start + found.length as u64;
        let doubt = doubt(header, length, at, &found);
        see(Entry { index, at, bytes: &bytes[..found.length], found: &found, doubt })?;
    }
    if count > MAX_SNAPSHOTS {
        let reason = format!("the header counts {count} snapshots, more than {MAX_SNAPSHOTS}");
        walked.rest = Some(Rest { first: MAX_SNAPSHOTS, at: NB_SNAPSHOTS_AT, reason });
    }
    Ok(walked)
}

fn doubt(header: &Header, length: u64, at: u64, found: &Found) -> Option<Doubt> {
    let snapshot = &found.snapshot;
    if header.snapshots_offset == 0 {
        return Some(Doubt::Lost("the snapshot table would lie on the header".to_owned()));
    }
    if snapshot.is_empty() {
        return Some(Doubt::Lost("it is empty: it has neither a name nor an L1 table".to_owned()));
    }
    let is_outside = |offset: u64, bytes: u64| offset.checked_add(bytes).is_none_or(|end| end > length);
    if is_outside(at, found.length as u64) {
        return Some(Doubt::Lost(format!("the file ends before it does, at {length:#x}")));
    }
    if let Some(reason) = snapshot.doubt_l1_table(&header.geometry) {
        return Some(Doubt::Lost(reason));
    }
    if snapshot.l1_offset == 0 && snapshot.l1_entries > 0 {
        return Some(Doubt::Lost("its L1 table lies on the header".to_owned()));
    }
    if is_outside(snapshot.l1_offset, snapshot.l1_bytes()) {
        let text = format!(
            "its L1 table ({} bytes at {:#x}) does not lie in the file of {length:#x} bytes",
            snapshot.l1_bytes(),
            snapshot.l1_offset
        );
        return Some(Doubt::Lost(text));
    }
    let incomplete = || (!snapshot.is_complete(header.version)).then(|| "it lacks its disk size".to_owned());
    found.damage.clone().or_else(incomplete).map(Doubt::Mendable)
}

impl Doubt {
    pub(super) fn text(&self) -> &str {
        match self {
            Doubt::Mendable(text) | Doubt::Lost(text) => text,
        }
    }
}
