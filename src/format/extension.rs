//! Header extensions: those we know, checked, and all others kept as they were read.

use std::ops::Range;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    big_endian::{U32, U64},
};

use super::{corrupt, lineage::Lineage, read_struct};
use crate::error::Result;

pub(crate) const END: u32 = 0;
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(crate) const BITMAPS: u32 = 0x2385_2875;
pub(crate) const LUKS_HEADER: u32 = 0x0537_be77;
pub(crate) const DATA_FILE: u32 = 0x4441_5441;
/// Holstein's own: "HOLS".
pub(crate) const LINEAGE: u32 = 0x484f_4c53;

/// More than any program writes; each is kept.
const MAX_EXTENSIONS: usize = 1024;

/// QEMU refuses longer backing format names.
const MAX_BACKING_FORMAT: usize = 15;

/// What precedes each extension's data; the data is padded to 8 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct RawExtension {
    pub(crate) kind: U32,
    pub(crate) length: U32,
}

/// Where the bitmap directory lies.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct BitmapsExtension {
    pub(crate) nb_bitmaps: U32,
    pub(crate) reserved: U32,
    pub(crate) directory_size: U64,
    pub(crate) directory_offset: U64,
}
const _: () = assert!(size_of::<BitmapsExtension>() == 24);

/// One entry of the feature name table.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub(crate) class: u8,
    pub(crate) bit: u8,
    name: [u8; 46],
}
const _: () = assert!(size_of::<FeatureName>() == 48);

impl FeatureName {
    pub(crate) fn is_incompatible(&self) -> bool {
        self.class == 0
    }

    pub(crate) fn text(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..end]
    }
}

/// An extension that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownExtension {
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// All extensions of a header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) backing_format: Option<Vec<u8>>,
    pub(crate) data_file: Option<Vec<u8>>,
    pub(crate) bitmaps: Option<BitmapsExtension>,
    /// There is a pointer to an encryption header.
    pub(crate) luks: bool,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) unknown: Vec<UnknownExtension>,
}

impl Extensions {
    /// Walks the extensions in `area` of the header's cluster. `check_features` judges the feature bits with
    /// the names found, before an unknown feature's extensions are complained about.
    pub(crate) fn parse(
        cluster: &[u8],
        area: Range<usize>,
        check_features: impl Fn(&[FeatureName]) -> Result<()>,
    ) -> Result<Extensions> {
        let found = split(cluster, area);
        let names = match &found {
            Ok(list) => feature_names(list),
            Err(_) => Ok(Vec::new()),
        };
        check_features(names.as_deref().unwrap_or_default())?;
        names?;

        let mut extensions = Extensions::default();
        let mut seen = Vec::new();
        for (kind, data) in found? {
            let known = [BACKING_FORMAT, FEATURE_NAMES, BITMAPS, LUKS_HEADER, DATA_FILE].contains(&kind);
            if known && seen.contains(&kind) {
                return Err(corrupt(format!("the header extension {kind:#010x} is there twice")));
            }
            seen.push(kind);
            extensions.take(kind, data)?;
        }
        Ok(extensions)
    }

    fn take(&mut self, kind: u32, data: &[u8]) -> Result<()> {
        match kind {
            BACKING_FORMAT if data.len() > MAX_BACKING_FORMAT => {
                return Err(corrupt(format!("the backing format name has {} bytes, over 15", data.len())));
            }
            BACKING_FORMAT => self.backing_format = Some(data.to_vec()),
            DATA_FILE => self.data_file = Some(data.to_vec()),
            BITMAPS if data.len() != size_of::<BitmapsExtension>() => {
                return Err(corrupt(format!("the bitmaps extension has {} bytes instead of 24", data.len())));
            }
            BITMAPS => self.bitmaps = Some(read_struct(data, "bitmaps extension")?),
            FEATURE_NAMES => {}
            LUKS_HEADER if data.len() != 16 => {
                return Err(corrupt(format!(
                    "the encryption extension has {} bytes instead of 16",
                    data.len()
                )));
            }
            LUKS_HEADER => self.luks = true,
            LINEAGE if let Some(lineage) = Lineage::parse(data) => self.lineage = Some(lineage),
            _ => self.unknown.push(UnknownExtension { kind, data: data.to_vec() }),
        }
        Ok(())
    }
}

/// The extensions in `area` of the header's cluster, in their order, with their data.
pub(crate) fn split(cluster: &[u8], area: Range<usize>) -> Result<Vec<(u32, &[u8])>> {
    let places = places(cluster, area)?;
    Ok(places.into_iter().map(|(kind, place)| (kind, &cluster[place])).collect())
}

/// The same with the places of their data in the cluster.
pub(crate) fn places(cluster: &[u8], area: Range<usize>) -> Result<Vec<(u32, Range<usize>)>> {
    let end = area.end;
    let mut rest = cluster.get(area).ok_or_else(|| corrupt("the file ends inside the header"))?;
    let mut list = Vec::new();
    // An area that is used up ends the list as well as an end mark does.
    while rest.len() >= size_of::<RawExtension>() {
        let head: RawExtension = read_struct(rest, "header extension")?;
        let (kind, length) = (head.kind.get(), head.length.get() as usize);
        rest = &rest[size_of::<RawExtension>()..];
        let at = end - rest.len();
        if rest.get(..length).is_none() {
            return Err(corrupt(format!("the header extension {kind:#010x} is too large: {length} bytes")));
        }
        if kind == END {
            break;
        }
        if list.len() == MAX_EXTENSIONS {
            return Err(corrupt(format!("the header has more than {MAX_EXTENSIONS} extensions")));
        }
        list.push((kind, at..at + length));
        rest = &rest[length.next_multiple_of(8).min(rest.len())..];
    }
    Ok(list)
}

fn feature_names(list: &[(u32, &[u8])]) -> Result<Vec<FeatureName>> {
    let Some((_, data)) = list.iter().find(|(kind, _)| *kind == FEATURE_NAMES) else {
        return Ok(Vec::new());
    };
    match <[FeatureName]>::ref_from_bytes(data) {
        Ok(names) => Ok(names.to_vec()),
        Err(_) => Err(corrupt(format!("the feature name table has {} bytes, no multiple of 48", data.len()))),
    }
}

/// Appends an extension, or with [`END`] the end mark, to a header.
pub(crate) fn append(to: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let head = RawExtension { kind: kind.into(), length: (data.len() as u32).into() };
    to.extend_from_slice(head.as_bytes());
    to.extend_from_slice(data);
    to.resize(to.len().next_multiple_of(8), 0);
}
