//! `holstein snapshot`: the internal snapshots of an image, to look at and to change.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::{Args, Subcommand};
use holstein::{Access, Disk, DiskOptions, Format, Layers};

use crate::{
    args::{ImageArgs, OutputFormat},
    failure::{Failure, report_of},
    info,
};

/// List the internal snapshots of an image, take one, delete one.
///
/// A change is durable when the command ends, and a crash leaves the old image or the new one. Nobody else may have the
/// image open. Bitmaps are not part of a snapshot, and stay as they are.
#[derive(Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Subcommand)]
enum SnapshotCommand {
    List(ListArgs),
    Create(CreateArgs),
    Delete(DeleteArgs),
}

/// List the snapshots of an image.
#[derive(Args)]
struct ListArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    open: ImageArgs,
}

/// Take a snapshot of the disk as it is.
#[derive(Args)]
struct CreateArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The name of the snapshot, 1 to 255 bytes
    name: OsString,
}

/// Delete a snapshot.
#[derive(Args)]
struct DeleteArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The id or the name of the snapshot
    #[arg(value_name = "ID|NAME")]
    snapshot: OsString,
}

/// The image of a command that changes snapshots.
#[derive(Args)]
struct ImageToChange {
    /// The image
    image: PathBuf,

    /// Format of the image, never guessed [default: qcow2]
    #[arg(short, long, value_name = "qcow2|raw")]
    format: Option<Format>,

    /// What to print: the snapshots of the image after the change, as `snapshot list` does
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Runs the command.
pub(crate) fn run(args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        SnapshotCommand::List(args) => {
            print(&args.open.open(&args.image, Layers::TopOnly)?, args.open.output)?;
        }
        SnapshotCommand::Create(args) => {
            let disk = open(&args.image.image, args.image.format)?;
            disk.create_snapshot(args.name.as_bytes(), SystemTime::now())?;
            report_of("the snapshot was made", print(&disk, args.image.output))?;
        }
        SnapshotCommand::Delete(args) => {
            let disk = open(&args.image.image, args.image.format)?;
            disk.delete_snapshot(args.snapshot.as_bytes())?;
            report_of("the deletion was done", print(&disk, args.image.output))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(image: &Path, format: Option<Format>) -> holstein::Result<Disk> {
    let format = format.unwrap_or_default();
    let (access, layers) = (Access::Write, Layers::TopOnly);
    Disk::open(image, &DiskOptions { format, access, layers, ..DiskOptions::default() })
}

fn print(disk: &Disk, output: OutputFormat) -> Result<(), Failure> {
    info::print_snapshots(&disk.info()?.snapshots, output)
}
