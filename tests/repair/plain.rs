//! Images read in the plainest way, at offsets typed from the specification, however damaged they are: what is not
//! there reads as zeros.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    ops::Range,
};

/// The bytes of an image.
pub struct Plain<'a>(pub &'a [u8]);

/// Where a guest cluster is found: which L1 table (0 the active one, then the snapshots), and the two indices.
pub type Place = (u64, u64, u64);

/// What a guest cluster is: its entry without the flag for a refcount of 1, and a hash of its bytes.
pub type Guest = BTreeMap<Place, (u64, u64, u64)>;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Plain<'_> {
    pub fn word(&self, at: u64) -> u64 {
        let whole = usize::try_from(at).ok().and_then(|at| self.0.get(at..)?.first_chunk::<8>());
        if let Some(bytes) = whole {
            return u64::from_be_bytes(*bytes);
        }
        (0..8).fold(0, |word, byte| word << 8 | u64::from(self.byte(at.saturating_add(byte))))
    }

    pub fn half(&self, at: u64) -> u64 {
        self.word(at) >> 32
    }

    fn quarter(&self, at: u64) -> u64 {
        self.word(at) >> 48
    }

    fn byte(&self, at: u64) -> u8 {
        usize::try_from(at).ok().and_then(|at| self.0.get(at)).copied().unwrap_or(0)
    }

    pub fn cluster(&self) -> u64 {
        1 << self.half(20)
    }

    fn version(&self) -> u64 {
        self.half(4)
    }

    pub fn incompatible(&self) -> u64 {
        if self.version() > 2 { self.word(72) } else { 0 }
    }

    pub fn autoclear(&self) -> u64 {
        if self.version() > 2 { self.word(88) } else { 0 }
    }

    fn refcount_bits(&self) -> u64 {
        if self.version() > 2 { 1 << self.half(96) } else { 16 }
    }

    fn l2_entry(&self) -> u64 {
        if self.incompatible() & 16 != 0 { 16 } else { 8 }
    }

    /// Offset and entries of the active L1 table and those of all snapshots.
    pub fn l1_tables(&self) -> Vec<(u64, u64)> {
        let mut tables = vec![(self.word(40), self.half(36))];
        let mut at = self.word(64);
        for _ in 0..self.half(60).min(100) {
            tables.push((self.word(at), self.half(at + 8).min(1 << 16)));
            let length = 40 + self.half(at + 36) + self.quarter(at + 12) + self.quarter(at + 14);
            at = at.saturating_add(length.next_multiple_of(8));
        }
        tables
    }

    /// The host bytes that an L2 entry stands for.
    fn host(&self, entry: u64) -> Range<u64> {
        if entry & COMPRESSED != 0 {
            let bits = 62 - (self.half(20) - 8);
            let start = entry & ((1 << bits) - 1);
            let sectors = ((entry & !(COPIED | COMPRESSED)) >> bits) + 1;
            return start..start - start % 512 + sectors * 512;
        }
        let start = entry & OFFSET;
        start..start + if start > 0 { self.cluster() } else { 0 }
    }

    /// Calls `see` for each L2 entry of these L1 tables that is not zero: its place, its two words, its offset.
    fn for_each_entry(&self, tables: &[(u64, u64)], mut see: impl FnMut(Place, u64, u64, u64)) {
        let entry_size = self.l2_entry();
        for (number, (l1, entries)) in tables.iter().copied().enumerate() {
            for index in 0..entries {
                let table = self.word(l1.saturating_add(index * 8)) & OFFSET;
                if table == 0 || table >= self.0.len() as u64 {
                    continue;
                }
                for entry in 0..self.cluster() / entry_size {
                    let at = table + entry * entry_size;
                    let bitmap = if entry_size == 16 { self.word(at + 8) } else { 0 };
                    let word = self.word(at);
                    if word != 0 || bitmap != 0 {
                        see((number as u64, index, entry), word, bitmap, at);
                    }
                }
            }
        }
    }

    /// The clusters of the refcount table and its blocks.
    pub fn refcount_clusters(&self) -> BTreeSet<u64> {
        let (table, length) = (self.word(48), self.half(56) * self.cluster());
        let end = table.saturating_add(length).min(self.0.len() as u64);
        let blocks = (table..end).step_by(8).map(|at| self.word(at) & !511).filter(|block| *block > 0);
        (table..end).step_by(self.cluster() as usize).chain(blocks).map(|at| at / self.cluster()).collect()
    }

    /// Everything that guests see, of snapshots too, in the first `limit` bytes of the file. What lies in the
    /// header's cluster is nobody's data.
    pub fn guest(&self, limit: u64) -> Guest {
        self.guest_of(&self.l1_tables(), limit, &BTreeSet::new())
    }

    /// The same of these L1 tables, without what tables in the header, in the `others` clusters, or behind `limit` lead to.
    pub fn guest_of(&self, tables: &[(u64, u64)], limit: u64, others: &BTreeSet<u64>) -> Guest {
        let mut guest = Guest::new();
        let data_file = self.incompatible() & 4 != 0;
        self.for_each_entry(tables, |place, word, bitmap, at| {
            let of_others = |at: u64| at >= limit || others.contains(&(at / self.cluster()));
            let l1 = tables[place.0 as usize].0.saturating_add(place.1 * 8);
            if !others.is_empty() && (l1 < self.cluster() || of_others(l1) || of_others(at)) {
                return;
            }
            let host = if data_file { 0..0 } else { self.host(word) };
            let bytes = host.start.max(self.cluster()).min(limit)..host.end.max(self.cluster()).min(limit);
            let mut hash = DefaultHasher::new();
            self.0[bytes.start as usize..bytes.end as usize].hash(&mut hash);
            guest.insert(place, (word & !COPIED, bitmap, hash.finish()));
        });
        guest
    }

    /// The clusters that guest data lies in.
    pub fn guest_clusters(&self) -> BTreeSet<u64> {
        let mut clusters = BTreeSet::new();
        self.for_each_entry(&self.l1_tables(), |_, word, _, _| {
            let host = self.host(word);
            clusters.extend(host.start / self.cluster()..host.end.div_ceil(self.cluster()));
        });
        clusters
    }

    /// The refcount of a cluster.
    pub fn refcount(&self, cluster: u64) -> u64 {
        let bits = self.refcount_bits();
        let per_block = self.cluster() * 8 / bits;
        let index = cluster / per_block;
        if index >= self.half(56) * self.cluster() / 8 {
            return 0;
        }
        let block = self.word(self.word(48).saturating_add(index * 8)) & !511;
        if block == 0 {
            return 0;
        }
        let at = cluster % per_block * bits;
        match bits {
            64 => self.word(block.saturating_add(at / 8)),
            32 => self.half(block.saturating_add(at / 8)),
            16 => self.quarter(block.saturating_add(at / 8)),
            _ => u64::from(self.byte(block.saturating_add(at / 8))) >> (at % 8) & ((1 << bits) - 1),
        }
    }

    pub fn clusters(&self) -> u64 {
        (self.0.len() as u64).div_ceil(self.cluster())
    }
}

/// What two images show differently, if anything.
pub fn difference(old: &Guest, new: &Guest) -> Option<String> {
    if old == new {
        return None;
    }
    let places: BTreeSet<&Place> = old.keys().chain(new.keys()).collect();
    let differs = places.into_iter().filter(|place| old.get(place) != new.get(place));
    let shown: Vec<_> = differs
        .take(5)
        .map(|place| format!("{place:?}: {:x?} {:x?}", old.get(place), new.get(place)))
        .collect();
    Some(shown.join("\n"))
}
