//! The inputs that the fuzz targets keep, judged without a fuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a judge fails the test
#![allow(unreachable_pub)] // the judges are shared with `fuzz/`

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};

#[path = "support/builder/mod.rs"]
mod builder;
#[path = "support/fuzz/mod.rs"]
mod judges;

/// No input takes more address space; an allocation beyond ends the test.
const MOST: u64 = 512 << 20;
/// No input takes longer; here with room for a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

#[test]
fn every_input_that_is_kept_passes_its_judge() {
    setrlimit(Resource::RLIMIT_AS, MOST, MOST).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut failures = Vec::new();
    for (target, judge) in judges::TARGETS {
        let mut inputs: Vec<_> =
            fs::read_dir(corpus.join(target)).unwrap().map(|e| e.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() > 20, "only {} inputs of {target}", inputs.len());
        for path in inputs {
            let input = fs::read(&path).unwrap();
            let begin = Instant::now();
            let judged = catch_unwind(AssertUnwindSafe(|| judge(&input)));
            if judged.is_err() || begin.elapsed() > LONGEST {
                failures.push(format!("{} ({:?})", path.display(), begin.elapsed()));
            }
        }
    }
    assert!(failures.is_empty(), "these fail:\n{}", failures.join("\n"));
}
