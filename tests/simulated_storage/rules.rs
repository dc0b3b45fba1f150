//! Which states a crash may leave, worked out by hand for each rule.

use std::collections::BTreeSet;

use holstein::storage::{
    RenameRule, SimulatedStorage, Storage,
    simulated::{Crash, Failure, Fault, Level, OperationKind, Recording},
};

use crate::{put, writable};

const SECTOR: usize = 512;
pub(crate) const STALE: u8 = 0xAA;

/// A durable file of zeros, as many sectors as said.
pub(crate) fn with_file(sectors: usize) -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &vec![0; sectors * SECTOR]);
    storage
}

/// A file in short: the first byte of each of its sectors, all of whose bytes are equal.
pub(crate) fn short(bytes: &[u8]) -> Vec<u8> {
    let sectors = bytes.chunks(SECTOR);
    sectors.inspect(|sector| assert!(sector.iter().all(|byte| *byte == sector[0]))).map(|s| s[0]).collect()
}

pub(crate) fn sectors(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|value| [*value; SECTOR]).collect()
}

/// All that a crash of these levels leaves of a file, from the moment on when `from` operations were done.
pub(crate) fn left(
    recording: &Recording,
    levels: &[Level],
    from: usize,
    path: &str,
) -> BTreeSet<Option<Vec<u8>>> {
    // States that an earlier crash leaves too are named after that one: each crash is rebuilt for itself.
    let all = levels.iter().flat_map(|level| recording.crashes(*level, 1));
    let late = all.filter(|crash| crash.after() >= from).map(|crash| recording.after(&crash).unwrap());
    late.map(|storage| storage.contents(path).map(|bytes| short(&bytes))).collect()
}

pub(crate) fn files(list: &[&[u8]]) -> BTreeSet<Option<Vec<u8>>> {
    list.iter().map(|values| Some(values.to_vec())).collect()
}

pub(crate) const NOT_TORN: [Level; 4] = [Level::L0, Level::L1, Level::L2, Level::L5];

#[test]
fn what_was_synced_stays() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    file.sync().unwrap();
    put(&*file, 512, &sectors(&[2]));

    let recording = storage.recording();
    assert_eq!(recording.operations().len(), 4);
    assert_eq!(left(&recording, &NOT_TORN, 0, "/d/f"), files(&[&[0, 0], &[1, 0], &[1, 2]]));
    assert_eq!(left(&recording, &NOT_TORN, 3, "/d/f"), files(&[&[1, 0], &[1, 2]]));
    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &NOT_TORN, 5, "/d/f"), files(&[&[1, 2]]));
}

#[test]
fn writes_are_lost_in_any_combination() {
    let storage = with_file(3);
    let file = writable(&storage, "/d/f");
    for number in 1..=3_u8 {
        put(&*file, u64::from(number - 1) * 512, &sectors(&[number]));
    }
    let recording = storage.recording();
    let subsets: Vec<Vec<u8>> =
        (0..8_u8).map(|mask| (0..3).map(|bit| (mask >> bit & 1) * (bit + 1)).collect()).collect();
    let all: Vec<&[u8]> = subsets.iter().map(Vec::as_slice).collect();
    assert_eq!(left(&recording, &[Level::L2], 0, "/d/f"), files(&all));
    // The prefixes, and all of them without one or two.
    assert_eq!(
        left(&recording, &[Level::L0], 0, "/d/f"),
        files(&[&[0, 0, 0], &[1, 0, 0], &[1, 2, 0], &[1, 2, 3]])
    );
    assert_eq!(left(&recording, &[Level::L1], 4, "/d/f"), files(&[&all[1..7]].concat()));
}

#[test]
fn writes_tear_at_sectors_that_change() {
    let storage = with_file(5);
    let file = writable(&storage, "/d/f");
    // The third one of four does not change.
    put(&*file, 512, &sectors(&[1, 2, 0, 4]));
    let torn = left(&storage.recording(), &[Level::L3], 0, "/d/f");
    let heads: [&[u8]; 3] = [&[0, 1, 0, 0, 0], &[0, 1, 2, 0, 0], &[0, 1, 2, 0, 4]];
    let tails: [&[u8]; 2] = [&[0, 0, 2, 0, 4], &[0, 0, 0, 0, 4]];
    let holes: [&[u8]; 1] = [&[0, 1, 0, 0, 4]];
    assert_eq!(torn, files(&[&heads[..], &tails, &holes].concat()));
}

