//! How a job moves: which state may follow which, and which verb is heard in which state.
//!
//! These two tables are all there is to know; `board.rs` moves jobs by them and by nothing else. They are those of
//! QEMU's jobs, without the states that no backup comes to (ready, standby).

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// States of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// Not started.
    Created,
    /// Copying.
    Running,
    /// Nothing is read or written until it is resumed.
    Paused,
    /// Its own work is done and durable; it waits for the other jobs of its group.
    Waiting,
    /// All jobs of its group have come that far: what is left is that their targets appear, at once or when
    /// [`Job::finalize`](crate::Job::finalize) says so.
    Pending,
    /// It failed or was cancelled, and its target is being removed, or finished with what it has where that is
    /// to be kept (bitmap mode always).
    Aborting,
    /// It has ended: [`Job::error`](crate::Job::error) says how.
    Concluded,
    /// It has ended and was dismissed.
    Dismissed,
}

/// What can be asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// End, with nothing left behind.
    Cancel,
    /// Stop for a while.
    Pause,
    /// Go on.
    Resume,
    /// Copy so fast at most.
    SetSpeed,
    /// Let the targets of the group appear.
    Finalize,
    /// Be forgotten.
    Dismiss,
}

use JobStatus::{Aborting, Concluded, Created, Dismissed, Paused, Pending, Running, Waiting};
use Verb::{Cancel, Dismiss, Finalize, Pause, Resume, SetSpeed};

/// What may follow on a state. Every other change is a defect.
const FOLLOWS: [(JobStatus, &[JobStatus]); 8] = [
    (Created, &[Running, Aborting]),
    (Running, &[Paused, Waiting, Aborting]),
    (Paused, &[Running]),
    (Waiting, &[Pending, Aborting]),
    (Pending, &[Concluded, Aborting]),
    (Aborting, &[Concluded]),
    (Concluded, &[Dismissed]),
    (Dismissed, &[]),
];

/// In which states a verb is heard. In every other one it is refused.
const HEARD: [(Verb, &[JobStatus]); 6] = [
    (Cancel, &[Created, Running, Paused, Waiting, Pending]),
    (Pause, &[Created, Running, Paused]),
    (Resume, &[Created, Running, Paused]),
    (SetSpeed, &[Created, Running, Paused]),
    (Finalize, &[Pending]),
    (Dismiss, &[Concluded]),
];

fn listed<K: PartialEq>(table: &[(K, &[JobStatus])], key: K, status: JobStatus) -> bool {
    table.iter().any(|(known, list)| *known == key && list.contains(&status))
}

impl JobStatus {
    /// All of them.
    pub const ALL: [JobStatus; 8] =
        [Created, Running, Paused, Waiting, Pending, Aborting, Concluded, Dismissed];

    /// Whether a job of this state may come to that one next.
    pub fn may_become(self, next: JobStatus) -> bool {
        listed(&FOLLOWS, self, next)
    }

    /// Whether a job in this state hears the verb.
    pub fn hears(self, verb: Verb) -> bool {
        listed(&HEARD, verb, self)
    }
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 6] = [Cancel, Pause, Resume, SetSpeed, Finalize, Dismiss];
}

/// Refuses a verb that is not heard; `job` says which job it is.
pub(crate) fn hear(job: &impl fmt::Display, status: JobStatus, verb: Verb) -> Result<()> {
    if status.hears(verb) {
        return Ok(());
    }
    let states: Vec<_> =
        JobStatus::ALL.iter().filter(|state| state.hears(verb)).map(JobStatus::to_string).collect();
    let text = format!(
        "{job} is {status} and cannot be told to {verb}; that is for jobs that are {}",
        states.join(" or ")
    );
    Err(Error::new(ErrorKind::WrongState, text))
}

/// Tells a change that the table does not have.
pub(crate) fn follow(job: &impl fmt::Display, from: JobStatus, to: JobStatus) -> Result<()> {
    if from.may_become(to) {
        return Ok(());
    }
    let text = format!("internal error (please report it): {job} went from {from} to {to}");
    Err(Error::new(ErrorKind::Internal, text))
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Created => "created",
            Running => "running",
            Paused => "paused",
            Waiting => "waiting",
            Pending => "pending",
            Aborting => "aborting",
            Concluded => "concluded",
            Dismissed => "dismissed",
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cancel => "cancel",
            Pause => "pause",
            Resume => "resume",
            SetSpeed => "set its speed",
            Finalize => "finalize",
            Dismiss => "dismiss",
        })
    }
}
