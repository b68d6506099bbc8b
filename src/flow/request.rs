//! A request for somebody else's CA, signed by a key wherever that lives: what third-party enrollment begins with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::World;
use super::keys::{self, Created};
use crate::csr::{Csr, Wanted};
use crate::error::{Error, Spent};
use crate::files::{self, FileError, FileErrorKind, Folder};
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
    let out = out.map(|path| Output::reserve(path, replace)).transpose().map_err(Error::Output)?;
    let signed = sign(signer, wanted, world);
    let (key, created, csr) = match (signed, &out) {
        (Ok(signed), _) => signed,
        (Err(error), Some(out)) => {
            out.give_up();
            return Err(error);
        }
        (Err(error), None) => return Err(error),
    };
    let file = out.map(|out| out.publish(csr.as_pem(), replace)).transpose().map_err(Error::Output)?;
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

/// The file of the request, found writable before anything is made.
struct Output {
    folder: Folder,
    name: OsString,
    work: OsString,
}

const CONTENT: &str = "request";

impl Output {
    fn reserve(path: &Path, replace: bool) -> Result<Self, FileError> {
        let path = files::absolute(path)?;
        let name = path.file_name().map(ToOwned::to_owned);
        let name = name.ok_or_else(|| FileError { action: "write", path: path.clone(), kind: FileErrorKind::NotAFile })?;
        let folder = Folder::of(&path)?;
        folder.refuse_existing(&name, replace)?;
        let mut work = OsString::from(".");
        work.push(&name);
        work.push(".csr");
        folder.private(&work)?.reserve(CONTENT)?;
        Ok(Self { folder, name, work })
    }

    fn publish(&self, text: &str, replace: bool) -> Result<PathBuf, FileError> {
        let work = self.folder.existing(&self.work)?;
        work.fill(CONTENT, text.as_bytes())?;
        self.folder.publish(&work, CONTENT, &self.name, replace)?;
        self.folder.remove_private(&self.work, "")?;
        Ok(self.folder.join(&self.name))
    }

    fn give_up(&self) {
        if let Err(error) = self.folder.remove_private(&self.work, "") {
            log::debug!("{error}");
        }
    }
}
