//! [`OpenedIdentity`]: an identity with its key in hand; what a program connects with.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;

use super::{Identity, IdentityError, LARGEST};
use crate::controller::Controller;
use crate::files::{self, FileError};
use crate::http::Reach;
use crate::key::{self, Access, Key, KeyError, KeyReference, PinSource, Providers};
use crate::tls::{self, ClientAuth, TlsError};
use crate::trust::{self, TrustError};

/// An identity whose key was opened, and signed a test message. Clones share the key, and threads may: a device that needs it
/// is asked by one of them after the other, and opened again, once, where it was reset meanwhile.
#[derive(Clone, Debug)]
pub struct OpenedIdentity {
    identity: Identity,
    key: Arc<dyn Key>,
    auth: ClientAuth,
}

/// An identity cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Identity {
    /// Reads the identity in `path` and opens its key, wherever that lives. `pins` is asked for a PIN where the file holds none,
    /// and at most once: [`OnePin`](crate::key::pin::OnePin), [`NoPins`](crate::key::pin::NoPins), or a source of your own.
    ///
    /// ```no_run
    /// use ziti_enroller::identity::Identity;
    /// use ziti_enroller::key::pin::OnePin;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let opened = Identity::open("gate-7.json", &OnePin::new(std::fs::read("/run/secrets/edge.pin")?))?;
    /// let tls: rustls::ClientConfig = opened.client_config()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>, pins: &dyn PinSource) -> Result<OpenedIdentity, OpenError> {
        Self::open_with(path, pins, |_| None)
    }

    /// The same with a key of your own: `own` is asked first, with what the file holds as `id.key`; where it answers `None`,
    /// the providers of this library are.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Key`] too where the key is not that of the certificate.
    pub fn open_with(
        path: impl AsRef<Path>,
        pins: &dyn PinSource,
        own: impl FnOnce(&KeyReference) -> Option<Result<Arc<dyn Key>, KeyError>>,
    ) -> Result<OpenedIdentity, OpenError> {
        let identity = Self::parse(&files::read_file(path.as_ref(), LARGEST)?)?;
        match own(&identity.key) {
            Some(key) => OpenedIdentity::with_key(identity, key?),
            None => OpenedIdentity::open(identity, &Providers::compiled_in(), &Access::new(pins)),
        }
    }
}

impl OpenedIdentity {
    /// `identity` with `key`, which signs a test message first.
    ///
    /// # Errors
    /// [`OpenError::Key`] where it is another than in the certificate, or does not sign.
    pub fn with_key(identity: Identity, key: Arc<dyn Key>) -> Result<Self, OpenError> {
        if *key.public_key() != identity.chain.public_key().map_err(|e| IdentityError::Certificates("cert", e))? {
            return Err(KeyError::not_its_key(key.uri()).into());
        }
        key::prove(&*key)?;
        let auth = ClientAuth::new(identity.chain.clone(), key.clone());
        Ok(Self { identity, key, auth })
    }

    /// Opens the key that `identity` names.
    ///
    /// # Errors
    /// [`OpenError::Key`] where it is not there, is another than in the certificate, or does not sign.
    pub fn open(identity: Identity, providers: &Providers, access: &Access<'_>) -> Result<Self, OpenError> {
        let expected = identity.chain.public_key().map_err(|e| IdentityError::Certificates("cert", e))?;
        let key = providers.open_reference(&identity.key, Some(&expected), access)?;
        let auth = ClientAuth::new(identity.chain.clone(), key.clone());
        Ok(Self { identity, key, auth })
    }

    /// What the file says.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The key.
    pub fn key(&self) -> &Arc<dyn Key> {
        &self.key
    }

    /// The controller, over mutual TLS. Nothing is dialled yet.
    ///
    /// # Errors
    /// [`TrustError::Client`] where certificate and key do not fit.
    pub fn controller(&self, reach: &Reach) -> Result<Controller, TrustError> {
        let origin = self.identity.origin().map_err(|_| TrustError::Name)?;
        Ok(Controller::at(trust::anchored(&origin, &self.identity.anchors, Some(&self.auth), reach)?))
    }

    /// Why the key did not sign in the last handshake.
    pub fn take_key_failure(&self) -> Option<KeyError> {
        self.auth.take_failure()
    }

    /// A configuration for mutual TLS as this identity, trusting the network's CA certificates.
    ///
    /// # Errors
    /// [`TlsError`] where certificate and key do not fit.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let roots = Arc::new(self.identity.anchors.root_store());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, tls::crypto()).build();
        let verifier = verifier.map_err(|_| rustls::Error::General("no CA certificate".into()))?;
        tls::config(verifier, Some(&self.auth))
    }
}
