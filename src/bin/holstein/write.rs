//! `holstein write`: guest data of an image at rest, for scripts.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use holstein::Disk;

use crate::{
    args::{WritableArgs, parse_size},
    failure::{FAILED, Failure},
};

/// What is read from a file and written at a time.
const PIECE: usize = 4 << 20;

/// Write into the disk of an image: data from a file, zeros, or a discard.
///
/// Every bitmap that records has the range before the data is written. All of it is durable when the command ends.
/// The image is locked against everybody else meanwhile.
#[derive(Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    image: WritableArgs,

    /// The offset in the disk to begin at, in bytes
    #[arg(value_parser = parse_size)]
    offset: u64,

    #[command(flatten)]
    what: What,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Write the contents of this file; '-' is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Let so many bytes read as zero
    #[arg(long, value_name = "LENGTH", value_parser = parse_size)]
    zero: Option<u64>,

    /// Give up so many bytes: the clusters that they cover whole read as zero then
    #[arg(long, value_name = "LENGTH", value_parser = parse_size)]
    discard: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &WriteArgs) -> Result<ExitCode, Failure> {
    let disk = args.image.open()?;
    let range = |length: u64| args.offset..args.offset.saturating_add(length);
    match (&args.what.from, args.what.zero, args.what.discard) {
        (Some(path), ..) => write_from(&disk, args.offset, path)?,
        (_, Some(length), _) => disk.write_zeroes(range(length))?,
        (.., length) => disk.discard(range(length.unwrap_or_default()))?,
    }
    disk.close()?;
    Ok(ExitCode::SUCCESS)
}

fn write_from(disk: &Disk, mut offset: u64, path: &Path) -> Result<(), Failure> {
    let problem = |e: io::Error| Failure::new(FAILED, format!("cannot read '{}': {e}", path.display()));
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).map_err(problem)?;
        let length = file.metadata().map_err(problem)?.len();
        if offset.saturating_add(length) > disk.size() {
            let text = format!(
                "'{}' has {length} bytes, which do not lie in the disk of {} bytes from offset {offset} on",
                path.display(),
                disk.size()
            );
            return Err(Failure::usage(text));
        }
        Box::new(file)
    };
    let mut buf = Vec::new();
    let start = offset;
    loop {
        buf.clear();
        input.by_ref().take(PIECE as u64).read_to_end(&mut buf).map_err(problem)?;
        if buf.is_empty() {
            return Ok(());
        }
        // How long standard input is shows only at its end.
        disk.write_at(&buf, offset).map_err(|error| match offset - start {
            0 => Failure::from(error),
            written => Failure::new(FAILED, format!("{error}; {written} bytes before that were written")),
        })?;
        offset += buf.len() as u64;
    }
}
