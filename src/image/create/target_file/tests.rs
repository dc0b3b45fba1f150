//! Names of targets through failures, on file systems of every kind, and beside others.

use super::*;
use crate::storage::{
    RenameRule, SimulatedStorage,
    simulated::{Failure, Fault, Lack, OperationKind},
};

const TARGET: &str = "/d/target";

fn simulated() -> (SimulatedStorage, Arc<dyn Storage>) {
    let simulated = SimulatedStorage::new();
    simulated.make_folder("/d");
    let storage: Arc<dyn Storage> = Arc::new(simulated.clone());
    storage.create(TARGET.as_ref()).unwrap().write_at(b"old", 0).unwrap();
    (simulated, storage)
}

fn late(storage: &SimulatedStorage, kind: OperationKind) {
    let failure = Failure::Late(libc::ETIMEDOUT);
    storage.fail(Fault { kinds: vec![kind], nth: 1, failure, lasting: false });
}

fn contents(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = [0; 3];
    storage.open(TARGET.as_ref()).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes.to_vec()
}

fn names(storage: &dyn Storage) -> usize {
    storage.list("/d".as_ref()).unwrap().len()
}

fn target(storage: &Arc<dyn Storage>) -> TargetFile {
    let target =
        TargetFile::create(storage.clone(), TARGET.as_ref(), Existing::Overwrite, NewRights::PLAIN).unwrap();
    target.file().write_all(b"new", 0).unwrap();
    target
}

#[test]
fn a_rename_that_happened_counts_whatever_it_reports() {
    for replaces in [true, false] {
        let (simulated, storage) = simulated();
        if !replaces {
            storage.unlink(TARGET.as_ref()).unwrap();
        }
        let mut file = target(&storage);
        late(&simulated, OperationKind::Rename);
        file.publish().unwrap();
        assert!(file.finish());
        assert_eq!((contents(&*storage), names(&*storage)), (b"new".to_vec(), 1));
    }
}

#[test]
fn what_was_replaced_comes_back_whatever_the_way_back_reports() {
    for withdraws in [true, false] {
        let (simulated, storage) = simulated();
        let mut file = target(&storage);
        file.publish().unwrap();
        late(&simulated, OperationKind::Rename);
        if withdraws {
            file.withdraw().unwrap();
        }
        assert!(file.take_back());
        assert_eq!((contents(&*storage), names(&*storage)), (b"old".to_vec(), 1));
    }
}

#[test]
fn a_removal_that_happened_counts_whatever_it_reports() {
    let (simulated, storage) = simulated();
    let mut file = target(&storage);
    file.publish().unwrap();
    late(&simulated, OperationKind::Unlink);
    assert!(file.finish());
    assert_eq!((contents(&*storage), names(&*storage)), (b"new".to_vec(), 1));
}

#[test]
fn a_file_that_somebody_else_put_there_stays() {
    let (_, storage) = simulated();
    storage.unlink(TARGET.as_ref()).unwrap();
    let mut file = target(&storage);
    file.publish().unwrap();
    storage.unlink(TARGET.as_ref()).unwrap();
    storage.create(TARGET.as_ref()).unwrap().write_at(b"his", 0).unwrap();
    assert!(file.take_back());
    assert_eq!((contents(&*storage), names(&*storage)), (b"his".to_vec(), 1));
}

const LACKS: [&[Lack]; 2] =
    [&[Lack::NoReplace, Lack::Exchange], &[Lack::NoReplace, Lack::Exchange, Lack::Links]];

#[test]
fn a_target_gets_its_name_where_renames_have_no_flags() {
    for (lacks, replaces) in LACKS.iter().flat_map(|lacks| [(lacks, true), (lacks, false)]) {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        if !replaces {
            storage.unlink(TARGET.as_ref()).unwrap();
        }
        let mut file = target(&storage);
        file.publish().unwrap();
        assert!(file.finish(), "{lacks:?}");
        assert_eq!((contents(&*storage), names(&*storage)), (b"new".to_vec(), 1), "{lacks:?}");
    }
}

