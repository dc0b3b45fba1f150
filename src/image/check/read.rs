//! Reading tables that may lie anywhere. What the file does not have reads as zeros, as in QEMU, so that the
//! same things are counted; that a table is cut short is a problem of its own.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

use crate::{
    error::{ErrorKind, Result},
    memory,
    storage::File,
};

/// Tables are read in pieces of this size.
pub(super) const PIECE: usize = 1 << 20;

/// The bytes from `offset` on, as far as numbers go.
pub(super) fn span(offset: u64, bytes: u64) -> Range<u64> {
    offset..offset.saturating_add(bytes)
}

/// Fills `buf`, with zeros where the file has ended.
pub(in crate::image) fn read_padded(file: &File, buf: &mut [u8], offset: u64) -> Result<()> {
    // No file is larger, and the system refuses such offsets.
    let in_reach = i64::try_from(offset.saturating_add(buf.len() as u64)).is_ok();
    let got = if in_reach { file.read_up_to(buf, offset)? } else { 0 };
    if got < buf.len() {
        let (end, length) = (offset.saturating_add(got as u64), file.len()?);
        // What is there but was not read must not pass for zeros.
        if in_reach && end < length {
            let text = format!("nothing could be read at offset {end}, although the file has {length} bytes");
            return Err(file.error(ErrorKind::Io, text));
        }
        buf[got..].fill(0);
    }
    Ok(())
}

/// Hands the `count` words of a table at `offset` to `see`, each with its index.
pub(super) fn read_words(
    file: &File,
    offset: u64,
    count: u64,
    mut see: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut buffer = memory::zeroed((count * 8).min(PIECE as u64) as usize)?;
    for first in (0..count).step_by(PIECE / 8) {
        let piece = ((count - first) * 8).min(PIECE as u64) as usize;
        let piece = &mut buffer[..piece];
        read_padded(file, piece, offset.saturating_add(first * 8))?;
        for (index, word) in piece.chunks_exact(8).enumerate() {
            see(first + index as u64, BigEndian::read_u64(word))?;
        }
    }
    Ok(())
}
