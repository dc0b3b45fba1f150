//! Damaged images that are repaired on the simulated storage: each kind of repair, in many geometries.

use std::{collections::BTreeSet, fs, sync::Arc};

use holstein::{Disk, DiskOptions, Layers, RepairMode, storage::SimulatedStorage};

use crate::{
    bitmaps::{self, Contents, clusters, contents, contents_of, table},
    check_cases::image::Image,
    memory::{DISK, repaired, storage, verdict},
    plain::{Guest, Plain, difference},
};

const COPIED: u64 = 1 << 63;

/// A damaged image, and what is known about it.
pub struct Case {
    pub name: &'static str,
    pub mode: RepairMode,
    /// As it is damaged.
    pub bytes: Vec<u8>,
    /// As a repair makes it.
    pub repaired: Vec<u8>,
    /// The exit code of the repair.
    code: Option<i32>,
    guest: Guest,
    /// The bitmaps that must survive.
    sound: Contents,
    /// QEMU opens it as it is.
    pub opens: bool,
}

/// How a case is made: an image before and after its damage.
type Recipe = (&'static str, RepairMode, fn(&str) -> Image, fn(&Image));

pub const RECIPES: &[Recipe] = &[
    ("snapshots-lost", RepairMode::Leaks, with_snapshots, |i| i.set_half_word(60, 0)),
    // The second entry follows the first, which has 24 bytes of extra data, an id and a name; its L1 table is nowhere.
    ("snapshot-given-up", RepairMode::All, with_snapshots, |i| {
        i.poke(i.snapshots() + (40 + 24 + 4u64).next_multiple_of(8) + 5, &[0xf1]);
    }),
    ("snapshot-mended", RepairMode::All, with_snapshots, |i| i.set_half_word(i.snapshots() + 36, 2000)),
    ("snapshots-gone", RepairMode::All, with_snapshots, |i| i.poke(i.snapshots(), &[0; 512])),
    ("stale-bitmaps", RepairMode::Leaks, with_long_name, |i| i.poke(95, &[0x80])),
    (
        "stale-in-version-2",
        RepairMode::Leaks,
        |name| {
            let image = bitmaps::image(name);
            image.tool("qemu-img", &["amend", "-f", "qcow2", "-o", "compat=0.10", "disk.qcow2"]);
            image
        },
        |_| (),
    ),
    (
        "marked",
        RepairMode::Leaks,
        |name| plain(name, "cluster_size=4k,refcount_bits=2"),
        |i| {
            i.poke(79, &[3]);
            i.set_word(i.l2(0) + 16, 0);
            i.set_word(i.l2(0) + 24, i.word(i.l2(0) + 24) & !COPIED);
        },
    ),
    (
        "zero-refcounts",
        RepairMode::All,
        |name| plain(name, "cluster_size=512,refcount_bits=64"),
        |i| {
            i.poke(i.refcount_block(), &[0; 512]);
        },
    ),
    (
        "block-lost",
        RepairMode::All,
        |name| plain(name, "cluster_size=4k,refcount_bits=1"),
        |i| {
            i.set_word(i.refcount_table(), 0);
        },
    ),
    (
        "large-clusters",
        RepairMode::All,
        |name| plain(name, "cluster_size=2M,refcount_bits=64"),
        |i| {
            i.set_half_word(56, 0);
        },
    ),
    (
        "twice",
        RepairMode::All,
        |name| plain(name, "cluster_size=16k,extended_l2=on"),
        |i| {
            let first = i.bytes()[i.l2(0) as usize..][..16].to_vec();
            i.poke(i.l2(0) + 48, &first);
            i.set_word(i.l2(0) + 16, i.word(i.l2(0) + 16) & !COPIED);
        },
    ),
    ("unknown-autoclear", RepairMode::All, with_snapshots, |i| {
        i.poke(88, &[0x40]);
        i.set_refcount(i.l2(0) >> 16, 0);
        i.set_word(i.l2(0) + 48, i.word(i.l2(0) + 48) | COPIED);
    }),
    (
        "many-blocks",
        RepairMode::All,
        |name| {
            let image = Image::create(name, "cluster_size=512,refcount_bits=64", "3M");
            image.io(&["write -P 1 0 1800k", "write -P 2 2M 64k"]);
            image
        },
        |i| i.set_word(i.refcount_table() + 8, 1 << 33),
    ),
    ("bitmap-at-end", RepairMode::All, bitmaps::image, |i| {
        i.set_word(table(i, "wrong"), clusters(i) * 4096);
    }),
    ("bitmap-and-block", RepairMode::All, bitmaps::image, |i| {
        i.set_word(table(i, "wrong") + 8, clusters(i) * 4096);
        i.set_word(i.refcount_table(), clusters(i) * 4096);
    }),
    ("bitmap-table-cut", RepairMode::All, bitmaps::image, |i| {
        let end = clusters(i) * 4096;
        let mut bytes = i.bytes();
        bytes.resize(end as usize, 0);
        bytes.extend_from_slice(&i.word(table(i, "wrong")).to_be_bytes());
        i.write(&bytes);
        i.set_word(bitmaps::entry_of(i, "wrong"), end);
    }),
    ("every-bitmap", RepairMode::All, bitmaps::image, |i| {
        i.set_word(table(i, "wrong") + 16, clusters(i) * 4096);
        i.set_word(table(i, "sound"), i.word(table(i, "other")));
        i.poke(79, &[2]);
    }),
    ("bitmap-directory", RepairMode::All, bitmaps::image, |i| i.set_half_word(i.bitmaps_extension(), 5)),
    (
        "crashed",
        RepairMode::All,
        |name| {
            let image = Image::create(name, "cluster_size=64k,lazy_refcounts=on", "4M");
            image.io(&["write -P 1 0 256k"]);
            image.io_and_crash("open -o lazy-refcounts=on disk.qcow2", &["write -P 2 128k 512k", "flush"]);
            image
        },
        |i| assert_eq!(i.bytes()[79], 1),
    ),
    (
        "no-growth",
        RepairMode::All,
        |name| plain(name, "cluster_size=4k"),
        |i| {
            // Free clusters, then the end, and there a broken entry leads.
            let mut bytes = i.bytes();
            bytes.resize((clusters(i) + 20) as usize * 4096, 0);
            i.write(&bytes);
            i.set_word(i.l2(0) + 8, COPIED | bytes.len() as u64);
            i.set_refcount(i.l2(0) / 4096, 0);
        },
    ),
];

fn plain(name: &str, options: &str) -> Image {
    let size = if options.contains("=2M") { "8M" } else { "2M" };
    let image = Image::create(name, options, size);
    image.io(&["write -P 1 0 200k", "write -z 300k 64k", "write -P 2 1M 70k"]);
    image.tool("qemu-img", &["bitmap", "--add", "-g", "512", "disk.qcow2", "sound"]);
    image.io(&["write -P 3 90k 5k"]);
    image
}

fn with_snapshots(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k", "4M");
    image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "sound"]);
    image.io(&["write -P 1 0 1M"]);
    for tag in ["one", "two"] {
        image.tool("qemu-img", &["snapshot", "-c", tag, "disk.qcow2"]);
        image.io(&["write -P 2 100k 128k"]);
    }
    image
}

