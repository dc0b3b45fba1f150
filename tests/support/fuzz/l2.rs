//! L2 tables: what each entry means, where the disk's map says it is, and what is read there.

use std::sync::Arc;

use holstein::{
    Access, Mapping,
    fuzzing::{Entry, L2Rules},
    storage::MemoryStorage,
};

use super::{IMAGE, check_text, open, u64_at};
use crate::builder::{Builder, Cluster, Image, pattern};

/// The first bytes of an input say what image the table, which is the rest, is put into.
const HEAD: usize = 8;

/// Enough of a disk, and of data behind it, to meet everything that can be next to each other.
const MOST_CLUSTERS: u64 = 64;
const MOST_DATA: u64 = 5;

/// What an input asks for.
struct Input<'a> {
    rules: L2Rules,
    /// Clusters of the disk.
    clusters: u64,
    /// Bytes that the disk is shorter than these.
    short: u64,
    /// Clusters of data behind everything else, and bytes that the file is shorter than these.
    data_clusters: u64,
    cut: u64,
    table: &'a [u8],
}

impl Input<'_> {
    fn parse(data: &[u8]) -> Option<Input<'_>> {
        let (head, table) = data.split_at_checked(HEAD)?;
        let &[kind, flags, data_clusters, clusters, cut, cut_low, short, _] = head else { return None };
        let extended = flags & 1 != 0;
        let (bits, version) = match extended {
            true => (14 + u32::from(kind) % 2, 3),
            false => (9 + u32::from(kind) % 5, if flags & 2 != 0 { 2 } else { 3 }),
        };
        let rules =
            L2Rules { cluster_bits: bits, extended, version, data_file: flags & 4 != 0 && version == 3 };
        let per_table = (1 << bits) / if extended { 16 } else { 8 };
        let data_clusters = 1 + u64::from(data_clusters) % MOST_DATA;
        Some(Input {
            rules,
            clusters: 1 + u64::from(clusters) % MOST_CLUSTERS.min(per_table),
            short: u64::from(short) * 512 % (1 << bits),
            data_clusters,
            cut: super::u16_at(&[cut, cut_low], 0) % (data_clusters << bits),
            table: &table[..table.len().min(1 << bits)],
        })
    }

    fn size(&self) -> u64 {
        (self.clusters << self.rules.cluster_bits) - self.short
    }

    /// The image, and where the clusters of data begin in it.
    fn image(&self) -> (Image, u64) {
        let mut spec = Builder::new(self.rules.cluster_bits, self.size()).cluster(0, Cluster::Zero);
        spec.version = self.rules.version;
        spec.extended_l2 = self.rules.extended;
        if self.rules.data_file {
            spec.data_file = Some(b"data.raw".to_vec());
        }
        if spec.version == 2 {
            // Zero clusters are not for it; the table is overwritten anyway.
            spec.clusters.insert(0, Cluster::Data(vec![1]));
        }
        let mut image = spec.build();
        let (table, end) = (image.at.l2[&0], image.len());
        image.put(table, &vec![0; 1 << self.rules.cluster_bits]);
        image.put(table, self.table);
        let data = pattern(7, ((self.data_clusters << self.rules.cluster_bits) - self.cut) as usize);
        image.put(end, &data);
        let start = image.at.data.get(&0).copied().unwrap_or(end);
        (image, start)
    }

    /// Both words of the entry of a guest cluster.
    fn words(&self, cluster: u64) -> (u64, u64) {
        match self.rules.extended {
            true => (u64_at(self.table, cluster * 16), u64_at(self.table, cluster * 16 + 8)),
            false => (u64_at(self.table, cluster * 8), 0),
        }
    }
}

pub fn judge(data: &[u8]) {
    let Some(input) = Input::parse(data) else { return };
    for cluster in 0..input.clusters {
        let (entry, bitmap) = input.words(cluster);
        let decoded = input.rules.decode(entry, bitmap);
        let decoded = decoded.inspect_err(check_text).ok();
        assert_eq!(decoded, decode(&input.rules, entry, bitmap), "{:?} {entry:#x} {bitmap:#x}", input.rules);
    }
    judge_map(&input);
}

