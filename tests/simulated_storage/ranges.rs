//! Punches and clones: what they do, and what a crash may leave of them.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use holstein::storage::{
    MemoryStorage, SimulatedStorage, Storage, StorageFile,
    simulated::{Crash, Failure, Fault, Level, Operation, OperationKind},
};

use crate::rules::{NOT_TORN, STALE, files, left, sectors, short, with_file};
use crate::{kind_of, put, writable};

/// A storage with the durable file `/d/f` of four sectors and `/d/g`, a block of eight.
fn with_two(f: [u8; 4], g: [u8; 8]) -> (SimulatedStorage, Arc<dyn StorageFile>, Arc<dyn StorageFile>) {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &sectors(&f));
    storage.insert("/d/g", &sectors(&g));
    let [f, g] = ["/d/f", "/d/g"].map(|path| writable(&storage, path));
    (storage, f, g)
}

fn bytes(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn extent(file: &dyn StorageFile, offset: u64) -> (bool, u64) {
    let extent = file.extent_at(offset).unwrap();
    (extent.hole, extent.end)
}

#[test]
fn a_punch_leaves_zeros_and_the_length() {
    let storage = SimulatedStorage::new();
    storage.insert("/f", &[7; 20_000]);
    let file = writable(&storage, "/f");
    file.punch(4000, 9000).unwrap();
    let expected = [vec![7; 4000], vec![0; 9000], vec![7; 7000]].concat();
    assert_eq!(bytes(&*file), expected);
    // Whole blocks are holes; the parts of others are zeros that have their place.
    assert_eq!(extent(&*file, 0), (false, 4096));
    assert_eq!(extent(&*file, 4096), (true, 12_288));
    assert_eq!(extent(&*file, 12_288), (false, 20_000));
    assert_eq!(file.allocated().unwrap(), 3 * 4096);

    file.punch(19_000, 1 << 40).unwrap();
    file.punch(30_000, u64::MAX).unwrap();
    assert_eq!(file.len().unwrap(), 20_000);
    assert_eq!(bytes(&*file)[18_999..], [&[7][..], &[0; 1000]].concat());
    let reader = storage.open("/f".as_ref()).unwrap();
    assert_eq!(reader.punch(0, 1).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn a_punch_is_lost_or_torn_until_a_sync() {
    let storage = with_file(0);
    storage.insert("/d/f", &sectors(&[1, 2, 0, 4, 5]));
    let file = writable(&storage, "/d/f");
    file.punch(0, 4 * 512).unwrap();
    let recording = storage.recording();
    assert_eq!(left(&recording, &NOT_TORN, 0, "/d/f"), files(&[&[1, 2, 0, 4, 5], &[0, 0, 0, 0, 5]]));
    // Heads, tails and holes; the third sector was zero before.
    let torn = left(&recording, &[Level::L3], 0, "/d/f");
    let heads: [&[u8]; 3] = [&[0, 2, 0, 4, 5], &[0, 0, 0, 4, 5], &[0, 0, 0, 0, 5]];
    let tails: [&[u8]; 2] = [&[1, 0, 0, 0, 5], &[1, 2, 0, 0, 5]];
    let holes: [&[u8]; 1] = [&[0, 2, 0, 0, 5]];
    assert_eq!(torn, files(&[&heads[..], &tails, &holes].concat()));
    // A length is no matter of a punch.
    assert_eq!(recording.crashes(Level::L4, 0).iter().filter(|crash| crash.after() > 1).count(), 6);
    assert_eq!(left(&recording, &[Level::L4], 2, "/d/f"), files(&[&[0, 0, 0, 0, 5]]));

    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &Level::ALL, 3, "/d/f"), files(&[&[0, 0, 0, 0, 5]]));
}

#[test]
fn a_punch_and_a_write_are_lost_apart() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1, 2]));
    file.punch(0, 512).unwrap();
    let all: [&[u8]; 3] = [&[0, 0], &[1, 2], &[0, 2]];
    assert_eq!(left(&storage.recording(), &[Level::L2], 3, "/d/f"), files(&all));
    // What lay behind the end when it was done is no part of it, also when the growth came first.
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    file.punch(0, 5000).unwrap();
    let Operation::Punch { offset, length, .. } = storage.recording().operations()[2].operation else {
        panic!("the third operation is the punch");
    };
    assert_eq!((offset, length), (0, 512));
}

