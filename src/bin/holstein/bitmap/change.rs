//! `holstein bitmap add`, `remove`, `clear`, `enable`, `disable`, `rename`, `merge` and `apply`: one step on one image.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use holstein::{Access, BitmapChange, Disk, DiskOptions, Format, Layers, MergeSource, Recording};

use super::{show, steps};
use crate::{
    args::{OutputFormat, parse_size},
    failure::{Failure, report_of},
};

#[derive(Subcommand)]
pub(super) enum ChangeCommand {
    Add(AddArgs),
    /// Remove a bitmap, also one that cannot be used.
    Remove(OneArgs),
    /// Make all of a bitmap clean.
    Clear(OneArgs),
    /// Let a bitmap record writes from now on.
    Enable(OneArgs),
    /// Let a bitmap not record writes from now on.
    Disable(OneArgs),
    Rename(RenameArgs),
    Merge(MergeArgs),
    Apply(ApplyArgs),
}

/// The image of a command that changes bitmaps.
#[derive(Args)]
pub(super) struct ImageToChange {
    /// The image
    image: PathBuf,

    /// Format of the image, never guessed [default: qcow2]
    #[arg(short, long, value_name = "qcow2|raw")]
    format: Option<Format>,

    /// What to print: the bitmaps of the image after the change, as `bitmap list` does
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Add a clean bitmap.
#[derive(Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The name of the bitmap
    name: OsString,

    /// Bytes of the disk that one bit stands for, a power of two from 512 to 2G [default: the image's cluster size,
    /// within 4k and 64k]
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    granularity: Option<u64>,

    /// It does not record writes until it is enabled
    #[arg(long)]
    disabled: bool,
}

#[derive(Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The name of the bitmap
    name: OsString,
}

/// Give a bitmap another name.
#[derive(Args)]
pub(super) struct RenameArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The name of the bitmap
    old: OsString,

    /// Its new name
    new: OsString,
}

/// Make everything dirty in a bitmap that is dirty in others. They stay as they are.
#[derive(Args)]
pub(super) struct MergeArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The bitmap that changes
    dest: OsString,

    /// The bitmaps to merge into it, of any granularity
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<OsString>,

    /// The image that has the sources, of a disk of the same size [default: IMAGE]
    #[arg(long, value_name = "OTHER_IMAGE")]
    from: Option<PathBuf>,
}

/// Carry out a list of changes as one step: all of them or none.
///
/// The file is a JSON array of objects, each with "op" and what belongs to it: {"op": "add", "name": N, "granularity":
/// BYTES, "disabled": BOOL}, {"op": "remove"|"clear"|"enable"|"disable", "name": N}, {"op": "rename", "name": N, "to":
/// N}, {"op": "merge", "name": N, "sources": [N, ...], "from": IMAGE}. "granularity", "disabled" and "from" may be
/// missing. Each step sees those before it.
#[derive(Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    image: ImageToChange,

    /// The file with the steps
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
}

/// Runs the command.
pub(super) fn run(command: &ChangeCommand) -> Result<(), Failure> {
    // Before the image is opened: what is merged from another image may be in this one too.
    let changes = changes(command)?;
    let image = image(command);
    let disk = image.open()?;
    disk.change_bitmaps(&changes)?;
    let listed = disk.bitmaps().map_err(Failure::from);
    report_of("the change was made", listed.and_then(|bitmaps| show::print_list(&bitmaps, image.output)))
}

fn image(command: &ChangeCommand) -> &ImageToChange {
    match command {
        ChangeCommand::Add(args) => &args.image,
        ChangeCommand::Remove(args)
        | ChangeCommand::Clear(args)
        | ChangeCommand::Enable(args)
        | ChangeCommand::Disable(args) => &args.image,
        ChangeCommand::Rename(args) => &args.image,
        ChangeCommand::Merge(args) => &args.image,
        ChangeCommand::Apply(args) => &args.image,
    }
}

impl ImageToChange {
    fn open(&self) -> holstein::Result<Disk> {
        let format = self.format.unwrap_or_default();
        let (access, layers) = (Access::Write, Layers::TopOnly);
        Disk::open(&self.image, &DiskOptions { format, access, layers, ..DiskOptions::default() })
    }
}

fn changes(command: &ChangeCommand) -> Result<Vec<BitmapChange>, Failure> {
    let change = match command {
        ChangeCommand::Add(args) => {
            let recording = if args.disabled { Recording::Disabled } else { Recording::Enabled };
            BitmapChange::Add { name: bytes(&args.name), granularity: args.granularity, recording }
        }
        ChangeCommand::Remove(args) => BitmapChange::Remove { name: bytes(&args.name) },
        ChangeCommand::Clear(args) => BitmapChange::Clear { name: bytes(&args.name) },
        ChangeCommand::Enable(args) => record(&args.name, Recording::Enabled),
        ChangeCommand::Disable(args) => record(&args.name, Recording::Disabled),
        ChangeCommand::Rename(args) => BitmapChange::Rename { name: bytes(&args.old), to: bytes(&args.new) },
        ChangeCommand::Merge(args) => {
            let names = args.sources.iter().map(|name| bytes(name)).collect();
            BitmapChange::Merge { name: bytes(&args.dest), sources: sources(names, args.from.as_deref())? }
        }
        ChangeCommand::Apply(args) => return steps::read(&args.file),
    };
    Ok(vec![change])
}

fn record(name: &OsStr, recording: Recording) -> BitmapChange {
    BitmapChange::Record { name: bytes(name), recording }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Where to merge from: bitmaps of the image itself, or those of another image, loaded.
pub(super) fn sources(names: Vec<Vec<u8>>, from: Option<&Path>) -> Result<Vec<MergeSource>, Failure> {
    let Some(from) = from else { return Ok(names.into_iter().map(MergeSource::Name).collect()) };
    let disk = Disk::open(from, &DiskOptions { layers: Layers::TopOnly, ..DiskOptions::default() })?;
    let load = |name: &Vec<u8>| Ok(MergeSource::Loaded(disk.bitmap(name)?));
    names.iter().map(load).collect()
}
