//! What an image descends from: a header extension of Holstein's own, which other programs keep as it is.
//!
//! It fits into the first sector beside the bitmaps extension, so that one write decides on both. All numbers are big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 1 | version of this extension: 2 |
//! | 1 | 1: the image has an identity; 2: it has a parent; 4: it had an identity, and its disk was changed since then; 8: it is a part of a disk, and another image has to lie below |
//! | 2 | number of bases |
//! | 4 | the first bytes of BLAKE3 of all that follows |
//! | 16 | the image's identity, or the one that it had, or zeros |
//! | 16 | that of its parent, or zeros |
//! | 40 each | a base: 8 bytes of BLAKE3 of a bitmap's name, the identity of a backup, the size of the disk then, the smallest size since, or all ones where that is not known |
//!
//! A base of version 1 has 32 bytes, without the smallest size.

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind};

const VERSION: u8 = 2;
const HAS_IDENTITY: u8 = 1;
const HAS_PARENT: u8 = 2;
const HAD_IDENTITY: u8 = 4;
const IS_PART: u8 = 8;
/// Where the flags are in the data.
pub(crate) const FLAGS: usize = 1;
const HEAD: usize = 40;
const BASE: usize = 40;
const OLD_VERSION: u8 = 1;
const OLD_BASE: usize = 32;
const NOT_KNOWN: u64 = u64::MAX;

/// The identity of a backup: 16 random bytes that its header has, and every copy of the file. Its text has the form of a
/// UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity([u8; 16]);

impl Identity {
    /// A new one, of random bytes; their form is that of a UUID of version 4.
    pub(crate) fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Identity(bytes)
    }

    /// One that was written down.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Identity(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| (byte as char).to_digit(16).map_or(255, |d| d as u8))
            .collect();
        let mut bytes = [0; 16];
        if digits.len() != 32 || digits.contains(&255) {
            let text = format!("'{text}' is no identity of a backup; it has 32 hexadecimal digits");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Identity(bytes))
    }
}

/// What a bitmap counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The backup from which on the bitmap has every change.
    pub backup: Identity,
    /// Size of the disk at that time, in bytes.
    pub disk_size: u64,
    /// The smallest size since, in bytes, as far as Holstein made it or met it when it changed the image; other programs do not
    /// record it. `None`: not known.
    pub smallest_size: Option<u64>,
}

impl Base {
    /// A backup of a disk that has this size.
    pub(crate) fn new(backup: Identity, disk_size: u64) -> Self {
        Base { backup, disk_size, smallest_size: Some(disk_size) }
    }

    /// The same, when the disk gets another size.
    pub(crate) fn resized(self, size: u64) -> Self {
        Base { smallest_size: self.smallest_size.map(|smallest| smallest.min(size)), ..self }
    }
}

/// What the extension says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) identity: Option<Identity>,
    /// The one that it had until its disk was changed. Only one of the two is there.
    pub(crate) former: Option<Identity>,
    pub(crate) parent: Option<Identity>,
    /// It is not the whole disk: an image has to lie below.
    pub(crate) is_part: bool,
    /// By the bitmaps' [`key`]s, the newest first.
    pub(crate) bases: Vec<([u8; 8], Base)>,
}

/// What a bitmap's name is known by.
pub(crate) fn key(name: &[u8]) -> [u8; 8] {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(name).as_bytes()[..8]);
    key
}

impl Lineage {
    /// `None` for another version, and for bytes that are damaged: then nothing is known.
    pub(crate) fn parse(data: &[u8]) -> Option<Lineage> {
        let (head, bases) = data.split_at_checked(HEAD)?;
        let count = u16::from_be_bytes([head[2], head[3]]);
        let base_length = match head[0] {
            VERSION => BASE,
            OLD_VERSION => OLD_BASE,
            _ => return None,
        };
        let flags = head[FLAGS];
        let sound = flags & !(HAS_IDENTITY | HAS_PARENT | HAD_IDENTITY | IS_PART) == 0
            && flags & (HAS_IDENTITY | HAD_IDENTITY) != HAS_IDENTITY | HAD_IDENTITY
            && bases.len() == usize::from(count) * base_length
            && head[4..8] == checksum(&data[8..]);
        if !sound {
            return None;
        }
        let identity = |flag: u8, at: usize| match flags & flag {
            0 => None,
            _ => Some(Identity(*head[at..].first_chunk()?)),
        };
        let base = |bytes: &[u8]| {
            let backup = Identity(*bytes[8..].first_chunk()?);
            let disk_size = u64::from_be_bytes(*bytes[24..].first_chunk()?);
            let smallest = bytes[OLD_BASE..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let smallest_size = smallest.filter(|size| *size != NOT_KNOWN);
            Some((*bytes.first_chunk()?, Base { backup, disk_size, smallest_size }))
        };
        Some(Lineage {
            identity: identity(HAS_IDENTITY, 8),
            former: identity(HAD_IDENTITY, 8),
            parent: identity(HAS_PARENT, 24),
            is_part: flags & IS_PART != 0,
            bases: bases.chunks_exact(base_length).map(base).collect::<Option<_>>()?,
        })
    }

    /// The extension's data.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut data = vec![0; 8];
        for identity in [self.identity.or(self.former), self.parent] {
            data.extend(identity.map_or([0; 16], |identity| identity.0));
        }
        for (key, base) in &self.bases {
            data.extend(key);
            data.extend(base.backup.0);
            data.extend(base.disk_size.to_be_bytes());
            data.extend(base.smallest_size.unwrap_or(NOT_KNOWN).to_be_bytes());
        }
        data[0] = VERSION;
        data[FLAGS] = self.flags();
        data[2..4].copy_from_slice(&(self.bases.len() as u16).to_be_bytes());
        let sum = checksum(&data[8..]);
        data[4..8].copy_from_slice(&sum);
        data
    }

