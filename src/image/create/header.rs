//! The first cluster of a new image.

use zerocopy::IntoBytes;

use super::LayoutOptions;
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        extension,
        geometry::Geometry,
        header::{self, CompressionType, RawHeader, V2_LENGTH, autoclear, compatible, incompatible},
        lineage::Lineage,
    },
    memory,
};

/// Where the tables that the header names are.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) l1: u64,
    pub(super) l1_entries: u32,
    pub(super) refcount: u64,
    pub(super) refcount_clusters: u32,
}

/// Header, extensions, and the backing file's name behind them.
pub(super) fn first_cluster(
    options: &LayoutOptions,
    geometry: &Geometry,
    tables: &Tables,
) -> Result<Vec<u8>> {
    match with_extensions(options, geometry, tables, &options.lineage)? {
        Some(cluster) => Ok(cluster),
        // What an image descends from is good to know, and no reason not to make it.
        None => {
            with_extensions(options, geometry, tables, &Lineage::default())?.ok_or_else(|| no_room(options))
        }
    }
}

/// The same with this lineage, if there is room for it.
fn with_extensions(
    options: &LayoutOptions,
    geometry: &Geometry,
    tables: &Tables,
    lineage: &Lineage,
) -> Result<Option<Vec<u8>>> {
    let length = if options.version == 2 { V2_LENGTH } else { size_of::<RawHeader>() };
    let mut raw = raw_header(options, geometry, tables, length);
    let mut extensions = Vec::new();
    if let Some((_, format)) = &options.backing {
        extension::append(&mut extensions, extension::BACKING_FORMAT, format.to_string().as_bytes());
    }
    if let Some(data_file) = &options.data_file {
        extension::append(&mut extensions, extension::DATA_FILE, &data_file.name);
    }
    if !lineage.is_empty() {
        extension::append(&mut extensions, extension::LINEAGE, &lineage.encode());
    }
    extension::append(&mut extensions, extension::END, &[]);
    if let Some((name, _)) = &options.backing {
        if name.len() as u32 > header::MAX_BACKING_NAME {
            return Err(invalid(format!("the backing file's name has {} bytes, over 1023", name.len())));
        }
        raw.backing_file_offset = ((length + extensions.len()) as u64).into();
        raw.backing_file_size = (name.len() as u32).into();
        extensions.extend_from_slice(name);
    }
    let mut cluster = [&raw.as_bytes()[..length], &extensions].concat();
    if cluster.len() as u64 > options.cluster_size {
        return Ok(None);
    }
    memory::grow(&mut cluster, options.cluster_size as usize)?;
    Ok(Some(cluster))
}

fn no_room(options: &LayoutOptions) -> Error {
    let names = match (&options.backing, &options.data_file) {
        (Some(_), Some(_)) => "names of the backing file and the data file do",
        (None, Some(_)) => "data file's name does",
        _ => "backing file's name does",
    };
    invalid(format!("the {names} not fit into the first cluster; use larger clusters"))
}

fn raw_header(options: &LayoutOptions, geometry: &Geometry, tables: &Tables, length: usize) -> RawHeader {
    let zstd = options.compression == CompressionType::Zstd;
    let raw_data_file = options.data_file.as_ref().is_some_and(|data_file| data_file.raw);
    let bits = |list: &[(bool, u64)]| list.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
    let incompatible_features = bits(&[
        (options.data_file.is_some(), incompatible::DATA_FILE),
        (zstd, incompatible::COMPRESSION_TYPE),
        (options.extended_l2, incompatible::EXTENDED_L2),
    ]);
    RawHeader {
        magic: header::MAGIC.into(),
        version: options.version.into(),
        backing_file_offset: 0.into(),
        backing_file_size: 0.into(),
        cluster_bits: geometry.cluster_bits.into(),
        size: options.size.into(),
        crypt_method: 0.into(),
        l1_size: tables.l1_entries.into(),
        l1_table_offset: tables.l1.into(),
        refcount_table_offset: tables.refcount.into(),
        refcount_table_clusters: tables.refcount_clusters.into(),
        nb_snapshots: 0.into(),
        snapshots_offset: 0.into(),
        incompatible_features: incompatible_features.into(),
        compatible_features: bits(&[(options.lazy_refcounts, compatible::LAZY_REFCOUNTS)]).into(),
        autoclear_features: bits(&[(raw_data_file, autoclear::DATA_FILE_RAW)]).into(),
        refcount_order: geometry.refcount_order.into(),
        header_length: (length as u32).into(),
        compression_type: zstd.into(),
        padding: [0; 7],
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}
