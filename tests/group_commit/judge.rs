//! What has to hold after a recovery, whatever happened before.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use holstein::{
    Access, Recovery, RecoveryItem, RecoveryKind,
    storage::{
        SimulatedStorage,
        simulated::{Crash, Level, Recording},
    },
};

use crate::{
    crash::write_to,
    images::{fork, guest},
    model::Bitmaps,
    night::{Night, next, open},
    qemu::{Workshop, text},
    refcounts::Refcounts,
};

/// The distinct decisions among states: those that differ in names, in the blocks of a journal, in the first sector of
/// an image, or in whether a file is whole. How the bytes of a target are torn decides nothing.
pub struct Decisions {
    /// The new files as they are when they are whole.
    whole: HashMap<PathBuf, Vec<u8>>,
    seen: RefCell<HashSet<u64>>,
}

impl Decisions {
    pub fn of(night: &Night, recording: &Recording) -> Self {
        let end = recording.after(&Crash::new(Level::L0, recording.operations().len(), [])).unwrap();
        let whole = night.new_files().map(|path| (path.into(), end.contents(path).unwrap()));
        Decisions { whole: whole.collect(), seen: RefCell::default() }
    }

    pub fn note(&self, night: &Night, storage: &SimulatedStorage) {
        let mut hasher = DefaultHasher::new();
        for path in storage.paths() {
            path.hash(&mut hasher);
            let bytes = storage.contents(&path).unwrap();
            if path.extension().is_some_and(|extension| extension == "journal") {
                blocks(&bytes).hash(&mut hasher);
            } else if night.disks.iter().any(|source| Path::new(&source.path) == path) {
                bytes[..bytes.len().min(512)].hash(&mut hasher);
            } else {
                self.whole.values().position(|whole| *whole == bytes).hash(&mut hasher);
            }
        }
        self.seen.borrow_mut().insert(hasher.finish());
    }

    pub fn count(&self) -> usize {
        self.seen.borrow().len()
    }
}

/// The blocks of a journal, and none where one is cut short or torn.
fn blocks(bytes: &[u8]) -> [Option<&[u8]>; 2] {
    let block = |at: usize| {
        let length = u64::from_le_bytes(bytes.get(at + 24..at + 32)?.try_into().ok()?);
        let end = at.checked_add(32)?.checked_add(usize::try_from(length).ok()?)?;
        let (block, checksum) = (bytes.get(at..end)?, bytes.get(end..end.checked_add(32)?)?);
        (blake3::hash(block).as_bytes() == checksum).then_some(block)
    };
    let first = block(0);
    [first, first.and_then(|first| block((first.len() + 32).next_multiple_of(4096)))]
}

/// What there is of a group of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Everything is as it was before.
    Nothing,
    /// All targets are there, and all bitmaps are clear.
    All,
}

/// Whether everything is to be tried, not a sample.
pub fn exhaustive() -> bool {
    std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some()
}

/// Counts distinct states that were judged; so many were by all tests of this run by now.
pub fn count(states: usize) -> usize {
    static ALL: AtomicUsize = AtomicUsize::new(0);
    ALL.fetch_add(states, Ordering::Relaxed) + states
}

impl Night {
    /// Recovers after a crash that nobody came in between of, and finds out what there is then.
    pub fn settle(&self, storage: &SimulatedStorage) -> Result<Side, String> {
        let recovery = self.recover(storage).map_err(|e| format!("recovery failed: {e}"))?;
        lost_nothing(&recovery)?;
        self.again(storage)?;
        self.side(storage)
    }

    /// A recovery finds nothing to do any more.
    pub fn again(&self, storage: &SimulatedStorage) -> Result<(), String> {
        storage.begin();
        let before = storage.digest();
        let again = self.recover(storage).map_err(|e| format!("the second recovery failed: {e}"))?;
        let done = storage.recording();
        if !again.items.is_empty() || !done.operations().is_empty() || storage.digest() != before {
            return Err(format!("the second recovery did {again:?}, {:?}", done.operations()));
        }
        Ok(())
    }

    /// Finds out what there is; everything else must be in order.
    pub fn side(&self, storage: &SimulatedStorage) -> Result<Side, String> {
        let side = self.side_without_refcounts(storage)?;
        for source in &self.disks {
            let found = Refcounts::of(&storage.contents(&source.path).unwrap());
            let (old, new) = (&source.old_refcounts, &source.new_refcounts);
            match side {
                Side::Nothing => found.are_between(old, new),
                Side::All => found.are_between(new, old),
            }
            .map_err(|e| format!("'{}': {e}", source.path))?;
        }
        Ok(side)
    }

    /// No cluster in use counts as free: of sources that are laid out as no recording has them.
    pub fn gives_no_cluster_away(&self, storage: &SimulatedStorage) -> Result<(), String> {
        for source in &self.disks {
            let options = holstein::DiskOptions::default();
            let report =
                holstein::Disk::check_in(std::sync::Arc::new(storage.clone()), &source.path, &options)
                    .map_err(|e| format!("'{}': {e}", source.path))?;
            if report.corruptions + report.check_errors + report.further_corruptions > 0 {
                return Err(format!("'{}': {:?}", source.path, report.problems));
            }
        }
        Ok(())
    }

