//! `holstein demo`: the whole cycle on two small disks, from the first copy to a restored disk, checked against
//! plain files that received the same writes and that this library never read back.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use clap::Args;
use holstein::{
    Access, Backing, Backup, BackupOptions, Disk, DiskOptions, Format, JobReport, SyncMode, Transaction,
};
use serde_json::json;

use crate::{
    args::OutputFormat,
    failure::{FAILED, Failure, unless_reader_gone},
    output::{self, escape_path},
    signals,
};

/// Try it: make two disks, back both up, write to them, copy what changed, restore, compare.
///
/// Needs qemu-img and qemu-io, which play the virtual machine: they add the bitmaps and write to the disks.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Where to make the files, which then stay [default: a temporary folder, removed at the end]
    dir: Option<PathBuf>,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

const SIZE: u64 = 64 << 20;
const BITMAP: &str = "nightly";

/// Where the new disks hold data: offset and length.
const DATA: [(u64, u64); 3] = [(0, 6 << 20), (16 << 20, 8 << 20), (48 << 20, 2 << 20)];

/// What the guest writes between the two copies.
const WRITES: [GuestWrite; 4] = [
    GuestWrite { offset: 1 << 20, length: 256 << 10, content: 0x5a },
    GuestWrite { offset: 17 << 20, length: 128 << 10, content: 0 },
    GuestWrite { offset: (32 << 20) + 4096, length: 4096, content: 0xa5 },
    GuestWrite { offset: SIZE - (64 << 10), length: 64 << 10, content: 0x77 },
];

/// One write of a guest: bytes that are all `content`, zeros without sending them.
struct GuestWrite {
    offset: u64,
    length: u64,
    content: u8,
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    for tool in ["qemu-img", "qemu-io"] {
        require(tool)?;
    }
    signals::catch()?;
    let folder = Folder::new(args.dir.as_deref())?;
    let mut story = Story { output: args.output, lines: Vec::new() };
    tell(&mut story, &folder)?;
    story.end()?;
    Ok(ExitCode::SUCCESS)
}

/// The demo itself.
fn tell(story: &mut Story, folder: &Folder) -> Result<(), Failure> {
    let disks = ["web", "db"].map(|name| DemoDisk::new(&folder.path, name));

    let mut made = Transaction::new();
    for (seed, disk) in (1..).zip(&disks) {
        disk.write_model(seed).map_err(|error| cannot("write", &disk.model, error))?;
        made.add(backup(&disk.model, Format::Raw, &disk.image, BackupOptions::default())?);
    }
    made.commit()?;
    let data: u64 = DATA.iter().map(|(_, length)| length).sum();
    story.line(format!("Made web.qcow2 and db.qcow2 in {}.", escape_path(&folder.path)))?;
    story.line(format!("Each is a disk of {} with {} of data.", output::size(SIZE), output::size(data)))?;

    for disk in &disks {
        disk.add_bitmap()?;
    }
    story.line(format!("Gave each a bitmap '{BITMAP}', in which QEMU records what its guest writes."))?;

    let mut full = Transaction::new();
    for disk in &disks {
        let options = BackupOptions { sync: Some(SyncMode::Full), ..BackupOptions::default() };
        full.add(backup(&disk.image, Format::Qcow2, &disk.full, options)?);
    }
    let full = reports(full)?;
    story.line(format!("Full copy of both, all or none: {}.", describe(&disks, &full)))?;

    for disk in &disks {
        disk.write_as_guest()?;
    }
    let written: u64 = WRITES.iter().map(|write| write.length).sum();
    story.line(format!(
        "Both guests wrote {} in {} places, one with zeros.",
        output::size(written),
        WRITES.len()
    ))?;

    let mut changed = Transaction::new();
    for disk in &disks {
        let options = BackupOptions {
            sync: Some(SyncMode::Incremental),
            bitmap: Some(BITMAP.into()),
            backing: Some(Backing { name: file_name(&disk.full), format: Format::Qcow2 }),
            ..BackupOptions::default()
        };
        changed.add(backup(&disk.image, Format::Qcow2, &disk.changed, options)?);
    }
    let changed = reports(changed)?;
    story.line(format!("Copy of what changed, all or none: {}.", describe(&disks, &changed)))?;
    if changed.iter().zip(&full).any(|(changed, full)| changed.data_bytes >= full.data_bytes) {
        return Err(Failure::new(FAILED, "the copy of what changed is as large as the full copy"));
    }

    for disk in &disks {
        let clean = Disk::open(&disk.image, &DiskOptions::default())?.bitmap(BITMAP.as_bytes())?.count() == 0;
        if !clean {
            return Err(Failure::new(FAILED, "a bitmap still marks what has been copied"));
        }
    }
    story.line("Both bitmaps are clean again: the next copy takes what changes from here on.".into())?;

    let mut restored = Transaction::new();
    for disk in &disks {
        let options = BackupOptions { format: Format::Raw, ..BackupOptions::default() };
        restored.add(backup(&disk.changed, Format::Qcow2, &disk.restored, options)?);
    }
    restored.commit()?;
    story.line("Restored both disks from their two copies, to plain files.".into())?;

    for disk in &disks {
        same_bytes(&disk.model, &disk.restored)?;
    }
    story.line(format!("Compared all {} with what the guests wrote: identical.", output::size(2 * SIZE)))?;
    story.line(match folder.temporary {
        true => "All of it is removed now; `holstein demo DIR` keeps the files.".into(),
        false => format!("Look at them: holstein map {}", escape_path(&disks[0].changed)),
    })
}

