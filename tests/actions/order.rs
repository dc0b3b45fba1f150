//! What the order of a list means.

use super::*;

#[test]
fn clear_then_backup_copies_nothing() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        Action::bitmap_clear(a.clone(), "old"),
        site.backup(&a, "t", by("old", BitmapMode::OnSuccess)),
    ])
    .unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), []);
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    site.check();
}

#[test]
fn backup_then_clear_copies_what_was_dirty() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![site.backup(&a, "t", by("old", BitmapMode::Never)), Action::bitmap_clear(a.clone(), "old")])
        .unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), [DIRTY]);
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    site.check();
}

#[test]
fn a_bitmap_that_its_backup_would_clear_can_go_with_it() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        site.backup(&a, "t", by("old", BitmapMode::OnSuccess)),
        Action::bitmap_remove(a.clone(), "old"),
        site.backup(&a, "u", by("new", BitmapMode::OnSuccess)),
        Action::bitmap_remove(a.clone(), "new"),
        Action::bitmap_add(a.clone(), "new", Some(4096), Recording::Disabled),
    ])
    .unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), [DIRTY]);
    assert_eq!(site.dirty("a", "old"), None);
    assert_eq!(site.dirty("a", "new"), Some(vec![]));
    assert!(!site.records("a", "new"));
    site.check();
}

#[test]
fn add_then_full_backup_begins_a_chain() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        Action::bitmap_add(a.clone(), "nightly", None, Recording::Enabled),
        site.backup(&a, "full", BackupOptions::default()),
    ])
    .unwrap();
    drop(a);
    site.same("a", "full");
    assert_eq!(site.dirty("a", "nightly"), Some(vec![]));
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 3M 64k", &site.name("a")]);
    assert_eq!(site.dirty("a", "nightly"), Some(vec![3 * MIB..3 * MIB + 64 * KIB]));
    site.check();
}

/// What a tool does that keeps a bitmap for each checkpoint: the union of two is copied, under a name that is gone then.
#[test]
fn a_bitmap_made_for_one_backup_leaves_no_trace() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        Action::bitmap_disable(a.clone(), "old"),
        Action::bitmap_add(a.clone(), "checkpoint", None, Recording::Enabled),
        Action::bitmap_add(a.clone(), "union", Some(65536), Recording::Disabled),
        Action::Merge {
            disk: a.clone(),
            name: b"union".to_vec(),
            sources: vec![MergeFrom::Own(b"old".to_vec()), MergeFrom::Own(b"new".to_vec())],
        },
        site.backup(&a, "t", by("union", BitmapMode::Never)),
        Action::bitmap_remove(a.clone(), "union"),
    ])
    .unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), [DIRTY]);
    assert_eq!(site.dirty("a", "union"), None);
    assert_eq!(site.dirty("a", "old"), Some(vec![DIRTY]));
    assert!(!site.records("a", "old"));
    assert!(site.records("a", "checkpoint"));
    site.check();
}

#[test]
fn a_merge_sees_what_came_before_it() {
    let site = Site::new();
    let (a, b) = (site.open("a"), site.open("b"));
    run("qemu-img", &["--version"]);
    let merge =
        |disk: &Disk, name: &str, sources| Action::Merge { disk: disk.clone(), name: name.into(), sources };
    grouped(vec![
        merge(&a, "new", vec![MergeFrom::Other(b.clone(), b"old".to_vec())]),
        Action::bitmap_clear(b.clone(), "old"),
        merge(&b, "new", vec![MergeFrom::Other(b.clone(), b"old".to_vec())]),
    ])
    .unwrap();
    drop((a, b));
    assert_eq!(site.dirty("a", "new"), Some(vec![DIRTY]));
    assert_eq!(site.dirty("b", "new"), Some(vec![]));
    assert_eq!(site.dirty("b", "old"), Some(vec![]));
    site.check();
}

/// All disks change in one step, with or without a backup among the actions.
#[test]
fn bitmaps_of_several_disks_change_together() {
    for with_backup in [false, true] {
        let site = Site::new();
        let disks = ["a", "b", "c"].map(|disk| site.open(disk));
        let mut actions: Vec<_> =
            disks.iter().map(|disk| Action::bitmap_remove(disk.clone(), "old")).collect();
        actions.extend(disks.iter().map(|disk| Action::bitmap_disable(disk.clone(), "new")));
        if with_backup {
            actions.insert(2, site.backup(&disks[1], "t", BackupOptions::default()));
        }
        grouped(actions).unwrap();
        drop(disks);
        for disk in ["a", "b", "c"] {
            assert_eq!(site.dirty(disk, "old"), None);
            assert!(!site.records(disk, "new"));
        }
        site.check();
        let files = site.everything().len();
        assert_eq!(files, if with_backup { 4 } else { 3 });
    }
}

/// A target that cannot be: the disks whose actions came before are as they were.
#[test]
fn a_failed_backup_leaves_what_the_other_actions_would_have_changed() {
    let site = Site::new();
    site.damage("b");
    let (a, b) = (site.open("a"), site.open("b"));
    let actions = || {
        vec![
            Action::bitmap_clear(a.clone(), "old"),
            Action::ExternalSnapshot {
                disk: a.clone(),
                overlay: site.path("over"),
                options: OverlayOptions::default(),
            },
            site.backup(&a, "t", BackupOptions::default()),
            site.backup(&b, "u", BackupOptions::default()),
        ]
    };
    let before = site.everything();
    for _ in 0..2 {
        let error = grouped(actions()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(site.everything() == before);
    }
}
