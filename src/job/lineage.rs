//! What a backup descends from: an increment stands on the backup that its bitmap counts from, and no target replaces what an
//! increment of the same run stands on.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{Backup, CopySet, JobLineage, LineageCheck, Prepared, SyncMode};
use crate::{
    disk::{Disk, Relatives},
    error::{Error, ErrorKind, Result},
    format::lineage::{Identity, Lineage},
    image::{Existing, Format, Image, Link, folder_of},
    storage::{self, FileId},
};

/// What the target will descend from. What is copied is dirty `by` a bitmap, which counts from `base`. Refuses an increment that does not stand on the backup that its bitmap counts from.
pub(super) fn check(
    backup: &Backup,
    by: Option<&[u8]>,
    base: Option<Identity>,
    backing: Option<&Disk>,
) -> Result<JobLineage> {
    let Backup { source, options, .. } = backup;
    let identity = match options.format {
        Format::Raw => None,
        Format::Qcow2 => {
            let random = storage::random().map_err(|e| Error::io("cannot get random bytes", e))?;
            Some(Identity::from_random(random))
        }
    };
    let below = backing.and_then(Disk::identity);
    let mut notes = Vec::new();
    if options.sync == Some(SyncMode::Top) && backing.is_none() && source.image().layer_count() > 1 {
        notes.push(format!(
            "the target has only what '{}' holds itself: it is no copy of the disk until it stands on a copy of the images below",
            source.path().display()
        ));
    }
    let Some(name) = by else {
        return Ok(JobLineage { identity, parent: below, notes });
    };
    let bitmap = source.bitmap_text(name);
    let strict = options.lineage == LineageCheck::Strict;
    match (base, backing) {
        (Some(base), Some(disk)) if below != Some(base) => {
            if strict {
                return Err(other_base(&bitmap, base, disk));
            }
            let file = described(disk);
            notes.push(format!(
                "{file}: whether it holds the backup {base}, which {bitmap} counts from, is not known"
            ));
        }
        (None, _) => notes.push(format!("from which backup {bitmap} counts is not known")),
        (Some(_), _) => {}
    }
    if let Some(disk) = backing {
        match check_whole(&bitmap, disk) {
            Err(error) if strict => return Err(error),
            broken => notes.extend(broken.err().map(|error| error.to_string())),
        }
    }
    Ok(JobLineage { identity, parent: below.or(base.filter(|_| backing.is_none())), notes })
}

/// What a target's header says of it. Without an image below, a target that leaves out what is clean, or what the source's
/// lower images have, is a part.
pub(super) fn recorded(job: &JobLineage, set: &CopySet, source: &Image, backing: Option<&Disk>) -> Lineage {
    let leaves_out = match set {
        CopySet::All => false,
        CopySet::Top => source.layer_count() > 1,
        CopySet::Dirty(_) | CopySet::Nothing => true,
    };
    let is_part = leaves_out && backing.is_none();
    Lineage { identity: job.identity, parent: job.parent, is_part, ..Lineage::default() }
}

/// Refuses to go by a chain that is not whole: what the disk lost cannot be told by comparing both.
fn check_whole(bitmap: &str, disk: &Disk) -> Result<()> {
    let Some(broken) = disk.chain().into_iter().find(|image| image.link == Link::Broken) else {
        return Ok(());
    };
    let path = broken.path.display();
    let what = match broken.parent {
        Some(parent) => {
            format!("'{path}' was made over the backup {parent}, which is not what lies below it")
        }
        None => format!("'{path}' is only a part of a disk, and nothing lies below it"),
    };
    let text = format!(
        "{bitmap} counts from '{}', whose chain is broken: {what}; let it stand on that again (qemu-img rebase -u), or make a full \
         copy; say lineage=ignore if another program put the right image there",
        disk.path().display()
    );
    Err(Error::new(ErrorKind::WrongState, text))
}

