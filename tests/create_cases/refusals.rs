//! What is refused: the text says what to do, and nothing has changed on disk.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use holstein::{
    Access, Backing, BackingPolicy, Compat, CompressionType, CreateOptions, Disk, DiskOptions, ErrorKind,
    Existing, Format, Layers, Preallocation, Sharing,
};

use crate::support::{
    command::mentions,
    layer::{KIB, MIB},
    qemu::Workshop,
};

const NEW: &str = "new.qcow2";

/// A folder with what a new image can meet.
struct Place {
    _folder: tempfile::TempDir,
    workshop: Workshop,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let workshop = Workshop::new(inside);
        workshop.create("base.qcow2", MIB, "");
        workshop.create("../outside.qcow2", MIB, "");
        workshop.create("old.qcow2", MIB, "");
        fs::write(workshop.path("disk.raw"), vec![7; MIB as usize]).unwrap();
        fs::write(workshop.path("odd.raw"), vec![7; 1000]).unwrap();
        symlink("nowhere", workshop.path("dangling")).unwrap();
        symlink("..", workshop.path("up")).unwrap();
        fs::create_dir(workshop.path("folder")).unwrap();
        Place { _folder: folder, workshop }
    }

    /// Every file below both folders with its bytes.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let around = Workshop::new(self.workshop.folder().parent().unwrap());
        around.listing().into_iter().map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
    }

    #[track_caller]
    fn refused(
        &self,
        name: &str,
        size: Option<u64>,
        options: &CreateOptions,
        kind: ErrorKind,
        words: &[&str],
    ) {
        let before = self.state();
        let error = Disk::create(self.workshop.path(name), size, options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        mentions(&error.to_string(), words);
        assert!(self.state() == before, "something has changed: {error}");
    }
}

fn options(change: impl FnOnce(&mut CreateOptions)) -> CreateOptions {
    let mut options = CreateOptions::default();
    change(&mut options);
    options
}

fn backing(name: &str) -> Option<Backing> {
    Some(Backing { name: name.into(), format: Format::Qcow2 })
}

/// Options that no image can have, or not together.
pub fn contradictions() {
    type Change = fn(&mut CreateOptions);
    let cases: &[(Change, &[&str])] = &[
        (|o| o.cluster_size = Some(256), &["cluster size 256", "512", "2097152"]),
        (|o| o.cluster_size = Some(4 << 20), &["cluster size 4194304", "2097152"]),
        (|o| o.cluster_size = Some(0), &["cluster size 0"]),
        (|o| o.cluster_size = Some(96 * KIB), &["cluster size 98304", "power of two"]),
        (|o| o.refcount_bits = Some(0), &["0 bits", "use 1, 2, 4"]),
        (|o| o.refcount_bits = Some(12), &["12 bits", "use 1, 2, 4"]),
        (|o| o.refcount_bits = Some(128), &["128 bits", "use 1, 2, 4"]),
        (
            |o| (o.compat, o.refcount_bits) = (Compat::V2, Some(8)),
            &["version 2", "refcounts of 8 bits", "compat 1.1"],
        ),
        (|o| (o.compat, o.extended_l2) = (Compat::V2, true), &["version 2", "extended L2", "compat 1.1"]),
        (|o| (o.compat, o.lazy_refcounts) = (Compat::V2, true), &["version 2", "lazy", "compat 1.1"]),
        (
            |o| (o.compat, o.compression_type) = (Compat::V2, CompressionType::Zstd),
            &["version 2", "zstd", "compat 1.1"],
        ),
        (
            |o| (o.compat, o.data_file) = (Compat::V2, Some("new.data".into())),
            &["version 2", "data file", "compat 1.1"],
        ),
        (|o| (o.extended_l2, o.cluster_size) = (true, Some(8 * KIB)), &["extended L2", "16384"]),
        (|o| o.data_file_raw = true, &["data file", "raw", "name the data file"]),
        (
            |o| {
                (o.data_file, o.data_file_raw) = (Some("new.data".into()), true);
                o.backing = backing("base.qcow2");
            },
            &["raw data file", "leave out the backing file"],
        ),
        (
            |o| (o.data_file, o.compression_type) = (Some("new.data".into()), CompressionType::Zstd),
            &["data file", "compressed", "leave out", "zstd"],
        ),
        (
            |o| (o.backing, o.preallocation) = (backing("base.qcow2"), Preallocation::Metadata),
            &["preallocat", "backing file", "extended L2"],
        ),
        (|o| o.open.format = Format::Raw, &["new image is qcow2", "raw"]),
        (
            |o| (o.open.access, o.open.sharing) = (Access::Write, Sharing::ForceShare),
            &["shared", "cannot be written"],
        ),
    ];
    let place = Place::new();
    for (change, words) in cases {
        place.refused(NEW, Some(MIB), &options(change), ErrorKind::InvalidArgument, words);
    }
}

