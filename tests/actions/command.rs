//! `holstein transaction`: the same from a file.

use std::process::Output;

use serde_json::{Value, json};

use super::*;

fn holstein(site: &Site, arguments: &[&str], list: &Value) -> Output {
    fs::write(site.folder.path().join("list.json"), list.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holstein"));
    command.current_dir(site.folder.path()).arg("transaction").args(arguments).arg("list.json");
    command.output().unwrap()
}

fn succeed(site: &Site, list: &Value) -> Value {
    let output = holstein(site, &["--output", "json"], list);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It fails with this exit code and text, and nothing has changed.
fn fail(site: &Site, code: i32, list: &Value, text: &str) {
    let mut before = site.everything();
    before.insert(site.folder.path().join("list.json"), list.to_string().into_bytes());
    let output = holstein(site, &[], list);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(text), "{said}\nshould say: {text}");
    assert!(site.everything() == before);
}

#[test]
fn a_nightly_run_of_two_disks() {
    let site = Site::new();
    let backup = |disk: &str| {
        json!({"type": "blockdev-backup", "data": {"device": format!("{disk}.qcow2"), "target": format!("{disk}-t.qcow2"),
            "sync": "incremental", "bitmap": "old"}})
    };
    let report = succeed(
        &site,
        &json!({"actions": [
            backup("a"),
            backup("b"),
            {"type": "block-dirty-bitmap-add", "data": {"node": "a.qcow2", "name": "night", "granularity": 65536}},
            {"type": "block-dirty-bitmap-disable", "data": {"node": "c.qcow2", "name": "new"}},
        ], "properties": {"completion-mode": "grouped"}}),
    );
    assert_eq!(report["completed"], true);
    assert_eq!(report["disks"].as_array().unwrap().len(), 2);
    assert_eq!(report["disks"][1]["target"], "b-t.qcow2");
    for disk in ["a", "b"] {
        assert_eq!(stored(&site.path(&format!("{disk}-t"))), [DIRTY]);
        assert_eq!(site.dirty(disk, "old"), Some(vec![]));
    }
    assert!(site.records("a", "night") && !site.records("c", "new"));
    site.check();
}

#[test]
fn a_bitmap_moves_to_the_overlay() {
    let site = Site::new();
    let report = succeed(
        &site,
        &json!({"actions": [
            {"type": "blockdev-snapshot-sync", "data": {"device": "a.qcow2", "snapshot-file": "over.qcow2"}},
            {"type": "block-dirty-bitmap-add", "data": {"node": "over.qcow2", "name": "old"}},
            {"type": "block-dirty-bitmap-merge", "data": {"node": "over.qcow2", "target": "old",
                "bitmaps": [{"node": "a.qcow2", "name": "old"}, {"node": "b.qcow2", "name": "new"}]}},
            {"type": "drive-backup", "data": {"device": "a.qcow2", "target": "t.qcow2", "compress": true}},
        ]}),
    );
    assert_eq!(report["completed"], true);
    assert_eq!(site.dirty("over", "old"), Some(vec![DIRTY]));
    site.same("over", "t");
    site.check();
}

#[test]
fn a_list_without_actions_succeeds() {
    let site = Site::new();
    assert_eq!(succeed(&site, &json!({"actions": []}))["completed"], true);
}

#[test]
fn what_is_wrong_is_told_and_changes_nothing() {
    let site = Site::new();
    let clear = json!({"type": "block-dirty-bitmap-clear", "data": {"node": "a.qcow2", "name": "old"}});
    let cases = [
        (2, json!({"actions": [clear, {"type": "x"}]}), "'list.json': action 2: unknown type 'x'"),
        (
            1,
            json!({"actions": [clear, {"type": "abort"}]}),
            "action 2 (abort): it makes the transaction fail",
        ),
        (
            1,
            json!({"actions": [clear, {"type": "block-dirty-bitmap-clear", "data": {"node": "none", "name": "x"}}]}),
            "cannot open 'none'",
        ),
        (
            2,
            json!({"actions": [
                {"type": "blockdev-snapshot-sync", "data": {"device": "a.qcow2", "snapshot-file": "over.qcow2"}},
                clear,
            ]}),
            "'a.qcow2' lies below 'over.qcow2' since an earlier action",
        ),
    ];
    for (code, list, text) in cases {
        fail(&site, code, &list, text);
    }
}

/// QEMU and we mean the same by a list.
#[test]
fn the_same_list_as_qemu_takes() {
    let site = Site::new();
    let twin = Site::new();
    let list = |node: &dyn Fn(&str) -> String| {
        json!([
            {"type": "block-dirty-bitmap-add",
                "data": {"node": node("a"), "name": "x", "granularity": 4096, "persistent": true, "disabled": true}},
            {"type": "block-dirty-bitmap-merge", "data": {"node": node("a"), "target": "x",
                "bitmaps": ["old", {"node": node("b"), "name": "new"}]}},
            {"type": "block-dirty-bitmap-clear", "data": {"node": node("a"), "name": "old"}},
            {"type": "block-dirty-bitmap-disable", "data": {"node": node("b"), "name": "old"}},
            {"type": "block-dirty-bitmap-remove", "data": {"node": node("b"), "name": "new"}},
        ])
    };
    succeed(&site, &json!({"actions": list(&|disk| format!("{disk}.qcow2"))}));

    let node = |disk: &str| {
        format!("driver=qcow2,node-name={disk},file.driver=file,file.filename={}", twin.name(disk))
    };
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.args([
        "--chardev",
        "stdio,id=q",
        "--monitor",
        "chardev=q",
        "--blockdev",
        &node("a"),
        "--blockdev",
        &node("b"),
    ]);
    daemon.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut daemon = daemon.spawn().unwrap();
    let commands = [
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "transaction", "arguments": {"actions": list(&|disk| disk.to_owned())}}),
        json!({"execute": "quit"}),
    ];
    let text: String = commands.iter().map(|command| format!("{command}\n")).collect();
    std::io::Write::write_all(&mut daemon.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = daemon.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("\"error\""), "{said}");

    for disk in ["a", "b"] {
        for bitmap in ["old", "new", "x"] {
            let (ours, theirs) = (site.dirty(disk, bitmap), twin.dirty(disk, bitmap));
            assert_eq!(ours, theirs, "{bitmap} of {disk}");
            if ours.is_some() {
                assert_eq!(site.records(disk, bitmap), twin.records(disk, bitmap), "{bitmap} of {disk}");
            }
        }
    }
    assert_eq!(site.dirty("a", "x"), Some(vec![DIRTY]));
}

