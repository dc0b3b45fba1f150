//! Bitmaps that we change are bitmaps that QEMU goes on with.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path, process::Command};

use holstein::{Access, BitmapChange, Disk, DiskOptions, ErrorKind, Layers, MergeSource, Recording};

mod support;

use support::qemu::run;

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn create(path: &Path, options: &str, size: &str) {
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, name(path), size]);
}

fn check(path: &Path) {
    run("qemu-img", &["check", "-q", name(path)]);
}

fn write(path: &Path, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(name(path));
    run("qemu-io", &arguments);
}

fn open(path: &Path) -> Disk {
    let options = DiskOptions { access: Access::Write, layers: Layers::TopOnly, ..DiskOptions::default() };
    Disk::open(path, &options).unwrap()
}

fn change(path: &Path, changes: &[BitmapChange]) {
    open(path).change_bitmaps(changes).unwrap();
    check(path);
}

fn add(name: &str, granularity: u64) -> BitmapChange {
    BitmapChange::Add { name: name.into(), granularity: Some(granularity), recording: Recording::Enabled }
}

fn extents(path: &Path, bitmap: &str) -> Vec<(u64, u64)> {
    let disk = Disk::open(path, &DiskOptions { layers: Layers::TopOnly, ..DiskOptions::default() }).unwrap();
    disk.bitmap(bitmap.as_bytes()).unwrap().extents().map(|e| (e.start, e.end - e.start)).collect()
}

/// Geometries that put the header, its extensions and the refcounts in different places.
const GEOMETRIES: [&str; 8] = [
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M,refcount_bits=64",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=8k,compression_type=zstd,refcount_bits=2",
    "cluster_size=1k,refcount_bits=8",
    "cluster_size=32k,lazy_refcounts=on",
];

#[test]
fn qemu_goes_on_recording_over_many_rounds() {
    for geometry in GEOMETRIES {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.qcow2");
        create(&image, geometry, "8M");
        write(&image, &["write -P 1 0 3M"]);
        let before = fs::read(&image).unwrap();
        change(&image, &[add("a", 4096), add("b", 65536)]);
        assert_ne!(before, fs::read(&image).unwrap());
        for round in 0..4u64 {
            let (at, zeros) = (round * 1_100_000 / 512 * 512, 6_000_000 / 512 * 512 + round * 8192);
            write(&image, &[&format!("write -P {} {at} 5k", round + 2), &format!("write -z {zeros} 1k")]);
            check(&image);
            let a = extents(&image, "a");
            assert!(
                a.contains(&(at / 4096 * 4096, 8192)) || a.contains(&(at / 4096 * 4096, 12288)),
                "{geometry}: {a:?}"
            );
            assert!(
                a.iter().any(|(start, length)| (*start..start + length).contains(&zeros)),
                "{geometry}: {a:?}"
            );
            let b = extents(&image, "b");
            change(&image, &[BitmapChange::Clear { name: "a".into() }]);
            assert_eq!(extents(&image, "a"), [], "{geometry}");
            assert_eq!(extents(&image, "b"), b, "{geometry}: the other bitmap stays");
        }
        assert!(run("qemu-img", &["info", name(&image)]).contains("name: b"));
        change(
            &image,
            &[BitmapChange::Remove { name: "a".into() }, BitmapChange::Remove { name: "b".into() }],
        );
        assert!(!run("qemu-img", &["info", name(&image)]).contains("granularity"));
        write(&image, &["read -P 1 2800k 100k"]);
    }
}

#[test]
fn images_with_a_backing_file_snapshots_and_foreign_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (base, image) = (folder.path().join("base.qcow2"), folder.path().join("disk.qcow2"));
    create(&base, "cluster_size=64k", "8M");
    for cluster in ["512", "4k", "64k"] {
        let long = format!("./{}base.qcow2", "./".repeat(if cluster == "512" { 20 } else { 200 }));
        let options = format!("cluster_size={cluster},backing_file={long},backing_fmt=qcow2");
        create(&image, &options, "8M");
        write(&image, &["write -P 7 1M 1M"]);
        run("qemu-img", &["snapshot", "-c", "one", name(&image)]);
        let mut bytes = fs::read(&image).unwrap();
        bytes[88] = 0x80;
        fs::write(&image, bytes).unwrap();
        change(&image, &[add("nightly", 65536)]);
        assert_eq!(fs::read(&image).unwrap()[88], 0, "an unknown autoclear bit is cleared");
        let info = run("qemu-img", &["info", name(&image)]);
        assert!(
            info.contains("name: nightly") && info.contains("base.qcow2") && info.contains("one"),
            "{info}"
        );
        write(&image, &["write -P 8 3M 1M", "read -P 7 1M 1M"]);
        assert_eq!(extents(&image, "nightly"), [(3 << 20, 1 << 20)]);
        check(&image);
    }
}

#[test]
fn merging_crosses_granularities_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.qcow2"), folder.path().join("two.qcow2"));
    for image in [&one, &two] {
        create(image, "cluster_size=64k", "16M");
    }
    change(&one, &[add("fine", 512), add("coarse", 1 << 20)]);
    change(&two, &[add("other", 4096)]);
    write(&one, &["write -P 1 1M 512"]);
    write(&two, &["write -P 1 5000k 1k"]);
    let other = Disk::open(&two, &DiskOptions::default()).unwrap().bitmap(b"other").unwrap();
    let sources = vec![MergeSource::Name("fine".into()), MergeSource::Loaded(other)];
    let list = [
        add("all", 65536),
        BitmapChange::Merge { name: "all".into(), sources },
        BitmapChange::Clear { name: "coarse".into() },
        BitmapChange::Merge { name: "coarse".into(), sources: vec![MergeSource::Name("all".into())] },
        BitmapChange::Rename { name: "all".into(), to: "merged".into() },
        BitmapChange::Record { name: "merged".into(), recording: Recording::Disabled },
    ];
    change(&one, &list);
    assert_eq!(extents(&one, "merged"), [(1 << 20, 65536), (5_111_808, 65536)]);
    assert_eq!(extents(&one, "coarse"), [(1 << 20, 1 << 20), (4 << 20, 1 << 20)]);
    assert_eq!(extents(&one, "fine"), [(1 << 20, 512)]);
}

