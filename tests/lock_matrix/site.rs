//! A folder with images, the same for every cell of the tables, and commands run in it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::command::HOLSTEIN;
use crate::support::qemu::{NOTES, Workshop, text};

const MIB: u64 = 1 << 20;

/// Nobody waits for a lock: whoever is refused is told so long before this.
const AT_ONCE: Duration = Duration::from_secs(10);

const IMAGES: [&str; 8] = [
    "bottom.qcow2",
    "disk.qcow2",
    "top.qcow2",
    "same.qcow2",
    "other.qcow2",
    "source.qcow2",
    "ext.qcow2",
    "data.raw",
];

/// What we tell whoever wants to read what is written, and whoever wants to change what is in use.
const OUR_WORDS: [&str; 2] = [
    "another process writes this image; stop it first (info, map, check and compare read it all the same with -U, --force-share)",
    "the image is in use by another process; it can be changed when nobody else has it open",
];

/// A folder of its own: `bottom.qcow2` <- `disk.qcow2` <- `top.qcow2`, of which the middle one is the one to be
/// locked; `same.qcow2`, `other.qcow2` and `source.qcow2` apart from them; `ext.qcow2` with `data.raw`.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    pub(crate) workshop: Workshop,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Works,
    Refused,
}

impl Site {
    pub(crate) fn new() -> Site {
        static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
        let template = TEMPLATE.get_or_init(template);
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(template).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let workshop = Workshop::new(folder.path());
        Site { folder, workshop }
    }

    /// Runs a line of words, in which quotes keep spaces, and waits for its end. What it leaves running is ended.
    pub(crate) fn run(&self, line: &str) -> Output {
        let words = self.words(line);
        let program = if words[0] == "holstein" { HOLSTEIN } else { &words[0] };
        let begin = Instant::now();
        let output = Command::new(program)
            .args(&words[1..])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
        assert!(begin.elapsed() < AT_ONCE, "{line}: took {:?}", begin.elapsed());
        self.end_daemon("run.pid");
        output
    }

    /// Runs a line, and makes sure that a refusal is one for the lock and changes nothing.
    pub(crate) fn verdict(&self, line: &str) -> Result<Verdict, String> {
        let ours = line.starts_with("holstein");
        // What QEMU has opened for writing already when it comes to the image that is held is its own affair.
        let images: &[&str] = if ours { &IMAGES } else { &["disk.qcow2", "ext.qcow2", "data.raw"] };
        let contents = || images.iter().map(|name| fs::read(self.workshop.path(name)).unwrap()).collect();
        let look = || -> (Vec<Vec<u8>>, _) { (contents(), ours.then(|| self.workshop.listing())) };
        let before = look();
        let output = self.run(line);
        let said = text(&output);
        if output.status.success() {
            return Ok(Verdict::Works);
        }
        if look() != before {
            return Err(format!("{line}: was refused and changed something: {said}"));
        }
        let code = match self.words(line)[1].as_str() {
            // qemu-img has more codes than one there; ours are the same.
            "compare" => 2,
            _ => 1,
        };
        let expected = match ours {
            true => {
                let named = ["disk.qcow2", "top.qcow2", "ext.qcow2", "data.raw"];
                named.iter().any(|name| said.contains(&format!("{name}': ")))
                    && OUR_WORDS.contains(&our_words(&said))
            }
            false => said.contains("lock") && said.contains("Is another process using the image"),
        };
        if !expected || output.status.code() != Some(code) {
            return Err(format!("{line}: ended with {} and said: {said}", output.status));
        }
        Ok(Verdict::Refused)
    }

    /// The words of a line. Spaces inside single quotes are part of a word, and `FOLDER` stands for this one.
    pub(crate) fn words(&self, line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        for (number, part) in line.split('\'').enumerate() {
            let last = words.last_mut().unwrap();
            if number % 2 == 1 {
                last.push_str(part);
                continue;
            }
            let mut pieces = part.split(' ');
            last.push_str(pieces.next().unwrap());
            words.extend(pieces.map(str::to_owned));
        }
        let folder = self.folder.path().to_str().unwrap();
        words.iter().map(|word| word.replace("FOLDER", folder)).collect()
    }

    /// Ends the daemon that has written this file, if there is one, and waits until it has let go of everything.
    pub(crate) fn end_daemon(&self, pid_file: &str) {
        let path = self.workshop.path(pid_file);
        let Ok(pid) = fs::read_to_string(&path) else { return };
        let pid = pid.trim();
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
        let process = Path::new("/proc").join(pid);
        // An ended daemon is a process until its new parent has looked at it, but has no files any more.
        while fs::read_dir(process.join("fd")).is_ok_and(|files| files.count() > 0) {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = fs::remove_file(path);
    }
}

fn template() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop::new(folder.path());
    workshop.create("bottom.qcow2", MIB, "");
    workshop.io("bottom.qcow2", "qcow2", &["write -P 1 0 512k"]);
    workshop.create("disk.qcow2", MIB, "backing_file=bottom.qcow2,backing_fmt=qcow2");
    workshop.img(&["bitmap", "--add", "disk.qcow2", "nightly"]);
    workshop.io("disk.qcow2", "qcow2", &["write -P 2 256k 512k"]);
    workshop.img(&["snapshot", "-c", "before", "disk.qcow2"]);
    workshop.create("top.qcow2", MIB, "backing_file=disk.qcow2,backing_fmt=qcow2");
    workshop.io("top.qcow2", "qcow2", &["write -P 3 0 64k"]);
    workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "same.qcow2"]);
    for name in ["other.qcow2", "source.qcow2"] {
        workshop.create(name, MIB, "");
        workshop.img(&["bitmap", "--add", name, "weekly"]);
        workshop.io(name, "qcow2", &["write -P 4 0 256k"]);
    }
    workshop.create("ext.qcow2", MIB, "data_file=data.raw");
    workshop.io("ext.qcow2", "qcow2", &["write -P 5 0 256k"]);
    let steps = r#"[{"op": "add", "name": "monday"}]"#;
    fs::write(workshop.path("steps.json"), steps).unwrap();
    fs::remove_file(workshop.path(NOTES)).unwrap();
    folder
}

/// Our error without the name of the file that it is about.
fn our_words(said: &str) -> &str {
    said.trim_end().rsplit_once("': ").map_or("", |(_, words)| words)
}
