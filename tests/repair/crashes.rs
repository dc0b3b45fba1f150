//! Every state that a crash during a repair can leave.

use std::cell::Cell;

use holstein::storage::{SimulatedStorage, simulated::Level};

use crate::{
    cases::{BASE, Case, RECIPES},
    crash::{Trial, write_to},
    memory::{DISK, repair},
    qemu::{Workshop, text},
};

/// Whether everything is to be tried, not a sample.
pub fn exhaustive() -> bool {
    std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some()
}

/// Shows some of the states to QEMU.
struct Samples {
    shop: Workshop,
    folder: tempfile::TempDir,
    rare: u64,
    shown: Cell<usize>,
}

impl Samples {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path().join("images"));
        Samples { shop, folder, rare: if exhaustive() { 64 } else { 8 }, shown: Cell::new(0) }
    }

    fn take(&self, case: &Case, storage: &SimulatedStorage, after: &[u8]) -> Result<(), String> {
        if !storage.digest().is_multiple_of(self.rare) {
            return Ok(());
        }
        self.shown.set(self.shown.get() + 1);
        write_to(storage, self.folder.path());
        std::fs::write(self.shop.path(BASE), [7; 70_000]).unwrap();
        let img =
            |args: &[&str]| self.shop.try_run("qemu-img", &[args, &["-f", "qcow2", "disk.qcow2"]].concat());
        let opened = img(&["info"]);
        if case.opens && !opened.status.success() {
            return Err(format!("QEMU does not open it any more: {}", text(&opened)));
        }
        std::fs::write(self.shop.path("disk.qcow2"), after).unwrap();
        let check = img(&["check"]);
        match check.status.code() == Some(0) || case.name == "no-growth" {
            true => Ok(()),
            false => Err(format!("after the next repair QEMU's check says: {}", text(&check))),
        }
    }
}

/// So many states of a case are judged in an exhaustive run.
const MOST: usize = 5_000;

/// Judges the states of some of the cases.
fn judge(part: usize, parts: usize) {
    let samples = Samples::new();
    let mut states = 0;
    for recipe in RECIPES.iter().skip(part).step_by(parts) {
        let case = Case::make(recipe);
        case.is_repaired(&case.repaired).unwrap();
        let storage = case.storage();
        repair(&storage, case.mode).unwrap();
        storage.mark();
        let recording = storage.recording();
        let trial = Trial { name: case.name, recording: &recording, limit: 24, seed: 1 };
        let judged = trial.judge_up_to(MOST, |crash, storage| {
            let bytes = storage.contents(DISK).unwrap();
            case.is_not_worse(&bytes)?;
            if recording.marks_before(crash) > 0 {
                case.is_repaired(&bytes).map_err(|reason| format!("durable, but {reason}"))?;
            }
            samples.take(&case, storage, &case.goes_on(&bytes)?)
        });
        let Some(judged) = judged else { continue };
        println!("{}: {judged:?}", case.name);
        states += judged.values().sum::<usize>();
        assert!(
            judged.contains_key(&Level::L0) && judged.contains_key(&Level::L1),
            "{}: {judged:?}",
            case.name
        );
    }
    println!("{states} states, {} shown to QEMU", samples.shown.get());
    if std::env::var_os("HOLSTEIN_CRASH").is_none() {
        assert!(states > 60 && samples.shown.get() > 5, "{states} states");
    }
}

#[test]
fn crashes_leave_nothing_worse_1() {
    judge(0, 2);
}

#[test]
fn crashes_leave_nothing_worse_2() {
    judge(1, 2);
}
