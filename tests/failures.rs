//! Backups that fail: each says what is wrong and where, and leaves the folder as it found it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::command::{Disk, HOLSTEIN, Holstein, mentions};
use support::patch::{compressed_clusters, poke};
use support::qemu::{Workshop, text};
use support::rng::Rng;

const MIB: u64 = 1 << 20;

/// A folder with `disk.qcow2`, 4 MiB with data and the bitmap `nightly`.
struct Site {
    _folder: tempfile::TempDir,
    workshop: Workshop,
    holstein: Holstein,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        fs::write(workshop.path("noise.pat"), Rng::new(5, 5).bytes(MIB as usize, 0)).unwrap();
        workshop.create("disk.qcow2", 4 * MIB, "");
        workshop.img(&["bitmap", "--add", "disk.qcow2", "nightly"]);
        workshop.io("disk.qcow2", "qcow2", &["write -s noise.pat 0 3M"]);
        let holstein = Holstein::new(&workshop);
        Site { _folder: folder, workshop, holstein }
    }

    /// The backup of one or several disks fails with these words, and no file comes, goes or changes.
    #[track_caller]
    fn fails(&self, disks: &[Disk], words: &[&str]) {
        self.ends_with(1, disks, words);
    }

    /// The same where what was asked for contradicts itself, which is wrong usage.
    #[track_caller]
    fn rejects(&self, disks: &[Disk], words: &[&str]) {
        self.ends_with(2, disks, words);
    }

    #[track_caller]
    fn ends_with(&self, code: i32, disks: &[Disk], words: &[&str]) {
        let before = self.contents();
        let mut args = vec!["backup"];
        for disk in disks {
            args.extend(["--disk", &disk.0]);
        }
        mentions(&self.holstein.error(&args, code), words);
        self.unchanged(&before);
    }

    fn contents(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let listing = self.workshop.listing();
        listing.iter().map(|path| (path.display().to_string(), fs::read(path).ok())).collect()
    }

    fn unchanged(&self, before: &[(String, Option<Vec<u8>>)]) {
        let after = self.contents();
        let names = |files: &[(String, _)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&after), names(before), "files in the folder");
        for ((name, after), (_, before)) in after.iter().zip(before) {
            assert!(after == before, "{name} was changed");
        }
    }

    fn disk(&self) -> Disk {
        Disk::new("disk.qcow2", "copy.qcow2")
    }
}

#[test]
fn an_existing_target_is_not_overwritten_unasked() {
    let site = Site::new();
    fs::write(site.workshop.path("copy.qcow2"), b"precious").unwrap();
    site.fails(&[site.disk()], &["copy.qcow2", "exist", "overwrit"]);
    // Neither is what a symbolic link leads to, nor a link that leads nowhere.
    symlink("copy.qcow2", site.workshop.path("link.qcow2")).unwrap();
    symlink("nowhere", site.workshop.path("dangling.qcow2")).unwrap();
    for link in ["link.qcow2", "dangling.qcow2"] {
        site.fails(&[Disk::new("disk.qcow2", link)], &[link, "exist"]);
    }
    assert!(!site.workshop.path("nowhere").exists());
    site.holstein.backup(&site.disk().with("overwrite", "on"));
    site.workshop.check("copy.qcow2");
    site.workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
}

#[test]
fn a_target_is_left_alone_when_overwriting_it_fails() {
    let site = Site::new();
    fs::write(site.workshop.path("copy.qcow2"), b"precious").unwrap();
    broken(&site, "broken.qcow2");
    site.fails(&[Disk::new("broken.qcow2", "copy.qcow2").with("overwrite", "on")], &["broken.qcow2"]);
}

/// What is asked for by the keys about jobs changes nothing about the result.
#[test]
fn a_slow_backup_that_tries_again_is_a_backup() {
    let site = Site::new();
    let begin = Instant::now();
    let disk = site.disk().with("speed", "6M").with("on-source-error", "ignore");
    site.holstein.backup(&disk.with("on-target-error", "ignore"));
    // 3 MiB of data.
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    site.workshop.check("copy.qcow2");
    site.workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
}

#[test]
fn a_target_has_its_folder() {
    let site = Site::new();
    site.fails(&[Disk::new("disk.qcow2", "none/copy.qcow2")], &["none", "no such file"]);
    fs::create_dir(site.workshop.path("folder")).unwrap();
    site.rejects(&[Disk::new("disk.qcow2", "folder").with("overwrite", "on")], &["folder"]);
    site.fails(&[Disk::new("disk.qcow2", "disk.qcow2/copy.qcow2")], &["disk.qcow2"]);
}

