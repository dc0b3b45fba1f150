//! What is done to the disk: by us, through the library or the command, and by QEMU's tools.

use std::{fs, ops::Range};

use holstein::{Access, BitmapChange, Disk, MergeSource, Recording};

use crate::{
    model::add,
    subject::{DISK, Subject},
    support::{
        layer::{DataFile, KIB},
        qemu::text,
    },
};

/// Whose hand a step is done by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    Library,
    Command,
    Qemu,
}

impl Subject {
    /// Does one step.
    pub fn step(&mut self) {
        let hand = match self.random.below(10) {
            0..=2 => Hand::Library,
            3..=4 => Hand::Command,
            _ => Hand::Qemu,
        };
        match self.random.below(20) {
            0..=7 => self.write(hand),
            8..=11 if self.takes_bitmaps() => self.change_bitmaps(hand),
            12..=13 if self.layer.takes_snapshots() => self.snapshot(),
            14..=16 => self.resize(hand),
            17..=18 => self.back_up(hand),
            _ => self.write(hand),
        }
    }

    /// Does something with the disk through the library, and closes it.
    pub fn library(&mut self, what: String, operation: impl FnOnce(&Disk) -> holstein::Result<()>) {
        self.shop.note(&format!("# library: {what}"));
        self.with_disk(Access::Write, |disk| operation(&disk).and_then(|()| disk.close()))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }

    fn place(&mut self, hand: Hand) -> Range<u64> {
        let (size, cluster) = (self.size(), self.layer.cluster_size());
        let at = match self.random.below(4) {
            0 => self.random.below(size.div_ceil(cluster)) * cluster,
            1 => size - self.random.between(1, size.min(2 * cluster)),
            _ => self.random.below(size),
        };
        let most = *self.random.pick(&[2000, 70 * KIB, 400 * KIB, 2 * cluster]);
        let end = at + self.random.between(1, most.min(size - at));
        if hand == Hand::Qemu || self.random.chance(50) {
            return at / 512 * 512..end.next_multiple_of(512).min(size);
        }
        self.has("unaligned write");
        at..end
    }

    fn write(&mut self, hand: Hand) {
        let range = self.place(hand);
        let (at, length) = (range.start, range.end - range.start);
        let kind = *self.random.pick(&["write", "write", "write", "zero", "discard", "compressed"]);
        if hand == Hand::Qemu {
            return self.write_by_qemu(kind, at, length);
        }
        let kind = if kind == "compressed" { "write" } else { kind };
        self.has(format!("{kind} by us"));
        let stretch = *self.random.pick(&[0, 64]);
        let bytes = match kind {
            "zero" | "discard" => vec![0; length as usize],
            _ => self.random.bytes(length as usize, stretch),
        };
        let (offset, count) = (at.to_string(), length.to_string());
        match (kind, hand) {
            ("zero", Hand::Library) => {
                self.library(format!("zero {range:?}"), |disk| disk.write_zeroes(range.clone()));
            }
            ("discard", Hand::Library) => {
                self.library(format!("discard {range:?}"), |disk| disk.discard(range.clone()));
            }
            (_, Hand::Library) => {
                self.library(format!("write {range:?}"), |disk| disk.write_at(&bytes, at));
            }
            ("zero", _) => drop(self.holstein.succeeds(&["write", DISK, &offset, "--zero", &count])),
            ("discard", _) => drop(self.holstein.succeeds(&["write", DISK, &offset, "--discard", &count])),
            _ => {
                fs::write(self.shop.path("piece"), &bytes).unwrap();
                self.holstein.succeeds(&["write", DISK, &offset, "--from", "piece"]);
            }
        }
        self.shop.note(&format!("# {hand:?}: {kind} {range:?}"));
        self.record(at, length);
        match kind {
            "discard" => {
                let discarded = self.discarded(&range);
                self.contents[discarded.start as usize..discarded.end as usize].fill(0);
            }
            _ => self.contents[at as usize..range.end as usize].copy_from_slice(&bytes),
        }
    }

    /// What our discard of a range gives up: the clusters that it covers whole.
    fn discarded(&self, range: &Range<u64>) -> Range<u64> {
        let cannot = self.layer.version == 2 && self.has_backing;
        let start = range.start.next_multiple_of(self.layer.cluster_size());
        let end = match range.end == self.size() {
            true => range.end,
            false => range.end / self.layer.cluster_size() * self.layer.cluster_size(),
        };
        if cannot || self.layer.data_file == DataFile::ExternalRaw || start >= end {
            0..0
        } else {
            start..end
        }
    }

