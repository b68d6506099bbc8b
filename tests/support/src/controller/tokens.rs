//! Enrollment tokens: minted by jsonwebtoken, so that our own parser is never judged by our own writer.

use super::Controller;
use super::store::{short_id, uuid};
use super::third_party::ThirdPartyCa;
use crate::pki::{Key, KeyType, sha1_hex, unix_now};
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::Decode;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An enrollment token. Its text is a credential until it is spent.
#[derive(Clone, Debug)]
pub struct Token {
    compact: String,
    jti: String,
    sub: String,
    name: String,
}

impl Token {
    /// JWS compact serialization: three segments, two dots, no white space.
    pub fn compact(&self) -> &str {
        &self.compact
    }

    /// The one-time token, a UUID.
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// The identity's id.
    pub fn sub(&self) -> &str {
        &self.sub
    }

    /// The identity's name, which no token holds.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The claim `em`: `ott`, `ottca`, …; `-` for one without it.
    pub fn method(&self) -> String {
        let payload = self.compact.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload.and_then(|payload| serde_json::from_slice::<Value>(&payload).ok());
        claims.and_then(|claims| claims["em"].as_str().map(str::to_owned)).unwrap_or_else(|| "-".into())
    }

    /// The same token with one byte of its signature changed: still base64url, still the right length.
    pub fn damaged(&self) -> Self {
        let (message, signature) = self.compact.rsplit_once('.').expect("three segments");
        let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("a token of ours is base64url");
        let middle = signature.len() / 2;
        signature[middle] ^= 1;
        Self { compact: format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)), ..self.clone() }
    }

    /// Writes `<folder>/<name>.jwt` as the controller's CLI does: the token, no newline.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("{}.jwt", self.name));
        fs::write(&path, &self.compact).expect("the folder of the token is writable");
        path
    }
}

/// A token in the making. Unless told otherwise it is what the controller would make for method `ott`
/// (enrollment-protocol.md §1.1, §1.2).
#[derive(Debug)]
pub struct TokenBuilder<'a> {
    controller: &'a Controller,
    name: String,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    key: Key,
    ca_id: Option<String>,
    registered: bool,
}

impl<'a> TokenBuilder<'a> {
    pub(super) fn new(controller: &'a Controller, name: &str, leaf: &[u8], key: Key, ctrls: Value) -> Self {
        let header = json!({"alg": key.kind().jws(), "kid": sha1_hex(leaf), "typ": "JWT"});
        let claims = json!({
            "em": "ott", "iss": controller.url(), "sub": short_id(), "aud": [""],
            "exp": unix_now() + 180 * 60, "jti": uuid(), "ctrls": ctrls,
        });
        let (Value::Object(header), Value::Object(claims)) = (header, claims) else { unreachable!("both are objects") };
        Self { controller, name: name.into(), header, claims, key, ca_id: None, registered: true }
    }

    /// The identity's id, the claim `sub`.
    pub fn id(self, identity_id: &str) -> Self {
        self.claim("sub", identity_id)
    }

    /// Of method `ottca`: a certificate that leads to this CA is shown.
    pub fn of_ca(mut self, ca: &ThirdPartyCa) -> Self {
        self.ca_id = Some(ca.id.clone());
        self.claim("em", "ottca")
    }

    /// The claim `iss`.
    pub fn iss(self, url: &str) -> Self {
        self.claim("iss", url)
    }

    /// When it ends, from now; the controller knows it too.
    pub fn expires_in(self, time: Duration) -> Self {
        self.claim("exp", unix_now() + time.as_secs())
    }

    /// How long ago it ended.
    pub fn expired_since(self, time: Duration) -> Self {
        self.claim("exp", unix_now() - time.as_secs())
    }

    /// Sets a claim to anything.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Leaves a claim out.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header field to anything. `alg` changes the word alone, not the signature; with `none` there is none.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Leaves a header field out.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// Signs with another key; `alg` becomes that key's.
    pub fn signed_by(mut self, key: &Key) -> Self {
        self.key = key.clone();
        self.header("alg", key.kind().jws())
    }

    /// The controller will not know the token.
    pub fn unregistered(mut self) -> Self {
        self.registered = false;
        self
    }

    /// Mints and, unless told otherwise, registers it.
    pub fn issue(self) -> Token {
        let text = |name: &str| self.claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (jti, sub, method) = (text("jti"), text("sub"), text("em"));
        if self.registered {
            let expires_at = self.claims.get("exp").and_then(Value::as_u64).unwrap_or(u64::MAX);
            self.controller.store().register(&jti, &method, (&sub, &self.name), self.ca_id.as_deref(), expires_at);
        }
        let compact = mint(&self.header, &self.claims, &self.key);
        Token { compact, jti, sub, name: self.name }
    }
}

