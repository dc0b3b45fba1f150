//! Threads of our own.

use std::num::NonZeroUsize;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    error::{Error, Result},
    memory,
    storage::Thread,
};

/// A pool that no other user of rayon in the process meets, and whose threads have ended when it is dropped:
/// a library that is unloaded must leave no thread behind.
#[derive(Debug)]
pub(crate) struct Pool {
    pool: Option<ThreadPool>,
    threads: Vec<Thread>,
}

impl Pool {
    /// A pool whose threads are called `name`, `most` of them at most; 0 is no limit of the caller's.
    pub(crate) fn new(name: &str, most: u32) -> Result<Pool> {
        let mut threads = Vec::new();
        let builder = ThreadPoolBuilder::new().num_threads(worker_count(most));
        let pool = builder.spawn_handler(|worker| {
            memory::ensure(memory::STACK).map_err(std::io::Error::other)?;
            threads.push(Thread::spawn(name, || worker.run())?);
            Ok(())
        });
        match pool.build() {
            Ok(pool) => {
                let pool = Pool { pool: Some(pool), threads };
                // Their stacks are taken by now.
                memory::ensure(0)?;
                Ok(pool)
            }
            Err(e) => Err(Error::io("cannot start threads", std::io::Error::other(e))),
        }
    }

    /// Runs `work` on every thread of the pool at once, and waits for all.
    pub(crate) fn on_all(&self, work: impl Fn() + Sync) {
        if let Some(pool) = &self.pool {
            pool.broadcast(|_| work());
        }
    }

    /// Runs `work` in the pool, so that its parallel iterators use the pool's threads.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pool = None;
        self.threads.drain(..).for_each(Thread::join);
    }
}

/// More threads than processors, since each also waits for files.
fn worker_count(most: u32) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let own = (processors * 2).clamp(2, 16);
    match usize::try_from(most) {
        Ok(0) | Err(_) => own,
        Ok(most) => own.min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_can_only_lower_the_number_of_threads() {
        let own = worker_count(0);
        assert!((2..=16).contains(&own));
        assert_eq!((worker_count(1), worker_count(2)), (1, 2));
        assert_eq!((worker_count(17), worker_count(u32::MAX)), (own, own));
    }
}
