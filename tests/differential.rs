//! Reading beside QEMU: images made by QEMU's tools over all options of the format, read by both.
//!
//! `HOLSTEIN_SEED=N` makes other images; `HOLSTEIN_ONLY=NUMBER HOLSTEIN_KEEP=DIR` makes one again and keeps it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use holstein::DiskOptions;
use serde_json::{Value, json};

use support::campaign::Campaign;
use support::command::{Disk, Holstein};
use support::image::{Bases, Image};
use support::judge::{missing, same_array, same_bytes};
use support::qemu::Extent;
use support::rng::Rng;

/// In a normal run; `HOLSTEIN_EXHAUSTIVE=1` reads more.
const IMAGES: u32 = 156;

/// What must occur among the images, each at least so often.
const FEATURES: [(&str, usize); 51] = [
    ("version 2", 10),
    ("version 3", 100),
    ("cluster size 512", 6),
    ("cluster size 1024", 6),
    ("cluster size 2048", 6),
    ("cluster size 4096", 6),
    ("cluster size 8192", 6),
    ("cluster size 16384", 6),
    ("cluster size 32768", 6),
    ("cluster size 65536", 6),
    ("cluster size 131072", 6),
    ("cluster size 262144", 6),
    ("cluster size 524288", 6),
    ("cluster size 1048576", 6),
    ("cluster size 2097152", 6),
    ("refcount bits 1", 6),
    ("refcount bits 2", 6),
    ("refcount bits 4", 6),
    ("refcount bits 8", 6),
    ("refcount bits 16", 6),
    ("refcount bits 32", 6),
    ("refcount bits 64", 6),
    ("depth 0", 26),
    ("depth 1", 13),
    ("depth 2", 6),
    ("depth 3", 6),
    ("depth 4", 6),
    ("raw backing file", 10),
    ("raw disk", 3),
    ("part of a cluster at the end", 26),
    ("extended L2", 10),
    ("data file", 3),
    ("raw data file", 3),
    ("lazy refcounts", 10),
    ("zlib clusters", 13),
    ("zstd clusters", 13),
    ("preallocation metadata", 3),
    ("preallocation falloc", 3),
    ("snapshot", 13),
    ("resized", 13),
    ("converted", 6),
    ("last cluster cut short", 3),
    ("bitmaps", 40),
    ("granularity above the cluster", 13),
    ("granularity up to the cluster", 13),
    ("disabled bitmap", 6),
    ("merged bitmap", 3),
    ("cleared bitmap", 3),
    ("empty bitmap", 3),
    ("bitmaps of a grown disk", 6),
    ("bitmaps in use", 2),
];

#[test]
fn images_are_read_as_qemu_reads_them() {
    let times = if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { 5 } else { 1 };
    let campaign = Campaign::new("differential", 0..times * IMAGES, Bases::Omit);
    campaign.run(
        |image, rng| {
            map(image);
            info(image);
            contents(image, rng);
            bitmap_list(image);
            bitmap_extents(image);
        },
        &FEATURES,
    );
}

fn map(image: &Image) {
    let ask = || image.workshop.img_json(&["map", "-f", image.format, image.top]);
    let mut theirs = ask();
    let ours = Holstein::new(&image.workshop).json(&["map", "--format", image.format, image.top]);
    if theirs != ours {
        // A block that is allocated and not written is a hole to the kernel until somebody's reading ahead has
        // brought it into the page cache: then it is data. Whoever looks second sees the same.
        theirs = ask();
    }
    same_array("map", &theirs, &ours);
}

fn info(image: &Image) {
    let theirs = image.workshop.img_json(&["info", "-f", image.format, image.top]);
    let ours = Holstein::new(&image.workshop).json(&["info", "--format", image.format, image.top]);
    let missing = missing(&theirs, &ours, "");
    assert!(missing.is_empty(), "info: {missing:#?}\nQEMU: {theirs:#}\nours: {ours:#}");
}

