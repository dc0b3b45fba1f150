//! Repairs of images in memory.

use std::sync::Arc;

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
