//! Every operation that can fail during a change, failing in every way.

use holstein::{
    Access, Disk, Error,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, OperationKind},
    },
};

use crate::{
    crash::Trial,
    failing::faults_of,
    images::{Image, Special, fork, open},
    judge::{Change, Side, exhaustive, later},
    model::operations,
    rng::Rng,
};

/// All faults that a run can meet, or those that a normal test tries.
pub fn faults(image: &Image, run: impl Fn(&SimulatedStorage, &Disk), random: &mut Rng) -> Vec<Fault> {
    let storage = image.storage();
    let disk = open(&storage, Access::Write).unwrap();
    faults_of(&storage, || run(&storage, &disk), random)
}

/// Lets every operation fail once and for ever.
pub fn leave_old_or_new(image: &Image) {
    let mut random = Rng::new(3, 0);
    let (mut failed, mut succeeded) = (0, 0);
    let mut wrong = Vec::new();
    for (name, changes) in operations(&image.bitmaps, if exhaustive() { 4 } else { 0 }) {
        let change = Change::new(image, changes);
        let run = |_: &_, disk: &Disk| disk.change_bitmaps(&change.changes).unwrap();
        // Each trial copies the image, and that with large clusters is large.
        let large = image.special == Special::LargeClusters && !exhaustive();
        for fault in faults(image, run, &mut random).into_iter().step_by(if large { 5 } else { 1 }) {
            let storage = image.storage();
            let disk = open(&storage, Access::Write).unwrap();
            storage.fail(fault.clone());
            let result = disk.change_bitmaps(&change.changes);
            storage.stop_failing();
            match &result {
                Ok(()) => succeeded += 1,
                Err(_) => failed += 1,
            }
            let told = format!("{}-{name}: {fault:?}: {result:?}", image.name);
            if let Err(reason) = judge(&change, &storage, &result) {
                wrong.push(format!("{told}, but {reason}"));
            }
            if let Err(reason) = goes_on(&change, &storage, &disk) {
                wrong.push(format!("{told}; then on the same disk: {reason}"));
            }
        }
    }
    println!("{}: {failed} changes failed, {succeeded} succeeded", image.name);
    assert!(failed > 40 && succeeded > 10, "{failed} failed, {succeeded} succeeded");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What an error says is so, and the change can be made after all.
fn judge(change: &Change<'_>, storage: &SimulatedStorage, result: &Result<(), Error>) -> Result<(), String> {
    let survivor = fork(storage);
    let side = change.side(&survivor)?;
    let says = |text| matches!(&result, Err(error) if error.to_string().contains(text));
    let expected = match result {
        Ok(()) => Some(Side::New),
        Err(_) if says("the change was made") => Some(Side::New),
        Err(_) if says("the change may or may not have been made") => None,
        Err(_) => Some(Side::Old),
    };
    if expected.is_some_and(|expected| expected != side) {
        return Err(format!("the bitmaps are {side:?}"));
    }
    change.go_on(&survivor, side).map(drop)
}

/// The same open disk, which may refuse, makes nothing worse.
fn goes_on(change: &Change<'_>, storage: &SimulatedStorage, disk: &Disk) -> Result<(), String> {
    let before = change.contents(&fork(storage))?;
    let result = disk.change_bitmaps(&later());
    let after = change.contents(&fork(storage))?;
    let expected = if result.is_ok() { before.changed(&later()) } else { before };
    if after == expected {
        Ok(())
    } else {
        Err(format!("{result:?}, and the bitmaps are {after:?}, not {expected:?}"))
    }
}

/// After a failed sync nobody knows what is on the disk; old or new it is all the same.
pub fn of_a_sync_leave_old_or_new(image: &Image) {
    for (name, changes) in operations(&image.bitmaps, if exhaustive() { 4 } else { 0 }) {
        let change = Change::new(image, changes);
        let whole = image.storage();
        open(&whole, Access::Write).unwrap().change_bitmaps(&change.changes).unwrap();
        for nth in 1..=whole.calls(OperationKind::Sync) {
            let storage = image.storage();
            let disk = open(&storage, Access::Write).unwrap();
            storage.fail(Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO)));
            disk.change_bitmaps(&change.changes).unwrap_err();
            // Whatever is tried on the same disk.
            let _ = disk.change_bitmaps(&later());
            let name = format!("{}-{name}-sync-{nth}", image.name);
            let recording = storage.recording();
            let limit = if image.special == Special::LargeClusters { 5 } else { 12 };
            let trial = Trial { name: &name, recording: &recording, limit, seed: nth };
            trial.judge_up_to(500, |_, storage| change.side(storage).map(drop));
        }
    }
}
