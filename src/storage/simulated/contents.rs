//! A file's bytes in copy-on-write pages, so that hundreds of versions of it cost little more than one.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::crash::Fate;

/// What a disk writes as a whole.
pub(super) const SECTOR: u64 = 512;

/// What an allocated sector holds that nobody has written: whatever was there before.
const STALE: u8 = 0xAA;

const PAGE: u64 = 4096;

/// The bytes of one file. Pages that were never written are holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    length: u64,
    pages: BTreeMap<u64, Arc<Page>>,
    /// How often it was changed; no part of its identity.
    changes: u64,
}

/// Bytes behind the end of the file are zero.
#[derive(Debug)]
struct Page {
    bytes: [u8; PAGE as usize],
    /// The sectors that have been written, one bit each.
    written: u8,
    /// Of the bytes; 0 when all are zero.
    hash: OnceLock<u64>,
}

impl Contents {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut contents = Contents::default();
        contents.write(0, bytes);
        contents
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Fills `buf` up to the end of the file and returns how much there was.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let count = self.length.saturating_sub(offset).min(buf.len() as u64);
        for piece in pieces(offset, count) {
            let to = &mut buf[piece.at..piece.at + piece.inside.len()];
            match self.pages.get(&piece.page) {
                Some(page) => to.copy_from_slice(&page.bytes[piece.inside]),
                None => to.fill(0),
            }
        }
        count as usize
    }

    /// Writes as much of `data` as `fate` lets through.
    pub(super) fn write_with(&mut self, offset: u64, data: &[u8], fate: Fate) {
        let end = offset + data.len() as u64;
        match fate {
            Fate::Present => self.write(offset, data),
            Fate::Lost => {}
            Fate::Head(count) => {
                let kept = sector(offset, data.len(), 0).start..sector(offset, data.len(), count).start;
                self.write(offset, &data[kept]);
            }
            Fate::Tail(first) => {
                let kept = sector(offset, data.len(), first).start;
                self.write(offset + kept as u64, &data[kept..]);
            }
            Fate::Hole(missing) => {
                let missing = sector(offset, data.len(), missing);
                self.write(offset, &data[..missing.start]);
                self.write(offset + missing.end as u64, &data[missing.end..]);
                self.grow(end);
            }
            Fate::Length => self.grow(end),
            Fate::Stale => {
                self.grow(end);
                self.allocate(offset, end);
            }
            Fate::Data => {
                let kept = self.length.saturating_sub(offset).min(data.len() as u64);
                self.write(offset, &data[..kept as usize]);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.grow(offset + data.len() as u64);
        for piece in pieces(offset, data.len() as u64) {
            let page = self.page(piece.page);
            page.bytes[piece.inside.clone()].copy_from_slice(&data[piece.at..piece.at + piece.inside.len()]);
            for sector in piece.inside.start / SECTOR as usize..piece.inside.end.div_ceil(SECTOR as usize) {
                page.written |= 1 << sector;
            }
        }
    }

    /// Gives every sector that `offset..end` touches and that nobody has written its stale bytes.
    fn allocate(&mut self, offset: u64, end: u64) {
        for number in offset / SECTOR..end.div_ceil(SECTOR) {
            let (page, bit) = (number * SECTOR / PAGE, number % (PAGE / SECTOR));
            let written = self.pages.get(&page).map_or(0, |page| page.written);
            if written >> bit & 1 == 0 {
                let stop = ((number + 1) * SECTOR).min(self.length);
                self.write(number * SECTOR, &vec![STALE; (stop - number * SECTOR) as usize]);
            }
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.changes += 1;
        if length < self.length {
            drop(self.pages.split_off(&length.div_ceil(PAGE)));
            let inside = (length % PAGE) as usize;
            if inside > 0 && self.pages.contains_key(&(length / PAGE)) {
                let page = self.page(length / PAGE);
                page.bytes[inside..].fill(0);
                page.written &= !(0xFF_u32 << inside.div_ceil(SECTOR as usize)) as u8;
            }
        }
        self.length = length;
    }

    fn grow(&mut self, length: u64) {
        self.changes += 1;
        self.length = self.length.max(length);
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let page = Arc::make_mut(self.pages.entry(number).or_default());
        page.hash = OnceLock::new();
        page
    }

    /// Whether there is a hole at `offset`, and where that or the data ends.
    pub(super) fn extent_at(&self, offset: u64) -> (bool, u64) {
        let hole = |page: u64| page * PAGE >= self.length || !self.pages.contains_key(&page);
        if offset >= self.length {
            return (true, offset);
        }
        let kind = hole(offset / PAGE);
        let mut end = offset / PAGE + 1;
        if kind {
            end = self.pages.range(end..).next().map_or(u64::MAX / PAGE, |(page, _)| *page);
        } else {
            while !hole(end) {
                end += 1;
            }
        }
        (kind, (end * PAGE).min(self.length))
    }

    /// Whether a write of `length` bytes would take place for bytes that nobody has written.
    pub(super) fn would_allocate(&self, offset: u64, length: u64) -> bool {
        (offset / SECTOR..(offset + length).div_ceil(SECTOR)).any(|number| {
            let page = self.pages.get(&(number * SECTOR / PAGE));
            page.map_or(0, |page| page.written) >> (number % (PAGE / SECTOR)) & 1 == 0
        })
    }

    /// The sectors of a write, counted from its first one, that are not there already.
    pub(super) fn changed_sectors(&self, offset: u64, data: &[u8]) -> Vec<u32> {
        let count = sectors(offset, data.len());
        let differs = |number: &u32| {
            let range = sector(offset, data.len(), *number);
            let mut old = vec![0; range.len()];
            self.read(offset + range.start as u64, &mut old) < range.len() || old != data[range]
        };
        (0..count).filter(differs).collect()
    }
}

impl Hash for Contents {
    /// What a reader sees: a hole is the same as zeros.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.length.hash(hasher);
        for (number, page) in &self.pages {
            match page.hash() {
                0 => {}
                hash => (*number, hash).hash(hasher),
            }
        }
    }
}

impl Page {
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            if self.bytes.iter().all(|byte| *byte == 0) {
                return 0;
            }
            let mut hasher = DefaultHasher::new();
            hasher.write(&self.bytes);
            hasher.finish().max(1)
        })
    }
}

