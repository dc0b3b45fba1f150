//! What others see of a job, and ask of it: its state, how far it is, how it ended.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    board::Board,
    policy::{Decision, ErrorSide},
    states::JobStatus,
};
use crate::{
    error::{Error, Result},
    format::lineage::Identity,
};

/// How far a job is, in bytes of the guest's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes dealt with.
    pub done: u64,
    /// Bytes to deal with.
    pub total: u64,
}

/// What a job has put into its target, in bytes of the guest's disk unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobReport {
    /// Stored as data.
    pub data_bytes: u64,
    /// Read as zero and stored without data.
    pub zero_bytes: u64,
    /// Bytes of the target that were written for the data, compressed or not.
    pub stored_bytes: u64,
    /// Bytes of the data that the target shares with the files of the source ([`Reflink`](crate::Reflink)).
    pub shared_bytes: u64,
    /// Of a job that failed or was cancelled, and whose partial target was kept ([`BitmapMode::Always`]): the
    /// target has what was to be copied up to this offset of the disk.
    ///
    /// [`BitmapMode::Always`]: crate::BitmapMode::Always
    pub partial_end: Option<u64>,
}

/// What a backup descends from, and what is not known about that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobLineage {
    /// The target's own identity; a raw image has none.
    pub identity: Option<Identity>,
    /// That of the backup below it.
    pub parent: Option<Identity>,
    /// What could not be checked or remembered, for people; empty if there is nothing to say.
    pub notes: Vec<String>,
}

/// A handle of a job, valid for as long as one likes. Every method may be called from any thread.
#[derive(Clone, Debug)]
pub struct Job(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    board: Arc<Board>,
    index: usize,
    source: PathBuf,
    target: PathBuf,
    total: u64,
    done: AtomicU64,
    data: AtomicU64,
    zero: AtomicU64,
    stored: AtomicU64,
    shared: AtomicU64,
    partial_end: OnceLock<u64>,
    lineage: JobLineage,
    unremembered: OnceLock<String>,
}

impl Job {
    pub(crate) fn new(
        board: Arc<Board>,
        index: usize,
        source: &Path,
        target: &Path,
        total: u64,
        lineage: JobLineage,
    ) -> Self {
        Job(Arc::new(Shared {
            board,
            index,
            source: source.to_owned(),
            target: target.to_owned(),
            total,
            done: AtomicU64::new(0),
            data: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            partial_end: OnceLock::new(),
            lineage,
            unremembered: OnceLock::new(),
        }))
    }

    /// Its place in the transaction's list, from 0.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The path of the disk that it copies.
    pub fn source(&self) -> &Path {
        &self.0.source
    }

    /// The path of the file that it makes.
    pub fn target(&self) -> &Path {
        &self.0.target
    }

    /// Its state.
    pub fn status(&self) -> JobStatus {
        self.0.board.status(self.0.index)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress { done: self.0.done.load(Ordering::Relaxed).min(self.0.total), total: self.0.total }
    }

    /// Why it failed; `Cancelled` when it was cancelled, or ended because another job of its group did.
    /// `None` while it runs and when it succeeded.
    pub fn error(&self) -> Option<Error> {
        self.0.board.error(self.0.index)
    }

    /// The error for which it paused ([`ErrorPolicy::Stop`] and [`ErrorPolicy::Enospc`]), until it is resumed.
    ///
    /// [`ErrorPolicy::Stop`]: crate::ErrorPolicy::Stop
    /// [`ErrorPolicy::Enospc`]: crate::ErrorPolicy::Enospc
    pub fn stopped_by(&self) -> Option<Error> {
        self.0.board.stopped_by(self.0.index)
    }

    /// What it has put into its target so far.
    pub fn report(&self) -> JobReport {
        JobReport {
            data_bytes: self.0.data.load(Ordering::Relaxed),
            zero_bytes: self.0.zero.load(Ordering::Relaxed),
            stored_bytes: self.0.stored.load(Ordering::Relaxed),
            shared_bytes: self.0.shared.load(Ordering::Relaxed),
            partial_end: self.0.partial_end.get().copied(),
        }
    }

