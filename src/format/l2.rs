//! L2 entries: what a guest cluster is and where it lies.

use super::geometry::Geometry;

/// The refcount of what an entry points to is exactly 1.
pub(crate) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zero; not in extended entries.
pub(crate) const ZERO: u64 = 1;
/// Where a cluster that is not compressed lies, aligned or not.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits that must be clear unless the cluster is compressed.
pub(crate) const RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// What an L2 entry says. Host offsets are bytes in the image, or in its data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Reads from the backing file; `host` is space kept for it, which only extended entries can have.
    Unallocated { host: Option<u64> },
    /// Reads as zero; `host` is space kept for it.
    Zero { host: Option<u64> },
    /// Data at a host cluster.
    Data { host: u64 },
    /// A compressed cluster.
    Compressed(Compressed),
    /// 32 subclusters, bit i of each mask for subcluster i: data (at `host`), zero, or neither: backing file.
    Subclusters { host: Option<u64>, allocated: u32, zero: u32 },
}

/// Where a compressed cluster's stream lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compressed {
    /// The first byte, not aligned.
    pub(crate) host: u64,
    /// Readable bytes: up to the end of the last 512-byte sector. The stream may end sooner.
    pub(crate) length: u32,
}

/// What, besides the entry, decides its meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) geometry: Geometry,
    pub(crate) version: u32,
    pub(crate) data_file: bool,
}

impl Rules {
    /// Decodes an entry; `bitmap` is the second word of an extended one. The error says what is wrong.
    pub(crate) fn decode(&self, entry: u64, bitmap: Option<u64>) -> Result<Cluster, &'static str> {
        if entry & COMPRESSED != 0 {
            return self.decode_compressed(entry);
        }
        if entry & RESERVED != 0 {
            return Err("reserved bits are set");
        }
        let offset = entry & OFFSET;
        if !self.geometry.is_aligned(offset) {
            return Err("the host offset is not a multiple of the cluster size");
        }
        // Host cluster 0 holds the header, so only a data file can have guest data there.
        let allocated = offset != 0 || (self.data_file && entry & COPIED != 0);
        let host = allocated.then_some(offset);
        match bitmap {
            Some(_) if entry & ZERO != 0 => Err("the zero bit is set beside a subcluster bitmap"),
            Some(bitmap) => decode_subclusters(host, bitmap as u32, (bitmap >> 32) as u32),
            None if entry & ZERO != 0 && self.version < 3 => Err("a zero cluster in a version 2 image"),
            None if entry & ZERO != 0 => Ok(Cluster::Zero { host: (offset != 0).then_some(offset) }),
            None if host.is_none() && entry & COPIED != 0 => Err("it points to the header"),
            None => Ok(host.map_or(Cluster::Unallocated { host: None }, |host| Cluster::Data { host })),
        }
    }

    fn decode_compressed(&self, entry: u64) -> Result<Cluster, &'static str> {
        if self.data_file {
            return Err("a compressed cluster in an image with a data file");
        }
        // The flag for a refcount of 1 means nothing here: QEMU reads such a cluster, a check reports it.
        let offset_bits = compressed_offset_bits(&self.geometry);
        let host = entry & ((1 << offset_bits) - 1);
        if host >> 56 != 0 {
            return Err("the offset of a compressed cluster is too large");
        }
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        let length = (sectors * 512 - (host & 511)) as u32;
        Ok(Cluster::Compressed(Compressed { host, length }))
    }
}

/// A guest cluster in one form for both kinds of entries. Bit i of each mask stands for subcluster i; a plain
/// cluster has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The host cluster, whether it has data or is only kept.
    pub(crate) host: Option<u64>,
    /// Subclusters with data at the host cluster.
    pub(crate) data: u32,
    /// Subclusters that read as zero.
    pub(crate) zero: u32,
    /// A stream instead of all that.
    pub(crate) compressed: Option<Compressed>,
}

