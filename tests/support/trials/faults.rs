//! Operations that fail while steps are carried out on a specimen.

use holstein::storage::{
    SimulatedStorage,
    simulated::{Failure, Fault, OperationKind},
};

use crate::{
    crash::Trial,
    failing::faults_of,
    judge::exhaustive,
    rng::Rng,
    runs::Run,
    specimens::{KIB, Specimen, open_to_write},
    workloads::Workload,
    world::Step,
};

/// So many faults of a workload are tried in a normal run, and in an exhaustive one so many of those that have nothing
/// to do with writing.
const SAMPLE: usize = 5;
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
        Failure::Errno(number) | Failure::Late(number) | Failure::Dropped(number) => number == libc::EINTR,
    }
}

/// In a normal run one of so many is tried: each trial copies the image, and that with large clusters is large.
fn rarely(specimen: &Specimen) -> usize {
    if specimen.cluster_size > 64 * KIB && !exhaustive() { 3 } else { 1 }
}

/// One run with one fault, judged; how many steps failed, and how many succeeded.
fn run_with(specimen: &Specimen, steps: &[Step], fault: &Fault) -> Result<(usize, usize), String> {
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

/// Lets operations of some workloads fail, each in its turn, and judges what is left. There must be more runs, more steps that
/// failed and more that succeeded than so many.
pub fn after_each_fault(
    specimen: &Specimen,
    workloads: Vec<Workload>,
    seed: u64,
    (least_runs, least_failed, least_succeeded): (usize, usize, usize),
) {
    let mut random = Rng::new(seed, specimen.cluster_size);
    let (mut runs, mut failed, mut succeeded) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (name, steps) in workloads {
        for fault in faults(specimen, &steps, &mut random).into_iter().step_by(rarely(specimen)) {
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
    let [least_runs, least_failed, least_succeeded] =
        [least_runs, least_failed, least_succeeded].map(|least| least / rarely(specimen));
    let enough = runs > least_runs && failed > least_failed && succeeded > least_succeeded;
    assert!(enough, "{runs} runs, {failed} failed, {succeeded}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Lets syncs of some workloads fail, and judges what may be on the disk then, whatever crash follows: nobody knows which of
/// the writes before is there. `judge` has the number of steps that had ended.
pub fn after_failed_syncs(
    specimen: &Specimen,
    workloads: Vec<Workload>,
    judge: impl Fn(&Run<'_>, usize, &SimulatedStorage) -> Result<(), String>,
) {
    let mut states = 0;
    for (name, steps) in workloads {
        let storage = specimen.storage();
        let disk = open_to_write(&storage).unwrap();
        steps.iter().for_each(|step| step.perform(&disk).unwrap());
        let syncs = storage.calls(OperationKind::Sync);
        let every = 3 * rarely(specimen) as u64;
        for nth in (1..=syncs).filter(|nth| exhaustive() || nth % every == syncs % every) {
            let fault = Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO));
            let run = Run::new(specimen, &steps, Some(&fault)).unwrap();
            let name = format!("{}-{name}-sync-{nth}", specimen.recipe.name);
            let recording = run.storage.recording();
            let trial = Trial { name: &name, recording: &recording, limit: 4, seed: nth };
            let judged = trial.judge_up_to(40, |crash, storage| {
                let verdict = judge(&run, recording.marks_before(crash), storage);
                verdict.map_err(|reason| format!("{reason}\n{}", run.text()))
            });
            states += judged.map_or(0, |judged| judged.values().sum::<usize>());
        }
    }
    println!("{}: {states} states after a failed sync", specimen.recipe.name);
    assert!(
        states > 30 / rarely(specimen) || std::env::var_os("HOLSTEIN_CRASH").is_some(),
        "{states} states"
    );
}
