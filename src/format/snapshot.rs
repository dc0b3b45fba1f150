//! The snapshot table: walked to list the snapshots and to know which tables they own.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    big_endian::{U16, U32, U64},
};

use super::{corrupt, geometry::Geometry, header::MAX_L1_BYTES, read_struct};
use crate::error::Result;

/// Largest snapshot table in bytes; QEMU's limit.
pub(crate) const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Most extra data of an entry in bytes; QEMU's limit.
const MAX_EXTRA: u32 = 1024;
/// The extra data that QEMU writes: size of the VM state, disk size, instruction count.
const FULL_EXTRA: u32 = 24;
/// The least that version 3 asks for, which older versions of QEMU wrote.
const COMPLETE_EXTRA: u32 = 16;
/// Longest name of a new snapshot in bytes: QEMU shows no more of it.
pub(crate) const MAX_NAME: usize = 255;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawSnapshot {
    l1_table_offset: U64,
    l1_size: U32,
    id_size: U16,
    name_size: U16,
    date_sec: U32,
    date_nsec: U32,
    vm_clock_nsec: U64,
    vm_state_size: U32,
    extra_data_size: U32,
}
const _: () = assert!(size_of::<RawSnapshot>() == 40);

/// One internal snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u32,
    pub(crate) id: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) date_sec: u32,
    pub(crate) date_nsec: u32,
    pub(crate) vm_clock_nsec: u64,
    pub(crate) vm_state_size: u64,
    pub(crate) disk_size: Option<u64>,
    pub(crate) icount: Option<u64>,
}

impl Snapshot {
    /// What speaks against where its L1 table lies.
    pub(crate) fn doubt_l1_table(&self, geometry: &Geometry) -> Option<String> {
        let bytes = self.l1_bytes();
        if bytes > MAX_L1_BYTES || !geometry.is_aligned(self.l1_offset) {
            return Some(format!("its L1 table ({bytes} bytes at {:#x}) is invalid", self.l1_offset));
        }
        None
    }

    /// Bytes of its L1 table.
    pub(crate) fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }

    /// An entry in which nothing is left, as one of zeros.
    pub(crate) fn is_empty(&self) -> bool {
        self.id.is_empty() && self.name.is_empty() && self.l1_entries == 0
    }

    /// Appends the entry to a table, with the extra data that QEMU writes, and padded to a multiple of 8. The id and
    /// the name have at most 65,535 bytes.
    pub(crate) fn append(&self, table: &mut Vec<u8>) {
        let extra: [U64; 3] = [
            self.vm_state_size.into(),
            self.disk_size.unwrap_or(0).into(),
            self.icount.unwrap_or(u64::MAX).into(),
        ];
        let raw = RawSnapshot {
            l1_table_offset: self.l1_offset.into(),
            l1_size: self.l1_entries.into(),
            id_size: (self.id.len() as u16).into(),
            name_size: (self.name.len() as u16).into(),
            date_sec: self.date_sec.into(),
            date_nsec: self.date_nsec.into(),
            vm_clock_nsec: self.vm_clock_nsec.into(),
            vm_state_size: u32::try_from(self.vm_state_size).unwrap_or(u32::MAX).into(),
            extra_data_size: (size_of_val(&extra) as u32).into(),
        };
        for part in [raw.as_bytes(), extra.as_bytes(), &self.id, &self.name] {
            table.extend_from_slice(part);
        }
        table.resize(table.len().next_multiple_of(8), 0);
    }

    /// Whether id and name are such as QEMU gives.
    pub(crate) fn has_plain_name(&self) -> bool {
        let plain = |text: &[u8]| {
            !text.is_empty()
                && text.iter().all(|byte| !byte.is_ascii_control())
                && std::str::from_utf8(text).is_ok()
        };
        plain(&self.id) && plain(&self.name)
    }

    /// Whether it has the extra data that its image's version requires.
    pub(crate) fn is_complete(&self, version: u32) -> bool {
        version < 3 || self.disk_size.is_some()
    }
}

/// An entry as it was made out.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) snapshot: Snapshot,
    /// Bytes that it takes, without the padding to a multiple of 8 that separates it from the next.
    pub(crate) length: usize,
    /// What is wrong with it, if its id and name are not where it says.
    pub(crate) damage: Option<String>,
}

