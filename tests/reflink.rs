//! Backups that share blocks with their source, on the simulated storage: what is shared and what is copied, the three states
//! of a cluster, refusals, and failures on the way. `reflink_mounts.rs` does the same on true file systems.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test

mod support;

use std::{fs, sync::Arc};

use holstein::{
    Backing, Backup, BackupOptions, Compression, Disk, DiskOptions, ErrorKind, ErrorPolicy, Format,
    JobReport, Reflink, SyncMode, Transaction,
    storage::{
        HostStorage, SimulatedStorage, Storage,
        simulated::{Failure, Fault, Operation, OperationKind},
    },
};
use support::{qemu::Workshop, rng::Rng};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Images made by QEMU in a folder, and the same in a storage that shares blocks, in `/d`.
struct Shop {
    workshop: Workshop,
    storage: SimulatedStorage,
    _folder: tempfile::TempDir,
}

impl Shop {
    fn new() -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        fs::write(workshop.path("noise.pat"), Rng::new(3, 1).bytes(MIB as usize, 0)).unwrap();
        let storage = SimulatedStorage::new();
        storage.share_blocks();
        Shop { workshop, storage, _folder: folder }
    }

    /// A disk of 8 MiB with data, zeros and nothing, that ends within a cluster.
    fn disk(&self, name: &str, options: &str) {
        self.workshop.create(name, 8 * MIB + 9 * 512, options);
        let commands = [
            "write -s noise.pat 0 2M",
            "write -z 1M 256k",
            "write -s noise.pat 4100k 61k",
            "write -P 7 8M 4608",
        ];
        self.workshop.io(name, "qcow2", &commands);
        self.bring(name);
    }

    /// Puts a file of the folder into the storage.
    fn bring(&self, name: &str) {
        self.storage.insert(format!("/d/{name}"), &fs::read(self.workshop.path(name)).unwrap());
    }

    fn open(&self, name: &str) -> Disk {
        let format = if name.ends_with(".raw") { Format::Raw } else { Format::Qcow2 };
        let options = DiskOptions { format, ..DiskOptions::default() };
        Disk::open_in(Arc::new(self.storage.clone()), format!("/d/{name}"), &options).unwrap()
    }

    fn start(&self, source: &str, target: &str, options: BackupOptions) -> holstein::Result<JobReport> {
        let mut transaction = Transaction::new();
        transaction.add(Backup { source: self.open(source), target: format!("/d/{target}").into(), options });
        transaction.commit().map(|jobs| jobs[0].report())
    }

    /// A backup that is judged by QEMU.
    fn backup(&self, source: &str, target: &str, options: BackupOptions) -> JobReport {
        let format = options.format;
        let report = self.start(source, target, options).unwrap_or_else(|e| panic!("{source}: {e}"));
        let path = self.workshop.path(target);
        fs::write(&path, self.storage.contents(format!("/d/{target}")).unwrap()).unwrap();
        if format == Format::Qcow2 {
            self.workshop.check(target);
        }
        let name = |format| if format == Format::Raw { "raw" } else { "qcow2" };
        let own = if source.ends_with(".raw") { Format::Raw } else { Format::Qcow2 };
        self.workshop.identical((source, name(own)), (target, name(format)));
        report
    }

    fn clones(&self) -> u64 {
        self.storage.calls(OperationKind::CloneRange)
    }

    /// No temporary file is left, nor this target.
    fn nothing_is_left(&self, target: &str) {
        let left = |path: &&std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name == target || name.starts_with(".holstein-")
        };
        assert_eq!(self.storage.paths().iter().find(left), None);
    }
}

fn with(reflink: Reflink) -> BackupOptions {
    BackupOptions { reflink, ..BackupOptions::default() }
}

fn targets() -> [BackupOptions; 4] {
    let of = |cluster_size| BackupOptions { cluster_size: Some(cluster_size), ..with(Reflink::Always) };
    [of(4096), of(64 << 10), of(2 << 20), BackupOptions { format: Format::Raw, ..with(Reflink::Always) }]
}

