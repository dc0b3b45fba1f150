//! Names of other files inside an image: backing files and data files that must not be opened, must not
//! block, or do not end.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    process::Command,
};

use super::{Case, Expect, Expect::*, Qemu, Qemu::*};
use crate::builder::{Builder, Cluster, Image, field::*, pattern};

const OUTSIDE: Qemu = NotRun("it would open what the name says");

/// An overlay of 64 KiB with one cluster of its own.
fn overlay() -> Builder {
    Builder::new(12, 1 << 16).cluster(3, Cluster::Data(pattern(3, 4096)))
}

/// An overlay whose backing file has this name.
fn backed(case: &'static str, expect: Expect, qemu: Qemu, name: &'static [u8], format: &'static str) -> Case {
    Case::new(case, expect, qemu, move |_| overlay().backing(name, format).build())
}

/// A raw file beside the image, or elsewhere.
fn raw(path: &Path) {
    fs::write(path, pattern(77, 1 << 16)).unwrap();
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// An image of two clusters with an external data file of this name.
fn with_data_file(name: &'static [u8]) -> Builder {
    overlay().with(|spec| spec.data_file = Some(name.into()))
}

fn data_file(case: &'static str, expect: Expect, qemu: Qemu, name: &'static [u8]) -> Case {
    Case::new(case, expect, qemu, move |_| with_data_file(name).build())
}

/// Image `name` in `dir`, backed by `backing`.
fn link(dir: &Path, name: &str, backing: &str) {
    overlay().backing(backing, "qcow2").build().write(&dir.join(name));
}

pub fn cases() -> Vec<Case> {
    let mut cases = backing_field();
    cases.extend(backing_names());
    cases.extend(special_files());
    cases.extend(chains());
    cases.extend(data_files());
    cases
}

/// The two header fields that say where the name is.
fn backing_field() -> Vec<Case> {
    let field = |name, expect, qemu, offset: u64, size: u32| {
        Case::poke(name, expect, qemu, move |i| {
            i.u64(BACKING_OFFSET, offset);
            i.u32(BACKING_SIZE, size);
        })
    };
    vec![
        field("backing-offset-in-header", Open("backing"), Accepts, 50, 8),
        field("backing-offset-past-cluster", Open("backing"), RefusesOpen, 4097, 8),
        field("backing-offset-max", Open("backing"), RefusesOpen, u64::MAX, 8),
        field("backing-name-crosses-cluster", Open("backing"), RefusesOpen, 4090, 8),
        field("backing-size-1024", Open("backing"), RefusesOpen, 2048, 1024),
        field("backing-size-max", Open("backing"), RefusesOpen, 2048, u32::MAX),
        field("backing-size-0", Same, Accepts, 2048, 0),
    ]
}

fn backing_names() -> Vec<Case> {
    let json = br#"json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}"#;
    vec![
        backed("backing-json", Read(""), OUTSIDE, json, "raw"),
        backed("backing-json-policy-any", Read(""), OUTSIDE, json, "raw").policy("any"),
        backed("backing-nbd", Read(""), OUTSIDE, b"nbd://127.0.0.1:1/x", "raw").policy("any"),
        backed("backing-fd", Read(""), OUTSIDE, b"fd:0", "raw").policy("any"),
        backed("backing-nul-missing", Read(""), RefusesRead, b"base.raw\0.png", "raw"),
        Case::new("backing-nul", Same, Accepts, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing(&b"base.raw\0"[..], "raw\0").build()
        }),
        Case::new("backing-nul-inside", Same, Accepts, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing(&b"base.raw\0.png"[..], "raw").build()
        }),
        Case::new("backing-nul-first", Same, Accepts, |_| {
            overlay().backing(&b"\0base.raw"[..], "raw").build()
        }),
        Case::new("backing-latin1", Same, Accepts, |dir| {
            raw(&dir.join(OsStr::from_bytes(b"caf\xe9.raw")));
            overlay().backing(&b"caf\xe9.raw"[..], "raw").build()
        }),
        Case::new("backing-tab", Same, Accepts, |dir| {
            raw(&dir.join("a\tb.raw"));
            overlay().backing("a\tb.raw", "raw").build()
        }),
        // The name is printed; it must not steer the terminal.
        Case::new("backing-control-there", Same, Accepts, |dir| {
            raw(&dir.join("base\x1b[2J\n.raw"));
            overlay().backing("base\x1b[2J\n.raw", "raw").build()
        }),
        backed("backing-control", Read(""), RefusesRead, b"base\x1b[2J\n.raw", "raw"),
        backed("backing-not-utf8", Read(""), RefusesRead, b"base\xff\xfe.raw", "raw"),
        backed("backing-missing", Read("nowhere.raw"), RefusesRead, b"nowhere.raw", "raw"),
        backed("backing-shadow", Read("policy"), OUTSIDE, b"/etc/shadow", "raw"),
        Case::new("backing-parent", Read("policy"), Accepts, |dir| {
            raw(&dir.with_extension("secret"));
            overlay().backing("../backing-parent.secret", "raw").build()
        }),
        Case::new("backing-inner-parent", Read("policy"), Accepts, |dir| {
            fs::create_dir(dir.join("sub")).unwrap();
            raw(&dir.with_extension("secret"));
            overlay().backing("sub/../../backing-inner-parent.secret", "raw").build()
        }),
        Case::new("backing-symlink-out", Read("policy"), Accepts, |dir| {
            raw(&dir.with_extension("secret"));
            symlink("../backing-symlink-out.secret", dir.join("base.raw")).unwrap();
            overlay().backing("base.raw", "raw").build()
        }),
        Case::new("backing-symlinked-folder-out", Read("policy"), Accepts, |dir| {
            fs::create_dir_all(dir.with_extension("elsewhere")).unwrap();
            raw(&dir.with_extension("elsewhere").join("base.raw"));
            symlink("../backing-symlinked-folder-out.elsewhere", dir.join("sub")).unwrap();
            overlay().backing("sub/base.raw", "raw").build()
        }),
        Case::new("backing-policy-deny", Read("policy"), Accepts, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing("base.raw", "raw").build()
        })
        .policy("deny"),
        // A guest wrote a qcow2 header into its raw disk: the recorded format decides, nothing is probed.
        Case::new("backing-raw-looks-like-qcow2", Same, Accepts, |dir| {
            raw(&dir.with_extension("secret"));
            let poison = overlay().backing("../backing-raw-looks-like-qcow2.secret", "raw").build();
            poison.write(&dir.join("base.raw"));
            overlay().backing("base.raw", "raw").build()
        }),
        Case::new("backing-qcow2-that-is-raw", Read("base.raw"), RefusesRead, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing("base.raw", "qcow2").build()
        }),
        Case::new("backing-without-format", Read("format"), Accepts, |dir| {
            raw(&dir.join("base.raw"));
            overlay().with(|spec| spec.backing = Some(b"base.raw".into())).build()
        }),
        Case::new("backing-format-vmdk", Read("vmdk"), RefusesRead, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing("base.raw", "vmdk").build()
        }),
        Case::new("backing-format-hostile", Read(""), RefusesRead, |dir| {
            raw(&dir.join("base.raw"));
            overlay().backing("base.raw", "\x1b[2J\n").build()
        }),
    ]
}

