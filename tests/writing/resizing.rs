//! Another size of the disk.

use std::{fs, sync::Arc};

use holstein::{
    BitmapChange, DiskOptions, ErrorKind,
    storage::simulated::{Failure, Fault, OperationKind},
};

use super::{
    refusals::spoil_bitmap,
    site::{DISK, KIB, MIB, Site, read},
};
use crate::support::{command::mentions, patch::poke, qsd::Qsd};

fn resize(site: &Site, size: u64) {
    let disk = site.open();
    disk.resize(size).unwrap();
    assert_eq!(disk.size(), size);
    disk.close().unwrap();
}

#[test]
fn sizes_that_cannot_be() {
    let site = Site::new("");
    site.add_bitmap("a");
    let disk = site.open();
    for (size, words) in [
        (1000, "the size 1000 is no multiple of 512 bytes"),
        (0, "a disk of 0 bytes"),
        (3 << 50, "a disk of 3377699720527872 bytes is too large for clusters of 65536 bytes"),
        (1 << 63, "a disk of 9223372036854775808 bytes is too large for clusters of 65536 bytes"),
    ] {
        site.refuses(ErrorKind::InvalidArgument, &[words], || disk.resize(size));
    }
    // The same size is nothing to do.
    let before = site.files();
    disk.resize(4 * MIB).unwrap();
    disk.close().unwrap();
    assert!(site.files() == before);
}

#[test]
fn bitmaps_that_would_be_too_large() {
    let site = Site::new("");
    site.workshop.img(&["bitmap", "--add", "-g", "512", DISK, "fine"]);
    let disk = site.open();
    let words = ["disk.qcow2", "bitmap 'fine'", "granularity"];
    site.refuses(ErrorKind::InvalidArgument, &words, || disk.resize((2 << 40) + 512));
    disk.change_bitmaps(&[BitmapChange::Remove { name: "fine".into() }]).unwrap();
    disk.resize((2 << 40) + 512).unwrap();
    disk.close().unwrap();
    site.workshop.check(DISK);
}

