//! The first cluster of an image, rewritten so that one sector decides.
//!
//! The fields that say which bitmaps and which refcount table there are must change together. A write of 512
//! bytes at the start of the file is the largest that is assumed to arrive as a whole; so the header and the
//! extensions that matter are brought into the first sector, the bitmaps extension first. The table of feature
//! names, which only explains, goes where it stands in the way; QEMU writes it again when it writes the header.

use std::mem::offset_of;

use zerocopy::IntoBytes;

use super::refcounts::NewTable;
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        extension::{self, BitmapsExtension, RawExtension},
        header::{Header, RawHeader, autoclear},
        lineage::{FLAGS, Identity, Lineage},
        read_struct,
    },
    memory,
    storage::{self, File},
};

const SECTOR: usize = 512;

/// What shall become of the header; the default changes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderChange {
    /// `None`: the bitmaps extension stays as it is.
    pub(crate) bitmaps: Option<BitmapsField>,
    /// What the bitmaps count from, where they change; as much of it as there is room for.
    pub(crate) lineage: Option<Lineage>,
    pub(crate) refcount_table: Option<NewTable>,
    pub(crate) disk: Option<NewDisk>,
    pub(crate) snapshots: Option<SnapshotTable>,
    /// Incompatible feature bits to be cleared.
    pub(crate) clear_incompatible: u64,
    /// Somebody else decides, later: until then the old header is marked.
    pub(crate) decided_later: bool,
}

/// What a bitmaps extension shall say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitmapsField {
    /// The image has no bitmaps.
    None,
    /// Its bitmap directory is there.
    Directory { count: u32, offset: u64, size: u64 },
}

/// Where the snapshot table lies; of no snapshots, nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotTable {
    pub(crate) count: u32,
    pub(crate) offset: u64,
}

/// The size of the disk, and its L1 table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewDisk {
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u32,
}

/// Refuses an image whose header has no room for a directory of bitmaps.
pub(crate) fn check_room_for_bitmaps(file: &File, header: &Header) -> Result<()> {
    let bitmaps = Some(BitmapsField::Directory { count: 1, offset: 0, size: 0 });
    NewHeader::build(file, header, &HeaderChange { bitmaps, ..HeaderChange::default() }).map(drop)
}

/// Clears autoclear bits that we do not know, before anything else is written; false if there are none.
pub(crate) fn clear_unknown_autoclear(file: &File, header: &Header) -> Result<bool> {
    let known = known_autoclear(header);
    if known == header.autoclear {
        return Ok(false);
    }
    write_autoclear(file, known)?;
    Ok(true)
}

/// Writes, durably, before an image's disk is changed, that the image is not the backup any more that it was, and the size that
/// the disk has. False where both is said already.
pub(crate) fn settle_lineage(file: &File, header: &Header) -> Result<bool> {
    let Some(lineage) = &header.extensions.lineage else { return Ok(false) };
    let new = lineage.changed().of_size(header.size);
    if new == *lineage {
        return Ok(false);
    }
    clear_unknown_autoclear(file, header)?;
    if new.flags() != lineage.flags() {
        let mut cluster = memory::zeroed(header.geometry.cluster_size() as usize)?;
        let got = file.read_up_to(&mut cluster, 0)?;
        for (kind, place) in extension::places(&cluster[..got], header.extension_area.clone())? {
            // One byte, in place: no write of it can be torn.
            if kind == extension::LINEAGE && place.len() > FLAGS {
                file.write_all(&[new.flags()], (place.start + FLAGS) as u64)?;
            }
        }
        file.sync()?;
    }
    if new.bases != lineage.bases {
        // Other programs put it behind the first sector.
        let change = HeaderChange { lineage: Some(new), ..HeaderChange::default() };
        let noted = NewHeader::build(file, header, &change)?;
        noted.write_outside(file)?;
        file.sync()?;
        noted.publish(file)?;
    }
    Ok(true)
}

fn write_autoclear(file: &File, bits: u64) -> Result<()> {
    file.write_all(&bits.to_be_bytes(), AUTOCLEAR as u64)
}

/// Marks the header of an image whose change is staged ([`autoclear::STAGED`]), each time otherwise. False for version 2,
/// which has no such bits.
pub(super) fn mark_staged(file: &File, header: &Header) -> Result<bool> {
    if header.version < 3 {
        return Ok(false);
    }
    let random = storage::random().map_err(|e| Error::io("cannot get random bytes", e))?;
    let by = u64::from_ne_bytes(*random.first_chunk().unwrap_or(&[0; 8])) & autoclear::STAGED_BY;
    write_autoclear(file, known_autoclear(header) | autoclear::STAGED | by)?;
    Ok(true)
}

