//! The clear after an incremental backup: the bitmap is clean only where the increment is.

use holstein::{
    Access, Backing, Backup, BackupOptions, BitmapChange, Disk, DiskOptions, Format, SyncMode, Transaction,
    storage::SimulatedStorage,
};

use std::sync::Arc;

use crate::{
    crash::Trial,
    failures::faults,
    images::{FULL, Image, Special, fork, guest, open},
    judge::{Change, Samples, Side, exhaustive},
    rng::Rng,
};

const TARGET: &str = "/images/increment.qcow2";

fn back_up(source: &Disk) -> holstein::Result<()> {
    let options = BackupOptions {
        sync: Some(SyncMode::Incremental),
        bitmap: Some(b"a".to_vec()),
        backing: Some(Backing { name: "full.qcow2".into(), format: Format::Qcow2 }),
        cluster_size: Some(4096),
        ..BackupOptions::default()
    };
    let mut transaction = Transaction::new();
    transaction.add(Backup { source: source.clone(), target: TARGET.into(), options });
    transaction.commit().map(drop)
}

/// The target, which must be complete if it is there.
fn is_complete(image: &Image, storage: &SimulatedStorage) -> Result<bool, String> {
    if storage.contents(TARGET).is_none() {
        return Ok(false);
    }
    let target = Disk::open_in(Arc::new(storage.clone()), TARGET, &DiskOptions::default())
        .map_err(|e| format!("the target does not open: {e}"))?;
    if guest(&target)? != image.guest {
        return Err("the target is not complete".into());
    }
    Ok(true)
}

/// Judges states of an incremental backup of an image.
pub fn keeps_what_it_has_not(image: &Image) {
    let clear = BitmapChange::Clear { name: b"a".to_vec() };
    let change = Change::new(image, vec![clear]);
    assert!(!image.bitmaps.0["a"].dirty.is_empty());
    let storage = image.storage();
    assert!(storage.contents(FULL).is_some());
    back_up(&open(&storage, Access::Write).unwrap()).unwrap();
    storage.mark();
    let recording = storage.recording();
    let name = format!("{}-backup", image.name);
    let samples = Samples::new(if exhaustive() { 64 } else { 24 });
    let limit = if image.special == Special::LargeClusters { 45 } else { 90 };
    let trial = Trial { name: &name, recording: &recording, limit, seed: 1 };
    let (mut clean, mut kept) = (0, 0);
    let counts = std::cell::RefCell::new((&mut clean, &mut kept));
    let judged = trial.judge(|crash, storage| {
        let side = change.side(storage)?;
        let complete = is_complete(image, storage)?;
        match side {
            Side::New if !complete => return Err("the bitmap is clean, and there is no target".into()),
            Side::Old if recording.marks_before(crash) > 0 => {
                return Err("the backup had ended, and the bitmap is not clean".into());
            }
            Side::New => *counts.borrow_mut().0 += 1,
            Side::Old => *counts.borrow_mut().1 += 1,
        }
        samples.take(&change, storage, side)
    });
    let Some(judged) = judged else { return };
    println!("{name}: {judged:?}; {clean} clean, {kept} kept, {} shown to QEMU", samples.shown.get());
    assert!(clean > 0 && kept > limit / 3, "{clean} clean, {kept} kept");
}

/// Lets every operation of the backup fail, once and for ever.
pub fn failures_keep_what_it_has_not(image: &Image) {
    let change = Change::new(image, vec![BitmapChange::Clear { name: b"a".to_vec() }]);
    let run = |_: &SimulatedStorage, disk: &Disk| back_up(disk).unwrap();
    let (mut failed, mut succeeded) = (0, 0);
    let mut wrong = Vec::new();
    for fault in faults(image, run, &mut Rng::new(4, 0)) {
        let storage = image.storage();
        let disk = open(&storage, Access::Write).unwrap();
        storage.fail(fault.clone());
        let result = back_up(&disk);
        storage.stop_failing();
        *if result.is_ok() { &mut succeeded } else { &mut failed } += 1;
        let judge = || {
            let survivor = fork(&storage);
            let side = change.side(&survivor)?;
            match (is_complete(image, &survivor)?, side) {
                (false, Side::New) => Err("the bitmap is clean, and there is no target".into()),
                (complete, side) if result.is_ok() && !(complete && side == Side::New) => {
                    Err(format!("complete: {complete}, the bitmap is {side:?}"))
                }
                // The next night.
                _ => change.go_on(&survivor, side).map(drop),
            }
        };
        if let Err::<(), String>(reason) = judge() {
            wrong.push(format!("{}: {fault:?}: {result:?}, but {reason}", image.name));
        }
    }
    println!("{}: {failed} backups failed, {succeeded} succeeded", image.name);
    assert!(failed > 50 && succeeded > 10, "{failed} failed, {succeeded} succeeded");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
