//! qcow2 as values: bytes become checked values and values become bytes. Pure: no I/O, no `unsafe`, no state.
//!
//! The files are named after the headings of the qcow2 specification. Everything on disk is big endian,
//! except the order of bits in bitmap data. Errors from here say what is wrong but not in which file; the
//! image puts its name before them.

pub(crate) mod bitmap;
pub(crate) mod compressed;
pub(crate) mod extension;
pub(crate) mod geometry;
pub(crate) mod header;
pub(crate) mod l1;
pub(crate) mod l2;
pub(crate) mod lineage;
pub(crate) mod outline;
pub(crate) mod refcount;
pub(crate) mod snapshot;
pub(crate) mod text;

use crate::error::{Error, ErrorKind, Result};

/// An error about an image that breaks the specification.
pub(crate) fn corrupt(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

/// Reads the structure at the start of `bytes`; `what` names it when the bytes end too early.
pub(crate) fn read_struct<T>(bytes: &[u8], what: &str) -> Result<T>
where
    T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::KnownLayout,
{
    match T::read_from_prefix(bytes) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(corrupt(format!("the {what} is cut short after {} bytes", bytes.len()))),
    }
}
