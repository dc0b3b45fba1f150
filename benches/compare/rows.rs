//! What is compared: each row's work, for us and for the peer.

use crate::Result;
use crate::daemon::{self, Copied, Durability, Setting};
use crate::disks::{
    self, BITMAP, BITMAPS, DISK, FOUR, FULL, METADATA, SPARSE_DISK, SPARSE_FULL, Workspace, qemu_img,
};
use crate::measure::{Proof, Row, Side, Target};
use crate::options::{Options, Sides};
use crate::tools::{Sample, measure, output};
use crate::{plain, tools};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release build of the command.
const HOLSTEIN: &str = env!("CARGO_BIN_EXE_holstein");

const OURS: &str = "target-ours.qcow2";
const PEER: &str = "target-peer.qcow2";
const PLAIN: &str = "target-plain.raw";

/// One place for a row's files.
struct Place {
    folder: PathBuf,
    durability: Durability,
}

/// Prepares the row of this name.
pub(crate) fn build<'a>(name: &'static str, options: &Options, work: &'a Workspace) -> Result<Row<'a>> {
    let disk = || Place { folder: work.disk.clone(), durability: Durability::Synced };
    let tmpfs = || Place { folder: work.tmpfs.clone(), durability: Durability::Memory };
    let mut row = match name {
        "incremental-disk" => incremental(disk(), "on disk", (DISK, FULL), &work.dirty, (0.50, 0.40)),
        "incremental-tmpfs" => incremental(tmpfs(), "on tmpfs", (DISK, FULL), &work.dirty, (0.70, 0.60)),
        "full-disk" => full(disk(), "on disk"),
        "full-tmpfs" => full(tmpfs(), "on tmpfs"),
        "zstd-disk" => zstd(disk(), "on disk"),
        "zstd-tmpfs" => zstd(tmpfs(), "on tmpfs"),
        "reflink-full" => Ok(reflink(&work.xfs, "on XFS", FULL, "")),
        "reflink-incremental" => {
            let increment = format!(",backing={FULL},backing-format=qcow2,bitmap={BITMAP},bitmap-mode=never");
            Ok(reflink(&work.xfs, "on XFS", DISK, &increment))
        }
        "map" => Ok(map(&work.disk)),
        "check" => Ok(check(&work.disk)),
        "bitmap-add" => bitmap_change(&work.disk, Change::Add),
        "bitmap-clear" => bitmap_change(&work.disk, Change::Clear),
        "bitmap-merge" => bitmap_change(&work.disk, Change::Merge),
        "four" => Ok(four_disks(&work.disk)),
        "sparse-incremental" => {
            let images = (SPARSE_DISK, SPARSE_FULL);
            incremental(
                disk(),
                "1 TiB disk, 100 dirty clusters, on disk",
                images,
                &work.sparse_dirty,
                (0.30, 0.30),
            )
        }
        other => Err(format!("no row is named {other}").into()),
    }?;
    row.name = name;
    if options.sides == Sides::Peers && row.ours.take().is_some() {
        row.missing = "not run";
    }
    Ok(row)
}

/// The dirty clusters of a disk, over its earlier full copy, beside a job of `qemu-storage-daemon`.
fn incremental<'a>(
    place: Place,
    title: &'static str,
    (disk, full): (&'static str, &'static str),
    dirty: &[Range<u64>],
    (limit, aim): (f64, f64),
) -> Result<Row<'a>> {
    let Place { folder, durability } = place;
    let disk_option = format!(
        "source={disk},target={OURS},backing={full},backing-format=qcow2,bitmap={BITMAP},bitmap-mode=never"
    );
    let ours =
        holstein(&folder, vec!["backup".into(), "--disk".into(), disk_option], same(&folder, disk, OURS));
    let settings = [(16, false), (64, false), (16, true), (64, true)];
    let peers = settings.map(|(workers, lazy_flush)| {
        let flush = if lazy_flush { ", no-flush" } else { "" };
        let (prepared, at) = (folder.clone(), folder.clone());
        let setting = Setting { workers, lazy_flush };
        Side {
            name: format!("qemu-storage-daemon, {workers} workers{flush}"),
            prepare: Box::new(move || {
                qemu_img(&prepared, &["create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", PEER])
            }),
            work: Box::new(move || {
                let copied = Copied { source: disk.into(), target: PEER.into() };
                daemon::backup(&at, &[copied], BITMAP, setting, durability)
            }),
            verify: same(&folder, disk, PEER),
        }
    });
    let floor = floor(&folder, disk, Some(dirty), durability)?;
    Ok(Row {
        name: "",
        title,
        target: Target { limit, aim },
        ours: Some(ours),
        missing: "",
        peers: peers.into(),
        floor: Some(floor),
        folder,
    })
}