#[test]
fn data_is_shared_and_neither_read_nor_written() {
    for options in
        ["cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "extended_l2=on,cluster_size=128k"]
    {
        let shop = Shop::new();
        shop.disk("disk.qcow2", options);
        for (number, target) in targets().into_iter().enumerate() {
            shop.storage.begin();
            let name = if target.format == Format::Raw { "t.raw".into() } else { format!("t{number}.qcow2") };
            let report = shop.backup("disk.qcow2", &name, target);
            assert!(report.shared_bytes >= 2 * MIB - 256 * KIB, "{options}: {report:?}");
            // The disk ends within a block.
            assert!(report.stored_bytes <= 512, "{options}: {report:?}");
            assert!(report.data_bytes >= report.shared_bytes + report.stored_bytes, "{report:?}");
            let noise = fs::read(shop.workshop.path("noise.pat")).unwrap();
            for logged in shop.storage.recording().operations() {
                if let Operation::Write { data, .. } = &logged.operation {
                    assert!(!data.windows(64).any(|part| part == &noise[8192..8256]), "{options}");
                }
            }
        }
    }
}

#[test]
fn raw_disks_and_data_files_are_shared() {
    let shop = Shop::new();
    let mut bytes = vec![0; 3 * MIB as usize + 1000];
    bytes[..MIB as usize].copy_from_slice(&fs::read(shop.workshop.path("noise.pat")).unwrap());
    bytes[3 * MIB as usize - 10..].fill(9);
    fs::write(shop.workshop.path("disk.raw"), &bytes).unwrap();
    shop.bring("disk.raw");
    for (number, target) in targets().into_iter().enumerate() {
        let name = if target.format == Format::Raw { "t.raw".into() } else { format!("t{number}.qcow2") };
        let report = shop.backup("disk.raw", &name, target);
        assert!(report.shared_bytes >= MIB && report.stored_bytes <= 4096, "{report:?}");
    }
    shop.disk("apart.qcow2", "data_file=apart.data,cluster_size=64k");
    shop.bring("apart.data");
    let report = shop.backup("apart.qcow2", "t.qcow2", with(Reflink::Always));
    assert!(report.shared_bytes >= MIB, "{report:?}");
}

#[test]
fn an_increment_keeps_the_three_states() {
    let shop = Shop::new();
    shop.disk("disk.qcow2", "cluster_size=64k");
    shop.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    shop.workshop.img(&["bitmap", "--add", "disk.qcow2", "b"]);
    shop.workshop.io(
        "disk.qcow2",
        "qcow2",
        &["write -P 5 64k 192k", "write -z 512k 128k", "write -P 6 5M 64k"],
    );
    for name in ["disk.qcow2", "full.qcow2"] {
        shop.bring(name);
    }
    let options = |reflink| BackupOptions {
        sync: Some(SyncMode::Bitmap),
        bitmap: Some(b"b".to_vec()),
        backing: Some(Backing { name: "full.qcow2".into(), format: Format::Qcow2 }),
        ..with(reflink)
    };
    let shared = shop.backup("disk.qcow2", "shared.qcow2", options(Reflink::Always));
    let copied = shop.backup("disk.qcow2", "copied.qcow2", options(Reflink::Never));
    assert_eq!((shared.shared_bytes, shared.stored_bytes), (256 * KIB, 0));
    assert_eq!((copied.shared_bytes, copied.stored_bytes), (0, 256 * KIB));
    assert_eq!((shared.data_bytes, shared.zero_bytes), (copied.data_bytes, copied.zero_bytes));
    let states = |name| {
        let map = shop.workshop.img_json(&["map", name]);
        let state = |extent: &serde_json::Value| {
            ["start", "length", "depth", "present", "zero", "data"].map(|key| extent[key].clone())
        };
        map.as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    assert_eq!(states("shared.qcow2"), states("copied.qcow2"));
}

#[test]
fn a_cluster_of_several_layers_is_shared_where_all_of_them_can() {
    let shop = Shop::new();
    // 3 KiB of the last block of this one are not there.
    let bytes = [fs::read(shop.workshop.path("noise.pat")).unwrap(), vec![8; 1024]].concat();
    fs::write(shop.workshop.path("base.raw"), bytes).unwrap();
    shop.bring("base.raw");
    shop.workshop.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "disk.qcow2",
        "2M",
    ]);
    shop.workshop.io("disk.qcow2", "qcow2", &["write -P 1 8k 4k", "write -z 20k 4k", "write -P 2 1080k 4k"]);
    shop.bring("disk.qcow2");
    let options = BackupOptions { cluster_size: Some(64 << 10), ..with(Reflink::Always) };
    let report = shop.backup("disk.qcow2", "t.qcow2", options);
    assert_eq!(report.shared_bytes, MIB - 4 * KIB + 4 * KIB);
    assert_eq!(report.stored_bytes, 1024);
}