/// Sizes that cannot be, or that nobody said.
pub fn sizes() {
    let place = Place::new();
    let invalid = ErrorKind::InvalidArgument;
    let plain = CreateOptions::default();
    place.refused(NEW, None, &plain, invalid, &["a size is needed"]);
    place.refused(NEW, Some(1000), &plain, invalid, &["1000", "multiple of 512", "use 512 or 1024"]);
    place.refused(NEW, Some(u64::MAX), &plain, invalid, &["multiple of 512", "use 18446744073709551104"]);
    place.refused(NEW, Some(!511), &plain, invalid, &["too large", "use larger clusters"]);
    let data = options(|o| o.data_file = Some("new.data".into()));
    place.refused(NEW, None, &data, invalid, &["a size is needed"]);

    let metadata = |cluster_size, bits| {
        options(|o| {
            o.preallocation = Preallocation::Metadata;
            (o.cluster_size, o.refcount_bits) = (Some(cluster_size), Some(bits));
        })
    };
    // 8 MiB of table, 64 refcounts in each block, 512 bytes for each: 32 GiB, tables and all.
    place.refused(NEW, Some(32 << 30), &metadata(512, 64), invalid, &["refcount table over 8 MiB", "larger"]);
    place.refused(NEW, Some(1 << 56), &metadata(2 << 20, 1), invalid, &["leave preallocation off"]);
    let far = options(|o| {
        (o.data_file, o.data_file_raw) = (Some("new.data".into()), true);
        o.cluster_size = Some(2 << 20);
    });
    place.refused(NEW, Some((1 << 56) + (2 << 20)), &far, invalid, &["leave preallocation off"]);
}

/// Backing files that cannot be used.
pub fn backing_files() {
    let place = Place::new();
    let below = |name: &str| options(|o| o.backing = backing(name));
    let size = Some(MIB);
    place.refused(NEW, size, &below("nothing.qcow2"), ErrorKind::NotFound, &[NEW, "nothing.qcow2"]);
    place.refused(NEW, size, &below("disk.raw"), ErrorKind::Corrupt, &["disk.raw", "not a qcow2 image"]);
    place.refused(NEW, size, &below("nbd://host/x"), ErrorKind::InvalidArgument, &["nbd", "./"]);
    place.refused(NEW, size, &below(""), ErrorKind::InvalidArgument, &["backing file's name", "empty"]);
    let outside = ["lies outside", "backing policy under=DIR or any"];
    place.refused(NEW, size, &below("../outside.qcow2"), ErrorKind::PolicyDenied, &outside);
    place.refused(NEW, size, &below("up/outside.qcow2"), ErrorKind::PolicyDenied, &outside);
    let denied =
        options(|o| (o.backing, o.open.backing_policy) = (backing("base.qcow2"), BackingPolicy::Deny));
    place.refused(NEW, size, &denied, ErrorKind::PolicyDenied, &["policy is deny"]);
    let small = options(|o| {
        (o.backing, o.cluster_size) = (backing(&format!("{}base.qcow2", "./".repeat(200))), Some(512));
    });
    place.refused(NEW, size, &small, ErrorKind::InvalidArgument, &["backing file's name", "larger clusters"]);
    let long = below(&format!("{}base.qcow2", "./".repeat(510)));
    place.refused(NEW, size, &long, ErrorKind::InvalidArgument, &["1030 bytes, over 1023"]);

    // Its own backing file.
    let itself = options(|o| (o.backing, o.existing) = (backing("base.qcow2"), Existing::Overwrite));
    place.refused("base.qcow2", size, &itself, ErrorKind::InvalidArgument, &["base.qcow2", "reads"]);
    let missing = options(|o| o.backing = backing(NEW));
    place.refused(NEW, size, &missing, ErrorKind::NotFound, &[NEW]);

    // One that somebody writes.
    let writable = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let writer = Disk::open(place.workshop.path("base.qcow2"), &writable).unwrap();
    place.refused(
        NEW,
        size,
        &below("base.qcow2"),
        ErrorKind::Locked,
        &["base.qcow2", "another handle", "close that first"],
    );
    drop(writer);
    Disk::create(place.workshop.path(NEW), size, &below("base.qcow2")).unwrap();
}

