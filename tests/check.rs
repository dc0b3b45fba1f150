//! `holstein check` beside `qemu-img check`: the same numbers and exit codes for images with and without
//! damage, and what Holstein finds beyond that.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails
#![allow(unreachable_pub)] // the modules could be shared with other test programs

#[path = "support/check_cases/mod.rs"]
mod check_cases;

use std::{
    io::{BufReader, Read},
    process::{Command, Stdio},
};

use check_cases::{
    clean, damaged,
    image::{Image, reads_snapshots_otherwise},
    random,
};
use holstein::{Disk, DiskOptions, ErrorKind};
use serde_json::{Value, json};

#[test]
fn clean_images_are_judged_as_by_qemu() {
    let images = clean::images();
    assert!(images.len() >= 40, "{}", images.len());
    for image in images {
        let (ours, own) = image.check();
        assert_eq!(ours, image.qemu_check(), "{}: {own:#}", image.dir.display());
        assert_eq!(ours.code, Some(0), "{}", image.dir.display());
        assert_eq!(own["problems"], json!([]), "{}", image.dir.display());
    }
}

/// Damaged snapshot tables that only we can report on.
const UNREPORTED: [&str; 4] =
    ["snapshots-on-l2", "snapshot-large-extra", "snapshots-too-many", "snapshots-unaligned"];