    /// What its target descends from.
    pub fn lineage(&self) -> JobLineage {
        let mut lineage = self.0.lineage.clone();
        lineage.notes.extend(self.0.unremembered.get().cloned());
        lineage
    }

    /// Asks it to begin nothing more, and returns at once; it is [`JobStatus::Paused`] when what was at work is done.
    /// Other jobs go on, but those of its group wait for it in the end.
    ///
    /// # Errors
    /// `WrongState` when it is paused already, and when it has done its work.
    pub fn pause(&self) -> Result<()> {
        self.0.board.pause(self.0.index)
    }

    /// Lets it go on. What it was stopped by is tried again.
    ///
    /// # Errors
    /// `WrongState` when it is not paused.
    pub fn resume(&self) -> Result<()> {
        self.0.board.resume(self.0.index)
    }

    /// Asks it to end without a target, and returns at once. All of its group end with it. With
    /// [`BitmapMode::Always`](crate::BitmapMode::Always) what is copied is kept.
    ///
    /// # Errors
    /// `WrongState` when it has ended, and when its target is about to appear.
    pub fn cancel(&self) -> Result<()> {
        self.0.board.cancel(self.0.index)
    }

    /// Limits how many bytes of data a second it reads from now on; 0 is without a limit.
    ///
    /// # Errors
    /// `WrongState` when it has done its work.
    pub fn set_speed(&self, bytes_per_second: u64) -> Result<()> {
        self.0.board.set_speed(self.0.index, bytes_per_second, Instant::now())
    }

    /// Lets the targets of its group appear ([`LastStep::Manual`](crate::LastStep::Manual)); returns at once.
    ///
    /// # Errors
    /// `WrongState` when it is not [`JobStatus::Pending`].
    pub fn finalize(&self) -> Result<()> {
        self.0.board.finalize(self.0.index)
    }

    /// Says that somebody took note of how it ended. The handle stays valid.
    ///
    /// # Errors
    /// `WrongState` when it is not [`JobStatus::Concluded`].
    pub fn dismiss(&self) -> Result<()> {
        self.0.board.dismiss(self.0.index)
    }

    /// Tells that its target is there with a part of what was to be copied.
    pub(crate) fn set_partial(&self, end: u64) {
        let _ = self.0.partial_end.set(end);
    }

    /// Its bitmap does not remember what it counts from.
    pub(crate) fn set_unremembered(&self, text: String) {
        let _ = self.0.unremembered.set(text);
    }

    /// Puts `text: ` before the error's text.
    pub(crate) fn explain(&self, text: &str) {
        self.0.board.explain(self.0.index, text);
    }

    /// An error was met, and this is done about it.
    pub(crate) fn trouble(&self, side: ErrorSide, decision: Decision, error: &Error) {
        self.0.board.trouble(self.0.index, side, decision, error);
    }

    /// So many bytes are about to be read.
    pub(crate) fn charge(&self, bytes: u64) {
        self.0.board.charge(self.0.index, bytes, Instant::now());
    }

    /// When what was read is paid for by its speed, if it is not.
    pub(crate) fn free_at(&self) -> Option<Instant> {
        self.0.board.free_at(self.0.index, Instant::now())
    }

    pub(crate) fn advance(&self, guest: u64, report: JobReport) {
        self.0.data.fetch_add(report.data_bytes, Ordering::Relaxed);
        self.0.zero.fetch_add(report.zero_bytes, Ordering::Relaxed);
        self.0.stored.fetch_add(report.stored_bytes, Ordering::Relaxed);
        self.0.shared.fetch_add(report.shared_bytes, Ordering::Relaxed);
        self.0.done.fetch_add(guest, Ordering::Relaxed);
    }
}
