//! Broken bitmaps are given up, and named; sound ones beside them keep every bit, and QEMU goes on recording.

use std::collections::{BTreeMap, BTreeSet};

use holstein::{Disk, DiskOptions, Layers, RepairMode};
use serde_json::{Value, json};

use crate::{
    check_cases::image::Image,
    memory::{repaired, verdict},
    plain::{Plain, difference},
    qemu::{Extent, Workshop},
};

const CLUSTER: u64 = 4096;
const COPIED: u64 = 1 << 63;
/// 33 MiB and a sector: with a bit for each sector, a bitmap has three clusters of data, and one bit in its last
/// word.
const SIZE: u64 = (33 << 20) + 512;
const NAMES: [&str; 3] = ["other", "sound", "wrong"];

/// An image with three bitmaps of 512 bytes a bit that have bits in all of their clusters.
pub fn image(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=4k", &SIZE.to_string());
    for bitmap in NAMES {
        image.tool("qemu-img", &["bitmap", "--add", "-g", "512", "disk.qcow2", bitmap]);
    }
    let last = format!("write -P 7 {} 1k", SIZE - 1024);
    image.io(&["write -P 5 1M 64k", "write -P 6 17M 3k", &last]);
    image.tool("qemu-img", &["bitmap", "--disable", "disk.qcow2", "other"]);
    assert_eq!(NAMES.map(|name| entry_of(&image, name) > 0), [true; 3]);
    image
}

/// Where a bitmap's entry in the directory is: table offset (8 bytes), table size (4), flags (4), type (1),
/// granularity (1), size of the name (2), of extra data (4), then the name, padded to 8 bytes.
pub fn entry_of(image: &Image, name: &str) -> u64 {
    let bytes = image.bytes();
    let plain = Plain(&bytes);
    let mut at = image.bitmap_directory();
    for _ in 0..image.half_word(image.bitmaps_extension()) {
        let length = plain.half(at + 16) & 0xffff;
        if bytes[at as usize + 24..][..length as usize] == *name.as_bytes() {
            return at;
        }
        at += (24 + length).next_multiple_of(8);
    }
    panic!("no bitmap {name}");
}

fn wrong(image: &Image) -> u64 {
    entry_of(image, "wrong")
}

/// The table of a bitmap.
pub fn table(image: &Image, name: &str) -> u64 {
    image.word(entry_of(image, name))
}

