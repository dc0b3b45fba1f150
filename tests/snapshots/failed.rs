//! Every operation that can fail while snapshots come and go, failing in every way.

use holstein::storage::simulated::{Failure, Fault, OperationKind};

use crate::{
    crash::Trial,
    crashes::goes_on,
    faults::{faults, run_with},
    images::fork,
    judge::exhaustive,
    rng::Rng,
    runs::Run,
    specimens::{Specimen, open_to_write},
    workloads::{Workload, workloads},
};

/// Lets operations of every workload fail.
pub fn leave_old_or_new(specimen: &Specimen) {
    let mut random = Rng::new(5, specimen.cluster_size);
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
    println!("{}: {runs} runs, {failed} steps failed, {succeeded} succeeded", specimen.recipe.name);
    assert!(runs > 60 && failed > 40 && succeeded > 80, "{runs} runs, {failed} failed, {succeeded}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn some_workloads(specimen: &Specimen) -> Vec<Workload> {
    workloads(specimen, if exhaustive() { 5 } else { 1 })
}

/// After a failed sync nobody knows what is on the disk: whatever crash follows, it is one of what may be.
pub fn of_a_sync_leave_old_or_new(specimen: &Specimen) {
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
                let judge = || goes_on(&run.judge(recording.marks_before(crash), storage)?, &fork(storage));
                judge().map_err(|reason| format!("{reason}\n{}", run.text()))
            });
            states += judged.map_or(0, |judged| judged.values().sum::<usize>());
        }
    }
    println!("{}: {states} states after a failed sync", specimen.recipe.name);
    assert!(states > 30 || std::env::var_os("HOLSTEIN_CRASH").is_some(), "{states} states");
}
