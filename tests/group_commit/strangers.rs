//! Somebody writes a source between a crash and the recovery: what was written then is never clean in a bitmap that
//! can be used.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use holstein::{
    Access, Mapping, Recording as Records, RecoveryKind,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Crash, Level, Recording},
    },
};

use crate::{
    crashes::decision,
    images::{Guest, guest},
    judge::exhaustive,
    model::{Bitmaps, add},
    night::{Night, Other, Recipe, Source, open},
    qemu::{Workshop, text},
};

/// Who comes in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stranger {
    /// QEMU, which records what it writes.
    Qemu,
    /// QEMU twice, so that the directory of the bitmaps may be back in its old place.
    QemuTwice,
    /// QEMU, killed while it had the image open.
    QemuKilled,
    /// A program that does not know bitmaps, and says so by clearing the autoclear bit.
    Unaware,
    /// We ourselves, writing data.
    Writer,
    /// We ourselves, adding a bitmap.
    Adder,
}

use Stranger::*;

const ALL: [Stranger; 6] = [Qemu, QemuTwice, QemuKilled, Unaware, Writer, Adder];

/// Lets every stranger write every disk in states of the commit.
pub fn are_noticed(night: &Night) {
    let recording = night.recording();
    let shop_folder = tempfile::tempdir().unwrap();
    let shop = Workshop::new(shop_folder.path());
    let mut met: BTreeMap<Stranger, usize> = BTreeMap::new();
    let kinds = Cell::new(BTreeMap::<String, usize>::new());
    for (number, (crash, _)) in states(night, &recording).into_iter().enumerate() {
        for disk in 0..night.disks.len() {
            for stranger in ALL {
                // The slowest one comes to every third state.
                if stranger == QemuTwice && number % 3 != 1 && !exhaustive() {
                    continue;
                }
                let storage = recording.after(&crash).unwrap();
                let Some(written) = write(night, &storage, disk, stranger, &shop) else { continue };
                *met.entry(stranger).or_default() += 1;
                if let Err(reason) = judge(night, &storage, disk, &written, &kinds) {
                    panic!("{}: {crash}, then {stranger:?} on disk {disk}: {reason}", night.name);
                }
            }
        }
    }
    println!("{}: {met:?}; recoveries: {:?}", night.name, kinds.into_inner());
    assert!(ALL.iter().all(|stranger| met.get(stranger).is_some_and(|count| *count > 1)), "{met:?}");
}

/// The process dies, a stranger writes a disk, and then the power goes: what the dead process had not made durable can be lost,
/// and the disk's change time is an earlier one while what the stranger wrote is there. A second power cut hits the
/// recovery.
pub fn are_noticed_through_a_power_cut(night: &Night) {
    let recording = night.recording();
    let shop_folder = tempfile::tempdir().unwrap();
    let shop = Workshop::new(shop_folder.path());
    let kinds = Cell::new(BTreeMap::new());
    let (mut first, mut second, mut number) = (0, 0, 0);
    for killed in decision(night, &recording)..=recording.operations().len() {
        for disk in 0..night.disks.len() {
            for stranger in [Qemu, QemuKilled, Unaware, Writer] {
                number += 1;
                // In turn, and QEMU last.
                if !exhaustive() && number % 7 != 0 {
                    continue;
                }
                let storage = recording.killed(killed).unwrap();
                let Some(written) = write(night, &storage, disk, stranger, &shop) else { continue };
                let log = storage.recording();
                let end = log.operations().len();
                let mut crashes = Vec::new();
                for level in [Level::L1, Level::L6, Level::L8] {
                    let mut of_level = log.crashes(level, 1);
                    of_level.retain(|crash| crash.after() == end);
                    let step = if exhaustive() { 1 } else { of_level.len().div_ceil(4).max(1) };
                    crashes.extend(of_level.into_iter().step_by(step));
                }
                // The time of the disk as it was at any moment before.
                let times = [0, killed / 2, killed, killed + 1];
                let back = |moment| Crash::new(Level::L8, end, []).with_times([(night.inode(disk), moment)]);
                crashes.extend(times.into_iter().filter(|moment| *moment <= end).map(back));
                for crash in crashes {
                    let Some(state) = log.after(&crash) else { continue };
                    first += 1;
                    let about = |reason: String| {
                        panic!(
                            "{}: killed after {killed}, then {stranger:?} on disk {disk}, then {crash}: {reason}",
                            night.name
                        )
                    };
                    night.recover(&state).unwrap();
                    let in_recovery = state.recording();
                    for (again, state) in in_recovery.states(&[Level::L0, Level::L1, Level::L8], 5, 3) {
                        second += 1;
                        judge(night, &state, disk, &written, &kinds)
                            .unwrap_or_else(|reason| about(format!("then {again}: {reason}")));
                    }
                    holds(night, &state, Some((disk, &written))).unwrap_or_else(about);
                }
            }
        }
    }
    println!("{}: {first} power cuts behind strangers, {second} more in the recovery", night.name);
    assert!(first > 10 && second > 20, "{first}, {second}");
}

