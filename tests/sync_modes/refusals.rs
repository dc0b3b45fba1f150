//! What contradicts itself is refused, with a reason, and leaves everything as it was; and sync mode none.

use std::fs;

use holstein::{
    Access, Backing, Backup, BackupOptions,
    BitmapMode::{self, Always, Never, OnSuccess},
    Disk, DiskOptions, ErrorKind, Format, JobReport, Progress,
    SyncMode::{self, Bitmap, Full, Incremental, None as Nothing, Top},
    Transaction,
};

use crate::{
    site::{KIB, MIB, SIZE, Site},
    support::{command, qemu::Extent},
};

fn start(site: &Site, options: BackupOptions) -> holstein::Result<Vec<holstein::Job>> {
    let disk_options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let source = Disk::open(site.path("disk.qcow2"), &disk_options)?;
    let mut transaction = Transaction::new();
    transaction.add(Backup { source, target: site.path("target.qcow2"), options });
    transaction.commit()
}

#[test]
fn what_means_nothing_is_refused() {
    let site = Site::new(64 * KIB);
    type Case<'a> = (SyncMode, Option<&'a str>, Option<BitmapMode>, ErrorKind, &'a [&'a str]);
    let invalid = ErrorKind::InvalidArgument;
    let cases: &[Case<'_>] = &[
        (Bitmap, None, None, invalid, &["sync mode bitmap needs the name of a bitmap"]),
        (Bitmap, None, Some(Never), invalid, &["sync mode bitmap needs the name of a bitmap"]),
        (Incremental, None, None, invalid, &["sync mode incremental needs the name of a bitmap"]),
        (
            Incremental,
            Some("b"),
            Some(Never),
            invalid,
            &["incremental", "on-success, not never", "use sync mode bitmap"],
        ),
        (Incremental, Some("b"), Some(Always), invalid, &["on-success, not always", "use sync mode bitmap"]),
        (
            Bitmap,
            Some("c"),
            Some(Always),
            ErrorKind::BitmapNotFound,
            &["disk.qcow2", "no bitmap 'c'", "it has: b"],
        ),
        (Full, Some("c"), Some(Always), ErrorKind::BitmapNotFound, &["disk.qcow2", "no bitmap 'c'"]),
        (Top, Some("c"), Some(OnSuccess), ErrorKind::BitmapNotFound, &["disk.qcow2", "no bitmap 'c'"]),
        (
            Full,
            Some("b"),
            None,
            invalid,
            &["sync mode full", "bitmap mode", "on-success or always", "leave the bitmap out"],
        ),
        (Top, Some("b"), None, invalid, &["sync mode top", "on-success or always"]),
        (Full, Some("b"), Some(Never), invalid, &["bitmap mode never has no effect with sync mode full"]),
        (Top, Some("b"), Some(Never), invalid, &["bitmap mode never has no effect with sync mode top"]),
        (Full, None, Some(OnSuccess), invalid, &["bitmap mode", "without a bitmap"]),
        (Top, None, Some(Always), invalid, &["bitmap mode", "without a bitmap"]),
        (Nothing, None, Some(Always), invalid, &["bitmap mode", "without a bitmap"]),
        (Nothing, Some("b"), None, invalid, &["sync mode none copies nothing", "leave the bitmap out"]),
        (
            Nothing,
            Some("b"),
            Some(Never),
            invalid,
            &["sync mode none copies nothing", "leave the bitmap out"],
        ),
        (
            Nothing,
            Some("b"),
            Some(Always),
            invalid,
            &["sync mode none copies nothing", "leave the bitmap out"],
        ),
        (Nothing, None, None, invalid, &["target.qcow2", "empty disk", "backing file", "such as the source"]),
    ];
    for (sync, bitmap, bitmap_mode, kind, words) in cases {
        let options = BackupOptions {
            sync: Some(*sync),
            bitmap: bitmap.map(|name| name.as_bytes().to_vec()),
            bitmap_mode: *bitmap_mode,
            ..BackupOptions::default()
        };
        let case = format!("{sync}, {bitmap:?}, {bitmap_mode:?}");
        let error = start(&site, options).expect_err(&case);
        assert_eq!(error.kind(), *kind, "{case}: {error}");
        for words in *words {
            assert!(error.to_string().contains(words), "{case}: {error}");
        }
        site.nothing_changed();
    }
}

