//! What happens to a source, or to an image below it, while somebody has it open to copy it: what is no write is none,
//! and what is one is seen.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};

use holstein::{Format, RunningTransaction};

use super::*;

/// What changes a file's status and not its contents.
type Touch = fn(&Path);

const TOUCHES: [(&str, Touch); 5] = [
    ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap()),
    ("chown", |path| chown(path, Some(own_uid()), None).unwrap()),
    ("ln", |path| fs::hard_link(path, path.with_extension("link")).unwrap()),
    ("mv", |path| fs::rename(path, path.with_extension("moved")).unwrap()),
    ("touch -a", |path| {
        let times = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        fs::File::open(path).unwrap().set_times(times).unwrap();
    }),
];

fn own_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

impl Site {
    /// A disk over `a`, which holds something itself.
    fn overlay(&self) {
        let (a, over) = (self.name("a"), self.name("over"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &a, "-F", "qcow2", &over]);
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 55 1536k 256k", &over]);
    }

    fn plain(&self, source: &Disk, target: &str) -> Action {
        self.backup(source, target, BackupOptions::default())
    }

    /// A backup that has begun and does not get on before it is [`go_on`].
    pub(super) fn slow(&self, source: &Disk, target: &str, options: BackupOptions) -> RunningTransaction {
        let slow = BackupOptions { speed: 1 << 16, ..options };
        transaction(CompletionMode::Grouped, vec![self.backup(source, target, slow)]).start().unwrap()
    }
}

pub(super) fn go_on(running: &RunningTransaction) -> Result<(), Error> {
    running.jobs()[0].set_speed(0).unwrap();
    running.wait(None).unwrap()
}

/// A write of QEMU's that heeds no locks.
fn write_regardless(site: &Site, disk: &str, command: &str) {
    let image = format!("driver=qcow2,file.driver=file,file.filename={},file.locking=off", site.name(disk));
    run("qemu-io", &["--image-opts", "-c", command, &image]);
}

#[test]
fn what_leaves_the_contents_is_no_write() {
    for access in [Access::Read, Access::Write] {
        for touched in ["over", "a"] {
            let site = Site::new();
            site.overlay();
            run("qemu-img", &["convert", "-O", "qcow2", &site.name("over"), &site.name("whole")]);
            let options = DiskOptions { access, ..DiskOptions::default() };
            for (name, touch) in TOUCHES {
                let disk = Disk::open(site.path("over"), &options).unwrap();
                let say = |error: Error| panic!("{name} of {touched}, {access:?}: {error}");
                let path = site.path(touched);
                let undo = || {
                    fs::remove_file(path.with_extension("link")).ok();
                    fs::rename(path.with_extension("moved"), &path).ok();
                };
                touch(&path);
                grouped(vec![site.plain(&disk, &format!("{name}-opened"))]).unwrap_or_else(say);
                undo();
                let running = site.slow(&disk, &format!("{name}-running"), BackupOptions::default());
                touch(&path);
                go_on(&running).unwrap_or_else(say);
                undo();
                for target in ["opened", "running"] {
                    site.same("whole", &format!("{name}-{target}"));
                }
            }
        }
    }
}

/// What was written between the opening and the start is in the copy, and all of it.
#[test]
fn what_was_written_before_the_start_is_read_anew() {
    for written in ["over", "a"] {
        let site = Site::new();
        site.overlay();
        let disk = Disk::open(site.path("over"), &DiskOptions::default()).unwrap();
        // Tables are known by now.
        disk.read_at(&mut vec![0; 4 << 20], 0).unwrap();
        write_regardless(&site, written, "write -P 66 2560k 1M");
        grouped(vec![site.plain(&disk, "t")]).unwrap();
        site.same("over", "t");
        site.check();
    }
    let site = Site::new();
    let raw = site.folder.path().join("r");
    fs::write(&raw, vec![1; 1 << 20]).unwrap();
    let disk = Disk::open(&raw, &DiskOptions { format: Format::Raw, ..DiskOptions::default() }).unwrap();
    fs::write(&raw, vec![2; 2 << 20]).unwrap();
    grouped(vec![site.plain(&disk, "t")]).unwrap();
    run("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), &site.name("t")]);
}

#[test]
fn an_image_that_names_other_files_by_now_is_opened_anew() {
    let site = Site::new();
    site.overlay();
    let disk = Disk::open(site.path("over"), &DiskOptions::default()).unwrap();
    let before = fs::read(site.path("over")).unwrap();
    run(
        "qemu-img",
        &["rebase", "-q", "-u", "-f", "qcow2", "-b", &site.name("b"), "-F", "qcow2", &{
            let other = site.name("rebased");
            fs::copy(site.path("over"), site.path("rebased")).unwrap();
            other
        }],
    );
    fs::write(site.path("over"), fs::read(site.path("rebased")).unwrap()).unwrap();
    let actions = || vec![site.plain(&disk, "t")];
    let error = site.refuses(CompletionMode::Grouped, actions(), "names other files than when it was opened");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    fs::write(site.path("over"), before).unwrap();
    grouped(actions()).unwrap();
    site.same("over", "t");
}

/// A copy fails that somebody writes under, and the next one from the same handle does not.
#[test]
fn what_is_written_while_it_is_copied_is_seen() {
    for written in ["over", "a"] {
        let site = Site::new();
        site.overlay();
        let disk = Disk::open(site.path("over"), &DiskOptions::default()).unwrap();
        let running = site.slow(&disk, "t", BackupOptions::default());
        write_regardless(&site, written, "write -P 66 2560k 1M");
        let error = go_on(&running).unwrap_err();
        assert!(error.to_string().contains("was written while it was read"), "{error}");
        assert!(error.to_string().contains(&site.name(written)), "{error}");
        assert!(!site.path("t").exists());
        grouped(vec![site.plain(&disk, "t")]).unwrap();
        site.same("over", "t");
    }
}

/// Whoever sets the time of a change back is seen where the image's header is another.
#[test]
fn a_header_that_changed_is_seen_whatever_the_time_says() {
    let site = Site::new();
    let disk = site.open("a");
    let running = site.slow(&disk, "t", BackupOptions::default());
    let modified = fs::metadata(site.path("a")).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(site.path("a")).unwrap();
    // The autoclear bits, as a program does that knows no bitmaps.
    file.write_all_at(&[0; 8], 88).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
    let error = go_on(&running).unwrap_err();
    assert!(error.to_string().contains("was written while it was read"), "{error}");
}
