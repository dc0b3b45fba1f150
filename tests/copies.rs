//! Copies judged by QEMU: full, top and of what is dirty, of generated images and of some made for one question.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;

use serde_json::Value;

use support::campaign::Campaign;
use support::command::{Disk, Holstein};
use support::image::{Bases, Image};
use support::layer::{KIB, MIB, PATTERNS};
use support::patch::{compressed_clusters, peek32, peek64};
use support::qemu::{Extent, Workshop, extent, merged, rounded_out};
use support::rng::Rng;

/// The first third of the images that `differential.rs` reads, with copies kept of what their bitmaps began with.
const FEATURES: [(&str, usize); 12] = [
    ("version 2", 3),
    ("depth 1", 3),
    ("depth 4", 2),
    ("raw disk", 1),
    ("extended L2", 2),
    ("data file", 1),
    ("zlib clusters", 6),
    ("zstd clusters", 6),
    ("snapshot", 5),
    ("bitmaps", 13),
    ("bitmaps of a grown disk", 2),
    ("part of a cluster at the end", 13),
];

const COMPRESSIONS: [&str; 8] = ["none", "none", "zlib", "zlib:1", "zlib:9", "zstd", "zstd:1", "zstd:10"];

#[test]
fn copies_of_generated_images_are_whole() {
    let images = if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { 234 } else { 52 };
    let campaign = Campaign::new("copies", 0..images, Bases::Keep);
    campaign.run(
        |image, rng| {
            full_copy(image, rng);
            if image.backing.is_some() {
                top_copy(image, rng);
            }
            for bitmap in image.bitmaps.iter().filter(|_| !image.readable_bitmaps().is_empty()) {
                if let Some(base) = &bitmap.base {
                    increment(image, &bitmap.name, base, rng);
                }
            }
        },
        &FEATURES,
    );
}

/// A target with random settings; and its cluster size.
fn target(image: &Image, name: &str, rng: &mut Rng) -> (Disk, u64) {
    let info = image.workshop.img_json(&["info", "-f", image.format, image.top]);
    let own = info["cluster-size"].as_u64();
    // QEMU's comparison of a large disk takes minutes where one file has small clusters and the other large ones.
    let smallest = if info["virtual-size"].as_u64().unwrap() > 128 * MIB { 16 } else { 9 };
    let disk = Disk::new(image.top, name).with("source-format", image.format);
    let disk = disk.with("compress", rng.pick::<&str>(&COMPRESSIONS));
    match own {
        Some(own) if rng.chance(34) && own >= 1 << smallest => (disk, own),
        _ => {
            let size = 1u64 << rng.between(smallest, 21);
            (disk.with("cluster-size", &size.to_string()), size)
        }
    }
}

fn full_copy(image: &Image, rng: &mut Rng) {
    let (disk, cluster_size) = target(image, "full.copy", rng);
    Holstein::new(&image.workshop).backup(&disk.with("sync", "full"));
    let info = image.workshop.img_json(&["info", "-f", "qcow2", "full.copy"]);
    assert_eq!(info["cluster-size"], cluster_size);
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    assert_eq!(info.get("backing-filename"), None, "a full copy stands alone");
    judge(image, "full.copy", rng);
}

fn top_copy(image: &Image, rng: &mut Rng) {
    let (backing, format) = image.backing.as_ref().unwrap();
    let (disk, cluster_size) = target(image, "top.copy", rng);
    let disk = disk.with("sync", "top").with("backing", backing).with("backing-format", format);
    Holstein::new(&image.workshop).backup(&disk);
    let own = allocated(&image.workshop, image.top);
    holds_exactly(&image.workshop, "top.copy", &own, cluster_size, (backing, format));
    judge(image, "top.copy", rng);
}

fn increment(image: &Image, bitmap: &str, base: &str, rng: &mut Rng) {
    let (disk, cluster_size) = target(image, "increment.copy", rng);
    let disk = disk.with("bitmap", bitmap).with("backing", base).with("backing-format", "qcow2");
    Holstein::new(&image.workshop).backup(&disk);
    let mut wanted = image.workshop.dirty_extents(image.top, &[bitmap.to_string()]).remove(0);
    wanted.extend(behind(image, bitmap, base));
    wanted.sort_by_key(|extent| extent.start);
    let wanted = merged(wanted.into_iter());
    holds_exactly(&image.workshop, "increment.copy", &wanted, cluster_size, (base, "qcow2"));
    judge(image, "increment.copy", rng);
    fs::remove_file(image.workshop.path("increment.copy")).unwrap();
}