/// The meaning of an entry, word for word from the specification; `None` is an error.
fn decode(rules: &L2Rules, entry: u64, bitmap: u64) -> Option<Entry> {
    let cluster = 1u64 << rules.cluster_bits;
    if entry >> 62 & 1 == 1 {
        // Bits x to 61 are the number of additional sectors, x is 62 - (cluster_bits - 8); bits 56 and up of
        // the offset are reserved. There is no compression with an external data file. Bit 63
        // has no meaning here; QEMU reads over it.
        let x = 62 - (rules.cluster_bits - 8);
        let host = entry & ((1 << x) - 1);
        let sectors = (entry & ((1 << 62) - 1)) >> x;
        let length = (sectors + 1) * 512 - host % 512;
        let valid = !rules.data_file && host < 1 << 56;
        return valid.then_some(Entry::Compressed { host, length: length as u32 });
    }
    // Bits 1 to 8 and 56 to 61 are reserved, bit 0 too where there are subclusters.
    let reserved = (2..=8).chain(1..=1).chain(56..=61).any(|bit| entry >> bit & 1 == 1);
    let offset = entry & 0x00FF_FFFF_FFFF_FE00;
    if reserved || !offset.is_multiple_of(cluster) {
        return None;
    }
    let (copied, zero_bit) = (entry >> 63 == 1, entry & 1 == 1);
    // With a data file a guest cluster may lie at offset 0, and the refcount bit tells.
    let host = (offset != 0 || rules.data_file && copied).then_some(offset);
    if !rules.extended {
        return match (zero_bit, host) {
            (true, _) if rules.version == 2 => None,
            (true, _) => Some(Entry::Zero { host: (offset != 0).then_some(offset) }),
            (false, Some(host)) => Some(Entry::Data { host }),
            (false, None) if copied => None,
            (false, None) => Some(Entry::Unallocated { host: None }),
        };
    }
    let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
    if zero_bit || allocated & zero != 0 || host.is_none() && allocated != 0 {
        return None;
    }
    Some(match (host, allocated, zero) {
        (Some(host), u32::MAX, _) => Entry::Data { host },
        (host, _, u32::MAX) => Entry::Zero { host },
        (host, 0, 0) => Entry::Unallocated { host },
        (host, allocated, zero) => Entry::Subclusters { host, allocated, zero },
    })
}

/// What one piece of the disk is: its entry's meaning, for one subcluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Unallocated(Option<u64>),
    Zero(Option<u64>),
    Data(u64),
    Compressed,
    Bad,
}

/// Subclusters, or clusters where there are none, in the disk's order.
fn pieces(input: &Input<'_>, image: &Image, data_start: u64) -> Vec<Piece> {
    let cluster = 1u64 << input.rules.cluster_bits;
    let per_cluster = if input.rules.extended { 32 } else { 1 };
    let mut pieces = Vec::new();
    for number in 0..input.clusters {
        let (entry, bitmap) = input.words(number);
        // Data has to lie in its file, be it cut short; and not on what the image itself consists of.
        let placed = |host: u64| match &image.data_file {
            Some(file) => host < file.len() as u64,
            None => (data_start..image.len()).contains(&host),
        };
        let entry = decode(&input.rules, entry, bitmap);
        let host = match entry {
            Some(Entry::Data { host }) => Some(host),
            Some(Entry::Unallocated { host } | Entry::Zero { host } | Entry::Subclusters { host, .. }) => {
                host
            }
            _ => None,
        };
        // In a data file each guest cluster has its own offset.
        let moved = image.data_file.is_some() && host.is_some_and(|host| host != number * cluster);
        for part in 0..per_cluster {
            let inside = |host: u64| host + cluster / per_cluster * part;
            let data = |host| if placed(host) { Piece::Data(inside(host)) } else { Piece::Bad };
            pieces.push(match entry {
                _ if moved => Piece::Bad,
                None => Piece::Bad,
                Some(Entry::Unallocated { host }) => Piece::Unallocated(host.map(inside)),
                Some(Entry::Zero { host }) => Piece::Zero(host.map(inside)),
                Some(Entry::Data { host }) => data(host),
                Some(Entry::Compressed { .. }) => Piece::Compressed,
                Some(Entry::Subclusters { host, allocated, zero }) => {
                    match (allocated >> part & 1, zero >> part & 1) {
                        (1, _) => host.map_or(Piece::Bad, data),
                        (_, 1) => Piece::Zero(host.map(inside)),
                        _ => Piece::Unallocated(host.map(inside)),
                    }
                }
            });
        }
    }
    pieces
}

