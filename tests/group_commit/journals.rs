//! Journals that are damaged in any way decide nothing.

use std::path::PathBuf;

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
    night::Night,
};

/// The storage when the decision is whole, and nothing has come of it.
fn decided(night: &Night) -> (impl Fn() -> SimulatedStorage, PathBuf) {
    let recording = night.recording();
    let crash = Crash::new(Level::L0, decision(night, &recording) + 1, []);
    let is_journal = |path: &PathBuf| path.to_string_lossy().ends_with(".journal");
    let journal = recording.after(&crash).unwrap().paths().into_iter().find(is_journal).unwrap();
    (move || recording.after(&crash).unwrap(), journal)
}

/// Lets the journal be cut, altered and torn at each place.
pub fn decide_nothing_when_damaged(night: &Night) {
    let (begin, journal) = decided(night);
    let whole = begin().contents(&journal).unwrap();
    assert_eq!(night.settle(&begin()), Ok(Side::All), "undamaged");
    let length_of = |at: usize| 64 + u64::from_le_bytes(whole[at + 24..at + 32].try_into().unwrap()) as usize;
    let (first, second) = (length_of(0), length_of(4096));
    assert_eq!(whole.len(), 4096 + second);
    let step = if exhaustive() { 1 } else { 23 };
    let mut tried = 0;
    let mut judge = |what: String, bytes: &[u8], first_is_whole: bool, expected: Side| {
        let storage = begin();
        let file = storage.open_writable(&journal).unwrap();
        file.set_len(0).unwrap();
        file.write_at(bytes, 0).unwrap();
        drop(file);
        let side = if first_is_whole {
            night.settle(&storage)
        } else {
            // Nobody knows its temporary files any more. They stay, and harm nobody. A journal that has more than a first block
            // was begun: it is told, and stays.
            let before = storage.digest();
            let recovery = night.recover(&storage).unwrap();
            if bytes.len() <= 4096 {
                assert!(recovery.items.is_empty(), "{what}: {recovery:?}");
            } else {
                let [item] = &recovery.items[..] else { panic!("{what}: {recovery:?}") };
                assert_eq!((item.kind, &item.path), (RecoveryKind::Unfinished, &journal), "{what}");
                assert_eq!(storage.digest(), before, "{what}: something was done");
                storage.unlink(&journal).unwrap();
            }
            for path in storage.paths().iter().filter(|path| path.to_string_lossy().ends_with(".tmp")) {
                storage.unlink(path).unwrap();
            }
            night.settle(&storage)
        };
        assert_eq!(side, Ok(expected), "{}: {what}", night.name);
        tried += 1;
    };
    for length in (0..whole.len()).step_by(step).chain([first, 4096, 4096 + 512, whole.len() - 1]) {
        judge(format!("cut to {length} bytes"), &whole[..length], length >= first, Side::Nothing);
    }
    for at in (0..first).chain(4096..whole.len()).step_by(step).chain([first - 1, whole.len() - 1]) {
        for bit in if exhaustive() { vec![0, 3, 7] } else { vec![at % 8] } {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            judge(format!("bit {bit} of byte {at}"), &bytes, at >= first, Side::Nothing);
        }
    }
    for sector in (0..whole.len()).step_by(512) {
        for filler in [0, 0xAA] {
            let mut bytes = whole.clone();
            let end = (sector + 512).min(whole.len());
            bytes[sector..end].fill(filler);
            let between = sector >= first && end <= 4096;
            let expected = if between { Side::All } else { Side::Nothing };
            judge(format!("{filler:#x} in the sector at {sector}"), &bytes, sector >= first, expected);
        }
    }
    let swapped = [&whole[4096..], &vec![0; 4096 - second % 4096][..], &whole[..first]].concat();
    judge("swapped".into(), &swapped, false, Side::Nothing);
    let more = [&whole[..], &[0xAA; 700]].concat();
    judge("with more behind it".into(), &more, true, Side::All);
    println!("{}: {tried} journals", night.name);
    assert!(tried > 100);
}
