//! What the tables have no place for: other names of a file, other processes, files that are only coming.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use crate::ours::Ours;
use crate::site::{Site, Verdict};
use crate::support::command::{HOLSTEIN, mentions};
use crate::support::qemu::text;
use crate::theirs;

const READ: &str = "qemu-io -r -c 'read 0 512' disk.qcow2";
const WRITE: &str = "qemu-io -c 'write 0 512' disk.qcow2";

#[track_caller]
fn expect(site: &Site, line: &str, verdict: Verdict) {
    assert_eq!(site.verdict(line), Ok(verdict), "{line}");
}

/// The first temporary file of a target, once there is one.
fn temporary(site: &Site) -> Option<String> {
    let names = fs::read_dir(site.workshop.folder()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.starts_with(".holstein-") && name.ends_with(".tmp"))
}

/// Starts a backup of a new `large.qcow2` that is at work for long, and waits until it is.
fn long_backup(site: &Site) -> Child {
    const MIB: u64 = 1 << 20;
    site.workshop.create("large.qcow2", 256 * MIB, "");
    site.workshop.img(&["bitmap", "--add", "large.qcow2", "nightly"]);
    let source = site.workshop.path("same.qcow2");
    site.workshop.io("large.qcow2", "qcow2", &[format!("write -s {} 0 256M", source.display())]);
    let disk = "source=large.qcow2,target=large-copy.qcow2,bitmap=nightly,sync=incremental,compress=zstd:19";
    let child = Command::new(HOLSTEIN)
        .args(["backup", "--disk", disk])
        .current_dir(site.workshop.folder())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while temporary(site).is_none() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the backup does not begin");
        thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_file_is_locked_under_all_its_names() {
    for link in [|from, to| symlink(from, to), |from, to| fs::hard_link(from, to)] as [fn(&_, &_) -> _; 2] {
        let site = Site::new();
        let link_to = |name: &str| {
            let (file, other) = (site.workshop.path("disk.qcow2"), site.workshop.path(name));
            link(&file, &other).unwrap();
        };
        link_to("link.qcow2");
        let held = Ours::Read.hold(&site);
        expect(&site, "qemu-io -c 'write 0 512' link.qcow2", Verdict::Refused);
        expect(&site, "qemu-img create -f qcow2 link.qcow2 1M", Verdict::Refused);
        expect(&site, "qemu-img info link.qcow2", Verdict::Works);
        drop(held);

        let held = theirs::hold(&site, "qemu-io link.qcow2");
        expect(&site, "holstein map disk.qcow2", Verdict::Refused);
        drop(held);
        let held = theirs::hold(&site, "qemu-io disk.qcow2");
        for line in ["holstein map link.qcow2", "holstein bitmap add link.qcow2 monday"] {
            let output = site.run(line);
            assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output));
            mentions(&text(&output), &["'link.qcow2'", "another process"]);
        }
        drop(held);
        expect(&site, WRITE, Verdict::Works);
    }
}

#[test]
fn a_child_keeps_no_lock() {
    for ours in [Ours::Read, Ours::Write, Ours::Incremental, Ours::Target] {
        let site = Site::new();
        let held = ours.hold(&site);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        expect(&site, WRITE, Verdict::Refused);
        drop(held);
        expect(&site, WRITE, Verdict::Works);
        assert_eq!(child.try_wait().unwrap(), None, "{ours:?}: the child has to be there still");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn who_is_killed_lets_go() {
    let site = Site::new();
    let mut child = long_backup(&site);
    let write = "qemu-io -c 'write 0 512' large.qcow2";
    let refused = site.run(write);
    assert!(!refused.status.success() && text(&refused).contains("lock"), "{}", text(&refused));
    assert_eq!(child.try_wait().unwrap(), None, "the backup ended before it could be killed");
    child.kill().unwrap();
    child.wait().unwrap();
    let output = site.run(write);
    assert!(output.status.success(), "{}", text(&output));
    // Its bitmap is as it was, and the next backup is no other than this one would have been.
    expect(&site, "holstein bitmap dump large.qcow2 nightly", Verdict::Works);
    assert!(!site.workshop.path("large-copy.qcow2").exists());
}

#[test]
fn two_of_our_processes_keep_out_of_each_others_way() {
    let site = Site::new();
    let mut child = long_backup(&site);
    for line in [
        "holstein map large.qcow2",
        "holstein bitmap clear large.qcow2 nightly",
        "holstein backup --disk source=large.qcow2,target=second.qcow2",
        "holstein backup --disk source=other.qcow2,target=large.qcow2,overwrite",
    ] {
        let output = site.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output));
        mentions(&text(&output), &["'large.qcow2'", "another process"]);
    }
    assert!(!site.workshop.path("second.qcow2").exists());
    // Another disk of the same folder is none of its business.
    expect(&site, "holstein backup --disk source=disk.qcow2,target=second.qcow2", Verdict::Works);
    assert_eq!(child.try_wait().unwrap(), None, "the backup ended before this was over");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nobody_uses_a_target_that_is_not_complete() {
    let site = Site::new();
    let held = Ours::Source.hold(&site);
    let name = temporary(&site).unwrap();
    for line in [
        format!("qemu-io -f raw -c 'write 0 512' {name}"),
        format!("qemu-img info -f qcow2 {name}"),
        format!("qemu-img resize -f raw {name} 1M"),
        format!("qemu-img create -f qcow2 {name} 1M"),
    ] {
        let output = site.run(&line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output));
        mentions(&text(&output), &["lock", "Is another process using the image"]);
    }
    let output = site.run(&format!("holstein map -f raw {name}"));
    mentions(&text(&output), &[&name, "another process writes this image"]);
    drop(held);
    assert_eq!(temporary(&site), None);
}

