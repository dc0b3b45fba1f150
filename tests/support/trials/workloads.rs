//! What is done to the specimens: each kind of change by itself, and some of all by chance.

use std::ops::Range;

use holstein::{BitmapChange, Recording};

use crate::{
    model::add,
    rng::Rng,
    specimens::{KIB, Specimen},
    world::Step,
};

/// Steps with a name.
pub type Workload = (String, Vec<Step>);

/// The workloads for a specimen, `random` of them by chance.
pub fn workloads(specimen: &Specimen, random: u64) -> Vec<Workload> {
    let mut maker = Maker::new(specimen, 1);
    let (size, cluster) = (maker.size, specimen.cluster_size);
    let middle = size / 2 / cluster * cluster;
    let end = size / cluster * cluster;
    let mut list = vec![
        ("in-place", vec![maker.write(3 * KIB, 2 * KIB), maker.write(100, 700), Step::Flush]),
        ("allocating", vec![maker.write(middle + 5 * KIB, 9 * KIB), Step::Flush]),
        ("whole", vec![maker.write(middle, cluster * 2), Step::Flush, maker.write(middle, cluster)]),
        ("zero", vec![maker.zero(1000, 9 * KIB), Step::Flush, maker.zero(middle, 2 * cluster)]),
        ("discard", vec![maker.discard(0, 3 * cluster), Step::Flush, maker.write(0, 4 * KIB)]),
        ("compressed", vec![maker.write(middle + 20 * KIB, 1024), maker.zero(middle, 1024), Step::Flush]),
        ("much", vec![maker.write(middle, 80 * KIB), Step::Flush, maker.write(middle + 80 * KIB, 1024)]),
        ("end", vec![maker.write(end.min(size - 512), size), maker.zero(size - 512, 512), Step::Flush]),
        ("again", {
            let (one, other) = (maker.write(middle, 3 * KIB), maker.write(middle + 1024, 3 * KIB));
            vec![one, maker.zero(middle, 2 * KIB), other, Step::Flush, maker.write(middle, 512), Step::Flush]
        }),
        ("grow", vec![maker.write(size - 2 * KIB, 2 * KIB), Step::Resize(size + cluster + 3 * KIB)]),
        ("grow-little", vec![Step::Resize(size + 512), Step::Write(size, vec![7; 512]), Step::Flush]),
        ("shrink", vec![Step::Resize((size - cluster / 2) / 512 * 512 - 1536), Step::Flush]),
        ("regrow", vec![Step::Resize(middle + 1536), Step::Resize(size), maker.write(size - 512, 512)]),
    ];
    if !specimen.recipe.is_version_2() {
        let clear = |name: &str| BitmapChange::Clear { name: name.into() };
        let changes = vec![clear("a"), add("new", 512, Recording::Enabled)];
        let write = maker.write(middle, 5 * KIB);
        list.push(("bitmaps", vec![write, Step::Change(changes), maker.write(0, 1024), Step::Flush]));
    }
    list.retain(|(_, steps)| maker.can_be(steps));
    let list = list.into_iter().map(|(name, steps)| (name.to_owned(), steps));
    let by_chance = |seed| {
        let mut maker = Maker::new(specimen, 100 + seed);
        (format!("random-{seed}"), maker.some())
    };
    list.chain((0..random).map(by_chance)).collect()
}

struct Maker<'a> {
    specimen: &'a Specimen,
    random: Rng,
    size: u64,
}

impl<'a> Maker<'a> {
    fn new(specimen: &'a Specimen, seed: u64) -> Self {
        Maker {
            specimen,
            random: Rng::new(seed, specimen.cluster_size),
            size: specimen.contents.len() as u64,
        }
    }

    fn range(&self, at: u64, length: u64) -> Range<u64> {
        at..(at + length).min(self.size)
    }

    fn write(&mut self, at: u64, length: u64) -> Step {
        let range = self.range(at, length);
        Step::Write(at, self.random.bytes((range.end - range.start) as usize, 0))
    }

    fn zero(&self, at: u64, length: u64) -> Step {
        Step::Zero(self.range(at, length))
    }

    fn discard(&self, at: u64, length: u64) -> Step {
        Step::Discard(self.range(at, length))
    }

    /// Version 2 cannot have every size.
    fn can_be(&self, steps: &[Step]) -> bool {
        let recipe = &self.specimen.recipe;
        let resizes = steps.iter().any(|step| matches!(step, Step::Resize(_)));
        !(resizes && recipe.is_version_2() && (recipe.snapshot || recipe.below.is_some()))
    }

    /// A place for a write: anywhere, or near a border.
    fn place(&mut self) -> (u64, u64) {
        let cluster = self.specimen.cluster_size;
        let most = *self.random.pick(&[1024, 10 * KIB, 2 * cluster, 70 * KIB]);
        let at = match self.random.below(4) {
            0 => self.random.below(self.size / cluster + 1) * cluster,
            1 => self.size - self.random.between(1, self.size.min(2 * cluster)),
            2 => 0,
            _ => self.random.below(self.size),
        };
        let at = at.min(self.size - 1);
        let at = if self.random.chance(60) { at / 512 * 512 } else { at };
        let length = self.random.between(1, most.min(self.size - at));
        let whole = length.next_multiple_of(512).min(self.size - at);
        (at, if self.random.chance(60) { whole } else { length })
    }

    fn some(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut names: Vec<String> = self.specimen.bitmaps.0.keys().cloned().collect();
        for number in 0..self.random.between(3, 8) {
            let (at, length) = self.place();
            let step = match self.random.below(20) {
                0..=8 => self.write(at, length),
                9..=10 => self.zero(at, length),
                11..=12 => self.discard(at, length * 4),
                13..=15 => Step::Flush,
                16..=17 => Step::Resize(self.new_size()),
                _ if names.is_empty() => Step::Flush,
                18 => {
                    Step::Change(vec![BitmapChange::Clear { name: self.random.pick(&names).clone().into() }])
                }
                _ => {
                    names.push(format!("new {number}"));
                    Step::Change(vec![add(&names[names.len() - 1], 512, Recording::Enabled)])
                }
            };
            if !self.can_be(std::slice::from_ref(&step)) {
                continue;
            }
            if let Step::Resize(size) = &step {
                self.size = *size;
            }
            steps.push(step);
        }
        steps
    }

    fn new_size(&mut self) -> u64 {
        let step = *self.random.pick(&[512, 4 * KIB, 64 * KIB, self.specimen.cluster_size]);
        let by = self.random.between(1, 8) * step;
        let grows = self.random.chance(50) || by + 1024 > self.size;
        if grows { self.size + by } else { self.size - by }
    }
}
