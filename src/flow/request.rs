//! A request for somebody else's CA, signed by a key wherever that lives: what third-party enrollment begins with.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::World;
use super::keys::{self, Created};
use crate::csr::{Csr, Wanted};
use crate::error::{Error, Spent};
use crate::files::{FileError, Place};
use crate::key::{Key, KeyAlgorithm, KeyUri};

/// The key that signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The one that the reference names.
    Existing(KeyUri),
    /// A new one of that name; there must be none.
    New(KeyUri, KeyAlgorithm),
}

/// A request that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requested {
    /// The key that signed it.
    pub key: Created,
    /// Whether it was made for that.
    pub created: bool,
    /// The file that the request is in; `null` for none.
    pub file: Option<String>,
    /// The request, PEM.
    pub csr: Csr,
}

/// Signs a request with `signer`, and writes it to `out` where one is given.
///
/// # Errors
/// [`Error::Key`], and [`Error::Output`] for the file: before a key is made, where it can be known.
pub fn request(
    signer: &Signer,
    wanted: &Wanted,
    out: Option<&Path>,
    replace: bool,
    world: &World<'_>,
) -> Result<Requested, Error> {
    let out = out.map(|path| reserve(path, replace)).transpose().map_err(Error::Output)?;
    let (key, created, csr) = sign(signer, wanted, world).inspect_err(|_| {
        if let Some(Err(error)) = out.as_ref().map(|out| out.remove_work("")) {
            log::debug!("{error}");
        }
    })?;
    let file = out.map(|out| publish(&out, csr.as_pem(), replace)).transpose().map_err(Error::Output)?;
    Ok(Requested { key, created, file: file.map(|path| path.display().to_string()), csr })
}

fn sign(signer: &Signer, wanted: &Wanted, world: &World<'_>) -> Result<(Created, bool, Csr), Error> {
    let failed = |uri: &KeyUri| {
        let uri = Box::new(uri.clone());
        move |source| Error::Key { uri, source, spent: Spent::No }
    };
    let (key, created) = match signer {
        Signer::Existing(uri) => {
            let provider = world.providers.of(uri).map_err(failed(uri))?;
            (provider.open(uri, &world.access).map_err(failed(uri))?, false)
        }
        Signer::New(uri, algorithm) => keys::make(uri, *algorithm, false, world)?,
    };
    let csr = Csr::sign(&*key, wanted).map_err(failed(key.uri()))?;
    Ok((Created::from(&*key as &dyn Key), created, csr))
}

const CONTENT: &str = "request";

/// The place of the request, found writable before anything is made.
fn reserve(path: &Path, replace: bool) -> Result<Place, FileError> {
    let place = Place::of(path, "write", "csr")?;
    place.refuse_existing(replace)?;
    place.work()?.reserve(CONTENT)?;
    Ok(place)
}

fn publish(place: &Place, text: &str, replace: bool) -> Result<PathBuf, FileError> {
    let work = place.existing_work()?;
    work.fill(CONTENT, text.as_bytes())?;
    place.folder().publish(&work, CONTENT, place.name(), replace)?;
    place.remove_work("")?;
    Ok(place.path())
}
