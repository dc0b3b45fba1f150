//! A target never replaces what an increment of the same run stands on.

use std::{io, path::Path, sync::Arc};

use holstein::{
    Access, Backup, BackupOptions, Disk, DiskOptions, ErrorKind, Existing, SyncMode, Transaction,
    storage::HostStorage,
};

use super::{Place, fs, inc, run, watched};
use watched::{Kind, WatchedStorage};

/// `full`, and two increments over it, each with the one before as its backing file.
fn chain() -> Place {
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("inc1", "full"));
    place.write("d", "write -P 3 1M 64k");
    place.backup(&inc("inc2", "inc1"));
    place.write("d", "write -P 4 2M 64k");
    place
}

/// An increment without a backing file.
fn alone(target: &str) -> String {
    format!("source=d,target={target},overwrite,sync=incremental,bitmap=b")
}

#[test]
fn what_the_base_stands_on_is_not_replaced() {
    let place = chain();
    fs::create_dir(place.path("other")).unwrap();
    fs::hard_link(place.path("full"), place.path("other/name")).unwrap();
    fs::hard_link(place.path("full"), place.path("alias")).unwrap();
    for (target, above) in [("inc1", "inc2"), ("full", "inc1"), ("other/name", "inc1")] {
        let text = place.refused(&alone(target));
        for word in
            [&format!("the target '{target}'"), &format!("{above}' stands on"), &place.identity("inc2")]
        {
            assert!(text.contains(word.as_str()), "'{word}' is missing: {text}");
        }
    }
    // The same where the chain is named.
    for target in ["inc2", "inc1", "full", "alias"] {
        let before = fs::read(place.path(target)).unwrap();
        let (code, _, text) = place.run(&["backup", "--disk", &(alone(target) + ",backing=inc2")]);
        assert_ne!(code, 0, "{target}");
        assert!(text.contains(&format!("the target '{target}' is '")), "{text}");
        assert!(fs::read(place.path(target)).unwrap() == before);
    }
    // A backup of another line may go; so may all when a full copy begins a new one, or where somebody insists.
    place.backup("source=d,target=old,sync=full");
    place.backup(&(alone("old") + ",backing=inc2"));
    place.same("d", "old");
    place.backup("source=d,target=full,overwrite,sync=full,bitmap=b,bitmap-mode=on-success");
    place.same("d", "full");
    place.backup(&(alone("full") + ",lineage=ignore"));
}

#[test]
fn increments_without_backing_files_are_known_by_their_parents() {
    let place = Place::new();
    for number in 1..=3 {
        place.write("d", &format!("write -P {number} {number}M 64k"));
        place.backup(&format!("source=d,target=inc{number},sync=incremental,bitmap=b"));
    }
    for (target, above) in [("inc2", "inc3"), ("inc1", "inc2"), ("full", "inc1")] {
        let text = place.refused(&alone(target));
        assert!(text.contains(&format!("{above}' stands on")), "{text}");
    }
    let text = place.refused(&alone("inc3"));
    assert!(text.contains("counts from: replacing it would lose what it has"), "{text}");

    // Where one of them is not there nobody knows what it stood on.
    fs::create_dir(place.path("other")).unwrap();
    fs::rename(place.path("inc3"), place.path("other/inc3")).unwrap();
    let out = place.backup(&alone("full"));
    assert!(
        out.contains("was not found: whether it stands on a file that is replaced is not known"),
        "{out}"
    );
}

#[test]
fn the_target_of_another_backup_is_no_way_either() {
    let place = chain();
    place.disk("e", &[]);
    let text = {
        let before = fs::read(place.path("inc1")).unwrap();
        let increment = "source=d,target=inc3,sync=incremental,bitmap=b";
        let (code, _, err) =
            place.run(&["backup", "--disk", increment, "--disk", "source=e,target=inc1,overwrite,sync=full"]);
        assert_eq!(code, 1, "{err}");
        assert!(fs::read(place.path("inc1")).unwrap() == before && !place.path("inc3").exists());
        err
    };
    assert!(text.contains("'inc1'") && text.contains("inc2' stands on"), "{text}");
}

#[test]
fn what_the_source_stands_on_is_not_replaced() {
    let place = chain();
    let top = place.name("top");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &place.name("inc2"), "-F", "qcow2", &top]);
    for target in ["inc2", "inc1", "full"] {
        let (code, _, err) =
            place.run(&["backup", "--disk", &format!("source=top,target={target},overwrite,sync=full")]);
        assert_ne!(code, 0, "{target}");
        assert!(err.contains("which this run reads"), "{err}");
    }
}

/// What a failed look would have told is not known; the increment is not made.
#[test]
fn a_look_that_fails_is_told() {
    let place = chain();
    for (errno, kind) in [(libc::EIO, ErrorKind::Io), (libc::ENOMEM, ErrorKind::NoMemory)] {
        for unreadable in ["inc1", "inc2"] {
            let before = fs::read(place.path("inc1")).unwrap();
            let error = overwrite(&place, unreadable, errno).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(unreadable), "{error}");
            assert!(fs::read(place.path("inc1")).unwrap() == before);
        }
    }
}

/// Makes an increment over `inc2` that replaces `inc1`, when one of the files cannot be read.
fn overwrite(place: &Place, unreadable: &str, errno: i32) -> holstein::Result<()> {
    let storage = WatchedStorage::new(HostStorage, false);
    let name = unreadable.to_owned();
    storage.watch(Arc::new(move |notice| match notice.path.file_name() == Path::new(&name).file_name() {
        true if notice.kind == Kind::Read => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    }));
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let source = Disk::open_in(Arc::new(storage), place.path("d"), &options)?;
    let mut transaction = Transaction::default();
    transaction.add(Backup {
        source,
        target: place.path("inc1"),
        options: BackupOptions {
            sync: Some(SyncMode::Incremental),
            bitmap: Some(b"b".to_vec()),
            existing: Existing::Overwrite,
            ..BackupOptions::default()
        },
    });
    transaction.commit().map(drop)
}
