//! Memory whose size goes with the input or the options is asked for in a way that can be refused: the process of a host must not
//! end because a disk is large.

use std::hint::black_box;

use crate::error::{Error, ErrorKind, Result};

/// What stays free behind every larger piece, for the small ones, which cannot be refused: records of jobs, tables of a target.
const HEADROOM: usize = 2 << 20;
/// What the system usually sets aside for a thread's stack.
pub(crate) const STACK: usize = 8 << 20;
/// Smaller pieces than this take of the headroom.
const LARGE: usize = 64 << 10;

/// `count` default values, zeros for numbers.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn zeroed<T: Clone + Default>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    grow(&mut values, count)?;
    Ok(values)
}

/// Gives `values` this length; new ones are default values, zeros for numbers.
///
/// # Errors
/// `NoMemory`; nothing has changed then.
pub(crate) fn grow<T: Clone + Default>(values: &mut Vec<T>, count: usize) -> Result<()> {
    reserve(values, count.saturating_sub(values.len()))?;
    values.resize(count, T::default());
    Ok(())
}

/// Makes room for `more` values.
///
/// # Errors
/// `NoMemory`; nothing has changed then.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) -> Result<()> {
    if values.capacity() - values.len() >= more {
        return Ok(());
    }
    let bytes = values.len().saturating_add(more).saturating_mul(size_of::<T>());
    if bytes >= LARGE {
        #[cfg(test)]
        refusal::ask(bytes)?;
        ensure(bytes)?;
    }
    values.try_reserve(more).map_err(|_| refused(bytes))
}

/// A copy of `values`.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn copied<T: Clone>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    reserve(&mut copy, values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// All that an iterator gives, which knows how much that is at least.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn collected<T>(values: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut list = Vec::new();
    reserve(&mut list, values.size_hint().0)?;
    for value in values {
        push(&mut list, value)?;
    }
    Ok(list)
}

/// Appends a value.
///
/// # Errors
/// `NoMemory`; nothing has changed then.
pub(crate) fn push<T>(values: &mut Vec<T>, value: T) -> Result<()> {
    reserve(values, 1)?;
    values.push(value);
    Ok(())
}

/// Whether the system would give `bytes` and the headroom now: for what is about to take them in a way that cannot be refused.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn ensure(bytes: usize) -> Result<()> {
    let mut trial = Vec::<u8>::new();
    let result = trial.try_reserve_exact(bytes.saturating_add(HEADROOM)).map_err(|_| refused(bytes));
    // Without this the compiler may leave out an allocation that nobody uses.
    black_box(&trial);
    result
}

fn refused(bytes: usize) -> Error {
    Error::new(ErrorKind::NoMemory, format!("the system has not {bytes} bytes of memory to give"))
}

/// Tests refuse one of the larger pieces that their thread asks for.
#[cfg(test)]
pub(crate) mod refusal {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
        static ASKED: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn ask(bytes: usize) -> super::Result<()> {
        ASKED.set(ASKED.get() + 1);
        let left = LEFT.get();
        LEFT.set(left.wrapping_sub(1));
        if left == 0 { Err(super::refused(bytes)) } else { Ok(()) }
    }

    /// Calls `work`, to which nothing is refused and which does not count.
    pub(crate) fn without<T>(work: impl FnOnce() -> T) -> T {
        let (left, asked) = (LEFT.replace(usize::MAX), ASKED.get());
        let result = work();
        LEFT.set(left);
        ASKED.set(asked);
        result
    }

    /// Calls `work` with each of its larger pieces refused, then with none; returns how many it asks for. Where it fails, then
    /// with `NoMemory`; it may go on without what it can do without.
    pub(crate) fn of_each<T>(mut work: impl FnMut() -> super::Result<T>) -> usize {
        for piece in 0.. {
            ASKED.set(0);
            LEFT.set(piece);
            let result = work();
            LEFT.set(usize::MAX);
            match result {
                Ok(_) if ASKED.get() <= piece => return ASKED.get(),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), super::ErrorKind::NoMemory, "piece {piece}: {error}"),
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let mut values = vec![7u64];
        for more in [usize::MAX / 8, usize::MAX / 32] {
            let error = grow(&mut values, more).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory);
            assert!(error.to_string().contains("bytes of memory"), "{error}");
            assert_eq!(values, [7]);
        }
        grow(&mut values, 3).unwrap();
        assert_eq!(values, [7, 0, 0]);
    }
}
