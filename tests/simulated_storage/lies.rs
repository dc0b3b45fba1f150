//! Operations that take effect and report an error, and syncs behind whose failure the old bytes are back.

use std::collections::BTreeSet;

use holstein::storage::{
    RenameRule, SimulatedStorage, Storage,
    simulated::{Effect, Failure, Fault, Level, OperationKind},
};

use crate::{
    put,
    rules::{NOT_TORN, files, left, sectors, short, with_file},
    writable,
};

fn late(storage: &SimulatedStorage, kind: OperationKind) {
    storage.fail(Fault::once(kind, 1, Failure::Late(libc::EIO)));
}

fn failed<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
}

#[test]
fn what_reports_an_error_can_have_happened() {
    let storage = with_file(1);
    late(&storage, OperationKind::Rename);
    assert!(failed(storage.rename("/d/f".as_ref(), "/d/g".as_ref(), RenameRule::NoReplace)));
    assert_eq!(storage.paths(), [std::path::Path::new("/d/g")]);

    late(&storage, OperationKind::Create);
    assert!(failed(storage.create("/d/h".as_ref())));
    assert_eq!(storage.contents("/d/h").unwrap(), b"");
    late(&storage, OperationKind::Unlink);
    assert!(failed(storage.unlink("/d/h".as_ref())));
    assert_eq!(storage.contents("/d/h"), None);

    let file = writable(&storage, "/d/g");
    late(&storage, OperationKind::Write);
    assert!(failed(file.write_at(&sectors(&[1, 2]), 0)));
    assert_eq!(storage.contents("/d/g").unwrap(), sectors(&[1, 2]));
    late(&storage, OperationKind::SetLen);
    assert!(failed(file.set_len(512)));
    assert_eq!(storage.contents("/d/g").unwrap(), sectors(&[1]));
    late(&storage, OperationKind::Punch);
    assert!(failed(file.punch(0, 512)));
    assert_eq!(storage.contents("/d/g").unwrap(), sectors(&[0]));

    // What cannot be done at all is told as it is.
    late(&storage, OperationKind::Unlink);
    assert_eq!(storage.unlink("/d/h".as_ref()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    late(&storage, OperationKind::Read);
    assert!(failed(file.read_at(&mut [0; 4], 0)));

    let recording = storage.recording();
    let done: Vec<String> =
        recording.operations().iter().filter(|r| r.failed).map(ToString::to_string).collect();
    assert_eq!(done.len(), 6);
    assert!(done.iter().all(|line| line.ends_with("(done, and failed)")), "{done:?}");
    assert!(recording.operations().iter().all(|record| record.effect == Effect::Whole));
}

#[test]
fn what_happened_all_the_same_can_be_lost_like_anything() {
    let storage = with_file(1);
    late(&storage, OperationKind::Rename);
    let _ = storage.rename("/d/f".as_ref(), "/d/g".as_ref(), RenameRule::NoReplace);
    let file = writable(&storage, "/d/g");
    late(&storage, OperationKind::Write);
    let _ = file.write_at(&sectors(&[5]), 0);
    let names = |storage: &SimulatedStorage| -> BTreeSet<(String, u8)> {
        let states = storage.recording();
        let states = states.states(&Level::ALL, usize::MAX, 0);
        let one = |state: SimulatedStorage| {
            let path = state.paths().remove(0);
            (path.display().to_string(), short(&state.contents(&path).unwrap())[0])
        };
        states.filter(|(crash, _)| crash.after() >= 3).map(|(_, state)| one(state)).collect()
    };
    let (f, g) = (|value| ("/d/f".to_owned(), value), |value| ("/d/g".to_owned(), value));
    assert_eq!(names(&storage), BTreeSet::from([f(5), g(5)]), "other states are named after earlier crashes");

    // A sync that reports an error and was done has done it.
    late(&storage, OperationKind::Sync);
    assert!(failed(file.sync()));
    late(&storage, OperationKind::SyncFolder);
    assert!(failed(storage.sync_folder("/d".as_ref())));
    assert!(storage.is_durable("/d/g"));
    assert_eq!(left(&storage.recording(), &NOT_TORN, 5, "/d/g"), files(&[&[5]]));
}

#[test]
fn old_bytes_are_read_behind_a_sync_that_dropped_the_new_ones() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    file.sync().unwrap();
    put(&*file, 0, &sectors(&[2, 3, 4]));
    file.punch(512, 512).unwrap();
    put(&*file, 512, &sectors(&[6]));
    storage.fail(Fault::once(OperationKind::Sync, 1, Failure::Dropped(libc::EIO)));
    assert!(failed(file.sync()));
    assert_eq!(short(&storage.contents("/d/f").unwrap()), [1, 0, 0], "the length stays, and is zeros");

    // They are not on the disk either; the length may be.
    let from = storage.recording().operations().len();
    let expected = files(&[&[1, 0], &[1, 0, 0]]);
    assert_eq!(left(&storage.recording(), &Level::ALL, from, "/d/f"), expected);
    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &Level::ALL, from, "/d/f"), expected, "no sync makes up for it");

    // What is written from then on is another matter.
    put(&*file, 0, &sectors(&[9]));
    assert_eq!(short(&storage.contents("/d/f").unwrap()), [9, 0, 0]);
    file.sync().unwrap();
    let now = storage.recording().operations().len();
    let expected = files(&[&[9, 0], &[9, 0, 0]]);
    assert_eq!(left(&storage.recording(), &NOT_TORN, now, "/d/f"), expected);
    let killed = storage.recording().killed(now).unwrap();
    assert_eq!(short(&killed.contents("/d/f").unwrap()), [9, 0, 0], "a kill takes nothing back");
    assert!(!killed.is_durable("/d/f"));

    // Before it failed they could have arrived.
    let before = from - 1;
    let crash = format!("L0@{before}").parse().unwrap();
    assert_eq!(short(&storage.recording().after(&crash).unwrap().contents("/d/f").unwrap()), [2, 6, 4]);
}
