//! What a disk shows, before and after a change.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use holstein::{CheckReport, Disk, DiskOptions, ErrorKind, Run, storage::MemoryStorage};

use crate::judges::{IMAGE, MEMORY, check_text};

/// As much of the map and of the data of a disk as is looked at.
const RUNS: usize = 2048;
const PIECES: usize = 64;
pub(super) const PIECE: u64 = 16 << 10;

/// A bitmap that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) granularity: u64,
    pub(super) recording: bool,
    pub(super) extents: Vec<Range<u64>>,
}

impl Bits {
    /// The same with whole granules dirty round ranges of a disk of `size` bytes.
    pub(super) fn with(self, ranges: impl IntoIterator<Item = Range<u64>>, size: u64) -> Bits {
        let granularity = self.granularity;
        let rounded = |range: Range<u64>| {
            range.start / granularity * granularity..range.end.next_multiple_of(granularity).min(size)
        };
        let mut extents = self.extents;
        extents.extend(ranges.into_iter().filter(|range| !range.is_empty()).map(rounded));
        extents.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in extents {
            match joined.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Bits { extents: joined, ..self }
    }
}

/// What a disk shows.
pub(super) struct Seen {
    pub(super) size: u64,
    /// Up to the first one that cannot be told.
    pub(super) runs: Vec<Run>,
    /// The places that were read, and what was there.
    pub(super) places: Vec<Range<u64>>,
    pub(super) contents: Vec<Result<Vec<u8>, ErrorKind>>,
    /// All bitmaps by name, those that cannot be loaded as `None`; the whole is `None` when they cannot be listed.
    pub(super) bitmaps: Option<BTreeMap<Vec<u8>, Option<Bits>>>,
}

impl Seen {
    /// Looks at both ends of the disk, and at the beginning of each run of data.
    pub(super) fn of(disk: &Disk) -> Seen {
        let size = disk.size();
        let runs = runs(disk);
        let data =
            runs.iter().filter(|run| run.data()).map(|run| run.start..run.end().min(run.start + PIECE));
        let ends = [0..size.min(PIECE), size.saturating_sub(PIECE)..size];
        let places = ends.into_iter().chain(data.take(PIECES)).collect();
        Seen::at(disk, runs, places)
    }

    /// Looks at the same places again.
    pub(super) fn again(&self, disk: &Disk) -> Seen {
        Seen::at(disk, runs(disk), self.places.clone())
    }

    fn at(disk: &Disk, runs: Vec<Run>, places: Vec<Range<u64>>) -> Seen {
        disk.info().expect("what is in memory has a status");
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let read = disk.read_at(&mut bytes, range.start).inspect_err(check_text);
            read.map_err(|error| error.kind()).map(|()| bytes)
        };
        let contents = places.iter().map(read).collect();
        Seen { size: disk.size(), runs, places, contents, bitmaps: bitmaps(disk) }
    }

    /// All that could be told before is the same. More can be told, when what guest data lies on is no table any more.
    pub(super) fn still_shows(&self, before: &Seen) {
        for (number, old) in before.runs.iter().enumerate() {
            let last = number + 1 == before.runs.len();
            let same =
                |new: &&Run| (new.start, new.depth, &new.mapping) == (old.start, old.depth, &old.mapping);
            let new = self.runs.get(number).filter(same);
            let length = new.map_or(0, |new| new.length);
            assert!(
                length == old.length || last && length > old.length,
                "{old:?} is {:?}",
                self.runs.get(number)
            );
        }
        for (place, (old, new)) in self.places.iter().zip(before.contents.iter().zip(&self.contents)) {
            assert!(old.is_err() || old == new, "{place:?} changed");
        }
    }

    /// The bitmaps are those, except that one that nothing is expected of can have become sound.
    pub(super) fn has(&self, expected: &BTreeMap<Vec<u8>, Option<Bits>>) {
        let found = self.bitmaps.as_ref().expect("the bitmaps of a changed image can be listed");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, bits) in expected.iter().filter(|(_, bits)| bits.is_some()) {
            assert_eq!(&found[name], bits, "bitmap {name:?}");
        }
    }
}

fn runs(disk: &Disk) -> Vec<Run> {
    let runs = disk.map(0..disk.size()).map_while(|run| run.inspect_err(check_text).ok());
    let runs: Vec<Run> = runs.take(RUNS).collect();
    let mut at = 0;
    for run in &runs {
        assert!(run.start == at && run.length > 0 && run.end() <= disk.size(), "{run:?} at {at}");
        at = run.end();
    }
    runs
}

fn bitmaps(disk: &Disk) -> Option<BTreeMap<Vec<u8>, Option<Bits>>> {
    let listed = disk.bitmaps().inspect_err(check_text).ok()?;
    let bits = |info: &holstein::BitmapInfo| {
        let loaded = disk.bitmap(&info.name).inspect_err(check_text).ok();
        assert_eq!(loaded.is_some(), info.count.is_some(), "{info:?}");
        let bitmap = loaded?;
        assert_eq!(Some(bitmap.count()), info.count, "{info:?}");
        let extents = bitmap.extents().collect();
        Some(Bits { granularity: info.granularity, recording: info.auto, extents })
    };
    Some(listed.iter().map(|info| (info.name.clone(), bits(info))).collect())
}

/// What a check says, if one can be made.
pub(super) fn report(storage: &Arc<MemoryStorage>) -> Option<CheckReport> {
    let options = DiskOptions { memory_limit: MEMORY, ..DiskOptions::default() };
    Disk::check_in(storage.clone(), IMAGE, &options).inspect_err(check_text).ok()
}

/// Whether a check, if one can be made, finds damage.
pub(super) fn is_damaged(storage: &Arc<MemoryStorage>) -> Option<bool> {
    report(storage).map(|report| report.is_corrupt() || report.check_errors > 0)
}
