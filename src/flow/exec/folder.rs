//! The folder of a copy in memory: lock, records, and the copy in a folder of its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::World;
use super::taken::{Left, Place, taken};
use crate::files::{FileError, FileErrorKind, Folder, Lock, Look};
use crate::identity::{self, Identity, IdentityError};
use crate::key::KeyReference;
use crate::text::hex;

const PREFIX: &str = "ziti-enroller.";
/// The path of the identity.
const OF: &str = "of";
/// What both files said when they were last the same.
const BASE: &str = "base";
/// The folder that the program sees.
const SEEN: &str = "id";
/// Other runs may remove a folder that nobody holds yet: then another one is made.
const TRIES: usize = 8;

/// A copy of an identity in memory.
#[derive(Debug)]
pub(super) struct Copy {
    name: OsString,
    folder: Folder,
    seen: Folder,
    file: OsString,
    lock: Lock,
}

impl Copy {
    pub(super) fn write(memory: &Folder, place: &Place, base: &Identity, text: &str) -> Result<Self, FileError> {
        let (name, folder, lock) = held(memory)?;
        folder.fill(OF, place.path().as_os_str().as_bytes())?;
        let seen = folder.private(SEEN.as_ref())?;
        let copy = Self { name, folder, seen, file: place.name().to_owned(), lock };
        copy.agree(base);
        copy.seen.fill(&copy.file, text.as_bytes())?;
        // A program that outlives us keeps its folder.
        copy.lock.hand_on()?;
        Ok(copy)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.seen.join(&self.file)
    }

    pub(super) fn look(&self) -> Option<Look> {
        self.seen.look(&self.file)
    }

    pub(super) fn read(&self) -> Result<Identity, Left> {
        read(&self.seen, &self.file)
    }

    /// Writes down what both files say now, for whoever finds this after a kill.
    pub(super) fn agree(&self, both: &Identity) {
        // The key is not asked for later, and is not written down twice.
        let without_key = Identity { key: KeyReference::names("none"), ..both.clone() };
        let written = without_key.to_json().map_err(|e| e.to_string());
        let written = written.and_then(|text| self.folder.fill(BASE, text.as_bytes()).map_err(|e| e.to_string()));
        if let Err(why) = written {
            log::debug!("what both files say is not written down: {why}");
        }
    }

    pub(super) fn remove(self, memory: &Folder) -> Result<(), FileError> {
        remove(memory, &self.name, &self.folder)?;
        drop(self.lock);
        Ok(())
    }
}

/// A new folder in `memory`, ours alone, and held.
fn held(memory: &Folder) -> Result<(OsString, Folder, Lock), FileError> {
    let mut in_use = None;
    for _ in 0..TRIES {
        let mut random = [0; 8];
        let unlucky =
            |_| FileError { action: "name", path: memory.path().to_owned(), kind: FileErrorKind::Content("no random numbers") };
        aws_lc_rs::rand::fill(&mut random).map_err(unlucky)?;
        let name = OsString::from(format!("{PREFIX}{}", hex(&random)));
        let folder = memory.private(&name)?;
        match folder.lock() {
            Ok(lock) => return Ok((name, folder, lock)),
            Err(error) if matches!(error.kind, FileErrorKind::InUse) => in_use = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(in_use.unwrap_or_else(|| FileError { action: "use", path: memory.path().to_owned(), kind: FileErrorKind::InUse }))
}

/// Its lock goes last: who holds it removes it.
fn remove(memory: &Folder, name: &OsStr, folder: &Folder) -> Result<(), FileError> {
    if folder.has(SEEN) {
        folder.remove_private(SEEN.as_ref(), "")?;
    }
    memory.remove_private(name, OF)
}

fn read(folder: &Folder, file: &OsStr) -> Result<Identity, Left> {
    let gone = || IdentityError::Form("the program has removed it".into());
    let text = folder.read(file, identity::LARGEST).map_err(|e| IdentityError::Referred("copy", e))?;
    Ok(Identity::parse(&text.ok_or_else(gone)?)?)
}

/// Takes over what killed runs have left in `memory`, and removes their folders.
pub(super) fn clear(memory: &Folder, world: &World<'_>) {
    for name in memory.names().unwrap_or_default() {
        let is_ours = name.as_bytes().strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| rest.len() == 16);
        // That of another user is not opened.
        let Some(folder) = is_ours.then(|| memory.existing(&name).ok()).flatten() else { continue };
        // One that is held belongs to a program that lives; whatever is new in it is taken over all the same, since who
        // started it may have been killed.
        let lock = folder.lock();
        match left_in(&folder, world) {
            Err(left @ Left::Unkept(_)) => {
                world.note(&format!("{left}; {} keeps it", folder.path().display()));
                continue;
            }
            Err(left @ Left::Unusable(_)) if lock.is_ok() => world.note(&left.to_string()),
            Err(Left::Unusable(_)) => {}
            Ok(None) => {}
            Ok(Some(file)) => world.note(&format!("{} has what the program of an earlier run has written", file.display())),
        }
        let removed = lock.and_then(|lock| remove(memory, &name, &folder).map(|()| drop(lock)));
        if let Err(error) = removed.or_else(|e| if matches!(e.kind, FileErrorKind::InUse) { Ok(()) } else { Err(e) }) {
            world.note(&format!("what an earlier run has left stays in memory: {error}"));
        }
    }
}

/// The identity into which something was taken over.
fn left_in(folder: &Folder, world: &World<'_>) -> Result<Option<PathBuf>, Left> {
    let unread = |e| Left::from(IdentityError::Referred("copy", e));
    let (of, base) = (folder.read(OF, 4096).map_err(unread)?, folder.read(BASE, identity::LARGEST).map_err(unread)?);
    // A run that was killed so early has shown its copy to nobody.
    let (Some(of), Some(base)) = (of, base) else { return Ok(None) };
    let path = PathBuf::from(OsString::from_vec(of));
    let Some(place) = standing(&path) else { return Ok(None) };
    let Some(file) = path.file_name().filter(|file| folder.join(SEEN).join(file).is_file()) else { return Ok(None) };
    let copy = read(&folder.existing(SEEN.as_ref()).map_err(unread)?, file)?;
    let changed = taken(&place, &Identity::parse(&base)?, &copy, None, world)?;
    Ok(changed.map(|_| path))
}

/// The identity, if it is still there.
fn standing(path: &Path) -> Option<Place> {
    Place::of(path).ok().filter(Place::is_there)
}
