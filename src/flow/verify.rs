//! Logs in to the controller by mutual TLS with the key that an identity names.

use std::path::Path;

use serde::Serialize;

use super::login::Entrance;
pub use super::login::read_identity;
use super::{CertificateSummary, IdentitySummary, World, days_left};
use crate::controller::ControllerError;
use crate::error::Error;
use crate::files;
use crate::identity::IdentityError;
use crate::text::{Printable, hex};

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
    /// Whole days until it ends; negative once it has.
    pub days_left: i64,
    /// What the controller says of it.
    pub renewal: Renewal,
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

/// What the controller says of a certificate, as far as its renewal goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renewal {
    /// The controller's id for it; `null` where a CA of its own names the identity.
    pub authenticator: Option<String>,
    /// Whether the network has issued it, and so `renew` can renew it; `null` where the controller does not say.
    pub issued_by_network: Option<bool>,
    /// An administrator has asked for a renewal.
    pub requested: bool,
    /// An administrator has asked for a new key with it.
    pub new_key_requested: bool,
    /// The chain that is sent lacks an intermediate; a renewal mends that.
    pub chain_incomplete: bool,
}

/// Logs in as the identity in `path`, asks who that is, and logs out.
///
/// # Errors
/// The key's, the network's, and [`Error::Login`] where the controller does not take the certificate.
pub fn verify(path: &Path, world: &World<'_>) -> Result<Verified, Error> {
    let entrance = Entrance::open(path, read_identity(path)?, world)?;
    let opened = &entrance.opened;
    let identity_error = |source| Error::Identity { path: path.to_owned(), source };
    let summary = opened.identity().chain.summary().map_err(|e| identity_error(IdentityError::Certificates("cert", e)))?;
    let failed = |error| entrance.failed(error);
    let version = entrance.controller.version().map_err(failed)?;
    let session = entrance.log_in()?;
    let who = session.current_identity().map_err(failed)?;
    if let Some(known) = who.fingerprint_sha1.as_ref().filter(|known| known.as_str() != summary.fingerprint_sha1) {
        log::debug!("the controller knows {known}, and {} was shown", summary.fingerprint_sha1);
        return Err(Error::Login { controller: entrance.origin.clone(), source: ControllerError::OtherCertificate });
    }
    let authenticator = session.authenticator.clone().or(who.authenticator);
    let known = match authenticator.as_deref().map(|id| session.authenticator(id)) {
        Some(Ok(known)) => Some(known),
        // A certificate of a CA that names identities by a claim is in no book.
        Some(Err(ControllerError::Refused(why))) if why.status == 404 => None,
        Some(Err(error)) => return Err(failed(error)),
        None => None,
    };
    let renewal = Renewal {
        authenticator,
        issued_by_network: known.and_then(|known| known.issued_by_network),
        requested: session.renewal_requested,
        new_key_requested: session.new_key_requested,
        chain_incomplete: session.chain_incomplete,
    };
    for note in renewal.notes() {
        world.note(note);
    }
    Ok(Verified {
        identity: IdentitySummary {
            id: Some(who.id.as_str().to_owned()),
            controller: entrance.origin.clone(),
            file: files::absolute(path).map_err(Error::Read)?.display().to_string(),
        },
        name: who.name,
        controller_version: Printable::new(&version.version),
        key: VerifiedKey {
            reference: opened.key().uri().to_string(),
            algorithm: opened.key().public_key().algorithm().to_string(),
            spki_sha256: hex(&opened.key().public_key().sha256()),
        },
        certificate: CertificateSummary::from(&summary),
        days_left: days_left(summary.not_after, world),
        renewal,
    })
}

impl Renewal {
    fn notes(&self) -> impl Iterator<Item = &'static str> {
        let new_key = "an administrator asks for a new key: `ziti-enroller renew` makes one";
        let asked = "an administrator asks for a renewal: `ziti-enroller renew` does it";
        let chain = "the controller says that the certificate chain of this identity lacks an intermediate: a renewal mends that";
        let foreign = "the network has not issued this certificate: only the CA that has can renew it";
        [
            (self.new_key_requested, new_key),
            (self.requested && !self.new_key_requested, asked),
            (self.chain_incomplete, chain),
            (self.issued_by_network == Some(false), foreign),
        ]
        .into_iter()
        .filter_map(|(is_so, note)| is_so.then_some(note))
    }
}
