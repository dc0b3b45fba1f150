//! Steps carried out on a specimen, with all that the disk may be after each of them; and the verdict on what is
//! there in the end.

use std::{cell::Cell, fs};

use holstein::{
    Access, CheckSeverity, Disk, DiskOptions, Error,
    storage::{SimulatedStorage, simulated::Fault},
};

use crate::{
    images::{DISK, fork, open},
    judge::{Samples, later},
    model::Bitmaps,
    qemu::text,
    rng::Rng,
    specimens::{Kept, Specimen, contents, open_to_write, snapshots},
    world::{Step, World, differs},
};

/// What was done, and what it left.
pub struct Run<'a> {
    pub specimen: &'a Specimen,
    pub steps: &'a [Step],
    pub storage: SimulatedStorage,
    pub results: Vec<Result<(), Error>>,
    /// What the disk can be after so many steps; closing it is the last.
    worlds: Vec<Vec<World>>,
    /// What it can be in the end, by what the open disk read then.
    last: Vec<World>,
}

/// What is in an image.
pub struct Found {
    pub contents: Vec<u8>,
    pub bitmaps: Bitmaps,
    pub snapshots: Vec<Kept>,
}

impl<'a> Run<'a> {
    /// Carries out all steps on one open disk, which fails where it is told to, and closes it. Each leaves a mark.
    pub fn new(specimen: &'a Specimen, steps: &'a [Step], fault: Option<&Fault>) -> Result<Self, String> {
        let storage = specimen.storage();
        let disk = open_to_write(&storage).unwrap();
        let mut run = Run {
            specimen,
            steps,
            storage: storage.clone(),
            results: Vec::new(),
            worlds: vec![vec![World::of(specimen)]],
            last: Vec::new(),
        };
        fault.into_iter().for_each(|fault| storage.fail(fault.clone()));
        for step in steps {
            let result = step.perform(&disk);
            storage.mark();
            run.note(step, result);
            if fault.is_none() {
                run.reads_what_was_written(&disk)?;
            }
        }
        storage.stop_failing();
        // One that could not be read after a change is what it was before, until it is opened anew.
        let unread = |result: &Result<_, Error>| {
            result.as_ref().is_err_and(|error| error.to_string().contains("could not be read afterwards"))
        };
        match run.results.iter().any(unread) {
            true => run.last = run.worlds.last().unwrap().clone(),
            false => run.reads_what_was_written(&disk)?,
        }
        let closed = disk.close();
        storage.mark();
        if closed.is_ok() {
            run.last.iter_mut().for_each(|world| world.complete(&Step::Flush));
        }
        run.note(&Step::Flush, closed);
        Ok(run)
    }

    fn note(&mut self, step: &Step, result: Result<(), Error>) {
        let mut worlds = self.worlds.last().unwrap().clone();
        match &result {
            Ok(()) => worlds.iter_mut().for_each(|world| world.complete(step)),
            Err(error) if step.is_atomic() => match says(error) {
                Outcome::Made => worlds.iter_mut().for_each(|world| world.complete(step)),
                Outcome::Unknown => worlds = worlds.iter().flat_map(|world| world.during(step)).collect(),
                Outcome::NotMade => worlds.iter_mut().for_each(|world| world.attempt(step)),
            },
            Err(_) => worlds.iter_mut().for_each(|world| world.attempt(step)),
        }
        self.results.push(result);
        self.worlds.push(worlds);
    }

    /// The open disk reads what was written last. Of several worlds those go that it does not live in.
    fn reads_what_was_written(&mut self, disk: &Disk) -> Result<(), String> {
        let contents = contents(disk)?;
        let mut reason = String::new();
        self.last = self.worlds.last().unwrap().clone();
        self.last.retain_mut(|world| world.learn(&contents).map_err(|e| reason = e).is_ok());
        match self.last.is_empty() {
            true => Err(format!("the open disk: {reason}\n{}", self.text())),
            false => Ok(()),
        }
    }

    /// What the disk can be after a crash behind so many marks.
    fn worlds(&self, marks: usize) -> Vec<World> {
        let worlds = &self.worlds[marks];
        match self.steps.get(marks) {
            Some(step) => worlds.iter().flat_map(|world| world.during(step)).collect(),
            None => worlds.clone(),
        }
    }

    /// Judges a state of the image; `marks` is how many steps had been done then.
    pub fn judge(&self, marks: usize, storage: &SimulatedStorage) -> Result<Found, String> {
        self.judge_by(&self.worlds(marks), storage)
    }

    /// Judges what is there in the end.
    pub fn judge_end(&self) -> Result<Found, String> {
        self.judge_by(&self.last, &fork(&self.storage))
    }

