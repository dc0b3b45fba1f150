//! What images, targets and journals are known by when a recovery comes: not by times and numbers alone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use holstein::{
    RecoveryKind,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Crash, Level},
    },
};

use crate::{
    crashes::decision,
    judge::{Side, exhaustive},
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
            let differ = (0..512).filter(|at| old[*at] != new[*at]);
            let mut cuts: BTreeSet<_> = differ.flat_map(|at| [at, at + 1]).collect();
            if !exhaustive() {
                // The ends of what differs, and some places in it.
                let inner = |cut: usize| old[cut - 1] != new[cut - 1] && old[cut] != new[cut];
                cuts.retain(|cut| cut % 4 == 0 || !inner(*cut));
            }
            for cut in cuts {
                for sector in [[&new[..cut], &old[cut..]].concat(), [&old[..cut], &new[cut..]].concat()] {
                    // The old one without its mark is what another program leaves.
                    let mut cleared = old.clone();
                    cleared[88..92].fill(0);
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

/// The old target as the run found it.
fn replaced(night: &Night) -> Vec<u8> {
    night.storage().contents("/backups/b.qcow2").unwrap()
}

fn changed_bitmaps(recovery: &holstein::Recovery) -> bool {
    recovery.items.iter().any(|item| item.kind == RecoveryKind::BitmapsChanged)
}

/// Somebody writes the file that is to be replaced, under its name and its inode, between a crash and the recovery: it stays,
/// and so do the bitmaps.
#[test]
fn a_file_to_be_replaced_that_was_written_stays() {
    let night = night();
    let old = replaced(&night);
    let mut stayed = 0;
    for state in undecided_sources(&night).0 {
        for change in ["one byte far behind", "anew", "longer"] {
            let storage = state();
            if storage.contents("/backups/b.qcow2").unwrap() != old {
                continue;
            }
            let mut bytes = old.clone();
            match change {
                "one byte far behind" => bytes[2999] ^= 1,
                "anew" => bytes.fill(7),
                _ => bytes.extend([1; 500]),
            }
            storage.rewrite("/backups/b.qcow2", &bytes);
            let recovery = night.recover(&storage).unwrap();
            assert_eq!(storage.contents("/backups/b.qcow2").unwrap(), bytes, "{change}: {recovery:?}");
            assert!(!changed_bitmaps(&recovery), "{change}: {recovery:?}");
            let item = recovery.items.iter().find(|item| item.kind == RecoveryKind::TargetMissing).unwrap();
            assert!(item.reason.starts_with("the file that it replaces was written since"), "{item:?}");
            assert_eq!(night.recover(&storage).unwrap().items, [], "{change}");
            stayed += 1;
        }
    }
    assert!(stayed > 2, "{stayed}");
}

/// A target that is gone takes nothing with it: the files that the others replace are there, under their names or those that
/// the report tells.
#[test]
fn a_group_that_is_not_complete_replaces_nothing() {
    let night = night();
    let old = replaced(&night);
    let (mut before, mut behind) = (0, 0);
    for state in undecided_sources(&night).0 {
        let storage = state();
        let swapped = storage.contents("/backups/b.qcow2").unwrap() != old;
        let temporary = || storage.paths().into_iter().find(|path| path.to_string_lossy().ends_with(".tmp"));
        match storage.contents("/backups/a.qcow2") {
            Some(_) => storage.unlink("/backups/a.qcow2".as_ref()).unwrap(),
            // Nothing has its name yet.
            None => {
                let is_a = |path: &PathBuf| night.is_complete(&storage, path.to_str().unwrap(), 0).is_ok();
                let paths = storage.paths();
                let mut temporaries = paths.iter().filter(|path| path.to_string_lossy().ends_with(".tmp"));
                storage.unlink(temporaries.find(|path| is_a(path)).unwrap()).unwrap();
            }
        }
        let recovery = night.recover(&storage).unwrap();
        assert!(!changed_bitmaps(&recovery), "{recovery:?}");
        if swapped {
            behind += 1;
            let kept = temporary().unwrap();
            assert_eq!(storage.contents(&kept).unwrap(), old, "{recovery:?}");
            let told = format!("the file that it replaced is kept as '{}'", kept.display());
            assert!(recovery.items.iter().any(|item| item.reason == told), "{recovery:?}");
        } else {
            before += 1;
            assert_eq!(storage.contents("/backups/b.qcow2").unwrap(), old, "{recovery:?}");
            assert_eq!(temporary(), None, "{recovery:?}");
        }
        let settled = storage.digest();
        assert_eq!(night.recover(&storage).unwrap().items, []);
        assert_eq!(storage.digest(), settled);
    }
    println!("{before} times before the swap, {behind} times behind it");
    assert!(before > 0 && behind > 0);
}

/// The file that is to be replaced is open elsewhere: nothing is done until it is free.
#[test]
fn a_file_to_be_replaced_that_is_in_use_waits() {
    let night = night();
    let old = replaced(&night);
    let mut waited = 0;
    for state in undecided_sources(&night).0 {
        let storage = state();
        if storage.contents("/backups/b.qcow2").unwrap() != old {
            continue;
        }
        storage.enforce_locks();
        let user = storage.open_writable("/backups/b.qcow2".as_ref()).unwrap();
        user.lock(holstein::storage::Lock::Write).unwrap();
        let before = storage.digest();
        let recovery = night.recover(&storage).unwrap();
        let [item] = &recovery.items[..] else { panic!("{recovery:?}") };
        assert_eq!(item.kind, RecoveryKind::Unfinished);
        assert!(item.reason.contains("'/backups/b.qcow2': the image is in use"), "{item:?}");
        assert_eq!(storage.digest(), before);
        drop(user);
        assert_eq!(night.settle(&storage), Ok(Side::All));
        waited += 1;
    }
    assert!(waited > 0);
}

/// The folder of a target or of a source is not mounted, or another one is in its place: all waits until it is back.
#[test]
fn what_is_not_mounted_waits() {
    let recipe = Recipe {
        name: "mounted",
        disks: &[("cluster_size=4k", 512), ("cluster_size=64k", 1024)],
        backups: &[(0, "/backups/a.qcow2", "a"), (1, "/backups/b.qcow2", "b")],
        others: &[],
        replaced: &["/backups/b.qcow2"],
        journal: Some("/journal"),
        lacks: &[],
    };
    let night = recipe.make();
    for state in undecided_sources(&night).0 {
        for folder in ["/backups", "/images"] {
            for another in [false, true] {
                let storage = state();
                storage.move_folder(folder, "/elsewhere");
                if another {
                    storage.make_folder(folder);
                }
                for _ in 0..2 {
                    let recovery = night.recover(&storage).unwrap();
                    let waits: Vec<_> =
                        recovery.items.iter().filter(|item| item.kind == RecoveryKind::Unfinished).collect();
                    assert!(!waits.is_empty(), "{folder}: {recovery:?}");
                    let told = if another { "is another one: mount it" } else { "is not there: mount it" };
                    assert!(waits.iter().all(|item| item.reason.contains(told)), "{folder}: {recovery:?}");
                }
                // What was made in its place has nothing in it.
                storage.move_folder(folder, "/nothing");
                storage.move_folder("/elsewhere", folder);
                assert_eq!(night.settle(&storage), Ok(Side::All), "{folder}, {another}");
            }
        }
    }
}

/// A journal whose first block is damaged keeps its decision, whatever byte it is.
#[test]
fn a_damaged_byte_makes_no_journal_empty() {
    let night = night();
    let state = undecided_sources(&night).0.remove(0);
    let storage = state();
    let is_journal = |path: &PathBuf| path.to_string_lossy().ends_with(".journal");
    let journal = storage.paths().into_iter().find(is_journal).unwrap();
    let bytes = storage.contents(&journal).unwrap();
    let length = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize + 64;
    for at in (0..length).filter(|at| *at < 80 || at % 16 == 0) {
        let storage = state();
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x80;
        overwrite(&storage, &journal, 0, &damaged);
        let before = storage.digest();
        let recovery = night.recover(&storage).unwrap();
        assert!(
            recovery.items.iter().all(|item| item.kind == RecoveryKind::Unfinished),
            "byte {at}: {recovery:?}"
        );
        assert_eq!((recovery.items.len(), storage.digest()), (1, before), "byte {at}");
    }
}

/// A disk of a dead group is in use for long: those whose part is done are backed up all the same, on what they count from.
#[test]
fn one_disk_that_is_in_use_does_not_stop_the_others() {
    let night = night();
    let log = night.recording();
    // The first source is switched, the second one is not.
    let first = decision(&night, &log) + 1;
    let decided = log.after(&at(first)).unwrap();
    let is_switched = |storage: &SimulatedStorage, disk: usize| {
        sector(storage, &night.disks[disk].path) != sector(&decided, &night.disks[disk].path)
    };
    let is_between = |number: &usize| {
        log.after(&at(*number)).is_some_and(|state| is_switched(&state, 0) != is_switched(&state, 1))
    };
    let number = (first..log.operations().len()).find(is_between).unwrap();
    let storage = log.after(&at(number)).unwrap();
    storage.enforce_locks();
    let (done, open) = if is_switched(&storage, 0) { (0, 1) } else { (1, 0) };
    let user = storage.open_writable(night.disks[open].path.as_ref()).unwrap();
    user.lock(holstein::storage::Lock::Write).unwrap();
    let backup = |backing: Option<&str>, target: &str| {
        let disk = crate::night::open(&storage, &night.disks[done].path, holstein::Access::Write).unwrap();
        let options = holstein::BackupOptions {
            sync: Some(holstein::SyncMode::Incremental),
            bitmap: Some(night.backups[done].bitmap.into()),
            backing: backing
                .map(|name| holstein::Backing { name: name.into(), format: holstein::Format::Qcow2 }),
            ..holstein::BackupOptions::default()
        };
        let mut transaction = holstein::Transaction::new();
        transaction.add(holstein::Backup { source: disk, target: target.into(), options });
        transaction.commit()
    };
    // Without a backup to stand on nothing tells that the base is another one now.
    let error = backup(None, "/backups/next.qcow2").unwrap_err();
    assert_eq!(error.kind(), holstein::ErrorKind::WrongState, "{error}");
    assert!(error.to_string().contains(&format!("'{}' is not ended yet", night.disks[open].path)), "{error}");
    // As before the crash.
    let name = Path::new(night.backups[done].target).file_name().unwrap().to_str().unwrap();
    let error = backup(Some(&format!("full{done}.qcow2")), "/backups/next.qcow2").unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    assert_eq!(storage.contents("/backups/next.qcow2"), None);
    backup(Some(name), "/backups/next.qcow2").unwrap();
    night.is_complete(&storage, "/backups/next.qcow2", done).unwrap();
    drop(user);
    let recovery = night.recover(&storage).unwrap();
    assert!(
        recovery.items.iter().any(|item| item.kind == RecoveryKind::BitmapsChanged
            && item.path == Path::new(&night.disks[open].path)),
        "{recovery:?}"
    );
}

/// A journal is not seen for long, and another run stages the same change anew and dies: its mark is not that of the first.
#[test]
fn the_mark_of_another_run_is_not_taken_for_its_own() {
    let recipe = Recipe {
        name: "marks",
        disks: &[("cluster_size=4k", 512), ("cluster_size=64k", 1024)],
        backups: &[(0, "/backups/a.qcow2", "a"), (1, "/backups/b.qcow2", "b")],
        others: &[],
        replaced: &[],
        journal: Some("/journal"),
        lacks: &[],
    };
    let night = recipe.make();
    let storage = undecided_sources(&night).0[0]();
    storage.move_folder("/journal", "/first");
    storage.make_folder("/journal");
    let disk = crate::night::open(&storage, &night.disks[0].path, holstein::Access::Write).unwrap();
    disk.write_at(&[0xEE; 1024], 0).unwrap();
    disk.close().unwrap();
    let again = |storage: &SimulatedStorage| {
        let place = |target: &str| PathBuf::from(format!("{target}.again"));
        night.again_as(storage, false, place).and_then(holstein::Transaction::commit).map(drop)
    };
    storage.begin();
    again(&storage).unwrap();
    let log = storage.recording();
    let is_staged = |number: &usize| {
        log.killed(*number).is_some_and(|state| sector(&state, &night.disks[0].path)[88] & 0x80 != 0)
    };
    assert!(!is_staged(&0), "the write has cleared the first mark");
    let state = log.killed((0..log.operations().len()).find(is_staged).unwrap()).unwrap();
    state.move_folder("/journal", "/second");
    state.move_folder("/first", "/journal");
    let recovery = night.recover(&state).unwrap();
    let disk = crate::night::open(&state, &night.disks[0].path, holstein::Access::Read).unwrap();
    let is_dirty = disk.bitmap(b"a").is_ok_and(|bitmap| bitmap.extents().any(|extent| extent.contains(&0)));
    let is_usable = disk.bitmap(b"a").is_ok();
    assert!(is_dirty || !is_usable, "the write is in no bitmap: {recovery:?}");
}

/// A newer backup was made while a journal waited: what that one stands on is not replaced, and its bitmaps stay.
#[test]
fn what_a_newer_backup_stands_on_stays() {
    let recipe = Recipe {
        name: "superseded",
        disks: &[("cluster_size=4k", 512), ("cluster_size=64k", 1024)],
        backups: &[(0, "/backups/a.qcow2", "a"), (1, "/other/b.qcow2", "b")],
        others: &[],
        replaced: &["/backups/a.qcow2"],
        journal: Some("/journal"),
        lacks: &[],
    };
    let night = recipe.make();
    let old = night.storage().contents("/backups/a.qcow2").unwrap();
    let mut stayed = 0;
    for state in undecided_sources(&night).0 {
        let storage = state();
        if storage.contents("/backups/a.qcow2").unwrap() != old {
            continue;
        }
        storage.move_folder("/other", "/elsewhere");
        let disk = crate::night::open(&storage, &night.disks[0].path, holstein::Access::Write).unwrap();
        let options = holstein::BackupOptions {
            sync: Some(holstein::SyncMode::Incremental),
            bitmap: Some("a".into()),
            backing: Some(holstein::Backing { name: "full0.qcow2".into(), format: holstein::Format::Qcow2 }),
            ..holstein::BackupOptions::default()
        };
        let mut transaction = holstein::Transaction::new();
        transaction.add(holstein::Backup { source: disk, target: "/backups/newer.qcow2".into(), options });
        transaction.commit().unwrap();
        storage.move_folder("/elsewhere", "/other");
        let before = sector(&storage, &night.disks[0].path);
        let recovery = night.recover(&storage).unwrap();
        assert_eq!(storage.contents("/backups/a.qcow2").unwrap(), old, "{recovery:?}");
        assert_eq!(sector(&storage, &night.disks[0].path), before, "{recovery:?}");
        assert!(!changed_bitmaps(&recovery), "{recovery:?}");
        let told = "a newer backup of a disk of the transaction was made since; the file that it would replace stays";
        assert!(recovery.items.iter().any(|item| item.reason == told), "{recovery:?}");
        assert_eq!(night.recover(&storage).unwrap().items, []);
        night.is_complete(&storage, "/backups/newer.qcow2", 0).unwrap();
        stayed += 1;
    }
    assert!(stayed > 0);
}

/// A disk is full of what an undecided transaction left: nothing is written to take it back.
#[test]
fn a_full_disk_is_given_its_room_back() {
    use holstein::storage::simulated::{Failure, Fault, OperationKind};
    let night = night();
    let recording = night.recording();
    let storage = recording.killed(decision(&night, &recording) - 1).unwrap();
    let fault = |kind| Fault::lasting(kind, 1, Failure::Errno(28));
    storage.fail(fault(OperationKind::Write));
    let recovery = night.recover(&storage).unwrap();
    let removed = recovery.items.iter().filter(|item| item.kind == RecoveryKind::TemporaryRemoved).count();
    assert_eq!((removed, recovery.items.len()), (2, 2), "{recovery:?}");
    storage.stop_failing();
    assert_eq!(night.settle(&storage), Ok(Side::Nothing));
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
    let version = "it has version 1, and this program knows version 3; use the program that wrote it; nothing was done about it";
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