    /// The byte of the data that says what there is.
    pub(crate) fn flags(&self) -> u8 {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        flag(self.identity.is_some(), HAS_IDENTITY)
            | flag(self.parent.is_some(), HAS_PARENT)
            | flag(self.former.is_some(), HAD_IDENTITY)
            | flag(self.is_part, IS_PART)
    }

    /// The same of an image whose disk is changed: it is not the backup any more that it was. Nothing but the flags differs.
    pub(crate) fn changed(&self) -> Self {
        Lineage { identity: None, former: self.identity.or(self.former), ..self.clone() }
    }

    /// The same of a disk that has this size now: another program may have changed it.
    #[must_use]
    pub(crate) fn of_size(mut self, size: u64) -> Self {
        self.bases.iter_mut().for_each(|(_, base)| *base = base.resized(size));
        self
    }

    /// It says nothing: there need be no extension.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Lineage::default()
    }

    /// What a bitmap counts from, if that is known.
    pub(crate) fn base(&self, name: &[u8]) -> Option<Base> {
        let key = key(name);
        self.bases.iter().find(|(other, _)| *other == key).map(|(_, base)| *base)
    }

    /// Says less, so that it takes less room: the oldest base goes, at last everything. False if nothing is left to go.
    pub(crate) fn shorten(&mut self) -> bool {
        let some = !self.is_empty();
        if self.bases.pop().is_none() {
            *self = Lineage::default();
        }
        some
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut sum = [0; 4];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..4]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    fn lineage() -> Lineage {
        let base = Base::new(identity(3), 1 << 40).resized(1 << 32).resized(1 << 39);
        Lineage {
            identity: Some(identity(1)),
            parent: Some(identity(2)),
            former: None,
            is_part: true,
            bases: vec![(key(b"nightly"), base)],
        }
    }

    #[test]
    fn the_bytes_of_the_extension() {
        let data = lineage().encode();
        assert_eq!(data.len(), 40 + 40);
        assert_eq!(data[..4], [2, 11, 0, 1]);
        assert_eq!(data[8..16], [1, 1, 1, 1, 1, 1, 0x41, 1]);
        assert_eq!(data[16], 0x81);
        assert_eq!(data[64..72], [0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(data[72..], [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(Lineage::parse(&data), Some(lineage()));
        for at in 0..data.len() {
            let mut altered = data.clone();
            altered[at] ^= 0x10;
            assert_eq!(Lineage::parse(&altered), None, "byte {at}");
            assert_eq!(Lineage::parse(&data[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_changed_image_differs_in_one_byte() {
        let (before, after) = (lineage().encode(), lineage().changed().encode());
        assert_eq!((before[FLAGS], after[FLAGS]), (11, 14));
        assert!(before.iter().zip(&after).enumerate().all(|(at, (a, b))| at == FLAGS || a == b));
        let changed = Lineage::parse(&after).unwrap();
        assert_eq!((changed.identity, changed.former), (None, Some(identity(1))));
        assert_eq!((changed.parent, &changed.bases), (lineage().parent, &lineage().bases));
        assert_eq!(changed.changed(), changed);
        let mut both = before;
        both[FLAGS] = 7;
        assert_eq!(Lineage::parse(&both), None);
    }

    #[test]
    fn version_1_does_not_know_the_smallest_size() {
        let mut data = lineage().encode();
        data.truncate(72);
        data[0] = 1;
        let sum = checksum(&data[8..]);
        data[4..8].copy_from_slice(&sum);
        let old = Lineage::parse(&data).unwrap();
        let base = old.base(b"nightly").unwrap();
        assert_eq!((base.backup, base.disk_size, base.smallest_size), (identity(3), 1 << 40, None));
        assert_eq!(base.resized(512).smallest_size, None);
        assert_eq!(Lineage::parse(&old.encode()), Some(old), "it stays so when it is written anew");
    }

    #[test]
    fn an_identity_is_read_as_it_is_written() {
        let text = "03030303-0303-4303-8303-030303030303";
        assert_eq!(identity(3).to_string(), text);
        assert_eq!(text.parse::<Identity>().unwrap(), identity(3));
        assert_eq!(text.replace('-', "").parse::<Identity>().unwrap(), identity(3));
        assert!("03".parse::<Identity>().is_err());
        assert!(text.replace('4', "x").parse::<Identity>().is_err());
    }

    #[test]
    fn what_does_not_fit_goes_oldest_first() {
        let mut lineage = lineage();
        assert_eq!(lineage.base(b"nightly").map(|base| base.disk_size), Some(1 << 40));
        assert_eq!(lineage.base(b"weekly"), None);
        assert!(lineage.shorten());
        assert_eq!((lineage.bases.len(), lineage.identity), (0, Some(identity(1))));
        assert!(lineage.shorten());
        assert!(lineage.is_empty() && !lineage.shorten());
    }
}
