//! Keys outside an enrollment: list, create, delete.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::login::{self, read_identity};
use super::{CertificateSummary, IdentitySummary, World};
use crate::error::{Error, Spent};
use crate::files::{self, Folder};
use crate::identity::{Identity, IdentityError};
use crate::key::{Key, KeyAlgorithm, KeyError, KeyListing, KeyUri, NewKey, PlaceListing};
use crate::text::{Printable, hex};

/// The folder in which a key waits that is not yet where it belongs.
const WORK: &str = ".ziti-enroller.key";

/// The tokens or devices of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// In the order of their slots.
    pub tokens: Vec<PlaceListing>,
}

/// The keys of one token or device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keys {
    /// In the order in which the device shows them.
    pub keys: Vec<KeyListing>,
}

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Names it on the command line.
    pub reference: KeyUri,
    /// `p256`, …
    pub algorithm: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub spki_sha256: String,
}

impl From<&dyn Key> for Created {
    fn from(key: &dyn Key) -> Self {
        Self {
            reference: key.uri().clone(),
            algorithm: key.public_key().algorithm().to_string(),
            spki_sha256: hex(&key.public_key().sha256()),
        }
    }
}

/// A key that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// What named it.
    pub reference: KeyUri,
    /// What has died with it, where an identity was named.
    #[serde(flatten)]
    pub with: Option<Victim>,
}

/// An identity that dies with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Who, where, and in which file.
    pub identity: IdentitySummary,
    /// Until when it could have logged in.
    pub certificate: CertificateSummary,
}

/// What [`delete`] is to destroy.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// The key.
    uri: KeyUri,
    /// The identity that was named, as it was read, and what is said of it.
    of: Option<(PathBuf, Identity, Victim)>,
}

impl fmt::Display for Doomed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((.., Victim { identity, certificate })) = &self.of else {
            return write!(f, "{}, and every identity that refers to it", self.uri);
        };
        write!(
            f,
            "{}, the key of {}: identity {} at ",
            self.uri,
            identity.file,
            identity.id.as_deref().unwrap_or("of no known id")
        )?;
        write!(f, "{} (certificate until {}) can never log in with it again", identity.controller, certificate.not_after)
    }
}

fn failed(uri: &KeyUri) -> impl FnOnce(KeyError) -> Error {
    let uri = Box::new(uri.clone());
    move |source| Error::Key { uri, source, spent: Spent::No }
}

/// Lists the tokens or devices that `within` leaves open. No login is made.
///
/// # Errors
/// [`Error::Key`].
pub fn tokens(within: &KeyUri, world: &World<'_>) -> Result<Tokens, Error> {
    let provider = world.providers.of(within).map_err(failed(within))?;
    provider.places(within).map(|tokens| Tokens { tokens }).map_err(failed(within))
}

/// Lists the private keys of the one token or device that `within` names.
///
/// # Errors
/// [`Error::Key`].
pub fn list(within: &KeyUri, world: &World<'_>) -> Result<Keys, Error> {
    let provider = world.providers.of(within).map_err(failed(within))?;
    provider.keys(within, &world.access).map(|keys| Keys { keys }).map_err(failed(within))
}

/// Makes a key under the name of `uri`; there must be none.
///
/// # Errors
/// [`Error::Key`], and [`Error::Local`] for the folder in which it waits.
pub fn create(uri: &KeyUri, algorithm: KeyAlgorithm, world: &World<'_>) -> Result<Created, Error> {
    make(uri, algorithm, false, world).map(|(key, _)| Created::from(&*key))
}

/// Makes a key under the name of `uri`, or takes the one that is there where it may be `reuse`d; and says which.
pub(super) fn make(uri: &KeyUri, algorithm: KeyAlgorithm, reuse: bool, world: &World<'_>) -> Result<(Arc<dyn Key>, bool), Error> {
    let local = |source| Error::Local { source, spent: Spent::No };
    let provider = world.providers.of(uri).map_err(failed(uri))?;
    let here = Folder::of(Path::new(WORK)).map_err(local)?;
    let work = here.private(OsStr::new(WORK)).map_err(local)?;
    let lock = work.lock().map_err(local)?;
    let wish = NewKey { within: uri, owner: None, algorithm, reuse, work: &work, identity: Path::new(WORK), beside: &here };
    let made = provider.plan(&wish, &world.access).and_then(|plan| {
        if plan.there_already {
            return provider.open(&plan.uri, &world.access).map(|key| (key, false));
        }
        provider.generate(&plan, &wish, &world.access).map(|key| (key, true))
    });
    let removed = here.remove_private(OsStr::new(WORK), "");
    drop(lock);
    let made = made.map_err(failed(uri))?;
    removed.map_err(local)?;
    Ok(made)
}

/// The key that `uri` names, to be destroyed.
pub fn doomed(uri: KeyUri) -> Doomed {
    Doomed { uri, of: None }
}

/// The key of the identity in `path`, to be destroyed. Nothing is opened, and no PIN is used.
///
/// # Errors
/// [`Error::Usage`] where the identity holds its key itself, and what is wrong with the file.
pub fn doomed_with(path: &Path, world: &World<'_>) -> Result<Doomed, Error> {
    let identity = read_identity(path)?;
    let wrong = |source| Error::Identity { path: path.to_owned(), source };
    let uri = match world.providers.locate(&identity.key) {
        Some(located) => located.map_err(|source| Error::IdentityKey { identity: path.to_owned(), source })?,
        None => {
            return Err(Error::Usage {
                message: "the key of this identity is in the file itself, or of a kind that is not deleted here".into(),
                hint: Some(crate::text::Hint::say("remove the file")),
            });
        }
    };
    let summary = identity.chain.summary().map_err(|e| wrong(IdentityError::Certificates("cert", e)))?;
    let victim = Victim {
        identity: IdentitySummary {
            id: identity.chain.identity_id().map(|id| Printable::new(&id).as_str().to_owned()),
            controller: identity.origin().map_err(wrong)?.to_string(),
            file: files::absolute(path).map_err(Error::Read)?.display().to_string(),
        },
        certificate: CertificateSummary::from(&summary),
    };
    Ok(Doomed { uri, of: Some((path.to_owned(), identity, victim)) })
}

/// Destroys both halves of a key. There is no way back.
///
/// That of an identity is opened first, as for a login: by the PIN in the file, where there is one, and wherever it is now;
/// so what goes is the key of the certificate and no other.
///
/// # Errors
/// [`Error::Key`], [`Error::IdentityKey`].
pub fn delete(doomed: Doomed, world: &World<'_>) -> Result<Deleted, Error> {
    let Doomed { uri, of } = doomed;
    let (uri, with) = match of {
        None => (uri, None),
        Some((path, identity, victim)) => (login::opened(&path, identity, world)?.key().uri().clone(), Some(victim)),
    };
    let provider = world.providers.of(&uri).map_err(failed(&uri))?;
    provider.delete(&uri, &world.access).map_err(failed(&uri))?;
    Ok(Deleted { reference: uri, with })
}
