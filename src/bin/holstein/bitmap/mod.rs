//! `holstein bitmap`: the dirty bitmaps of an image, to look at and to change.

mod change;
mod show;
mod steps;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Look into the dirty bitmaps of an image, and change them.
///
/// A change is durable when the command ends, and a crash leaves the old bitmaps or the new ones. Nobody else may have
/// the image open; what is not its bitmaps stays as it is.
#[derive(Args)]
pub(crate) struct BitmapArgs {
    #[command(subcommand)]
    command: BitmapCommand,
}

#[derive(Subcommand)]
enum BitmapCommand {
    List(show::ListArgs),
    Dump(show::DumpArgs),
    #[command(flatten)]
    Change(change::ChangeCommand),
}

/// Runs the command.
pub(crate) fn run(args: &BitmapArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        BitmapCommand::List(args) => show::list(args)?,
        BitmapCommand::Dump(args) => show::dump(args)?,
        BitmapCommand::Change(command) => change::run(command)?,
    }
    Ok(ExitCode::SUCCESS)
}
