//! Backups that clear their bitmap: the same command every night makes a chain, and what fails changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use holstein::{Access, Disk, DiskOptions};

mod support;

use support::qemu::run;

struct Night {
    folder: tempfile::TempDir,
}

impl Night {
    fn new() -> Self {
        let night = Night { folder: tempfile::tempdir().unwrap() };
        for disk in ["a", "b"] {
            let path = night.name(&format!("{disk}.qcow2"));
            run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "8M"]);
            run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 3M", &path]);
            run("qemu-img", &["bitmap", "--add", &path, "nightly"]);
        }
        night
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn name(&self, file: &str) -> String {
        self.path(file).to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, command: &str) {
        run("qemu-io", &["-f", "qcow2", "-c", command, &self.name(file)]);
    }

    fn backup(&self, disks: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holstein"));
        command.current_dir(self.folder.path()).arg("backup");
        for disk in disks {
            command.args(["--disk", disk]);
        }
        command.output().unwrap()
    }

    fn succeed(&self, disks: &[&str]) {
        let output = self.backup(disks);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn fail(&self, disks: &[&str]) -> String {
        let output = self.backup(disks);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }

    fn dirty(&self, file: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holstein"));
        let output =
            command.args(["bitmap", "dump", "--output", "json", &self.name(file), "nightly"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.split_whitespace().collect()
    }

    fn same(&self, one: &str, other: &str) {
        run("qemu-img", &["check", "-q", &self.name(one)]);
        run("qemu-img", &["check", "-q", &self.name(other)]);
        run("qemu-img", &["compare", "-q", &self.name(one), &self.name(other)]);
    }

    fn files(&self) -> Vec<String> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| name(&entry.unwrap().path())).collect();
        names.sort();
        names
    }
}

#[test]
fn the_same_backup_every_night_makes_a_chain() {
    let night = Night::new();
    night.succeed(&["source=a.qcow2,target=0.qcow2,sync=full,bitmap=nightly,bitmap-mode=on-success"]);
    night.same("a.qcow2", "0.qcow2");
    assert_eq!(night.dirty("a.qcow2"), "[]");
    for (round, mode) in [(1, "sync=incremental"), (2, "bitmap-mode=on-success"), (3, "sync=incremental")] {
        night.write("a.qcow2", &format!("write -P {} {}k 100k", round + 1, round * 900));
        night.write("a.qcow2", &format!("write -z {}k 64k", round * 128));
        assert_ne!(night.dirty("a.qcow2"), "[]", "QEMU records into what we cleared");
        let (target, backing) = (format!("{round}.qcow2"), format!("{}.qcow2", round - 1));
        night.succeed(&[&format!("source=a.qcow2,target={target},bitmap=nightly,{mode},backing={backing}")]);
        assert_eq!(night.dirty("a.qcow2"), "[]");
        night.same("a.qcow2", &target);
    }
    // Nothing was written: an empty increment.
    night.succeed(&["source=a.qcow2,target=4.qcow2,bitmap=nightly,sync=incremental,backing=3.qcow2"]);
    night.same("a.qcow2", "4.qcow2");
}

#[test]
fn a_failed_run_leaves_every_bitmap_and_no_file() {
    let night = Night::new();
    night.write("a.qcow2", "write -P 5 1M 1M");
    night.write("b.qcow2", "write -P 6 2M 1M");
    let (a, b) = (fs::read(night.path("a.qcow2")).unwrap(), fs::read(night.path("b.qcow2")).unwrap());
    let before = night.files();
    // The second disk's data lies behind the end of its file, which is found out on the way.
    let length = fs::metadata(night.path("b.qcow2")).unwrap().len();
    fs::OpenOptions::new().write(true).open(night.path("b.qcow2")).unwrap().set_len(length / 2).unwrap();
    let disks = [
        "source=a.qcow2,target=a1.qcow2,sync=incremental,bitmap=nightly",
        "source=b.qcow2,target=b1.qcow2,sync=full",
    ];
    night.fail(&disks);
    assert_eq!(night.files(), before);
    assert!(fs::read(night.path("a.qcow2")).unwrap() == a, "the source changed");

    fs::write(night.path("b.qcow2"), b).unwrap();
    night.succeed(&[disks[0], "source=b.qcow2,target=b1.qcow2,sync=incremental,bitmap=nightly"]);
    assert_eq!((night.dirty("a.qcow2"), night.dirty("b.qcow2")), ("[]".to_owned(), "[]".to_owned()));
}

