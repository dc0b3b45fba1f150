//! Backups of the disk, which must restore to it; the bitmap `nightly` makes a chain of them.

use holstein::{
    Access, Backing, Backup, BackupOptions, BitmapMode, Compression, Format, SyncMode, Transaction,
};
use serde_json::json;

use crate::{
    model::add,
    steps::Hand,
    subject::{DISK, Subject, same},
    support::{layer::KIB, qemu::text, qsd::Qsd},
};

const NIGHTLY: &str = "nightly";

impl Subject {
    /// A full backup, or an increment on the last one.
    pub fn back_up(&mut self, hand: Hand) {
        let target = format!("backup{}.qcow2", self.backups.len());
        if self.takes_bitmaps() && !self.bitmaps.0.contains_key(NIGHTLY) {
            let granularity = *self.random.pick(&[512, 64 * KIB]);
            let change = [add(NIGHTLY, granularity, holstein::Recording::Enabled)];
            self.library("add nightly".into(), |disk| disk.change_bitmaps(&change));
            self.changed(&change);
        }
        // What QEMU's bitmap does not tell, QEMU's increment does not have.
        let hidden = hand == Hand::Qemu && self.grown_by_qemu;
        let backing = self.chain.take().filter(|_| !hidden);
        match hand {
            Hand::Library => self.back_up_by_library(&target, backing.as_deref()),
            Hand::Command => self.back_up_by_command(&target, backing.as_deref()),
            Hand::Qemu => self.back_up_by_qemu(&target, backing.as_deref()),
        }
        let kind = if backing.is_some() { "increment" } else { "full backup" };
        self.has(format!("{kind} by {}", if hand == Hand::Qemu { "QEMU" } else { "us" }));
        if let Some(bitmap) = self.bitmaps.0.get_mut(NIGHTLY) {
            bitmap.dirty.clear();
            self.chain = Some(target.clone());
            self.grown_by_qemu = false;
        }
        self.backups.push((target, self.contents.clone()));
        self.verify_backup(self.backups.len() - 1);
    }

    fn back_up_by_library(&mut self, target: &str, backing: Option<&str>) {
        let compression = *self.random.pick(&[
            Compression::None,
            Compression::Zlib { level: Some(1) },
            Compression::Zstd { level: Some(1) },
        ]);
        let cluster_size = *self.random.pick(&[None, Some(4096), Some(64 * KIB)]);
        let bitmap = self.takes_bitmaps().then(|| NIGHTLY.into());
        let options = BackupOptions {
            sync: Some(if backing.is_some() { SyncMode::Incremental } else { SyncMode::Full }),
            bitmap_mode: bitmap.as_ref().map(|_| BitmapMode::OnSuccess),
            bitmap,
            backing: backing.map(|name| Backing { name: name.into(), format: Format::Qcow2 }),
            cluster_size,
            compression,
            ..BackupOptions::default()
        };
        self.shop.note(&format!("# library: backup to {target}: {options:?}"));
        let target = self.shop.path(target);
        self.with_disk(Access::Write, |source| {
            let mut transaction = Transaction::new();
            transaction.add(Backup { source, target, options });
            transaction.commit().unwrap_or_else(|e| panic!("backup: {e}"));
        });
    }

    fn back_up_by_command(&mut self, target: &str, backing: Option<&str>) {
        let mut disk = format!("source={DISK},target={target}");
        match backing {
            Some(backing) => disk += &format!(",sync=incremental,bitmap={NIGHTLY},backing={backing}"),
            None if self.takes_bitmaps() => {
                disk += &format!(",sync=full,bitmap={NIGHTLY},bitmap-mode=on-success");
            }
            None => disk += ",sync=full",
        }
        self.shop.note(&format!("# holstein backup --disk {disk}"));
        self.holstein.succeeds(&["backup", "--disk", &disk]);
    }

    /// QEMU's job, run by its storage daemon.
    fn back_up_by_qemu(&mut self, target: &str, backing: Option<&str>) {
        let options = backing.map_or(String::new(), |name| format!("backing_file={name},backing_fmt=qcow2"));
        self.shop.create(target, self.size(), &options);
        let mut job = json!({ "job-id": "job", "device": "disk", "target": "target",
                              "sync": if backing.is_some() { "incremental" } else { "full" } });
        if self.takes_bitmaps() {
            job["bitmap"] = json!(NIGHTLY);
            job["bitmap-mode"] = json!("on-success");
        }
        let mut daemon = Qsd::start(&self.shop);
        daemon.open("disk", DISK, false);
        daemon.open("target", target, false);
        daemon.execute("blockdev-backup", job);
        while !daemon.execute("query-jobs", json!({})).as_array().unwrap().is_empty() {}
        daemon.quit();
    }

    /// A backup is sound and restores to what the disk held then.
    pub fn verify_backup(&self, index: usize) {
        let (name, contents) = &self.backups[index];
        let output = self.shop.try_run("qemu-img", &["check", "-q", "-T", "unsafe", name]);
        assert!(output.status.success(), "{name}: {}", text(&output));
        same(&format!("{name} holds"), &self.qemu_reads_from(name, &[]), contents);
    }
}
