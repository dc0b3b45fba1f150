//! Bitmaps as plain sets, and what changes shall make of them.

use std::collections::{BTreeMap, BTreeSet};

use holstein::{BitmapChange, Disk, MergeSource, Recording};

use crate::rng::Rng;

/// One bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    pub granularity: u64,
    pub recording: bool,
    /// Numbers of granules.
    pub dirty: BTreeSet<u64>,
}

/// All bitmaps of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitmaps(pub BTreeMap<String, Bitmap>);

impl Bitmaps {
    /// Those of an open disk, as the library tells them; all must be sound.
    pub fn of(disk: &Disk) -> Result<Self, String> {
        let mut bitmaps = BTreeMap::new();
        for info in disk.bitmaps().map_err(|e| format!("cannot list the bitmaps: {e}"))? {
            let name = String::from_utf8(info.name).unwrap();
            if info.in_use || info.count.is_none() || info.auto == info.unusable.is_some() {
                return Err(format!("bitmap '{name}' is unusable: {:?}", info.unusable));
            }
            let loaded = disk.bitmap(name.as_bytes()).map_err(|e| e.to_string())?;
            let granules = |extent: std::ops::Range<u64>| {
                extent.start / info.granularity..extent.end.div_ceil(info.granularity)
            };
            let dirty: BTreeSet<u64> = loaded.extents().flat_map(granules).collect();
            if info.count != Some(dirty.len() as u64 * info.granularity) {
                return Err(format!("bitmap '{name}': counted {:?}, loaded {}", info.count, dirty.len()));
            }
            let bitmap = Bitmap { granularity: info.granularity, recording: info.auto, dirty };
            if bitmaps.insert(name.clone(), bitmap).is_some() {
                return Err(format!("bitmap '{name}' is there twice"));
            }
        }
        Ok(Bitmaps(bitmaps))
    }

    /// What the changes shall make of them.
    pub fn changed(&self, changes: &[BitmapChange]) -> Self {
        let mut bitmaps = self.0.clone();
        for change in changes {
            match change {
                BitmapChange::Add { name, granularity, recording } => {
                    let recording = *recording == Recording::Enabled;
                    let granularity = granularity.unwrap();
                    bitmaps.insert(text(name), Bitmap { granularity, recording, dirty: BTreeSet::new() });
                }
                BitmapChange::Remove { name } => drop(bitmaps.remove(&text(name)).unwrap()),
                BitmapChange::CountFrom { .. } => {}
                BitmapChange::Clear { name } => bitmaps.get_mut(&text(name)).unwrap().dirty.clear(),
                BitmapChange::Record { name, recording } => {
                    bitmaps.get_mut(&text(name)).unwrap().recording = *recording == Recording::Enabled;
                }
                BitmapChange::Rename { name, to } => {
                    let bitmap = bitmaps.remove(&text(name)).unwrap();
                    bitmaps.insert(text(to), bitmap);
                }
                BitmapChange::Merge { name, sources } => {
                    for source in sources {
                        let MergeSource::Name(source) = source else { panic!("{source:?}") };
                        let Bitmap { granularity, dirty, .. } = bitmaps[&text(source)].clone();
                        let to = bitmaps.get_mut(&text(name)).unwrap();
                        for granule in dirty {
                            let bytes = granule * granularity..(granule + 1) * granularity;
                            let first = bytes.start / to.granularity;
                            to.dirty.extend(first..bytes.end.div_ceil(to.granularity));
                        }
                    }
                }
            }
        }
        Bitmaps(bitmaps)
    }
}

/// In short: `a: 512 B, recording, 12 dirty`.
impl std::fmt::Debug for Bitmaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, bitmap) in &self.0 {
            let recording = if bitmap.recording { "recording" } else { "disabled" };
            write!(f, "{name}: {} B, {recording}, {} dirty; ", bitmap.granularity, bitmap.dirty.len())?;
        }
        Ok(())
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8(name.to_vec()).unwrap()
}

pub fn add(name: &str, granularity: u64, recording: Recording) -> BitmapChange {
    BitmapChange::Add { name: name.into(), granularity: Some(granularity), recording }
}

fn clear(name: &str) -> BitmapChange {
    BitmapChange::Clear { name: name.into() }
}

fn remove(name: &str) -> BitmapChange {
    BitmapChange::Remove { name: name.into() }
}

fn record(name: &str, recording: Recording) -> BitmapChange {
    BitmapChange::Record { name: name.into(), recording }
}

fn rename(name: &str, to: &str) -> BitmapChange {
    BitmapChange::Rename { name: name.into(), to: to.into() }
}

fn merge(name: &str, sources: &[&str]) -> BitmapChange {
    let sources = sources.iter().map(|source| MergeSource::Name((*source).into())).collect();
    BitmapChange::Merge { name: name.into(), sources }
}

/// The changes on trial, each by its name: every operation, and lists of several, `random` of them by chance.
pub fn operations(bitmaps: &Bitmaps, random: u64) -> Vec<(String, Vec<BitmapChange>)> {
    let single = [
        ("add", vec![add("new", 4096, Recording::Enabled)]),
        ("remove", vec![remove("a")]),
        ("clear", vec![clear("a")]),
        ("disable", vec![record("a", Recording::Disabled)]),
        ("enable", vec![record("b", Recording::Enabled)]),
        ("rename", vec![rename("a", "a longer name than it had")]),
        ("merge", vec![merge("b", &["a", "c"])]),
        (
            "several",
            vec![
                add("x", 512, Recording::Disabled),
                merge("x", &["a", "b"]),
                clear("a"),
                rename("c", "d"),
                record("d", Recording::Disabled),
                remove("b"),
                merge("d", &["x"]),
            ],
        ),
        ("remove-all", bitmaps.0.keys().map(|name| remove(name)).collect()),
    ];
    let single = single.map(|(name, changes)| (name.to_owned(), changes));
    let by_chance = |number| (format!("random-{number}"), some_changes(bitmaps, &mut Rng::new(number, 5)));
    single.into_iter().chain((0..random).map(by_chance)).collect()
}

/// A list of changes that can be made, one after the other.
fn some_changes(bitmaps: &Bitmaps, random: &mut Rng) -> Vec<BitmapChange> {
    let mut bitmaps = bitmaps.clone();
    let mut list = Vec::new();
    for number in 0..random.between(2, 8) {
        let names: Vec<&str> = bitmaps.0.keys().map(String::as_str).collect();
        let new = format!("new {number}");
        let pick = |random: &mut Rng| *random.pick(&names);
        let recording = *random.pick(&[Recording::Enabled, Recording::Disabled]);
        let change = match random.below(12) {
            0..=3 => add(&new, 512 << random.below(4), recording),
            _ if names.is_empty() => continue,
            4 => clear(pick(random)),
            5 => remove(pick(random)),
            6 => rename(pick(random), &new),
            7 => record(pick(random), recording),
            _ => merge(pick(random), &[pick(random), pick(random)]),
        };
        bitmaps = bitmaps.changed(std::slice::from_ref(&change));
        list.push(change);
    }
    list
}