/// A chain has at most as many images as its limit says.
pub fn deep_chains() {
    let place = Place::new();
    let mut below = "base.qcow2".to_owned();
    for depth in 2..=12 {
        let name = format!("{depth}.qcow2");
        let disk = Disk::create(
            place.workshop.path(&name),
            None,
            &options(|o| (o.backing, o.open.chain_limit) = (backing(&below), 12)),
        );
        assert_eq!(disk.unwrap().chain().len(), depth);
        below = name;
    }
    let above = options(|o| (o.backing, o.open.chain_limit) = (backing(&below), 12));
    place.refused(NEW, None, &above, ErrorKind::Limit, &["more than 12 images", "chain limit"]);
}

/// Data files that are there, cannot be, or are the image.
pub fn data_files() {
    let place = Place::new();
    let data = |name: &str| options(|o| o.data_file = Some(name.into()));
    let raw = |name: &str| options(|o| (o.data_file, o.data_file_raw) = (Some(name.into()), true));
    let (size, invalid) = (Some(MIB), ErrorKind::InvalidArgument);
    let exists = ["disk.raw' exists already", "choose another name"];
    place.refused(NEW, size, &data("disk.raw"), ErrorKind::Exists, &exists);
    place.refused(NEW, size, &data("dangling"), ErrorKind::Exists, &["dangling' exists already"]);
    place.refused(NEW, size, &raw("dangling"), ErrorKind::Exists, &["dangling' exists already"]);
    let overwrite = options(|o| (o.data_file, o.existing) = (Some("disk.raw".into()), Existing::Overwrite));
    place.refused(NEW, size, &overwrite, ErrorKind::Exists, &exists);
    let longer = ["1048576 bytes", "2097152", "leave out the size"];
    place.refused(NEW, Some(2 * MIB), &raw("disk.raw"), invalid, &longer);
    place.refused(NEW, Some(512), &raw("disk.raw"), invalid, &["leave out the size"]);
    place.refused(NEW, None, &raw("odd.raw"), invalid, &["odd.raw", "1000 bytes", "make it longer"]);
    place.refused(NEW, size, &raw("folder"), ErrorKind::Io, &["folder"]);
    place.refused(NEW, size, &data("missing/new.data"), ErrorKind::NotFound, &["data file", "missing"]);
    let own = ["the data file '", "does not begin with '.holstein-'"];
    place.refused(NEW, size, &data(".holstein-1.tmp"), invalid, &own);
    fs::copy(place.workshop.path("disk.raw"), place.workshop.path(".holstein-1.journal")).unwrap();
    place.refused(NEW, size, &raw("./.holstein-1.journal"), invalid, &own);
    place.refused(NEW, size, &data("json:{}"), invalid, &["data file's name", "./"]);
    let outside = ["data file", "lies outside", "under=DIR or any"];
    place.refused(NEW, size, &data("../new.data"), ErrorKind::PolicyDenied, &outside);
    place.refused(NEW, size, &data("up/new.data"), ErrorKind::PolicyDenied, &outside);
    place.refused(NEW, size, &data(NEW), invalid, &["cannot be the same file"]);
    place.refused(NEW, size, &data("./folder/../new.qcow2"), invalid, &["cannot be the same file"]);
    let replaced = options(|o| {
        (o.data_file, o.data_file_raw) = (Some("disk.raw".into()), true);
        o.existing = Existing::Overwrite;
    });
    place.refused("disk.raw", size, &replaced, invalid, &["disk.raw", "reads"]);
    let long = options(|o| {
        (o.data_file, o.cluster_size) = (Some(format!("{}new.data", "./".repeat(200)).into()), Some(512));
    });
    place.refused(NEW, size, &long, invalid, &["data file's name", "larger clusters"]);
    let both = options(|o| {
        (o.data_file, o.cluster_size) = (Some(format!("{}new.data", "./".repeat(100)).into()), Some(512));
        o.backing = backing(&format!("{}base.qcow2", "./".repeat(100)));
    });
    place.refused(NEW, size, &both, invalid, &["names of the backing file and the data file", "larger"]);

    // A raw disk that somebody writes.
    let raw_disk = place.workshop.path("disk.raw");
    let inner =
        holstein::storage::Storage::open_writable(&holstein::storage::HostStorage, &raw_disk).unwrap();
    inner.lock(holstein::storage::Lock::Write).unwrap();
    place.refused(
        NEW,
        None,
        &raw("disk.raw"),
        ErrorKind::Locked,
        &["disk.raw", "another handle", "close that first"],
    );
    drop(inner);
    Disk::create(place.workshop.path(NEW), None, &raw("disk.raw")).unwrap();
}

