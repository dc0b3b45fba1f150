//! `holstein recover`: what is done about transactions that a crash interrupted.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::{Recovery, RecoveryItem, RecoveryKind, recover};
use serde_json::{Value, json};

use crate::{
    args::OutputFormat,
    failure::{FAILED, Failure, report_of},
    output::{self, escape_path, json_path, printable},
};

/// Finish, or take back, backups that a crash interrupted.
///
/// Looks for journals in DIR, the folder of a backup's first target unless it was run with --journal. A backup that was
/// decided is finished: its targets get their names, its bitmaps change. One that was not leaves nothing. Backups at work
/// are left alone; doing it again changes nothing. Every `holstein backup` does the same first. Exit codes: 0 nothing is
/// left to do, 1 something cannot be finished now, 5 done and not reported.
#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// The journal folder
    dir: PathBuf,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Runs the command.
pub(crate) fn run(args: &RecoverArgs) -> Result<ExitCode, Failure> {
    let recovery = recover(&args.dir)?;
    let printed = match args.output {
        OutputFormat::Json => output::print_json(&as_json(&recovery)),
        OutputFormat::Human => output::print(&as_text(&recovery)),
    };
    let unfinished = recovery.items.iter().filter(|item| item.kind == RecoveryKind::Unfinished);
    let unfinished: Vec<_> = unfinished.map(|item| line(item).trim_end().to_owned()).collect();
    match (report_of("the recovery was done", printed), unfinished.is_empty()) {
        (Ok(()), true) => Ok(ExitCode::SUCCESS),
        (Ok(()), false) => Ok(ExitCode::from(FAILED)),
        (Err(unreported), true) => Err(unreported),
        (Err(unreported), false) => Err(Failure::several(FAILED, unfinished).and_also(unreported)),
    }
}

/// One line for each thing that was found.
pub(crate) fn as_text(recovery: &Recovery) -> String {
    recovery.items.iter().map(line).collect()
}

fn line(item: &RecoveryItem) -> String {
    let what = match item.kind {
        RecoveryKind::TemporaryRemoved => "removed, its backup was never decided",
        RecoveryKind::TargetPublished => "the target has its name now",
        RecoveryKind::TargetWasPublished => "the target had its name already",
        RecoveryKind::TargetMissing => "the target is gone",
        RecoveryKind::BitmapsChanged => "the bitmaps are changed now",
        RecoveryKind::BitmapsWereChanged => "the bitmaps were changed already",
        RecoveryKind::BitmapsLeft => "the bitmaps stay as they are",
        RecoveryKind::BitmapsGivenUp => "the bitmaps are inconsistent, the next backup is a full one",
        RecoveryKind::Unfinished => "cannot be finished now",
        RecoveryKind::AtWork => "a backup is at work, left alone",
        _ => "looked at",
    };
    let reason =
        if item.reason.is_empty() { String::new() } else { format!(": {}", printable(&item.reason)) };
    format!("{}: {what}{reason}\n", escape_path(&item.path))
}

fn as_json(recovery: &Recovery) -> Value {
    let item = |item: &RecoveryItem| {
        let kind = match item.kind {
            RecoveryKind::TemporaryRemoved => "temporary-removed",
            RecoveryKind::TargetPublished => "target-published",
            RecoveryKind::TargetWasPublished => "target-was-published",
            RecoveryKind::TargetMissing => "target-missing",
            RecoveryKind::BitmapsChanged => "bitmaps-changed",
            RecoveryKind::BitmapsWereChanged => "bitmaps-were-changed",
            RecoveryKind::BitmapsLeft => "bitmaps-left",
            RecoveryKind::BitmapsGivenUp => "bitmaps-given-up",
            RecoveryKind::Unfinished => "unfinished",
            RecoveryKind::AtWork => "at-work",
            _ => "other",
        };
        let mut value = json!({ "kind": kind, "path": json_path(&item.path) });
        if !item.reason.is_empty() {
            value["reason"] = item.reason.as_str().into();
        }
        value
    };
    json!({ "items": recovery.items.iter().map(item).collect::<Vec<_>>() })
}
