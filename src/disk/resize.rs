//! Another size of the disk: its tables and all bitmaps change with one sector.

use std::sync::Arc;

use super::{
    Disk,
    write::{after_change, read_anew, settle_lineage, top},
};
use crate::{
    bitmap::{self, NewBitmaps},
    error::{Error, ErrorKind, Result},
    image::{
        Image, Writer,
        edit::{Edit, HeaderChange, check_resize},
    },
};

impl Disk {
    /// Changes the size of the disk to `size` bytes, a multiple of 512; smaller, what lies behind is gone. Durable
    /// when this returns, all of it or nothing. What is new reads as zero.
    ///
    /// Every bitmap is written for the new size. What the disk gains is dirty in it: a disk that was shrunk and
    /// grew again has lost what was there, and a backup must notice. An inconsistent bitmap stays as it is, and one
    /// that cannot be trusted becomes inconsistent. An image that is a backup loses its [identity](Disk::identity) first.
    ///
    /// # Errors
    /// `InvalidArgument` for a size that the image, or one of its bitmaps, cannot have; `Unsupported` for raw
    /// images, and where version 2 of the format lacks what is needed; otherwise as [`Disk::write_at`]. Nothing
    /// has changed then, unless the error's text says that this is unknown.
    pub fn resize(&self, size: u64) -> Result<()> {
        let mut image = self.image_to_write()?;
        if !size.is_multiple_of(512) {
            let text = format!("the size {size} is no multiple of 512 bytes");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        self.end_writing_locked(&mut image)?;
        if size == image.size() {
            return Ok(());
        }
        // All that speaks against it, before anything is written.
        check_resize(&image, size)?;
        let bitmaps = bitmap::resized(top(&image)?, size)?;
        settle_lineage(&mut image)?;
        let grows = size > image.size();
        if grows {
            prepare_to_grow(&mut image, size)?;
        }
        let made = resize(&image, size, &bitmaps);
        after_change(&mut image, made)?;
        if grows { Ok(()) } else { cut_data_file(&mut image, size) }
    }
}

fn resize(image: &Image, size: u64, bitmaps: &NewBitmaps) -> Result<()> {
    let top = top(image)?;
    let mut edit = Edit::begin(top)?;
    let disk = Some(edit.resize(image, size)?);
    let lineage = bitmaps.lineage(top);
    let bitmaps = bitmaps.write(top, &mut edit)?;
    edit.commit(HeaderChange { disk, bitmaps, lineage, ..HeaderChange::default() })
}

/// What lies in the files behind the disk's end reads as zero. The disk itself is as it was.
fn prepare_to_grow(image: &mut Arc<Image>, size: u64) -> Result<()> {
    let mut writer = Writer::begin(image)?;
    let made = writer.zero_behind_the_end(image).and_then(|()| writer.finish(image));
    // Whatever fails, the disk is what it was.
    let read = read_anew(image);
    made.and(read)?;
    let top = top(image)?;
    if top.external_data_file_bit() {
        let file = top.data_file()?;
        if top.has_raw_data_file() && file.len()? > image.size() {
            file.set_len(image.size())?;
        }
        file.set_len(size.max(file.len()?))?;
        file.sync()?;
        return read_anew(image);
    }
    Ok(())
}

/// A data file has nothing behind the disk's end any more: a raw one is as long as the disk, in another the rest of the last
/// cluster is zero, so that nothing comes to light when QEMU lets the disk grow.
fn cut_data_file(image: &mut Arc<Image>, size: u64) -> Result<()> {
    let top = top(image)?;
    if !top.external_data_file_bit() {
        return Ok(());
    }
    let cut = if top.has_raw_data_file() {
        top.data_file().and_then(|file| file.set_len(size).and_then(|()| file.sync()))
    } else {
        Writer::begin(image)
            .and_then(|mut writer| writer.zero_behind_the_end(image).and_then(|()| writer.finish(image)))
    };
    let read = read_anew(image);
    cut.and(read).map_err(|e| e.within("the disk has its new size, but its data file was not cut"))
}
