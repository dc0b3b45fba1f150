//! Our snapshots beside QEMU's, over all kinds of images: each of us reads, goes back to and deletes what the other has
//! taken.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{
    model::Bitmaps,
    rng::Rng,
    site::{DISK, KIB, MIB, Site},
};

/// How an image is made.
#[derive(Clone, Copy)]
struct Geometry {
    /// Of `qemu-img create`.
    options: &'static str,
    /// It has compressed clusters.
    compressed: bool,
    /// The size of an image below.
    below: Option<u64>,
}

const fn plain(options: &'static str) -> Geometry {
    Geometry { options, compressed: false, below: None }
}

const fn compressed(options: &'static str) -> Geometry {
    Geometry { options, compressed: true, below: None }
}

const fn over(options: &'static str, below: u64) -> Geometry {
    Geometry { options, compressed: true, below: Some(below) }
}

/// Where the moment of a snapshot is counted from.
const DAY: u64 = 1_700_000_000;

/// Both tools on one image, and what is known about it.
struct Pair {
    site: Site,
    geometry: Geometry,
    random: Rng,
    size: u64,
    /// What the disk holds.
    contents: Vec<u8>,
    /// The snapshots by their names.
    kept: Vec<(String, Vec<u8>)>,
}

impl Pair {
    fn new(geometry: Geometry, seed: u64) -> Self {
        let size = 3 * MIB + 1536;
        let site = Site::empty();
        let mut options = geometry.options.to_owned();
        if let Some(below) = geometry.below {
            site.workshop.create("base.qcow2", below, "");
            site.workshop.io("base.qcow2", "qcow2", &[format!("write -s noise.pat 64k {}", below / 2)]);
            options += ",backing_file=base.qcow2,backing_fmt=qcow2";
        }
        site.create(&options, size);
        let mut pair =
            Pair { site, geometry, random: Rng::new(seed, 3), size, contents: Vec::new(), kept: Vec::new() };
        pair.site.io(&["write -s noise.pat 100k 1M", "write -s noise.pat 2M 300k"]);
        if geometry.compressed {
            pair.site.io(&[
                "write -c -P 3 1536k 64k",
                "write -c -P 4 1600k 64k",
                "write -c -s noise.pat 1664k 64k",
            ]);
        }
        if !pair.is_version_2() {
            // Zeros that keep their clusters, and such that have none.
            pair.site.io(&["write -z 128k 192k", "write -z 2560k 70k"]);
            pair.site.add_bitmap("nightly");
            pair.site.add_bitmap("weekly");
            pair.site.workshop.img(&["bitmap", "--disable", DISK, "weekly"]);
        }
        pair.qemu_writes();
        pair.contents = pair.converted(&[]);
        pair
    }

    fn is_version_2(&self) -> bool {
        self.geometry.options.contains("compat=0.10")
    }

    fn some_place(&mut self) -> (u64, u64) {
        let length = self.random.between(1, 180) * 512;
        (self.random.below((self.size - length) / 512) * 512, length)
    }

    fn qemu_writes(&mut self) {
        for what in ["write -P 9", "write -s noise.pat", "write -z -u", "discard"] {
            let (at, length) = self.some_place();
            self.site.io(&[&format!("{what} {at} {length}")[..]]);
        }
        self.contents = self.converted(&[]);
    }

    fn we_write(&mut self) {
        let disk = self.site.open();
        for _ in 0..3 {
            let (at, length) = self.some_place();
            let bytes = self.random.bytes(length as usize, 0);
            disk.write_at(&bytes, at).unwrap();
            self.contents[at as usize..(at + length) as usize].copy_from_slice(&bytes);
        }
        disk.close().unwrap();
    }

    fn converted(&self, args: &[&str]) -> Vec<u8> {
        self.site.workshop.img(&[&["convert", "-O", "raw"], args, &[DISK, "out.raw"]].concat());
        let bytes = fs::read(self.site.workshop.path("out.raw")).unwrap();
        fs::remove_file(self.site.workshop.path("out.raw")).unwrap();
        bytes
    }

    fn bitmaps(&self) -> Bitmaps {
        Bitmaps::of(&self.site.open()).unwrap()
    }

    fn listed(&self) -> Vec<Value> {
        let info = self.site.workshop.img_json(&["info", DISK]);
        info["snapshots"].as_array().cloned().unwrap_or_default()
    }

