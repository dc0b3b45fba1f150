//! The table: each sync mode with each bitmap mode, and everything that can become of the backup.

use holstein::{
    BitmapMode::{self, Always, Never, OnSuccess},
    CompletionMode, ErrorKind, EventKind,
    SyncMode::{self, Bitmap, Full, Incremental, Top},
};

use crate::site::{Ended, MIB, MIDST, Order, Past, SIZE, Site, Trouble};

/// What becomes of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Same,
    Clean,
    /// It has what is not in the target.
    Rest,
}

/// What becomes of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Gone,
    Partial,
    Complete,
}

/// What is allowed, and the bitmap after success and after a failure or a cancel in the midst of the copying.
const TABLE: [(SyncMode, Option<BitmapMode>, After, After); 10] = [
    (Incremental, None, After::Clean, After::Same),
    (Bitmap, Some(OnSuccess), After::Clean, After::Same),
    (Bitmap, Some(Never), After::Same, After::Same),
    (Bitmap, Some(Always), After::Clean, After::Rest),
    (Full, Some(OnSuccess), After::Clean, After::Same),
    (Full, Some(Always), After::Clean, After::Rest),
    (Top, Some(OnSuccess), After::Clean, After::Same),
    (Top, Some(Always), After::Clean, After::Rest),
    (Full, None, After::Same, After::Same),
    (Top, None, After::Same, After::Same),
];

/// A backup that has ended.
pub struct Cell<'a> {
    pub site: &'a Site,
    pub order: Order,
    pub past: Past,
    pub ended: Ended,
    pub on_success: After,
    pub on_failure: After,
}

