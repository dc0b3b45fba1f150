//! The simulated storage beside a plain model, over many random histories.

use std::{collections::BTreeSet, ops::Range, path::PathBuf};

use holstein::storage::{
    RenameRule, SimulatedStorage, Storage,
    simulated::{Failure, Fault, Level, OperationKind},
};

use crate::{put, writable};

/// Numbers that depend on the seed alone.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn zero(bytes: &mut [u8], offset: usize, length: usize) {
    let inside = |at: usize| at.min(bytes.len());
    let range = inside(offset)..inside(offset + length);
    bytes[range].fill(0);
}

#[test]
fn a_storage_in_use_is_a_map_of_names_to_bytes() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let storage = SimulatedStorage::new();
        let mut model = std::collections::BTreeMap::<PathBuf, Vec<u8>>::new();
        let mut history = vec![model.clone()];
        for step in 0..60_u8 {
            let path = PathBuf::from(format!("/{}", random.below(4)));
            let other = PathBuf::from(format!("/{}", random.below(4)));
            let (offset, length) = (random.below(9000), random.below(6000) as usize + 1);
            let mut changed = true;
            match (random.below(10), model.get_mut(&path)) {
                (0..=2, Some(bytes)) => {
                    let data = vec![step + 1; length];
                    put(&*storage.open_writable(&path).unwrap(), offset, &data);
                    write(bytes, offset as usize, &data);
                    history.push(model.clone()); // beside the opening, which changes nothing
                }
                (3, Some(bytes)) => {
                    storage.open_writable(&path).unwrap().set_len(offset).unwrap();
                    bytes.resize(offset as usize, 0);
                    history.push(model.clone());
                }
                (4, Some(_)) => {
                    storage.unlink(&path).unwrap();
                    model.remove(&path);
                }
                (5, Some(_)) => {
                    let free = !model.contains_key(&other);
                    let done = storage.rename(&path, &other, RenameRule::NoReplace);
                    assert_eq!(done.is_ok(), free);
                    changed = free;
                    if free {
                        let bytes = model.remove(&path).unwrap();
                        model.insert(other, bytes);
                    }
                }
                (6, Some(_)) => {
                    let theirs = model.get(&other).cloned();
                    let done = storage.rename(&path, &other, RenameRule::Exchange);
                    assert_eq!(done.is_ok(), theirs.is_some());
                    changed = theirs.is_some();
                    if let Some(theirs) = theirs {
                        let ours = model.insert(path, theirs).unwrap();
                        model.insert(other, ours);
                    }
                }
                (7, Some(_)) => changed = false,
                (8, Some(bytes)) => {
                    storage.open_writable(&path).unwrap().punch(offset, length as u64).unwrap();
                    zero(bytes, offset as usize, length);
                    history.push(model.clone());
                }
                (9, Some(_)) => {
                    // Whole blocks, as many as the other file has from there on.
                    let (from, to) = (random.below(2) * 4096, random.below(3) * 4096);
                    let theirs = model.get(&other).cloned().unwrap_or_default();
                    let length = theirs.len().saturating_sub(from as usize) / 4096 * 4096;
                    if length > 0 {
                        let apart = path != other || from.abs_diff(to) >= length as u64;
                        let source = storage.open(&other).unwrap();
                        let target = storage.open_writable(&path).unwrap();
                        let done = target.clone_range(&*source, from, length as u64, to);
                        assert_eq!(done.is_ok(), apart, "seed {seed} step {step}");
                        if apart {
                            let data = &theirs[from as usize..][..length];
                            write(model.get_mut(&path).unwrap(), to as usize, data);
                        }
                    }
                    changed = false;
                }
                (_, None) => {
                    storage.create(&path).unwrap();
                    model.insert(path, Vec::new());
                }
                _ => unreachable!(),
            }
            if changed {
                history.push(model.clone());
            }
            let seen =
                storage.paths().into_iter().map(|path| (path.clone(), storage.contents(&path).unwrap()));
            assert_eq!(seen.collect::<std::collections::BTreeMap<_, _>>(), model, "seed {seed} step {step}");
            for (path, bytes) in &model {
                let (offset, length) = (random.below(12000) as usize, random.below(6000) as usize);
                let mut buf = vec![0xEE; length];
                let got = storage.open(path).unwrap().read_at(&mut buf, offset as u64).unwrap();
                let expected = bytes.get(offset..).unwrap_or(&[]);
                assert_eq!(buf[..got], expected[..got], "seed {seed} step {step}");
                assert_eq!(got, expected.len().min(length), "seed {seed} step {step}");
            }
            storage.begin();
        }
        assert!(history.len() > 30, "seed {seed} did too little");
    }
}

