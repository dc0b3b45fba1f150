//! A guest write: what was written is there, everything else is what it was, and every bitmap that records has it.

use std::ops::Range;

use holstein::{Access, Disk};

use super::{
    seen::{PIECE, Seen, report},
    store,
};
use crate::judges::{IMAGE, check_text, open};

/// What a guest does, and where. Of a resize the range is what comes or goes.
#[derive(Clone, Debug)]
enum Step {
    Write(Range<u64>),
    Zero(Range<u64>),
    Discard(Range<u64>),
    Resize(u64),
}

const WRITTEN: u8 = 0x57;

/// Writes to a copy.
pub(super) fn judge(file: &[u8], choice: u8, before: &Seen, damaged: Option<bool>) {
    let storage = store(file);
    let Ok(disk) = open(&storage, Access::Write) else { return };
    let step = step(choice, before);
    let done = make(&disk, &step).and_then(|()| disk.close()).inspect_err(check_text);

    let disk = open(&storage, Access::Read).expect("a written image opens");
    let after = before.again(&disk);
    judge_contents(&step, done.is_ok(), before, &after, &disk);
    judge_bitmaps(&step, done.is_ok(), before, &after);
    drop(disk);
    if damaged == Some(false) {
        let found = report(&storage).expect("a sound image can be checked");
        assert!(!found.is_corrupt() && found.check_errors == 0, "{step:?} did damage: {:#?}", found.problems);
        if done.is_ok() {
            // Refcounts of clusters behind the end of a file count when it grows.
            let mut longer = file.to_vec();
            longer.resize(storage.contents(IMAGE).unwrap().len().max(file.len()), 0);
            let leaks = report(&store(&longer)).map(|report| report.leaks);
            assert!(Some(found.leaks) <= leaks, "{step:?} leaks: {:#?}", found.problems);
        }
    }
}

/// At the begin or the end of a run, or somewhere behind it; aligned to nothing for most.
fn step(choice: u8, before: &Seen) -> Step {
    let number = usize::from(choice / 4);
    let at = before.runs.get(number % before.runs.len().max(1)).map_or(0, |run| run.start);
    let start = (at + [0, 100, 512, 3000][number % 4]).min(before.size);
    let end = (start + [1, 512, 700, 5000][number / 4 % 4]).min(before.size);
    match choice % 4 {
        0 => Step::Write(start..end),
        1 => Step::Zero(start..end),
        2 => Step::Discard(start..end),
        _ => Step::Resize(
            if number % 2 == 0 { start } else { before.size.saturating_add(end - start) } / 512 * 512,
        ),
    }
}

fn make(disk: &Disk, step: &Step) -> holstein::Result<()> {
    match step.clone() {
        Step::Write(range) => disk.write_at(&vec![WRITTEN; (range.end - range.start) as usize], range.start),
        Step::Zero(range) => disk.write_zeroes(range),
        Step::Discard(range) => disk.discard(range),
        Step::Resize(size) => disk.resize(size),
    }
}

/// Places that could not be read before are not looked at: they can hold anything.
fn judge_contents(step: &Step, done: bool, before: &Seen, after: &Seen, disk: &Disk) {
    let touched = match step {
        Step::Write(range) | Step::Zero(range) | Step::Discard(range) => range.clone(),
        Step::Resize(size) if done => {
            assert_eq!(after.size, *size);
            *size..u64::MAX
        }
        Step::Resize(_) => u64::MAX..u64::MAX,
    };
    for (place, (old, new)) in before.places.iter().zip(before.contents.iter().zip(&after.contents)) {
        let Ok(old) = old else { continue };
        let end = place.end.min(disk.size());
        let mut found = vec![0; end.saturating_sub(place.start) as usize];
        match new {
            Ok(new) => found.iter_mut().zip(new).for_each(|(to, from)| *to = *from),
            // It reaches behind the new end.
            Err(_) if end < place.end => {
                disk.read_at(&mut found, place.start.min(end)).expect("it could be read")
            }
            Err(kind) => panic!("{place:?} cannot be read any more: {kind:?}"),
        }
        for (offset, (old, new)) in (place.start..).zip(old.iter().zip(&found)) {
            let inside = touched.contains(&offset);
            let right = match step {
                _ if !inside => new == old,
                Step::Write(_) if done => *new == WRITTEN,
                Step::Zero(_) if done => *new == 0,
                Step::Write(_) => [*old, WRITTEN].contains(new),
                Step::Zero(_) | Step::Discard(_) => [*old, 0].contains(new),
                Step::Resize(_) => true,
            };
            assert!(right, "{step:?}: {offset:#x} is {new:#x}, was {old:#x}");
        }
    }
    if let (Step::Write(range), true) = (step, done) {
        let mut found = vec![0; (range.end - range.start) as usize];
        disk.read_at(&mut found, range.start).expect("what was written can be read");
        assert!(found.iter().all(|byte| *byte == WRITTEN), "{step:?} is not there");
    }
    if let (Step::Resize(size), true) = (step, done && after.size > before.size) {
        let mut found = vec![1; (size - before.size).min(PIECE) as usize];
        disk.read_at(&mut found, before.size).expect("what is new can be read");
        assert!(found.iter().all(|byte| *byte == 0), "{step:?}: what is new is not zero");
    }
}

/// A failed step may leave its range in a bitmap, but never takes anything from it.
fn judge_bitmaps(step: &Step, done: bool, before: &Seen, after: &Seen) {
    for (name, bits) in before.bitmaps.iter().flatten() {
        let Some(old) = bits else { continue };
        let range = match step {
            Step::Write(range) | Step::Zero(range) | Step::Discard(range) if old.recording => range.clone(),
            Step::Resize(size) => before.size..*size,
            _ => 0..0,
        };
        let size = if let (Step::Resize(size), true) = (step, done) { *size } else { before.size };
        let mut with = old.clone().with([range], size);
        with.extents.iter_mut().for_each(|extent| extent.end = extent.end.min(size));
        with.extents.retain(|extent| !extent.is_empty());
        let found = after.bitmaps.as_ref().and_then(|bitmaps| bitmaps.get(name)).cloned().flatten();
        let found = found.unwrap_or_else(|| panic!("{step:?}: bitmap {name:?} is gone"));
        let right = found == with || !done && found == *old;
        assert!(right, "{step:?}: bitmap {name:?} is {found:?}, was {old:?}");
    }
}