#[test]
fn never_leaves_the_bitmap_and_the_image_as_they_are() {
    let night = Night::new();
    night.write("a.qcow2", "write -P 5 1M 1M");
    let before = fs::read(night.path("a.qcow2")).unwrap();
    night.succeed(&["source=a.qcow2,target=a1.qcow2,bitmap=nightly,bitmap-mode=never"]);
    assert!(fs::read(night.path("a.qcow2")).unwrap() == before);
}

#[test]
fn modes_that_mean_nothing_are_refused() {
    let night = Night::new();
    let before = (fs::read(night.path("a.qcow2")).unwrap(), night.files());
    for (options, text) in [
        ("sync=full,bitmap=nightly,bitmap-mode=never", "no effect"),
        ("sync=top,bitmap=nightly", "on-success or always"),
        ("sync=incremental,bitmap=nightly,bitmap-mode=never", "incremental"),
        ("sync=incremental,bitmap=nightly,bitmap-mode=always", "on-success"),
        ("sync=incremental,bitmap=absent", "absent"),
    ] {
        let output = night.backup(&[&format!("source=a.qcow2,target=x.qcow2,{options}")]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)) && error.contains(text), "{options}: {error}");
        assert!((fs::read(night.path("a.qcow2")).unwrap(), night.files()) == before, "{options}");
    }
}

#[test]
fn a_disk_that_qemu_holds_is_left_alone() {
    let night = Night::new();
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", &night.name("a.qcow2")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It answers when it has opened the image.
    let stdin = holder.stdin.as_mut().unwrap();
    stdin.write_all(b"length\n").unwrap();
    let mut answer = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
    let error = night.fail(&["source=a.qcow2,target=x.qcow2,bitmap=nightly,sync=incremental"]);
    assert!(error.contains("a.qcow2") && error.contains("another process"), "{error}");
    assert!(!night.path("x.qcow2").exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn what_shrinking_and_growing_hid_is_found() {
    let night = Night::new();
    night.write("a.qcow2", "write -P 9 6M 1M");
    night.succeed(&["source=a.qcow2,target=0.qcow2,sync=full,bitmap=nightly,bitmap-mode=on-success"]);
    run("qemu-img", &["resize", "-q", "--shrink", &night.name("a.qcow2"), "4M"]);
    run("qemu-img", &["resize", "-q", &night.name("a.qcow2"), "8M"]);
    assert_eq!(night.dirty("a.qcow2"), "[]", "QEMU's bitmap does not know of it");
    night.succeed(&["source=a.qcow2,target=1.qcow2,sync=incremental,bitmap=nightly,backing=0.qcow2"]);
    night.same("a.qcow2", "1.qcow2");
}

/// Zeros that are stored: the files have holes there, or Holstein shrank the disk, and the bitmap's base knows its smallest size.
#[test]
fn what_grew_as_data_is_found() {
    // The data file, how it grows, who shrinks it.
    let ways: [(&str, &[&str], &[bool]); 5] = [
        ("raw", &[], &[false, true]),
        ("", &["--preallocation=metadata"], &[true]),
        ("", &["--preallocation=falloc"], &[true]),
        ("", &["--preallocation=full"], &[true]),
        ("", &[], &[false, true]),
    ];
    for (data_file, growth, shrinks) in ways {
        for &ours in shrinks {
            let night = Night::new();
            let image = night.name("d.qcow2");
            let options = match data_file {
                "" => "cluster_size=64k".to_owned(),
                _ => format!("data_file={},data_file_raw=on", night.name("d.data")),
            };
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &image, "1M"]);
            night.write("d.qcow2", "write -P 91 640k 64k");
            run("qemu-img", &["bitmap", "--add", &image, "nightly"]);
            night.succeed(&["source=d.qcow2,target=0.qcow2,sync=full,bitmap=nightly,bitmap-mode=on-success"]);
            if ours {
                Disk::open(&image, &DiskOptions { access: Access::Write, ..DiskOptions::default() })
                    .and_then(|disk| disk.resize(512 << 10))
                    .unwrap();
            } else {
                run("qemu-img", &["resize", "-q", "--shrink", &image, "512k"]);
            }
            run("qemu-img", &[&["resize", "-q"], growth, &[&image, "1M"]].concat());
            night.succeed(&["source=d.qcow2,target=1.qcow2,sync=incremental,bitmap=nightly,backing=0.qcow2"]);
            night.same("d.qcow2", "1.qcow2");
        }
    }
}