/// Files that are no disks. A FIFO would block whoever opens it.
fn special_files() -> Vec<Case> {
    let blocks = NotRun("it would block");
    vec![
        Case::new("backing-fifo", Read(""), blocks, |dir| {
            fifo(&dir.join("base.raw"));
            overlay().backing("base.raw", "raw").build()
        }),
        Case::new("backing-fifo-policy-any", Read(""), blocks, |dir| {
            fifo(&dir.join("base.raw"));
            overlay().backing("base.raw", "raw").build()
        })
        .policy("any"),
        backed("backing-dev-zero", Read(""), OUTSIDE, b"/dev/zero", "raw"),
        backed("backing-dev-zero-policy-any", Read(""), OUTSIDE, b"/dev/zero", "raw").policy("any"),
        backed("backing-dev-tty-policy-any", Read(""), OUTSIDE, b"/dev/tty", "raw").policy("any"),
        backed("backing-proc-mem-policy-any", Same, OUTSIDE, b"/proc/self/mem", "raw").policy("any"),
        backed("backing-folder", Read(""), RefusesRead, b".", "raw"),
        Case::new("data-file-fifo", Read(""), blocks, |dir| {
            fifo(&dir.join("guest.raw"));
            with_data_file(b"guest.raw").build()
        }),
    ]
}

