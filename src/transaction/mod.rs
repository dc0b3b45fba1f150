//! All or none: backups and other changes of several disks that succeed or fail together.
//!
//! Starting a transaction goes through its list once, changing nothing ([`plan`]), begins a journal, then creates each
//! target under a temporary name. All disks are copied by one pool of threads, in turns. When every target is complete and durable,
//! and every disk's new state too, one record in the journal decides; then the targets get their names and the
//! bitmaps change. What a crash interrupts a recovery finishes, or takes back.

mod action;
mod changes;
mod commit;
mod events;
mod journal;
mod log;
mod overlay;
mod plan;
mod run;

use std::{
    collections::BTreeSet,
    fmt,
    os::fd::BorrowedFd,
    path::{Path, PathBuf, absolute},
    sync::Arc,
    time::Duration,
};

pub use action::{Action, MergeFrom, OverlayOptions};
use changes::Changes;
use events::Events;
pub use events::{Event, EventKind};
use journal::Journal;
use log::Log;
pub use log::LogLevel;
use plan::Plan;
use run::{Leader, Run, Work};

use crate::{
    error::{Error, ErrorKind, Result},
    image::{create::TargetFile, folder_of},
    job::{Backup, Board, Copy, Job, LastStep, LineageCheck, NewFile, Prepared, seats},
    memory,
    recovery::{Recovery, RecoveryItem, RecoveryKind},
    storage::{HostStorage, NewRights, Storage, Thread},
};

/// What the failure of one action means for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompletionMode {
    /// All or none: the first failure or cancel ends all, and nothing has changed.
    #[default]
    Grouped,
    /// Each backup for itself: its target appears when it is done, whatever becomes of the others. All other actions are
    /// done together when the transaction starts, or the start fails.
    Individual,
}

/// A list of actions, not started yet.
#[derive(Debug, Default)]
pub struct Transaction {
    actions: Vec<Action>,
    completion: CompletionMode,
    journal: Option<PathBuf>,
    log: Option<LogSink>,
    thread_limit: u32,
    recovered: Recovery,
}

/// Where the log of a transaction goes.
struct LogSink(log::Sink);

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSink")
    }
}

impl Transaction {
    /// An empty list; all or none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a failure means for the others.
    pub fn set_completion(&mut self, mode: CompletionMode) {
        self.completion = mode;
    }

    /// Sets the folder that the transaction's journal is kept in while it runs; it must exist. The default is that of the
    /// first target, or else of the first disk. [`recover`] finishes there what a crash interrupted.
    pub fn set_journal(&mut self, folder: impl Into<PathBuf>) {
        let folder = folder.into();
        self.journal = Some(absolute(&folder).unwrap_or(folder));
    }

    /// Sets how many threads copy at most; 0, the default: two for each processor, 16 at most. One more leads them.
    pub fn set_thread_limit(&mut self, most: u32) {
        self.thread_limit = most;
    }

    /// Tells what a recovery found that the caller made just now, in the same folder: the start goes by it as by its own.
    pub fn set_recovered(&mut self, recovery: Recovery) {
        self.recovered = recovery;
    }

    /// Lets `sink` receive, from the start on, a line for everything that happens but progress: how much it matters, the
    /// index of the job that it is about, and the text.
    ///
    /// It is called by the transaction's own threads, never by two at once, in the order in which things happen, with no
    /// lock held. It may use jobs and the transaction, but must not wait for its end nor drop it. While it works other
    /// threads go on, and their lines wait.
    pub fn set_log(&mut self, sink: impl Fn(LogLevel, Option<usize>, &str) + Send + Sync + 'static) {
        self.log = Some(LogSink(Box::new(sink)));
    }

    /// Nobody receives the log, as by default.
    pub fn unset_log(&mut self) {
        self.log = None;
    }

    /// Appends an action, a [`Backup`](crate::Backup) for instance. Nothing is checked or changed before the start.
    /// Relative paths of new files start from the folder that the process is in now, wherever it goes later.
    pub fn add(&mut self, action: impl Into<Action>) {
        let action = action.into();
        // The journal has all paths, and goes by the first disk.
        let first = self.actions.iter().find_map(Action::disk).or(action.disk()).cloned();
        self.actions.push(match first {
            Some(first) => action.named_now(&first),
            None => action,
        });
    }

