//! A backup whose disk is changed is that backup no more.

use std::sync::{Arc, Mutex};

use holstein::{Access, Disk, DiskOptions, storage::HostStorage};
use serde_json::Value;

use super::{Place, fs, inc, watched};
use watched::{Kind, WatchedStorage};

#[test]
fn a_changed_backup_is_no_base() {
    for change in [
        &["write", "full", "1M", "--zero", "64k"][..],
        &["write", "full", "1M", "--discard", "64k"],
        &["resize", "full", "9M"],
        &["resize", "--shrink", "full", "7M"],
    ] {
        let place = Place::new();
        let was = place.identity("full");
        place.backup("source=d,target=diff,sync=bitmap,bitmap=b,backing=full");
        place.ok(change);
        let info = place.info("full");
        assert_eq!(info["holstein"]["identity"], Value::Null, "{change:?}");
        assert_eq!(info["holstein"]["former-identity"], Value::from(was.clone()));
        let text = place.refused(&inc("inc1", "full"));
        assert!(text.contains(&format!("full' was the backup {was} until its disk was changed")), "{text}");
        assert!(!text.contains("lineage=ignore"), "{text}");
        // What stands on it shows something else by now.
        let (code, out, _) = place.run(&["check", "--chain", "diff"]);
        assert_eq!(code, 2, "{out}");
        assert!(out.contains(&format!("BROKEN: its parent {was}")), "{out}");
        // It does not come back.
        place.ok(&["bitmap", "add", "full", "own"]);
        place.ok(&["write", "full", "0", "--zero", "64k"]);
        assert_eq!(place.info("full")["holstein"]["former-identity"], Value::from(was));
    }
}

/// What its bitmaps count from stays, and so does what it was made over.
#[test]
fn a_backup_may_become_a_disk_that_has_backups() {
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("r", "full"));
    place.ok(&["bitmap", "add", "r", "b"]);
    place.full("r", "r.full");
    place.ok(&["write", "r", "1M", "--zero", "64k"]);
    assert_eq!(place.base("r", "b"), Some(place.identity("r.full")));
    assert_eq!(place.info("r")["holstein"]["parent"], Value::from(place.identity("full")));
    place.backup("source=r,target=r.inc,sync=incremental,bitmap=b,backing=r.full");
    place.same("r", "r.inc");
}

/// No crash leaves changed data under the old identity.
#[test]
fn the_identity_goes_first() {
    let place = Place::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let storage = WatchedStorage::new(HostStorage, false);
    let seen = log.clone();
    storage.watch(Arc::new(move |notice| {
        if matches!(notice.kind, Kind::Write | Kind::SetLen | Kind::Sync) {
            seen.lock().unwrap().push((notice.kind, notice.length));
        }
        Ok(())
    }));
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let open = || Disk::open_in(Arc::new(storage.clone()), place.path("full"), &options).unwrap();
    let original = fs::read(place.path("full")).unwrap();
    for resize in [false, true] {
        fs::write(place.path("full"), &original).unwrap();
        let disk = open();
        assert!(disk.identity().is_some());
        log.lock().unwrap().clear();
        match resize {
            true => disk.resize(9 << 20).unwrap(),
            false => disk.write_at(&[7; 4096], 0).unwrap(),
        }
        assert_eq!(log.lock().unwrap()[..2], [(Kind::Write, 1), (Kind::Sync, 0)], "resize: {resize}");
        assert_eq!(disk.identity(), None);
        disk.close().unwrap();
        // Once is enough.
        let disk = open();
        log.lock().unwrap().clear();
        disk.write_at(&[8; 4096], 0).unwrap();
        assert_ne!(log.lock().unwrap().first(), Some(&(Kind::Write, 1)));
    }

    // A change that cannot be is none.
    fs::write(place.path("full"), &original).unwrap();
    let disk = open();
    assert!(disk.write_at(&[1; 512], 1 << 40).is_err() && disk.resize(1 << 62).is_err());
    drop(disk);
    assert!(fs::read(place.path("full")).unwrap() == original);
}
