//! The simulated storage against a plain model, and a backup on trial in it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(unreachable_pub)] // some modules are shared with other test programs
#![allow(clippy::single_range_in_vec_init)] // a bitmap's bits are a list of ranges

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use holstein::storage::{
    FileKind, Lock, RenameRule, SimulatedStorage, Storage, StorageFile,
    simulated::{Crash, Failure, Fault, Level, Operation, OperationKind},
};

#[path = "simulated_storage/backup.rs"]
mod backup;
#[path = "support/builder/mod.rs"]
mod builder;
#[path = "support/crash.rs"]
mod crash;
#[path = "simulated_storage/inodes.rs"]
mod inodes;
#[path = "simulated_storage/lies.rs"]
mod lies;
#[path = "simulated_storage/model.rs"]
mod model;
#[path = "simulated_storage/ranges.rs"]
mod ranges;
#[path = "simulated_storage/rules.rs"]
mod rules;
#[path = "simulated_storage/tears.rs"]
mod tears;
#[path = "simulated_storage/times.rs"]
mod times;

fn writable(storage: &SimulatedStorage, path: &str) -> Arc<dyn StorageFile> {
    storage.open_writable(path.as_ref()).unwrap()
}

/// Writes all of `data` at once.
fn put(file: &dyn StorageFile, offset: u64, data: &[u8]) {
    assert_eq!(file.write_at(data, offset).unwrap(), data.len());
}

fn kind_of(result: io::Result<impl Sized>) -> io::ErrorKind {
    result.err().map(|error| error.kind()).unwrap()
}

