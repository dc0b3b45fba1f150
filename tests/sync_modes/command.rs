//! What the command says of a partial target.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    site::{KIB, MIB, SIZE, Site},
    support::{
        command::{Disk, HOLSTEIN, mentions},
        patch::{compressed_clusters, poke},
        qemu::{Extent, text},
    },
};

fn always(target: &str) -> Disk {
    Disk::new("disk.qcow2", target)
        .with("bitmap", "b")
        .with("bitmap-mode", "always")
        .with("backing", "full.qcow2")
}

#[test]
fn a_failure_is_told_with_what_was_kept() {
    let site = Site::new(64 * KIB);
    site.write(&["write -c -P 7 29M 64k"]);
    let dirty = site.dirty();
    let damaged = &compressed_clusters(&site.path("disk.qcow2"))[0];
    let good = fs::read(site.path("disk.qcow2")).unwrap();
    let damage = || poke(&site.path("disk.qcow2"), damaged.offset, &[0xff; 16]);

    damage();
    let output = site.holstein.run(&["backup", "--output", "json", "--disk", &always("target.qcow2").0]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let disk = &json["disks"][0];
    let end = disk["partial"].as_u64().unwrap();
    assert!((25 * MIB..=29 * MIB).contains(&end), "{end}");
    assert_eq!((&json["completed"], &disk["completed"]), (&false.into(), &false.into()));
    assert_eq!(disk["error"]["kind"], "corrupt");
    assert_eq!(json["error"], disk["error"]);
    let words =
        ["backup of disk.qcow2: the partial target 'target.qcow2' was kept", "bitmap 'b'", "has the rest"];
    let error = String::from_utf8(output.stderr).unwrap();
    mentions(&error, &words);
    mentions(&error, &[&format!("up to byte {end} of the disk"), "damaged"]);
    site.workshop.check("target.qcow2");
    // A part is no disk that was copied.
    let told = site.holstein.run(&["backup", "--disk", &always("again.qcow2").with("sync", "full").0]);
    assert_eq!((told.status.code(), told.stdout.len()), (Some(1), 0), "{}", text(&told));
    fs::remove_file(site.path("again.qcow2")).unwrap();

    // Two disks in a group: wrong usage, and nothing changed.
    fs::write(site.path("disk.qcow2"), &good).unwrap();
    assert_eq!(site.dirty(), dirty);
    let two = ["backup", "--disk", &always("a.qcow2").0, "--disk", "source=full.qcow2,target=b.qcow2"];
    mentions(&site.holstein.error(&two, 2), &["a.qcow2", "all or none", "individual"]);
    assert!(!site.path("a.qcow2").exists() && !site.path("b.qcow2").exists());
    site.holstein.succeeds(&[&two[..], &["--individual"]].concat());
    site.workshop.identical(("disk.qcow2", "qcow2"), ("a.qcow2", "qcow2"));
    assert_eq!(site.dirty(), []);
}

#[test]
fn an_interrupt_keeps_what_was_copied() {
    let site = Site::new(64 * KIB);
    for (number, signal) in ["-INT", "-TERM"].into_iter().enumerate() {
        site.reset();
        fs::create_dir_all(site.path("targets")).unwrap();
        let target = format!("targets/{number}.qcow2");
        // Slow enough to be far from its end when the signal comes.
        let disk = always(&target).with("compress", "zstd:19").with("sync", "full");
        let disk = Disk(disk.0.replace(",backing=full.qcow2", ""));
        let mut child = Command::new(HOLSTEIN)
            .args(["backup", "--output", "json", "--disk", &disk.0])
            .current_dir(site.workshop.folder())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let begun = || {
            let mut files = fs::read_dir(site.path("targets")).unwrap().map(Result::unwrap);
            files
                .any(|file| file.path().extension().unwrap() == "tmp" && file.metadata().unwrap().len() > MIB)
        };
        while !begun() && begin.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(child.try_wait().unwrap(), None, "the backup ended before it could be interrupted");
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let error = String::from_utf8(output.stderr).unwrap();
        mentions(&error, &["cancelled by a signal", &format!("the partial target '{target}' was kept")]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["error"]["kind"], "cancelled");
        let end = json["disks"][0]["partial"].as_u64().unwrap();
        assert!(end > 0 && end <= SIZE, "{end}");
        site.workshop.check(&target);
        let rest = Extent { start: end, length: SIZE - end };
        // With many processors all batches may have been at work when the signal came.
        assert_eq!(site.dirty(), if end < SIZE { vec![rest] } else { vec![] });
        site.next_increment_is_complete(&target);
        fs::remove_dir_all(site.path("targets")).unwrap();
    }
}