/// What can be done to the one file of the next test.
#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: usize,
        length: usize,
        value: u8,
    },
    SetLen(usize),
    Punch {
        offset: usize,
        length: usize,
    },
    /// Of the whole other file, a block of `CLONED`.
    Clone {
        offset: usize,
    },
    Sync {
        failed: bool,
    },
}

const CLONED: u8 = 0xC5;

/// The contents that any crash from `from` steps on can leave when operations are lost whole, by the rule as it
/// is written down and without any care for speed.
fn legal(start: &[u8], steps: &[Step]) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for after in 0..=steps.len() {
        let is_durable = |number: usize| {
            let later = steps[number + 1..after].iter();
            later.clone().find_map(|step| match step {
                Step::Sync { failed } => Some(!failed),
                _ => None,
            }) == Some(true)
        };
        let optional: Vec<usize> = (0..after).filter(|number| !is_durable(*number)).collect();
        for mask in 0..1_u32 << optional.len() {
            let mut bytes = start.to_vec();
            for (number, step) in steps.iter().enumerate().take(after) {
                let lost = optional.iter().position(|n| *n == number).is_some_and(|bit| mask >> bit & 1 == 1);
                match step {
                    Step::Write { offset, length, value } if !lost => {
                        write(&mut bytes, *offset, &vec![*value; *length]);
                    }
                    Step::SetLen(length) if !lost => bytes.resize(*length, 0),
                    Step::Punch { offset, length } if !lost => zero(&mut bytes, *offset, *length),
                    Step::Clone { offset } if !lost => write(&mut bytes, *offset, &[CLONED; 4096]),
                    _ => {}
                }
            }
            all.insert(bytes);
        }
    }
    all
}

fn history(random: &mut Random) -> Vec<Step> {
    let step = |number: u64, random: &mut Random| match random.below(13) {
        0..=5 => {
            let (offset, length) = (random.below(8) as usize * 256, (random.below(8) as usize + 1) * 256);
            Step::Write { offset, length, value: number as u8 + 1 }
        }
        6 => Step::SetLen(random.below(10) as usize * 256),
        7..=8 => Step::Sync { failed: false },
        9 => Step::Sync { failed: true },
        10 => Step::Clone { offset: random.below(2) as usize * 4096 },
        _ => Step::Punch { offset: random.below(12) as usize * 256, length: random.below(8) as usize * 256 },
    };
    let mut length = 1024;
    let mut steps: Vec<Step> = (0..9).map(|number| step(number, random)).collect();
    // A punch concerns what is inside the file when it is done, whatever is lost of that later.
    for step in &mut steps {
        match step {
            Step::Write { offset, length: count, .. } => length = length.max(*offset + *count),
            Step::SetLen(count) => length = *count,
            Step::Clone { offset } => length = length.max(*offset + 4096),
            Step::Punch { offset, length: count } => *count = (*count).min(length.saturating_sub(*offset)),
            Step::Sync { .. } => {}
        }
    }
    steps
}

fn run(start: &[u8], steps: &[Step]) -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.insert("/f", start);
    storage.insert("/other", &[CLONED; 4096]);
    let file = writable(&storage, "/f");
    let other = storage.open("/other".as_ref()).unwrap();
    for step in steps {
        match step {
            Step::Write { offset, length, value } => put(&*file, *offset as u64, &vec![*value; *length]),
            Step::SetLen(length) => file.set_len(*length as u64).unwrap(),
            Step::Punch { offset, length } => file.punch(*offset as u64, *length as u64).unwrap(),
            Step::Clone { offset } => file.clone_range(&*other, 0, 4096, *offset as u64).unwrap(),
            Step::Sync { failed: false } => file.sync().unwrap(),
            Step::Sync { failed: true } => {
                storage.fail(Fault::once(OperationKind::Sync, 1, Failure::Errno(libc::EIO)));
                file.sync().unwrap_err();
                storage.stop_failing();
            }
        }
    }
    storage
}

