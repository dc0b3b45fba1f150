//! Internal snapshots on trial: QEMU reads, goes back to and deletes what was taken; whatever crashes and whatever
//! fails, an image has the old snapshots or the new ones, and each of them holds what it held.
//!
//! Reading order: `geometries` (beside QEMU), `refusals`, `damaged`, `commands`; then `workloads` (what is done in the trials),
//! `crashes` and `failed`, which are built on those of guest writes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unused_macros, unreachable_pub)] // some modules are shared with other test programs

#[path = "snapshots/commands.rs"]
mod commands;
#[path = "support/crash.rs"]
mod crash;
#[path = "snapshots/crashes.rs"]
mod crashes;
#[path = "snapshots/damaged.rs"]
mod damaged;
#[path = "snapshots/failed.rs"]
mod failed;
#[path = "support/trials/failing.rs"]
mod failing;
#[path = "support/trials/faults.rs"]
mod faults;
#[path = "snapshots/geometries.rs"]
mod geometries;
#[path = "support/trials/images.rs"]
mod images;
#[path = "support/trials/judge.rs"]
mod judge;
#[path = "support/trials/model.rs"]
mod model;
#[path = "support/trials/refcounts.rs"]
mod refcounts;
#[path = "snapshots/refusals.rs"]
mod refusals;
#[path = "support/trials/runs.rs"]
mod runs;
#[path = "support/site.rs"]
mod site;
#[path = "support/trials/specimens.rs"]
mod specimens;
mod support;
#[path = "snapshots/workloads.rs"]
mod workloads;
#[path = "support/trials/world.rs"]
mod world;

use support::{qemu, rng};

/// The trials of each specimen.
macro_rules! trials {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn crashes_leave_old_or_new() {
                crate::crashes::leave_old_or_new(&crate::specimens::$name().make());
            }

            #[test]
            fn failures_leave_old_or_new() {
                crate::failed::leave_old_or_new(&crate::specimens::$name().make());
            }

            #[test]
            fn failed_syncs_leave_old_or_new() {
                crate::failed::of_a_sync_leave_old_or_new(&crate::specimens::$name().make());
            }
        }
    )*};
}

trials! { snapshot small_clusters shorter_below longer_below extended extended_snapshot version_2 version_2_below }