/// The backing file of one case.
pub const BASE: &str = "base.raw";

/// The name of the backing file takes most of the header.
fn with_long_name(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=4k", "4M");
    fs::write(image.dir.join(BASE), [7; 70_000]).unwrap();
    image.io(&["write -P 1 0 100k"]);
    image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "b"]);
    let base = format!("{}{BASE}", "./".repeat(450));
    image.tool("qemu-img", &["rebase", "-u", "-F", "raw", "-b", &base, "disk.qcow2"]);
    image
}

impl Case {
    pub fn make((name, mode, create, damage): &Recipe) -> Case {
        let image = create(&format!("case-{name}"));
        let (whole, _) = contents(&image.path);
        damage(&image);
        let bytes = image.bytes();
        let (report, repaired) = repaired(&bytes, *mode);
        let report = report.unwrap();
        let (ours, own) = verdict(&report);
        assert_ne!(bytes, repaired, "{name}: nothing was repaired: {own:#}");
        assert!(ours.code == Some(0) || *name == "no-growth", "{name}: {ours:?} {own:#}");
        image.write(&repaired);
        let (sound, _) = contents(&image.path);
        assert!(sound.iter().all(|(name, extents)| whole[name] == *extents), "{name}: {sound:?}");
        image.write(&bytes);
        let info =
            std::process::Command::new("qemu-img").args(["info", "-f", "qcow2"]).arg(&image.path).output();
        let opens = info.unwrap().status.success();
        // A snapshot that is given up is nobody's any more.
        let tables = Plain(&repaired).l1_tables();
        let guest = Plain(&bytes).guest_of(&tables, bytes.len() as u64, &BTreeSet::new());
        Case { name, mode: *mode, repaired, code: ours.code, guest, sound, opens, bytes }
    }

