//! The snapshot table as it lies in the file, also one that is damaged. The disk can be read without it; a change of
//! the image needs to know what the snapshots own.

use std::{fmt, ops::Range};

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

/// What a walk comes across.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Entry(Entry<'a>),
    /// Bytes that are no entry, before one that is.
    Gap(Unread),
    /// What is left when nothing more can be made out.
    Rest(Unread),
}

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
    /// It was searched for behind a damaged one, or comes after such an entry.
    pub(super) searched: bool,
}

/// What is wrong with an entry.
#[derive(Debug)]
pub(super) enum Doubt {
    /// Its tables are known all the same.
    Mendable(String),
    /// It leads to no tables that could be used.
    Lost(String),
}

/// Entries that cannot be made out.
#[derive(Debug)]
pub(super) struct Unread {
    /// The first of them.
    pub(super) first: u32,
    /// How many, by the header; 0 if there is no room for one.
    pub(super) count: u32,
    /// Where in the file the reason is.
    pub(super) at: u64,
    pub(super) reason: String,
}

/// Hands all entries to `see`, and what cannot be made out. Gives the bytes of the table, as far as entries could be
/// made out.
///
/// A damaged entry may tell a wrong length. Where no entry follows it, the next one is searched for, in steps of 8
/// bytes.
pub(super) fn walk(file: &File, header: &Header, mut see: impl FnMut(Item<'_>) -> Result<()>) -> Result<u64> {
    let (count, table) = (header.snapshot_count, header.snapshots_offset);
    if count == 0 {
        return Ok(0);
    }
    if !header.geometry.is_aligned(table) || i64::try_from(table).is_err() {
        let reason = format!("the offset of the snapshot table, {table:#x}, is invalid");
        see(Item::Rest(Unread { first: 0, count, at: SNAPSHOTS_OFFSET_AT, reason }))?;
        return Ok(0);
    }
    let pieces = WINDOW.min((count as usize).saturating_add(1).saturating_mul(snapshot::LARGEST_ENTRY));
    let mut table = Table { file, header, length: file.len()?, window: memory::zeroed(pieces)?, held: 0..0 };
    let smallest = snapshot::smallest_entry(header.version);
    let (mut end, mut start, mut searched_to) = (0, 0, 0);
    let (mut index, mut searched) = (0, false);
    let mut most = count.min(MAX_SNAPSHOTS);
    while index < most {
        // What is behind a gap may be one more than the header counts.
        if index >= count && table.find(start)?.is_none() {
            break;
        }
        let at = table.place(start);
        let parsed = match snapshot::parse(table.bytes(start)?, header.version) {
            Ok(found) if start + found.length as u64 > snapshot::MAX_TABLE_BYTES => {
                let reason = "the snapshot table is larger than 64 MiB".to_owned();
                see(Item::Rest(Unread { first: index, count: count.saturating_sub(index), at, reason }))?;
                return Ok(end);
            }
            parsed => parsed,
        };
        let mut behind = None;
        if !parsed.as_ref().is_ok_and(|found| found.snapshot.has_plain_name())
            && !table.follows(start, &parsed)?
        {
            behind = table.search(start, &mut searched_to)?;
        }
        let room_for_one = behind.is_none_or(|behind| behind - start >= smallest);
        match parsed {
            Ok(found) if room_for_one => {
                end = start + found.length as u64;
                let doubt = doubt(header, table.length, at, &found);
                let bytes = table.bytes(start)?.get(..found.length).unwrap_or_default();
                see(Item::Entry(Entry { index, at, bytes, found: &found, doubt, searched }))?;
                index += 1;
            }
            parsed => {
                let reason = match parsed {
                    Ok(_) => "the entry before it is longer than it says".to_owned(),
                    Err(error) => error.to_string(),
                };
                if behind.is_none() {
                    see(Item::Rest(Unread { first: index, count: count.saturating_sub(index), at, reason }))?;
                    return Ok(end);
                }
                let lost = u32::from(room_for_one);
                see(Item::Gap(Unread { first: index, count: lost, at, reason }))?;
                index += lost;
            }
        }
        if behind.is_some() {
            searched = true;
            most = most.saturating_add(1).min(MAX_SNAPSHOTS);
        }
        start = behind.unwrap_or(end.next_multiple_of(8));
    }
    if count > MAX_SNAPSHOTS {
        let reason = format!("the header counts {count} snapshots, more than {MAX_SNAPSHOTS}");
        let (first, count) = (MAX_SNAPSHOTS, count - MAX_SNAPSHOTS);
        see(Item::Rest(Unread { first, count, at: NB_SNAPSHOTS_AT, reason }))?;
    }
    Ok(end)
}

/// The part of a table that was read last.
struct Table<'a> {
    file: &'a File,
    header: &'a Header,
    /// Of the file.
    length: u64,
    window: Vec<u8>,
    /// What of the table is in the window.
    held: Range<u64>,
}

