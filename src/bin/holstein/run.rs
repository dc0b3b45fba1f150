//! What `backup` and `transaction` have in common: the options of a run, a bar for each disk, and a report at the end.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use holstein::{
    CompletionMode, DiskOptions, Error, ErrorKind, Job, JobLineage, RunningTransaction, Transaction, recover,
};
use serde_json::{Value, json};

use crate::{
    args::{ChainArgs, OutputFormat},
    disk_spec::DiskSpec,
    failure::{FAILED, Failure, report_of, spelled},
    output::{self, escape_path, json_path},
    progress, recover as recovery_text, signals,
};

/// How often progress is shown and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// The options of a run.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    chain: ChainArgs,

    /// The folder of the journal, which must exist; `holstein recover` finishes there what a crash interrupts
    /// [default: that of the first new file, else of the first disk]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// Most threads that copy [default: two for each processor, 16 at most]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    thread_limit: Option<u32>,

    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl RunArgs {
    /// How disks are opened, but for format and access.
    pub(crate) fn disk_options(&self) -> DiskOptions {
        self.chain.options()
    }

    /// A transaction without actions, whose journal lies in the folder of `first` unless it is told otherwise. What a crash
    /// interrupted there is ended now: before the disks are open, and so locked.
    pub(crate) fn transaction(&self, completion: CompletionMode, first: Option<&Path>) -> Transaction {
        let mut transaction = Transaction::new();
        transaction.set_completion(completion);
        transaction.set_thread_limit(self.thread_limit.unwrap_or_default());
        if let Some(folder) = self.journal.as_deref().or(first.map(folder_of)) {
            // A folder that is not there is told by the transaction.
            if let Ok(recovery) = recover(folder) {
                if !self.quiet {
                    // What nobody can be told is no reason not to go on.
                    let _ = io::stderr().write_all(recovery_text::as_text(&recovery).as_bytes());
                }
                transaction.set_recovered(recovery);
            }
            transaction.set_journal(folder);
        }
        transaction
    }

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
                let disks = running.jobs().iter().map(DiskOutcome::of).collect();
                Outcome { disks, error: result.err() }
            }
        };
        let printed = match self.output {
            OutputFormat::Json => output::print_json(&outcome.as_json(specs)),
            OutputFormat::Human if self.quiet => Ok(()),
            OutputFormat::Human => output::print(&outcome.summary(specs)),
        };
        match (outcome.failure(specs), printed) {
            (None, printed) => report_of("the transaction is complete", printed).map(|()| ExitCode::SUCCESS),
            (Some(failure), Ok(())) => Err(failure),
            (Some(failure), Err(unreported)) => Err(failure.and_also(unreported)),
        }
    }
}

/// The folder that a path leads into.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Shows progress until the transaction is over, and cancels it when a signal asks for that.
fn follow(running: &RunningTransaction, quiet: bool) -> holstein::Result<()> {
    let jobs = running.jobs();
    let bars = if quiet { Vec::new() } else { progress::bars(jobs.iter().map(|job| label(job.target()))) };
    let mut cancelled = false;
    let result = loop {
        if signals::stop_requested() && !cancelled {
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
    shared: u64,
    /// How far a partial target goes that was kept.
    partial: Option<u64>,
    lineage: JobLineage,
}

impl DiskOutcome {
    fn of(job: &Job) -> Self {
        let report = job.report();
        DiskOutcome {
            error: job.error(),
            data: report.data_bytes,
            zero: report.zero_bytes,
            stored: report.stored_bytes,
            shared: report.shared_bytes,
            partial: report.partial_end,
            lineage: job.lineage(),
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
                    "shared": disk.shared,
                    "partial": disk.partial,
                    "identity": disk.lineage.identity.map(|identity| identity.to_string()),
                    "parent": disk.lineage.parent.map(|identity| identity.to_string()),
                    "notes": disk.lineage.notes,
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
                let shared = match disk.shared {
                    0 => String::new(),
                    bytes => format!(", {} shared", output::size(bytes)),
                };
                format!(
                    "{} -> {}: {}, {} of data, {} of zeros, {} stored{shared}\n",
                    escape_path(&spec.source),
                    escape_path(&spec.target),
                    spec.sync(),
                    output::size(disk.data),
                    output::size(disk.zero),
                    output::size(disk.stored),
                ) + &notes(&disk.lineage)
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
        if signals::stop_requested() && first.kind() == ErrorKind::Cancelled {
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

/// What is not known of a backup, a line each.
fn notes(lineage: &JobLineage) -> String {
    lineage.notes.iter().map(|note| format!("  note: {}\n", output::printable(note))).collect()
}

fn error_json(error: Option<&Error>) -> Value {
    error.map_or(
        Value::Null,
        |error| json!({ "kind": kebab_case(&format!("{:?}", error.kind())), "message": spelled(&error.to_string()) }),
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
    use std::ffi::OsStr;

    use super::*;

    fn specs(count: usize) -> Vec<DiskSpec> {
        let spec = |i| DiskSpec::parse(OsStr::new(&format!("source=s{i},target=t{i}"))).unwrap();
        (0..count).map(spec).collect()
    }

    fn disk(error: Option<Error>) -> DiskOutcome {
        DiskOutcome {
            error,
            data: 65536,
            zero: 0,
            stored: 1024,
            shared: 0,
            partial: None,
            lineage: JobLineage::default(),
        }
    }

    #[test]
    fn a_complete_run_is_reported() {
        let specs = specs(1);
        let outcome = Outcome { disks: vec![disk(None)], error: None };
        let expected = json!({ "completed": true, "disks": [{ "source": "s0", "target": "t0", "sync": "full",
            "completed": true, "data": 65536, "zero": 0, "stored": 1024, "shared": 0, "partial": null, "identity": null, "parent": null,
            "notes": [], "error": null }],
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