    pub fn storage(&self) -> SimulatedStorage {
        storage(&self.bytes)
    }

    /// What must hold of the image whatever happened during the repair.
    pub fn is_not_worse(&self, bytes: &[u8]) -> Result<(), String> {
        let (old, now, new) = (Plain(&self.bytes), Plain(bytes), Plain(&self.repaired));
        let tables = new.l1_tables();
        if now.l1_tables() != tables && now.l1_tables() != old.l1_tables() {
            return Err(format!("the L1 tables are {:x?}", now.l1_tables()));
        }
        let guest = now.guest_of(&tables, self.bytes.len() as u64, &BTreeSet::new());
        if let Some(difference) = difference(&self.guest, &guest) {
            return Err(format!("guest data changed: {difference}"));
        }
        for cluster in 0..now.clusters() {
            let least = old.refcount(cluster).min(new.refcount(cluster));
            if now.refcount(cluster) < least {
                return Err(format!(
                    "cluster {cluster} has refcount {} instead of {least}",
                    now.refcount(cluster)
                ));
            }
        }
        // If it can be opened, what is there of bitmaps is true.
        if let Ok(disk) = open(&storage(bytes)) {
            let (usable, _) = contents_of(&disk);
            for (name, extents) in &usable {
                if self.sound.get(name) != Some(extents) {
                    return Err(format!("bitmap '{name}' seems to be sound: {extents:?}"));
                }
            }
        }
        Ok(())
    }

    /// The image is as a repair leaves it.
    pub fn is_repaired(&self, bytes: &[u8]) -> Result<(), String> {
        self.is_not_worse(bytes)?;
        let storage = storage(bytes);
        let options = DiskOptions::default();
        let report = Disk::check_in(Arc::new(storage.clone()), DISK, &options).map_err(|e| e.to_string())?;
        let complete = !report.is_corrupt() && report.leaks + report.check_errors == 0;
        if complete != (self.code == Some(0)) {
            return Err(format!("a check finds {report:?}"));
        }
        let plain = Plain(bytes);
        if plain.incompatible() & 3 != 0 && complete || plain.autoclear() >> 2 != 0 {
            return Err(format!("features {:#x}, {:#x}", plain.incompatible(), plain.autoclear()));
        }
        if !complete {
            return Ok(());
        }
        let (usable, _) = contents_of(&open(&storage).map_err(|e| e.to_string())?);
        match usable == self.sound {
            true => Ok(()),
            false => Err(format!("the bitmaps are {usable:?} instead of {:?}", self.sound)),
        }
    }

    /// Another repair ends well.
    pub fn goes_on(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (report, after) = repaired(bytes, self.mode);
        report.map_err(|error| format!("the next repair: {error}"))?;
        self.is_repaired(&after).map_err(|reason| format!("after the next repair: {reason}"))?;
        Ok(after)
    }
}

fn open(storage: &SimulatedStorage) -> holstein::Result<Disk> {
    let options = DiskOptions { layers: Layers::TopOnly, ..DiskOptions::default() };
    Disk::open_in(Arc::new(storage.clone()), DISK, &options)
}

/// The names of all cases, for messages.
pub fn names() -> BTreeSet<&'static str> {
    RECIPES.iter().map(|recipe| recipe.0).collect()
}