/// By jsonwebtoken where it can (it knows no ES512), else by hand.
fn mint(header: &Map<String, Value>, claims: &Map<String, Value>, key: &Key) -> String {
    install_provider();
    let known: Option<Header> = serde_json::from_value(Value::Object(header.clone())).ok();
    if let Some(header) = known.filter(|header| algorithm_of(key.kind()) == Some(header.alg)) {
        let encoding = match key.kind() {
            KeyType::Rsa2048 => EncodingKey::from_rsa_der(&key.pkcs8_der()),
            _ => EncodingKey::from_ec_der(&key.pkcs8_der()),
        };
        return jsonwebtoken::encode(&header, claims, &encoding).expect("jsonwebtoken encodes what it knows");
    }
    let part = |part: &Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part.clone()).to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let unsigned = header.get("alg").and_then(Value::as_str) == Some("none");
    let signature = if unsigned { Vec::new() } else { key.sign_jws(message.as_bytes()) };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn algorithm_of(kind: KeyType) -> Option<Algorithm> {
    match kind {
        KeyType::P256 => Some(Algorithm::ES256),
        KeyType::P384 => Some(Algorithm::ES384),
        KeyType::Rsa2048 => Some(Algorithm::RS256),
        KeyType::P521 => None,
    }
}

/// jsonwebtoken's verdict on a token, given the leaf (DER) that should have signed it: the claims, or what is wrong.
/// Of the claims it judges `exp` and `nbf`. It knows no ES512.
///
/// # Errors
/// jsonwebtoken's own words.
pub fn second_opinion(compact: &str, leaf: &[u8]) -> Result<Value, String> {
    install_provider();
    let header = jsonwebtoken::decode_header(compact).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(header.alg);
    validation.validate_aud = false;
    validation.validate_nbf = true;
    // The whole certificate travels as opaque bytes; the provider below finds its one public key.
    let key = match header.alg {
        Algorithm::RS256 => DecodingKey::from_rsa_der(leaf),
        _ => DecodingKey::from_ec_der(leaf),
    };
    jsonwebtoken::decode(compact, &key, &validation).map(|data| data.claims).map_err(|error| error.to_string())
}

/// jsonwebtoken's provider is one per process; whoever was first stays, and ours does all that a test asks for.
fn install_provider() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |algorithm, key| Ok(Box::new(AwsLc { algorithm: *algorithm, key: key.as_bytes().to_vec() })),
        verifier_factory: |algorithm, key| match key.kind() {
            jsonwebtoken::DecodingKeyKind::SecretOrDer(der) => Ok(Box::new(AwsLc { algorithm: *algorithm, key: der.clone() })),
            _ => Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into()),
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    PROVIDER.install_default().ok();
}

/// To sign, `key` is PKCS#8; to verify, a certificate. Both DER.
struct AwsLc {
    algorithm: Algorithm,
    key: Vec<u8>,
}

impl Signer<Vec<u8>> for AwsLc {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let curve = match self.algorithm {
            Algorithm::ES256 => &aws::ECDSA_P256_SHA256_FIXED_SIGNING,
            Algorithm::ES384 => &aws::ECDSA_P384_SHA384_FIXED_SIGNING,
            Algorithm::RS256 => {
                let pair = aws::RsaKeyPair::from_pkcs8(&self.key).map_err(SignatureError::from_source)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&aws::RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(SignatureError::from_source)?;
                return Ok(signature);
            }
            _ => return Err(SignatureError::new()),
        };
        let pair = aws::EcdsaKeyPair::from_pkcs8(curve, &self.key).map_err(SignatureError::from_source)?;
        Ok(pair.sign(&random, message).map_err(SignatureError::from_source)?.as_ref().to_vec())
    }
}

impl JwtSigner for AwsLc {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for AwsLc {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::ES256 => &aws::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &aws::ECDSA_P384_SHA384_FIXED,
            Algorithm::RS256 => &aws::RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(SignatureError::new()),
        };
        let certificate = x509_cert::Certificate::from_der(&self.key).map_err(SignatureError::from_source)?;
        let spki = certificate.tbs_certificate().subject_public_key_info();
        let key = UnparsedPublicKey::new(algorithm, spki.subject_public_key.raw_bytes());
        key.verify(message, signature).map_err(SignatureError::from_source)
    }
}

impl JwtVerifier for AwsLc {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
