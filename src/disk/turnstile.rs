//! Lets those through one at a time who want the image of a disk for themselves, in the order in which they came: the
//! standard library's locks promise no order, and threads that write all the time would keep others out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Turnstile {
    tickets: Mutex<Tickets>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    next: u64,
    passing: u64,
}

/// Held by the one who passes.
#[derive(Debug)]
pub(super) struct Passing<'a>(&'a Turnstile);

impl Turnstile {
    /// Waits for all who came before.
    pub(super) fn pass(&self) -> Passing<'_> {
        let mut tickets = self.tickets();
        let mine = tickets.next;
        tickets.next += 1;
        while tickets.passing != mine {
            tickets = self.moved.wait(tickets).unwrap_or_else(PoisonError::into_inner);
        }
        Passing(self)
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.tickets().passing += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn those_who_wait_pass_in_their_order() {
        let (turnstile, order) = (Turnstile::default(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            let first = turnstile.pass();
            for number in 0..8 {
                let (turnstile, order) = (&turnstile, &order);
                scope.spawn(move || {
                    let _passing = turnstile.pass();
                    order.lock().unwrap().push(number);
                });
                while turnstile.tickets().next < number + 2 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), (0..8).collect::<Vec<_>>());
    }
}