fn judge_map(input: &Input<'_>) {
    let (image, data_start) = input.image();
    let storage = Arc::new(MemoryStorage::new());
    storage.insert(IMAGE, image.bytes.clone());
    if let Some(file) = &image.data_file {
        storage.insert("/images/data.raw", file.clone());
    }
    let disk = open(&storage, Access::Read).expect("an image around an L2 table opens");
    let pieces = pieces(input, &image, data_start);
    let unit = (1u64 << input.rules.cluster_bits) / if input.rules.extended { 32 } else { 1 };

    let (mut at, mut failed) = (0, false);
    for run in disk.map(0..u64::MAX) {
        let run = match run {
            Ok(run) => run,
            Err(error) => {
                check_text(&error);
                failed = true;
                break;
            }
        };
        assert!(run.start == at && run.length > 0, "{run:?} at {at}");
        at = run.end();
        for number in run.start / unit..run.end().div_ceil(unit) {
            let start = run.start.max(number * unit);
            let (delta, inside) = (start - run.start, start - number * unit);
            let expected = match pieces[number as usize] {
                Piece::Unallocated(host) => (Piece::Unallocated(None), host.map(|host| host + inside)),
                Piece::Zero(host) => (Piece::Zero(None), host.map(|host| host + inside)),
                Piece::Data(host) => (Piece::Data(0), Some(host + inside)),
                other => (other, None),
            };
            let found = match run.mapping {
                Mapping::Unallocated { .. } => Piece::Unallocated(None),
                Mapping::Zero { .. } => Piece::Zero(None),
                Mapping::Data { .. } => Piece::Data(0),
                Mapping::Compressed => Piece::Compressed,
            };
            let host = run.offset().map(|host| host + delta);
            assert_eq!((found, host), expected, "guest offset {start:#x} of {run:?}");
        }
    }
    let whole = &pieces[..input.size().div_ceil(unit) as usize];
    assert_eq!(failed, whole.contains(&Piece::Bad), "the map ends at {at:#x}");
    assert!(failed || at == input.size());
    judge_contents(input, &image, &disk, whole, unit);
}

/// Each piece by itself reads as what it is.
fn judge_contents(input: &Input<'_>, image: &Image, disk: &holstein::Disk, pieces: &[Piece], unit: u64) {
    let file = image.data_file.as_ref().unwrap_or(&image.bytes);
    for (number, piece) in pieces.iter().enumerate() {
        let start = number as u64 * unit;
        let mut found = vec![0xEE; unit.min(input.size() - start) as usize];
        let read = disk.read_at(&mut found, start).inspect_err(check_text);
        let expected = match piece {
            Piece::Compressed => continue,
            Piece::Bad => {
                assert!(read.is_err(), "what is nowhere was read, at {start:#x}");
                continue;
            }
            Piece::Unallocated(_) | Piece::Zero(_) => vec![0; found.len()],
            Piece::Data(host) => {
                let from = (*host as usize).min(file.len());
                let mut bytes = file[from..file.len().min(from + found.len())].to_vec();
                bytes.resize(found.len(), 0);
                bytes
            }
        };
        read.unwrap_or_else(|error| panic!("at {start:#x}: {error}"));
        assert!(found == expected, "{piece:?} at {start:#x}");
    }
}