/// Takes that mark away again, of a change that is not made.
pub(super) fn clear_mark(file: &File, header: &Header) -> Result<()> {
    write_autoclear(file, known_autoclear(header))
}

fn known_autoclear(header: &Header) -> u64 {
    header.autoclear & (autoclear::BITMAPS | autoclear::DATA_FILE_RAW)
}

/// Whether a first sector of version 3 has the mark of a staged change.
pub(crate) fn is_marked(sector: &[u8]) -> bool {
    let version = sector.get(4..8).is_some_and(|version| version >= &[0, 0, 0, 3]);
    version && field(sector, AUTOCLEAR).is_ok_and(|bits| u64::from_be_bytes(bits) & autoclear::STAGED != 0)
}

/// The same sector as the first writer leaves it that does not know the mark.
pub(crate) fn without_mark(sector: &[u8]) -> Vec<u8> {
    let mut sector = sector.to_vec();
    if is_marked(&sector) {
        let mark = (autoclear::STAGED | autoclear::STAGED_BY).to_be_bytes();
        sector[AUTOCLEAR..].iter_mut().zip(mark).for_each(|(byte, mark)| *byte &= !mark);
    }
    sector
}

/// The backups that bitmaps count from, as a first sector says that we have made.
pub(crate) fn bases_in(sector: &[u8]) -> Vec<Identity> {
    let length = sector.get(offset_of!(RawHeader, header_length)..).and_then(<[u8]>::first_chunk);
    let area = length.map_or(0, |length| u32::from_be_bytes(*length)) as usize..sector.len();
    let places = extension::places(sector, area).unwrap_or_default();
    let own = places.into_iter().find(|(kind, _)| *kind == extension::LINEAGE);
    let lineage = own.and_then(|(_, place)| Lineage::parse(sector.get(place)?)).unwrap_or_default();
    lineage.bases.into_iter().map(|(_, base)| base.backup).collect()
}

/// A new header, ready to be written.
#[derive(Debug)]
pub(crate) struct NewHeader {
    sector: Vec<u8>,
    /// The backing file's name, where it has to move: its new place, and the name.
    moved_name: Option<(u64, Vec<u8>)>,
}

const BACKING_OFFSET: usize = offset_of!(RawHeader, backing_file_offset);
const AUTOCLEAR: usize = offset_of!(RawHeader, autoclear_features);

impl NewHeader {
    /// The header of `file`, which is parsed in `header`, with a change made.
    pub(crate) fn build(file: &File, header: &Header, change: &HeaderChange) -> Result<Self> {
        let mut cluster = memory::zeroed(header.geometry.cluster_size() as usize)?;
        let got = file.read_up_to(&mut cluster, 0)?;
        // A file may end in its first cluster; what is there but was not read would get lost.
        if got < header.length || (got < cluster.len() && (got as u64) < file.len()?) {
            return Err(
                file.error(ErrorKind::Corrupt, format!("the file ends at byte {got} inside its header"))
            );
        }
        cluster.truncate(got);
        let no_room = || {
            let text = "the header has no room for the bitmaps extension beside the others in its first 512 bytes; if the \
                        name of the data file is long, record a shorter one (qemu-img amend -o data_file=NAME)";
            file.error(ErrorKind::Unsupported, text)
        };
        let own = header.extensions.lineage.clone().unwrap_or_default();
        // Another program may let the disk grow again: what it made of the size is noted by each header that we write.
        let mut lineage = change.lineage.clone().unwrap_or_else(|| own.clone()).of_size(header.size);
        let mut new = match change.bitmaps {
            Some(bitmaps) => loop {
                match rearrange(header, &cluster, bitmaps, &lineage)? {
                    Some(new) => break new,
                    None if lineage.shorten() => {}
                    None => return Err(no_room()),
                }
            },
            None => {
                let bitmaps = current_bitmaps(header).filter(|_| lineage != own);
                let noted =
                    bitmaps.map(|bitmaps| rearrange(header, &cluster, bitmaps, &lineage)).transpose()?;
                noted.flatten().unwrap_or_else(|| NewHeader {
                    sector: cluster.get(..SECTOR.min(cluster.len())).unwrap_or_default().to_vec(),
                    moved_name: None,
                })
            }
        };
        new.set_fields(change);
        Ok(new)
    }

