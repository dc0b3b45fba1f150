//! Several backups of one disk after another, while a guest writes to it in between.

use std::fs;

use holstein::{
    BackupOptions,
    BitmapMode::{self, Always, OnSuccess},
    ErrorKind,
    SyncMode::{Bitmap, Full, Incremental, Top},
};

use crate::{
    site::{KIB, MIB, MIDST, Order, Past, SIZE, Site, Trouble},
    support::{command::Disk, qemu::rounded_out},
};

fn by_bitmap(mode: BitmapMode) -> Order {
    Order::new(Bitmap, Some(mode))
}

/// What fails is tried again, after more writes.
#[test]
fn a_failed_increment_is_repeated() {
    let site = Site::new(64 * KIB);
    for order in [Order::new(Incremental, None), by_bitmap(OnSuccess)] {
        site.reset();
        for trouble in
            [Trouble::Unreadable(MIDST), Trouble::NoSpace, Trouble::Rename, Trouble::Cancel(3 * MIB)]
        {
            let before = site.dirty();
            site.back_up(&order, &[trouble]).result.unwrap_err();
            assert_eq!(site.dirty(), before);
            assert!(!site.path("target.qcow2").exists());
            site.write(&["write -P 7 29M 100k", "write -z 4M 64k"]);
        }
        site.back_up(&order, &[]).result.unwrap();
        site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
        assert_eq!(site.dirty(), []);
    }
}

/// Each night gets a bit further, or back where the guest has written again.
#[test]
fn partial_targets_add_up() {
    let site = Site::new(64 * KIB);
    for first in [by_bitmap(Always), Order::new(Full, Some(Always)), Order::new(Top, Some(Always))] {
        site.reset();
        let mut below = first.backing().map(str::to_owned);
        let mut order = first;
        for (night, unreadable) in [8, 18, 12, 22, 26].into_iter().enumerate() {
            let past = Past::of(&site, &order);
            let options = BackupOptions { backing: below.as_deref().map(backing), ..order.options() };
            let ended = site.back_up_as(options, &order, &[Trouble::Unreadable(unreadable * MIB + 5)]);
            let end = ended.job.report().partial_end.unwrap();
            assert!(end > unreadable * MIB - 2 * MIB && end <= unreadable * MIB, "{night}: {end}");
            assert_eq!(site.dirty(), past.rest(end), "{night}");
            let name = format!("night{night}.qcow2");
            fs::rename(site.path("target.qcow2"), site.path(&name)).unwrap();
            site.workshop.check(&name);
            below = Some(name);
            site.write(&[
                &format!("write -P {} {}M 2M", night + 20, 10 + night),
                &format!("write -z {}k 200k", night * 6100),
            ]);
            order = by_bitmap(Always);
        }
        site.next_increment_is_complete(below.as_deref().unwrap());
        for night in 0..5 {
            fs::remove_file(site.path(&format!("night{night}.qcow2"))).unwrap();
        }
    }
}

fn backing(name: &str) -> holstein::Backing {
    holstein::Backing { name: name.into(), format: holstein::Format::Qcow2 }
}

/// The bitmap goes beyond the end that the disk had.
#[test]
fn a_disk_that_grew() {
    for granularity in [4 * KIB, 64 * KIB, 2 * MIB] {
        let site = Site::new(granularity);
        site.workshop.img(&["resize", "-q", "disk.qcow2", "40M"]);
        site.write(&["write -P 8 33M 3M", "write -P 9 40894k 66k"]);
        let (order, dirty) = (by_bitmap(Always), site.dirty());
        assert!(dirty.last().unwrap().end() == 40 * MIB);
        let ended = site.back_up(&order, &[Trouble::Unreadable(34 * MIB + 5)]);
        let end = ended.job.report().partial_end.unwrap();
        assert!(end > SIZE && end <= 34 * MIB, "{end}");
        let rest = dirty.iter().filter(|part| part.end() > end).copied();
        let rest: Vec<_> = rest
            .map(|mut part| {
                let start = part.start.max(end);
                part.length = part.end() - start;
                part.start = start;
                part
            })
            .collect();
        // Behind the end of the image below whole clusters are copied, whatever the bitmap says.
        assert_eq!(site.dirty(), rounded_out(&rest, granularity.max(64 * KIB), 40 * MIB));
        site.next_increment_is_complete("target.qcow2");
    }
}

/// The clean part of a large target cluster is copied too: nothing below it could give it.
#[test]
fn larger_clusters_without_a_backing_file() {
    let site = Site::new(64 * KIB);
    for (sync, cluster_size) in [("bitmap", "128k"), ("incremental", "2M")] {
        site.reset();
        let disk = Disk::new("disk.qcow2", "target.qcow2").with("bitmap", "b").with("sync", sync);
        site.holstein.backup(&disk.with("cluster-size", cluster_size));
        site.workshop.check("target.qcow2");
        site.workshop.img(&["rebase", "-u", "-b", "full.qcow2", "-F", "qcow2", "target.qcow2"]);
        site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
    }
}

/// With nothing dirty there is nothing to lose, and an empty target.
#[test]
fn nothing_to_copy() {
    let site = Site::new(64 * KIB);
    site.workshop.img(&["bitmap", "--clear", "disk.qcow2", "b"]);
    site.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "now.qcow2"]);
    let options = BackupOptions { backing: Some(backing("now.qcow2")), ..by_bitmap(Always).options() };
    let ended = site.back_up_as(options.clone(), &by_bitmap(Always), &[Trouble::Rename]);
    assert_eq!(ended.job.error().unwrap().kind(), ErrorKind::Permission);
    assert!(!site.path("target.qcow2").exists());
    let ended = site.back_up_as(options, &by_bitmap(Always), &[]);
    ended.result.unwrap();
    assert_eq!(ended.job.report(), holstein::JobReport::default());
    site.workshop.check("target.qcow2");
    site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
}
