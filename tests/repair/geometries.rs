//! The same damage in images of all geometries: cluster sizes, refcount widths, versions, subclusters, snapshots,
//! compressed clusters, data files.

use holstein::RepairMode;
use serde_json::Value;

use crate::{
    check_cases::image::{Image, Verdict},
    crashes::exhaustive,
    memory::{repaired, verdict},
    plain::{Plain, difference},
    verdicts::{qemu_repair, short, why, writes_stay_apart},
};

const COPIED: u64 = 1 << 63;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Options of `qemu-img create`, and what is special.
const GEOMETRIES: &[(&str, &str, Special)] = &[
    ("1-bit", "cluster_size=4k,refcount_bits=1", Special::None),
    ("2-bits", "cluster_size=4k,refcount_bits=2", Special::Snapshot),
    ("4-bits", "cluster_size=4k,refcount_bits=4", Special::Compressed),
    ("8-bits", "cluster_size=64k,refcount_bits=8", Special::Snapshot),
    ("16-bits", "cluster_size=64k,refcount_bits=16", Special::Compressed),
    ("32-bits", "cluster_size=4k,refcount_bits=32", Special::Snapshot),
    ("64-bits", "cluster_size=64k,refcount_bits=64", Special::Snapshot),
    ("512-bytes", "cluster_size=512", Special::Snapshot),
    ("512-bytes-64", "cluster_size=512,refcount_bits=64", Special::Compressed),
    ("2M", "cluster_size=2M", Special::Snapshot),
    ("extended", "cluster_size=16k,extended_l2=on", Special::Snapshot),
    ("version-2", "compat=0.10,cluster_size=4k", Special::Snapshot),
    ("zstd", "cluster_size=64k,compression_type=zstd", Special::Compressed),
    ("data-file", "cluster_size=64k,data_file=disk.data", Special::None),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    None,
    Snapshot,
    /// Compressed clusters that share host clusters, beside each other.
    Compressed,
}

/// What is damaged, in any geometry.
const DAMAGES: &[(&str, fn(&Image))] = &[
    ("leak", |image| image.poke(l2_entry(image, 0), &vec![0; l2_entry_size(image) as usize])),
    ("leaks-behind", |image| {
        let bytes = image.bytes();
        let clusters = Plain(&bytes).clusters();
        if clusters + 3 > cluster(image) * 8 / bits(image) {
            return;
        }
        image.write(&[bytes, vec![0; cluster(image) as usize * 3]].concat());
        set_refcount(image, clusters, 1);
        set_refcount(image, clusters + 2, 1);
    }),
    ("too-high", |image| {
        let most = u64::MAX >> (64 - bits(image));
        set_refcount(image, image.l2(0) / cluster(image), most);
    }),
    ("zero-l2", |image| set_refcount(image, image.l2(0) / cluster(image), 0)),
    ("zero-header", |image| set_refcount(image, 0, 0)),
    ("zero-all", |image| image.poke(image.refcount_block(), &vec![0; cluster(image) as usize])),
    ("garbage", |image| image.poke(image.refcount_block(), &vec![0x5a; cluster(image) as usize])),
    ("block-lost", |image| image.set_word(image.refcount_table(), 0)),
    ("block-reserved", |image| image.set_word(image.refcount_table(), image.refcount_block() | 2)),
    ("block-askew", |image| image.set_word(image.refcount_table(), image.refcount_block() + 0x100)),
    ("block-outside", |image| {
        let clusters = Plain(&image.bytes()).clusters();
        image.set_word(image.refcount_table(), (clusters + 9) * cluster(image));
    }),
    ("block-is-l1", |image| image.set_word(image.refcount_table(), image.l1())),
    ("table-empty", |image| image.set_half_word(56, 0)),
    ("table-far", |image| image.set_word(48, 1 << 40)),
    ("table-is-l2", |image| image.set_word(48, image.l2(0))),
    ("flags-set", |image| set_flags(image, |entry| entry | COPIED)),
    ("flags-clear", |image| set_flags(image, |entry| entry & !COPIED)),
    ("twice", |image| image.set_word(l2_entry(image, 0), image.word(l2_entry(image, 1)))),
];

fn cluster(image: &Image) -> u64 {
    1 << image.half_word(20)
}

fn bits(image: &Image) -> u64 {
    if image.half_word(4) == 2 { 16 } else { 1 << image.half_word(96) }
}

fn l2_entry_size(image: &Image) -> u64 {
    if image.half_word(4) > 2 && image.half_word(76) & 16 != 0 { 16 } else { 8 }
}

/// The offset of the entry of an allocated cluster that is not compressed.
fn l2_entry(image: &Image, number: usize) -> u64 {
    let size = l2_entry_size(image);
    let (table, bytes) = (image.l2(0), image.bytes());
    let entries = (0..cluster(image) / size).map(|index| table + index * size);
    let plain = Plain(&bytes);
    let mut plain_ones = entries.filter(|at| plain.word(*at) != 0 && plain.word(*at) & 1 << 62 == 0);
    plain_ones.nth(number).unwrap()
}

