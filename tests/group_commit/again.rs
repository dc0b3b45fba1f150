//! The user runs the same command again after a crash, with no recovery before: what the run that died had made is neither lost
//! nor replaced, whatever the answer is.

use std::path::{Path, PathBuf};

use holstein::storage::{
    SimulatedStorage,
    simulated::{Crash, Level},
};

use crate::{
    images::fork,
    judge::{Side, exhaustive, lost_nothing},
    night::{Night, next},
};

/// How the second command differs from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Same,
    /// It may replace what has the target's name.
    Overwrite,
    /// It has other names for the targets, over the same images.
    OtherNames,
}

/// Runs the command again in states of all moments but that behind the success of the first run.
pub fn loses_nothing(night: &Night) {
    let recording = night.recording();
    let mut crashes: Vec<Crash> = Vec::new();
    for level in [Level::L0, Level::L1, Level::L6] {
        let of_level = recording.crashes(level, 1);
        let step = if exhaustive() { 1 } else { of_level.len().div_ceil(40).max(1) };
        crashes.extend(of_level.into_iter().step_by(step));
    }
    crashes.retain(|crash| recording.marks_before(crash) == 0);
    let (mut done, mut refused) = (0, 0);
    for crash in crashes {
        for way in [Way::Same, Way::Overwrite, Way::OtherNames] {
            let storage = recording.after(&crash).unwrap();
            match run_again(night, &storage, way) {
                Ok(true) => done += 1,
                Ok(false) => refused += 1,
                Err(reason) => panic!("{}: {crash}, then again ({way:?}): {reason}", night.name),
            }
        }
    }
    println!("{}: {done} second runs succeeded, {refused} were refused", night.name);
    assert!(done > 20 && refused > 2, "{done} {refused}");
}

/// Whether the second run succeeded.
fn run_again(night: &Night, storage: &SimulatedStorage, way: Way) -> Result<bool, String> {
    let before = {
        let settled = fork(storage);
        lost_nothing(&night.recover(&settled).map_err(|e| e.to_string())?)?;
        night.side(&settled)?
    };
    let place = |target: &str| match way {
        Way::OtherNames => PathBuf::from(next(target)),
        _ => PathBuf::from(target),
    };
    let transaction = night.again_as(storage, way == Way::Overwrite, place);
    let result = transaction.and_then(holstein::Transaction::commit);
    let answer = result.as_ref().map_or_else(ToString::to_string, |_| "success".into());
    let recovery = night.recover(storage).map_err(|e| e.to_string())?;
    lost_nothing(&recovery)?;
    night.gives_no_cluster_away(storage).map_err(|e| format!("{answer}: {e}"))?;
    if result.is_err() || way != Way::OtherNames {
        let side = night.side_without_refcounts(storage)?;
        let expected = if result.is_ok() { Side::All } else { before };
        if side != expected || result.is_ok() && before == Side::All {
            return Err(format!("{answer}, with {before:?} before and {side:?} now"));
        }
    } else {
        for backup in &night.backups {
            let target = place(backup.target);
            night.is_complete(storage, &target.display().to_string(), backup.disk)?;
        }
    }
    if before == Side::Nothing
        && way == Way::Same
        && let Err(error) = &result
    {
        return Err(format!("nothing was there, and the second run fails: {error}"));
    }
    let left = storage.paths().into_iter().find(|path: &PathBuf| {
        path.file_name().is_some_and(|name| Path::new(name).to_string_lossy().starts_with(".holstein"))
    });
    left.map_or(Ok(result.is_ok()), |left| Err(format!("left behind: {}", left.display())))
}
