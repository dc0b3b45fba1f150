//! What comes before the first write, what is kept, and what is left when nothing is said in the end.

use std::sync::{Arc, Mutex};

use holstein::{
    Disk, DiskOptions, ErrorKind,
    storage::simulated::{Failure, Fault, OperationKind},
};

use super::{
    refusals::spoil_bitmap,
    site::{DISK, KIB, MIB, Site, read},
};
use crate::support::patch::{extension, peek, peek64, poke};

/// Unknown autoclear bits are gone, durably, before anything else is written, data and bits of bitmaps alike.
#[test]
fn unknown_autoclear_bits_are_cleared_first() {
    type Operation = fn(&Disk) -> holstein::Result<()>;
    let operations: [(&str, Operation); 5] = [
        ("write", |disk| disk.write_at(&[1; 700], 3 * MIB)),
        ("zero", |disk| disk.write_zeroes(0..MIB)),
        ("discard", |disk| disk.discard(0..MIB)),
        ("grow", |disk| disk.resize(5 * MIB + 512)),
        ("shrink", |disk| disk.resize(MIB + 512)),
    ];
    for (name, operation) in operations {
        let site = Site::new("");
        site.add_bitmap("a");
        poke(&site.path(), 88, &[0x80, 0, 0, 0, 0, 0, 0x10, 1]);
        let storage = site.simulated();
        let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
        let writes = Arc::new(Mutex::new(Vec::new()));
        let noted = writes.clone();
        storage.before_write(move |notice| {
            noted.lock().unwrap().push((notice.offset, notice.data.to_vec(), notice.earlier_durable));
        });
        operation(&disk).unwrap();
        disk.close().unwrap();
        let writes = writes.lock().unwrap();
        assert_eq!((writes[0].0, &writes[0].1[..]), (88, &[0, 0, 0, 0, 0, 0, 0, 1][..]), "{name}");
        assert!(writes[1].2, "{name}: the next write came before it was durable");
        assert_eq!(storage.contents(site.path()).unwrap()[88..96], [0, 0, 0, 0, 0, 0, 0, 1], "{name}");
    }
}

