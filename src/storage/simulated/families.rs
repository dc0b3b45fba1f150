//! The families of crashes: which operations are lost or torn together.
//!
//! States that differ only in what happened after the crash are the same. So a family looks at few moments:
//! [`moments_of_change`], and [`ends_of_epochs`], where most is pending.

use std::collections::BTreeMap;

use super::{
    contents::sectors,
    crash::{Crash, Fate, Level},
    log::{Operation, Place},
    recording::Recording,
};

/// Up to so many operations all their subsets are taken.
const SMALL_EPOCH: usize = 12;
/// Up to so many operations all pairs are taken.
const ALL_PAIRS: usize = 64;
/// Otherwise so many, chosen by the seed.
const SAMPLES: usize = 2000;
/// So many tears of one operation beside losses.
const TEARS: usize = 200;
/// So many of the last change times that a file had.
const LAST_TIMES: usize = 3;
/// Into so many parts a sector is torn.
const CUTS: usize = 24;
/// Up to so many changes of names all their subsets are taken.
const FEW_NAMES: usize = 6;
/// Up to so many operations of one file all their subsets are combined with those of others.
const FEW_OF_A_FILE: usize = 3;

/// All crashes of one level, except that large epochs are sampled. Several can leave the same state.
pub(super) fn crashes(recording: &Recording, level: Level, seed: u64) -> Vec<Crash> {
    let mut random = Random(seed);
    let mut found = Found { level, crashes: Vec::new() };
    match level {
        Level::L0 => (0..=recording.operations().len()).for_each(|after| found.add(after, [])),
        Level::L1 => one_or_two_lost(recording, &mut random, &mut found),
        Level::L2 => subsets_of_epochs(recording, &mut random, &mut found),
        Level::L3 => torn_writes(recording, &mut found),
        Level::L4 => lengths_and_places(recording, &mut found),
        Level::L5 => names(recording, &mut random, &mut found),
        Level::L6 => products(recording, &mut random, &mut found),
        Level::L7 => torn_beside_losses(recording, &mut random, &mut found),
        Level::L8 => times(recording, &mut found),
        Level::L9 => torn_first_sectors(recording, &mut found),
    }
    found.crashes
}

struct Found {
    level: Level,
    crashes: Vec<Crash>,
}

impl Found {
    fn add(&mut self, after: usize, fates: impl IntoIterator<Item = (usize, Fate)>) {
        self.crashes.push(Crash::new(self.level, after, fates));
    }

    fn lose(&mut self, after: usize, lost: impl IntoIterator<Item = usize>) {
        self.add(after, lost.into_iter().map(|number| (number, Fate::Lost)));
    }
}

/// The moments behind an operation that changed something, and the marks.
fn moments_of_change(recording: &Recording) -> impl Iterator<Item = usize> {
    let log = recording.operations();
    (1..=log.len()).filter(|after| log[after - 1].has_effect() || recording.is_marked(*after))
}

/// The moments before each sync, the marks, and the end.
fn ends_of_epochs(recording: &Recording) -> impl Iterator<Item = usize> {
    let log = recording.operations();
    let is_end =
        |after: &usize| recording.is_marked(*after) || log.get(*after).is_none_or(|record| record.is_sync());
    (0..=log.len()).filter(is_end).filter(|after| !recording.pending(*after).is_empty())
}

/// The moments at which a crash that spares the rest can hit an operation: right behind it, and the last one
/// before it is durable.
fn moments_to_hit(recording: &Recording, number: usize) -> Vec<usize> {
    let is_pending = |after: &usize| recording.pending(*after).binary_search(&number).is_ok();
    let last = (number + 1..=recording.operations().len()).take_while(is_pending).last();
    let mut moments: Vec<usize> = last.map_or(vec![], |last| vec![number + 1, last]);
    moments.dedup();
    moments
}

