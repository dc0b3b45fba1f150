//! Snapshots, external and internal.

use super::*;

fn over(site: &Site, disk: &Disk, overlay: &str) -> Action {
    let options = OverlayOptions::default();
    Action::ExternalSnapshot { disk: disk.clone(), overlay: site.path(overlay), options }
}

#[test]
fn an_overlay_is_an_image_that_qemu_goes_on_with() {
    let site = Site::new();
    let disks = ["a", "b"].map(|disk| site.open(disk));
    grouped(vec![over(&site, &disks[0], "a1"), over(&site, &disks[1], "b1")]).unwrap();
    drop(disks);
    for (below, overlay) in [("a", "a1"), ("b", "b1")] {
        let before = fs::read(site.path(below)).unwrap();
        site.same(below, overlay);
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 77 1M 100k", &site.name(overlay)]);
        let info = run("qemu-img", &["info", "--output=json", &site.name(overlay)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["backing-filename"], format!("{below}.qcow2"));
        assert_eq!(info["backing-filename-format"], "qcow2");
        assert_eq!(info["virtual-size"], 4 * MIB);
        assert!(fs::read(site.path(below)).unwrap() == before);
    }
    site.check();
}

#[test]
fn a_bitmap_moves_to_the_overlay_in_one_step() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        over(&site, &a, "over"),
        Action::bitmap_add(a.clone(), "old", Some(65536), Recording::Enabled),
        Action::Merge {
            disk: a.clone(),
            name: b"old".to_vec(),
            sources: vec![MergeFrom::Below(b"old".to_vec())],
        },
    ])
    .unwrap();
    drop(a);
    assert_eq!(site.dirty("over", "old"), Some(vec![DIRTY]));
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 3M 64k", &site.name("over")]);
    assert_eq!(site.dirty("over", "old"), Some(vec![DIRTY, 3 * MIB..3 * MIB + 64 * KIB]));
    site.check();
}

/// Bitmap actions mean the image on top at their point of the list.
#[test]
fn actions_before_the_snapshot_mean_the_image_below() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        Action::bitmap_clear(a.clone(), "old"),
        Action::bitmap_disable(a.clone(), "new"),
        over(&site, &a, "over"),
        Action::bitmap_add(a.clone(), "new", None, Recording::Enabled),
    ])
    .unwrap();
    drop(a);
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    assert!(!site.records("a", "new"));
    assert!(site.records("over", "new"));
    assert_eq!(site.dirty("over", "old"), None);
    site.check();
}

#[test]
fn the_handle_of_a_covered_disk_reads_and_does_not_write() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![over(&site, &a, "over")]).unwrap();
    let text = "lies below the image";
    for error in [
        a.write_at(&[1], 0).unwrap_err(),
        a.resize(8 * MIB).unwrap_err(),
        a.change_bitmaps(&[holstein::BitmapChange::Clear { name: b"old".to_vec() }]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert!(error.to_string().contains(text), "{error}");
    }
    site.refuses(CompletionMode::Grouped, vec![over(&site, &a, "second")], text);
    let mut first = [0; 512];
    a.read_at(&mut first, 0).unwrap();
    assert_eq!(first, [1; 512]);
    drop(a);
    site.open("over").write_at(&[5; 512], 0).unwrap();
    site.check();
}

/// In another folder the overlay records the whole path; a name can be given.
#[test]
fn the_name_of_the_image_below() {
    let site = Site::new();
    let a = site.open("a");
    fs::create_dir(site.folder.path().join("sub")).unwrap();
    let at = |name: &str, backing: Option<&str>| Action::ExternalSnapshot {
        disk: a.clone(),
        overlay: site.folder.path().join("sub").join(name),
        options: OverlayOptions { backing_name: backing.map(PathBuf::from), cluster_size: Some(4096) },
    };
    let error = transaction(CompletionMode::Grouped, vec![at("x", Some("a.qcow2"))]).commit().unwrap_err();
    assert!(
        error.to_string().contains("'a.qcow2' does not lead from its folder to the disk's image"),
        "{error}"
    );
    assert_eq!(fs::read_dir(site.folder.path().join("sub")).unwrap().count(), 0);
    grouped(vec![at("x", Some("../a.qcow2"))]).unwrap();
    drop(a);
    let b = site.open("b");
    grouped(vec![Action::ExternalSnapshot {
        disk: b,
        overlay: site.folder.path().join("sub/y"),
        options: OverlayOptions::default(),
    }])
    .unwrap();
    for (overlay, below, name) in [("x", "a", "../a.qcow2".to_owned()), ("y", "b", site.name("b"))] {
        let path = site.folder.path().join("sub").join(overlay);
        let path = path.to_str().unwrap();
        let info = run("qemu-img", &["info", "--output=json", path]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["backing-filename"], name);
        run("qemu-img", &["compare", "-q", path, &site.name(below)]);
        run("qemu-img", &["check", "-q", path]);
    }
}

