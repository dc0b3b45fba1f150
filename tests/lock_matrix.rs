//! Who may use an image beside whom: our modes and QEMU's tools, in either order, and our modes among themselves.
//!
//! The verdicts are typed by hand from the rule of QEMU's locks: who reads an image excludes whom writes it, who
//! writes it excludes all others, and force-share excludes nobody. A mark `X` is a refusal, which must come at once,
//! blame the lock, and change nothing; a dot is success. Where QEMU comes second it decides itself.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "lock_matrix/cases.rs"]
mod cases;
#[path = "lock_matrix/gate.rs"]
mod gate;
#[path = "lock_matrix/ours.rs"]
mod ours;
#[path = "lock_matrix/site.rs"]
mod site;
#[path = "lock_matrix/theirs.rs"]
mod theirs;

use ours::Ours;
use site::{Site, Verdict};

/// A line of a table: a command, and what becomes of it beside each holder.
type Row = (&'static str, &'static str);

/// Judges all cells of a table, each in a folder of its own.
fn judge(rows: &[Row], holders: usize, cell: impl Fn(&Site, usize, &str) -> Result<Verdict, String>) {
    let mut wrong = Vec::new();
    for (line, verdicts) in rows {
        let verdicts: Vec<&str> = verdicts.split(' ').collect();
        assert_eq!(verdicts.len(), holders, "{line}");
        for (holder, expected) in verdicts.iter().enumerate() {
            let expected = match *expected {
                "." => Verdict::Works,
                "X" => Verdict::Refused,
                other => panic!("{line}: no verdict is '{other}'"),
            };
            match cell(&Site::new(), holder, line) {
                Ok(verdict) if verdict == expected => {}
                Ok(verdict) => wrong.push(format!("holder {holder}: {line}: {verdict:?}")),
                Err(text) => wrong.push(format!("holder {holder}: {text}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

const HOLDERS: [Ours; 8] = [
    Ours::Read,
    Ours::Write,
    Ours::ForceShare,
    Ours::Backing,
    Ours::Source,
    Ours::Incremental,
    Ours::Target,
    Ours::TargetBacking,
];

/// QEMU comes to `disk.qcow2` while we hold it.
#[rustfmt::skip]
const QEMU_SECOND: &[Row] = &[
    //                                            read write share backing source incremental target below-target
    ("qemu-io -r -c 'read 0 512' disk.qcow2",                             ". X . . . X X ."),
    ("qemu-io -r -U -c 'read 0 512' disk.qcow2",                          ". . . . . . . ."),
    ("qemu-io -c 'read 0 512' disk.qcow2",                                "X X . X X X X X"),
    ("qemu-io -c 'write 0 512' disk.qcow2",                               "X X . X X X X X"),
    ("qemu-img info disk.qcow2",                                          ". X . . . X X ."),
    ("qemu-img info -U disk.qcow2",                                       ". . . . . . . ."),
    ("qemu-img map disk.qcow2",                                           ". X . . . X X ."),
    ("qemu-img map -U disk.qcow2",                                        ". . . . . . . ."),
    ("qemu-img check disk.qcow2",                                         ". X . . . X X ."),
    ("qemu-img check -U disk.qcow2",                                      ". . . . . . . ."),
    ("qemu-img check -r leaks disk.qcow2",                                "X X . X X X X X"),
    ("qemu-img compare disk.qcow2 same.qcow2",                            ". X . . . X X ."),
    ("qemu-img compare -U disk.qcow2 same.qcow2",                         ". . . . . . . ."),
    ("qemu-img convert -O qcow2 disk.qcow2 copy.qcow2",                   ". X . . . X X ."),
    ("qemu-img convert -U -O qcow2 disk.qcow2 copy.qcow2",                ". . . . . . . ."),
    ("qemu-img convert -O qcow2 other.qcow2 disk.qcow2",                  "X X . X X X X X"),
    ("qemu-img convert -n -O qcow2 other.qcow2 disk.qcow2",               "X X . X X X X X"),
    ("qemu-img dd -O qcow2 if=disk.qcow2 of=copy.qcow2 bs=64k",           ". X . . . X X ."),
    ("qemu-img measure -O qcow2 disk.qcow2",                              ". X . . . X X ."),
    ("qemu-img bench -c 1 disk.qcow2",                                    ". X . . . X X ."),
    ("qemu-img bench -c 1 -w disk.qcow2",                                 "X X . X X X X X"),
    ("qemu-img snapshot -l disk.qcow2",                                   ". X . . . X X ."),
    ("qemu-img snapshot -l -U disk.qcow2",                                ". . . . . . . ."),
    ("qemu-img snapshot -c now disk.qcow2",                               "X X . X X X X X"),
    ("qemu-img snapshot -d before disk.qcow2",                            "X X . X X X X X"),
    ("qemu-img bitmap --add disk.qcow2 monday",                           "X X . X X X X X"),
    ("qemu-img bitmap --clear disk.qcow2 nightly",                        "X X . X X X X X"),
    ("qemu-img bitmap --remove disk.qcow2 nightly",                       "X X . X X X X X"),
    ("qemu-img bitmap --merge nightly -b disk.qcow2 -F qcow2 other.qcow2 weekly", ". X . . . X X ."),
    ("qemu-img resize disk.qcow2 2M",                                     "X X . X X X X X"),
    ("qemu-img amend -o lazy_refcounts=on disk.qcow2",                    "X X . X X X X X"),
    ("qemu-img rebase -u -b same.qcow2 -F qcow2 disk.qcow2",              "X X . X X X X X"),
    ("qemu-img rebase -b '' disk.qcow2",                                  "X X . X X X X X"),
    ("qemu-img commit disk.qcow2",                                        "X X . X X X X X"),
    ("qemu-img commit top.qcow2",                                         "X X . X X X X X"),
    ("qemu-img create -f qcow2 disk.qcow2 1M",                            "X X . X X X X X"),
    // Of the file below a new one it asks nothing but the size.
    ("qemu-img create -f qcow2 -b disk.qcow2 -F qcow2 new-top.qcow2",     ". . . . . . . ."),
    ("qemu-nbd --fork --pid-file=run.pid -k FOLDER/run.sock -f qcow2 -r disk.qcow2", ". X . . . X X ."),
    ("qemu-nbd --fork --pid-file=run.pid -k FOLDER/run.sock -f qcow2 disk.qcow2", "X X . X X X X X"),
    ("qemu-storage-daemon --daemonize --pidfile run.pid \
      --blockdev qcow2,node-name=n,read-only=on,file.driver=file,file.filename=disk.qcow2", ". X . . . X X ."),
    ("qemu-storage-daemon --daemonize --pidfile run.pid \
      --blockdev qcow2,node-name=n,file.driver=file,file.filename=disk.qcow2", "X X . X X X X X"),
    ("qemu-storage-daemon --daemonize --pidfile run.pid \
      --blockdev qcow2,node-name=n,file.driver=file,file.filename=disk.qcow2,file.locking=on", "X X . X X X X X"),
    // Whoever heeds no locks is kept out by nothing.
    ("qemu-storage-daemon --daemonize --pidfile run.pid \
      --blockdev qcow2,node-name=n,file.driver=file,file.filename=disk.qcow2,file.locking=off", ". . . . . . . ."),
];

#[test]
fn qemu_respects_what_we_hold() {
    judge(QEMU_SECOND, HOLDERS.len(), |site, holder, line| {
        let _held = HOLDERS[holder].hold(site);
        site.verdict(line)
    });
}

/// QEMU comes to a data file, or to the image that names it, while we hold both.
#[rustfmt::skip]
const QEMU_SECOND_AT_DATA: &[Row] = &[
    //                                                                      read write share
    ("qemu-io -f raw -r -c 'read 0 512' data.raw",                        ". . ."),
    ("qemu-io -f raw -c 'read 0 512' data.raw",                           "X X ."),
    ("qemu-io -f raw -c 'write 0 512' data.raw",                          "X X ."),
    ("qemu-img info -f raw data.raw",                                     ". . ."),
    // What we write nobody reads meanwhile.
    ("qemu-img convert -f raw -O raw data.raw copy.raw",                  ". X ."),
    ("qemu-img resize -f raw data.raw 2M",                                "X X ."),
    ("qemu-img create -f raw data.raw 1M",                                "X X ."),
    ("qemu-img convert -O raw other.qcow2 data.raw",                      "X X ."),
    ("qemu-io -r -c 'read 0 512' ext.qcow2",                              ". X ."),
    ("qemu-io -r -U -c 'read 0 512' ext.qcow2",                           ". . ."),
    ("qemu-io -c 'write 0 512' ext.qcow2",                                "X X ."),
    ("qemu-nbd --fork --pid-file=run.pid -k FOLDER/run.sock -f raw data.raw", "X X ."),
    // A raw node that nobody uses yet has no locks, and so no conflicts.
    ("qemu-storage-daemon --daemonize --pidfile run.pid \
      --blockdev raw,node-name=n,file.driver=file,file.filename=data.raw", ". . ."),
];

#[test]
fn qemu_respects_data_files_that_we_read() {
    const HOLDERS: [Ours; 3] = [Ours::ReadExternal, Ours::WriteExternal, Ours::ForceShareExternal];
    judge(QEMU_SECOND_AT_DATA, HOLDERS.len(), |site, holder, line| {
        let _held = HOLDERS[holder].hold(site);
        site.verdict(line)
    });
}

/// Everything that the command does with an image, in the order of the columns' kinds: what reads, what reads
/// whatever is there, what changes.
#[rustfmt::skip]
const OURS_SECOND: &[Row] = &[
    //                       daemon nbd io locking=on | daemon nbd io read-only | io -U | below a writable | idle file
    ("holstein info disk.qcow2",                                          "X X X X . . . . . ."),
    ("holstein info -U disk.qcow2",                                       ". . . . . . . . . ."),
    ("holstein map disk.qcow2",                                           "X X X X . . . . . ."),
    ("holstein map -U disk.qcow2",                                        ". . . . . . . . . ."),
    ("holstein check disk.qcow2",                                         "X X X X . . . . . ."),
    ("holstein check -U disk.qcow2",                                      ". . . . . . . . . ."),
    ("holstein compare disk.qcow2 same.qcow2",                            "X X X X . . . . . ."),
    ("holstein compare -U disk.qcow2 same.qcow2",                         ". . . . . . . . . ."),
    ("holstein bitmap list disk.qcow2",                                   "X X X X . . . . . ."),
    ("holstein bitmap list -U disk.qcow2",                                ". . . . . . . . . ."),
    ("holstein bitmap dump disk.qcow2 nightly",                           "X X X X . . . . . ."),
    ("holstein bitmap add disk.qcow2 monday",                             "X X X X X X X . X ."),
    ("holstein bitmap remove disk.qcow2 nightly",                         "X X X X X X X . X ."),
    ("holstein bitmap clear disk.qcow2 nightly",                          "X X X X X X X . X ."),
    ("holstein bitmap enable disk.qcow2 nightly",                         "X X X X X X X . X ."),
    ("holstein bitmap disable disk.qcow2 nightly",                        "X X X X X X X . X ."),
    ("holstein bitmap rename disk.qcow2 nightly daily",                   "X X X X X X X . X ."),
    ("holstein bitmap merge disk.qcow2 nightly nightly",                  "X X X X X X X . X ."),
    ("holstein bitmap merge --from other.qcow2 disk.qcow2 nightly weekly", "X X X X X X X . X ."),
    ("holstein bitmap merge --from disk.qcow2 other.qcow2 weekly nightly", "X X X X . . . . . ."),
    ("holstein bitmap apply disk.qcow2 steps.json",                       "X X X X X X X . X ."),
    ("holstein backup --disk source=disk.qcow2,target=copy.qcow2",        "X X X X . . . . . ."),
    ("holstein backup --disk source=disk.qcow2,target=copy.qcow2,bitmap=nightly", "X X X X . . . . . ."),
    ("holstein backup --disk source=disk.qcow2,target=copy.qcow2,bitmap=nightly,sync=incremental",
                                                                          "X X X X X X X . X ."),
    ("holstein backup --disk source=other.qcow2,target=disk.qcow2,overwrite", "X X X X X X X . X ."),
    ("holstein backup --disk source=other.qcow2,target=copy.qcow2,backing=disk.qcow2", "X X X X . . . . . ."),
    // The one above reads it, and does not when it is opened alone.
    ("holstein map top.qcow2",                                            "X X X X . . . . X ."),
    ("holstein info top.qcow2",                                           ". . . . . . . . X ."),
    ("holstein bitmap add top.qcow2 monday",                              ". . . . . . . . X ."),
];

#[test]
fn we_respect_what_qemu_holds() {
    const DAEMON: &str = "qemu-storage-daemon --daemonize --pidfile held.pid --blockdev";
    const NBD: &str = "qemu-nbd --fork --pid-file=held.pid -k FOLDER/held.sock -f qcow2 disk.qcow2";
    let node = |image: &str, more: &str| {
        format!("{DAEMON} qcow2,node-name=n,file.driver=file,file.filename={image}{more}")
    };
    let holders = [
        node("disk.qcow2", ""),
        NBD.to_owned(),
        "qemu-io disk.qcow2".to_owned(),
        node("disk.qcow2", ",file.locking=on"),
        node("disk.qcow2", ",read-only=on"),
        format!("{NBD} -r"),
        "qemu-io -r disk.qcow2".to_owned(),
        "qemu-io -r -U disk.qcow2".to_owned(),
        node("top.qcow2", ""),
        format!("{DAEMON} file,node-name=n,filename=disk.qcow2"),
    ];
    judge(OURS_SECOND, holders.len(), |site, holder, line| {
        let _held = theirs::hold(site, &holders[holder]);
        site.verdict(line)
    });
}

/// The same commands beside our own modes, by another process.
#[rustfmt::skip]
const OURS_BESIDE_OURS: &[Row] = &[
    //                                            read write share backing source incremental target below-target
    ("holstein info disk.qcow2",                                          ". X . . . X X ."),
    ("holstein info -U disk.qcow2",                                       ". . . . . . . ."),
    ("holstein map disk.qcow2",                                           ". X . . . X X ."),
    ("holstein map -U disk.qcow2",                                        ". . . . . . . ."),
    ("holstein check disk.qcow2",                                         ". X . . . X X ."),
    ("holstein check -U disk.qcow2",                                      ". . . . . . . ."),
    ("holstein compare disk.qcow2 same.qcow2",                            ". X . . . X X ."),
    ("holstein compare -U disk.qcow2 same.qcow2",                         ". . . . . . . ."),
    ("holstein bitmap list disk.qcow2",                                   ". X . . . X X ."),
    ("holstein bitmap list -U disk.qcow2",                                ". . . . . . . ."),
    ("holstein bitmap dump disk.qcow2 nightly",                           ". X . . . X X ."),
    ("holstein bitmap add disk.qcow2 monday",                             "X X . X X X X X"),
    ("holstein bitmap clear disk.qcow2 nightly",                          "X X . X X X X X"),
    ("holstein bitmap merge --from disk.qcow2 other.qcow2 weekly nightly", ". X . . . X X ."),
    ("holstein bitmap apply disk.qcow2 steps.json",                       "X X . X X X X X"),
    ("holstein backup --disk source=disk.qcow2,target=copy.qcow2",        ". X . . . X X ."),
    ("holstein backup --disk source=disk.qcow2,target=copy.qcow2,bitmap=nightly,sync=incremental",
                                                                          "X X . X X X X X"),
    ("holstein backup --disk source=other.qcow2,target=disk.qcow2,overwrite", "X X . X X X X X"),
    ("holstein backup --disk source=other.qcow2,target=copy.qcow2,backing=disk.qcow2", ". X . . . X X ."),
    ("holstein map top.qcow2",                                            ". X . . . X X ."),
    ("holstein info top.qcow2",                                           ". . . . . . . ."),
    ("holstein bitmap add top.qcow2 monday",                              ". . . X . . . ."),
];

#[test]
fn we_respect_each_other() {
    judge(OURS_BESIDE_OURS, HOLDERS.len(), |site, holder, line| {
        let _held = HOLDERS[holder].hold(site);
        site.verdict(line)
    });
}

/// Data files, and the image that names them, which QEMU has open.
#[rustfmt::skip]
const OURS_SECOND_AT_DATA: &[Row] = &[
    //                                           the image writable | read-only | the data file writable | read-only
    ("holstein info ext.qcow2",                                           "X . . ."),
    ("holstein info -U ext.qcow2",                                        ". . . ."),
    ("holstein map ext.qcow2",                                            "X . X ."),
    ("holstein map -U ext.qcow2",                                         ". . . ."),
    ("holstein compare ext.qcow2 ext.qcow2",                              "X . X ."),
    ("holstein backup --disk source=ext.qcow2,target=copy.qcow2",         "X . X ."),
    // Bitmaps are no matter of the data file.
    ("holstein bitmap add ext.qcow2 monday",                              "X X . ."),
    ("holstein map -f raw data.raw",                                      "X . X ."),
    ("holstein backup --disk source=data.raw,source-format=raw,target=copy.qcow2", "X . X ."),
];

#[test]
fn we_respect_data_files_that_qemu_holds() {
    // Exported, as an image that nobody uses yet leaves its data file without locks.
    const NBD: &str = "qemu-nbd --fork --pid-file=held.pid -k FOLDER/held.sock -f qcow2 ext.qcow2";
    let holders = [
        NBD.to_owned(),
        format!("{NBD} -r"),
        "qemu-io -f raw data.raw".to_owned(),
        "qemu-io -f raw -r data.raw".to_owned(),
    ];
    judge(OURS_SECOND_AT_DATA, holders.len(), |site, holder, line| {
        let _held = theirs::hold(site, &holders[holder]);
        site.verdict(line)
    });
}