/// What was said so far. A program gets it at the end, people line by line.
struct Story {
    output: OutputFormat,
    lines: Vec<String>,
}

impl Story {
    fn line(&mut self, line: String) -> Result<(), Failure> {
        if signals::stop_requested() {
            return Err(Failure::new(FAILED, "cancelled by a signal"));
        }
        self.lines.push(line);
        match (self.output, self.lines.last()) {
            (OutputFormat::Human, Some(line)) => {
                unless_reader_gone(output::print(&format!("{:2}. {line}\n", self.lines.len())))
            }
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        match self.output {
            OutputFormat::Human => Ok(()),
            OutputFormat::Json => output::print_json(&json!({ "completed": true, "steps": self.lines })),
        }
    }
}

/// The files of one disk.
struct DemoDisk {
    name: &'static str,
    /// The disk of the virtual machine.
    image: PathBuf,
    /// What the disk must contain, as a plain file that is written beside it.
    model: PathBuf,
    full: PathBuf,
    changed: PathBuf,
    restored: PathBuf,
}

impl DemoDisk {
    fn new(folder: &Path, name: &'static str) -> Self {
        let file = |ending: &str| folder.join(format!("{name}{ending}"));
        DemoDisk {
            name,
            image: file(".qcow2"),
            model: file("-expected.raw"),
            full: file("-full.qcow2"),
            changed: file("-changed.qcow2"),
            restored: file("-restored.raw"),
        }
    }

    fn write_model(&self, seed: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(&self.model)?;
        file.set_len(SIZE)?;
        for (offset, length) in DATA {
            file.write_all_at(&noise(seed ^ offset, length as usize), offset)?;
        }
        Ok(())
    }

    fn add_bitmap(&self) -> Result<(), Failure> {
        let mut command = Command::new("qemu-img");
        command.args(["bitmap", "--add", "-f", "qcow2"]).arg(&self.image).arg(BITMAP);
        run_tool(&mut command)
    }

    /// Writes to the disk as a virtual machine would, and the same to the model.
    fn write_as_guest(&self) -> Result<(), Failure> {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2"]);
        for GuestWrite { offset, length, content } in WRITES {
            command.arg("-c").arg(match content {
                0 => format!("write -z {offset} {length}"),
                _ => format!("write -P {content} {offset} {length}"),
            });
        }
        run_tool(command.arg(&self.image))?;
        let write_model = || {
            let mut file = OpenOptions::new().write(true).open(&self.model)?;
            for GuestWrite { offset, length, content } in WRITES {
                file.seek(SeekFrom::Start(offset))?;
                file.write_all(&vec![content; length as usize])?;
            }
            Ok(())
        };
        write_model().map_err(|error| cannot("write", &self.model, error))
    }
}

/// Bytes without a pattern, the same for the same seed (xorshift).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn backup(source: &Path, format: Format, target: &Path, options: BackupOptions) -> Result<Backup, Failure> {
    let access = match options.sync {
        Some(SyncMode::Incremental) => Access::Write,
        _ => Access::Read,
    };
    let source = Disk::open(source, &DiskOptions { format, access, ..DiskOptions::default() })?;
    Ok(Backup { source, target: target.to_owned(), options })
}