#[test]
fn unaligned_writes_tear_at_the_sectors_of_the_file() {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &[7; 1024]);
    let file = writable(&storage, "/d/f");
    put(&*file, 500, &[8; 24]);
    let recording = storage.recording();
    let torn = recording.states(&[Level::L3], usize::MAX, 0);
    let eights = |bytes: Vec<u8>| bytes.iter().map(|b| usize::from(*b == 8)).collect::<Vec<_>>();
    let counts: BTreeSet<(usize, usize)> = torn
        .map(|(_, state)| eights(state.contents("/d/f").unwrap()))
        .map(|eights| (eights[..512].iter().sum(), eights[512..].iter().sum()))
        .collect();
    assert_eq!(counts, BTreeSet::from([(12, 0), (0, 12), (12, 12)]));
}

#[test]
fn torn_growth_ends_with_the_head_or_is_full_of_zeros() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    put(&*file, 512, &sectors(&[1, 2]));
    let torn = left(&storage.recording(), &[Level::L3], 0, "/d/f");
    assert_eq!(torn, files(&[&[0, 1], &[0, 1, 2], &[0, 0, 2], &[0, 1, 0]]));
}

#[test]
fn length_and_data_go_separate_ways() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    // The first sector is overwritten in its place, the second one is new.
    put(&*file, 0, &sectors(&[1, 2]));
    let left = left(&storage.recording(), &[Level::L4], 0, "/d/f");
    assert_eq!(left, files(&[&[0, 0], &[0, STALE], &[1]]));
}

#[test]
fn holes_that_are_filled_can_show_stale_bytes() {
    let storage = with_file(0);
    let file = writable(&storage, "/d/f");
    file.set_len(1536).unwrap();
    file.sync().unwrap();
    put(&*file, 512, &sectors(&[5]));
    let left = left(&storage.recording(), &[Level::L4], 3, "/d/f");
    assert_eq!(left, files(&[&[0, 0, 0], &[0, STALE, 0], &[0, 5, 0]]));
}

#[test]
fn a_length_is_lost_beside_data() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    file.set_len(512).unwrap();
    let left = left(&storage.recording(), &[Level::L2], 3, "/d/f");
    assert_eq!(left, files(&[&[0, 0], &[1, 0], &[0], &[1]]));
}

#[test]
fn names_are_durable_with_their_folder() {
    let storage = SimulatedStorage::new();
    storage.make_folder("/d");
    let file = storage.create("/d/tmp".as_ref()).unwrap();
    put(&*file, 0, &sectors(&[1]));
    file.sync().unwrap();
    storage.rename("/d/tmp".as_ref(), "/d/f".as_ref(), RenameRule::NoReplace).unwrap();

    let names = |recording: &Recording, from: usize| -> BTreeSet<Vec<String>> {
        let crashes = NOT_TORN.iter().flat_map(|level| recording.crashes(*level, 0));
        let late =
            crashes.filter(|crash| crash.after() >= from).map(|crash| recording.after(&crash).unwrap());
        late.map(|state| state.paths().iter().map(|path| path.display().to_string()).collect()).collect()
    };
    let lists = |lists: &[&[&str]]| -> BTreeSet<Vec<String>> {
        lists.iter().map(|list| list.iter().map(|name| name.to_string()).collect()).collect()
    };
    assert_eq!(names(&storage.recording(), 4), lists(&[&[], &["/d/tmp"], &["/d/f"]]));
    assert!(!storage.is_durable("/d/f"));
    storage.sync_folder("/elsewhere".as_ref()).unwrap_err();
    storage.sync_folder("/".as_ref()).unwrap();
    assert_eq!(names(&storage.recording(), 5), lists(&[&[], &["/d/tmp"], &["/d/f"]]));
    storage.sync_folder("/d".as_ref()).unwrap();
    assert_eq!(names(&storage.recording(), 6), lists(&[&["/d/f"]]));
    assert!(storage.is_durable("/d/f"));

    storage.unlink("/d/f".as_ref()).unwrap();
    assert_eq!(names(&storage.recording(), 7), lists(&[&[], &["/d/f"]]));
}