impl State {
    pub(crate) fn new(cluster: Cluster, geometry: &Geometry) -> Self {
        let all = geometry.subcluster_mask();
        let (host, data, zero, compressed) = match cluster {
            Cluster::Unallocated { host } => (host, 0, 0, None),
            Cluster::Zero { host } => (host, 0, all, None),
            Cluster::Data { host } => (Some(host), all, 0, None),
            Cluster::Subclusters { host, allocated, zero } => (host, allocated, zero, None),
            Cluster::Compressed(stream) => (None, 0, 0, Some(stream)),
        };
        State { host, data, zero, compressed }
    }

    /// The entry, with its second word if it is extended, of a cluster that is not compressed. `exclusive`: the
    /// host cluster's refcount is exactly 1.
    pub(crate) fn encode(&self, geometry: &Geometry, exclusive: bool) -> Vec<u8> {
        let copied = if exclusive { COPIED } else { 0 };
        let host = self.host.map_or(0, |host| host | copied);
        if geometry.extended_l2 {
            let masks = u64::from(self.zero) << 32 | u64::from(self.data);
            return [host.to_be_bytes(), masks.to_be_bytes()].concat();
        }
        let entry = match (self.data, self.zero) {
            (0, 0) => 0,
            (0, _) => host | ZERO,
            _ => host,
        };
        entry.to_be_bytes().to_vec()
    }
}

fn decode_subclusters(host: Option<u64>, allocated: u32, zero: u32) -> Result<Cluster, &'static str> {
    if allocated & zero != 0 {
        return Err("a subcluster is both allocated and zero");
    }
    match (host, allocated, zero) {
        (None, 1.., _) => Err("a subcluster is allocated without a host offset"),
        (Some(host), u32::MAX, _) => Ok(Cluster::Data { host }),
        (host, _, u32::MAX) => Ok(Cluster::Zero { host }),
        (host, 0, 0) => Ok(Cluster::Unallocated { host }),
        (host, allocated, zero) => Ok(Cluster::Subclusters { host, allocated, zero }),
    }
}

fn compressed_offset_bits(geometry: &Geometry) -> u32 {
    62 - (geometry.cluster_bits - 8)
}

/// The host bytes that an entry keeps from others, whatever else it says; an empty range for none.
pub(crate) fn host_range(entry: u64, geometry: &Geometry) -> std::ops::Range<u64> {
    if entry & COMPRESSED != 0 {
        let bits = compressed_offset_bits(geometry);
        let host = entry & ((1 << bits) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> bits) + 1;
        return host..host - host % 512 + sectors * 512;
    }
    let host = entry & OFFSET;
    host..if host == 0 { 0 } else { host + geometry.cluster_size() }
}

/// The entry of a plain data cluster that nobody shares.
pub(crate) fn data_entry(host: u64) -> u64 {
    host | COPIED
}

/// The entry of a zero cluster without space of its own.
pub(crate) const ZERO_ENTRY: u64 = ZERO;

/// The subcluster bitmap of a cluster that is data throughout.
pub(crate) const ALL_ALLOCATED: u64 = 0xffff_ffff;
/// The subcluster bitmap of a cluster that reads as zero throughout.
pub(crate) const ALL_ZERO: u64 = 0xffff_ffff << 32;

