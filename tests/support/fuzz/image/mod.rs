//! Whole images: one is read and checked; then a copy of it is changed: its bitmaps, by a guest write, or by a repair.

mod bitmaps;
mod repair;
mod seen;
mod write;

use std::sync::Arc;

use holstein::{Access, storage::MemoryStorage};

use self::seen::{Seen, report};
use super::{IMAGE, open};

/// What lies beside an image, to be its backing file or its data file.
static BESIDE: [u8; 64 << 10] = [0xB5; 64 << 10];

/// A file, and one byte that says which change is made.
pub fn judge(data: &[u8]) {
    let Some((&choice, file)) = data.split_last() else { return };
    let storage = store(file);
    let found = report(&storage);
    let before = open(&storage, Access::Read).ok().map(|disk| Seen::of(&disk));
    assert!(storage.contents(IMAGE).unwrap() == file, "reading changed the image");
    let damaged = found.as_ref().map(|report| report.is_corrupt() || report.check_errors > 0);
    match (choice % 3, &before) {
        (0, Some(before)) => bitmaps::judge(file, choice / 3, before, damaged),
        (1, Some(before)) => write::judge(file, choice / 3, before, damaged),
        (2, _) => repair::judge(file, choice / 3, before.as_ref(), found.as_ref()),
        _ => {}
    }
}

/// The image by itself in a folder, with a file beside it for each name that it can have.
fn store(file: &[u8]) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::new());
    storage.insert(IMAGE, file.to_vec());
    for name in ["base.raw", "data.raw"] {
        storage.insert(format!("/images/{name}"), BESIDE.to_vec());
    }
    storage
}
