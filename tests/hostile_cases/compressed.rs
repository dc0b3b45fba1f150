//! Compressed clusters: streams that end too early, never, or elsewhere, and bombs.

use super::{Case, Expect, Expect::*, Qemu, Qemu::*};
use crate::builder::{Builder, Cluster, Image, deflate, field::*, pattern, text, zstd_frame};

/// Log2 of the cluster size, and with it the place of the sector count in an L2 entry: bit 62 - (16 - 8).
const BITS: u32 = 16;
const SECTORS: u32 = 54;
const CLUSTER: usize = 1 << BITS;

/// One compressed cluster with this stream, between two plain ones.
fn image(zstd: bool, stream: Vec<u8>) -> Builder {
    let mut spec = Builder::new(BITS, 8 << BITS)
        .cluster(0, Cluster::Data(pattern(0, CLUSTER)))
        .cluster(1, Cluster::Compressed { contents: text(1, CLUSTER), stream })
        .cluster(7, Cluster::Data(pattern(7, CLUSTER)));
    spec.zstd = zstd;
    spec
}

/// A deflate stream instead of the right one.
fn stream(name: &'static str, expect: Expect, qemu: Qemu, stream: Vec<u8>) -> Case {
    Case::new(name, expect, qemu, move |_| image(false, stream.clone()).build())
}

/// A zstd stream instead of the right one.
fn frame(name: &'static str, expect: Expect, qemu: Qemu, stream: Vec<u8>) -> Case {
    Case::new(name, expect, qemu, move |_| image(true, stream.clone()).build())
}

/// The right stream, but the L2 entry or other bytes are changed.
fn poke(name: &'static str, expect: Expect, qemu: Qemu, change: fn(&mut Image)) -> Case {
    Case::new(name, expect, qemu, move |_| image(false, deflate(&text(1, CLUSTER))).build().edit(change))
}

/// Sets the L2 entry of the compressed cluster.
fn set(i: &mut Image, offset: u64, sectors: u64) {
    i.u64(i.at.entry[&1], COMPRESSED | sectors << SECTORS | offset);
}

/// A zstd frame header (RFC 8878) with this window descriptor, and one last block of a repeated byte.
fn windowed_frame(descriptor: u8, length: u32) -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, descriptor];
    frame.extend(&(1 | 1 << 1 | length << 3).to_le_bytes()[..3]); // last block, RLE, its size
    frame.push(b'z');
    frame
}

pub fn cases() -> Vec<Case> {
    let mut cases = deflate_cases();
    cases.extend(zstd_cases());
    cases
}