/// The backing file `disk` is not the backup `base`, from which `bitmap` counts.
fn other_base(bitmap: &str, base: Identity, disk: &Disk) -> Error {
    let found = match disk.find_beside(base) {
        Ok(Some(path)) => format!(", which is '{}'", path.display()),
        Ok(None) => String::new(),
        Err(error) => format!(" (looking for it failed: {error})"),
    };
    let insist = match disk.identity().or(disk.former_identity()) {
        None => "; say lineage=ignore only for a copy of that backup that another program made",
        Some(_) => "",
    };
    let text = format!(
        "{bitmap} counts from the backup {base}{found}, and {}: an increment over another backup would lack what changed \
         between the two; use the first one as the backing file, or make a full copy{insist}",
        described(disk),
    );
    Error::new(ErrorKind::WrongState, text)
}

/// An image, and which backup it is.
fn described(disk: &Disk) -> String {
    let path = disk.path().display();
    match (disk.identity(), disk.former_identity()) {
        (Some(identity), _) => format!("'{path}' is the backup {identity}"),
        (None, Some(former)) => format!("'{path}' was the backup {former} until its disk was changed"),
        (None, None) => format!("'{path}' has no identity"),
    }
}

/// An existing file that a target would replace.
#[derive(Debug)]
struct Replaced {
    path: PathBuf,
    file: FileId,
    identity: Option<Identity>,
}

impl Replaced {
    fn by(prepared: &Prepared) -> Result<Option<Self>> {
        let Backup { source, target, options } = &prepared.backup;
        if options.existing != Existing::Overwrite {
            return Ok(None);
        }
        let unknown =
            |e: Error| e.within("whether the target is a backup that an increment stands on is not known");
        let found = source.relative_at(target).map_err(unknown)?;
        // A file that is no image can still have data of one.
        let Ok(status) = prepared.storage.status(target) else { return Ok(None) };
        let identity = found.and_then(|found| found.lineage.identity);
        Ok(Some(Replaced { path: target.clone(), file: status.id, identity }))
    }
}

/// Refuses targets that would replace what an increment of the list stands on: the backup that its bitmap counts from, every
/// backup that this one was made over, and every file of their chains. The chain that a target names itself is read by the run,
/// and checked with what the run reads.
pub(crate) fn keep_ancestors(list: &mut [Prepared]) -> Result<()> {
    if list.iter().all(|prepared| prepared.stands_on.is_none()) {
        return Ok(());
    }
    let mut all = Vec::new();
    for prepared in list.iter() {
        all.extend(Replaced::by(prepared)?);
    }
    if all.is_empty() {
        return Ok(());
    }
    let targets = || all.iter().map(|replaced| folder_of(&replaced.path));
    for prepared in list {
        let Some(base) = prepared.stands_on else { continue };
        let Backup { source, target, options } = &prepared.backup;
        let bitmap = source.bitmap_text(options.bitmap.as_deref().unwrap_or_default());
        let mut ancestry = Ancestry::new(base);
        if let Some(backing) = &prepared.backing {
            ancestry.add(&backing.image())?;
        }
        let backing = prepared.backing.as_ref().map(|backing| folder_of(backing.path()));
        let folders = targets().chain([folder_of(target), folder_of(source.path())]).chain(backing);
        let hidden = ancestry.complete(source, folders)?;
        for replaced in &all {
            ancestry.refuse(replaced, &bitmap)?;
        }
        let notes = &mut prepared.lineage.notes;
        if all.iter().any(|replaced| replaced.identity.is_some()) {
            notes.extend(ancestry.missing.iter().map(|backup| {
                format!(
                    "the backup {backup}, which {bitmap} needs, was not found: whether it stands on a file that is replaced \
                     is not known"
                )
            }));
        }
        notes.extend(hidden.into_iter().map(|error| {
            format!("whether {bitmap} needs a file that is replaced is not known for certain: {error}")
        }));
    }
    Ok(())
}

