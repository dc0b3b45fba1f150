//! `holstein map`: where an image's data is, in `qemu-img map`'s JSON or as a table.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::{Disk, Layers, Run};

use crate::{
    args::{ImageArgs, parse_size},
    failure::Failure,
    output::{Listing, escape, escape_path},
};

/// List which parts of an image hold data, which read as zeros, and which file of the chain they come from.
///
/// The JSON is that of `qemu-img map`; the table has the parts with data only.
#[derive(Args)]
pub(crate) struct MapArgs {
    /// The image
    image: PathBuf,

    /// Where to start, in bytes of the virtual disk
    #[arg(short, long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    start_offset: u64,

    /// How many bytes to cover [default: to the end]
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = parse_size)]
    max_length: Option<u64>,

    #[command(flatten)]
    open: ImageArgs,
}

/// Runs the command.
pub(crate) fn run(args: &MapArgs) -> Result<ExitCode, Failure> {
    let disk = args.open.open(&args.image, Layers::Chain)?;
    let mut listing = Listing::new();
    if args.open.json() {
        list_json(&disk, args, &mut listing)?;
    } else {
        list_table(&disk, args, &mut listing)?;
    }
    listing.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The part of the disk that is asked for.
fn range(disk: &Disk, args: &MapArgs) -> std::ops::Range<u64> {
    let start = args.start_offset.min(disk.size());
    let length = args.max_length.unwrap_or(u64::MAX);
    start..start.saturating_add(length).min(disk.size())
}

fn list_json(disk: &Disk, args: &MapArgs, listing: &mut Listing) -> Result<(), Failure> {
    let range = range(disk, args);
    if range.is_empty() {
        // QEMU describes an empty range by one empty entry.
        listing.text("[");
        Entry { start: args.start_offset, ..Entry::default() }.write_json(listing);
    }
    let mut before = "[";
    for run in disk.map(range) {
        listing.text(before);
        Entry::from(run?).write_json(listing);
        listing.row()?;
        before = ",\n";
    }
    listing.text("]\n");
    Ok(())
}

/// One entry of the JSON.
#[derive(Default)]
struct Entry {
    start: u64,
    length: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    offset: Option<u64>,
}

impl From<Run> for Entry {
    fn from(run: Run) -> Self {
        Entry {
            start: run.start,
            length: run.length,
            depth: run.depth,
            present: run.present(),
            zero: run.zero(),
            data: run.data(),
            compressed: run.compressed(),
            offset: run.offset(),
        }
    }
}

impl Entry {
    fn write_json(&self, listing: &mut Listing) {
        listing.text("{ \"start\": ").number(self.start);
        listing.text(", \"length\": ").number(self.length);
        listing.text(", \"depth\": ").number(self.depth as u64);
        listing.text(", \"present\": ").boolean(self.present);
        listing.text(", \"zero\": ").boolean(self.zero);
        listing.text(", \"data\": ").boolean(self.data);
        listing.text(", \"compressed\": ").boolean(self.compressed);
        if let Some(offset) = self.offset {
            listing.text(", \"offset\": ").number(offset);
        }
        listing.text("}");
    }
}

fn list_table(disk: &Disk, args: &MapArgs, listing: &mut Listing) -> Result<(), Failure> {
    let mut files: Vec<String> = disk.chain().iter().map(|layer| escape_path(&layer.path)).collect();
    if let (Some(top), Some(data_file)) = (files.first_mut(), disk.info()?.qcow2.and_then(|q| q.data_file)) {
        *top = escape(data_file.as_bytes());
    }
    listing.text(&format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to"));
    for run in disk.map(range(disk, args)) {
        let run = run?;
        if !run.data() {
            continue;
        }
        let place = match run.offset() {
            Some(offset) => format!("{offset:#x}"),
            None => "compressed".into(),
        };
        let file = files.get(run.depth).map_or("?", String::as_str);
        let (start, length) = (format!("{:#x}", run.start), format!("{:#x}", run.length));
        listing.text(&format!("{start:<16}{length:<16}{place:<16}{file}\n"));
        listing.row()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(entry: &Entry) -> String {
        let mut listing = Listing::new();
        entry.write_json(&mut listing);
        String::from_utf8(listing.into_bytes()).unwrap()
    }

    #[test]
    fn entries_are_written_as_by_qemu_img() {
        let data = Entry {
            start: 0,
            length: 65536,
            depth: 0,
            present: true,
            zero: false,
            data: true,
            compressed: false,
            offset: Some(327680),
        };
        assert_eq!(
            json(&data),
            "{ \"start\": 0, \"length\": 65536, \"depth\": 0, \"present\": true, \"zero\": false, \
             \"data\": true, \"compressed\": false, \"offset\": 327680}"
        );
        let hole = Entry { start: 65536, length: 512, depth: 1, zero: true, ..Entry::default() };
        assert_eq!(
            json(&hole),
            "{ \"start\": 65536, \"length\": 512, \"depth\": 1, \"present\": false, \"zero\": true, \
             \"data\": false, \"compressed\": false}"
        );
    }
}
