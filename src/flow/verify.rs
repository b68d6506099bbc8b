//! Logs in to the controller by mutual TLS with the key that an identity names.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CertificateSummary, Event, IdentitySummary, World};
use crate::controller::ControllerError;
use crate::error::{Error, Spent};
use crate::files;
use crate::http::HttpErrorKind;
use crate::identity::opened::OpenError;
use crate::identity::{self, Identity, IdentityError, OpenedIdentity};
use crate::text::{Printable, hex};
use crate::trust::TrustError;

/// What a login showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The identity, as the controller knows it.
    pub identity: IdentitySummary,
    /// Its name at the controller.
    pub name: Printable,
    /// The release of the controller.
    pub controller_version: Printable,
    /// The key that signed the handshake.
    pub key: VerifiedKey,
    /// The certificate that was shown.
    pub certificate: CertificateSummary,
}

/// The key that signed the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedKey {
    /// Its reference.
    pub reference: String,
    /// `p256`, …
    pub algorithm: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub spki_sha256: String,
}

/// Reads an identity file.
///
/// # Errors
/// [`Error::Read`], [`Error::Identity`].
pub fn read_identity(path: &Path) -> Result<Identity, Error> {
    let text = files::read_file(path, identity::LARGEST).map_err(Error::Read)?;
    Identity::parse(&text).map_err(|source| Error::Identity { path: path.to_owned(), source })
}

/// Logs in as the identity in `path`, asks who that is, and logs out.
///
/// # Errors
/// The key's, the network's, and [`Error::Login`] where the controller does not take the certificate.
pub fn verify(path: &Path, world: &World<'_>) -> Result<Verified, Error> {
    let opened = open(path, world)?;
    let identity_error = |source| Error::Identity { path: path.to_owned(), source };
    let origin = opened.identity().origin().map_err(identity_error)?;
    let summary = opened.identity().chain.summary().map_err(|e| identity_error(IdentityError::Certificates("cert", e)))?;
    let failed = |error| login_error(&origin.to_string(), &opened, error);
    let controller = opened.controller(&world.reach).map_err(|e| Error::trust(origin.to_string(), e))?;
    let version = controller.version().map_err(failed)?;
    let session = controller.login().map_err(failed)?;
    if session.needs_more {
        return Err(Error::LoginNeedsMore);
    }
    let who = session.current_identity().map_err(failed)?;
    if session.chain_incomplete {
        let text = "the controller says that the certificate chain of this identity lacks an intermediate";
        drop(world.watch.event(&Event::Note(text)));
    }
    let file: PathBuf = files::absolute(path).map_err(Error::Read)?;
    Ok(Verified {
        identity: IdentitySummary {
            id: Some(who.id.as_str().to_owned()),
            controller: origin.to_string(),
            file: file.display().to_string(),
        },
        name: who.name,
        controller_version: Printable::new(&version.version),
        key: VerifiedKey {
            reference: opened.key().uri().to_string(),
            algorithm: opened.key().public_key().algorithm().to_string(),
            spki_sha256: hex(&opened.key().public_key().sha256()),
        },
        certificate: CertificateSummary::from(&summary),
    })
}

fn open(path: &Path, world: &World<'_>) -> Result<OpenedIdentity, Error> {
    let identity = read_identity(path)?;
    OpenedIdentity::open(identity, &world.providers, &world.access).map_err(|error| match error {
        OpenError::Identity(source) => Error::Identity { path: path.to_owned(), source },
        OpenError::Key(source) => Error::IdentityKey { identity: path.to_owned(), source },
    })
}

/// A login fails for the key's reasons, the network's, or the controller's.
fn login_error(controller: &str, opened: &OpenedIdentity, error: ControllerError) -> Error {
    if let Some(source) = opened.take_key_failure() {
        return Error::Key { uri: Box::new(opened.key().uri().clone()), source, spent: Spent::Yes };
    }
    match error {
        ControllerError::Trust(TrustError::Network(source))
            if matches!(source.kind, HttpErrorKind::Tls(rustls::Error::AlertReceived(_))) =>
        {
            let source = ControllerError::Trust(TrustError::Network(source));
            Error::Login { controller: controller.to_owned(), source }
        }
        ControllerError::Trust(source) => Error::trust(controller, source),
        // Too busy, or in trouble: that says nothing about the identity.
        ControllerError::Refused(why) if matches!(why.status, 429 | 500..=599) => {
            Error::NotNow { controller: controller.to_owned(), why: why.to_string() }
        }
        source => Error::Login { controller: controller.to_owned(), source },
    }
}
