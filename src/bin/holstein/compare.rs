//! `holstein compare`: whether two images hold the same disk. Parts that both maps call zero are not read.

use std::{ops::Range, path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::{Disk, Format, Layers, Map, Run};
use serde_json::json;

use crate::{
    args::ImageArgs,
    failure::{Failure, verdict_of},
    output::{self, escape_path},
    progress,
};

/// Compare the contents of two images.
///
/// When one disk is larger they are still identical if its surplus reads as zeros. Exit codes: 0 identical, 1
/// different, 2 an image cannot be opened (or wrong usage), 3 a map cannot be read, 4 data cannot be read.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The first image
    a: PathBuf,

    /// The second image
    b: PathBuf,

    /// Format of the second image [default: that of the first]
    #[arg(short = 'F', long, value_name = "qcow2|raw")]
    second_format: Option<Format>,

    /// Different sizes and different allocation count as differences
    #[arg(short, long)]
    strict: bool,

    /// Print no result, only give the exit code
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    open: ImageArgs,
}

const DIFFERENT: u8 = 1;
const CANNOT_OPEN: u8 = 2;
const CANNOT_MAP: u8 = 3;
const CANNOT_READ: u8 = 4;

/// How much is read at once from each image.
const PIECE: u64 = 2 << 20;

/// The unit in which differences are reported, as by QEMU.
const SECTOR: u64 = 512;

/// Runs the command.
pub(crate) fn run(args: &CompareArgs) -> Result<ExitCode, Failure> {
    let first_format = args.open.format.unwrap_or_default();
    let open = |path, format| {
        args.open
            .open_as(path, Layers::Chain, format)
            .map_err(|error| Failure::new(CANNOT_OPEN, error.to_string()))
    };
    let a = open(&args.a, first_format)?;
    let b = open(&args.b, args.second_format.unwrap_or(first_format))?;

    let smaller = a.size().min(b.size());
    let sizes_differ = a.size() != b.size();
    let difference = if args.strict && sizes_differ {
        Some(Difference::Size)
    } else {
        Comparison::new(&a, &b, args.strict).difference()?
    };
    if !args.quiet {
        // As in QEMU, it is worth a warning only once the comparison comes to where one disk ends.
        let before_the_end = matches!(difference, Some(Difference::Content(offset)) if offset < smaller);
        let printed = print_verdict(args, sizes_differ && !before_the_end, difference.as_ref());
        verdict_of("the images were compared", printed)?;
    }
    Ok(match difference {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(DIFFERENT),
    })
}

fn print_verdict(
    args: &CompareArgs,
    warn_of_size: bool,
    difference: Option<&Difference>,
) -> Result<(), Failure> {
    if args.open.json() {
        let mut value = json!({ "identical": difference.is_none() });
        if let Some(Difference::Content(offset) | Difference::Status(offset)) = difference {
            value["offset"] = json!(offset);
        }
        return output::print_json(&value);
    }
    let warning = if warn_of_size && !args.strict { "Warning: Image size mismatch!\n" } else { "" };
    let verdict = match difference {
        None => "Images are identical.".into(),
        Some(Difference::Content(offset)) => format!("Content mismatch at offset {offset}!"),
        Some(Difference::Status(offset)) => format!("Strict mode: Offset {offset} block status mismatch!"),
        Some(Difference::Size) => "Strict mode: Image size mismatch!".into(),
    };
    output::print(&format!("{warning}{verdict}\n"))
}

/// The first thing in which two images differ.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// The data, in the sector at this offset.
    Content(u64),
    /// Allocated in one and not in the other, or zero or compressed in one only: from this offset.
    Status(u64),
    /// The size of the disk.
    Size,
}

/// The state of a part of a disk, by what strict mode compares.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Status {
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
}

impl From<&Run> for Status {
    fn from(run: &Run) -> Self {
        Status { present: run.present(), zero: run.zero(), data: run.data(), compressed: run.compressed() }
    }
}

/// One image, walked along its map.
struct Side<'a> {
    disk: &'a Disk,
    map: Map,
    run: Option<Run>,
    buffer: Vec<u8>,
}

impl<'a> Side<'a> {
    fn new(disk: &'a Disk) -> Self {
        Side { disk, map: disk.map(0..disk.size()), run: None, buffer: Vec::new() }
    }

