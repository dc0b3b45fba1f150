//! Runs one case through the built command and through `qemu-img`, and finds what is wrong.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    panic::catch_unwind,
    path::{Path, PathBuf},
    thread,
};

use holstein::{BackingPolicy, Disk, DiskOptions};
use serde_json::Value;

use super::{
    Case, Expect, Qemu,
    process::{self, Limits, Outcome, fresh_folder, qemu_img},
};
use crate::builder::{Bitmap, Image, field};

/// Disks up to this size are copied whole; of larger ones only both ends are compared.
const SMALL: u64 = 8 << 20;

/// Judges all cases of a group and fails with a table when one of them has problems.
pub fn judge_all(group: &str, cases: Vec<Case>) {
    let mut table = String::new();
    let mut failed = 0;
    for case in &cases {
        let report = judge(case);
        table += &format!(
            "{:32} | expected {:?} | ours: {} | qemu: {}\n",
            case.name, case.expect, report.ours, report.qemu
        );
        for problem in &report.problems {
            table += &format!("    !! {}\n", problem.trim_end().replace('\n', "\n       "));
        }
        failed += usize::from(!report.problems.is_empty());
    }
    if std::env::var_os("HOLSTEIN_HOSTILE_TABLE").is_some() {
        println!("{table}");
    }
    assert_eq!(failed, 0, "{group}: {failed} of {} cases failed\n{table}", cases.len());
}

struct Report {
    ours: String,
    qemu: String,
    problems: Vec<String>,
}

fn judge(case: &Case) -> Report {
    let dir = fresh_folder(&format!("hostile/{}", case.name));
    let image = (case.make)(&dir);
    image.write(&dir.join("image.qcow2"));
    let size = if image.bytes.len() >= 32 { image.get(field::SIZE) } else { 0 };

    let mut judge = Judge { case, dir, image, size, problems: Vec::new() };
    let theirs = match case.qemu {
        Qemu::NotRun(_) => None,
        _ => Some(judge.ask_qemu()),
    };
    let ours = judge.ask_ours();
    judge.compare(&ours, theirs.as_ref());
    judge.bitmaps(&ours.list);
    Report {
        ours: ours.summary(),
        qemu: theirs.as_ref().map_or(format!("{:?}", case.qemu), Answers::summary),
        problems: judge.problems,
    }
}

/// What somebody, we or QEMU, makes of an image.
struct Answers {
    info: Outcome,
    map: Outcome,
    /// Only ours.
    list: Outcome,
    /// The guest's bytes in [`Judge::ranges`], or why there are none.
    contents: Result<Vec<u8>, String>,
}

impl Answers {
    fn summary(&self) -> String {
        let contents = self.contents.as_ref().map_or_else(String::as_str, |_| "reads");
        let first = [&self.info.stderr, &self.map.stderr, contents].into_iter().find(|text| !text.is_empty());
        format!(
            "info {}, map {}, {}",
            self.info.end(),
            self.map.end(),
            first.and_then(|text| text.lines().next()).unwrap_or("silent")
        )
    }
}

struct Judge<'a> {
    case: &'a Case,
    dir: PathBuf,
    image: Image,
    size: u64,
    problems: Vec<String>,
}

