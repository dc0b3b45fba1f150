//! Runs programs under limits, each in a folder of its own.
#![allow(dead_code)] // each test program uses its own part of this

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It had to be stopped since it did not end.
    pub hung: bool,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// Either was not UTF-8, or had control characters in it.
    pub unprintable: bool,
}

impl Outcome {
    /// Nothing was run.
    pub fn silent() -> Self {
        let (stdout, stderr) = (String::new(), String::new());
        Outcome { code: None, signal: None, hung: false, stdout, stderr, unprintable: false }
    }

    /// It ended with exit code 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended, in a word.
    pub fn end(&self) -> String {
        match (self.hung, self.code, self.signal) {
            (true, ..) => "hung".into(),
            (_, Some(code), _) => format!("exit {code}"),
            (.., Some(24)) => "used up its processor time".into(),
            (.., signal) => format!("signal {}", signal.unwrap_or(0)),
        }
    }
}

/// What a program may use.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Writable private memory in KiB. The kernel counts heap, anonymous maps and thread stacks, touched or
    /// not: resident memory other than the program's own text can never be above it.
    pub memory_kib: u64,
    /// Processor time of all threads, in seconds: unlike the wall's clock it does not depend on what else
    /// the machine does.
    pub cpu_seconds: u64,
}

/// No answer after this long means that the program waits for something, such as a FIFO's other end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `program` in `dir` under limits; its output goes through files beside `dir`.
pub fn run(dir: &Path, limits: Limits, program: &str, args: &[&str]) -> Outcome {
    let stdout = dir.with_extension("stdout");
    let stderr = dir.with_extension("stderr");
    let mut child = Command::new("sh")
        .arg("-c")
        .arg("ulimit -c 0; ulimit -d \"$1\"; ulimit -t \"$2\"; shift 2; exec \"$@\"")
        .arg("sh")
        .arg(limits.memory_kib.to_string())
        .arg(limits.cpu_seconds.to_string())
        .arg(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&stdout).unwrap())
        .stderr(fs::File::create(&stderr).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let start = Instant::now();
    let (status, hung) = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break (status, false);
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            break (child.wait().unwrap(), true);
        }
        thread::sleep(Duration::from_millis(1));
    };
    let (out, err) = (fs::read(&stdout).unwrap(), fs::read(&stderr).unwrap());
    assert_ne!(status.code(), Some(127), "{program} is missing: {}", String::from_utf8_lossy(&err));
    Outcome {
        code: status.code(),
        signal: status.signal(),
        hung,
        unprintable: !printable(&out) || !printable(&err),
        stdout: String::from_utf8_lossy(&out).into_owned(),
        stderr: String::from_utf8_lossy(&err).into_owned(),
    }
}

/// UTF-8 without control characters other than line ends: nothing that moves a terminal's cursor.
fn printable(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|c| c == '\n' || !c.is_control()))
}

/// Runs qemu-img in `dir`. It is given plenty, and stopped when it wants more.
pub fn qemu_img(dir: &Path, args: &[&str]) -> Outcome {
    run(dir, Limits { memory_kib: 4 << 20, cpu_seconds: 20 }, "qemu-img", args)
}

/// An empty folder below cargo's folder for tests.
pub fn fresh_folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    }
    fs::create_dir_all(&path).unwrap();
    path
}