/// Chains that have no end, or a far one.
fn chains() -> Vec<Case> {
    let endless = NotRun("it recurses until no file can be opened");
    vec![
        backed("backing-is-itself", Read(""), endless, b"image.qcow2", "qcow2"),
        Case::new("backing-loop-of-two", Read(""), endless, |dir| {
            link(dir, "b.qcow2", "image.qcow2");
            overlay().backing("b.qcow2", "qcow2").build()
        }),
        Case::new("backing-loop-through-link", Read(""), endless, |dir| {
            symlink("image.qcow2", dir.join("b.qcow2")).unwrap();
            overlay().backing("b.qcow2", "qcow2").build()
        }),
        Case::new("backing-loop-below", Read(""), endless, |dir| {
            link(dir, "b.qcow2", "c.qcow2");
            link(dir, "c.qcow2", "b.qcow2");
            overlay().backing("b.qcow2", "qcow2").build()
        }),
        Case::new("backing-chain-of-70", Same, Accepts, |dir| {
            for depth in 1..70 {
                link(dir, &format!("{depth}.qcow2"), &format!("{}.qcow2", depth + 1));
            }
            overlay().build().write(&dir.join("70.qcow2"));
            overlay().backing("1.qcow2", "qcow2").build()
        }),
    ]
}

fn data_files() -> Vec<Case> {
    let json = br#"json:{"driver":"file","filename":"guest.raw"}"#;
    let beside = |dir: &Path| {
        let image = with_data_file(b"guest.raw").build();
        fs::write(dir.join("guest.raw"), image.data_file.as_ref().unwrap()).unwrap();
        image
    };
    vec![
        data_file("data-file-json", Read(""), RefusesRead, json).policy("any"),
        data_file("data-file-missing", Read("nowhere.raw"), RefusesRead, b"nowhere.raw"),
        data_file("data-file-nul", Read(""), RefusesRead, b"guest.raw\0"),
        data_file("data-file-shadow", Read("policy"), OUTSIDE, b"/etc/shadow"),
        Case::new("data-file-parent", Read("policy"), Accepts, |dir| {
            let image = with_data_file(b"../data-file-parent.secret").build();
            fs::write(dir.with_extension("secret"), image.data_file.as_ref().unwrap()).unwrap();
            image
        }),
        Case::new("data-file-policy-deny", Read("policy"), Accepts, beside).policy("deny"),
        Case::new("data-file-is-the-image", Read(""), Accepts, |_| with_data_file(b"image.qcow2").build()),
        Case::poke("data-file-bit-without-name", Read("data file"), RefusesRead, |i| {
            i.u64(INCOMPATIBLE, DATA_FILE);
        }),
        Case::new("data-file-cluster-elsewhere", Read(""), RefusesRead, move |dir| {
            beside(dir).edit(|i| i.u64(i.at.entry[&3], COPIED | 0x5000))
        }),
        Case::new("data-file-zero-elsewhere", Read("another offset"), RefusesRead, move |dir| {
            beside(dir).edit(|i| i.u64(i.at.entry[&3], COPIED | 0x5000 | ZERO))
        }),
        Case::new("data-file-subcluster-elsewhere", Read("another offset"), RefusesRead, |dir| {
            let part = Cluster::Subclusters { contents: pattern(1, 512), allocated: 1, zero: 0 };
            let spec = Builder::new(14, 2 << 14).cluster(1, part);
            let image = spec.with(|spec| {
                spec.extended_l2 = true;
                spec.data_file = Some(b"guest.raw".into());
            });
            let image = image.build().edit(|i| i.u64(i.at.entry[&1], COPIED));
            fs::write(dir.join("guest.raw"), image.data_file.as_ref().unwrap()).unwrap();
            image
        }),
        Case::new("data-file-compressed", Read(""), RefusesRead, move |dir| {
            beside(dir).edit(|i| i.u64(i.at.entry[&3], COMPRESSED | 0x3000))
        }),
        Case::new("data-file-raw-with-backing", Open(""), Accepts, move |dir| {
            raw(&dir.join("base.raw"));
            let spec = with_data_file(b"guest.raw").backing("base.raw", "raw");
            let image: Image = spec.with(|spec| spec.autoclear = RAW_EXTERNAL).build();
            fs::write(dir.join("guest.raw"), image.data_file.as_ref().unwrap()).unwrap();
            image
        }),
        Case::new("data-file-too-short", Read(""), Accepts, |dir| {
            fs::write(dir.join("guest.raw"), pattern(1, 4096)).unwrap();
            with_data_file(b"guest.raw").build()
        }),
    ]
}
