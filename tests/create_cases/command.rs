//! `holstein create`: every option arrives, and what it prints is what `info` prints.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    command::{Holstein, mentions},
    qemu::Workshop,
};

/// The command makes the image; what QEMU says of it.
fn created(workshop: &Workshop, args: &[&str]) -> Value {
    let holstein = Holstein::new(workshop);
    let printed = holstein.json(&[&["create"], args].concat());
    let image = args.iter().find(|arg| arg.ends_with(".qcow2") && !arg.starts_with('-')).unwrap();
    assert_eq!(printed, holstein.json(&["info", image]), "{args:?}");
    workshop.check(image);
    workshop.img_json(&["info", "-f", "qcow2", image])
}

pub fn options_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop::new(folder.path());
    workshop.create("base.qcow2", 3 << 20, "");

    let info = created(&workshop, &["plain.qcow2", "1G"]);
    assert_eq!(info["virtual-size"], 1u64 << 30);
    assert_eq!(info["cluster-size"], 65536);
    let data = json!({ "compat": "1.1", "compression-type": "zlib", "lazy-refcounts": false,
                       "refcount-bits": 16, "corrupt": false, "extended-l2": false });
    assert_eq!(info["format-specific"]["data"], data);

    let old = created(&workshop, &["old.qcow2", "--compat", "0.10", "--cluster-size", "4k", "1m"]);
    assert_eq!((&old["cluster-size"], &old["virtual-size"]), (&json!(4096), &json!(1 << 20)));
    let data = json!({ "compat": "0.10", "compression-type": "zlib", "refcount-bits": 16 });
    assert_eq!(old["format-specific"]["data"], data);

    let all = [
        "--cluster-size=128k",
        "--refcount-bits=32",
        "--extended-l2",
        "--compression-type=zstd",
        "--backing=base.qcow2",
        "--backing-format=qcow2",
        "--lazy-refcounts",
        "--preallocation=metadata",
        "--compat=1.1",
        "top.qcow2",
    ];
    let top = created(&workshop, &all);
    assert_eq!((&top["virtual-size"], &top["cluster-size"]), (&json!(3 << 20), &json!(128 << 10)));
    assert_eq!(top["backing-filename"], "base.qcow2");
    assert_eq!(top["backing-filename-format"], "qcow2");
    let data = json!({ "compat": "1.1", "compression-type": "zstd", "lazy-refcounts": true,
                       "refcount-bits": 32, "corrupt": false, "extended-l2": true });
    assert_eq!(top["format-specific"]["data"], data);
    assert!(fs::metadata(workshop.path("top.qcow2")).unwrap().len() > 3 << 20, "places are kept");

    let info = created(&workshop, &["data.qcow2", "2M", "--data-file", "disk.raw", "--data-file-raw"]);
    assert_eq!(info["format-specific"]["data"]["data-file"], "disk.raw");
    assert_eq!(info["format-specific"]["data"]["data-file-raw"], true);
    assert_eq!(fs::metadata(workshop.path("disk.raw")).unwrap().len(), 2 << 20);
    let again = created(&workshop, &["data.qcow2", "--data-file=disk.raw", "--data-file-raw", "--overwrite"]);
    assert_eq!(again["virtual-size"], 2 << 20);

    fs::create_dir(workshop.path("sub")).unwrap();
    let args = ["sub/new.qcow2", "--backing=../base.qcow2", "--backing-format=qcow2"];
    Holstein::new(&workshop).fails_saying(&[&["create"], &args[..]].concat(), &["lies outside", "under=DIR"]);
    created(
        &workshop,
        &["sub/new.qcow2", "--backing=../base.qcow2", "--backing-format=qcow2", "1M", "--backing-policy=any"],
    );
    let text = Holstein::new(&workshop).succeeds(&["create", "text.qcow2", "20G"]);
    mentions(&text, &["text.qcow2", "20 GiB", "compat 1.1", "64 KiB"]);
}

pub fn wrong_usage_and_failures() {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop::new(folder.path());
    workshop.create("base.qcow2", 1 << 20, "");
    let before = workshop.listing();
    let holstein = Holstein::new(&workshop);
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["<IMAGE>"]),
        (&["new.qcow2"], 2, &["new.qcow2", "a size is needed"]),
        (&["new.qcow2", "1000"], 2, &["multiple of 512", "use 512 or 1024"]),
        (&["new.qcow2", "1.5.5G"], 2, &["1.5.5G", "not a size"]),
        (&["new.qcow2", "1M", "--cluster-size=3k"], 2, &["cluster size 3072", "power of two"]),
        (&["new.qcow2", "1M", "--compat=0.10", "--extended-l2"], 2, &["version 2", "extended L2"]),
        (&["new.qcow2", "1M", "--compat=2"], 2, &["compatibility level '2'", "0.10 or 1.1"]),
        (&["new.qcow2", "1M", "--compression-type=lz4"], 2, &["lz4", "zlib or zstd"]),
        (&["new.qcow2", "1M", "--preallocation=full"], 2, &["'full' is not supported", "off or metadata"]),
        (
            &["new.qcow2", "1M", "--preallocation=some"],
            2,
            &["unknown preallocation 'some'", "off or metadata"],
        ),
        (&["new.qcow2", "1M", "--refcount-bits=many"], 2, &["many"]),
        (&["new.qcow2", "1M", "--data-file-raw"], 2, &["only a data file can be raw"]),
        (&["new.qcow2", "--backing=base.qcow2"], 2, &["--backing-format"]),
        (&["new.qcow2", "1M", "--backing-format=raw"], 2, &["--backing"]),
        (
            &["new.qcow2", "--backing=none.qcow2", "--backing-format=qcow2"],
            1,
            &["none.qcow2", "No such file"],
        ),
        (&["base.qcow2", "1M"], 1, &["base.qcow2", "exists already", "overwriting"]),
        (&["new.qcow2", "1M", "--data-file=base.qcow2"], 1, &["base.qcow2", "exists already", "raw"]),
    ];
    for (args, code, words) in cases {
        let error = holstein.error(&[&["create"], *args].concat(), *code);
        mentions(&error, words);
        assert_eq!(workshop.listing(), before, "{args:?}");
    }
}
