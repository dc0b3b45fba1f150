//! Each set of options beside `qemu-img create`: the same image, or no image in both.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use holstein::{Disk, DiskOptions, ErrorKind};
use serde_json::{Value, json};

use super::case::{Case, DATA, IMAGE};
use crate::support::{
    layer::{KIB, MIB},
    qemu::{NOTES, Workshop},
    rng::Rng,
};

const SEED: u64 = 7;

/// Two folders with the same backing files, one for each maker.
struct Pair {
    _folder: tempfile::TempDir,
    ours: Workshop,
    theirs: Workshop,
}

impl Pair {
    fn new() -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let workshop = |name| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            Workshop::new(path)
        };
        let (ours, theirs) = (workshop("ours"), workshop("theirs"));
        ours.create("base.qcow2", 3 * MIB / 2, "");
        ours.io("base.qcow2", "qcow2", &["write -P 0x21 0 300k", "write -P 0x22 1M 64k"]);
        // Its last sector is cut short.
        fs::write(ours.path("base.raw"), vec![0x23; 700_001]).unwrap();
        for base in ["base.qcow2", "base.raw"] {
            fs::copy(ours.path(base), theirs.path(base)).unwrap();
        }
        Pair { _folder: folder, ours, theirs }
    }
}

/// All cases; how many images were made.
pub fn run(numbers: u64) -> usize {
    let (next, made) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers {
                return;
            }
            let mut rng = Rng::new(SEED, number);
            let case = Case::random(number, &mut rng);
            let pair = Pair::new();
            match catch_unwind(AssertUnwindSafe(|| compare(&case, &pair, &mut rng))) {
                Ok(true) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Ok(false) => {}
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    let notes = fs::read_to_string(pair.ours.path(NOTES)).unwrap_or_default();
                    failures.lock().unwrap().push(format!("case {number}: {case:?}\n{text}\n{notes}"));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {numbers} failed\n{}", failures.len(), failures.join("\n\n"));
    made.into_inner() as usize
}

/// Whether both made an image. It is the same one, and QEMU works with ours.
fn compare(case: &Case, pair: &Pair, rng: &mut Rng) -> bool {
    let before = pair.ours.listing();
    let theirs = case.qemu_creates(&pair.theirs);
    let disk = match case.create(pair.ours.folder()) {
        Ok(disk) => disk,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert_eq!(pair.ours.listing(), before, "{error}: something was left");
            // The one thing in which we are stricter.
            assert!(!theirs || case.zstd && case.data_file, "QEMU makes it, but we: {error}");
            return false;
        }
    };
    assert!(theirs, "QEMU refuses this");
    let size = disk.size();
    drop(disk);

    pair.ours.check(IMAGE);
    assert_eq!(facts(&pair.ours), facts(&pair.theirs));
    // A raw data file is the disk, so all of it is allocated; QEMU leaves its subclusters out.
    if !(case.raw && case.extended_l2) {
        assert_eq!(allocation(&pair.ours), allocation(&pair.theirs));
    }
    same_disk(pair);
    if case.data_file {
        assert_eq!(fs::metadata(pair.ours.path(DATA)).unwrap().len(), size);
    }
    write_to_both(case, pair, size, rng);
    true
}

/// What `qemu-img info` tells, but for what depends on the file's layout.
fn facts(workshop: &Workshop) -> Value {
    let mut info = workshop.img_json(&["info", "-f", "qcow2", IMAGE]);
    for key in ["actual-size", "children"] {
        info.as_object_mut().unwrap().remove(key);
    }
    info
}

/// Which parts of the disk are allocated where, by `qemu-img map`: start, length, depth, present, data.
fn allocation(workshop: &Workshop) -> Vec<(u64, u64, u64, bool, bool)> {
    let map = workshop.img_json(&["map", "-f", "qcow2", IMAGE]);
    let mut parts: Vec<(u64, u64, u64, bool, bool)> = Vec::new();
    for run in map.as_array().unwrap() {
        let number = |key: &str| run[key].as_u64().unwrap();
        let flag = |key: &str| run[key] == json!(true);
        let part = (number("start"), number("length"), number("depth"), flag("present"), flag("data"));
        match parts.last_mut() {
            // Split only by where it lies in the file.
            Some(last) if (last.2, last.3, last.4) == (part.2, part.3, part.4) => last.1 += part.1,
            _ => parts.push(part),
        }
    }
    parts
}

