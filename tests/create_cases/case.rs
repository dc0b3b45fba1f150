//! One set of options for a new image, in our words and in those of `qemu-img create`.

use std::path::Path;

use holstein::{
    Backing, Compat, CompressionType, CreateOptions, Disk, Error, Existing, Format, Preallocation,
};

use crate::support::{
    layer::{KIB, MIB},
    qemu::Workshop,
    rng::Rng,
};

/// The image that is made.
pub const IMAGE: &str = "new.qcow2";
/// Its data file.
pub const DATA: &str = "new.data";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Case {
    pub compat: &'static str,
    pub cluster_size: u64,
    pub refcount_bits: u32,
    pub extended_l2: bool,
    pub zstd: bool,
    pub lazy: bool,
    /// Name and format.
    pub backing: Option<(&'static str, &'static str)>,
    pub data_file: bool,
    pub raw: bool,
    pub metadata: bool,
    /// `None`: as large as the backing file.
    pub size: Option<u64>,
}

impl Case {
    /// What is made when nothing is asked for.
    pub fn plain(size: u64) -> Self {
        Case {
            compat: "1.1",
            cluster_size: 64 * KIB,
            refcount_bits: 16,
            extended_l2: false,
            zstd: false,
            lazy: false,
            backing: None,
            data_file: false,
            raw: false,
            metadata: false,
            size: Some(size),
        }
    }

    /// Set number `number`: all cluster sizes with all refcount widths within 91 numbers, the rest by chance;
    /// many contradict themselves.
    pub fn random(number: u64, rng: &mut Rng) -> Self {
        let mut case = Case::plain(0);
        case.cluster_size = 512 << (number % 13);
        case.refcount_bits = 1 << (number % 7);
        if rng.chance(12) {
            case.compat = "0.10";
            case.refcount_bits = if rng.chance(80) { 16 } else { case.refcount_bits };
        }
        case.extended_l2 = rng.chance(if case.cluster_size >= 16 * KIB { 40 } else { 10 });
        case.zstd = rng.chance(20);
        case.lazy = rng.chance(20);
        case.data_file = rng.chance(25);
        case.raw = rng.chance(if case.data_file { 50 } else { 3 });
        case.metadata = rng.chance(35);
        let backing = if case.raw || case.metadata && !case.extended_l2 { 10 } else { 40 };
        if rng.chance(backing) {
            case.backing = Some(*rng.pick(&[("base.qcow2", "qcow2"), ("base.raw", "raw")]));
        }
        // Small clusters make many tables, of which QEMU writes each one by itself.
        let most = (case.cluster_size * 2000).min(24 * MIB);
        case.size = Some(match rng.below(6) {
            0 => 512,
            1 => case.cluster_size * rng.between(1, 20),
            _ => rng.between(1, most / 512) * 512,
        });
        if case.backing.is_some() && rng.chance(30) {
            case.size = None;
        }
        case
    }

    /// In our words.
    pub fn options(&self) -> CreateOptions {
        CreateOptions {
            compat: if self.compat == "0.10" { Compat::V2 } else { Compat::V3 },
            cluster_size: Some(self.cluster_size),
            refcount_bits: Some(self.refcount_bits),
            extended_l2: self.extended_l2,
            compression_type: if self.zstd { CompressionType::Zstd } else { CompressionType::Zlib },
            lazy_refcounts: self.lazy,
            backing: self.backing.map(|(name, format)| Backing {
                name: name.into(),
                format: if format == "raw" { Format::Raw } else { Format::Qcow2 },
            }),
            data_file: self.data_file.then(|| DATA.into()),
            data_file_raw: self.raw,
            preallocation: if self.metadata { Preallocation::Metadata } else { Preallocation::Off },
            existing: Existing::Refuse,
            open: Default::default(),
        }
    }

    pub fn create(&self, folder: &Path) -> Result<Disk, Error> {
        Disk::create(folder.join(IMAGE), self.size, &self.options())
    }

    /// `qemu-img create` in a workshop's folder; whether it made the image.
    pub fn qemu_creates(&self, workshop: &Workshop) -> bool {
        let on = |set: bool| if set { "on" } else { "off" };
        let mut options = format!(
            "compat={},cluster_size={},refcount_bits={},extended_l2={},compression_type={},lazy_refcounts={}",
            self.compat,
            self.cluster_size,
            self.refcount_bits,
            on(self.extended_l2),
            if self.zstd { "zstd" } else { "zlib" },
            on(self.lazy),
        );
        if self.data_file {
            options += &format!(",data_file={DATA}");
        }
        if self.raw {
            options += ",data_file_raw=on";
        }
        if self.metadata {
            options += ",preallocation=metadata";
        }
        let size = self.size.map(|size| size.to_string());
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        if let Some((name, format)) = self.backing {
            args.extend(["-b", name, "-F", format]);
        }
        args.push(IMAGE);
        args.extend(size.as_deref());
        workshop.try_run("qemu-img", &args).status.success()
    }
}