#[test]
fn names_are_taken_back_where_renames_have_no_flags() {
    for (lacks, withdraws) in LACKS.iter().flat_map(|lacks| [(lacks, true), (lacks, false)]) {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        let temporary = TargetFile::temporary_name(TARGET.as_ref());
        let made = TargetFile::create_as(
            storage.clone(),
            TARGET.as_ref(),
            temporary,
            Existing::Overwrite,
            NewRights::PLAIN,
        );
        let mut file = made.unwrap();
        file.file().write_all(b"new", 0).unwrap();
        file.publish().unwrap();
        assert_eq!(contents(&*storage), b"new");
        if withdraws {
            file.withdraw().unwrap();
            assert_eq!(contents(&*storage), b"old");
        }
        assert!(file.take_back(), "{lacks:?}");
        assert_eq!((contents(&*storage), names(&*storage)), (b"old".to_vec(), 1), "{lacks:?}");
    }
}

#[test]
fn a_name_that_is_taken_stays_where_renames_have_no_flags() {
    for lacks in LACKS {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        let made = TargetFile::create(storage.clone(), TARGET.as_ref(), Existing::Refuse, NewRights::PLAIN);
        let error = made.unwrap().publish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{lacks:?}");
        assert_eq!((contents(&*storage), names(&*storage)), (b"old".to_vec(), 1), "{lacks:?}");
    }
}

#[test]
fn each_step_of_a_name_can_fail_where_renames_have_no_flags() {
    use OperationKind::{Create, Link, Rename, SyncFolder, Unlink};
    let kinds = [Create, Link, Rename, SyncFolder, Unlink];
    let faults = kinds.into_iter().flat_map(|kind| (1..6).map(move |nth| (kind, nth)));
    for (lacks, (kind, nth)) in LACKS.iter().flat_map(|lacks| faults.clone().map(move |f| (lacks, f))) {
        for failure in [Failure::Errno(libc::EIO), Failure::Late(libc::EIO)] {
            let (simulated, storage) = simulated();
            simulated.lack(lacks);
            let mut file = target(&storage);
            simulated.fail(Fault { kinds: vec![kind], nth, failure, lasting: false });
            let done = file.publish();
            let expected = if done.is_ok() { b"new" } else { b"old" };
            let cleaned = if done.is_ok() { file.finish() } else { file.take_back() };
            assert!(cleaned || kind == Unlink, "{lacks:?}, {kind:?} {nth}, {failure:?}: {done:?}");
            assert_eq!(contents(&*storage), expected, "{lacks:?}, {kind:?} {nth}, {failure:?}");
        }
    }
}

/// Whether a rename is the one that somebody else is faster than.
type Moment = fn(&Path, &Path) -> bool;

const HIS: &str = "/d/his";

fn come(storage: &SimulatedStorage) {
    storage.rename(HIS.as_ref(), TARGET.as_ref(), RenameRule::Replace).unwrap();
}

/// Lets somebody rename a file of his own over the target, once, in the moment before such a rename.
fn beaten(storage: &SimulatedStorage, moment: Moment) {
    storage.create(HIS.as_ref()).unwrap().write_at(b"his", 0).unwrap();
    let other = storage.clone();
    storage.before_rename(move |from, to| {
        if moment(from, to) && other.status(HIS.as_ref()).is_ok() {
            come(&other);
        }
    });
}

/// Without flags, but with links, the old file's second name is made before the rename, so that it always has one.
const MOVING_LACKS: [&[Lack]; 2] = [&[], &[Lack::NoReplace, Lack::Exchange, Lack::Links]];

fn in_journal(storage: &Arc<dyn Storage>) -> TargetFile {
    let temporary = TargetFile::temporary_name(TARGET.as_ref());
    let (existing, rights) = (Existing::Overwrite, NewRights::PLAIN);
    let made = TargetFile::create_as(storage.clone(), TARGET.as_ref(), temporary, existing, rights);
    let target = made.unwrap();
    target.file().write_all(b"new", 0).unwrap();
    target
}