/// What the disk has behind the end of the image below an increment, in whole granules of the bitmap: that image says nothing
/// about it, and a disk that grew can hold there what its bitmaps do not tell.
fn behind(image: &Image, bitmap: &str, base: &str) -> Vec<Extent> {
    let workshop = &image.workshop;
    let info = workshop.img_json(&["info", "-f", image.format, image.top]);
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().unwrap();
    let granularity =
        bitmaps.iter().find(|info| info["name"] == bitmap).unwrap()["granularity"].as_u64().unwrap();
    let end = workshop.img_json(&["info", "-f", "qcow2", base])["virtual-size"].as_u64().unwrap();
    let map = workshop.img_json(&["map", "-f", image.format, image.top]);
    let held = map.as_array().unwrap().iter().filter(|run| run["zero"] == false).map(extent);
    let cut = |extent: Extent| {
        let start = extent.start.max(end);
        Extent { start, length: extent.end().saturating_sub(start) }
    };
    let behind: Vec<_> = held.map(cut).filter(|extent| extent.length > 0).collect();
    rounded_out(&behind, granularity, info["virtual-size"].as_u64().unwrap())
}

/// QEMU finds nothing wrong in a copy, reads from it what it reads from the source, and goes on writing into it.
fn judge(image: &Image, copy: &str, rng: &mut Rng) {
    image.workshop.check(copy);
    image.workshop.identical((image.top, image.format), (copy, "qcow2"));
    let size = image.workshop.img_json(&["info", "-f", "qcow2", copy])["virtual-size"].as_u64().unwrap();
    let writes: Vec<String> = (0..8)
        .map(|_| {
            let offset = rng.below(size);
            let length = rng.between(1, 300_000).min(size - offset);
            let verb = rng.pick(&["write -P 7", "write -z", "write -z -u", "discard"]);
            format!("{verb} {offset} {length}")
        })
        .collect();
    image.workshop.io(copy, "qcow2", &writes);
    image.workshop.check(copy);
}

/// The extents that the top file of an image holds itself.
fn allocated(workshop: &Workshop, image: &str) -> Vec<Extent> {
    let map = workshop.img_json(&["map", "-f", "qcow2", image]);
    let own = |run: &&Value| run["depth"] == 0 && run["present"] == true;
    merged(map.as_array().unwrap().iter().filter(own).map(extent))
}

/// A copy holds what `wanted` names, rounded out to its clusters, and nothing else. What lies past the end of the
/// backing file reads as zeros without being held.
fn holds_exactly(
    workshop: &Workshop,
    copy: &str,
    wanted: &[Extent],
    cluster_size: u64,
    backing: (&str, &str),
) {
    let size =
        |name, format| workshop.img_json(&["info", "-f", format, name])["virtual-size"].as_u64().unwrap();
    let wanted = rounded_out(wanted, cluster_size, size(copy, "qcow2"));
    let held = allocated(workshop, copy);
    let within = |extent: &Extent, of: &[Extent]| {
        of.iter().any(|o| o.start <= extent.start && extent.end() <= o.end())
    };
    for extent in &held {
        assert!(within(extent, &wanted), "{copy} holds {extent:?}, which is not among {wanted:?}");
    }
    let base_end = size(backing.0, backing.1);
    for extent in wanted.iter().filter(|extent| extent.start < base_end) {
        let over_base = Extent { start: extent.start, length: extent.end().min(base_end) - extent.start };
        assert!(within(&over_base, &held), "{copy} holds only {held:?}, {over_base:?} is missing");
    }
}

/// A folder to work in, with the files of patterns.
fn workshop() -> (tempfile::TempDir, Workshop, Holstein) {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop::new(folder.path());
    for (name, stretch) in PATTERNS {
        fs::write(workshop.path(name), Rng::new(7, 0).bytes(MIB as usize, stretch)).unwrap();
    }
    let holstein = Holstein::new(&workshop);
    (folder, workshop, holstein)
}

/// The runs of an image's map that lie in a range.
fn runs(workshop: &Workshop, image: &str, start: u64, length: u64) -> Vec<Value> {
    let map = workshop.img_json(&["map", "-f", "qcow2", image]);
    let end = start + length;
    let meets = |run: &&Value| extent(run).start < end && start < extent(run).end();
    map.as_array().unwrap().iter().filter(meets).cloned().collect()
}

