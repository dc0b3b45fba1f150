//! The times that a file system gives its files, apart from their bytes.

/// A tick that somebody waits for is shorter.
const PATIENCE: u64 = 1_000_000;

/// How the clock of a file system goes: in units of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The times of files move on only every so many operations; nobody waits for one of a million.
    pub tick: u64,
    /// They are so far behind: those of a server whose clock is behind that of its users.
    pub lag: u64,
}

impl Clock {
    /// The time that an operation gives a file.
    pub(super) fn stamp(self, now: u64) -> u64 {
        self.begin(now.saturating_sub(self.lag))
    }

    /// When the tick began that a moment lies in.
    pub(super) fn begin(self, now: u64) -> u64 {
        now - now % self.tick.max(1)
    }

    /// When the next one begins; none if nobody waits so long.
    pub(super) fn next(self, now: u64) -> Option<u64> {
        (self.tick < PATIENCE).then(|| self.begin(now) + self.tick.max(1))
    }
}

/// Each operation has a time of its own.
impl Default for Clock {
    fn default() -> Self {
        Clock { tick: 1, lag: 0 }
    }
}

/// The times of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Times {
    /// Of the last change of its bytes, its length or its names.
    pub(super) changed: u64,
    /// Of the last change of its bytes or its length.
    pub(super) written: u64,
}
