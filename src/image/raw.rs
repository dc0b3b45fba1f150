//! The raw format: the file is the disk.

use super::{Mapping, file_extents::FileExtents};
use crate::{error::Result, storage::File};

/// A raw image, open for reading.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    length: u64,
}

impl Raw {
    pub(crate) fn open(file: File) -> Result<Self> {
        let length = file.len()?;
        Ok(Raw { file, length })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Disks consist of whole sectors of 512 bytes; a last one that the file cuts short ends in zeros.
    pub(crate) fn size(&self) -> u64 {
        self.length.next_multiple_of(512)
    }

    pub(crate) fn map_at(
        &self,
        offset: u64,
        length: u64,
        extents: &mut FileExtents,
    ) -> Result<(Mapping, u64)> {
        if offset >= self.length {
            return Ok((Mapping::Zero { host: Some(offset) }, length));
        }
        let extent = extents.at(&self.file, offset)?;
        let end = extent.end.min(self.length).min(offset + length);
        let mapping = match extent.hole {
            true => Mapping::Zero { host: Some(offset) },
            false => Mapping::Data { host: offset, hole: false },
        };
        Ok((mapping, end.max(offset + 1) - offset))
    }
}
