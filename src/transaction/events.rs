//! What happens, in order, for those who wait for it.

use std::{
    collections::VecDeque,
    mem,
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::log::Log;
use crate::{
    error::{Error, Result},
    job::{ErrorAction, ErrorSide, Job, JobStatus, Listener, Notice, Progress},
    storage::EventFd,
};

/// Something that happened in a running transaction.
#[derive(Clone, Debug)]
pub struct Event {
    /// The job it happened to; `None` for the transaction as a whole.
    pub job: Option<usize>,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The job has a new state.
    StateChanged(JobStatus),
    /// The job got on. Told once for all that happened since it was last asked for.
    Progress(Progress),
    /// The job met an error, and did this about it. While one that was ignored waits to be asked for, the job's further
    /// ones are not told.
    Error {
        /// Where the error came from.
        side: ErrorSide,
        /// What the job does.
        action: ErrorAction,
        /// The error.
        error: Error,
    },
    /// The job failed.
    Failed(Error),
    /// The job was cancelled, or ended because another one of its group did.
    Cancelled,
    /// The job succeeded: its target is complete and durable.
    Completed,
    /// Everything has ended; the last event.
    Finished,
}

/// A queue of events and a descriptor that tells whether it is empty. It never holds more than one progress
/// event a job, nor more than one ignored error, so it stays short however slowly it is read.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Mutex<VecDeque<Event>>,
    fd: EventFd,
    log: Option<Log>,
}

impl Events {
    pub(crate) fn new(log: Option<Log>) -> Result<Self> {
        let fd = EventFd::new().map_err(|e| Error::io("cannot create an event descriptor", e))?;
        Ok(Events { queue: Mutex::default(), fd, log })
    }

    pub(crate) fn push(&self, job: Option<usize>, kind: EventKind) {
        let mut queue = self.queue();
        if let Some(log) = &self.log {
            log.note(job, &kind);
        }
        let told_once = |kind: &EventKind| {
            let ignored = matches!(kind, EventKind::Error { action: ErrorAction::Ignore, .. });
            ignored || matches!(kind, EventKind::Progress(_))
        };
        let alike =
            |event: &Event| event.job == job && mem::discriminant(&event.kind) == mem::discriminant(&kind);
        if told_once(&kind) && queue.iter().any(alike) {
            return;
        }
        queue.push_back(Event { job, kind });
        self.fd.raise();
    }

    pub(crate) fn next(&self, jobs: &[Job]) -> Option<Event> {
        let mut queue = self.queue();
        let mut event = queue.pop_front();
        if queue.is_empty() {
            self.fd.clear();
        }
        if let Some(Event { job: Some(index), kind: EventKind::Progress(progress) }) = &mut event {
            *progress = jobs[*index].progress();
        }
        event
    }

    /// Hands over what the log has to tell. No lock may be held.
    pub(crate) fn hand_over_log(&self) {
        if let Some(log) = &self.log {
            log.hand_over();
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Events {
    fn told(&self, job: usize, notice: Notice) {
        let kind = match notice {
            Notice::Status(status) => EventKind::StateChanged(status),
            Notice::Error { side, action, error } => EventKind::Error { side, action, error },
            Notice::Failed(error) => EventKind::Failed(error),
            Notice::Cancelled => EventKind::Cancelled,
            Notice::Completed => EventKind::Completed,
        };
        self.push(Some(job), kind);
    }
}