/// Pairs of `list`; of a long one a sample.
fn pairs(list: &[usize], random: &mut Random) -> Vec<[usize; 2]> {
    if list.len() > ALL_PAIRS {
        return (0..SAMPLES)
            .map(|_| [list[random.below(list.len())], list[random.below(list.len())]])
            .collect();
    }
    let behind =
        |(at, first): (usize, &usize)| list[at + 1..].iter().map(|s| [*first, *s]).collect::<Vec<_>>();
    list.iter().enumerate().flat_map(behind).collect()
}

fn one_or_two_lost(recording: &Recording, random: &mut Random, found: &mut Found) {
    for after in moments_of_change(recording) {
        let pending = recording.pending(after);
        pending.iter().for_each(|number| found.lose(after, [*number]));
        pairs(pending, random).into_iter().for_each(|pair| found.lose(after, pair));
    }
}

fn subsets_of_epochs(recording: &Recording, random: &mut Random, found: &mut Found) {
    for after in ends_of_epochs(recording) {
        let pending = recording.pending(after);
        if pending.len() <= SMALL_EPOCH {
            subsets(pending).for_each(|lost| found.lose(after, lost));
            continue;
        }
        let mut keep = |kept: &[usize]| {
            found.lose(after, pending.iter().copied().filter(|number| !kept.contains(number)));
        };
        keep(&[]);
        pending.iter().for_each(|number| keep(&[*number]));
        pairs(pending, random).iter().for_each(|pair| keep(pair));
        for _ in 0..SAMPLES {
            // From few to nearly all.
            let share = random.below(1 << 16);
            let kept: Vec<usize> =
                pending.iter().copied().filter(|_| random.below(1 << 16) < share).collect();
            keep(&kept);
        }
    }
}

fn torn_writes(recording: &Recording, found: &mut Found) {
    for (number, fates) in tears(recording) {
        for after in moments_to_hit(recording, number) {
            fates.iter().for_each(|fate| found.add(after, [(number, *fate)]));
        }
    }
}

/// The operations that can tear, and how.
fn tears(recording: &Recording) -> impl Iterator<Item = (usize, Vec<Fate>)> {
    (0..recording.operations().len()).filter_map(|number| {
        let record = &recording.operations()[number];
        let (file, offset, length) = record.operation.changed_bytes().filter(|_| record.has_effect())?;
        if sectors(offset, length) < 2 {
            return None;
        }
        let contents = |after| recording.prefix(after).contents(file);
        let (before, after) = (contents(number)?, contents(number + 1)?);
        let changed = after.changed_sectors(before, offset, length);
        let ways = |sector: &u32| [Fate::Head(sector + 1), Fate::Tail(*sector), Fate::Hole(*sector)];
        (changed.len() > 1).then(|| (number, changed.iter().flat_map(ways).collect()))
    })
}

/// While an operation is torn another one, or all others, are lost, at the last moment that can be.
fn torn_beside_losses(recording: &Recording, random: &mut Random, found: &mut Found) {
    for (number, fates) in tears(recording) {
        let Some(&after) = moments_to_hit(recording, number).last() else { continue };
        let others: Vec<usize> = recording.pending(after).iter().copied().filter(|n| *n != number).collect();
        let Some(pairs) = others.len().checked_mul(fates.len()).filter(|pairs| *pairs > 0) else { continue };
        let lost = |numbers: &[usize], fate| {
            numbers.iter().map(|n| (*n, Fate::Lost)).chain([(number, fate)]).collect::<Vec<_>>()
        };
        fates.iter().for_each(|fate| found.add(after, lost(&others, *fate)));
        let mut pair = |pair: usize| {
            found.add(after, lost(&[others[pair % others.len()]], fates[pair / others.len()]));
        };
        match pairs {
            ..=TEARS => (0..pairs).for_each(&mut pair),
            _ => (0..TEARS).for_each(|_| pair(random.below(pairs))),
        }
    }
}