    /// Starts all backups and returns at once; the disks may not be written before the end (they are locked against
    /// QEMU). Without a backup, everything is done when this returns; an empty list succeeds, and nothing is looked at.
    ///
    /// # Errors
    /// Everything that can be known beforehand, in whatever completion mode: then nothing has been changed and
    /// no file is left. When a crash had interrupted another transaction, and its recovery changed bitmaps that this one
    /// goes by, or completed a target that this one would replace, this one is not done: `WrongState`, and
    /// [`Error::recovery`] has what was found. `InvalidArgument`, `Exists`, `NotFound`, `BitmapNotFound`, `BitmapUnusable`,
    /// `Unsupported`, `PolicyDenied`, `WrongState`, `Io`, the errors of [`crate::Disk::open`] for backing files, and
    /// `Cancelled` for [`Action::Abort`].
    pub fn start(self) -> Result<RunningTransaction> {
        let Transaction { actions, completion, journal, log, thread_limit, mut recovered } = self;
        let Some(disk) = actions.iter().find_map(Action::disk).cloned() else {
            Plan::new(actions, completion)?;
            return RunningTransaction::of_nothing(log);
        };
        memory::ensure(memory::STACK)?;
        let storage = disk.image().storage().clone();
        let first = actions.iter().find_map(Action::target).map_or(disk.path(), PathBuf::as_path);
        let folder = journal.unwrap_or_else(|| folder_of(first).to_owned());
        // What a dead transaction left comes first: it may be about these disks. What cannot be recovered now is no
        // reason not to go on.
        let disks: Vec<_> = actions.iter().filter_map(Action::disk).cloned().collect();
        recovered.items.extend(journal::recover(&storage, &folder, &disks).unwrap_or_default().items);
        refuse_if_recovered(&*storage, &actions, &recovered)?;

        let (backups, list) = Plan::new(actions, completion)?.into_parts();
        let names: Vec<_> =
            backups.iter().map(|prepared| TargetFile::temporary_name(&prepared.backup.target)).collect();
        let overlays = changes::temporary_names(&list);
        let grouped = completion == CompletionMode::Grouped && !backups.is_empty();
        let begin = |names: &[PathBuf]| Journal::begin(storage.clone(), &folder, names);
        // Dropped on an error in the order opposite to this: the files before the journals that lead to them.
        let journals = match grouped {
            true => vec![begin(&[&names[..], &overlays].concat())?],
            false => names.chunks(1).map(begin).collect::<Result<_>>()?,
        };
        let create = |(prepared, name): (&Prepared, PathBuf)| {
            let NewFile { path, existing, .. } = prepared.new_file();
            let limit = prepared.backup.source.image().limit()?;
            let rights = limit.map_or(NewRights::PLAIN, NewRights::Within);
            TargetFile::create_as(prepared.storage.clone(), path, name, existing, rights)
        };
        let targets: Vec<_> = backups.iter().zip(names).map(create).collect::<Result<_>>()?;
        // What is decided with the backups, and what is decided before them.
        let (together, alone) = match grouped {
            true => (Changes::begin(list, &overlays)?, None),
            false if list.is_empty() => (Changes::default(), None),
            false => {
                let own = begin(&overlays)?;
                (Changes::default(), Some((Changes::begin(list, &overlays)?, own)))
            }
        };
        let seats = seats(&backups, grouped);
        let log =
            log.map(|LogSink(sink)| Log::new(sink, seats.iter().map(|seat| seat.name.clone()).collect()));
        let events = Arc::new(Events::new(log)?);
        let board = Arc::new(Board::new(seats, events.clone()));
        let files = targets.iter().map(|target| target.file().clone());
        let copy = |(index, (prepared, file))| Copy::new(prepared, file, board.clone(), index);
        let mut copies: Vec<_> =
            backups.into_iter().zip(files).enumerate().map(copy).collect::<Result<_>>()?;
        let jobs = copies.iter().map(|copy| copy.job().clone()).collect();
        let run = Arc::new(Run::new(jobs, board.clone(), events));
        let leader = if copies.is_empty() { None } else { Some(Leader::new()?) };
        // Behind everything that can fail: who hears of an error can rely on it that nothing is done.
        if let Some((changes, own)) = alone {
            if let Err(error) = changes.commit(own) {
                leader.into_iter().for_each(Leader::dismiss);
                return Err(error);
            }
            copies.iter_mut().for_each(Copy::look_anew);
        }
        let Some(leader) = leader else {
            run.end();
            return Ok(RunningTransaction { run, thread: None });
        };
        let thread = leader.lead(Work::new(
            run.clone(),
            copies,
            targets,
            together,
            journals,
            completion,
            thread_limit,
        ));
        Ok(RunningTransaction { run, thread: Some(thread) })
    }

