//! `holstein snapshot`.

use crate::{
    site::{DISK, Site},
    support::{
        command::mentions,
        patch::{peek64, poke},
        qemu::text,
    },
};

#[test]
fn list_create_and_delete() {
    let site = Site::new("");
    site.add_bitmap("a");
    assert_eq!(site.holstein.succeeds(&["snapshot", "list", DISK]), "The image has no snapshots.\n");
    assert_eq!(site.holstein.json(&["snapshot", "list", DISK]), serde_json::json!([]));
    let table = site.holstein.succeeds(&["snapshot", "create", DISK, "before the update"]);
    assert!(table.starts_with("ID  NAME               DATE"), "{table}");
    assert!(table.contains("\n1   before the update  20"), "{table}");
    site.workshop.check(DISK);
    let listed = site.holstein.json(&["snapshot", "create", DISK, "two"]);
    assert_eq!(listed, site.workshop.img_json(&["info", DISK])["snapshots"]);
    assert_eq!(listed, site.holstein.json(&["snapshot", "list", DISK]));
    assert_eq!((&listed[1]["id"], &listed[1]["name"]), (&"2".into(), &"two".into()));
    let date = listed[1]["date-sec"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 600..=now).contains(&date), "{date}");

    let left = site.holstein.json(&["snapshot", "delete", DISK, "1"]);
    assert_eq!((left.as_array().unwrap().len(), &left[0]["name"]), (1, &"two".into()));
    site.workshop.check(DISK);
    let none = site.holstein.succeeds(&["snapshot", "delete", DISK, "two"]);
    assert_eq!(none, "The image has no snapshots.\n");
    site.holds(&site.contents());
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

/// A backing file need not be there.
#[test]
fn without_the_backing_file() {
    let site = Site::over(1 << 20, "");
    std::fs::rename(site.workshop.path("base.qcow2"), site.workshop.path("away")).unwrap();
    site.holstein.succeeds(&["snapshot", "create", DISK, "one"]);
    site.holstein.succeeds(&["snapshot", "delete", DISK, "one"]);
    std::fs::rename(site.workshop.path("away"), site.workshop.path("base.qcow2")).unwrap();
    site.workshop.check(DISK);
}

/// What QEMU 10.0 does not: it loses the snapshots of an image that has bitmaps when it repairs anything.
#[test]
fn a_repair_keeps_snapshots_beside_bitmaps() {
    let site = Site::new("");
    site.add_bitmap("a");
    site.holstein.succeeds(&["snapshot", "create", DISK, "one"]);
    let listed = site.holstein.json(&["snapshot", "list", DISK]);
    // The header's cluster is counted once too often.
    poke(&site.path(), peek64(&site.path(), peek64(&site.path(), 48)), &[0, 2]);
    mentions(&text(&site.holstein.run(&["check", DISK])), &["leak"]);
    site.holstein.succeeds(&["check", "--repair", "leaks", DISK]);
    site.workshop.check(DISK);
    assert_eq!(site.holstein.json(&["snapshot", "list", DISK]), listed);
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

#[test]
fn errors() {
    let site = Site::new("");
    site.workshop.img(&["snapshot", "-c", "one", DISK]);
    std::fs::write(site.workshop.path("raw"), vec![1; 512]).unwrap();
    let before = site.files();
    let long = "x".repeat(256);
    let cases: [(&[&str], i32, &[&str]); 10] = [
        (&["create", DISK, "one"], 1, &["'one' already"]),
        (&["create", DISK, ""], 2, &["1 to 255 bytes"]),
        (&["create", DISK, &long], 2, &["1 to 255 bytes"]),
        (&["create", DISK], 2, &["<NAME>"]),
        (&["delete", DISK, "two"], 1, &["no snapshot 'two'"]),
        (&["delete", DISK], 2, &["<ID|NAME>"]),
        (&["list", "absent"], 1, &["'absent'"]),
        (&["create", "raw", "x"], 1, &["not a qcow2 image"]),
        (&["create", "-f", "raw", "raw", "x"], 1, &["only qcow2 images are written"]),
        (&[], 2, &["create", "delete", "list"]),
    ];
    for (args, code, words) in cases {
        let output = site.holstein.run(&[&["snapshot"], args].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        mentions(&text(&output), words);
        assert!(site.files() == before, "{args:?}");
    }
}
