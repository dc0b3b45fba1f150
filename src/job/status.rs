//! What others see of a job: its state, how far it is, how it ended.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::error::{Error, ErrorKind};

/// States of a job, in the order that it goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// Not started.
    Created,
    /// Copying.
    Running,
    /// Its own work is done and durable; it waits for the other jobs of its group.
    Waiting,
    /// It failed or was cancelled, and its target is being removed, or finished with what it has where that is
    /// to be kept (bitmap mode always).
    Aborting,
    /// It has ended: [`Job::error`] says how.
    Concluded,
}

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
    /// Bytes of the target that the data takes, compressed or not.
    pub stored_bytes: u64,
    /// Of a job that failed or was cancelled, and whose partial target was kept ([`BitmapMode::Always`]): the
    /// target has what was to be copied up to this offset of the disk.
    ///
    /// [`BitmapMode::Always`]: crate::BitmapMode::Always
    pub partial_end: Option<u64>,
}

/// A handle of a job, valid for as long as one likes. Every method may be called from any thread.
#[derive(Clone, Debug)]
pub struct Job(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    index: usize,
    source: PathBuf,
    target: PathBuf,
    total: u64,
    done: AtomicU64,
    data: AtomicU64,
    zero: AtomicU64,
    stored: AtomicU64,
    cancelled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: JobStatus,
    error: Option<Error>,
    partial_end: Option<u64>,
}

impl Job {
    pub(crate) fn new(index: usize, source: &Path, target: &Path, total: u64) -> Self {
        Job(Arc::new(Shared {
            index,
            source: source.to_owned(),
            target: target.to_owned(),
            total,
            done: AtomicU64::new(0),
            data: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            state: Mutex::new(State { status: JobStatus::Created, error: None, partial_end: None }),
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
        self.state().status
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress { done: self.0.done.load(Ordering::Relaxed).min(self.0.total), total: self.0.total }
    }

    /// Why it failed; `Cancelled` when it was cancelled, or ended because another job of its group did.
    /// `None` while it runs and when it succeeded.
    pub fn error(&self) -> Option<Error> {
        self.state().error.clone()
    }

    /// What it has put into its target so far.
    pub fn report(&self) -> JobReport {
        JobReport {
            data_bytes: self.0.data.load(Ordering::Relaxed),
            zero_bytes: self.0.zero.load(Ordering::Relaxed),
            stored_bytes: self.0.stored.load(Ordering::Relaxed),
            partial_end: self.state().partial_end,
        }
    }

    /// Asks it to end as soon as possible.
    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_status(&self, status: JobStatus) {
        self.state().status = status;
    }

    /// Remembers why it fails, unless there is a reason already; a failure of its own replaces having been
    /// cancelled.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state();
        match &state.error {
            Some(first) if first.kind() != ErrorKind::Cancelled => {}
            _ => state.error = Some(error),
        }
    }

    /// Puts `text: ` before the error's text.
    pub(crate) fn explain(&self, text: String) {
        let mut state = self.state();
        state.error = state.error.take().map(|error| error.within(text));
    }

    /// Tells that its target is there with a part of what was to be copied.
    pub(crate) fn set_partial(&self, end: u64) {
        self.state().partial_end = Some(end);
    }

    pub(crate) fn advance(&self, guest: u64, report: JobReport) {
        self.0.data.fetch_add(report.data_bytes, Ordering::Relaxed);
        self.0.zero.fetch_add(report.zero_bytes, Ordering::Relaxed);
        self.0.stored.fetch_add(report.stored_bytes, Ordering::Relaxed);
        self.0.done.fetch_add(guest, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
