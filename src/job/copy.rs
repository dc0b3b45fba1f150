//! Copying one disk, by as many threads as come along.
//!
//! Each thread takes the next batch, reads it, finds zeros, compresses, and then waits for its turn: room in the
//! target is given in guest order, one batch after the other. The batch with the lowest number is always in the
//! hands of a thread that waits for nobody, so the waiting ends. Writing belongs to the turn where a file has one
//! writer at a time in the kernel, and several would only wait for each other there.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{
    Compression, Job, JobReport, ZeroDetection,
    encoders::Encoders,
    plan::{Batch, Piece, PieceKind, Planner},
    prepare::{KeptBitmap, Prepared, SMALL_BATCH_BYTES},
};
use crate::{
    bitmap::BitmapChange,
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
    /// Whether several threads write the target at once.
    in_parallel: bool,
    /// Of a compressing copy.
    encoders: Option<Encoders>,
    zero_detection: ZeroDetection,
    record_zeros: bool,
    planner: Mutex<Planning>,
    turn: Mutex<Turn>,
    turned: Condvar,
    /// The bitmap that changes when the target is there.
    bitmap: Option<KeptBitmap>,
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

/// Whose turn it is to write.
#[derive(Debug)]
struct Turn {
    next: u64,
    stopped: bool,
    /// Up to this guest offset everything is in the target.
    done_to: u64,
    /// A write of the target failed, or it is being finished: what it holds is no longer a part that can be kept.
    spoilt: bool,
    /// The target is complete.
    finished: bool,
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
        let always = bitmap.as_ref().is_some_and(|bitmap| bitmap.always);
        let encoders = match backup.options.compression {
            Compression::None => None,
            Compression::Zlib { level } => Some(Encoders::new(CompressionType::Zlib, level.unwrap_or(6))),
            Compression::Zstd { level } => Some(Encoders::new(CompressionType::Zstd, level.unwrap_or(1))),
        };
        Ok(Copy {
            job: Job::new(index, source.path(), &backup.target, total),
            image,
            cluster_size: plan.cluster_size as usize,
            encoders,
            zero_detection: backup.options.zero_detection,
            record_zeros,
            planner: Mutex::new(Planning {
                planner: Planner::new(set, plan),
                in_flight: 0,
                exhausted: false,
            }),
            turn: Mutex::new(Turn { next: 0, stopped: false, done_to: 0, spoilt: false, finished: false }),
            turned: Condvar::new(),
            // What may have to be kept is written in turn, so that it ends somewhere.
            in_parallel: target.writes_in_parallel() && !always,
            bitmap,
            source,
            target,
            _backing: backing,
            _pinned: pinned,
        })
    }

    /// The disk that is copied.
    pub(crate) fn source(&self) -> &Disk {
        &self.source
    }

    /// The bitmap that changes when the target is there.
    pub(crate) fn bitmap(&self) -> Option<&BusyBitmap> {
        self.bitmap.as_ref().map(|bitmap| &bitmap.busy)
    }

    /// How that bitmap changes: all of it becomes clean, or with a part of the target up to guest offset `kept` it has
    /// what is not in there.
    pub(crate) fn bitmap_changes(&self, kept: Option<u64>) -> Result<Vec<BitmapChange>> {
        let Some(KeptBitmap { busy, .. }) = &self.bitmap else { return Ok(Vec::new()) };
        let Some(kept) = kept else { return Ok(busy.clear()) };
        let mut rest = busy.emptied();
        self.planning().planner.set().add_rest(&self.image, kept, &mut rest)?;
        Ok(busy.replace(rest))
    }

    /// After an early end, when all threads have left: completes the target with what is in it already, if the bitmap's
    /// mode asks for that. Returns how far it goes, or `None` if there is nothing to keep.
    pub(crate) fn finish_part(&self) -> Result<Option<u64>> {
        let Turn { done_to, spoilt, finished, .. } = *self.turn();
        let wanted = self.bitmap.as_ref().is_some_and(|bitmap| bitmap.always);
        if wanted && finished {
            return Ok(Some(self.image.size()));
        }
        if !wanted || spoilt || done_to == 0 {
            return Ok(None);
        }
        self.image.ensure_unchanged()?;
        self.target.finish()?;
        Ok(Some(done_to))
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Ends the copying: no batch is begun any more, and nobody waits for a turn.
    pub(crate) fn stop(&self) {
        self.turn().stopped = true;
        self.turned.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.turn().stopped
    }

    /// Copies one batch. The thread that does the last one also finishes the target.
    pub(crate) fn step(&self, scratch: &mut Scratch) -> Result<Step> {
        // An error or a panic must not leave others waiting for this thread's turn.
        let guard = StopUnlessDone(Some(self));
        let Some(batch) = self.take_batch()? else {
            guard.done();
            return Ok(Step::Exhausted);
        };
        self.copy_batch(batch, scratch)?;
        let last = {
            let mut planning = self.planning();
            planning.in_flight -= 1;
            planning.exhausted && planning.in_flight == 0
        };
        if last {
            self.turn().spoilt = true;
            self.image.ensure_unchanged()?;
            self.target.finish()?;
            self.turn().finished = true;
        }
        guard.done();
        Ok(if last { Step::Finished } else { Step::Copied })
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
        let extents = self.in_turn(&batch, || {
            let extents = self.target.place(&items)?;
            if !self.in_parallel {
                self.target.write(&extents, buffer)?;
            }
            Ok(extents)
        })?;
        if self.in_parallel {
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

    /// Runs `write` when all batches before this one have had their turn.
    fn in_turn<T>(&self, batch: &Batch, write: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut turn = self.turn();
        while turn.next != batch.sequence && !turn.stopped {
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        if turn.stopped {
            return Err(cancelled());
        }
        // Until it has gone well; also a panic leaves it so.
        turn.spoilt = true;
        drop(turn);
        let written = write()?;
        let mut turn = self.turn();
        turn.next += 1;
        turn.done_to = batch.end;
        turn.spoilt = false;
        drop(turn);
        self.turned.notify_all();
        Ok(written)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
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
struct StopUnlessDone<'a>(Option<&'a Copy>);

impl StopUnlessDone<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for StopUnlessDone<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.0 {
            copy.stop();
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
