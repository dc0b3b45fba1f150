//! Copying one disk, by as many threads as come along.
//!
//! Each thread takes the next batch, reads it, finds zeros, compresses, and then waits for its turn: room in the
//! target is given in guest order, one batch after the other. The batch with the lowest number is always in the
//! hands of a thread that waits for nobody, so the waiting ends. Writing belongs to the turn where a file has one
//! writer at a time in the kernel, and several would only wait for each other there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    BitmapMode, Compression, Job, JobReport, ZeroDetection,
    encoders::Encoders,
    plan::{Batch, Piece, PieceKind, Planner},
    prepare::{Prepared, SMALL_BATCH_BYTES},
    turns::Turns,
};
use crate::{
    bitmap::DirtyBitmap,
    disk::{BusyBitmap, Disk, Pinned},
    error::{Error, ErrorKind, Result},
    format::header::CompressionType,
    image::{
        Image, Run,
        create::{Content, Item, Target},
    },
    storage::File,
};

/// The copying of one disk.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The source as it was when the copying began.
    image: Arc<Image>,
    target: Target,
    job: Job,
    cluster_size: usize,
    /// Of a compressing copy.
    encoders: Option<Encoders>,
    zero_detection: ZeroDetection,
    record_zeros: bool,
    planner: Mutex<Planning>,
    turns: Turns,
    bitmap: Option<BusyBitmap>,
    /// What is there when the copying ends early is not lost (bitmap mode always).
    keeps_partial: bool,
    source: Disk,
    /// What the target stands on stays open, and locked, as long as it is made.
    _backing: Option<Disk>,
    /// And its source as it is.
    _pinned: Pinned,
}

#[derive(Debug)]
struct Planning {
    planner: Planner,
    in_flight: usize,
    exhausted: bool,
}

/// A target with a part of what was to be copied.
#[derive(Debug)]
pub(crate) struct Partial {
    /// Bytes of the disk, from its start on, that are dealt with.
    pub(crate) end: u64,
    /// What is to be copied of the rest.
    pub(crate) rest: DirtyBitmap,
}

/// What a thread keeps from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    data: Vec<u8>,
    packed: Vec<u8>,
    stream: Vec<u8>,
}

/// What a call of [`Copy::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A batch was copied; there may be more.
    Copied,
    /// All batches are taken; other threads still copy some.
    Exhausted,
    /// The last batch is done and the target is complete and durable, under its temporary name.
    Finished,
}

impl Copy {
    /// The copying of a prepared backup into `file`, which is empty.
    pub(crate) fn new(prepared: Prepared, file: File, index: usize) -> Result<Self> {
        let Prepared { backup, set, bitmap, mut plan, layout, backing, record_zeros, pinned, .. } = prepared;
        let source = backup.source;
        let image = source.image();
        let total = Planner::total(&image, &set, plan.cluster_size);
        let target = match layout {
            Some(layout) => Target::qcow2(file, layout)?,
            None => Target::raw(file, source.size())?,
        };
        if target.writes_in_parallel() {
            plan.batch_bytes = SMALL_BATCH_BYTES;
        }
        let encoders = match backup.options.compression {
            Compression::None => None,
            Compression::Zlib { level } => Some(Encoders::new(CompressionType::Zlib, level.unwrap_or(6))),
            Compression::Zstd { level } => Some(Encoders::new(CompressionType::Zstd, level.unwrap_or(1))),
        };
        Ok(Copy {
            job: Job::new(index, source.path(), &backup.target, total),
            image,
            target,
            cluster_size: plan.cluster_size as usize,
            encoders,
            zero_detection: backup.options.zero_detection,
            record_zeros,
            planner: Mutex::new(Planning {
                planner: Planner::new(set, plan),
                in_flight: 0,
                exhausted: false,
            }),
            turns: Turns::new(),
            bitmap,
            keeps_partial: backup.options.bitmap_mode == Some(BitmapMode::Always),
            source,
            _backing: backing,
            _pinned: pinned,
        })
    }

    /// The disk that is copied.
    pub(crate) fn source(&self) -> &Disk {
        &self.source
    }