    pub fn side_without_refcounts(&self, storage: &SimulatedStorage) -> Result<Side, String> {
        let targets = self.backups.iter().map(|backup| {
            let there = storage.contents(backup.target);
            if there == backup.replaced {
                return Ok(Side::Nothing);
            }
            self.is_complete(storage, backup.target, backup.disk)?;
            Ok(Side::All)
        });
        let overlays = self.overlays().map(|(disk, path)| match storage.contents(path) {
            None => Ok(Side::Nothing),
            Some(_) => self.is_complete(storage, path, disk).map(|()| Side::All),
        });
        let targets = targets.chain(overlays).collect::<Result<Vec<_>, String>>()?;
        let bitmaps = self.disks.iter().map(|source| {
            let name = &source.path;
            let disk = open(storage, name, Access::Read).map_err(|e| format!("does not open: {e}"))?;
            if guest(&disk)? != source.guest {
                return Err(format!("the contents of '{name}' changed"));
            }
            let found = Bitmaps::of(&disk).map_err(|e| format!("'{name}': {e}"))?;
            if found == source.new {
                Ok(Side::All)
            } else if found == source.old {
                Ok(Side::Nothing)
            } else {
                Err(format!("the bitmaps of '{name}' are neither old nor new: {found:?}"))
            }
        });
        let bitmaps = bitmaps.collect::<Result<Vec<_>, String>>()?;
        let side = targets[0];
        if targets.iter().chain(&bitmaps).any(|other| *other != side) {
            return Err(format!(
                "some are done and others are not: targets {targets:?}, bitmaps {bitmaps:?}"
            ));
        }
        let (found, expected) = (storage.paths(), self.expected_paths(side == Side::All));
        if !found.iter().eq(&expected) {
            let more: Vec<&PathBuf> = found.iter().filter(|path| !expected.contains(*path)).collect();
            return Err(format!("left behind: {more:?}; there are {found:?}"));
        }
        Ok(side)
    }

    /// A target holds what its disk held.
    pub fn is_complete(&self, storage: &SimulatedStorage, target: &str, disk: usize) -> Result<(), String> {
        let opened = open(storage, target, Access::Read).map_err(|e| format!("'{target}': {e}"))?;
        if guest(&opened)? != self.disks[disk].guest {
            return Err(format!("'{target}' is not complete"));
        }
        Ok(())
    }

    /// The same group where it was not carried out, else the next one, runs and is complete.
    pub fn goes_on(&self, storage: &SimulatedStorage, side: Side) -> Result<(), String> {
        let storage = fork(storage);
        let transaction = match side {
            Side::Nothing => self.transaction(&storage),
            Side::All => self.next_transaction(&storage),
        };
        let done = transaction.and_then(holstein::Transaction::commit);
        done.map_err(|e| format!("the next group fails: {e}"))?;
        if side == Side::Nothing {
            return match self.side_without_refcounts(&storage)? {
                Side::All => Ok(()),
                Side::Nothing => Err("the group succeeded and there is nothing".into()),
            };
        }
        self.backups.iter().try_for_each(|b| self.is_complete(&storage, &next(b.target), b.disk))
    }
}

/// A crash alone never makes a recovery give anything up, but for the bitmaps of an overlay whose disk the list changes
/// too.
pub fn lost_nothing(recovery: &Recovery) -> Result<(), String> {
    let is_fine = |item: &&RecoveryItem| {
        let is_overlay = item.path.ends_with("over.qcow2");
        matches!(
            item.kind,
            RecoveryKind::TemporaryRemoved
                | RecoveryKind::TargetPublished
                | RecoveryKind::TargetWasPublished
                | RecoveryKind::BitmapsChanged
                | RecoveryKind::BitmapsWereChanged
        ) || is_overlay && item.kind == RecoveryKind::BitmapsGivenUp
    };
    match recovery.items.iter().find(|item| !is_fine(item)) {
        Some(item) => Err(format!("recovery: {item:?}")),
        None => Ok(()),
    }
}

/// What may be leaked in an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaks {
    None,
    /// QEMU's repair gives it back.
    Go,
    /// QEMU 10.0 loses the snapshots of an image with bitmaps when it repairs anything.
    Stay,
}

/// Goes on with a part of the states, and shows another part to QEMU.
pub struct Samples {
    shop: Workshop,
    folder: tempfile::TempDir,
    rare: usize,
    seen: Cell<usize>,
    pub shown: Cell<usize>,
    pub went_on: Cell<usize>,
}

impl Samples {
    /// Of so many states one is shown to QEMU, and several are gone on with.
    pub fn new(rare: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        Samples { shop, folder, rare, seen: Cell::new(0), shown: Cell::new(0), went_on: Cell::new(0) }
    }

    pub fn take(&self, night: &Night, storage: &SimulatedStorage, side: Side) -> Result<(), String> {
        let number = self.seen.replace(self.seen.get() + 1);
        if number.is_multiple_of(self.rare / 4) {
            self.went_on.set(self.went_on.get() + 1);
            night.goes_on(storage, side)?;
        }
        if number % self.rare == 1 {
            self.shown.set(self.shown.get() + 1);
            write_to(storage, self.folder.path());
            for (number, source) in night.disks.iter().enumerate() {
                let leaks = if night.takes(number) { Leaks::Stay } else { Leaks::Go };
                self.check(source.path.trim_start_matches('/'), leaks)?;
            }
            for path in night.new_files().filter(|_| side == Side::All) {
                self.check(path.trim_start_matches('/'), Leaks::None)?;
            }
        }
        Ok(())
    }

    fn check(&self, name: &str, leaks: Leaks) -> Result<(), String> {
        let check = self.shop.try_run("qemu-img", &["check", name]);
        match check.status.code() {
            Some(0) => return Ok(()),
            Some(3) if leaks == Leaks::Stay => return Ok(()),
            Some(3) if leaks == Leaks::Go => {}
            _ => return Err(format!("qemu-img check {name}: {}", text(&check))),
        }
        for args in [&["check", "-r", "leaks", name][..], &["check", name]] {
            let check = self.shop.try_run("qemu-img", args);
            if !check.status.success() {
                return Err(format!("qemu-img {args:?}: {}", text(&check)));
            }
        }
        Ok(())
    }
}
