//! A repair: guest data stays, bitmaps stay or are told as lost, nothing gets worse, and a second one finds nothing
//! to do.

use holstein::{Access, CheckProblemKind, CheckReport, Disk, DiskOptions, RepairMode};

use super::{
    seen::{Seen, report},
    store,
};
use crate::judges::{IMAGE, MEMORY, check_text, open};

/// Repairs a copy.
pub(super) fn judge(file: &[u8], choice: u8, before: Option<&Seen>, found: Option<&CheckReport>) {
    let mode = if choice.is_multiple_of(2) { RepairMode::All } else { RepairMode::Leaks };
    let options = DiskOptions { memory_limit: MEMORY, ..DiskOptions::default() };
    let storage = store(file);
    let repair = || Disk::repair_in(storage.clone(), IMAGE, &options, mode).inspect_err(check_text);
    let Ok(done) = repair() else {
        assert!(storage.contents(IMAGE).unwrap() == file, "a refused repair changed the image");
        return;
    };
    assert_eq!(Some(&done.found), found, "it found something else than a check");
    assert_eq!(Some(&done.remaining), report(&storage).as_ref(), "what remains is something else");
    // As a file grows, what lay behind its end can count as another kind of damage; and flags of broken entries are
    // compared only with refcounts that can be read.
    let damage = |report: &CheckReport| {
        report.corruptions - report.copied_flags + report.further_corruptions + report.check_errors
    };
    // What is written into one of two tables that lie on one another changes what the other says.
    let overlaps = |report: &CheckReport| {
        report.problems.iter().any(|problem| problem.kind == CheckProblemKind::Overlap)
    };
    let tangled = overlaps(&done.found) || overlaps(&done.remaining);
    assert!(tangled || damage(&done.remaining) <= damage(&done.found), "it got worse: {done:#?}");

    let repaired = storage.contents(IMAGE).unwrap();
    let again = repair().expect("what was repaired can be repaired");
    let changed = storage.contents(IMAGE).unwrap() != repaired;
    // What the end of the file cuts in the middle of a sector is whole when the file has grown.
    let ragged = !file.len().is_multiple_of(512);
    assert!(!changed || tangled || ragged, "a second repair changed something: {again:#?}");
    let Some(before) = before else { return };
    let disk = open(&storage, Access::Read).expect("a repaired image opens");
    let after = before.again(&disk);
    after.still_shows(before);
    for (name, bits) in before.bitmaps.iter().flatten().filter(|(_, bits)| bits.is_some()) {
        let lost =
            done.lost_bitmaps.iter().any(|bitmap| bitmap.name.as_ref().is_none_or(|lost| lost == name));
        let found = after.bitmaps.as_ref().and_then(|bitmaps| bitmaps.get(name));
        assert!(lost || found == Some(bits), "bitmap {name:?} is {found:?}, was {bits:?}: {done:#?}");
    }
}
