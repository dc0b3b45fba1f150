//! What a journal says, as bytes: two blocks, each with its checksum.
//!
//! The first block stands at the start of the file and names the temporary files of the transaction; it is durable
//! before any of them is made. The second one, at the next multiple of [`ALIGNMENT`], is the decision. A block that
//! is cut short, torn or altered is no block. All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 16 | `holstein journal` |
//! | 4 | version of this format: 1 |
//! | 4 | 1 for the first block, 2 for the decision |
//! | 8 | length of what follows, without the checksum |
//! | n | the fields below, in their order |
//! | 32 | BLAKE3 of all bytes before |

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    disk::{Fingerprint, Switch, Versions},
    storage::FileVersion,
};

/// Where the second block may begin.
pub(super) const ALIGNMENT: u64 = 4096;
/// A block is never longer: thousands of disks.
pub(super) const LARGEST: u64 = 64 << 20;

const MAGIC: &[u8; 16] = b"holstein journal";
const VERSION: u32 = 1;
const HEAD: usize = 32;
const CHECKSUM: usize = 32;

/// The first block: the temporary files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) temporaries: Vec<PathBuf>,
}

/// The second block: what is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) targets: Vec<TargetRecord>,
    pub(super) sources: Vec<Switch>,
}

/// A target that gets its final name. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetRecord {
    pub(super) temporary: PathBuf,
    pub(super) path: PathBuf,
    /// The target's inode; file systems may have another device number after a restart.
    pub(super) inode: u64,
    /// The inode of the file that is replaced, if one is.
    pub(super) replaced: Option<u64>,
    /// The image that it covers, if it does.
    pub(super) below: Option<Fingerprint>,
}

/// A kind of block.
pub(super) trait Block: Sized {
    const KIND: u32;

    fn write(&self, to: &mut Vec<u8>);

    fn read(from: &mut Fields<'_>) -> Option<Self>;

    /// The block as bytes.
    fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        self.write(&mut fields);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(Self::KIND.to_le_bytes());
        bytes.extend((fields.len() as u64).to_le_bytes());
        bytes.extend(fields);
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// The block at the start of `bytes` and its length there; `None` if there is none that is whole.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut head = Fields(bytes.get(..HEAD)?);
        let same = head.take(MAGIC.len())? == MAGIC && head.u32()? == VERSION && head.u32()? == Self::KIND;
        let length = HEAD + usize::try_from(head.u64()?).ok().filter(|n| *n as u64 <= LARGEST)?;
        let (covered, checksum) = (bytes.get(..length)?, bytes.get(length..length + CHECKSUM)?);
        if !same || blake3::hash(covered).as_bytes() != checksum {
            return None;
        }
        let mut fields = Fields(&covered[HEAD..]);
        let block = Self::read(&mut fields)?;
        fields.0.is_empty().then_some((block, length + CHECKSUM))
    }
}

impl Block for Begun {
    const KIND: u32 = 1;

    fn write(&self, to: &mut Vec<u8>) {
        put_list(to, &self.temporaries, |to, path| put_path(to, path));
    }

    fn read(from: &mut Fields<'_>) -> Option<Self> {
        Some(Begun { temporaries: from.list(Fields::temporary)? })
    }
}

impl Block for Decided {
    const KIND: u32 = 2;

    fn write(&self, to: &mut Vec<u8>) {
        put_list(to, &self.targets, |to, target| {
            put_path(to, &target.temporary);
            put_path(to, &target.path);
            to.extend(target.inode.to_le_bytes());
            put_list(to, target.replaced.as_slice(), |to, inode| to.extend(inode.to_le_bytes()));
            put_list(to, target.below.as_slice(), put_fingerprint);
        });
        put_list(to, &self.sources, |to, source| {
            put_fingerprint(to, &source.image);
            to.extend(source.directory.to_le_bytes());
            put_bytes(to, &source.old_sector);
            put_bytes(to, &source.new_sector);
        });
    }

    fn read(from: &mut Fields<'_>) -> Option<Self> {
        let targets = from.list(|from| {
            Some(TargetRecord {
                temporary: from.temporary()?,
                path: from.path()?,
                inode: from.u64()?,
                replaced: from.list(Fields::u64)?.pop(),
                below: from.list(Fields::fingerprint)?.pop(),
            })
        })?;
        let sources = from.list(|from| {
            Some(Switch {
                image: from.fingerprint()?,
                directory: from.u64()?,
                old_sector: from.bytes()?.to_vec(),
                new_sector: from.bytes()?.to_vec(),
            })
        })?;
        Some(Decided { targets, sources })
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_le_bytes());
    to.extend(bytes);
}

