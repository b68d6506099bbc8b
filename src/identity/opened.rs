//! [`OpenedIdentity`]: an identity with its key in hand; what a program connects with.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;

use super::{Identity, IdentityError};
use crate::controller::Controller;
use crate::http::Reach;
use crate::key::{Access, Key, KeyError, Providers};
use crate::tls::{self, ClientAuth, TlsError};
use crate::trust::{self, TrustError};

/// An identity whose key was opened, and signed a test message.
#[derive(Clone, Debug)]
pub struct OpenedIdentity {
    identity: Identity,
    key: Arc<dyn Key>,
    auth: ClientAuth,
}

/// An identity cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl OpenedIdentity {
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
