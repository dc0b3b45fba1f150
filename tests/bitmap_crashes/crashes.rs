//! Every state that a crash during a change can leave.

use holstein::{Access, storage::simulated::Level};

use crate::{
    crash::Trial,
    images::{Image, Special, open},
    judge::{Change, Samples, Side, exhaustive},
    model::operations,
};

/// Judges states of every change of an image.
pub fn leave_old_or_new(image: &Image) {
    let samples = Samples::new(if exhaustive() { 128 } else { 24 });
    // Each state copies the image, and that with large clusters is large.
    let large = image.special == Special::LargeClusters;
    let wanted = if exhaustive() {
        2500
    } else if large {
        40
    } else {
        90
    };
    let (mut states, mut new_blocks, mut new_tables) = (0, 0, 0);
    for (name, changes) in operations(&image.bitmaps, 60) {
        // Lists by chance go on until there are enough states.
        if states >= wanted && name.starts_with("random") && name != "random-0" {
            break;
        }
        let change = Change::new(image, changes);
        let (grew, moved) = change.grew();
        new_blocks += usize::from(grew);
        new_tables += usize::from(moved);

        let storage = image.storage();
        let disk = open(&storage, Access::Write).unwrap();
        disk.change_bitmaps(&change.changes).unwrap();
        storage.mark();
        drop(disk);
        let recording = storage.recording();
        let name = format!("{}-{name}", image.name);
        let trial = Trial { name: &name, recording: &recording, limit: if large { 6 } else { 16 }, seed: 1 };
        let judged = trial.judge(|crash, storage| {
            let side = change.side(storage)?;
            if side == Side::Old && recording.marks_before(crash) > 0 {
                return Err("the change was durable and is gone".into());
            }
            samples.take(&change, storage, side)
        });
        let Some(judged) = judged else { continue };
        println!("{name}: {judged:?}");
        states += judged.values().sum::<usize>();
        assert!(judged.contains_key(&Level::L0) && judged.contains_key(&Level::L2), "{name}: {judged:?}");
    }
    let (shown, went_on) = (samples.shown.get(), samples.went_on.get());
    println!("{}: {states} states, {went_on} gone on with, {shown} shown to QEMU", image.name);
    println!("{}: {new_blocks} changes made a refcount block, {new_tables} a refcount table", image.name);
    assert_eq!(new_blocks > 0, matches!(image.special, Special::FullBlocks | Special::FullTable));
    assert_eq!(new_tables > 0, image.special == Special::FullTable);
    if std::env::var_os("HOLSTEIN_CRASH").is_none() {
        assert!(states >= wanted, "{states} states");
    }
}
