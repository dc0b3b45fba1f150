//! Copying one disk, by as many threads as come along.
//!
//! Each thread takes the next batch, reads it ([`Reader`]), and then waits for its turn: room in the
//! target is given in guest order, one batch after the other; [`WriteOrder`] says why the waiting ends. Writing belongs to the
//! turn where a file has one writer at a time in the kernel, and several would only wait for each other there.
//!
//! What a batch cannot do because of an error of input or output may be tried again: what it has read is kept, and so
//! are its places in the target, so that the same bytes go to the same places.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    BitmapMode, ErrorPolicy, ErrorSide, Job, JobReport,
    board::Board,
    plan::{CopySet, Planner},
    policy::{Decision, Trouble, is_retryable},
    prepare::{Prepared, SMALL_BATCH_BYTES},
    reader::Reader,
    share::Sharing,
    work_item::{Load, Scratch, Stage, Task, WorkItem},
    write_order::{Pick, Turn, WriteOrder},
};
use crate::{
    bitmap::DirtyBitmap,
    disk::{BitmapClaim, Disk, Watch},
    error::Result,
    image::{
        Format, Image,
        create::{Content, Origin, Target},
    },
    storage::File,
};

/// The copying of one disk.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The source as it was when the copying began.
    image: Arc<Image>,
    reader: Reader,
    /// What the target shares with the source's files.
    sharing: Option<Sharing>,
    target: Target,
    job: Job,
    record_zeros: bool,
    planner: Mutex<Planning>,
    write_order: WriteOrder,
    bitmap: Option<BitmapClaim>,
    /// What is there when the copying ends early is not lost (bitmap mode always).
    keeps_partial: bool,
    on_source_error: ErrorPolicy,
    on_target_error: ErrorPolicy,
    /// It stays open, and locked, until its bitmap is changed.
    source: Disk,
    /// What the target stands on stays open, and locked, as long as it is made.
    backing: Option<Disk>,
    /// And its source as it is.
    watch: Watch,
}

#[derive(Debug)]
struct Planning {
    planner: Planner,
    /// Batches that are begun and not done, those that are put aside among them.
    in_flight: usize,
    exhausted: bool,
    /// The target is being completed.
    finishing: bool,
}

/// What is to be done next.
enum Planned {
    Task(Task),
    /// Nothing before.
    Later(Instant),
    /// Nothing that others do not do already.
    Nothing,
}

/// A target with a part of what was to be copied.
#[derive(Debug)]
pub(crate) struct Partial {
    /// Bytes of the disk, from its start on, that are dealt with.
    pub(crate) end: u64,
    /// What is to be copied of the rest.
    pub(crate) rest: DirtyBitmap,
}

/// What a call of [`Copy::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A batch was copied; there may be more.
    Copied,
    /// Something could not be done and will be tried again.
    Aside,
    /// Nothing: it is too early.
    Later(Instant),
    /// Nothing: what is left is in the hands of other threads.
    Exhausted,
    /// The target is complete and durable, under its temporary name.
    Finished,
}

impl Copy {
    /// The copying of a prepared backup into `file`, which is empty.
    pub(crate) fn new(prepared: Prepared, file: File, board: Arc<Board>, index: usize) -> Result<Self> {
        let Prepared { backup, set, bitmap, mut plan, layout, backing, record_zeros, watch, lineage, .. } =
            prepared;
        let source = backup.source;
        let image = source.image();
        if !matches!(set, CopySet::Nothing)
            && let Some(sharing) = Sharing::find(&backup.options, &image, &file)?
            && let Some(cluster_size) = sharing.cluster_size(&file, plan.cluster_size, layout.is_none())?
        {
            (plan.cluster_size, plan.sharing) = (cluster_size, Some(sharing));
        }
        let sharing = plan.sharing.clone();
        let total = Planner::total(&image, &set, plan.cluster_size);
        let target = match layout {
            Some(layout) => Target::qcow2(file, layout)?,
            None => Target::raw(file, source.size())?,
        };
        let target = target.with_page_cache(backup.options.page_cache);
        if target.writes_in_parallel() {
            plan.batch_bytes = SMALL_BATCH_BYTES;
        }
        Ok(Copy {
            job: Job::new(board, index, source.path(), &backup.target, total, lineage),
            image,
            reader: Reader::new(&backup.options, plan.cluster_size as usize),
            sharing,
            target,
            record_zeros,
            planner: Mutex::new(Planning {
                planner: Planner::new(set, plan),
                in_flight: 0,
                exhausted: false,
                finishing: false,
            }),
            write_order: WriteOrder::new(),
            bitmap,
            keeps_partial: backup.options.bitmap_mode == Some(BitmapMode::Always),
            on_source_error: backup.options.on_source_error,
            on_target_error: backup.options.on_target_error,
            source,
            backing,
            watch,
        })
    }

