//! `holstein backup`: one transaction that copies disks.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;
use holstein::{Access, Backup, CompletionMode, Disk, DiskOptions, RunningTransaction, same_file};

use crate::{disk_spec::DiskSpec, failure::Failure, output::escape_path, run::RunArgs, signals};

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

    #[command(flatten)]
    run: RunArgs,
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
  reflink=MODE          auto (default): shares blocks with the source where the file system can, and copies the rest;
                        always: shares or fails; never
  page-cache=drop|keep  whether what the backup brings into the page cache is dropped again; default drop

Exit codes: 0 all disks were copied, 1 failed, 2 wrong usage, 5 all disks were copied, but the report of it could not be written.";

/// Runs the command.
pub(crate) fn run(args: &BackupArgs) -> Result<ExitCode, Failure> {
    let specs = parse_disks(&args.disks)?;
    refuse_twice(&specs)?;
    signals::catch()?;
    let completion = if args.individual { CompletionMode::Individual } else { CompletionMode::Grouped };
    args.run.follow(start(&args.run, completion, &specs), &specs)
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

/// One disk whose bitmap changes can be copied once in a run: it is locked against everybody, this command included.
fn refuse_twice(specs: &[DiskSpec]) -> Result<(), Failure> {
    for (index, spec) in specs.iter().enumerate() {
        let same = |other: &&DiskSpec| same_file(&other.source, &spec.source);
        let changes = |other: &&DiskSpec| [*other, spec].iter().any(|spec| spec.access() == Access::Write);
        if let Some(other) = specs[..index].iter().filter(same).find(changes) {
            let (one, two) = (escape_path(&other.source), escape_path(&spec.source));
            let text = format!(
                "--disk: 'source' {one} and {two} are the same disk, and its bitmap is to change; copy it in two runs, or \
                 with bitmap-mode=never"
            );
            return Err(Failure::usage(text));
        }
    }
    Ok(())
}

fn start(
    args: &RunArgs,
    completion: CompletionMode,
    specs: &[DiskSpec],
) -> holstein::Result<RunningTransaction> {
    let mut transaction = args.transaction(completion, specs.first().map(|spec| spec.target.as_path()));
    for spec in specs {
        let (format, access) = (spec.source_format, spec.access());
        let options = DiskOptions { format, access, ..args.disk_options() };
        let source = Disk::open(&spec.source, &options)?;
        transaction.add(Backup { source, target: spec.target.clone(), options: spec.options.clone() });
    }
    transaction.start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_for_two_disks_is_refused() {
        let texts = ["source=a,target=t", "source=b,target=t"].map(OsString::from);
        assert!(parse_disks(&texts).is_err());
    }
}
