//! What a journal says, as bytes: two blocks, each with its checksum.
//!
//! The first block stands at the start of the file and names the temporary files of the transaction; it is durable
//! before any of them is made. The second one, at the next multiple of [`ALIGNMENT`], is the decision. A block that
//! is cut short, torn or altered is no block; what a journal's file is without a whole first block, [`Begun::look`] tells.
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 16 | `holstein journal` |
//! | 4 | version of this format: 3 |
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
    bitmap::DirectoryPlace,
    disk::{Fingerprint, Folder, Switch, Versions},
    error::Result,
    format::lineage::Identity,
    image::Format,
    image::create::OWN_PREFIX,
    memory,
    storage::{File, FileVersion},
};

/// Where the second block may begin.
pub(super) const ALIGNMENT: u64 = 4096;
/// A block is never longer: thousands of disks.
pub(super) const LARGEST: u64 = 64 << 20;

const MAGIC: &[u8; 16] = b"holstein journal";
const VERSION: u32 = 3;
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
    /// The folder of both, unless it could not be told.
    pub(super) folder: Option<Folder>,
    /// What the target's file is known by.
    pub(super) content: Content,
    /// What the file is known by that is replaced, if one is.
    pub(super) replaced: Option<Content>,
    /// The image that it covers, if it does.
    pub(super) below: Option<Fingerprint>,
}

/// What a complete file is known by, whatever name it has. Its inode alone is not enough: numbers are given again, files are
/// written anew, and another file system may be mounted there. The identity in the header of a qcow2 target is part of its
/// beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// File systems may have another device number after a restart.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// BLAKE3 of its first [`BEGINNING`] bytes.
    pub(crate) beginning: [u8; 32],
    /// When it was written last, where nothing in its beginning is its alone: of a raw file, and of a file that is replaced.
    pub(crate) written: Option<i128>,
}

/// So many bytes at the start of a target are looked at.
const BEGINNING: u64 = 64 << 10;

impl Content {
    /// That of an open file.
    pub(crate) fn of(file: &File, format: Format) -> Result<Self> {
        let length = file.len()?;
        let mut bytes = memory::zeroed(length.min(BEGINNING) as usize)?;
        file.read_exact(&mut bytes, 0, "beginning")?;
        let beginning = *blake3::hash(&bytes).as_bytes();
        let written = if format == Format::Raw { file.content_time()? } else { None };
        Ok(Content { inode: file.id()?.inode, length, beginning, written })
    }

    /// Whether an open file is the same.
    pub(super) fn is(&self, file: &File) -> Result<bool> {
        let format = if self.written.is_some() { Format::Raw } else { Format::Qcow2 };
        Ok(file.id()?.inode == self.inode && *self == Content::of(file, format)?)
    }
}

