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
    /// The job met an error, and did this about it. While one waits to be asked for, the job's further ones are not told,
    /// but for that by which it fails.
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

/// A queue of events and a descriptor that tells whether it is empty. Of a job it never holds more than one progress
/// event, one error that is no failure, and one pause with its end, so it stays short however slowly it is read.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Mutex<Queue>,
    fd: EventFd,
    log: Option<Log>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// The last event was told.
    ended: bool,
}

impl EventKind {
    /// Whether the job goes on, and one event of this kind that waits is enough for all.
    fn is_told_once(&self) -> bool {
        match self {
            EventKind::Progress(_) => true,
            EventKind::Error { action, .. } => *action != ErrorAction::Report,
            _ => false,
        }
    }
}

impl Queue {
    fn push(&mut self, event: Event) {
        let alike = |other: &Event| {
            let same_kind = mem::discriminant(&other.kind) == mem::discriminant(&event.kind);
            other.job == event.job && same_kind && other.kind.is_told_once()
        };
        if event.kind.is_told_once() && self.events.iter().any(alike) {
            return;
        }
        if matches!(event.kind, EventKind::StateChanged(JobStatus::Paused)) {
            self.forget_pause(event.job);
        }
        self.events.push_back(event);
    }

    /// A pause that is over, and that nobody has asked about before the next one, is forgotten.
    fn forget_pause(&mut self, job: Option<usize>) {
        let states = self.events.iter().enumerate().rev().filter(|(_, event)| event.job == job);
        let mut states = states.filter_map(|(at, event)| match event.kind {
            EventKind::StateChanged(status) => Some((at, status)),
            _ => None,
        });
        let (last, before) = (states.next(), states.next());
        if let (Some((last, JobStatus::Running)), Some((before, JobStatus::Paused))) = (last, before) {
            self.events.remove(last);
            self.events.remove(before);
        }
    }
}

impl Events {
    pub(crate) fn new(log: Option<Log>) -> Result<Self> {
        let fd = EventFd::new().map_err(|e| Error::io("cannot create an event descriptor", e))?;
        Ok(Events { queue: Mutex::default(), fd, log })
    }

    pub(crate) fn push(&self, job: Option<usize>, kind: EventKind) {
        let mut queue = self.queue();
        if queue.ended {
            return;
        }
        if let Some(log) = &self.log {
            log.note(job, &kind);
        }
        queue.push(Event { job, kind });
        self.fd.raise();
    }

    /// The last event, behind which there are none.
    pub(crate) fn end(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        queue.push(Event { job: None, kind: EventKind::Finished });
        self.fd.raise();
    }

    pub(crate) fn next(&self, jobs: &[Job]) -> Option<Event> {
        let mut queue = self.queue();
        let mut event = queue.events.pop_front();
        if queue.events.is_empty() {
            self.fd.clear();
        }
        if let Some(Event { job: Some(index), kind: EventKind::Progress(progress) }) = &mut event {
            *progress = jobs[*index].progress();
        }
        event
    }

    /// Tells the log that everything has ended: its last line, before those hear of it who wait for the end, and may then
    /// take away what receives it. No lock may be held.
    pub(crate) fn log_end(&self) {
        if let Some(log) = &self.log {
            log.note(None, &EventKind::Finished);
            log.hand_over();
        }
    }

    /// Whether this thread is in what receives the log: it cannot wait for the transaction, which waits for it.
    pub(crate) fn is_telling_here(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_telling_here)
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

    fn queue(&self) -> MutexGuard<'_, Queue> {
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
