//! Every operation that can fail during a group of backups, failing in every way.

use holstein::storage::{
    SimulatedStorage, Storage,
    simulated::{Failure, Fault, Level, OperationKind},
};

use crate::{
    images::fork,
    judge::{Side, exhaustive, lost_nothing},
    night::Night,
    rng::Rng,
};

/// In a normal run so many of the failures of each kind are tried.
const SAMPLE: usize = 30;

/// The ways to fail of one kind of operation.
fn ways(kind: OperationKind) -> Vec<(Failure, bool)> {
    let mut list = Vec::new();
    for number in [libc::EIO, libc::ENOSPC] {
        list.extend([false, true].map(|lasting| (Failure::Errno(number), lasting)));
    }
    // It happens, and reports an error.
    let changes = !matches!(
        kind,
        OperationKind::Open
            | OperationKind::Read
            | OperationKind::Status
            | OperationKind::Extent
            | OperationKind::Lock
    );
    list.extend(changes.then_some((Failure::Late(libc::EIO), false)));
    // What it was to make durable is gone.
    list.extend((kind == OperationKind::Sync).then_some((Failure::Dropped(libc::EIO), false)));
    if matches!(kind, OperationKind::Read | OperationKind::Write) {
        list.extend([
            (Failure::AtMost(0), false),
            (Failure::AtMost(0), true),
            (Failure::AtMost(1), false),
            (Failure::AtMost(300), true),
            (Failure::Errno(libc::EINTR), false),
        ]);
    }
    list
}

fn faults(night: &Night) -> Vec<Fault> {
    let storage = night.storage();
    night.run(&storage).unwrap();
    let mut random = Rng::new(5, 0);
    let mut faults = Vec::new();
    for kind in OperationKind::ALL {
        let mut of_kind = Vec::new();
        for nth in 1..=storage.calls(kind) {
            for (failure, lasting) in ways(kind) {
                of_kind.push(Fault { kinds: vec![kind], nth, failure, lasting });
            }
        }
        let spared = matches!(kind, OperationKind::Read | OperationKind::Status | OperationKind::Extent);
        let most = if spared { SAMPLE } else { 4 * SAMPLE };
        while !exhaustive() && of_kind.len() > most {
            of_kind.swap_remove(random.below(of_kind.len() as u64) as usize);
        }
        faults.extend(of_kind);
    }
    faults
}

