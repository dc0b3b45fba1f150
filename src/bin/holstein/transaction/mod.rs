//! `holstein transaction`: a list of actions from a file, in the form of QMP's `transaction` arguments.

mod list;
mod nodes;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::RunningTransaction;

use crate::{
    disk_spec::DiskSpec,
    failure::{FAILED, Failure},
    output::escape_path,
    run::RunArgs,
    signals,
};
use list::List;

/// Carry out a list of actions on several disks: all of them, in their order, or none.
#[derive(Args)]
#[command(after_long_help = FILE_HELP)]
pub(crate) struct TransactionArgs {
    /// The file with the actions
    #[arg(value_name = "FILE.json")]
    file: PathBuf,

    #[command(flatten)]
    run: RunArgs,
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

Exit codes: 0 all is done, 1 failed, 2 wrong usage, 5 all is done, but the report of it could not be written."#;

/// Runs the command.
pub(crate) fn run(args: &TransactionArgs) -> Result<ExitCode, Failure> {
    let shown = escape_path(&args.file);
    let text = fs::read(&args.file)
        .map_err(|error| Failure::new(FAILED, format!("cannot read '{shown}': {error}")))?;
    let list = List::parse(&text).map_err(|text| Failure::usage(format!("'{shown}': {text}")))?;
    signals::catch()?;
    let specs: Vec<DiskSpec> = list.backups().cloned().collect();
    args.run.follow(start(&args.run, list), &specs)
}

fn start(args: &RunArgs, list: List) -> holstein::Result<RunningTransaction> {
    let mut transaction = args.transaction(list.completion, list.first_path());
    let actions = nodes::actions(list, args.disk_options())?;
    actions.into_iter().for_each(|action| transaction.add(action));
    transaction.start()
}
