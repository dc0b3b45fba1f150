//! A transaction at work: one thread that leads, a pool that copies and ends groups. Who does what the board says.

use std::{
    cmp::Reverse,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    time::{Duration, Instant},
};

use super::{
    CompletionMode, EventKind,
    changes::{Changes, ToStage, in_order},
    commit::{Commit, Problem, Publication, StagedDisk},
    events::Events,
    journal::Journal,
};
use crate::{
    bitmap::BitmapChange,
    disk::{BitmapClaim, Pool},
    error::{Error, ErrorKind, Result},
    format::lineage::Identity,
    image::create::TargetFile,
    job::{Board, Copy, Job, Left, Partial, Permit, Scratch, Step, Verdict},
    storage::Thread,
};

/// What a thread did at one job.
enum Did {
    Something,
    /// Nothing before something changes, or until then.
    Nothing(Option<Instant>),
    /// Nothing, and there will be nothing.
    All,
}

/// What the caller's handle and the leading thread share.
#[derive(Debug)]
pub(crate) struct Run {
    jobs: Vec<Job>,
    board: Arc<Board>,
    events: Arc<Events>,
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
    /// A target's place is empty once it is finished or taken back.
    targets: Vec<Mutex<Option<TargetFile>>>,
    /// What else is decided, in a grouped transaction.
    changes: Mutex<Changes>,
    /// One for each group of jobs.
    journals: Vec<Mutex<Option<Journal>>>,
    completion: CompletionMode,
    /// Most threads that copy; 0: the library's choice.
    thread_limit: u32,
    /// Spreads the threads over the disks.
    next_start: AtomicUsize,
}

/// The thread that leads a transaction, before it has one to lead.
#[derive(Debug)]
pub(crate) struct Leader {
    work: Sender<Work>,
    thread: Thread,
}

impl Leader {
    pub(crate) fn new() -> Result<Self> {
        let (work, given) = mpsc::channel::<Work>();
        let lead = move || given.recv().into_iter().for_each(Work::execute);
        let thread =
            Thread::spawn("holstein-txn", lead).map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Leader { work, thread })
    }

    /// Begins.
    pub(crate) fn lead(self, work: Work) -> Thread {
        // It waits for nothing else, so it is there.
        let _ = self.work.send(work);
        self.thread
    }

    /// There is nothing to lead.
    pub(crate) fn dismiss(self) {
        drop(self.work);
        self.thread.join();
    }
}

impl Run {
    pub(crate) fn new(jobs: Vec<Job>, board: Arc<Board>, events: Arc<Events>) -> Self {
        let (problem, result) = (Mutex::new(None), Mutex::new(None));
        Run { jobs, board, events, problem, result, ended: Condvar::new() }
    }

    /// Everything has ended.
    pub(crate) fn end(&self) {
        self.events.log_end();
        // Both at once: who has seen the event need not wait, and who has waited finds the event.
        let mut result = lock(&self.result);
        *result = Some(self.outcome());
        self.events.end();
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
        self.board.cancel_all();
    }

    /// No handle of the transaction is left: what became of the jobs need not be seen.
    pub(crate) fn let_go(&self) {
        self.board.let_go();
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
        thread_limit: u32,
    ) -> Self {
        let targets = targets.into_iter().map(|target| Mutex::new(Some(target))).collect();
        let journals = journals.into_iter().map(|journal| Mutex::new(Some(journal))).collect();
        let changes = Mutex::new(changes);
        Work {
            run,
            copies,
            targets,
            changes,
            journals,
            completion,
            thread_limit,
            next_start: AtomicUsize::new(0),
        }
    }

