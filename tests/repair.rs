//! `holstein check --repair` and `Disk::repair` on trial: what is repaired, what is left, and that nothing is ever
//! made worse; judged by QEMU and by a plain reader.
//!
//! Reading order: `plain` (the reader), `verdicts` (images that are damaged in all ways, beside `qemu-img check -r`),
//! `bitmaps`, `snapshots`, `geometries`; then `cases` (what is repaired on the simulated storage), `judge`, `crashes`
//! and `failures`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, clippy::single_range_in_vec_init)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "repair/bitmaps.rs"]
mod bitmaps;
#[path = "repair/cases.rs"]
mod cases;
#[path = "support/check_cases/mod.rs"]
mod check_cases;
#[path = "support/crash.rs"]
mod crash;
#[path = "repair/crashes.rs"]
mod crashes;
#[path = "repair/failures.rs"]
mod failures;
#[path = "repair/geometries.rs"]
mod geometries;
#[path = "repair/memory.rs"]
mod memory;
#[path = "repair/plain.rs"]
mod plain;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/rng.rs"]
mod rng;
#[path = "repair/snapshots.rs"]
mod snapshots;
#[path = "repair/verdicts.rs"]
mod verdicts;
