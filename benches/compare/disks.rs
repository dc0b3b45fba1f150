//! The disks that are copied: made by QEMU's tools, from a seed, so that every run measures the same ones.

use crate::Result;
use crate::options::Options;
use crate::tools::{output, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The state that was backed up before.
pub(crate) const FULL: &str = "full.qcow2";
/// The state now, with its bitmap.
pub(crate) const DISK: &str = "disk.qcow2";
/// The bitmap of [`DISK`].
pub(crate) const BITMAP: &str = "b0";
/// An empty 1 TiB disk, as it was backed up before.
pub(crate) const SPARSE_FULL: &str = "sparse-full.qcow2";
/// The same with 100 clusters written since, and their bitmap.
pub(crate) const SPARSE_DISK: &str = "sparse-disk.qcow2";
/// A 1 TiB image whose L2 tables are all there.
pub(crate) const METADATA: &str = "metadata.qcow2";
/// The same image with two bitmaps; one has 4,000 dirty granules.
pub(crate) const BITMAPS: &str = "bitmaps.qcow2";

/// So many disks, each in a folder of its own, are copied in one transaction.
pub(crate) const FOUR: usize = 4;

/// The folder of one of them.
pub(crate) fn four(number: usize) -> String {
    format!("four{number}")
}

/// A run's folders have this name and the number of its process.
const FOLDER: &str = "holstein-bench-";

const CLUSTER: u64 = 64 << 10;
const MIB: usize = 1 << 20;
const TIB: u64 = 1 << 40;

/// One folder on disk and one in memory, emptied and removed when the run ends.
pub(crate) struct Workspace {
    /// On disk.
    pub(crate) disk: PathBuf,
    /// In memory.
    pub(crate) tmpfs: PathBuf,
    /// On an XFS in a file on disk, where a row needs it.
    pub(crate) xfs: PathBuf,
    /// What was written on [`DISK`] since [`FULL`].
    pub(crate) dirty: Vec<Range<u64>>,
    /// What was written on [`SPARSE_DISK`] since [`SPARSE_FULL`].
    pub(crate) sparse_dirty: Vec<Range<u64>>,
}

impl Workspace {
    /// Makes the folders, and in them the disks that the chosen rows need.
    pub(crate) fn new(options: &Options) -> Result<Workspace> {
        let name = format!("{FOLDER}{}", std::process::id());
        let (disk, tmpfs) = (options.folder.join(&name), options.tmpfs.join(&name));
        for parent in [&options.folder, &options.tmpfs] {
            fs::create_dir_all(parent)?;
            remove_leftovers(parent)?;
        }
        fs::create_dir_all(&disk)?;
        fs::create_dir_all(&tmpfs)?;
        let mut workspace = Workspace {
            disk: disk.canonicalize()?,
            tmpfs: tmpfs.canonicalize()?,
            xfs: disk.canonicalize()?.join(XFS),
            dirty: Vec::new(),
            sparse_dirty: Vec::new(),
        };
        let needs = |part: &str| options.rows.iter().any(|row| row.contains(part));
        let in_memory = needs("-tmpfs");
        if in_memory || needs("-disk") {
            eprintln!("bench: making a disk of {} GiB", options.size >> 30);
            workspace.dirty = make_disk(&workspace.disk, options.size)?;
        }
        if in_memory {
            for name in [FULL, DISK] {
                copy_plainly(&workspace.disk.join(name), &workspace.tmpfs.join(name))?;
            }
        }
        if needs("four") {
            for number in 0..FOUR {
                eprintln!("bench: making disk {number} of {FOUR}");
                let folder = workspace.disk.join(four(number));
                fs::create_dir_all(&folder)?;
                make_disk(&folder, options.size / FOUR as u64)?;
            }
        }
        if needs("reflink") {
            eprintln!("bench: making a disk of {} GiB on XFS", options.size >> 30);
            mount_xfs(&workspace.xfs, 4 * options.size)?;
            make_disk(&workspace.xfs, options.size)?;
        }
        if needs("sparse") {
            workspace.sparse_dirty = make_sparse(&workspace.disk)?;
        }
        if needs("map") || needs("check") {
            make_metadata(&workspace.disk, METADATA)?;
        }
        Ok(workspace)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        unmount(&self.xfs);
        for folder in [&self.disk, &self.tmpfs] {
            if let Err(error) = fs::remove_dir_all(folder) {
                eprintln!("bench: {}: {error}", folder.display());
            }
        }
    }
}

/// Removes the folders of runs that were killed: gigabytes, in memory too.
fn remove_leftovers(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FOLDER));
        let process = process.and_then(|id| id.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            unmount(&entry.path().join(XFS));
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The folder where XFS is mounted; its blocks are in the file beside it.
const XFS: &str = "xfs";

/// Makes an XFS in a file and mounts it, which takes root.
fn mount_xfs(folder: &Path, size: u64) -> Result<()> {
    let image = folder.with_extension("image");
    fs::create_dir(folder)?;
    File::create(&image)?.set_len(size)?;
    run(Command::new("mkfs.xfs").arg("-q").arg(&image))?;
    run(Command::new("mount").args(["-o", "loop"]).args([&image, folder]))
        .map_err(|e| format!("the reflink rows need root and loop devices, to mount XFS: {e}").into())
}

/// Takes the XFS away, if it is mounted.
fn unmount(folder: &Path) {
    if folder.exists() {
        let _ = run(Command::new("umount").arg(folder));
    }
}

/// Half of the disk is data, and half of that random, the rest text; then 10 % of its clusters are written
/// again at random places, with the bitmap recording.
fn make_disk(folder: &Path, size: u64) -> Result<Vec<Range<u64>>> {
    let mut random = Random(1);
    let raw = folder.join("disk.raw");
    let file = File::create(&raw)?;
    file.set_len(size)?;
    let text = random.text(4 * MIB);
    let mut noise = vec![0; MIB];
    for offset in (0..size).step_by(MIB) {
        match random.below(4) {
            0 => {
                random.fill(&mut noise);
                file.write_all_at(&noise, offset)?;
            }
            1 => {
                let start = random.below((text.len() - MIB) as u64) as usize;
                file.write_all_at(&text[start..start + MIB], offset)?;
            }
            _ => {}
        }
    }
    drop(file);
    qemu_img(folder, &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", FULL])?;
    fs::remove_file(&raw)?;
    copy_plainly(&folder.join(FULL), &folder.join(DISK))?;
    qemu_img(folder, &["bitmap", "--add", DISK, BITMAP])?;
    write_clusters(folder, DISK, size, size / CLUSTER / 10, &mut random)
}

/// A disk of 1 TiB with nothing in it but 100 clusters, written after its backup.
fn make_sparse(folder: &Path) -> Result<Vec<Range<u64>>> {
    let size = TIB.to_string();
    for name in [SPARSE_FULL, SPARSE_DISK] {
        qemu_img(folder, &["create", "-q", "-f", "qcow2", name, &size])?;
    }
    qemu_img(folder, &["bitmap", "--add", SPARSE_DISK, BITMAP])?;
    write_clusters(folder, SPARSE_DISK, TIB, 100, &mut Random(2))
}

/// Writes `count` different clusters of an image through QEMU, in random order; gives them in guest order.
fn write_clusters(
    folder: &Path,
    image: &str,
    size: u64,
    count: u64,
    random: &mut Random,
) -> Result<Vec<Range<u64>>> {
    let mut written = BTreeSet::new();
    let mut script = String::new();
    while (written.len() as u64) < count {
        let cluster = random.below(size / CLUSTER);
        if written.insert(cluster) {
            let pattern = 1 + written.len() % 250;
            script.push_str(&format!("write -q -P {pattern} {} {CLUSTER}\n", cluster * CLUSTER));
        }
    }
    script.push_str("quit\n");
    let mut process = Command::new("qemu-io")
        .args(["-n", "-f", "qcow2", image])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("qemu-io: {e}"))?;
    process.stdin.take().ok_or("no way to qemu-io")?.write_all(script.as_bytes())?;
    let status = process.wait()?;
    if !status.success() {
        return Err(format!("qemu-io: {status}").into());
    }
    Ok(written.into_iter().map(|cluster| cluster * CLUSTER..(cluster + 1) * CLUSTER).collect())
}

/// Copies a file byte by byte: no shared extents, so that both sides write and read real ones.
fn copy_plainly(from: &Path, to: &Path) -> Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; MIB];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
    }
}

