//! Encoders for all threads of a copy, in bounded memory: a strong compression of large clusters takes tens of
//! megabytes for each encoder.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::{
    error::Result,
    format::{compressed::Encoder, header::CompressionType},
};

/// All encoders of a copy together take about this much at most, unless a single one takes more.
const MEMORY: usize = 40 << 20;

/// Lends encoders of one kind.
#[derive(Debug)]
pub(crate) struct Encoders {
    kind: CompressionType,
    level: u32,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    idle: Vec<Encoder>,
    lent: usize,
    /// How many there may be; one until it is known how large one is.
    limit: usize,
}

impl Encoders {
    pub(crate) fn new(kind: CompressionType, level: u32) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), lent: 0, limit: 1 });
        Encoders { kind, level, state, returned: Condvar::new() }
    }

    /// Runs `work` with an encoder, after waiting for one if need be.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Encoder) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.lent >= state.limit {
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lent += 1;
        let idle = state.idle.pop();
        drop(state);

        let mut lent = Lent { pool: self, encoder: idle };
        let encoder = match lent.encoder.take() {
            Some(encoder) => encoder,
            None => Encoder::new(self.kind, self.level)?,
        };
        work(lent.encoder.insert(encoder))
    }
}

/// Gives the encoder back, also when the work panics.
struct Lent<'a> {
    pool: &'a Encoders,
    encoder: Option<Encoder>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent -= 1;
        if let Some(encoder) = self.encoder.take() {
            state.limit = (MEMORY / encoder.memory()).max(1);
            state.idle.push(encoder);
        }
        drop(state);
        self.pool.returned.notify_all();
    }
}
