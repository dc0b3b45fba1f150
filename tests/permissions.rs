//! Who may use the files that are made: a copy is never for more people than its source, a file that replaces another is
//! for the same, and what is not complete is for its owner alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{command::HOLSTEIN, qemu::Workshop};

const MIB: u64 = 1 << 20;

struct Site {
    _folder: tempfile::TempDir,
    workshop: Workshop,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        Site { _folder: folder, workshop }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workshop.path(name)
    }

    /// An image, or a file of random bytes, with a mode.
    fn image(&self, name: &str, options: &str, mode: u32) {
        self.workshop.create(name, MIB, options);
        self.set_mode(name, mode);
    }

    fn file(&self, name: &str, mode: u32) {
        fs::write(self.path(name), [7; 512]).unwrap();
        self.set_mode(name, mode);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(&self, name: &str) -> u32 {
        mode(&self.path(name))
    }

    fn command(&self, umask: &str, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"umask $0; exec "$@""#, umask, HOLSTEIN]).args(args);
        command.current_dir(self.workshop.folder());
        command
    }

    #[track_caller]
    fn run(&self, umask: &str, args: &[&str]) {
        succeeds(self.command(umask, args));
    }

    #[track_caller]
    fn backup(&self, umask: &str, disk: &str) {
        self.run(umask, &["backup", "-q", "--disk", disk]);
    }

    /// Temporary files and journals.
    fn unfinished(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.workshop.folder()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_str().unwrap().contains("/.holstein-")).collect()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_copy_is_for_nobody_who_may_not_read_its_source() {
    let site = Site::new();
    for (source, umask, target) in [
        (0o600, "0", 0o600),
        (0o640, "0", 0o640),
        (0o644, "0", 0o644),
        (0o666, "0", 0o666),
        (0o666, "027", 0o640),
        (0o777, "0", 0o666),
        // Who makes a copy can use it.
        (0o444, "0", 0o644),
    ] {
        site.image("s", "", source);
        site.backup(umask, "source=s,target=t");
        site.backup(umask, "source=s,target=t.raw,format=raw");
        assert_eq!((site.mode("t"), site.mode("t.raw")), (target, target), "{source:o} under umask {umask}");
        fs::remove_file(site.path("t")).unwrap();
        fs::remove_file(site.path("t.raw")).unwrap();
    }
}

#[test]
fn each_file_of_the_source_counts() {
    let site = Site::new();
    site.image("base", "", 0o600);
    site.image("middle", "backing_file=base,backing_fmt=qcow2", 0o644);
    site.image("top", "backing_file=middle,backing_fmt=qcow2", 0o666);
    site.backup("0", "source=top,target=a");
    assert_eq!(site.mode("a"), 0o600);
    site.image("d", "data_file=data", 0o666);
    site.set_mode("data", 0o640);
    site.backup("0", "source=d,target=b");
    assert_eq!(site.mode("b"), 0o640);
    // So it is with those of a long chain, which are not open all the time.
    site.set_mode("base", 0o644);
    let mut below = "base".to_owned();
    for number in 0..66 {
        let name = format!("c{number}");
        site.run("0", &["create", &name, "--backing", &below, "--backing-format", "qcow2"]);
        below = name;
    }
    site.set_mode("c2", 0o640);
    site.backup("0", &format!("source={below},target=c"));
    assert_eq!(site.mode("c"), 0o640);
}

/// The group's bits are about one group: in a file of another group they count for nobody.
#[test]
fn a_copy_is_for_no_other_group() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.image("base", "", 0o640);
    site.image("top", "backing_file=base,backing_fmt=qcow2", 0o664);
    let target = |groups: [u32; 2], target_group: Option<u32>| {
        let _ = fs::remove_file(site.path("t"));
        chown(site.path("base"), None, Some(groups[0])).unwrap();
        chown(site.path("top"), None, Some(groups[1])).unwrap();
        let mut overwrite = "";
        if let Some(group) = target_group {
            site.file("t", 0o660);
            chown(site.path("t"), None, Some(group)).unwrap();
            overwrite = ",overwrite=on";
        }
        site.backup("0", &format!("source=top,target=t{overwrite}"));
        let status = fs::metadata(site.path("t")).unwrap();
        (status.mode() & 0o777, status.gid())
    };
    assert_eq!(target([0, 0], None), (0o640, 0));
    assert_eq!(target([8, 8], None), (0o600, 0));
    assert_eq!(target([0, 8], None), (0o600, 0));
    assert_eq!(target([8, 0], None), (0o600, 0));
    assert_eq!(target([8, 8], Some(8)), (0o640, 8));
    assert_eq!(target([8, 8], Some(7)), (0o600, 7));
    assert_eq!(target([7, 8], Some(8)), (0o600, 8));
    // Who was kept out by the group's bits is not let in by those of all others.
    site.set_mode("base", 0o604);
    site.set_mode("top", 0o604);
    assert_eq!(target([0, 0], None), (0o604, 0));
    assert_eq!(target([8, 8], None), (0o600, 0));
}

