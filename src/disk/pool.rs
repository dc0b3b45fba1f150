//! Threads of our own.

use std::num::NonZeroUsize;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    error::{Error, Result},
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
    /// A pool whose threads are called `name`.
    pub(crate) fn new(name: &str) -> Result<Pool> {
        let mut threads = Vec::new();
        let builder = ThreadPoolBuilder::new().num_threads(worker_count());
        let pool = builder.spawn_handler(|worker| {
            threads.push(Thread::spawn(name, || worker.run())?);
            Ok(())
        });
        match pool.build() {
            Ok(pool) => Ok(Pool { pool: Some(pool), threads }),
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
fn worker_count() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (processors * 2).clamp(2, 16)
}
