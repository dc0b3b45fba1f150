//! Backups that share blocks with their source, on XFS and btrfs. The file systems are small ones in files, which this program
//! mounts for itself alone: so it needs root, loop devices, `mkfs.xfs`, `mkfs.btrfs` and `filefrag`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test

mod support;

use std::{env, fs, path::Path, process::Command};

use holstein::{
    Backing, Backup, BackupOptions, Disk, DiskOptions, ErrorKind, Format, JobReport, Reflink, SyncMode,
    Transaction,
};
use support::{qemu::Workshop, rng::Rng};

/// Set to a folder on the file system where that is mounted.
const FOLDER: &str = "HOLSTEIN_TEST_REFLINK_FOLDER";
const MIB: u64 = 1 << 20;

fn mounted(kind: &str, name: &str, body: fn(&Workshop)) {
    if let Some(folder) = env::var_os(FOLDER) {
        return body(&Workshop::new(folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir \"$0/mount\" && truncate -s 1G \"$0/image\" && mkfs.$1 -q \"$0/image\" && \
                  mount -o loop \"$0/image\" \"$0/mount\" && \"$2\" --exact $3 --nocapture; \
                  result=$?; umount \"$0/mount\"; exit $result";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(folder.path())
        .arg(kind)
        .arg(env::current_exe().unwrap())
        .arg(name)
        .env(FOLDER, folder.path().join("mount"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn shared_on_xfs() {
    mounted("xfs", "shared_on_xfs", shared);
}

#[test]
fn shared_on_btrfs() {
    mounted("btrfs", "shared_on_btrfs", shared);
}

/// Bytes of a file that it shares with another, and all that it has.
fn blocks(path: &Path) -> (u64, u64) {
    let output = Command::new("filefrag").args(["-v", "-b1"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (mut shared, mut all) = (0, 0);
    for line in text.lines().filter(|line| line.contains("..")) {
        let fields: Vec<_> = line.split(':').collect();
        let length: u64 = fields[3].trim().parse().unwrap();
        all += length;
        if line.contains("shared") {
            shared += length;
        }
    }
    (shared, all)
}

fn run(shop: &Workshop, source: &str, target: &Path, options: BackupOptions) -> holstein::Result<JobReport> {
    let format = if source.ends_with(".raw") { Format::Raw } else { Format::Qcow2 };
    let source = Disk::open(shop.path(source), &DiskOptions { format, ..DiskOptions::default() })?;
    let mut transaction = Transaction::new();
    transaction.add(Backup { source, target: target.to_owned(), options });
    transaction.commit().map(|jobs| jobs[0].report())
}

fn shared(shop: &Workshop) {
    fs::write(shop.path("noise.pat"), Rng::new(5, 1).bytes(MIB as usize, 0)).unwrap();
    shop.create("disk.qcow2", 128 * MIB + 512, "");
    shop.io("disk.qcow2", "qcow2", &["write -s noise.pat 0 40M", "write -z 8M 8M", "write -P 3 128M 512"]);
    shop.img(&["convert", "-O", "raw", "disk.qcow2", "disk.raw"]);
    let always = || BackupOptions { reflink: Reflink::Always, ..BackupOptions::default() };

    for source in ["disk.qcow2", "disk.raw"] {
        for (name, options) in [
            ("t.qcow2", always()),
            ("small.qcow2", BackupOptions { cluster_size: Some(4096), ..always() }),
            ("large.qcow2", BackupOptions { cluster_size: Some(2 << 20), ..always() }),
            ("t.raw", BackupOptions { format: Format::Raw, ..always() }),
        ] {
            let target = shop.path(name);
            let _ = fs::remove_file(&target);
            let report = run(shop, source, &target, options).unwrap();
            assert_eq!(report.shared_bytes, 32 * MIB, "{source} {name}: {report:?}");
            assert!(report.stored_bytes <= 4096, "{source} {name}: {report:?}");
            let (shared, all) = blocks(&target);
            // Header and tables, a cluster each.
            let own = if name == "large.qcow2" { 14 * MIB } else { 4 * MIB };
            assert!(shared >= 32 * MIB && all - shared < own, "{source} {name}: {shared} of {all}");
            let kind = |name: &str| if name.ends_with("raw") { "raw" } else { "qcow2" };
            if kind(name) == "qcow2" {
                shop.check(name);
            }
            shop.identical((source, kind(source)), (name, kind(name)));
        }
    }

    // An increment; and what is written to the source afterwards is not in the copies.
    shop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    shop.img(&["bitmap", "--add", "disk.qcow2", "b"]);
    shop.io("disk.qcow2", "qcow2", &["write -P 9 1M 1M", "write -P 8 100M 64k", "write -z 20M 1M"]);
    let backing = Some(Backing { name: "full.qcow2".into(), format: Format::Qcow2 });
    let options =
        BackupOptions { sync: Some(SyncMode::Bitmap), bitmap: Some(b"b".to_vec()), backing, ..always() };
    let report = run(shop, "disk.qcow2", &shop.path("inc.qcow2"), options).unwrap();
    assert_eq!((report.shared_bytes, report.stored_bytes, report.zero_bytes), (MIB + (64 << 10), 0, MIB));
    shop.check("inc.qcow2");
    shop.img(&["convert", "-O", "qcow2", "disk.qcow2", "model.qcow2"]);
    shop.io("disk.qcow2", "qcow2", &["write -P 1 0 110M"]);
    shop.identical(("inc.qcow2", "qcow2"), ("model.qcow2", "qcow2"));

    // Another file system.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let target = elsewhere.path().join("t.qcow2");
    let error = run(shop, "disk.qcow2", &target, always()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    let auto = BackupOptions::default();
    assert_eq!(run(shop, "disk.qcow2", &target, auto).unwrap().shared_bytes, 0);
}
