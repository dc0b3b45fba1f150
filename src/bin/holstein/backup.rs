//! `holstein backup`: one transaction that copies disks, with a bar for each and a report at the end.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use holstein::{
    BackingPolicy, Backup, CompletionMode, Disk, DiskOptions, Error, ErrorKind, Job, RunningTransaction,
    Transaction, recover,
};
use serde_json::{Value, json};

use crate::{
    args::OutputFormat,
    disk_spec::DiskSpec,
    failure::{FAILED, Failure},
    output::{self, escape_path, json_path},
    progress, recover as recovery_text,
};

/// Copy disks, whole or only what a bitmap marks as changed, into new images.
///
/// A target appears under its name when it is complete and on disk; after a failure, an interrupt or a
/// termination signal nothing is left of it, except with bitmap-mode=always.
#[derive(Args)]
#[command(after_long_help = DISK_HELP)]
pub(crate) struct BackupArgs {
    /// One disk to copy (may be repeated): source=IMAGE,target=IMAGE and more; `--help` lists the keys
    #[arg(long = "disk", required = true, value_name = "KEY=VALUE,...")]
    disks: Vec<OsString>,

    /// All disks or none: the first failure removes every target of this run (the default)
    #[arg(long, conflicts_with = "individual")]
    grouped: bool,

    /// Each disk for itself: a failure of one leaves the others' targets
    #[arg(long)]
    individual: bool,

    /// Which files named inside a source may be opened: those in its own folder or below, those under DIR, any,
    /// or none [default: beside]
    #[arg(long, value_name = "beside|under=DIR|any|deny")]
    backing_policy: Option<BackingPolicy>,