    fn set_fields(&mut self, change: &HeaderChange) {
        let mut set = |at: usize, bytes: &[u8]| self.sector[at..at + bytes.len()].copy_from_slice(bytes);
        if let Some(table) = change.refcount_table {
            set(offset_of!(RawHeader, refcount_table_offset), &table.offset.to_be_bytes());
            set(offset_of!(RawHeader, refcount_table_clusters), &(table.clusters as u32).to_be_bytes());
        }
        if let Some(disk) = change.disk {
            set(offset_of!(RawHeader, size), &disk.size.to_be_bytes());
            set(offset_of!(RawHeader, l1_size), &disk.l1_entries.to_be_bytes());
            set(offset_of!(RawHeader, l1_table_offset), &disk.l1_offset.to_be_bytes());
        }
        if let Some(table) = change.snapshots {
            set(offset_of!(RawHeader, nb_snapshots), &table.count.to_be_bytes());
            set(offset_of!(RawHeader, snapshots_offset), &table.offset.to_be_bytes());
        }
        // Version 2 has something else there, and no such bits to clear.
        if change.clear_incompatible != 0 {
            let at = offset_of!(RawHeader, incompatible_features);
            for (byte, clear) in self.sector[at..].iter_mut().zip(change.clear_incompatible.to_be_bytes()) {
                *byte &= !clear;
            }
        }
    }

    /// Writes what lies outside the deciding sector; the old header does not refer to it.
    pub(crate) fn write_outside(&self, file: &File) -> Result<()> {
        match &self.moved_name {
            Some((offset, name)) => file.write_all(name, *offset),
            None => Ok(()),
        }
    }

    /// The bytes that decide.
    pub(crate) fn sector(&self) -> &[u8] {
        &self.sector
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

/// The bitmaps extension as it is, if the bitmaps count.
fn current_bitmaps(header: &Header) -> Option<BitmapsField> {
    let extension = header.extensions.bitmaps.as_ref().filter(|_| header.bitmaps_are_current())?;
    Some(BitmapsField::Directory {
        count: extension.nb_bitmaps.get(),
        offset: extension.directory_offset.get(),
        size: extension.directory_size.get(),
    })
}

/// The first sector with another bitmaps extension; `None` when that has no room.
fn rearrange(
    header: &Header,
    cluster: &[u8],
    bitmaps: BitmapsField,
    lineage: &Lineage,
) -> Result<Option<NewHeader>> {
    let cluster_size = header.geometry.cluster_size() as usize;
    let Some(mut sector) = cluster.get(..header.length).map(<[u8]>::to_vec) else { return Ok(None) };
    if let BitmapsField::Directory { count, offset, size } = bitmaps {
        let body = BitmapsExtension {
            nb_bitmaps: count.into(),
            reserved: 0.into(),
            directory_size: size.into(),
            directory_offset: offset.into(),
        };
        extension::append(&mut sector, extension::BITMAPS, body.as_bytes());
    }
    let mut names = None;
    for (kind, data) in extension::split(cluster, header.extension_area.clone())? {
        match kind {
            extension::BITMAPS => {}
            extension::FEATURE_NAMES => names = Some(data),
            extension::LINEAGE if header.extensions.lineage.is_some() => {}
            _ => extension::append(&mut sector, kind, data),
        }
    }
    if !lineage.is_empty() {
        extension::append(&mut sector, extension::LINEAGE, &lineage.encode());
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
        return Ok(None);
    }

    if header.backing_name.is_none() {
        // A place without a name would end the extensions there.
        sector[BACKING_OFFSET..BACKING_OFFSET + 12].fill(0);
    }
    let mut moved_name = None;
    if let Some(name) = &header.backing_name {
        let old = u64::from_be_bytes(field(cluster, BACKING_OFFSET)?) as usize;
        let end = old + name.len();
        if old < sector.len() && sector.len() + name.len() <= room {
            let new = sector.len() as u64;
            sector[BACKING_OFFSET..BACKING_OFFSET + 8].copy_from_slice(&new.to_be_bytes());
            sector.extend_from_slice(name);
        } else if old < sector.len() {
            // Behind everything that either header uses, so that both are whole at any moment.
            let new = end.max(sector.len()).next_multiple_of(8).max(room);
            if new + name.len() > cluster_size {
                return Ok(None);
            }
            sector[BACKING_OFFSET..BACKING_OFFSET + 8].copy_from_slice(&(new as u64).to_be_bytes());
            moved_name = Some((new as u64, name.clone()));
        } else if old < room {
            sector.resize(old, 0);
            sector.extend_from_slice(&name[..name.len().min(room - old)]);
        }
    }
    sector.resize(room, 0);
    // Version 2 has no feature bits, and something else there.
    if header.version < 3 {
        return Ok(Some(NewHeader { sector, moved_name }));
    }

    let mut bits = header.autoclear & autoclear::DATA_FILE_RAW;
    if bitmaps != BitmapsField::None {
        bits |= autoclear::BITMAPS;
    }
    sector[AUTOCLEAR..AUTOCLEAR + 8].copy_from_slice(&bits.to_be_bytes());
    Ok(Some(NewHeader { sector, moved_name }))
}

fn field(cluster: &[u8], at: usize) -> Result<[u8; 8]> {
    read_struct(cluster.get(at..).unwrap_or_default(), "header")
}