#[test]
fn damaged_images_are_judged_as_by_qemu() {
    let mut wrong = Vec::new();
    for damage in damaged::DAMAGES {
        let image = damaged::make(damage);
        let (ours, own) = image.check();
        let qemu = image.qemu_check();
        // QEMU has no report where it cannot read the snapshot table.
        let only_ours = UNREPORTED.contains(&damage.0);
        if ours != qemu && !(only_ours && qemu.json.is_none() && ours.code == Some(2)) {
            wrong.push(format!("{}: {ours:?}\nbut QEMU: {qemu:?}\n{own:#}", damage.0));
        }
        let reported = own["problems"].as_array().is_some_and(|problems| !problems.is_empty());
        let harmless = ["compressed-long", "cut-in-last", "data-file-copied"].contains(&damage.0);
        let refused = qemu.json.is_none() && qemu.code == Some(1);
        if !reported && !harmless && !refused {
            wrong.push(format!("{}: nothing is reported", damage.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn randomly_damaged_images_are_judged_as_by_qemu() {
    let exhaustive = std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some();
    let seeds = if exhaustive { 1000 } else { 30 };
    let (mut compared, mut corrupt) = (0, 0);
    for victim in random::victims("check") {
        for seed in 0..seeds {
            let image = victim.damage(seed);
            let (ours, own) = image.check();
            let qemu = image.qemu_check();
            let told = || format!("{} seed {seed}: {ours:?}\n{own:#}\nQEMU: {qemu:?}", image.dir.display());
            match qemu.json {
                // What QEMU does not even look at we need not either, but we never call it sound.
                None => assert_ne!(ours.code, Some(0), "{}", told()),
                // QEMU takes the header for an L2 table here, or other bytes for the name of a snapshot.
                Some(_) if says(&own, "points to the header") || reads_snapshots_otherwise(&own) => {
                    assert_ne!(ours.code, Some(0), "{}", told())
                }
                Some(_) => {
                    compared += 1;
                    corrupt += u32::from(qemu.code == Some(2));
                    assert_eq!(ours.json, qemu.json, "{}", told());
                    let more = own["further-corruptions"] != 0 && ours.code == Some(2);
                    assert!(ours.code == qemu.code || more, "{}", told());
                }
            }
        }
    }
    assert!(compared > 3 * seeds && u64::from(corrupt) > seeds, "{compared} compared, {corrupt} corrupt");
}

/// Whether one of our problems has these words.
fn says(own: &Value, words: &str) -> bool {
    let problems = own["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    problems.iter().any(|problem| problem["text"].as_str().unwrap().contains(words))
}

/// QEMU's exit code, ours, and what we say.
fn codes(image: &Image) -> (Option<i32>, Option<i32>, Value) {
    let (ours, own) = image.check();
    (image.qemu_check().code, ours.code, own)
}

// Where we differ from QEMU, on purpose.

/// QEMU compares numbers only, so an overlap whose refcounts and flags agree is sound to it.
#[test]
fn overlaps_with_matching_refcounts_are_found() {
    let image = Image::small("overlap-l2");
    image.set_word(image.l2(0) + 8, 0x40000);
    image.set_word(image.l1(), 0x40000);
    image.set_refcount(4, 2);
    image.set_refcount(6, 0);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    assert!(says(&own, "guest data at 0x10000 lies on the L2 table of L1 entry 0, at 0x40000"), "{own:#}");
    let text = String::from_utf8(image.holstein(&[]).stdout).unwrap();
    assert!(text.contains("guest data at 0x10000 lies on the L2 table of L1 entry 0"), "{text}");
}

#[test]
fn overlaps_name_both_owners() {
    let image = Image::small("overlap-names");
    let entry = |index: u64| image.l2(0) + index * 8;
    for (index, host) in [(1, 0x50000), (2, 0x20000), (3, 0x30000), (4, 0x10000)] {
        image.set_word(entry(index), 1 << 63 | host);
    }
    let (_, ours, own) = codes(&image);
    assert_eq!(ours, Some(2));
    for words in [
        "guest data at 0x10000 lies on guest data at 0x0, at 0x50000",
        "guest data at 0x20000 lies on refcount block 0, at 0x20000",
        "guest data at 0x30000 lies on the L1 table, at 0x30000",
        "guest data at 0x40000 lies on the refcount table, at 0x10000",
    ] {
        assert!(says(&own, words), "{words}: {own:#}");
    }
}

/// A table of which the end of the file has taken a part reads as zeros in QEMU's check.
#[test]
fn tables_that_are_cut_short_are_found() {
    let image = Image::small("cut-short");
    image.write(&image.bytes()[..150_000]);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    let text = "refcount block 0 (at 0x20000) is cut short by the end of the file at 0x249f0";
    assert!(says(&own, text), "{own:#}");
    // Also where a reference leads behind it.
    let image = Image::create("cut-off", "cluster_size=64k", "8M");
    image.io(&["write -P 1 0 1M"]);
    image.write(&image.bytes()[..1_000_001]);
    let (_, own) = image.check();
    assert!(says(&own, "lies behind the end of the file at 0xf4241"), "{own:#}");
}

/// QEMU's check reads the header as if it were an L2 table, and counts what it finds.
#[test]
fn the_header_is_no_l2_table() {
    let image = Image::create("l1-to-header", "cluster_size=64k", "2G");
    image.io(&["write 0 1M"]);
    image.set_word(image.l1() + 8, 1 << 63);
    let (ours, own) = image.check();
    assert_eq!((image.qemu_check().code, ours.code), (Some(2), Some(2)));
    assert_eq!(ours.json.unwrap()["corruptions"], 1);
    assert!(says(&own, "L1 entry 1 (0x8000000000000000) points to the header"), "{own:#}");
}

/// QEMU is content when the refcounts agree. A write through one of the entries would change what the other shows.
#[test]
fn a_shared_l2_table_is_found() {
    let image = Image::create("l1-shared", "cluster_size=64k", "2G");
    image.io(&["write 0 128k"]);
    let (l1, l2) = (image.l1(), image.l2(0));
    image.set_word(l1, l2);
    image.set_word(l1 + 8, l2);
    image.set_refcount(l2 >> 16, 2);
    for entry in [l2, l2 + 8] {
        let host = image.word(entry) & !(1 << 63);
        image.set_word(entry, host);
        image.set_refcount(host >> 16, 2);
    }
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    assert_eq!(own["further-corruptions"], 1);
    assert!(says(&own, &format!("L1 entries 0 and 1 lead to one L2 table, at {l2:#x}")), "{own:#}");
    // A repair cannot know to which of them the table belongs.
    let before = image.bytes();
    assert_eq!(image.holstein(&["--repair", "all"]).status.code(), Some(2));
    assert!(image.bytes() == before);
}

/// QEMU counts an entry of a snapshot table without a name and tables as a snapshot.
#[test]
fn empty_snapshots_are_found() {
    let image = Image::create("empty-snapshot", "cluster_size=64k,compat=0.10", "4M");
    image.io(&["write 0 1M"]);
    // A table of one entry: nothing but zeros.
    let at = (image.bytes().len() as u64).next_multiple_of(0x10000);
    let mut bytes = image.bytes();
    bytes.resize(at as usize + 0x10000, 0);
    image.write(&bytes);
    image.set_half_word(60, 1);
    image.set_word(64, at);
    image.set_refcount(at >> 16, 1);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    assert_eq!(own["problems"][0]["kind"], "snapshot", "{own:#}");
    assert!(says(&own, "snapshot 0 is empty: it has neither a name nor an L1 table"), "{own:#}");
}

/// An image can be checked without the files that it names; QEMU opens them all.
#[test]
fn other_files_are_not_needed() {
    let image = Image::small("no-backing-file");
    image.tool("qemu-img", &["rebase", "-u", "-F", "raw", "-b", "none.raw", "disk.qcow2"]);
    assert_eq!((codes(&image).0, codes(&image).1), (Some(1), Some(0)));
    let image = Image::create("no-data-file", "data_file=disk.data", "4M");
    image.io(&["write 0 1M"]);
    std::fs::remove_file(image.dir.join("disk.data")).unwrap();
    assert_eq!((codes(&image).0, codes(&image).1), (Some(1), Some(0)));
}

fn with_bitmap(name: &str) -> Image {
    // 63 bits: one of the last word lies behind the disk.
    let image = Image::create(name, "cluster_size=64k", "4032k");
    image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "b0"]);
    image.io(&["write 0 128k"]);
    image
}

/// QEMU never looks at the bits of a bitmap.
#[test]
fn bits_behind_the_disk_are_found() {
    let image = with_bitmap("bitmap-bits");
    let data = image.word(image.word(image.bitmap_directory()));
    image.poke(data + 7, &[0x80]);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    assert!(says(&own, "bitmap 'b0' cannot be used: bits are set behind the end of the disk"), "{own:#}");
}

/// Two clusters of refcount 2 are sound to QEMU; a bitmap that lies on guest data is not to us.
#[test]
fn a_bitmap_on_guest_data_is_found() {
    let image = with_bitmap("bitmap-on-data");
    let table = image.word(image.bitmap_directory());
    let (own_data, data) = (image.word(table), image.word(image.l2(0)) & !(1 << 63));
    image.set_word(table, data);
    image.set_word(image.l2(0), data);
    image.set_refcount(data >> 16, 2);
    image.set_refcount(own_data >> 16, 0);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(2)), "{own:#}");
    assert!(says(&own, "guest data at 0x0 lies on the data of bitmap 'b0'"), "{own:#}");
    assert!(says(&own, "bitmap 'b0' cannot be used"), "{own:#}");
}

/// That a writer has not stored a bitmap is no damage, but worth a note.
#[test]
fn a_bitmap_in_use_is_noted() {
    let image = with_bitmap("bitmap-in-use");
    image.set_half_word(image.bitmap_directory() + 12, 3);
    let (qemu, ours, own) = codes(&image);
    assert_eq!((qemu, ours), (Some(0), Some(0)), "{own:#}");
    assert_eq!(own["problems"][0]["severity"], "note", "{own:#}");
    assert!(says(&own, "it is in use"), "{own:#}");
    assert!(says(&own, "remove the bitmap, add it again and begin with a full copy"), "{own:#}");
}

/// QEMU cannot open images with a broken bitmap directory, so its check says nothing about them. Clusters of
/// bitmaps whose tables can still be found are not leaked.
#[test]
fn broken_bitmap_directories_are_reported() {
    type Break = (&'static str, fn(&Image), &'static str, u64);
    let cases: [Break; 6] = [
        ("flags", |i| i.set_half_word(i.bitmap_directory() + 12, 4), "unknown flags 0x4", 0),
        ("type", |i| i.poke(i.bitmap_directory() + 16, &[2]), "unknown type 2", 0),
        ("count", |i| i.set_half_word(i.bitmaps_extension(), 2), "1 entries instead of 2", 0),
        ("table", |i| i.set_word(i.bitmap_directory(), 0x200), "the table's offset 0x200 is invalid", 2),
        ("directory", |i| i.set_word(i.bitmaps_extension() + 16, 0x200), "offset 0x200 is invalid", 3),
        ("data", |i| i.set_word(i.word(i.bitmap_directory()), 0x50002), "an invalid entry", 1),
    ];
    for (name, break_it, words, leaks) in cases {
        let image = with_bitmap(&format!("bitmap-directory-{name}"));
        break_it(&image);
        let (ours, own) = image.check();
        assert_eq!((image.qemu_check().code, ours.code), (Some(1), Some(2)), "{name}: {own:#}");
        assert!(says(&own, words), "{name}: {own:#}");
        assert_eq!(
            ours.json.unwrap().get("leaks").map_or(0, |n| n.as_u64().unwrap()),
            leaks,
            "{name}: {own:#}"
        );
        assert_eq!(own["leaks-are-certain"], false, "{name}");
    }
}

#[test]
fn what_cannot_be_checked_has_its_exit_codes() {
    let image = Image::small("not-checked");
    let code = |options: &[&str]| image.holstein(options).status.code();
    assert_eq!(code(&["--format", "raw"]), Some(63));
    assert_eq!(code(&["--format", "qcow2"]), Some(0));
    image.poke(0, b"X");
    assert_eq!((image.qemu_check().code, code(&[])), (Some(1), Some(1)));
    std::fs::remove_file(&image.path).unwrap();
    assert_eq!((image.qemu_check().code, code(&[])), (Some(1), Some(1)));
    assert_eq!(code(&["--format", "raw"]), Some(1));
}

#[test]
fn a_file_with_too_many_clusters_is_not_checked() {
    let image = Image::create("too-many", "cluster_size=512", "1M");
    std::fs::File::options().write(true).open(&image.path).unwrap().set_len(2 << 40).unwrap();
    let output = image.holstein(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("memory"));

    let image = Image::small("small-limit");
    let options = |memory_limit| DiskOptions { memory_limit, ..DiskOptions::default() };
    assert_eq!(Disk::check(&image.path, &options(1 << 10)).unwrap_err().kind(), ErrorKind::Limit);
    let report = Disk::check(&image.path, &options(1 << 20)).unwrap();
    assert!(report.problems.is_empty() && report.leaks_are_certain);
}

#[test]
fn an_image_that_is_written_is_checked_by_force_only() {
    let image = Image::small("locked");
    let mut writer = Command::new("qemu-io")
        .args(["-f", "qcow2", "disk.qcow2"])
        .current_dir(&image.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt says that the image is open.
    BufReader::new(writer.stdout.as_mut().unwrap()).read_exact(&mut [0]).unwrap();
    let (refused, forced) = (image.holstein(&[]), image.holstein(&["-U"]));
    drop(writer.stdin.take());
    writer.wait().unwrap();
    assert_eq!((refused.status.code(), forced.status.code()), (Some(1), Some(0)));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("another process writes this image"));
    assert_eq!(image.holstein(&[]).status.code(), Some(0));
}

#[test]
fn a_thousand_problems_are_enough() {
    let image = Image::create("many-problems", "cluster_size=512", "4M");
    image.io(&["write 0 2M"]);
    // Every second entry of each L2 table loses its cluster.
    let mut bytes = image.bytes();
    for table in 0..64 {
        let l2 = image.l2(table) as usize;
        (0..64).step_by(2).for_each(|entry| bytes[l2 + entry * 8..l2 + entry * 8 + 8].fill(0));
    }
    image.write(&bytes);
    let (ours, own) = image.check();
    assert_eq!(ours, image.qemu_check());
    assert_eq!(ours.code, Some(3));
    assert_eq!(own["problems"].as_array().unwrap().len(), 1000);
    assert_eq!(own["problems-omitted"], 1048);
    assert_eq!(own["leaks-are-certain"], true);
}
