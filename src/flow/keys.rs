//! Keys outside an enrollment: list, create, delete.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::World;
use crate::error::{Error, Spent};
use crate::files::Folder;
use crate::key::{Key, KeyAlgorithm, KeyError, KeyListing, KeyReference, KeyUri, NewKey, PlaceListing};
use crate::text::hex;

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
}

/// What [`delete`] is to destroy.
#[derive(Clone, Debug)]
pub enum Doomed {
    /// The key that a reference names.
    Key(KeyUri),
    /// The key of an identity.
    OfIdentity(KeyReference),
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

/// The name of what [`delete`] would destroy.
///
/// # Errors
/// [`Error::Usage`] where an identity holds its key itself.
pub fn doomed(what: &Doomed, world: &World<'_>) -> Result<KeyUri, Error> {
    match what {
        Doomed::Key(uri) => Ok(uri.clone()),
        Doomed::OfIdentity(reference) => match world.providers.locate(reference) {
            Some(located) => located.map_err(failed(&KeyUri::new("identity"))),
            None => Err(Error::Usage {
                message: "the key of this identity is in the file itself, or of a kind that is not deleted here".into(),
                hint: Some(crate::text::Hint::say("remove the file")),
            }),
        },
    }
}

/// Destroys both halves of a key. There is no way back.
///
/// # Errors
/// [`Error::Key`].
pub fn delete(uri: &KeyUri, world: &World<'_>) -> Result<Deleted, Error> {
    let provider = world.providers.of(uri).map_err(failed(uri))?;
    provider.delete(uri, &world.access).map_err(failed(uri))?;
    Ok(Deleted { reference: uri.clone() })
}
