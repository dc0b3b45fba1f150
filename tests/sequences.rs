//! Sequences of everything that can be done to a disk, by us and by QEMU in turn on the same image: after each step it
//! is sound, and disk, snapshots and bitmaps are what a plain model says, as both see them; backups restore.
//!
//! Reading order: `subject` (the disk, the model, and what has to hold), `steps`, `backups`. A failing sequence says
//! how it is run again.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

mod support;

#[path = "sequences/backups.rs"]
mod backups;
#[path = "support/trials/model.rs"]
mod model;
#[path = "sequences/steps.rs"]
mod steps;
#[path = "sequences/subject.rs"]
mod subject;

use std::env;

use subject::Subject;
use support::{campaign::Campaign, image::Bases, rng};

#[test]
fn both_hands_on_one_disk() {
    let exhaustive = env::var_os("HOLSTEIN_EXHAUSTIVE").is_some();
    let (count, steps) = if exhaustive { (2000, 20) } else { (150, 7) };
    let campaign = Campaign::new("sequence", 0..count, Bases::Omit);
    let seed = campaign.seed();
    let one = |number, folder: &std::path::Path| {
        let mut subject = Subject::make(seed, number, folder);
        for _ in 0..steps {
            subject.step();
            subject.verify();
            subject.verify_snapshots();
        }
        subject.verify_bitmaps_by_qemu();
        (0..subject.backups.len()).for_each(|index| subject.verify_backup(index));
        subject.features
    };
    campaign.run_each(
        one,
        &[
            ("version 2", 5),
            ("extended L2", 5),
            ("data file", 5),
            ("raw data file", 2),
            ("lazy refcounts", 5),
            ("zstd", 5),
            ("preallocation", 5),
            ("shorter backing file", 5),
            ("equal backing file", 5),
            ("longer backing file", 5),
            ("write by us", 50),
            ("write by QEMU", 50),
            ("unaligned write", 25),
            ("compressed by QEMU", 10),
            ("zero by us", 15),
            ("discard by us", 15),
            ("grow by us", 20),
            ("grow by QEMU", 20),
            ("shrink by us", 10),
            ("shrink by QEMU", 10),
            ("snapshot", 15),
            ("add bitmap by us", 15),
            ("add bitmap by QEMU", 10),
            ("clear bitmap by us", 4),
            ("merge bitmap by us", 4),
            ("rename bitmap by us", 4),
            ("full backup by us", 15),
            ("full backup by QEMU", 15),
            ("increment by us", 6),
            ("increment by QEMU", 5),
        ],
    );
}