/// The dirty clusters of four disks in one grouped transaction, beside the same in `qemu-storage-daemon`.
fn four_disks<'a>(folder: &Path) -> Row<'a> {
    let targets = |kind: &str| (0..FOUR).map(|n| format!("target-{kind}-{n}.qcow2")).collect::<Vec<_>>();
    let source = |n: usize| format!("{}/{DISK}", disks::four(n));
    let full = |n: usize| format!("{}/{FULL}", disks::four(n));
    let same = |kind: &str| -> Proof<'a> {
        let (folder, targets) = (folder.to_path_buf(), targets(kind));
        Box::new(move || {
            let mut all = targets.iter().enumerate();
            all.try_for_each(|(n, target)| {
                qemu_img(&folder, &["compare", "-f", "qcow2", "-F", "qcow2", &source(n), target])
            })
        })
    };
    let mut arguments = vec!["backup".to_owned(), "--grouped".to_owned()];
    for (n, target) in targets("ours").iter().enumerate() {
        let (source, full) = (source(n), full(n));
        arguments.extend([
            "--disk".to_owned(),
            format!("source={source},target={target},backing={full},bitmap={BITMAP},bitmap-mode=never"),
        ]);
    }
    let settings = [(16, false), (16, true), (64, true)];
    let peers = settings.map(|(workers, lazy_flush)| {
        let flush = if lazy_flush { ", no-flush" } else { "" };
        let (prepared, at) = (folder.to_path_buf(), folder.to_path_buf());
        let (made, copied) = (targets("peer"), targets("peer"));
        Side {
            name: format!("qemu-storage-daemon, {workers} workers{flush}"),
            prepare: Box::new(move || {
                made.iter().enumerate().try_for_each(|(n, target)| {
                    qemu_img(
                        &prepared,
                        &["create", "-q", "-f", "qcow2", "-b", &full(n), "-F", "qcow2", target],
                    )
                })
            }),
            work: Box::new(move || {
                let copied = copied.iter().enumerate();
                let list: Vec<_> =
                    copied.map(|(n, target)| Copied { source: source(n), target: target.clone() }).collect();
                daemon::backup(&at, &list, BITMAP, Setting { workers, lazy_flush }, Durability::Synced)
            }),
            verify: same("peer"),
        }
    });
    Row {
        name: "",
        title: "four disks in one grouped transaction, on disk",
        target: Target { limit: 0.50, aim: 0.40 },
        ours: Some(holstein(folder, arguments, same("ours"))),
        missing: "",
        peers: peers.into(),
        floor: None,
        folder: folder.to_path_buf(),
    }
}

/// A whole disk, beside the faster of `qemu-img convert`'s two ways.
fn full<'a>(place: Place, title: &'static str) -> Result<Row<'a>> {
    let Place { folder, durability } = place;
    let option = format!("source={FULL},target={OURS}");
    let peers = vec![
        convert(&folder, "qemu-img convert", &[], durability),
        convert(&folder, "qemu-img convert -W -m 16", &["-W", "-m", "16"], durability),
    ];
    let floor = floor(&folder, FULL, None, durability)?;
    Ok(Row {
        name: "",
        title,
        target: Target { limit: 0.90, aim: 0.80 },
        ours: Some(holstein(
            &folder,
            vec!["backup".into(), "--disk".into(), option],
            same(&folder, FULL, OURS),
        )),
        missing: "",
        peers,
        floor: Some(floor),
        folder,
    })
}

