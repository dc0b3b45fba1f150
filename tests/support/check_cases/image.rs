//! Images made by QEMU's tools, and their bytes by the offsets of the specification.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// An image in a folder of its own.
pub struct Image {
    pub dir: PathBuf,
    pub path: PathBuf,
}

/// Whether we make out entries of the snapshot table in another way than QEMU, which then counts other things.
pub fn reads_snapshots_otherwise(own: &Value) -> bool {
    let problems = own["problems"].to_string();
    ["bytes of extra data and seems to have", "bytes and seems to have one of"]
        .iter()
        .any(|words| problems.contains(words))
}

/// What a check said.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub code: Option<i32>,
    /// The JSON without what only Holstein says.
    pub json: Option<Value>,
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("LC_ALL", "C.UTF-8");
    command.output().unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

impl Image {
    /// A new image with options of `qemu-img create`.
    pub fn create(name: &str, options: &str, size: &str) -> Image {
        // Each test has its own: several make images of one name at the same time.
        let test = std::thread::current().name().unwrap_or("thread").replace("::", "-");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("check").join(test).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let image = Image { path: dir.join("disk.qcow2"), dir };
        image.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", size]);
        image
    }

    /// An image of 4 MiB with 64 KiB clusters and 1 MiB of data: header, refcount table and block, L1 and L2
    /// table are clusters 0 to 4, the data is clusters 5 to 20.
    pub fn small(name: &str) -> Image {
        let image = Image::create(name, "cluster_size=64k", "4M");
        image.io(&["write 0 1M"]);
        assert_eq!((image.refcount_block(), image.l1(), image.l2(0)), (0x20000, 0x30000, 0x40000));
        image
    }

    /// Runs a tool in the image's folder; it must succeed.
    pub fn tool(&self, program: &str, args: &[&str]) {
        let output = run(&self.dir, program, args);
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs commands of qemu-io.
    pub fn io(&self, commands: &[&str]) {
        // Nothing here is to survive a power cut, and the flushes would take most of the time.
        let mut args = vec!["-f", "qcow2", "-t", "unsafe"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push("disk.qcow2");
        self.tool("qemu-io", &args);
    }

    /// Runs commands of qemu-io in a process that then ends as in a crash.
    pub fn io_and_crash(&self, options: &str, commands: &[&str]) {
        let mut args = vec!["-c", options];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.extend(["-c", "abort"]);
        run(&self.dir, "qemu-io", &args);
    }

    pub fn qemu_check(&self) -> Verdict {
        let output = run(&self.dir, "qemu-img", &["check", "-f", "qcow2", "--output=json", "disk.qcow2"]);
        Verdict { code: output.status.code(), json: serde_json::from_slice(&output.stdout).ok() }
    }

    /// Our verdict, and what only we say.
    pub fn check(&self) -> (Verdict, Value) {
        let output = self.holstein(&["--output", "json"]);
        let mut json: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let own = json.as_mut().and_then(|json| json.as_object_mut()?.remove("holstein"));
        (Verdict { code: output.status.code(), json }, own.unwrap_or_default())
    }

    pub fn holstein(&self, options: &[&str]) -> Output {
        let args = [&["check", "disk.qcow2"], options].concat();
        run(&self.dir, env!("CARGO_BIN_EXE_holstein"), &args)
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    pub fn write(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).unwrap();
    }

    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let mut image = self.bytes();
        image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        self.write(&image);
    }

    pub fn word(&self, at: u64) -> u64 {
        let bytes = self.bytes();
        u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    pub fn half_word(&self, at: u64) -> u32 {
        (self.word(at) >> 32) as u32
    }

    pub fn set_word(&self, at: u64, word: u64) {
        self.poke(at, &word.to_be_bytes());
    }

    pub fn set_half_word(&self, at: u64, word: u32) {
        self.poke(at, &word.to_be_bytes());
    }

    /// The active L1 table: header byte 40.
    pub fn l1(&self) -> u64 {
        self.word(40)
    }

    /// The refcount table: header byte 48.
    pub fn refcount_table(&self) -> u64 {
        self.word(48)
    }

    /// The snapshot table: header byte 64.
    pub fn snapshots(&self) -> u64 {
        self.word(64)
    }

    /// L2 table `index`: bits 9 to 55 of the L1 entry.
    pub fn l2(&self, index: u64) -> u64 {
        self.word(self.l1() + index * 8) & 0x00ff_ffff_ffff_fe00
    }

    pub fn refcount_block(&self) -> u64 {
        self.word(self.refcount_table())
    }

    /// Where the refcount of a cluster is, 16 bits wide, in the first block.
    pub fn refcount_at(&self, cluster: u64) -> u64 {
        self.refcount_block() + cluster * 2
    }

    pub fn set_refcount(&self, cluster: u64, refcount: u16) {
        self.poke(self.refcount_at(cluster), &refcount.to_be_bytes());
    }

    /// The bitmaps extension's data: extensions follow the header, whose length is at byte 100, each with a
    /// type and a length of 4 bytes.
    pub fn bitmaps_extension(&self) -> u64 {
        let mut at = u64::from(self.half_word(100));
        while self.half_word(at) != 0x2385_2875 {
            assert_ne!(self.half_word(at), 0, "no bitmaps extension");
            at += 8 + u64::from(self.half_word(at + 4)).next_multiple_of(8);
        }
        at + 8
    }

    /// The bitmap directory: byte 16 of the extension. Its first entry begins with the offset of the table.
    pub fn bitmap_directory(&self) -> u64 {
        self.word(self.bitmaps_extension() + 16)
    }
}
