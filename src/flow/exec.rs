//! A copy of an identity in memory, for a program that wants the PIN inside the file.
//!
//! The SDK in that program may renew the certificate: it writes the new one over its copy, and the old one is dead by then.
//! So the copy has a folder of its own, for `<copy>.bak` and `<copy>.tmp`, and what the program changes in it is taken over
//! into the identity, checked as what a controller has issued is. The key is never taken over.
//!
//! ```text
//! <memory>/ziti-enroller.<16 digits>/lock       held by this run, and by the program for as long as it lives
//!                                    of         the path of the identity
//!                                    base       what both files said when they were last the same; without a PIN
//!                                    id/<name>  the copy
//! ```
//!
//! A run that is killed leaves its folder; the next one of any identity finds that nobody holds it, takes over what is new in
//! it, and removes it.

mod folder;
mod taken;

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use self::folder::Copy;
use self::taken::{Left, Place, taken};
use super::World;
use super::login::{opened, parse};
use crate::certificate::rfc3339;
use crate::error::Error;
use crate::files::{FileError, FileErrorKind, Folder, Look};
use crate::identity::Identity;
use crate::key::{Embed, PublicKey};
use crate::text::Hint;

/// What is to be held in memory.
#[derive(Clone, Debug)]
pub struct Request {
    /// The identity.
    pub identity: PathBuf,
    /// Folders that may be in memory, the likeliest first.
    pub memory: Vec<PathBuf>,
}

/// An identity whose PIN was accepted, and nothing is written yet.
pub struct Proved {
    place: Place,
    memory: Folder,
    identity: Identity,
    key: PublicKey,
    /// The text of the copy. It may hold the PIN.
    text: Zeroizing<String>,
}

/// The copy, and what was last known to be in both files. Dropped without [`end`](Self::end), it stays for the next run.
#[derive(Debug)]
pub struct Held {
    place: Place,
    memory: Folder,
    copy: Copy,
    base: Identity,
    key: PublicKey,
    /// The file as it was when it was last dealt with.
    seen: Option<Look>,
    /// What stands in the way, and whether that was said.
    trouble: Option<(String, bool)>,
}

/// Takes over what killed runs have left, opens the identity's key with at most one try of a PIN, and puts the PIN into the
/// text of the copy.
///
/// # Errors
/// [`Error::Memory`] where no folder is in memory, [`Error::Usage`] where no SDK could use the copy, the key's and the file's.
pub fn prove(request: &Request, world: &World<'_>) -> Result<Proved, Error> {
    let place = Place::of(&request.identity).map_err(Error::Read)?;
    place.must_be_a_file().map_err(|error| match &error.kind {
        FileErrorKind::Symlink => Error::Usage {
            message: format!("{} is a symbolic link, which a renewed certificate would take the place of", error.path.display()),
            hint: Some(Hint::say("name the file that it leads to")),
        },
        _other => Error::Read(error),
    })?;
    let memory = in_memory(&request.memory).map_err(Error::Memory)?;
    folder::clear(&memory, world);
    place.tidy();
    let old = place.read().map_err(Error::Read)?;
    let identity = parse(&place.path(), &old)?;
    must_be_known_to_sdks(&identity, world)?;
    let opened = opened(&place.path(), identity.clone(), world)?;
    let key = opened.key();
    let failed = |source| Error::IdentityKey { identity: place.path(), source };
    let in_device = world.providers.of(key.uri()).is_ok_and(|provider| provider.keys_live_in_a_device());
    let mut for_readers = identity.clone();
    if in_device && (key.held() != Embed::Pin || key.is_elsewhere()) {
        for_readers.key = key.reference(Embed::Pin).map_err(failed)?;
    }
    let readers = world.providers.readers(&for_readers.key, Some(&key.facts().map_err(failed)?)).list;
    if !readers.is_empty() && readers.iter().all(|reader| reader.obstacle.is_some()) {
        let why = readers.iter().filter_map(|reader| Some(format!("{}: {}", reader.name, reader.obstacle.as_ref()?)));
        return Err(Error::Usage {
            message: format!("no Ziti SDK can use the key of this identity ({})", why.collect::<Vec<_>>().join("; ")),
            hint: None,
        });
    }
    let text = for_readers.to_json_over(&old).map_err(|source| Error::Identity { path: place.path(), source })?;
    let key = key.public_key().clone();
    Ok(Proved { place, memory, identity, key, text: text.into() })
}

