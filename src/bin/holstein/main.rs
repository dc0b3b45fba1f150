//! The `holstein` command: a thin layer over the library's public API.
//!
//! Each command has its file, with a `run` that returns the exit code or a [`Failure`]. What they share is in
//! `args` (options), `output` (standard output, JSON, tables), `progress` (bars) and `signals`.

mod args;
mod backup;
mod bitmap;
mod chain;
mod check;
mod compare;
mod create;
mod demo;
mod disk_spec;
mod failure;
mod info;
mod json_values;
mod map;
mod output;
mod progress;
mod recover;
mod resize;
mod run;
mod signals;
mod snapshot;
mod transaction;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Makes and inspects qcow2 disks, and copies them: whole, or only what changed since the last copy.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 5 done, but the report of it could not be written; `compare` and `check` have those of qemu-img."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Info(info::InfoArgs),
    Map(map::MapArgs),
    Check(check::CheckArgs),
    Compare(compare::CompareArgs),
    Resize(resize::ResizeArgs),
    Write(write::WriteArgs),
    Create(create::CreateArgs),
    Bitmap(bitmap::BitmapArgs),
    Snapshot(snapshot::SnapshotArgs),
    Backup(backup::BackupArgs),
    Transaction(transaction::TransactionArgs),
    Recover(recover::RecoverArgs),
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    signals::survive_size_limit();
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(stop) => explain(&stop),
    };
    outcome.unwrap_or_else(|failure| failure.report())
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Info(args) => info::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Write(args) => write::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Bitmap(args) => bitmap::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Transaction(args) => transaction::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Help and version go to standard output; anything else that stops the parser is wrong usage.
fn explain(stop: &clap::Error) -> Result<ExitCode, Failure> {
    let text = stop.render().to_string();
    if stop.use_stderr() {
        return Err(Failure::usage(match text.strip_prefix("error: ") {
            Some(error) => error.trim_end().to_owned(),
            None => format!("a command is missing\n\n{}", text.trim_end()),
        }));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
