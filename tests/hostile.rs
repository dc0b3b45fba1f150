//! Hostile images: each is refused, or read as QEMU reads it, within 64 MiB and one second, and nothing ever
//! panics.
//!
//! The images are made by a generator ([`builder`]) that was typed from the specification and shares
//! nothing with the library. What is expected of each, and what QEMU 10 does with it, stands in the tables
//! under `hostile_cases/`; how a case is judged stands in `hostile_cases/judge.rs`. A group that fails prints
//! its whole table of verdicts. `HOLSTEIN_HOSTILE_TABLE=1` with `--nocapture` prints it in any case.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails
#![allow(unreachable_pub)] // the modules are shared with other test programs
#![allow(clippy::single_range_in_vec_init)] // a bitmap's bits are a list of ranges, often of one

#[path = "support/builder/mod.rs"]
mod builder;
mod hostile_cases;

use hostile_cases::{
    bitmaps, broken_bitmaps, compressed, damage, features, header, judge::judge_all, names, snapshots, tables,
};

#[test]
fn header_numbers() {
    judge_all("header", header::cases());
}

#[test]
fn extensions_and_features() {
    judge_all("features", features::cases());
}

#[test]
fn names_of_other_files() {
    judge_all("names", names::cases());
}

#[test]
fn mapping_and_refcount_tables() {
    judge_all("tables", tables::cases());
}

#[test]
fn compressed_clusters() {
    judge_all("compressed", compressed::cases());
}

#[test]
fn snapshot_tables() {
    judge_all("snapshots", snapshots::cases());
}

#[test]
fn bitmap_directories() {
    judge_all("bitmap directories", bitmaps::cases());
}

#[test]
fn single_bitmaps() {
    judge_all("single bitmaps", broken_bitmaps::cases());
}

#[test]
fn case_names_are_unique_and_enough() {
    let groups = [
        header::cases(),
        features::cases(),
        names::cases(),
        tables::cases(),
        compressed::cases(),
        snapshots::cases(),
        bitmaps::cases(),
        broken_bitmaps::cases(),
    ];
    let names: Vec<_> = groups.iter().flatten().map(|case| case.name).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    assert!(names.len() >= 80, "{} cases", names.len());
}

#[test]
fn truncation_never_cleans_a_bitmap() {
    damage::truncate_everywhere();
}

#[test]
fn bit_flips_never_clean_a_bitmap() {
    damage::flip_bits();
}
