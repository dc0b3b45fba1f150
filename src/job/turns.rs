//! Whose turn it is to write: the batches of a copy, one after the other, in guest order.
//!
//! So whatever ends a copy early, what its target holds is the disk up to some offset, and that offset is known
//! here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::copy::cancelled;
use crate::error::Result;

/// The turns of one copy.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The batch whose turn it is.
    next: u64,
    /// Batches from this one on get no turn any more.
    end: u64,
    /// No batch is begun any more.
    stopped: bool,
    /// Bytes of the disk, from its start on, that the turns so far have dealt with.
    reached: u64,
    target: TargetState,
}

/// What a turn leaves of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetState {
    /// Everything that was placed is written.
    Consistent,
    /// A turn is at work, or failed at it: what the target's tables say may not be there.
    InDoubt,
    /// Complete and durable.
    Finished,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let target = TargetState::Consistent;
        let state = State { next: 0, end: u64::MAX, stopped: false, reached: 0, target };
        Turns { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets no batch begin any more, and fails those from `end` on that wait for their turn. Those before it still
    /// get theirs.
    pub(crate) fn limit(&self, end: u64) {
        let mut state = self.state();
        state.stopped = true;
        state.end = state.end.min(end);
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Runs `write` when all batches before this one have had their turn; the disk is dealt with up to `reaches`
    /// then.
    pub(crate) fn take<T>(
        &self,
        sequence: u64,
        reaches: u64,
        write: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state();
        while state.next != sequence && sequence < state.end {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if sequence >= state.end {
            return Err(cancelled());
        }
        state.target = TargetState::InDoubt;
        drop(state);
        let written = write()?;
        let mut state = self.state();
        state.target = TargetState::Consistent;
        state.reached = reaches;
        state.next += 1;
        self.changed.notify_all();
        Ok(written)
    }

    /// Runs `finish`, behind all turns; a second try would not know what the first one did.
    pub(crate) fn finish(&self, finish: impl FnOnce() -> Result<()>) -> Result<()> {
        self.state().target = TargetState::InDoubt;
        finish()?;
        self.state().target = TargetState::Finished;
        Ok(())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state().target == TargetState::Finished
    }

    /// Up to where the target has what was to be copied, if anything of it can be trusted.
    pub(crate) fn reached(&self) -> Option<u64> {
        let state = self.state();
        (state.target != TargetState::InDoubt && state.reached > 0).then_some(state.reached)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
