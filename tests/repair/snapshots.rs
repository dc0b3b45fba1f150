//! Damaged snapshot tables: the disk is read as it is, and after a repair every snapshot is there that can be found, as
//! QEMU reads it.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::check_cases::image::Image;

const NAMES: [&str; 3] = ["one", "two", "three"];
/// An entry in the table of a version 3 image as QEMU writes it: 40 bytes, 24 bytes of extra data, an id of one digit,
/// the name, zeros up to a multiple of 8.
fn entry_length(name: &str) -> u64 {
    (40 + 24 + 1 + name.len() as u64).next_multiple_of(8)
}

/// Where the entry of a snapshot is.
fn entry(image: &Image, number: usize) -> u64 {
    image.snapshots() + NAMES[..number].iter().map(|name| entry_length(name)).sum::<u64>()
}

/// What is damaged, which snapshots survive, and what the repair tells.
type Damage = (&'static str, fn(&Image), &'static [&'static str], &'static str);

const DAMAGES: &[Damage] = &[
    (
        "extra-large",
        |i| i.set_half_word(entry(i, 1) + 36, 2000),
        &NAMES,
        "mended: snapshot 'two': it claims 2000 bytes of extra data and seems to have 24",
    ),
    ("extra-largest", |i| i.set_half_word(entry(i, 0) + 36, u32::MAX), &NAMES, "mended: snapshot 'one'"),
    ("extra-small", |i| i.set_half_word(entry(i, 2) + 36, 0), &NAMES, "mended: snapshot 'three'"),
    (
        "l1-outside",
        |i| i.poke(entry(i, 1) + 5, &[0xf1]),
        &["one", "three"],
        "snapshot 1 ('two') was given up: its L1 table (8 bytes at",
    ),
    (
        "l1-unaligned",
        |i| i.poke(entry(i, 0) + 6, &[2]),
        &["two", "three"],
        "snapshot 0 ('one') was given up: its L1 table (8 bytes at",
    ),
    (
        "l1-on-header",
        |i| i.set_word(entry(i, 2), 0),
        &["one", "two"],
        "snapshot 2 ('three') was given up: its L1 table lies on the header",
    ),
    (
        "l1-large",
        |i| i.set_half_word(entry(i, 2) + 8, u32::MAX),
        &["one", "two"],
        "snapshot 2 ('three') was given up: its L1 table (34359738360 bytes at",
    ),
    (
        "last-zeroed",
        |i| i.poke(entry(i, 2), &[0; 128]),
        &["one", "two"],
        "snapshot 2 was given up: it is empty: it has neither a name nor an L1 table",
    ),
    (
        "middle-zeroed",
        |i| i.poke(entry(i, 1), &[0; 72]),
        &["one", "three"],
        "snapshot 1 was given up: it is empty: it has neither a name nor an L1 table",
    ),
    (
        "first-zeroed",
        |i| i.poke(entry(i, 0), &[0; 72]),
        &["two", "three"],
        "snapshot 0 was given up: it is empty",
    ),
    (
        "overwritten",
        |i| i.poke(entry(i, 1), &[0xff; 72]),
        &["one", "three"],
        "snapshot 1 was given up: a snapshot has 4294967295 bytes of extra data",
    ),
    (
        "extra-16",
        |i| i.set_half_word(entry(i, 1) + 36, 16),
        &NAMES,
        "mended: snapshot 'two': it claims 16 bytes of extra data and seems to have 24",
    ),
    (
        "id-long",
        |i| i.poke(entry(i, 1) + 12, &[0xff, 0xff]),
        &NAMES,
        "mended: snapshot 'two': it claims an id of 65535 bytes and seems to have one of 1",
    ),
    (
        "id-of-10",
        |i| i.poke(entry(i, 0) + 12, &[0, 10]),
        &NAMES,
        "mended: snapshot 'one': it claims an id of 10 bytes and seems to have one of 1",
    ),
    (
        "name-of-20",
        |i| i.poke(entry(i, 1) + 14, &[0, 20]),
        &NAMES,
        "mended: snapshot 'two': it claims a name of 20 bytes and seems to have one of 3",
    ),
    (
        "name-long",
        |i| i.poke(entry(i, 1) + 14, &[0xff, 0xff]),
        &NAMES,
        "mended: snapshot 'two': it claims a name of 65535 bytes and seems to have one of 3",
    ),
    ("zeroed", |i| i.poke(i.snapshots(), &[0; 512]), &[], "snapshots 0 to 2 were given up: it is empty"),
    ("too-many", |i| i.set_half_word(60, 70_000), &NAMES, "snapshots 3 to "),
    ("more", |i| i.set_half_word(60, 5), &NAMES, "snapshots 3 to 4 were given up: it is empty"),
];

/// Wrong places of the table in the header, from which nothing follows for the snapshots.
const WRONG_PLACES: &[(&str, fn(&Image))] = &[
    ("behind-the-end", |i| i.set_word(64, 0xf00_0000)),
    ("at-0", |i| i.set_word(64, 0)),
    ("unaligned", |i| i.poke(70, &[2])),
    ("enormous", |i| i.poke(64, &[0xff])),
    ("guest-data", |i| i.set_word(64, i.word(i.l2(0)) & OFFSET)),
    ("guest-zeros", |i| {
        let data = i.word(i.l2(0)) & OFFSET;
        i.poke(data, &[0; 65536]);
        i.set_word(64, data);
    }),
    ("data-of-a-snapshot", |i| {
        let l2 = i.word(i.word(i.snapshots()) & OFFSET) & OFFSET;
        i.set_word(64, i.word(l2) & OFFSET);
    }),
    ("l1-table-of-a-snapshot", |i| i.set_word(64, i.word(i.snapshots()))),
    ("l2-table-of-a-snapshot", |i| i.set_word(64, i.word(i.word(i.snapshots())) & OFFSET)),
    ("l1-table", |i| i.set_word(64, i.l1())),
    ("refcounts", |i| i.set_word(64, i.refcount_block())),
    ("free-cluster", |i| {
        let mut bytes = i.bytes();
        let end = bytes.len().next_multiple_of(65536);
        bytes.resize(end + 65536, 0);
        i.write(&bytes);
        i.set_word(64, end as u64);
    }),
];

/// Where an entry of an L1 or L2 table leads.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn make(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k", "4M");
    for (number, name) in NAMES.iter().enumerate() {
        image.io(&[&format!("write -P {} {}k 300k", number + 1, number * 200)]);
        image.tool("qemu-img", &["snapshot", "-c", name, "disk.qcow2"]);
    }
    image.io(&["write -P 9 1M 100k"]);
    image
}