/// Lets somebody remove each of the new files before the recovery.
pub fn who_remove_targets_clear_nothing(night: &Night) {
    let recording = night.recording();
    let mut missed = 0;
    for (crash, _) in states(night, &recording) {
        for path in recording.after(&crash).unwrap().paths() {
            if path.extension().is_none_or(|extension| extension != "tmp") && !night.is_new(&path) {
                continue;
            }
            let storage = recording.after(&crash).unwrap();
            storage.unlink(&path).unwrap();
            if let Err(reason) = judge_without(night, &storage, &mut missed) {
                panic!("{}: {crash}, then '{}' was removed: {reason}", night.name, path.display());
            }
        }
    }
    println!("{}: {missed} times a target was missed", night.name);
    assert!(missed > 2);
}

fn judge_without(night: &Night, storage: &SimulatedStorage, missed: &mut usize) -> Result<(), String> {
    let bitmaps = |source: &Source| {
        let disk = open(storage, &source.path, Access::Read);
        Bitmaps::of(&disk.map_err(|e| format!("'{}': {e}", source.path))?)
    };
    let before = night.disks.iter().map(bitmaps).collect::<Result<Vec<_>, _>>()?;
    let recovery = night.recover(storage).map_err(|e| e.to_string())?;
    if !recovery.items.iter().any(|item| item.kind == RecoveryKind::TargetMissing) {
        return Ok(());
    }
    *missed += 1;
    night.again(storage)?;
    for (source, before) in night.disks.iter().zip(&before) {
        let given_up = || {
            recovery
                .items
                .iter()
                .any(|item| item.kind == RecoveryKind::BitmapsGivenUp && item.path == Path::new(&source.path))
        };
        match bitmaps(source) {
            // What is clean already may be so because of a backup that is lost.
            Ok(after) if after == source.new && after.0.values().any(|bitmap| bitmap.recording) => {
                return Err(format!(
                    "the bitmaps of '{}' are as if nothing were missing: {recovery:?}",
                    source.path
                ));
            }
            Ok(after) if after == *before => {}
            Err(_) if *before == source.new && given_up() => {}
            after => return Err(format!("the bitmaps of '{}' are {after:?}: {recovery:?}", source.path)),
        }
    }
    for (_, path) in night.overlays().filter(|(_, path)| storage.contents(path).is_some()) {
        let disk = open(storage, path, Access::Read).map_err(|e| format!("'{path}': {e}"))?;
        if disk.bitmaps().map_err(|e| e.to_string())?.iter().any(|info| disk.bitmap(&info.name).is_ok()) {
            return Err(format!("a bitmap of '{path}' can be used: {recovery:?}"));
        }
    }
    Ok(())
}

/// Distinct states in which the deciding write may have happened.
fn states(night: &Night, recording: &Recording) -> Vec<(holstein::storage::simulated::Crash, u64)> {
    let mut seen = HashSet::new();
    let first = decision(night, recording);
    let levels = if exhaustive() { &Level::ALL[..] } else { &[Level::L0][..] };
    let crashes = levels.iter().flat_map(|level| recording.crashes(*level, 1));
    let distinct = crashes.filter(|crash| crash.after() >= first).filter_map(|crash| {
        let digest = recording.after(&crash)?.digest();
        seen.insert(digest).then_some((crash, digest))
    });
    distinct.collect()
}

/// What a disk holds afterwards, and the range that was written.
pub struct Written {
    guest: Guest,
    range: std::ops::Range<u64>,
}

