//! Living beside QEMU: an image that another process writes is not read, and one that is read is not written.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use holstein::{
    Access, CreateOptions, Disk, DiskOptions, ErrorKind, Sharing,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, OperationKind},
    },
};

use support::command::Holstein;
use support::qemu::{Workshop, text};
use support::qsd::Qsd;

/// A folder with `disk.qcow2` over `base.qcow2`, with a bitmap.
fn workshop() -> (tempfile::TempDir, Workshop) {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop::new(folder.path());
    workshop.create("base.qcow2", 4 << 20, "");
    workshop.io("base.qcow2", "qcow2", &["write -P 1 0 2M"]);
    workshop.create("disk.qcow2", 4 << 20, "backing_file=base.qcow2,backing_fmt=qcow2");
    workshop.img(&["bitmap", "--add", "disk.qcow2", "nightly"]);
    workshop.io("disk.qcow2", "qcow2", &["write -P 2 1M 100k"]);
    (folder, workshop)
}

fn open(workshop: &Workshop, image: &str, sharing: Sharing) -> holstein::Result<Disk> {
    Disk::open(workshop.path(image), &DiskOptions { sharing, ..DiskOptions::default() })
}

#[test]
fn an_image_that_qemu_writes_is_not_read() {
    let (_folder, workshop) = workshop();
    let holstein = Holstein::new(&workshop);
    let mut daemon = Qsd::start(&workshop);
    daemon.open("vm", "disk.qcow2", false);
    let commands: [&[&str]; 5] = [
        &["info", "disk.qcow2"],
        &["map", "disk.qcow2"],
        &["bitmap", "list", "disk.qcow2"],
        &["compare", "base.qcow2", "disk.qcow2"],
        &["backup", "--disk", "source=disk.qcow2,target=copy.qcow2"],
    ];
    for args in commands {
        let output = holstein.run(args);
        // `compare` has the exit codes of qemu-img, in which 2 says that an image cannot be opened.
        let code = if args[0] == "compare" { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        let error = String::from_utf8(output.stderr).unwrap().to_lowercase();
        assert!(error.contains("disk.qcow2") && error.contains("another process"), "{args:?}: {error}");
        assert!(
            error.contains("info, map, check and compare read it all the same with -u"),
            "{args:?}: {error}"
        );
    }
    assert!(!workshop.path("copy.qcow2").exists(), "a refused backup leaves nothing");
    assert_eq!(open(&workshop, "disk.qcow2", Sharing::Locked).unwrap_err().kind(), ErrorKind::Locked);

    // Its backing file is only read by QEMU, and so may be read.
    holstein.succeeds(&["map", "base.qcow2"]);
    holstein.succeeds(&["backup", "--disk", "source=base.qcow2,target=copy.qcow2"]);
    daemon.quit();
    workshop.identical(("base.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
    holstein.succeeds(&["map", "disk.qcow2"]);
}

#[test]
fn a_backing_file_that_qemu_writes_is_not_read() {
    let (_folder, workshop) = workshop();
    let holstein = Holstein::new(&workshop);
    let mut daemon = Qsd::start(&workshop);
    daemon.open("vm", "base.qcow2", false);
    holstein.fails_saying(&["map", "disk.qcow2"], &["base.qcow2", "another process"]);
    // What needs the top file alone works.
    holstein.succeeds(&["info", "disk.qcow2"]);
    holstein.succeeds(&["bitmap", "list", "disk.qcow2"]);
    daemon.quit();
}

#[test]
fn information_can_be_had_of_a_running_machine() {
    let (_folder, workshop) = workshop();
    let holstein = Holstein::new(&workshop);
    let mut daemon = Qsd::start(&workshop);
    daemon.open("vm", "disk.qcow2", false);

    let theirs = workshop.img_json(&["info", "-U", "disk.qcow2"]);
    let ours = holstein.json(&["info", "--force-share", "disk.qcow2"]);
    assert_eq!(ours["format-specific"]["data"]["bitmaps"], theirs["format-specific"]["data"]["bitmaps"]);
    let theirs = workshop.img_json(&["map", "-U", "disk.qcow2"]);
    assert_eq!(holstein.json(&["map", "--force-share", "disk.qcow2"]), theirs);
    // QEMU has the bitmap in memory and the one in the image marked: nobody may use that.
    let bitmaps = holstein.json(&["bitmap", "list", "--force-share", "disk.qcow2"]);
    assert_eq!(bitmaps[0]["name"], "nightly");
    assert_eq!(bitmaps[0]["usable"], false);
    assert!(bitmaps[0]["flags"].as_array().unwrap().contains(&"in-use".into()), "{bitmaps}");
    assert!(open(&workshop, "disk.qcow2", Sharing::ForceShare).is_ok());
    daemon.quit();
}

#[test]
fn readers_do_not_disturb_each_other() {
    let (_folder, workshop) = workshop();
    let holstein = Holstein::new(&workshop);
    let mut daemon = Qsd::start(&workshop);
    daemon.open("reader", "disk.qcow2", true);
    let first = open(&workshop, "disk.qcow2", Sharing::Locked).unwrap();
    let second = open(&workshop, "disk.qcow2", Sharing::Locked).unwrap();
    assert_eq!(first.size(), second.size());
    holstein.succeeds(&["info", "disk.qcow2"]);
    holstein.succeeds(&["bitmap", "dump", "disk.qcow2", "nightly"]);
    holstein.succeeds(&["backup", "--disk", "source=disk.qcow2,target=copy.qcow2"]);
    workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
    daemon.quit();
}

#[test]
fn what_we_read_qemu_does_not_write() {
    let (_folder, workshop) = workshop();
    let disk = open(&workshop, "disk.qcow2", Sharing::Locked).unwrap();
    for image in ["disk.qcow2", "base.qcow2"] {
        let output = workshop.try_io(image, "qcow2", &["write -P 3 0 64k"]);
        assert!(!output.status.success() && text(&output).contains("lock"), "{image}: {}", text(&output));
        let output = workshop.try_run("qemu-img", &["resize", "-f", "qcow2", image, "8M"]);
        assert!(!output.status.success() && text(&output).contains("lock"), "{image}: {}", text(&output));
    }
    // Reading goes on.
    workshop.img(&["map", "disk.qcow2"]);
    drop(disk);
    workshop.io("disk.qcow2", "qcow2", &["write -P 3 0 64k"]);
    workshop.io("base.qcow2", "qcow2", &["write -P 3 0 64k"]);
}

#[test]
fn a_shared_look_holds_nobody_up() {
    let (_folder, workshop) = workshop();
    let disk = open(&workshop, "disk.qcow2", Sharing::ForceShare).unwrap();
    workshop.io("disk.qcow2", "qcow2", &["write -P 3 0 64k"]);
    drop(disk);
}

#[test]
fn a_writer_that_died_holds_nobody_up() {
    let (_folder, workshop) = workshop();
    let mut daemon = Qsd::start(&workshop);
    daemon.open("vm", "disk.qcow2", false);
    daemon.kill();
    Holstein::new(&workshop).succeeds(&["map", "disk.qcow2"]);
}

/// Without this a program looks for a process that is not there.
#[test]
fn an_image_that_this_process_has_open_says_so() {
    let (_folder, workshop) = workshop();
    let open = |access, sharing| {
        Disk::open(workshop.path("disk.qcow2"), &DiskOptions { access, sharing, ..DiskOptions::default() })
    };
    let refused = |access| {
        let error = open(access, Sharing::Locked).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        error.to_string()
    };
    let reader = open(Access::Read, Sharing::Locked).unwrap();
    // Two that read get on.
    drop(open(Access::Read, Sharing::Locked).unwrap());
    let text = refused(Access::Write);
    assert!(text.contains("this process itself has the image open by another handle"), "{text}");
    drop(reader);
    let writer = open(Access::Write, Sharing::Locked).unwrap();
    let text = refused(Access::Read);
    assert!(text.contains("this process itself writes this image by another handle"), "{text}");
    drop(writer);
    // Another process, although this one has the image open, too.
    let looking = open(Access::Read, Sharing::ForceShare).unwrap();
    let mut daemon = Qsd::start(&workshop);
    daemon.open("vm", "disk.qcow2", false);
    let text = refused(Access::Read);
    assert!(text.contains("another process writes this image"), "{text}");
    daemon.quit();
    drop(looking);
}

/// Some file systems have no locks, and say so by various errors.
#[test]
fn a_file_system_without_locks_is_named_as_the_cause() {
    for errno in [libc::ENOLCK, libc::EOPNOTSUPP, libc::EINVAL] {
        let simulated = SimulatedStorage::new();
        let storage = Arc::new(simulated.clone());
        drop(Disk::create_in(storage.clone(), "/disk", Some(1 << 20), &CreateOptions::default()).unwrap());
        let failure = Failure::Errno(errno);
        simulated.fail(Fault { kinds: vec![OperationKind::Lock], nth: 1, failure, lasting: true });
        let before = simulated.digest();
        let error = Disk::open_in(storage, "/disk", &DiskOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        assert!(text.contains("cannot lock '/disk': its file system has no locks"), "{text}");
        assert!(text.contains("mount it with locks"), "{text}");
        assert_eq!(simulated.digest(), before);
    }
}
