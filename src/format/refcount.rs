//! Refcount tables and blocks, all widths from 1 to 64 bits.

use byteorder::{BigEndian, ByteOrder};

use super::{corrupt, geometry::Geometry};
use crate::error::Result;

/// Bits of a refcount table entry that must be clear.
pub(crate) const RESERVED: u64 = 0x1ff;

/// The offset of the refcount block that refcount table entry `index` points to, if any.
pub(crate) fn block_offset(entry: u64, index: usize, geometry: &Geometry) -> Result<Option<u64>> {
    if entry & RESERVED != 0 || !geometry.is_aligned(entry) {
        return Err(corrupt(format!("refcount table entry {index} is invalid: {entry:#018x}")));
    }
    Ok((entry != 0).then_some(entry))
}

/// The largest refcount that `1 << order` bits can hold.
pub(crate) fn largest(order: u32) -> u64 {
    u64::MAX >> (64 - (1 << order))
}

/// Refcount `index` of a block whose refcounts are `1 << order` bits wide. Widths below a byte count from
/// the least significant bit.
pub(crate) fn get(block: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let shift = (index % per_byte) << order;
            let mask = (1u16 << (1 << order)) - 1;
            u64::from(u16::from(block[index / per_byte]) >> shift & mask)
        }
        3 => u64::from(block[index]),
        4 => u64::from(BigEndian::read_u16(&block[index * 2..])),
        5 => u64::from(BigEndian::read_u32(&block[index * 4..])),
        _ => BigEndian::read_u64(&block[index * 8..]),
    }
}

#[cfg(test)]
mod tests {
    use super::get;

    #[test]
    fn every_width() {
        let block = [0b1010_0110, 0x21, 0x00, 0x02, 0, 0, 0, 3];
        assert_eq!((0..8).map(|i| get(&block, 0, i)).collect::<Vec<_>>(), [0, 1, 1, 0, 0, 1, 0, 1]);
        assert_eq!((0..4).map(|i| get(&block, 1, i)).collect::<Vec<_>>(), [2, 1, 2, 2]);
        assert_eq!([get(&block, 2, 2), get(&block, 2, 3)], [1, 2]);
        assert_eq!(get(&block, 3, 1), 0x21);
        assert_eq!(get(&block, 4, 1), 2);
        assert_eq!(get(&block, 5, 1), 3);
        assert_eq!(get(&block, 6, 0), 0xa621_0002_0000_0003);
    }
}