/// However a disk is named, it is one.
#[test]
fn a_disk_with_several_names_is_opened_once() {
    let site = Site::new();
    fs::hard_link(site.path("a"), site.folder.path().join("linked.qcow2")).unwrap();
    std::os::unix::fs::symlink("a.qcow2", site.folder.path().join("other.qcow2")).unwrap();
    let whole = site.path("a");
    let add = |node: &str, name: &str| json!({"type": "block-dirty-bitmap-add", "data": {"node": node, "name": name}});
    succeed(
        &site,
        &json!({"actions": [
            {"type": "blockdev-backup", "data": {"device": "a.qcow2", "target": "t.qcow2", "sync": "incremental",
                "bitmap": "old"}},
            add("./a.qcow2", "x"),
            add("linked.qcow2", "y"),
            add("other.qcow2", "z"),
            {"type": "block-dirty-bitmap-merge", "data": {"node": whole, "target": "x",
                "bitmaps": [{"node": "./a.qcow2", "name": "new"}]}},
            {"type": "blockdev-snapshot-sync", "data": {"device": "a.qcow2", "snapshot-file": "over.qcow2"}},
            add("./over.qcow2", "x"),
        ]}),
    );
    for name in ["x", "y", "z"] {
        assert!(site.records("a", name), "{name}");
    }
    assert!(site.records("over", "x"));
    assert_eq!(site.dirty("a", "old"), Some(vec![]));
    site.check();
}
