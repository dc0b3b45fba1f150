//! Two transactions over one open disk: they work side by side, or the second is refused at its start.

use super::{meanwhile::go_on, *};

/// What the second one does, and the text that refuses it beside an increment by `old`, if it is.
fn seconds(site: &Site, a: &Disk) -> Vec<(&'static str, Vec<Action>, Option<&'static str>)> {
    let over = || Action::ExternalSnapshot {
        disk: a.clone(),
        overlay: site.path("over"),
        options: OverlayOptions::default(),
    };
    let busy = Some("bitmap 'old' is in use by a running backup");
    vec![
        ("increment", vec![site.backup(a, "second", by("new", BitmapMode::OnSuccess))], None),
        ("the same", vec![site.backup(a, "second", by("old", BitmapMode::OnSuccess))], busy),
        ("add", vec![Action::bitmap_add(a.clone(), "more", None, Recording::Enabled)], None),
        ("clear", vec![Action::bitmap_clear(a.clone(), "new")], None),
        ("clear the same", vec![Action::bitmap_clear(a.clone(), "old")], busy),
        ("remove", vec![Action::bitmap_remove(a.clone(), "new")], None),
        ("remove the same", vec![Action::bitmap_remove(a.clone(), "old")], busy),
        ("snapshot", vec![Action::snapshot_create(a.clone(), "s")], None),
        ("delete", vec![Action::snapshot_delete(a.clone(), "first")], Some("will change the image, too")),
        ("cover", vec![over()], Some("will change the image, too")),
    ]
}

#[test]
fn a_second_transaction_ends_nothing() {
    let count = seconds(&Site::new(), &Site::new().open("a")).len();
    for first in [None, Some("old")] {
        for second in 0..count {
            let site = Site::new();
            fs::copy(site.path("a"), site.path("whole")).unwrap();
            let a = site.open("a");
            a.create_snapshot(b"first", std::time::SystemTime::now()).unwrap();
            let options = match first {
                None => BackupOptions::default(),
                Some(bitmap) => by(bitmap, BitmapMode::OnSuccess),
            };
            let running = site.slow(&a, "first", options);
            // Another handle of the same disk.
            let (name, actions, refused) = seconds(&site, &a.clone()).remove(second);
            let what = format!("{first:?}, then {name}");
            match (grouped(actions), refused.filter(|_| first.is_some())) {
                (Ok(()), None) => {}
                (Err(error), Some(text)) => {
                    assert_eq!(error.kind(), ErrorKind::WrongState, "{what}");
                    assert!(error.to_string().contains(text), "{what}: {error}");
                }
                (done, refused) => panic!("{what}: {done:?} and not {refused:?}"),
            }
            go_on(&running).unwrap_or_else(|error| panic!("{what}: {error}"));
            drop((running, a));
            match first {
                None => site.same("whole", "first"),
                Some(_) => assert_eq!(stored(&site.path("first")), [DIRTY], "{what}"),
            }
            if first.is_some() {
                assert_eq!(site.dirty("a", "old"), Some(vec![]), "{what}");
            }
            site.same("whole", "a");
            site.check();
        }
    }
}

/// Each kind of pending change, the other way round: the first is a list whose changes come at its end.
#[test]
fn what_a_list_will_change_at_its_end_is_kept_from_others() {
    let site = Site::new();
    let a = site.open("a");
    a.create_snapshot(b"first", std::time::SystemTime::now()).unwrap();
    let slow = || BackupOptions { speed: 1 << 16, ..BackupOptions::default() };
    let pending: [(Action, &str); 2] = [
        (Action::snapshot_delete(a.clone(), "first"), "t1"),
        (Action::bitmap_add(a.clone(), "more", None, Recording::Enabled), "t2"),
    ];
    for (action, target) in pending {
        let deletes = target == "t1";
        let list = vec![site.backup(&a, target, slow()), action];
        let running = transaction(CompletionMode::Grouped, list).start().unwrap();
        let add = || vec![Action::bitmap_add(a.clone(), "more", None, Recording::Enabled)];
        let error = grouped(add()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
        let increment = vec![site.backup(&a, &format!("{target}-by"), by("old", BitmapMode::OnSuccess))];
        assert_eq!(grouped(increment).is_err(), deletes);
        go_on(&running).unwrap();
    }
    drop(a);
    site.check();
}

/// A stranger between two changes of our own is still seen.
#[test]
fn a_stranger_beside_our_own_changes_is_seen() {
    let site = Site::new();
    let a = site.open("a");
    let running = site.slow(&a, "t", BackupOptions::default());
    grouped(vec![Action::bitmap_clear(a.clone(), "old")]).unwrap();
    let bytes = fs::read(site.path("a")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::File::options()
        .write(true)
        .open(site.path("a"))
        .unwrap()
        .set_len(bytes.len() as u64 + 65536)
        .unwrap();
    grouped(vec![Action::bitmap_clear(a.clone(), "new")]).unwrap();
    let error = go_on(&running).unwrap_err();
    assert!(error.to_string().contains("was written while it was read"), "{error}");
}
