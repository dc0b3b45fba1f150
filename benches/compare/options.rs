//! What to measure: rows, pairs, sizes, places.

use crate::Result;
use std::path::PathBuf;

/// Every row, in the order of the table.
pub(crate) const ROWS: [&str; 16] = [
    "incremental-disk",
    "incremental-tmpfs",
    "full-disk",
    "full-tmpfs",
    "zstd-disk",
    "zstd-tmpfs",
    "map",
    "check",
    "bitmap-add",
    "bitmap-clear",
    "bitmap-merge",
    "sparse-incremental",
    "four",
    "reflink-full",
    "reflink-incremental",
    "commit",
];

const USAGE: &str = "\
usage: make bench [ROWS=NAME,...] [PAIRS=N] [SIZE=GIB] [DIR=FOLDER] [TMPFS=FOLDER] [SIDES=both|peers]
  ROWS   which rows (default: all): a row's name, or the beginning of several names
  PAIRS  how often the two run in turns after a warm-up (default 7)
  SIZE   size of the disk that is copied, in GiB (default 4); half of it is data
  DIR    where the disks on disk are made (default target/bench)
  TMPFS  where those in memory are made (default /dev/shm)
  SIDES  `peers` measures QEMU's tools alone (default both)
rows: ";

/// Which sides of a row run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sides {
    /// Ours and the peers, in turns.
    Both,
    /// The peers alone: how fast they are on this machine.
    Peers,
}

/// The command line, understood.
pub(crate) struct Options {
    /// Names of the rows to measure.
    pub(crate) rows: Vec<&'static str>,
    /// Measured pairs for each row.
    pub(crate) pairs: usize,
    /// Size of the copied disk in bytes.
    pub(crate) size: u64,
    /// Folder for the disks on disk.
    pub(crate) folder: PathBuf,
    /// Folder for the disks in memory.
    pub(crate) tmpfs: PathBuf,
    /// Which sides run.
    pub(crate) sides: Sides,
}

/// Reads `--rows`, `--pairs`, `--size`, `--dir`, `--tmpfs` and `--sides`; an empty value means the default.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        rows: ROWS.to_vec(),
        pairs: 7,
        size: 4 << 30,
        folder: PathBuf::from("target/bench"),
        tmpfs: PathBuf::from("/dev/shm"),
        sides: Sides::Both,
    };
    while let Some(argument) = arguments.next() {
        // cargo itself passes `--bench` to every benchmark.
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value\n{}", usage()))?;
        match (argument.as_str(), value.as_str()) {
            (_, "") => {}
            ("--rows", list) => options.rows = chosen(list)?,
            ("--pairs", _) => options.pairs = value.parse::<usize>()?.max(1),
            ("--size", _) => options.size = value.parse::<u64>()?.clamp(1, 1024) << 30,
            ("--dir", _) => options.folder = value.into(),
            ("--tmpfs", _) => options.tmpfs = value.into(),
            ("--sides", "both") => options.sides = Sides::Both,
            ("--sides", "peers") => options.sides = Sides::Peers,
            _ => return Err(format!("cannot understand {argument} {value}\n{}", usage()).into()),
        }
    }
    Ok(options)
}

fn chosen(list: &str) -> Result<Vec<&'static str>> {
    for wanted in list.split(',') {
        if !ROWS.iter().any(|row| row.starts_with(wanted)) {
            return Err(format!("no row is named {wanted}\n{}", usage()).into());
        }
    }
    Ok(ROWS.into_iter().filter(|row| list.split(',').any(|wanted| row.starts_with(wanted))).collect())
}

fn usage() -> String {
    format!("{USAGE}{}", ROWS.join(", "))
}
