//! What the board of a transaction's jobs and those who work for it say to each other.

use std::{fmt, time::Instant};

use super::{
    policy::{ErrorAction, ErrorSide},
    states::JobStatus,
};
use crate::error::{Error, ErrorKind};

/// What there is to know of a job beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// Which job it is, for messages.
    pub(crate) name: String,
    /// Jobs of the same number stand and fall together.
    pub(crate) group: usize,
    /// Jobs of the same number copy the same disk.
    pub(crate) disk: usize,
    /// Settling it changes that disk's image, which nobody may read meanwhile.
    pub(crate) changes_disk: bool,
    /// Bytes per second; 0 is without a limit.
    pub(crate) speed: u64,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
}

/// Something that others are told of.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Status(JobStatus),
    Error { side: ErrorSide, action: ErrorAction, error: Error },
    Failed(Error),
    Cancelled,
    Completed,
}

/// Who is told of everything, in the order in which it happens. It is called under the lock.
pub(crate) trait Listener: fmt::Debug + Send + Sync {
    fn told(&self, job: usize, notice: Notice);
}

/// What a thread that asks for work is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    /// One step of copying, of about this many bytes at most; `Board::leave` ends it.
    Copy { most: u64 },
    /// The end of these jobs; `Board::conclude` ends it.
    EndGroup { group: Vec<usize>, verdict: Verdict },
    /// To tell those at work at it that it is of no use any more.
    Stop,
    /// Nothing until something changes, or until then.
    Later(Option<Instant>),
    /// Nothing any more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Commit,
    TakeBack,
}

/// How a step of copying ended.
#[derive(Clone, Debug)]
pub(crate) enum Left {
    /// There was nothing to do.
    Idle,
    Worked,
    /// It was the last one.
    Finished,
    Failed(Error),
}

/// The error of a job that was told to end.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the backup was cancelled")
}
