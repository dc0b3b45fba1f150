//! What happens, in order, for those who wait for it.

use std::{
    collections::VecDeque,
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    error::{Error, Result},
    job::{Job, JobStatus, Progress},
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
/// event a job, so it stays short however slowly it is read.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Mutex<VecDeque<Event>>,
    fd: EventFd,
}

impl Events {
    pub(crate) fn new() -> Result<Self> {
        let fd = EventFd::new().map_err(|e| Error::io("cannot create an event descriptor", e))?;
        Ok(Events { queue: Mutex::default(), fd })
    }

    pub(crate) fn push(&self, job: Option<usize>, kind: EventKind) {
        let mut queue = self.queue();
        if let EventKind::Progress(_) = kind
            && queue.iter().any(|e| e.job == job && matches!(e.kind, EventKind::Progress(_)))
        {
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

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
