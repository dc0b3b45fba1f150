//! Images whose data lies in another file.

use std::sync::Arc;

use holstein::{
    ErrorKind,
    storage::simulated::{Failure, Fault, OperationKind},
};

use super::site::{MIB, Site};
use crate::support::command::mentions;

#[test]
fn a_data_file_that_is_not_open() {
    for raw in ["off", "on"] {
        let site = Site::new(&format!("data_file=data.raw,data_file_raw={raw}"));
        let words = &["disk.qcow2", "was opened without its data file; open all of the chain"];
        site.refuses_all(ErrorKind::WrongState, words, &Site::top_only());
        if raw == "on" {
            // A raw data file is as long as the disk.
            let disk = site.open_as(&Site::top_only());
            site.refuses(ErrorKind::WrongState, words, || disk.resize(MIB));
        }
    }
}

#[test]
fn a_data_file_that_may_not_be_written() {
    let site = Site::new("data_file=data.raw,data_file_raw=on");
    site.add_bitmap("a");
    let storage = site.simulated();
    // The image, the data file for reading, and then for writing.
    storage.fail(Fault::once(OperationKind::Open, 3, Failure::Errno(libc::EACCES)));
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    storage.stop_failing();
    let before = storage.digest();
    for result in
        [disk.write_at(&[1; 512], 0), disk.write_zeroes(0..512), disk.resize(5 * MIB), disk.resize(MIB)]
    {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        mentions(&error.to_string(), &["disk.qcow2", "its data file cannot be opened for writing"]);
    }
    assert_eq!(storage.digest(), before);
    // Its bitmaps can be changed all the same.
    disk.change_bitmaps(&[holstein::BitmapChange::Clear { name: "a".into() }]).unwrap();
}
