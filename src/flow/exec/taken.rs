//! What a program has changed in its copy of an identity, checked and taken over.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::World;
use crate::error::{Error, IssuedError};
use crate::files::{self, FileError};
use crate::identity::{self, Identity, IdentityError};
use crate::key::PublicKey;
use crate::origin::Origin;

const NEXT: &str = "next";

/// Where an identity stands.
#[derive(Debug)]
pub(super) struct Place(files::Place);

impl Place {
    pub(super) fn of(identity: &Path) -> Result<Self, FileError> {
        files::Place::of(identity, "write", "exec").map(Self)
    }

    pub(super) fn name(&self) -> &OsStr {
        self.0.name()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// Refuses what is no regular file: a link would be replaced, and not what it leads to.
    pub(super) fn must_be_a_file(&self) -> Result<(), FileError> {
        self.0.refuse_existing(true)
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.folder().has(self.name())
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, FileError> {
        files::read_file(&self.path(), identity::LARGEST)
    }

    /// Removes what a run has left there that was killed while it replaced the identity: the copy has it still.
    pub(super) fn tidy(&self) {
        let Some(work) = self.0.has_work().then(|| self.0.existing_work().ok()).flatten() else { return };
        // One that is held belongs to another run, which removes it.
        let removed = work.lock().and_then(|lock| self.0.remove_work("").map(|()| drop(lock)));
        if let Err(error) = removed {
            log::debug!("{error}");
        }
    }

    /// Puts `text` into the place of what stands there, durably, with the same owner and mode.
    fn replace(&self, text: &str) -> Result<(), FileError> {
        self.must_be_a_file()?;
        let work = self.0.work()?;
        let lock = work.lock()?;
        work.fill(NEXT, text.as_bytes())?;
        self.0.folder().dress(self.name(), &work, NEXT)?;
        self.0.folder().publish(&work, NEXT, self.name(), true)?;
        self.0.remove_work("")?;
        drop(lock);
        Ok(())
    }
}

/// Why what is in a copy was not taken over.
#[derive(Debug)]
pub(super) enum Left {
    /// It is no good.
    Unusable(IssuedError),
    /// It may be good, and cannot be kept now.
    Unkept(Error),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why: &dyn std::error::Error = match self {
            Self::Unusable(why) => {
                f.write_str("what the program has written over its copy of the identity is not taken over")?;
                why
            }
            Self::Unkept(why) => {
                f.write_str("what the program has written over its copy of the identity cannot be kept now")?;
                why
            }
        };
        // The causes too: nobody else prints them.
        let mut next = Some(why);
        let mut last = String::new();
        while let Some(cause) = next {
            let words = cause.to_string();
            if words != last {
                write!(f, ": {words}")?;
            }
            last = words;
            next = cause.source();
        }
        Ok(())
    }
}

impl From<IdentityError> for Left {
    fn from(error: IdentityError) -> Self {
        Self::Unusable(error.into())
    }
}

fn unkept(source: FileError) -> Left {
    Left::Unkept(Error::Local { source, spent: crate::error::Spent::Yes })
}

/// Takes over what is in `copy` and was not in `base`: certificate, CA certificates, addresses. Gives what both say then;
/// `None` where the program has changed nothing of that.
///
/// What somebody else has changed in the identity meanwhile stays; of two new certificates the one that begins later is the
/// one in force.
pub(super) fn taken(
    place: &Place,
    base: &Identity,
    copy: &Identity,
    key: Option<&PublicKey>,
    world: &World<'_>,
) -> Result<Option<Identity>, Left> {
    let [cert, ca, apis] = [copy.chain != base.chain, copy.anchors != base.anchors, copy.apis != base.apis];
    if !(cert || ca || apis) {
        return Ok(None);
    }
    let text = place.read().map_err(unkept)?;
    let there = Identity::parse(&text).map_err(|source| Left::Unkept(Error::Identity { path: place.path(), source }))?;
    if apis && copy.apis.iter().any(|api| Origin::of_url(api).is_err()) {
        return Err(IdentityError::Form("an address of a controller in it is none".into()).into());
    }
    let anchors = if ca { &copy.anchors } else { &there.anchors };
    let mut chain = if cert { copy.chain.clone().completed(anchors) } else { there.chain.clone() };
    let of_the_file = there.chain.public_key().map_err(|e| Left::Unusable(e.into()))?;
    let summary = chain
        .check_issued(key.unwrap_or(&of_the_file), anchors, base.chain.identity_id().as_deref(), world.now())
        .map_err(|e| Left::Unusable(e.into()))?;
    if cert && there.chain != base.chain && there.chain.summary().is_ok_and(|other| other.not_before > summary.not_before) {
        chain = there.chain.clone();
    }
    let next = Identity {
        apis: if apis { copy.apis.clone() } else { there.apis.clone() },
        key: there.key.clone(),
        anchors: anchors.clone(),
        chain,
    };
    if next.chain != there.chain || next.anchors != there.anchors || next.apis != there.apis {
        place.replace(&next.to_json_over(&text)?).map_err(unkept)?;
    }
    Ok(Some(Identity { key: there.key, ..copy.clone() }))
}