    fn write_by_qemu(&mut self, kind: &str, at: u64, length: u64) {
        self.has(format!("{kind} by QEMU"));
        let cluster = self.layer.cluster_size();
        let pattern = self.random.between(1, 255) as u8;
        let unmap = *self.random.pick(&["", "-u "]);
        match kind {
            "zero" => self.shop.io(DISK, "qcow2", &[format!("write -z {unmap}{at} {length}")]),
            "discard" => {
                self.shop.io(DISK, "qcow2", &[format!("discard {at} {length}")]);
                self.adopt_discard(at, length);
                return self.record(at, length);
            }
            "compressed" => {
                let at = at / cluster * cluster;
                if at + cluster > self.size() || self.layer.data_file != DataFile::None {
                    return;
                }
                // Where there is data already QEMU refuses, having recorded it.
                let output =
                    self.shop.try_io(DISK, "qcow2", &[format!("write -c -P {pattern} {at} {cluster}")]);
                if output.status.success() {
                    self.contents[at as usize..(at + cluster) as usize].fill(pattern);
                }
                return self.record(at, cluster);
            }
            _ => self.shop.io(DISK, "qcow2", &[format!("write -P {pattern} {at} {length}")]),
        }
        let byte = if kind == "zero" { 0 } else { pattern };
        self.contents[at as usize..(at + length) as usize].fill(byte);
        self.record(at, length);
    }

    /// A change of bitmaps, `nightly` only where its chain goes on.
    fn change_bitmaps(&mut self, hand: Hand) {
        let names: Vec<String> = self.bitmaps.0.keys().filter(|name| *name != "nightly").cloned().collect();
        let new = format!("bitmap {}", self.random.below(1 << 40));
        let granularity = *self.random.pick(&[512, 4 * KIB, 64 * KIB, 1024 * KIB]);
        let recording = *self.random.pick(&[Recording::Enabled, Recording::Disabled]);
        let kind = match names.len() {
            0 => "add",
            _ => *self.random.pick(&["add", "add", "remove", "clear", "record", "merge", "rename"]),
        };
        let name = if names.is_empty() { new.clone() } else { self.random.pick(&names).clone() };
        let bytes = |name: &str| name.as_bytes().to_vec();
        let change = match kind {
            "add" if self.bitmaps.0.contains_key(&new) => return,
            "add" => add(&new, granularity, recording),
            "remove" => BitmapChange::Remove { name: bytes(&name) },
            "clear" => BitmapChange::Clear { name: bytes(&name) },
            "record" => BitmapChange::Record { name: bytes(&name), recording },
            "merge" => {
                let all: Vec<String> = self.bitmaps.0.keys().cloned().collect();
                let source: &String = self.random.pick(&all);
                let source = MergeSource::Name(bytes(source));
                BitmapChange::Merge { name: bytes(&name), sources: vec![source] }
            }
            _ if hand == Hand::Qemu || self.bitmaps.0.contains_key(&new) => return,
            _ => BitmapChange::Rename { name: bytes(&name), to: bytes(&new) },
        };
        let hands = if hand == Hand::Qemu { "QEMU" } else { "us" };
        self.has(format!("{kind} bitmap by {hands}"));
        match hand {
            Hand::Library => {
                // Two in one step.
                let size = *self.random.pick(&[512, 8 * KIB]);
                let other = add(&format!("{new} too"), size, recording);
                let changes = [change, other];
                self.library(format!("{changes:?}"), |disk| disk.change_bitmaps(&changes));
                self.changed(&changes);
                return;
            }
            Hand::Command => self.change_by_command(&change),
            Hand::Qemu => self.change_by_qemu(&change),
        }
        self.changed(&[change]);
    }

