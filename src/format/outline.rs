//! What a header says, without a judgement whether it makes sense: for people who look at an image that cannot be opened.

use byteorder::{BigEndian, ByteOrder};

use super::{header, text::until_zero};

/// What the header of a qcow2 image says, unchecked. (QEMU's specification of the format, "Header".)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderOutline {
    /// The format's version; 2 and 3 exist.
    pub version: u32,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes of a cluster; `None` where the header has a value that no image can have.
    pub cluster_size: Option<u64>,
    /// How the guest's data is encrypted: 0 it is not, 1 AES, 2 LUKS.
    pub encryption: u32,
    /// The backing file's name; `None` where there is none, or where it does not lie in the first 4 KiB.
    pub backing: Option<Vec<u8>>,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// The incompatible feature bits; 0 in version 2, which has none.
    pub incompatible_features: u64,
}

impl HeaderOutline {
    /// What is read for it.
    pub(crate) const BYTES: usize = 4096;

    /// Of a file that begins so; `None` where this is no header of a qcow2 image.
    pub(crate) fn of(start: &[u8]) -> Option<Self> {
        let word = |at: usize| start.get(at..at + 4).map(BigEndian::read_u32);
        let long = |at: usize| start.get(at..at + 8).map(BigEndian::read_u64);
        if word(0)? != header::MAGIC {
            return None;
        }
        let version = word(4)?;
        let backing = || {
            let at = usize::try_from(long(8)?).ok().filter(|at| *at > 0)?;
            let name = start.get(at..at.checked_add(word(16)? as usize)?)?;
            Some(until_zero(name).to_vec()).filter(|name| !name.is_empty())
        };
        Some(HeaderOutline {
            version,
            virtual_size: long(24)?,
            cluster_size: 1u64.checked_shl(word(20)?).filter(|size| (512..=2 << 20).contains(size)),
            encryption: word(32)?,
            backing: backing(),
            snapshots: word(60)?,
            incompatible_features: if version < 3 { 0 } else { long(72).unwrap_or(0) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_bytes_are() {
        for length in 0..200 {
            let mut bytes = vec![0xff; length];
            bytes.iter_mut().zip([0x51, 0x46, 0x49, 0xfb]).for_each(|(byte, magic)| *byte = magic);
            let outline = HeaderOutline::of(&bytes);
            assert_eq!(outline.is_some(), length >= 64, "{length}");
            if let Some(outline) = outline {
                assert_eq!((outline.cluster_size, outline.backing, outline.version), (None, None, u32::MAX));
            }
        }
    }
}
