//! One small image damaged in every way: cut at every sector, and with each bit of its metadata flipped.
//!
//! No damage may make a bitmap look cleaner than it is, or panic. The format has no checksums, so there are
//! words whose change nobody can see, and for which less is asked:
//!
//! - the bitmap's data itself: a bit that is cleared there is a clean bit;
//! - the granularity in the directory entry: the same bits then stand for other parts of the disk, and the
//!   length of the table may still fit;
//! - the virtual size in the header: the bitmap is held against what is left of the disk.
//!
//! Everything else has to show: a table or data offset that is hit points past the file's end, at a cluster
//! that has another owner, or is no longer aligned. (An offset with one bit set could become 0, "all clean";
//! the image is laid out so that each has two or more.)

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use holstein::{Disk, DiskOptions};

use super::{base, process::fresh_folder};
use crate::builder::{Image, field::*};

/// How many of the flips a normal run tries; `HOLSTEIN_EXHAUSTIVE=1` tries all.
const SAMPLE: usize = 1500;

/// What opening, listing, mapping and reading made of a damaged image.
struct Seen {
    /// The disk's size, where it could be opened.
    size: u64,
    /// Dirty extents and granularity of every bitmap that may be used.
    usable: Vec<(Vec<Range<u64>>, u64)>,
}

/// Does everything that can be done with an image; errors are fine, and an `Err` is a panic.
fn look(path: &Path) -> Result<Option<Seen>, String> {
    let look = || {
        let disk = Disk::open(path, &DiskOptions::default()).ok()?;
        let _ = disk.info();
        let mut usable = Vec::new();
        for info in disk.bitmaps().unwrap_or_default() {
            let loaded = disk.bitmap(&info.name);
            if info.unusable.is_none() {
                let bitmap = loaded.unwrap_or_else(|error| panic!("listed as usable: {error}"));
                usable.push((bitmap.extents().collect(), info.granularity));
            }
        }
        // A flip can make the disk huge; as much of it is looked at as the whole image has.
        let size = disk.size();
        for run in disk.map(0..size).take(4096) {
            if run.is_err() {
                break;
            }
        }
        let mut buffer = vec![0; size.min(1 << 20) as usize];
        let _ = disk.read_at(&mut buffer, 0);
        Some(Seen { size, usable })
    };
    catch_unwind(AssertUnwindSafe(look)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })
}

/// Each usable bitmap covers what was laid out, as far as the disk goes.
fn cleaner(seen: &Seen, laid_out: &[Range<u64>]) -> Option<String> {
    seen.usable.iter().find_map(|(extents, _)| {
        let missing = laid_out.iter().find(|expected| {
            let expected = expected.start.min(seen.size)..expected.end.min(seen.size);
            !expected.is_empty()
                && !extents.iter().any(|range| range.start <= expected.start && expected.end <= range.end)
        });
        missing.map(|missing| format!("{missing:?} is missing in {extents:?}"))
    })
}

/// Cuts the image at every 512 bytes.
pub fn truncate_everywhere() {
    let dir = fresh_folder("hostile/truncated");
    let path = dir.join("image.qcow2");
    // The second image has a bitmap of several data clusters, and a snapshot.
    let mut large = base().snapshot("1", "s");
    large.size = 64 << 20;
    large.bitmaps[0].granularity_bits = 9;
    large.bitmaps[0].bits = vec![0..9, 40_000..40_001, 131_071..131_072];
    let mut problems = Vec::new();
    for (which, spec) in [base(), large].iter().enumerate() {
        let whole = spec.build();
        let laid_out = spec.bitmaps[0].extents(spec.size);
        for length in (0..=whole.len()).step_by(512) {
            whole.clone().edit(|image| image.truncate(length)).write(&path);
            match look(&path) {
                Err(panic) => problems.push(format!("image {which} cut at {length}: panic: {panic}")),
                Ok(None) if length == whole.len() => problems.push(format!("image {which} is refused uncut")),
                Ok(None) => {}
                Ok(Some(seen)) => {
                    if let Some(problem) = cleaner(&seen, &laid_out) {
                        problems.push(format!("image {which} cut at {length}: {problem}"));
                    }
                    if length == whole.len() && seen.usable.len() != 1 {
                        problems.push(format!("image {which}: its bitmap is not usable uncut"));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// The metadata of the image, and whether a flip there may make the bitmap cleaner.
fn metadata(image: &Image) -> Vec<(Range<u64>, bool)> {
    let at = &image.at;
    let granularity = at.bitmap[0] + DIR_GRANULARITY;
    vec![
        (0..at.extensions_end + 8, false),
        (at.reftable..at.reftable + 16, false),
        (at.refblocks[0]..at.refblocks[0] + image.len() / 4096 * 2, false),
        (at.l1..at.l1 + 8, false),
        (at.l2[&0]..at.l2[&0] + 64 * 8, false),
        (at.data[&3]..at.data[&3] + 64, false), // the compressed stream
        (at.bitmap_data[0][&0]..at.bitmap_data[0][&0] + 8, true),
        (at.bitmap_table[0]..at.bitmap_table[0] + 8, false),
        (at.directory..granularity, false),
        (granularity..granularity + 1, true),
        (granularity + 1..at.directory + 32, false),
    ]
}

/// Flips single bits of the metadata, one at a time.
pub fn flip_bits() {
    let spec = base();
    let image = spec.build();
    let laid_out = spec.bitmaps[0].extents(spec.size);
    let offsets = [image.at.directory, image.at.bitmap_table[0], image.at.bitmap_data[0][&0]];
    assert!(offsets.iter().all(|offset| offset.count_ones() >= 2), "{offsets:X?}");

    let dir = fresh_folder("hostile/flipped");
    let path = dir.join("image.qcow2");
    image.write(&path);
    let file = File::options().write(true).open(&path).unwrap();

    let mut flips: Vec<(u64, u8, bool)> = Vec::new();
    for (range, may_clean) in metadata(&image) {
        flips.extend(range.flat_map(|byte| (0..8).map(move |bit| (byte, bit, may_clean))));
    }
    if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_none() {
        shuffle(&mut flips);
        flips.truncate(SAMPLE);
    }

    let mut problems = Vec::new();
    for (byte, bit, may_clean) in flips {
        let right = image.bytes[byte as usize];
        file.write_all_at(&[right ^ 1 << bit], byte).unwrap();
        match look(&path) {
            Err(panic) => problems.push(format!("byte {byte:#x}, bit {bit}: panic: {panic}")),
            Ok(Some(seen)) if !may_clean => {
                if let Some(problem) = cleaner(&seen, &laid_out) {
                    problems.push(format!("byte {byte:#x}, bit {bit}: {problem}"));
                }
            }
            Ok(_) => {}
        }
        file.write_all_at(&[right], byte).unwrap();
    }
    let seen = look(&path).unwrap().expect("the image is whole again");
    assert_eq!(seen.usable, [(laid_out, 4096)]);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Brings the flips into an order that looks random and is the same in every run.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x5DEE_CE66_D5EE_D001_u64;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
}