    /// The whole life of the transaction; always leaves a result.
    pub(crate) fn execute(self) {
        let run = self.run.clone();
        let done = catch_unwind(AssertUnwindSafe(|| self.copy_all()));
        if let Err(error) = done.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            for index in 0..self.copies.len() {
                self.board().fail(index, error.clone());
            }
        }
        // What the pool has left, where there was none: what failed goes.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            // Whoever waits must hear of it; what is on disk a recovery looks after.
            self.board().fail_rest(&panicked(&*panic));
        }
        drop(self);
        run.events.hand_over_log();
        run.board.wait_dismissed();
        run.end();
    }

    fn copy_all(&self) -> Result<()> {
        let pool = Pool::new("holstein-copy", self.thread_limit)?;
        self.board().start();
        pool.on_all(|| self.work());
        Ok(())
    }

    /// What one thread does: a step of one disk after the other, until all have ended. It sleeps while there is
    /// nothing to do for it.
    fn work(&self) {
        let count = self.copies.len();
        let mut scratch = Scratch::default();
        let mut index = self.next_start.fetch_add(1, Ordering::Relaxed) % count;
        loop {
            let seen = self.board().changes();
            let (mut idle, mut over) = (0, 0);
            let mut until: Option<Instant> = None;
            while idle < count {
                match self.step(index, &mut scratch) {
                    Did::Something => {
                        self.run.events.hand_over_log();
                        (idle, over, until) = (0, 0, None);
                    }
                    Did::Nothing(time) => {
                        idle += 1;
                        until = [until, time].into_iter().flatten().min();
                    }
                    Did::All => (idle, over) = (idle + 1, over + 1),
                }
                index = (index + 1) % count;
            }
            self.run.events.hand_over_log();
            if over == count {
                return;
            }
            self.board().wait(seen, until);
        }
    }

    /// One step of one disk.
    fn step(&self, index: usize, scratch: &mut Scratch) -> Did {
        let copy = &self.copies[index];
        match self.board().begin(index, Instant::now()) {
            Permit::Copy { most } => {
                let step = catch_unwind(AssertUnwindSafe(|| copy.step(scratch, most)));
                let (left, did) = match step.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                    Ok(Step::Copied) => {
                        self.tell_progress(index);
                        (Left::Worked, Did::Something)
                    }
                    Ok(Step::Finished) => {
                        self.tell_progress(index);
                        (Left::Finished, Did::Something)
                    }
                    Ok(Step::Aside) => (Left::Worked, Did::Something),
                    Ok(Step::Later(time)) => (Left::Idle, Did::Nothing(Some(time))),
                    Ok(Step::Exhausted) => (Left::Idle, Did::Nothing(None)),
                    // Stopped because of another thread's failure, which that thread tells.
                    Err(error) if error.kind() == ErrorKind::Cancelled => (Left::Worked, Did::Something),
                    Err(error) => (Left::Failed(error), Did::Something),
                };
                self.board().leave(index, left);
                did
            }
            Permit::EndGroup { group, verdict } => {
                self.end_group(&group, verdict);
                Did::Something
            }
            Permit::Stop => {
                copy.stop();
                Did::Nothing(None)
            }
            Permit::Later(time) => Did::Nothing(time),
            Permit::Over => Did::All,
        }
    }

    /// The end of a group: what succeeded appears, what failed goes.
    fn end_group(&self, group: &[usize], verdict: Verdict) {
        let ended = catch_unwind(AssertUnwindSafe(|| match verdict {
            Verdict::Commit => self.commit(group),
            Verdict::TakeBack => self.take_back(group),
        }));
        if let Err(panic) = ended {
            self.board().fail(group[0], panicked(&*panic));
        }
        self.board().conclude(group);
    }

    fn take_back(&self, group: &[usize]) {
        if let [index] = group {
            self.copies[*index].stop();
            self.keep_partial(*index);
        }
        let mut targets = self.take_targets(group);
        targets.extend(self.take_overlays(group));
        // Only behind them: until they are gone the journal leads to the temporary files.
        if let Some(journal) = lock(self.journal(group[0])).take() {
            Commit::abandon(journal, targets);
        }
    }

    fn board(&self) -> &Board {
        &self.run.board
    }

    fn tell_progress(&self, index: usize) {
        let progress = self.copies[index].job().progress();
        self.run.events.push(Some(index), EventKind::Progress(progress));
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
            return job.explain(&format!("what was copied is not kept, since it would replace '{target}'"));
        }
        let name = copy.bitmap().map(BitmapClaim::text).unwrap_or_default();
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
                job.explain(&format!(
                    "the partial target '{target}' was kept, up to byte {end} of the disk, {bitmap}"
                ));
            }
            Err(error) => job.explain(&format!("what was copied to '{target}' could not be kept ({error})")),
        }
    }

    /// Lets the targets of a group appear and their bitmaps change, all of them or none.
    fn commit(&self, group: &[usize]) {
        match self.try_commit(group, None) {
            Err((index, error)) => self.board().fail(index, error),
            Ok(problems) => {
                for Problem { jobs, error } in problems {
                    if jobs.is_empty() {
                        lock(&self.run.problem).get_or_insert(error.clone());
                    }
                    jobs.iter().for_each(|index| self.board().blame(*index, error.clone()));
                }
            }
        }
    }

    /// The same; with `partial`, of one target that has only that. Fails if nothing has changed; tells which bitmaps may
    /// not have changed although the targets are there.
    fn try_commit(&self, group: &[usize], partial: Option<Partial>) -> Result<Vec<Problem>, (usize, Error)> {
        // Committed when its job was done, or failed then.
        if lock(self.journal(group[0])).is_none() {
            return Ok(Vec::new());
        }
        let staged = self.stage(group, partial);
        let mut targets = self.take_targets(group);
        targets.extend(self.take_overlays(group));
        let Some(journal) = lock(self.journal(group[0])).take() else { return Ok(Vec::new()) };
        let problems = Commit::conclude(journal, targets, staged)?;
        lock(&self.changes).done();
        if problems.is_empty() {
            self.look_for_bases(group);
        }
        Ok(problems)
    }

    /// Tells jobs whose bitmap does not remember which backup it counts from.
    fn look_for_bases(&self, group: &[usize]) {
        for &index in group {
            let (Some(bitmap), Some(identity)) = (self.copies[index].bitmap(), self.identity(index)) else {
                continue;
            };
            if !bitmap.counts_from(identity) {
                let text = format!(
                    "{} does not remember that it counts from this backup: the first sector of its image has no room for that",
                    bitmap.text()
                );
                self.copies[index].job().set_unremembered(text);
            }
        }
    }

    /// The identity of a job's target.
    fn identity(&self, index: usize) -> Option<Identity> {
        self.copies[index].job().lineage().identity
    }

    /// The targets of a group that have not ended.
    fn take_targets(&self, group: &[usize]) -> Vec<Publication> {
        let take = |&job: &usize| {
            let file = lock(&self.targets[job]).take()?;
            let copy = &self.copies[job];
            Some(Publication { job, file, format: copy.format(), covers: None, reads: copy.reads() })
        };
        group.iter().filter_map(take).collect()
    }

    /// The files of overlays, which belong to the first job of the only group.
    fn take_overlays(&self, group: &[usize]) -> Vec<Publication> {
        lock(&self.changes).take_files(group[0])
    }

    /// Stages the changes of a group, those of one disk together, and writes what its other actions make.
    fn stage(
        &self,
        group: &[usize],
        mut partial: Option<Partial>,
    ) -> Result<Vec<StagedDisk>, (usize, Error)> {
        let changes = lock(&self.changes);
        let mut disks: Vec<ToStage<'_>> = changes.to_stage().collect();
        let with_bitmap = |index: &usize| Some((*index, self.copies[*index].bitmap()?));
        let mut bitmaps: Vec<_> = group.iter().filter_map(with_bitmap).collect();
        // From the back, so that each goes into its place in the list.
        bitmaps.sort_by_key(|(_, bitmap)| Reverse(bitmap.position()));
        for (index, bitmap) in bitmaps {
            let list = match partial.take() {
                Some(Partial { rest, .. }) => bitmap.replace(rest, self.identity(index)),
                None => bitmap.clear(self.identity(index)),
            };
            if let Some(overlay) = changes.overlay_of(bitmap.disk()) {
                // In memory: nobody has seen it yet.
                overlay.disk().change_kept(&list, &[]).map_err(|error| (index, error))?;
                continue;
            }
            match disks.iter_mut().find(|to_stage| to_stage.disk.is_same(bitmap.disk())) {
                Some(to_stage) => {
                    to_stage.jobs.push(index);
                    let at = bitmap.position().min(to_stage.bitmaps.len());
                    to_stage.bitmaps.splice(at..at, list);
                }
                None => disks.push(ToStage {
                    disk: bitmap.disk(),
                    jobs: vec![index],
                    bitmaps: list,
                    snapshots: &[],
                }),
            }
        }
        for (disk, name, job) in changes.counting() {
            if let Some(to_stage) = disks.iter_mut().find(|to_stage| to_stage.disk.is_same(disk)) {
                let (name, backup) = (name.to_vec(), self.identity(job));
                to_stage.bitmaps.push(BitmapChange::CountFrom { name, backup });
            }
        }
        changes.write_overlays().map_err(|error| (group[0], error))?;
        let stage = |to_stage: ToStage<'_>| {
            let index = to_stage.jobs.first().copied();
            let bitmap = index.and_then(|index| self.copies[index].bitmap());
            let text =
                bitmap.map_or_else(|| format!("'{}'", to_stage.disk.path().display()), BitmapClaim::text);
            let about = |error: Error| error.within(format!("cannot change {text}"));
            to_stage.stage().map_err(|error| (index.unwrap_or(group[0]), about(error)))
        };
        in_order(disks).into_iter().map(stage).collect()
    }

    fn journal(&self, index: usize) -> &Mutex<Option<Journal>> {
        match self.completion {
            CompletionMode::Grouped => &self.journals[0],
            CompletionMode::Individual => &self.journals[index],
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