    /// The bitmap that loses what the target has, when the target is there.
    pub(crate) fn bitmap(&self) -> Option<&BusyBitmap> {
        self.bitmap.as_ref()
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Ends the copying: no batch is begun any more. Those at work come to their end only if that is of use.
    pub(crate) fn stop(&self) {
        self.stop_before(u64::MAX);
    }

    /// The same after the failure of a batch: those behind it are lost.
    fn stop_before(&self, sequence: u64) {
        self.turns.limit(if self.keeps_partial { sequence } else { 0 });
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.turns.is_stopped()
    }

    /// Copies one batch. The thread that does the last one also finishes the target.
    pub(crate) fn step(&self, scratch: &mut Scratch) -> Result<Step> {
        // An error or a panic must not leave others waiting for this thread's turn.
        let mut guard = StopUnlessDone { copy: Some(self), sequence: u64::MAX };
        let Some(batch) = self.take_batch()? else {
            guard.done();
            return Ok(Step::Exhausted);
        };
        guard.sequence = batch.sequence;
        self.copy_batch(batch, scratch)?;
        let last = {
            let mut planning = self.planning();
            planning.in_flight -= 1;
            planning.exhausted && planning.in_flight == 0
        };
        if last {
            self.finish()?;
        }
        guard.done();
        Ok(if last { Step::Finished } else { Step::Copied })
    }

    /// Makes the target complete and durable, if the source is still what it was.
    fn finish(&self) -> Result<()> {
        self.turns.finish(|| {
            self.image.ensure_unchanged()?;
            self.target.finish().map(drop)
        })
    }

    /// What is to be kept of a copying that ended early, if there is something; when all threads have left it.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let bitmap = self.bitmap.as_ref().filter(|_| self.keeps_partial)?;
        let end = self.turns.reached()?;
        let mut rest = bitmap.emptied();
        self.planning().planner.add_rest(&self.image, end, &mut rest);
        Some(Partial { end, rest })
    }

    /// Makes a target durable that has only a part of what was to be copied.
    pub(crate) fn finish_partial(&self) -> Result<()> {
        if self.turns.is_finished() { Ok(()) } else { self.finish() }
    }

    fn take_batch(&self) -> Result<Option<Batch>> {
        let mut planning = self.planning();
        if planning.exhausted {
            return Ok(None);
        }
        let batch = match planning.planner.next_batch(&self.image)? {
            Some(batch) => batch,
            // An empty batch at the end makes somebody the last one, also where there is nothing to copy.
            None => {
                planning.exhausted = true;
                Batch {
                    sequence: planning.planner.batches(),
                    pieces: Vec::new(),
                    span: 0,
                    end: self.image.size(),
                }
            }
        };
        planning.in_flight += 1;
        Ok(Some(batch))
    }

    fn copy_batch(&self, batch: Batch, scratch: &mut Scratch) -> Result<()> {
        let mut items = Vec::new();
        let mut report = JobReport::default();
        scratch.data.clear();
        scratch.packed.clear();
        for piece in &batch.pieces {
            self.load(piece, scratch, &mut items)?;
        }
        for item in &items {
            let length = item.length.min(self.image.size() - item.guest);
            match item.content {
                Content::Zero => report.zero_bytes += length,
                Content::Data { .. } | Content::Stream { .. } => report.data_bytes += length,
            }
        }
        if !self.record_zeros {
            items.retain(|item| item.content != Content::Zero);
        }
        let buffer = if self.is_packing() { &scratch.packed } else { &scratch.data };
        // What shall be kept at any moment is written before the next batch gets its place.
        let together = self.target.writes_in_parallel() && !self.keeps_partial;
        let extents = self.turns.take(batch.sequence, batch.end, || {
            let extents = self.target.place(&items)?;
            if !together {
                self.target.write(&extents, buffer)?;
            }
            Ok(extents)
        })?;
        if together {
            self.target.write(&extents, buffer)?;
        }
        report.stored_bytes = extents.iter().map(|extent| extent.length as u64).sum();
        self.job.advance(batch.span, report);
        Ok(())
    }

    /// A compressing copy collects what it writes, streams and all, in a buffer of its own.
    fn is_packing(&self) -> bool {
        self.encoders.is_some()
    }

    /// Reads one piece and says what becomes of it.
    fn load(&self, piece: &Piece, scratch: &mut Scratch, items: &mut Vec<Item>) -> Result<()> {
        match &piece.kind {
            PieceKind::Zero => {
                items.push(Item { guest: piece.guest, length: piece.length, content: Content::Zero });
                Ok(())
            }
            PieceKind::Data(runs) => {
                let start = scratch.data.len();
                scratch.data.resize(start + piece.length as usize, 0);
                self.read_runs(runs, &mut scratch.data[start..])?;
                self.sort_out(piece.guest, start, scratch, items)
            }
            PieceKind::Streams { depth } => {
                for guest in (piece.guest..piece.guest + piece.length).step_by(self.cluster_size) {
                    self.take_stream(*depth, guest, scratch, items)?;
                }
                Ok(())
            }
        }
    }