/// The names of an image's internal snapshots, as QEMU lists them.
fn internal(site: &Site, disk: &str) -> Vec<String> {
    let info = run("qemu-img", &["info", "--output=json", &site.name(disk)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let list = info["snapshots"].as_array().cloned().unwrap_or_default();
    list.iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn internal_and_external_in_both_orders() {
    let site = Site::new();
    let disks = ["a", "b"].map(|disk| site.open(disk));
    let take = |index: usize, name: &str| Action::snapshot_create(disks[index].clone(), name);
    grouped(vec![
        take(0, "before"),
        over(&site, &disks[0], "a1"),
        over(&site, &disks[1], "b1"),
        take(1, "behind"),
    ])
    .unwrap();
    drop(disks);
    assert_eq!((internal(&site, "a"), internal(&site, "a1")), (vec!["before".to_owned()], vec![]));
    assert_eq!((internal(&site, "b"), internal(&site, "b1")), (vec![], vec!["behind".to_owned()]));
    site.same("a", "a1");
    site.same("b", "b1");
    site.check();
}

#[test]
fn an_internal_snapshot_with_a_backup_and_a_cleared_bitmap() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![
        site.backup(&a, "t", by("old", BitmapMode::OnSuccess)),
        Action::snapshot_create(a.clone(), "night"),
        Action::bitmap_clear(a.clone(), "new"),
    ])
    .unwrap();
    drop(a);
    assert_eq!(internal(&site, "a"), ["night"]);
    assert_eq!(stored(&site.path("t")), [DIRTY]);
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 0 3M", &site.name("a")]);
    site.check();
    let name = site.name("old-a");
    run("qemu-img", &["convert", "-l", "night", "-O", "qcow2", &site.name("a"), &name]);
    let said =
        run("qemu-io", &["-f", "qcow2", "-r", "-c", "read -P 1 0 1M", "-c", "read -P 11 2M 64k", &name]);
    assert!(!said.contains("verification failed"), "{said}");
    let a = site.open("a");
    grouped(vec![
        Action::snapshot_delete(a.clone(), "night"),
        site.backup(&a, "u", by("old", BitmapMode::OnSuccess)),
    ])
    .unwrap();
    drop(a);
    assert!(internal(&site, "a").is_empty());
    site.check();
}

#[test]
fn snapshots_that_cannot_be() {
    let site = Site::new();
    run("qemu-img", &["snapshot", "-c", "there", &site.name("a")]);
    let a = site.open("a");
    let take = |name: &str| Action::snapshot_create(a.clone(), name);
    let delete = |name: &str| Action::snapshot_delete(a.clone(), name);
    let clear = || Action::bitmap_clear(a.clone(), "old");
    site.refuses(CompletionMode::Grouped, vec![clear(), take("there")], "action 2 (internal snapshot): ");
    site.refuses(
        CompletionMode::Grouped,
        vec![clear(), delete("none")],
        "action 2 (internal snapshot delete): ",
    );
    site.refuses(CompletionMode::Grouped, vec![take("new"), Action::Abort], "action 2 (abort)");
    let actions = vec![delete("there"), site.backup(&a, "t", by("old", BitmapMode::OnSuccess))];
    site.refuses(CompletionMode::Individual, actions, "a snapshot of");
    individual(vec![delete("there"), site.backup(&a, "t", by("old", BitmapMode::Never))]).unwrap();
    drop(a);
    assert!(internal(&site, "a").is_empty());
    site.check();
}