/// Sets a refcount in the first block.
fn set_refcount(image: &Image, cluster: u64, refcount: u64) {
    let bits = bits(image);
    let at = image.refcount_block() + cluster * bits / 8;
    if bits >= 8 {
        let bytes = refcount.to_be_bytes();
        image.poke(at, &bytes[8 - bits as usize / 8..]);
    } else {
        let shift = cluster * bits % 8;
        let mask = ((1u16 << bits) - 1) << shift;
        let old = u16::from(image.bytes()[at as usize]);
        image.poke(at, &[(old & !mask | (refcount as u16) << shift) as u8]);
    }
}

/// Changes every entry with an offset of the first L2 table, and the L1 entry.
fn set_flags(image: &Image, change: impl Fn(u64) -> u64) {
    image.set_word(image.l1(), change(image.word(image.l1())));
    let size = l2_entry_size(image);
    let (table, mut bytes) = (image.l2(0), image.bytes());
    for index in 0..cluster(image) / size {
        let at = (table + index * size) as usize;
        let entry = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        if entry & OFFSET != 0 && entry & 1 << 62 == 0 {
            bytes[at..at + 8].copy_from_slice(&change(entry).to_be_bytes());
        }
    }
    image.write(&bytes);
}

fn create(name: &str, options: &str, special: Special) -> Image {
    let (size, second) =
        if options.contains("=2M") { ("8M", "write -P 2 5M 70k") } else { ("2M", "write -P 2 1M 70k") };
    let image = Image::create(name, options, size);
    image.io(&["write -P 1 0 200k", "write -z 300k 64k", second]);
    match special {
        Special::None => {}
        Special::Snapshot => {
            image.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
            image.io(&["write -P 3 64k 64k"]);
        }
        Special::Compressed => {
            image.io(&["write -c -P 4 512k 64k", "write -c -P 5 640k 64k", "write -c -P 6 768k 64k"])
        }
    }
    image
}

fn all(mode: RepairMode, damages: &[&str]) {
    let mut wrong = Vec::new();
    let mut counts = [0; 3];
    for (which, (name, options, special)) in GEOMETRIES.iter().enumerate() {
        let image = create(&format!("geometry-{mode}-{name}"), options, *special);
        let whole = image.bytes();
        let chosen = DAMAGES.iter().filter(|(damage, _)| damages.is_empty() || damages.contains(damage));
        for (number, (damage, apply)) in chosen.enumerate() {
            image.write(&whole);
            apply(&image);
            // In a normal run every other geometry has a damage, and every other damage a geometry.
            if image.bytes() == whole || !exhaustive() && (which + number) % 2 == 1 {
                continue;
            }
            let qemu = qemu_repair(&image, &mode.to_string());
            let told = match repair_in_memory(&image, mode) {
                Ok((ours, own)) => {
                    counts[0] += 1;
                    counts[1] += usize::from(ours.code == Some(0));
                    let because = why(&ours, &own, &qemu);
                    counts[2] += usize::from(because.is_none());
                    // Refcounts of one bit cannot tell that two entries lead to one cluster.
                    let complete = ours.code == Some(0) || options.contains("bits=1") && *damage == "twice";
                    let worse = because == Some(Err(())) && ours.code != Some(0);
                    let apart = match ours.code == Some(0) && number % 4 == 0 {
                        true => writes_stay_apart(&image, &[0]),
                        false => Ok(()),
                    };
                    match apart {
                        Ok(()) if (complete || mode == RepairMode::Leaks) && !worse => continue,
                        Ok(()) => format!("{}; QEMU: {}\n{own:#}", short(&ours), short(&qemu)),
                        Err(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            wrong.push(format!("{name} {damage}: {told}"));
        }
    }
    println!("{mode}: {counts:?} images, repaired, as by QEMU");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts[1] > 20 && counts[2] > 20, "{counts:?}");
}

/// Repairs an image in memory, writes the result back, and holds it against QEMU's check.
fn repair_in_memory(image: &Image, mode: RepairMode) -> Result<(Verdict, Value), String> {
    let before = image.bytes();
    let (report, after) = repaired(&before, mode);
    let report = report.map_err(|error| error.to_string())?;
    let limit = before.len() as u64;
    if let Some(difference) = difference(&Plain(&before).guest(limit), &Plain(&after).guest(limit)) {
        return Err(format!("guest data changed: {difference}"));
    }
    if repaired(&after, mode).1 != after {
        return Err("a second repair changes something".into());
    }
    image.write(&after);
    let (ours, own) = verdict(&report);
    let qemu = image.qemu_check();
    let number =
        |verdict: &Verdict, key: &str| verdict.json.as_ref().map_or(&Value::Null, |json| &json[key]).as_u64();
    let keys = ["corruptions", "leaks", "check-errors", "image-end-offset", "allocated-clusters"];
    let same = keys.iter().all(|key| number(&ours, key) == number(&qemu, key));
    match same && (qemu.code == ours.code || own["further-corruptions"] != 0) {
        true => Ok((ours, own)),
        false => Err(format!("it says {}, but QEMU's check {}", short(&ours), short(&qemu))),
    }
}

#[test]
fn all_geometries_are_repaired() {
    all(RepairMode::All, &[]);
}

#[test]
fn leaks_of_all_geometries_are_repaired() {
    all(
        RepairMode::Leaks,
        &["leak", "leaks-behind", "too-high", "zero-l2", "flags-set", "flags-clear", "twice"],
    );
}
