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
        "id-long",
        |i| i.poke(entry(i, 1) + 12, &[0xff, 0xff]),
        &["one"],
        "snapshots 1 to 2 were given up: a snapshot's id has 65535 bytes",
    ),
    (
        "name-long",
        |i| i.poke(entry(i, 1) + 14, &[0xff, 0xff]),
        &NAMES,
        "mended: snapshot 'two': it claims a name of 65535 bytes and seems to have one of 3",
    ),
    ("zeroed", |i| i.poke(i.snapshots(), &[0; 512]), &[], "snapshots 0 to 2 were given up: it is empty"),
    ("behind-the-end", |i| i.set_word(64, 0xf00_0000), &[], "snapshots 0 to 2 were given up: "),
    ("nowhere", |i| i.set_word(64, 0), &[], "given up: "),
    (
        "unaligned",
        |i| i.poke(70, &[2]),
        &[],
        "snapshots 0 to 2 were given up: the offset of the snapshot table, ",
    ),
    ("too-many", |i| i.set_half_word(60, 70_000), &NAMES, "snapshots 3 to "),
    ("more", |i| i.set_half_word(60, 5), &NAMES, "snapshots 3 to 4 were given up: it is empty"),
];

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