/// What an increment stands on, as far as it can be found.
#[derive(Debug)]
struct Ancestry {
    base: Identity,
    known: HashSet<Identity>,
    /// Those of them that no image was found for so far, and the image that was made over them.
    wanted: Vec<(Identity, Option<PathBuf>)>,
    missing: Vec<Identity>,
    /// All names of them, and what stands on each.
    members: Vec<Member>,
    files: HashSet<FileId>,
}

#[derive(Debug)]
struct Member {
    identity: Option<Identity>,
    files: Vec<FileId>,
    above: Option<PathBuf>,
}

impl Ancestry {
    fn new(base: Identity) -> Self {
        Ancestry {
            base,
            known: HashSet::from([base]),
            wanted: vec![(base, None)],
            missing: Vec::new(),
            members: Vec::new(),
            files: HashSet::new(),
        }
    }

    /// Adds the images of a chain.
    fn add(&mut self, chain: &Image) -> Result<()> {
        let facts = chain.facts().collect::<Result<Vec<_>>>()?;
        let own: HashSet<_> = facts.iter().filter_map(|facts| facts.info.identity).collect();
        let mut above = None;
        for facts in facts {
            let files: Vec<_> = facts.files.iter().map(|(file, _)| *file).collect();
            self.files.extend(&files);
            self.members.push(Member { identity: facts.info.identity, files, above });
            above = Some(facts.info.path.clone());
            let parent = facts.info.parent.filter(|parent| self.known.insert(*parent));
            self.wanted.extend(parent.map(|parent| (parent, above.clone())));
        }
        self.wanted.retain(|(identity, _)| !own.contains(identity));
        Ok(())
    }

    /// Looks in these folders for what is still wanted. Returns what could not be looked at there.
    fn complete<'a>(&mut self, source: &Disk, folders: impl Iterator<Item = &'a Path>) -> Result<Vec<Error>> {
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let Relatives { images, hidden } = source.relatives_in(folders)?;
        while let Some((wanted, above)) = self.wanted.pop() {
            let mut found = false;
            for image in images.iter().filter(|image| image.lineage.identity == Some(wanted)) {
                found = true;
                if self.files.contains(&image.file) {
                    continue;
                }
                match source.look_at_chain(&image.path)? {
                    Some(chain) => self.add(&chain)?,
                    None => {
                        let Lineage { parent, .. } = image.lineage;
                        let parent = parent.filter(|parent| self.known.insert(*parent));
                        self.wanted.extend(parent.map(|parent| (parent, Some(image.path.clone()))));
                    }
                }
            }
            if !found {
                self.missing.push(wanted);
            }
            // Every copy counts as that backup.
            self.members.push(Member { identity: Some(wanted), files: Vec::new(), above });
        }
        Ok(hidden)
    }

    fn refuse(&self, replaced: &Replaced, bitmap: &str) -> Result<()> {
        let is_it = |member: &&Member| {
            member.files.contains(&replaced.file)
                || member.identity.is_some() && member.identity == replaced.identity
        };
        // The entry that says most: what stands on it.
        let found = self.members.iter().filter(is_it).max_by_key(|member| member.above.is_some());
        let Some(member) = found else { return Ok(()) };
        let what = replaced.identity.map_or_else(String::new, |identity| format!("the backup {identity}, "));
        let base = self.base;
        let role = match &member.above {
            _ if replaced.identity == Some(base) => format!("which {bitmap} counts from"),
            Some(above) => {
                format!(
                    "which '{}' stands on, and with that the backup {base}, which {bitmap} counts from",
                    above.display()
                )
            }
            None => format!("a part of the backup {base}, which {bitmap} counts from"),
        };
        let text = format!(
            "the target '{}' is {what}{role}: replacing it would lose what it has; choose another name",
            replaced.path.display()
        );
        Err(Error::new(ErrorKind::WrongState, text))
    }
}
