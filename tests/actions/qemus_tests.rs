//! What QEMU's own tests of incremental backup and transactions show, shown here: iotests 124, 236, 254 and 256. 257 is
//! the table of modes (`sync_modes`), 219 and 055 are the jobs (`jobs`).

use super::*;

/// Backs up what a bitmap marks, on top of an earlier image.
fn increment(backing: &str) -> BackupOptions {
    BackupOptions {
        sync: Some(SyncMode::Incremental),
        bitmap: Some(b"old".to_vec()),
        backing: Some(holstein::Backing {
            name: format!("{backing}.qcow2").into(),
            format: holstein::Format::Qcow2,
        }),
        ..BackupOptions::default()
    }
}

fn write(site: &Site, disk: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let name = site.name(disk);
    arguments.push(&name);
    run("qemu-io", &arguments);
}

/// 124, incremental_transaction: bitmaps that began at different times are brought to one point with full copies.
#[test]
fn two_bitmaps_are_brought_to_one_point() {
    let site = Site::new();
    let disks = ["a", "b"].map(|disk| site.open(disk));
    let mut actions: Vec<_> = disks.iter().map(|disk| Action::bitmap_clear(disk.clone(), "old")).collect();
    actions.push(site.backup(&disks[0], "a0", BackupOptions::default()));
    actions.push(site.backup(&disks[1], "b0", BackupOptions::default()));
    grouped(actions).unwrap();
    drop(disks);
    write(&site, "a", &["write -P 50 0 64k", "write -P 51 3M 64k"]);
    write(&site, "b", &["write -z 0 128k"]);
    let disks = ["a", "b"].map(|disk| site.open(disk));
    grouped(vec![
        site.backup(&disks[0], "a1", increment("a0")),
        site.backup(&disks[1], "b1", increment("b0")),
    ])
    .unwrap();
    drop(disks);
    site.same("a", "a1");
    site.same("b", "b1");
    assert_eq!(stored(&site.path("a1")), [0..64 * KIB, 3 * MIB..3 * MIB + 64 * KIB]);
    site.check();
}

/// 124, transaction_failure and its race: one disk fails, be the other one's increment empty; nothing is lost, and the
/// same transaction succeeds when the disk is whole again.
#[test]
fn a_failed_group_can_be_run_again() {
    for empty in [false, true] {
        let site = Site::new();
        let disks = ["a", "b"].map(|disk| site.open(disk));
        let full = |index: usize, target| {
            let options = BackupOptions {
                sync: Some(SyncMode::Full),
                bitmap: Some(b"old".to_vec()),
                bitmap_mode: Some(BitmapMode::OnSuccess),
                ..BackupOptions::default()
            };
            site.backup(&disks[index], target, options)
        };
        grouped(vec![full(0, "a0"), full(1, "b0")]).unwrap();
        drop(disks);
        if !empty {
            write(&site, "a", &["write -P 60 1M 64k"]);
        }
        write(&site, "b", &["write -P 61 512k 64k"]);
        let whole = site.damage("b");
        let before = site.everything();

        let disks = ["a", "b"].map(|disk| site.open(disk));
        let transaction = |disks: &[Disk; 2]| {
            let mut transaction = Transaction::new();
            transaction.add(site.backup(&disks[0], "a1", increment("a0")));
            transaction.add(site.backup(&disks[1], "b1", increment("b0")));
            transaction
        };
        let running = transaction(&disks).start().unwrap();
        let error = running.wait(None).unwrap().unwrap_err();
        let own: Vec<_> = running.jobs().iter().map(|job| job.error().unwrap()).collect();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(own[0].kind(), ErrorKind::Cancelled, "{}", own[0]);
        assert!(own[0].to_string().contains("because the backup to"), "{}", own[0]);
        assert_eq!(own[1].kind(), ErrorKind::Corrupt, "{}", own[1]);
        drop((running, disks));
        assert!(site.everything() == before);

        fs::write(site.path("b"), whole).unwrap();
        let disks = ["a", "b"].map(|disk| site.open(disk));
        transaction(&disks).commit().unwrap();
        drop(disks);
        site.same("a", "a1");
        site.same("b", "b1");
        for disk in ["a", "b"] {
            assert_eq!(site.dirty(disk, "old"), Some(vec![]));
        }
        assert_eq!(stored(&site.path("a1")).is_empty(), empty);
        site.check();
    }
}

/// 124, larger_cluster_target: a target without a backing file whose clusters are larger than the bitmap's granules holds
/// whole clusters of the disk.
#[test]
fn a_target_with_larger_clusters() {
    let site = Site::new();
    write(&site, "a", &["write -P 70 2060k 4k"]);
    let a = site.open("a");
    let options = BackupOptions { cluster_size: Some(128 * KIB), ..by("old", BitmapMode::OnSuccess) };
    grouped(vec![site.backup(&a, "t", options)]).unwrap();
    drop(a);
    assert_eq!(stored(&site.path("t")), [2 * MIB..2 * MIB + 128 * KIB]);
    let range = ["-r", "-c", "read -P 11 2M 12k", "-c", "read -P 70 2060k 4k", "-c", "read -P 11 2064k 48k"];
    let name = site.name("t");
    let said = run("qemu-io", &[&range[..], &["-c", "read -P 0 2112k 64k", &name]].concat());
    assert!(!said.contains("verification failed"), "{said}");
}