/// A raw copy, and ranges read one by one, hold what QEMU's raw copy holds.
fn contents(image: &Image, rng: &mut Rng) {
    image.workshop.img(&["convert", "-f", image.format, "-O", "raw", image.top, "theirs.raw"]);
    let disk = Disk::new(image.top, "ours.raw").with("source-format", image.format);
    Holstein::new(&image.workshop).backup(&disk.with("format", "raw").with("sync", "full"));
    let theirs = image.workshop.path("theirs.raw");
    same_bytes(&theirs, &image.workshop.path("ours.raw"));
    ranges(image, &File::open(&theirs).unwrap(), rng);
    fs::remove_file(theirs).unwrap();
    fs::remove_file(image.workshop.path("ours.raw")).unwrap();
}

fn ranges(image: &Image, theirs: &File, rng: &mut Rng) {
    let options = DiskOptions { format: image.format.parse().unwrap(), ..DiskOptions::default() };
    let disk = holstein::Disk::open(image.workshop.path(image.top), &options).unwrap();
    let size = theirs.metadata().unwrap().len();
    assert_eq!(disk.size(), size, "size of the disk");
    for _ in 0..40 {
        // Mostly short ranges, some of many clusters.
        let limit = *rng.pick(&[16, 5000, 70_000, 70_000, 3_000_000]);
        let length = rng.between(1, limit).min(size);
        let offset = if rng.chance(15) { size - length } else { rng.below(size - length + 1) };
        let (mut a, mut b) = (vec![0; length as usize], vec![0xa5; length as usize]);
        theirs.read_exact_at(&mut a, offset).unwrap();
        disk.read_at(&mut b, offset).unwrap();
        let differs = (0..a.len()).find(|&i| a[i] != b[i]);
        assert_eq!(differs, None, "first wrong byte of the {length} read at {offset}");
    }
}

/// Names, granularities and flags are those that `qemu-img info` reports.
fn bitmap_list(image: &Image) {
    let info = image.workshop.img_json(&["info", "-f", image.format, image.top]);
    let theirs = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    let ours = Holstein::new(&image.workshop).json(&["bitmap", "list", "--format", image.format, image.top]);
    let ours = ours.as_array().expect("an array of bitmaps");
    let of_qemu = |bitmap: &Value| json!({ "name": bitmap["name"], "granularity": bitmap["granularity"], "flags": sorted(&bitmap["flags"]) });
    let listed: Vec<_> = ours.iter().map(of_qemu).collect();
    assert_eq!(listed, theirs.iter().map(of_qemu).collect::<Vec<_>>(), "list of bitmaps");
    for bitmap in ours {
        let flags = sorted(&bitmap["flags"]);
        let in_use = flags.contains(&json!("in-use"));
        if in_use || flags.contains(&json!("auto")) {
            assert_eq!(bitmap["usable"], json!(!in_use), "{bitmap}");
        }
        if bitmap["usable"] == false {
            assert!(bitmap["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{bitmap}");
        }
    }
}

fn sorted(flags: &Value) -> Vec<Value> {
    let mut flags = flags.as_array().expect("an array of flags").clone();
    flags.sort_by_key(Value::to_string);
    flags
}

/// Dirty extents and counts are those of QEMU's export of the bitmap.
fn bitmap_extents(image: &Image) {
    let holstein = Holstein::new(&image.workshop);
    let names = image.readable_bitmaps();
    for bitmap in image.bitmaps.iter().filter(|bitmap| !names.contains(&bitmap.name)) {
        let error = holstein.fails(&["bitmap", "dump", image.top, &bitmap.name]);
        assert!(error.contains(image.top), "{error}");
    }
    if names.is_empty() {
        return;
    }
    let listed = holstein.json(&["bitmap", "list", image.top]);
    for (name, extents) in names.iter().zip(image.workshop.dirty_extents(image.top, &names)) {
        let theirs = extents.iter().map(|e| json!({ "start": e.start, "length": e.length })).collect();
        let ours = holstein.json(&["bitmap", "dump", image.top, name]);
        same_array(&format!("bitmap {name}"), &Value::Array(theirs), &ours);
        let bitmap =
            listed.as_array().unwrap().iter().find(|bitmap| bitmap["name"] == *name).expect("its entry");
        let granularity = bitmap["granularity"].as_u64().unwrap();
        // An extent that ends with the disk may end within a granule, which counts whole.
        let whole = |extent: &Extent| extent.length.next_multiple_of(granularity);
        assert_eq!(bitmap["count"], json!(extents.iter().map(whole).sum::<u64>()), "count of {bitmap}");
    }
}