    /// The source's image has changed, not what the disk holds: it is the one to read from now on. Before the first step.
    pub(crate) fn look_anew(&mut self) {
        self.image = self.source.image();
    }

    /// The bitmap that loses what the target has, when the target is there.
    pub(crate) fn bitmap(&self) -> Option<&BitmapClaim> {
        self.bitmap.as_ref()
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// The format of its target.
    pub(crate) fn format(&self) -> Format {
        self.target.format()
    }

    /// What the target is made from, and what it stands on.
    pub(crate) fn reads(&self) -> Vec<Disk> {
        [Some(&self.source), self.backing.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// Ends the copying: no batch is begun any more. Those at work come to their end only if that is of use.
    pub(crate) fn stop(&self) {
        self.stop_before(u64::MAX);
    }

    /// The same after the failure of a batch: those behind it are lost.
    fn stop_before(&self, sequence: u64) {
        self.write_order.limit(if self.keeps_partial { sequence } else { 0 });
    }

    /// One piece of work: a batch, or the end of the target behind the last one. A new batch reads about `most` bytes at
    /// most.
    pub(crate) fn step(&self, scratch: &mut Scratch, most: u64) -> Result<Step> {
        let mut item = match self.write_order.pick(Instant::now()) {
            Pick::Aside(item) => item,
            Pick::New => WorkItem::new(),
            Pick::Later(time) => return Ok(Step::Later(time)),
            Pick::Stopped => return Ok(Step::Exhausted),
        };
        if let Task::Copy(_) = item.task {
            *scratch = mem::take(&mut item.scratch);
        }
        // An error or a panic must not leave others waiting for this thread's turn.
        let mut guard = StopUnlessDone { copy: Some(self), sequence: u64::MAX };
        let step = match self.go_on(&mut item, &mut guard.sequence, scratch, most) {
            Ok(step) => step,
            Err(trouble) => self.meet(trouble, &mut item)?,
        };
        if step == Step::Aside {
            item.scratch = mem::take(scratch);
            self.write_order.put_aside(item);
        }
        guard.done();
        Ok(step)
    }

    /// Gets on with a item as far as possible, and notes the place of its batch.
    fn go_on(
        &self,
        item: &mut WorkItem,
        sequence: &mut u64,
        scratch: &mut Scratch,
        most: u64,
    ) -> Result<Step, Trouble> {
        loop {
            *sequence = item.sequence();
            match &mut item.task {
                Task::Plan => match self.plan(most).map_err(Trouble::source)? {
                    Planned::Task(task) => item.begins(task),
                    Planned::Later(time) => return Ok(Step::Later(time)),
                    Planned::Nothing => return Ok(Step::Exhausted),
                },
                Task::Copy(load) if load.stage == Stage::Planned => {
                    self.read(load, scratch).map_err(Trouble::source)?;
                    item.retries = 0;
                }
                Task::Copy(load) => {
                    if self.write(load, scratch)? == Turn::NotYet {
                        item.not_before = None;
                        return Ok(Step::Aside);
                    }
                    self.planning().in_flight -= 1;
                    return Ok(Step::Copied);
                }
                Task::Finish => {
                    self.finish()?;
                    return Ok(Step::Finished);
                }
            }
        }
    }

    /// Does about an error what was asked for.
    fn meet(&self, trouble: Trouble, item: &mut WorkItem) -> Result<Step> {
        let Trouble { side, error } = trouble;
        let policy = match side {
            Some(ErrorSide::Source) => self.on_source_error,
            Some(ErrorSide::Target) if self.target.can_be_retried() => self.on_target_error,
            _ => return Err(error),
        };
        let Some(side) = side.filter(|_| is_retryable(&error)) else { return Err(error) };
        let decision = policy.decide(&error, item.retries);
        let error = match (decision, item.retries) {
            (Decision::Fail, 1..) => error.within(format!("given up after {} retries", item.retries)),
            _ => error,
        };
        self.job.trouble(side, decision, &error);
        item.not_before = match decision {
            Decision::Fail => return Err(error),
            Decision::RetryAfter(pause) => Instant::now().checked_add(pause),
            Decision::Stop => None,
        };
        item.retries += 1;
        Ok(Step::Aside)
    }

    /// Makes the target complete and durable, if the source is still what it was.
    fn finish(&self) -> Result<(), Trouble> {
        self.image.end_uncached();
        self.write_order.finish(|| {
            self.watch.ensure_unchanged().map_err(|error| Trouble { side: None, error })?;
            self.target.finish().map(drop).map_err(Trouble::target)
        })
    }

    /// What is to be kept of a copying that ended early, if there is something; when all threads have left it.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let bitmap = self.bitmap.as_ref().filter(|_| self.keeps_partial)?;
        let end = self.write_order.reached()?;
        // Where memory is short nothing is kept.
        let mut rest = bitmap.emptied().ok()?;
        self.planning().planner.add_rest(&self.image, end, &mut rest);
        Some(Partial { end, rest })
    }

    /// Makes a target durable that has only a part of what was to be copied.
    pub(crate) fn finish_partial(&self) -> Result<()> {
        if self.write_order.is_finished() { Ok(()) } else { self.finish().map_err(|trouble| trouble.error) }
    }

    /// What comes next that nobody has begun.
    fn plan(&self, most: u64) -> Result<Planned> {
        let mut planning = self.planning();
        if !planning.exhausted
            && let Some(batch) = planning.planner.next_batch(&self.image, most)?
        {
            planning.in_flight += 1;
            self.job.charge(batch.bytes);
            return Ok(Planned::Task(Task::Copy(Load::new(batch))));
        }
        planning.exhausted = true;
        if planning.in_flight > 0 || planning.finishing {
            return Ok(Planned::Nothing);
        }
        // A job is not faster than its limit, also to the end.
        if let Some(time) = self.job.free_at() {
            return Ok(Planned::Later(time));
        }
        planning.finishing = true;
        Ok(Planned::Task(Task::Finish))
    }

    /// Reads a batch, and counts what it is.
    fn read(&self, load: &mut Load, scratch: &mut Scratch) -> Result<()> {
        let Load { batch, items, report, stage, .. } = load;
        self.reader.read(&self.image, &batch.pieces, scratch, items)?;
        *report = JobReport::default();
        for item in &*items {
            let length = item.length.min(self.image.size() - item.guest);
            match item.content {
                Content::Zero => report.zero_bytes += length,
                Content::Data { .. } | Content::Stream { .. } | Content::Shared => {
                    report.data_bytes += length;
                }
            }
        }
        if !self.record_zeros {
            items.retain(|item| item.content != Content::Zero);
        }
        *stage = Stage::Read;
        Ok(())
    }

    /// Gives a batch its places when it is its turn, once and for all, and writes it there.
    fn write(&self, load: &mut Load, scratch: &Scratch) -> Result<Turn, Trouble> {
        let Load { batch, items, extents, report, stage } = load;
        let buffer = if self.reader.is_packing() { &scratch.packed } else { &scratch.data };
        // What shall be kept at any moment is written before the next batch gets its place.
        let beside = self.target.writes_in_parallel() && !self.keeps_partial;
        if *stage != Stage::Beside {
            let turn = self.write_order.take(batch.sequence, batch.end, || {
                if *stage == Stage::Read {
                    *extents = self.target.place(items).map_err(Trouble::target)?;
                    *stage = Stage::Placed;
                }
                self.target.write_kept().map_err(Trouble::target)?;
                if let Some(sharing) = &self.sharing {
                    let stored = sharing.store(&self.image, &self.target, &batch.pieces, extents)?;
                    (report.shared_bytes, report.stored_bytes) = (stored.shared, stored.copied);
                }
                if beside { Ok(()) } else { self.target.write(extents, buffer).map_err(Trouble::target) }
            })?;
            if turn == Turn::NotYet {
                return Ok(turn);
            }
        }
        if beside {
            *stage = Stage::Beside;
            self.target.write(extents, buffer).map_err(Trouble::target)?;
        }
        let written = extents.iter().filter(|extent| matches!(extent.origin, Origin::Buffer(_)));
        report.stored_bytes += written.map(|extent| extent.length as u64).sum::<u64>();
        self.job.advance(batch.span, *report);
        Ok(Turn::Had)
    }

    fn planning(&self) -> MutexGuard<'_, Planning> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copy {
    /// Also a copying that failed leaves the page cache as it was.
    fn drop(&mut self) {
        self.image.end_uncached();
    }
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
