//! Repairs of images in memory.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use holstein::{Disk, DiskOptions, Error, RepairMode, RepairReport, storage::SimulatedStorage};
use serde_json::{Map, Value, json};

use crate::check_cases::image::Verdict;

/// The image's path.
pub const DISK: &str = "/images/disk.qcow2";

/// The storage with an image and nothing else.
pub fn storage(image: &[u8]) -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.insert(DISK, image);
    storage.begin();
    storage
}

/// Repairs the image in a storage.
pub fn repair(storage: &SimulatedStorage, mode: RepairMode) -> Result<RepairReport, Error> {
    Disk::repair_in(Arc::new(storage.clone()), DISK, &DiskOptions::default(), mode)
}

/// Repairs an image; what is told, and what becomes of it.
pub fn repaired(image: &[u8], mode: RepairMode) -> (Result<RepairReport, Error>, Vec<u8>) {
    let storage = storage(image);
    let result = repair(&storage, mode);
    let after = storage.contents(DISK).unwrap();
    (result, after)
}

/// What the command would print and end with.
pub fn verdict(report: &RepairReport) -> (Verdict, Value) {
    let after = &report.remaining;
    let numbers = [
        ("image-end-offset", after.image_end_offset),
        ("total-clusters", after.total_clusters),
        ("corruptions", after.corruptions),
        ("corruptions-fixed", report.corruptions_fixed),
        ("leaks", after.leaks),
        ("leaks-fixed", report.leaks_fixed),
        ("allocated-clusters", after.allocated_clusters),
        ("fragmented-clusters", after.fragmented_clusters),
        ("compressed-clusters", after.compressed_clusters),
    ];
    let numbers = numbers.into_iter().filter(|(_, number)| *number > 0);
    let mut json: Map<String, Value> = numbers.map(|(key, number)| (key.to_owned(), json!(number))).collect();
    json.insert("check-errors".into(), json!(after.check_errors));
    json.insert("filename".into(), json!("disk.qcow2"));
    json.insert("format".into(), json!("qcow2"));
    let code = match after {
        _ if after.check_errors > 0 => 1,
        _ if after.is_corrupt() => 2,
        _ if after.leaks > 0 => 3,
        _ => 0,
    };
    let lost: Vec<_> = report.lost_bitmaps.iter().map(|lost| lost.reason.clone()).collect();
    let own = json!({
        "leaks-are-certain": after.leaks_are_certain,
        "further-corruptions": after.further_corruptions,
        "lost-bitmaps": lost,
        "left": report.left,
        "problems": after.problems.iter().map(|problem| &problem.text).collect::<Vec<_>>(),
    });
    (Verdict { code: Some(code), json: Some(Value::Object(json)) }, own)
}

/// A header of version 3 of a disk of no bytes.
fn header(cluster_bits: u32, l1: (u64, u32), refcount_table: (u64, u32), refcount_order: u32) -> Vec<u8> {
    let mut header = Vec::new();
    let mut put = |field: &[u8]| header.extend_from_slice(field);
    [0x5146_49FB, 3, 0, 0, 0, cluster_bits, 0, 0, 0, l1.1].iter().for_each(|f: &u32| put(&f.to_be_bytes()));
    [l1.0, refcount_table.0].iter().for_each(|f| put(&f.to_be_bytes()));
    [refcount_table.1, 0, 0, 0].iter().for_each(|f| put(&f.to_be_bytes())); // no snapshots
    [0; 3].iter().for_each(|f: &u64| put(&f.to_be_bytes())); // no features
    [refcount_order, 104].iter().for_each(|f| put(&f.to_be_bytes()));
    header.resize(512, 0);
    header
}

/// Clusters of 2 MiB, refcounts of 1 bit, a refcount table of 8 MiB and an L1 table, which both are not in the file.
#[test]
fn refcounts_that_the_file_does_not_have_take_no_time() {
    let image = header(21, (10 << 21, 1), (1 << 21, 4), 0);
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(repaired(&image, RepairMode::All).0);
    });
    let report = ended.recv_timeout(Duration::from_secs(60)).expect("the repair ends").unwrap();
    assert_eq!(report.found.corruptions, 3, "{report:#?}");
}

/// An L1 table of 20 clusters, of which the file has 12, and no refcounts: none of the 12 is free.
#[test]
fn a_table_that_ends_far_behind_the_file_is_not_overwritten() {
    let mut image = header(9, (3 * 512, 20 * 64), (512, 1), 4);
    image.resize(15 * 512, 0);
    image[512..520].copy_from_slice(&(2_u64 * 512).to_be_bytes()); // the refcount block
    let (report, after) = repaired(&image, RepairMode::All);
    let report = report.unwrap();
    assert!(report.left.iter().any(|text| text.contains("nothing was repaired")), "{report:#?}");
    assert!(after == image);
}