/// What replaces a file is neither for more people than that file, nor for more than its source.
#[test]
fn what_replaces_a_file_is_for_nobody_who_may_not_read_its_source() {
    let site = Site::new();
    for (source, old, new) in [
        (0o600, 0o664, 0o600),
        (0o640, 0o664, 0o640),
        (0o664, 0o640, 0o640),
        (0o644, 0o600, 0o600),
        (0o444, 0o666, 0o644),
        (0o600, 0o755, 0o700),
    ] {
        site.image("s", "", source);
        for (name, format) in [("t", "qcow2"), ("t.raw", "raw")] {
            site.file(name, old);
            site.backup("0", &format!("source=s,target={name},format={format},overwrite=on"));
            assert_eq!(site.mode(name), new, "{name}: {source:o} over {old:o}");
        }
    }
}

#[test]
fn what_replaces_a_file_keeps_its_mode_and_owner() {
    let site = Site::new();
    site.image("s", "", 0o666);
    if is_root() {
        chown(site.path("s"), None, Some(8)).unwrap();
    }
    for (old, umask) in [(0o600, "0"), (0o664, "077"), (0o700, "0")] {
        for (name, format) in [("t", "qcow2"), ("t.raw", "raw")] {
            site.file(name, old);
            if is_root() {
                chown(site.path(name), Some(7), Some(8)).unwrap();
            }
            site.backup(umask, &format!("source=s,target={name},format={format},overwrite=on"));
            let new = fs::metadata(site.path(name)).unwrap();
            assert_eq!(new.mode() & 0o777, old, "{name}: {old:o}");
            if is_root() {
                assert_eq!((new.uid(), new.gid()), (7, 8), "{name}");
            }
        }
    }
    assert_eq!(site.unfinished(), [""; 0].map(PathBuf::from));
}

/// A group that cannot be given: those of our own group are as all others.
#[test]
fn what_belonged_to_a_group_of_others_is_not_for_our_own() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    fs::set_permissions(site.workshop.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    // The command may lie where others cannot go.
    let command = site.path("command");
    fs::copy(HOLSTEIN, &command).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    site.image("s", "", 0o644);
    for (old, new) in [(0o660, 0o600), (0o664, 0o644)] {
        site.file("t", old);
        chown(site.path("t"), Some(65534), Some(8)).unwrap();
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&command);
        other.args(["backup", "-q", "--disk", "source=s,target=t,overwrite=on"]);
        succeeds({
            other.current_dir(site.workshop.folder());
            other
        });
        let status = fs::metadata(site.path("t")).unwrap();
        assert_eq!((status.mode() & 0o777, status.uid(), status.gid()), (new, 65534, 65534));
    }
}

#[test]
fn an_overlay_is_for_those_who_may_use_the_image_below() {
    let site = Site::new();
    for mode in [0o600, 0o660] {
        site.image("s", "", mode);
        if is_root() {
            chown(site.path("s"), Some(7), Some(8)).unwrap();
        }
        let list = r#"{ "actions": [{ "type": "blockdev-snapshot-sync",
            "data": { "device": "s", "snapshot-file": "over" } }] }"#;
        fs::write(site.path("list"), list).unwrap();
        site.run(if mode == 0o600 { "0" } else { "077" }, &["transaction", "list"]);
        let over = fs::metadata(site.path("over")).unwrap();
        assert_eq!(over.mode() & 0o777, mode);
        if is_root() {
            assert_eq!((over.uid(), over.gid()), (7, 8));
        }
        fs::remove_file(site.path("over")).unwrap();
    }
}

#[test]
fn a_new_image_is_as_any_new_file() {
    let site = Site::new();
    for (umask, expected) in [("0", 0o666), ("027", 0o640)] {
        site.run(umask, &["create", "a", "1M"]);
        site.run(umask, &["create", "b", "1M", "--data-file", "data"]);
        let modes = ["a", "b", "data"].map(|name| site.mode(name));
        assert_eq!(modes, [expected; 3], "umask {umask}");
        ["a", "b", "data"].iter().for_each(|name| fs::remove_file(site.path(name)).unwrap());
    }
    site.file("a", 0o600);
    site.run("0", &["create", "--overwrite", "a", "1M", "--data-file", "data"]);
    assert_eq!((site.mode("a"), site.mode("data")), (0o600, 0o600), "of a private image the data is, too");
}

/// A backup that takes its time, killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_is_not_complete_is_for_its_owner_alone() {
    let site = Site::new();
    fs::write(site.path("s"), vec![7; 4 << 20]).unwrap();
    site.set_mode("s", 0o666);
    site.file("old", 0o666);
    for target in ["target=t", "target=old,overwrite=on"] {
        let disk = format!("source=s,source-format=raw,speed=1M,{target}");
        let mut command = site.command("0", &["backup", "-q", "--disk", &disk]);
        let running = Running(command.stderr(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        while site.unfinished().len() < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "no journal and no temporary file");
            thread::sleep(Duration::from_millis(5));
        }
        // Between its creation and the next call a file has the mode that it will have, and nothing in it.
        thread::sleep(Duration::from_millis(100));
        for path in site.unfinished() {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        drop(running);
        site.run("0", &["recover", "."]);
        assert_eq!(site.unfinished(), [""; 0].map(PathBuf::from));
    }
}
