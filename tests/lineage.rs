//! What a backup stands on: an increment over another image than its bitmap counts from is refused, and a chain is proven.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(dead_code, unreachable_pub)] // of what is shared only a part is used

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

mod support;

#[path = "lineage/ancestors.rs"]
mod ancestors;
#[path = "lineage/parts.rs"]
mod parts;
#[path = "lineage/sizes.rs"]
mod sizes;
#[path = "support/watched.rs"]
mod watched;
#[path = "lineage/written.rs"]
mod written;

use support::qemu::run;

const MIB: usize = 1 << 20;

/// A folder with a disk and its full backup, whose bitmap `b` counts from that.
struct Place(tempfile::TempDir);

impl Place {
    fn empty() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn new() -> Self {
        let place = Place::empty();
        place.disk("d", &[]);
        place.full("d", "full");
        place
    }

    fn disk(&self, name: &str, options: &[&str]) {
        let path = self.name(name);
        run("qemu-img", &[&["create", "-q", "-f", "qcow2"], options, &[&path, "8M"]].concat());
        self.write(name, "write -P 1 0 3M");
        self.ok(&["bitmap", "add", name, "b"]);
    }

    fn full(&self, disk: &str, target: &str) {
        self.backup(&format!("source={disk},target={target},sync=full,bitmap=b,bitmap-mode=on-success"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, command: &str) {
        run("qemu-io", &["-f", "qcow2", "-c", command, &self.name(name)]);
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_holstein"))
            .current_dir(self.0.path())
            .args(args)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    fn backup(&self, disk: &str) -> String {
        self.ok(&["backup", "--disk", disk])
    }

    /// Fails, and leaves everything as it was.
    fn refused(&self, disk: &str) -> String {
        let files = || {
            let mut files: Vec<_> =
                fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.retain(|path| path.is_file());
            files.sort();
            files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
        };
        let before = files();
        let (code, _, err) = self.run(&["backup", "--disk", disk]);
        assert_eq!(code, 1, "{disk}: {err}");
        assert!(files() == before, "{disk}: something has changed");
        err
    }

    fn info(&self, name: &str) -> Value {
        serde_json::from_str(&self.ok(&["info", "--output", "json", name])).unwrap()
    }

    fn identity(&self, name: &str) -> String {
        self.info(name)["holstein"]["identity"].as_str().unwrap().to_owned()
    }

    fn base(&self, disk: &str, bitmap: &str) -> Option<String> {
        let info = self.info(disk);
        let list = info["holstein"]["bitmaps-count-from"].as_array().unwrap().clone();
        let of = list.iter().find(|entry| entry["name"] == bitmap)?;
        Some(of["backup"].as_str().unwrap().to_owned())
    }

    fn same(&self, disk: &str, backup: &str) {
        run(
            "qemu-img",
            &["compare", "-q", "-f", "qcow2", "-F", "qcow2", &self.name(disk), &self.name(backup)],
        );
        run("qemu-img", &["check", "-q", &self.name(disk)]);
        run("qemu-img", &["check", "-q", &self.name(backup)]);
    }
}

fn inc(target: &str, backing: &str) -> String {
    format!("source=d,target={target},sync=incremental,bitmap=b,backing={backing}")
}

#[test]
fn each_increment_stands_on_the_one_before() {
    let place = Place::new();
    assert_eq!(place.base("d", "b"), Some(place.identity("full")));
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("inc1", "full"));
    assert_eq!(place.base("d", "b"), Some(place.identity("inc1")));
    let info = place.info("inc1");
    assert_eq!(info["holstein"]["parent"], Value::from(place.identity("full")));
    place.write("d", "write -P 3 1M 64k");

    let text = place.refused(&inc("inc2", "full"));
    for word in [place.identity("full"), place.identity("inc1"), "inc1'".into(), "full copy".into()] {
        assert!(text.contains(&word), "'{word}' is missing: {text}");
    }
    place.backup(&inc("inc2", "inc1"));
    place.same("d", "inc2");

    let chain = place.ok(&["check", "--chain", "inc2"]);
    assert_eq!(chain.matches("stands on its parent").count(), 2, "{chain}");
    let json: Value =
        serde_json::from_str(&place.ok(&["check", "--chain", "--output", "json", "inc2"])).unwrap();
    let links: Vec<_> =
        json["images"].as_array().unwrap().iter().map(|image| image["link"].clone()).collect();
    assert_eq!(links, ["proven", "proven", "bottom"]);

    // An image was left out of the chain.
    run("qemu-img", &["rebase", "-q", "-u", "-f", "qcow2", "-b", "full", "-F", "qcow2", &place.name("inc2")]);
    let (code, out, _) = place.run(&["check", "--chain", "inc2"]);
    assert_eq!(code, 2);
    assert!(out.contains(&format!("BROKEN: its parent {}", place.identity("inc1"))), "{out}");
}

#[test]
fn who_insists_is_obeyed() {
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("inc1", "full"));
    place.backup(&(inc("inc2", "full") + ",lineage=ignore"));
    assert_eq!(place.info("inc2")["holstein"]["parent"], Value::from(place.identity("full")));
}

#[test]
fn what_is_not_known_is_told() {
    let place = Place::empty();
    place.disk("d", &[]);
    run("qemu-img", &["convert", "-q", "-O", "qcow2", &place.name("d"), &place.name("theirs")]);
    place.write("d", "write -P 2 0 64k");
    let out = place.backup(&inc("inc1", "theirs"));
    assert!(out.contains("note: from which backup bitmap 'b' of 'd' counts is not known"), "{out}");
    place.same("d", "inc1");

    // The bitmap counts from inc1 now, and a copy that another program made has no identity.
    run("qemu-img", &["convert", "-q", "-O", "qcow2", &place.name("inc1"), &place.name("copy")]);
    let text = place.refused(&inc("inc2", "copy"));
    assert!(text.contains("copy' has no identity") && text.contains("lineage=ignore"), "{text}");
    assert!(text.contains(&place.identity("inc1")) && text.contains("inc1'"), "{text}");
    let wanted = format!("{},lineage=ignore", inc("inc2", "copy"));
    let out = place.ok(&["backup", "--output", "json", "--disk", &wanted]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let note = json["disks"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains("copy' has no identity") && note.contains(&place.identity("inc1")), "{note}");
    assert_eq!(json["disks"][0]["identity"], Value::from(place.identity("inc2")));
}

#[test]
fn the_backup_that_a_bitmap_counts_from_is_not_replaced() {
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("inc1", "full"));
    let text = place.refused("source=d,target=inc1,overwrite,sync=incremental,bitmap=b");
    assert!(text.contains("replacing it would lose what it has"), "{text}");
    // A full copy has all of it.
    place.backup("source=d,target=inc1,overwrite,sync=full,bitmap=b,bitmap-mode=on-success");
    place.same("d", "inc1");
}

#[test]
fn qemu_keeps_it() {
    let place = Place::new();
    let (disk, base) = (place.name("d"), place.base("d", "b"));
    run("qemu-img", &["bitmap", "--add", &disk, "other"]);
    place.write("d", "write -P 2 0 64k");
    run("qemu-img", &["resize", "-q", &disk, "12M"]);
    run("qemu-img", &["snapshot", "-c", "s", &disk]);
    run("qemu-img", &["amend", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", &disk]);
    run("qemu-img", &["check", "-q", "-r", "all", &disk]);
    assert!(base.is_some());
    assert_eq!(place.base("d", "b"), base);
    assert_eq!(place.base("d", "other"), None);
    place.backup(&inc("inc1", "full"));
    place.same("d", "inc1");
}

#[test]
fn each_change_of_a_bitmap_has_its_rule() {
    let place = Place::new();
    let base = place.base("d", "b");
    let known = || place.base("d", "b");
    // Bits that are added leave it true.
    place.ok(&["bitmap", "add", "d", "more"]);
    place.ok(&["bitmap", "merge", "d", "b", "more"]);
    assert_eq!(known(), base);
    assert_eq!(place.base("d", "more"), None);
    place.ok(&["bitmap", "rename", "d", "b", "c"]);
    assert_eq!(place.base("d", "c"), base);
    place.ok(&["bitmap", "rename", "d", "c", "b"]);
    assert_eq!(known(), base);
    // Writes can be missing when it records again.
    place.ok(&["bitmap", "disable", "d", "b"]);
    assert_eq!(known(), None);
    place.ok(&["bitmap", "enable", "d", "b"]);
    assert_eq!(known(), None);
    // QEMU enables it, too, and knows nothing of bases.
    place.full("d", "before");
    place.ok(&["bitmap", "disable", "d", "b"]);
    run("qemu-img", &["bitmap", "--enable", &place.name("d"), "b"]);
    assert_eq!(known(), None);
    place.full("d", "again");
    assert_eq!(known(), Some(place.identity("again")));
    place.ok(&["bitmap", "clear", "d", "b"]);
    assert_eq!(known(), None);
    place.full("d", "third");
    place.ok(&["bitmap", "remove", "d", "b"]);
    place.ok(&["bitmap", "add", "d", "b"]);
    assert_eq!(known(), None);
}

/// Both count from the same backup, until each has one of its own.
#[test]
fn a_copy_of_the_source_goes_its_own_way() {
    let place = Place::new();
    fs::copy(place.path("d"), place.path("e")).unwrap();
    place.write("d", "write -P 2 0 64k");
    place.write("e", "write -P 3 1M 64k");
    place.backup(&inc("d1", "full"));
    place.backup("source=e,target=e1,sync=incremental,bitmap=b,backing=full");
    place.same("d", "d1");
    place.same("e", "e1");
    let text = place.refused("source=e,target=e2,sync=incremental,bitmap=b,backing=d1");
    assert!(text.contains("which is '") && text.contains("e1'"), "{text}");
}

#[test]
fn a_bitmap_that_is_added_with_a_backup_counts_from_it() {
    let place = Place::empty();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &place.name("d"), "8M"]);
    let list = r#"{"actions": [
        {"type": "block-dirty-bitmap-add", "data": {"node": "d", "name": "b"}},
        {"type": "block-dirty-bitmap-add", "data": {"node": "d", "name": "gone"}},
        {"type": "blockdev-backup", "data": {"device": "d", "target": "full", "sync": "full"}},
        {"type": "block-dirty-bitmap-remove", "data": {"node": "d", "name": "gone"}}]}"#;
    fs::write(place.path("list"), list).unwrap();
    place.ok(&["transaction", "list"]);
    assert_eq!(place.base("d", "b"), Some(place.identity("full")));
    let cleared = list.replace(
        "\"block-dirty-bitmap-add\", \"data\": {\"node\": \"d\", \"name\": \"b\"",
        "\"block-dirty-bitmap-clear\", \"data\": {\"node\": \"d\", \"name\": \"b\"",
    );
    fs::write(place.path("list"), cleared.replace("\"full\", \"sync\"", "\"second\", \"sync\"")).unwrap();
    place.ok(&["transaction", "list"]);
    assert_eq!(place.base("d", "b"), Some(place.identity("second")));
}

