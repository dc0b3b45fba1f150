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

/// Sets refcount `index` of a block; `count` must fit into the width.
pub(crate) fn set(block: &mut [u8], order: u32, index: usize, count: u64) {
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let shift = (index % per_byte) << order;
            let mask = ((1u16 << (1 << order)) - 1) as u8;
            let byte = &mut block[index / per_byte];
            *byte = *byte & !(mask << shift) | (count as u8 & mask) << shift;
        }
        3 => block[index] = count as u8,
        4 => BigEndian::write_u16(&mut block[index * 2..], count as u16),
        5 => BigEndian::write_u32(&mut block[index * 4..], count as u32),
        _ => BigEndian::write_u64(&mut block[index * 8..], count),
    }
}

#[cfg(test)]
mod tests {
    use super::{get, set};

    #[test]
    fn what_is_set_is_got_and_nothing_else() {
        for order in 0..=6 {
            let mut block = [0xa5u8; 64];
            let count = (512 >> order) as usize;
            let before: Vec<_> = (0..count).map(|i| get(&block, order, i)).collect();
            for index in [0, 1, count / 2, count - 1] {
                set(&mut block, order, index, 1 - (before[index] & 1));
                for other in (0..count).filter(|i| *i != index) {
                    assert_eq!(
                        get(&block, order, other),
                        before[other],
                        "order {order}, {index} changed {other}"
                    );
                }
                assert_eq!(get(&block, order, index), 1 - (before[index] & 1));
                set(&mut block, order, index, before[index]);
            }
        }
    }

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
