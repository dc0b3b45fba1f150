//! Numbers in the header: impossible, huge, overflowing, unaligned, or against each other.

use super::{Case, Expect::*, Qemu::*, base};
use crate::builder::{Cluster, field::*, pattern};

pub fn cases() -> Vec<Case> {
    vec![
        Case::poke("base-valid", Same, Accepts, |_| {}),
        Case::poke("empty-file", Open(""), RefusesOpen, |i| i.truncate(0)),
        Case::poke("header-cut-at-60", Open(""), RefusesOpen, |i| i.truncate(60)),
        Case::poke("header-cut-at-90", Open(""), RefusesOpen, |i| i.truncate(90)),
        Case::poke("magic-wrong", Open("qcow2"), RefusesOpen, |i| i.u32(MAGIC, 0x5146_49FA)),
        Case::poke("version-0", Open("version 0"), RefusesOpen, |i| i.u32(VERSION, 0)),
        Case::poke("version-1", Open("version 1"), RefusesOpen, |i| i.u32(VERSION, 1)),
        Case::poke("version-4", Open("version 4"), RefusesOpen, |i| i.u32(VERSION, 4)),
        Case::poke("cluster-bits-0", Open("cluster"), RefusesOpen, |i| i.u32(CLUSTER_BITS, 0)),
        Case::poke("cluster-bits-8", Open("cluster"), RefusesOpen, |i| i.u32(CLUSTER_BITS, 8)),
        Case::poke("cluster-bits-22", Open("cluster"), RefusesOpen, |i| i.u32(CLUSTER_BITS, 22)),
        Case::poke("cluster-bits-255", Open("cluster"), RefusesOpen, |i| i.u32(CLUSTER_BITS, 255)),
        Case::poke("cluster-bits-max", Open("cluster"), RefusesOpen, |i| i.u32(CLUSTER_BITS, u32::MAX)),
        Case::poke("size-4-eib", Open(""), RefusesOpen, |i| i.u64(SIZE, 0x4000_0000_0000_0000)),
        Case::poke("size-sign-bit", Open(""), RefusesOpen, |i| i.u64(SIZE, 0x8000_0000_0000_0000)),
        Case::poke("size-max", Open(""), RefusesOpen, |i| i.u64(SIZE, u64::MAX)),
        Case::poke("size-one-l2-more", Open("L1"), RefusesOpen, |i| i.u64(SIZE, (2 << 20) + 512)),
        Case::poke("crypt-aes", Open("encrypt"), RefusesRead, |i| i.u32(CRYPT_METHOD, 1)),
        Case::poke("crypt-luks", Open("encrypt"), RefusesOpen, |i| i.u32(CRYPT_METHOD, 2)),
        Case::poke("crypt-unknown", Open("encrypt"), RefusesOpen, |i| i.u32(CRYPT_METHOD, 3)),
        Case::spec("crypt-luks-header", Open("encrypt"), RefusesOpen, |spec| {
            *spec = spec.clone().extension(EXT_LUKS, [0, 0, 0, 0, 0, 0, 0xD0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        })
        .with_crypt(2),
        // L1 table
        Case::poke("l1-size-0", Open("L1"), RefusesOpen, |i| i.u32(L1_SIZE, 0)),
        Case::poke("l1-size-sign", Open("L1"), RefusesOpen, |i| i.u32(L1_SIZE, 0x7FFF_FFFF)),
        Case::poke("l1-size-max", Open("L1"), RefusesOpen, |i| i.u32(L1_SIZE, u32::MAX)),
        Case::poke("l1-size-limit-plus-1", Open("L1"), RefusesOpen, |i| i.u32(L1_SIZE, 4_194_305)),
        // As large as is allowed, most of it behind the end of the file, where QEMU reads zeros.
        Case::poke("l1-size-limit-past-eof", Open("L1"), Accepts, |i| i.u32(L1_SIZE, 4_194_304)),
        Case::poke("l1-offset-unaligned", Open("L1"), RefusesOpen, |i| i.u64(L1_OFFSET, 0x3200)),
        Case::poke("l1-offset-overflow", Open("L1"), RefusesOpen, |i| {
            i.u64(L1_OFFSET, 0x7FFF_FFFF_FFFF_0000);
        }),
        Case::poke("l1-offset-wraps", Open("L1"), RefusesOpen, |i| i.u64(L1_OFFSET, !0xFFF)),
        Case::poke("l1-offset-past-eof", Open("L1"), Accepts, |i| i.u64(L1_OFFSET, 0x4000_0000)),
        Case::poke("l1-on-the-header", Open(""), Accepts, |i| i.u64(L1_OFFSET, 0)),
        Case::poke("l1-on-the-reftable", Open(""), Accepts, |i| i.u64(L1_OFFSET, i.at.reftable)),
        Case::poke("l1-cut-at-eof", Open("L1"), Accepts, |i| {
            i.u64(L1_OFFSET, i.len());
            i.put(i.len(), &[0, 0, 0, 0]); // half an entry
        }),
        // Refcount table
        Case::poke("reftable-clusters-0", Open("refcount"), RefusesOpen, |i| i.u32(REFTABLE_CLUSTERS, 0)),
        Case::poke("reftable-clusters-above-limit", Open("refcount"), RefusesOpen, |i| {
            i.u32(REFTABLE_CLUSTERS, 0x0002_0001);
        }),
        Case::poke("reftable-clusters-max", Open("refcount"), RefusesOpen, |i| {
            i.u32(REFTABLE_CLUSTERS, u32::MAX);
        }),
        Case::poke("reftable-clusters-past-eof", Open("refcount"), Accepts, |i| {
            i.u32(REFTABLE_CLUSTERS, 2048);
        }),
        Case::poke("reftable-offset-unaligned", Open("refcount"), RefusesOpen, |i| {
            i.u64(REFTABLE_OFFSET, 0x1200);
        }),
        Case::poke("reftable-offset-overflow", Open("refcount"), RefusesOpen, |i| {
            i.u64(REFTABLE_OFFSET, 0x7FFF_FFFF_FFFF_F000);
        }),
        Case::poke("reftable-offset-past-eof", Open("refcount"), Accepts, |i| {
            i.u64(REFTABLE_OFFSET, 0x4000_0000);
        }),
        Case::poke("refcount-order-7", Open("refcount"), RefusesOpen, |i| i.u32(REFCOUNT_ORDER, 7)),
        Case::poke("refcount-order-64", Open("refcount"), RefusesOpen, |i| i.u32(REFCOUNT_ORDER, 64)),
        Case::poke("refcount-order-max", Open("refcount"), RefusesOpen, |i| {
            i.u32(REFCOUNT_ORDER, u32::MAX);
        }),
        // Header length
        Case::poke("header-length-0", Open("header"), RefusesOpen, |i| i.u32(HEADER_LENGTH, 0)),
        Case::poke("header-length-96", Open("header"), RefusesOpen, |i| i.u32(HEADER_LENGTH, 96)),
        Case::poke("header-length-103", Open("header"), RefusesOpen, |i| i.u32(HEADER_LENGTH, 103)),
        // Legal for QEMU, which then reads the extensions from an odd place; the format wants eights.
        Case::poke("header-length-105", Open("header"), Accepts, |i| i.u32(HEADER_LENGTH, 105)),
        Case::poke("header-length-sign", Open("header"), RefusesOpen, |i| {
            i.u32(HEADER_LENGTH, 0x7FFF_FFFF);
        }),
        Case::poke("header-length-max", Open("header"), RefusesOpen, |i| i.u32(HEADER_LENGTH, u32::MAX)),
        Case::poke("header-length-past-cluster", Open("header"), RefusesOpen, |i| {
            i.u32(HEADER_LENGTH, 4104);
        }),
        // Compression type
        Case::poke("compression-type-without-bit", Open("compression"), RefusesOpen, |i| {
            i.u8(COMPRESSION_TYPE, 1);
        }),
        Case::poke("compression-bit-without-type", Open("compression"), RefusesOpen, |i| {
            i.u64(INCOMPATIBLE, COMPRESSION);
        }),
        Case::poke("compression-type-2", Open("compression"), RefusesOpen, |i| {
            i.u64(INCOMPATIBLE, COMPRESSION);
            i.u8(COMPRESSION_TYPE, 2);
        }),
        Case::new("compression-bit-without-field", Open("compression"), RefusesOpen, |_| {
            let mut spec = base();
            spec.header_length = 104;
            spec.build().edit(|i| i.u64(INCOMPATIBLE, COMPRESSION))
        }),
        // A version 2 header has no feature words: what stands there is an extension, here the end mark.
        Case::new("version-2-with-feature-words", Same, Accepts, |_| {
            let mut spec = base();
            spec.version = 2;
            spec.bitmaps.clear();
            spec.clusters.retain(|_, cluster| matches!(cluster, Cluster::Data(_)));
            spec.build().edit(|i| i.u64(INCOMPATIBLE, DATA_FILE))
        }),
        // A huge disk with the tables that it needs: legal, and no work as long as nobody reads it all.
        Case::new("size-2-tib", Same, Accepts, |_| {
            let mut spec = crate::builder::Builder::new(16, 2 << 40);
            spec.clusters.insert(0, Cluster::Data(pattern(1, 65536)));
            spec.clusters.insert((2 << 40 >> 16) - 1, Cluster::Data(pattern(2, 65536)));
            spec.build()
        }),
        // 32 MiB of L1 entries, all of them holes in the file: the largest disk that 64 KiB clusters allow.
        Case::new("size-2-pib-all-holes", Same, NotRun("its map takes eleven seconds"), |_| {
            let spec = crate::builder::Builder::new(16, 1 << 20);
            spec.build().edit(|i| {
                i.u64(SIZE, 4_194_304 << 29);
                i.u32(L1_SIZE, 4_194_304);
                i.u64(L1_OFFSET, 1 << 30);
                i.length = Some((1 << 30) + (32 << 20));
            })
        }),
    ]
}

impl Case {
    /// The same with an encryption method in the header.
    fn with_crypt(mut self, method: u32) -> Self {
        let make = self.make;
        self.make = Box::new(move |dir| make(dir).edit(|image| image.u32(CRYPT_METHOD, method)));
        self
    }
}
