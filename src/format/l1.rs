//! L1 entries: where the L2 tables are.

use super::{corrupt, geometry::Geometry};
use crate::error::Result;

/// Where an entry's table is, aligned or not.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits that must be clear.
pub(crate) const RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// The refcount of what an entry points to is exactly 1.
pub(crate) const COPIED: u64 = 1 << 63;

/// The offset of the L2 table that L1 entry `index` points to, if any.
pub(crate) fn l2_table_offset(entry: u64, index: usize, geometry: &Geometry) -> Result<Option<u64>> {
    let offset = entry & OFFSET;
    if entry & RESERVED != 0 || !geometry.is_aligned(offset) {
        return Err(corrupt(format!("L1 entry {index} is invalid: {entry:#018x}")));
    }
    Ok((offset != 0).then_some(offset))
}
