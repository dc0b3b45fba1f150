//! Repairing what a check finds.
//!
//! Guest data is never written, and no cluster becomes free that could hold some: not while anything that can
//! refer to clusters is broken. What cannot be repaired stays as it is, byte for byte. Order of writes, and what
//! a crash leaves; each step that has nothing to do is left out:
//!
//! 1. Unknown autoclear bits are cleared; sync.
//! 2. Bitmaps that are to be given up are marked as in use, so that nobody ever trusts them; sync.
//! 3. Flags that promise a refcount of 1 where that is not so are cleared, in place.
//! 4. Either too high refcounts are lowered, in place; or a new refcount table and new blocks, a new bitmap directory
//!    and a new snapshot table are written into clusters that nothing refers to. Sync.
//! 5. *Publish*, for the new table: one write of the first 512 bytes of the file, which decides; sync.
//! 6. Flags that could promise a refcount of 1 are set, in place; sync.
//! 7. When a check finds nothing more that is corrupt, the marks that say so are cleared; sync.
//!
//! Bitmaps that nobody kept up to date are dropped from the header before the step 4 that lowers the refcounts of
//! their clusters, or by step 5. A crash leaves the image not worse than it was, and it can be repaired again.

mod bitmaps;
mod flags;
mod leaks;
mod rebuild;
mod report;
mod session;
mod snapshots;
mod targets;

pub(crate) use report::Repaired;
pub use report::{LostBitmap, LostSnapshots, RepairMode, RepairReport};

use self::{
    bitmaps::Bitmaps,
    flags::{Flags, Step},
    rebuild::{Beside, Layout, Room},
    session::Session,
    snapshots::Snapshots,
    targets::{Believed, Targets, Way},
};
use super::{
    CheckReport, Include, check_file, count, counts::Bits, structure::Structure, tables::L2Tables,
    tally::Tally,
};
use crate::{
    error::Result,
    format::{
        bitmap,
        header::{Header, incompatible},
    },
    image::{
        budget::Budget,
        edit::{BitmapsField, HeaderChange, SnapshotTable},
        qcow2::read_first_cluster,
    },
    memory,
    storage::{File, FileKind},
};

/// Repairs the image in `file`, which is locked against everybody else.
pub(super) fn repair(file: &File, budget: &Budget, mode: RepairMode) -> Result<Repaired> {
    let stamp = file.stamp()?;
    let header = Header::parse_for_check(&read_first_cluster(file)?)?;
    let mut session = Session::new(file, &header, stamp);
    let mut done = Repaired::default();
    if header.l1_entries > 0 && header.l1_offset < SECTOR {
        // What is written to the header would be read as the disk's tables by the next repair, and so on.
        done.left.push(TABLE_IN_HEADER.to_owned());
        return Ok(done);
    }
    {
        let mut report = CheckReport::new();
        let structure = Structure::read(file, &header, budget, &mut report)?;
        let (mut tally, tables) = count(&structure, budget, report, Include::Refcounts)?;
        tally.compare()?;
        let believed = Believed::judge(&tally, budget)?;
        let bitmaps = Bitmaps::judge(&tally, budget)?;
        let snapshots = Snapshots::judge(&mut tally, budget)?;
        if mode == RepairMode::All
            && let Some(text) = snapshots.misplaced(&mut tally)?
        {
            done.left.push(text);
            return Ok(done);
        }
        // What a broken bitmap should have may be among the leaks.
        tally.report.leaks_are_certain &= bitmaps.lost.is_empty();
        let gives_up = !bitmaps.lost.is_empty() || snapshots.is_changed();
        if mode == RepairMode::All && (tally.too_low || !believed.all || gives_up) {
            let taken = rebuild::taken(&tally, budget)?;
            drop((tally, tables));
            anew(&mut session, budget, Kept { bitmaps, snapshots }, believed, taken, &mut done)?;
        } else {
            in_place(&mut session, tally, &tables, believed, mode, &mut done)?;
        }
    }
    done.written = session.begun();
    if header.has(MARKS) {
        done.written |= clear_marks(file, budget)?;
    }
    Ok(done)
}

/// What says that an image needs a repair.
const MARKS: u64 = incompatible::DIRTY | incompatible::CORRUPT;

/// Where the header is written.
const SECTOR: u64 = 512;

const TABLE_IN_HEADER: &str =
    "nothing was repaired: the L1 table lies on the header, so that the disk's tables are not known";
const LEAKS_STAY: &str =
    "leaked clusters were left alone: what damaged entries should lead to may be among them";
const REFCOUNTS_STAY: &str =
    "wrong refcounts were left alone: a repair of leaks only lowers what is too high";

/// Lowers refcounts, and lets the flags follow them.
fn in_place(
    session: &mut Session<'_>,
    tally: Tally<'_>,
    tables: &L2Tables,
    believed: Believed,
    mode: RepairMode,
    done: &mut Repaired,
) -> Result<()> {
    let (structure, report) = (tally.structure, &tally.report);
    let certain = report.leaks_are_certain;
    let lower = certain && report.leaks > 0;
    if report.leaks > 0 && !certain {
        done.left.push(LEAKS_STAY.to_owned());
    }
    if mode == RepairMode::Leaks && (tally.too_low || !believed.all) {
        done.left.push(REFCOUNTS_STAY.to_owned());
    }
    let only_flags = report.corruptions == report.copied_flags && report.check_errors == 0;
    let flags = certain && only_flags || mode == RepairMode::All;

    let mut targets = Targets::new(tally, believed, Way::InPlace);
    if lower && has_stale_bitmaps(structure.header) {
        session.publish(&HeaderChange { bitmaps: Some(BitmapsField::None), ..HeaderChange::default() })?;
        done.lost_bitmaps.push(stale());
    }
    let fix_flags = |step, session: &mut Session<'_>, targets: &mut Targets<'_>| match flags {
        true => Flags { structure, tables, session, targets, step }.run(),
        false => Ok(0),
    };
    done.flags += fix_flags(Step::Clear, session, &mut targets)?;
    if lower {
        leaks::lower(session, &mut targets)?;
    }
    session.sync()?;
    done.flags += fix_flags(Step::Set, session, &mut targets)?;
    session.sync()
}

