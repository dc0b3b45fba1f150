//! Each backup for itself: the other actions are done when the transaction starts.

use std::sync::Arc;

use holstein::{
    Format,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, OperationKind},
    },
};

use super::*;

#[test]
fn other_actions_stand_although_a_backup_fails() {
    let site = Site::new();
    site.damage("b");
    let a = site.open("a");
    let mut actions = vec![Action::bitmap_clear(a.clone(), "old")];
    actions.push(site.backup(&a, "t", BackupOptions::default()));
    let b = site.open("b");
    actions.push(site.backup(&b, "u", BackupOptions::default()));
    assert_eq!(individual(actions).unwrap_err().kind(), ErrorKind::Corrupt);
    drop((a, b));
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    site.same("a", "t");
    assert!(!site.path("u").exists());
    assert_eq!(site.everything().len(), 4);
}

#[test]
fn a_bitmap_in_use_by_a_backup_does_not_change_behind_it() {
    let site = Site::new();
    let a = site.open("a");
    for mode in [BitmapMode::Never, BitmapMode::OnSuccess] {
        let actions = vec![site.backup(&a, "t", by("old", mode)), Action::bitmap_clear(a.clone(), "old")];
        let text =
            "action 2 (bitmap clear): bitmap 'old' is in use by the backup of action 1, which may fail";
        site.refuses(CompletionMode::Individual, actions, text);
    }
    // The other way round it is known what is meant.
    individual(vec![
        Action::bitmap_clear(a.clone(), "old"),
        site.backup(&a, "t", by("old", BitmapMode::OnSuccess)),
    ])
    .unwrap();
    assert_eq!(stored(&site.path("t")), []);
}

#[test]
fn the_bitmap_of_an_image_that_is_covered_changes_only_with_all() {
    let site = Site::new();
    let a = site.open("a");
    let actions = |mode| {
        let disk = a.clone();
        let (overlay, options) = (site.path("over"), OverlayOptions::default());
        vec![site.backup(&a, "t", by("old", mode)), Action::ExternalSnapshot { disk, overlay, options }]
    };
    let text = "action 2 (external snapshot): bitmap 'old' would change when the backup of action 1 is done";
    site.refuses(CompletionMode::Individual, actions(BitmapMode::OnSuccess), text);
    individual(actions(BitmapMode::Never)).unwrap();
    drop(a);
    assert!(site.path("t").exists() && site.path("over").exists());
    assert_ne!(site.dirty("a", "old"), Some(vec![]));
}

#[test]
fn the_bitmap_of_an_overlay_changes_only_with_all() {
    let site = Site::new();
    let a = site.open("a");
    let overlay = || Action::ExternalSnapshot {
        disk: a.clone(),
        overlay: site.path("over"),
        options: OverlayOptions::default(),
    };
    let actions = || {
        vec![
            overlay(),
            Action::bitmap_add(a.clone(), "moved", None, Recording::Enabled),
            Action::Merge {
                disk: a.clone(),
                name: b"moved".to_vec(),
                sources: vec![MergeFrom::Below(b"old".to_vec())],
            },
            site.backup(&a, "t", by("moved", BitmapMode::OnSuccess)),
        ]
    };
    let text = "action 4 (backup): bitmap 'moved' lies in the overlay of an earlier action";
    site.refuses(CompletionMode::Individual, actions(), text);
    grouped(actions()).unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), [DIRTY]);
    assert_eq!(site.dirty("over", "moved"), Some(vec![]));
    assert_eq!(site.dirty("a", "old"), Some(vec![DIRTY]));
    site.check();
}

/// Two transactions that decide on the same disk at the same time: neither undoes the other's change, and none fails
/// because of it.
#[test]
fn transactions_on_one_disk_take_turns() {
    let site = Site::new();
    let a = site.open("a");
    for round in 0..20 {
        let run = &|bitmap: &str| {
            let target = format!("{bitmap}-{round}");
            grouped(vec![site.backup(&a, &target, by(bitmap, BitmapMode::OnSuccess))]).unwrap();
        };
        std::thread::scope(|scope| {
            for bitmap in ["old", "new"] {
                scope.spawn(move || run(bitmap));
            }
        });
        for bitmap in ["old", "new"] {
            assert_eq!(
                a.bitmap(bitmap.as_bytes()).unwrap().extents().count(),
                0,
                "{bitmap} in round {round}"
            );
        }
        a.write_at(&[round; 512], DIRTY.start).unwrap();
        for bitmap in ["old", "new"] {
            assert_eq!(a.bitmap(bitmap.as_bytes()).unwrap().extents().collect::<Vec<_>>(), [DIRTY]);
        }
    }
    drop(a);
    site.check();
}

/// A start that fails has done nothing, whatever it fails at.
#[test]
fn a_target_that_cannot_be_made_comes_before_all_else() {
    let site = Site::new();
    let storage = SimulatedStorage::new();
    storage.insert("/a.qcow2", &fs::read(site.path("a")).unwrap());
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let open = || Disk::open_in(Arc::new(storage.clone()), "/a.qcow2", &options).unwrap();
    let overlay = "/over.qcow2".into();
    let disk = open();
    let actions = || {
        let options = BackupOptions { format: Format::Raw, ..BackupOptions::default() };
        vec![
            Action::bitmap_clear(disk.clone(), "old"),
            Action::ExternalSnapshot {
                disk: disk.clone(),
                overlay: PathBuf::clone(&overlay),
                options: OverlayOptions::default(),
            },
            Backup { source: disk.clone(), target: "/t.raw".into(), options }.into(),
        ]
    };
    // A raw target gets its length at once.
    storage.fail(Fault::once(OperationKind::SetLen, 1, Failure::Errno(libc::ENOSPC)));
    let before = storage.contents("/a.qcow2");
    assert_eq!(individual(actions()).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(storage.paths(), [PathBuf::from("/a.qcow2")]);
    assert!(storage.contents("/a.qcow2") == before);
    individual(actions()).unwrap();
    drop(disk);
    assert_eq!(open().bitmap(b"old").unwrap().extents().count(), 0);
    assert_eq!(storage.paths(), ["/a.qcow2", "/over.qcow2", "/t.raw"].map(PathBuf::from));
}
