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
use failures::faults_of;
use holstein::storage::simulated::{Failure, Fault, OperationKind};
use judge::exhaustive;
use rng::Rng;
use runs::Run;
use specimens::{KIB, Specimen, open_to_write};
use workloads::{Workload, workloads};
use world::Step;

/// So many faults of a workload are tried in a normal run, and in an exhaustive one so many of those that have nothing
/// to do with writing.
const SAMPLE: usize = 8;
const SAMPLE_OF_READS: usize = 60;

/// Every operation that the steps make, failing in every way, or a sample of that.
fn faults(specimen: &Specimen, steps: &[Step], random: &mut Rng) -> Vec<Fault> {
    let storage = specimen.storage();
    let disk = open_to_write(&storage).unwrap();
    let mut faults =
        faults_of(&storage, || steps.iter().for_each(|step| step.perform(&disk).unwrap()), random);
    // A large cluster would take thousands of them.
    faults.retain(|fault| specimen.cluster_size <= 64 * KIB || fault.failure != Failure::AtMost(300));
    let changes = |fault: &mut Fault| {
        let kinds = [OperationKind::Write, OperationKind::Sync, OperationKind::SetLen];
        exhaustive() && fault.kinds.iter().any(|kind| kinds.contains(kind))
    };
    let mut list: Vec<Fault> = faults.extract_if(.., changes).collect();
    while faults.len() > if exhaustive() { SAMPLE_OF_READS } else { SAMPLE } {
        faults.swap_remove(random.below(faults.len() as u64) as usize);
    }
    list.append(&mut faults);
    list
}

/// Transfers that are interrupted or short are gone on with.
fn is_harmless(fault: &Fault) -> bool {
    match fault.failure {
        Failure::AtMost(count) => count > 0,
        Failure::Errno(number) => number == libc::EINTR,
    }
}

/// One run with one fault.
fn judge(specimen: &Specimen, steps: &[Step], fault: &Fault) -> Result<(usize, usize), String> {
    let run = Run::new(specimen, steps, Some(fault))?;
    let about = |reason| format!("{reason}\n{}", run.text());
    let failed = run.results.iter().filter(|result| result.is_err()).count();
    if is_harmless(fault) && failed > 0 {
        return Err(about("a short transfer is an error".into()));
    }
    if let (Some(first), Failure::Errno(number)) =
        (run.results.iter().find_map(|r| r.as_ref().err()), fault.failure)
        && first.errno() != Some(number)
    {
        return Err(about(format!("the error is {first:?}")));
    }
    let found = run.judge_end().map_err(about)?;
    found.go_on(specimen, &run.storage).map_err(about)?;
    Ok((failed, run.results.len() - failed))
}

/// Lets operations of every workload fail.
fn leave_a_sound_disk(specimen: &Specimen) {
    let mut random = Rng::new(3, specimen.cluster_size);
    let (mut runs, mut failed, mut succeeded) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (name, steps) in some_workloads(specimen) {
        for fault in faults(specimen, &steps, &mut random) {
            runs += 1;
            match judge(specimen, &steps, &fault) {
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
