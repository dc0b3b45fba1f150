//! What the board waits with. A test that tries many schedules puts its own in this place.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