#[test]
fn an_empty_disk_has_no_bitmaps() {
    let site = Site::empty();
    site.create("", 0);
    let disk = site.open();
    let add = || {
        let recording = holstein::Recording::Enabled;
        BitmapChange::Add { name: "a".into(), granularity: None, recording }
    };
    let words = ["disk.qcow2", "bitmap 'a'", "a disk of 0 bytes"];
    site.refuses(ErrorKind::InvalidArgument, &words, || disk.change_bitmaps(&[add()]));
    disk.resize(MIB).unwrap();
    disk.change_bitmaps(&[add()]).unwrap();
    disk.write_at(&[1; 512], 0).unwrap();
    disk.close().unwrap();
    site.workshop.check(DISK);
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

#[test]
fn what_version_2_cannot() {
    let site = Site::new("compat=0.10");
    site.workshop.img(&["snapshot", "-c", "one", DISK]);
    let words = ["disk.qcow2", "version 2 image with snapshots cannot be resized", "upgrade"];
    for size in [MIB, 8 * MIB] {
        site.refuses(ErrorKind::Unsupported, &words, || site.open().resize(size));
    }
    let site = Site::over(6 * MIB, "compat=0.10");
    let words = ["disk.qcow2", "its backing file is longer than the disk", "upgrade"];
    site.refuses(ErrorKind::Unsupported, &words, || site.open().resize(5 * MIB));
    let mut contents = read(&site.open());
    resize(&site, 3 * MIB);
    contents.truncate(3 * MIB as usize);
    site.holds(&contents);
    // As long as the disk, it hides nothing.
    let site = Site::over(4 * MIB, "compat=0.10");
    let mut contents = read(&site.open());
    resize(&site, 5 * MIB);
    contents.resize(5 * MIB as usize, 0);
    site.holds(&contents);
}

#[test]
fn what_a_longer_image_below_has_stays_hidden() {
    for options in ["", "cluster_size=512", "extended_l2=on", "data_file=data.raw"] {
        let site = Site::over(8 * MIB, options);
        site.add_bitmap("a");
        let mut contents = read(&site.open());
        let (mut old, mut first_dirty) = (4 * MIB, u64::MAX);
        for size in [4 * MIB + 512, 5 * MIB + 1536, 2 * MIB + 512, 10 * MIB] {
            resize(&site, size);
            contents.resize(size as usize, 0);
            site.holds(&contents);
            let disk = site.open();
            let dirty: Vec<_> = disk.bitmap(b"a").unwrap().extents().collect();
            let granule = 128 * KIB;
            let expected = match size > old {
                true => vec![first_dirty.min(old / granule * granule)..size],
                false => Vec::new(),
            };
            assert_eq!(dirty, expected, "{options}: {size}");
            (old, first_dirty) = (size, expected.first().map_or(u64::MAX, |e| e.start));
        }
    }
}

#[test]
fn bitmaps_of_every_kind() {
    let site = Site::new("");
    site.add_bitmap("inconsistent");
    let mut daemon = Qsd::start(&site.workshop);
    daemon.open("vm", DISK, false);
    daemon.kill();
    site.add_bitmap("spoiled");
    spoil_bitmap_named(&site);
    for name in ["good", "disabled"] {
        site.add_bitmap(name);
    }
    site.workshop.img(&["bitmap", "--disable", DISK, "disabled"]);
    resize(&site, 5 * MIB);
    let flags = ["inconsistent", "spoiled", "good", "disabled"].map(|name| site.flags(name));
    assert_eq!(flags, [r#"["in-use","auto"]"#, r#"["in-use","auto"]"#, r#"["auto"]"#, "[]"]);
    let mut contents = site.contents();
    contents[0] = 0xcd; // qemu-io's pattern
    contents.resize(5 * MIB as usize, 0);
    site.holds(&contents);
    let disk = site.open();
    let extents = |name: &str| disk.bitmap(name.as_bytes()).unwrap().extents().collect::<Vec<_>>();
    assert_eq!(extents("good"), [4 * MIB..5 * MIB]);
    assert_eq!(extents("disabled"), [4 * MIB..5 * MIB]);
    let error = disk.bitmap(b"spoiled").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BitmapUnusable);
    mentions(&error.to_string(), &["spoiled", "in use"]);
}

/// Spoils the second bitmap.
fn spoil_bitmap_named(site: &Site) {
    site.io(&["write 0 1"]);
    let path = site.path();
    let (extension, _) = crate::support::patch::extension(&path, 0x2385_2875);
    let directory = crate::support::patch::peek64(&path, extension + 16);
    let first = 24 + "inconsistent".len() as u64;
    let table = crate::support::patch::peek64(&path, directory + first.next_multiple_of(8));
    let data = crate::support::patch::peek64(&path, table);
    assert_ne!(data, 0, "the bitmap has no data");
    poke(&path, data + 5, &[1]);
}

#[test]
fn snapshots_keep_their_size() {
    let site = Site::new("");
    site.workshop.img(&["snapshot", "-c", "one", DISK]);
    let before = site.contents();
    for size in [6 * MIB + 512, 512 * KIB + 512, 3 * MIB] {
        resize(&site, size);
        site.workshop.check(DISK);
        site.workshop.img(&["convert", "-l", "one", "-O", "raw", DISK, "one.raw"]);
        // QEMU shows as much of it as the disk has.
        let mut shown = before.clone();
        shown.resize(size as usize, 0);
        assert!(std::fs::read(site.workshop.path("one.raw")).unwrap() == shown, "{size}");
    }
    let mut contents = before[..512 * KIB as usize + 512].to_vec();
    contents.resize(3 * MIB as usize, 0);
    site.holds(&contents);
}

/// What the error says of the size is so. A disk of which that is not known any more does nothing further.
#[test]
fn a_resize_that_fails_says_what_the_size_is() {
    let site = Site::new("");
    let (mut old, mut new) = (0, 0);
    for kind in [OperationKind::Read, OperationKind::Status, OperationKind::Write, OperationKind::Sync] {
        for nth in 1..80 {
            let storage = site.simulated();
            let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
            // The tail of the last cluster is written first.
            disk.resize(2 * MIB + 512).unwrap();
            disk.write_at(&[1; 1024], 2 * MIB - 512).unwrap();
            disk.flush().unwrap();
            storage.fail(Fault::once(kind, nth, Failure::Errno(libc::EIO)));
            let result = disk.resize(3 * MIB);
            storage.stop_failing();
            let size = site.open_in(Arc::new(storage.clone()), &DiskOptions::default()).size();
            let says = |text: &str| result.as_ref().is_err_and(|error| error.to_string().contains(text));
            if says("the change may or may not have been made") {
                continue;
            }
            let made = result.is_ok() || says("the change was made");
            assert_eq!(size, if made { 3 * MIB } else { 2 * MIB + 512 }, "{kind:?} {nth}: {result:?}");
            *(if made { &mut new } else { &mut old }) += usize::from(result.is_err());
            if made && result.is_err() {
                // By its own view the disk has this size already.
                for refused in [disk.resize(2 * MIB + 512), disk.flush(), disk.write_at(&[], 0), disk.close()]
                {
                    let error = refused.unwrap_err();
                    mentions(&error.to_string(), &["disk.qcow2", "must be opened anew"]);
                }
            }
        }
    }
    assert!(old > 20 && new > 5, "{old} old, {new} new");
}

/// A spoiled bitmap is not given up for a size that is refused.
#[test]
fn a_refused_size_spoils_no_bitmap() {
    let site = Site::new("");
    site.add_bitmap("a");
    spoil_bitmap(&site);
    let words = ["too large"];
    site.refuses(ErrorKind::InvalidArgument, &words, || site.open().resize(3 << 50));
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

/// We make the disk smaller, QEMU lets it grow again: what it had behind the end does not come back, so a bitmap that calls
/// that part clean is right.
#[test]
fn nothing_comes_back_when_qemu_lets_a_smaller_disk_grow() {
    for options in [
        "",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "compat=0.10",
        "data_file=data.raw",
        "data_file=data.raw,data_file_raw=on",
        "cluster_size=8k,refcount_bits=64",
    ] {
        for command in ["write -s noise.pat", "write -c -s noise.pat", "write -s noise.pat then snapshot"] {
            if options.starts_with("data_file") && command != "write -s noise.pat"
                || options == "compat=0.10" && command.ends_with("snapshot")
            {
                continue;
            }
            let site = Site::new(options);
            match command.strip_suffix(" then snapshot") {
                None if command.contains("-c") => {
                    // Whole clusters only, each by itself.
                    let size = if options.contains("512") { 512 } else { 64 * KIB };
                    for number in 0..3 {
                        if !options.contains("2M") && !options.contains("8k") {
                            site.io(&[&format!(
                                "{command} {} {size}",
                                800 * KIB / size * size + number * size
                            )]);
                        }
                    }
                }
                other => {
                    site.io(&[&format!("{} 0 3M", other.unwrap_or(command))]);
                    if other.is_some() {
                        site.workshop.img(&["snapshot", "-c", "one", DISK]);
                    }
                }
            }
            let contents = || {
                site.workshop.img(&["convert", "-O", "raw", DISK, "now.raw"]);
                fs::read(site.workshop.path("now.raw")).unwrap()
            };
            let before = contents();
            for size in [970 * KIB, 832 * KIB + 512] {
                resize(&site, size);
                site.workshop.check(DISK);
                site.workshop.img(&["resize", "-q", DISK, "4M"]);
                let now = contents();
                assert!(now[..size as usize] == before[..size as usize], "{options}, {command}, {size}");
                let back = now[size as usize..].iter().position(|byte| *byte != 0);
                assert_eq!(back, None, "{options}, {command}: QEMU brings {size} + {back:?} back");
            }
        }
    }
}