    fn change_by_command(&mut self, change: &BitmapChange) {
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        let words: Vec<String> = match change {
            BitmapChange::Add { name, granularity, recording } => {
                let mut words = vec!["add".into(), "-g".into(), granularity.unwrap().to_string()];
                if *recording == Recording::Disabled {
                    words.push("--disabled".into());
                }
                words.extend([DISK.into(), text(name)]);
                words
            }
            BitmapChange::Remove { name } => vec!["remove".into(), DISK.into(), text(name)],
            BitmapChange::Clear { name } => vec!["clear".into(), DISK.into(), text(name)],
            BitmapChange::CountFrom { .. } => panic!("no command does {change:?}"),
            BitmapChange::Record { name, recording } => {
                let word = if *recording == Recording::Enabled { "enable" } else { "disable" };
                vec![word.into(), DISK.into(), text(name)]
            }
            BitmapChange::Rename { name, to } => vec!["rename".into(), DISK.into(), text(name), text(to)],
            BitmapChange::Merge { name, sources } => {
                let MergeSource::Name(source) = &sources[0] else { panic!("{sources:?}") };
                vec!["merge".into(), DISK.into(), text(name), text(source)]
            }
        };
        self.shop.note(&format!("# holstein bitmap {words:?}"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.holstein.succeeds(&[&["bitmap"], &words[..]].concat());
    }

    fn change_by_qemu(&mut self, change: &BitmapChange) {
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        let mut args = vec!["bitmap".to_owned()];
        let name = match change {
            BitmapChange::Add { name, granularity, recording } => {
                args.extend(["--add".into(), "-g".into(), granularity.unwrap().to_string()]);
                if *recording == Recording::Disabled {
                    args.push("--disable".into());
                }
                name
            }
            BitmapChange::Remove { name } => {
                args.push("--remove".into());
                name
            }
            BitmapChange::CountFrom { .. } => panic!("QEMU does not do {change:?}"),
            BitmapChange::Clear { name } => {
                args.push("--clear".into());
                name
            }
            BitmapChange::Record { name, recording } => {
                args.push(if *recording == Recording::Enabled { "--enable" } else { "--disable" }.into());
                name
            }
            BitmapChange::Merge { name, sources } => {
                let MergeSource::Name(source) = &sources[0] else { panic!("{sources:?}") };
                args.extend(["--merge".into(), text(source)]);
                name
            }
            BitmapChange::Rename { .. } => panic!("QEMU renames no bitmaps"),
        };
        args.extend([DISK.into(), text(name)]);
        self.shop.img(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Takes, deletes or goes back to a snapshot; that is QEMU's alone.
    fn snapshot(&mut self) {
        let image = ["snapshot", "-q"];
        if self.snapshots.len() < 2 && self.random.chance(60) {
            let name = format!("s{}", self.random.below(1000));
            self.shop.img(&[&image[..], &["-c", &name, DISK]].concat());
            self.snapshots.push((name, self.contents.clone()));
            return self.has("snapshot");
        }
        if self.snapshots.is_empty() {
            return;
        }
        let index = self.random.below(self.snapshots.len() as u64) as usize;
        let (name, contents) = self.snapshots[index].clone();
        // With bitmaps QEMU does not go back, and another size is a resize too.
        if self.bitmaps.0.is_empty() && contents.len() == self.contents.len() {
            self.shop.img(&[&image[..], &["-a", &name, DISK]].concat());
            self.contents = contents;
            return self.has("back to a snapshot");
        }
        self.shop.img(&[&image[..], &["-d", &name, DISK]].concat());
        self.snapshots.remove(index);
        self.has("snapshot deleted");
    }

    fn resize(&mut self, hand: Hand) {
        let old = self.size();
        let step = *self.random.pick(&[512, 4 * KIB, 64 * KIB, self.layer.cluster_size()]);
        let by = self.random.between(1, 12) * step;
        // Three times as large is enough.
        let grows = old < 6 << 20 && (self.random.chance(55) || by >= old);
        let mut sizes = vec![if grows { old + by } else { old.saturating_sub(by).max(512) }];
        if !grows && self.random.chance(40) {
            sizes.push(old);
        }
        for size in sizes {
            if !self.resize_to(hand, size) {
                return;
            }
        }
    }

    /// Whether it could be done.
    fn resize_to(&mut self, hand: Hand, size: u64) -> bool {
        let old = self.size();
        let words = ["resize", "--shrink", DISK, &size.to_string()];
        let way = if size < old { "shrink" } else { "grow" };
        match hand {
            Hand::Qemu => {
                let output = self.shop.try_run("qemu-img", &words);
                if !output.status.success() {
                    let text = text(&output);
                    assert!(self.layer.version == 2 || text.contains("zero out new clusters"), "{text}");
                    return false;
                }
            }
            _ if self.layer.version == 2 && (self.has_backing || !self.snapshots.is_empty()) => return false,
            Hand::Library => self.library(format!("resize to {size}"), |disk| disk.resize(size)),
            Hand::Command => {
                self.shop.note(&format!("# holstein {words:?}"));
                self.holstein.succeeds(&words);
            }
        }
        self.contents.resize(size as usize, 0);
        for bitmap in self.bitmaps.0.values_mut() {
            let end = size.div_ceil(bitmap.granularity);
            bitmap.dirty.retain(|granule| *granule < end);
            if size > old && hand != Hand::Qemu {
                bitmap.dirty.extend(old / bitmap.granularity..end);
            }
        }
        let hands = if hand == Hand::Qemu { "QEMU" } else { "us" };
        self.has(format!("{way} by {hands}"));
        if size > old && hand == Hand::Qemu {
            self.grown_by_qemu = true;
            self.adopt_tail(old);
        }
        true
    }
}