    /// The image is sound, and the disk, its bitmaps and all snapshots are as they should be.
    #[track_caller]
    fn is_as_expected(&self, bitmaps: &Bitmaps, after: &str) {
        let about = format!("{} after {after}", self.geometry.options);
        self.site.workshop.check(DISK);
        assert!(self.converted(&[]) == self.contents, "{about}: the disk differs");
        let disk = self.site.open();
        assert_eq!(&Bitmaps::of(&disk).unwrap(), bitmaps, "{about}");
        let names: Vec<_> = disk.info().unwrap().snapshots.into_iter().map(|s| s.name).collect();
        drop(disk);
        assert_eq!(names, self.kept.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), "{about}");
        for (name, kept) in &self.kept {
            let is = self.converted(&["-l", &format!("snapshot.name={name}")]);
            assert!(is == *kept, "{about}: snapshot '{name}' differs");
        }
    }

    fn we_take(&mut self, name: &str, seconds: u64) {
        let date = SystemTime::UNIX_EPOCH + Duration::new(DAY + seconds, 7);
        let ids: Vec<u64> =
            self.listed().iter().map(|s| s["id"].as_str().unwrap().parse().unwrap()).collect();
        let disk = self.site.open();
        let taken = disk.create_snapshot(name.as_bytes(), date).unwrap();
        drop(disk);
        let id = (ids.iter().max().unwrap_or(&0) + 1).to_string();
        assert_eq!((&taken.id, &taken.name[..], taken.date_nsec), (&id, name, 7));
        assert_eq!((taken.disk_size, taken.vm_state_size, taken.icount), (Some(self.size), 0, None));
        let listed = self.listed().pop().unwrap();
        let expected = serde_json::json!({
            "id": id, "name": name, "vm-state-size": 0, "date-sec": DAY + seconds, "date-nsec": 7,
            "vm-clock-sec": 0, "vm-clock-nsec": 0,
        });
        assert_eq!(listed, expected);
        self.kept.push((name.to_owned(), self.contents.clone()));
    }

    fn we_delete(&mut self, name: &str) {
        self.site.open().delete_snapshot(name.as_bytes()).unwrap();
        self.kept.retain(|(kept, _)| kept != name);
    }

    fn qemu_takes(&mut self, name: &str) {
        self.site.workshop.img(&["snapshot", "-c", name, DISK]);
        self.kept.push((name.to_owned(), self.contents.clone()));
    }

    fn qemu_deletes(&mut self, name: &str) {
        self.site.workshop.img(&["snapshot", "-d", name, DISK]);
        self.kept.retain(|(kept, _)| kept != name);
    }
}

/// Never more than two snapshots at a time, since a refcount of two bits tells three users.
fn goes_together(geometry: Geometry, seed: u64) {
    let mut pair = Pair::new(geometry, seed);
    let bitmaps = pair.bitmaps();
    pair.we_take("ours", 1);
    pair.is_as_expected(&bitmaps, "our snapshot");
    pair.we_take("twin", 2);
    pair.is_as_expected(&bitmaps, "another of the same disk");
    pair.we_delete("twin");
    pair.is_as_expected(&bitmaps, "its deletion");

    pair.qemu_writes();
    pair.we_write();
    pair.qemu_takes("theirs");
    pair.qemu_writes();
    let bitmaps = pair.bitmaps();
    pair.is_as_expected(&bitmaps, "their snapshot");
    pair.we_delete("ours");
    pair.is_as_expected(&bitmaps, "the deletion of ours");
    pair.we_take("second", 3);
    pair.we_write();
    let bitmaps = pair.bitmaps();
    pair.we_delete("theirs");
    pair.is_as_expected(&bitmaps, "the deletion of theirs");
    pair.qemu_takes("third");
    pair.qemu_deletes("second");
    pair.is_as_expected(&bitmaps, "their deletion of ours");
    pair.we_write();
    pair.we_take("fourth", 4);
    pair.we_write();
    pair.qemu_writes();

    // QEMU goes back to ours only while there are no bitmaps.
    if !pair.is_version_2() {
        for name in ["nightly", "weekly"] {
            pair.site.workshop.img(&["bitmap", "--remove", DISK, name]);
        }
    }
    let none = pair.bitmaps();
    // It counts one user more on the way.
    if geometry.options.contains("refcount_bits=2") {
        pair.we_delete("third");
    }
    let names: Vec<_> = pair.kept.iter().rev().map(|(name, _)| name.clone()).collect();
    for name in &names {
        pair.site.workshop.img(&["snapshot", "-a", name, DISK]);
        pair.contents = pair.kept.iter().find(|(kept, _)| kept == name).unwrap().1.clone();
        pair.is_as_expected(&none, "going back");
        pair.we_write();
        pair.is_as_expected(&none, "writes after that");
    }
    for name in &names {
        pair.we_delete(name);
        pair.is_as_expected(&none, "a deletion");
    }
    let refcounts = pair.site.workshop.img_json(&["check", DISK]);
    assert!(refcounts["leaks"].is_null(), "{refcounts}");
}

macro_rules! geometries {
    ($($name:ident: $geometry:expr, $seed:literal;)*) => {$(
        #[test]
        fn $name() {
            goes_together($geometry, $seed);
        }
    )*};
}

