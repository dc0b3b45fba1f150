//! From "what to copy" to batches of whole target clusters, in guest order. Looks at maps only, never at data.

use std::ops::Range;

use super::share::Sharing;
use crate::{
    bitmap::DirtyBitmap,
    error::Result,
    image::{Image, Mapping, Run, Walk},
};

/// A batch passes at most this much of the disk, so that progress is seen and cancelling is quick.
const BATCH_SPAN: u64 = 1 << 30;
/// A batch shares at most about so much, which a file system does at once.
const BATCH_SHARED: u64 = 64 << 20;
/// A batch has at most this many pieces.
const BATCH_PIECES: usize = 4096;

/// Which parts of the source to copy.
#[derive(Clone, Debug)]
pub(crate) enum CopySet {
    /// None.
    Nothing,
    /// All of it.
    All,
    /// What the top layer has.
    Top,
    /// What a bitmap says.
    Dirty(DirtyBitmap),
}

/// How the source is cut up.
#[derive(Clone, Debug)]
pub(crate) struct PlanOptions {
    /// Bytes of a target cluster (or of the unit that a raw target is written in).
    pub(crate) cluster_size: u64,
    /// A batch holds about this much data.
    pub(crate) batch_bytes: u64,
    /// For each layer of the source, whether its compressed clusters are handed over as they are.
    pub(crate) copy_streams: Vec<bool>,
    /// What is shared with the source's files instead of being copied.
    pub(crate) sharing: Option<Sharing>,
}

/// Work for one thread at a time.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The batch's place in the order, from 0.
    pub(crate) sequence: u64,
    /// In guest order.
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of the disk that are dealt with by it.
    pub(crate) span: u64,
    /// Bytes of data that are read for it.
    pub(crate) bytes: u64,
    /// Everything before this guest offset is dealt with by it and those before it.
    pub(crate) end: u64,
}

/// Some target clusters that are alike.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Guest offset, a multiple of the target's cluster size.
    pub(crate) guest: u64,
    /// A multiple of the target's cluster size; the last piece may pass the end of the disk.
    pub(crate) length: u64,
    pub(crate) kind: PieceKind,
}

#[derive(Debug)]
pub(crate) enum PieceKind {
    /// Reads as zero.
    Zero,
    /// To be read: these runs, one behind the other.
    Data(Vec<Run>),
    /// To be shared: these runs, one behind the other.
    Shared(Vec<Run>),
    /// Compressed clusters of this layer, to be handed over.
    Streams { depth: usize },
}

/// Makes batches, one after the other; always of the same image.
#[derive(Debug)]
pub(crate) struct Planner {
    set: CopySet,
    options: PlanOptions,
    /// Where the search for the next region starts.
    at: u64,
    /// The region being cut up, if any.
    region: Option<Region>,
    sequence: u64,
}

/// A part of the copy set, from cluster boundary to cluster boundary or the end of the disk.
#[derive(Debug)]
struct Region {
    at: u64,
    end: u64,
    walk: Walk,
    run: Option<Run>,
}

impl Planner {
    pub(crate) fn new(set: CopySet, options: PlanOptions) -> Self {
        Planner { set, options, at: 0, region: None, sequence: 0 }
    }

    /// Bytes of the disk that the batches will span together.
    pub(crate) fn total(image: &Image, set: &CopySet, cluster_size: u64) -> u64 {
        match set {
            CopySet::Nothing => 0,
            CopySet::All | CopySet::Top => image.size(),
            CopySet::Dirty(bitmap) => {
                let (mut total, mut at) = (0, 0);
                while let Some(range) = next_dirty(bitmap, at, cluster_size, image.size()) {
                    total += range.end - range.start;
                    at = range.end;
                }
                total
            }
        }
    }