#[test]
fn a_target_that_comes_up_meanwhile_is_not_replaced() {
    let site = Site::new();
    let held = Ours::Source.hold(&site);
    // Both believe that the name is free.
    site.workshop.create("new.qcow2", 1 << 20, "");
    let theirs = fs::read(site.workshop.path("new.qcow2")).unwrap();
    let error = held.finish().unwrap_err();
    assert_eq!(error.kind(), holstein::ErrorKind::Exists);
    mentions(&error.to_string(), &["new.qcow2", "exists already"]);
    assert!(fs::read(site.workshop.path("new.qcow2")).unwrap() == theirs);
    assert_eq!(temporary(&site), None);
}

/// One byte of a classic POSIX lock, which belongs to the process.
fn byte(kind: i32, start: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: 1, l_pid: 0 }
}

/// A QEMU on a kernel without the newer locks takes classic ones, on the same bytes.
#[test]
fn classic_posix_locks_count_as_well() {
    let open = |site: &Site| -> File {
        OpenOptions::new().read(true).write(true).open(site.workshop.path("disk.qcow2")).unwrap()
    };
    // What QEMU holds of an image that it writes, and of one that it reads.
    let cases: [(&[i64], Verdict); 2] =
        [(&[100, 101, 103, 201, 203], Verdict::Refused), (&[100, 201, 203], Verdict::Works)];
    for (bytes, reading) in cases {
        let site = Site::new();
        let file = open(&site);
        for start in bytes {
            fcntl(&file, FcntlArg::F_SETLK(&byte(libc::F_RDLCK, *start))).unwrap();
        }
        // The commands are processes of their own; and nothing here closes another descriptor of the file.
        let run = |line: &str| site.run(line).status.success();
        assert_eq!(run("holstein map disk.qcow2"), reading == Verdict::Works, "{bytes:?}");
        assert!(!run("holstein bitmap add disk.qcow2 monday"), "{bytes:?}");
        assert!(run("holstein map -U disk.qcow2"), "{bytes:?}");
        assert_eq!(run(READ), reading == Verdict::Works, "{bytes:?}: QEMU sees it so too");
    }

    // And it finds ours when it tests the bytes that it has to.
    let site = Site::new();
    let file = open(&site);
    let taken = |start: i64| {
        let mut lock = byte(libc::F_WRLCK, start);
        fcntl(&file, FcntlArg::F_GETLK(&mut lock)).unwrap();
        i32::from(lock.l_type) != libc::F_UNLCK
    };
    let held = |ours: Ours| {
        let _held = ours.hold(&site);
        (0..300).filter(|start| taken(*start)).collect::<Vec<i64>>()
    };
    assert_eq!(held(Ours::Read), [100, 201, 203]);
    assert_eq!(held(Ours::Backing), [100, 201, 203]);
    assert_eq!(held(Ours::ForceShare), [100]);
    assert_eq!(held(Ours::Write), [100, 101, 103, 201, 202, 203]);
    assert_eq!(held(Ours::Target), [100, 101, 103, 201, 202, 203]);
}