/// What a result says is so, at once and after a recovery, and whatever a power cut does then.
pub fn are_told_as_they_are(night: &Night) {
    let (mut failed, mut succeeded, mut unknown, mut states) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for fault in faults(night) {
        let storage = night.storage();
        storage.fail(fault.clone());
        let result = night.run(&storage);
        storage.stop_failing();
        storage.mark();
        let says = |text: &str| matches!(&result, Err(error) if error.to_string().contains(text));
        let expected = match &result {
            Ok(()) => Some(Side::All),
            Err(_) if says("is complete, but the bitmaps of") => Some(Side::All),
            Err(_) if says("whether the transaction was decided is not known") => None,
            Err(_) => Some(Side::Nothing),
        };
        match expected {
            Some(Side::All) => succeeded += 1,
            Some(Side::Nothing) => failed += 1,
            None => unknown += 1,
        }
        let litters = fault.kinds == [OperationKind::SyncFolder] || says(".journal'");
        let mut judge = || {
            let recording = storage.recording();
            check(night, &fork(&storage), &fault, &result, expected)?;
            // The power goes while what failed is taken back, or later.
            let Some(from) = recording.operations().iter().position(|record| record.failed) else {
                return Ok(());
            };
            for level in [Level::L0, Level::L1, Level::L2, Level::L5, Level::L6] {
                let mut crashes = recording.crashes(level, 1);
                crashes.retain(|crash| crash.after() > from);
                let step = crashes.len().div_ceil(if exhaustive() { 60 } else { 2 }).max(1);
                for crash in crashes.iter().step_by(step) {
                    let state = recording.after(crash).unwrap();
                    states += 1;
                    let side = settle(night, &state, litters).map_err(|e| format!("{crash}: {e}"))?;
                    if expected.is_some_and(|expected| expected != side) && recording.marks_before(crash) > 0
                    {
                        return Err(format!("{crash}: there is {side:?}"));
                    }
                }
            }
            Ok(())
        };
        if let Err::<(), String>(reason) = judge() {
            wrong.push(format!("{fault:?}: {result:?}, but {reason}"));
        }
    }
    println!(
        "{}: {failed} runs failed, {succeeded} succeeded, {unknown} unknown; {states} power cuts after them",
        night.name
    );
    assert!(failed > 100 && succeeded > 20 && unknown > 0 && states > 300, "{failed} {succeeded} {unknown}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Recovers after a failure and a power cut. Where the journal itself or a folder could not be made durable, nothing may
/// lead to temporary files any more that came back; they harm nobody.
fn settle(night: &Night, storage: &SimulatedStorage, litters: bool) -> Result<Side, String> {
    if litters {
        lost_nothing(&night.recover(storage).map_err(|e| e.to_string())?)?;
        for path in storage.paths().iter().filter(|path| path.to_string_lossy().ends_with(".tmp")) {
            storage.unlink(path).unwrap();
        }
    }
    night.settle(storage)
}

fn check(
    night: &Night,
    storage: &SimulatedStorage,
    fault: &Fault,
    result: &holstein::Result<()>,
    expected: Option<Side>,
) -> Result<(), String> {
    // What could not be removed is left to a recovery.
    let removes = [OperationKind::Unlink, OperationKind::SyncFolder, OperationKind::Status];
    let is_clean = result.is_ok() || expected == Some(Side::Nothing);
    if is_clean && !fault.kinds.iter().any(|kind| removes.contains(kind)) {
        let side = night.side(storage)?;
        if Some(side) != expected {
            return Err(format!("there is {side:?}"));
        }
    }
    let side = night.settle(storage)?;
    if expected.is_some_and(|expected| expected != side) {
        return Err(format!("after the recovery there is {side:?}"));
    }
    night.goes_on(storage, side)
}

/// A recovery that fails leaves what the next one finishes.
pub fn of_a_recovery_are_made_up_for(night: &Night) {
    let recording = night.recording();
    let (mut runs, mut unfinished) = (0, 0);
    for killed in (0..=recording.operations().len()).step_by(if exhaustive() { 1 } else { 23 }) {
        let begin =
            || recording.after(&holstein::storage::simulated::Crash::new(Level::L0, killed, [])).unwrap();
        let whole = begin();
        let before = OperationKind::ALL.map(|kind| whole.calls(kind));
        let side = night.settle(&whole).unwrap();
        for (kind, before) in OperationKind::ALL.into_iter().zip(before) {
            for nth in 1..=whole.calls(kind) - before {
                for (failure, lasting) in ways(kind) {
                    if !exhaustive()
                        && !(nth + killed as u64).is_multiple_of(5)
                        && kind == OperationKind::Read
                    {
                        continue;
                    }
                    let storage = begin();
                    let fault = Fault { kinds: vec![kind], nth, failure, lasting };
                    storage.fail(fault.clone());
                    let first = night.recover(&storage);
                    storage.stop_failing();
                    runs += 1;
                    unfinished += usize::from(
                        !matches!(&first, Ok(r) if r.items.iter().all(|i| i.kind != holstein::RecoveryKind::Unfinished)),
                    );
                    match night.settle(&fork(&storage)) {
                        Ok(found) if found == side => {}
                        other => panic!(
                            "{}: killed after {killed}, {fault:?}, {first:?}, then {other:?}",
                            night.name
                        ),
                    }
                }
            }
        }
    }
    println!("{}: {runs} recoveries met a failure, {unfinished} were unfinished", night.name);
    assert!(runs > 100 && unfinished > 10);
}

/// A source that cannot be written behind the decision is the failure of its own job: the others have succeeded.
#[test]
fn a_late_failure_is_that_of_one_job() {
    let night = crate::two::night();
    let whole = night.storage();
    night.run(&whole).unwrap();
    let mut met = 0;
    for nth in 1..=whole.calls(OperationKind::Write) {
        let storage = night.storage();
        let failure = Failure::Errno(libc::EIO);
        storage.fail(Fault { kinds: vec![OperationKind::Write], nth, failure, lasting: false });
        let Ok(running) = night.transaction(&storage).and_then(holstein::Transaction::start) else {
            continue;
        };
        let Some(Err(error)) = running.wait(None) else { continue };
        if !error.to_string().contains("is complete, but the bitmaps of") {
            continue;
        }
        met += 1;
        let failed: Vec<_> = running.jobs().iter().filter_map(holstein::Job::error).collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].to_string(), error.to_string());
    }
    assert!(met >= night.disks.len(), "{met}");
}