#[test]
fn a_bitmap_that_cannot_change_is_refused() {
    let site = Site::new(64 * KIB);
    // A disk that was opened for reading.
    let source = Disk::open(site.path("disk.qcow2"), &DiskOptions::default()).unwrap();
    for sync in [Bitmap, Full, Top] {
        let mut transaction = Transaction::new();
        let options = BackupOptions {
            sync: Some(sync),
            bitmap: Some(b"b".to_vec()),
            bitmap_mode: Some(Always),
            ..BackupOptions::default()
        };
        transaction.add(Backup { source: source.clone(), target: site.path("target.qcow2"), options });
        let error = transaction.commit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert!(error.to_string().contains("opened for reading"), "{error}");
    }
    drop(source);
    // A bitmap that another backup of the run has; one that a writer left in use.
    let both = ["target.qcow2", "next.qcow2"].map(|target| {
        command::Disk::new("disk.qcow2", target).with("bitmap", "b").with("bitmap-mode", "always").0
    });
    let args = ["backup", "--individual", "--disk", &both[0], "--disk", &both[1]];
    command::mentions(&site.holstein.error(&args, 2), &["disk.qcow2", "are the same disk", "in two runs"]);
    let died = site.workshop.try_io("disk.qcow2", "qcow2", &["write 0 64k", "flush", "sigraise 9"]);
    assert!(!died.status.success());
    for sync in ["bitmap", "full", "top"] {
        let disk = command::Disk::new("disk.qcow2", "target.qcow2").with("bitmap", "b").with("sync", sync);
        let args = ["backup", "--disk", &disk.with("bitmap-mode", "always").0];
        site.holstein.fails_saying(&args, &["disk.qcow2", "bitmap 'b'"]);
    }
    assert!(!site.path("target.qcow2").exists() && !site.path("next.qcow2").exists());
}

#[test]
fn none_makes_an_empty_image_over_its_backing_file() {
    let site = Site::new(64 * KIB);
    let before = fs::read(site.path("disk.qcow2")).unwrap();
    for (backing, format) in
        [("disk.qcow2", Format::Qcow2), ("full.qcow2", Format::Qcow2), ("disk.raw", Format::Raw)]
    {
        site.reset();
        if format == Format::Raw {
            site.workshop.img(&["convert", "-O", "raw", "disk.qcow2", "disk.raw"]);
        }
        let source = Disk::open(site.path("disk.qcow2"), &DiskOptions::default()).unwrap();
        let options = BackupOptions {
            sync: Some(Nothing),
            backing: Some(Backing { name: backing.into(), format }),
            ..BackupOptions::default()
        };
        let mut transaction = Transaction::new();
        transaction.add(Backup { source, target: site.path("target.qcow2"), options });
        let jobs = transaction.commit().unwrap();
        assert_eq!(jobs[0].report(), JobReport::default());
        assert_eq!(jobs[0].progress(), Progress { done: 0, total: 0 });
        drop(jobs);
        let info = site.workshop.img_json(&["info", "target.qcow2"]);
        assert_eq!((&info["virtual-size"], &info["backing-filename"]), (&SIZE.into(), &backing.into()));
        let map = site.workshop.img_json(&["map", "-f", "qcow2", "target.qcow2"]);
        assert!(map.as_array().unwrap().iter().all(|run| run["depth"] != 0 || run["data"] == false), "{map}");
        assert!(fs::metadata(site.path("target.qcow2")).unwrap().len() <= 5 * 64 * KIB);
        site.workshop.check("target.qcow2");
        let shown = match format {
            Format::Raw => (backing, "raw"),
            Format::Qcow2 => (backing, "qcow2"),
        };
        site.workshop.identical(shown, ("target.qcow2", "qcow2"));
        // A guest goes on in it.
        site.workshop.io(
            "target.qcow2",
            "qcow2",
            &["write -P 3 5M 1M", "write -z 100k 1M", "read -P 3 5M 1M"],
        );
        site.workshop.check("target.qcow2");
        assert!(fs::read(site.path("disk.qcow2")).unwrap() == before);
    }
    // Raw images have nothing below them.
    let options = BackupOptions { sync: Some(Nothing), format: Format::Raw, ..BackupOptions::default() };
    let error = start(&site, BackupOptions { backing: None, ..options }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("only sync mode full can be raw"), "{error}");
}

#[test]
fn none_by_the_command() {
    let site = Site::new(64 * KIB);
    let disk = command::Disk::new("disk.qcow2", "target.qcow2").with("sync", "none");
    let error = site.holstein.error(&["backup", "--disk", &disk.0], 2);
    command::mentions(&error, &["target.qcow2", "backing file"]);
    let disk = disk.with("backing", "disk.qcow2");
    let report = site.holstein.json(&["backup", "--disk", &disk.0]);
    assert_eq!(report["completed"], true);
    let job = &report["disks"][0];
    assert_eq!((&job["sync"], &job["data"], &job["partial"]), (&"none".into(), &0.into(), &().into()));
    site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
    let dirty: Vec<Extent> = site.dirty();
    assert!(dirty.iter().map(|part| part.length).sum::<u64>() > 20 * MIB, "no bitmap changed");
}
