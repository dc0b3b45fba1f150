//! The first cluster of an image, rewritten so that one sector decides.
//!
//! The fields that say which bitmaps and which refcount table there are must change together. A write of 512
//! bytes at the start of the file is the largest that is assumed to arrive as a whole; so the header and the
//! extensions that matter are brought into the first sector, the bitmaps extension first. The table of feature
//! names, which only explains, goes where it stands in the way; QEMU writes it again when it writes the header.

use zerocopy::IntoBytes;

use super::refcounts::NewTable;
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        extension::{self, BitmapsExtension, RawExtension},
        header::autoclear,
        read_struct,
    },
    image::Qcow2,
    storage::File,
};

const SECTOR: usize = 512;

/// What shall become of the bitmaps extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderChange {
    /// The image has no bitmaps.
    NoBitmaps,
    /// Its bitmap directory is there.
    Bitmaps { count: u32, offset: u64, size: u64 },
}

/// Clears autoclear bits that we do not know, before anything else is written; false if there are none.
pub(crate) fn clear_unknown_autoclear(image: &Qcow2) -> Result<bool> {
    let known = image.header().autoclear & (autoclear::BITMAPS | autoclear::DATA_FILE_RAW);
    if known == image.header().autoclear {
        return Ok(false);
    }
    image.file().write_all(&known.to_be_bytes(), AUTOCLEAR as u64)?;
    Ok(true)
}

/// A new header, ready to be written.
#[derive(Debug)]
pub(crate) struct NewHeader {
    sector: Vec<u8>,
    /// The backing file's name, where it has to move: its new place, and the name.
    moved_name: Option<(u64, Vec<u8>)>,
}

const BACKING_OFFSET: usize = 8;
const REFCOUNT_TABLE_OFFSET: usize = 48;
const REFCOUNT_TABLE_CLUSTERS: usize = 56;
const AUTOCLEAR: usize = 88;

impl NewHeader {
    pub(crate) fn build(image: &Qcow2, change: HeaderChange, table: Option<NewTable>) -> Result<Self> {
        let header = image.header();
        let cluster_size = image.geometry().cluster_size() as usize;
        let mut cluster = vec![0; cluster_size];
        let got = image.file().read_up_to(&mut cluster, 0)?;
        cluster.truncate(got);
        let no_room = || {
            let text = "the header has no room for the bitmaps extension";
            image.file().error(ErrorKind::Unsupported, text)
        };

        let mut sector = cluster.get(..header.length).ok_or_else(no_room)?.to_vec();
        if let HeaderChange::Bitmaps { count, offset, size } = change {
            let body = BitmapsExtension {
                nb_bitmaps: count.into(),
                reserved: 0.into(),
                directory_size: size.into(),
                directory_offset: offset.into(),
            };
            extension::append(&mut sector, extension::BITMAPS, body.as_bytes());
        }
        let mut names = None;
        for (kind, data) in extension::split(&cluster, header.extension_area.clone())? {
            match kind {
                extension::BITMAPS => {}
                extension::FEATURE_NAMES => names = Some(data),
                _ => extension::append(&mut sector, kind, data),
            }
        }
        let room = cluster_size.min(SECTOR);
        let end_mark = size_of::<RawExtension>();
        if let Some(names) = names
            && sector.len() + end_mark + names.len() + end_mark <= room
        {
            extension::append(&mut sector, extension::FEATURE_NAMES, names);
        }
        extension::append(&mut sector, extension::END, &[]);
        if sector.len() > room {
            return Err(no_room());
        }

        let mut moved_name = None;
        if let Some(name) = &header.backing_name {
            let old = u64::from_be_bytes(field(&cluster, BACKING_OFFSET)?) as usize;
            let end = old + name.len();
            if old < sector.len() && sector.len() + name.len() <= room {
                let new = sector.len() as u64;
                sector[BACKING_OFFSET..BACKING_OFFSET + 8].copy_from_slice(&new.to_be_bytes());
                sector.extend_from_slice(name);
            } else if old < sector.len() {
                // Behind everything that either header uses, so that both are whole at any moment.
                let new = end.max(sector.len()).next_multiple_of(8).max(room);
                if new + name.len() > cluster_size {
                    return Err(no_room());
                }
                sector[BACKING_OFFSET..BACKING_OFFSET + 8].copy_from_slice(&(new as u64).to_be_bytes());
                moved_name = Some((new as u64, name.clone()));
            } else if old < room {
                sector.resize(old, 0);
                sector.extend_from_slice(&name[..name.len().min(room - old)]);
            }
        }
        sector.resize(room, 0);

        if let Some(table) = table {
            sector[REFCOUNT_TABLE_OFFSET..REFCOUNT_TABLE_OFFSET + 8]
                .copy_from_slice(&table.offset.to_be_bytes());
            let clusters = (table.clusters as u32).to_be_bytes();
            sector[REFCOUNT_TABLE_CLUSTERS..REFCOUNT_TABLE_CLUSTERS + 4].copy_from_slice(&clusters);
        }
        let mut bits = header.autoclear & autoclear::DATA_FILE_RAW;
        if change != HeaderChange::NoBitmaps {
            bits |= autoclear::BITMAPS;
        }
        sector[AUTOCLEAR..AUTOCLEAR + 8].copy_from_slice(&bits.to_be_bytes());
        Ok(NewHeader { sector, moved_name })
    }

    /// Writes what lies outside the deciding sector; the old header does not refer to it.
    pub(crate) fn write_outside(&self, file: &File) -> Result<()> {
        match &self.moved_name {
            Some((offset, name)) => file.write_all(name, *offset),
            None => Ok(()),
        }
    }

    /// Decides. On an error nobody knows which of the two headers is there.
    pub(crate) fn publish(&self, file: &File) -> Result<()> {
        let unknown = |e: Error| {
            file.refuse_writes();
            e.within("the change may or may not have been made")
        };
        file.write_all(&self.sector, 0).map_err(unknown)?;
        file.sync().map_err(unknown)
    }
}

fn field(cluster: &[u8], at: usize) -> Result<[u8; 8]> {
    read_struct(cluster.get(at..).unwrap_or_default(), "header")
}