#[test]
fn a_rename_can_be_durable_before_the_data() {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &sectors(&[9]));
    let file = storage.create("/d/tmp".as_ref()).unwrap();
    put(&*file, 0, &sectors(&[1]));
    storage.rename("/d/tmp".as_ref(), "/d/f".as_ref(), RenameRule::Exchange).unwrap();
    let left = left(&storage.recording(), &[Level::L5], 3, "/d/f");
    assert_eq!(left, files(&[&[9], &[1], &[]]));
}

#[test]
fn a_swap_and_the_removal_behind_it_keep_their_order() {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &sectors(&[1]));
    storage.insert("/d/tmp", &sectors(&[2]));
    storage.rename("/d/tmp".as_ref(), "/d/f".as_ref(), RenameRule::Exchange).unwrap();
    storage.unlink("/d/tmp".as_ref()).unwrap();
    let both: BTreeSet<_> = storage
        .recording()
        .states(&Level::ALL, usize::MAX, 0)
        .map(|(_, state)| ["/d/f", "/d/tmp"].map(|path| state.contents(path).map(|bytes| bytes[0])))
        .collect();
    // Never the old file under its name and the new one gone.
    assert_eq!(both, BTreeSet::from([[Some(1), Some(2)], [Some(2), Some(1)], [Some(2), None]]));
}

#[test]
fn a_failed_sync_is_never_made_good() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    storage.fail(Fault::once(OperationKind::Sync, 1, Failure::Errno(libc::EIO)));
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &NOT_TORN, 4, "/d/f"), files(&[&[0, 0], &[1, 0]]));
    assert!(!storage.is_durable("/d/f"));
    let mut now = [0; 512];
    assert_eq!(file.read_at(&mut now, 0).unwrap(), 512);
    assert_eq!(now[0], 1, "who still runs sees what it wrote");

    // Later writes are another matter.
    put(&*file, 512, &sectors(&[2]));
    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &NOT_TORN, 6, "/d/f"), files(&[&[0, 2], &[1, 2]]));
    put(&*file, 0, &sectors(&[3]));
    file.sync().unwrap();
    assert_eq!(left(&storage.recording(), &NOT_TORN, 8, "/d/f"), files(&[&[3, 2]]));
}

#[test]
fn a_failed_sync_of_a_folder_is_never_made_good() {
    let storage = with_file(1);
    storage.unlink("/d/f".as_ref()).unwrap();
    storage.fail(Fault::once(OperationKind::SyncFolder, 1, Failure::Errno(libc::EIO)));
    storage.sync_folder("/d".as_ref()).unwrap_err();
    storage.sync_folder("/d".as_ref()).unwrap();
    let both = BTreeSet::from([None, Some(vec![0])]);
    assert_eq!(left(&storage.recording(), &NOT_TORN, 3, "/d/f"), both);
}

#[test]
fn names_of_crashes_can_be_read_back() {
    for text in [
        "L0@0",
        "L1@42:-17,-19..21,30.head3",
        "L3@9:0.tail1",
        "L4@9:1.length,2.stale,3.data",
        "L3@9:8.hole7",
        "L6@5:-3",
        "L7@9:-3,8.tail1",
        "L8@9:-3,t1=4,t12=10",
        "L8@9:t1=4",
        "L9@9:8.bytes17",
        "L9@9:8.from17",
    ] {
        assert_eq!(text.parse::<Crash>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "L0",
        "L10@1",
        "L1@x",
        "L1@3:17",
        "L1@3:-3",
        "L1@3:1.head",
        "L1@3:1.lost",
        "L1@3:1.stale2",
        "L8@3:t1",
        "L8@3:t=1",
    ] {
        assert!(text.parse::<Crash>().is_err(), "{text}");
    }
}

#[test]
fn crashes_of_another_recording_are_refused() {
    let storage = with_file(2);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1, 1]));
    file.sync().unwrap();
    file.set_len(7).unwrap();
    let recording = storage.recording();
    for (crash, good) in [
        ("L1@2:-1", true),
        ("L1@3:-1", false),      // durable
        ("L1@2:-0", false),      // the opening
        ("L1@1:1.head1", false), // not yet done
        ("L1@4:-3", true),
        ("L1@4:3.head1", false), // no write
        ("L0@4", true),
        ("L0@5", false),
    ] {
        assert_eq!(recording.after(&crash.parse().unwrap()).is_some(), good, "{crash}");
    }
}
