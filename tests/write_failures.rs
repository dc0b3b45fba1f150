//! Guest writes and resizes of which any operation fails, in every way, once or for ever: what an error says is so,
//! the same disk goes on or refuses, and nothing is lost that was told to be durable.
//!
//! Reading order: that of `write_crashes`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "support/crash.rs"]
mod crash;
#[path = "support/trials/failing.rs"]
mod failing;
#[path = "support/trials/faults.rs"]
mod faults;
#[path = "support/trials/images.rs"]
mod images;
#[path = "support/trials/judge.rs"]
mod judge;
#[path = "support/trials/model.rs"]
mod model;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/trials/refcounts.rs"]
mod refcounts;
#[path = "support/rng.rs"]
mod rng;
#[path = "support/trials/runs.rs"]
mod runs;
#[macro_use]
#[path = "support/trials/specimens.rs"]
mod specimens;
#[path = "support/trials/workloads.rs"]
mod workloads;
#[path = "support/trials/world.rs"]
mod world;

use faults::{after_each_fault, after_failed_syncs};
use judge::exhaustive;
use specimens::Specimen;
use workloads::{Workload, workloads};

/// Lets operations of every workload fail.
fn leave_a_sound_disk(specimen: &Specimen) {
    after_each_fault(specimen, some_workloads(specimen), 3, (50, 30, 60));
}

fn some_workloads(specimen: &Specimen) -> Vec<Workload> {
    workloads(specimen, if exhaustive() { 5 } else { 2 })
}

/// After a failed sync nobody knows what is on the disk: whatever crash follows, it is one of what may be.
fn leave_a_sound_disk_after_a_failed_sync(specimen: &Specimen) {
    after_failed_syncs(specimen, some_workloads(specimen), |run, marks, storage| {
        run.judge(marks, storage).map(drop)
    });
}

/// The tests of each specimen.
macro_rules! trials {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn failures_leave_a_sound_disk() {
                crate::leave_a_sound_disk(&crate::specimens::$name().make());
            }

            #[test]
            fn failed_syncs_leave_a_sound_disk() {
                crate::leave_a_sound_disk_after_a_failed_sync(&crate::specimens::$name().make());
            }
        }
    )*};
}

for_each_specimen!(trials);
