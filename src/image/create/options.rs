//! What a caller can ask of a new image, and which wishes go together.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    error::{Error, ErrorKind, Result},
    format::header::CompressionType,
    image::{Format, ImageOptions},
};

/// Clusters of a new image when nothing else is said.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;
const DEFAULT_REFCOUNT_BITS: u32 = 16;
/// Below this a subcluster would be smaller than a sector.
const LEAST_EXTENDED_CLUSTER: u64 = 16 << 10;

/// Versions of the format, which QEMU calls compatibility levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Version 2, "0.10": for programs that know nothing newer. No zero clusters, no bitmaps.
    V2,
    /// Version 3, "1.1".
    #[default]
    V3,
}

/// What is done for a guest's clusters before the guest writes to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Each gets its place and its entry in the tables. No data is written, the file is sparse.
    Metadata,
}

/// What to do when the target exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Fail.
    #[default]
    Refuse,
    /// Replace it, in the moment that the new one is complete.
    Overwrite,
}

/// The image that a target is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name as the target records it; a relative one starts from the target's folder.
    pub name: PathBuf,
    /// Its format.
    pub format: Format,
}

/// Options of a new qcow2 image; the default is what `qemu-img create` makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// The version of the format.
    pub compat: Compat,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB; 64 KiB when not given.
    pub cluster_size: Option<u64>,
    /// Width of a refcount: 1, 2, 4, ... 64 bits; 16 when not given, and always in version 2.
    pub refcount_bits: Option<u32>,
    /// Clusters, of at least 16 KiB, are divided into 32 subclusters.
    pub extended_l2: bool,
    /// How clusters are compressed that will be.
    pub compression_type: CompressionType,
    /// The image below. It must exist and be readable, and `open` must allow to open it.
    pub backing: Option<Backing>,
    /// The name of a file for the guest's data. A relative one starts from the image's folder; QEMU starts from
    /// its working directory, so an absolute one serves both. The file is made, and must not exist yet; with
    /// `data_file_raw` it may: then it is the disk as it is, and is not changed.
    pub data_file: Option<PathBuf>,
    /// The data file is a raw image of the disk. Implies [`Preallocation::Metadata`].
    pub data_file_raw: bool,
    /// Writers may postpone refcount updates.
    pub lazy_refcounts: bool,
    /// What is done for the guest's clusters in advance.
    pub preallocation: Preallocation,
    /// What to do when the image exists. A data file that exists is never replaced.
    pub existing: Existing,
    /// How the new disk is opened.
    pub open: ImageOptions,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}

impl CreateOptions {
    pub(crate) fn cluster_size(&self) -> u64 {
        self.cluster_size.unwrap_or(DEFAULT_CLUSTER_SIZE)
    }

    pub(crate) fn refcount_bits(&self) -> u32 {
        self.refcount_bits.unwrap_or(DEFAULT_REFCOUNT_BITS)
    }

    /// A raw data file must be the disk at any time, also before the first write: what a table leaves out would
    /// read as zero whatever the file holds.
    pub(crate) fn is_preallocated(&self) -> bool {
        self.preallocation == Preallocation::Metadata || self.data_file_raw
    }

    /// Refuses what no image can be, and what contradicts itself.
    pub(crate) fn check(&self) -> Result<()> {
        check_cluster_size(self.cluster_size())?;
        let bits = self.refcount_bits();
        if !bits.is_power_of_two() || bits > 64 {
            return Err(invalid(format!(
                "a refcount of {bits} bits cannot be; use 1, 2, 4, 8, 16, 32 or 64"
            )));
        }
        if self.compat == Compat::V2 {
            self.check_version_2()?;
        }
        if self.extended_l2 && self.cluster_size() < LEAST_EXTENDED_CLUSTER {
            return Err(invalid("extended L2 entries need clusters of at least 16384 bytes (16 KiB)"));
        }
        self.check_data_file()?;
        if self.preallocation == Preallocation::Metadata && self.backing.is_some() && !self.extended_l2 {
            return Err(invalid(
                "preallocated clusters would hide the backing file; leave preallocation off, or use extended L2 \
                 entries, in which they can show it",
            ));
        }
        if self.open.format != Format::Qcow2 {
            return Err(invalid(format!(
                "a new image is qcow2 and cannot be opened as {}",
                self.open.format
            )));
        }
        self.open.check()
    }

    fn check_version_2(&self) -> Result<()> {
        let bits = self.refcount_bits();
        let lacks = if bits != 16 {
            format!("refcounts of {bits} bits, only of 16")
        } else if self.extended_l2 {
            "extended L2 entries".to_owned()
        } else if self.compression_type != CompressionType::Zlib {
            format!("compression type {}, only zlib", self.compression_type)
        } else if self.lazy_refcounts {
            "lazy refcounts".to_owned()
        } else if self.data_file.is_some() {
            "external data files".to_owned()
        } else {
            return Ok(());
        };
        Err(invalid(format!("version 2 (compat 0.10) has no {lacks}; use version 3 (compat 1.1)")))
    }

    fn check_data_file(&self) -> Result<()> {
        if self.data_file.is_none() {
            return match self.data_file_raw {
                true => Err(invalid("only a data file can be raw; name the data file, or leave out 'raw'")),
                false => Ok(()),
            };
        }
        if self.compression_type != CompressionType::Zlib {
            return Err(invalid(format!(
                "clusters in a data file cannot be compressed; leave out compression type {}",
                self.compression_type
            )));
        }
        if self.data_file_raw && self.backing.is_some() {
            let text = "a raw data file is the whole disk, with nothing below it; leave out the backing file, or 'raw'";
            return Err(invalid(text));
        }
        Ok(())
    }
}

pub(crate) fn check_cluster_size(bytes: u64) -> Result<()> {
    if !bytes.is_power_of_two() || !(512..=2 << 20).contains(&bytes) {
        let text = format!("cluster size {bytes} is no power of two from 512 to 2097152 (2 MiB)");
        return Err(invalid(text));
    }
    Ok(())
}

impl FromStr for Compat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "0.10" => Ok(Compat::V2),
            "1.1" => Ok(Compat::V3),
            _ => Err(invalid(format!("unknown compatibility level '{text}'; use 0.10 or 1.1"))),
        }
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compat::V2 => "0.10",
            Compat::V3 => "1.1",
        })
    }
}

impl FromStr for Preallocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "off" => Ok(Preallocation::Off),
            "metadata" => Ok(Preallocation::Metadata),
            "falloc" | "full" => {
                let text = format!("preallocation '{text}' is not supported; use off or metadata");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            _ => Err(invalid(format!("unknown preallocation '{text}'; use off or metadata"))),
        }
    }
}

impl fmt::Display for Preallocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preallocation::Off => "off",
            Preallocation::Metadata => "metadata",
        })
    }
}

impl FromStr for CompressionType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "zlib" => Ok(CompressionType::Zlib),
            "zstd" => Ok(CompressionType::Zstd),
            _ => Err(invalid(format!("unknown compression type '{text}'; use zlib or zstd"))),
        }
    }
}