/// Writes where the disk has data, and nothing was dirty. `None` if the stranger could not be noticed by anybody: he says
/// nothing, and the bitmaps are clear already.
pub fn write(
    night: &Night,
    storage: &SimulatedStorage,
    disk: usize,
    stranger: Stranger,
    shop: &Workshop,
) -> Option<Written> {
    let source = &night.disks[disk];
    let before = storage.contents(&source.path).unwrap();
    let opened = open(storage, &source.path, Access::Read).unwrap();
    let (start, host) = data_of(&opened);
    let range = start..start + 1024;
    drop(opened);
    let qemu = |commands: &[String], dies: bool| {
        fs::write(shop.path("image.qcow2"), storage.contents(&source.path).unwrap()).unwrap();
        let output = shop.try_io("image.qcow2", "qcow2", commands);
        assert_eq!(output.status.success(), !dies, "{}", text(&output));
        replace(storage, &source.path, &fs::read(shop.path("image.qcow2")).unwrap());
    };
    let write = format!("write -P 0xEE {start} 1024");
    match stranger {
        Qemu => qemu(&[write], false),
        QemuTwice => {
            qemu(std::slice::from_ref(&write), false);
            qemu(&[write], false);
        }
        QemuKilled => qemu(&[write, "flush".into(), "sigraise 9".into()], true),
        Unaware => {
            let mut bytes = before;
            bytes[88..96].fill(0);
            bytes[host as usize..host as usize + 1024].fill(0xEE);
            replace(storage, &source.path, &bytes);
        }
        Writer => {
            let opened = open(storage, &source.path, Access::Write).unwrap();
            opened.write_at(&[0xEE; 1024], start).unwrap();
            opened.close().unwrap();
        }
        Adder => {
            let opened = open(storage, &source.path, Access::Write).unwrap();
            opened.change_bitmaps(&[add("another", 4096, Records::Enabled)]).unwrap();
            let range = 0..0;
            return Some(Written { guest: source.guest.clone(), range });
        }
    }
    let opened = open(storage, &source.path, Access::Read).unwrap();
    let guest = guest(&opened).unwrap();
    assert!(guest != source.guest, "nothing was written");
    Some(Written { guest, range })
}

/// A place of the disk with data, and where its file has it.
fn data_of(disk: &holstein::Disk) -> (u64, u64) {
    for run in disk.map(0..disk.size()) {
        let run = run.unwrap();
        if let Mapping::Data { host, hole: false } = run.mapping {
            return (run.start, host);
        }
    }
    panic!("the disk has no data");
}

/// Lets a file have other bytes, written as any program does: it stays the same file.
fn replace(storage: &SimulatedStorage, path: &str, bytes: &[u8]) {
    let file = storage.open_writable(path.as_ref()).unwrap();
    let before = storage.contents(path).unwrap();
    for (number, sector) in bytes.chunks(512).enumerate() {
        let at = number * 512;
        if before.get(at..at + sector.len()) != Some(sector) {
            assert_eq!(file.write_at(sector, at as u64).unwrap(), sector.len());
        }
    }
    if before.len() > bytes.len() {
        file.set_len(bytes.len() as u64).unwrap();
    }
    file.sync().unwrap();
}

/// No bitmap in an overlay, if it can be used, is clean where the stranger has written the image below.
fn overlays_tell(
    night: &Night,
    storage: &SimulatedStorage,
    written: usize,
    what: &Written,
) -> Result<(), String> {
    for (_, path) in night.overlays().filter(|(below, _)| *below == written) {
        if storage.contents(path).is_none() {
            continue;
        }
        let disk = open(storage, path, Access::Read).map_err(|e| format!("'{path}': {e}"))?;
        for info in disk.bitmaps().map_err(|e| e.to_string())? {
            let name = String::from_utf8_lossy(&info.name).into_owned();
            let Ok(loaded) = disk.bitmap(&info.name) else { continue };
            let has = |at: u64| loaded.extents().any(|extent| extent.contains(&at));
            if !what.range.clone().step_by(512).all(has) {
                return Err(format!("bitmap '{name}' of '{path}' is clean where the stranger has written"));
            }
        }
    }
    Ok(())
}

