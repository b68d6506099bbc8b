//! Cellar: the one place where a [`Key`] meets rustls.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{SignatureAlgorithm as TlsAlgorithm, SignatureScheme, SupportedProtocolVersion};

use crate::certificate::Chain;
use crate::key::{Key, KeyError, SignatureAlgorithm};

/// The certificate and key that we show to a server that asks.
#[derive(Clone)]
pub struct ClientAuth {
    chain: Chain,
    key: Arc<dyn Key>,
    failed: Arc<Mutex<Option<KeyError>>>,
}

/// Certificate and key cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// They do not belong together.
    #[error("the certificate is not for this key")]
    Mismatch,
    /// rustls does not take them.
    #[error("the certificate cannot be used for TLS")]
    Rustls(#[from] rustls::Error),
}

impl ClientAuth {
    /// Pairs them.
    pub fn new(chain: Chain, key: Arc<dyn Key>) -> Self {
        Self { chain, key, failed: Arc::default() }
    }

    /// Leaf and intermediates.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The key of the leaf.
    pub fn key(&self) -> &Arc<dyn Key> {
        &self.key
    }

    /// Why the key did not sign in the last handshake; rustls passes no reason on.
    pub fn take_failure(&self) -> Option<KeyError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let signing = HandshakeKey { key: self.key.clone(), failed: self.failed.clone() };
        let certified = CertifiedKey::new(self.chain.certificates().to_vec(), Arc::new(signing));
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch),
            Err(other) => Err(TlsError::Rustls(other)),
        }
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("chain", &self.chain).field("key", &self.key).finish_non_exhaustive()
    }
}

/// The crypto library of this program, for those who build their own configuration.
pub fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A configuration for TLS 1.2 and 1.3 that trusts whom `verifier` trusts and shows `client` to who asks.
///
/// # Errors
/// [`TlsError`] where certificate and key do not fit.
pub fn config(verifier: Arc<dyn ServerCertVerifier>, client: Option<&ClientAuth>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(crypto()).with_protocol_versions(versions(client))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(client.certified()?))),
    };
    // A resumed session never asks the verifier: no certificate would be judged.
    config.resumption = Resumption::disabled();
    Ok(config)
}

static ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// TLS 1.3 has no RSA but PSS (RFC 8446 §4.2.3): a key that cannot do it would be shown to nobody there, and a server that
/// speaks both would choose 1.3.
fn versions(client: Option<&ClientAuth>) -> &'static [&'static SupportedProtocolVersion] {
    let is_for_13 = |algorithm: &SignatureAlgorithm| {
        let of_12 = [SignatureAlgorithm::RsaPkcs1Sha256, SignatureAlgorithm::RsaPkcs1Sha384, SignatureAlgorithm::RsaPkcs1Sha512];
        !of_12.contains(algorithm)
    };
    match client {
        Some(client) if !client.key.signature_algorithms().iter().any(is_for_13) => ONLY_12,
        Some(_) | None => rustls::DEFAULT_VERSIONS,
    }
}

/// A key as rustls wants it.
struct HandshakeKey {
    key: Arc<dyn Key>,
    failed: Arc<Mutex<Option<KeyError>>>,
}

impl fmt::Debug for HandshakeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeKey").field("key", &self.key).finish_non_exhaustive()
    }
}

fn scheme(algorithm: SignatureAlgorithm) -> SignatureScheme {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureAlgorithm::EcdsaSha384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureAlgorithm::RsaPkcs1Sha256 => SignatureScheme::RSA_PKCS1_SHA256,
        SignatureAlgorithm::RsaPkcs1Sha384 => SignatureScheme::RSA_PKCS1_SHA384,
        SignatureAlgorithm::RsaPkcs1Sha512 => SignatureScheme::RSA_PKCS1_SHA512,
        SignatureAlgorithm::RsaPssSha256 => SignatureScheme::RSA_PSS_SHA256,
        SignatureAlgorithm::RsaPssSha384 => SignatureScheme::RSA_PSS_SHA384,
        SignatureAlgorithm::RsaPssSha512 => SignatureScheme::RSA_PSS_SHA512,
    }
}

impl rustls::sign::SigningKey for HandshakeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let algorithm = *self.key.signature_algorithms().iter().find(|a| offered.contains(&scheme(**a)))?;
        Some(Box::new(HandshakeSigner { key: self.key.clone(), failed: self.failed.clone(), algorithm }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.key.public_key().spki()))
    }

    fn algorithm(&self) -> TlsAlgorithm {
        match self.key.public_key().algorithm().curve() {
            Some(_) => TlsAlgorithm::ECDSA,
            None => TlsAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct HandshakeSigner {
    key: Arc<dyn Key>,
    failed: Arc<Mutex<Option<KeyError>>>,
    algorithm: SignatureAlgorithm,
}

impl rustls::sign::Signer for HandshakeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key.sign(self.algorithm, message).map_err(|error| {
            let words = error.to_string();
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rustls::Error::General(words)
        })
    }

    fn scheme(&self) -> SignatureScheme {
        scheme(self.algorithm)
    }
}
