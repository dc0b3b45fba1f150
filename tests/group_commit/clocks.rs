//! Power cuts that take change times back, kills that leave new ones without data, and first sectors torn between two bytes:
//! none of it costs a bitmap, and nothing that somebody wrote is clean.

use std::collections::HashSet;

use holstein::storage::{
    SimulatedStorage,
    simulated::{Clock, Crash, Level, Recording},
};

use crate::{
    crashes::decision,
    images::fork,
    judge::{Side, count, exhaustive},
    night::{Night, Recipe, Source},
};

/// Where an image of version 3 has its autoclear bits, the highest ones first, and the mark among them.
const AUTOCLEAR: usize = 88;
const MARK: u8 = 0x80;

/// Nobody comes in between: there is nothing or all, as if there were no times.
pub fn cost_nothing(night: &Night) {
    let recording = night.recording();
    let marked = recording.after(&Crash::new(Level::L0, decision(night, &recording), [])).unwrap();
    let unmarked = |storage: &SimulatedStorage, source: &Source| {
        let sector = |storage: &SimulatedStorage| storage.contents(&source.path).unwrap()[..512].to_vec();
        let mut old = sector(&marked);
        let has_mark = old[AUTOCLEAR] & MARK > 0;
        old[AUTOCLEAR..AUTOCLEAR + 4].fill(0);
        has_mark && sector(storage) == old
    };
    let mut states = [0, 0];
    for (level, judged) in [Level::L8, Level::L9].into_iter().zip(&mut states) {
        let mut seen = HashSet::new();
        let mut crashes = recording.crashes(level, 1);
        crashes.retain(|crash| crash.after() >= decision(night, &recording));
        let step = if exhaustive() { 1 } else { crashes.len().div_ceil(250).max(1) };
        for crash in crashes.iter().step_by(step) {
            let Some(storage) = recording.after(crash) else { continue };
            let done = recording.marks_before(crash) > 0;
            if !seen.insert((storage.digest(), crash.times().to_vec(), done)) {
                continue;
            }
            // Torn so that nothing but its mark is gone, the old sector is what another program leaves: that costs a full copy.
            if level == Level::L9 && night.disks.iter().any(|source| unmarked(&storage, source)) {
                continue;
            }
            *judged += 1;
            match night.settle(&storage) {
                Ok(Side::Nothing) if done => panic!("{}: {crash}: the run had succeeded", night.name),
                Ok(_) => {}
                Err(reason) => panic!("{}: {crash}: {reason}", night.name),
            }
        }
    }
    let kills = killed_within(night, &recording);
    let all = count(states[0] + states[1] + kills);
    println!(
        "{}: {} states with other times, {} with a torn first sector, {kills} kills within a write; {all} states in all by now",
        night.name, states[0], states[1]
    );
    assert!(states[0] > 20 && states[1] > 0 && kills > 2, "{states:?}, {kills}");
}

/// The process dies in a write that has set the time alone.
fn killed_within(night: &Night, recording: &Recording) -> usize {
    let mut kills = 0;
    for at in decision(night, recording)..recording.operations().len() {
        let Some(storage) = recording.killed_within(at) else { continue };
        kills += 1;
        if let Err(reason) = night.settle(&fork(&storage)) {
            panic!("{}: killed within operation {at}: {reason}", night.name);
        }
    }
    kills
}

/// The clock of the file system stands still for as long as a run takes, or is behind: what is written then is seen, or the
/// bitmaps cost a full copy.
#[test]
fn no_clock_makes_a_difference() {
    let recipe = Recipe {
        name: "clocks",
        disks: &[("cluster_size=4k", 512)],
        backups: &[(0, "/backups/a.qcow2", "a")],
        others: &[],
        replaced: &[],
        journal: None,
        lacks: &[],
    };
    let night = recipe.make();
    for clock in [Clock { tick: 50, lag: 0 }, Clock { tick: 20, lag: 15 }, Clock { tick: u64::MAX, lag: 0 }] {
        let storage: SimulatedStorage = night.storage();
        storage.set_clock(clock);
        night.run(&storage).unwrap();
        let recording = storage.recording();
        for (crash, state) in recording.states(&[Level::L0, Level::L1, Level::L8], 200, 1) {
            if let Err(reason) = night.settle(&state) {
                panic!("{clock:?}, {crash}: {reason}");
            }
        }
    }
}