/// A backup that shares blocks, beside the same one that copies; and `cp --reflink` of the whole image, as the floor.
fn reflink<'a>(folder: &Path, title: &'static str, source: &'static str, more: &str) -> Row<'a> {
    let side = |target: &'static str, reflink: &str| {
        let option = format!("source={source},target={target},reflink={reflink}{more}");
        holstein(folder, vec!["backup".into(), "--disk".into(), option], same(folder, source, target))
    };
    let copy = Side { name: "holstein, reflink=never".into(), ..side(PEER, "never") };
    let at = folder.to_path_buf();
    let work = move || -> Result<Sample> {
        let mut sample = measure(&at, "cp", &["--reflink=always", source, PLAIN])?;
        sample.seconds += daemon::synchronise(&at, PLAIN)?.as_secs_f64();
        Ok(sample)
    };
    Row {
        name: "",
        title,
        target: Target { limit: 0.10, aim: 0.10 },
        ours: Some(side(OURS, "always")),
        missing: "",
        peers: vec![copy],
        floor: Some(Side {
            name: "cp --reflink".into(),
            prepare: nothing(),
            work: Box::new(work),
            verify: nothing(),
        }),
        folder: folder.to_path_buf(),
    }
}

/// A whole disk into zstd clusters.
fn zstd<'a>(place: Place, title: &'static str) -> Result<Row<'a>> {
    let Place { folder, durability } = place;
    let option = format!("source={FULL},target={OURS},compress=zstd");
    let flags = ["-c", "-W", "-m", "16", "-o", "compression_type=zstd"];
    Ok(Row {
        name: "",
        title,
        target: Target { limit: 0.45, aim: 0.35 },
        ours: Some(holstein(
            &folder,
            vec!["backup".into(), "--disk".into(), option],
            same(&folder, FULL, OURS),
        )),
        missing: "",
        peers: vec![convert(&folder, "qemu-img convert -c -W -m 16, zstd", &flags, durability)],
        floor: None,
        folder,
    })
}

/// The map of a 1 TiB image whose L2 tables are all there.
fn map<'a>(folder: &Path) -> Row<'a> {
    let arguments = ["map", "--output", "json", METADATA].map(String::from).to_vec();
    let place = folder.to_path_buf();
    let equal = move || {
        let ours =
            output(Command::new(HOLSTEIN).args(["map", "--output", "json", METADATA]).current_dir(&place))?;
        let theirs =
            output(Command::new("qemu-img").args(["map", "--output=json", METADATA]).current_dir(&place))?;
        let (ours, theirs): (Value, Value) =
            (serde_json::from_slice(&ours)?, serde_json::from_slice(&theirs)?);
        if ours == theirs { Ok(()) } else { Err("the two maps differ".into()) }
    };
    Row {
        name: "",
        title: "1 TiB image with all metadata",
        target: Target { limit: 0.15, aim: 0.10 },
        ours: Some(holstein(folder, arguments, Box::new(equal))),
        missing: "",
        peers: vec![reading(folder, "qemu-img map", ["map", "--output=json", METADATA])],
        floor: None,
        folder: folder.to_path_buf(),
    }
}

/// The consistency check of the same image.
fn check<'a>(folder: &Path) -> Row<'a> {
    let arguments = ["check", METADATA].map(String::from).to_vec();
    let place = folder.to_path_buf();
    let clean = move || {
        for program in [HOLSTEIN, "qemu-img"] {
            output(Command::new(program).args(["check", METADATA]).current_dir(&place))?;
        }
        Ok(())
    };
    Row {
        name: "",
        title: "1 TiB image with all metadata",
        target: Target { limit: 0.25, aim: 0.25 },
        ours: Some(holstein(folder, arguments, Box::new(clean))),
        missing: "",
        peers: vec![reading(folder, "qemu-img check", ["check", "-q", METADATA])],
        floor: None,
        folder: folder.to_path_buf(),
    }
}

/// A change of a bitmap on the same image. Ours ends durable; QEMU's flushes its caches as it closes the image.
#[derive(Clone, Copy)]
enum Change {
    Add,
    Clear,
    Merge,
}

