//! The floor under a copy: the same extents, read and written with nothing else done to them.
//!
//! Two threads, 1 MiB buffers: each takes the next MiB of extents, gathers it with one read an extent, and
//! writes it in one piece. No metadata, no zero detection, no mapping.

use crate::Result;
use crate::daemon::{Durability, synchronise};
use crate::tools::Sample;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

const BUFFER: u64 = 1 << 20;
const THREADS: usize = 2;

/// Extents that fill one buffer, and where in the target it goes.
struct Batch {
    pieces: Vec<Range<u64>>,
    target: u64,
}

/// Copies `extents` of `source` to the beginning of `target`.
pub(crate) fn copy(
    folder: &Path,
    source: &str,
    target: &str,
    extents: &[Range<u64>],
    durability: Durability,
) -> Result<Sample> {
    let batches = batches(extents);
    let start = Instant::now();
    let (from, to) = (File::open(folder.join(source))?, File::create(folder.join(target))?);
    let next = AtomicUsize::new(0);
    let worker = || -> io::Result<()> {
        let mut buffer = vec![0; BUFFER as usize];
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut filled = 0;
            for piece in &batch.pieces {
                let length = (piece.end - piece.start) as usize;
                from.read_exact_at(&mut buffer[filled..filled + length], piece.start)?;
                filled += length;
            }
            to.write_all_at(&buffer[..filled], batch.target)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("a copying thread panicked")),
        })
    })?;
    if durability == Durability::Synced {
        synchronise(folder, target)?;
    }
    Ok(Sample { seconds: start.elapsed().as_secs_f64(), job: None, peak_kib: None })
}

fn batches(extents: &[Range<u64>]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut pieces, mut filled, mut target) = (Vec::new(), 0, 0);
    for extent in extents {
        let mut start = extent.start;
        while start < extent.end {
            let length = (extent.end - start).min(BUFFER - filled);
            pieces.push(start..start + length);
            start += length;
            filled += length;
            if filled == BUFFER {
                batches.push(Batch { pieces: std::mem::take(&mut pieces), target });
                target += filled;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        batches.push(Batch { pieces, target });
    }
    batches
}
