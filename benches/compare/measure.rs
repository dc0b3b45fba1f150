//! How a row is measured: a warm-up whose results are verified, then the sides in turns.

use crate::Result;
use crate::tools::Sample;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A piece of work that can be done again and again.
pub(crate) type Work<'a> = Box<dyn Fn() -> Result<Sample> + 'a>;
/// Proves that the work was done right.
pub(crate) type Proof<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// One of those that are compared.
pub(crate) struct Side<'a> {
    /// As it is named in the report.
    pub(crate) name: String,
    /// Not timed: brings about what the work needs, such as a new target.
    pub(crate) prepare: Proof<'a>,
    /// What is timed.
    pub(crate) work: Work<'a>,
    /// Looks at what the work left; runs once, after the warm-up.
    pub(crate) verify: Proof<'a>,
}

/// What a row allows: our time over the peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// At most this.
    pub(crate) limit: f64,
    /// This is hoped for.
    pub(crate) aim: f64,
}

/// One comparison.
pub(crate) struct Row<'a> {
    /// Its name on the command line and in the table.
    pub(crate) name: &'static str,
    /// What is compared.
    pub(crate) title: &'static str,
    /// The ratio that counts.
    pub(crate) target: Target,
    /// Our side; `None` when only the peers are measured, or when we cannot do it yet.
    pub(crate) ours: Option<Side<'a>>,
    /// Why `ours` is missing.
    pub(crate) missing: &'static str,
    /// The peer in each of its settings; the fastest one counts.
    pub(crate) peers: Vec<Side<'a>>,
    /// The same extents moved with nothing else done to them.
    pub(crate) floor: Option<Side<'a>>,
    /// Where the sides leave their targets, all named `target-*`.
    pub(crate) folder: PathBuf,
}

/// All runs of one side.
pub(crate) struct Series {
    /// The side's name.
    pub(crate) name: String,
    /// One sample for each pair.
    pub(crate) samples: Vec<Sample>,
}

/// What a row came to.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) target: Target,
    pub(crate) missing: &'static str,
    pub(crate) ours: Option<Series>,
    pub(crate) peers: Vec<Series>,
    pub(crate) floor: Option<Series>,
    /// Our side's failure; the row has no figures of ours then.
    pub(crate) failure: Option<String>,
}

/// Warms every side up, verifies what it made, then runs all of them `pairs` times in turns.
///
/// When our side fails, the row is reported as failed and the others go on; a peer that fails ends the run.
pub(crate) fn run(row: &mut Row<'_>, pairs: usize) -> Result<Outcome> {
    let mut failure = None;
    if let Some(Err(error)) = row.ours.as_ref().map(|ours| warm_up(&row.folder, ours)) {
        failure = Some(error.to_string());
        row.ours = None;
    }
    for side in row.peers.iter().chain(&row.floor) {
        warm_up(&row.folder, side)?;
    }

    let sides: Vec<&Side<'_>> = row.ours.iter().chain(&row.peers).chain(&row.floor).collect();
    let mut series: Vec<Series> =
        sides.iter().map(|side| Series { name: side.name.clone(), samples: Vec::new() }).collect();
    for pair in 0..pairs {
        // Every other turn runs backwards, so that no side always runs in the wake of the same one.
        for step in 0..sides.len() {
            let index = if pair % 2 == 0 { step } else { sides.len() - 1 - step };
            let sample = once(&row.folder, sides[index])?;
            series[index].samples.push(sample);
        }
    }

    let mut series = series.into_iter();
    Ok(Outcome {
        name: row.name,
        title: row.title,
        target: row.target,
        missing: row.missing,
        ours: row.ours.as_ref().and_then(|_| series.next()),
        peers: series.by_ref().take(row.peers.len()).collect(),
        floor: series.next(),
        failure,
    })
}

fn warm_up(folder: &Path, side: &Side<'_>) -> Result<()> {
    once(folder, side)?;
    (side.verify)().map_err(|error| format!("{}: {error}", side.name).into())
}

/// One run, from a state without targets and without data that waits to be written.
fn once(folder: &Path, side: &Side<'_>) -> Result<Sample> {
    remove_targets(folder)?;
    (side.prepare)()?;
    nix::unistd::sync();
    (side.work)().map_err(|error| format!("{}: {error}", side.name).into())
}

fn remove_targets(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("target-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Series {
    /// The seconds of every run.
    pub(crate) fn seconds(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.seconds).collect()
    }

    /// The seconds that the copying alone took, where they are known.
    pub(crate) fn jobs(&self) -> Option<Vec<f64>> {
        self.samples.iter().map(|sample| sample.job).collect()
    }

    /// The highest peak of all runs, in KiB.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        self.samples.iter().filter_map(|sample| sample.peak_kib).max()
    }
}

impl Outcome {
    /// The peer's settings, the fastest first.
    pub(crate) fn peers_by_speed(&self) -> Vec<&Series> {
        let mut peers: Vec<&Series> = self.peers.iter().collect();
        peers.sort_by(|a, b| median(&a.seconds()).total_cmp(&median(&b.seconds())));
        peers
    }
}

/// The ratio of each pair.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// The middle value, or the mean of the two in the middle; NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// The lowest and the highest value.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(*value), high.max(*value)))
}