fn deflate_cases() -> Vec<Case> {
    let right = deflate(&text(1, CLUSTER));
    vec![
        stream("deflate-garbage", Read("compressed"), RefusesRead, pattern(9, 2000)),
        stream("deflate-zeros", Read("compressed"), RefusesRead, vec![0; 2000]),
        stream("deflate-ends-early", Read("compressed"), RefusesRead, deflate(&text(1, CLUSTER - 1))),
        stream("deflate-empty", Read("compressed"), RefusesRead, deflate(&[])),
        // The zeros that fill the sector go on as codes of the stream's last block, and fill the cluster.
        stream("deflate-cut", Same, Accepts, right[..right.len() / 2].to_vec()),
        stream("deflate-zlib-header", Read("compressed"), RefusesRead, [&[0x78, 0x9C], &right[..]].concat()),
        // The cluster is full before the stream ends: QEMU takes it, and so must we.
        stream("deflate-too-much-output", Same, Accepts, deflate(&text(1, CLUSTER * 3))),
        stream("deflate-bomb", Same, Accepts, deflate(&vec![0; 32 << 20])),
        stream("deflate-trailing-garbage", Same, Accepts, [&right[..], &pattern(3, 900)].concat()),
        poke("compressed-past-eof", Read(""), RefusesRead, |i| set(i, 0x4000_0000, 0)),
        poke("compressed-highest", Read(""), RefusesRead, |i| set(i, (1 << 54) - 1, 255)),
        // With clusters of 512 bytes the offset has 61 bits, of which those above bit 55 must be zero.
        Case::new("compressed-offset-bit-58", Read(""), RefusesRead, |_| {
            let spec = Builder::new(9, 4096).cluster(1, Cluster::deflate(text(1, 512)));
            spec.build().edit(|i| i.or(i.at.entry[&1], 1 << 58))
        }),
        poke("compressed-starts-at-eof", Read(""), RefusesRead, |i| set(i, i.len(), 0)),
        poke("compressed-in-the-header", Read("header"), RefusesRead, |i| set(i, 0, 4)),
        poke("compressed-is-the-l2", Read("L2"), RefusesRead, |i| set(i, i.at.l2[&0], 4)),
        poke("compressed-and-copied", Same, Accepts, |i| i.or(i.at.entry[&1], COPIED)),
        poke("compressed-size-too-large", Same, Accepts, |i| set(i, i.at.data[&1], 127)),
        poke("compressed-size-largest", Same, Accepts, |i| set(i, i.at.data[&1], 255)),
        poke("compressed-size-runs-past-eof", Same, Accepts, |i| {
            // The stream ends in the file; only the sectors counted for it do not.
            let length = deflate(&text(1, CLUSTER)).len() as u64;
            let stream = i.append_copy(i.at.data[&1], length);
            set(i, stream, 200);
        }),
        poke("compressed-stream-cut-by-eof", Read("compressed"), Accepts, |i| {
            let length = deflate(&text(1, CLUSTER)).len() as u64;
            let stream = i.append_copy(i.at.data[&1], length / 2);
            set(i, stream, 200);
        }),
        Case::new("compressed-size-too-small", Read("compressed"), RefusesRead, |_| {
            let mut half = pattern(1, CLUSTER / 2);
            half.resize(CLUSTER, 0);
            let mut spec = image(false, deflate(&half));
            spec.clusters.insert(2, Cluster::Data(pattern(2, CLUSTER)));
            spec.build().edit(|i| set(i, i.at.data[&1], 3))
        }),
        // 512 GiB from one stream of 2 MiB zeros.
        Case::new("compressed-bomb-of-512-gib", Same, Accepts, |_| {
            let mut spec = Builder::new(21, 512 << 30);
            spec.clusters.insert(0, Cluster::deflate(vec![0; 2 << 20]));
            spec.build().edit(|i| {
                let (table, entry) = (i.at.l2[&0], i.get(i.at.entry[&0]));
                (0..1 << 18).for_each(|index| i.u64(table + index * 8, entry));
            })
        }),
    ]
}

fn zstd_cases() -> Vec<Case> {
    let right = zstd_frame(&text(1, CLUSTER));
    let skippable = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let with_dictionary = {
        // Descriptor 0x21: single segment, one byte of dictionary id; one byte of content size.
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x21, 7, 16];
        frame.extend(&(1u32 | 1 << 1 | 16 << 3).to_le_bytes()[..3]);
        frame.push(b'd');
        frame
    };
    vec![
        frame("zstd-valid", Same, Accepts, right.clone()),
        frame("zstd-garbage", Read("compressed"), RefusesRead, pattern(9, 2000)),
        frame("zstd-is-deflate", Read("compressed"), RefusesRead, deflate(&text(1, CLUSTER))),
        frame("zstd-cut", Read("compressed"), RefusesRead, right[..right.len() / 2].to_vec()),
        frame("zstd-ends-early", Read("compressed"), RefusesRead, zstd_frame(&text(1, CLUSTER - 1))),
        frame("zstd-empty-frames", Read("compressed"), RefusesRead, zstd_frame(&[]).repeat(200)),
        frame("zstd-skippable-first", Same, Accepts, [&skippable[..], &right].concat()),
        frame("zstd-too-much-output", Read("compressed"), RefusesRead, zstd_frame(&text(1, CLUSTER * 3))),
        frame("zstd-bomb", Read("compressed"), RefusesRead, zstd_frame(&vec![0; 32 << 20])),
        // Window descriptors: exponent in the upper five bits, above 2^10. 2^27 is what decoders take at most
        // unless told otherwise, and 2^41 is the format's limit.
        frame("zstd-window-128-mib", Read("compressed"), Accepts, windowed_frame(17 << 3, 65536)),
        frame("zstd-window-2-tib", Read("compressed"), RefusesRead, windowed_frame(31 << 3, 65536)),
        frame("zstd-dictionary", Read("compressed"), RefusesRead, with_dictionary),
    ]
}