/// Change times that are those of an earlier moment, file by file and all together; and the new one of an operation that
/// got no further.
fn times(recording: &Recording, found: &mut Found) {
    let log = recording.operations();
    let changed =
        |number: &usize| log[*number].operation.changed_file().filter(|_| log[*number].has_effect());
    let mut moments: Vec<usize> = ends_of_epochs(recording).chain(moments_of_change(recording)).collect();
    moments.push(log.len());
    moments.sort_unstable();
    moments.dedup();
    for after in moments {
        let mut files: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for number in 0..after {
            if let Some(file) = changed(&number) {
                files.entry(file).or_default().push(number);
            }
        }
        let pending = recording.pending(after);
        for lost in [&[][..], pending] {
            let mut add = |times: Vec<(u64, usize)>| {
                let crash = Crash::new(found.level, after, lost.iter().map(|number| (*number, Fate::Lost)));
                found.crashes.push(crash.with_times(times));
            };
            for (file, changes) in &files {
                // The last ones, and the first.
                let last = changes.iter().rev().take(LAST_TIMES);
                last.chain(changes.first()).for_each(|moment| add(vec![(*file, *moment)]));
            }
            add(files.iter().map(|(file, changes)| (*file, changes[0])).collect());
            add(files.iter().map(|(file, changes)| (*file, changes[changes.len() - 1])).collect());
            if after < log.len()
                && let Some(file) = changed(&after)
            {
                add(vec![(file, after + 1)]);
            }
        }
    }
}

/// The first sector of a file, cut behind each of some bytes that change, from either end.
fn torn_first_sectors(recording: &Recording, found: &mut Found) {
    for (number, record) in recording.operations().iter().enumerate().filter(|(_, r)| r.has_effect()) {
        let Some((file, offset, length)) = record.operation.changed_bytes() else { continue };
        let contents = |after| recording.prefix(after).contents(file);
        let (Some(before), Some(after)) = (contents(number), contents(number + 1)) else { continue };
        let changed = after.changed_bytes(before, offset, length);
        let step = changed.len().div_ceil(CUTS).max(1);
        for after in moments_to_hit(recording, number) {
            for byte in changed.iter().skip(1).step_by(step) {
                found.add(after, [(number, Fate::Bytes(*byte))]);
                found.add(after, [(number, Fate::From(*byte))]);
            }
        }
    }
}

fn lengths_and_places(recording: &Recording, found: &mut Found) {
    let log = recording.operations();
    let variants: Vec<&[Fate]> = (0..log.len()).map(|number| variants(recording, number)).collect();
    for (number, fates) in variants.iter().enumerate().filter(|(_, fates)| !fates.is_empty()) {
        for after in moments_to_hit(recording, number) {
            fates.iter().for_each(|fate| found.add(after, [(number, *fate)]));
        }
    }
    for after in ends_of_epochs(recording) {
        let pending = recording.pending(after);
        let lengths = || pending.iter().filter(|n| matches!(log[**n].operation, Operation::SetLen { .. }));
        for fate in VARIANTS {
            let concerned = || pending.iter().filter(|number| variants[**number].contains(&fate));
            found.add(after, concerned().map(|number| (*number, fate)));
            let without = lengths().map(|number| (*number, Fate::Lost));
            found.add(after, concerned().map(|number| (*number, fate)).chain(without));
        }
    }
}

const VARIANTS: [Fate; 3] = [Fate::Length, Fate::Stale, Fate::Data];

/// How length, place and data of an operation can part.
fn variants(recording: &Recording, number: usize) -> &'static [Fate] {
    let record = &recording.operations()[number];
    let Some((file, offset, length)) = record.operation.changed_bytes().filter(|_| record.has_effect())
    else {
        return &[];
    };
    let Some(before) = recording.prefix(number).contents(file) else { return &[] };
    let grows = offset + length as u64 > before.length();
    match &record.operation {
        Operation::Write { .. } if grows || before.would_allocate(offset, length as u64) => &VARIANTS,
        Operation::CloneRange { source, .. } => {
            let log = recording.operations();
            let unsynced = |n: &usize| log[*n].operation.changed_file() == Some(*source);
            match recording.pending(number).iter().any(unsynced) {
                true => &VARIANTS,
                // What is shared is on the disk.
                false if grows => &[Fate::Length, Fate::Data],
                false => &[],
            }
        }
        _ => &[],
    }
}