#[test]
fn an_increment_has_three_states() {
    for granularity in [512, 4 * KIB, 64 * KIB, 2 * MIB] {
        for cluster_size in [512, 4 * KIB, 64 * KIB, 2 * MIB] {
            let (_folder, workshop, holstein) = workshop();
            workshop.create("disk.qcow2", 32 * MIB + 1536, "");
            workshop.io("disk.qcow2", "qcow2", &["write -s half.pat 0 32M", "write -P 9 32M 1536"]);
            workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
            workshop.img(&["bitmap", "--add", "-g", &granularity.to_string(), "disk.qcow2", "b"]);
            let changes = [
                "write -P 1 10M 4k",     // data
                "write -P 2 11000000 1", // data, one byte
                "write -z 4M 2M",        // zeros by command
                "write -P 0 8M 2M",      // zeros by writing them
                "discard 16M 2M",        // zeros by discarding
                "write -z 32M 1536",     // zeros up to an end within a cluster
            ];
            workshop.io("disk.qcow2", "qcow2", &changes);

            let disk = Disk::new("disk.qcow2", "inc.qcow2").with("bitmap", "b").with("backing", "full.qcow2");
            holstein.backup(&disk.with("cluster-size", &cluster_size.to_string()));

            workshop.check("inc.qcow2");
            workshop.identical(("disk.qcow2", "qcow2"), ("inc.qcow2", "qcow2"));
            let dirty = workshop.dirty_extents("disk.qcow2", &["b".to_string()]).remove(0);
            holds_exactly(&workshop, "inc.qcow2", &dirty, cluster_size, ("full.qcow2", "qcow2"));
            for start in [4 * MIB, 8 * MIB, 16 * MIB] {
                for run in runs(&workshop, "inc.qcow2", start, 2 * MIB) {
                    let state = (&run["depth"], &run["zero"], &run["data"]);
                    let zero = (&Value::from(0), &Value::from(true), &Value::from(false));
                    assert_eq!(state, zero, "granularity {granularity}, cluster {cluster_size}: {run}");
                }
            }
            for run in runs(&workshop, "inc.qcow2", 20 * MIB, 4 * MIB) {
                assert_eq!(run["depth"], 1, "unchanged data stays in the base: {run}");
            }
        }
    }
}

#[test]
fn an_increment_of_nothing_is_empty() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 4 * MIB, "");
    workshop.io("disk.qcow2", "qcow2", &["write -s noise.pat 0 3M"]);
    workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    workshop.img(&["bitmap", "--add", "disk.qcow2", "b"]);
    holstein.backup(&Disk::new("disk.qcow2", "inc.qcow2").with("bitmap", "b").with("backing", "full.qcow2"));
    workshop.check("inc.qcow2");
    assert_eq!(allocated(&workshop, "inc.qcow2"), []);
    workshop.identical(("disk.qcow2", "qcow2"), ("inc.qcow2", "qcow2"));
}

#[test]
fn increments_of_increments_and_of_our_own_full_copy() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 8 * MIB, "cluster_size=4096");
    workshop.io("disk.qcow2", "qcow2", &["write -s half.pat 0 5M"]);
    holstein.backup(&Disk::new("disk.qcow2", "full.qcow2").with("compress", "zstd"));
    workshop.img(&["bitmap", "--add", "disk.qcow2", "monday"]);
    workshop.io("disk.qcow2", "qcow2", &["write -P 5 1M 100k", "write -z 2M 1M"]);
    let first = Disk::new("disk.qcow2", "first.qcow2").with("bitmap", "monday").with("backing", "full.qcow2");
    holstein.backup(&first.with("backing-format", "qcow2"));
    workshop.identical(("disk.qcow2", "qcow2"), ("first.qcow2", "qcow2"));

    workshop.img(&["bitmap", "--add", "disk.qcow2", "tuesday"]);
    workshop.img(&["resize", "-q", "disk.qcow2", "10M"]);
    workshop.io("disk.qcow2", "qcow2", &["write -P 6 2500k 10k", "write -P 7 7900k 1M", "write -z 9M 5k"]);
    let second =
        Disk::new("disk.qcow2", "second.qcow2").with("bitmap", "tuesday").with("backing", "first.qcow2");
    holstein.backup(&second.with("cluster-size", "65536"));
    let info = workshop.img_json(&["info", "-f", "qcow2", "second.qcow2"]);
    assert_eq!(info["backing-filename"], "first.qcow2");
    assert_eq!(info["backing-filename-format"], "qcow2");
    assert_eq!(info["virtual-size"], 10 * MIB);
    for copy in ["full.qcow2", "first.qcow2", "second.qcow2"] {
        workshop.check(copy);
    }
    workshop.identical(("disk.qcow2", "qcow2"), ("second.qcow2", "qcow2"));
    // QEMU merges the chain into its base, as a restore might.
    workshop.img(&["commit", "-q", "-b", "full.qcow2", "second.qcow2"]);
    workshop.identical(("disk.qcow2", "qcow2"), ("full.qcow2", "qcow2"));
}

