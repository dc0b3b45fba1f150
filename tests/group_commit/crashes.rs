//! Every state that a crash during a group of backups, and during its recovery, can leave.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use holstein::storage::{
    SimulatedStorage,
    simulated::{Level, Operation, Record, Recording},
};

use crate::{
    crash::{Trial, write_to},
    images::fork,
    judge::{Decisions, Samples, Side, count, exhaustive, lost_nothing},
    night::Night,
};

/// After any crash there is nothing or all, and all once the run has said so.
pub fn leave_all_or_nothing(night: &Night) {
    let recording = night.recording();
    let samples = Samples::new(32);
    let limit = if exhaustive() { 12_000 } else { 300 };
    let trial = Trial { name: night.name, recording: &recording, limit, seed: 1 };
    let counts = [Cell::new(0), Cell::new(0)];
    let decisions = Decisions::of(night, &recording);
    let judged = trial.judge(|crash, storage| {
        decisions.note(night, storage);
        let side = night.settle(storage)?;
        if side == Side::Nothing && recording.marks_before(crash) > 0 {
            return Err("the run had succeeded, and there is nothing".into());
        }
        let count = &counts[usize::from(side == Side::All)];
        count.set(count.get() + 1);
        samples.take(night, storage, side)
    });
    let Some(judged) = judged else { return };
    let window = in_the_window(night, &recording, &samples, &decisions);
    let [nothing, all] = counts.map(Cell::into_inner);
    let (shown, went_on) = (samples.shown.get(), samples.went_on.get());
    let (states, distinct) = (judged.values().sum::<usize>(), decisions.count());
    println!(
        "{}: {distinct} distinct decisions in {states} states, {judged:?}; {all} all, {nothing} nothing; {window} states \
         from the decision on; {went_on} gone on with, {shown} shown to QEMU",
        night.name
    );
    assert!(distinct > 7 && distinct < states + window, "{distinct} distinct decisions");
    println!("{} states in all by now", count(states + window));
    assert!(all > 3 && nothing > 50 && window > 10, "{all} all, {nothing} nothing, {window} in the window");
    assert!(went_on > 30 && shown > 5, "{went_on} gone on with, {shown} shown");
    assert!(Level::ALL.iter().all(|level| judged.contains_key(level)), "{judged:?}");
}

/// All states, of every level, that a crash from the deciding write on can leave.
fn in_the_window(night: &Night, recording: &Recording, samples: &Samples, decisions: &Decisions) -> usize {
    let mut seen = HashSet::new();
    for level in Level::ALL {
        for crash in recording.crashes(level, 1) {
            if crash.after() < decision(night, recording) {
                continue;
            }
            let Some(storage) = recording.after(&crash) else { continue };
            let done = recording.marks_before(&crash) > 0;
            if !seen.insert((storage.digest(), done)) {
                continue;
            }
            decisions.note(night, &storage);
            let verdict = night.settle(&storage).and_then(|side| match side {
                Side::Nothing if done => Err("the run had succeeded, and there is nothing".into()),
                side => samples.take(night, &storage, side),
            });
            verdict.unwrap_or_else(|reason| panic!("{}: {crash}: {reason}", night.name));
        }
    }
    seen.len()
}

/// The number of the deciding write.
pub fn decision(night: &Night, recording: &Recording) -> usize {
    let log = recording.operations();
    let is_journal = |path: &Path| path.to_string_lossy().ends_with(".journal");
    let created = |record: &Record| match &record.operation {
        Operation::Create { path, file } if is_journal(path) => Some(*file),
        _ => None,
    };
    let journal = log.iter().find_map(created).unwrap_or_else(|| panic!("{} has no journal", night.name));
    let decides = |record: &Record| matches!(&record.operation, Operation::Write { file, offset, .. } if *file == journal && *offset > 0);
    log.iter().position(decides).unwrap()
}