    /// Nobody could tell a job to take its last step while [`Transaction::commit`] waits for that.
    fn refuse_manual_steps(&self) -> Result<()> {
        let manual =
            |backup: &&Backup| [backup.options.finalize, backup.options.dismiss].contains(&LastStep::Manual);
        let mut backups = self.actions.iter().filter_map(|action| match action {
            Action::Backup(backup) => Some(backup),
            _ => None,
        });
        let Some(backup) = backups.find(manual) else { return Ok(()) };
        let text = format!(
            "the backup to '{}' waits to be finalized or dismissed by hand; start the transaction instead of \
             committing it, which waits for the end",
            backup.target.display()
        );
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }

    /// Carries out all actions and waits for the end.
    ///
    /// # Errors
    /// `InvalidArgument` for a backup with [`LastStep::Manual`]; those of [`Transaction::start`]; and the error of the first backup that failed. In grouped mode no
    /// target exists then that did not exist before, and one that was to be overwritten is as it was; except
    /// that the target of a single backup with [`BitmapMode::Always`](crate::BitmapMode::Always) may be kept, which the error tells.
    pub fn commit(self) -> Result<Vec<Job>> {
        self.refuse_manual_steps()?;
        let running = self.start()?;
        match running.wait(None) {
            Some(Err(error)) => Err(error),
            _ => Ok(running.jobs().to_vec()),
        }
    }
}

/// Refuses a list that was made for what was there before a recovery: it can name another backup than the one that its bitmap
/// counts from now, or replace one that has just become complete.
fn refuse_if_recovered(storage: &dyn Storage, actions: &[Action], recovered: &Recovery) -> Result<()> {
    let is = |path: &Path, other: &Path| {
        let id = |path| storage.status(path).ok().map(|status| status.id);
        path == other || id(path).is_some() && id(path) == id(other)
    };
    let goes_by = |path: &Path| {
        let uses = |action: &&Action| match action {
            Action::Backup(backup) => backup.options.bitmap.is_some(),
            Action::Bitmap { .. } | Action::Merge { .. } => true,
            _ => false,
        };
        let mut disks = actions.iter().filter(uses).filter_map(Action::disk);
        disks.any(|disk| is(disk.path(), path))
    };
    // What could not be ended is told each time: there a bitmap that knows its backup decides alone, or nothing could be done
    // before the rest is ended.
    let unfinished: Vec<_> =
        recovered.items.iter().filter(|item| item.kind == RecoveryKind::Unfinished).collect();
    let is_known = |path: &Path, journal: &Path| {
        let known = |action: &Action| match action {
            Action::Backup(backup) => backup.options.bitmap.as_ref().is_none_or(|name| {
                backup.options.lineage == LineageCheck::Strict
                    && backup.options.backing.is_some()
                    && backup.source.bitmap_base(name).is_ok_and(|base| base.is_some())
            }),
            Action::Bitmap { .. } | Action::Merge { .. } => false,
            _ => true,
        };
        let mut about =
            actions.iter().filter(|action| action.disk().is_some_and(|disk| is(disk.path(), path)));
        unfinished.iter().any(|item| item.journal == journal) && about.all(known)
    };
    let replaces = |path: &Path| actions.iter().filter_map(Action::target).any(|target| is(target, path));
    let mut texts = BTreeSet::new();
    for item in &recovered.items {
        let path = item.path.display();
        match item.kind {
            RecoveryKind::BitmapsWereChanged if is_known(&item.path, &item.journal) => {}
            RecoveryKind::BitmapsChanged | RecoveryKind::BitmapsWereChanged if goes_by(&item.path) => {
                texts.insert(format!("the bitmaps of '{path}' count from that backup now"));
            }
            RecoveryKind::BitmapsGivenUp if goes_by(&item.path) => {
                texts.insert(format!("the bitmaps of '{path}' cannot be used any more ({})", item.reason));
            }
            RecoveryKind::TargetPublished | RecoveryKind::TargetWasPublished if replaces(&item.path) => {
                texts.insert(format!("'{path}', which would be replaced, is that backup"));
            }
            _ => {}
        }
    }
    if texts.is_empty() {
        return Ok(());
    }
    let published = |item: &&RecoveryItem| {
        matches!(item.kind, RecoveryKind::TargetPublished | RecoveryKind::TargetWasPublished)
    };
    let complete: BTreeSet<_> =
        recovered.items.iter().filter(published).map(|item| format!("'{}'", item.path.display())).collect();
    let complete: Vec<_> = complete.into_iter().collect();
    let found = match complete.is_empty() {
        true => "a transaction that a crash had interrupted was ended".to_owned(),
        false => format!(
            "a transaction that a crash had interrupted was ended: {} is complete",
            complete.join(" and ")
        ),
    };
    let texts: Vec<_> = texts.into_iter().collect();
    let waits: BTreeSet<_> = unfinished
        .iter()
        .map(|item| format!(". '{}' is not ended yet: {}", item.path.display(), item.reason))
        .collect();
    let text = format!(
        "{found}, and {}{}. Nothing else was done. The next increment stands on what is complete now: look, and start again",
        texts.join(", "),
        waits.into_iter().collect::<String>()
    );
    Err(Error::new(ErrorKind::WrongState, text).with_recovery(recovered.clone()))
}

