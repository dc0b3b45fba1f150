//! The writes of a repair: what comes before the first one, and one sector that decides.

use crate::{
    error::{ErrorKind, Result},
    format::header::Header,
    image::edit::{HeaderChange, NewHeader, clear_unknown_autoclear},
    storage::{File, Stamp},
};

const SECTOR: usize = 512;

/// An image that is being repaired.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) file: &'a File,
    pub(super) header: &'a Header,
    /// The file as it was before it was looked at.
    stamp: Stamp,
    begun: bool,
    unsynced: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(file: &'a File, header: &'a Header, stamp: Stamp) -> Self {
        Session { file, header, stamp, begun: false, unsynced: false }
    }

    /// Whether anything was written, or is about to be.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// What comes before the first write.
    fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        if !self.file.stamp()?.is_same(&self.stamp) {
            let text = "the image was written while it was checked; nothing was repaired";
            return Err(self.file.error(ErrorKind::Io, text));
        }
        self.begun = true;
        if clear_unknown_autoclear(self.file, self.header)? {
            self.file.sync()?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.begin()?;
        self.unsynced = true;
        self.file.write_all(bytes, offset)
    }

    /// Writes the sectors in which `new` differs from `old`, which lies at `offset`.
    pub(super) fn write_changed(&mut self, old: &[u8], new: &[u8], offset: u64) -> Result<()> {
        let sector = |at: usize| at..(at + SECTOR).min(new.len());
        let mut at = 0;
        while at < new.len() {
            let start = at;
            while at < new.len() && old[sector(at)] != new[sector(at)] {
                at += SECTOR;
            }
            if start < at {
                self.write(&new[start..at.min(new.len())], offset + start as u64)?;
            }
            at += SECTOR;
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            self.file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Refuses a change of the header that cannot be made.
    pub(super) fn rehearse(&self, change: &HeaderChange) -> Result<()> {
        NewHeader::build(self.file, self.header, change).map(drop)
    }

    /// Changes the header, when everything before is durable.
    pub(super) fn publish(&mut self, change: &HeaderChange) -> Result<()> {
        self.begin()?;
        let header = NewHeader::build(self.file, self.header, change)?;
        header.write_outside(self.file)?;
        self.file.sync()?;
        self.unsynced = false;
        header.publish(self.file)
    }
}