/// 124, growing_before_backup and incremental_failure: what was written behind the old end is copied; after a failure and
/// more writes the next try has both.
#[test]
fn a_disk_that_grew_and_a_second_try() {
    let site = Site::new();
    let a = site.open("a");
    grouped(vec![Action::bitmap_clear(a.clone(), "old"), site.backup(&a, "a0", BackupOptions::default())])
        .unwrap();
    a.resize(6 * MIB).unwrap();
    a.write_at(&[80; 65536], 5 * MIB).unwrap();
    a.flush().unwrap();
    // In the way: it fails.
    fs::write(site.path("a1"), "in the way").unwrap();
    assert_eq!(grouped(vec![site.backup(&a, "a1", increment("a0"))]).unwrap_err().kind(), ErrorKind::Exists);
    fs::remove_file(site.path("a1")).unwrap();
    a.write_at(&[81; 65536], MIB).unwrap();
    a.flush().unwrap();
    grouped(vec![site.backup(&a, "a1", increment("a0"))]).unwrap();
    drop(a);
    site.same("a", "a1");
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    site.check();
}

/// 236: an aborted list restores what was disabled, added and cleared; the same bitmap may be changed several times in one
/// list; a merged bitmap equals one that recorded all.
#[test]
fn bitmaps_change_back_and_forth() {
    let site = Site::new();
    let a = site.open("a");
    let add = |name: &str, recording| Action::bitmap_add(a.clone(), name, Some(65536), recording);
    grouped(vec![add("witness", Recording::Enabled), add("first", Recording::Enabled)]).unwrap();
    a.write_at(&[1; 65536], 0).unwrap();
    a.write_at(&[1; 65536], 2 * MIB).unwrap();
    let merge = |into: &str, from: &[&str]| Action::Merge {
        disk: a.clone(),
        name: into.into(),
        sources: from.iter().map(|name| MergeFrom::Own(name.as_bytes().to_vec())).collect(),
    };
    let switch = || {
        vec![
            Action::bitmap_disable(a.clone(), "first"),
            add("second", Recording::Disabled),
            Action::bitmap_enable(a.clone(), "second"),
            Action::bitmap_disable(a.clone(), "second"),
            Action::bitmap_enable(a.clone(), "second"),
            Action::bitmap_clear(a.clone(), "old"),
        ]
    };
    site.refuses(CompletionMode::Grouped, [switch(), vec![Action::Abort]].concat(), "action 7 (abort)");
    assert_eq!(a.bitmap(b"old").unwrap().extents().count(), 2);
    grouped(switch()).unwrap();
    a.write_at(&[2; 65536], 3 * MIB).unwrap();
    a.write_at(&[2; 65536], 64 * KIB).unwrap();
    let dirty = |name: &str| a.bitmap(name.as_bytes()).unwrap().extents().collect::<Vec<_>>();
    assert_eq!(dirty("first"), [0..64 * KIB, 2 * MIB..2 * MIB + 64 * KIB]);
    assert_eq!(dirty("second"), [64 * KIB..128 * KIB, 3 * MIB..3 * MIB + 64 * KIB]);
    let union = || {
        vec![
            Action::bitmap_disable(a.clone(), "second"),
            add("union", Recording::Disabled),
            merge("union", &["first", "second"]),
        ]
    };
    site.refuses(CompletionMode::Grouped, [union(), vec![Action::Abort]].concat(), "action 4 (abort)");
    assert!(a.bitmap(b"union").is_err());
    grouped(union()).unwrap();
    assert_eq!(dirty("union"), dirty("witness"));
    drop(a);
    site.check();
}

/// 254: in one step a disk gets a new image on top, and its bitmaps move there.
#[test]
fn bitmaps_move_across_a_snapshot() {
    let site = Site::new();
    let a = site.open("a");
    let mut actions = vec![
        // While the old image is still on top its bitmap can be stopped.
        Action::bitmap_disable(a.clone(), "new"),
        Action::ExternalSnapshot {
            disk: a.clone(),
            overlay: site.path("over"),
            options: OverlayOptions::default(),
        },
    ];
    for name in ["old", "new", "transient"] {
        actions.push(Action::bitmap_add(a.clone(), name, Some(65536), Recording::Enabled));
        let from = if name == "transient" { "old" } else { name };
        actions.push(Action::Merge {
            disk: a.clone(),
            name: name.into(),
            sources: vec![MergeFrom::Below(from.into())],
        });
    }
    actions.push(Action::bitmap_remove(a.clone(), "transient"));
    grouped(actions).unwrap();
    drop(a);
    assert_eq!(site.dirty("over", "old"), Some(vec![DIRTY]));
    assert_eq!(site.dirty("over", "new"), Some(vec![]));
    assert_eq!(site.dirty("over", "transient"), None);
    assert!(site.records("over", "old") && !site.records("a", "new"));
    site.check();
}

/// 256: on two disks in one transaction a bitmap is added with a full copy; then increments of both.
#[test]
fn a_chain_begins_on_two_disks() {
    let site = Site::new();
    for round in 0..3 {
        let disks = ["a", "b"].map(|disk| site.open(disk));
        let mut actions = Vec::new();
        for (disk, name) in disks.iter().zip(["a", "b"]) {
            let target = format!("{name}{round}");
            if round == 0 {
                actions.push(Action::bitmap_add(disk.clone(), "chain", None, Recording::Enabled));
                actions.push(site.backup(disk, &target, BackupOptions::default()));
            } else {
                let below = format!("{name}{}", round - 1);
                let options = BackupOptions { bitmap: Some(b"chain".to_vec()), ..increment(&below) };
                actions.push(site.backup(disk, &target, options));
            }
        }
        grouped(actions).unwrap();
        drop(disks);
        for disk in ["a", "b"] {
            site.same(disk, &format!("{disk}{round}"));
            assert_eq!(site.dirty(disk, "chain"), Some(vec![]));
            write(&site, disk, &[&format!("write -P {} {}k 100k", 90 + round, round * 700)]);
        }
    }
    site.check();
}