impl Proved {
    /// Writes the copy.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn hold(self) -> Result<Held, Error> {
        let Self { place, memory, identity, key, text } = self;
        let copy = Copy::write(&memory, &place, &identity, &text).map_err(Error::Memory)?;
        Ok(Held { seen: copy.look(), place, memory, copy, base: identity, key, trouble: None })
    }
}

impl fmt::Debug for Proved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proved").field("place", &self.place).field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Held {
    /// Where the copy is.
    pub fn path(&self) -> PathBuf {
        self.copy.path()
    }

    /// Takes over what the program has changed in its copy since the last time. What stands in the way is said once, and
    /// tried again until it is gone: the program may be writing just now.
    pub fn keep(&mut self, world: &World<'_>) {
        let look = self.copy.look();
        if look == self.seen {
            return;
        }
        match self.take(world) {
            Ok(()) => (self.seen, self.trouble) = (look, None),
            Err(left) => {
                let words = left.to_string();
                let before = self.trouble.take().filter(|(known, _)| *known == words);
                let said = before.as_ref().is_some_and(|(_, said)| *said);
                if before.is_some() && !said {
                    world.note(&words);
                }
                self.trouble = Some((words, said || before.is_some()));
            }
        }
    }

    fn take(&mut self, world: &World<'_>) -> Result<(), Left> {
        let now = self.copy.read()?;
        if let Some(agreed) = taken(&self.place, &self.base, &now, Some(&self.key), world)? {
            self.copy.agree(&agreed);
            self.base = agreed;
            let summary = self.base.chain.summary().map(|s| rfc3339(s.not_after)).unwrap_or_default();
            let file = self.place.path();
            world.note(&format!("{} has what the program has written: certificate until {summary}", file.display()));
        }
        Ok(())
    }

    /// Takes over what is left to take over, and removes the copy; it stays where something good in it could not be kept.
    pub fn end(mut self, world: &World<'_>) {
        match self.take(world) {
            Err(left @ Left::Unkept(_)) => {
                let again = format!("{} keeps it until the next `ziti-enroller exec`", self.path().display());
                world.note(&format!("{left}; {again}"));
                return;
            }
            Err(left @ Left::Unusable(_)) => world.note(&left.to_string()),
            Ok(()) => {}
        }
        if let Err(error) = self.copy.remove(&self.memory) {
            world.note(&format!("the copy of the identity stays in memory: {error}"));
        }
    }
}

/// The first of `folders` that is in memory and can be written to.
fn in_memory(folders: &[PathBuf]) -> Result<Folder, FileError> {
    let open = |path: &PathBuf| Folder::of(&path.join("copy")).ok().filter(|folder| folder.is_in_memory() && folder.can_write());
    folders.iter().find_map(open).ok_or_else(|| {
        let path = folders.last().cloned().unwrap_or_default();
        let why = "no folder that was looked at is on a RAM file system and can be written to";
        FileError { action: "use", path, kind: FileErrorKind::Content(why) }
    })
}

/// Before a PIN is used.
fn must_be_known_to_sdks(identity: &Identity, world: &World<'_>) -> Result<(), Error> {
    let located = world.providers.locate(&identity.key).and_then(Result::ok);
    let unknown = located.filter(|uri| world.providers.of(uri).is_ok_and(|provider| !provider.is_known_to_sdks()));
    match unknown {
        None => Ok(()),
        Some(uri) => Err(Error::Usage {
            message: format!("no Ziti SDK reads `{}:` references, so no program could use a copy of this identity", uri.scheme()),
            hint: Some(Hint::say(
                "have `ziti-enroller renew --rotate` move it to a key that SDKs read: the device may have a PKCS#11 module too",
            )),
        }),
    }
}
