//! What images, targets and journals are known by when a recovery comes: not by times and numbers alone.

use std::path::{Path, PathBuf};

use holstein::{
    RecoveryKind,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Crash, Level},
    },
};

use crate::{
    crashes::decision,
    judge::Side,
    night::{Night, Recipe},
};

fn night() -> Night {
    let recipe = Recipe {
        name: "known",
        disks: &[("cluster_size=4k", 512), ("cluster_size=64k", 1024)],
        backups: &[(0, "/backups/a.qcow2", "a"), (1, "/backups/b.qcow2", "b")],
        others: &[],
        replaced: &["/backups/b.qcow2"],
        journal: None,
        lacks: &[],
    };
    recipe.make()
}

/// States behind the decision in which not every source has its new sector, each anew; and the end of the same run.
fn undecided_sources(night: &Night) -> (Vec<impl Fn() -> SimulatedStorage>, SimulatedStorage) {
    let recording = night.recording();
    let first = decision(night, &recording) + 1;
    let old = night.disks.iter().map(|source| sector(&recording.after(&at(first)).unwrap(), &source.path));
    let old: Vec<_> = old.collect();
    let waits = |number: &usize| {
        let Some(storage) = recording.after(&at(*number)) else { return false };
        night.disks.iter().zip(&old).any(|(source, old)| sector(&storage, &source.path) == *old)
    };
    let numbers: Vec<_> = (first..recording.operations().len()).filter(waits).collect();
    assert!(numbers.len() > 2);
    let recording = std::sync::Arc::new(recording);
    let state = |number| {
        let recording = recording.clone();
        move || recording.after(&at(number)).unwrap()
    };
    let done = recording.after(&at(recording.operations().len())).unwrap();
    (numbers.into_iter().map(state).collect(), done)
}

fn at(number: usize) -> Crash {
    Crash::new(Level::L0, number, [])
}

fn sector(storage: &SimulatedStorage, path: &str) -> Vec<u8> {
    storage.contents(path).unwrap()[..512].to_vec()
}

fn overwrite(storage: &SimulatedStorage, path: &Path, offset: u64, bytes: &[u8]) {
    let file = storage.open_writable(path).unwrap();
    assert_eq!(file.write_at(bytes, offset).unwrap(), bytes.len());
    file.sync().unwrap();
}

/// A process that is killed in its deciding write can leave another change time, and nothing else.
#[test]
fn another_change_time_alone_costs_nothing() {
    let night = night();
    for state in undecided_sources(&night).0 {
        let storage = state();
        for source in &night.disks {
            overwrite(&storage, Path::new(&source.path), 0, &sector(&storage, &source.path));
        }
        assert_eq!(night.settle(&storage), Ok(Side::All));
    }
}

/// The first sector that decides was torn: up to some byte it is the new one, or from there on.
#[test]
fn a_torn_sector_is_written_again() {
    let night = night();
    let (states, done) = undecided_sources(&night);
    let mut torn = 0;
    for state in states {
        for source in &night.disks {
            let (old, new) = (sector(&state(), &source.path), sector(&done, &source.path));
            let differ: Vec<_> = (0..512).filter(|at| old[*at] != new[*at]).collect();
            for cut in differ.iter().flat_map(|at| [*at, at + 1]) {
                for sector in [[&new[..cut], &old[cut..]].concat(), [&old[..cut], &new[cut..]].concat()] {
                    // The old one without its mark is what another program leaves.
                    let mut cleared = old.clone();
                    cleared[88] &= 0x7f;
                    if sector == cleared {
                        continue;
                    }
                    let storage = state();
                    overwrite(&storage, Path::new(&source.path), 0, &sector);
                    assert_eq!(night.settle(&storage), Ok(Side::All), "{} cut at {cut}", source.path);
                    torn += 1;
                }
            }
        }
    }
    println!("{torn} torn sectors");
    assert!(torn > 50);
}