/// What there is beside the disk, and what of it is lost.
struct Kept {
    bitmaps: Bitmaps,
    snapshots: Snapshots,
}

/// Writes all refcounts anew, without the bitmaps and snapshots that are lost.
fn anew(
    session: &mut Session<'_>,
    budget: &Budget,
    Kept { bitmaps, mut snapshots }: Kept,
    believed: Believed,
    taken: Bits,
    done: &mut Repaired,
) -> Result<()> {
    let (file, header) = (session.file, session.header);
    let mut structure = Structure::bare(file, header)?;
    let (old_directory, directory) = match bitmaps.lost.is_empty() {
        true => (bitmaps.directory.clone(), Vec::new()),
        false => (0..0, bitmaps.new_directory()?),
    };
    structure.set_bitmaps(old_directory, bitmaps.copy_of_kept()?);
    let old_table = if snapshots.is_changed() { 0 } else { snapshots.old_bytes };
    structure.set_snapshots(old_table, memory::copied(&snapshots.kept)?);
    let beside = Beside { directory, snapshots: std::mem::take(&mut snapshots.new_table) };
    let (tally, tables) = count(&structure, budget, CheckReport::new(), Include::AllButRefcounts)?;

    let room = Room { taken, growth_limit: tally.growth_limit, kind: file.kind()? };
    let mut targets = Targets::new(tally, believed, Way::Anew { own: 0..0 });
    let Some(layout) = Layout::find(&mut targets, &room, &beside, budget)? else {
        let text = match room.kind {
            FileKind::Regular => {
                "nothing was repaired: damaged entries lead to where the file would have to grow"
            }
            _ => "nothing was repaired: there is no room for new refcounts",
        };
        done.left.push(text.to_owned());
        return Ok(());
    };
    targets.way = Way::Anew { own: layout.own() };
    let geometry = targets.geometry;
    let directory = BitmapsField::Directory {
        count: bitmaps.kept.len() as u32,
        offset: layout.directory_offset(&geometry),
        size: beside.directory.len() as u64,
    };
    let snapshot_table = SnapshotTable {
        count: snapshots.kept.len() as u32,
        offset: if snapshots.kept.is_empty() { 0 } else { layout.snapshots_offset(&geometry) },
    };
    let change = HeaderChange {
        bitmaps: match (bitmaps.lost.is_empty(), bitmaps.kept.is_empty()) {
            (true, _) => has_stale_bitmaps(header).then_some(BitmapsField::None),
            (false, true) => Some(BitmapsField::None),
            (false, false) => Some(directory),
        },
        refcount_table: Some(layout.table(&geometry)),
        snapshots: snapshots.is_changed().then_some(snapshot_table),
        clear_incompatible: header.incompatible & incompatible::DIRTY,
        ..HeaderChange::default()
    };
    session.rehearse(&change)?;

    for (at, entry) in &bitmaps.to_mark {
        let mut marked = Vec::new();
        bitmap::Entry { in_use: true, ..entry.clone() }.append(&mut marked);
        session.write(&marked[bitmap::FLAGS], at + bitmap::FLAGS.start as u64)?;
    }
    session.sync()?;
    let fix_flags = |step, session: &mut Session<'_>, targets: &mut Targets<'_>| {
        Flags { structure: &structure, tables: &tables, session, targets, step }.run()
    };
    done.flags += fix_flags(Step::Clear, session, &mut targets)?;
    layout.write(session, &mut targets, &beside)?;
    session.publish(&change)?;
    done.flags += fix_flags(Step::Set, session, &mut targets)?;
    session.sync()?;

    done.lost_snapshots = snapshots.lost;
    done.mended_snapshots = snapshots.mended;
    done.lost_bitmaps = bitmaps.lost;
    if has_stale_bitmaps(header) {
        done.lost_bitmaps.push(stale());
    }
    if !targets.certain {
        done.left.push(LEAKS_STAY.to_owned());
    }
    Ok(())
}

/// Bitmaps that a program which does not know them has not kept up to date.
fn has_stale_bitmaps(header: &Header) -> bool {
    header.extensions.bitmaps.is_some() && !header.bitmaps_are_current()
}

fn stale() -> LostBitmap {
    let reason = "a program that does not know bitmaps wrote to the image (autoclear bit 0 is off)";
    LostBitmap { name: None, reason: reason.to_owned() }
}

/// Clears the marks of an image in which nothing is corrupt any more; false if something is.
fn clear_marks(file: &File, budget: &Budget) -> Result<bool> {
    let stamp = file.stamp()?;
    let header = Header::parse_for_check(&read_first_cluster(file)?)?;
    let (report, _) = check_file(file, budget)?;
    if !header.has(MARKS) || report.is_corrupt() || report.check_errors > 0 {
        return Ok(false);
    }
    let structure = Structure::read(file, &header, budget, &mut CheckReport::new())?;
    let (tally, _) = count(&structure, budget, CheckReport::new(), Include::Refcounts)?;
    if !Bitmaps::judge(&tally, budget)?.lost.is_empty() {
        return Ok(false);
    }
    let change = HeaderChange { clear_incompatible: header.incompatible & MARKS, ..HeaderChange::default() };
    Session::new(file, &header, stamp).publish(&change)?;
    Ok(true)
}
