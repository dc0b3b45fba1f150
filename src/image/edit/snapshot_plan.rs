//! Which snapshots an image shall have: decided, and refused, before anything is written.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        header::MAX_SNAPSHOTS,
        snapshot::{self, MAX_NAME, MAX_TABLE_BYTES, Snapshot},
        text::printable,
    },
    image::{Grant, Qcow2},
    memory,
};

/// One change of an image's internal snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChange {
    /// The disk is kept as it is.
    Create {
        /// 1 to 255 bytes, no zero byte, neither the id nor the name of another.
        name: Vec<u8>,
        /// What the snapshot says of when it was taken.
        date: SystemTime,
    },
    /// The snapshot goes.
    Delete {
        /// Its id or its name.
        id_or_name: Vec<u8>,
    },
}

/// The snapshots of an image after a change: those that stay, and at most one new.
#[derive(Debug)]
pub(crate) struct SnapshotPlan<'a> {
    pub(super) image: &'a Qcow2,
    /// Indices of those that stay, ascending.
    kept: Vec<usize>,
    pub(super) new: Option<Snapshot>,
}

impl<'a> SnapshotPlan<'a> {
    /// A list of changes, each of which sees those before it.
    pub(crate) fn new(image: &'a Qcow2, changes: &[SnapshotChange]) -> Result<Self> {
        if !changes.is_empty() {
            image.ensure_snapshots_known()?;
        }
        let mut plan = SnapshotPlan { image, kept: (0..image.snapshots().len()).collect(), new: None };
        if image.external_data_file_bit() && !changes.is_empty() {
            // What its tables lead to is not in this file, and has no refcounts.
            let text = "an image with a data file cannot have internal snapshots";
            return Err(plan.error(ErrorKind::Unsupported, text.into()));
        }
        for change in changes {
            match change {
                SnapshotChange::Create { name, date } => plan.create(name, *date)?,
                SnapshotChange::Delete { id_or_name } => plan.delete(id_or_name)?,
            }
        }
        Ok(plan)
    }

    /// The id of the new snapshot, if there is one.
    pub(crate) fn new_id(&self) -> Option<&[u8]> {
        self.new.as_ref().map(|new| new.id.as_slice())
    }