#[test]
fn the_source_is_never_the_target() {
    let site = Site::new();
    symlink("disk.qcow2", site.workshop.path("symlink.qcow2")).unwrap();
    fs::hard_link(site.workshop.path("disk.qcow2"), site.workshop.path("hardlink.qcow2")).unwrap();
    for target in ["disk.qcow2", "./disk.qcow2", "symlink.qcow2", "hardlink.qcow2"] {
        let name = target.trim_start_matches("./");
        site.rejects(&[Disk::new("disk.qcow2", target)], &[name]);
        site.rejects(&[Disk::new("disk.qcow2", target).with("overwrite", "on")], &[name]);
    }
    // Nor is a file that the source is made of.
    site.workshop.create("top.qcow2", 4 * MIB, "backing_file=disk.qcow2,backing_fmt=qcow2");
    site.rejects(&[Disk::new("top.qcow2", "disk.qcow2").with("overwrite", "on")], &["disk.qcow2"]);
    site.workshop.create("data.qcow2", 4 * MIB, "data_file=data.raw");
    site.rejects(&[Disk::new("data.qcow2", "data.raw").with("overwrite", "on")], &["data.raw"]);
    // Nor the source of another disk of the run.
    site.workshop.create("other.qcow2", 4 * MIB, "");
    let disks =
        [Disk::new("disk.qcow2", "other.qcow2").with("overwrite", "on"), Disk::new("other.qcow2", "x.qcow2")];
    site.rejects(&disks, &["other.qcow2"]);
}

#[test]
fn a_target_is_not_its_own_backing_file() {
    let site = Site::new();
    site.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    let disk = Disk::new("disk.qcow2", "full.qcow2").with("bitmap", "nightly").with("overwrite", "on");
    for backing in ["full.qcow2", "./full.qcow2"] {
        site.rejects(&[disk.clone().with("backing", backing)], &["full.qcow2"]);
    }
}

#[test]
fn two_disks_have_two_targets() {
    let site = Site::new();
    site.workshop.create("other.qcow2", 4 * MIB, "");
    for second in ["copy.qcow2", "./copy.qcow2"] {
        site.rejects(&[site.disk(), Disk::new("other.qcow2", second)], &["copy.qcow2"]);
    }
}

#[test]
fn a_bitmap_must_be_there_and_to_be_trusted() {
    let site = Site::new();
    site.fails(&[site.disk().with("bitmap", "weekly")], &["disk.qcow2", "weekly"]);
    site.rejects(&[site.disk().with("sync", "bitmap")], &["bitmap"]);
    // A bitmap that did not record everything is no basis.
    site.workshop.img(&["bitmap", "--disable", "disk.qcow2", "nightly"]);
    site.fails(&[site.disk().with("bitmap", "nightly")], &["disk.qcow2", "nightly", "disabled"]);
    let dump = site.holstein.json(&["bitmap", "dump", "disk.qcow2", "nightly"]);
    assert_eq!(dump, serde_json::json!([{ "start": 0, "length": 3 * MIB }]), "but it can be looked at");
    site.workshop.img(&["bitmap", "--enable", "disk.qcow2", "nightly"]);
    // Nor one whose writer died.
    let output = site.workshop.try_io("disk.qcow2", "qcow2", &["write 0 64k", "flush", "sigraise 9"]);
    assert!(!output.status.success(), "{}", text(&output));
    site.fails(&[site.disk().with("bitmap", "nightly")], &["disk.qcow2", "nightly", "in use"]);
    site.holstein.fails_saying(&["bitmap", "dump", "disk.qcow2", "nightly"], &["disk.qcow2", "nightly"]);
    site.holstein.backup(&site.disk().with("sync", "full"));
    site.workshop.identical(("disk.qcow2", "qcow2"), ("copy.qcow2", "qcow2"));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let site = Site::new();
    for (key, value) in [
        ("cluster-size", "1000"),
        ("cluster-size", "256"),
        ("cluster-size", "4194304"),
        ("compress", "lzma"),
        ("compress", "zlib:99"),
        ("format", "vdi"),
        ("sync", "sideways"),
        ("colour", "brown"),
        ("overwrite", "perhaps"),
        ("speed", "-1"),
        ("on-source-error", "stop"),
        ("on-target-error", "enospc"),
    ] {
        let before = site.contents();
        let output = site.holstein.run(&["backup", "--disk", &site.disk().with(key, value).0]);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{key}={value}: {}", text(&output));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(key) || error.contains(value), "{key}={value}: {error}");
        site.unchanged(&before);
    }
    // A raw target has neither a backing file nor compression, and no disk means no backup.
    site.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    let raw = site.disk().with("format", "raw");
    let before = site.contents();
    for disk in
        [raw.clone().with("compress", "zlib"), raw.with("backing", "full.qcow2").with("bitmap", "nightly")]
    {
        let output = site.holstein.run(&["backup", "--disk", &disk.0]);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {}", disk.0, text(&output));
    }
    site.unchanged(&before);
    for args in [&["backup"][..], &["backup", "--disk", "source=disk.qcow2"], &["frobnicate"]] {
        assert_eq!(site.holstein.run(args).status.code(), Some(2), "{args:?}");
    }
}

