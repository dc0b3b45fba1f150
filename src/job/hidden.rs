//! What has changed although the bitmap does not say so: a disk that was shrunk and grew again lost what it had there, and
//! QEMU's bitmaps do not tell. The maps of the source and of what the target stands on do, in part; of what Holstein shrank the
//! bitmap's base remembers the smallest size.

use super::reader::is_zero;
use crate::{
    bitmap::DirtyBitmap,
    error::Result,
    format::lineage::Base,
    image::{Image, Mapping, Run},
    memory,
};

const PIECE: u64 = 64 << 10;

/// Makes dirty what cannot be unchanged: what reads as zero in the source, known without reading it, and not in the image
/// below the target; and what the source has behind the end of that image, or behind the smallest size that the disk is known
/// to have had since the bitmap's `base`. Compares maps, and where files have holes; reads only what is stored below such a
/// place, as larger clusters there may hold zeros too.
pub(super) fn add_hidden(
    bitmap: &mut DirtyBitmap,
    source: &Image,
    backing: Option<&Image>,
    base: Option<Base>,
) -> Result<()> {
    let size = source.size();
    let smallest = base.and_then(|base| base.smallest_size).map_or(size, |smallest| smallest.min(size));
    let end = match (backing, base) {
        (Some(backing), _) => {
            add_hidden_zeros(bitmap, source, backing)?;
            smallest.min(backing.size())
        }
        // Nothing tells whether the backup has zeros there.
        (None, Some(base)) => {
            let until = base.disk_size.min(size);
            if smallest < until {
                bitmap.add(smallest..until);
            }
            smallest
        }
        (None, None) => return Ok(()),
    };
    // Whoever reads the image below sees zeros there, or what the disk had before it was shrunk.
    for run in source.runs(end..size) {
        let run = run?;
        if !run.zero() {
            bitmap.add(run.start..run.end());
        }
    }
    Ok(())
}

/// Makes dirty what reads as zero in the source, and not in the image below.
fn add_hidden_zeros(bitmap: &mut DirtyBitmap, source: &Image, backing: &Image) -> Result<()> {
    let end = source.size().min(backing.size());
    for run in source.runs(0..end) {
        let run = run?;
        let mut at = run.start;
        while at < run.end() {
            let (zero, until) = reads_as_zero(source, &run, at, bitmap)?;
            if zero {
                compare(bitmap, backing, at, until)?;
            }
            at = until;
        }
    }
    Ok(())
}

/// Whether a run reads as zero at `at`, as far as is known without reading it, and how far this goes.
fn reads_as_zero(source: &Image, run: &Run, at: u64, bitmap: &DirtyBitmap) -> Result<(bool, u64)> {
    let Mapping::Data { host, hole: false } = run.mapping else { return Ok((run.zero(), run.end())) };
    // What is copied anyway needs no look.
    let dirty = bitmap.next_extent(at).unwrap_or(run.end()..run.end());
    if dirty.start <= at {
        return Ok((false, dirty.end.min(run.end())));
    }
    let until = dirty.start.min(run.end());
    let layer = source.layer(run.depth)?;
    let file = layer.data_file()?;
    let place = host + (at - run.start);
    if place >= file.len()? {
        return Ok((true, until));
    }
    let extent = file.extent_at(place)?;
    Ok((extent.hole, until.min(at + (extent.end - place).max(1))))
}

/// Makes dirty, of a range that reads as zero in the source, what does not below.
fn compare(bitmap: &mut DirtyBitmap, backing: &Image, start: u64, end: u64) -> Result<()> {
    let mut buf = memory::zeroed(PIECE as usize)?;
    for below in backing.runs(start..end) {
        let below = below?;
        if below.zero() {
            continue;
        }
        for start in (below.start..below.end()).step_by(PIECE as usize) {
            let end = below.end().min(start + PIECE);
            let known =
                bitmap.next_extent(start).is_some_and(|dirty| dirty.start <= start && end <= dirty.end);
            if known {
                continue;
            }
            let piece = &mut buf[..(end - start) as usize];
            backing.read_at(piece, start)?;
            if !is_zero(piece) {
                bitmap.add(start..end);
            }
        }
    }
    Ok(())
}