#[test]
fn a_file_that_comes_in_the_moment_of_the_swap_stays() {
    for lacks in MOVING_LACKS {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        let mut file = in_journal(&storage);
        beaten(&simulated, |_, _| true);
        let error = file.publish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{lacks:?}: {error}");
        assert!(error.to_string().contains("was replaced meanwhile"), "{lacks:?}: {error}");
        assert_eq!(contents(&*storage), b"his", "{lacks:?}");
        file.withdraw().unwrap();
        assert!(file.take_back(), "{lacks:?}");
        assert_eq!((contents(&*storage), names(&*storage)), (b"his".to_vec(), 1), "{lacks:?}");
    }
}

/// One who cannot have his name back has his file: nothing removes it.
#[test]
fn a_file_that_comes_in_the_moment_of_the_swap_is_not_removed() {
    let (simulated, storage) = simulated();
    let mut file = in_journal(&storage);
    beaten(&simulated, |_, _| true);
    simulated.fail(Fault::lasting(OperationKind::Rename, 3, Failure::Errno(libc::EIO)));
    let error = file.publish().unwrap_err();
    assert!(error.to_string().contains("is called '/d/.holstein-"), "{error}");
    assert!(error.to_string().contains("could not be renamed"), "{error}");
    file.withdraw().unwrap_err();
    drop(file);
    simulated.stop_failing();
    assert_eq!((contents(&*storage), names(&*storage)), (b"new".to_vec(), 2));
    assert!(simulated.paths().iter().any(|path| simulated.contents(path).unwrap() == b"his"));
}

/// He comes when the target has its name already: before the way back begins, or in its moment.
#[test]
fn a_file_that_comes_before_the_way_back_stays() {
    let old_is_kept = |storage: &SimulatedStorage| {
        storage.paths().iter().any(|path| storage.contents(path).unwrap() == b"old")
    };
    for (lacks, in_its_moment) in MOVING_LACKS.iter().flat_map(|lacks| [(lacks, true), (lacks, false)]) {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        let mut file = in_journal(&storage);
        file.publish().unwrap();
        beaten(&simulated, |from, to| [from, to].contains(&TARGET.as_ref()));
        if !in_its_moment {
            simulated.before_rename(|_, _| {});
            come(&simulated);
        }
        let error = file.withdraw().unwrap_err();
        assert!(error.to_string().contains("cannot take back the name"), "{lacks:?}: {error}");
        drop(file);
        assert_eq!(contents(&*storage), b"his", "{lacks:?}, {in_its_moment}");
        assert!(old_is_kept(&simulated), "{lacks:?}, {in_its_moment}");
    }
    // The same where nothing was replaced.
    for (lacks, in_its_moment) in MOVING_LACKS.iter().flat_map(|lacks| [(lacks, true), (lacks, false)]) {
        let (simulated, storage) = simulated();
        simulated.lack(lacks);
        storage.unlink(TARGET.as_ref()).unwrap();
        let mut file = in_journal(&storage);
        file.publish().unwrap();
        beaten(&simulated, |from, _| from == Path::new(TARGET));
        if !in_its_moment {
            simulated.before_rename(|_, _| {});
            come(&simulated);
        }
        drop(file);
        assert_eq!(
            (contents(&*storage), names(&*storage)),
            (b"his".to_vec(), 1),
            "{lacks:?}, {in_its_moment}"
        );
    }
}

#[test]
fn a_file_under_the_temporary_name_that_is_not_ours_stays() {
    for publishes in [true, false] {
        let (_, storage) = simulated();
        let mut file = in_journal(&storage);
        if publishes {
            file.publish().unwrap();
        }
        let name = file.temporary().to_owned();
        storage.unlink(&name).unwrap();
        storage.create(&name).unwrap().write_at(b"his", 0).unwrap();
        assert!(if publishes { file.finish() } else { file.take_back() });
        assert!(storage.status(&name).is_ok(), "{publishes}");
    }
}