#[test]
fn what_is_punched_and_filled_again_can_be_stale() {
    let storage = with_file(16);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1; 16]));
    file.sync().unwrap();
    file.punch(0, 4096).unwrap();
    file.sync().unwrap();
    put(&*file, 512, &sectors(&[2]));
    let state = |first: u8| [&[0, first][..], &[0; 6], &[1; 8]].concat();
    let states = [0, 2, STALE].map(state);
    assert_eq!(left(&storage.recording(), &[Level::L4], 5, "/d/f"), states.into_iter().map(Some).collect());
}

#[test]
fn a_clone_has_the_bytes_and_the_holes_of_its_source() {
    let storage = SimulatedStorage::new();
    let blocks = |values: &[u8]| values.iter().flat_map(|value| [*value; 4096]).collect::<Vec<_>>();
    storage.insert("/from", &blocks(&[1, 2, 3, 4])[..13_000]);
    storage.insert("/to", &blocks(&[9, 9]));
    let [from, to] = ["/from", "/to"].map(|path| writable(&storage, path));
    from.punch(4096, 4096).unwrap();
    to.clone_range(&*from, 0, 8192, 4096).unwrap();
    assert_eq!(bytes(&*to), blocks(&[9, 1, 0]));
    assert_eq!(extent(&*to, 8192), (true, 12_288));
    // Up to the end of the source, where that becomes the end.
    to.clone_range(&*from, 8192, 13_000 - 8192, 8192).unwrap();
    assert_eq!(bytes(&*to), blocks(&[9, 1, 3, 4])[..13_000]);
    // The two go their own ways, and one file can share with itself.
    put(&*from, 0, &[5; 10]);
    to.clone_range(&*to, 0, 4096, 16_384).unwrap();
    put(&*to, 0, &[6; 4096]);
    assert_eq!(bytes(&*to), [&blocks(&[6, 1, 3, 4])[..13_000], &[0; 16_384 - 13_000], &[9; 4096]].concat());
}