/// Where the data of an image lies in its file, in guest order: all of it, or the part inside `dirty`.
pub(crate) fn extents(folder: &Path, image: &str, dirty: Option<&[Range<u64>]>) -> Result<Vec<Range<u64>>> {
    let map = output(Command::new("qemu-img").args(["map", "--output=json", image]).current_dir(folder))?;
    let runs: Vec<Value> = serde_json::from_slice(&map)?;
    let everything = std::slice::from_ref(&(0..u64::MAX));
    let mut dirty = dirty.unwrap_or(everything).iter().peekable();
    let mut pieces = Vec::new();
    for run in runs.iter().filter(|run| run["data"] == true) {
        let (start, host) = (number(run, "start")?, number(run, "offset")?);
        let end = start + number(run, "length")?;
        while let Some(range) = dirty.peek() {
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                pieces.push(host + from - start..host + to - start);
            }
            if range.end > end {
                break;
            }
            dirty.next();
        }
    }
    Ok(pieces)
}

fn number(run: &Value, key: &str) -> Result<u64> {
    run[key].as_u64().ok_or_else(|| format!("qemu-img map: no {key} in {run}").into())
}

/// A disk of 1 TiB whose L2 tables are all there.
fn make_metadata(folder: &Path, name: &str) -> Result<()> {
    let size = TIB.to_string();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", name, &size])
}

/// Makes [`BITMAPS`] unless it is there.
pub(crate) fn make_bitmaps(folder: &Path) -> Result<()> {
    if folder.join(BITMAPS).exists() {
        return Ok(());
    }
    make_metadata(folder, BITMAPS)?;
    for name in ["source", "target"] {
        qemu_img(folder, &["bitmap", "--add", "-g", "65536", BITMAPS, name])?;
    }
    qemu_img(folder, &["bitmap", "--disable", BITMAPS, "target"])?;
    // All over the disk, so that every cluster of the bitmap has some.
    let write = |number: u64| format!("write -q -z {} 4k\n", number * ((1 << 40) / 4000) / 65536 * 65536);
    let script: String = (0..4000).map(write).collect();
    let mut tool = Command::new("qemu-io")
        .args(["-f", "qcow2", BITMAPS])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    tool.stdin.take().ok_or("qemu-io takes no commands")?.write_all(script.as_bytes())?;
    if tool.wait()?.success() { Ok(()) } else { Err("qemu-io failed".into()) }
}

/// Runs `qemu-img` in a folder.
pub(crate) fn qemu_img(folder: &Path, arguments: &[&str]) -> Result<()> {
    run(Command::new("qemu-img").args(arguments).current_dir(folder))
}

/// A small generator of numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_be_bytes()[..chunk.len()]);
        }
    }

    /// Numbers in words, which compress as a text does.
    fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 8);
        while text.len() < length {
            text.extend_from_slice(format!("{} ", self.below(1_000_000)).as_bytes());
        }
        text.truncate(length);
        text
    }
}
