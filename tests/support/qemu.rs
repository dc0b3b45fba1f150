//! Running QEMU's tools: in one folder, each command noted, so that a failing image tells how it was made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};

use serde_json::Value;

use super::qsd::Qsd;

/// A process that is about to run another program has every open file for a moment, and with it the file's locks.
/// Held for reading by whoever has an image open that others are to have next.
pub static FORKS: RwLock<()> = RwLock::new(());

/// Starts a program while nobody has such an image open.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _nobody = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a program to its end.
pub fn output(command: &mut Command) -> io::Result<Output> {
    spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Runs a program, which must succeed; everything that it said.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let ended = output(Command::new(program).args(arguments)).expect("QEMU's tools");
    let said = text(&ended);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// The file in a [`Workshop`] that lists the commands run there.
pub const NOTES: &str = "commands.sh";

/// A folder and QEMU's tools run in it. Images are named relative to the folder.
pub struct Workshop {
    folder: PathBuf,
}

/// One extent of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

impl Workshop {
    /// Works in `folder`, which exists.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Workshop { folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The whole path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Adds a line to the list of commands.
    pub fn note(&self, line: &str) {
        let file = OpenOptions::new().create(true).append(true).open(self.path(NOTES));
        writeln!(file.expect("opening the list of commands"), "{line}").expect("noting a command");
    }

    /// Runs one of QEMU's tools and gives what it said, whether it succeeded or not.
    pub fn try_run(&self, tool: &str, args: &[&str]) -> Output {
        let quoted: Vec<_> = args.iter().map(|arg| format!("'{}'", arg.replace('\'', r"'\''"))).collect();
        self.note(&format!("{tool} {}", quoted.join(" ")));
        output(Command::new(tool).args(args).current_dir(&self.folder))
            .unwrap_or_else(|e| panic!("{tool} of QEMU 10 is needed for this test: {e}"))
    }

    fn run(&self, tool: &str, args: &[&str]) -> String {
        let output = self.try_run(tool, args);
        assert!(output.status.success(), "{tool} {args:?}: {}\n{}", output.status, text(&output));
        String::from_utf8(output.stdout).expect("output in UTF-8")
    }

    /// `qemu-img`, which must succeed; its standard output.
    pub fn img(&self, args: &[&str]) -> String {
        self.run("qemu-img", args)
    }

    /// `qemu-img ... --output=json`, parsed.
    pub fn img_json(&self, args: &[&str]) -> Value {
        let output = self.img(&[args, &["--output=json"]].concat());
        serde_json::from_str(&output).expect("qemu-img prints JSON")
    }

    /// `qemu-img create -q -f qcow2`.
    pub fn create(&self, image: &str, size: u64, options: &str) {
        let size = size.to_string();
        let options: &[&str] = if options.is_empty() { &[] } else { &["-o", options] };
        self.img(&[&["create", "-q", "-f", "qcow2"], options, &[image, &size]].concat());
    }

    /// Runs `commands` of qemu-io one after the other on an image opened read-write.
    pub fn io<S: AsRef<str>>(&self, image: &str, format: &str, commands: &[S]) {
        let output = self.try_io(image, format, commands);
        assert!(output.status.success(), "qemu-io {image}: {}\n{}", output.status, text(&output));
    }

    /// Like [`Workshop::io`], and gives what it said whether it succeeded or not.
    pub fn try_io<S: AsRef<str>>(&self, image: &str, format: &str, commands: &[S]) -> Output {
        // Nothing here is to survive a power cut, and the flushes would take most of the time.
        let mut args = vec!["-f", format, "-d", "unmap", "-t", "unsafe"];
        args.extend(commands.iter().flat_map(|command| ["-c", command.as_ref()]));
        args.push(image);
        self.try_run("qemu-io", &args)
    }

    /// `qemu-img check`: its report, which must name neither errors nor leaks.
    pub fn check(&self, image: &str) -> Value {
        let output = self.try_run("qemu-img", &["check", "-f", "qcow2", "--output=json", image]);
        assert!(output.status.success(), "qemu-img check {image}: {}\n{}", output.status, text(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("qemu-img check prints JSON");
        for finding in ["corruptions", "leaks", "check-errors"] {
            let count = report.get(finding).and_then(Value::as_u64).unwrap_or(0);
            assert_eq!(count, 0, "qemu-img check {image} finds {finding}: {report}");
        }
        report
    }

    /// `qemu-img compare`, which must call the two disks identical.
    pub fn identical(&self, a: (&str, &str), b: (&str, &str)) {
        let output = self.try_run("qemu-img", &["compare", "-f", a.1, "-F", b.1, a.0, b.0]);
        assert!(output.status.success(), "{} and {} differ: {}", a.0, b.0, text(&output));
    }

    /// The dirty extents of persistent bitmaps as QEMU exports them, ascending and merged.
    pub fn dirty_extents(&self, image: &str, bitmaps: &[String]) -> Vec<Vec<Extent>> {
        let mut daemon = Qsd::start(self);
        daemon.open("disk", image, true);
        let socket = daemon.export("disk", bitmaps, false);
        let extents = |name: &String| {
            let name = name.replace(',', ",,");
            let image = format!(
                "driver=nbd,server.type=unix,server.path={socket},export=disk,x-dirty-bitmap=qemu:dirty-bitmap:{name}"
            );
            let map = self.img_json(&["map", "--image-opts", &image]);
            // QEMU shows the bit "dirty" in the place of the bit "hole": what is no data is dirty.
            merged(map.as_array().unwrap().iter().filter(|run| run["data"] == Value::Bool(false)).map(extent))
        };
        let extents = bitmaps.iter().map(extents).collect();
        daemon.quit();
        extents
    }

    /// The names in the folder and below it, for tests that nothing was left behind.
    pub fn listing(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if entry.file_type().unwrap().is_dir() {
                    walk(&path, found);
                }
                found.push(path);
            }
        }
        let mut found = Vec::new();
        walk(&self.folder, &mut found);
        found.retain(|path| !path.ends_with(NOTES));
        found.sort();
        found
    }
}

/// What a command printed, for messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The extent that a JSON object with `start` and `length` names.
pub fn extent(object: &Value) -> Extent {
    let number = |key: &str| object[key].as_u64().unwrap_or_else(|| panic!("{key} in {object}"));
    Extent { start: number("start"), length: number("length") }
}

/// Ascending extents with the adjoining ones joined.
pub fn merged(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut result: Vec<Extent> = Vec::new();
    for extent in extents {
        match result.last_mut() {
            Some(last) if last.end() >= extent.start => {
                last.length = last.end().max(extent.end()) - last.start
            }
            _ => result.push(extent),
        }
    }
    result
}

/// Extents rounded out to whole units, within `size`, and joined.
pub fn rounded_out(extents: &[Extent], unit: u64, size: u64) -> Vec<Extent> {
    merged(extents.iter().map(|extent| {
        let start = extent.start / unit * unit;
        Extent { start, length: extent.end().next_multiple_of(unit).min(size) - start }
    }))
}
