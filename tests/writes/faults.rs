//! Operations that fail while steps are carried out on a specimen.

use holstein::storage::simulated::{Failure, Fault, OperationKind};

use crate::{
    failures::faults_of,
    judge::exhaustive,
    rng::Rng,
    runs::Run,
    specimens::{KIB, Specimen, open_to_write},
    world::Step,
};

/// So many faults of a workload are tried in a normal run, and in an exhaustive one so many of those that have nothing
/// to do with writing.
const SAMPLE: usize = 8;
const SAMPLE_OF_READS: usize = 60;

/// Every operation that the steps make, failing in every way, or a sample of that.
pub fn faults(specimen: &Specimen, steps: &[Step], random: &mut Rng) -> Vec<Fault> {
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

/// One run with one fault, judged; how many steps failed, and how many succeeded.
pub fn run_with(specimen: &Specimen, steps: &[Step], fault: &Fault) -> Result<(usize, usize), String> {
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