fn put_path(to: &mut Vec<u8>, path: &Path) {
    put_bytes(to, path.as_os_str().as_bytes());
}

fn put_fingerprint(to: &mut Vec<u8>, image: &Fingerprint) {
    put_path(to, &image.path);
    to.extend(image.inode.to_le_bytes());
    put_list(to, image.versions.as_slice(), |to, versions| {
        put_version(to, &versions.image);
        put_list(to, versions.data_file.as_slice(), |to, (path, version)| {
            put_path(to, path);
            put_version(to, version);
        });
    });
}

fn put_version(to: &mut Vec<u8>, version: &FileVersion) {
    to.extend(version.length.to_le_bytes());
    to.extend(version.modified.to_le_bytes());
}

fn put_list<T>(to: &mut Vec<u8>, list: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    to.extend((list.len() as u32).to_le_bytes());
    list.iter().for_each(|each| put(to, each));
}

/// What is left to be read of a block's fields.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(PathBuf::from(OsStr::from_bytes(self.bytes()?)))
    }

    fn version(&mut self) -> Option<FileVersion> {
        let length = self.u64()?;
        Some(FileVersion { length, modified: i128::from_le_bytes(*self.take(16)?.first_chunk()?) })
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        Some(Fingerprint {
            path: self.path()?,
            inode: self.u64()?,
            versions: self.list(Fields::versions)?.pop(),
        })
    }

    fn versions(&mut self) -> Option<Versions> {
        let image = self.version()?;
        Some(Versions { image, data_file: self.list(|from| Some((from.path()?, from.version()?)))?.pop() })
    }

    /// The path of a temporary file: whoever writes a journal by hand names no other file that is to go.
    fn temporary(&mut self) -> Option<PathBuf> {
        let path = self.path()?;
        let name = path.file_name()?.as_bytes();
        (name.starts_with(b".holstein-") && name.ends_with(b".tmp") && path.is_absolute()).then_some(path)
    }

    fn list<T>(&mut self, each: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        (0..count).map(|_| each(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str) -> Fingerprint {
        let versions = Versions {
            image: FileVersion { length: 65536, modified: -5 },
            data_file: Some(("/a/disk.raw".into(), FileVersion { length: 1 << 20, modified: 1 << 70 })),
        };
        Fingerprint { path: path.into(), inode: 1 << 40, versions: Some(versions) }
    }

    fn decided() -> Decided {
        let target = TargetRecord {
            temporary: "/b/.holstein-1.tmp".into(),
            path: "/b/inc.qcow2".into(),
            inode: 7,
            replaced: Some(9),
            below: Some(image("/b/disk.qcow2")),
        };
        let source = Switch {
            image: image("/a/disk.qcow2"),
            directory: 0x50000,
            old_sector: vec![1; 512],
            new_sector: vec![2; 512],
        };
        Decided {
            targets: vec![target],
            sources: vec![
                source.clone(),
                Switch { image: Fingerprint { versions: None, ..source.image.clone() }, ..source },
            ],
        }
    }

    #[test]
    fn the_bytes_of_a_block() {
        let bytes = Begun { temporaries: vec!["/x".into()] }.encode();
        assert_eq!(Begun::decode(&bytes), None, "this is no temporary file");
        let mut expected = b"holstein journal".to_vec();
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 2, 0, 0, 0, b'/', b'x']);
        assert_eq!(bytes[..expected.len()], expected);
        assert_eq!(bytes.len(), expected.len() + 32);
    }

    #[test]
    fn blocks_come_back_and_nothing_else_does() {
        let bytes = decided().encode();
        assert_eq!(Decided::decode(&bytes), Some((decided(), bytes.len())));
        assert_eq!(Decided::decode(&[&bytes[..], b"more"].concat()), Some((decided(), bytes.len())));
        assert_eq!(Begun::decode(&bytes), None);
        for length in 0..bytes.len() {
            assert_eq!(Decided::decode(&bytes[..length]), None);
        }
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(Decided::decode(&altered), None);
        }
    }
}