    fn judge_by(&self, worlds: &[World], storage: &SimulatedStorage) -> Result<Found, String> {
        let found = Found::of(storage)?;
        let mut reasons = Vec::new();
        for world in worlds {
            let fits = || {
                world.holds(&found.contents)?;
                world.has(&found.bitmaps, &found.contents)?;
                world.keeps(&found.snapshots)
            };
            match fits() {
                Ok(()) => return Ok(found),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; or: "))
    }

    /// In short, for messages.
    pub fn text(&self) -> String {
        let line = |(step, result): (&Step, &Result<(), Error>)| match result {
            Ok(()) => format!("  {}\n", step.text()),
            Err(error) => format!("  {}: {error}\n", step.text()),
        };
        self.steps.iter().chain([&Step::Flush]).zip(&self.results).map(line).collect()
    }
}

/// What an error says about an atomic step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Made,
    NotMade,
    Unknown,
}

pub fn says(error: &Error) -> Outcome {
    let text = error.to_string();
    if text.contains("the change was made") || text.contains("the disk has its new size") {
        Outcome::Made
    } else if text.contains("may or may not have been made") {
        Outcome::Unknown
    } else {
        Outcome::NotMade
    }
}

impl Found {
    /// What an image holds, in which nothing worse than leaks may be found.
    pub fn of(storage: &SimulatedStorage) -> Result<Self, String> {
        let disk = open(storage, Access::Read).map_err(|e| format!("does not open: {e}"))?;
        let (contents, bitmaps) = (contents(&disk)?, Bitmaps::of(&disk)?);
        let found = Found { contents, bitmaps, snapshots: snapshots(storage)? };
        let report = Disk::check_in(std::sync::Arc::new(storage.clone()), DISK, &DiskOptions::default())
            .map_err(|e| format!("cannot be checked: {e}"))?;
        match report.problems.iter().find(|p| p.kind.severity() != CheckSeverity::Leak) {
            Some(problem) => Err(problem.text.clone()),
            None => Ok(found),
        }
    }

    /// Goes on with an image after what happened: the next writes, and the next change of its bitmaps.
    pub fn go_on(&self, specimen: &Specimen, storage: &SimulatedStorage) -> Result<SimulatedStorage, String> {
        let storage = fork(storage);
        let mut random = Rng::new(storage.digest(), 0);
        let disk = open_to_write(&storage).map_err(|e| format!("does not open for writing: {e}"))?;
        let (mut next, size) = (self.contents.clone(), self.contents.len() as u64);
        let mut bitmaps = self.bitmaps.clone();
        for _ in 0..3 {
            let at = random.below(size);
            let length = random.between(1, (size - at).min(20_000));
            let bytes = random.bytes(length as usize, 0);
            disk.write_at(&bytes, at).map_err(|e| format!("cannot be written any more: {e}"))?;
            next[at as usize..(at + length) as usize].copy_from_slice(&bytes);
            for bitmap in bitmaps.0.values_mut().filter(|bitmap| bitmap.recording) {
                let granules = at / bitmap.granularity..(at + length).div_ceil(bitmap.granularity);
                bitmap.dirty.extend(granules);
            }
        }
        disk.flush().map_err(|e| format!("cannot be flushed any more: {e}"))?;
        if !specimen.recipe.is_version_2() {
            disk.change_bitmaps(&later()).map_err(|e| format!("cannot be changed any more: {e}"))?;
            bitmaps = bitmaps.changed(&later());
        }
        disk.close().map_err(|e| format!("cannot be closed any more: {e}"))?;
        let found = Found::of(&storage)?;
        if found.contents != next {
            return Err(format!("later writes: wrong at {:#x}", differs(&found.contents, &next)));
        }
        if found.bitmaps != bitmaps {
            return Err(format!("later, the bitmaps are {:?}, not {bitmaps:?}", found.bitmaps));
        }
        match found.snapshots == self.snapshots {
            true => Ok(storage),
            false => Err("later writes change a snapshot".into()),
        }
    }
}

/// Goes on with a part of the states, and shows another part to QEMU.
pub struct Sampler {
    samples: Samples,
    rare: u64,
    pub went_on: Cell<usize>,
}

impl Sampler {
    pub fn new(rare: u64) -> Self {
        Sampler { samples: Samples::new(rare), rare, went_on: Cell::new(0) }
    }

    pub fn shown(&self) -> usize {
        self.samples.shown.get()
    }

    pub fn take(&self, specimen: &Specimen, storage: &SimulatedStorage, found: &Found) -> Result<(), String> {
        let number = storage.digest();
        if number.is_multiple_of(4) {
            self.went_on.set(self.went_on.get() + 1);
            let later = found.go_on(specimen, storage)?;
            if number.is_multiple_of(4 * self.rare) {
                self.show(&later, &Found::of(&later)?)?;
            }
        }
        if number % self.rare == 1 { self.show(storage, found) } else { Ok(()) }
    }

    /// QEMU finds nothing worse than leaks, and the same contents, bitmaps and snapshots.
    fn show(&self, storage: &SimulatedStorage, found: &Found) -> Result<(), String> {
        let shop = self.samples.shop();
        let reads = |what: &str, args: &[&str], expected: &[u8]| {
            let args = [&["convert", "-O", "raw"], args, &["disk.qcow2", "disk.raw"]].concat();
            let output = shop.try_run("qemu-img", &args);
            if !output.status.success() {
                return Err(format!("qemu-img {args:?}: {}", text(&output)));
            }
            let contents = fs::read(shop.path("disk.raw")).unwrap();
            match contents.starts_with(expected) {
                true => Ok(()),
                false => Err(format!("QEMU reads {what} otherwise at {:#x}", differs(&contents, expected))),
            }
        };
        self.samples.put(storage);
        // Before it repairs anything: QEMU 10.0 then loses the snapshots of an image with bitmaps.
        found.snapshots.iter().try_for_each(|(name, kept)| {
            // It gives a snapshot the size that the disk has now; behind its own end anything comes to light.
            reads(name, &["-l", name], &kept[..kept.len().min(found.contents.len())])
        })?;
        self.samples.by_qemu(storage, &found.bitmaps)?;
        reads("the disk", &[], &found.contents)
    }
}
