//! The ways in which operations of a storage can fail.

use holstein::storage::{
    SimulatedStorage,
    simulated::{Failure, Fault, OperationKind},
};

use crate::{judge::exhaustive, rng::Rng};

/// In a normal run so many of the failures of a kind are tried that have nothing to do with changes, and three times
/// as many of the others.
const SAMPLE: usize = 7;

/// The ways to fail of one kind of operation.
fn failures(kind: OperationKind) -> Vec<(Failure, bool)> {
    let both = |failure| [(failure, false), (failure, true)];
    let mut list = Vec::new();
    for number in [libc::EIO, libc::ENOSPC] {
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

/// All faults that a run in a storage can meet, or those that a normal test tries.
pub fn faults_of(storage: &SimulatedStorage, run: impl FnOnce(), random: &mut Rng) -> Vec<Fault> {
    let before = OperationKind::ALL.map(|kind| storage.calls(kind));
    run();
    let mut faults = Vec::new();
    for (kind, before) in OperationKind::ALL.into_iter().zip(before) {
        let mut of_kind = Vec::new();
        for nth in 1..=storage.calls(kind) - before {
            for (failure, lasting) in failures(kind) {
                of_kind.push(Fault { kinds: vec![kind], nth, failure, lasting });
            }
        }
        if !exhaustive() {
            let reads = matches!(kind, OperationKind::Read | OperationKind::Status | OperationKind::Extent);
            let most = if reads { SAMPLE } else { 3 * SAMPLE };
            while of_kind.len() > most {
                of_kind.swap_remove(random.below(of_kind.len() as u64) as usize);
            }
        }
        faults.extend(of_kind);
    }
    faults
}
