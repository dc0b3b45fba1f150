//! Tears beside losses, and inside a sector.

use std::collections::BTreeSet;

use holstein::storage::{SimulatedStorage, simulated::Level};

use crate::{
    put,
    rules::{sectors, short},
    writable,
};

#[test]
fn a_write_tears_while_another_one_is_lost() {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &sectors(&[0, 0]));
    storage.insert("/d/g", &sectors(&[0]));
    storage.insert("/d/h", &sectors(&[0]));
    put(&*writable(&storage, "/d/f"), 0, &sectors(&[1, 2]));
    put(&*writable(&storage, "/d/g"), 0, &sectors(&[3]));
    put(&*writable(&storage, "/d/h"), 0, &sectors(&[4]));
    let recording = storage.recording();
    let left: BTreeSet<Vec<u8>> = recording
        .crashes(Level::L7, 1)
        .iter()
        .map(|crash| recording.after(crash).unwrap())
        .map(|state| ["/d/f", "/d/g", "/d/h"].map(|path| short(&state.contents(path).unwrap())).concat())
        .collect();
    let torn = [[1, 0], [0, 2], [1, 2]];
    let others = [[0, 0], [0, 4], [3, 0]];
    let all = torn.iter().flat_map(|torn| others.iter().map(|others| [*torn, *others].concat()));
    assert_eq!(left, all.collect(), "each way of the one beside each loss, or all");
    // In no other level.
    let others = Level::ALL.into_iter().filter(|level| *level != Level::L7);
    for crash in others.flat_map(|level| recording.crashes(level, 1)).filter(|crash| crash.after() == 6) {
        let state = recording.after(&crash).unwrap();
        let [f, g] = ["/d/f", "/d/g"].map(|path| short(&state.contents(path).unwrap()));
        assert!(f == [0, 0] || f == [1, 2] || g == [3], "{crash}");
    }
}

#[test]
fn a_first_sector_tears_between_two_bytes() {
    let storage = SimulatedStorage::new();
    storage.insert("/d/f", &[0; 1024]);
    let file = writable(&storage, "/d/f");
    let mut data = [0; 512];
    data[100..110].fill(7);
    put(&*file, 0, &data);
    put(&*file, 512, &[9; 512]);
    let recording = storage.recording();
    let mut left = BTreeSet::new();
    for crash in recording.crashes(Level::L9, 1) {
        let bytes = recording.after(&crash).unwrap().contents("/d/f").unwrap();
        let sevens: Vec<usize> = (0..512).filter(|at| bytes[*at] == 7).collect();
        assert!(bytes[512..].iter().all(|byte| *byte == bytes[512]), "{crash}: no other sector tears");
        left.insert((sevens[0], sevens.len()));
    }
    let heads = (1..10).map(|count| (100, count));
    let tails = (1..10).map(|count| (110 - count, count));
    assert_eq!(left, heads.chain(tails).collect());
}
