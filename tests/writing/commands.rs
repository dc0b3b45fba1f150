//! `holstein write` and `holstein resize`.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use super::site::{DISK, KIB, MIB, Site};
use crate::support::{
    command::{HOLSTEIN, mentions},
    qemu::text,
    rng::Rng,
};

fn with_input(site: &Site, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(HOLSTEIN)
        .args(args)
        .current_dir(site.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// A file, standard input, zeros and a discard; numbers with and without suffix.
#[test]
fn write() {
    let site = Site::new("");
    site.add_bitmap("a");
    let mut contents = site.contents();
    let piece = Rng::new(1, 9).bytes(77_777, 0);
    fs::write(site.workshop.path("piece"), &piece).unwrap();
    assert_eq!(site.holstein.succeeds(&["write", DISK, "1500k", "--from", "piece"]), "");
    contents[1500 << 10..][..piece.len()].copy_from_slice(&piece);
    let output = with_input(&site, &["write", DISK, "3000001", "--from", "-"], &piece);
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
    contents[3_000_001..][..piece.len()].copy_from_slice(&piece);
    site.holstein.succeeds(&["write", DISK, "100", "--zero", "200k"]);
    contents[100..][..200 << 10].fill(0);
    site.holstein.succeeds(&["write", DISK, "512k", "--discard", "100k"]);
    contents[512 << 10..][..64 << 10].fill(0);
    site.holds(&contents);
    // Larger than what is read at a time.
    let large = Rng::new(1, 10).bytes(4 * MIB as usize, 0);
    assert!(with_input(&site, &["write", DISK, "0", "--from", "-"], &large).status.success());
    site.holds(&large);
    assert_eq!(site.holstein.json(&["bitmap", "dump", DISK, "a"])[0]["length"], 4 * MIB);
    // Nothing is nothing.
    let before = site.files();
    for args in [&["--zero", "0"][..], &["--discard", "0"], &["--from", "/dev/null"]] {
        site.holstein.succeeds(&[&["write", DISK, "4M"], args].concat());
    }
    assert!(with_input(&site, &["write", DISK, "0", "--from", "-"], &[]).status.success());
    assert!(site.files() == before);
}

#[test]
fn write_errors() {
    let site = Site::new("");
    fs::write(site.workshop.path("piece"), vec![1; 1000]).unwrap();
    fs::write(site.workshop.path("raw"), vec![1; 512]).unwrap();
    let before = site.files();
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["4193800", "--from", "piece"], 2, &["'piece' has 1000 bytes", "disk of 4194304 bytes", "4193800"]),
        (&["0", "--from", "absent"], 1, &["cannot read 'absent'"]),
        (&["0", "--from", "."], 1, &["cannot read '.'"]),
        (&["4M", "--zero", "1"], 2, &["1 bytes at offset 4194304 do not lie in the disk"]),
        (&["16777215T", "--discard", "16777215T"], 2, &["do not lie in the disk"]),
        (&["0"], 2, &["--from", "--zero", "--discard"]),
        (&["0", "--zero", "1", "--discard", "1"], 2, &["cannot be used with"]),
        (&["0", "--zero"], 2, &["value"]),
        (&["-1", "--zero", "1"], 2, &["-1"]),
        (&["x", "--zero", "1"], 2, &["'x' is not a size"]),
        (&["0", "--zero", "1", "-f", "raw"], 1, &["only qcow2 images are written"]),
        (&["0", "--zero", "1", "-f", "vmdk"], 2, &["unknown image format 'vmdk'"]),
    ];
    for (args, code, words) in cases {
        mentions(&site.holstein.error(&[&["write", DISK], args].concat(), code), words);
        assert!(site.files() == before, "{args:?}");
    }
    mentions(&site.holstein.error(&["write", "absent", "0", "--zero", "1"], 1), &["'absent'"]);
    mentions(&site.holstein.error(&["write", "raw", "0", "--zero", "1"], 1), &["not a qcow2 image"]);

    // How much comes from standard input is known in the end: what fitted is written.
    let output = with_input(&site, &["write", DISK, "1M", "--from", "-"], &vec![9; 5 << 20]);
    assert_eq!(output.status.code(), Some(2));
    mentions(&text(&output), &["do not lie in the disk of 4194304 bytes"]);
    site.workshop.check(DISK);
}

#[test]
fn resize() {
    let site = Site::new("");
    site.add_bitmap("a");
    let mut contents = site.contents();
    for (args, size) in [
        (&[DISK, "5M"][..], 5 * MIB),
        (&[DISK, "+512"], 5 * MIB + 512),
        (&["--shrink", DISK, "-1M"], 4 * MIB + 512),
        (&["--shrink", DISK, "700k"], 700 * KIB),
        (&[DISK, "--shrink", "-100k"], 600 * KIB),
        (&["--shrink", DISK, "+10G"], 600 * KIB + (10 << 30)),
        (&["--shrink", DISK, "1M"], MIB),
        (&[DISK, "+0"], MIB),
    ] {
        assert_eq!(site.holstein.succeeds(&[&["resize"], args].concat()), "", "{args:?}");
        assert_eq!(site.workshop.img_json(&["info", DISK])["virtual-size"], size, "{args:?}");
        site.workshop.check(DISK);
        contents.truncate(size as usize);
    }
    contents.truncate(600 << 10);
    contents.resize(MIB as usize, 0);
    site.holds(&contents);
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

#[test]
fn resize_errors() {
    let site = Site::new("");
    let before = site.files();
    let shrink =
        "'disk.qcow2' would shrink from 4194304 to 1048576 bytes, and what lies behind would be lost";
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (&["1M"], 2, &[shrink, "--shrink"]),
        (&["-3M"], 2, &[shrink, "--shrink"]),
        (&["-5M", "--shrink"], 2, &["the disk of 4194304 bytes cannot be changed by so much"]),
        (&["+16777215T"], 2, &["too large"]),
        (&["+18446744073709551615"], 2, &["the disk of 4194304 bytes cannot be changed by so much"]),
        (&["1000", "--shrink"], 2, &["the size 1000 is no multiple of 512 bytes"]),
        (&["0", "--shrink"], 2, &["a disk of 0 bytes cannot be made"]),
        (&["8191X"], 2, &["'8191X' is not a size"]),
        (&[], 2, &["SIZE"]),
        (&["--5"], 2, &["--5"]),
        (&["8M", "-f", "raw"], 1, &["only qcow2 images are written"]),
    ];
    for (args, code, words) in cases {
        mentions(&site.holstein.error(&[&["resize", DISK], args].concat(), code), words);
        assert!(site.files() == before, "{args:?}");
    }
    mentions(&site.holstein.error(&["resize", "absent", "1M"], 1), &["'absent'"]);
    // By `info` the disk is what it was.
    assert_eq!(site.workshop.img_json(&["info", DISK])["virtual-size"], 4 * MIB);
}
