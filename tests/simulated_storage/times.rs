//! Change times apart from the bytes that they are about.

use std::collections::BTreeSet;

use holstein::storage::{
    RenameRule, SimulatedStorage, Storage,
    simulated::{Clock, Crash, Effect, Level},
};

use crate::{
    put,
    rules::{sectors, with_file},
    writable,
};

fn time(storage: &SimulatedStorage) -> i128 {
    storage.open("/d/f".as_ref()).unwrap().version().unwrap().modified
}

fn bytes(storage: &SimulatedStorage) -> u8 {
    storage.contents("/d/f").unwrap()[0]
}

#[test]
fn each_change_has_a_time_of_its_own() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    let mut times = vec![time(&storage)];
    let mut note = || times.push(time(&storage));
    put(&*file, 0, &sectors(&[1]));
    note();
    put(&*file, 0, &sectors(&[1]));
    note();
    file.set_len(100).unwrap();
    note();
    file.punch(0, 10).unwrap();
    note();
    storage.rename("/d/f".as_ref(), "/d/g".as_ref(), RenameRule::NoReplace).unwrap();
    storage.rename("/d/g".as_ref(), "/d/f".as_ref(), RenameRule::NoReplace).unwrap();
    note();
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
    file.sync().unwrap();
    assert_eq!(time(&storage), *times.last().unwrap());
    assert_eq!(file.distinct_version().unwrap().unwrap().modified, *times.last().unwrap());
}

#[test]
fn a_slow_clock_gives_several_changes_one_time() {
    let storage = with_file(1);
    storage.set_clock(Clock { tick: 100, lag: 0 });
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    let first = time(&storage);
    put(&*file, 0, &sectors(&[2]));
    assert_eq!(time(&storage), first, "the clock stood still");

    // Who waits for the next tick sees what comes then.
    let telling = file.distinct_version().unwrap().unwrap().modified;
    assert_eq!(telling, first);
    put(&*file, 0, &sectors(&[3]));
    assert!(time(&storage) > first);

    storage.set_clock(Clock { tick: u64::MAX, lag: 0 });
    put(&*file, 0, &sectors(&[4]));
    assert_eq!(file.distinct_version().unwrap(), None, "the next tick never comes");
}

#[test]
fn a_clock_that_is_behind_gives_the_time_of_an_earlier_change_to_a_later_one() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    for _ in 0..20 {
        put(&*file, 0, &sectors(&[1]));
    }
    storage.set_clock(Clock { tick: 10, lag: 9 });
    put(&*file, 0, &sectors(&[2]));
    // By the user's own clock the tick of that change is over.
    let telling = file.distinct_version().unwrap().unwrap().modified;
    let unseen = (0..10).any(|_| {
        put(&*file, 0, &sectors(&[3]));
        time(&storage) == telling
    });
    assert!(unseen);
}

#[test]
fn a_power_cut_takes_the_time_back_and_leaves_the_bytes() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    let now = || file.version().unwrap().modified;
    let before = now();
    put(&*file, 0, &sectors(&[1]));
    let middle = now();
    put(&*file, 0, &sectors(&[2]));
    let after = now();
    file.sync().unwrap();
    let recording = storage.recording();
    let left: BTreeSet<(u8, i128)> = recording
        .crashes(Level::L8, 0)
        .iter()
        .filter(|crash| crash.after() == 4)
        .map(|crash| recording.after(crash).unwrap())
        .map(|state| (bytes(&state), time(&state)))
        .collect();
    assert_eq!(left, BTreeSet::from([(2, before), (2, middle)]));
    let synced = recording.after(&Crash::new(Level::L0, 4, [])).unwrap();
    assert_eq!((bytes(&synced), time(&synced)), (2, after));
    // All the times that the file can have, and none of a moment that is still to come.
    for (moment, time_then) in [(0, before), (2, middle), (3, after)] {
        let crash = Crash::new(Level::L8, 4, []).with_times([(1, moment)]);
        assert_eq!(time(&recording.after(&crash).unwrap()), time_then, "{crash}");
    }
    for crash in ["L8@3:t1=5", "L8@2:t7=1", "L8@4:t1=5"] {
        assert!(recording.after(&crash.parse().unwrap()).is_none(), "{crash}");
    }
}

#[test]
fn a_new_time_arrives_before_the_bytes() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    put(&*file, 0, &sectors(&[1]));
    put(&*file, 0, &sectors(&[2]));
    let recording = storage.recording();
    let newest = time(&storage);
    let alone = |(crash, state): &(Crash, SimulatedStorage)| {
        crash.after() == 2 && bytes(state) == 1 && time(state) == newest
    };
    assert!(recording.states(&[Level::L8], usize::MAX, 0).any(|state| alone(&state)));

    // A kill alone does that too.
    let killed = recording.killed_within(2).unwrap();
    assert_eq!((bytes(&killed), time(&killed)), (1, newest));
    let log = killed.recording();
    assert_eq!(log.operations()[2].effect, Effect::Time);
    assert_eq!(log.operations()[2].to_string(), "write 512 bytes at 0 of file 1 (its time alone)");
    assert!(log.pending(3) == [1], "{:?}", log.pending(3));
    assert!(recording.killed_within(0).is_none(), "an opening has no time");
    put(&*writable(&killed, "/d/f"), 0, &sectors(&[3]));
    assert!(time(&killed) > newest);
}

#[test]
fn time_goes_on_behind_a_crash() {
    let storage = with_file(1);
    let file = writable(&storage, "/d/f");
    (0..9).for_each(|value| put(&*file, 0, &sectors(&[value])));
    let newest = time(&storage);
    let state = storage.recording().after(&Crash::new(Level::L0, 0, [])).unwrap();
    assert!(time(&state) < newest);
    put(&*writable(&state, "/d/f"), 0, &sectors(&[3]));
    assert!(time(&state) > newest, "what was lost does not come again");
}
