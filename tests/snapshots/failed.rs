//! Every operation that can fail while snapshots come and go, failing in every way.

use crate::{
    crashes::goes_on,
    faults::{after_each_fault, after_failed_syncs},
    images::fork,
    judge::exhaustive,
    specimens::Specimen,
    workloads::{Workload, workloads},
};

/// Lets operations of every workload fail.
pub fn leave_old_or_new(specimen: &Specimen) {
    after_each_fault(specimen, some_workloads(specimen), 5, (35, 25, 50));
}

fn some_workloads(specimen: &Specimen) -> Vec<Workload> {
    workloads(specimen, if exhaustive() { 5 } else { 1 })
}

/// After a failed sync nobody knows what is on the disk: whatever crash follows, it is one of what may be.
pub fn of_a_sync_leave_old_or_new(specimen: &Specimen) {
    after_failed_syncs(specimen, some_workloads(specimen), |run, marks, storage| {
        goes_on(&run.judge(marks, storage)?, &fork(storage))
    });
}
