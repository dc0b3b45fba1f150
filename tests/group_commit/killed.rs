//! The built command, on real files, killed at any moment: in a group of backups, and in the recovery that the next one
//! begins with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use holstein::{Disk, DiskOptions};

use crate::{
    images::{Guest, guest},
    judge::{exhaustive, lost_nothing},
    model::Bitmaps,
    qemu::Workshop,
    rng::Rng,
};

const DISKS: usize = 2;

/// Two disks with their bitmaps and full copies, and what is known about them.
struct Site {
    template: tempfile::TempDir,
    folder: tempfile::TempDir,
    guests: Vec<Guest>,
    old: Vec<Bitmaps>,
}

fn in_memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

impl Site {
    fn new() -> Self {
        let template = tempfile::tempdir_in(in_memory()).unwrap();
        let shop = Workshop::new(template.path());
        let mut random = Rng::new(7, 7);
        let (mut guests, mut old) = (Vec::new(), Vec::new());
        for number in 0..DISKS {
            let (disk, full) = (format!("disk{number}.qcow2"), format!("full{number}.qcow2"));
            shop.create(&disk, 8 << 20, ["cluster_size=4k", "cluster_size=64k"][number]);
            shop.io(&disk, "qcow2", &["write -P 1 0 1M"]);
            shop.img(&["bitmap", "--add", &disk, "a"]);
            shop.img(&["convert", "-O", "qcow2", &disk, &full]);
            let noise = |_| format!("write -P {} {}k 12k", random.between(2, 99), random.below(8000));
            shop.io(&disk, "qcow2", &(0..60).map(noise).collect::<Vec<_>>());
            let opened = Disk::open(shop.path(&disk), &DiskOptions::default()).unwrap();
            guests.push(guest(&opened).unwrap());
            old.push(Bitmaps::of(&opened).unwrap());
        }
        Site { template, folder: tempfile::tempdir_in(in_memory()).unwrap(), guests, old }
    }

    fn path(&self, name: String) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Begins anew.
    fn reset(&self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for number in 0..DISKS {
            for name in [format!("disk{number}.qcow2"), format!("full{number}.qcow2")] {
                fs::copy(self.template.path().join(&name), self.path(name)).unwrap();
            }
        }
    }

    /// Runs the group for so long, and kills it; whether it had succeeded before.
    fn run_for(&self, time: Duration) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holstein"));
        command.args(["backup", "--quiet"]).current_dir(self.folder.path());
        for number in 0..DISKS {
            let disk = format!(
                "source=disk{number}.qcow2,target=inc{number}.qcow2,backing=full{number}.qcow2,bitmap=a,sync=incremental"
            );
            command.args(["--disk", &disk]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(time);
        let _ = child.kill();
        child.wait().unwrap().success()
    }

    /// Recovers; whether all is done, else nothing is.
    fn settle(&self) -> Result<bool, String> {
        lost_nothing(&holstein::recover(self.folder.path()).map_err(|e| e.to_string())?)?;
        let again = holstein::recover(self.folder.path()).map_err(|e| e.to_string())?;
        if !again.items.is_empty() {
            return Err(format!("the second recovery did {again:?}"));
        }
        let mut found = Vec::new();
        for number in 0..DISKS {
            let open = |name: String| {
                Disk::open(self.path(name), &DiskOptions::default()).map_err(|e| e.to_string())
            };
            let target = format!("inc{number}.qcow2");
            found.push(self.path(target.clone()).exists());
            if self.path(target.clone()).exists() && guest(&open(target)?)? != self.guests[number] {
                return Err(format!("target {number} is not complete"));
            }
            let disk = open(format!("disk{number}.qcow2"))?;
            if guest(&disk)? != self.guests[number] {
                return Err(format!("disk {number} changed"));
            }
            let bitmaps = Bitmaps::of(&disk)?;
            let is_clear = bitmaps.0["a"].dirty.is_empty();
            if !is_clear && bitmaps != self.old[number] {
                return Err(format!("the bitmap of disk {number} is neither old nor clear"));
            }
            found.push(is_clear);
        }
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}"));
        }
        if found.iter().any(|one| *one != found[0]) {
            return Err(format!("targets and clear bitmaps, disk by disk: {found:?}"));
        }
        Ok(found[0])
    }
}

#[test]
fn a_kill_leaves_all_or_nothing() {
    let site = Site::new();
    site.reset();
    let begin = Instant::now();
    assert!(site.run_for(Duration::from_secs(20)) || begin.elapsed() < Duration::from_secs(20));
    assert_eq!(site.settle(), Ok(true));
    // How long it takes, found by halving, so that kills come at all moments of it.
    let (mut low, mut high) = (Duration::ZERO, Duration::from_millis(400));
    while high - low > Duration::from_millis(2) {
        let middle = (low + high) / 2;
        site.reset();
        *if site.run_for(middle) { &mut high } else { &mut low } = middle;
        site.settle().unwrap();
    }
    let longest = high.as_micros() as u64 * 5 / 4;
    let mut random = Rng::new(11, 0);
    let rounds = if exhaustive() { 1000 } else { 40 };
    let (mut done, mut interrupted, mut twice) = (0, 0, 0);
    for round in 0..rounds {
        site.reset();
        let mut moments = vec![random.below(longest)];
        if random.chance(60) {
            // Into the recovery that this one begins with, or behind it.
            moments.push(random.below(longest));
            twice += 1;
        }
        let told: Vec<bool> =
            moments.iter().map(|moment| site.run_for(Duration::from_micros(*moment))).collect();
        let left = fs::read_dir(site.folder.path()).unwrap();
        let journals =
            left.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "journal"));
        interrupted += usize::from(journals.count() > 0);
        match site.settle() {
            Ok(all) if all || !told.contains(&true) => done += usize::from(all),
            other => {
                panic!("round {round}: killed after {moments:?} us, which told {told:?}, then {other:?}")
            }
        }
    }
    println!(
        "{rounds} rounds, killed within {longest} us, {twice} of them twice: {interrupted} left a journal, {done} are done"
    );
    assert!(done > rounds / 20 && rounds - done > rounds / 20 && interrupted > 0);
}