/// What QEMU reads of the disk, or of a snapshot.
fn contents(image: &Image, snapshot: Option<&str>) -> Vec<u8> {
    let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
    let option = snapshot.map(|name| format!("snapshot.name={name}"));
    option.iter().for_each(|option| args.extend(["-l", option]));
    args.extend(["disk.qcow2", "raw"]);
    image.tool("qemu-img", &args);
    fs::read(image.dir.join("raw")).unwrap()
}

fn snapshot_names(image: &Image) -> Vec<String> {
    let output = Command::new("qemu-img")
        .args(["info", "-f", "qcow2", "--output=json", "disk.qcow2"])
        .current_dir(&image.dir)
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    let snapshots = info["snapshots"].as_array().cloned().unwrap_or_default();
    snapshots.iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

fn holstein(image: &Image, args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_holstein")).args(args).current_dir(&image.dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn damaged_snapshot_tables_are_repaired() {
    let image = make("snapshots");
    let whole = image.bytes();
    let disk = contents(&image, None);
    let snapshots = NAMES.map(|name| (name, contents(&image, Some(name))));
    for (name, damage, kept, told) in DAMAGES {
        image.write(&whole);
        damage(&image);
        let damaged = image.bytes();

        // Read as it is, with a word about the damage; changes are refused, with the way out.
        let _ = fs::remove_file(image.dir.join("copy.raw"));
        let (code, _, err) =
            holstein(&image, &["backup", "-q", "--disk", "source=disk.qcow2,target=copy.raw,format=raw"]);
        assert_eq!(code, Some(0), "{name}: {err}");
        assert!(fs::read(image.dir.join("copy.raw")).unwrap() == disk, "{name}: the copy differs");
        let (code, info, err) = holstein(&image, &["info", "--output", "json", "disk.qcow2"]);
        assert_eq!(code, Some(0), "{name}: {err}");
        let info: Value = serde_json::from_str(&info).unwrap();
        assert!(info["holstein"]["snapshot-damage"].is_string(), "{name}: {info:#}");
        for change in [
            &["bitmap", "add", "disk.qcow2", "b"][..],
            &["snapshot", "create", "disk.qcow2", "new"],
            &["resize", "disk.qcow2", "+1M"],
            &["write", "disk.qcow2", "0", "--zero", "4096"],
        ] {
            let (code, _, err) = holstein(&image, change);
            assert_eq!(code, Some(1), "{name}: {change:?}");
            assert!(err.contains("holstein check --repair all"), "{name}: {change:?}: {err}");
        }
        assert!(image.bytes() == damaged, "{name}: something was changed");

        assert_eq!(image.holstein(&[]).status.code(), Some(2), "{name}");
        let (code, out, err) = holstein(&image, &["check", "--repair", "all", "disk.qcow2"]);
        assert_eq!(code, Some(0), "{name}: {out}{err}");
        assert!(out.contains(told), "{name}: {out}");
        let qemu = image.qemu_check();
        assert_eq!(
            (qemu.code, &qemu.json.as_ref().unwrap()["leaks"]),
            (Some(0), &json!(null)),
            "{name}: {qemu:?}"
        );
        assert!(contents(&image, None) == disk, "{name}: the disk changed");
        assert_eq!(snapshot_names(&image), *kept, "{name}");
        for (snapshot, contents_before) in snapshots.iter().filter(|(snapshot, _)| kept.contains(snapshot)) {
            assert!(
                contents(&image, Some(snapshot)) == *contents_before,
                "{name}: snapshot {snapshot} changed"
            );
        }

        // Nothing is left to do, and the image can be changed again, by QEMU too.
        let after = image.bytes();
        holstein(&image, &["check", "--repair", "all", "disk.qcow2"]);
        assert!(image.bytes() == after, "{name}: a second repair changes something");
        assert_eq!(holstein(&image, &["snapshot", "create", "disk.qcow2", "new"]).0, Some(0), "{name}");
        image.io(&["write -P 7 0 4M"]);
        assert_eq!(image.qemu_check().code, Some(0), "{name}");
    }
}

/// Where the header names a wrong place, the snapshots are not given up: nothing is changed, and with the right place all
/// of them are there.
#[test]
fn snapshots_are_not_given_up_for_a_wrong_place() {
    let image = make("snapshots-place");
    let (whole, place) = (image.bytes(), image.snapshots());
    let disk = contents(&image, None);
    for (name, damage) in WRONG_PLACES {
        image.write(&whole);
        damage(&image);
        let damaged = image.bytes();
        assert_eq!(image.holstein(&[]).status.code(), Some(2), "{name}");
        for mode in ["leaks", "all"] {
            let (code, out, err) = holstein(&image, &["check", "--repair", mode, "disk.qcow2"]);
            assert_eq!(code, Some(2), "{name}: {out}{err}");
            assert!(image.bytes() == damaged, "{name}: something was changed: {out}");
            if mode == "all" {
                let told = format!(
                    "is no snapshot table; one seems to lie at {place:#x}; copy the disk to a new image"
                );
                assert!(out.contains("nothing was repaired") && out.contains(&told), "{name}: {out}");
            }
        }
        let _ = fs::remove_file(image.dir.join("copy.raw"));
        let (code, _, err) =
            holstein(&image, &["backup", "-q", "--disk", "source=disk.qcow2,target=copy.raw,format=raw"]);
        assert_eq!(code, Some(0), "{name}: {err}");
        if *name != "guest-zeros" {
            assert!(fs::read(image.dir.join("copy.raw")).unwrap() == disk, "{name}: the copy differs");
        }
        image.set_word(64, place);
        assert_eq!(snapshot_names(&image), NAMES, "{name}");
        assert_eq!(image.qemu_check().code, Some(0), "{name}");
    }
}

/// A table that was cut off with the end of the file is nowhere else, so the snapshots are lost, and the rest is repaired.
#[test]
fn snapshots_whose_table_was_cut_off_are_given_up() {
    let image = Image::create("snapshots-cut-off", "cluster_size=64k", "4M");
    image.io(&["write -P 1 0 300k"]);
    image.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
    let disk = contents(&image, None);
    let (table, bytes) = (image.snapshots() as usize, image.bytes());
    assert!(bytes.len() - table < 65536, "the table is the last cluster");
    image.write(&bytes[..table]);
    let (code, out, err) = holstein(&image, &["check", "--repair", "all", "disk.qcow2"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("snapshot 0 was given up"), "{out}");
    assert_eq!(image.qemu_check().code, Some(0));
    assert!(contents(&image, None) == disk && snapshot_names(&image).is_empty());
}

/// A name that claims to be shorter than it is leads into itself; the entries behind it are found all the same.
#[test]
fn entries_behind_a_name_that_is_too_short_are_found() {
    let image = Image::create("snapshots-short-name", "cluster_size=64k", "4M");
    for (number, name) in ["the-first-of-all-snapshots", "two", "three"].iter().enumerate() {
        image.io(&[&format!("write -P {} 0 64k", number + 1)]);
        image.tool("qemu-img", &["snapshot", "-c", name, "disk.qcow2"]);
    }
    let kept = ["the-first", "two", "three"];
    let (last, disk) = (contents(&image, Some("three")), contents(&image, None));
    image.poke(image.snapshots() + 14, &[0, 9]);
    let (code, out, err) = holstein(&image, &["check", "--repair", "all", "disk.qcow2"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("before snapshot 1 lie bytes that are no entry"), "{out}");
    assert_eq!(snapshot_names(&image), kept);
    assert_eq!(image.qemu_check().code, Some(0));
    assert!(contents(&image, Some("three")) == last && contents(&image, None) == disk);
}

/// Guest data that lies behind a damaged entry and looks like another one is not taken for a snapshot.
#[test]
fn guest_data_is_no_snapshot_table() {
    let image = Image::create("snapshots-guest", "cluster_size=512", "1M");
    for name in ["one", "two"] {
        image.tool("qemu-img", &["snapshot", "-c", name, "disk.qcow2"]);
    }
    image.io(&["write -P 1 0 512"]);
    // The table moves to the end of the file; the cluster behind it becomes guest data.
    let (old, mut bytes) = (image.snapshots(), image.bytes());
    let entry = bytes[old as usize..][..72].to_vec();
    bytes[old as usize..][..512].fill(0);
    let table = bytes.len().next_multiple_of(512);
    bytes.resize(table + 1024, 0);
    bytes[table..][..72].copy_from_slice(&entry);
    bytes[table + 72..][..72].fill(0xff);
    bytes[table + 512..][..72].copy_from_slice(&entry);
    image.write(&bytes);
    let table = table as u64;
    image.set_word(64, table);
    image.set_half_word(60, 1);
    image.set_word(image.l2(0) + 8, (table + 512) | (1 << 63));
    for (cluster, refcount) in [(old, 0), (table, 1), (table + 512, 1)] {
        image.set_refcount(cluster / 512, refcount);
    }
    let disk = contents(&image, None);
    image.set_half_word(60, 3);
    let (code, out, err) = holstein(&image, &["check", "--repair", "all", "disk.qcow2"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("snapshot 2 was given up: it lies where something else lies, too"), "{out}");
    assert_eq!(snapshot_names(&image), ["one"]);
    assert_eq!(image.qemu_check().code, Some(0));
    assert!(contents(&image, None) == disk);
}

/// A bitmap on which a snapshot could lie is not used before the repair, and keeps its bits through it.
#[test]
fn bitmaps_wait_for_the_repair() {
    let image = make("snapshots-and-bitmap");
    image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "b"]);
    image.io(&["write -P 5 2M 64k"]);
    let dump = || holstein(&image, &["bitmap", "dump", "disk.qcow2", "b", "--output", "json"]);
    let (code, bits, err) = dump();
    assert_eq!(code, Some(0), "{err}");
    image.poke(entry(&image, 1) + 5, &[0xf1]);
    let (code, _, err) = dump();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("repair the image first (holstein check --repair all)"), "{err}");
    assert_eq!(image.holstein(&["--repair", "all"]).status.code(), Some(0));
    assert_eq!(dump(), (Some(0), bits, String::new()));
}

/// The JSON of a repair names what was given up and mended.
#[test]
fn the_command_names_lost_snapshots() {
    let image = make("snapshots-command");
    image.poke(entry(&image, 1) + 6, &[2]);
    image.set_half_word(entry(&image, 0) + 36, 2000);
    let output = image.holstein(&["-r", "all", "--output", "json"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed:#}");
    let own = &printed["holstein"];
    assert_eq!(own["lost-snapshots"].as_array().unwrap().len(), 1, "{own:#}");
    let lost = &own["lost-snapshots"][0];
    assert_eq!((&lost["first"], &lost["count"], &lost["name"]), (&json!(1), &json!(1), &json!("two")));
    assert!(lost["reason"].as_str().unwrap().contains("is invalid"), "{lost}");
    let mended = "snapshot 'one': it claims 2000 bytes of extra data and seems to have 24";
    assert_eq!(own["mended-snapshots"], json!([mended]));
    assert_eq!(printed["corruptions-fixed"], 2);
}

/// QEMU reads a compressed cluster whose entry has the flag for a refcount of 1, which says nothing there; its repair
/// does not clear it.
#[test]
fn flags_of_compressed_clusters_are_cleared() {
    let image = Image::create("compressed-flags", "cluster_size=64k", "4M");
    image.io(&["write -P 1 -c 0 64k", "write -P 2 -c 64k 64k"]);
    image.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
    image.io(&["write -P 3 -c 128k 64k"]);
    let (whole, disk) = (image.bytes(), contents(&image, None));
    // Both in the active table, and one that only the snapshot has.
    let of_snapshot = image.word(image.word(image.snapshots())) & !(1 << 63);
    for at in [image.l2(0), image.l2(0) + 8, of_snapshot] {
        image.set_word(at, image.word(at) | 1 << 63);
    }
    assert!(contents(&image, None) == disk);
    let (code, _, err) =
        holstein(&image, &["backup", "-q", "--disk", "source=disk.qcow2,target=copy.raw,format=raw"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(fs::read(image.dir.join("copy.raw")).unwrap() == disk);
    let (ours, own) = image.check();
    assert_eq!((ours.code, &own["problems"][0]["kind"]), (Some(2), &json!("copied-flag")), "{own:#}");
    assert_eq!(image.holstein(&["--repair", "all"]).status.code(), Some(0));
    assert!(image.bytes() == whole, "more than the flags changed");
    assert_eq!(image.qemu_check().code, Some(0));
}