/// Makes an image of 8 MiB in which reading fails at 6 MiB, where a compressed cluster is damaged.
fn broken(site: &Site, name: &str) {
    site.workshop.create(name, 8 * MIB, "");
    site.workshop.io(name, "qcow2", &["write -c -P 5 6M 64k", "write -s noise.pat 0 4M"]);
    let path = site.workshop.path(name);
    let cluster = &compressed_clusters(&path)[0];
    poke(&path, cluster.offset, &[0xff; 16]);
    let output = site.workshop.try_io(name, "qcow2", &["read 6M 64k"]);
    assert!(!output.status.success(), "QEMU still reads the damaged cluster: {}", text(&output));
}

#[test]
fn when_one_disk_fails_no_target_appears() {
    let site = Site::new();
    broken(&site, "broken.qcow2");
    site.workshop.create("other.qcow2", 64 * MIB, "");
    site.workshop.io("other.qcow2", "qcow2", &["write -s noise.pat 0 64M"]);
    let bad = Disk::new("broken.qcow2", "bad.qcow2");
    // Before the copying begins: a bitmap is missing. In the midst of it: a cluster cannot be read.
    site.fails(
        &[site.disk(), Disk::new("other.qcow2", "o.qcow2").with("bitmap", "none")],
        &["other.qcow2", "none"],
    );
    for disks in [
        [site.disk(), bad.clone(), Disk::new("other.qcow2", "o.qcow2")],
        [Disk::new("other.qcow2", "o.qcow2"), site.disk(), bad.clone()],
    ] {
        site.fails(&disks, &["broken.qcow2"]);
    }
    site.fails(&[bad.with("format", "raw")], &["broken.qcow2"]);
}

/// A backup run by a shell that limits how long a file may grow, in blocks of 512 bytes.
fn limited(site: &Site, blocks: u32, disk: &Disk) -> (Option<i32>, String) {
    // The signal at the limit becomes an error of the write, as a full disk is.
    let script = format!("ulimit -f {blocks}; exec \"$0\" backup --disk \"$1\"");
    let mut shell = Command::new("sh");
    let output =
        shell.args(["-c", &script, HOLSTEIN, &disk.0]).current_dir(site.workshop.folder()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_target_that_cannot_grow_leaves_nothing() {
    let site = Site::new();
    let before = site.contents();
    // No room for the data; room for the data but hardly for the metadata behind it; hardly for the journal.
    for blocks in [1000, 6200, 8] {
        for disk in [site.disk(), site.disk().with("bitmap", "nightly"), site.disk().with("compress", "zlib")]
        {
            let (code, error) = limited(&site, blocks, &disk);
            assert_eq!(code, Some(1), "{blocks} blocks, {}: {error}", disk.0);
            assert!(error.contains("copy.qcow2"), "{error}");
            assert!(error.to_lowercase().contains("file too large"), "{error}");
            site.unchanged(&before);
        }
    }
    let (code, error) = limited(&site, 1000, &site.disk().with("format", "raw"));
    assert_eq!(code, Some(1), "{error}");
    site.unchanged(&before);
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let site = Site::new();
    site.workshop.create("large.qcow2", 512 * MIB, "");
    site.workshop.io("large.qcow2", "qcow2", &["write -s noise.pat 0 512M"]);
    fs::create_dir(site.workshop.path("targets")).unwrap();
    for signal in ["-INT", "-TERM"] {
        // Slow enough to be far from its end when the signal comes.
        let disk = Disk::new("large.qcow2", "targets/copy.qcow2").with("compress", "zstd:19");
        let mut child = Command::new(HOLSTEIN)
            .args(["backup", "--disk", &disk.0])
            .current_dir(site.workshop.folder())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = || fs::read_dir(site.workshop.path("targets")).unwrap().next().is_some();
        let begin = Instant::now();
        while !begun() && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(2));
        }
        assert!(begun(), "the target is made under a temporary name beside its final one");
        assert_eq!(child.try_wait().unwrap(), None, "the backup ended before it could be interrupted");
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{signal}: {}", text(&output));
        assert!(output.status.code().is_some(), "{signal} is handled, not died of: {}", output.status);
        assert!(text(&output).to_lowercase().contains("cancel"), "{signal}: {}", text(&output));
        assert!(!begun(), "{signal} left {:?}", site.workshop.listing());
    }
}