/// A disk `d.qcow2` with the data file `d.data`, which was shrunk behind its full backup `0.qcow2`.
fn smaller_than_its_backup(raw: &str) -> (Night, String, Disk) {
    let night = Night::new();
    let image = night.name("d.qcow2");
    let options = format!("data_file={}{raw}", night.name("d.data"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &image, "1M"]);
    night.write("d.qcow2", "write -P 1 0 1M");
    run("qemu-img", &["bitmap", "--add", &image, "nightly"]);
    night.succeed(&["source=d.qcow2,target=0.qcow2,sync=full,bitmap=nightly,bitmap-mode=on-success"]);
    let disk = Disk::open(&image, &DiskOptions { access: Access::Write, ..DiskOptions::default() }).unwrap();
    disk.resize(524_800).unwrap();
    (night, image, disk)
}

/// A crash between the decision on a smaller disk and the cut of its data file leaves old data behind the end.
#[test]
fn what_lies_behind_the_end_of_the_image_below_is_copied() {
    for raw in ["", ",data_file_raw=on"] {
        let (night, image, disk) = smaller_than_its_backup(raw);
        drop(disk);
        std::fs::write(night.path("d.data"), vec![1; 1 << 20]).unwrap();
        night.succeed(&["source=d.qcow2,target=1.qcow2,sync=incremental,bitmap=nightly,backing=0.qcow2"]);
        run("qemu-img", &["resize", "-q", &image, "1M"]);
        night.succeed(&["source=d.qcow2,target=2.qcow2,sync=incremental,bitmap=nightly,backing=1.qcow2"]);
        night.same("d.qcow2", "2.qcow2");
    }
}

/// The same crash, and no backup before QEMU lets the disk grow: its contents are not those that the backup has.
#[test]
fn what_lies_behind_the_smallest_size_is_copied() {
    for raw in ["", ",data_file_raw=on"] {
        let (night, image, disk) = smaller_than_its_backup(raw);
        let base = disk.bitmap_base(b"nightly").unwrap().unwrap();
        assert_eq!((base.disk_size, base.smallest_size), (1 << 20, Some(524_800)));
        drop(disk);
        std::fs::write(night.path("d.data"), vec![2; 1 << 20]).unwrap();
        run("qemu-img", &["resize", "-q", &image, "1M"]);
        // What lies below the end was written by nobody.
        let kept = [vec![1; 524_800], vec![2; (1 << 20) - 524_800]].concat();
        std::fs::write(night.path("d.data"), kept).unwrap();
        night.succeed(&["source=d.qcow2,target=1.qcow2,sync=incremental,bitmap=nightly,backing=0.qcow2"]);
        night.same("d.qcow2", "1.qcow2");
        let disk = Disk::open(&image, &DiskOptions::default()).unwrap();
        let base = disk.bitmap_base(b"nightly").unwrap().unwrap();
        assert_eq!(base.smallest_size, Some(1 << 20), "it counts from another backup");
    }
}

/// Without a backing file there is nothing to compare with.
#[test]
fn an_increment_alone_has_what_a_shrink_dropped() {
    let night = Night::new();
    let image = night.name("a.qcow2");
    night.write("a.qcow2", "write -P 9 6M 1M");
    night.succeed(&["source=a.qcow2,target=0.qcow2,sync=full,bitmap=nightly,bitmap-mode=on-success"]);
    Disk::open(&image, &DiskOptions { access: Access::Write, ..DiskOptions::default() })
        .and_then(|disk| disk.resize(4 << 20))
        .unwrap();
    run("qemu-img", &["resize", "-q", &image, "8M"]);
    night.succeed(&["source=a.qcow2,target=1.qcow2,sync=incremental,bitmap=nightly"]);
    let below = night.name("0.qcow2");
    run("qemu-img", &["rebase", "-u", "-b", &below, "-F", "qcow2", &night.name("1.qcow2")]);
    night.same("a.qcow2", "1.qcow2");
}