/// What is damaged, which bitmaps are lost by it (`*`: all, since the directory makes no sense).
pub const DAMAGES: &[(&str, fn(&Image), &[&str])] = &[
    ("entry-reserved", |i| i.set_word(table(i, "wrong"), i.word(table(i, "wrong")) | 2), &["wrong"]),
    ("entry-askew", |i| i.set_word(table(i, "wrong"), i.word(table(i, "wrong")) + 512), &["wrong"]),
    ("data-outside", |i| i.set_word(table(i, "wrong") + 8, 1 << 40), &["wrong"]),
    ("data-at-end", |i| i.set_word(table(i, "wrong"), clusters(i) * CLUSTER), &["wrong"]),
    ("data-behind-end", |i| i.set_word(table(i, "wrong") + 16, (clusters(i) + 1) * CLUSTER), &["wrong"]),
    ("data-on-data", |i| i.set_word(table(i, "wrong"), guest_cluster(i)), &["wrong"]),
    ("data-on-l2", |i| i.set_word(table(i, "wrong"), i.l2(0)), &["wrong"]),
    ("data-on-block", |i| i.set_word(table(i, "wrong"), i.refcount_block()), &["wrong"]),
    ("data-twice", |i| i.set_word(table(i, "wrong"), i.word(table(i, "wrong") + 8)), &["wrong"]),
    ("data-shared", |i| i.set_word(table(i, "wrong"), i.word(table(i, "sound"))), &["sound", "wrong"]),
    ("table-outside", |i| i.set_word(wrong(i), 1 << 41), &["wrong"]),
    ("table-at-end", |i| i.set_word(wrong(i), clusters(i) * CLUSTER), &["wrong"]),
    (
        "table-cut",
        |i| {
            let end = clusters(i) * CLUSTER;
            let mut bytes = i.bytes();
            bytes.resize(end as usize, 0);
            bytes.extend_from_slice(&i.word(table(i, "wrong")).to_be_bytes());
            i.write(&bytes);
            i.set_word(wrong(i), end);
        },
        &["wrong"],
    ),
    (
        "data-cut",
        |i| {
            let end = clusters(i) * CLUSTER;
            let mut bytes = i.bytes();
            bytes.resize(end as usize + 2048, 0x55);
            i.write(&bytes);
            i.set_word(table(i, "wrong"), end);
        },
        &["wrong"],
    ),
    ("table-on-data", |i| i.set_word(wrong(i), guest_cluster(i)), &["wrong"]),
    ("table-shared", |i| i.set_word(wrong(i), table(i, "other")), &["other", "wrong"]),
    ("longer", |i| i.set_half_word(wrong(i) + 8, 4), &["wrong"]),
    ("shorter", |i| i.set_half_word(wrong(i) + 8, 2), &["wrong"]),
    ("flags", |i| i.poke(wrong(i) + 15, &[6]), &["wrong"]),
    ("type", |i| i.poke(wrong(i) + 16, &[2]), &["wrong"]),
    ("granularity", |i| i.poke(wrong(i) + 17, &[8]), &["wrong"]),
    ("name", |i| i.poke(wrong(i) + 24, &[b'w', 0]), &["w\0ong"]),
    ("same-name", |i| i.poke(wrong(i) + 24, b"other"), &["other", "other"]),
    (
        "bits-behind",
        |i| {
            let last = i.word(table(i, "wrong") + 16);
            let words = (SIZE / 512).div_ceil(64) - 2 * CLUSTER / 8;
            i.poke(last + words * 8 - 8, &[3]);
        },
        &["wrong"],
    ),
    ("count", |i| i.set_half_word(i.bitmaps_extension(), 4), &["*"]),
    ("fewer", |i| i.set_half_word(i.bitmaps_extension(), 2), &["*"]),
    (
        "directory-size",
        |i| i.set_word(i.bitmaps_extension() + 8, i.word(i.bitmaps_extension() + 8) - 8),
        &["*"],
    ),
    ("directory-outside", |i| i.set_word(i.bitmaps_extension() + 16, 1 << 40), &["*"]),
    ("directory-at-end", |i| i.set_word(i.bitmaps_extension() + 16, clusters(i) * CLUSTER), &["*"]),
    ("directory-is-data", |i| i.set_word(i.bitmaps_extension() + 16, guest_cluster(i)), &["*"]),
    ("directory-shared", |i| i.set_word(i.l2(0), COPIED | i.bitmap_directory()), &["*"]),
    (
        "in-use-and-broken",
        |i| {
            i.poke(wrong(i) + 15, &[3]);
            i.set_word(table(i, "wrong"), 1 << 40);
        },
        &["wrong"],
    ),
    (
        "in-use-and-longer",
        |i| {
            i.poke(wrong(i) + 15, &[3]);
            i.set_half_word(wrong(i) + 8, 4);
            i.set_refcount(wrong(i) / CLUSTER, 0);
        },
        &[],
    ),
    (
        "every-one",
        |i| NAMES.iter().for_each(|name| i.set_word(table(i, name), 2)),
        &["other", "sound", "wrong"],
    ),
    ("data-refcount-0", |i| i.set_refcount(i.word(table(i, "wrong")) / CLUSTER, 0), &[]),
    ("table-refcount-0", |i| i.set_refcount(table(i, "wrong") / CLUSTER, 0), &[]),
    ("directory-refcount-0", |i| i.set_refcount(wrong(i) / CLUSTER, 0), &[]),
    ("refcounts-lost", |i| i.set_word(i.refcount_table(), 0), &[]),
    (
        "broken-and-refcounts-lost",
        |i| {
            i.set_word(table(i, "wrong"), clusters(i) * CLUSTER);
            i.set_word(i.refcount_table(), 0);
        },
        &["wrong"],
    ),
    ("stale", |i| i.poke(95, &[0]), &["*"]),
    (
        "stale-and-refcounts-lost",
        |i| {
            i.poke(95, &[0]);
            i.set_word(i.refcount_table(), 0);
        },
        &["*"],
    ),
];

pub fn clusters(image: &Image) -> u64 {
    (image.bytes().len() as u64).div_ceil(CLUSTER)
}

/// The cluster of the data at 1 MiB.
fn guest_cluster(image: &Image) -> u64 {
    image.word(image.l2(0) + (1 << 20) / CLUSTER * 8) & !COPIED
}

pub type Contents = BTreeMap<String, Vec<(u64, u64)>>;

/// The dirty extents of the bitmaps that can be used, and the names of those that cannot.
pub fn contents(path: &std::path::Path) -> (Contents, BTreeSet<String>) {
    let options = DiskOptions { layers: Layers::TopOnly, ..DiskOptions::default() };
    contents_of(&Disk::open(path, &options).unwrap())
}

pub fn contents_of(disk: &Disk) -> (Contents, BTreeSet<String>) {
    let (mut usable, mut others) = (Contents::new(), BTreeSet::new());
    for info in disk.bitmaps().unwrap() {
        let name = String::from_utf8(info.name.clone()).unwrap();
        match info.count {
            Some(_) => {
                let extents = disk.bitmap(&info.name).unwrap().extents().map(|e| (e.start, e.end)).collect();
                usable.insert(name, extents);
            }
            None => drop(others.insert(name)),
        }
    }
    (usable, others)
}

