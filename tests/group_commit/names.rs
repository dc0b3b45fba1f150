//! Files that others put under the names of targets, in the moment in which a group is committed.

use std::path::Path;

use holstein::{
    ErrorKind,
    storage::{RenameRule, Storage},
};

use crate::judge::Side;

/// Somebody moves a file of his onto the old target between the look at it and the swap: his file stays, and nothing of the
/// group is there, the targets included that had their names already.
#[test]
fn a_file_that_comes_in_the_moment_of_the_swap_stays() {
    let night = crate::two::night();
    let replaced = night.backups.iter().find(|backup| backup.replaced.is_some()).unwrap();
    let storage = night.storage();
    let (other, target) = (storage.clone(), Path::new(replaced.target));
    storage.before_rename(move |_, to| {
        if to == target && other.contents("/backups/his").is_none() && other.contents(target).is_some() {
            let his = Path::new("/backups/his");
            other.create(his).unwrap().write_at(b"his file", 0).unwrap();
            other.rename(his, target, RenameRule::Replace).unwrap();
            other.create(his).unwrap();
        }
    });
    let error = night.run(&storage).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
    assert!(error.to_string().contains("was replaced meanwhile"), "{error}");
    assert_eq!(storage.contents(target).unwrap(), b"his file");
    assert!(night.recover(&storage).unwrap().items.is_empty());
    storage.unlink("/backups/his".as_ref()).unwrap();
    storage.change(target, replaced.replaced.as_ref().unwrap());
    assert_eq!(night.side(&storage).unwrap(), Side::Nothing);
}
