//! Standard output that cannot be written, or that nobody reads: what the exit code says is what was done.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    fs::{self, File},
    io,
    process::{Command, Stdio},
};

use support::{
    command::{HOLSTEIN, Holstein, mentions},
    qemu::Workshop,
};

const DONE: i32 = 5;

struct Site {
    _folder: tempfile::TempDir,
    workshop: Workshop,
    holstein: Holstein,
}

/// Where standard output goes.
#[derive(Clone, Copy, Debug)]
enum Output {
    /// A full disk.
    Full,
    /// A pipe whose reader is gone.
    Closed,
}

const OUTPUTS: [Output; 2] = [Output::Full, Output::Closed];

impl Output {
    fn stdio(self) -> Stdio {
        match self {
            Output::Full => File::options().write(true).open("/dev/full").unwrap().into(),
            Output::Closed => io::pipe().unwrap().1.into(),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Output::Full => "no space left on device",
            Output::Closed => "nobody reads standard output",
        }
    }
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        workshop.create("disk", 1 << 20, "");
        let holstein = Holstein::new(&workshop);
        Site { _folder: folder, workshop, holstein }
    }

    /// Runs the command with such an output; its exit code and what it says on standard error.
    fn run(&self, output: Output, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(HOLSTEIN);
        command.args(args).current_dir(self.workshop.folder()).stdout(output.stdio());
        let result = command.output().unwrap();
        (result.status.code().unwrap(), String::from_utf8(result.stderr).unwrap())
    }

    /// The change is made, and so says the command.
    #[track_caller]
    fn makes(&self, output: Output, args: &[&str], done: &str) {
        for form in ["human", "json"] {
            if form == "json" && args[0] == "create" {
                fs::remove_file(self.workshop.path("new")).unwrap();
            }
            let args = [args, &["--output", form]].concat();
            let (code, text) = self.run(output, &args);
            assert_eq!(code, DONE, "{args:?} {output:?}: {text}");
            mentions(&text, &[done, "only the report of it is missing", output.reason()]);
            // These can be made once.
            if args[0] == "bitmap" || args[0] == "snapshot" {
                break;
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.workshop.folder()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn bitmaps(&self) -> Vec<String> {
        let list = self.holstein.json(&["bitmap", "list", "disk"]);
        list.as_array().unwrap().iter().map(|bitmap| bitmap["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_change_that_is_made_is_no_failure() {
    for output in OUTPUTS {
        let site = Site::new();
        let changed = "the change was made";
        for (args, names) in [
            (&["add", "disk", "n"][..], &["n"][..]),
            (&["disable", "disk", "n"], &["n"]),
            (&["enable", "disk", "n"], &["n"]),
            (&["clear", "disk", "n"], &["n"]),
            (&["rename", "disk", "n", "m"], &["m"]),
            (&["add", "disk", "n", "--output", "json"], &["m", "n"]),
            (&["merge", "disk", "n", "m"], &["m", "n"]),
            (&["remove", "disk", "m"], &["n"]),
        ] {
            let (code, text) = site.run(output, &[&["bitmap"], args].concat());
            assert_eq!(code, DONE, "{args:?}: {text}");
            mentions(&text, &[changed, "only the report of it is missing", output.reason()]);
            assert_eq!(site.bitmaps(), names, "{args:?}");
        }
        fs::write(site.workshop.path("steps"), r#"[{"op": "remove", "name": "n"}]"#).unwrap();
        site.makes(output, &["bitmap", "apply", "disk", "steps"], changed);
        assert!(site.bitmaps().is_empty());

        let snapshots = || site.holstein.json(&["snapshot", "list", "disk"]).as_array().unwrap().len();
        site.makes(output, &["snapshot", "create", "disk", "s"], "the snapshot was made");
        assert_eq!(snapshots(), 1);
        site.makes(output, &["snapshot", "delete", "disk", "s"], "the deletion was done");
        assert_eq!(snapshots(), 0);

        site.makes(output, &["create", "new", "1M"], "'new' was made");
        site.holstein.succeeds(&["check", "new"]);
        site.makes(output, &["check", "disk", "--repair", "all"], "the repair was done");
        // The human form says nothing where nothing was found.
        let (code, text) = site.run(output, &["recover", ".", "--output", "json"]);
        assert_eq!(code, DONE);
        mentions(&text, &["the recovery was done", output.reason()]);
    }
}

#[test]
fn a_backup_that_is_complete_is_no_failure() {
    for output in OUTPUTS {
        let site = Site::new();
        site.holstein.succeeds(&["bitmap", "add", "disk", "n"]);
        for (number, form) in ["human", "json"].iter().enumerate() {
            site.holstein.succeeds(&["write", "disk", "0", "--zero", "64k"]);
            let disk = format!("source=disk,target=inc{number},sync=incremental,bitmap=n");
            let (code, text) = site.run(output, &["backup", "--output", form, "--disk", &disk]);
            assert_eq!(code, DONE, "{text}");
            mentions(&text, &["the transaction is complete", output.reason()]);
            site.holstein.succeeds(&["check", &format!("inc{number}")]);
            assert_eq!(site.holstein.json(&["bitmap", "list", "disk"])[0]["count"], 0);
        }
        let list = r#"{ "actions": [{ "type": "block-dirty-bitmap-remove", "data": { "node": "disk", "name": "n" } }] }"#;
        fs::write(site.workshop.path("list"), list).unwrap();
        let (code, text) = site.run(output, &["transaction", "list", "--output", "json"]);
        assert_eq!(code, DONE, "{text}");
        assert!(site.bitmaps().is_empty());
    }
}

/// What prints nothing has nothing to miss.
#[test]
fn what_prints_nothing_does_not_fail() {
    for output in OUTPUTS {
        let site = Site::new();
        let disk = "source=disk,target=copy";
        for args in [
            &["backup", "--quiet", "--disk", disk][..],
            &["write", "disk", "0", "--zero", "64k"],
            &["resize", "disk", "2M"],
        ] {
            assert_eq!(site.run(output, args), (0, String::new()), "{args:?}");
        }
    }
}

/// A failure is one, whatever becomes of the report, and its text is not lost.
#[test]
fn a_failure_is_told_although_its_report_cannot_be() {
    for output in OUTPUTS {
        let site = Site::new();
        fs::write(site.workshop.path("copy"), "mine").unwrap();
        for form in ["human", "json"] {
            let disk = "source=disk,target=copy";
            let (code, text) = site.run(output, &["backup", "--output", form, "--disk", disk]);
            assert_eq!(code, 1, "{text}");
            mentions(&text, &["'copy' exists already"]);
        }
        assert_eq!(fs::read(site.workshop.path("copy")).unwrap(), b"mine");
        assert_eq!(site.names(), ["commands.sh", "copy", "disk"]);
        // A journal that has to wait is told on standard error then.
        let journal = ".holstein-0123456789abcdef.journal";
        fs::write(site.workshop.path(journal), vec![b'x'; 8192]).unwrap();
        let (code, text) = site.run(output, &["recover", ".", "--output", "json"]);
        assert_eq!(code, 1, "{text}");
        mentions(&text, &[journal, "cannot be finished now", "the recovery was done"]);
    }
}

/// `compare` and `check` tell their result by the exit code; "different" is not "cannot be written".
#[test]
fn a_result_is_told_by_the_exit_code() {
    let site = Site::new();
    fs::copy(site.workshop.path("disk"), site.workshop.path("same")).unwrap();
    site.workshop.create("other", 1 << 20, "");
    site.holstein.succeeds(&["write", "other", "0", "--from", "same"]);
    for (args, code) in
        [(&["compare", "disk", "same"][..], 0), (&["compare", "disk", "other"], 1), (&["check", "disk"], 0)]
    {
        assert_eq!(site.run(Output::Closed, args), (code, String::new()), "{args:?}");
        let (full, text) = site.run(Output::Full, args);
        assert_eq!(full, DONE, "{args:?}");
        mentions(&text, &["only the report of it is missing", Output::Full.reason()]);
    }
    // What only reads has done nothing else.
    for args in
        [&["info", "disk"][..], &["map", "disk"], &["bitmap", "list", "disk"], &["snapshot", "list", "disk"]]
    {
        let (code, text) = site.run(Output::Full, args);
        assert_eq!(code, 1, "{args:?}");
        mentions(&text, &["cannot write to standard output", Output::Full.reason()]);
        assert_eq!(site.run(Output::Closed, args), (0, String::new()), "{args:?}");
    }
}

/// What a run says about an earlier crash goes to standard error; where that cannot be written the run goes on.
#[test]
fn a_standard_error_that_cannot_be_written_ends_no_backup() {
    let site = Site::new();
    fs::write(site.workshop.path(".holstein-0123456789abcdef.journal"), vec![b'x'; 8192]).unwrap();
    let mut command = Command::new(HOLSTEIN);
    command.args(["backup", "--disk", "source=disk,target=copy"]).current_dir(site.workshop.folder());
    let status = command.stdout(Stdio::null()).stderr(Output::Full.stdio()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    site.holstein.succeeds(&["check", "copy"]);
}
