//! Refusals: what Holstein opens and what not, how it says so, and that a refusal leaves everything as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use support::command::Holstein;
use support::patch::{BACKING_FORMAT, DATA_FILE, FEATURE_NAMES, extension, peek, poke};
use support::qemu::Workshop;

/// A folder `vm` to work in, with an `elsewhere` beside it.
struct Site {
    folder: tempfile::TempDir,
    workshop: Workshop,
    holstein: Holstein,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vm", "vm/below", "elsewhere"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let workshop = Workshop::new(folder.path().canonicalize().unwrap().join("vm"));
        let holstein = Holstein::new(&workshop);
        Site { folder, workshop, holstein }
    }

    fn elsewhere(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("elsewhere")
    }

    /// An image over a backing file that it names so; neither QEMU nor this looks whether there is one.
    fn over(&self, image: &str, backing: &str, format: &str) {
        self.workshop.img(&["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, image, "1M"]);
    }

    /// A raw disk of 1 MiB.
    fn raw(&self, path: &str) {
        fs::write(self.workshop.path(path), vec![7; 1 << 20]).unwrap();
    }

    /// Reads the whole disk under a policy; the exit code 1 and the error text when it is refused.
    fn reads(&self, image: &str, policy: &str) -> Result<(), String> {
        let args = ["map", image, "--backing-policy", policy];
        let output = self.holstein.run(&args);
        if output.status.success() { Ok(()) } else { Err(self.holstein.fails(&args)) }
    }

    fn refuses(&self, image: &str, policy: &str, words: &[&str]) {
        let args = ["map", image, "--backing-policy", policy];
        self.holstein.fails_saying(&args, &[&[image], words].concat());
    }
}

#[test]
fn beside_opens_the_folder_and_what_is_below() {
    let site = Site::new();
    let outside = site.elsewhere().join("base.raw");
    for path in ["base.raw", "below/base.raw", "../elsewhere/base.raw"] {
        site.raw(path);
    }
    let inside = site.workshop.path("base.raw");
    for name in ["base.raw", "below/base.raw", inside.to_str().unwrap()] {
        site.over("disk.qcow2", name, "raw");
        site.reads("disk.qcow2", "beside").unwrap_or_else(|e| panic!("{name}: {e}"));
        site.reads("disk.qcow2", "any").unwrap_or_else(|e| panic!("{name}: {e}"));
        site.refuses("disk.qcow2", "deny", &["base.raw", "--backing-policy deny"]);
    }
    for name in ["../elsewhere/base.raw", outside.to_str().unwrap(), "below/../../elsewhere/base.raw"] {
        site.over("disk.qcow2", name, "raw");
        site.refuses(
            "disk.qcow2",
            "beside",
            &["base.raw", "allow it with --backing-policy under=DIR or any"],
        );
        // The default is the same.
        site.holstein.fails_saying(&["map", "disk.qcow2"], &["disk.qcow2", "base.raw", "polic"]);
        site.reads("disk.qcow2", "any").unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_symbolic_link_does_not_lead_out() {
    let site = Site::new();
    site.raw("../elsewhere/base.raw");
    symlink("../elsewhere/base.raw", site.workshop.path("link.raw")).unwrap();
    symlink("../elsewhere", site.workshop.path("folder")).unwrap();
    for name in ["link.raw", "folder/base.raw"] {
        site.over("disk.qcow2", name, "raw");
        site.refuses("disk.qcow2", "beside", &[name]);
        site.reads("disk.qcow2", "any").unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn under_opens_a_folder_and_nothing_else() {
    let site = Site::new();
    for path in ["base.raw", "../elsewhere/base.raw"] {
        site.raw(path);
    }
    let under = format!("under={}", site.elsewhere().display());
    site.over("disk.qcow2", "../elsewhere/base.raw", "raw");
    site.reads("disk.qcow2", &under).unwrap();
    site.over("disk.qcow2", site.elsewhere().join("base.raw").to_str().unwrap(), "raw");
    site.reads("disk.qcow2", &under).unwrap();
    site.over("disk.qcow2", "base.raw", "raw");
    site.refuses("disk.qcow2", &under, &["base.raw"]);
}

#[test]
fn the_policy_holds_for_the_whole_chain_and_for_data_files() {
    let site = Site::new();
    site.raw("../elsewhere/base.raw");
    site.over("middle.qcow2", "../elsewhere/base.raw", "raw");
    site.over("disk.qcow2", "middle.qcow2", "qcow2");
    site.holstein.fails_saying(&["map", "disk.qcow2"], &["middle.qcow2", "base.raw", "polic"]);
    site.reads("disk.qcow2", "any").unwrap();

    let outside = site.elsewhere().join("disk.data");
    site.workshop.create("data.qcow2", 1 << 20, &format!("data_file={}", outside.display()));
    site.refuses("data.qcow2", "beside", &["disk.data", "polic"]);
    site.refuses("data.qcow2", "deny", &["disk.data"]);
    site.reads("data.qcow2", "any").unwrap();
}

#[test]
fn a_name_is_never_a_url() {
    let site = Site::new();
    let file = site.workshop.path("base.raw");
    site.raw("base.raw");
    let json =
        format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}"#, file.display());
    for name in
        ["nbd://localhost/x", "file:base.raw", "nbd+unix:///x?socket=s", "https://example.org/x", &json]
    {
        site.over("disk.qcow2", name, "raw");
        for policy in ["beside", "any", "deny", &format!("under={}", site.workshop.folder().display())] {
            let scheme = name.split(':').next().unwrap();
            let way_out = "record a path in its place (qemu-img rebase -u -b PATH -F FORMAT)";
            site.refuses("disk.qcow2", policy, &[scheme, way_out]);
        }
    }
    // The same for the name of a data file, which qemu-img would make; so it is written over another.
    site.workshop.create("data.qcow2", 1 << 20, "data_file=01234567890123456789");
    let (offset, length) = extension(&site.workshop.path("data.qcow2"), DATA_FILE);
    assert_eq!(length, 20);
    poke(&site.workshop.path("data.qcow2"), offset, b"nbd://localhost/data");
    site.refuses("data.qcow2", "any", &["nbd", "qemu-img amend -o data_file=PATH"]);
}

#[test]
fn special_files_are_not_opened() {
    let site = Site::new();
    let status = std::process::Command::new("mkfifo").arg(site.workshop.path("pipe")).status();
    assert!(status.expect("running mkfifo").success());
    for name in ["pipe", "below", "/dev/zero"] {
        site.over("disk.qcow2", name, "raw");
        site.refuses("disk.qcow2", "any", &[name]);
        if name != "/dev/zero" {
            site.refuses("disk.qcow2", "beside", &[name]);
        }
    }
    let error = site.holstein.fails(&["info", "pipe", "--format", "raw"]);
    assert!(error.contains("pipe"), "{error}");
}

#[test]
fn chains_end() {
    let site = Site::new();
    site.workshop.create("self.qcow2", 1 << 20, "");
    site.workshop.img(&["rebase", "-u", "-b", "self.qcow2", "-F", "qcow2", "self.qcow2"]);
    site.refuses("self.qcow2", "beside", &[]);
    site.over("a.qcow2", "b.qcow2", "qcow2");
    site.over("b.qcow2", "a.qcow2", "qcow2");
    site.refuses("a.qcow2", "any", &["loop"]);

    site.workshop.create("0.qcow2", 1 << 20, "");
    site.workshop.io("0.qcow2", "qcow2", &["write -P 9 0 64k"]);
    for i in 1..70 {
        site.over(&format!("{i}.qcow2"), &format!("{}.qcow2", i - 1), "qcow2");
    }
    site.reads("60.qcow2", "beside").unwrap();
    site.reads("69.qcow2", "beside").unwrap();
    site.holstein
        .fails_saying(&["map", "69.qcow2", "--chain-limit", "69"], &["69.qcow2", "more than 69 images"]);
    site.holstein.succeeds(&["map", "69.qcow2", "--chain-limit", "70"]);
}

#[test]
fn a_missing_file_is_named() {
    let site = Site::new();
    site.holstein.fails_saying(&["info", "nowhere.qcow2"], &["nowhere.qcow2", "no such file"]);
    site.over("disk.qcow2", "gone.raw", "raw");
    site.refuses("disk.qcow2", "beside", &["gone.raw", "no such file"]);
    site.workshop.create("data.qcow2", 1 << 20, "data_file=gone.data");
    fs::remove_file(site.workshop.path("gone.data")).unwrap();
    site.refuses("data.qcow2", "beside", &["gone.data", "no such file"]);
}

#[test]
fn information_needs_no_backing_file() {
    let site = Site::new();
    site.over("disk.qcow2", "gone.raw", "raw");
    let info = site.holstein.json(&["info", "disk.qcow2"]);
    assert_eq!(info["backing-filename"], "gone.raw");
    assert_eq!(site.holstein.json(&["bitmap", "list", "disk.qcow2"]), serde_json::json!([]));
}

#[test]
fn a_format_is_never_guessed() {
    let site = Site::new();
    // A guest can write anything to its raw disk, also the beginning of a qcow2 image.
    site.raw("secret.raw");
    site.over("guest.raw", "secret.raw", "raw");
    OpenOptions::new().write(true).open(site.workshop.path("guest.raw")).unwrap().set_len(1 << 20).unwrap();
    let theirs = site.workshop.img_json(&["map", "-f", "raw", "guest.raw"]);
    assert_eq!(site.holstein.json(&["map", "--format", "raw", "guest.raw"]), theirs);
    assert_eq!(site.holstein.json(&["info", "--format", "raw", "guest.raw"])["format"], "raw");
    let disk = "source=guest.raw,source-format=raw,target=copy.raw,format=raw";
    site.holstein.succeeds(&["backup", "--disk", disk]);
    let read = |name: &str| fs::read(site.workshop.path(name)).unwrap();
    assert!(read("copy.raw") == read("guest.raw"), "the bytes of the file are the disk");

    // As a backing file named raw it is raw, too.
    site.over("disk.qcow2", "guest.raw", "raw");
    site.workshop.img(&["convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "theirs.raw"]);
    site.holstein.succeeds(&["backup", "--disk", "source=disk.qcow2,target=ours.raw,format=raw"]);
    assert!(read("ours.raw") == read("theirs.raw"));

    // A raw disk opened as qcow2 is refused with a hint at what to do.
    let error = site.holstein.fails(&["info", "secret.raw"]);
    assert!(error.contains("secret.raw") && error.contains("raw disk"), "{error}");

    // A backing file without a format.
    site.over("disk.qcow2", "guest.raw", "raw");
    let path = site.workshop.path("disk.qcow2");
    let (offset, _) = extension(&path, BACKING_FORMAT);
    poke(&path, offset - 8, &0x1234_5678_u32.to_be_bytes());
    site.refuses("disk.qcow2", "any", &["guest.raw", "format"]);
    // And with one that is neither.
    site.over("disk.qcow2", "guest.raw", "raw");
    poke(&path, extension(&path, BACKING_FORMAT).0, b"vdi");
    site.refuses("disk.qcow2", "any", &["vdi"]);
}

#[test]
fn encrypted_images_are_refused() {
    let site = Site::new();
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let secret = "secret,id=s,data=123456";
    site.workshop.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        secret,
        "-o",
        options,
        "luks.qcow2",
        "1M",
    ]);
    site.workshop.create("aes.qcow2", 1 << 20, "");
    poke(&site.workshop.path("aes.qcow2"), 32, &1_u32.to_be_bytes());
    for image in ["luks.qcow2", "aes.qcow2"] {
        for args in [&["map", image][..], &["info", image], &["bitmap", "list", image]] {
            site.holstein.fails_saying(args, &[image, "encrypted"]);
        }
        let disk = format!("source={image},target=copy.qcow2");
        site.holstein.fails_saying(&["backup", "--disk", &disk], &[image, "encrypted"]);
    }
    // What can be known without opening it is told all the same; a damaged header as well.
    site.workshop.create("base.qcow2", 3 << 20, "");
    site.workshop.create("broken.qcow2", 3 << 20, "backing_file=base.qcow2,backing_fmt=qcow2");
    poke(&site.workshop.path("broken.qcow2"), 20, &40_u32.to_be_bytes());
    for (image, encryption, cluster) in
        [("luks.qcow2", "LUKS", "64 KiB"), ("broken.qcow2", "none", "impossible")]
    {
        let output = site.holstein.run(&["info", image]);
        assert_eq!(output.status.code(), Some(1), "{image}");
        let out = String::from_utf8(output.stdout).unwrap();
        for row in [
            "unchecked",
            "version: 3",
            &format!("encryption: {encryption}"),
            &format!("cluster size: {cluster}"),
        ] {
            assert!(out.contains(row), "{image}, {row}: {out}");
        }
        assert_eq!(out.contains("backing file: base.qcow2"), image == "broken.qcow2", "{out}");
    }
    let output = site.holstein.run(&["info", "--output", "json", "aes.qcow2"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["holstein"]["unchecked-header"]["encryption"], "AES");
    assert_eq!(json["holstein"]["unchecked-header"]["virtual-size"], 1 << 20);
    assert!(!site.workshop.path("copy.qcow2").exists());
}

#[test]
fn unknown_incompatible_features_are_named() {
    let site = Site::new();
    site.workshop.create("disk.qcow2", 1 << 20, "");
    let path = site.workshop.path("disk.qcow2");
    let bits = u64::from_be_bytes(peek(&path, 72));
    poke(&path, 72, &(bits | 1 << 41).to_be_bytes());
    site.holstein.fails_saying(&["info", "disk.qcow2"], &["disk.qcow2", "41"]);
    site.refuses("disk.qcow2", "beside", &["41"]);
    // With a name in the table, in the place of its first entry.
    let (offset, _) = extension(&path, FEATURE_NAMES);
    let mut entry = [0; 48];
    entry[1] = 41;
    entry[2..21].copy_from_slice(b"sideways \x1b clusters");
    poke(&path, offset, &entry);
    let error = site.holstein.fails(&["info", "disk.qcow2"]);
    assert!(error.contains("sideways") && error.contains("clusters"), "{error}");
    assert!(!error.contains('\x1b'), "a name from an image is escaped: {error:?}");
}

#[test]
fn what_is_no_image_is_refused() {
    let site = Site::new();
    fs::write(site.workshop.path("empty.qcow2"), b"").unwrap();
    fs::write(site.workshop.path("short.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    for image in ["empty.qcow2", "short.qcow2", "below"] {
        site.holstein.fails_saying(&["info", image], &[image]);
        site.holstein.fails_saying(&["map", image], &[image]);
    }
}

#[test]
fn what_is_no_qcow2_image_is_named() {
    let site = Site::new();
    for (format, name) in [("vmdk", "VMDK"), ("vpc", "VHD"), ("vhdx", "VHDX"), ("vdi", "VDI"), ("qed", "QED")]
    {
        site.workshop.img(&["create", "-q", "-f", format, "other", "8M"]);
        let before = fs::read(site.workshop.path("other")).unwrap();
        site.holstein.fails_saying(&["info", "other"], &["other", &format!("a {name} image"), "convert"]);
        assert!(fs::read(site.workshop.path("other")).unwrap() == before);
        fs::remove_file(site.workshop.path("other")).unwrap();
    }
    for (bytes, name) in [
        (&b"QFI\xfb\0\0\0\x01"[..], "a qcow image of version 1"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"LUKS\xba\xbe", "LUKS"),
    ] {
        let mut file = bytes.to_vec();
        file.resize(4096, 0);
        fs::write(site.workshop.path("other"), file).unwrap();
        site.holstein.fails_saying(&["info", "other"], &["other", name, "not supported"]);
    }
    site.raw("other");
    site.holstein
        .fails_saying(&["info", "other"], &["other", "magic", "say --format raw", "source-format=raw"]);
}

#[test]
fn a_file_that_ends_inside_its_header_is_called_that() {
    let site = Site::new();
    site.workshop.img(&["create", "-q", "-f", "qcow2", "disk", "8M"]);
    let whole = fs::read(site.workshop.path("disk")).unwrap();
    for length in [10, 71, 72, 100, 103] {
        fs::write(site.workshop.path("cut"), &whole[..length]).unwrap();
        site.holstein.fails_saying(&["info", "cut"], &["cut", "the file ends inside the header"]);
    }
}

#[test]
fn one_disk_twice_in_a_run_is_called_that() {
    let site = Site::new();
    site.workshop.img(&["create", "-q", "-f", "qcow2", "disk", "8M"]);
    site.workshop.img(&["bitmap", "--add", "disk", "n"]);
    fs::hard_link(site.workshop.path("disk"), site.workshop.path("link")).unwrap();
    let before = site.workshop.listing();
    for other in ["disk", "./disk", "link"] {
        let disks = [
            "source=disk,target=a,bitmap=n,sync=incremental",
            &format!("source={other},target=b,bitmap=n,sync=incremental"),
        ];
        let error = site.holstein.error(&["backup", "--disk", disks[0], "--disk", disks[1]], 2);
        support::command::mentions(&error, &["the same disk", "two runs", other]);
        assert!(!error.contains("another process"), "{error}");
        assert_eq!(site.workshop.listing(), before);
    }
}