#[test]
fn subsets_are_those_of_the_rule() {
    for seed in 0..150 {
        let start = vec![0xFE; 1024];
        let steps = history(&mut Random(seed));
        let recording = run(&start, &steps).recording();
        let left = |levels: &[Level]| -> BTreeSet<Vec<u8>> {
            recording
                .states(levels, usize::MAX, seed)
                .map(|(_, state)| state.contents("/f").unwrap())
                .collect()
        };
        let legal = legal(&start, &steps);
        assert_eq!(left(&[Level::L0, Level::L1, Level::L2, Level::L5]), legal, "seed {seed}: {steps:?}");
        assert!(left(&[Level::L1]).is_subset(&legal));
    }
}

/// Whatever a level does to a file, it does it to bytes that are not durable.
#[test]
fn no_level_touches_what_is_durable() {
    let (mut torn, mut stale) = (0, 0);
    for seed in 0..150 {
        let start = vec![0xFE; 1024];
        let steps = history(&mut Random(seed));
        let recording = run(&start, &steps).recording();
        for (crash, state) in recording.states(&Level::ALL, usize::MAX, seed) {
            let bytes = state.contents("/f").unwrap();
            // The two openings are operations too.
            let done = &steps[..crash.after().saturating_sub(2)];
            torn += usize::from(crash.level() == Level::L3);
            stale += usize::from(bytes.contains(&0xAA));
            let allowed = allowed(&start, done);
            for (at, byte) in bytes.iter().enumerate() {
                let set = allowed.get(at).unwrap_or_else(|| panic!("seed {seed} {crash}: too long"));
                assert!(set.contains(byte), "seed {seed} {crash}: {byte:#x} at {at}; {steps:?}");
            }
        }
    }
    assert!(torn > 1000 && stale > 300, "{torn} torn, {stale} with stale bytes");
}

/// For each place the bytes that it can have.
fn allowed(start: &[u8], steps: &[Step]) -> Vec<BTreeSet<u8>> {
    let mut sets: Vec<BTreeSet<u8>> = start.iter().map(|byte| BTreeSet::from([*byte])).collect();
    // A durable write leaves no choice.
    for (number, step) in steps.iter().enumerate() {
        let next = steps[number..].iter().find_map(|step| match step {
            Step::Sync { failed } => Some(!failed),
            _ => None,
        });
        let durable = next == Some(true);
        match step {
            Step::Write { offset, length, value } => {
                filled(&mut sets, *offset..offset + length, *value, durable)
            }
            Step::Clone { offset } => filled(&mut sets, *offset..offset + 4096, CLONED, durable),
            Step::SetLen(length) => {
                for set in sets.iter_mut().skip(*length) {
                    set.insert(0);
                }
                while sets.len() < *length {
                    sets.push(BTreeSet::from([0]));
                }
            }
            Step::Punch { offset, length } => {
                for set in sets.iter_mut().skip(*offset).take(*length) {
                    match durable {
                        true => *set = BTreeSet::from([0]),
                        false => drop(set.insert(0)),
                    }
                }
            }
            Step::Sync { .. } => {}
        }
    }
    sets
}

/// A range got one value, or can have it.
fn filled(sets: &mut Vec<BTreeSet<u8>>, range: Range<usize>, value: u8, durable: bool) {
    // What lies behind the old end is zero, or stale where it has a place already.
    sets.resize(sets.len().max(range.end), BTreeSet::from([0, 0xAA]));
    if durable {
        sets[range].fill(BTreeSet::from([value]));
        return;
    }
    for set in &mut sets[range.clone()] {
        set.insert(value);
    }
    // Places come in whole sectors; one that an earlier cut has freed is new again.
    let whole = range.start / 512 * 512..range.end.next_multiple_of(512).min(sets.len());
    sets[whole].iter_mut().for_each(|set| set.extend([0, 0xAA]));
}