/// Runs a transaction (grouped, as by default) and gives what each disk's copy holds.
fn reports(transaction: Transaction) -> Result<Vec<JobReport>, Failure> {
    Ok(transaction.commit()?.iter().map(holstein::Job::report).collect())
}

fn describe(disks: &[DemoDisk], reports: &[JobReport]) -> String {
    let parts: Vec<_> = disks
        .iter()
        .zip(reports)
        .map(|(disk, report)| match report.zero_bytes {
            0 => format!("{} {} of data", disk.name, output::size(report.data_bytes)),
            zeros => {
                let data = output::size(report.data_bytes);
                format!("{} {data} of data and {} of zeros", disk.name, output::size(zeros))
            }
        })
        .collect();
    parts.join(", ")
}

/// Compares two files bit by bit, with nothing but the file system in between.
fn same_bytes(expected: &Path, found: &Path) -> Result<(), Failure> {
    let open = |path: &Path| File::open(path).map_err(|error| cannot("open", path, error));
    let (mut a, mut b) = (open(expected)?, open(found)?);
    let (mut piece_a, mut piece_b) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        piece_a.clear();
        piece_b.clear();
        read_piece(&mut a, &mut piece_a).map_err(|error| cannot("read", expected, error))?;
        read_piece(&mut b, &mut piece_b).map_err(|error| cannot("read", found, error))?;
        if piece_a != piece_b {
            let (expected, found) = (escape_path(expected), escape_path(found));
            let text = format!("{found} differs from {expected} in the MiB at {offset}");
            return Err(Failure::new(FAILED, text));
        }
        if piece_a.is_empty() {
            return Ok(());
        }
        offset += piece_a.len();
    }
}

fn read_piece(file: &mut File, piece: &mut Vec<u8>) -> io::Result<usize> {
    file.take(1 << 20).read_to_end(piece)
}

fn require(tool: &str) -> Result<(), Failure> {
    let version = Command::new(tool).arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Failure::new(
            FAILED,
            format!(
                "the demo needs {tool}, which cannot be run; it is in the package qemu-utils or qemu-img"
            ),
        )),
    }
}

fn run_tool(command: &mut Command) -> Result<(), Failure> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(FAILED, format!("cannot run {tool}: {error}")))?;
    // qemu-io reports a failed write on standard output, and versions differ in the exit code for it.
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && !said.contains("failed") {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let text = if complaint.trim().is_empty() { said } else { complaint };
    Err(Failure::new(FAILED, format!("{tool} failed: {}", text.trim())))
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot {what} {}: {error}", escape_path(path)))
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Where the files are made; a temporary folder goes with its value.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self, Failure> {
        let (path, made) = match given {
            Some(path) => (path.to_owned(), fs::create_dir_all(path)),
            None => {
                let path = std::env::temp_dir().join(format!("holstein-demo-{}", std::process::id()));
                // A folder that exists already is somebody else's.
                let made = fs::create_dir(&path);
                (path, made)
            }
        };
        made.map_err(|error| cannot("make the folder", &path, error))?;
        Ok(Folder { path, temporary: given.is_none() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing can be done about a failure here; the files are small and in the temporary folder.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_no_empty_clusters_and_differs_by_seed() {
        let bytes = noise(1, 65_537);
        assert_eq!(bytes.len(), 65_537);
        assert!(bytes.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));
        assert_ne!(bytes, noise(2, 65_537));
        assert_eq!(bytes, noise(1, 65_537));
    }

    #[test]
    fn differing_files_are_told_apart() {
        let folder = std::env::temp_dir().join(format!("holstein-demo-test-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (a, b) = (folder.join("a"), folder.join("b"));
        let mut bytes = noise(1, 3 << 20);
        fs::write(&a, &bytes).unwrap();
        fs::write(&b, &bytes).unwrap();
        let same = same_bytes(&a, &b);
        bytes[2_500_000] ^= 1;
        fs::write(&b, &bytes).unwrap();
        let changed = same_bytes(&a, &b);
        fs::write(&b, &bytes[..1 << 20]).unwrap();
        let shorter = same_bytes(&a, &b);
        fs::remove_dir_all(&folder).unwrap();
        assert!(same.is_ok());
        assert!(changed.is_err());
        assert!(shorter.is_err());
    }
}
