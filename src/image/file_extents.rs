//! Where a file has data and where holes, as far as one walk over an image has asked.

use std::ops::Range;

use crate::{
    error::Result,
    storage::{File, FileExtent},
};

/// The last answers of a file. A table can send many guest clusters to one place, and each question is a system call.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileExtents {
    /// The newest last: the data of a cluster and the hole behind it take turns.
    seen: Vec<(Range<u64>, bool)>,
}

/// So many answers are kept.
const MOST: usize = 2;

impl FileExtents {
    /// Whether there is data or a hole at `offset` of the file, always the same one.
    pub(super) fn at(&mut self, file: &File, offset: u64) -> Result<FileExtent> {
        if let Some((range, hole)) = self.seen.iter().find(|(range, _)| range.contains(&offset)) {
            return Ok(FileExtent { hole: *hole, end: range.end });
        }
        let extent = file.extent_at(offset)?;
        if self.seen.len() == MOST {
            self.seen.remove(0);
        }
        self.seen.push((offset..extent.end, extent.hole));
        Ok(extent)
    }
}