impl Table<'_> {
    /// Where in the file the byte at `start` of the table is.
    fn place(&self, start: u64) -> u64 {
        self.header.snapshots_offset.saturating_add(start)
    }

    /// The bytes from `start` on, enough for any entry.
    fn bytes(&mut self, start: u64) -> Result<&[u8]> {
        if start < self.held.start || start + LARGEST > self.held.end {
            let at = self.place(start);
            self.held = 0..0;
            read_padded(self.file, &mut self.window, at)?;
            self.held = start..start + self.window.len() as u64;
        }
        Ok(self.window.get((start - self.held.start) as usize..).unwrap_or_default())
    }

    /// An entry that begins at `start`, beyond doubt.
    fn find(&mut self, start: u64) -> Result<Option<Found>> {
        let (version, geometry, length) = (self.header.version, self.header.geometry, self.length);
        let at = self.place(start);
        let found = snapshot::find(self.bytes(start)?, version, &geometry, length);
        Ok(found.filter(|found| at.checked_add(found.length as u64).is_some_and(|end| end <= length)))
    }

    /// Whether an entry follows the one at `start`.
    fn follows(&mut self, start: u64, parsed: &Result<Found>) -> Result<bool> {
        let Ok(found) = parsed else { return Ok(false) };
        let next = (start + found.length as u64).next_multiple_of(8);
        let at = self.place(next);
        let version = self.header.version;
        let Ok(next) = snapshot::parse(self.bytes(next)?, version) else { return Ok(false) };
        Ok(doubt(self.header, self.length, at, &next).is_none())
    }

    /// The next entry behind `start`, unless all up to `searched_to` was looked at before.
    fn search(&mut self, start: u64, searched_to: &mut u64) -> Result<Option<u64>> {
        let end = (start + LARGEST).next_multiple_of(8).min(snapshot::MAX_TABLE_BYTES);
        let from = (start + 8).max(*searched_to);
        for place in (from..end).step_by(8) {
            if self.place(place) >= self.length {
                break;
            }
            if self.find(place)?.is_some() {
                return Ok(Some(place));
            }
        }
        *searched_to = end.max(*searched_to);
        Ok(None)
    }
}

/// [`snapshot::LARGEST_ENTRY`], as offsets are.
const LARGEST: u64 = snapshot::LARGEST_ENTRY as u64;

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

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unread { first, count, reason, .. } = self;
        match count {
            0 => write!(f, "before snapshot {first} lie bytes that are no entry: {reason}"),
            1 => write!(f, "snapshot {first} cannot be read: {reason}"),
            _ => write!(f, "snapshots {first} to {} cannot be read: {reason}", first + (count - 1)),
        }
    }
}

impl Doubt {
    pub(super) fn text(&self) -> &str {
        match self {
            Doubt::Mendable(text) | Doubt::Lost(text) => text,
        }
    }
}