#[test]
fn a_target_that_is_in_use_is_not_replaced() {
    let site = Site::new();
    site.workshop.create("live.qcow2", 4 * MIB, "");
    let held =
        holstein::Disk::open(site.workshop.path("live.qcow2"), &holstein::DiskOptions::default()).unwrap();
    let before = fs::read(site.workshop.path("live.qcow2")).unwrap();
    site.fails(&[Disk::new("disk.qcow2", "live.qcow2").with("overwrite", "on")], &["live.qcow2", "in use"]);
    assert!(fs::read(site.workshop.path("live.qcow2")).unwrap() == before);
    drop(held);
}

#[test]
fn a_target_that_cannot_appear_is_refused_at_once() {
    let site = Site::new();
    symlink("nowhere.qcow2", site.workshop.path("dangling.qcow2")).unwrap();
    site.fails(&[Disk::new("disk.qcow2", "dangling.qcow2")], &["dangling.qcow2"]);
    site.rejects(&[Disk::new("disk.qcow2", "dangling.qcow2").with("overwrite", "on")], &["no regular file"]);
    site.rejects(&[Disk::new("disk.qcow2", "copy.qcow2/")], &["copy.qcow2/"]);
}

#[test]
fn a_backing_file_has_a_name_that_readers_open() {
    let site = Site::new();
    site.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "./base:1.qcow2"]);
    let disk = Disk::new("disk.qcow2", "copy.qcow2").with("bitmap", "nightly");
    site.rejects(&[disk.clone().with("backing", "base:1.qcow2")], &["base:1.qcow2", "./"]);
    Holstein::new(&site.workshop).backup(&disk.with("backing", "./base:1.qcow2"));
}

#[test]
fn a_damaged_compressed_cluster_is_not_passed_on() {
    let site = Site::new();
    site.workshop.create("plain.qcow2", 4 * MIB, "");
    site.workshop.io("plain.qcow2", "qcow2", &["write -P 7 0 3M"]);
    site.workshop.img(&["convert", "-c", "-O", "qcow2", "plain.qcow2", "packed.qcow2"]);
    let path = site.workshop.path("packed.qcow2");
    let whole = fs::read(&path).unwrap();
    let last = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(last - 50);
    let scribble = |bytes: &mut Vec<u8>| bytes[last - 60..last - 5].fill(0xff);
    for damage in [&cut as &dyn Fn(&mut Vec<u8>), &scribble] {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let copy = Disk::new("packed.qcow2", "copy.qcow2");
        site.fails(std::slice::from_ref(&copy), &["damaged"]);
        site.fails(&[copy.with("compress", "zlib")], &["damaged"]);
    }
}

#[test]
fn a_compressed_copy_of_a_copy_does_not_grow() {
    let site = Site::new();
    site.workshop.create("plain.qcow2", 4 * MIB, "");
    site.workshop.io("plain.qcow2", "qcow2", &["write -P 7 0 3M", "write -s noise.pat 1M 1M"]);
    site.workshop.img(&["convert", "-c", "-O", "qcow2", "plain.qcow2", "0.qcow2"]);
    let size = |name: &str| fs::metadata(site.workshop.path(name)).unwrap().len();
    let mut first = None;
    for generation in 0..5 {
        let (from, to) = (format!("{generation}.qcow2"), format!("{}.qcow2", generation + 1));
        Holstein::new(&site.workshop).backup(&Disk::new(&from, &to).with("compress", "zlib"));
        // Ours packs in its own way, and from then on the same way.
        assert_eq!(size(&to), *first.get_or_insert(size(&to)), "{to}");
    }
}