    /// Whether it changes anything.
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_none() && self.kept.len() == self.image.snapshots().len()
    }

    /// Adds a snapshot of the disk as it is. Its id is the number behind all that are in use, as QEMU counts.
    fn create(&mut self, name: &[u8], date: SystemTime) -> Result<()> {
        self.ensure_room()?;
        self.check_name(name)?;
        // What a clock can say and a snapshot cannot becomes the nearest that it can.
        let date = date.duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = self.image.header();
        let id = self.free_id().into_bytes();
        self.new = Some(Snapshot {
            l1_offset: header.l1_offset,
            l1_entries: header.l1_entries,
            id,
            name: name.to_vec(),
            date_sec: u32::try_from(date.as_secs()).unwrap_or(u32::MAX),
            date_nsec: date.subsec_nanos(),
            vm_clock_nsec: 0,
            vm_state_size: 0,
            disk_size: Some(header.size),
            icount: None,
        });
        Ok(())
    }

    /// Lets a snapshot go, by its id or its name.
    fn delete(&mut self, id_or_name: &[u8]) -> Result<()> {
        let named: Vec<_> = self.named(id_or_name).collect();
        match named.as_slice() {
            [] if self.new.as_ref().is_some_and(|new| is_called(new, id_or_name)) => self.new = None,
            [] => {
                let text = format!("the image has no snapshot '{}'", printable(id_or_name));
                return Err(self.error(ErrorKind::NotFound, text));
            }
            [index] => self.kept.retain(|kept| kept != index),
            several => {
                let ids: Vec<_> =
                    several.iter().map(|index| printable(&self.image.snapshots()[*index].id)).collect();
                let text = format!(
                    "'{}' is the id or the name of several snapshots (their ids: {}); use one that is of one alone",
                    printable(id_or_name),
                    ids.join(", ")
                );
                return Err(self.error(ErrorKind::InvalidArgument, text));
            }
        }
        Ok(())
    }

    /// Those that go.
    pub(super) fn deleted(&self) -> impl Iterator<Item = &'a Snapshot> {
        let goes = |(index, _): &(usize, &Snapshot)| self.kept.binary_search(index).is_err();
        self.image.snapshots().iter().enumerate().filter(goes).map(|(_, snapshot)| snapshot)
    }

    /// How many there are then.
    pub(super) fn count(&self) -> u32 {
        (self.kept.len() + usize::from(self.new.is_some())) as u32
    }

    /// The snapshot table. Entries that stay are what they were, byte for byte.
    pub(super) fn table(&self) -> Result<(Vec<u8>, Grant)> {
        let bytes = self.image.snapshot_bytes();
        let grant = self.image.budget().grant(bytes * 2, "snapshot table")?;
        let mut old = memory::zeroed(bytes as usize)?;
        self.image.file().read_exact(&mut old, self.image.header().snapshots_offset, "snapshot table")?;
        let mut table = Vec::new();
        memory::reserve(&mut table, old.len() + snapshot::LARGEST_ENTRY)?;
        let mut at = 0;
        for index in 0..self.image.snapshots().len() {
            let entry = old.get(at..).unwrap_or_default();
            let length = snapshot::parse(entry, self.image.header().version)?.length;
            if self.kept.binary_search(&index).is_ok() {
                table.extend_from_slice(&entry[..length]);
                table.resize(table.len().next_multiple_of(8), 0);
            }
            at += length.next_multiple_of(8);
        }
        if let Some(new) = &self.new {
            new.append(&mut table);
        }
        if table.len() as u64 > MAX_TABLE_BYTES {
            return Err(self.error(ErrorKind::Limit, "the snapshot table would be larger than 64 MiB".into()));
        }
        Ok((table, grant))
    }

    fn ensure_room(&self) -> Result<()> {
        if self.new.is_some() {
            let text = "one snapshot of an image can be taken at a time";
            return Err(self.error(ErrorKind::Unsupported, text.into()));
        }
        if self.count() >= MAX_SNAPSHOTS {
            let text = format!("the image has {MAX_SNAPSHOTS} snapshots, the most there can be; delete one");
            return Err(self.error(ErrorKind::Limit, text));
        }
        Ok(())
    }

    fn check_name(&self, name: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
            let text = format!("a snapshot's name has 1 to {MAX_NAME} bytes, none of them zero");
            return Err(self.error(ErrorKind::InvalidArgument, text));
        }
        if self.named(name).next().is_some() {
            let text = format!("the image has a snapshot with the name or id '{}' already", printable(name));
            return Err(self.error(ErrorKind::Exists, text));
        }
        Ok(())
    }

    /// Neither the id nor the name of any other.
    fn free_id(&self) -> String {
        let number = |snapshot: &Snapshot| {
            let digits = snapshot.id.iter().take_while(|byte| byte.is_ascii_digit());
            digits
                .fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
        };
        let snapshots = self.image.snapshots();
        let highest = self.kept.iter().map(|index| number(&snapshots[*index])).max().unwrap_or(0);
        let mut id = highest.wrapping_add(1).max(1);
        while self.named(id.to_string().as_bytes()).next().is_some() {
            id = id.wrapping_add(1);
        }
        id.to_string()
    }

    /// Those of the old ones that stay and have this id or name.
    fn named<'s>(&'s self, id_or_name: &'s [u8]) -> impl Iterator<Item = usize> + 's {
        let snapshots = self.image.snapshots();
        self.kept.iter().copied().filter(move |index| is_called(&snapshots[*index], id_or_name))
    }

    fn error(&self, kind: ErrorKind, text: String) -> Error {
        self.image.file().error(kind, text)
    }
}

fn is_called(snapshot: &Snapshot, id_or_name: &[u8]) -> bool {
    snapshot.id == id_or_name || snapshot.name == id_or_name
}
