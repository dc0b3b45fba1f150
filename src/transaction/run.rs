//! A transaction at work: one thread that leads, a pool that copies.

use std::{
    cmp::Reverse,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    CompletionMode, EventKind,
    changes::Changes,
    commit::{Commit, Problem, StagedDisk},
    events::Events,
    journal::Journal,
};
use crate::{
    bitmap::BitmapChange,
    disk::{BusyBitmap, Disk, Pool},
    error::{Error, ErrorKind, Result},
    image::create::TargetFile,
    job::{Copy, Job, JobStatus, Partial, Scratch, Step, cancelled},
};

/// What the caller's handle and the leading thread share.
#[derive(Debug)]
pub(crate) struct Run {
    jobs: Vec<Job>,
    events: Events,
    /// What went wrong that is no job's.
    problem: Mutex<Option<Error>>,
    result: Mutex<Option<Result<()>>>,
    ended: Condvar,
}

/// What the leading thread and the pool's threads share. It goes when the work ends, and with it every open
/// file and lock, whatever becomes of the handle.
#[derive(Debug)]
pub(crate) struct Work {
    run: Arc<Run>,
    copies: Vec<Copy>,
    /// A target's place is empty once it is settled or taken back.
    targets: Vec<Mutex<Option<TargetFile>>>,
    /// What else is decided, in a grouped transaction.
    changes: Mutex<Changes>,
    /// One for each group of jobs.
    journals: Vec<Mutex<Option<Journal>>>,
    completion: CompletionMode,
    /// Spreads the threads over the disks.
    next_start: AtomicUsize,
}

impl Run {
    pub(crate) fn new(jobs: Vec<Job>) -> Result<Self> {
        Ok(Run {
            jobs,
            events: Events::new()?,
            problem: Mutex::new(None),
            result: Mutex::new(None),
            ended: Condvar::new(),
        })
    }

    /// Everything has ended.
    pub(crate) fn end(&self) {
        // Both at once: who has seen the event need not wait, and who has waited finds the event.
        let mut result = lock(&self.result);
        *result = Some(self.outcome());
        self.events.push(None, EventKind::Finished);
        drop(result);
        self.ended.notify_all();
    }

