//! Our ways to hold an image.

use std::sync::Arc;

use holstein::{
    Access, Backing, Backup, BackupOptions, BitmapMode, Disk, DiskOptions, Existing, Format,
    RunningTransaction, Sharing, SyncMode, Transaction,
};

use crate::gate::{Gate, GatedStorage};
use crate::site::Site;

/// What we do with `disk.qcow2`, or with `ext.qcow2` and `data.raw`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ours {
    Read,
    Write,
    ForceShare,
    /// As the backing file of `top.qcow2`.
    Backing,
    /// A backup reads it.
    Source,
    /// A backup reads it and will clear its bitmap.
    Incremental,
    /// A backup will replace it.
    Target,
    /// It is below the image that a backup makes.
    TargetBacking,
    ReadExternal,
    WriteExternal,
    ForceShareExternal,
}

/// Holds it until it is dropped.
pub(crate) struct Held {
    _disk: Option<Disk>,
    run: Option<RunningTransaction>,
    gate: Arc<Gate>,
}

impl Held {
    /// Lets the backup go on, to its end.
    pub(crate) fn finish(&self) -> holstein::Result<()> {
        self.gate.open();
        self.run.as_ref().unwrap().wait(None).unwrap()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            run.cancel();
        }
        self.gate.open();
    }
}

impl Ours {
    pub(crate) fn hold(self, site: &Site) -> Held {
        let options = |access, sharing| DiskOptions { access, sharing, ..DiskOptions::default() };
        let [read, write] = [Access::Read, Access::Write].map(|access| options(access, Sharing::Locked));
        let shared = options(Access::Read, Sharing::ForceShare);
        let backup = BackupOptions::default;
        let nightly = |sync, bitmap_mode| BackupOptions {
            sync: Some(sync),
            bitmap: Some(b"nightly".to_vec()),
            bitmap_mode: Some(bitmap_mode),
            ..backup()
        };
        let overwrite = BackupOptions { existing: Existing::Overwrite, ..backup() };
        let below = Backing { name: "disk.qcow2".into(), format: Format::Qcow2 };
        let above = BackupOptions { backing: Some(below), ..backup() };
        match self {
            Ours::Read => open(site, "disk.qcow2", &read),
            Ours::Write => open(site, "disk.qcow2", &write),
            Ours::ForceShare => open(site, "disk.qcow2", &shared),
            Ours::Backing => open(site, "top.qcow2", &read),
            Ours::Source => run(site, "disk.qcow2", &read, "new.qcow2", backup()),
            Ours::Incremental => {
                let options = nightly(SyncMode::Incremental, BitmapMode::OnSuccess);
                run(site, "disk.qcow2", &write, "new.qcow2", options)
            }
            Ours::Target => run(site, "source.qcow2", &read, "disk.qcow2", overwrite),
            Ours::TargetBacking => run(site, "source.qcow2", &read, "new.qcow2", above),
            Ours::ReadExternal => open(site, "ext.qcow2", &read),
            Ours::WriteExternal => open(site, "ext.qcow2", &write),
            Ours::ForceShareExternal => open(site, "ext.qcow2", &shared),
        }
    }
}

fn open(site: &Site, image: &str, options: &DiskOptions) -> Held {
    let disk = Disk::open(site.workshop.path(image), options).unwrap();
    Held { _disk: Some(disk), run: None, gate: Arc::default() }
}

/// Starts a backup, which stops where it would write the first data.
fn run(site: &Site, image: &str, how: &DiskOptions, target: &str, options: BackupOptions) -> Held {
    let gate = Arc::<Gate>::default();
    let storage = Arc::new(GatedStorage(gate.clone()));
    let source = Disk::open_in(storage, site.workshop.path(image), how).unwrap();
    let mut transaction = Transaction::new();
    transaction.add(Backup { source, target: site.workshop.path(target), options });
    let run = transaction.start().unwrap();
    gate.wait_for_writer();
    Held { _disk: None, run: Some(run), gate }
}