/// Names that are taken, or no names of files.
pub fn targets() {
    let place = Place::new();
    let (plain, size) = (CreateOptions::default(), Some(MIB));
    let exists = ["old.qcow2' exists already", "allow overwriting"];
    place.refused("old.qcow2", size, &plain, ErrorKind::Exists, &exists);
    place.refused("dangling", size, &plain, ErrorKind::Exists, &["dangling' exists already"]);
    let overwrite = options(|o| o.existing = Existing::Overwrite);
    let invalid = ErrorKind::InvalidArgument;
    place.refused("dangling", size, &overwrite, invalid, &["dangling", "no regular file"]);
    place.refused("folder", size, &overwrite, invalid, &["folder", "no regular file"]);
    place.refused("folder/", size, &overwrite, invalid, &["no file name"]);
    place.refused("missing/new.qcow2", size, &plain, ErrorKind::NotFound, &["missing"]);
    let own = ["called like", "does not begin with '.holstein-'"];
    place.refused(".holstein-0123456789abcdef.journal", size, &plain, invalid, &own);
    place.refused("folder/.holstein-1.tmp", size, &overwrite, invalid, &own);

    let reader = Disk::open(place.workshop.path("old.qcow2"), &DiskOptions::default()).unwrap();
    place.refused("old.qcow2", size, &overwrite, ErrorKind::Locked, &["old.qcow2", "another handle"]);
    drop(reader);
    let before = place.state().len();
    let disk = Disk::create(place.workshop.path("old.qcow2"), Some(3 * MIB), &overwrite).unwrap();
    assert_eq!(disk.size(), 3 * MIB);
    assert_eq!(place.state().len(), before, "no file is left of the old one");
}

/// The new disk is open as the options say.
pub fn opened_as_asked() {
    let place = Place::new();
    let size = Some(MIB);
    let reading = Disk::create(place.workshop.path("a.qcow2"), size, &CreateOptions::default()).unwrap();
    Disk::open(place.workshop.path("a.qcow2"), &DiskOptions::default()).unwrap();
    drop(reading);
    let writing = options(|o| o.open.access = Access::Write);
    let disk = Disk::create(place.workshop.path("b.qcow2"), size, &writing).unwrap();
    let busy = Disk::open(place.workshop.path("b.qcow2"), &DiskOptions::default()).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Locked);
    let change = holstein::BitmapChange::Add {
        name: b"nightly".to_vec(),
        granularity: None,
        recording: holstein::Recording::Enabled,
    };
    disk.change_bitmaps(&[change]).unwrap();
    drop(disk);
    place.workshop.check("b.qcow2");

    // Anywhere, when the policy says so; and without what is below.
    let any = options(|o| {
        o.backing = backing("../outside.qcow2");
        o.open.backing_policy = BackingPolicy::Any;
    });
    let disk = Disk::create(place.workshop.path("c.qcow2"), None, &any).unwrap();
    assert_eq!((disk.chain().len(), disk.size()), (2, MIB));
    let top = options(|o| (o.backing, o.open.layers) = (backing("base.qcow2"), Layers::TopOnly));
    let disk = Disk::create(place.workshop.path("d.qcow2"), None, &top).unwrap();
    assert_eq!((disk.chain().len(), disk.size()), (1, MIB));
}

/// A raw disk that is there becomes the data of a new image and stays as it is; also with subclusters.
pub fn raw_disks_get_an_image() {
    for extended_l2 in [false, true] {
        let place = Place::new();
        let before = fs::read(place.workshop.path("disk.raw")).unwrap();
        let raw = options(|o| {
            (o.data_file, o.data_file_raw) = (Some("disk.raw".into()), true);
            o.extended_l2 = extended_l2;
        });
        let disk = Disk::create(place.workshop.path(NEW), None, &raw).unwrap();
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == before);
        drop(disk);
        place.workshop.check(NEW);
        place.workshop.identical((NEW, "qcow2"), ("disk.raw", "raw"));
        assert!(fs::read(place.workshop.path("disk.raw")).unwrap() == before);
        // And goes on being one.
        place.workshop.io(NEW, "qcow2", &["write -P 9 100k 50k", "write -z 300k 10k"]);
        place.workshop.identical((NEW, "qcow2"), ("disk.raw", "raw"));
    }
}
