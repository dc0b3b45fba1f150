//! Every state that a crash can leave while snapshots come and go.

use std::{collections::BTreeMap, time::SystemTime};

use holstein::storage::{SimulatedStorage, simulated::Level};

use crate::{
    crash::Trial,
    images::{DISK, fork},
    judge::exhaustive,
    refcounts::Refcounts,
    runs::{Found, Run, Sampler},
    specimens::{Specimen, open_to_write},
    workloads::workloads,
};

/// Of one workload, in a run that is to be exhaustive.
const MOST: usize = 600;

/// Judges states of every workload on a specimen.
pub fn leave_old_or_new(specimen: &Specimen) {
    let samples = Sampler::new(if exhaustive() { 128 } else { 24 });
    let wanted = if exhaustive() { 2500 } else { 60 };
    let (mut states, mut new_blocks, mut larger_tables) = (BTreeMap::new(), 0, 0);
    for (name, steps) in workloads(specimen, if exhaustive() { 20 } else { 2 }) {
        let name = format!("{}-{name}", specimen.recipe.name);
        let run = Run::new(specimen, &steps, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(run.results.iter().all(Result::is_ok), "{name}:\n{}", run.text());
        if let Some(before) = &specimen.refcounts {
            let image = run.storage.contents(DISK).unwrap();
            new_blocks += usize::from(Refcounts::of(&image).blocks > before.blocks);
            let clusters = |image: &[u8]| u32::from_be_bytes(image[56..60].try_into().unwrap());
            let original = specimen.storage().contents(DISK).unwrap();
            larger_tables += usize::from(clusters(&image) > clusters(&original));
        }
        let recording = run.storage.recording();
        let trial = Trial { name: &name, recording: &recording, limit: 9, seed: 1 };
        let judged = trial.judge_up_to(MOST, |crash, storage| {
            let judge = || {
                let found = run.judge(recording.marks_before(crash), storage)?;
                if storage.digest().is_multiple_of(4) {
                    goes_on(&found, storage)?;
                }
                samples.take(specimen, storage, &found)
            };
            judge().map_err(|reason| format!("{reason}\n{}", run.text()))
        });
        let Some(judged) = judged else { continue };
        judged.into_iter().for_each(|(level, count)| *states.entry(level).or_insert(0) += count);
    }
    let (name, total) = (specimen.recipe.name, states.values().sum::<usize>());
    println!(
        "{name}: {states:?} states, {} gone on with, {} shown to QEMU",
        samples.went_on.get(),
        samples.shown()
    );
    println!("{name}: {new_blocks} workloads made a refcount block, {larger_tables} a larger refcount table");
    if std::env::var_os("HOLSTEIN_CRASH").is_none() {
        assert!(name != "small_clusters" || (new_blocks > 0 && larger_tables > 0));
        assert!(
            total >= wanted && states.contains_key(&Level::L0) && states.contains_key(&Level::L2),
            "{states:?}"
        );
        assert!(samples.shown() > 0);
    }
}

/// Another snapshot can be taken, and all others deleted.
pub fn goes_on(found: &Found, storage: &SimulatedStorage) -> Result<(), String> {
    let storage = fork(storage);
    let disk = open_to_write(&storage).map_err(|e| format!("does not open for writing: {e}"))?;
    disk.create_snapshot(b"later", SystemTime::now())
        .map_err(|e| format!("no snapshot can be taken: {e}"))?;
    for (name, _) in &found.snapshots {
        disk.delete_snapshot(name.as_bytes()).map_err(|e| format!("'{name}' cannot be deleted: {e}"))?;
    }
    drop(disk);
    let later = Found::of(&storage)?;
    if later.contents != found.contents || later.bitmaps != found.bitmaps {
        return Err("a later snapshot changes the disk or its bitmaps".into());
    }
    match &later.snapshots[..] {
        [(name, kept)] if name == "later" && *kept == found.contents => Ok(()),
        others => Err(format!("later there are {} snapshots, or they are wrong", others.len())),
    }
}