/// With 512 bytes for everything the header has room for fewer of them; that is told, and the backup is made.
#[test]
fn without_room_a_backup_goes_on() {
    let place = Place::empty();
    let data = format!("data_file={}", place.name(&"x".repeat(150)));
    place.disk("d", &["-o", &data]);
    for number in 0..9 {
        let bitmap = format!("bitmap-{number}");
        place.ok(&["bitmap", "add", "d", &bitmap]);
        let disk = format!("source=d,target=t{number},sync=full,bitmap={bitmap},bitmap-mode=on-success");
        place.ok(&["backup", "--backing-policy", "any", "--disk", &disk]);
        assert_eq!(place.base("d", &bitmap), Some(place.identity(&format!("t{number}"))), "the newest stays");
    }
    let left = (0..9).filter(|number| place.base("d", &format!("bitmap-{number}")).is_some()).count();
    assert!((1..9).contains(&left), "{left} are remembered");
    run("qemu-img", &["check", "-q", &place.name("d")]);
}

#[test]
fn a_part_is_what_its_rest_counts_from() {
    let place = Place::new();
    place.write("d", &format!("write -P 5 0 {}", 2 * MIB));
    assert_ne!(place.identity("full"), "");
    place.backup("source=d,target=diff,sync=bitmap,bitmap=b,bitmap-mode=never,backing=full");
    assert_eq!(place.base("d", "b"), Some(place.identity("full")), "nothing was cleared");
    assert_eq!(place.info("diff")["holstein"]["parent"], Value::from(place.identity("full")));
    place.backup("source=d,target=all,sync=bitmap,bitmap=b,bitmap-mode=always,backing=full");
    assert_eq!(place.base("d", "b"), Some(place.identity("all")));
}
