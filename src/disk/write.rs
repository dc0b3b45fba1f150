//! Guest writes: bitmaps first, then the data.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLockReadGuard, RwLockWriteGuard, atomic::Ordering},
};

use super::Disk;
use crate::{
    bitmap::{self, Recorder},
    error::{Error, ErrorKind, Result},
    image::{Access, Image, Qcow2, Writer, edit},
};

/// What a disk keeps while it is written. It is about the image as it was parsed last.
#[derive(Debug)]
pub(super) struct Writing {
    writer: Writer,
    recorder: Recorder,
}

/// Keeps a disk as it is: guest writes and a change of its size are refused until this is dropped.
#[derive(Debug)]
pub(crate) struct Pinned(Disk);

impl Disk {
    /// Writes `buf` at byte `offset`. Every bitmap that records has the range, durably, before the data is
    /// written; so no crash makes a bitmap inconsistent. The data itself is durable after [`Disk::flush`]. An image that is a
    /// backup loses its [identity](Disk::identity) before that, durably. The disk must have been opened with [`Access::Write`] and all of its chain. Blocks; other calls wait for it.
    ///
    /// # Errors
    /// `InvalidArgument` when the range does not lie in the disk; `WrongState` for a disk that was opened for
    /// reading or without its backing files, or that a running backup reads; `Unsupported` for raw images;
    /// `Corrupt` for an image that cannot be trusted to say which clusters are free; `Io`, `NoSpace`. The range
    /// then holds old or new data, in any mixture, everything else what it held, and bitmaps may have the range.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        self.write(offset..end, |writer, image| writer.write(image, buf, offset))
    }

    /// Makes a range of bytes read as zero, without storing zeros where that is possible. Otherwise as
    /// [`Disk::write_at`].
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    pub fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.write(range.clone(), |writer, image| writer.zero(image, range))
    }

    /// Gives up what a range of bytes holds: the clusters that it covers whole read as zero then, and their space
    /// is free for others. Where that is not possible (an image of version 2 over a backing file, a raw data
    /// file) the range stays as it is. Otherwise as [`Disk::write_at`].
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write(range.clone(), |writer, image| writer.discard(image, range))
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// `Io` and `NoSpace`. After a failed sync nobody knows what is durable, and every further write and flush is
    /// refused; the disk must be opened anew.
    pub fn flush(&self) -> Result<()> {
        let image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        let mut writing = self.writing();
        match &mut *writing {
            Some(Writing { writer, .. }) => writer.flush(&image),
            None => image.qcow2().map_or(Ok(()), Qcow2::ensure_known),
        }
    }

    /// Makes everything durable that was written, and closes the disk if this is its last handle. Dropping the
    /// last handle does the same, and cannot say whether it succeeded.
    ///
    /// # Errors
    /// As [`Disk::flush`].
    pub fn close(self) -> Result<()> {
        self.end_writing()?;
        self.flush()
    }

    fn write(
        &self,
        range: Range<u64>,
        operation: impl FnOnce(&mut Writer, &Image) -> Result<()>,
    ) -> Result<()> {
        let mut image = self.image_to_write()?;
        let length = range
            .end
            .checked_sub(range.start)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the range ends before it begins"))?;
        image.check_range(length, range.start)?;
        if length == 0 {
            return Ok(());
        }
        let mut writing = self.writing();
        let Writing { writer, recorder } = match &mut *writing {
            Some(writing) => writing,
            None => writing.insert(begin(&mut image)?),
        };
        recorder.record(top(&image)?, writer, &range)?;
        operation(writer, &image)
    }

    /// The image, which nobody reads meanwhile, if its guest data may be changed.
    pub(super) fn image_to_write(&self) -> Result<RwLockWriteGuard<'_, Arc<Image>>> {
        if self.0.options.access != Access::Write {
            return Err(self.wrong_state("was opened for reading; it cannot be written"));
        }
        let _passing = self.0.turnstile.pass();
        let image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        self.refuse_covered()?;
        self.refuse_pinned()?;
        top(&image)?.ensure_known()?;
        Ok(image)
    }

    /// Refuses to change what a backup reads. Whoever asks holds the image.
    pub(super) fn refuse_pinned(&self) -> Result<()> {
        if self.0.pins.load(Ordering::Acquire) > 0 {
            return Err(
                self.wrong_state("is read by a running backup; it can be changed when that has ended")
            );
        }
        Ok(())
    }

    fn wrong_state(&self, text: &str) -> Error {
        Error::new(ErrorKind::WrongState, format!("'{}' {text}", self.path().display()))
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Option<Writing>> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends writing for now: what was written is durable, and the image is parsed anew, as those need it who look at
    /// its metadata.
    pub(super) fn end_writing(&self) -> Result<()> {
        if self.0.options.access != Access::Write {
            return Ok(());
        }
        self.end_writing_locked(&mut self.0.image.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The image as its file has it.
    pub(crate) fn image_at_rest(&self) -> Result<Arc<Image>> {
        Ok(self.at_rest()?.clone())
    }

    /// The image as it is on disk, which nobody changes meanwhile: for those who look at its metadata.
    pub(super) fn at_rest(&self) -> Result<RwLockReadGuard<'_, Arc<Image>>> {
        if self.0.options.access != Access::Write {
            return Ok(self.0.image.read().unwrap_or_else(PoisonError::into_inner));
        }
        // However many write all the time, nobody does from here on until this has the image.
        let _passing = self.0.turnstile.pass();
        self.end_writing()?;
        Ok(self.0.image.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn end_writing_locked(&self, image: &mut Arc<Image>) -> Result<()> {
        let mut writing = self.writing();
        let Some(active) = &mut *writing else { return Ok(()) };
        active.writer.flush(image)?;
        if let Some(Writing { writer, .. }) = writing.take() {
            writer.end();
        }
        read_anew(image)
    }

    /// Keeps the disk as it is by now.
    pub(crate) fn pin(&self) -> Result<Pinned> {
        // Whoever writes holds the image and looks at the pins before.
        let mut image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        self.end_writing_locked(&mut image)?;
        Ok(self.pin_locked())
    }

    /// The same for who holds the image, which nobody writes.
    pub(super) fn pin_locked(&self) -> Pinned {
        if self.0.pins.fetch_add(1, Ordering::AcqRel) == 0 {
            // Whoever read at the old places has ended.
            self.0.tables_moved.store(false, Ordering::Release);
        }
        Pinned(self.clone())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Begins to write. All that speaks against it comes before anything is changed.
fn begin(image: &mut Arc<Image>) -> Result<Writing> {
    let mut writer = Writer::begin(image)?;
    if settle_lineage(image)? {
        writer = Writer::begin(image)?;
    }
    match bitmap::give_up_untrusted(top(image)?) {
        Ok(false) => {}
        made => {
            let read = read_anew(image);
            made.and(read)?;
            writer = Writer::begin(image)?;
        }
    }
    Ok(Writing { writer, recorder: Recorder::begin(top(image)?)? })
}

/// The disk is about to be changed: an image that is a backup is none from now on, durably. False if it is none.
pub(super) fn settle_lineage(image: &mut Arc<Image>) -> Result<bool> {
    match edit::settle_lineage(top(image)?.file(), top(image)?.header()) {
        Ok(false) => Ok(false),
        made => {
            let read = read_anew(image);
            made.and(read).map(|()| true)
        }
    }
}

/// What the last handle leaves.
pub(super) fn finish(image: &Image, writing: &Mutex<Option<Writing>>) {
    if let Some(Writing { writer, .. }) = writing.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nobody is left to hear of a failure; who wants to know calls flush or close.
        let _ = writer.finish(image);
    }
}

/// Parses the image anew, whose metadata has moved. After a failure nothing of it is written any more.
pub(super) fn read_anew(image: &mut Arc<Image>) -> Result<()> {
    match image.reread() {
        Ok(anew) => *image = Arc::new(anew),
        Err(error) => {
            if let Some(top) = image.qcow2() {
                top.file().refuse_writes();
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Parses anew what somebody else has written since it was parsed.
pub(super) fn refresh(image: &mut Arc<Image>) -> Result<()> {
    if let Some(anew) = image.refreshed()? {
        *image = Arc::new(anew);
    }
    Ok(())
}

/// The same after a change, also one that failed: structures can have moved before that, and a next change that goes by
/// the old ones would overwrite them.
pub(super) fn after_change(image: &mut Arc<Image>, made: Result<()>) -> Result<()> {
    match read_anew(image) {
        Ok(()) => made,
        Err(error) => {
            made.and(Err(error.within("the change was made, but the image could not be read afterwards")))
        }
    }
}

pub(super) fn top(image: &Image) -> Result<&Qcow2> {
    image.qcow2().ok_or_else(|| {
        let text = format!("'{}': only qcow2 images are written", image.path().display());
        Error::new(ErrorKind::Unsupported, text)
    })
}
