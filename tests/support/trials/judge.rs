//! What has to hold of an image whatever happened while its bitmaps were changed.

use std::{cell::Cell, path::Path};

use holstein::{Access, BitmapChange, storage::SimulatedStorage};
use serde_json::Value;

use crate::{
    crash::write_to,
    images::{DISK, Image, fork, guest, open},
    model::Bitmaps,
    qemu::{Workshop, text},
    refcounts::Refcounts,
};

/// Which of the two states an image is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Old,
    New,
}

/// A change of an image's bitmaps: what was, and what is to be.
pub struct Change<'a> {
    pub image: &'a Image,
    pub changes: Vec<BitmapChange>,
    new: Bitmaps,
    new_refcounts: Refcounts,
}

impl<'a> Change<'a> {
    /// The changes of an image, and what becomes of it when nothing fails.
    pub fn new(image: &'a Image, changes: Vec<BitmapChange>) -> Self {
        let storage = image.storage();
        open(&storage, Access::Write).unwrap().change_bitmaps(&changes).unwrap();
        let new_refcounts = Refcounts::of(&storage.contents(DISK).unwrap());
        Change { image, new: image.bitmaps.changed(&changes), changes, new_refcounts }
    }

    pub fn grew(&self) -> (bool, bool) {
        let old = &self.image.refcounts;
        (self.new_refcounts.blocks > old.blocks, self.new_refcounts.table_offset != old.table_offset)
    }

    pub fn bitmaps(&self, side: Side) -> &Bitmaps {
        match side {
            Side::Old => &self.image.bitmaps,
            Side::New => &self.new,
        }
    }

    /// Finds out which side an image is on; everything else must be in order.
    pub fn side(&self, storage: &SimulatedStorage) -> Result<Side, String> {
        let found = self.contents(storage)?;
        let refcounts = Refcounts::of(&storage.contents(DISK).unwrap());
        if found == self.new {
            refcounts.are_between(&self.new_refcounts, &self.image.refcounts)?;
            Ok(Side::New)
        } else if found == self.image.bitmaps {
            refcounts.are_between(&self.image.refcounts, &self.new_refcounts)?;
            Ok(Side::Old)
        } else {
            let (old, new) = (&self.image.bitmaps, &self.new);
            Err(format!("the bitmaps are neither old nor new: {found:?}\nold: {old:?}\nnew: {new:?}"))
        }
    }

    /// The bitmaps of an image whose disk holds what it held before.
    pub fn contents(&self, storage: &SimulatedStorage) -> Result<Bitmaps, String> {
        let disk = open(storage, Access::Read).map_err(|e| format!("does not open: {e}"))?;
        if guest(&disk)? != self.image.guest {
            return Err("the disk's contents changed".into());
        }
        Bitmaps::of(&disk)
    }

    /// Goes on with an image after what happened: the change succeeds where it was not made, and another one.
    pub fn go_on(&self, storage: &SimulatedStorage, side: Side) -> Result<SimulatedStorage, String> {
        let storage = fork(storage);
        let later = later();
        let changes = match side {
            Side::Old => [&self.changes[..], &later].concat(),
            Side::New => later.clone(),
        };
        let disk = open(&storage, Access::Write).map_err(|e| format!("does not open for writing: {e}"))?;
        disk.change_bitmaps(&changes).map_err(|e| format!("cannot be changed any more: {e}"))?;
        drop(disk);
        if self.contents(&storage)? != self.new.changed(&later) {
            return Err(format!("the next change does not make {:?}", self.new.changed(&later)));
        }
        Ok(storage)
    }
}

/// Any change that comes later.
pub fn later() -> Vec<BitmapChange> {
    vec![crate::model::add("later", 512, holstein::Recording::Enabled)]
}

/// Shows a part of the states to QEMU, and goes on with another part.
pub struct Samples {
    shop: Workshop,
    folder: tempfile::TempDir,
    /// One state of so many.
    rare: u64,
    pub shown: Cell<usize>,
    pub went_on: Cell<usize>,
}

impl Samples {
    pub fn new(rare: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path().join("images"));
        Samples { shop, folder, rare, shown: Cell::new(0), went_on: Cell::new(0) }
    }

    /// Judges a state further if it is one of the sample.
    pub fn take(&self, change: &Change<'_>, storage: &SimulatedStorage, side: Side) -> Result<(), String> {
        let number = storage.digest();
        if number.is_multiple_of(4) {
            self.went_on.set(self.went_on.get() + 1);
            let later = change.go_on(storage, side)?;
            if number.is_multiple_of(4 * self.rare) {
                self.by_qemu(&later, &change.new.changed(&self::later()))?;
            }
        }
        if number % self.rare == 1 { self.by_qemu(storage, change.bitmaps(side)) } else { Ok(()) }
    }

    /// Where QEMU's tools look at the states.
    pub fn shop(&self) -> &Workshop {
        &self.shop
    }

    /// Puts a state where QEMU's tools look at it.
    pub fn put(&self, storage: &SimulatedStorage) {
        write_to(storage, self.folder.path());
    }

    /// QEMU finds nothing worse than leaks, can mend those, and sees the same bitmaps.
    pub fn by_qemu(&self, storage: &SimulatedStorage, bitmaps: &Bitmaps) -> Result<(), String> {
        self.shown.set(self.shown.get() + 1);
        self.put(storage);
        let img = |args: &[&str]| self.shop.try_run("qemu-img", &[args, &["disk.qcow2"]].concat());
        let info = || {
            let info = img(&["info", "--output=json"]);
            let json: Value = serde_json::from_slice(&info.stdout).map_err(|_| text(&info))?;
            match listed(&json) == expected(bitmaps) {
                true => Ok(()),
                false => Err(format!("qemu-img info lists {:?}, not {bitmaps:?}", listed(&json))),
            }
        };
        info()?;
        let check = img(&["check"]);
        match check.status.code() {
            Some(0) => return Ok(()),
            Some(3) => {}
            _ => return Err(format!("qemu-img check: {}", text(&check))),
        }
        // Leaks behind the end of the file come to light when it has grown, as it does with the first repair.
        for _ in 0..2 {
            let repair = img(&["check", "-r", "leaks"]);
            if !repair.status.success() {
                return Err(format!("qemu-img check -r leaks: {}", text(&repair)));
            }
            let check = img(&["check"]);
            match check.status.code() {
                Some(0) => return info(),
                Some(3) => {}
                _ => return Err(format!("qemu-img check: {}", text(&check))),
            }
        }
        Err("qemu-img check -r leaks leaves leaks".into())
    }
}

/// Bitmaps as `qemu-img info` lists them: name, granularity, whether it records and nothing else.
fn listed(info: &Value) -> Vec<(String, u64, String)> {
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let bitmap = |bitmap: &Value| {
        let name = bitmap["name"].as_str().unwrap().to_owned();
        (name, bitmap["granularity"].as_u64().unwrap(), bitmap["flags"].to_string())
    };
    let mut listed: Vec<_> = bitmaps.into_iter().flatten().map(bitmap).collect();
    listed.sort();
    listed
}

fn expected(bitmaps: &Bitmaps) -> Vec<(String, u64, String)> {
    let flags = |recording| if recording { r#"["auto"]"# } else { "[]" }.to_owned();
    bitmaps.0.iter().map(|(name, b)| (name.clone(), b.granularity, flags(b.recording))).collect()
}

/// Whether everything is to be tried, not a sample.
pub fn exhaustive() -> bool {
    std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some()
}

#[allow(unused)]
pub fn exists(storage: &SimulatedStorage, path: &str) -> bool {
    storage.paths().iter().any(|there| there == Path::new(path))
}