fn same_disk(pair: &Pair) {
    let theirs = pair.theirs.path(IMAGE);
    pair.ours.identical((IMAGE, "qcow2"), (theirs.to_str().unwrap(), "qcow2"));
}

/// The same writes by qemu-io, and what is read afterwards.
fn write_to_both(case: &Case, pair: &Pair, size: u64, rng: &mut Rng) {
    let mut commands = Vec::new();
    for number in 1..=rng.between(2, 6) {
        let start = rng.below(size / 512) * 512;
        let length = rng.between(1, ((size - start) / 512).min(400)) * 512;
        commands.push(match rng.below(6) {
            0 if case.compat == "1.1" => format!("write -z {start} {length}"),
            1 => format!("discard {start} {length}"),
            2 if !case.data_file && !case.metadata => {
                let start = start / case.cluster_size * case.cluster_size;
                let length = case.cluster_size.min(size - start);
                format!("write -c -P {number} {start} {length}")
            }
            _ => format!("write -P {number} {start} {length}"),
        });
    }
    for workshop in [&pair.ours, &pair.theirs] {
        // A compressed write over an allocated cluster is refused, in both alike.
        let _ = workshop.try_io(IMAGE, "qcow2", &commands);
        workshop.check(IMAGE);
    }
    same_disk(pair);
    let (ours, theirs) = (contents(pair.ours.folder(), size), contents(pair.theirs.folder(), size));
    assert!(ours == theirs, "what is read differs: {commands:?}");
    if case.raw {
        // QEMU writes whole subclusters, also behind the end of the disk.
        let data = fs::read(pair.ours.path(DATA)).unwrap();
        assert!(data[..size as usize] == ours, "the raw data file is not the disk");
    }
}

fn contents(folder: &Path, size: u64) -> Vec<u8> {
    let disk = Disk::open(folder.join(IMAGE), &DiskOptions::default()).unwrap();
    let mut bytes = vec![0; size as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A disk without a byte, which QEMU can let grow.
pub fn smallest() {
    for metadata in [false, true] {
        let pair = Pair::new();
        let case = Case { metadata, ..Case::plain(0) };
        assert_eq!(case.create(pair.ours.folder()).unwrap().size(), 0);
        assert!(case.qemu_creates(&pair.theirs));
        pair.ours.check(IMAGE);
        assert_eq!(facts(&pair.ours), facts(&pair.theirs));
        pair.ours.img(&["resize", "-q", "-f", "qcow2", IMAGE, "1M"]);
        pair.ours.io(IMAGE, "qcow2", &["write -P 5 0 1M"]);
        pair.ours.check(IMAGE);
    }
}

/// The largest disk for each cluster size, and 512 bytes more.
pub fn largest() {
    for (cluster_size, extended_l2, largest) in [
        (512, false, 128u64 << 30),
        (4 * KIB, false, 8 << 40),
        (64 * KIB, false, 2 << 50),
        (2 * MIB, false, 2 << 60),
        (16 * KIB, true, 64 << 40),
        (2 * MIB, true, 1 << 60),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        let case = Case { cluster_size, extended_l2, ..Case::plain(largest + 512) };
        let error = case.create(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("use larger clusters"), "{error}");
        assert!(!case.qemu_creates(&workshop), "QEMU makes {case:?}");
        assert!(workshop.listing().is_empty());

        let disk = Case { size: Some(largest), ..case }.create(folder.path()).unwrap();
        assert_eq!(disk.size(), largest);
        drop(disk);
        let info = workshop.img_json(&["info", "-f", "qcow2", IMAGE]);
        assert_eq!(info["virtual-size"].as_u64(), Some(largest));
        workshop.io(IMAGE, "qcow2", &[format!("write -P 5 {} 512", largest - 512)]);
        workshop.check(IMAGE);
    }
}