/// An image that the list covers and does not change is watched all the same.
#[test]
fn strangers_below_an_overlay_are_noticed() {
    let recipe = Recipe {
        name: "covered",
        disks: &[("cluster_size=4k", 512), ("cluster_size=4k", 512)],
        backups: &[(0, "/backups/a.qcow2", "a")],
        others: &[Other::Overlay(1, "/images/over.qcow2"), Other::Add(1, "over")],
        replaced: &[],
        journal: None,
        lacks: &[],
    };
    let night = recipe.make();
    let recording = night.recording();
    let folder = tempfile::tempdir().unwrap();
    let shop = Workshop::new(folder.path());
    let mut given_up = 0;
    for (crash, _) in states(&night, &recording) {
        // Nobody came: nothing is given up.
        let alone = night.recover(&recording.after(&crash).unwrap()).unwrap();
        assert!(
            alone.items.iter().all(|item| item.kind != RecoveryKind::BitmapsGivenUp),
            "{crash}: {alone:?}"
        );
        for stranger in ALL {
            let storage = recording.after(&crash).unwrap();
            let Some(written) = write(&night, &storage, 1, stranger, &shop) else { continue };
            let recovery = night.recover(&storage).unwrap();
            night.again(&storage).unwrap();
            let finished = storage.contents("/images/over.qcow2").is_some();
            // As above, and before the first step there is none.
            if recovery.items.is_empty() || !finished {
                continue;
            }
            given_up +=
                recovery.items.iter().filter(|item| item.kind == RecoveryKind::BitmapsGivenUp).count();
            if let Err(reason) = overlays_tell(&night, &storage, 1, &written) {
                panic!("{crash}, then {stranger:?}: {reason}; {recovery:?}");
            }
        }
    }
    assert!(given_up > 10, "{given_up}");
}

fn judge(
    night: &Night,
    storage: &SimulatedStorage,
    written: usize,
    what: &Written,
    kinds: &Cell<BTreeMap<String, usize>>,
) -> Result<(), String> {
    let recovery = night.recover(storage).map_err(|e| e.to_string())?;
    let mut count = kinds.take();
    for item in &recovery.items {
        if matches!(item.kind, RecoveryKind::Unfinished | RecoveryKind::AtWork | RecoveryKind::TargetMissing)
        {
            return Err(format!("{item:?}"));
        }
        *count.entry(format!("{:?}", item.kind)).or_default() += 1;
    }
    kinds.set(count);
    night.again(storage)?;
    // Behind the last step an overlay is nobody's business here.
    if !recovery.items.is_empty() {
        overlays_tell(night, storage, written, what)?;
    }
    holds(night, storage, Some((written, what)))
}

/// What has to hold after every recovery, whoever has `written` what before.
pub fn holds(
    night: &Night,
    storage: &SimulatedStorage,
    written: Option<(usize, &Written)>,
) -> Result<(), String> {
    let left: Vec<_> =
        storage.paths().into_iter().filter(|path| path.to_string_lossy().contains("/.holstein")).collect();
    if !left.is_empty() {
        return Err(format!("left behind: {left:?}"));
    }
    // All targets, or none, hold what the disks held before the stranger came.
    let there: Vec<bool> =
        night.backups.iter().map(|backup| storage.contents(backup.target) != backup.replaced).collect();
    if there.iter().any(|one| *one != there[0]) {
        return Err(format!("some targets are there: {there:?}"));
    }
    for backup in night.backups.iter().filter(|_| there[0]) {
        night.is_complete(storage, backup.target, backup.disk)?;
    }
    for (number, source) in night.disks.iter().enumerate() {
        let disk = open(storage, &source.path, Access::Read).map_err(|e| format!("does not open: {e}"))?;
        let what = written.filter(|(disk, _)| *disk == number).map(|(_, what)| what);
        let expected = what.map_or(&source.guest, |what| &what.guest);
        if &guest(&disk)? != expected {
            return Err(format!("the contents of '{}' changed", source.path));
        }
        for info in disk.bitmaps().map_err(|e| e.to_string())? {
            let Ok(loaded) = disk.bitmap(&info.name) else { continue };
            if info.in_use || info.unusable.is_some() {
                continue;
            }
            let name = String::from_utf8(info.name).unwrap();
            let dirty: HashSet<u64> = loaded
                .extents()
                .flat_map(|extent| extent.start / info.granularity..extent.end.div_ceil(info.granularity))
                .collect();
            // Before the decision an image is not touched, and what is not noticed by others is not by us.
            if let Some(what) = what.filter(|_| name != "another") {
                let mut since =
                    what.range.start / info.granularity..what.range.end.div_ceil(info.granularity);
                if since.any(|granule| !dirty.contains(&granule)) {
                    return Err(format!("bitmap '{name}' is clean where the stranger has written"));
                }
            }
            // What it has lost is in a target, or was to be forgotten.
            let Some(old) = source.old.0.get(&name) else { continue };
            let lost = old.dirty.iter().any(|granule| !dirty.contains(granule));
            let has_target = night.backups.iter().any(|b| b.disk == number && b.bitmap == name);
            if lost && !((has_target || night.clears(number, &name)) && there[0]) {
                return Err(format!("bitmap '{name}' has lost granules that no target has"));
            }
        }
    }
    Ok(())
}