#[test]
fn broken_bitmaps_are_given_up_and_sound_ones_kept() {
    let original = image("bitmaps-all");
    let bytes = original.bytes();
    let (whole, _) = contents(&original.path);
    assert_eq!(whole.keys().collect::<Vec<_>>(), NAMES.iter().collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (number, (name, damage, lost)) in DAMAGES.iter().enumerate() {
        original.write(&bytes);
        damage(&original);
        let told = repair_and_look(&original, &whole, lost, number % 6 == 0);
        wrong.extend(told.err().map(|told| format!("{name}: {told}")));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Repairs an image of which these bitmaps are lost; the others must be `whole`.
fn repair_and_look(image: &Image, whole: &Contents, lost: &[&str], ask_qemu: bool) -> Result<(), String> {
    let before = image.bytes();
    let (report, after) = repaired(&before, RepairMode::All);
    let report = report.map_err(|error| error.to_string())?;
    let (ours, own) = verdict(&report);
    if ours.code != Some(0) {
        return Err(format!("{ours:?} {own:#}"));
    }
    let names = report.lost_bitmaps.iter().map(|lost| match &lost.name {
        Some(name) => String::from_utf8(name.clone()).unwrap(),
        None => "*".to_owned(),
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    if names != lost {
        return Err(format!("lost {names:?}: {own:#}"));
    }
    let limit = before.len() as u64;
    if let Some(difference) = difference(&Plain(&before).guest(limit), &Plain(&after).guest(limit)) {
        return Err(format!("guest data changed: {difference}"));
    }
    image.write(&after);
    let qemu = image.qemu_check();
    if qemu.code != Some(0) {
        return Err(format!("QEMU's check: {qemu:?}"));
    }
    let is_lost = |name: &String| match lost {
        [] => false,
        ["*"] => true,
        // Its name may be another now.
        _ => name == "wrong" || lost.contains(&name.as_str()),
    };
    let (found, others) = contents(&image.path);
    let mut kept = whole.clone();
    kept.retain(|name, _| !is_lost(name) && !others.contains(name));
    if found != kept
        || others.len() + kept.len() != NAMES.iter().filter(|name| !is_lost(&name.to_string())).count()
    {
        return Err(format!("{found:?} and {others:?} instead of {kept:?}"));
    }
    if ask_qemu {
        let shop = Workshop::new(&image.dir);
        let sound: Vec<String> = kept.keys().cloned().collect();
        let extents = if sound.is_empty() { Vec::new() } else { shop.dirty_extents("disk.qcow2", &sound) };
        let ours = |extents: &Vec<(u64, u64)>| {
            extents
                .iter()
                .map(|(start, end)| Extent { start: *start, length: end - start })
                .collect::<Vec<_>>()
        };
        if extents != kept.values().map(ours).collect::<Vec<_>>() {
            return Err(format!("to QEMU the bitmaps are {extents:?}, not {kept:?}"));
        }
    }
    // QEMU goes on: one that records sees this write, one that does not stays as it is.
    image.io(&["write -P 9 9M 2k"]);
    let (recorded, _) = contents(&image.path);
    for (name, extents) in &mut kept {
        if name != "other" {
            extents.push((9 << 20, (9 << 20) + 2048));
            extents.sort_unstable();
        }
    }
    match recorded == kept && image.qemu_check().code == Some(0) {
        true => Ok(()),
        false => Err(format!("after a write by QEMU: {recorded:?} instead of {kept:?}")),
    }
}

#[test]
fn leaks_of_broken_bitmaps_stay() {
    let original = image("bitmaps-leaks");
    let bytes = original.bytes();
    for (name, damage, _) in DAMAGES {
        original.write(&bytes);
        damage(&original);
        let before = original.bytes();
        let (report, after) = repaired(&before, RepairMode::Leaks);
        let report = report.unwrap();
        let stale = *name == "stale";
        assert_eq!(report.lost_bitmaps.is_empty(), !stale, "{name}: {report:?}");
        assert_eq!(before == after, !stale, "{name}: {report:?}");
        if stale {
            let extension = Plain(&after).0.windows(4).take(512).any(|word| word == [0x23, 0x85, 0x28, 0x75]);
            assert!(!extension, "{name}: the extension is still there");
        }
    }
}

#[test]
fn the_command_names_lost_bitmaps() {
    let image = image("bitmaps-command");
    image.set_word(table(&image, "wrong"), 1 << 40);
    let bytes = image.bytes();
    let output = image.holstein(&["--repair", "all"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let line =
        "bitmap 'wrong' was given up: its data (at 0x10000000000) does not lie in the file as a whole\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("\nafter the repair:\nthe image is consistent\n"), "{text}");

    image.write(&bytes);
    let output = image.holstein(&["-r", "all", "--output", "json"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lost = &printed["holstein"]["lost-bitmaps"];
    let reason = "its data (at 0x10000000000) does not lie in the file as a whole";
    assert_eq!(*lost, json!([{ "name": "wrong", "reason": reason }]));
    assert_eq!(printed["holstein"]["further-corruptions-fixed"], 1);
    assert_eq!(printed["holstein"]["left"], json!([]));
}
