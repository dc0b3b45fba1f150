//! Many generated images, made and checked in parallel, each failure with what is needed to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::image::{Bases, Image};
use super::qemu::NOTES;
use super::rng::Rng;

/// The seed unless `HOLSTEIN_SEED` says another.
const SEED: u64 = 1;

/// What is common to all images of a run.
pub struct Campaign {
    name: &'static str,
    seed: u64,
    numbers: Vec<u32>,
    bases: Bases,
}

impl Campaign {
    /// The images of `numbers`, or the one that `HOLSTEIN_ONLY` names.
    pub fn new(name: &'static str, numbers: impl IntoIterator<Item = u32>, bases: Bases) -> Self {
        let number =
            |variable| env::var(variable).ok().map(|v| v.parse().expect("a number in the environment"));
        let numbers = match number("HOLSTEIN_ONLY") {
            Some(only) => vec![only as u32],
            None => numbers.into_iter().collect(),
        };
        Campaign { name, seed: number("HOLSTEIN_SEED").unwrap_or(SEED), numbers, bases }
    }

    /// Makes each image and hands it to `check`, with random numbers of its own; panics when a check did, with
    /// all of them. Then `features`, each with its least number of images, must have occurred.
    pub fn run(&self, check: impl Fn(&Image, &mut Rng) + Sync, features: &[(&str, usize)]) {
        let one = |number: u32, folder: &Path| {
            let image = Image::make(self.seed, number, folder, self.bases);
            check(&image, &mut Rng::new(self.seed, u64::from(number) << 32));
            image.features
        };
        self.run_each(one, features);
    }

    /// The seed of all numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The same for whatever `one` does with a number in a folder of its own; it returns what occurred.
    pub fn run_each(&self, one: impl Fn(u32, &Path) -> BTreeSet<String> + Sync, features: &[(&str, usize)]) {
        let begin = Instant::now();
        let next = AtomicUsize::new(0);
        let counts = Mutex::new(BTreeMap::<String, usize>::new());
        let failures = Mutex::new(Vec::<(u32, String)>::new());
        let work = || {
            while let Some(&number) = self.numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.one(number, &one) {
                    Ok(features) => {
                        let mut counts = counts.lock().unwrap();
                        features.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
                    }
                    Err(failure) => failures.lock().unwrap().push((number, failure)),
                }
            }
        };
        let threads = thread::available_parallelism().map_or(2, usize::from);
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));

        let (mut failures, counts) = (failures.into_inner().unwrap(), counts.into_inner().unwrap());
        println!("{}: seed {}, {} images in {:?}", self.name, self.seed, self.numbers.len(), begin.elapsed());
        counts.iter().for_each(|(feature, count)| println!("{count:5} {feature}"));
        failures.sort();
        let report: String = failures.iter().map(|(_, report)| report.as_str()).collect();
        assert!(failures.is_empty(), "{} of {} images failed\n{report}", failures.len(), self.numbers.len());
        if self.numbers.len() > 1 && self.seed == SEED {
            for (feature, least) in features {
                let count = counts.get(*feature).copied().unwrap_or(0);
                assert!(count >= *least, "only {count} images with {feature}, {least} wanted");
            }
        }
    }

    fn one(
        &self,
        number: u32,
        one: &impl Fn(u32, &Path) -> BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        let kept = env::var_os("HOLSTEIN_KEEP").map(|keep| {
            let folder = Path::new(&keep).join(format!("{}-{number}", self.name));
            fs::create_dir_all(&folder).expect("making the folder to keep");
            folder.canonicalize().expect("the folder to keep")
        });
        let passing = tempfile::tempdir().expect("making a temporary folder");
        let folder = kept.as_deref().unwrap_or(passing.path());
        catch_unwind(AssertUnwindSafe(|| one(number, folder))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
            let commands = fs::read_to_string(folder.join(NOTES)).unwrap_or_default();
            format!(
                "\n{} image {number}; again with HOLSTEIN_SEED={} HOLSTEIN_ONLY={number} HOLSTEIN_KEEP=DIR\n\
                 {text}\nIt was made by\n{commands}",
                self.name, self.seed
            )
        })
    }
}
