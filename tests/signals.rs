//! Signals of the command: those that were ignored at its start stay so, and a limit of file sizes is an error that
//! leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{
    command::{HOLSTEIN, Holstein, mentions},
    qemu::{Workshop, text},
};

struct Site {
    _folder: tempfile::TempDir,
    workshop: Workshop,
    holstein: Holstein,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        let holstein = Holstein::new(&workshop);
        Site { _folder: folder, workshop, holstein }
    }

    /// The command, started by a shell that has done `before`.
    fn shell(&self, before: &str, args: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\""), HOLSTEIN]).args(args);
        shell.current_dir(self.workshop.folder());
        shell
    }

    /// A backup of a second, which has begun to copy.
    fn begun(&self, before: &str) -> Child {
        fs::write(self.workshop.path("disk"), vec![7; 3 << 20]).unwrap();
        let disk = "source=disk,source-format=raw,target=copy,speed=2M";
        let mut command = self.shell(before, &["backup", "--disk", disk]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while self.contents().keys().filter(|name| name.starts_with(".holstein-")).count() < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "it does not begin");
            assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
            thread::sleep(Duration::from_millis(2));
        }
        child
    }

    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.workshop.folder()).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        entries.map(|path| (name(&path), fs::read(&path).unwrap_or_default())).collect()
    }
}

fn send(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    for (ignored, sent) in [("HUP", &["-HUP"][..]), ("INT QUIT", &["-INT"]), ("HUP INT", &["-HUP", "-INT"])] {
        let site = Site::new();
        let child = site.begun(&format!("trap '' {ignored}"));
        sent.iter().for_each(|signal| send(&child, signal));
        let output = ended(child);
        assert_eq!(output.status.code(), Some(0), "{ignored}: {}", text(&output));
        site.workshop.identical(("disk", "raw"), ("copy", "qcow2"));
    }
}

#[test]
fn each_signal_that_was_not_ignored_cancels() {
    for (ignored, sent) in [("HUP", "-INT"), ("INT", "-HUP"), ("HUP INT", "-TERM")] {
        let site = Site::new();
        let child = site.begun(&format!("trap '' {ignored}"));
        let before = Instant::now();
        send(&child, sent);
        let output = ended(child);
        assert_eq!(output.status.code(), Some(1), "{sent}: {}", text(&output));
        mentions(&text(&output), &["cancelled by a signal"]);
        assert!(before.elapsed() < Duration::from_secs(5));
        assert_eq!(site.contents().keys().collect::<Vec<_>>(), ["disk"], "{sent}");
    }
}

/// In a host's process the threads of the library take no signal, not even that of the limit: a copy fails, and the host goes on.
#[test]
fn a_host_goes_on_when_a_copy_comes_to_the_limit() {
    const INSIDE: &str = "HOLSTEIN_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(INSIDE) {
        let path = |name: &str| std::path::Path::new(&folder).join(name);
        let options = holstein::DiskOptions { format: holstein::Format::Raw, ..Default::default() };
        let source = holstein::Disk::open(path("disk"), &options).unwrap();
        let mut transaction = holstein::Transaction::new();
        transaction.add(holstein::Backup { source, target: path("copy"), options: Default::default() });
        let error = transaction.commit().unwrap_err();
        mentions(&error.to_string(), &["copy", "file too large"]);
        return;
    }
    let site = Site::new();
    fs::write(site.workshop.path("disk"), vec![7; 3 << 20]).unwrap();
    let name = "a_host_goes_on_when_a_copy_comes_to_the_limit";
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -f 1000; exec \"$0\" --exact \"$1\""]).arg(std::env::current_exe().unwrap());
    let output = shell.arg(name).env(INSIDE, site.workshop.folder()).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, text(&output));
    assert!(text(&output).contains("1 passed"), "{}", text(&output));
    assert_eq!(site.contents().keys().collect::<Vec<_>>(), ["disk"]);
}

/// A file system with room and a limit that a shell has set: each command that makes or changes something.
#[test]
fn a_limit_of_file_sizes_is_an_error_and_leaves_nothing() {
    let site = Site::new();
    site.workshop.create("disk", 64 << 20, "");
    site.workshop.io("disk", "qcow2", &["write -P 7 0 2M"]);
    site.holstein.succeeds(&["bitmap", "add", "disk", "n"]);
    fs::write(site.workshop.path("data"), vec![9; 4 << 20]).unwrap();
    let before = site.contents();
    let size = fs::metadata(site.workshop.path("disk")).unwrap().len();
    // What exists can be written within its length, and does not grow.
    let own = format!("ulimit -f {}", size / 512);
    for (limit, args) in [
        ("ulimit -f 1000", &["backup", "--disk", "source=disk,target=new"][..]),
        ("ulimit -f 1000", &["backup", "--disk", "source=disk,target=new,format=raw"]),
        (
            "ulimit -f 1000",
            &["backup", "--disk", "source=disk,target=new,sync=full,bitmap=n,bitmap-mode=on-success"],
        ),
        ("ulimit -f 100", &["create", "new", "1G", "--preallocation", "metadata"]),
        ("ulimit -f 1000", &["create", "new", "1G", "--data-file", "new.data"]),
        ("ulimit -f 0", &["create", "new", "1G"]),
        (&own, &["bitmap", "add", "disk", "other"]),
        (&own, &["snapshot", "create", "disk", "s"]),
        (&own, &["write", "disk", "32M", "--from", "data"]),
        (&own, &["resize", "disk", "16T"]),
    ] {
        let output = site.shell(limit, args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {} {}", output.status, text(&output));
        mentions(&text(&output), &["file too large"]);
        let names: Vec<_> = site.contents().into_keys().collect();
        assert!(names.iter().eq(before.keys()), "{args:?} left {names:?}");
        let disk = site.holstein.json(&["info", "disk"]);
        assert_eq!(disk["virtual-size"], 64 << 20, "{args:?}");
        site.holstein.succeeds(&["check", "disk"]);
        assert_eq!(site.holstein.json(&["bitmap", "list", "disk"]).as_array().unwrap().len(), 1);
    }
    site.holstein.backup(&support::command::Disk::new("disk", "new"));
}