    /// The next batch, of about `most` bytes of data at most; `None` when everything has been planned. After an error
    /// the same place can be tried again.
    pub(crate) fn next_batch(&mut self, image: &Image, most: u64) -> Result<Option<Batch>> {
        let mut batch = Batch { sequence: self.sequence, pieces: Vec::new(), span: 0, bytes: 0, end: 0 };
        if let Err(error) = self.fill(&mut batch, image, most.min(self.options.batch_bytes)) {
            // What was looked at is forgotten, up to the last whole piece.
            self.region = None;
            // And what is there already is good; the error will come again.
            if batch.pieces.is_empty() && batch.span == 0 {
                return Err(error);
            }
        }
        if batch.pieces.is_empty() && batch.span == 0 {
            return Ok(None);
        }
        self.sequence += 1;
        batch.end = self.at;
        Ok(Some(batch))
    }

    fn fill(&mut self, batch: &mut Batch, image: &Image, limit: u64) -> Result<()> {
        let Batch { pieces, span, bytes, .. } = batch;
        let mut shared = 0;
        while *bytes < limit && shared < BATCH_SHARED && *span < BATCH_SPAN && pieces.len() < BATCH_PIECES {
            if self.region.is_none() {
                self.region = self.next_region(image)?;
                // Of an implicit set, what lies between regions has been dealt with too.
                if matches!(self.set, CopySet::All | CopySet::Top) {
                    let next = self.region.as_ref().map_or(image.size(), |region| region.at);
                    *span += next - self.at;
                    self.at = next;
                }
            }
            let Some(region) = &mut self.region else { break };
            let most = (limit - *bytes).max(self.options.cluster_size);
            let widest = BATCH_SPAN - (*span).min(BATCH_SPAN - 1);
            let piece = region.next_piece(image, &self.options, most, widest)?;
            self.at = region.at.min(image.size());
            if region.at >= region.end {
                self.region = None;
            }
            match piece.kind {
                PieceKind::Zero => {}
                PieceKind::Shared(_) => shared += piece.length,
                PieceKind::Data(_) | PieceKind::Streams { .. } => *bytes += piece.length,
            }
            *span += (piece.guest + piece.length).min(image.size()) - piece.guest;
            pieces.push(piece);
        }
        Ok(())
    }

    /// Adds to `rest` what there is to copy from guest offset `from` on.
    pub(crate) fn add_rest(&self, image: &Image, from: u64, rest: &mut DirtyBitmap) {
        match &self.set {
            CopySet::Nothing => {}
            CopySet::All if from == image.size() => {}
            CopySet::All => rest.add(from..image.size()),
            CopySet::Top => {
                let mut at = from;
                for run in image.runs(from..image.size()) {
                    // What is not known to be in the top layer may be there.
                    let Ok(run) = run else { return rest.add(at..image.size()) };
                    at = run.end();
                    if run.depth == 0 && run.present() {
                        rest.add(run.start..run.end());
                    }
                }
            }
            CopySet::Dirty(bitmap) => {
                let mut at = from;
                while let Some(extent) = bitmap.next_extent(at) {
                    at = extent.end;
                    rest.add(extent);
                }
            }
        }
    }

    fn next_region(&self, image: &Image) -> Result<Option<Region>> {
        let size = image.size();
        let cluster_size = self.options.cluster_size;
        let range = match &self.set {
            CopySet::Nothing => None,
            CopySet::All => (self.at < size).then_some(self.at..size),
            CopySet::Dirty(bitmap) => next_dirty(bitmap, self.at, cluster_size, size),
            CopySet::Top => self.next_in_top(image, size)?,
        };
        Ok(range.map(|range| Region {
            at: range.start,
            end: range.end,
            walk: Walk::new(image, range),
            run: None,
        }))
    }

    /// The next part that the top layer has, rounded out to whole clusters.
    fn next_in_top(&self, image: &Image, size: u64) -> Result<Option<Range<u64>>> {
        let cluster_size = self.options.cluster_size;
        for run in image.runs(self.at..size) {
            let run = run?;
            if run.depth == 0 && run.present() {
                let start = (run.start - run.start % cluster_size).max(self.at);
                return Ok(Some(start..run.end().next_multiple_of(cluster_size).min(size)));
            }
        }
        Ok(None)
    }
}

