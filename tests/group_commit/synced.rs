//! Syncs that fail and are made up for by a recovery in the same boot: what looks written may be in memory alone, and a later
//! sync reports success without having written it. Then the power goes.

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use holstein::storage::{
    SimulatedStorage, Storage,
    simulated::{Failure, Fault, Level, OperationKind, Recording},
};

use crate::{
    crashes::decision,
    judge::{Side, exhaustive, lost_nothing},
    night::Night,
    qemu::Workshop,
    strangers::{Stranger, holds, write},
};

/// Of each kind of trial, in a normal run.
const CUTS: usize = 4;

struct Trial<'a> {
    night: &'a Night,
    shop: Workshop,
    cuts: usize,
    sides: BTreeMap<Side, usize>,
}

/// Each sync of a run fails once, those of files and those of folders; then a recovery.
pub fn after_a_run(night: &Night) {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(night, folder.path());
    let whole = night.storage();
    night.run(&whole).unwrap();
    let mut wrong = Vec::new();
    for kind in [OperationKind::Sync, OperationKind::SyncFolder] {
        for nth in 1..=whole.calls(kind) {
            let storage = night.storage();
            storage.fail(Fault::once(kind, nth, Failure::Errno(libc::EIO)));
            let result = night.run(&storage);
            storage.stop_failing();
            let is_of_folder = kind == OperationKind::SyncFolder;
            let is_unknown = matches!(&result, Err(error) if error.to_string().contains("is not known"));
            if is_of_folder && is_unknown {
                // Names that were given in several steps: docs/commit.md says what that costs.
                continue;
            }
            if let Err(reason) = trial.judge(&storage, is_of_folder) {
                wrong.push(format!("{kind:?} {nth} of the run, {result:?}: {reason}"));
            }
        }
    }
    trial.end("run", &wrong);
}

/// The process dies; each sync of a recovery fails once; then another recovery.
pub fn after_a_recovery(night: &Night) {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(night, folder.path());
    let recording = night.recording();
    let mut wrong = Vec::new();
    let first = decision(night, &recording);
    let step = if exhaustive() { 1 } else { 7 };
    for killed in (first..=recording.operations().len()).step_by(step) {
        let begin = || recording.killed(killed).unwrap();
        let whole = begin();
        night.recover(&whole).unwrap();
        for nth in 1..=whole.calls(OperationKind::Sync) {
            let storage = begin();
            storage.fail(Fault::once(OperationKind::Sync, nth, Failure::Errno(libc::EIO)));
            let result = night.recover(&storage);
            storage.stop_failing();
            if let Err(reason) = trial.judge(&storage, false) {
                wrong
                    .push(format!("killed after {killed}, sync {nth} of the recovery, {result:?}: {reason}"));
            }
        }
    }
    trial.end("recovery", &wrong);
}

impl<'a> Trial<'a> {
    fn new(night: &'a Night, folder: &std::path::Path) -> Self {
        Trial { night, shop: Workshop::new(folder), cuts: 0, sides: BTreeMap::new() }
    }

    /// Lets the power go within a recovery: there is everything or nothing then. And behind it, and behind a guest's write
    /// after that: nothing is as it was before. Where a folder could not be made durable temporary files may come back.
    fn judge(&mut self, storage: &SimulatedStorage, litters: bool) -> Result<(), String> {
        let from = storage.recording().operations().len();
        self.night.recover(storage).map_err(|e| e.to_string())?;
        let side = settle(self.night, &copy(storage), litters)?;
        *self.sides.entry(side).or_default() += 1;
        let log = storage.recording();
        let end = log.operations().len();
        self.each_cut(&log, from..end, |night, state| settle(night, state, litters).map(drop))?;
        self.each_cut(&log, end..end + 1, |night, state| match settle(night, state, litters)? {
            found if found == side => Ok(()),
            found => Err(format!("there was {side:?}, and is {found:?}")),
        })?;
        for disk in 0..self.night.disks.len() {
            let storage = copy(storage);
            let Some(written) = write(self.night, &storage, disk, Stranger::Writer, &self.shop) else {
                continue;
            };
            let log = storage.recording();
            let end = log.operations().len();
            self.each_cut(&log, end..end + 1, |night, state| {
                night.recover(state).map_err(|e| e.to_string())?;
                sweep(state, litters);
                holds(night, state, Some((disk, &written)))
            })
            .map_err(|reason| format!("disk {disk} was written, then {reason}"))?;
        }
        Ok(())
    }

    fn each_cut(
        &mut self,
        log: &Recording,
        moments: Range<usize>,
        judge: impl Fn(&Night, &SimulatedStorage) -> Result<(), String>,
    ) -> Result<(), String> {
        for level in [Level::L0, Level::L1, Level::L2, Level::L6] {
            let mut crashes = log.crashes(level, 1);
            crashes.retain(|crash| moments.contains(&crash.after()));
            let step = if exhaustive() { 1 } else { crashes.len().div_ceil(CUTS).max(1) };
            for crash in crashes.iter().step_by(step) {
                let Some(state) = log.after(crash) else { continue };
                self.cuts += 1;
                judge(self.night, &state).map_err(|reason| format!("{crash}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn end(&self, what: &str, wrong: &[String]) {
        println!("{}, {what}: {:?}, {} power cuts", self.night.name, self.sides, self.cuts);
        assert!(self.sides.len() == 2 || what == "recovery", "{:?}", self.sides);
        assert!(self.cuts > 20, "{}", self.cuts);
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// The same storage on its own, with what is not durable.
fn copy(storage: &SimulatedStorage) -> SimulatedStorage {
    let recording = storage.recording();
    recording.killed(recording.operations().len()).unwrap()
}

fn settle(night: &Night, storage: &SimulatedStorage, litters: bool) -> Result<Side, String> {
    if litters {
        lost_nothing(&night.recover(storage).map_err(|e| e.to_string())?)?;
        sweep(storage, litters);
    }
    night.settle(storage)
}

fn sweep(storage: &SimulatedStorage, litters: bool) {
    let is_litter = |path: &PathBuf| litters && path.to_string_lossy().ends_with(".tmp");
    storage.paths().iter().filter(|path| is_litter(path)).for_each(|path| storage.unlink(path).unwrap());
}
