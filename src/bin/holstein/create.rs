//! `holstein create`: a new qcow2 image.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::{Backing, Compat, CompressionType, CreateOptions, Disk, Existing, Format, Preallocation};

use crate::{
    args::{ChainArgs, OutputFormat, parse_size},
    failure::{Failure, report_of},
    info,
};

/// Make a new, empty qcow2 image, and print what it is as `info` does.
///
/// The image appears under its name complete and on disk, or not at all. Files that it names are looked for from its
/// own folder.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// The image to make
    image: PathBuf,

    /// Size of the disk, such as 20G; default: that of the backing file, or of a raw data file that exists
    #[arg(value_parser = parse_size)]
    size: Option<u64>,

    /// Bytes of a cluster, a power of two from 512 to 2M [default: 64k]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cluster_size: Option<u64>,

    /// Version of the format: 0.10 is version 2, 1.1 version 3 [default: 1.1]
    #[arg(long, value_name = "0.10|1.1")]
    compat: Option<Compat>,

    /// Width of a refcount: 1, 2, 4, 8, 16, 32 or 64 bits [default: 16]
    #[arg(long, value_name = "BITS")]
    refcount_bits: Option<u32>,

    /// Divide clusters into 32 subclusters; they must have 16k or more
    #[arg(long)]
    extended_l2: bool,

    /// How clusters are compressed that will be [default: zlib]
    #[arg(long, value_name = "zlib|zstd")]
    compression_type: Option<CompressionType>,

    /// The image below, as the new one records it
    #[arg(long, value_name = "FILE", requires = "backing_format")]
    backing: Option<PathBuf>,

    /// Format of the image below, never guessed
    #[arg(long, value_name = "qcow2|raw", requires = "backing")]
    backing_format: Option<Format>,

    /// A file of its own for the guest's data; it is made too
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,

    /// The data file is a raw image of the disk; one that exists is taken as it is
    #[arg(long)]
    data_file_raw: bool,

    /// Let writers postpone refcount updates
    #[arg(long)]
    lazy_refcounts: bool,

    /// Whether every cluster gets its place in advance [default: off]
    #[arg(long, value_name = "off|metadata")]
    preallocation: Option<Preallocation>,

    /// Replace the image if it exists; a data file is never replaced
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    chain: ChainArgs,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Runs the command.
pub(crate) fn run(args: &CreateArgs) -> Result<ExitCode, Failure> {
    let disk = Disk::create(&args.image, args.size, &args.options())?;
    let shown = disk.info().map_err(Failure::from);
    let shown = shown.and_then(|info| info::show(&args.image, &info, args.output));
    report_of(&format!("'{}' was made", args.image.display()), shown)?;
    Ok(ExitCode::SUCCESS)
}

impl CreateArgs {
    fn options(&self) -> CreateOptions {
        let backing = self.backing.clone().zip(self.backing_format);
        CreateOptions {
            compat: self.compat.unwrap_or_default(),
            cluster_size: self.cluster_size,
            refcount_bits: self.refcount_bits,
            extended_l2: self.extended_l2,
            compression_type: self.compression_type.unwrap_or_default(),
            backing: backing.map(|(name, format)| Backing { name, format }),
            data_file: self.data_file.clone(),
            data_file_raw: self.data_file_raw,
            lazy_refcounts: self.lazy_refcounts,
            preallocation: self.preallocation.unwrap_or_default(),
            existing: if self.overwrite { Existing::Overwrite } else { Existing::Refuse },
            open: self.chain.options(),
        }
    }
}
