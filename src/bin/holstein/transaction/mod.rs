//! `holstein transaction`: a list of actions from a file, in the form of QMP's `transaction` arguments.

mod list;
mod nodes;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use holstein::{BackingPolicy, CompletionMode, RunningTransaction, Transaction};

use crate::{
    args::OutputFormat,
    backup::{Follower, recover_first},
    disk_spec::DiskSpec,
    failure::{FAILED, Failure},
    output::escape_path,
    progress,
};
use list::List;

/// Carry out a list of actions on several disks: all of them, in their order, or none.
#[derive(Args)]
#[command(after_long_help = FILE_HELP)]
pub(crate) struct TransactionArgs {
    /// The file with the actions
    #[arg(value_name = "FILE.json")]
    file: PathBuf,

    /// Which files named inside a disk may be opened: those in its own folder or below, those under DIR, any, or
    /// none [default: beside]
    #[arg(long, value_name = "beside|under=DIR|any|deny")]
    backing_policy: Option<BackingPolicy>,

    /// The folder of the journal, which must exist; `holstein recover` finishes there what a crash interrupts
    /// [default: that of the first new file, else of the first disk]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

const FILE_HELP: &str = r#"The file has the arguments of QMP's transaction, with paths where QMP has nodes and devices:

  { "actions": [ { "type": TYPE, "data": { ... } }, ... ],
    "properties": { "completion-mode": "grouped" | "individual" } }

Without properties it is grouped: nothing is done unless everything can be. Types and their data (* may be missing):
  blockdev-backup           device, target, *sync, *bitmap, *bitmap-mode, *format, *backing, *backing-format,
  (or drive-backup)         *cluster-size, *compress, *overwrite, *detect-zeroes, *speed, *on-source-error,
                            *on-target-error: as `backup --disk` has them
  block-dirty-bitmap-add    node, name, *granularity, *disabled, *persistent (true)
  block-dirty-bitmap-remove, -clear, -enable, -disable
                            node, name
  block-dirty-bitmap-merge  node, target, bitmaps: [ NAME or { "node": ..., "name": ... }, ... ]
  blockdev-snapshot-sync    device (or node-name), snapshot-file, *format (qcow2), *cluster-size, *backing
  blockdev-snapshot-internal-sync
                            device, name
  blockdev-snapshot-delete-internal-sync
                            device, id or name
  abort                     nothing

Each action sees what those before it did. Behind a snapshot the path of the new image is that of the disk; that of the
old one serves to merge from its bitmaps.

Exit codes: 0 all is done, 1 failed, 2 wrong usage."#;

/// Runs the command.
pub(crate) fn run(args: &TransactionArgs) -> Result<ExitCode, Failure> {
    let shown = escape_path(&args.file);
    let text = fs::read(&args.file)
        .map_err(|error| Failure::new(FAILED, format!("cannot read '{shown}': {error}")))?;
    let list = List::parse(&text).map_err(|text| Failure::usage(format!("'{shown}': {text}")))?;
    progress::catch_signals()?;
    let follower = Follower {
        all_or_none: list.completion == CompletionMode::Grouped,
        quiet: args.quiet,
        output: args.output,
    };
    let specs: Vec<DiskSpec> = list.backups().cloned().collect();
    follower.follow(start(args, list), &specs)
}

fn start(args: &TransactionArgs, list: List) -> holstein::Result<RunningTransaction> {
    let folder = args.journal.as_deref().or_else(|| list.first_path().map(folder_of));
    let mut transaction = Transaction::new();
    transaction.set_completion(list.completion);
    if let Some(folder) = folder {
        recover_first(folder, args.quiet);
        transaction.set_journal(folder);
    }
    let policy = args.backing_policy.clone().unwrap_or_default();
    nodes::actions(list, policy)?.into_iter().for_each(|action| transaction.add(action));
    transaction.start()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