    /// The folder of the journal, which must exist; `holstein recover` finishes there what a crash interrupts
    /// [default: that of the first target]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

const DISK_HELP: &str = "\
Keys of --disk (write a comma inside a value twice):
  source=IMAGE          the disk to copy from; it must not be written meanwhile
  source-format=FORMAT  qcow2 (default) or raw
  target=IMAGE          the image to make
  format=FORMAT         qcow2 (default) or raw
  backing=NAME          backing file to record in the target, relative to the target's folder
  backing-format=FORMAT its format: qcow2 (default) or raw
  bitmap=NAME           the persistent bitmap of the source that says what changed
  bitmap-mode=MODE      what becomes of the bitmap: on-success or never; always: as on-success, and after a failure a
                        partial target is kept and the bitmap has the rest (several disks: with --individual)
  sync=MODE             full, top, bitmap, incremental or none; default: bitmap with a bitmap, else full
  cluster-size=SIZE     cluster size of the target, such as 64k; default: that of the source
  compress=TYPE         none (default), zlib, zstd, zlib:LEVEL, zstd:LEVEL
  overwrite=on|off      whether an existing target may be replaced; default off
  detect-zeroes=on|off  whether data that is all zeros becomes zero clusters; default on
  speed=SIZE            bytes of data a second that are read at most, such as 50M; default: no limit
  on-source-error=WHAT  when reading fails: report (default), or ignore: try again for some seconds, then fail
  on-target-error=WHAT  the same when writing fails

Exit codes: 0 all disks were copied, 1 failed, 2 wrong usage.";

/// How often progress is shown and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// Runs the command.
pub(crate) fn run(args: &BackupArgs) -> Result<ExitCode, Failure> {
    let specs = parse_disks(&args.disks)?;
    progress::catch_signals()?;
    Follower { all_or_none: !args.individual, quiet: args.quiet, output: args.output }
        .follow(start(args, &specs), &specs)
}

/// How a transaction is followed to its end.
pub(crate) struct Follower {
    pub(crate) all_or_none: bool,
    /// No bars and no summary.
    pub(crate) quiet: bool,
    pub(crate) output: OutputFormat,
}

impl Follower {
    /// Waits for the end of a transaction, whose backups are `specs`, and tells how it went.
    pub(crate) fn follow(
        &self,
        started: holstein::Result<RunningTransaction>,
        specs: &[DiskSpec],
    ) -> Result<ExitCode, Failure> {
        let outcome = match started {
            Err(error) => Outcome { disks: Vec::new(), error: Some(error) },
            Ok(running) => {
                let result = follow(&running, self.quiet);
                let of = |job| DiskOutcome::of(job, &result, self.all_or_none);
                let disks = running.jobs().iter().map(of).collect();
                Outcome { disks, error: result.err() }
            }
        };
        if self.output == OutputFormat::Json {
            output::print_json(&outcome.as_json(specs))?;
        } else if !self.quiet {
            output::print(&outcome.summary(specs))?;
        }
        match outcome.failure(specs) {
            None => Ok(ExitCode::SUCCESS),
            Some(failure) => Err(failure),
        }
    }
}

fn parse_disks(texts: &[OsString]) -> Result<Vec<DiskSpec>, Failure> {
    let mut specs: Vec<DiskSpec> = Vec::new();
    for text in texts {
        let spec = DiskSpec::parse(text).map_err(|error| Failure::usage(format!("--disk: {error}")))?;
        if specs.iter().any(|other| other.target == spec.target) {
            let target = escape_path(&spec.target);
            return Err(Failure::usage(format!("--disk: 'target' {target} is given for two disks")));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn start(args: &BackupArgs, specs: &[DiskSpec]) -> holstein::Result<RunningTransaction> {
    let mut transaction = Transaction::new();
    if let Some(folder) = args.journal.as_deref().or_else(|| specs.first().map(DiskSpec::folder)) {
        recover_first(folder, args.quiet);
        transaction.set_journal(folder);
    }
    transaction.set_completion(match args.individual {
        true => CompletionMode::Individual,
        false => CompletionMode::Grouped,
    });
    for spec in specs {
        let options = DiskOptions {
            format: spec.source_format,
            backing_policy: args.backing_policy.clone().unwrap_or_default(),
            access: spec.access(),
            ..DiskOptions::default()
        };
        let source = Disk::open(&spec.source, &options)?;
        transaction.add(Backup { source, target: spec.target.clone(), options: spec.options.clone() });
    }
    transaction.start()
}

/// Ends what a crash interrupted, before the disks are open, and so locked. A folder that is not there is told by the
/// transaction.
pub(crate) fn recover_first(folder: &Path, quiet: bool) {
    if let Ok(recovery) = recover(folder)
        && !quiet
    {
        eprint!("{}", recovery_text::as_text(&recovery));
    }
}

/// Shows progress until the transaction is over, and cancels it when a signal asks for that.
fn follow(running: &RunningTransaction, quiet: bool) -> holstein::Result<()> {
    let jobs = running.jobs();
    let bars = if quiet { Vec::new() } else { progress::bars(jobs.iter().map(|job| label(job.target()))) };
    let mut cancelled = false;
    let result = loop {
        if progress::stop_requested() && !cancelled {
            running.cancel();
            cancelled = true;
        }
        if let Some(result) = running.wait(Some(TICK)) {
            break result;
        }
        // Events say no more than what is asked for here, but should not pile up.
        while running.next_event().is_some() {}
        for (bar, job) in bars.iter().zip(jobs) {
            let progress = job.progress();
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    };
    for bar in &bars {
        bar.finish_and_clear();
    }
    result
}

/// A target's name for its bar.
fn label(target: &Path) -> String {
    target.file_name().map_or_else(|| escape_path(target), |name| escape_path(Path::new(name)))
}

/// How a run ended.
struct Outcome {
    /// One for each disk; none when the transaction did not start.
    disks: Vec<DiskOutcome>,
    /// The error of the whole.
    error: Option<Error>,
}

/// How one disk of a run ended.
struct DiskOutcome {
    error: Option<Error>,
    data: u64,
    zero: u64,
    stored: u64,
    /// How far a partial target goes that was kept.
    partial: Option<u64>,
}

impl DiskOutcome {
    fn of(job: &Job, result: &holstein::Result<()>, all_or_none: bool) -> Self {
        let report = job.report();
        let error = job.error().or_else(|| {
            // A copy that was complete went with the others.
            let undone = result.is_err() && all_or_none;
            undone.then(|| Error::new(ErrorKind::Cancelled, "removed, since not all disks were copied"))
        });
        DiskOutcome {
            error,
            data: report.data_bytes,
            zero: report.zero_bytes,
            stored: report.stored_bytes,
            partial: report.partial_end,
        }
    }
}

impl Outcome {
    fn as_json(&self, specs: &[DiskSpec]) -> Value {
        let disks: Vec<_> = specs
            .iter()
            .zip(&self.disks)
            .map(|(spec, disk)| {
                json!({
                    "source": json_path(&spec.source),
                    "target": json_path(&spec.target),
                    "sync": spec.sync().to_string(),
                    "completed": disk.error.is_none(),
                    "data": disk.data,
                    "zero": disk.zero,
                    "stored": disk.stored,
                    "partial": disk.partial,
                    "error": error_json(disk.error.as_ref()),
                })
            })
            .collect();
        let error = error_json(self.first_error());
        json!({ "completed": error.is_null(), "disks": disks, "error": error })
    }

    /// A line for each disk that was copied.
    fn summary(&self, specs: &[DiskSpec]) -> String {
        let copied = specs.iter().zip(&self.disks).filter(|(_, disk)| disk.error.is_none());
        copied
            .map(|(spec, disk)| {
                format!(
                    "{} -> {}: {}, {} of data, {} of zeros, {} stored\n",
                    escape_path(&spec.source),
                    escape_path(&spec.target),
                    spec.sync(),
                    output::size(disk.data),
                    output::size(disk.zero),
                    output::size(disk.stored),
                )
            })
            .collect()
    }

    /// The error that explains the others, if there is any.
    fn first_error(&self) -> Option<&Error> {
        let of_disks = || self.disks.iter().filter_map(|disk| disk.error.as_ref());
        let cause = of_disks().find(|error| error.kind() != ErrorKind::Cancelled);
        cause.or(self.error.as_ref()).or_else(|| of_disks().next())
    }

    /// What to say about a failure: each disk's own error; not that others were cancelled because of it, unless
    /// something of theirs was kept.
    fn failure(&self, specs: &[DiskSpec]) -> Option<Failure> {
        let first = self.first_error()?;
        let own = |disk: &DiskOutcome, error: &Error| {
            error.kind() != ErrorKind::Cancelled || disk.partial.is_some()
        };
        let mut texts: Vec<_> = specs
            .iter()
            .zip(&self.disks)
            .filter_map(|(spec, disk)| {
                let error = disk.error.as_ref().filter(|error| own(disk, error))?;
                Some(format!("backup of {}: {error}", escape_path(&spec.source)))
            })
            .collect();
        if progress::stop_requested() && first.kind() == ErrorKind::Cancelled {
            let others = if texts.is_empty() { "" } else { " other" };
            texts.insert(0, format!("cancelled by a signal;{others} unfinished targets were removed"));
            return Some(Failure::several(FAILED, texts));
        }
        let code = Failure::code_of(first);
        Some(match texts.is_empty() {
            true => Failure::new(code, first.to_string()),
            false => Failure::several(code, texts),
        })
    }
}

fn error_json(error: Option<&Error>) -> Value {
    error.map_or(
        Value::Null,
        |error| json!({ "kind": kebab_case(&format!("{:?}", error.kind())), "message": error.to_string() }),
    )
}

/// The name of a variant as a word for JSON: `NoSpace` becomes `no-space`.
fn kebab_case(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(count: usize) -> Vec<DiskSpec> {
        let texts: Vec<_> = (0..count).map(|i| OsString::from(format!("source=s{i},target=t{i}"))).collect();
        parse_disks(&texts).unwrap()
    }

    fn disk(error: Option<Error>) -> DiskOutcome {
        DiskOutcome { error, data: 65536, zero: 0, stored: 1024, partial: None }
    }

    #[test]
    fn one_target_for_two_disks_is_refused() {
        let texts = ["source=a,target=t", "source=b,target=t"].map(OsString::from);
        assert!(parse_disks(&texts).is_err());
    }

    #[test]
    fn a_complete_run_is_reported() {
        let specs = specs(1);
        let outcome = Outcome { disks: vec![disk(None)], error: None };
        let expected = json!({ "completed": true, "disks": [{ "source": "s0", "target": "t0", "sync": "full",
            "completed": true, "data": 65536, "zero": 0, "stored": 1024, "partial": null, "error": null }],
            "error": null });
        assert_eq!(outcome.as_json(&specs), expected);
        assert_eq!(outcome.summary(&specs), "s0 -> t0: full, 64 KiB of data, 0 B of zeros, 1 KiB stored\n");
        assert!(outcome.failure(&specs).is_none());
    }

    #[test]
    fn the_cause_comes_before_what_it_cancelled() {
        let specs = specs(2);
        let cancelled = Error::new(ErrorKind::Cancelled, "another disk failed");
        let full = Error::new(ErrorKind::NoSpace, "t1: disk full");
        let outcome =
            Outcome { disks: vec![disk(Some(cancelled.clone())), disk(Some(full))], error: Some(cancelled) };
        let value = outcome.as_json(&specs);
        assert_eq!(value["error"], json!({ "kind": "no-space", "message": "t1: disk full" }));
        assert_eq!(value["disks"][0]["error"]["kind"], "cancelled");
        assert_eq!(outcome.summary(&specs), "");
        let text = format!("{:?}", outcome.failure(&specs).unwrap());
        assert!(text.contains("backup of s1: t1: disk full"), "{text}");
        assert!(!text.contains("s0"), "{text}");
    }
}
