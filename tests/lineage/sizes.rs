//! The smallest size of a disk since its backup.

use super::{Place, inc, run};

/// QEMU shrinks the disk, we change the image in some way, and QEMU lets the disk grow with zeros that are stored: nothing but
/// the size that we met tells that what lay there is gone.
#[test]
fn what_qemu_shrank_is_noted_by_each_change_of_ours() {
    let changes: [(&str, &[&[&str]]); 6] = [
        ("a bitmap", &[&["bitmap", "add", "d", "other"]]),
        ("its own bitmap", &[&["bitmap", "rename", "d", "b", "c"], &["bitmap", "rename", "d", "c", "b"]]),
        ("a snapshot", &[&["snapshot", "create", "d", "s"]]),
        ("data", &[&["write", "d", "0", "--zero", "64k"]]),
        ("a size", &[&["resize", "d", "2560k"]]),
        (
            "a backup",
            &[
                &["bitmap", "add", "d", "x"],
                &["backup", "--disk", "source=d,target=t,bitmap=x,sync=incremental"],
            ],
        ),
    ];
    for (name, commands) in changes {
        let place = Place::new();
        let disk = place.name("d");
        run("qemu-img", &["resize", "-q", "-f", "qcow2", "--shrink", &disk, "2M"]);
        for command in commands {
            place.ok(command);
        }
        if name == "a snapshot" {
            // QEMU does not resize an image with snapshots of another size.
            place.ok(&["snapshot", "delete", "d", "s"]);
        }
        run("qemu-img", &["resize", "-q", "-f", "qcow2", "--preallocation=full", &disk, "8M"]);
        place.backup(&inc("inc1", "full"));
        run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", &disk, &place.name("inc1")]);
        run("qemu-img", &["check", "-q", &disk]);
    }
}