/// What the file of a journal is, by its beginning.
#[derive(Debug)]
pub(super) enum Look {
    /// Its first block is whole, and has so many bytes.
    Begun(Begun, usize),
    /// It is empty, or was cut short or torn before its first block was durable, and nothing that looks like a decision is in
    /// it: nothing was made yet.
    Empty,
    /// It cannot be followed, for this reason.
    Strange(String),
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

impl Begun {
    /// Looks at the bytes of a journal's file.
    pub(super) fn look(bytes: &[u8]) -> Look {
        if let Some((begun, length)) = Begun::decode(bytes) {
            return Look::Begun(begun, length);
        }
        let head = || {
            let mut head = Fields(bytes.get(..HEAD)?);
            (head.take(MAGIC.len())? == MAGIC).then_some(())?;
            Some((head.u32()?, head.u32()?, head.u64()?))
        };
        let only_first = |length: u64| bytes.len() as u64 <= length.saturating_add((HEAD + CHECKSUM) as u64);
        // Whatever the first block says of its own length.
        let has_second = bytes.chunks(ALIGNMENT as usize).skip(1).any(|chunk| chunk.starts_with(MAGIC));
        match head() {
            Some((version, ..)) if version != VERSION => Look::Strange(format!(
                "it has version {version}, and this program knows version {VERSION}; use the program that wrote it"
            )),
            // A decision follows only where the first block was durable.
            Some((_, Begun::KIND, length)) if only_first(length) && !has_second => Look::Empty,
            Some(_) if bytes.len() as u64 <= ALIGNMENT => Look::Empty,
            // Its later bytes can be durable before its first ones; until then a short file can have bytes of an old one.
            None if !has_second && (bytes.len() as u64 <= ALIGNMENT || is_blank(bytes)) => Look::Empty,
            Some(_) => Look::Strange("its first block is damaged".to_owned()),
            None => Look::Strange("it is no journal of Holstein, or its first block is damaged".to_owned()),
        }
    }
}

/// Whether a file begins as one that is not written yet.
fn is_blank(bytes: &[u8]) -> bool {
    const SECTOR: usize = 512;
    bytes.iter().take(SECTOR).all(|byte| *byte == 0)
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
            put_list(to, target.folder.as_slice(), put_folder);
            put_content(to, &target.content);
            put_list(to, target.replaced.as_slice(), put_content);
            put_list(to, target.below.as_slice(), put_fingerprint);
        });
        put_list(to, &self.sources, |to, source| {
            put_fingerprint(to, &source.image);
            to.extend(source.directory.offset.to_le_bytes());
            to.extend(source.directory.length.to_le_bytes());
            to.extend(source.directory.digest);
            put_list(to, &source.bases, |to, base| to.extend(base.as_bytes()));
            put_bytes(to, &source.old_sector);
            put_bytes(to, &source.new_sector);
        });
    }

    fn read(from: &mut Fields<'_>) -> Option<Self> {
        let targets = from.list(|from| {
            Some(TargetRecord {
                temporary: from.temporary()?,
                path: from.path()?,
                folder: from.list(Fields::folder)?.pop(),
                content: from.content()?,
                replaced: from.list(Fields::content)?.pop(),
                below: from.list(Fields::fingerprint)?.pop(),
            })
        })?;
        let sources = from.list(|from| {
            Some(Switch {
                image: from.fingerprint()?,
                directory: DirectoryPlace {
                    offset: from.u64()?,
                    length: from.u64()?,
                    digest: from.digest()?,
                },
                bases: from.list(Fields::identity)?,
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

fn put_folder(to: &mut Vec<u8>, folder: &Folder) {
    to.extend(folder.inode.to_le_bytes());
    put_list(to, folder.created.as_slice(), |to, time| to.extend(time.to_le_bytes()));
}

fn put_path(to: &mut Vec<u8>, path: &Path) {
    put_bytes(to, path.as_os_str().as_bytes());
}

fn put_fingerprint(to: &mut Vec<u8>, image: &Fingerprint) {
    put_path(to, &image.path);
    put_list(to, image.folder.as_slice(), put_folder);
    to.extend(image.inode.to_le_bytes());
    put_list(to, image.versions.as_slice(), |to, versions| {
        put_list(to, versions.image.as_slice(), put_version);
        put_list(to, versions.data_file.as_slice(), |to, (path, version)| {
            put_path(to, path);
            put_version(to, version);
        });
    });
}

fn put_content(to: &mut Vec<u8>, content: &Content) {
    to.extend(content.inode.to_le_bytes());
    to.extend(content.length.to_le_bytes());
    to.extend(content.beginning);
    put_list(to, content.written.as_slice(), |to, time| to.extend(time.to_le_bytes()));
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

    fn time(&mut self) -> Option<i128> {
        Some(i128::from_le_bytes(*self.take(16)?.first_chunk()?))
    }

    fn folder(&mut self) -> Option<Folder> {
        Some(Folder { inode: self.u64()?, created: self.list(Fields::time)?.pop() })
    }

    fn digest(&mut self) -> Option<[u8; 32]> {
        self.take(32)?.first_chunk().copied()
    }

    fn version(&mut self) -> Option<FileVersion> {
        Some(FileVersion { length: self.u64()?, modified: self.time()? })
    }

    fn content(&mut self) -> Option<Content> {
        Some(Content {
            inode: self.u64()?,
            length: self.u64()?,
            beginning: self.digest()?,
            written: self.list(Fields::time)?.pop(),
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        Some(Identity::from_bytes(*self.take(16)?.first_chunk()?))
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        Some(Fingerprint {
            path: self.path()?,
            folder: self.list(Fields::folder)?.pop(),
            inode: self.u64()?,
            versions: self.list(Fields::versions)?.pop(),
        })
    }

    fn versions(&mut self) -> Option<Versions> {
        let image = self.list(Fields::version)?.pop();
        Some(Versions { image, data_file: self.list(|from| Some((from.path()?, from.version()?)))?.pop() })
    }

    /// The path of a temporary file: whoever writes a journal by hand names no other file that is to go.
    fn temporary(&mut self) -> Option<PathBuf> {
        let path = self.path()?;
        let name = path.file_name()?.as_bytes();
        (name.starts_with(OWN_PREFIX.as_bytes()) && name.ends_with(b".tmp") && path.is_absolute())
            .then_some(path)
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
            image: Some(FileVersion { length: 65536, modified: -5 }),
            data_file: Some(("/a/disk.raw".into(), FileVersion { length: 1 << 20, modified: 1 << 70 })),
        };
        Fingerprint {
            path: path.into(),
            folder: Some(Folder { inode: 2, created: None }),
            inode: 1 << 40,
            versions: Some(versions),
        }
    }

    fn decided() -> Decided {
        let target = TargetRecord {
            temporary: "/b/.holstein-1.tmp".into(),
            path: "/b/inc.qcow2".into(),
            folder: Some(Folder { inode: 5, created: Some(1 << 80) }),
            content: Content { inode: 7, length: 1 << 33, beginning: [3; 32], written: Some(-6) },
            replaced: Some(Content { inode: 9, length: 1, beginning: [5; 32], written: None }),
            below: Some(image("/b/disk.qcow2")),
        };
        let source = Switch {
            image: image("/a/disk.qcow2"),
            directory: DirectoryPlace { offset: 0x50000, length: 40, digest: [4; 32] },
            bases: vec![Identity::from_bytes([6; 16]), Identity::from_bytes([7; 16])],
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
        expected.extend([3, 0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 2, 0, 0, 0, b'/', b'x']);
        assert_eq!(bytes[..expected.len()], expected);
        assert_eq!(bytes.len(), expected.len() + 32);
    }

    #[test]
    fn only_what_was_never_durable_is_empty() {
        let whole = Begun { temporaries: vec!["/a/.holstein-1.tmp".into()] }.encode();
        assert!(matches!(Begun::look(&whole), Look::Begun(_, length) if length == whole.len()));
        for length in 0..whole.len() {
            assert!(matches!(Begun::look(&whole[..length]), Look::Empty), "cut at {length}");
        }
        assert!(matches!(Begun::look(&[0; 10_000]), Look::Empty), "its length alone was durable");
        let mut torn = whole.clone();
        torn[40] ^= 1;
        assert!(matches!(Begun::look(&torn), Look::Empty));
        torn.resize(4096, 0);
        torn.extend(decided().encode());
        assert!(matches!(Begun::look(&torn), Look::Strange(reason) if reason.contains("damaged")));
        // Its second page alone was durable.
        let many = vec!["/a/.holstein-1.tmp".into(); 300];
        let mut later = Begun { temporaries: many }.encode();
        later[..4096].fill(0);
        assert!(matches!(Begun::look(&later), Look::Empty));
        later.resize(8192, 0);
        later.extend(decided().encode());
        assert!(matches!(Begun::look(&later), Look::Strange(_)));
        assert!(matches!(Begun::look(&[7; 4096]), Look::Empty), "bytes of an old file");
        assert!(matches!(Begun::look(&[7; 4097]), Look::Strange(_)));
        let mut other = whole.clone();
        other[16] = 1;
        assert!(matches!(Begun::look(&other), Look::Strange(reason) if reason.contains("version 1")));
        let image = [&b"QFI\xfb"[..], &[1; 8000]].concat();
        assert!(matches!(Begun::look(&image), Look::Strange(reason) if reason.contains("no journal")));
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