#[test]
fn what_cannot_be_shared_is_to_be_copied() {
    let (storage, f, g) = with_two([1; 4], [2; 8]);
    put(&*g, 4096, &[3; 8192]);
    let elsewhere = SimulatedStorage::new();
    elsewhere.insert("/g", &[0; 4096]);
    let foreign = elsewhere.open("/g".as_ref()).unwrap();
    let memory = MemoryStorage::new();
    memory.insert("/g", vec![0; 4096]);
    let strange = memory.open("/g".as_ref()).unwrap();
    let before = storage.digest();
    let cases: [(&dyn StorageFile, u64, u64, u64); 7] = [
        (&*foreign, 0, 4096, 0),
        (&*strange, 0, 4096, 0),
        (&*g, 512, 4096, 0),
        (&*g, 0, 4096, 512),
        (&*g, 0, 512, 0),
        (&*g, 8192, 8192, 0), // behind the end of the source
        (&*f, 4096, 4096, 0),
    ];
    for (number, (source, from, length, to)) in cases.into_iter().enumerate() {
        let result = f.clone_range(source, from, length, to);
        assert_eq!(kind_of(result), io::ErrorKind::Unsupported, "case {number}");
    }
    // A last block that is cut short would cut the target short too.
    assert_eq!(kind_of(g.clone_range(&*f, 0, 2048, 0)), io::ErrorKind::Unsupported);
    // Within one file the ranges must lie apart.
    assert_eq!(kind_of(g.clone_range(&*g, 0, 8192, 4096)), io::ErrorKind::Unsupported);
    assert_eq!(storage.digest(), before);

    let reader = storage.open("/d/f".as_ref()).unwrap();
    assert_eq!(reader.clone_range(&*g, 0, 4096, 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    let far = f.clone_range(&*g, 0, 4096, u64::MAX - 4095);
    assert_eq!(far.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    f.clone_range(&*g, 0, 0, 0).unwrap();
    assert_eq!(storage.digest(), before);
}

#[test]
fn a_clone_is_lost_torn_or_cut_until_a_sync() {
    let (storage, f, g) = with_two([1; 4], [2, 2, 2, 2, 2, 2, 2, 3]);
    f.clone_range(&*g, 0, 4096, 0).unwrap();
    let recording = storage.recording();
    let whole: &[u8] = &[2, 2, 2, 2, 2, 2, 2, 3];
    assert_eq!(left(&recording, &NOT_TORN, 0, "/d/f"), files(&[&[1; 4], whole]));
    // The length without the blocks, and the blocks without the length. The source was durable: nothing stale.
    let parted: [&[u8]; 3] = [&[1, 1, 1, 1, 0, 0, 0, 0], &[2; 4], whole];
    assert_eq!(left(&recording, &[Level::L4], 3, "/d/f"), files(&parted));
    let torn = left(&recording, &[Level::L3], 3, "/d/f");
    let some: [&[u8]; 4] = [&[2, 1, 1, 1], &[1, 2, 2, 2, 2, 2, 2, 3], &[2, 2, 1, 2, 2, 2, 2, 3], &[2; 7]];
    assert!(torn.is_superset(&files(&some)));
    assert_eq!(torn.len(), 22, "8 heads, 7 tails that are no head, 8 holes, of which the last grows");

    f.sync().unwrap();
    assert_eq!(left(&storage.recording(), &Level::ALL, 4, "/d/f"), files(&[whole]));
    assert!(storage.is_durable("/d/f"));
}

#[test]
fn a_clone_of_what_has_not_arrived_can_be_stale() {
    let (storage, f, g) = with_two([1; 4], [2; 8]);
    put(&*g, 0, &sectors(&[3; 8]));
    f.clone_range(&*g, 0, 4096, 0).unwrap();
    let unsynced: [&[u8]; 3] = [&[1, 1, 1, 1, 0, 0, 0, 0], &[STALE; 8], &[3; 4]];
    assert_eq!(left(&storage.recording(), &[Level::L4], 4, "/d/f"), files(&unsynced));
    // Once the target is durable its bytes are, whatever becomes of the source.
    f.sync().unwrap();
    let recording = storage.recording();
    assert_eq!(left(&recording, &Level::ALL, 5, "/d/f"), files(&[&[3; 8]]));
    assert!(left(&recording, &[Level::L2], 5, "/d/g").contains(&Some(vec![2; 8])));
}

#[test]
fn a_write_to_a_shared_place_takes_a_new_one() {
    for written in ["/d/f", "/d/g"] {
        let (storage, f, g) = with_two([1; 4], [2; 8]);
        f.clone_range(&*g, 0, 4096, 0).unwrap();
        f.sync().unwrap();
        put(&*writable(&storage, written), 512, &sectors(&[7]));
        let expected = [2, 7, STALE].map(|second| Some([&[2, second][..], &[2; 6]].concat()));
        assert_eq!(
            left(&storage.recording(), &[Level::L4], 6, written),
            BTreeSet::from(expected),
            "{written}"
        );
    }
}

#[test]
fn a_failed_sync_never_makes_a_punch_or_clone_good() {
    let (storage, f, g) = with_two([1; 4], [2; 8]);
    f.clone_range(&*g, 0, 4096, 4096).unwrap();
    f.punch(0, 512).unwrap();
    storage.fail(Fault::once(OperationKind::Sync, 1, Failure::Errno(libc::EIO)));
    f.sync().unwrap_err();
    f.sync().unwrap();
    let zeros = [0; 4];
    let grown = |start: &[u8]| [start, &zeros, &[2; 8]].concat();
    let states = [vec![1; 4], vec![0, 1, 1, 1], grown(&[1; 4]), grown(&[0, 1, 1, 1])];
    assert_eq!(left(&storage.recording(), &[Level::L2], 6, "/d/f"), states.into_iter().map(Some).collect());
    assert!(!storage.is_durable("/d/f"));
}

#[test]
fn punches_and_clones_fail_as_ordered() {
    let (storage, f, g) = with_two([1; 4], [2; 8]);
    let before = storage.digest();
    storage.fail(Fault::once(OperationKind::Punch, 2, Failure::Errno(libc::EIO)));
    storage.fail(Fault::lasting(OperationKind::CloneRange, 1, Failure::Errno(libc::ENOSPC)));
    for _ in 0..2 {
        assert_eq!(f.clone_range(&*g, 0, 4096, 0).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
    assert_eq!(storage.digest(), before, "a failed clone has no effect");
    f.punch(0, 512).unwrap();
    assert_eq!(f.punch(512, 512).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(short(&bytes(&*f)), [0, 1, 1, 1]);
    f.punch(512, 512).unwrap();
    assert_eq!((storage.calls(OperationKind::Punch), storage.calls(OperationKind::CloneRange)), (3, 2));

    let recording = storage.recording();
    let texts: Vec<String> = recording.operations().iter().skip(2).map(ToString::to_string).collect();
    assert_eq!(texts[0], "clone 4096 bytes at 0 of file 2 to 0 of file 1 (failed)");
    assert_eq!(texts[3], "punch 512 bytes at 512 of file 1 (failed)");
    // What failed has no fate, and a punch has no length to lose.
    for (crash, good) in [
        ("L1@7:-2", false),
        ("L1@7:-4", true),
        ("L3@7:4.head0", true),
        ("L4@7:4.length", false),
        ("L4@7:4.stale", false),
    ] {
        assert_eq!(recording.after(&crash.parse::<Crash>().unwrap()).is_some(), good, "{crash}");
    }
}

#[test]
fn the_hook_sees_punches_and_clones_as_writes() {
    let (storage, f, g) = with_two([1; 4], [2; 8]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    storage.before_write(move |write| {
        let note = (write.path.display().to_string(), write.offset, short(write.data), write.earlier_durable);
        notes.lock().unwrap().push(note);
    });
    f.punch(512, 1 << 30).unwrap();
    f.clone_range(&*g, 0, 4096, 0).unwrap();
    let expected = [("/d/f".to_owned(), 512, vec![0; 3], true), ("/d/f".to_owned(), 0, vec![2; 8], false)];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn files_in_memory_do_the_same() {
    let memory = MemoryStorage::new();
    memory.insert("/f", vec![1; 10]);
    memory.insert("/g", vec![2; 10]);
    let [f, g] = ["/f", "/g"].map(|path| memory.open_writable(path.as_ref()).unwrap());
    f.punch(3, 4).unwrap();
    f.punch(9, u64::MAX).unwrap();
    f.punch(100, 1).unwrap();
    assert_eq!(bytes(&*f), [1, 1, 1, 0, 0, 0, 0, 1, 1, 0]);
    f.clone_range(&*g, 8, 2, 11).unwrap();
    assert_eq!(bytes(&*f), [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 2, 2]);
    f.clone_range(&*f, 0, 3, 3).unwrap();
    f.clone_range(&*g, 0, 0, 99).unwrap();
    assert_eq!(bytes(&*f), [1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 2, 2]);
    for (source, from, length, to) in [(&g, 8, 3, 0), (&g, u64::MAX, 2, 0), (&f, 0, 3, 2)] {
        assert_eq!(kind_of(f.clone_range(&**source, from, length, to)), io::ErrorKind::Unsupported);
    }
    let other = SimulatedStorage::new();
    other.insert("/g", &[0; 4096]);
    let strange = other.open("/g".as_ref()).unwrap();
    assert_eq!(kind_of(f.clone_range(&*strange, 0, 4096, 0)), io::ErrorKind::Unsupported);
    assert_eq!(bytes(&*f), [1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 2, 2]);
}