/// A bitmap that cannot be trusted is inconsistent before data is written, and all else goes on.
#[test]
fn a_bitmap_that_cannot_be_trusted_is_given_up_first() {
    let site = Site::new("");
    site.add_bitmap("a");
    spoil_bitmap(&site);
    site.add_bitmap("b");
    let mut contents = read(&site.open_as(&DiskOptions::default()));
    let storage = site.simulated();
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    let (image, path) = (storage.clone(), site.path());
    storage.before_write(move |notice| {
        if notice.data.first() == Some(&0xab) {
            assert!(image.is_durable(&path), "data is written before the bitmap is given up");
            let options = DiskOptions::default();
            let reader = Disk::open_in(Arc::new(image.clone()), &path, &options).unwrap();
            let given_up: Vec<_> = reader.bitmaps().unwrap().iter().map(|bitmap| bitmap.in_use).collect();
            assert_eq!(given_up, [true, false]);
        }
    });
    // In place, so that nothing but the data must be durable.
    disk.write_at(&[0xab; 512], 512 * KIB).unwrap();
    contents[512 * KIB as usize..][..512].fill(0xab);
    disk.close().unwrap();
    site.restore(&storage);
    site.holds(&contents);
    assert_eq!((site.flags("a"), site.flags("b")), (r#"["in-use","auto"]"#.into(), r#"["auto"]"#.into()));
    let disk = site.open();
    assert_eq!(disk.bitmap(b"b").unwrap().extents().collect::<Vec<_>>(), [512 * KIB..640 * KIB]);
    assert_eq!(disk.bitmap(b"a").unwrap_err().kind(), ErrorKind::BitmapUnusable);
    // QEMU goes on too.
    drop(disk);
    site.io(&["write -P 1 0 512"]);
    assert_eq!(site.open().bitmap(b"b").unwrap().extents().count(), 2);
}

/// That something cannot be read says nothing about a bitmap: it is not given up.
#[test]
fn a_failing_disk_spoils_no_bitmap() {
    let site = Site::new("");
    site.add_bitmap("a");
    site.io(&["write 0 1"]);
    for kind in [OperationKind::Read, OperationKind::Status] {
        for failure in [Failure::Errno(libc::EIO), Failure::Errno(libc::ENOSPC), Failure::AtMost(0)] {
            let mut failed = 0;
            for nth in 1..40 {
                let storage = site.simulated();
                let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
                storage.fail(Fault::once(kind, nth, failure));
                let result = if nth % 2 == 0 { disk.write_at(&[1; 512], 0) } else { disk.resize(MIB) };
                storage.stop_failing();
                failed += usize::from(result.is_err());
                let named = |error: &holstein::Error| match failure {
                    Failure::Errno(number) | Failure::Late(number) | Failure::Dropped(number) => {
                        error.errno() == Some(number)
                    }
                    Failure::AtMost(_) => error.to_string().contains("nothing could be read"),
                };
                assert!(result.as_ref().err().is_none_or(named), "{kind:?} {nth}: {result:?}");
                drop(disk);
                let disk = site.open_in(Arc::new(storage), &DiskOptions::default());
                assert_eq!(
                    disk.bitmaps().unwrap()[0].unusable,
                    None,
                    "{kind:?} {failure:?} {nth}: {result:?}"
                );
            }
            assert_eq!(failed > 3, kind == OperationKind::Read || failure != Failure::AtMost(0), "{failed}");
        }
    }
}

/// Bitmaps whose autoclear bit is off are not there: nothing is recorded in them, and nothing brings them back.
#[test]
fn bitmaps_that_nobody_kept_stay_so() {
    let site = Site::new("");
    site.add_bitmap("a");
    poke(&site.path(), 88, &[0; 8]);
    let directory = extension(&site.path(), 0x2385_2875).0;
    let before: [u8; 24] = peek(&site.path(), directory);
    let disk = site.open();
    disk.write_at(&[1; 512], 2 * MIB).unwrap();
    disk.resize(5 * MIB).unwrap();
    disk.close().unwrap();
    assert_eq!(peek::<8>(&site.path(), 88), [0; 8]);
    assert_eq!(peek::<24>(&site.path(), directory), before);
    let infos = site.open().bitmaps().unwrap();
    assert!(infos[0].unusable.as_ref().unwrap().contains("autoclear bit"), "{infos:?}");
}

#[test]
fn lazy_refcounts_stay_allowed_and_are_not_used() {
    let site = Site::new("lazy_refcounts=on");
    let disk = site.open();
    disk.write_at(&[1; 100_000], 2 * MIB + 100).unwrap();
    // Whoever looks now finds no dirty bit.
    assert_eq!(peek64(&site.path(), 72), 0);
    disk.flush().unwrap();
    assert_eq!(peek64(&site.path(), 72), 0);
    disk.close().unwrap();
    assert_eq!((peek64(&site.path(), 72), peek64(&site.path(), 80)), (0, 1));
    let mut contents = site.contents();
    contents[2 * MIB as usize + 100..][..100_000].fill(1);
    site.holds(&contents);
}

#[test]
fn version_2() {
    let site = Site::new("compat=0.10");
    site.workshop.img(&["snapshot", "-c", "one", DISK]);
    let mut contents = site.contents();
    let disk = site.open();
    disk.write_at(&[1; 100_000], 1000).unwrap();
    contents[1000..101_000].fill(1);
    disk.write_zeroes(200_000..500_000).unwrap();
    contents[200_000..500_000].fill(0);
    disk.discard(0..100 * KIB).unwrap();
    contents[..64 * KIB as usize].fill(0);
    assert!(read(&disk) == contents);
    disk.close().unwrap();
    site.holds(&contents);
    assert_eq!(peek::<8>(&site.path(), 0), [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 2]);
    site.workshop.img(&["convert", "-l", "one", "-O", "raw", DISK, "one.raw"]);
    assert!(std::fs::read(site.workshop.path("one.raw")).unwrap() == site.contents());

    // Over another image it has no way to say zero without data, so a discard leaves all as it is.
    let site = Site::over(4 * MIB, "compat=0.10");
    let mut contents = read(&site.open());
    let disk = site.open();
    disk.discard(0..MIB).unwrap();
    disk.write_zeroes(MIB..MIB + 70 * KIB).unwrap();
    contents[MIB as usize..][..70 << 10].fill(0);
    disk.close().unwrap();
    site.holds(&contents);
}

/// The last handle makes everything durable; until then a clone keeps the disk open.
#[test]
fn a_dropped_disk_is_sound() {
    let site = Site::new("cluster_size=512");
    site.add_bitmap("a");
    let mut contents = site.contents();
    let disk = site.open();
    let clone = disk.clone();
    disk.write_at(&[7; 300_000], 2 * MIB + 77).unwrap();
    contents[2 * MIB as usize + 77..][..300_000].fill(7);
    drop(disk);
    assert_eq!(Disk::open(site.path(), &Site::options()).unwrap_err().kind(), ErrorKind::Locked);
    clone.discard(0..MIB).unwrap();
    contents[..MIB as usize].fill(0);
    drop(clone);
    site.holds(&contents);
    let dirty: u64 = site.open().bitmap(b"a").unwrap().extents().map(|e| e.end - e.start).sum();
    assert_eq!(dirty, MIB + 384 * KIB);
}