/// Parses the entry at the start of `bytes`, which need not reach further than the entry.
///
/// The field that is damaged most often is the one that says how much extra data there is. Where it says what cannot
/// be, or id and name are then none, they are looked for where QEMU puts them. An id and a name end at a zero. An error means that
/// no entry can be made out, nor where the next one begins.
pub(crate) fn parse(bytes: &[u8], version: u32) -> Result<Found> {
    let raw: RawSnapshot = read_struct(bytes, "snapshot table")?;
    let stated = raw.extra_data_size.get();
    let too_large = stated > MAX_EXTRA;
    let as_stated = if too_large { None } else { Some(parse_with(bytes, &raw, stated)) };
    let too_small = version >= 3 && stated < COMPLETE_EXTRA;
    let is_plain = matches!(&as_stated, Some(Ok((snapshot, _))) if snapshot.has_plain_name());
    if too_small || !is_plain {
        for likely in [FULL_EXTRA, COMPLETE_EXTRA].into_iter().filter(|likely| *likely != stated) {
            if let Ok((snapshot, length)) = parse_with(bytes, &raw, likely)
                && snapshot.has_plain_name()
            {
                let text = format!("it claims {stated} bytes of extra data and seems to have {likely}");
                return Ok(Found { snapshot, length, damage: Some(text) });
            }
        }
    }
    let too_large = || corrupt(format!("a snapshot has {stated} bytes of extra data, over {MAX_EXTRA}"));
    let (mut snapshot, mut length) = as_stated.ok_or_else(too_large)??;
    // The zeros are those behind the entry.
    let end_of = |text: &[u8]| text.iter().position(|byte| *byte == 0);
    let mut damage = None;
    if let Some(end) = end_of(&snapshot.id) {
        let stated = snapshot.id.len();
        length -= stated - end + snapshot.name.len();
        snapshot.id.truncate(end);
        // QEMU's ids are numbers.
        let digits = snapshot.id.iter().take_while(|byte| byte.is_ascii_digit()).count();
        snapshot.name = if digits > 0 { snapshot.id.split_off(digits) } else { Vec::new() };
        let end = snapshot.id.len();
        damage = Some(format!("it claims an id of {stated} bytes and seems to have one of {end}"));
    } else if let Some(end) = end_of(&snapshot.name) {
        let stated = snapshot.name.len();
        snapshot.name.truncate(end);
        length -= stated - end;
        damage = Some(format!("it claims a name of {stated} bytes and seems to have one of {end}"));
    }
    Ok(Found { snapshot, length, damage })
}

/// An entry at the start of `bytes`, if it is one beyond doubt: with a name, and tables in a file of `file_length` bytes.
/// For places where an entry may begin or not.
pub(crate) fn find(bytes: &[u8], version: u32, geometry: &Geometry, file_length: u64) -> Option<Found> {
    let raw: RawSnapshot = read_struct(bytes, "snapshot table").ok()?;
    let (offset, entries) = (raw.l1_table_offset.get(), raw.l1_size.get());
    let end = offset.checked_add(u64::from(entries) * 8)?;
    if offset == 0 || entries == 0 || !geometry.is_aligned(offset) || end > file_length {
        return None;
    }
    let found = parse(bytes, version).ok()?;
    let snapshot = &found.snapshot;
    let is_sound = found.damage.is_none() && snapshot.has_plain_name() && snapshot.is_complete(version);
    (is_sound && snapshot.doubt_l1_table(geometry).is_none()).then_some(found)
}

/// Reads an entry with `extra_size` bytes of extra data. Gives its length in bytes, too.
fn parse_with(bytes: &[u8], raw: &RawSnapshot, extra_size: u32) -> Result<(Snapshot, usize)> {
    let mut at = size_of::<RawSnapshot>();
    let mut field = |length: usize| {
        let field = bytes.get(at..at + length).ok_or_else(|| corrupt("the snapshot table is cut short"))?;
        at += length;
        Ok(field)
    };
    let extra = field(extra_size as usize)?;
    let id = field(raw.id_size.get().into())?.to_vec();
    let name = field(raw.name_size.get().into())?.to_vec();
    let word = |index: usize| {
        extra.get(index * 8..index * 8 + 8).map(|b| b.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    };

    let snapshot = Snapshot {
        l1_offset: raw.l1_table_offset.get(),
        l1_entries: raw.l1_size.get(),
        id,
        name,
        date_sec: raw.date_sec.get(),
        date_nsec: raw.date_nsec.get(),
        vm_clock_nsec: raw.vm_clock_nsec.get(),
        vm_state_size: word(0).unwrap_or_else(|| raw.vm_state_size.get().into()),
        disk_size: word(1),
        icount: word(2).filter(|count| *count != u64::MAX),
    };
    Ok((snapshot, at))
}

/// The most bytes one entry can take.
pub(crate) const LARGEST_ENTRY: usize = size_of::<RawSnapshot>() + MAX_EXTRA as usize + 2 * u16::MAX as usize;

/// The fewest bytes that an entry with an id and a name can take.
pub(crate) fn smallest_entry(version: u32) -> u64 {
    let extra = if version < 3 { 0 } else { u64::from(COMPLETE_EXTRA) };
    (size_of::<RawSnapshot>() as u64 + extra + 2).next_multiple_of(8)
}
