//! What a disk may hold, as a plain model: each sector what it held at the last flush, or what was written since.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::SystemTime,
};

use holstein::{BitmapChange, Disk, Recording};

use crate::{
    model::Bitmaps,
    specimens::{Kept, Specimen},
};

pub const SECTOR: u64 = 512;

/// What is done to a disk.
#[derive(Clone, Debug)]
pub enum Step {
    Write(u64, Vec<u8>),
    Zero(Range<u64>),
    Discard(Range<u64>),
    Flush,
    Resize(u64),
    Change(Vec<BitmapChange>),
    /// Takes a snapshot of this name.
    Take(&'static str),
    /// Deletes it.
    Drop(&'static str),
}

impl Step {
    pub fn perform(&self, disk: &Disk) -> holstein::Result<()> {
        match self {
            Step::Write(at, bytes) => disk.write_at(bytes, *at),
            Step::Zero(range) => disk.write_zeroes(range.clone()),
            Step::Discard(range) => disk.discard(range.clone()),
            Step::Flush => disk.flush(),
            Step::Resize(size) => disk.resize(*size),
            Step::Change(changes) => disk.change_bitmaps(changes),
            Step::Take(name) => disk.create_snapshot(name.as_bytes(), SystemTime::UNIX_EPOCH).map(drop),
            Step::Drop(name) => disk.delete_snapshot(name.as_bytes()),
        }
    }

    /// Decided in one moment: all of it or nothing.
    pub fn is_atomic(&self) -> bool {
        matches!(self, Step::Resize(_) | Step::Change(_) | Step::Take(_) | Step::Drop(_))
    }

    /// For messages.
    pub fn text(&self) -> String {
        match self {
            Step::Write(at, bytes) => format!("write {at}+{}", bytes.len()),
            Step::Zero(range) => format!("zero {}+{}", range.start, range.end - range.start),
            Step::Discard(range) => format!("discard {}+{}", range.start, range.end - range.start),
            step => format!("{step:?}").to_lowercase(),
        }
    }

    /// The range that bitmaps of a disk of that size record: a write behind its end is refused.
    fn recorded(&self, size: u64) -> Range<u64> {
        let range = match self {
            Step::Write(at, bytes) => *at..at + bytes.len() as u64,
            Step::Zero(range) | Step::Discard(range) => range.clone(),
            _ => 0..0,
        };
        if range.end > size { 0..0 } else { range }
    }
}

/// One thing that a disk and its bitmaps can be after some steps.
#[derive(Clone)]
pub struct World {
    cluster_size: u64,
    /// A discard changes something.
    discards: bool,
    /// What was written last.
    newest: Arc<Vec<u8>>,
    /// By sector: what it held at the last flush, and was written since.
    older: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Sectors of which nobody knows which of these they hold, since a write failed.
    unsure: BTreeSet<u64>,
    /// Sectors that were written in parts, which can arrive by themselves.
    mixed: BTreeSet<u64>,
    /// What must be dirty, and what may be.
    required: Bitmaps,
    allowed: Bitmaps,
    /// By recording bitmap: the contents from which on it knows everything.
    since: BTreeMap<String, Arc<Vec<u8>>>,
    /// Snapshots, each with the disk that it keeps.
    kept: Vec<(String, Arc<World>)>,
}

impl World {
    /// A disk to which nothing has been done.
    pub fn of(specimen: &Specimen) -> Self {
        let recipe = &specimen.recipe;
        let names = |(name, bitmap): (&String, &crate::model::Bitmap)| {
            bitmap.recording.then(|| (name.clone(), specimen.contents.clone()))
        };
        let world = World {
            cluster_size: specimen.cluster_size,
            discards: !(recipe.is_version_2() && recipe.below.is_some() || recipe.has_raw_data_file()),
            newest: specimen.contents.clone(),
            older: BTreeMap::new(),
            unsure: BTreeSet::new(),
            mixed: BTreeSet::new(),
            required: specimen.bitmaps.clone(),
            allowed: specimen.bitmaps.clone(),
            since: specimen.bitmaps.0.iter().filter_map(names).collect(),
            kept: Vec::new(),
        };
        let keep = |(name, contents): &Kept| {
            let kept = World { newest: Arc::new(contents.clone()), ..world.clone() };
            (name.clone(), Arc::new(kept))
        };
        World { kept: specimen.snapshots.iter().map(keep).collect(), ..world }
    }

    pub fn size(&self) -> u64 {
        self.newest.len() as u64
    }

    pub fn bitmaps(&self) -> &Bitmaps {
        &self.required
    }

    /// What an open disk reads, if nothing failed.
    pub fn newest(&self) -> &[u8] {
        &self.newest
    }

    /// What the step writes where.
    fn effect(&self, step: &Step) -> Option<(u64, Vec<u8>)> {
        if step.recorded(self.size()).is_empty() {
            return None;
        }
        let zeros = |range: Range<u64>| {
            (range.start < range.end).then(|| (range.start, vec![0; (range.end - range.start) as usize]))
        };
        match step {
            Step::Write(at, bytes) => Some((*at, bytes.clone())),
            Step::Zero(range) => zeros(range.clone()),
            Step::Discard(range) if self.discards => {
                let start = range.start.next_multiple_of(self.cluster_size);
                let end =
                    range.end - if range.end == self.size() { 0 } else { range.end % self.cluster_size };
                zeros(start..end)
            }
            _ => None,
        }
    }

    /// The step was done.
    pub fn complete(&mut self, step: &Step) {
        if let Some((at, bytes)) = self.effect(step) {
            self.write(at, &bytes, true);
        }
        self.record(step);
        let recorded = step.recorded(self.size());
        for name in self.recording() {
            add(&mut self.required, &name, recorded.clone());
        }
        match step {
            Step::Flush => self.settle(),
            Step::Resize(size) => self.resize(*size),
            Step::Change(changes) => self.change(changes),
            Step::Take(name) => {
                self.settle();
                let now = World { kept: Vec::new(), ..self.clone() };
                self.kept.push(((*name).to_owned(), Arc::new(now)));
            }
            Step::Drop(name) => {
                self.settle();
                let at = self.kept.iter().position(|(kept, _)| kept == name).unwrap();
                self.kept.remove(at);
            }
            _ => {}
        }
    }

    /// It was begun: any part of it may have been done. Of an atomic one, what comes before its decision.
    pub fn attempt(&mut self, step: &Step) {
        if let Some((at, bytes)) = self.effect(step) {
            self.write(at, &bytes, false);
        }
        self.record(step);
    }

    /// The worlds that a crash during the step can leave.
    pub fn during(&self, step: &Step) -> Vec<World> {
        let mut before = self.clone();
        before.attempt(step);
        if !step.is_atomic() {
            return vec![before];
        }
        let mut after = self.clone();
        after.complete(step);
        vec![before, after]
    }

    fn write(&mut self, at: u64, bytes: &[u8], surely: bool) {
        let end = at + bytes.len() as u64;
        let mut next = Vec::clone(&self.newest);
        next[at as usize..end as usize].copy_from_slice(bytes);
        for sector in at / SECTOR..end.div_ceil(SECTOR) {
            let range = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
            let (old, new) = (&self.newest[range.clone()], &next[range]);
            let covered = at <= sector * SECTOR && (sector + 1) * SECTOR <= end;
            let list = self.older.entry(sector).or_default();
            list.push(if surely { old } else { new }.to_vec());
            if !covered {
                self.mixed.insert(sector);
            }
            if !surely {
                self.unsure.insert(sector);
            } else if covered {
                self.unsure.remove(&sector);
            }
        }
        if surely {
            self.newest = Arc::new(next);
        }
    }

    fn recording(&self) -> Vec<String> {
        self.required.0.iter().filter(|(_, b)| b.recording).map(|(name, _)| name.clone()).collect()
    }

    fn record(&mut self, step: &Step) {
        let recorded = step.recorded(self.size());
        for name in self.recording() {
            add(&mut self.allowed, &name, recorded.clone());
        }
    }

    /// All is durable.
    fn settle(&mut self) {
        self.older.retain(|sector, _| self.unsure.contains(sector));
        self.mixed.retain(|sector| self.unsure.contains(sector));
    }

    fn resize(&mut self, size: u64) {
        self.settle();
        let old = self.size();
        Arc::make_mut(&mut self.newest).resize(size as usize, 0);
        let sectors = size / SECTOR;
        self.older.retain(|sector, _| *sector < sectors);
        for bitmaps in [&mut self.required, &mut self.allowed] {
            for bitmap in bitmaps.0.values_mut() {
                let end = size.div_ceil(bitmap.granularity);
                bitmap.dirty.retain(|granule| *granule < end);
                if size > old {
                    bitmap.dirty.extend(old / bitmap.granularity..end);
                }
            }
        }
    }

    fn change(&mut self, changes: &[BitmapChange]) {
        self.settle();
        for change in changes {
            let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
            let known = self.unsure.is_empty().then(|| self.newest.clone());
            match change {
                BitmapChange::Add { name, recording, .. } | BitmapChange::Record { name, recording } => {
                    match known.filter(|_| *recording == Recording::Enabled) {
                        Some(known) => drop(self.since.insert(text(name), known)),
                        None => drop(self.since.remove(&text(name))),
                    }
                }
                BitmapChange::Clear { name } if self.since.contains_key(&text(name)) => match known {
                    Some(known) => drop(self.since.insert(text(name), known)),
                    None => drop(self.since.remove(&text(name))),
                },
                BitmapChange::Remove { name } => drop(self.since.remove(&text(name))),
                BitmapChange::Rename { name, to } => {
                    if let Some(since) = self.since.remove(&text(name)) {
                        self.since.insert(text(to), since);
                    }
                }
                BitmapChange::Clear { .. } | BitmapChange::CountFrom { .. } | BitmapChange::Merge { .. } => {}
            }
            self.required = self.required.changed(std::slice::from_ref(change));
            self.allowed = self.allowed.changed(std::slice::from_ref(change));
        }
    }

    /// The open disk was read: what was unsure is known.
    pub fn learn(&mut self, contents: &[u8]) -> Result<(), String> {
        self.holds(contents)?;
        for sector in std::mem::take(&mut self.unsure) {
            let range = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
            let known = self.newest[range.clone()].to_vec();
            if let Some(list) = self.older.get_mut(&sector) {
                list.push(known);
            }
            Arc::make_mut(&mut self.newest)[range.clone()].copy_from_slice(&contents[range]);
        }
        match contents == &**self.newest {
            true => Ok(()),
            false => Err(format!("the open disk reads old data at {:#x}", differs(contents, &self.newest))),
        }
    }

    /// Whether these can be the disk's contents.
    pub fn holds(&self, contents: &[u8]) -> Result<(), String> {
        if contents.len() != self.newest.len() {
            return Err(format!("the disk has {} bytes, not {}", contents.len(), self.newest.len()));
        }
        let sectors = contents.chunks(SECTOR as usize).zip(self.newest.chunks(SECTOR as usize));
        for (sector, (found, newest)) in sectors.enumerate().filter(|(_, (found, newest))| found != newest) {
            let older = self.older.get(&(sector as u64)).map_or(&[][..], Vec::as_slice);
            let mixed = || {
                let known =
                    |at: usize| found[at] == newest[at] || older.iter().any(|old| old[at] == found[at]);
                self.mixed.contains(&(sector as u64)) && (0..found.len()).all(known)
            };
            if !older.iter().any(|old| old == found) && !mixed() {
                let at = sector as u64 * SECTOR;
                let kind = if older.is_empty() { "was not written" } else { "holds neither old nor new" };
                return Err(format!("the sector at {at:#x} {kind}: {:02x?}", &found[..16]));
            }
        }
        Ok(())
    }

    /// Whether these can be the snapshots.
    pub fn keeps(&self, snapshots: &[Kept]) -> Result<(), String> {
        let names = |list: &mut dyn Iterator<Item = &String>| list.cloned().collect::<Vec<_>>().join(", ");
        let found = names(&mut snapshots.iter().map(|(name, _)| name));
        let expected = names(&mut self.kept.iter().map(|(name, _)| name));
        if found != expected {
            return Err(format!("the snapshots are {found}, not {expected}"));
        }
        let mut pairs = snapshots.iter().zip(&self.kept);
        pairs.try_for_each(|((name, contents), (_, kept))| {
            kept.holds(contents).map_err(|reason| format!("snapshot '{name}': {reason}"))
        })
    }

    /// Whether these can be the bitmaps of a disk with these contents.
    pub fn has(&self, bitmaps: &Bitmaps, contents: &[u8]) -> Result<(), String> {
        if !bitmaps.0.keys().eq(self.required.0.keys()) {
            return Err(format!("the bitmaps are {bitmaps:?}, not {:?}", self.required));
        }
        for (name, found) in &bitmaps.0 {
            let (required, allowed) = (&self.required.0[name], &self.allowed.0[name]);
            if (found.granularity, found.recording) != (required.granularity, required.recording) {
                return Err(format!("bitmap '{name}' became {bitmaps:?}"));
            }
            if let Some(granule) = required.dirty.difference(&found.dirty).next() {
                return Err(format!("bitmap '{name}' is clean at {:#x}", granule * found.granularity));
            }
            if let Some(granule) = found.dirty.difference(&allowed.dirty).next() {
                return Err(format!("bitmap '{name}' is dirty at {:#x}", granule * found.granularity));
            }
            let Some(since) = self.since.get(name) else { continue };
            let since = since.chunks(SECTOR as usize).map(Some).chain(std::iter::repeat(None));
            for (sector, (now, then)) in contents.chunks(SECTOR as usize).zip(since).enumerate() {
                let at = sector as u64 * SECTOR;
                if Some(now) != then && !found.dirty.contains(&(at / found.granularity)) {
                    return Err(format!("bitmap '{name}' is clean at {at:#x}, where the disk has changed"));
                }
            }
        }
        Ok(())
    }
}

fn add(bitmaps: &mut Bitmaps, name: &str, range: Range<u64>) {
    let bitmap = bitmaps.0.get_mut(name).unwrap();
    bitmap.dirty.extend(range.start / bitmap.granularity..range.end.div_ceil(bitmap.granularity));
}

pub fn differs(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}
