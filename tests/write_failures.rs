//! Guest writes and resizes of which any operation fails, in every way, once or for ever: what an error says is so,
//! the same disk goes on or refuses, and nothing is lost that was told to be durable.
//!
//! Reading order: that of `write_crashes`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "support/crash.rs"]
mod crash;
#[path = "bitmap_crashes/failures.rs"]
mod failures;
#[path = "writes/faults.rs"]
mod faults;
#[path = "bitmap_crashes/images.rs"]
mod images;
#[path = "bitmap_crashes/judge.rs"]
mod judge;
#[path = "bitmap_crashes/model.rs"]
mod model;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "bitmap_crashes/refcounts.rs"]
mod refcounts;
#[path = "support/rng.rs"]
mod rng;
#[path = "writes/runs.rs"]
mod runs;
#[macro_use]
#[path = "writes/specimens.rs"]
mod specimens;
#[path = "writes/workloads.rs"]
mod workloads;
#[path = "writes/world.rs"]
mod world;

use crash::Trial;
use faults::{faults, run_with};
use holstein::storage::simulated::{Failure, Fault, OperationKind};
use judge::exhaustive;
use rng::Rng;
use runs::Run;
use specimens::{Specimen, open_to_write};
use workloads::{Workload, workloads};

/// Lets operations of every workload fail.
fn leave_a_sound_disk(specimen: &Specimen) {
    let mut random = Rng::new(3, specimen.cluster_size);
    let (mut runs, mut failed, mut succeeded) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (name, steps) in some_workloads(specimen) {
        for fault in faults(specimen, &steps, &mut random) {
            runs += 1;
            match run_with(specimen, &steps, &fault) {
                Ok(counts) => {
                    failed += counts.0;
                    succeeded += counts.1;
                }
                Err(reason) => wrong.push(format!("{}-{name}: {fault:?}: {reason}", specimen.recipe.name)),
            }
        }
    }
    let name = specimen.recipe.name;
    println!("{name}: {runs} runs, {failed} steps failed, {succeeded} succeeded");
    assert!(runs > 80 && failed > 50 && succeeded > 100, "{runs} runs, {failed} failed, {succeeded}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn some_workloads(specimen: &Specimen) -> Vec<Workload> {
    workloads(specimen, if exhaustive() { 5 } else { 2 })
}

/// After a failed sync nobody knows what is on the disk: whatever crash follows, it is one of what may be.
fn leave_a_sound_disk_after_a_failed_sync(specimen: &Specimen) {
    let mut states = 0;
    for (name, steps) in some_workloads(specimen) {
        let storage = specimen.storage();
        let disk = open_to_write(&storage).unwrap();
        steps.iter().for_each(|step| step.perform(&disk).unwrap());
        let syncs = storage.calls(OperationKind::Sync);
        for nth in (1..=syncs).filter(|nth| exhaustive() || nth % 3 == syncs % 3) {
            let fault = Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO));
            let run = Run::new(specimen, &steps, Some(&fault)).unwrap();
            let name = format!("{}-{name}-sync-{nth}", specimen.recipe.name);
            let recording = run.storage.recording();
            let trial = Trial { name: &name, recording: &recording, limit: 4, seed: nth };
            let judged = trial.judge_up_to(40, |crash, storage| {
                let marks = recording.marks_before(crash);
                run.judge(marks, storage).map(drop).map_err(|reason| format!("{reason}\n{}", run.text()))
            });
            states += judged.map_or(0, |judged| judged.values().sum::<usize>());
        }
    }
    println!("{}: {states} states after a failed sync", specimen.recipe.name);
    assert!(states > 30 || std::env::var_os("HOLSTEIN_CRASH").is_some(), "{states} states");
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