#[test]
fn what_is_compressed_is_copied() {
    let shop = Shop::new();
    shop.disk("plain.qcow2", "cluster_size=64k");
    shop.workshop.img(&["convert", "-c", "-O", "qcow2", "plain.qcow2", "disk.qcow2"]);
    shop.workshop.io("disk.qcow2", "qcow2", &["write -P 5 6M 64k"]);
    shop.bring("disk.qcow2");
    let report = shop.backup("disk.qcow2", "auto.qcow2", with(Reflink::Auto));
    // Noise does not become smaller, so QEMU has stored some of it as it is.
    assert!(report.shared_bytes >= 64 * KIB && report.stored_bytes >= 64 * KIB, "{report:?}");
    let error = shop.start("disk.qcow2", "always.qcow2", with(Reflink::Always)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is compressed"), "{error}");
    shop.nothing_is_left("always.qcow2");

    // A target with compression shares nothing, and both together cannot be.
    let before = shop.clones();
    let packed = |reflink| BackupOptions { compression: Compression::Zstd { level: None }, ..with(reflink) };
    assert_eq!(shop.backup("disk.qcow2", "packed.qcow2", packed(Reflink::Auto)).shared_bytes, 0);
    let error = shop.start("disk.qcow2", "both.qcow2", packed(Reflink::Always)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(shop.clones(), before);
}

#[test]
fn small_clusters_are_copied() {
    let shop = Shop::new();
    shop.disk("disk.qcow2", "cluster_size=512");
    let small = |reflink| BackupOptions { cluster_size: Some(2048), ..with(reflink) };
    assert_eq!(shop.backup("disk.qcow2", "small.qcow2", small(Reflink::Auto)).shared_bytes, 0);
    let error = shop.start("disk.qcow2", "no.qcow2", small(Reflink::Always)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no.qcow2") && error.to_string().contains("4096"), "{error}");
    shop.nothing_is_left("no.qcow2");
    // Some of the source's small clusters lie as the blocks do, and those of a larger target are whole.
    let large = BackupOptions { cluster_size: Some(64 << 10), ..with(Reflink::Auto) };
    shop.backup("disk.qcow2", "large.qcow2", large);
}

#[test]
fn a_storage_that_shares_nothing_copies_or_refuses() {
    let shop = Shop::new();
    shop.disk("disk.qcow2", "cluster_size=64k");
    let plain = Shop { storage: SimulatedStorage::new(), ..shop };
    plain.bring("disk.qcow2");
    let report = plain.backup("disk.qcow2", "auto.qcow2", with(Reflink::Auto));
    assert_eq!((report.shared_bytes, plain.clones()), (0, 0));
    let error = plain.start("disk.qcow2", "always.qcow2", with(Reflink::Always)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("reflink=auto"), "{error}");
    plain.nothing_is_left("always.qcow2");

    // Never means that it is not even tried.
    plain.storage.share_blocks();
    let report = plain.backup("disk.qcow2", "never.qcow2", with(Reflink::Never));
    assert_eq!((report.shared_bytes, plain.clones()), (0, 0));
}

#[test]
fn a_host_file_system_that_cannot_share_is_named() {
    let folders = [tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap()];
    let source = folders[0].path().join("disk.raw");
    fs::write(&source, [7; 100_000]).unwrap();
    for folder in &folders {
        let target = folder.path().join("copy.qcow2");
        let run = |reflink| {
            let options = DiskOptions { format: Format::Raw, ..DiskOptions::default() };
            let source = Disk::open_in(Arc::new(HostStorage) as Arc<dyn Storage>, &source, &options).unwrap();
            let mut transaction = Transaction::new();
            transaction.add(Backup { source, target: target.clone(), options: with(reflink) });
            transaction.commit().map(|jobs| jobs[0].report())
        };
        let error = run(Reflink::Always).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(
            error.to_string().contains("copy.qcow2") && error.to_string().contains("disk.raw"),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(folder.path())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name() != "disk.raw" })
                .count(),
            0
        );
        assert_eq!(run(Reflink::Auto).unwrap().shared_bytes, 0);
    }
}

/// Each clone fails in turn, for reasons that come late: the range is copied, or the job fails and leaves nothing.
#[test]
fn sharing_that_fails_on_the_way() {
    let shop = Shop::new();
    shop.disk("disk.qcow2", "cluster_size=64k");
    let before = shop.clones();
    let whole = shop.backup("disk.qcow2", "whole.qcow2", with(Reflink::Always));
    let clones = shop.clones() - before;
    assert!(clones >= 4, "{clones}");
    let expected = shop.storage.contents("/d/whole.qcow2").unwrap().len();
    for errno in [libc::EOPNOTSUPP, libc::EIO, libc::ENOSPC] {
        for nth in 1..=clones {
            for lasting in [false, true] {
                let name = format!("{errno}-{nth}-{lasting}.qcow2");
                let fail = || {
                    let fault = Fault::once(OperationKind::CloneRange, nth, Failure::Errno(errno));
                    shop.storage.fail(Fault { lasting, ..fault });
                };
                fail();
                let report = shop.backup("disk.qcow2", &name, with(Reflink::Auto));
                shop.storage.stop_failing();
                assert_eq!(report.data_bytes, whole.data_bytes);
                assert!(
                    report.stored_bytes > 0 && report.shared_bytes < whole.shared_bytes,
                    "{name}: {report:?}"
                );
                assert_eq!(shop.storage.contents(format!("/d/{name}")).unwrap().len(), expected);

                fail();
                let error = shop.start("disk.qcow2", "always.qcow2", with(Reflink::Always)).unwrap_err();
                shop.storage.stop_failing();
                assert!(error.errno() == Some(errno), "{name}: {error}");
                shop.nothing_is_left("always.qcow2");

                // An error that has passed is made up for.
                if errno == libc::EIO && nth > 1 && !lasting {
                    fail();
                    let ignore =
                        BackupOptions { on_target_error: ErrorPolicy::Ignore, ..with(Reflink::Always) };
                    assert_eq!(shop.backup("disk.qcow2", &format!("{nth}-again.qcow2"), ignore), whole);
                }
            }
        }
    }
}