/// The entry of a compressed cluster, or `None` when it lies too far back to be described.
pub(crate) fn compressed_entry(host: u64, length: u64, geometry: &Geometry) -> Option<u64> {
    let bits = compressed_offset_bits(geometry);
    let sectors = (host + length - 1) / 512 - host / 512;
    (host >> bits.min(56) == 0).then_some(COMPRESSED | sectors << bits | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(cluster_bits: u32, extended_l2: bool) -> Rules {
        Rules { geometry: Geometry::new(cluster_bits, 4, extended_l2).unwrap(), version: 3, data_file: false }
    }

    #[test]
    fn a_compressed_entry_that_qemu_wrote() {
        let expected = Compressed { host: 327_680, length: 33_280 };
        let decoded = rules(16, false).decode(0x5000_0000_0005_0000, None);
        assert_eq!(decoded, Ok(Cluster::Compressed(expected)));
        // A flag that has no meaning there: QEMU reads it all the same, and a check reports it.
        assert_eq!(rules(16, false).decode(0xd000_0000_0005_0000, None), decoded);
        let geometry = Geometry::new(16, 4, false).unwrap();
        assert_eq!(compressed_entry(327_680, 33_280, &geometry), Some(0x5000_0000_0005_0000));
    }

    #[test]
    fn plain_entries() {
        let rules = rules(16, false);
        assert_eq!(rules.decode(0, None), Ok(Cluster::Unallocated { host: None }));
        assert_eq!(rules.decode(1, None), Ok(Cluster::Zero { host: None }));
        assert_eq!(rules.decode(0x8000_0000_0005_0001, None), Ok(Cluster::Zero { host: Some(0x50000) }));
        assert_eq!(rules.decode(0x8000_0000_0005_0000, None), Ok(Cluster::Data { host: 0x50000 }));
        assert!(rules.decode(0x8000_0000_0005_0200, None).is_err());
        assert!(rules.decode(0x8000_0000_0000_0000, None).is_err());
        assert!(rules.decode(0x8000_0000_0005_0002, None).is_err());
        assert!(Rules { version: 2, ..rules }.decode(1, None).is_err());
    }

    #[test]
    fn subclusters() {
        let rules = rules(16, true);
        let host = Some(0x50000);
        let entry = 0x8000_0000_0005_0000;
        let mixed = Cluster::Subclusters { host, allocated: 1, zero: 0x8000_0000 };
        assert_eq!(rules.decode(entry, Some(0x8000_0000_0000_0001)), Ok(mixed));
        assert_eq!(rules.decode(entry, Some(0xffff_ffff)), Ok(Cluster::Data { host: 0x50000 }));
        assert_eq!(rules.decode(entry, Some(0)), Ok(Cluster::Unallocated { host }));
        assert_eq!(rules.decode(0, Some(0xffff_ffff_0000_0000)), Ok(Cluster::Zero { host: None }));
        assert!(rules.decode(entry, Some(0x1_0000_0001)).is_err(), "allocated and zero");
        assert!(rules.decode(0, Some(1)).is_err(), "allocated nowhere");
        assert!(rules.decode(entry | 1, Some(1)).is_err(), "zero bit");
    }

    #[test]
    fn states_become_the_entries_that_they_came_from() {
        let plain = [0u64, 1, 0x8000_0000_0005_0001, 0x8000_0000_0005_0000].map(|entry| (entry, None));
        let pairs =
            [(0, 0), (0, 3 << 32), (0x8000_0000_0005_0000, 0), (0x8000_0000_0005_0000, 0x1_0000_0002)];
        let extended = pairs.map(|(entry, masks)| (entry, Some(masks)));
        for (entry, masks) in plain.into_iter().chain(extended) {
            let rules = rules(16, masks.is_some());
            let state = State::new(rules.decode(entry, masks).unwrap(), &rules.geometry);
            let mut bytes = entry.to_be_bytes().to_vec();
            bytes.extend(masks.iter().flat_map(|masks| masks.to_be_bytes()));
            assert_eq!(state.encode(&rules.geometry, true), bytes, "{entry:#x} {masks:?}");
        }
        let shared = State { host: Some(0x50000), data: 1, zero: 0, compressed: None };
        assert_eq!(shared.encode(&rules(16, false).geometry, false), 0x50000u64.to_be_bytes());
    }

    #[test]
    fn a_data_file_has_guest_data_at_offset_zero() {
        let rules = Rules { data_file: true, ..rules(16, false) };
        assert_eq!(rules.decode(1 << 63, None), Ok(Cluster::Data { host: 0 }));
        assert_eq!(rules.decode(0, None), Ok(Cluster::Unallocated { host: None }));
    }
}
