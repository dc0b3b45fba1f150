//! External snapshots.

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