#[test]
fn a_bitmap_stays_as_it_was() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 4 * MIB, "");
    workshop.img(&["bitmap", "--add", "disk.qcow2", "b"]);
    workshop.io("disk.qcow2", "qcow2", &["write -P 5 1M 100k"]);
    let before = fs::read(workshop.path("disk.qcow2")).unwrap();
    for sync in ["full", "top", "bitmap"] {
        let disk = Disk::new("disk.qcow2", &format!("{sync}.qcow2")).with("sync", sync);
        holstein.backup(&if sync == "bitmap" {
            disk.with("bitmap", "b").with("bitmap-mode", "never")
        } else {
            disk
        });
        assert!(before == fs::read(workshop.path("disk.qcow2")).unwrap(), "a {sync} copy changed its source");
    }
}

#[test]
fn compressed_clusters_are_copied_as_they_are() {
    for kind in ["zlib", "zstd"] {
        let (_folder, workshop, holstein) = workshop();
        workshop.create("disk.qcow2", 8 * MIB, &format!("compression_type={kind}"));
        workshop.io("disk.qcow2", "qcow2", &["write -c -s half.pat 0 3M", "write -c -P 3 4M 256k"]);
        // Another level than QEMU's: clusters packed anew would not have the same bytes.
        holstein.backup(&Disk::new("disk.qcow2", "copy.qcow2").with("compress", &format!("{kind}:9")));

        let clusters = |image: &str| workshop.check(image)["compressed-clusters"].clone();
        assert_eq!(clusters("copy.qcow2"), clusters("disk.qcow2"));
        workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
        let info = workshop.img_json(&["info", "copy.qcow2"]);
        assert_eq!(info["format-specific"]["data"]["compression-type"], kind);

        let bytes = |image: &str| fs::read(workshop.path(image)).unwrap();
        let (theirs, ours) = (bytes("disk.qcow2"), bytes("copy.qcow2"));
        let found = |image: &str| compressed_clusters(&workshop.path(image));
        let (from, to) = (found("disk.qcow2"), found("copy.qcow2"));
        assert_eq!(from.len(), to.len());
        assert!(from.len() >= 40, "the source holds {} compressed clusters", from.len());
        for (a, b) in from.iter().zip(&to) {
            assert_eq!(a.index, b.index);
            // The stream ends somewhere in its last sector, and so within the shorter of the two, less a sector.
            let length = (a.length.min(b.length) as usize).saturating_sub(512);
            let (a_at, b_at) = (a.offset as usize, b.offset as usize);
            assert!(length > 0 || a.length <= 1024, "cluster {}", a.index);
            assert!(
                theirs[a_at..a_at + length] == ours[b_at..b_at + length],
                "cluster {} was packed anew",
                a.index
            );
        }
    }
}

#[test]
fn compression_applies_to_every_kind_of_copy() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 8 * MIB, "");
    workshop.io("disk.qcow2", "qcow2", &["write -s half.pat 0 6M"]);
    workshop.img(&["bitmap", "--add", "disk.qcow2", "b"]);
    workshop.io("disk.qcow2", "qcow2", &["write -s half.pat 1M 2M", "write -s noise.pat 4M 1M"]);
    let plain = fs::metadata(workshop.path("disk.qcow2")).unwrap().len();
    // The highest levels take long.
    let few = &["zlib", "zlib:1", "zstd"][..];
    let all = &["zlib", "zlib:1", "zlib:9", "zstd", "zstd:19"][..];
    for (sync, clusters, levels) in [("full", 80, few), ("bitmap", 32, all)] {
        for compress in levels {
            let copy = format!("{sync}-{compress}.qcow2").replace(':', "-");
            let disk = Disk::new("disk.qcow2", &copy).with("sync", sync).with("compress", compress);
            holstein.backup(&if sync == "bitmap" { disk.with("bitmap", "b") } else { disk });
            // 16 clusters of noise do not shrink and are stored as they are.
            assert_eq!(workshop.check(&copy)["compressed-clusters"], clusters, "{copy}");
            let length = fs::metadata(workshop.path(&copy)).unwrap().len();
            assert!(length < plain * 7 / 10, "{copy} takes {length} bytes, its source {plain}");
            if sync == "full" {
                workshop.identical(("disk.qcow2", "qcow2"), (&copy, "qcow2"));
            }
        }
    }
}