impl Judge<'_> {
    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// What is compared: all of a small disk, both ends of a large one.
    fn ranges(&self) -> Vec<Range<u64>> {
        match self.size {
            0..=SMALL => vec![0..self.size],
            size => vec![0..1 << 20, size - (1 << 20)..size],
        }
    }

    fn ask_qemu(&mut self) -> Answers {
        let info = qemu_img(&self.dir, &["info", "-f", "qcow2", "--output=json", "image.qcow2"]);
        // What does not open for this has no map and no contents.
        let opens = info.ok();
        let map = match opens {
            true => qemu_img(&self.dir, &["map", "-f", "qcow2", "--output=json", "image.qcow2"]),
            false => info.clone(),
        };
        let raw = self.dir.with_extension("raw");
        let out = raw.to_str().unwrap();
        let contents = self
            .ranges()
            .into_iter()
            .map(|range| {
                if !opens {
                    return Err(format!("{}: {}", info.end(), info.stderr));
                }
                let source = format!(
                    "driver=raw,offset={},size={},file.driver=qcow2,file.file.driver=file,\
                     file.file.filename=image.qcow2",
                    range.start,
                    range.end - range.start
                );
                let whole = ["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", out];
                let part = ["convert", "--image-opts", &source, "-O", "raw", out];
                let whole_disk = range == (0..self.size);
                let args: &[&str] = if whole_disk { &whole } else { &part };
                let run = qemu_img(&self.dir, args);
                match run.code {
                    Some(0) => Ok(fs::read(&raw).unwrap()),
                    _ => Err(format!("{}: {}", run.end(), run.stderr)),
                }
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| parts.concat());
        let list = Outcome::silent();

        let verdict = match (info.ok(), map.ok() && contents.is_ok()) {
            (false, _) => Qemu::RefusesOpen,
            (true, false) => Qemu::RefusesRead,
            (true, true) => Qemu::Accepts,
        };
        if verdict != self.case.qemu {
            self.problem(format!("QEMU: {verdict:?}, but the table says {:?}", self.case.qemu));
        }
        Answers { info, map, list, contents }
    }

    /// Runs our command under the set's limits, and notes what no image may make it do.
    fn holstein(&mut self, memory_mib: u64, args: &[&str]) -> Outcome {
        let threads = thread::available_parallelism().map_or(2, |n| n.get() as u64);
        // Beside the budget: what the idle program has writable, and the stacks of its threads.
        let idle_kib = 8 * 1024 + threads * 2304;
        let limits = Limits { memory_kib: memory_mib * 1024 + idle_kib, cpu_seconds: 1 };
        let mut args = args.to_vec();
        if self.case.policy != "beside" {
            let end = args.iter().position(|&arg| arg == "--").unwrap_or(args.len());
            args.splice(end..end, ["--backing-policy", self.case.policy]);
        }
        let out = process::run(&self.dir, limits, env!("CARGO_BIN_EXE_holstein"), &args);
        let said = format!("{}{}", out.stdout, out.stderr);
        let command = args.join(" ");
        if out.hung || out.signal.is_some() {
            self.problem(format!("{command}: {}: {}", out.end(), out.stderr));
        }
        if out.code.is_some_and(|code| code > 3)
            || said.contains("panicked")
            || said.contains("internal error")
        {
            self.problem(format!("{command}: {}: {said}", out.end()));
        }
        if out.unprintable {
            self.problem(format!("{command}: prints control characters: {said:?}"));
        }
        if !out.ok() && out.stderr.is_empty() {
            self.problem(format!("{command}: {} without a word", out.end()));
        }
        out
    }

    fn ask_ours(&mut self) -> Answers {
        let info = self.holstein(64, &["info", "--output", "json", "image.qcow2"]);
        self.holstein(64, &["info", "image.qcow2"]);
        let map = self.holstein(64, &["map", "--output", "json", "image.qcow2"]);
        let list = self.holstein(64, &["bitmap", "list", "--output", "json", "image.qcow2"]);
        self.holstein(64, &["bitmap", "list", "image.qcow2"]);

        let contents = if self.size <= SMALL || !info.ok() {
            let disk = "source=image.qcow2,target=copy.raw,format=raw,sync=full";
            let copy = self.backup(disk);
            let target = self.dir.join("copy.raw");
            match copy.code {
                Some(0) => {
                    let bytes = fs::read(&target).unwrap_or_default();
                    let _ = fs::remove_file(&target);
                    Ok(bytes)
                }
                _ => Err(copy.stderr),
            }
        } else {
            self.read_in_process()
        };
        Answers { info, map, list, contents }
    }

    /// A backup, which leaves nothing behind when it fails.
    fn backup(&mut self, disk: &str) -> Outcome {
        let before = names_in(&self.dir);
        let out = self.holstein(128, &["backup", "--disk", disk]);
        let after = names_in(&self.dir);
        if !out.ok() && before != after {
            self.problem(format!("a refused backup left files behind: {:?}", &after - &before));
        }
        out
    }

    /// Parts of a disk that is too large to be copied.
    fn read_in_process(&mut self) -> Result<Vec<u8>, String> {
        let path = self.dir.join("image.qcow2");
        let ranges = self.ranges();
        let policy = self.case.policy;
        let read = catch_unwind(move || {
            let backing_policy: BackingPolicy = policy.parse()?;
            let options = DiskOptions { backing_policy, ..DiskOptions::default() };
            let disk = Disk::open(&path, &options)?;
            let mut out = Vec::new();
            for range in ranges {
                let mut part = vec![0xEE; (range.end - range.start) as usize];
                disk.read_at(&mut part, range.start)?;
                out.extend(part);
            }
            Ok(out)
        });
        match read {
            Ok(result) => result.map_err(|error: holstein::Error| error.to_string()),
            Err(_) => {
                self.problem("reading through the Rust API panicked");
                Err("panic".into())
            }
        }
    }

    fn compare(&mut self, ours: &Answers, theirs: Option<&Answers>) {
        let all_ok = ours.info.ok() && ours.map.ok() && ours.list.ok() && ours.contents.is_ok();
        let copy_error = ours.contents.as_ref().err().cloned();
        match self.case.expect {
            Expect::Open(text) => {
                if ours.info.ok() || ours.map.ok() || ours.list.ok() || ours.contents.is_ok() {
                    self.problem(format!("not refused by every command: {}", ours.summary()));
                } else if !contains(&ours.info.stderr, text) {
                    self.problem(format!("the error lacks '{text}': {}", ours.info.stderr));
                }
            }
            Expect::Read(text) => match copy_error {
                None => self.problem("the copy was not refused"),
                Some(error) if !contains(&error, text) => {
                    self.problem(format!("the error lacks '{text}': {error}"));
                }
                Some(_) if !ours.info.ok() => self.problem(format!("info: {}", ours.info.stderr)),
                Some(_) => {}
            },
            Expect::Same | Expect::Dirtier | Expect::Bitmap(..) | Expect::NoBitmap if !all_ok => {
                let texts = [&ours.info, &ours.map, &ours.list].map(|out| out.stderr.as_str()).concat();
                self.problem(format!("refused: {texts}{}", copy_error.unwrap_or_default()));
            }
            _ => {}
        }

        let one_bitmap_only = matches!(self.case.expect, Expect::Bitmap(..) | Expect::NoBitmap);
        if let Some(theirs) = theirs {
            let pairs = [
                ("info", ours.info.ok(), theirs.info.ok()),
                ("map", ours.map.ok(), theirs.map.ok()),
                ("reading", ours.contents.is_ok(), theirs.contents.is_ok()),
            ];
            for (what, ours, theirs) in pairs {
                if ours && !theirs && !one_bitmap_only {
                    self.problem(format!("laxer than QEMU: {what} succeeds"));
                }
            }
            if ours.map.ok() && theirs.map.ok() && json(&ours.map) != json(&theirs.map) {
                self.problem(format!("map:\n{}QEMU's:\n{}", ours.map.stdout, theirs.map.stdout));
            }
            if ours.info.ok() && theirs.info.ok() {
                for key in ["virtual-size", "cluster-size", "format"] {
                    let (ours, theirs) = (json(&ours.info), json(&theirs.info));
                    if ours[key] != theirs[key] {
                        self.problem(format!("info: {key} is {}, QEMU's {}", ours[key], theirs[key]));
                    }
                }
            }
        }
        if let Ok(contents) = &ours.contents {
            let expected = match theirs.map(|theirs| &theirs.contents) {
                Some(Ok(theirs)) => theirs.clone(),
                _ => self.ranges().into_iter().flat_map(|range| self.image.spec.guest(range)).collect(),
            };
            if *contents != expected {
                let at = contents.iter().zip(&expected).position(|(a, b)| a != b);
                self.problem(format!("other contents, first at {at:?}"));
            }
        }
    }

    /// Whatever the image: no bitmap is cleaner than it was laid out, and an unusable one is refused.
    fn bitmaps(&mut self, list: &Outcome) {
        if !list.ok() {
            return;
        }
        let listed = json(list);
        let Some(listed) = listed.as_array() else {
            return self.problem(format!("bitmap list: not an array: {}", list.stdout));
        };
        for entry in listed {
            let (name, usable) = (entry["name"].as_str().unwrap_or(""), entry["usable"] == Value::Bool(true));
            if usable == entry["reason"].is_string() {
                self.problem(format!("usable or a reason, one of the two: {entry}"));
            }
            if usable && matches!(self.case.expect, Expect::NoBitmap) {
                self.problem(format!("a usable bitmap: {entry}"));
            }
            if name.contains(['\0', '\u{fffd}']) {
                continue; // no argument can name it, or this text is not its name
            }
            let dump = self.holstein(64, &["bitmap", "dump", "--output", "json", "--", "image.qcow2", name]);
            if usable && !dump.ok() {
                self.problem(format!("bitmap dump {name}: {}", dump.stderr));
            }
            let laid_out = self.image.spec.bitmaps.iter().find(|bitmap| bitmap.name == name.as_bytes());
            let Some(laid_out) = laid_out.cloned().filter(|_| dump.ok()) else { continue };
            self.compare_extents(&laid_out, &extents(&json(&dump)));
        }
        if let Expect::Bitmap(name, reason) = self.case.expect {
            match listed.iter().find(|entry| entry["name"] == name) {
                None => self.problem(format!("bitmap {name} is not listed: {}", list.stdout)),
                Some(entry) if entry["usable"] != Value::Bool(false) => {
                    self.problem(format!("usable: {entry}"));
                }
                Some(entry) if !contains(entry["reason"].as_str().unwrap_or(""), reason) => {
                    self.problem(format!("the reason lacks '{reason}': {entry}"));
                }
                Some(_) => {}
            }
            let disk = format!("source=image.qcow2,target=inc.qcow2,sync=bitmap,bitmap={name}");
            if self.backup(&disk).ok() {
                self.problem(format!("a backup by bitmap {name} was made"));
            }
        }
    }

    fn compare_extents(&mut self, laid_out: &Bitmap, dumped: &[Range<u64>]) {
        let expected = laid_out.extents(self.size);
        let covered =
            |range: &Range<u64>| dumped.iter().any(|dump| dump.start <= range.start && range.end <= dump.end);
        if !expected.iter().all(covered) {
            self.problem(format!("cleaner than it was laid out: {dumped:?} for {expected:?}"));
        } else if matches!(self.case.expect, Expect::Same) && dumped != expected {
            self.problem(format!("bitmap dump: {dumped:?} for {expected:?}"));
        }
    }
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

fn json(out: &Outcome) -> Value {
    serde_json::from_str(&out.stdout).unwrap_or(Value::Null)
}

fn extents(dump: &Value) -> Vec<Range<u64>> {
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    dump.as_array()
        .into_iter()
        .flatten()
        .map(|extent| {
            let start = number(&extent["start"]);
            start..start.saturating_add(number(&extent["length"]))
        })
        .collect()
}

fn names_in(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
