//! What happens, as lines for people. Lines wait in a queue until a thread of the transaction hands them over, outside
//! of every lock, one after the other.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::EventKind;
use crate::job::ErrorAction;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be, or was asked to end early.
    Warning,
    /// Everything else.
    Info,
}

/// Receives lines: how much each matters, the index of the job that it is about, and the text.
pub(crate) type Sink = Box<dyn Fn(LogLevel, Option<usize>, &str) + Send + Sync>;

thread_local! {
    /// The log, by its address, whose receiver is at work in this thread; 0 if none is.
    static TELLING: Cell<usize> = const { Cell::new(0) };
}

/// Lines on their way to whoever asked for them.
pub(crate) struct Log {
    sink: Sink,
    /// What each job is called.
    names: Vec<String>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<(LogLevel, Option<usize>, String)>,
    /// A thread hands lines over. The others leave theirs to it, so that all come in order.
    handing_over: bool,
}

impl Log {
    pub(crate) fn new(sink: Sink, names: Vec<String>) -> Self {
        Log { sink, names, queue: Mutex::default() }
    }

    /// Notes something that happened. Progress makes no line.
    pub(crate) fn note(&self, job: Option<usize>, kind: &EventKind) {
        let name = job.and_then(|index| self.names.get(index)).map_or("the transaction", |name| name);
        let (level, text) = match kind {
            EventKind::Progress(_) => return,
            EventKind::StateChanged(status) => (LogLevel::Info, format!("{name} is {status}")),
            EventKind::Error { side, action, error } => {
                let level = if *action == ErrorAction::Report { LogLevel::Error } else { LogLevel::Warning };
                (level, format!("{name} met an error of its {side} ({action}): {error}"))
            }
            EventKind::Failed(error) => (LogLevel::Error, format!("{name} failed: {error}")),
            EventKind::Cancelled => (LogLevel::Warning, format!("{name} was cancelled")),
            EventKind::Completed => (LogLevel::Info, format!("{name} is complete")),
            EventKind::Finished => (LogLevel::Info, format!("{name} has ended")),
        };
        self.queue().lines.push_back((level, job, text));
    }

    /// Hands over what waits, unless another thread does already. No lock may be held.
    pub(crate) fn hand_over(&self) {
        let mut queue = self.queue();
        if queue.handing_over {
            return;
        }
        while let Some((level, job, text)) = queue.lines.pop_front() {
            queue.handing_over = true;
            drop(queue);
            let outer = TELLING.replace(self.address());
            // A line that cannot be told is no reason to fail.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.sink)(level, job, &text)));
            TELLING.set(outer);
            queue = self.queue();
            queue.handing_over = false;
        }
    }

    /// Whether the receiver is what this thread is at.
    pub(crate) fn is_telling_here(&self) -> bool {
        TELLING.get() == self.address()
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