/// Somebody gives a target other contents, under its name and its inode: it is not the target any more.
#[test]
fn a_target_that_was_written_is_missing() {
    let night = night();
    let other = {
        let storage = night.storage();
        storage.contents(&night.disks[0].path).unwrap()
    };
    let mut missed = 0;
    for state in undecided_sources(&night).0 {
        for target in ["/backups/a.qcow2", "/backups/b.qcow2"] {
            for change in ["cut", "another image", "one byte of the header", "emptied"] {
                let storage = state();
                let before = storage.contents(target);
                // Only where it has its name.
                if before.is_none() || before == night.storage().contents(target) {
                    continue;
                }
                let file = storage.open_writable(target.as_ref()).unwrap();
                match change {
                    "cut" => file.set_len(file.len().unwrap() - 512).unwrap(),
                    "another image" => {
                        file.set_len(0).unwrap();
                        file.write_at(&other, 0).map(drop).unwrap();
                    }
                    "one byte of the header" => file.write_at(&[7], 300).map(drop).unwrap(),
                    _ => file.set_len(0).unwrap(),
                }
                file.sync().unwrap();
                drop(file);
                let sectors: Vec<_> = night.disks.iter().map(|disk| sector(&storage, &disk.path)).collect();
                let recovery = night.recover(&storage).unwrap();
                let is = |kind| recovery.items.iter().any(|item| item.kind == kind);
                assert!(is(RecoveryKind::TargetMissing), "{target}, {change}: {recovery:?}");
                assert!(!is(RecoveryKind::BitmapsChanged), "{target}, {change}: {recovery:?}");
                for (disk, before) in night.disks.iter().zip(&sectors) {
                    let now = sector(&storage, &disk.path);
                    let given_up = recovery.items.iter().any(|item| {
                        item.kind == RecoveryKind::BitmapsGivenUp && item.path == Path::new(&disk.path)
                    });
                    assert!(now == *before || given_up, "{target}, {change}: '{}' was switched", disk.path);
                }
                // What it replaced is all that is left of it.
                if target == "/backups/b.qcow2" {
                    let kept = storage.paths().into_iter().any(|path| {
                        path.to_string_lossy().ends_with(".tmp")
                            && storage.contents(&path) == night.storage().contents(target)
                    });
                    assert!(kept, "{change}: the old target is gone: {recovery:?}");
                }
                missed += 1;
            }
        }
    }
    println!("{missed} targets that were written");
    assert!(missed > 8);
}

/// A file that only has the name of a journal, and a journal of another version, are told and stay.
#[test]
fn what_is_no_journal_of_this_version_stays() {
    let night = night();
    let storage = undecided_sources(&night).0[0]();
    let is_journal = |path: &PathBuf| path.to_string_lossy().ends_with(".journal");
    let journal = storage.paths().into_iter().find(is_journal).unwrap();
    overwrite(&storage, &journal, 16, &[1]);
    let foreign = Path::new("/backups/.holstein-0123456789abcdef.journal");
    let image = storage.contents(&night.disks[0].path).unwrap();
    let file = storage.create(foreign).unwrap();
    file.write_at(&image, 0).unwrap();
    drop(file);
    let before = storage.digest();
    let recovery = night.recover(&storage).unwrap();
    assert_eq!(storage.digest(), before, "something was done: {recovery:?}");
    let reason = |path: &Path| {
        let item = recovery.items.iter().find(|item| item.path == path).unwrap();
        assert_eq!(item.kind, RecoveryKind::Unfinished);
        item.reason.clone()
    };
    let version = "it has version 1, and this program knows version 2; use the program that wrote it; nothing was done about it";
    assert_eq!(reason(&journal), version);
    assert!(reason(foreign).starts_with("it is no journal of Holstein"), "{}", reason(foreign));
}

/// Somebody simply runs the same list again after a crash. Where that was decided, it is ended, the list is not done, and what
/// it made stays.
#[test]
fn the_same_list_again_replaces_nothing() {
    let night = night();
    let recording = night.recording();
    let (first, end) = (decision(&night, &recording), recording.operations().len());
    let (mut done, mut refused) = (0, 0);
    for number in 0..=end {
        let storage = recording.killed(number).unwrap();
        let result = night.run(&storage);
        match result {
            Ok(()) => {
                done += 1;
                assert!(number <= first + 1, "killed after {number} operations, behind the decision");
            }
            Err(error) => {
                refused += 1;
                // At the very end nothing is left to recover: the bitmaps count from what is there.
                assert_eq!(error.kind(), holstein::ErrorKind::WrongState, "killed after {number}: {error}");
                if let Some(recovery) = error.recovery() {
                    assert!(error.to_string().contains("is complete"), "{error}");
                    assert!(!recovery.items.is_empty());
                } else {
                    assert!(number >= end - 2, "killed after {number}: {error}");
                }
            }
        }
        // What the dead run had taken leaks.
        assert_eq!(night.side_without_refcounts(&storage), Ok(Side::All), "killed after {number} operations");
        night.again(&storage).unwrap();
    }
    println!("{done} times done, {refused} times refused");
    assert!(done > 10 && refused > 5);
}