/// A power cut while a recovery is at work after a power cut, twice.
pub fn in_recovery_change_nothing(night: &Night) {
    let recording = night.recording();
    let limit = if exhaustive() { 3000 } else { 80 };
    let (first, second) = (RefCell::new(HashSet::new()), RefCell::new(HashSet::new()));
    let trial = Trial { name: &format!("{}-recovery", night.name), recording: &recording, limit, seed: 2 };
    let inner = if exhaustive() { 150 } else { 8 };
    trial.judge(|crash, storage| {
        if crash.level() > Level::L3 {
            return Ok(());
        }
        let recovered = record_recovery(night, storage)?;
        for (crash, state) in recovered.0.states(&[Level::L0, Level::L1, Level::L3], inner, 2) {
            if !first.borrow_mut().insert(state.digest()) {
                continue;
            }
            let say = |e| format!("then {crash}: {e}");
            let deeper = record_recovery(night, &fork(&state)).map_err(say)?;
            for (crash, state) in deeper.0.states(&[Level::L0, Level::L1, Level::L3], inner, 3) {
                if second.borrow_mut().insert(state.digest()) {
                    same(night, &state, recovered.1).map_err(|e| say(format!("then {crash}: {e}")))?;
                }
            }
            same(night, &state, recovered.1).map_err(say)?;
        }
        Ok(())
    });
    let (first, second) = (first.into_inner().len(), second.into_inner().len());
    println!("{}: {first} states in recovery, {second} more in the recovery after it", night.name);
    println!("{} states in all by now", count(first + second));
    assert!(first > 40 && second > 10 || std::env::var_os("HOLSTEIN_CRASH").is_some());
}

/// Recovers, and tells what was done and what is there.
fn record_recovery(night: &Night, storage: &SimulatedStorage) -> Result<(Recording, Side), String> {
    storage.begin();
    lost_nothing(&night.recover(storage).map_err(|e| format!("recovery failed: {e}"))?)?;
    let recording = storage.recording();
    Ok((recording, night.side(storage)?))
}

fn same(night: &Night, storage: &SimulatedStorage, side: Side) -> Result<(), String> {
    match night.settle(storage)? {
        found if found == side => Ok(()),
        found => Err(format!("the first recovery made {side:?}, the next one {found:?}")),
    }
}

/// The process dies at any moment, a recovery begins at once, and in it the power goes: what the dead process had not
/// made durable is still not.
pub fn after_a_kill_leave_all_or_nothing(night: &Night) {
    let recording = night.recording();
    let (mut states, mut sides) = (0, [0, 0]);
    for killed in 0..=recording.operations().len() {
        let storage = recording.killed(killed).unwrap();
        let recovery = night.recover(&storage).unwrap();
        storage.mark();
        let at = |e: String| panic!("{}: killed after {killed} operations: {e}", night.name);
        lost_nothing(&recovery).unwrap_or_else(at);
        let log = storage.recording();
        let side =
            night.side(&storage).unwrap_or_else(|e| panic!("{}: killed after {killed}: {e}", night.name));
        sides[usize::from(side == Side::All)] += 1;
        let limit = if exhaustive() { 3000 } else { 10 };
        // Those of the recovery, not those of what was before it.
        let mut seen = HashSet::new();
        for level in Level::ALL {
            let mut crashes = log.crashes(level, killed as u64);
            crashes.retain(|crash| crash.after() >= killed);
            let step = crashes.len().div_ceil(limit).max(1);
            for crash in crashes.iter().step_by(step) {
                let Some(state) = log.after(crash) else { continue };
                let done = log.marks_before(crash) > recording_marks(&recording, killed);
                if !seen.insert((state.digest(), done)) {
                    continue;
                }
                states += 1;
                let verdict = match night.settle(&state) {
                    Ok(found) if done && found != side => {
                        Err(format!("recovery made {side:?}, then there was {found:?}"))
                    }
                    other => other,
                };
                if let Err(reason) = verdict {
                    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed").join(night.name);
                    write_to(&log.after(crash).unwrap(), &folder);
                    let lines =
                        log.operations().iter().enumerate().map(|(n, record)| format!("{n:4} {record}\n"));
                    panic!(
                        "{}: killed after {killed} operations, {crash}: {reason}\n{}",
                        night.name,
                        lines.collect::<String>()
                    );
                }
            }
        }
    }
    println!(
        "{}: {states} states of power cuts after a kill; recoveries made {sides:?} (nothing, all)",
        night.name
    );
    println!("{} states in all by now", count(states));
    assert!(states > 100 && sides[0] > 10 && sides[1] > 3);
}

