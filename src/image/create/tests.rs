//! Every kind of content in images of every kind, read back by us and judged by QEMU.

use std::{fs, path::Path, process::Command, sync::Arc};

use super::{Content, Item, LayoutOptions, Target};
use crate::{
    format::{
        compressed::Encoder,
        header::{CompressionType, Header},
    },
    image::{Format, Image, ImageOptions},
    memory::refusal,
    storage::{File, HostStorage, Storage},
};

/// xorshift64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn qemu_img(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

/// A cluster that compresses to about `percent` of its size.
fn cluster(rng: &mut Rng, size: usize, percent: u64) -> Vec<u8> {
    (0..size as u64).map(|i| if i % 100 < percent { rng.below(256) as u8 } else { 1 }).collect()
}

/// Fills a new image with a mixture; what a guest reads then.
fn fill(folder: &Path, options: &LayoutOptions, base: &[u8], rng: &mut Rng) -> Vec<u8> {
    let file = File::new(HostStorage.create(&folder.join("image")).unwrap(), &folder.join("image"));
    let target = Target::qcow2(file, options.clone()).unwrap();
    let mut encoder = Encoder::new(options.compression, 3).unwrap();
    let mut guest = base.to_vec();
    let size = options.cluster_size as usize;
    for start in (0..guest.len()).step_by(size) {
        let end = guest.len().min(start + size);
        let kind = rng.below(8);
        // A stream that needs the better part of a cluster straddles two.
        let mut bytes = match kind {
            0..=2 => cluster(rng, size, rng.0 % 90),
            3 | 4 => cluster(rng, size, 100),
            5 | 6 => vec![0; size],
            _ => continue,
        };
        bytes[end - start..].fill(0);
        let mut stream = Vec::new();
        let packed = kind <= 2 && encoder.deflate(&bytes, &mut stream).unwrap();
        let content = match kind {
            5 | 6 => Content::Zero,
            _ if packed => Content::Stream { at: 0, length: stream.len() },
            _ => Content::Data { at: 0 },
        };
        let item = Item { guest: start as u64, length: size as u64, content };
        let extents = target.place(&[item]).unwrap();
        target.write_kept().unwrap();
        target.write(&extents, if packed { &stream } else { &bytes }).unwrap();
        guest[start..end].copy_from_slice(&bytes[..end - start]);
    }
    target.finish().unwrap();
    guest
}

#[test]
fn every_kind_of_content_in_every_kind_of_image() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for number in 0..91 {
        let (bits, order) = (9 + number % 13, number % 7);
        let cluster_size = 1 << bits;
        let version = if order == 4 && number % 2 == 0 { 2 } else { 3 };
        let extended_l2 = version == 3 && bits >= 14 && number % 3 == 0;
        let zstd = version == 3 && number % 5 == 1;
        let clusters = (3 << 20 >> bits).clamp(12, 700);
        let size = cluster_size * clusters - rng.below(cluster_size / 512) * 512;
        let with_base = number % 3 == 1;
        let options = LayoutOptions {
            version,
            refcount_bits: 1 << order,
            extended_l2,
            compression: if zstd { CompressionType::Zstd } else { CompressionType::Zlib },
            backing: with_base.then(|| (b"base".to_vec(), Format::Raw)),
            ..LayoutOptions::new(size, cluster_size)
        };
        let folder = tempfile::tempdir().unwrap();
        let base = vec![if with_base { 0x77 } else { 0 }; size as usize];
        if with_base {
            fs::write(folder.path().join("base"), &base).unwrap();
        }
        let guest = fill(folder.path(), &options, &base, &mut rng);

        let told = format!("number {number}: {options:?}");
        let path = folder.path().join("image");
        let image = Image::open(Arc::new(HostStorage), &path, &ImageOptions::default()).unwrap();
        let mut read = vec![0; guest.len()];
        image.read_at(&mut read, 0).unwrap();
        assert!(read == guest, "{told}");
        drop(image);
        fs::write(folder.path().join("guest"), &guest).unwrap();
        qemu_img(folder.path(), &["check", "-f", "qcow2", "image"]);
        qemu_img(folder.path(), &["compare", "-f", "qcow2", "-F", "raw", "image", "guest"]);
        let header = Header::parse(&fs::read(&path).unwrap()[..cluster_size as usize]).unwrap();
        assert_eq!((header.version, header.geometry.refcount_order), (version, order), "{told}");
    }
}

/// How many clusters of the file are counted more than once.
fn shared_clusters(refcount_bits: u32) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let options = LayoutOptions { refcount_bits, ..LayoutOptions::new(4 << 20, 4096) };
    let file = File::new(HostStorage.create(&folder.path().join("image")).unwrap(), folder.path());
    let target = Target::qcow2(file, options).unwrap();
    let mut stream = Vec::new();
    assert!(Encoder::new(CompressionType::Zlib, 6).unwrap().deflate(&[5; 4096], &mut stream).unwrap());
    for guest in (0..4 << 20).step_by(4096) {
        let content = Content::Stream { at: 0, length: stream.len() };
        let extents = target.place(&[Item { guest, length: 4096, content }]).unwrap();
        target.write_kept().unwrap();
        target.write(&extents, &stream).unwrap();
    }
    target.finish().unwrap();
    qemu_img(folder.path(), &["check", "-f", "qcow2", "image"]);
    fs::metadata(folder.path().join("image")).unwrap().len() as usize / 4096
}

/// As many streams share a cluster as its refcount can count, and one alone where it counts to one.
#[test]
fn streams_share_clusters_as_far_as_refcounts_reach() {
    let files = [1, 2, 4, 8, 16].map(shared_clusters);
    assert!(files[0] > 1024, "{files:?}");
    assert!((342..400).contains(&files[1]), "{files:?}");
    assert!(files.is_sorted_by(|a, b| a >= b) && files[3] == files[4], "{files:?}");
}

/// The memory of a table or block that was written is used again, so each kind is asked for once; the header is made at the
/// start, too, to know that it has room.
#[test]
fn memory_that_is_refused_fails_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = refusal::of_each(|| {
        let path = folder.path().join("image");
        let _ = fs::remove_file(&path);
        let target = Target::qcow2(
            File::new(HostStorage.create(&path).unwrap(), &path),
            LayoutOptions::new(3 << 40, 2 << 20),
        )?;
        for guest in [0, 1 << 40, 2 << 40] {
            let item = Item { guest, length: 2 << 20, content: Content::Data { at: 0 } };
            target.place(&[item])?;
            target.write_kept()?;
        }
        target.finish().inspect_err(|error| {
            let again = target.finish().unwrap_err();
            assert_eq!((again.kind(), again.to_string()), (error.kind(), error.to_string()));
        })
    });
    assert_eq!(pieces, 5, "header, L2 table, block, refcount table, header");
}
