//! What is done to the specimens: snapshots come and go, and writes in between.

use holstein::{BitmapChange, Recording};

use crate::{
    model::add,
    rng::Rng,
    specimens::{KIB, Specimen},
    world::Step,
};

/// Steps with a name.
pub type Workload = (String, Vec<Step>);

/// Names of snapshots that are taken.
const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];

/// The workloads for a specimen, `random` of them by chance.
pub fn workloads(specimen: &Specimen, random: u64) -> Vec<Workload> {
    let size = specimen.contents.len() as u64;
    let cluster = specimen.cluster_size;
    let middle = size / 2 / cluster * cluster;
    let mut bytes = Rng::new(7, cluster);
    let mut write = |at: u64, length: u64| Step::Write(at, bytes.bytes(length.min(size - at) as usize, 0));
    let [a, b, ..] = NAMES;
    let mut list = vec![
        ("take", vec![Step::Take(a)]),
        ("take-and-drop", vec![Step::Take(a), Step::Drop(a)]),
        ("unflushed", vec![write(100, 9 * KIB), Step::Take(a), write(middle, 3 * KIB), Step::Take(b)]),
        ("twice", vec![Step::Take(a), Step::Take(b), Step::Drop(a), Step::Drop(b)]),
        ("replace", {
            let (one, other) = (write(0, 40 * KIB), write(middle + 512, 20 * KIB));
            vec![Step::Take(a), one, Step::Take(b), other, Step::Flush, Step::Drop(a), Step::Drop(b)]
        }),
        ("gone", vec![Step::Take(a), Step::Discard(0..size), Step::Flush, Step::Drop(a)]),
        ("write-after", vec![Step::Take(a), Step::Drop(a), write(0, 4 * KIB), write(middle, 8 * KIB)]),
    ];
    if let Some((old, _)) = specimen.snapshots.first() {
        assert_eq!(old, "one");
        list.push(("drop", vec![Step::Drop("one")]));
        list.push(("exchange", vec![Step::Take(a), Step::Drop("one"), write(100, 9 * KIB)]));
    }
    if !specimen.recipe.is_version_2() {
        let clear = BitmapChange::Clear { name: b"a".to_vec() };
        let changes = Step::Change(vec![clear, add("new", 512, Recording::Enabled)]);
        list.push(("bitmaps", vec![Step::Take(a), changes, write(middle, 5 * KIB), Step::Drop(a)]));
        let (smaller, larger) = (Step::Resize(middle + 512), Step::Resize(size + cluster));
        list.push(("resize", vec![Step::Take(a), smaller, Step::Take(b), larger, Step::Drop(a)]));
    }
    let list = list.into_iter().map(|(name, steps)| (name.to_owned(), steps));
    list.chain((0..random).map(|seed| (format!("random-{seed}"), some(specimen, seed)))).collect()
}

/// Steps that can be made, one after the other.
fn some(specimen: &Specimen, seed: u64) -> Vec<Step> {
    let mut random = Rng::new(seed, specimen.cluster_size);
    let size = specimen.contents.len() as u64;
    let mut there: Vec<&str> = specimen.snapshots.iter().map(|_| "one").collect();
    let mut steps = Vec::new();
    for _ in 0..random.between(4, 9) {
        let at = random.below(size / 512) * 512;
        let length = random.between(1, (size - at).min(30 * KIB));
        let free: Vec<_> = NAMES.into_iter().filter(|name| !there.contains(name)).collect();
        steps.push(match random.below(10) {
            0..=2 if !free.is_empty() => {
                there.push(*random.pick(&free));
                Step::Take(there[there.len() - 1])
            }
            3..=4 if !there.is_empty() => {
                Step::Drop(there.swap_remove(random.below(there.len() as u64) as usize))
            }
            5 => Step::Discard(at..(at + 8 * length).min(size)),
            6 => Step::Zero(at..at + length),
            7 => Step::Flush,
            _ => Step::Write(at, random.bytes(length as usize, 0)),
        });
    }
    steps
}
