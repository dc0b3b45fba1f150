//! Memory that the system refuses, one piece after the other, while images with the largest tables are changed.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::Disk;
use crate::{
    error::Result,
    image::{Access, CheckReport, CheckVerdict, CreateOptions, ImageOptions as DiskOptions, RepairMode},
    memory::refusal,
    storage::HostStorage,
};

const SIZE: u64 = 3 << 40;

/// An image with clusters of 2 MiB.
fn image(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("disk.qcow2");
    let options =
        CreateOptions { cluster_size: Some(2 << 20), refcount_bits: Some(64), ..Default::default() };
    let create = || {
        let _ = fs::remove_file(&path);
        Disk::create_in(Arc::new(HostStorage), &path, Some(SIZE), &options)
    };
    assert!(refusal::of_each(create) >= 3);
    let disk = open(&path).unwrap();
    for offset in [0, 1 << 30, 2 << 40] {
        disk.write_at(&[7; 4096], offset).unwrap();
    }
    disk.flush().unwrap();
    path
}

fn open(path: &Path) -> Result<Disk> {
    Disk::open(path, &DiskOptions { access: Access::Write, ..DiskOptions::default() })
}

/// Changes the image as it is, again and again; how many pieces that asks for. It is never worse than it was.
fn change<T>(path: &Path, change: impl Fn() -> Result<T>) -> usize {
    let (before, options) = (fs::read(path).unwrap(), DiskOptions::default());
    let corruptions = |report: &CheckReport| report.corruptions + report.further_corruptions;
    let damage = corruptions(&Disk::check(path, &options).unwrap());
    refusal::of_each(|| {
        fs::write(path, &before).unwrap();
        let result = change();
        refusal::without(|| {
            let report = Disk::check(path, &options).unwrap();
            assert!(corruptions(&report) <= damage, "{report:#?}");
        });
        result
    })
}

#[test]
fn a_snapshot_and_another_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(&folder);
    let snapshot = || open(&path)?.create_snapshot(b"one", SystemTime::UNIX_EPOCH).map(drop);
    assert!(change(&path, snapshot) >= 5);
    assert!(change(&path, || open(&path)?.resize(SIZE / 2 + 512)) >= 4);
}

#[test]
fn a_repair() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(&folder);
    let whole = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut table = [0; 8];
    whole.read_exact_at(&mut table, 48).unwrap();
    let table = u64::from_be_bytes(table);
    whole.write_all_at(&(1_u64 << 40).to_be_bytes(), table).unwrap();
    let repair = || Disk::repair(&path, &DiskOptions::default(), RepairMode::All);
    assert!(change(&path, repair) >= 8);
    let report = Disk::check(&path, &DiskOptions::default()).unwrap();
    assert_eq!(report.verdict(), CheckVerdict::Consistent, "{report:#?}");
}
