//! Images with random damage to their tables, the same for the same seed.

use super::image::Image;

/// A small generator of numbers (Knuth's constants).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The image that is damaged, and the ranges of its tables: offset and length.
pub struct Victim {
    image: Image,
    bytes: Vec<u8>,
    cluster: u64,
    tables: Vec<(u64, u64)>,
}

impl Victim {
    fn new(image: Image) -> Victim {
        let cluster = 1u64 << image.half_word(20);
        let l1_entries = u64::from(image.half_word(36));
        let mut tables = vec![(image.l1(), l1_entries * 8), (image.refcount_table(), 64)];
        tables.push((image.refcount_block(), cluster.min(512)));
        // L1 and refcount table offsets, their sizes and the number of snapshots, in the header.
        tables.extend([(40, 16), (56, 8)]);
        tables.extend((0..l1_entries).map(|index| (image.l2(index), cluster.min(800))).filter(|t| t.0 > 0));
        if image.half_word(60) > 0 {
            tables.extend([(image.snapshots(), 60), (image.word(image.snapshots()), 8)]);
        }
        Victim { bytes: image.bytes(), image, cluster, tables }
    }

    /// Writes the image with one to three damages, and hands it out.
    pub fn damage(&self, seed: u64) -> &Image {
        self.image.write(&self.damaged_bytes(seed));
        &self.image
    }

    /// The same, the bytes alone.
    pub fn damaged_bytes(&self, seed: u64) -> Vec<u8> {
        let mut numbers = Numbers(seed);
        let mut bytes = self.bytes.clone();
        let place = |numbers: &mut Numbers| {
            let (offset, length) = self.tables[numbers.below(self.tables.len() as u64) as usize];
            (offset + numbers.below(length)) as usize
        };
        for _ in 0..=numbers.below(3) {
            let at = place(&mut numbers);
            let word = at / 8 * 8..at / 8 * 8 + 8;
            match numbers.below(5) {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes[at] = numbers.below(256) as u8,
                2 => bytes[word].fill(0),
                3 => {
                    let from = place(&mut numbers) / 8 * 8;
                    bytes.copy_within(from..from + 8, word.start);
                }
                _ => {
                    let clusters = self.bytes.len() as u64 / self.cluster + 2;
                    let entry = (numbers.below(2) << 63) | (numbers.below(clusters) * self.cluster);
                    bytes[word].copy_from_slice(&entry.to_be_bytes());
                }
            }
        }
        bytes
    }
}

/// Images of several kinds, for one test.
pub fn victims(test: &str) -> Vec<Victim> {
    let make = |name: &str, options: &str, snapshots: &[&str]| {
        let image = Image::create(&format!("random-{test}-{name}"), options, "1M");
        image.io(&["write 0 100k", "write -z 500k 64k", "write 900k 20k"]);
        for tag in snapshots {
            image.tool("qemu-img", &["snapshot", "-c", tag, "disk.qcow2"]);
            image.io(&["write 64k 64k", "write 300k 3k"]);
        }
        Victim::new(image)
    };
    vec![
        make("64k", "cluster_size=64k", &["one", "two"]),
        make("512", "cluster_size=512,refcount_bits=64", &["one"]),
        make("4k", "cluster_size=4k,refcount_bits=1", &[]),
        make("extended-l2", "cluster_size=16k,extended_l2=on", &["one"]),
        make("data-file", "cluster_size=4k,data_file=disk.data", &[]),
    ]
}