fn bitmap_change<'a>(folder: &Path, change: Change) -> Result<Row<'a>> {
    disks::make_bitmaps(folder)?;
    let (title, ours, theirs, before): (_, &[&str], &'static [&str], &'static [&'static [&str]]) =
        match change {
            Change::Add => (
                "1 TiB image with all metadata, a new bitmap",
                &["bitmap", "add", BITMAPS, "new"],
                &["bitmap", "--add", BITMAPS, "new"],
                &[&["bitmap", "--remove", BITMAPS, "new"]],
            ),
            Change::Clear => (
                "1 TiB image with all metadata, 4,000 dirty granules cleared",
                &["bitmap", "clear", BITMAPS, "target"],
                &["bitmap", "--clear", BITMAPS, "target"],
                &[&["bitmap", "--merge", "source", BITMAPS, "target"]],
            ),
            Change::Merge => (
                "1 TiB image with all metadata, 4,000 dirty granules merged",
                &["bitmap", "merge", BITMAPS, "target", "source"],
                &["bitmap", "--merge", "source", BITMAPS, "target"],
                &[&["bitmap", "--clear", BITMAPS, "target"]],
            ),
        };
    let prepare = || -> Proof<'a> {
        let folder = folder.to_path_buf();
        // The first time there is nothing to take back.
        Box::new(move || {
            before.iter().for_each(|arguments| drop(qemu_img(&folder, arguments)));
            Ok(())
        })
    };
    let clean = || -> Proof<'a> {
        let folder = folder.to_path_buf();
        Box::new(move || qemu_img(&folder, &["check", "-q", BITMAPS]))
    };
    let own = holstein(folder, ours.iter().map(|word| (*word).to_owned()).collect(), clean());
    let at = folder.to_path_buf();
    let peer = Side {
        name: "qemu-img bitmap".into(),
        prepare: prepare(),
        work: Box::new(move || measure(&at, "qemu-img", theirs)),
        verify: clean(),
    };
    Ok(Row {
        name: "",
        title,
        target: Target { limit: 1.0, aim: 0.5 },
        ours: Some(Side { prepare: prepare(), ..own }),
        missing: "",
        peers: vec![peer],
        floor: None,
        folder: folder.to_path_buf(),
    })
}

fn holstein<'a>(folder: &Path, arguments: Vec<String>, verify: Proof<'a>) -> Side<'a> {
    let folder = folder.to_path_buf();
    let work = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        measure(&folder, HOLSTEIN, &arguments)
    };
    Side { name: "holstein".into(), prepare: nothing(), work: Box::new(work), verify }
}

fn reading<'a>(folder: &Path, name: &str, arguments: [&'static str; 3]) -> Side<'a> {
    let folder = folder.to_path_buf();
    Side {
        name: name.into(),
        prepare: nothing(),
        work: Box::new(move || measure(&folder, "qemu-img", &arguments)),
        verify: nothing(),
    }
}

/// `qemu-img convert` of [`FULL`]; it does not flush by itself, so its target is synchronised in the end.
fn convert<'a>(folder: &Path, name: &str, flags: &[&'static str], durability: Durability) -> Side<'a> {
    let at = folder.to_path_buf();
    let mut arguments = vec!["convert", "-f", "qcow2", "-O", "qcow2"];
    arguments.extend(flags);
    arguments.extend([FULL, PEER]);
    let work = move || -> Result<Sample> {
        let mut sample = tools::measure(&at, "qemu-img", &arguments)?;
        if durability == Durability::Synced {
            sample.seconds += daemon::synchronise(&at, PEER)?.as_secs_f64();
        }
        Ok(sample)
    };
    Side { name: name.into(), prepare: nothing(), work: Box::new(work), verify: same(folder, FULL, PEER) }
}

fn floor<'a>(
    folder: &Path,
    source: &'static str,
    dirty: Option<&[Range<u64>]>,
    durability: Durability,
) -> Result<Side<'a>> {
    let extents = disks::extents(folder, source, dirty)?;
    let at = folder.to_path_buf();
    Ok(Side {
        name: "plain reads and writes".into(),
        prepare: nothing(),
        work: Box::new(move || plain::copy(&at, source, PLAIN, &extents, durability)),
        verify: nothing(),
    })
}

/// Both images show a guest the same disk.
fn same<'a>(folder: &Path, a: &'static str, b: &'static str) -> Proof<'a> {
    let folder = folder.to_path_buf();
    Box::new(move || qemu_img(&folder, &["compare", "-f", "qcow2", "-F", "qcow2", a, b]))
}

fn nothing<'a>() -> Proof<'a> {
    Box::new(|| Ok(()))
}