/// The next dirty part behind `from`, rounded out to whole clusters and joined with those that it then meets.
fn next_dirty(bitmap: &DirtyBitmap, from: u64, cluster_size: u64, size: u64) -> Option<Range<u64>> {
    let round_out = |range: Range<u64>| {
        range.start - range.start % cluster_size..range.end.next_multiple_of(cluster_size).min(size)
    };
    let mut found = round_out(bitmap.next_extent(from)?);
    found.start = found.start.max(from);
    while let Some(next) = bitmap.next_extent(found.end).map(round_out) {
        if next.start > found.end {
            break;
        }
        found.end = next.end;
    }
    Some(found)
}

impl Region {
    /// The next piece, of at most `most` bytes of data or `widest` bytes of zeros.
    fn next_piece(&mut self, image: &Image, options: &PlanOptions, most: u64, widest: u64) -> Result<Piece> {
        let cluster_size = options.cluster_size;
        let guest = self.at;
        let run = self.current(image)?;
        // The end of the disk ends a cluster as well as the end of the cluster does.
        let run_end = if run.end() >= self.end { self.end.next_multiple_of(cluster_size) } else { run.end() };
        let whole = (run_end - guest) / cluster_size * cluster_size;
        let at_most = |limit: u64| whole.min((limit / cluster_size).max(1) * cluster_size);

        if run.zero() && whole > 0 {
            let length = at_most(widest);
            self.take(image, length, |_| {})?;
            return Ok(Piece { guest, length, kind: PieceKind::Zero });
        }
        if let Some(sharing) = options.sharing.as_ref().filter(|_| whole > 0)
            && sharing.takes(&run)
        {
            let length = at_most(BATCH_SHARED);
            let mut runs = Vec::new();
            self.take(image, length, |run| runs.push(run))?;
            return Ok(Piece { guest, length, kind: PieceKind::Shared(runs) });
        }
        // A stream cannot be cut at the end of the disk, where what follows must be zero.
        let inside = (run.end().min(self.end) - guest) / cluster_size * cluster_size;
        if run.compressed() && inside > 0 && options.copy_streams[run.depth] {
            let length = at_most(most).min(inside);
            self.take(image, length, |_| {})?;
            return Ok(Piece { guest, length, kind: PieceKind::Streams { depth: run.depth } });
        }
        let length = if whole > 0 { at_most(most) } else { cluster_size };
        let mut runs = Vec::new();
        self.take(image, length, |run| runs.push(run))?;
        // Several short runs of zeros are zeros too.
        let kind = match &options.sharing {
            _ if runs.iter().all(Run::zero) => PieceKind::Zero,
            Some(sharing) if sharing.takes_all(&runs) => PieceKind::Shared(runs),
            Some(sharing) => {
                sharing.refuse(image, &runs)?;
                PieceKind::Data(runs)
            }
            None => PieceKind::Data(runs),
        };
        Ok(Piece { guest, length, kind })
    }

    /// The run at `self.at`.
    fn current(&mut self, image: &Image) -> Result<Run> {
        if let Some(run) = self.run {
            return Ok(run);
        }
        // A region never ends behind the disk, so there is a run.
        let run = self.walk.next(image).transpose()?;
        self.run = run;
        Ok(run.unwrap_or(Run {
            start: self.at,
            length: self.end - self.at,
            depth: 0,
            mapping: Mapping::Unallocated { host: None },
        }))
    }

    /// Consumes `length` bytes, up to the end of the region, and shows the runs that they consist of.
    fn take(&mut self, image: &Image, length: u64, mut see: impl FnMut(Run)) -> Result<()> {
        let end = (self.at + length).min(self.end);
        let after = self.at + length;
        while self.at < end {
            let run = self.current(image)?;
            let count = run.end().min(end) - self.at;
            see(Run { length: count, ..run });
            self.at += count;
            let rest = run.length - count;
            let next =
                Run { start: self.at, length: rest, depth: run.depth, mapping: run.mapping.advance(count) };
            self.run = (rest > 0).then_some(next);
        }
        self.at = after;
        Ok(())
    }
}
