//! Judges the states that a crash can leave, and keeps the bad ones for a closer look.
//!
//! A test gives its recording a name. When a state is judged to be bad the test fails with the state's name,
//! `TRIAL/CRASH`, and writes its files to a folder. `HOLSTEIN_CRASH=TRIAL/CRASH` rebuilds that state alone:
//! its files are written to a folder whatever the verdict, and nothing else is judged.
//! `HOLSTEIN_EXHAUSTIVE=1` judges all states instead of a sample.
#![allow(dead_code)] // each test program uses its own part of this

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use holstein::storage::{
    SimulatedStorage,
    simulated::{Crash, Level, Recording},
};

/// The variable that asks for one state.
const ONE: &str = "HOLSTEIN_CRASH";

/// A recording on trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Tells it from the other trials of its test program.
    pub name: &'a str,
    /// What was done.
    pub recording: &'a Recording,
    /// How many states a normal run judges, all levels together.
    pub limit: usize,
    /// Chooses them.
    pub seed: u64,
}

impl Trial<'_> {
    /// Judges states of all levels and says how many of each; panics at the first bad one. Nothing is judged,
    /// and `None` returned, when a state of any trial was asked for by its name.
    pub fn judge(
        &self,
        verdict: impl Fn(&Crash, &SimulatedStorage) -> Result<(), String>,
    ) -> Option<BTreeMap<Level, usize>> {
        self.judge_up_to(usize::MAX, verdict)
    }

    /// The same with at most so many states in an exhaustive run.
    pub fn judge_up_to(
        &self,
        most: usize,
        verdict: impl Fn(&Crash, &SimulatedStorage) -> Result<(), String>,
    ) -> Option<BTreeMap<Level, usize>> {
        if let Ok(wanted) = env::var(ONE) {
            self.judge_one(&wanted, verdict);
            return None;
        }
        let limit = if env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { most } else { self.limit };
        let mut judged = BTreeMap::new();
        for (crash, storage) in self.recording.states(&Level::ALL, limit, self.seed) {
            if let Err(reason) = verdict(&crash, &storage) {
                let folder = self.keep(&crash, &storage);
                panic!("{}", self.report(&crash, &reason, &folder));
            }
            *judged.entry(crash.level()).or_insert(0) += 1;
        }
        Some(judged)
    }

    fn judge_one(&self, wanted: &str, verdict: impl Fn(&Crash, &SimulatedStorage) -> Result<(), String>) {
        let Some((_, crash)) = wanted.rsplit_once('/').filter(|(name, _)| *name == self.name) else { return };
        let crash: Crash = crash.parse().unwrap_or_else(|error| panic!("{ONE}: {error}"));
        let Some(storage) = self.recording.after(&crash) else {
            panic!("{ONE}: the trial {} has no crash {crash}", self.name)
        };
        let folder = self.keep(&crash, &storage);
        match verdict(&crash, &storage) {
            Ok(()) => println!("{wanted} is good; its files are in {}", folder.display()),
            Err(reason) => panic!("{}", self.report(&crash, &reason, &folder)),
        }
    }

    /// Writes a state's files to a folder of its own.
    fn keep(&self, crash: &Crash, storage: &SimulatedStorage) -> PathBuf {
        let mut name = crash.to_string();
        if name.len() > 200 {
            // Too long for a file name.
            name = format!("{:?}@{}-{:016x}", crash.level(), crash.after(), storage.digest());
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash").join(self.name).join(name);
        write_to(storage, &folder);
        folder
    }

    fn report(&self, crash: &Crash, reason: &str, folder: &Path) -> String {
        let thread = std::thread::current();
        let done = self.recording.operations().iter().enumerate();
        let done = done.map(|(number, record)| format!("{number:4} {record}\n"));
        format!(
            "{}\nstate: {}/{crash}\nits files: {}\nagain: {ONE}='{}/{crash}' cargo test --test {} -- {}\n{}",
            reason,
            self.name,
            folder.display(),
            self.name,
            env!("CARGO_CRATE_NAME"),
            thread.name().unwrap_or_default(),
            done.collect::<String>()
        )
    }
}

/// Writes all files of a storage below `folder`, which is emptied before.
pub fn write_to(storage: &SimulatedStorage, folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    for path in storage.paths() {
        let to = folder.join(path.strip_prefix("/").unwrap_or(&path));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, storage.contents(&path).unwrap()).unwrap();
    }
}
