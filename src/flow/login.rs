//! The entrance that `verify`, `renew` and others share: an identity is opened and logs in, and the reasons why not are told apart.

use std::path::Path;

use super::World;
use crate::controller::{Controller, ControllerError, Session};
use crate::error::{Error, Spent};
use crate::files;
use crate::http::HttpErrorKind;
use crate::identity::opened::OpenError;
use crate::identity::{self, Identity, OpenedIdentity};
use crate::trust::TrustError;

/// Reads an identity file.
///
/// # Errors
/// [`Error::Read`], [`Error::Identity`].
pub fn read_identity(path: &Path) -> Result<Identity, Error> {
    parse(path, &files::read_file(path, identity::LARGEST).map_err(Error::Read)?)
}

/// Understands what was read from `path`.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Identity, Error> {
    Identity::parse(text).map_err(|source| Error::Identity { path: path.to_owned(), source })
}

/// Opens the key of the identity that stands in `path`: it is the one of the certificate, and has signed a test message.
pub(super) fn opened(path: &Path, identity: Identity, world: &World<'_>) -> Result<OpenedIdentity, Error> {
    OpenedIdentity::open(identity, &world.providers, &world.access).map_err(|error| match error {
        OpenError::File(source) => Error::Read(source),
        OpenError::Identity(source) => Error::Identity { path: path.to_owned(), source },
        OpenError::Key(source) => Error::IdentityKey { identity: path.to_owned(), source },
    })
}

/// An identity with its key in hand, and the controller that it will talk to; nothing is dialled yet.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) opened: OpenedIdentity,
    pub(super) controller: Controller,
    /// `https://host:port`.
    pub(super) origin: String,
}

impl Entrance {
    /// Opens the key of the identity that stands in `path`.
    pub(super) fn open(path: &Path, identity: Identity, world: &World<'_>) -> Result<Self, Error> {
        let opened = opened(path, identity, world)?;
        let origin = opened.identity().origin().map_err(|source| Error::Identity { path: path.to_owned(), source })?.to_string();
        let controller = opened.controller(&world.reach).map_err(|e| Error::trust(&origin, e))?;
        Ok(Self { opened, controller, origin })
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`Error::LoginNeedsMore`] where a second factor is due, [`Error::OnlyOidc`] where this login is not served any more.
    pub(super) fn log_in(&self) -> Result<Session<'_>, Error> {
        match self.controller.login() {
            Ok(session) if session.needs_more => Err(Error::LoginNeedsMore),
            Ok(session) => Ok(session),
            Err(ControllerError::Refused(why)) if matches!(why.status, 404 | 405 | 410) && self.speaks_oidc() => {
                Err(Error::OnlyOidc { controller: self.origin.clone() })
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn speaks_oidc(&self) -> bool {
        self.controller.version().is_ok_and(|version| version.capabilities.iter().any(|c| c == "OIDC_AUTH"))
    }

    /// A login fails for the key's reasons, the network's, or the controller's.
    pub(super) fn failed(&self, error: ControllerError) -> Error {
        let controller = self.origin.clone();
        if let Some(source) = self.opened.take_key_failure() {
            return Error::Key { uri: Box::new(self.opened.key().uri().clone()), source, spent: Spent::Yes };
        }
        match error {
            ControllerError::Trust(TrustError::Network(source))
                if matches!(source.kind, HttpErrorKind::Tls(rustls::Error::AlertReceived(_))) =>
            {
                Error::Login { controller, source: ControllerError::Trust(TrustError::Network(source)) }
            }
            ControllerError::Trust(source) => Error::trust(controller, source),
            // Too busy, or in trouble: that says nothing about the identity.
            ControllerError::Refused(why) if matches!(why.status, 429 | 500..=599) => {
                Error::NotNow { controller, why: why.to_string() }
            }
            source => Error::Login { controller, source },
        }
    }
}

/// Whether the controller has looked at the certificate and said no.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Login { source: ControllerError::Refused(why), .. } if why.status == 401)
}
