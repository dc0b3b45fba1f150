//! Inodes that come again, and files that others write.

use std::collections::BTreeSet;

use holstein::storage::{SimulatedStorage, Storage, simulated::Level};

use crate::{
    put,
    rules::{NOT_TORN, files, left, sectors, with_file},
    writable,
};

fn inode(storage: &SimulatedStorage, path: &str) -> u64 {
    storage.status(path.as_ref()).unwrap().id.inode
}

fn create(storage: &SimulatedStorage, path: &str, value: u8) -> u64 {
    put(&*storage.create(path.as_ref()).unwrap(), 0, &sectors(&[value]));
    inode(storage, path)
}

#[test]
fn an_inode_comes_again_when_nobody_has_its_file() {
    let storage = with_file(1);
    storage.insert("/d/g", b"");
    storage.reuse_inodes();
    let (first, second) = (inode(&storage, "/d/f"), inode(&storage, "/d/g"));
    storage.unlink("/d/f".as_ref()).unwrap();
    assert_eq!(create(&storage, "/d/new", 1), first);
    assert!(create(&storage, "/d/another", 2) > second);

    let open = storage.open("/d/new".as_ref()).unwrap();
    storage.unlink("/d/new".as_ref()).unwrap();
    assert_ne!(create(&storage, "/d/third", 3), first, "somebody has it open");
    assert_eq!(open.id().unwrap().inode, first);
    drop(open);
    assert_eq!(create(&storage, "/d/fourth", 4), first);
    assert_eq!(writable(&storage, "/d/fourth").id().unwrap().inode, first);
}

#[test]
fn no_inode_comes_twice_unless_that_is_wanted() {
    let storage = with_file(1);
    let first = inode(&storage, "/d/f");
    storage.unlink("/d/f".as_ref()).unwrap();
    assert_ne!(create(&storage, "/d/f", 1), first);
    // Not even behind a crash.
    let newest = inode(&storage, "/d/f");
    let lost = storage.recording().after(&"L0@0".parse().unwrap()).unwrap();
    assert_ne!(create(&lost, "/d/g", 1), newest);
}

#[test]
fn two_files_never_have_one_inode() {
    let storage = with_file(1);
    storage.reuse_inodes();
    storage.make_folder("/e");
    let first = inode(&storage, "/d/f");
    storage.unlink("/d/f".as_ref()).unwrap();
    assert_eq!(create(&storage, "/e/new", 7), first);
    storage.sync_folder("/e".as_ref()).unwrap();
    let mut seen = BTreeSet::new();
    for (crash, state) in storage.recording().states(&Level::ALL, usize::MAX, 0) {
        let there: Vec<_> = state.paths().iter().map(|path| path.display().to_string()).collect();
        assert!(there.len() < 2, "{crash}: {there:?}");
        if let [only] = &there[..] {
            assert_eq!(inode(&state, only), first, "{crash}");
        }
        seen.insert(there.join(" "));
    }
    assert_eq!(seen, BTreeSet::from(["".to_owned(), "/d/f".into(), "/e/new".into()]));
}

#[test]
fn a_file_that_is_written_anew_keeps_its_inode() {
    let storage = with_file(2);
    let (inode_before, before) = (inode(&storage, "/d/f"), writable(&storage, "/d/f").version().unwrap());
    storage.rewrite("/d/f", &sectors(&[1]));
    assert_eq!(storage.contents("/d/f").unwrap(), sectors(&[1]));
    assert_eq!(inode(&storage, "/d/f"), inode_before);
    assert!(writable(&storage, "/d/f").version().unwrap().modified > before.modified);
    // Nothing of it is durable, and the new length may come without the new bytes.
    let left = left(&storage.recording(), &[Level::L2, Level::L4], 0, "/d/f");
    let expected: [&[u8]; 5] = [&[0, 0], &[], &[1], &[0], &[1, 0]];
    assert!(left.is_superset(&files(&expected)), "{left:?}");
    assert!(!storage.is_durable("/d/f"));
    storage.rewrite("/d/none", b"x");
    assert_eq!(storage.contents("/d/none"), None);
}

#[test]
fn last_writes_can_be_in_the_cache_alone_when_a_run_begins() {
    let storage = with_file(4);
    storage.change("/d/f", &sectors(&[1, 0, 2]));
    assert_eq!(storage.contents("/d/f").unwrap(), sectors(&[1, 0, 2]));
    let begun = storage.recording().operations().len();
    assert_eq!(begun, 3, "two sectors and a length");
    let all: Vec<Vec<u8>> = vec![
        vec![0, 0, 0, 0],
        vec![1, 0, 0, 0],
        vec![0, 0, 2, 0],
        vec![1, 0, 2, 0],
        vec![0, 0, 0],
        vec![1, 0, 0],
        vec![0, 0, 2],
        vec![1, 0, 2],
    ];
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    assert_eq!(left(&storage.recording(), &[Level::L2], begun, "/d/f"), files(&all));
    writable(&storage, "/d/f").sync().unwrap();
    assert_eq!(left(&storage.recording(), &NOT_TORN, begun + 2, "/d/f"), files(&[&[1, 0, 2]]));
}
