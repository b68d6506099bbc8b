//! Software keys: of authorities, of the server, of attackers.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The key types that a controller's server certificate can have and still sign tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA P-256; tokens are ES256.
    P256,
    /// ECDSA P-384; tokens are ES384.
    P384,
    /// ECDSA P-521; tokens are ES512.
    P521,
    /// RSA, 2048 bits; tokens are RS256.
    Rsa2048,
}

impl KeyType {
    /// One of each.
    pub const ALL: [Self; 4] = [Self::P256, Self::P384, Self::P521, Self::Rsa2048];

    /// The JWS `alg` that a controller with such a key writes.
    pub fn jws(self) -> &'static str {
        match self {
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::P521 => "ES512",
            Self::Rsa2048 => "RS256",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::P521 => "p521",
            Self::Rsa2048 => "rsa2048",
        })
    }
}

impl FromStr for KeyType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| format!("no key type `{text}`: p256, p384, p521 or rsa2048"))
    }
}

/// A private key in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Key {
    kind: KeyType,
    pair: Arc<KeyPair>,
}

impl Key {
    /// A fresh key.
    pub fn generate(kind: KeyType) -> Self {
        let algorithm = match kind {
            KeyType::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::P521 => &rcgen::PKCS_ECDSA_P521_SHA512,
            KeyType::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        };
        Self { kind, pair: Arc::new(KeyPair::generate_for(algorithm).expect("aws-lc-rs makes keys of this type")) }
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// Its type.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// PKCS#8, DER, unencrypted.
    pub fn pkcs8_der(&self) -> Vec<u8> {
        self.pair.serialize_der()
    }

    /// PKCS#8 as `PRIVATE KEY` PEM.
    pub fn pkcs8_pem(&self) -> String {
        super::pem("PRIVATE KEY", &self.pkcs8_der())
    }

    /// A certificate request `CN=<common_name>`: one PEM block, one LF after it.
    pub fn csr_pem(&self, common_name: &str) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        super::pem("CERTIFICATE REQUEST", params.serialize_request(&*self.pair).expect("a request can be signed").der())
    }

    /// Signs as JWS does: `r‖s` of fixed length for EC keys, PKCS#1 v1.5 for RSA, with the hash of [`KeyType::jws`].
    pub fn sign_jws(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let pkcs8 = self.pkcs8_der();
        let curve = match self.kind {
            KeyType::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            KeyType::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            KeyType::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
            KeyType::Rsa2048 => {
                let pair = RsaKeyPair::from_pkcs8(&pkcs8).expect("a key of ours loads");
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a loaded key signs");
                return signature;
            }
        };
        let pair = EcdsaKeyPair::from_pkcs8(curve, &pkcs8).expect("a key of ours loads");
        pair.sign(&random, message).expect("a loaded key signs").as_ref().to_vec()
    }
}
