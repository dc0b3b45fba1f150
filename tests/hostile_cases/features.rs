//! Header extensions that overflow, repeat or lie, and feature bits.

use super::{Case, Expect::*, Qemu::*, base};
use crate::builder::{Builder, field::*};

/// One entry of the feature table: an incompatible bit and its name, which may fill all 46 bytes.
fn feature(bit: u8, name: &[u8]) -> Vec<u8> {
    let mut entry = vec![0, bit];
    entry.extend(name);
    entry.resize(48, 0);
    entry
}

/// The base image with unknown incompatible bit `bit`, named by the feature table.
fn unknown_bit(spec: &mut Builder, bit: u8, name: &[u8]) {
    *spec = spec.clone().extension(EXT_FEATURE_NAMES, feature(bit, name));
    spec.incompatible = 1 << bit;
}

fn extend(kind: u32, data: &'static [u8]) -> impl Fn(&mut Builder) {
    move |spec| *spec = spec.clone().extension(kind, data)
}

pub fn cases() -> Vec<Case> {
    vec![
        // The bitmaps extension is the base image's only one: its length stands at byte 116.
        Case::poke("extension-length-sign", Open("extension"), RefusesOpen, |i| {
            i.u32(i.at.extension[0] + 4, 0x7FFF_FFFF);
        }),
        Case::poke("extension-length-wraps", Open("extension"), RefusesOpen, |i| {
            i.u32(i.at.extension[0] + 4, 0xFFFF_FFF8);
        }),
        Case::spec("extension-ends-past-cluster", Open("extension"), RefusesOpen, |spec| {
            spec.extensions.push((0x1234_5678, vec![1; 4096 - 112 - 8 - 32]));
        })
        .grow_first_extension(8),
        Case::spec("extension-past-backing-name", Open("extension"), RefusesOpen, |spec| {
            *spec = spec.clone().backing("base.raw", "raw");
        })
        .grow_first_extension(200),
        Case::spec("extensions-without-end", Same, Accepts, |spec| {
            spec.extensions.push((0x1234_5678, vec![1; 4096 - 112 - 8 - 32]));
        }),
        Case::spec("unknown-extension-twice", Same, Accepts, |spec| {
            spec.extensions = vec![(0x1234_5678, b"one".into()), (0x1234_5678, b"two".into())];
        }),
        Case::spec("backing-format-twice", Open("twice"), Accepts, |spec| {
            spec.extensions =
                vec![(EXT_BACKING_FORMAT, b"raw".into()), (EXT_BACKING_FORMAT, b"qcow2".into())];
        }),
        Case::spec("feature-table-twice", Open("twice"), Accepts, |spec| {
            let table = feature(0, b"dirty bit");
            spec.extensions = vec![(EXT_FEATURE_NAMES, table.clone()), (EXT_FEATURE_NAMES, table)];
        }),
        Case::new("bitmaps-extension-twice", Open("twice"), Accepts, |_| {
            base().build().edit(|i| {
                let copy = i.bytes[112..144].to_vec();
                i.put(144, &copy);
            })
        }),
        Case::poke("bitmaps-extension-of-23", Open("bitmap"), RefusesOpen, |i| i.u32(116, 23)),
        Case::poke("bitmaps-extension-of-25", Open("bitmap"), RefusesOpen, |i| i.u32(116, 25)),
        Case::poke("bitmaps-extension-of-0", Open("bitmap"), RefusesOpen, |i| i.u32(116, 0)),
        Case::poke("bitmaps-extension-reserved", Open("bitmap"), RefusesOpen, |i| {
            i.u32(i.at.bitmaps_extension() + EXT_RESERVED, 1);
        }),
        Case::spec("feature-table-of-47", Open("feature"), Accepts, extend(EXT_FEATURE_NAMES, &[0; 47])),
        Case::spec("luks-pointer-of-8", Open(""), RefusesOpen, extend(EXT_LUKS, &[0; 8])),
        Case::spec("luks-pointer-unencrypted", Open(""), RefusesOpen, extend(EXT_LUKS, &[0; 16])),
        Case::spec("backing-format-too-long", Open("format"), RefusesOpen, |spec| {
            *spec = spec.clone().backing("base.raw", "sixteen-letters!");
        }),
        // Feature bits
        Case::poke("incompatible-bit-5", Open("5"), RefusesOpen, |i| i.u64(INCOMPATIBLE, 1 << 5)),
        Case::poke("incompatible-bit-63", Open("63"), RefusesOpen, |i| i.u64(INCOMPATIBLE, 1 << 63)),
        Case::poke("incompatible-all", Open(""), RefusesOpen, |i| i.u64(INCOMPATIBLE, !0x1F)),
        Case::spec("incompatible-named", Open("time travel"), RefusesOpen, |spec| {
            unknown_bit(spec, 40, b"time travel");
        }),
        Case::spec("incompatible-name-full", Open(&"x".repeat(46).leak()[..]), RefusesOpen, |spec| {
            unknown_bit(spec, 7, &[b'x'; 46]);
        }),
        Case::spec("incompatible-name-escapes", Open("2J"), RefusesOpen, |spec| {
            unknown_bit(spec, 9, b"\x1b[2J\x1b]0;owned\x07\r\n\x08");
        }),
        Case::spec("incompatible-name-c1", Open(""), RefusesOpen, |spec| {
            unknown_bit(spec, 9, "\u{9b}31m\u{202e}".as_bytes());
        }),
        Case::spec("incompatible-name-not-utf8", Open(""), RefusesOpen, |spec| {
            unknown_bit(spec, 9, b"\xff\xfe\x80%s%n");
        }),
        Case::poke("incompatible-dirty", Same, Accepts, |i| i.u64(INCOMPATIBLE, DIRTY)),
        Case::poke("incompatible-corrupt", Same, Accepts, |i| i.u64(INCOMPATIBLE, CORRUPT)),
        Case::poke("compatible-unknown", Same, Accepts, |i| i.u64(COMPATIBLE, !1)),
        Case::poke("autoclear-unknown", Same, Accepts, |i| i.u64(AUTOCLEAR, BITMAPS | !3)),
        Case::poke("autoclear-raw-without-data-file", Open(""), RefusesRead, |i| {
            i.u64(AUTOCLEAR, BITMAPS | RAW_EXTERNAL);
        }),
        Case::poke("extended-l2-small-clusters", Open("L2"), RefusesOpen, |i| {
            i.u64(INCOMPATIBLE, EXTENDED_L2);
        }),
        Case::poke("autoclear-bitmaps-without-extension", Same, Accepts, |i| {
            i.put(112, &[0; 32]);
        }),
    ]
}

impl Case {
    /// The same with the first extension's length too large by `bytes`.
    fn grow_first_extension(mut self, bytes: u32) -> Self {
        let make = self.make;
        self.make = Box::new(move |dir| {
            make(dir).edit(|image| {
                let place = image.at.extension[0] + 4;
                let length = image.get(place - 4) as u32;
                image.u32(place, length + bytes);
            })
        });
        self
    }
}