impl Default for Page {
    fn default() -> Self {
        Page { bytes: [0; PAGE as usize], written: 0, hash: OnceLock::new() }
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Page { bytes: self.bytes, written: self.written, hash: OnceLock::new() }
    }
}

/// How many sectors a write of `length` bytes touches.
pub(super) fn sectors(offset: u64, length: usize) -> u32 {
    ((offset + length as u64).div_ceil(SECTOR) - offset / SECTOR) as u32
}

/// The bytes of a write that lie in its sector `number`; empty at its end.
fn sector(offset: u64, length: usize, number: u32) -> Range<usize> {
    let start = (offset / SECTOR + u64::from(number)) * SECTOR;
    let inside = |at: u64| (at.saturating_sub(offset) as usize).min(length);
    inside(start)..inside(start + SECTOR)
}

/// A part of a byte range that lies in one page.
struct Piece {
    page: u64,
    inside: Range<usize>,
    /// Where it is in the range.
    at: usize,
}

fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let end = offset + length;
    let pages = if length == 0 { 0..0 } else { offset / PAGE..end.div_ceil(PAGE) };
    pages.map(move |page| {
        let start = offset.max(page * PAGE);
        let stop = end.min((page + 1) * PAGE);
        let inside = (start - page * PAGE) as usize..(stop - page * PAGE) as usize;
        Piece { page, inside, at: (start - offset) as usize }
    })
}
