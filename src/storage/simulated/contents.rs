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

/// What is allocated, and shared, as a whole.
pub(super) const PAGE: u64 = 4096;

/// The bytes of one file. Pages that were never written are holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    length: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// Bytes behind the end of the file are zero.
#[derive(Debug)]
struct Page {
    bytes: [u8; PAGE as usize],
    /// The sectors that have been written to a place of their own, one bit each.
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
            Fate::Length => self.grow(end),
            Fate::Stale => {
                self.grow(end);
                self.allocate(offset, end);
            }
            Fate::Data => self.write(offset, &data[..self.kept(offset, data.len())]),
            _ => {
                for part in arrived(offset, data.len(), fate) {
                    self.write(offset + part.start as u64, &data[part]);
                }
                if matches!(fate, Fate::Hole(_)) {
                    self.grow(end);
                }
            }
        }
    }

    /// Makes as much of a range a hole as `fate` lets through.
    pub(super) fn punch_with(&mut self, offset: u64, length: usize, fate: Fate) {
        for part in arrived(offset, length, fate) {
            self.punch(offset + part.start as u64, part.len() as u64);
        }
    }

    /// Takes over as much of another file's `data` as `fate` lets through.
    pub(super) fn share_with(&mut self, offset: u64, data: &[u8], fate: Fate) {
        let end = offset + data.len() as u64;
        match fate {
            Fate::Length => self.grow(end),
            // What is shared has not been written either.
            Fate::Stale => self.share(offset, &vec![STALE; data.len()]),
            Fate::Data => self.share(offset, &data[..self.kept(offset, data.len())]),
            _ => {
                for part in arrived(offset, data.len(), fate) {
                    self.share(offset + part.start as u64, &data[part]);
                }
                if matches!(fate, Fate::Hole(_)) {
                    self.grow(end);
                }
            }
        }
    }

    /// How many bytes of a range lie inside the file.
    fn kept(&self, offset: u64, length: usize) -> usize {
        self.length.saturating_sub(offset).min(length as u64) as usize
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.grow(offset + data.len() as u64);
        for piece in pieces(offset, data.len() as u64) {
            let page = self.page(piece.page);
            page.bytes[piece.inside.clone()].copy_from_slice(&data[piece.at..piece.at + piece.inside.len()]);
            page.written |= sectors_of(&piece.inside);
        }
    }

    fn punch(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let touched = self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page);
        for page in touched.collect::<Vec<_>>() {
            let start = page * PAGE;
            if offset <= start && start + PAGE <= end {
                self.pages.remove(&page);
            } else {
                let inside = offset.saturating_sub(start)..end.min(start + PAGE) - start;
                self.page(page).bytes[inside.start as usize..inside.end as usize].fill(0);
            }
        }
    }

    fn share(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.grow(offset + data.len() as u64);
        self.punch(offset, data.len() as u64);
        for piece in pieces(offset, data.len() as u64) {
            let bytes = &data[piece.at..piece.at + piece.inside.len()];
            if bytes.iter().any(|byte| *byte != 0) {
                self.write(offset + piece.at as u64, bytes);
            }
        }
        self.place_anew(offset, data.len() as u64);
    }

    /// From now on the place of these bytes is shared, so that a write there takes a new one.
    pub(super) fn place_anew(&mut self, offset: u64, length: u64) {
        for piece in pieces(offset, length) {
            if let Some(page) = self.pages.get_mut(&piece.page) {
                Arc::make_mut(page).written &= !sectors_of(&piece.inside);
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

    /// The bytes of a range of the first sector, counted from its first one, that are not as they were `before`.
    pub(super) fn changed_bytes(&self, before: &Contents, offset: u64, length: usize) -> Vec<u32> {
        let read = |contents: &Contents| {
            let mut bytes = vec![0; length.min(SECTOR.saturating_sub(offset) as usize)];
            contents.read(offset, &mut bytes);
            bytes
        };
        let (new, old) = (read(self), read(before));
        (0..new.len()).filter(|at| new[*at] != old[*at]).map(|at| at as u32).collect()
    }

    /// The sectors of a range, counted from its first one, that are not as they were `before`.
    pub(super) fn changed_sectors(&self, before: &Contents, offset: u64, length: usize) -> Vec<u32> {
        let read = |contents: &Contents, range: &Range<usize>| {
            let mut bytes = vec![0; range.len()];
            (contents.read(offset + range.start as u64, &mut bytes), bytes)
        };
        let differs = |number: &u32| {
            let range = sector(offset, length, *number);
            read(self, &range) != read(before, &range)
        };
        (0..sectors(offset, length)).filter(differs).collect()
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

/// The parts of a change that are there when it is whole, torn or lost.
fn arrived(offset: u64, length: usize, fate: Fate) -> [Range<usize>; 2] {
    let sector = |number| sector(offset, length, number);
    match fate {
        Fate::Present => [0..length, 0..0],
        Fate::Head(count) => [0..sector(count).start, 0..0],
        Fate::Tail(first) => [sector(first).start..length, 0..0],
        Fate::Hole(missing) => [0..sector(missing).start, sector(missing).end..length],
        Fate::Bytes(count) => [0..length.min(count as usize), 0..0],
        Fate::From(first) => [length.min(first as usize)..length, 0..0],
        Fate::Lost | Fate::Length | Fate::Stale | Fate::Data => [0..0, 0..0],
    }
}

/// The sectors of a page that a range of its bytes touches, one bit each.
fn sectors_of(inside: &Range<usize>) -> u8 {
    let sectors = inside.start / SECTOR as usize..inside.end.div_ceil(SECTOR as usize);
    sectors.fold(0, |bits, sector| bits | 1 << sector)
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