/// Runs one kind of trouble through the whole table.
fn all_cells(troubles: &[Trouble], judge: impl Fn(&Cell<'_>)) {
    let site = Site::new(64 << 10);
    for (number, (sync, mode, on_success, on_failure)) in TABLE.into_iter().enumerate() {
        let mut order = Order::new(sync, mode);
        order.parallel = number % 3 == 0;
        order.completion = [CompletionMode::Grouped, CompletionMode::Individual][number % 2];
        judge(&Cell { on_success, on_failure, ..Cell::run(&site, order, troubles) });
    }
}

impl<'a> Cell<'a> {
    /// Runs a backup of the disk as it was at first, in bitmap mode always unless said otherwise.
    pub fn run(site: &'a Site, order: Order, troubles: &[Trouble]) -> Self {
        println!("{order:?}, {troubles:?}");
        site.reset();
        let past = Past::of(site, &order);
        let ended = site.back_up(&order, troubles);
        println!("{:?}: {}", ended.job.report(), ended.text());
        Cell { site, order, past, ended, on_success: After::Clean, on_failure: After::Rest }
    }

    /// Target and bitmap are as the table says, nothing else changed, and the next increment has all that is missing.
    pub fn leaves(&self, target: Target, after: After) {
        let Cell { site, past, ended, .. } = self;
        let report = ended.job.report();
        let end = match target {
            Target::Gone => 0,
            Target::Partial => report.partial_end.expect("a partial target is told"),
            Target::Complete => SIZE,
        };
        assert_eq!(report.partial_end.is_some(), target == Target::Partial);
        if target == Target::Gone {
            assert_eq!(after, After::Same);
            // Clusters that were staged are free again, whatever bytes they hold.
            site.nothing_else_changed(false);
            assert_eq!(site.dirty(), past.dirty);
            return;
        }
        site.nothing_else_changed(true);
        let expected = match after {
            After::Same => past.dirty.clone(),
            After::Clean => vec![],
            After::Rest => past.rest(end),
        };
        assert_eq!(site.dirty(), expected);
        assert_eq!(report.data_bytes + report.zero_bytes, past.wanted(0..end));
        site.workshop.check("target.qcow2");
        if target == Target::Complete {
            site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
        }
        let below = if after == After::Same { "full.qcow2" } else { "target.qcow2" };
        site.next_increment_is_complete(below);
    }

    /// The backup failed in this way, and nothing of it is left.
    pub fn leaves_nothing(&self, kind: ErrorKind) {
        self.fails(kind);
        assert!(!self.ended.text().contains("was kept"));
        self.leaves(Target::Gone, After::Same);
    }

    pub fn fails(&self, kind: ErrorKind) {
        let ended = &self.ended;
        assert_eq!(ended.job.error().unwrap().kind(), kind, "{}", ended.text());
        assert_eq!(ended.result.as_ref().unwrap_err().to_string(), ended.text());
        match &ended.last_event {
            EventKind::Cancelled => assert_eq!(kind, ErrorKind::Cancelled),
            EventKind::Failed(error) => assert_eq!(error.to_string(), ended.text()),
            other => panic!("{other:?}"),
        }
    }

    /// The error tells of a partial target; up to where it goes.
    pub fn partial_end(&self) -> u64 {
        let (text, end) = (self.ended.text(), self.ended.job.report().partial_end.unwrap());
        for part in
            ["the partial target '", "target.qcow2' was kept", "and bitmap 'b' of '", "has the rest: "]
        {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        assert!(text.contains(&format!("up to byte {end} of the disk")), "{text}");
        end
    }

    pub fn says(&self, words: &str) {
        assert!(self.ended.text().contains(words), "'{words}' is not in: {}", self.ended.text());
    }
}

#[test]
fn success() {
    all_cells(&[], |cell| {
        cell.ended.result.as_ref().unwrap();
        assert!(matches!(cell.ended.last_event, EventKind::Completed));
        cell.leaves(Target::Complete, cell.on_success);
    });
}

#[test]
fn the_source_fails_in_the_midst() {
    all_cells(&[Trouble::Unreadable(MIDST)], |cell| {
        cell.says("cannot read");
        if cell.on_failure == After::Same {
            return cell.leaves_nothing(ErrorKind::Io);
        }
        cell.fails(ErrorKind::Io);
        let end = cell.partial_end();
        // All but the batch that failed and those behind it.
        let batch = if cell.order.parallel { MIB / 4 } else { MIB };
        assert!(end <= MIDST && cell.past.wanted(end..MIDST) < batch, "the target ends at {end}");
        cell.leaves(Target::Partial, cell.on_failure);
    });
}

#[test]
fn the_source_fails_at_once() {
    // At the first byte that the top image has, and at the first dirty one.
    for start in [MIB, 2 * MIB] {
        all_cells(&[Trouble::Unreadable(start)], |cell| {
            if cell.past.wanted(0..start) == 0 || cell.on_failure == After::Same {
                return match cell.past.wanted(start..start + 1) {
                    0 => cell.leaves(Target::Complete, cell.on_success),
                    _ => cell.leaves_nothing(ErrorKind::Io),
                };
            }
            cell.partial_end();
            cell.leaves(Target::Partial, cell.on_failure);
        });
    }
}

#[test]
fn the_source_is_no_longer_what_it_was() {
    all_cells(&[Trouble::Changed(MIDST)], |cell| {
        if cell.order.mode == Some(Always) {
            cell.says("could not be kept (");
            cell.says("was written while it was read");
        }
        cell.leaves_nothing(ErrorKind::Io);
    });
}

#[test]
fn a_cancel_in_the_midst() {
    let asked_at = 3 * MIB;
    all_cells(&[Trouble::Cancel(asked_at)], |cell| {
        if cell.on_failure == After::Same {
            return cell.leaves_nothing(ErrorKind::Cancelled);
        }
        cell.fails(ErrorKind::Cancelled);
        assert!(cell.ended.text().ends_with("the backup was cancelled"), "{}", cell.ended.text());
        let end = cell.partial_end();
        assert!(asked_at < end && end < SIZE, "what was begun is brought to its end, and no more: {end}");
        cell.leaves(Target::Partial, cell.on_failure);
    });
}

#[test]
fn a_cancel_when_all_is_copied() {
    all_cells(&[Trouble::LateCancel], |cell| {
        if cell.on_failure == After::Same {
            return cell.leaves_nothing(ErrorKind::Cancelled);
        }
        cell.fails(ErrorKind::Cancelled);
        assert_eq!(cell.partial_end(), SIZE);
        cell.site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
        cell.leaves(Target::Partial, cell.on_failure);
    });
}

/// The target fails when it is complete.
fn target_fails(trouble: Trouble, kind: ErrorKind, words: &str) {
    all_cells(&[trouble], |cell| {
        cell.says(words);
        cell.leaves_nothing(kind);
    });
}

/// The same, and when a part of it is about to be kept.
fn end_fails(trouble: Trouble, kind: ErrorKind, words: &str) {
    target_fails(trouble, kind, words);
    all_cells(&[Trouble::Unreadable(MIDST), trouble], |cell| {
        cell.says("cannot read");
        if cell.order.mode == Some(Always) {
            assert!(cell.ended.text().starts_with("what was copied to '"), "{}", cell.ended.text());
            cell.says("target.qcow2' could not be kept (");
            cell.says(words);
        }
        cell.leaves_nothing(ErrorKind::Io);
    });
}

#[test]
fn no_space_for_data() {
    target_fails(Trouble::NoSpace, ErrorKind::NoSpace, "No space left");
}

#[test]
fn one_write_fails() {
    target_fails(Trouble::Write, ErrorKind::Io, "cannot write");
}

#[test]
fn no_space_for_tables() {
    end_fails(Trouble::NoSpaceForTables, ErrorKind::NoSpace, "No space left");
}

#[test]
fn the_targets_first_sync_fails() {
    end_fails(Trouble::Sync(1), ErrorKind::Io, "cannot make durable");
}

#[test]
fn the_targets_second_sync_fails() {
    end_fails(Trouble::Sync(2), ErrorKind::Io, "cannot make durable");
}

#[test]
fn the_target_cannot_be_renamed() {
    end_fails(Trouble::Rename, ErrorKind::Permission, "cannot rename the finished target");
}

#[test]
fn the_targets_name_cannot_be_made_durable() {
    end_fails(Trouble::Folder, ErrorKind::Io, "cannot make the folder");
}
