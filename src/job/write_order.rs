//! Whose turn it is to write: the batches of a copy, one after the other, in guest order.
//!
//! So whatever ends a copy early, what its target holds is the disk up to some offset, and that offset is known
//! here.
//!
//! What cannot go on, because of an error that is to be tried again, is put aside, and no thread waits for the turn of
//! something that is: it puts its own batch aside instead, and is free for other disks. Whatever a thread waits for is
//! so in the hands of another thread, and the first of these waits for nobody. Nothing new begins while something is
//! put aside; it is taken up again in order.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{permit::cancelled, work_item::WorkItem};
use crate::error::{Error, Result};

/// The order of writes of one copy.
#[derive(Debug)]
pub(crate) struct WriteOrder {
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
    /// What waits to be taken up again.
    aside: Vec<WorkItem>,
}

/// What there is to take up.
#[derive(Debug)]
pub(crate) enum Pick {
    /// Something that was put aside.
    Aside(WorkItem),
    /// Nothing until then.
    Later(Instant),
    /// Nothing; something new may begin.
    New,
    /// Nothing, nor may anything begin.
    Stopped,
}

/// Whether a batch had its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Had,
    /// One before it is put aside, so it must be, too.
    NotYet,
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

impl State {
    /// What is not taken up again takes those behind it along.
    fn give_up(&mut self, item: &WorkItem) {
        self.end = self.end.min(item.sequence());
    }
}

impl WriteOrder {
    pub(crate) fn new() -> Self {
        let target = TargetState::Consistent;
        let state = State { next: 0, end: u64::MAX, stopped: false, reached: 0, target, aside: Vec::new() };
        WriteOrder { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets no batch begin any more, and fails those from `end` on that wait for their turn. Those before it still
    /// get theirs.
    pub(crate) fn limit(&self, end: u64) {
        let mut state = self.state();
        state.stopped = true;
        state.end = state.end.min(end);
        for item in std::mem::take(&mut state.aside) {
            state.give_up(&item);
        }
        self.changed.notify_all();
    }

    /// Keeps something until it can go on.
    pub(crate) fn put_aside(&self, item: WorkItem) {
        let mut state = self.state();
        if state.stopped {
            state.give_up(&item);
        } else {
            state.aside.push(item);
        }
        self.changed.notify_all();
    }

    /// What to go on with.
    pub(crate) fn pick(&self, now: Instant) -> Pick {
        let mut state = self.state();
        if state.stopped {
            return Pick::Stopped;
        }
        let first = state.aside.iter().enumerate().min_by_key(|(_, item)| item.sequence());
        match first.map(|(at, item)| (at, item.not_before.filter(|time| *time > now))) {
            None => Pick::New,
            Some((_, Some(time))) => Pick::Later(time),
            Some((at, None)) => Pick::Aside(state.aside.swap_remove(at)),
        }
    }

    /// Runs `write` when all batches before this one have had their turn; the disk is dealt with up to `reaches`
    /// then. After an error it is still this one's turn.
    pub(crate) fn take<E: From<Error>>(
        &self,
        sequence: u64,
        reaches: u64,
        write: impl FnOnce() -> Result<(), E>,
    ) -> Result<Turn, E> {
        let mut state = self.state();
        while state.next != sequence && sequence < state.end {
            if state.aside.iter().any(|item| item.sequence() < sequence) {
                return Ok(Turn::NotYet);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if sequence >= state.end {
            return Err(cancelled().into());
        }
        state.target = TargetState::InDoubt;
        drop(state);
        write()?;
        let mut state = self.state();
        state.target = TargetState::Consistent;
        state.reached = reaches;
        state.next += 1;
        self.changed.notify_all();
        Ok(Turn::Had)
    }

    /// Runs `finish`, behind all turns.
    pub(crate) fn finish<E>(&self, finish: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
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