    pub(crate) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn cancel(&self) {
        for job in &self.jobs {
            job.cancel();
        }
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<Result<()>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut result = lock(&self.result);
        while result.is_none() {
            result = match deadline {
                None => self.ended.wait(result).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.ended.wait_timeout(result, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        result.clone()
    }

    /// The error of the job that failed first; those that only ended with it come last.
    fn outcome(&self) -> Result<()> {
        let errors = || self.jobs.iter().filter_map(Job::error);
        let own = errors().find(|error| error.kind() != ErrorKind::Cancelled);
        let problem = || lock(&self.problem).clone();
        own.or_else(problem).or_else(|| errors().next()).map_or(Ok(()), Err)
    }
}

impl Work {
    pub(crate) fn new(
        run: Arc<Run>,
        copies: Vec<Copy>,
        targets: Vec<TargetFile>,
        changes: Changes,
        journals: Vec<Journal>,
        completion: CompletionMode,
    ) -> Self {
        let targets = targets.into_iter().map(|target| Mutex::new(Some(target))).collect();
        let journals = journals.into_iter().map(|journal| Mutex::new(Some(journal))).collect();
        let changes = Mutex::new(changes);
        Work { run, copies, targets, changes, journals, completion, next_start: AtomicUsize::new(0) }
    }

    /// The whole life of the transaction; always leaves a result.
    pub(crate) fn execute(self) {
        let run = self.run.clone();
        let done = catch_unwind(AssertUnwindSafe(|| self.copy_all()));
        if let Err(error) = done.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            for index in 0..self.copies.len() {
                self.fail(index, error.clone());
            }
        }
        let concluded = catch_unwind(AssertUnwindSafe(|| self.conclude()));
        if let Err(panic) = concluded {
            // Whoever waits must hear of it; what is on disk a recovery looks after.
            let error = panicked(&*panic);
            for copy in &self.copies {
                copy.job().fail(error.clone());
                copy.job().set_status(JobStatus::Concluded);
            }
        }
        drop(self);
        run.end();
    }

    fn copy_all(&self) -> Result<()> {
        let pool = Pool::new("holstein-copy")?;
        for index in 0..self.copies.len() {
            self.set_status(index, JobStatus::Running);
        }
        pool.on_all(|| self.work());
        Ok(())
    }

    /// What one thread does: batch after batch, from one disk after the other, until none has any left.
    fn work(&self) {
        let count = self.copies.len();
        let mut scratch = Scratch::default();
        let mut index = self.next_start.fetch_add(1, Ordering::Relaxed) % count;
        let mut idle = 0;
        while idle < count {
            idle = if self.step(index, &mut scratch) { 0 } else { idle + 1 };
            index = (index + 1) % count;
        }
    }

    /// One batch of one disk; false when it has none for us.
    fn step(&self, index: usize, scratch: &mut Scratch) -> bool {
        let copy = &self.copies[index];
        if copy.is_stopped() {
            return false;
        }
        if copy.job().is_cancelled() {
            self.fail(index, cancelled());
            return false;
        }
        let step = catch_unwind(AssertUnwindSafe(|| copy.step(scratch)));
        match step.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            Ok(Step::Exhausted) => return false,
            Ok(Step::Copied) => self.run.events.push(Some(index), EventKind::Progress(copy.job().progress())),
            Ok(Step::Finished) => {
                self.run.events.push(Some(index), EventKind::Progress(copy.job().progress()));
                if copy.job().error().is_none() {
                    self.set_status(index, JobStatus::Waiting);
                }
                let individual = self.completion == CompletionMode::Individual;
                if individual && !copy.job().is_cancelled() && self.is_alone(index) {
                    self.commit(&[index]);
                }
            }
            // Stopped because of another thread's failure, which that thread tells.
            Err(error) if error.kind() == ErrorKind::Cancelled && !copy.job().is_cancelled() => {}
            Err(error) => self.fail(index, error),
        }
        true
    }

    /// A job fails; in a group all others end with it.
    fn fail(&self, index: usize, error: Error) {
        let copy = &self.copies[index];
        // Stopped copies fail with "cancelled" in each of their threads; the first word on it counts.
        if copy.job().error().is_some() && error.kind() == ErrorKind::Cancelled {
            return;
        }
        copy.stop();
        self.abort(index, error);
        if self.completion == CompletionMode::Grouped {
            let because =
                format!("cancelled because the backup to '{}' ended", copy.job().target().display());
            for other in (0..self.copies.len()).filter(|other| *other != index) {
                self.copies[other].stop();
                if self.copies[other].job().error().is_none() {
                    self.abort(other, Error::new(ErrorKind::Cancelled, because.clone()));
                }
            }
        }
    }

    fn abort(&self, index: usize, error: Error) {
        self.copies[index].job().fail(error);
        self.set_status(index, JobStatus::Aborting);
    }

    /// After all copying: what succeeded appears, what failed goes.
    fn conclude(&self) {
        let all: Vec<usize> = (0..self.copies.len()).collect();
        for &index in &all {
            let job = self.copies[index].job();
            if job.is_cancelled() && lock(&self.targets[index]).is_some() && job.error().is_none() {
                self.fail(index, cancelled());
            }
        }
        for group in self.groups() {
            let failed = |index: &usize| self.copies[*index].job().error().is_some();
            if !group.iter().any(failed) {
                self.commit(&group);
            } else if let [index] = group[..] {
                self.keep_partial(index);
            }
        }
        for group in self.groups() {
            let left = group.iter().filter_map(|index| Some((*index, lock(&self.targets[*index]).take()?)));
            let mut targets: Vec<_> = left.collect();
            targets.extend(self.take_overlays(&group));
            // Only behind them: until they are gone the journal leads to the temporary files.
            if let Some(journal) = lock(self.journal(group[0])).take() {
                Commit { journal, targets, staged: Vec::new() }.take_back();
            }
        }
        for &index in &all {
            let job = self.copies[index].job();
            let kind = match job.error() {
                None => EventKind::Completed,
                Some(error) if error.kind() == ErrorKind::Cancelled => EventKind::Cancelled,
                Some(error) => EventKind::Failed(error),
            };
            self.set_status(index, JobStatus::Concluded);
            self.run.events.push(Some(index), kind);
        }
    }

    /// The jobs that stand and fall together.
    fn groups(&self) -> Vec<Vec<usize>> {
        let all = 0..self.copies.len();
        match self.completion {
            CompletionMode::Grouped => vec![all.collect()],
            CompletionMode::Individual => all.map(|index| vec![index]).collect(),
        }
    }

    /// Whether a job's bitmap can change although others still copy: nothing may be read from its image then.
    fn is_alone(&self, index: usize) -> bool {
        let own = self.copies[index].source();
        let reads_it = |copy: &Copy| copy.source().is_same(own);
        self.copies[index].bitmap().is_none() || self.copies.iter().filter(|copy| reads_it(copy)).count() == 1
    }

    /// Lets the target of a job that ended early appear with what it has, where that is to be kept, and its bitmap have
    /// the rest.
    fn keep_partial(&self, index: usize) {
        let copy = &self.copies[index];
        let job = copy.job();
        let replaces = match &*lock(&self.targets[index]) {
            Some(target) => target.replaced().is_some(),
            None => return,
        };
        let Some(partial) = copy.partial() else { return };
        let (target, end) = (job.target().display(), partial.end);
        if replaces {
            // An old target goes only when the new one is complete.
            return job.explain(format!("what was copied is not kept, since it would replace '{target}'"));
        }
        let name = copy.bitmap().map(BusyBitmap::text).unwrap_or_default();
        match copy
            .finish_partial()
            .and_then(|()| self.try_commit(&[index], Some(partial)).map_err(|(_, e)| e))
        {
            Ok(problems) => {
                job.set_partial(end);
                let bitmap = match problems.first() {
                    None => format!("and {name} has the rest"),
                    Some(Problem { error, .. }) => format!("but taking it out of {name} failed ({error})"),
                };
                job.explain(format!(
                    "the partial target '{target}' was kept, up to byte {end} of the disk, {bitmap}"
                ));
            }
            Err(error) => job.explain(format!("what was copied to '{target}' could not be kept ({error})")),
        }
    }

    /// Lets the targets of a group appear and their bitmaps change, all of them or none.
    fn commit(&self, group: &[usize]) {
        match self.try_commit(group, None) {
            Err((index, error)) => self.fail(index, error),
            Ok(problems) => {
                for Problem { jobs, error } in problems {
                    if jobs.is_empty() {
                        lock(&self.run.problem).get_or_insert(error.clone());
                    }
                    jobs.iter().for_each(|index| self.copies[*index].job().fail(error.clone()));
                }
            }
        }
    }

    /// The same; with `partial`, of one target that has only that. Fails if nothing has changed; tells which bitmaps may
    /// not have changed although the targets are there.
    fn try_commit(&self, group: &[usize], partial: Option<Partial>) -> Result<Vec<Problem>, (usize, Error)> {
        let mut targets: Vec<_> =
            group.iter().filter_map(|index| Some((*index, lock(&self.targets[*index]).take()?))).collect();
        let journal = group.first().and_then(|index| lock(self.journal(*index)).take());
        // Committed when its job was done, or failed then.
        let (Some(journal), false) = (journal, targets.is_empty()) else { return Ok(Vec::new()) };
        let staged = self.stage(group, partial);
        targets.extend(self.take_overlays(group));
        match staged {
            Ok(staged) => {
                let problems = Commit { journal, targets, staged }.carry_out()?;
                lock(&self.changes).done();
                Ok(problems)
            }
            Err(failed) => {
                Commit { journal, targets, staged: Vec::new() }.take_back();
                Err(failed)
            }
        }
    }

    /// The files of overlays, which belong to the first job of the only group.
    fn take_overlays(&self, group: &[usize]) -> Vec<(usize, TargetFile)> {
        let files = lock(&self.changes).take_files();
        files.into_iter().map(|file| (group[0], file)).collect()
    }

    /// Stages the bitmaps of a group, those of one disk together, and writes what its other actions make.
    fn stage(
        &self,
        group: &[usize],
        mut partial: Option<Partial>,
    ) -> Result<Vec<StagedDisk>, (usize, Error)> {
        let changes = lock(&self.changes);
        let mut disks: Vec<(&Disk, Vec<usize>, Vec<BitmapChange>)> =
            changes.of_bitmaps().map(|(disk, list)| (disk, Vec::new(), list.to_vec())).collect();
        let with_bitmap = |index: &usize| Some((*index, self.copies[*index].bitmap()?));
        let mut bitmaps: Vec<_> = group.iter().filter_map(with_bitmap).collect();
        // From the back, so that each goes into its place in the list.
        bitmaps.sort_by_key(|(_, bitmap)| Reverse(bitmap.position()));
        for (index, bitmap) in bitmaps {
            let list = match partial.take() {
                Some(Partial { rest, .. }) => bitmap.replace(rest),
                None => bitmap.clear(),
            };
            if let Some(overlay) = changes.overlay_of(bitmap.disk()) {
                // In memory: nobody has seen it yet.
                overlay.disk().change_kept_bitmaps(&list).map_err(|error| (index, error))?;
                continue;
            }
            match disks.iter_mut().find(|(disk, ..)| disk.is_same(bitmap.disk())) {
                Some((_, jobs, all)) => {
                    jobs.push(index);
                    let at = bitmap.position().min(all.len());
                    all.splice(at..at, list);
                }
                None => disks.push((bitmap.disk(), vec![index], list)),
            }
        }
        changes.write_overlays().map_err(|error| (group[0], error))?;
        disks.sort_by_key(|(disk, ..)| disk.staging_order());
        let stage = |(disk, jobs, changes): (&Disk, Vec<usize>, Vec<BitmapChange>)| {
            let bitmap = jobs.first().and_then(|index| self.copies[*index].bitmap());
            let text = bitmap.map_or_else(|| format!("'{}'", disk.path().display()), BusyBitmap::text);
            match disk.stage_kept_bitmaps(&changes) {
                Ok(bitmaps) => Ok(StagedDisk { jobs, bitmaps }),
                Err(error) => {
                    let index = jobs.first().copied().unwrap_or(group[0]);
                    Err((index, error.within(format!("cannot change {text}"))))
                }
            }
        };
        disks.into_iter().map(stage).collect()
    }

    fn journal(&self, index: usize) -> &Mutex<Option<Journal>> {
        match self.completion {
            CompletionMode::Grouped => &self.journals[0],
            CompletionMode::Individual => &self.journals[index],
        }
    }

    fn set_status(&self, index: usize, status: JobStatus) {
        let job: &Job = self.copies[index].job();
        if job.status() != status {
            job.set_status(status);
            self.run.events.push(Some(index), EventKind::StateChanged(status));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic is a defect of ours; its text helps to find it.
fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no text");
    Error::new(ErrorKind::Internal, format!("internal error (please report it): {text}"))
}