#[test]
fn a_large_sparse_disk_makes_a_small_copy() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 1 << 40, "");
    workshop.io(
        "disk.qcow2",
        "qcow2",
        &["write -P 1 0 64k", "write -P 2 500G 64k", "write -P 3 1048575M 1M"],
    );
    holstein.backup(&Disk::new("disk.qcow2", "copy.qcow2"));
    workshop.check("copy.qcow2");
    workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
    let length = fs::metadata(workshop.path("copy.qcow2")).unwrap().len();
    assert!(length < 4 * MIB, "the copy takes {length} bytes");
}

#[test]
fn several_disks_are_copied_in_one_run() {
    let (_folder, workshop, holstein) = workshop();
    let mut args = vec!["backup".to_string()];
    for i in 0..3 {
        let source = format!("disk {i}, \"x\".qcow2");
        workshop.create(&source, (i + 1) * 3 * MIB, "");
        workshop.io(&source, "qcow2", &[format!("write -s noise.pat {} 2M", i * 64 * KIB)]);
        args.extend(["--disk".to_string(), Disk::new(&source, &format!("copy{i}.qcow2")).0]);
    }
    holstein.succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
    for i in 0..3 {
        let copy = format!("copy{i}.qcow2");
        workshop.check(&copy);
        workshop.identical((&format!("disk {i}, \"x\".qcow2"), "qcow2"), (&copy, "qcow2"));
    }
}

#[test]
fn a_raw_disk_is_copied_into_qcow2_and_back() {
    let (_folder, workshop, holstein) = workshop();
    let mut bytes = Rng::new(3, 3).bytes(5 * MIB as usize, 0);
    bytes[MIB as usize..3 * MIB as usize].fill(0);
    fs::write(workshop.path("disk.raw"), &bytes).unwrap();
    holstein.backup(&Disk::new("disk.raw", "copy.qcow2").with("source-format", "raw"));
    workshop.check("copy.qcow2");
    workshop.identical(("disk.raw", "raw"), ("copy.qcow2", "qcow2"));
    for run in runs(&workshop, "copy.qcow2", MIB, 2 * MIB) {
        assert_eq!(run["data"], false, "zeros need no room: {run}");
    }
    holstein.backup(&Disk::new("copy.qcow2", "back.raw").with("format", "raw"));
    assert!(bytes == fs::read(workshop.path("back.raw")).unwrap(), "the way there and back changes nothing");
}

#[test]
fn a_copy_is_complete_in_its_header() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("disk.qcow2", 4 * MIB, "compat=0.10");
    workshop.io("disk.qcow2", "qcow2", &["write -s noise.pat 0 3M"]);
    holstein.backup(&Disk::new("disk.qcow2", "copy.qcow2"));
    let copy = workshop.path("copy.qcow2");
    assert_eq!(peek32(&copy, 4), 3, "version");
    assert_eq!(peek64(&copy, 72) & 3, 0, "neither dirty nor corrupt");
    let mut left = workshop.listing();
    left.retain(|path| path.to_string_lossy().contains("copy"));
    assert_eq!(left, [copy], "what the copy left in the folder");
}

#[test]
fn compare_has_the_exit_codes_of_qemu_img() {
    let (_folder, workshop, holstein) = workshop();
    workshop.create("a.qcow2", 4 * MIB, "");
    workshop.io("a.qcow2", "qcow2", &["write -s half.pat 0 3M"]);
    workshop.img(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", "a.qcow2", "same.qcow2"]);
    fs::copy(workshop.path("a.qcow2"), workshop.path("other.qcow2")).unwrap();
    workshop.io("other.qcow2", "qcow2", &["write -P 77 2000001 1"]);
    workshop.img(&["convert", "-O", "qcow2", "a.qcow2", "longer.qcow2"]);
    workshop.img(&["resize", "-q", "longer.qcow2", "5M"]);
    fs::copy(workshop.path("longer.qcow2"), workshop.path("longer with data.qcow2")).unwrap();
    workshop.io("longer with data.qcow2", "qcow2", &["write -P 1 4500k 1"]);
    fs::write(workshop.path("no image.qcow2"), [0; 4096]).unwrap();
    for other in [
        "a.qcow2",
        "same.qcow2",
        "other.qcow2",
        "longer.qcow2",
        "longer with data.qcow2",
        "no image.qcow2",
        "missing.qcow2",
    ] {
        for pair in [["a.qcow2", other], [other, "a.qcow2"]] {
            let theirs =
                workshop.try_run("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", pair[0], pair[1]]);
            let ours = holstein.run(&["compare", pair[0], pair[1]]);
            assert_eq!(ours.status.code(), theirs.status.code(), "{pair:?}");
        }
    }
}