#[test]
fn a_list_with_one_bad_change_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    create(&image, "cluster_size=64k", "16M");
    change(&image, &[add("there", 65536)]);
    let before = fs::read(&image).unwrap();
    let cases = [
        (add("there", 65536), ErrorKind::Exists),
        (add("x", 1000), ErrorKind::InvalidArgument),
        (add("x", 256), ErrorKind::InvalidArgument),
        (add("", 65536), ErrorKind::InvalidArgument),
        (BitmapChange::Remove { name: "absent".into() }, ErrorKind::BitmapNotFound),
        (BitmapChange::Clear { name: "absent".into() }, ErrorKind::BitmapNotFound),
        (BitmapChange::Rename { name: "there".into(), to: "new".into() }, ErrorKind::Exists),
        (
            BitmapChange::Merge { name: "there".into(), sources: vec![MergeSource::Name("absent".into())] },
            ErrorKind::BitmapNotFound,
        ),
    ];
    for (bad, kind) in cases {
        let error = open(&image).change_bitmaps(&[add("new", 65536), bad]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(name(&image)), "{error}");
        assert!(fs::read(&image).unwrap() == before, "{error}: the image changed");
    }
    let reader = Disk::open(&image, &DiskOptions::default()).unwrap();
    assert_eq!(reader.change_bitmaps(&[]).unwrap_err().kind(), ErrorKind::WrongState);
}

/// A header may tell where a backing file's name is although there is none; extensions would end there.
#[test]
fn the_place_of_a_name_that_is_not_there_hides_no_bitmap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    for offset in [0x70, 0x78] {
        let _ = fs::remove_file(&path);
        create(&path, "cluster_size=4k", "1M");
        let mut bytes = fs::read(&path).unwrap();
        bytes[15] = offset;
        fs::write(&path, bytes).unwrap();
        let add = BitmapChange::Add { name: b"b".into(), granularity: None, recording: Recording::Enabled };
        open(&path).change_bitmaps(&[add]).unwrap();
        check(&path);
        assert!(run("qemu-img", &["info", name(&path)]).contains("name: b"), "{offset:#x}");
        assert_eq!(open(&path).bitmaps().unwrap().len(), 1);
    }
}

/// A file of more clusters than fit the memory for tables: counting references has a share of its own.
#[test]
fn a_file_of_four_tebibytes() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    create(&image, "cluster_size=64k", "5T");
    change(&image, &[add("a", 65536)]);
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(4 << 40).unwrap();
    open(&image).change_bitmaps(&[add("b", 65536), BitmapChange::Remove { name: b"a".to_vec() }]).unwrap();
    open(&image).write_at(&[1; 512], 3 << 40).unwrap();
    assert_eq!(extents(&image, "b"), [(3 << 40, 65536)]);
}

/// Bitmaps that nobody kept up to date are listed, and can be removed like others that cannot be used.
#[test]
fn bitmaps_without_the_autoclear_bit_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    create(&image, "cluster_size=64k", "1M");
    change(&image, &[add("a", 65536), add("b", 65536)]);
    let mut bytes = fs::read(&image).unwrap();
    bytes[88..96].fill(0);
    fs::write(&image, bytes).unwrap();
    assert_eq!(open(&image).bitmaps().unwrap().len(), 2);
    let remove = |name: &str| open(&image).change_bitmaps(&[BitmapChange::Remove { name: name.into() }]);
    assert_eq!(remove("c").unwrap_err().kind(), ErrorKind::BitmapNotFound);
    remove("a").unwrap();
    assert!(open(&image).bitmaps().unwrap().is_empty());
}

#[test]
fn an_inconsistent_bitmap_is_not_renamed_and_the_failing_change_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    create(&image, "cluster_size=64k", "1M");
    change(&image, &[add("a", 65536)]);
    // A writer that dies.
    let died =
        Command::new("qemu-io").args(["-c", "write 0 64k", "-c", "abort", name(&image)]).output().unwrap();
    assert!(!died.status.success());
    let before = fs::read(&image).unwrap();
    let rename = BitmapChange::Rename { name: b"a".to_vec(), to: b"b".to_vec() };
    let error = open(&image).change_bitmaps(&[add("c", 65536), rename]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BitmapUnusable);
    let text = error.to_string();
    assert!(text.contains("change 2 of 2: ") && text.contains("it can only be removed"), "{text}");
    assert!(fs::read(&image).unwrap() == before);
}

/// The first sector has no room for the extension: refused before a byte is written.
#[test]
fn a_header_without_room() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(200)).join("e".repeat(180));
    fs::create_dir_all(&deep).unwrap();
    let image = folder.path().join("disk.qcow2");
    create(&image, &format!("data_file={}", name(&deep.join("data.raw"))), "1M");
    let before = fs::read(&image).unwrap();
    let error = open(&image).change_bitmaps(&[add("a", 65536)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("has no room for the bitmaps extension") && text.contains("data_file=NAME"),
        "{text}"
    );
    assert!(fs::read(&image).unwrap() == before);
}
