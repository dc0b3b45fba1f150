//! Guest writes and resizes on trial: whatever crashes, each sector of the disk holds what it held at the last
//! flush or what was written since, bitmaps tell of it, a size is old or new as a whole, and QEMU agrees.
//!
//! Reading order: `specimens` (what is written), `workloads` (how), `world` (what may come of it), `runs` (doing
//! it, and the verdict).
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "support/crash.rs"]
mod crash;
#[path = "support/trials/images.rs"]
mod images;
#[path = "support/trials/judge.rs"]
mod judge;
#[path = "support/trials/model.rs"]
mod model;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/trials/refcounts.rs"]
mod refcounts;
#[path = "support/rng.rs"]
mod rng;
#[path = "support/trials/runs.rs"]
mod runs;
#[macro_use]
#[path = "support/trials/specimens.rs"]
mod specimens;
#[path = "support/trials/workloads.rs"]
mod workloads;
#[path = "support/trials/world.rs"]
mod world;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use crash::Trial;
use holstein::storage::simulated::Level;
use images::DISK;
use judge::exhaustive;
use refcounts::Refcounts;
use runs::{Run, Sampler};
use specimens::Specimen;
use workloads::workloads;

/// Of one workload, in a run that is to be exhaustive.
const MOST: usize = 400;

/// All distinct states that were judged.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// Judges states of every workload on a specimen.
fn leave_a_sound_disk(specimen: &Specimen) {
    let samples = Sampler::new(if exhaustive() { 128 } else { 64 });
    let wanted = if exhaustive() { 2500 } else { 90 };
    let (mut states, mut new_blocks, mut new_tables) = (BTreeMap::new(), 0, 0);
    for (name, steps) in workloads(specimen, 40) {
        // Those by chance go on until there are enough states.
        if total(&states) >= wanted && name.starts_with("random") && name != "random-0" {
            break;
        }
        let name = format!("{}-{name}", specimen.recipe.name);
        let run = Run::new(specimen, &steps, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(run.results.iter().all(Result::is_ok), "{name}:\n{}", run.text());
        if let Some(before) = &specimen.refcounts {
            let after = Refcounts::of(&run.storage.contents(DISK).unwrap());
            new_blocks += usize::from(after.blocks > before.blocks);
            new_tables += usize::from(after.table_offset != before.table_offset);
        }
        let recording = run.storage.recording();
        let trial = Trial { name: &name, recording: &recording, limit: 12, seed: 1 };
        let judged = trial.judge_up_to(MOST, |crash, storage| {
            let judge = || {
                let found = run.judge(recording.marks_before(crash), storage)?;
                samples.take(specimen, storage, &found)
            };
            judge().map_err(|reason| format!("{reason}\n{}", run.text()))
        });
        let Some(judged) = judged else { continue };
        judged.into_iter().for_each(|(level, count)| *states.entry(level).or_insert(0) += count);
    }
    let name = specimen.recipe.name;
    let so_far = ALL.fetch_add(total(&states), Ordering::Relaxed) + total(&states);
    println!("{so_far} states of all specimens so far");
    let (shown, went_on) = (samples.shown(), samples.went_on.get());
    println!("{name}: {states:?} states, {went_on} gone on with, {shown} shown to QEMU");
    println!("{name}: {new_blocks} workloads made a refcount block, {new_tables} a refcount table");
    if std::env::var_os("HOLSTEIN_CRASH").is_none() {
        assert!(total(&states) >= wanted && states.len() >= 5, "{states:?}");
        assert_eq!(new_tables > 0, name == "small_clusters");
        assert!(new_blocks > 0 || name != "small_clusters");
    }
}

fn total(states: &BTreeMap<Level, usize>) -> usize {
    states.values().sum()
}

/// The tests of each specimen.
macro_rules! trials {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            leave_a_sound_disk(&specimens::$name().make());
        }
    )*};
}

for_each_specimen!(trials);