#[test]
fn files_are_found_by_their_names_only() {
    let storage = SimulatedStorage::new();
    storage.insert("/a/f", b"one");
    let open = |path: &str| storage.open(path.as_ref());
    assert_eq!(open("/a/./f").unwrap().len().unwrap(), 3);
    assert_eq!(open("/b/../a/f").unwrap().id().unwrap(), storage.status("/a/f".as_ref()).unwrap().id);
    assert_eq!(kind_of(open("/a/g")), io::ErrorKind::NotFound);
    assert_eq!(kind_of(open("/a")), io::ErrorKind::IsADirectory);
    assert_eq!(storage.status("/a".as_ref()).unwrap().kind, FileKind::Other);
    assert_eq!(storage.status("/".as_ref()).unwrap().kind, FileKind::Other);
    assert_eq!(storage.status(".".as_ref()).unwrap().kind, FileKind::Other);
    assert_eq!(kind_of(storage.status("/b".as_ref())), io::ErrorKind::NotFound);

    let beneath = |folder: &str, name: &str| storage.open_beneath(folder.as_ref(), name.as_ref());
    assert_eq!(beneath("/", "a/f").unwrap().len().unwrap(), 3);
    assert_eq!(kind_of(beneath("/a", "../a/../b")), io::ErrorKind::CrossesDevices);
    assert_eq!(kind_of(beneath("/a", "/a/f")), io::ErrorKind::CrossesDevices);

    assert_eq!(kind_of(storage.create("/a/f".as_ref())), io::ErrorKind::AlreadyExists);
    assert_eq!(kind_of(storage.create("/b/f".as_ref())), io::ErrorKind::NotFound);
    let rename = |from: &str, to: &str, rule| storage.rename(from.as_ref(), to.as_ref(), rule);
    storage.insert("/a/g", b"two");
    assert_eq!(kind_of(rename("/a/f", "/a/g", RenameRule::NoReplace)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind_of(rename("/a/f", "/a/h", RenameRule::Exchange)), io::ErrorKind::NotFound);
    assert_eq!(kind_of(rename("/a/x", "/a/h", RenameRule::NoReplace)), io::ErrorKind::NotFound);
    rename("/a/f", "/a/g", RenameRule::Exchange).unwrap();
    assert_eq!(storage.contents("/a/g").unwrap(), b"one");
    assert_eq!(kind_of(storage.unlink("/a/x".as_ref())), io::ErrorKind::NotFound);

    let reader = open("/a/f").unwrap();
    assert_eq!(reader.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(reader.set_len(0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    storage.unlink("/a/f".as_ref()).unwrap();
    assert_eq!(reader.len().unwrap(), 3, "an open file outlives its name");
}

#[test]
fn parts_that_were_never_written_are_holes() {
    let storage = SimulatedStorage::new();
    storage.insert("/f", b"");
    let file = writable(&storage, "/f");
    file.set_len(1 << 40).unwrap();
    put(&*file, 8192, &[1; 100]);
    let extent = |offset| file.extent_at(offset).map(|extent| (extent.hole, extent.end)).unwrap();
    assert_eq!(extent(0), (true, 8192));
    assert_eq!(extent(8200), (false, 12288));
    assert_eq!(extent(12288), (true, 1 << 40));
    assert_eq!(file.allocated().unwrap(), 4096);
    file.set_len(8250).unwrap();
    assert_eq!(extent(8192), (false, 8250));
    assert_eq!(extent(9000), (true, 9000));
    file.set_len(8300).unwrap();
    let mut buf = [9; 200];
    assert_eq!(file.read_at(&mut buf, 8192).unwrap(), 108);
    assert_eq!(buf[..58], [1; 58]);
    assert_eq!(buf[58..108], [0; 50], "what was cut off does not come back");
}

#[test]
fn operations_fail_as_ordered() {
    let storage = SimulatedStorage::new();
    storage.insert("/f", &[5; 1000]);
    let file = writable(&storage, "/f");
    let write = || file.write_at(&[1; 100], 0).map_err(|error| error.raw_os_error());

    storage.fail(Fault::once(OperationKind::Write, 2, Failure::Errno(libc::EIO)));
    assert_eq!([write(), write(), write()], [Ok(100), Err(Some(libc::EIO)), Ok(100)]);
    storage.fail(Fault::lasting(OperationKind::Write, 2, Failure::Errno(libc::ENOSPC)));
    let full = Err(Some(libc::ENOSPC));
    assert_eq!([write(), write(), write(), write()], [Ok(100), full, full, full]);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10, "other kinds go on");
    storage.stop_failing();
    storage.fail(Fault::once(OperationKind::Write, 1, Failure::AtMost(7)));
    assert_eq!([write(), write()], [Ok(7), Ok(100)]);
    storage.fail(Fault::lasting(OperationKind::Read, 1, Failure::AtMost(3)));
    let mut buf = [0; 10];
    assert_eq!(file.read_at(&mut buf, 98).unwrap(), 3);
    assert_eq!(buf, [1, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(storage.calls(OperationKind::Write), 9);
    assert_eq!(storage.calls(OperationKind::Read), 2);
    storage.stop_failing();

    let both = vec![OperationKind::Create, OperationKind::Unlink];
    storage.fail(Fault { kinds: both, nth: 2, failure: Failure::Errno(libc::EROFS), lasting: true });
    storage.create("/g".as_ref()).unwrap();
    assert_eq!(kind_of(storage.unlink("/f".as_ref())), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(kind_of(storage.create("/h".as_ref())), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(storage.paths(), [Path::new("/f"), Path::new("/g")]);

    let failed = storage.recording().operations().iter().filter(|record| record.failed).count();
    assert_eq!(failed, 6);
    let data = |record: &holstein::storage::simulated::Record| match &record.operation {
        Operation::Write { data, .. } if !record.failed => data.len(),
        _ => 0,
    };
    assert_eq!(storage.recording().operations().iter().map(data).sum::<usize>(), 407);
}

#[test]
fn locks_exclude_each_other_when_asked_to() {
    let storage = SimulatedStorage::new();
    storage.insert("/f", b"");
    let handles: Vec<_> = (0..3).map(|_| writable(&storage, "/f")).collect();
    handles[0].lock(Lock::Write).unwrap();
    handles[1].lock(Lock::Write).unwrap();
    drop(handles);

    storage.enforce_locks();
    let [one, two] = [writable(&storage, "/f"), writable(&storage, "/f")];
    one.lock(Lock::Source).unwrap();
    two.lock(Lock::Backing).unwrap();
    assert_eq!(kind_of(two.lock(Lock::Write)), io::ErrorKind::WouldBlock);
    drop(one);
    two.lock(Lock::Write).unwrap();
    let three = writable(&storage, "/f");
    three.lock(Lock::ForceShare).unwrap();
    assert_eq!(kind_of(three.lock(Lock::Source)), io::ErrorKind::WouldBlock);
    storage.insert("/g", b"");
    writable(&storage, "/g").lock(Lock::Write).unwrap();
}

#[test]
fn the_hook_sees_each_write_and_what_is_durable() {
    let storage = SimulatedStorage::new();
    storage.insert("/f", &[0; 1024]);
    storage.insert("/journal", b"");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (notes, inside) = (seen.clone(), storage.clone());
    storage.before_write(move |write| {
        let others = inside.is_durable("/journal");
        let note = (write.path.to_owned(), write.offset, write.data.len(), write.earlier_durable, others);
        notes.lock().unwrap().push(note);
    });
    let [file, journal] = [writable(&storage, "/f"), writable(&storage, "/journal")];
    put(&*journal, 0, b"record");
    put(&*file, 10, b"too early");
    journal.sync().unwrap();
    put(&*file, 20, b"after the journal");
    file.sync().unwrap();
    storage.rename("/f".as_ref(), "/g".as_ref(), RenameRule::NoReplace).unwrap();
    put(&*file, 30, b"after both");
    let expected: [(PathBuf, u64, usize, bool, bool); 4] = [
        ("/journal".into(), 0, 6, true, true),
        ("/f".into(), 10, 9, true, false),
        ("/f".into(), 20, 17, false, true),
        ("/g".into(), 30, 10, true, true),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn a_state_is_rebuilt_by_its_name_and_can_crash_again() {
    let storage = SimulatedStorage::new();
    storage.make_folder("/d");
    let file = storage.create("/d/f".as_ref()).unwrap();
    for number in 0..6_u64 {
        put(&*file, number * 700, &[number as u8 + 1; 1500]);
    }
    file.set_len(3000).unwrap();
    file.sync().unwrap();
    storage.rename("/d/f".as_ref(), "/d/g".as_ref(), RenameRule::NoReplace).unwrap();
    let recording = storage.recording();

    let all: Vec<_> = recording.states(&Level::ALL, usize::MAX, 3).collect();
    let digests: BTreeSet<u64> = all.iter().map(|(_, state)| state.digest()).collect();
    assert_eq!(digests.len(), all.len(), "each state comes once");
    let mut levels = BTreeMap::new();
    for (crash, state) in &all {
        *levels.entry(crash.level()).or_insert(0) += 1;
        let again = recording.after(&crash.to_string().parse::<Crash>().unwrap()).unwrap();
        assert_eq!(again.digest(), state.digest(), "{crash}");
        let contents = |state: &SimulatedStorage| {
            state.paths().into_iter().map(|path| (state.contents(&path), path)).collect::<Vec<_>>()
        };
        assert_eq!(contents(&again), contents(state), "{crash}");
        assert!(again.recording().operations().is_empty());
    }
    assert_eq!(levels.keys().copied().collect::<Vec<_>>(), Level::ALL, "each level adds states");

    let some = |seed| recording.states(&Level::ALL, 40, seed).map(|(crash, _)| crash).collect::<Vec<_>>();
    assert_eq!(some(1).len(), 40);
    assert_eq!(some(1), some(1));
    assert_ne!(some(1), some(2));
    let some = recording.states(&Level::ALL, 40, 1).map(|(_, state)| state.digest());
    assert!(some.collect::<BTreeSet<_>>().is_subset(&digests));

    // What is found after a crash is durable: who repairs it is recorded anew.
    let (_, state) = all.iter().find(|(_, state)| state.paths() == [Path::new("/d/g")]).unwrap();
    let before = state.contents("/d/g").unwrap();
    put(&*writable(state, "/d/g"), 0, &[99; 512]);
    let repaired = state.recording();
    let left: Vec<_> =
        repaired.states(&[Level::L2], 99, 0).map(|(_, s)| s.contents("/d/g").unwrap()).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&before) && left.contains(&state.contents("/d/g").unwrap()));
}