    fn read_runs(&self, runs: &[Run], buf: &mut [u8]) -> Result<()> {
        let mut at = 0;
        for run in runs {
            let end = at + run.length as usize;
            self.image.read_run(run, &mut buf[at..end])?;
            at = end;
        }
        // What lies behind the end of the disk in its last cluster.
        buf[at..].fill(0);
        Ok(())
    }

    /// Cuts data from `start` on into zeros, streams and data.
    fn sort_out(&self, guest: u64, start: usize, scratch: &mut Scratch, items: &mut Vec<Item>) -> Result<()> {
        let Scratch { data, packed, .. } = scratch;
        for (index, cluster) in data[start..].chunks(self.cluster_size).enumerate() {
            let offset = index * self.cluster_size;
            let content = if self.zero_detection == ZeroDetection::On && is_zero(cluster) {
                Content::Zero
            } else if let Some(encoders) = &self.encoders {
                Self::pack(encoders, cluster, packed)
            } else {
                Content::Data { at: start + offset }
            };
            push(items, Item { guest: guest + offset as u64, length: cluster.len() as u64, content });
        }
        if self.is_packing() {
            data.truncate(start);
        }
        Ok(())
    }

    /// Appends a cluster to `packed`, compressed if that makes it smaller.
    fn pack(encoders: &Encoders, cluster: &[u8], packed: &mut Vec<u8>) -> Content {
        let at = packed.len();
        if encoders.with(|encoder| encoder.deflate(cluster, packed)) {
            return Content::Stream { at, length: packed.len() - at };
        }
        packed.extend_from_slice(cluster);
        Content::Data { at }
    }

    /// Takes a compressed cluster over as it is.
    fn take_stream(
        &self,
        depth: usize,
        guest: u64,
        scratch: &mut Scratch,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let layer = &self.image.layers()[depth];
        let stream = layer.compressed_at(guest)?;
        let (Some(stream), Some(image)) = (stream, layer.qcow2()) else {
            let text = format!("the image changed under us at guest offset {guest:#x}");
            return Err(layer.file().error(ErrorKind::Corrupt, text));
        };
        let length = self.cluster_size as u64;
        // Inflated all the same, though not compressed again: a backup of a damaged stream would be found out only
        // when it is needed, and only the inflated stream tells where it ends.
        let start = scratch.data.len();
        scratch.data.resize(start + self.cluster_size, 0);
        image.inflate(guest, stream, &mut scratch.stream, &mut scratch.data[start..])?;
        if scratch.stream.len() >= self.cluster_size {
            return self.sort_out(guest, start, scratch, items);
        }
        scratch.data.truncate(start);
        let content = Content::Stream { at: scratch.packed.len(), length: scratch.stream.len() };
        scratch.packed.extend_from_slice(&scratch.stream);
        push(items, Item { guest, length, content });
        Ok(())
    }

    fn planning(&self) -> MutexGuard<'_, Planning> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a job that was told to end.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the backup was cancelled")
}

/// Stops the copying when it is dropped before it is told that all went well.
struct StopUnlessDone<'a> {
    copy: Option<&'a Copy>,
    /// The batch at work; before there is one, a number behind all.
    sequence: u64,
}

impl StopUnlessDone<'_> {
    fn done(mut self) {
        self.copy = None;
    }
}

impl Drop for StopUnlessDone<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy {
            copy.stop_before(self.sequence);
        }
    }
}

/// Appends an item, joined with the last one where they are alike.
fn push(items: &mut Vec<Item>, next: Item) {
    if let Some(last) = items.last_mut() {
        let joins = match (last.content, next.content) {
            (Content::Zero, Content::Zero) => true,
            (Content::Data { at }, Content::Data { at: next }) => at + last.length as usize == next,
            _ => false,
        };
        if joins && last.guest + last.length == next.guest {
            last.length += next.length;
            return;
        }
    }
    items.push(next);
}

/// Whether all bytes are zero. Most data shows at once that it is not.
pub(super) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