/// Finishes or takes back every transaction that died, by a crash of the process or of the machine, and has its journal in
/// `folder`: where it was decided the targets get their names and the bitmaps change, where it was not its temporary
/// files go. Transactions that are at work are left alone. Doing it again changes nothing. Each new transaction does
/// the same for its own journal folder.
///
/// # Errors
/// `NotFound` and `Io` when the folder cannot be looked into. What cannot be finished for now, an image that is in use for
/// instance, is told as [`RecoveryKind::Unfinished`], and its journal stays.
pub fn recover(folder: impl AsRef<Path>) -> Result<Recovery> {
    recover_in(&(Arc::new(HostStorage) as Arc<dyn Storage>), folder)
}

/// The same in `storage`.
///
/// # Errors
/// As [`recover`].
pub fn recover_in(storage: &Arc<dyn Storage>, folder: impl AsRef<Path>) -> Result<Recovery> {
    journal::recover(storage, folder.as_ref(), &[])
}

/// A transaction at work. Every method may be called from any thread. Dropping it cancels what still runs,
/// and waits until nothing of it is left; it does not wait for jobs to be dismissed. Dropped by what receives its log it
/// ends by itself, a moment later.
#[derive(Debug)]
pub struct RunningTransaction {
    run: Arc<Run>,
    thread: Option<Thread>,
}

impl RunningTransaction {
    /// That of an empty list, which has ended.
    fn of_nothing(log: Option<LogSink>) -> Result<Self> {
        let log = log.map(|LogSink(sink)| Log::new(sink, Vec::new()));
        let events = Arc::new(Events::new(log)?);
        let board = Arc::new(Board::new(Vec::new(), events.clone()));
        let run = Arc::new(Run::new(Vec::new(), board, events));
        run.end();
        Ok(RunningTransaction { run, thread: None })
    }

    /// Its jobs, one for each backup, in the order of the list.
    pub fn jobs(&self) -> &[Job] {
        self.run.jobs()
    }

    /// The next event, if one waits. Never blocks.
    pub fn next_event(&self) -> Option<Event> {
        self.run.events().next(self.run.jobs())
    }

    /// A descriptor that is readable (for poll) exactly while events wait. It stays this object's: neither
    /// read from it nor close it.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.run.events().as_fd()
    }

    /// Waits for the end, at most for `timeout`; `None` means that it still runs: a job that is paused, that waits to
    /// be finalized, or to be dismissed ([`LastStep::Manual`]) keeps it from ending.
    ///
    /// The result is the error of the backup that failed first, if one did. It can be asked for again.
    /// `WrongState` for what receives the log: the end waits for that.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Result<()>> {
        if self.run.events().is_telling_here() && timeout != Some(Duration::ZERO) {
            let text = "what receives the log of a transaction cannot wait for it";
            return Some(Err(Error::new(ErrorKind::WrongState, text)));
        }
        self.run.wait(timeout)
    }

    /// Asks all jobs for an early end and returns at once. Once targets have begun to appear it is too late, and the
    /// transaction succeeds. Backups with [`BitmapMode::Always`](crate::BitmapMode::Always) keep what they have copied.
    pub fn cancel(&self) {
        self.run.cancel();
    }
}

impl Drop for RunningTransaction {
    fn drop(&mut self) {
        self.cancel();
        self.run.let_go();
        if let Some(thread) = self.thread.take().filter(|_| !self.run.events().is_telling_here()) {
            // Its result is known already; a panic in it became an error.
            thread.join();
        }
    }
}
