//! Several threads on one open disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use holstein::{BitmapChange, Recording};

use super::{
    paused::PausedStorage,
    site::{DISK, KIB, MIB, Site, read},
};
use crate::support::rng::Rng;

/// Blocks that lie across clusters.
const BLOCK: u64 = 100 * KIB + 512;
const BLOCKS: u64 = 20;
const TIME: Duration = Duration::from_millis(700);

#[test]
fn each_write_is_seen_as_a_whole() {
    let site = Site::over(4 * MIB, "");
    site.add_bitmap("a");
    let disk = site.open();
    disk.write_zeroes(0..4 * MIB).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let disk = &disk;
                scope.spawn(move || {
                    let (start, mut random) = (Instant::now(), Rng::new(number, 1));
                    while start.elapsed() < TIME {
                        let at = random.below(BLOCKS) * BLOCK;
                        match random.below(12) {
                            0 => disk.flush().unwrap(),
                            1 => disk.write_zeroes(at..at + BLOCK).unwrap(),
                            _ => disk.write_at(&[random.next() as u8; BLOCK as usize], at).unwrap(),
                        }
                    }
                })
            })
            .collect();
        for number in 0..2 {
            let (disk, done) = (&disk, &done);
            scope.spawn(move || {
                let (mut block, mut random) = (vec![0; BLOCK as usize], Rng::new(number, 2));
                while !done.load(Ordering::Relaxed) {
                    let at = random.below(BLOCKS) * BLOCK;
                    disk.read_at(&mut block, at).unwrap();
                    assert!(block.iter().all(|byte| *byte == block[0]), "a torn write at {at}");
                }
            });
        }
        let (disk, done) = (&disk, &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                disk.map(0..disk.size()).for_each(|run| assert!(run.unwrap().length > 0));
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let contents = read(&disk);
    disk.close().unwrap();
    site.holds(&contents);
}

/// Whoever asks for bitmaps gets them as they are between two writes, or two changes.
#[test]
fn bitmaps_are_whole_beside_writes_and_changes() {
    let site = Site::new("cluster_size=4k");
    for name in ["a", "b"] {
        site.add_bitmap(name);
    }
    let storage = site.simulated();
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    disk.write_at(&[1; 512], 0).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (disk, done) = (&disk, &done);
        for number in 0..2 {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    if number == 0 {
                        for bitmap in disk.bitmaps().unwrap() {
                            assert_eq!(bitmap.unusable, None, "{bitmap:?}");
                        }
                        assert_eq!(disk.info().unwrap().virtual_size, 4 * MIB);
                    }
                    let bitmap = disk.bitmap(b"a").unwrap();
                    assert_eq!(bitmap.extents().next().map(|e| e.start), Some(0));
                }
            });
        }
        let (start, mut random) = (Instant::now(), Rng::new(1, 3));
        while start.elapsed() < TIME {
            let at = random.below(4 * MIB - 70 * KIB);
            disk.write_at(&random.bytes(64 << 10, 0), at).unwrap();
            let name = |name: &str| name.as_bytes().to_vec();
            disk.change_bitmaps(&[
                BitmapChange::Add { name: name("c"), granularity: None, recording: Recording::Enabled },
                BitmapChange::Clear { name: name("b") },
            ])
            .unwrap();
            disk.discard(at..at + 64 * KIB).unwrap();
            disk.change_bitmaps(&[BitmapChange::Remove { name: name("c") }]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    disk.close().unwrap();
    site.restore(&storage);
    site.workshop.check(DISK);
}

/// A map reads tables while others write. What it read before a write must not become what the disk goes by.
#[test]
fn a_map_that_is_late_hides_no_write() {
    let site = Site::new("");
    let simulated = site.simulated();
    let storage = PausedStorage::new(simulated.clone());
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    storage.hold(site.l2_table());
    let mapper = {
        let disk = disk.clone();
        thread::spawn(move || disk.map(0..MIB).for_each(|run| assert!(run.unwrap().length > 0)))
    };
    storage.wait();
    // The table has been read, and arrives when the first write is on disk, or waits for the map.
    let (sender, receiver) = mpsc::channel();
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || {
            disk.write_at(&[1; 512], 2 * MIB).unwrap();
            disk.flush().unwrap();
            sender.send(()).unwrap();
        })
    };
    let _ = receiver.recv_timeout(Duration::from_millis(300));
    storage.release();
    mapper.join().unwrap();
    writer.join().unwrap();

    disk.write_at(&[2; 512], 3 * MIB).unwrap();
    let mut expected = site.contents();
    expected[2 * MIB as usize..][..512].fill(1);
    expected[3 * MIB as usize..][..512].fill(2);
    assert!(read(&disk) == expected, "a write is lost");
    disk.close().unwrap();
    site.restore(&simulated);
    site.holds(&expected);
}

/// What is told of a disk is told soon, however many write it all the time.
#[test]
fn a_look_at_a_disk_waits_for_few_writes() {
    let site = Site::new("");
    site.add_bitmap("a");
    let disk = site.open();
    let (done, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut waited = Vec::new();
    thread::scope(|scope| {
        for number in 0..2 {
            let (disk, done, writes) = (&disk, &done, &writes);
            scope.spawn(move || {
                let mut random = Rng::new(number, 1);
                while !done.load(Ordering::Relaxed) {
                    disk.write_at(&[1; 512], random.below(4 * MIB - 512)).unwrap();
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..15 {
            thread::sleep(Duration::from_millis(5));
            let before = writes.load(Ordering::Relaxed);
            assert_eq!(disk.info().unwrap().virtual_size, 4 * MIB);
            assert_eq!(disk.bitmaps().unwrap().len(), 1);
            waited.push(writes.load(Ordering::Relaxed) - before);
        }
        done.store(true, Ordering::Relaxed);
    });
    // A thread that looks may not run for a while; half of the times it does.
    waited.sort_unstable();
    assert!(waited[7] <= 16, "writes that a look waited for: {waited:?}");
    assert!(writes.load(Ordering::Relaxed) > 15, "nobody wrote");
    disk.close().unwrap();
}