geometries! {
    default: compressed("cluster_size=64k"), 1;
    smallest_clusters: compressed("cluster_size=512"), 2;
    largest_clusters: plain("cluster_size=2M"), 3;
    refcounts_of_2_bits: plain("cluster_size=4k,refcount_bits=2"), 4;
    refcounts_of_4_bits: plain("cluster_size=8k,refcount_bits=4"), 5;
    refcounts_of_8_bits: compressed("cluster_size=4k,refcount_bits=8"), 6;
    refcounts_of_32_bits: compressed("cluster_size=1k,refcount_bits=32"), 7;
    refcounts_of_64_bits: compressed("cluster_size=512,refcount_bits=64"), 8;
    subclusters: compressed("cluster_size=16k,extended_l2=on"), 9;
    small_subclusters_over_another: over("cluster_size=32k,extended_l2=on,refcount_bits=8", 2 * MIB), 10;
    over_a_longer_one: over("cluster_size=4k,compression_type=zstd", 4 * MIB), 11;
    over_a_shorter_one: over("cluster_size=64k,lazy_refcounts=on", MIB + 512 * KIB), 12;
    version_2: compressed("cluster_size=4k,compat=0.10"), 13;
    version_2_over_another: over("cluster_size=64k,compat=0.10", 2 * MIB), 14;
    preallocated: plain("cluster_size=64k,preallocation=metadata"), 15;
}

/// Refcounts of one bit are enough while nothing but tables has two users.
#[test]
fn refcounts_of_1_bit() {
    let site = Site::empty();
    site.create("cluster_size=4k,refcount_bits=1", MIB);
    site.io(&["write -z 0 512k"]);
    let disk = site.open();
    disk.create_snapshot(b"zeros", SystemTime::now()).unwrap();
    disk.close().unwrap();
    site.workshop.check(DISK);
    site.io(&["write -P 1 0 64k"]);
    site.workshop.check(DISK);
    site.workshop.img(&["convert", "-l", "zeros", "-O", "raw", DISK, "out.raw"]);
    assert_eq!(fs::read(site.workshop.path("out.raw")).unwrap(), vec![0; MIB as usize]);
    site.open().delete_snapshot(b"zeros").unwrap();
    site.workshop.check(DISK);
}

/// A disk of no size, and one that was never written.
#[test]
fn empty_disks() {
    for size in [0, 64 * KIB, 5 << 40] {
        let site = Site::empty();
        site.create("cluster_size=64k", size);
        site.open().create_snapshot(b"empty", SystemTime::now()).unwrap();
        site.workshop.check(DISK);
        let disk = site.open();
        if size > 0 {
            disk.write_at(&[1; 512], size - 512).unwrap();
        }
        disk.create_snapshot(b"another", SystemTime::now()).unwrap();
        disk.close().unwrap();
        site.workshop.check(DISK);
        site.open().delete_snapshot(b"empty").unwrap();
        site.workshop.check(DISK);
        site.workshop.img(&["snapshot", "-d", "another", DISK]);
        site.workshop.check(DISK);
    }
}

/// The last entry of the disk's own table, and what QEMU adds to its entries, stay as they are byte for byte.
#[test]
fn entries_of_others_stay_as_they_are() {
    let site = Site::new("cluster_size=4k");
    for name in ["one", "two", "three"] {
        site.workshop.img(&["snapshot", "-c", name, DISK]);
    }
    let entries = || {
        let mut bytes = fs::read(site.path()).unwrap();
        // The last one's padding need not be there.
        bytes.extend_from_slice(&[0; 4096]);
        let at = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
        (bytes[60..64].to_vec(), bytes[at..at + 4 * 72].to_vec())
    };
    let (count, before) = entries();
    assert_eq!(count, [0, 0, 0, 3]);
    site.open().create_snapshot(b"ours", SystemTime::now()).unwrap();
    let (count, after) = entries();
    assert_eq!((count, &after[..3 * 72]), (vec![0, 0, 0, 4], &before[..3 * 72]));
    // As QEMU writes an entry: no state, the disk's size, no count of instructions, the id, the name.
    let entry = &after[3 * 72..];
    assert_eq!(&entry[8..16], [0, 0, 0, 2, 0, 1, 0, 4]);
    assert_eq!(&entry[24..40], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24]);
    assert_eq!(&entry[40..56], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0]);
    assert_eq!((&entry[56..64], &entry[64..72]), (&[0xff; 8][..], &b"4ours\0\0\0"[..]));
    site.open().delete_snapshot(b"two").unwrap();
    let (count, after) = entries();
    assert_eq!(count, [0, 0, 0, 3]);
    assert_eq!((&after[..72], &after[72..144]), (&before[..72], &before[144..216]));
    site.workshop.check(DISK);
}
