//! Lists with one bad action: nothing changes, not a file, not a byte.

use std::sync::mpsc;

use holstein::{Event, EventKind};

use super::*;

fn add(disk: &Disk, name: &str) -> Action {
    Action::bitmap_add(disk.clone(), name, None, Recording::Enabled)
}

/// Every kind of action that succeeds, then one that cannot, at each place of the list.
#[test]
fn one_bad_action_among_good_ones() {
    let site = Site::new();
    let (a, b) = (site.open("a"), site.open("b"));
    let good = || {
        vec![
            add(&a, "x"),
            Action::bitmap_remove(a.clone(), "new"),
            Action::bitmap_clear(b.clone(), "old"),
            Action::bitmap_disable(b.clone(), "new"),
            site.backup(&b, "t", BackupOptions::default()),
            Action::ExternalSnapshot {
                disk: b.clone(),
                overlay: site.path("over"),
                options: OverlayOptions::default(),
            },
            add(&b, "y"),
        ]
    };
    let c = site.open("c");
    let read_only = || Disk::open(site.path("a"), &DiskOptions::default());
    assert_eq!(read_only().unwrap_err().kind(), ErrorKind::Locked);
    let bad: Vec<(Action, ErrorKind, &str)> = vec![
        (Action::Abort, ErrorKind::Cancelled, "(abort): it makes the transaction fail; nothing was done"),
        (add(&c, "old"), ErrorKind::Exists, "(bitmap add)"),
        (Action::bitmap_remove(c.clone(), "none"), ErrorKind::BitmapNotFound, "has no bitmap 'none'"),
        (Action::bitmap_clear(c.clone(), "none"), ErrorKind::BitmapNotFound, "(bitmap clear)"),
        (Action::bitmap_enable(c.clone(), "none"), ErrorKind::BitmapNotFound, "(bitmap enable)"),
        (Action::bitmap_disable(c.clone(), "none"), ErrorKind::BitmapNotFound, "(bitmap disable)"),
        (
            Action::Merge {
                disk: c.clone(),
                name: b"old".to_vec(),
                sources: vec![MergeFrom::Own(b"none".to_vec())],
            },
            ErrorKind::BitmapNotFound,
            "(bitmap merge)",
        ),
        (
            Action::Merge {
                disk: c.clone(),
                name: b"old".to_vec(),
                sources: vec![MergeFrom::Below(b"old".to_vec())],
            },
            ErrorKind::BitmapNotFound,
            "has no image below it",
        ),
        (site.backup(&c, "a", BackupOptions::default()), ErrorKind::InvalidArgument, "which this run reads"),
        (site.backup(&c, "u", by("none", BitmapMode::Never)), ErrorKind::BitmapNotFound, "(backup)"),
        (
            Action::ExternalSnapshot {
                disk: c.clone(),
                overlay: site.path("c"),
                options: OverlayOptions::default(),
            },
            ErrorKind::InvalidArgument,
            "which this run reads",
        ),
        (
            site.backup(&c, ".holstein-0123456789abcdef.journal", BackupOptions::default()),
            ErrorKind::InvalidArgument,
            "choose a name that does not begin with '.holstein-'",
        ),
        (
            Action::ExternalSnapshot {
                disk: c.clone(),
                overlay: site.path(".holstein-0123456789abcdef.tmp"),
                options: OverlayOptions::default(),
            },
            ErrorKind::InvalidArgument,
            "choose a name that does not begin with '.holstein-'",
        ),
        (
            Action::ExternalSnapshot {
                disk: c.clone(),
                overlay: site.folder.path().join("none/over"),
                options: OverlayOptions::default(),
            },
            ErrorKind::NotFound,
            "none",
        ),
        (
            Action::ExternalSnapshot {
                disk: c.clone(),
                overlay: site.path("x"),
                options: OverlayOptions { cluster_size: Some(3), ..OverlayOptions::default() },
            },
            ErrorKind::InvalidArgument,
            "cluster size",
        ),
    ];
    for completion in [CompletionMode::Grouped, CompletionMode::Individual] {
        for (action, kind, text) in &bad {
            for place in 0..=good().len() {
                let mut actions = good();
                actions.insert(place, action.clone());
                let error = site.refuses(completion, actions, text);
                assert_eq!(error.kind(), *kind, "{error}");
            }
        }
    }
    // And without it all are done.
    grouped(good()).unwrap();
    drop((bad, a, b, c));
    assert!(site.records("over", "y"));
    site.check();
}

#[test]
fn a_list_without_actions() {
    let site = Site::new();
    for mode in [CompletionMode::Grouped, CompletionMode::Individual] {
        let mut empty = holstein::Transaction::new();
        empty.set_completion(mode);
        let (lines, last) = mpsc::channel();
        empty.set_log(move |_, _, text| lines.send(text.to_owned()).unwrap());
        let running = empty.start().unwrap();
        assert!(matches!(running.wait(None), Some(Ok(()))));
        assert!(running.jobs().is_empty());
        let event = running.next_event().unwrap();
        assert!(matches!(event, Event { job: None, kind: EventKind::Finished }), "{event:?}");
        assert!(running.next_event().is_none());
        assert_eq!(last.recv().unwrap(), "the transaction has ended");
    }
    site.refuses(CompletionMode::Grouped, vec![Action::Abort], "it makes the transaction fail");
}

#[test]
fn a_disk_that_was_opened_for_reading() {
    let site = Site::new();
    let a = Disk::open(site.path("a"), &DiskOptions::default()).unwrap();
    let error = site.refuses(CompletionMode::Grouped, vec![add(&a, "x")], "was opened for reading");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    // Nothing of it is written for an overlay.
    let overlay =
        Action::ExternalSnapshot { disk: a, overlay: site.path("o"), options: OverlayOptions::default() };
    grouped(vec![overlay]).unwrap();
    site.same("a", "o");
}

#[test]
fn one_target_for_two_actions() {
    let site = Site::new();
    let a = site.open("a");
    let overlay = Action::ExternalSnapshot {
        disk: a.clone(),
        overlay: site.path("t"),
        options: OverlayOptions::default(),
    };
    let backup = || site.backup(&a, "t", BackupOptions::default());
    let both = |first, second| format!("actions {first} and {second} would both make '");
    site.refuses(CompletionMode::Grouped, vec![backup(), overlay], &both(1, 2));
    let between = vec![backup(), site.backup(&a, "u", BackupOptions::default()), backup()];
    site.refuses(CompletionMode::Individual, between, &both(1, 3));
}

#[test]
fn what_a_backup_goes_by_is_not_merged_into() {
    let site = Site::new();
    let a = site.open("a");
    let merge = Action::Merge {
        disk: a.clone(),
        name: b"old".to_vec(),
        sources: vec![MergeFrom::Own(b"new".to_vec())],
    };
    let actions = vec![site.backup(&a, "t", by("old", BitmapMode::OnSuccess)), merge.clone()];
    let text =
        "action 2 (bitmap merge): bitmap 'old' is in use by the backup of action 1; put this before it";
    site.refuses(CompletionMode::Grouped, actions, text);
    grouped(vec![merge, site.backup(&a, "t", by("old", BitmapMode::OnSuccess))]).unwrap();
}

#[test]
fn a_kept_partial_target_would_be_some_of_all() {
    let site = Site::new();
    let a = site.open("a");
    let actions =
        vec![site.backup(&a, "t", by("old", BitmapMode::Always)), Action::bitmap_clear(a.clone(), "new")];
    site.refuses(CompletionMode::Grouped, actions, "bitmap mode always");
}
