//! Every operation that can fail during a repair, failing in every way.

use holstein::{
    RepairMode,
    storage::simulated::{Failure, Fault, OperationKind},
};

use crate::{
    cases::{Case, RECIPES},
    crashes::exhaustive,
    memory::{DISK, repair},
    rng::Rng,
};

/// In a normal run so many of the failures of each kind are tried.
const SAMPLE: usize = 6;

/// The ways to fail of one kind of operation.
fn failures(kind: OperationKind) -> Vec<(Failure, bool)> {
    let both = |failure| [(failure, false), (failure, true)];
    let mut list = Vec::new();
    let other = match kind {
        OperationKind::Write | OperationKind::SetLen | OperationKind::Sync => libc::ENOSPC,
        _ => libc::ESTALE,
    };
    for number in [libc::EIO, other] {
        list.extend(both(Failure::Errno(number)));
    }
    if matches!(kind, OperationKind::Read | OperationKind::Write) {
        list.extend(both(Failure::AtMost(0)));
        list.push((Failure::AtMost(1), false));
        list.push((Failure::AtMost(300), true));
        list.push((Failure::Errno(libc::EINTR), false));
    }
    list
}

/// All faults that a repair can meet, or those that a normal test tries.
fn faults(case: &Case, random: &mut Rng) -> Vec<Fault> {
    let storage = case.storage();
    repair(&storage, case.mode).unwrap();
    let mut faults = Vec::new();
    for kind in OperationKind::ALL {
        let mut of_kind = Vec::new();
        for nth in 1..=storage.calls(kind) {
            for (failure, lasting) in failures(kind) {
                of_kind.push(Fault { kinds: vec![kind], nth, failure, lasting });
            }
        }
        while !exhaustive() && of_kind.len() > SAMPLE {
            of_kind.swap_remove(random.below(of_kind.len() as u64) as usize);
        }
        faults.extend(of_kind);
    }
    faults
}

#[test]
fn failures_leave_nothing_worse() {
    let mut random = Rng::new(11, 0);
    let (mut failed, mut succeeded) = (0, 0);
    let mut wrong = Vec::new();
    for recipe in RECIPES {
        let case = Case::make(recipe);
        for fault in faults(&case, &mut random) {
            let storage = case.storage();
            storage.fail(fault.clone());
            let result = repair(&storage, case.mode);
            storage.stop_failing();
            let bytes = storage.contents(DISK).unwrap();
            let mut verdict = case.is_not_worse(&bytes);
            match &result {
                Ok(report) => {
                    succeeded += 1;
                    // A read that gives nothing looks like the end of the file, and makes an image seem corrupt.
                    let lied = fault.failure == Failure::AtMost(0);
                    let right = lied || report.remaining.is_corrupt() == (case.name == "no-growth");
                    verdict = verdict.and(case.is_repaired(&bytes)).and(match right {
                        true => Ok(()),
                        false => Err(format!("it says {report:?}")),
                    });
                }
                Err(_) => failed += 1,
            }
            if let Err(reason) = verdict.and_then(|()| case.goes_on(&bytes).map(drop)) {
                let reason: String = reason.chars().take(300).collect();
                wrong.push(format!("{}: {fault:?}: {:?}, but {reason}", case.name, result.err()));
            }
        }
    }
    println!("{failed} repairs failed, {succeeded} succeeded");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(failed > 300 && succeeded > 40);
}

/// After a failed sync nobody knows what is on the disk; nothing is worse all the same.
#[test]
fn failures_of_a_sync_leave_nothing_worse() {
    for recipe in RECIPES.iter().filter(|recipe| recipe.1 == RepairMode::All || recipe.0 == "stale-bitmaps") {
        let case = Case::make(recipe);
        let whole = case.storage();
        repair(&whole, case.mode).unwrap();
        let syncs = whole.calls(OperationKind::Sync);
        assert!(syncs >= 2, "{}: {syncs} syncs", case.name);
        for nth in 1..=syncs {
            let storage = case.storage();
            storage.fail(Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO)));
            repair(&storage, case.mode).unwrap_err();
            let name = format!("{}-sync-{nth}", case.name);
            let recording = storage.recording();
            let trial = crate::crash::Trial { name: &name, recording: &recording, limit: 5, seed: nth };
            trial.judge_up_to(500, |_, storage| {
                let bytes = storage.contents(DISK).unwrap();
                case.is_not_worse(&bytes)?;
                case.goes_on(&bytes).map(drop)
            });
        }
    }
}
