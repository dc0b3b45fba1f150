//! Running the built `holstein`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::qemu::{Workshop, output, text};

/// The path of the command under test.
pub const HOLSTEIN: &str = env!("CARGO_BIN_EXE_holstein");

/// The command, run in a workshop's folder.
pub struct Holstein {
    folder: PathBuf,
}

impl Holstein {
    pub fn new(workshop: &Workshop) -> Self {
        Holstein { folder: workshop.folder().to_path_buf() }
    }

    /// Runs it, whatever comes out.
    pub fn run(&self, args: &[&str]) -> Output {
        output(Command::new(HOLSTEIN).args(args).current_dir(&self.folder)).expect("running holstein")
    }

    /// Runs it successfully and gives its standard output.
    pub fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "holstein {args:?}: {}\n{}", output.status, text(&output));
        String::from_utf8(output.stdout).expect("output in UTF-8")
    }

    /// Runs it with `--output json` and parses what it prints.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.succeeds(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&output)
            .unwrap_or_else(|e| panic!("holstein {args:?} prints no JSON ({e}): {output}"))
    }

    /// Runs it, expects the exit code 1 and gives the error text.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        self.error(args, 1)
    }

    /// Runs it, expects that exit code and gives the error text.
    #[track_caller]
    pub fn error(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "holstein {args:?}: {}\n{}",
            output.status,
            text(&output)
        );
        let error = String::from_utf8(output.stderr).expect("an error text in UTF-8");
        assert!(!error.contains("panicked"), "holstein {args:?}: {error}");
        error
    }

    /// Runs it like [`Holstein::fails`] and expects each of `words` in the error text, whatever their case.
    #[track_caller]
    pub fn fails_saying(&self, args: &[&str], words: &[&str]) {
        mentions(&self.fails(args), words);
    }

    /// A successful backup of one disk.
    pub fn backup(&self, disk: &Disk) {
        self.succeeds(&["backup", "--disk", &disk.0]);
    }
}

/// Panics unless each of `words` occurs in an error text, whatever their case.
#[track_caller]
pub fn mentions(error: &str, words: &[&str]) {
    let lower = error.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no word of '{word}' in: {error}");
    }
}

/// The value of one `--disk`.
#[derive(Clone)]
pub struct Disk(pub String);

impl Disk {
    pub fn new(source: &str, target: &str) -> Self {
        Disk(String::new()).with("source", source).with("target", target)
    }

    /// With one more key; a comma inside the value is doubled.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        let comma = if self.0.is_empty() { "" } else { "," };
        write!(self.0, "{comma}{key}={}", value.replace(',', ",,")).unwrap();
        self
    }
}
