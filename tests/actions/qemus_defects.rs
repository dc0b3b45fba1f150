//! What goes wrong in QEMU's transactions, and must not here.

use super::*;

/// There it ends the process.
#[test]
fn enabling_a_bitmap_that_is_not_there() {
    let site = Site::new();
    let a = site.open("a");
    for completion in [CompletionMode::Grouped, CompletionMode::Individual] {
        let actions = vec![Action::bitmap_enable(a.clone(), "none")];
        site.refuses(completion, actions, "has no bitmap 'none'");
    }
}

/// There it stops recording: the failed action is taken back although it was never done.
#[test]
fn enabling_a_bitmap_that_is_in_use() {
    let site = Site::new();
    let a = site.open("a");
    let actions =
        vec![site.backup(&a, "t", by("old", BitmapMode::OnSuccess)), Action::bitmap_enable(a.clone(), "old")];
    site.refuses(CompletionMode::Individual, actions, "in use by the backup of action 1");
    drop(a);
    assert!(site.records("a", "old"));
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 3M 64k", &site.name("a")]);
    assert_eq!(site.dirty("a", "old"), Some(vec![DIRTY, 3 * MIB..3 * MIB + 64 * KIB]));
}

/// There its copy on disk is gone although the transaction failed.
#[test]
fn removing_a_bitmap_in_a_list_that_fails() {
    let site = Site::new();
    let a = site.open("a");
    let actions = vec![Action::bitmap_remove(a.clone(), "old"), Action::Abort];
    site.refuses(CompletionMode::Grouped, actions, "action 2 (abort)");
    drop(a);
    assert_eq!(site.dirty("a", "old"), Some(vec![DIRTY]));
}

/// There an action other than a backup cannot be in a group.
#[test]
fn grouped_with_any_mix_of_actions() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![Action::bitmap_clear(a.clone(), "old"), site.backup(&a, "t", BackupOptions::default())])
        .unwrap();
    drop(a);
    site.same("a", "t");
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
}

/// There the overlay of a failed run stays on disk.
#[test]
fn a_failed_snapshot_leaves_no_file() {
    let site = Site::new();
    let a = site.open("a");
    let overlay = Action::ExternalSnapshot {
        disk: a.clone(),
        overlay: site.path("over"),
        options: OverlayOptions::default(),
    };
    site.refuses(CompletionMode::Grouped, vec![overlay.clone(), Action::Abort], "(abort)");
    // The disk is what it was, and can be changed.
    a.write_at(&[3; 512], 0).unwrap();
    grouped(vec![overlay]).unwrap();
}
