//! Running other programs, and the peak memory of one of them.
//!
//! The kernel keeps a peak for the children that a process has waited for, as one maximum over all of them, and
//! counts the parent's own peak in when it forks. So each measured program is the only child of a small process
//! in between: this program itself, started with [`WATCH`].

use crate::Result;
use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// First argument of the process in between.
pub(crate) const WATCH: &str = "--watch";

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Seconds for the work as a whole.
    pub(crate) seconds: f64,
    /// Of these, the seconds for the copying alone, where the peer tells them apart.
    pub(crate) job: Option<f64>,
    /// Peak resident memory in KiB.
    pub(crate) peak_kib: Option<u64>,
}

/// Runs a command to its end; its error text becomes ours when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())
        .into())
}

/// Runs a program with its output thrown away and measures it, from its start to its end.
pub(crate) fn measure(folder: &Path, program: &str, arguments: &[&str]) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(folder).arg(WATCH).arg(program).args(arguments);
    let text = String::from_utf8(output(&mut command)?)?;
    let (nanoseconds, kib) = text.trim().split_once(' ').ok_or("no measurement came back")?;
    Ok(Sample { seconds: nanoseconds.parse::<f64>()? / 1e9, job: None, peak_kib: Some(kib.parse()?) })
}

/// The process in between: runs `command`, prints its nanoseconds and peak KiB.
pub(crate) fn watch(command: Vec<String>) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::FAILURE };
    let start = Instant::now();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let nanoseconds = start.elapsed().as_nanos();
    match (status, getrusage(UsageWho::RUSAGE_CHILDREN)) {
        (Ok(status), Ok(usage)) if status.success() => {
            println!("{nanoseconds} {}", usage.max_rss());
            ExitCode::SUCCESS
        }
        (Ok(_), _) => ExitCode::FAILURE,
        (Err(error), _) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