fn recording_marks(recording: &Recording, killed: usize) -> usize {
    usize::from(killed >= recording.operations().len())
}

/// At each change of a name or of a source's header, in the run and in each recovery: the record is durable, the targets
/// and their folders are.
pub fn find_everything_durable(night: &Night) {
    let storage = night.storage();
    let (looked, seen) = (storage.clone(), Arc::new(AtomicUsize::new(0)));
    let sources: Vec<_> = night.disks.iter().map(|source| PathBuf::from(&source.path)).collect();
    let targets: Vec<_> = night.new_files().collect();
    let count = seen.clone();
    storage.before_write(move |notice| {
        if notice.offset == 0 && sources.iter().any(|source| source == notice.path) {
            let journals =
                looked.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(".journal"));
            let paths: Vec<_> = journals.chain(targets.iter().map(PathBuf::from)).collect();
            assert_eq!(paths.len(), targets.len() + 1);
            assert!(notice.earlier_durable && paths.iter().all(|path| looked.is_durable(path)));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    night.run(&storage).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), night.disks.len());

    let recording = night.recording();
    let headers: Vec<usize> =
        (0..recording.operations().len()).filter(|at| ordered(night, &recording, *at)).collect();
    assert_eq!(headers.len(), night.disks.len() + night.new_files().count());
    let mut checked = 0;
    for killed in 0..=recording.operations().len() {
        let storage = recording.killed(killed).unwrap();
        night.recover(&storage).unwrap();
        let log = storage.recording();
        checked += (killed..log.operations().len()).filter(|at| ordered(night, &log, *at)).count();
    }
    println!("{}: {checked} decisive steps of recoveries are in order", night.name);
    assert!(checked > headers.len());
}

/// Whether an operation is decisive, which it must only be in order.
fn ordered(night: &Night, recording: &Recording, at: usize) -> bool {
    let log = recording.operations();
    let sources: Vec<u64> = (0..night.disks.len()).map(|disk| night.inode(disk)).collect();
    let is_final = |path: &Path| night.new_files().any(|file| Path::new(file) == path);
    let names_it = |number: usize| match &log[number].operation {
        Operation::Rename { to: path, .. } | Operation::Link { path, .. } => is_final(path),
        _ => false,
    };
    // Where renames have no flags, a name is given in several steps.
    let is_step = |number: usize| match &log[number].operation {
        Operation::Rename { .. } | Operation::Link { .. } | Operation::Unlink { .. } => true,
        Operation::Create { path, .. } => is_final(path),
        _ => false,
    };
    let pending = recording.pending(at);
    let wrong: Option<&usize> = match &log[at].operation {
        Operation::Write { file, offset: 0, data } if sources.contains(file) => {
            let writes_it = |record: &&Record| match &record.operation {
                Operation::Write { file: other, offset: 0, .. } => other == file,
                _ => false,
            };
            let is_same = |record: &Record| match &record.operation {
                Operation::Write { data: before, .. } => before == data,
                _ => false,
            };
            // A recovery writes what is there again, for a sync of it may have failed: that decides nothing.
            if log[..at].iter().rev().find(writes_it).is_some_and(is_same) {
                return false;
            }
            // What others release is none of this one's.
            let is_release = |number: &usize| match &log[*number].operation {
                Operation::Write { file: other, .. } => sources.contains(other) && other != file,
                _ => false,
            };
            pending.iter().find(|number| !is_release(number))
        }
        Operation::Rename { .. } | Operation::Link { .. } if names_it(at) => {
            pending.iter().find(|number| !is_step(**number))
        }
        _ => return false,
    };
    if let Some(wrong) = wrong {
        panic!(
            "{}: operation {at}, {}, comes while {wrong}, {}, is not durable",
            night.name, log[at], log[*wrong]
        );
    }
    true
}