    /// The state at `offset`, which never decreases, and where it ends; nothing beyond the end of the disk.
    fn at(&mut self, offset: u64) -> Result<Option<(Status, u64)>, Failure> {
        if offset >= self.disk.size() {
            return Ok(None);
        }
        loop {
            match &self.run {
                Some(run) if run.start + run.length > offset => {
                    return Ok(Some((Status::from(run), run.start + run.length)));
                }
                _ => {}
            }
            self.run = match self.map.next() {
                Some(Ok(run)) => Some(run),
                Some(Err(error)) => return Err(Failure::new(CANNOT_MAP, error.to_string())),
                None => {
                    let image = escape_path(self.disk.path());
                    return Err(Failure::new(CANNOT_MAP, format!("{image}: the map ends at {offset}")));
                }
            };
        }
    }

    fn read(&mut self, range: &Range<u64>) -> Result<&[u8], Failure> {
        self.buffer.resize((range.end - range.start) as usize, 0);
        self.disk
            .read_at(&mut self.buffer, range.start)
            .map_err(|error| Failure::new(CANNOT_READ, error.to_string()))?;
        Ok(&self.buffer)
    }
}

/// Two images, compared from the start of the disk to the end of the larger.
struct Comparison<'a> {
    a: Side<'a>,
    b: Side<'a>,
    end: u64,
    strict: bool,
}

impl<'a> Comparison<'a> {
    fn new(a: &'a Disk, b: &'a Disk, strict: bool) -> Self {
        let end = a.size().max(b.size());
        Comparison { a: Side::new(a), b: Side::new(b), end, strict }
    }

    fn difference(mut self) -> Result<Option<Difference>, Failure> {
        let bar = progress::bar("comparing", self.end);
        let mut offset = 0;
        while offset < self.end {
            let (a, b) = (self.a.at(offset)?, self.b.at(offset)?);
            let end = [a, b].into_iter().flatten().map(|(_, end)| end).min().unwrap_or(self.end);
            let (a, b) = (a.map(|(status, _)| status), b.map(|(status, _)| status));
            if let (true, Some(a), Some(b)) = (self.strict, a, b)
                && a != b
            {
                return Ok(Some(Difference::Status(offset)));
            }
            // Beyond the end of the smaller disk the other must read as zeros.
            let reads_data = |status: Option<Status>| status.is_some_and(|status| !status.zero);
            if let Some(at) = self.content(offset..end, reads_data(a), reads_data(b), &bar)? {
                return Ok(Some(Difference::Content(at - at % SECTOR)));
            }
            bar.set_position(end);
            offset = end;
        }
        Ok(None)
    }

    /// Compares one range, of which each side either holds data or reads as zeros.
    fn content(
        &mut self,
        range: Range<u64>,
        a_has_data: bool,
        b_has_data: bool,
        bar: &indicatif::ProgressBar,
    ) -> Result<Option<u64>, Failure> {
        if !a_has_data && !b_has_data {
            return Ok(None);
        }
        let mut start = range.start;
        while start < range.end {
            let piece = start..range.end.min(start - start % PIECE + PIECE);
            let found = match (a_has_data, b_has_data) {
                (true, true) => first_difference(self.a.read(&piece)?, self.b.read(&piece)?),
                (true, false) => first_nonzero(self.a.read(&piece)?),
                (false, _) => first_nonzero(self.b.read(&piece)?),
            };
            if let Some(index) = found {
                return Ok(Some(start + index as u64));
            }
            start = piece.end;
            bar.set_position(start);
        }
        Ok(None)
    }
}

/// Where two slices of the same length first differ.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// Where the first byte is that is not zero.
fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let chunk = bytes.chunks(ZEROS.len()).position(|chunk| *chunk != ZEROS[..chunk.len()])?;
    let start = chunk * ZEROS.len();
    bytes[start..].iter().position(|byte| *byte != 0).map(|index| start + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found() {
        let mut a = vec![1; 10_000];
        let b = a.clone();
        assert_eq!(first_difference(&a, &b), None);
        for index in [0, 1, 4095, 4096, 9_999] {
            a[index] = 2;
            assert_eq!(first_difference(&a, &b), Some(index));
            a[index] = 1;
        }
        assert_eq!(first_difference(&[], &[]), None);
    }

    #[test]
    fn what_is_not_zero_is_found() {
        let mut bytes = vec![0; 10_000];
        assert_eq!(first_nonzero(&bytes), None);
        for index in [0, 1, 4095, 4096, 8191, 9_999] {
            bytes[index] = 1;
            assert_eq!(first_nonzero(&bytes), Some(index));
            bytes[index] = 0;
        }
        assert_eq!(first_nonzero(&[]), None);
    }
}