fn names(recording: &Recording, random: &mut Random, found: &mut Found) {
    let log = recording.operations();
    let mut moments: Vec<usize> = ends_of_epochs(recording).collect();
    moments.extend(
        moments_of_change(recording).filter(|after| log[after - 1].operation.changed_file().is_none()),
    );
    moments.sort_unstable();
    moments.dedup();
    for after in moments {
        let (data, names): (Vec<usize>, Vec<usize>) =
            recording.pending(after).iter().partition(|n| log[**n].operation.changed_file().is_some());
        if names.is_empty() {
            continue;
        }
        let lost_names = if names.len() <= FEW_NAMES {
            subsets(&names).collect()
        } else {
            let mut lists = vec![Vec::new(), names.clone()];
            lists.extend(names.iter().map(|name| vec![*name]));
            // Those of one name keep their order, so the likely loss is of all from some moment on.
            lists.extend((1..names.len()).map(|first| names[first..].to_vec()));
            lists.extend(pairs(&names, random).iter().map(|pair| pair.to_vec()));
            lists
        };
        let mut files: Vec<u64> = data.iter().filter_map(|n| log[*n].operation.changed_file()).collect();
        files.sort_unstable();
        files.dedup();
        let of = |file: u64| {
            let is_its = |number: &usize| log[*number].operation.changed_file() == Some(file);
            data.iter().copied().filter(is_its).collect::<Vec<_>>()
        };
        let mut lost_data = vec![Vec::new(), data.clone()];
        lost_data.extend(files.iter().map(|file| of(*file)));
        for lost in &lost_names {
            lost_data.iter().for_each(|data| found.lose(after, lost.iter().chain(data).copied()));
        }
    }
}

/// Each file and each folder has lost the last of its operations, from any of them on, whatever the others have; of
/// few operations it has lost any.
fn products(recording: &Recording, random: &mut Random, found: &mut Found) {
    let log = recording.operations();
    for after in moments_of_change(recording) {
        let mut places: Vec<(Vec<Place>, Vec<usize>)> = Vec::new();
        for &number in recording.pending(after) {
            let place = log[number].operation.awaits();
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, numbers)) => numbers.push(number),
                None => places.push((place, vec![number])),
            }
        }
        if places.len() < 2 {
            continue;
        }
        let choices: Vec<Vec<Vec<usize>>> = places
            .iter()
            .map(|(_, numbers)| match numbers.len() {
                0..=FEW_OF_A_FILE => subsets(numbers).collect(),
                count => (0..=count).map(|kept| numbers[kept..].to_vec()).collect(),
            })
            .collect();
        let all = choices.iter().try_fold(1_usize, |all, one| all.checked_mul(one.len()));
        let mut lose = |mut number: usize| {
            let lost = choices.iter().flat_map(|choice| {
                let chosen = &choice[number % choice.len()];
                number /= choice.len();
                chosen.iter().copied()
            });
            found.lose(after, lost.collect::<Vec<_>>());
        };
        match all {
            Some(all) if all <= SAMPLES => (0..all).for_each(&mut lose),
            all => (0..SAMPLES).for_each(|_| lose(random.below(all.unwrap_or(usize::MAX)))),
        }
    }
}

/// All subsets of a short list.
fn subsets(list: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    (0..1_u32 << list.len()).map(|mask| {
        let chosen = list.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
        chosen.map(|(_, number)| *number).collect()
    })
}

pub(super) fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut random = Random(seed);
    for end in (1..list.len()).rev() {
        list.swap(end, random.below(end + 1));
    }
}

/// Numbers that depend on the seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((word ^ (word >> 31)) % limit as u64) as usize
    }
}
