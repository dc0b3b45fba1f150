//! `holstein bitmap add`, `remove`, `clear`, `enable`, `disable`, `rename`, `merge` and `apply`, judged by QEMU's tools.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure here fails the test

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

mod support;

use support::qemu::run;

fn holstein(arguments: &[impl AsRef<OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holstein")).arg("bitmap").args(arguments).output().expect("the command")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with images.
struct Images(tempfile::TempDir);

impl Images {
    /// `disk.qcow2`: 8 MiB, with data and the bitmap "nightly", of which 256 KiB from 1 MiB on are dirty.
    fn new() -> Images {
        let images = Images(tempfile::tempdir().unwrap());
        let disk = images.create("disk.qcow2", "8M");
        run("qemu-io", &["-c", "write -P 1 0 4M", text(&disk)]);
        run("qemu-img", &["bitmap", "--add", "-g", "64k", text(&disk), "nightly"]);
        run("qemu-io", &["-c", "write -P 2 1M 256k", text(&disk)]);
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn create(&self, name: &str, size: &str) -> PathBuf {
        let path = self.path(name);
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), size]);
        path
    }

    fn disk(&self) -> PathBuf {
        self.path("disk.qcow2")
    }

    fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

/// The change succeeds, QEMU finds the image sound, and its list of bitmaps is the one that we print.
fn change(image: &Path, arguments: &[&str]) -> Value {
    let output = holstein(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    assert_eq!(said(&output), "");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    run("qemu-img", &["check", "-q", text(image)]);
    let info: Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", text(image)])).unwrap();
    let of_qemu = match &info["format-specific"]["data"]["bitmaps"] {
        Value::Null => json!([]),
        bitmaps => bitmaps.clone(),
    };
    let pick = |bitmap: &Value| json!({ "flags": bitmap["flags"], "name": bitmap["name"], "granularity": bitmap["granularity"] });
    let ours: Vec<_> = printed.as_array().unwrap().iter().map(pick).collect();
    let theirs: Vec<_> = of_qemu.as_array().unwrap().iter().map(pick).collect();
    assert_eq!(ours, theirs, "{arguments:?}");
    printed
}

/// The command fails with this exit code and text, and the image is as it was.
fn refused(image: &Path, arguments: &[impl AsRef<OsStr>], code: i32, parts: &[&str]) {
    let before = fs::read(image).unwrap();
    let output = holstein(arguments);
    let (said, shown): (_, Vec<_>) = (said(&output), arguments.iter().map(AsRef::as_ref).collect());
    assert_eq!(output.status.code(), Some(code), "{shown:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{shown:?}: '{part}' is not in: {said}");
    }
    assert!(output.stdout.is_empty(), "{shown:?}");
    assert!(fs::read(image).unwrap() == before, "{shown:?}: the image changed");
}

fn dirty(image: &Path, name: &str) -> Value {
    let output = holstein(&["dump", text(image), name, "--output", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn nightly() -> Value {
    json!([{ "start": 1 << 20, "length": 256 << 10 }])
}

#[test]
fn every_change_is_one_that_qemu_goes_on_with() {
    let images = Images::new();
    let disk = images.disk();
    let image = text(&disk);

    let list = change(&disk, &["add", "--granularity", "4k", image, "fine"]);
    assert_eq!(list[1]["granularity"], 4096);
    assert_eq!(list[1]["count"], 0);
    let list = change(&disk, &["add", "--disabled", image, "idle"]);
    assert_eq!((&list[2]["flags"], &list[2]["granularity"]), (&json!([]), &json!(65536)));

    run("qemu-io", &["-c", "write -P 3 2M 4k", image]);
    assert_eq!(dirty(&disk, "fine"), json!([{ "start": 2 << 20, "length": 4096 }]));
    assert_eq!(dirty(&disk, "idle"), json!([]));

    change(&disk, &["enable", image, "idle"]);
    change(&disk, &["disable", image, "fine"]);
    run("qemu-io", &["-c", "write -P 4 3M 64k", image]);
    assert_eq!(dirty(&disk, "idle"), json!([{ "start": 3 << 20, "length": 65536 }]));
    assert_eq!(dirty(&disk, "fine"), json!([{ "start": 2 << 20, "length": 4096 }]));

    change(&disk, &["rename", image, "idle", "weekly"]);
    let list = change(&disk, &["merge", image, "weekly", "fine", "nightly"]);
    assert_eq!(list[2]["name"], "weekly");
    // nightly has 1 MiB to 1.25 MiB, 2 MiB and 3 MiB; the other two nothing else.
    assert_eq!(dirty(&disk, "weekly"), dirty(&disk, "nightly"));
    assert_eq!(list[2]["count"], 6 * 65536);
    change(&disk, &["clear", image, "nightly"]);
    assert_eq!(dirty(&disk, "nightly"), json!([]));
    run("qemu-io", &["-c", "write -P 5 5M 64k", image]);
    assert_eq!(dirty(&disk, "nightly"), json!([{ "start": 5 << 20, "length": 65536 }]));

    for name in ["fine", "weekly", "nightly"] {
        change(&disk, &["remove", image, name]);
    }
    run("qemu-io", &["-c", "read -P 2 1M 256k", "-c", "read -P 1 0 1M", image]);
}

#[test]
fn merging_takes_bitmaps_of_another_image() {
    let images = Images::new();
    let (disk, other) = (images.disk(), images.create("other.qcow2", "8M"));
    let from = text(&disk);
    let before = fs::read(&disk).unwrap();
    change(&other, &["add", "-g", "1M", text(&other), "coarse"]);
    change(&other, &["merge", "--from", from, text(&other), "coarse", "nightly"]);
    assert_eq!(dirty(&other, "coarse"), json!([{ "start": 1 << 20, "length": 1 << 20 }]));
    assert!(fs::read(&disk).unwrap() == before, "the image merged from changed");
    // The image itself is an image too.
    change(&disk, &["add", from, "copy"]);
    change(&disk, &["merge", "--from", from, from, "copy", "nightly"]);
    assert_eq!(dirty(&disk, "copy"), nightly());
    // The overlay of an image: where `qemu-img commit` would need the bitmap.
    let overlay = images.path("overlay.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", text(&overlay)]);
    change(&overlay, &["add", text(&overlay), "nightly"]);
    change(&overlay, &["merge", "--from", from, text(&overlay), "nightly", "nightly"]);
    assert_eq!(dirty(&overlay, "nightly"), nightly());
}

#[test]
fn a_file_of_steps_is_one_step() {
    let images = Images::new();
    let disk = images.disk();
    let other = images.create("other.qcow2", "8M");
    change(&other, &["add", text(&other), "b"]);
    run("qemu-io", &["-c", "write -P 9 6M 64k", text(&other)]);
    let steps = json!([
        { "op": "rename", "name": "nightly", "to": "yesterday" },
        { "op": "add", "name": "nightly" },
        { "op": "add", "name": "all", "granularity": 512, "disabled": true },
        { "op": "merge", "name": "all", "sources": ["yesterday", "nightly"] },
        { "op": "merge", "name": "all", "sources": ["b"], "from": other },
        { "op": "clear", "name": "yesterday" },
        { "op": "disable", "name": "nightly" },
        { "op": "enable", "name": "all" },
        { "op": "remove", "name": "yesterday" },
    ]);
    let file = images.write("steps.json", &steps.to_string());
    let list = change(&disk, &["apply", text(&disk), text(&file)]);
    let names: Vec<_> = list.as_array().unwrap().iter().map(|bitmap| &bitmap["name"]).collect();
    assert_eq!(names, ["nightly", "all"]);
    assert_eq!(
        dirty(&disk, "all"),
        json!([{ "start": 1 << 20, "length": 256 << 10 }, { "start": 6 << 20, "length": 65536 }])
    );
    // The last step cannot be, now that "yesterday" is gone: none is.
    let parts = [text(&disk), "no bitmap 'nightly2'"];
    let bad = json!([{ "op": "clear", "name": "all" }, { "op": "remove", "name": "nightly2" }]);
    let file = images.write("bad.json", &bad.to_string());
    refused(&disk, &["apply", text(&disk), text(&file)], 1, &parts);
    let file = images.write("none.json", "[]");
    change(&disk, &["apply", text(&disk), text(&file)]);
}

#[test]
fn people_get_the_list_of_bitmaps() {
    let images = Images::new();
    let disk = images.disk();
    let added = holstein(&["add", text(&disk), "next"]);
    assert!(added.status.success(), "{}", said(&added));
    assert_eq!(added.stdout, holstein(&["list", text(&disk)]).stdout);
    assert!(String::from_utf8_lossy(&added.stdout).contains("next"));
}

#[test]
fn names_are_bytes() {
    let images = Images::new();
    let disk = images.disk();
    let (image, old, new) =
        (disk.as_os_str(), OsStr::from_bytes(b"\xff\xfe"), OsStr::from_bytes(b"a\x1b[2J"));
    let add = holstein(&[OsStr::new("add"), image, old]);
    assert!(add.status.success(), "{}", said(&add));
    run("qemu-img", &["check", "-q", text(&disk)]);
    let clear = [OsStr::new("clear"), image, OsStr::from_bytes(b"\xff")];
    refused(&disk, &clear, 1, &[text(&disk), "no bitmap '\\xff'"]);
    let rename = holstein(&[OsStr::new("rename"), image, old, new]);
    assert!(rename.status.success(), "{}", said(&rename));
    let again = [OsStr::new("add"), image, new];
    refused(&disk, &again, 1, &["a\\u{1b}[2J"]);
    assert!(holstein(&[OsStr::new("remove"), image, new]).status.success());
    run("qemu-img", &["check", "-q", text(&disk)]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let images = Images::new();
    let disk = images.disk();
    let image = text(&disk);
    let long = "x".repeat(1024);
    let small = images.create("small.qcow2", "4M");
    run("qemu-img", &["bitmap", "--add", text(&small), "s"]);
    let cases: [(&[&str], i32, &[&str]); 20] = [
        (&["add", image, "nightly"], 1, &[image, "has a bitmap 'nightly' already"]),
        (&["add", "-g", "1000", image, "x"], 2, &[image, "'x'", "power of two"]),
        (&["add", "-g", "0", image, "x"], 2, &[image, "'x'", "power of two"]),
        (&["add", "-g", "256", image, "x"], 2, &[image, "'x'", "from 512 to 2147483648"]),
        (&["add", "-g", "4G", image, "x"], 2, &[image, "'x'", "power of two"]),
        (&["add", "-g", "some", image, "x"], 2, &["'some' is not a size"]),
        (&["add", image, ""], 2, &[image, "1 to 1023 bytes"]),
        (&["add", image, &long], 2, &[image, "1 to 1023 bytes"]),
        (&["add", image], 2, &["NAME"]),
        (&["remove", image, "absent"], 1, &[image, "no bitmap 'absent'"]),
        (&["clear", image, "absent"], 1, &[image, "no bitmap 'absent'"]),
        (&["enable", image, "absent"], 1, &[image, "no bitmap 'absent'"]),
        (&["disable", image, "absent"], 1, &[image, "no bitmap 'absent'"]),
        (&["rename", image, "absent", "x"], 1, &[image, "no bitmap 'absent'"]),
        (&["rename", image, "nightly", "nightly"], 1, &[image, "has a bitmap 'nightly' already"]),
        (&["merge", image, "absent", "nightly"], 1, &[image, "no bitmap 'absent'"]),
        (&["merge", image, "nightly", "absent"], 1, &[image, "no bitmap 'absent'"]),
        (&["merge", image, "nightly"], 2, &["SOURCE"]),
        (&["merge", "--from", text(&small), image, "nightly", "s"], 2, &[image, "8388608", "'s'", "4194304"]),
        (
            &["merge", "--from", text(&small), image, "nightly", "absent"],
            1,
            &[text(&small), "no bitmap 'absent'"],
        ),
    ];
    for (arguments, code, parts) in cases {
        refused(&disk, arguments, code, parts);
    }
    let missing = images.path("missing.qcow2");
    refused(&disk, &["clear", text(&missing), "nightly"], 1, &[text(&missing), "No such file"]);
    refused(&disk, &["clear", "-f", "raw", image, "nightly"], 1, &[image, "raw image has no bitmaps"]);
    refused(&disk, &["clear", "-U", image, "nightly"], 2, &["-U"]);
}

#[test]
fn steps_that_cannot_be_are_refused() {
    let images = Images::new();
    let disk = images.disk();
    let cases = [
        (r#"[{"op": "clear", "name": "nightly", "colour": 1}]"#, 2, "step 1: unknown key 'colour'"),
        (r#"[{"op": "clear", "name": "nightly"}, {"op": "wash"}]"#, 2, "step 2: unknown operation 'wash'"),
        (r#"[{"op": "clear", "name": "nightly"}, {"op": "clear"}]"#, 2, "step 2: 'name' is missing"),
        (r#"[{"op": "clear"#, 2, "it is not JSON"),
        (r#"[{"op": "clear", "name": "nightly"}, {"op": "add", "name": "nightly"}]"#, 1, "'nightly' already"),
    ];
    for (steps, code, part) in cases {
        let file = images.write("steps.json", steps);
        let named = if code == 2 { text(&file).to_owned() } else { text(&disk).to_owned() };
        refused(&disk, &["apply", text(&disk), text(&file)], code, &[&named, part]);
    }
    let missing = images.path("missing.json");
    refused(&disk, &["apply", text(&disk), text(&missing)], 1, &["cannot read", text(&missing)]);
}

#[test]
fn images_that_cannot_have_bitmaps_or_be_trusted_are_refused() {
    let images = Images::new();
    let old = images.path("old.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", text(&old), "8M"]);
    refused(&old, &["add", text(&old), "x"], 1, &[text(&old), "version 2"]);
    let disk = images.disk();
    let sound = fs::read(&disk).unwrap();
    for (bit, part) in [(1, "stale"), (2, "corrupt")] {
        let mut bytes = sound.clone();
        bytes[79] |= bit;
        fs::write(&disk, bytes).unwrap();
        refused(&disk, &["clear", text(&disk), "nightly"], 1, &[text(&disk), part]);
    }
}

#[test]
fn a_bitmap_that_a_writer_left_behind_can_only_be_removed() {
    let images = Images::new();
    let disk = images.disk();
    let image = text(&disk);
    Qemu::with(&disk).kill();
    for arguments in [
        &["clear", image, "nightly"][..],
        &["enable", image, "nightly"],
        &["disable", image, "nightly"],
        &["merge", image, "nightly", "nightly"],
    ] {
        refused(&disk, arguments, 1, &[image, "'nightly' is inconsistent", "can only be removed"]);
    }
    let other = images.create("other.qcow2", "8M");
    change(&other, &["add", text(&other), "x"]);
    let merge = ["merge", "--from", image, text(&other), "x", "nightly"];
    refused(&other, &merge, 1, &[image, "'nightly'"]);
    // It does not stand in the way of others, and says why it cannot be used.
    let list = change(&disk, &["add", image, "next"]);
    assert_eq!((&list[0]["usable"], &list[1]["usable"]), (&json!(false), &json!(true)));
    assert!(list[0]["reason"].is_string());
    let list = change(&disk, &["remove", image, "nightly"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
}

/// QEMU with an image open for writing, until it is dropped.
struct Qemu(Child);

impl Qemu {
    fn with(image: &Path) -> Qemu {
        let mut child = Command::new("qemu-io")
            .args(["-f", "qcow2", text(image)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io");
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        // It answers when the image is open.
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("MiB")), "qemu-io did not open the image");
        Qemu(child)
    }

    /// It ends without closing the image.
    fn kill(mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn an_image_in_use_is_refused_at_once() {
    let images = Images::new();
    let (disk, free) = (images.disk(), images.create("free.qcow2", "8M"));
    let image = text(&disk);
    change(&free, &["add", text(&free), "x"]);
    let file = images.write("steps.json", "[]");
    let from = images.write(
        "from.json",
        &json!([{ "op": "merge", "name": "x", "sources": ["nightly"],
        "from": disk }])
        .to_string(),
    );
    {
        let _qemu = Qemu::with(&disk);
        for arguments in [
            &["add", image, "x"][..],
            &["remove", image, "nightly"],
            &["clear", image, "nightly"],
            &["enable", image, "nightly"],
            &["disable", image, "nightly"],
            &["rename", image, "nightly", "x"],
            &["merge", image, "nightly", "nightly"],
            &["merge", "--from", text(&free), image, "nightly", "x"],
            &["apply", image, text(&file)],
        ] {
            refused(&disk, arguments, 1, &[image, "in use by another process"]);
        }
        for arguments in [
            &["merge", "--from", image, text(&free), "x", "nightly"][..],
            &["apply", text(&free), text(&from)],
        ] {
            refused(&free, arguments, 1, &[image]);
        }
    }
    change(&disk, &["clear", image, "nightly"]);
}
