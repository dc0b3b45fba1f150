//! Reading a file without leaving more of it in the page cache than was there.
//!
//! A file is looked at in windows. Before something is read in one, it is noted which of its pages are not in the cache; when
//! enough others have been read since, those pages are dropped again. Windows behind the one that is read are noted along
//! with it, because the kernel reads ahead. What is noted once counts until the end, wherever the reads go.

use std::{
    collections::{HashMap, VecDeque},
    fs, mem,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::sys;

/// What is done about the page cache, in which a copy would take the place of what others use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageCache {
    /// What the copy alone has brought into it is dropped again, of the files that it reads and of its target. What was there
    /// before stays. Linux tells what is there to the owner of a file, to those who may write it, and to root; of other files
    /// nothing is dropped.
    #[default]
    Drop,
    /// It is left to the kernel.
    Keep,
}

/// A multiple of every page's size, which is looked at and dropped at once.
const WINDOW: u64 = 8 << 20;

/// So many windows behind the one that is read are noted along with it: more than a kernel reads ahead that is told to read 8 MiB
/// ahead, which it begins with 8 MiB still to go.
const AHEAD: u64 = 3;

/// So many windows are left in the cache.
const OPEN: usize = 8;

/// The windows of one file.
#[derive(Debug, Default)]
pub(super) struct Windows(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// For each window that is noted, byte ranges of the file that were not in the cache then.
    absent: HashMap<u64, Arc<[Range<u64>]>>,
    /// What is read, the last one at the end.
    open: VecDeque<u64>,
}

impl Windows {
    /// Something is about to be read.
    pub(super) fn enter(&self, file: &fs::File, offset: u64, length: u64) {
        let (first, last) = (offset / WINDOW, offset.saturating_add(length.saturating_sub(1)) / WINDOW);
        let mut state = self.lock();
        for number in first..=last.saturating_add(AHEAD) {
            // What cannot be told counts as having been there.
            state.absent.entry(number).or_insert_with(|| {
                sys::absent(file, number.saturating_mul(WINDOW), WINDOW).unwrap_or_default().into()
            });
        }
        let mut left = Vec::new();
        for number in first..=last {
            if let Some(at) = state.open.iter().position(|open| *open == number) {
                state.open.remove(at);
            }
            state.open.push_back(number);
            if state.open.len() > OPEN {
                left.extend(state.open.pop_front().and_then(|number| state.absent.get(&number).cloned()));
            }
        }
        drop(state);
        left.iter().for_each(|absent| forget(file, absent));
    }

    /// Nothing is going to be read for now.
    pub(super) fn leave(&self, file: &fs::File) {
        // Also what was read ahead of them, or came too late for the drop before.
        let state = mem::take(&mut *self.lock());
        state.absent.values().for_each(|absent| forget(file, absent));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget(file: &fs::File, absent: &[Range<u64>]) {
    absent.iter().for_each(|range| sys::drop_cached(file, range.start, range.end - range.start));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;

    /// A file of 40 MiB on disk, of which nothing is cached but one range.
    fn file(folder: &tempfile::TempDir, cached: Range<u64>) -> fs::File {
        let path = folder.path().join("f");
        fs::write(&path, vec![7; 40 << 20]).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        sys::drop_cached(&file, 0, 40 * MIB);
        // Without reading ahead.
        let mut buffer = vec![0; (cached.end - cached.start) as usize];
        file.read_exact_at(&mut buffer, cached.start).unwrap();
        let behind = 40 * MIB - cached.end;
        sys::drop_cached(&file, cached.end, behind);
        file
    }

    #[test]
    fn what_was_cached_stays_and_what_was_not_goes() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = file(&folder, 5 * MIB..7 * MIB);
        let absent = || {
            let mut all: Vec<Range<u64>> = Vec::new();
            for number in 0..5 {
                for range in sys::absent(&file, number * WINDOW, WINDOW).unwrap() {
                    match all.last_mut() {
                        Some(last) if last.end == range.start => last.end = range.end,
                        _ => all.push(range),
                    }
                }
            }
            all
        };
        let before = absent();
        assert_eq!(before, [0..5 * MIB, 7 * MIB..40 * MIB]);
        let windows = Windows::default();
        let mut buffer = vec![0; MIB as usize];
        // Forwards, and once more from the end.
        for number in (0..40).chain((0..40).rev()) {
            windows.enter(&file, number * MIB, MIB);
            file.read_exact_at(&mut buffer, number * MIB).unwrap();
            assert!(windows.lock().open.len() <= OPEN);
        }
        assert_ne!(absent(), before, "the last ones are dropped in the end");
        windows.leave(&file);
        assert_eq!(absent(), before);
    }
}
