//! A target that is only a part of a disk, and chains that are not whole.

use super::{Place, inc, run};

/// `d` over `base`, with a bitmap.
fn overlay() -> Place {
    let place = Place::empty();
    let (base, disk) = (place.name("base"), place.name("d"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "8M"]);
    place.write("base", "write -P 1 0 3M");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &disk]);
    place.ok(&["bitmap", "add", "d", "b"]);
    place.write("d", "write -P 2 1M 64k");
    place
}

fn rebase(place: &Place, image: &str, below: &str) {
    run("qemu-img", &["rebase", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", &place.name(image)]);
}

#[test]
fn nothing_stands_on_a_part_that_stands_on_nothing() {
    let place = overlay();
    let out = place.backup("source=d,target=top,sync=top,bitmap=b,bitmap-mode=on-success");
    assert!(out.contains("note: the target has only what"), "{out}");
    assert_eq!(place.base("d", "b"), Some(place.identity("top")));
    let (code, out, _) = place.run(&["check", "--chain", "top"]);
    assert_eq!(code, 2);
    assert!(out.contains("BROKEN: it is a part of a disk, and nothing lies below"), "{out}");

    place.write("d", "write -P 3 2M 64k");
    let text = place.refused(&inc("inc1", "top"));
    assert!(text.contains("top' is only a part of a disk, and nothing lies below it"), "{text}");
    // It stands on a copy of what the source stands on: now it is whole.
    place.backup("source=base,target=copy,sync=full");
    rebase(&place, "top", "copy");
    place.backup(&inc("inc1", "top"));
    place.same("d", "inc1");
    place.ok(&["check", "--chain", "inc1"]);
}

/// The top image of a disk without a chain is all of it.
#[test]
fn the_only_image_is_no_part() {
    let place = Place::new();
    place.backup("source=d,target=top,sync=top,bitmap=b,bitmap-mode=on-success");
    place.ok(&["check", "--chain", "top"]);
    place.write("d", "write -P 3 2M 64k");
    place.backup(&inc("inc1", "top"));
    place.same("d", "inc1");
}

#[test]
fn an_increment_needs_a_whole_chain() {
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup("source=d,target=inc1,sync=incremental,bitmap=b");
    place.write("d", "write -P 3 1M 64k");
    let text = place.refused(&inc("inc2", "inc1"));
    assert!(text.contains("inc1' was made over the backup") && text.contains("lineage=ignore"), "{text}");
    let out = place.backup(&(inc("ignored", "inc1") + ",lineage=ignore"));
    assert!(out.contains("note: bitmap 'b' of 'd' counts from"), "{out}");

    // The lower image was replaced by another backup.
    let place = Place::new();
    place.write("d", "write -P 2 0 64k");
    place.backup(&inc("inc1", "full"));
    place.backup("source=d,target=full,overwrite,sync=full");
    let text = place.refused(&inc("inc2", "inc1"));
    assert!(text.contains("which is not what lies below it"), "{text}");
}

/// From which backup the bitmap counts is not known; that there has to be one is.
#[test]
fn an_increment_without_a_parent_is_a_part() {
    let place = Place::empty();
    place.disk("d", &[]);
    place.write("d", "write -P 2 0 64k");
    place.backup("source=d,target=inc1,sync=incremental,bitmap=b");
    let (code, out, _) = place.run(&["check", "--chain", "inc1"]);
    assert_eq!(code, 2, "{out}");
}
