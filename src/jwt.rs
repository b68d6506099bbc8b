//! Room 1: the enrollment token.
//!
//! An [`UnverifiedToken`] is read and checked in form; nothing of it is used but the address to dial. It becomes an
//! [`EnrollmentToken`] only for a [`SignedBy`], which only [`UnverifiedToken::verify`] makes, with the certificate that
//! the controller shows in the handshake. Follows RFC 7515 (compact form), RFC 7518 §3.3-3.4 and the controller's claims.

mod envelope;
mod error;
mod idp;
mod method;

use std::fmt;
use std::time::Duration;

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::envelope::{decode, object, string};

pub use error::TokenError;
pub use idp::IdpToken;
pub use method::{Brings, Method};

use crate::key::encoding::{ecdsa_der, sha1, sha256};
use crate::origin::Origin;
use crate::text::{Printable, hex};

/// Longest token that is read, in bytes; real ones have about 700.
pub const LARGEST: usize = 64 * 1024;
/// How far past its `exp` a token is still sent: the controller's clock decides, ours may be off.
const GRACE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    fn from_header(alg: &str) -> Option<Self> {
        match alg {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            _ => None,
        }
    }

    fn scheme(self) -> SignatureScheme {
        match self {
            Self::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Self::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Self::Es512 => SignatureScheme::ECDSA_NISTP521_SHA512,
        }
    }

    /// The signature as X.509 has it: JWS gives `r‖s` of one exact length (RFC 7518 §3.4).
    fn x509_signature(self, jws: &[u8]) -> Option<Vec<u8>> {
        let length = match self {
            Self::Rs256 => return Some(jws.to_vec()),
            Self::Es256 => 64,
            Self::Es384 => 96,
            Self::Es512 => 132,
        };
        (jws.len() == length).then(|| ecdsa_der(jws))?
    }
}

/// A token that was read; nobody has vouched for it yet.
pub struct UnverifiedToken {
    compact: SecretString,
    algorithm: Algorithm,
    kid: Option<String>,
    signature: Vec<u8>,
    method: Method,
    issuer: Origin,
    subject: String,
    id: Option<SecretString>,
    expires: Option<u64>,
    clustered: bool,
    /// Who is meant by the token of an identity provider that goes with it.
    external: Option<String>,
}

/// Stands for the token where the token itself must not: in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDigest(String);

/// Proof that a token was signed with the key of this certificate; only [`UnverifiedToken::verify`] makes it.
#[derive(Clone, Debug)]
pub struct SignedBy {
    leaf: CertificateDer<'static>,
}

impl SignedBy {
    /// The certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }
}

/// Proof that the controller at the other end holds against CA certificates that the person who runs this program has
/// given for it: then the token need not be signed by the certificate that answers. Only `trust` makes it.
#[derive(Debug)]
pub struct JudgedByOperator(());

impl JudgedByOperator {
    pub(crate) fn in_a_handshake() -> Self {
        Self(())
    }
}

impl UnverifiedToken {
    /// Reads a compact JWT; white space around it, a byte order mark and line breaks inside it are forgiven.
    ///
    /// # Errors
    /// Everything of [`TokenError`] that shows without a clock and without a network.
    pub fn parse(text: &SecretString) -> Result<Self, TokenError> {
        let text = text.expose_secret();
        if text.len() > LARGEST {
            return Err(TokenError::TooLarge);
        }
        let compact: String = text.trim_start_matches('\u{feff}').chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let compact = SecretString::from(compact);
        let segments: Vec<&str> = compact.expose_secret().split('.').collect();
        let (header, claims, signature) = match segments[..] {
            [""] => return Err(TokenError::Empty),
            [header, claims, signature] => (header, claims, signature),
            _ => return Err(malformed(format!("it has {} of the 3 parts of a JWT", segments.len()))),
        };
        let header = object("header", header)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or_else(|| malformed("its header names no algorithm"))?;
        let algorithm = Algorithm::from_header(algorithm).ok_or_else(|| TokenError::Algorithm(algorithm.into()))?;
        // RFC 7515 §4.1.11: what must be understood and is not makes the token invalid.
        if let Some(name) = ["crit", "b64"].into_iter().find(|n| header.contains_key(*n)) {
            return Err(malformed(format!("its header has `{name}`, which no controller writes")));
        }
        let kid = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        let claims = object("claims", claims)?;
        let method = string(&claims, "em")?.ok_or_else(|| TokenError::Method("it names no enrollment method (`em`)".into()))?;
        let method = Method::from_claim(method)?;
        let issuer = string(&claims, "iss")?.ok_or(TokenError::NoIssuer)?;
        let issuer = issuer.parse().map_err(|source| TokenError::Issuer { issuer: issuer.into(), source })?;
        let subject = string(&claims, "sub")?;
        let named = subject.filter(|s| is_name(s, 64));
        let subject = match method {
            // It says the address once more.
            Method::Network => Printable::new(subject.unwrap_or_default()).as_str().to_owned(),
            _ => named.ok_or_else(|| malformed("`sub` is missing or malformed"))?.to_owned(),
        };
        let id = match string(&claims, "jti")?.filter(|s| is_name(s, 128)) {
            Some(id) => Some(SecretString::from(id)).filter(|_| method.is_one_time()),
            None if method.is_one_time() => return Err(TokenError::Id),
            None => None,
        };
        let expires = match claims.get("exp") {
            None | Some(Value::Null) if method.is_one_time() => return Err(malformed("`exp` is missing")),
            None | Some(Value::Null) => None,
            Some(Value::Number(n)) => {
                let time = n.as_u64().or_else(|| n.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64));
                Some(time.ok_or_else(|| malformed("`exp` is not a time"))?)
            }
            Some(_) => return Err(malformed("`exp` is not a time")),
        };
        let signature = decode("signature", signature)?;
        // Addresses of all controllers; one alone names itself at most.
        let clustered = claims.get("ctrls").and_then(Value::as_array).is_some_and(|c| c.len() > 1);
        Ok(Self { compact, algorithm, kid, signature, method, issuer, subject, id, expires, clustered, external: None })
    }

    /// In place of a token, for a controller that the person who runs this program vouches for: nobody has signed it.
    pub fn of_controller(controller: Origin) -> Self {
        Self {
            compact: SecretString::default(),
            algorithm: Algorithm::Es256,
            kid: None,
            signature: Vec::new(),
            method: Method::Network,
            subject: controller.to_string(),
            issuer: controller,
            id: None,
            expires: None,
            clustered: false,
            external: None,
        }
    }

    /// A token of the network, together with one of an identity provider: the first leads to the controller, the second
    /// enrolls there.
    ///
    /// # Errors
    /// [`TokenError::Method`] for a token that enrolls by itself.
    pub fn with_idp_token(self, idp: &IdpToken) -> Result<Self, TokenError> {
        if self.method != Method::Network {
            let why = format!("its method `{}` enrolls by itself, without the token of an identity provider", self.method.name());
            return Err(TokenError::Method(why));
        }
        Ok(Self { method: Method::Token, expires: idp.expires(), external: Some(idp.whom().to_owned()), ..self })
    }

    /// Whether a controller has signed it.
    pub fn is_signed(&self) -> bool {
        !self.signature.is_empty()
    }

    /// Where to dial. Nothing else of an unverified token is used.
    pub fn issuer(&self) -> &Origin {
        &self.issuer
    }

    /// Whom it says it is for: an identity, for method `ca` the CA, for `network` the controller's address.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The identity that it says it is for: names files and keys, proves nothing. `None` where it is for everybody.
    pub fn identity(&self) -> Option<&str> {
        self.method.is_one_time().then_some(self.subject.as_str())
    }

    /// The method that it says.
    pub fn method(&self) -> Method {
        self.method
    }

    /// When it ends; seconds since the Unix epoch.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// Whether the network has several controllers: one of them may not know yet what another one has stored.
    pub fn is_of_a_cluster(&self) -> bool {
        self.clustered
    }

    /// The name of its signature algorithm, and the `kid` of its header.
    pub fn signed_with(&self) -> (&'static str, Option<Printable>) {
        let name = match self.algorithm {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
        };
        (name, self.kid.as_deref().map(Printable::new))
    }

    /// SHA-256 of the compact form. Identity providers give out token after token: there it is of the controller and of
    /// whom they mean.
    pub fn digest(&self) -> TokenDigest {
        let digest = match &self.external {
            Some(whom) => sha256(format!("{}\0{whom}", self.issuer).as_bytes()),
            None => sha256(self.compact.expose_secret().as_bytes()),
        };
        TokenDigest(hex(&digest))
    }

    /// Refuses a token that ended more than five minutes before `now`.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::IdpExpired`].
    pub fn check_expiry(&self, now: UnixTime) -> Result<(), TokenError> {
        let past = Duration::from_secs(now.as_secs().saturating_sub(self.expires.unwrap_or(u64::MAX)));
        match &self.external {
            _ if past <= GRACE => Ok(()),
            Some(_) => Err(TokenError::IdpExpired(past)),
            None => Err(TokenError::Expired(past)),
        }
    }

    /// Checks the signature with the public key of `leaf`: the one function that judges it.
    ///
    /// It is webpki's, the very code that rustls uses for the signature of the handshake. Both must find the key with the
    /// same parser: an attacker may write anything into a certificate whose own signature nobody checks yet.
    ///
    /// # Errors
    /// [`TokenError::NotSigned`].
    pub fn verify(&self, leaf: &CertificateDer<'_>) -> Result<SignedBy, TokenError> {
        let damaged = self.kid.as_deref() == Some(hex(&sha1(leaf)).as_str());
        let not_signed = || TokenError::NotSigned { damaged };
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|_| not_signed())?;
        // The first entry of a scheme is its own curve; TLS 1.2 allows others after it, JWS does not (RFC 7518 §3.4).
        let verifier = algorithms()
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == self.algorithm.scheme())
            .and_then(|(_, verifiers)| verifiers.first())
            .ok_or_else(not_signed)?;
        let signature = self.algorithm.x509_signature(&self.signature).ok_or_else(not_signed)?;
        let signed = self.compact.expose_secret().rsplit_once('.').map_or("", |(signed, _)| signed);
        certificate.verify_signature(*verifier, signed.as_bytes(), &signature).map_err(|_| not_signed())?;
        Ok(SignedBy { leaf: leaf.clone().into_owned() })
    }

    /// The token, for one who holds the proof.
    pub fn accept(&self, _proof: &SignedBy) -> EnrollmentToken {
        self.accepted()
    }

    /// The token, where the person who runs this program vouches for the controller in its stead.
    pub fn accept_by_operator(&self, _proof: &JudgedByOperator) -> EnrollmentToken {
        self.accepted()
    }

    fn accepted(&self) -> EnrollmentToken {
        EnrollmentToken { method: self.method, issuer: self.issuer.clone(), id: self.id.clone() }
    }
}

fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

impl fmt::Debug for UnverifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedToken").field("issuer", &self.issuer).field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// A token whose signer is the controller at the other end, or whose controller is vouched for.
#[derive(Clone)]
pub struct EnrollmentToken {
    method: Method,
    issuer: Origin,
    id: Option<SecretString>,
}

impl EnrollmentToken {
    /// How it enrolls.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The controller.
    pub fn issuer(&self) -> &Origin {
        &self.issuer
    }

    /// The one-time token, for the query of the enrollment request; `None` where it is for everybody.
    pub fn id(&self) -> Option<&SecretString> {
        self.id.as_ref()
    }
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentToken").field("issuer", &self.issuer).field("method", &self.method).finish_non_exhaustive()
    }
}

fn malformed(why: impl Into<String>) -> TokenError {
    TokenError::Malformed(why.into())
}

/// Unreserved characters of RFC 3986 §2.3 alone: they go into a URL, a file name and a label.
fn is_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    fn token(header: &str, claims: &str) -> Result<UnverifiedToken, TokenError> {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        UnverifiedToken::parse(&SecretString::from(format!("{}.{}.{}", part(header), part(claims), part("x"))))
    }

    const HEADER: &str = r#"{"alg":"ES256","kid":"00","typ":"JWT"}"#;
    /// As controllers write it.
    const CLAIMS: &str = r#"{"em":"ott","ctrls":null,"iss":"https://ctrl.example.com:1280","sub":"W4kErfsB6a","aud":[""],"exp":1787082041,"jti":"b93f8658-dd7d-4578-bda6-2faecef92177"}"#;

    #[test]
    fn reads_what_controllers_write() {
        let token = token(HEADER, CLAIMS).unwrap();
        assert_eq!(token.issuer().to_string(), "https://ctrl.example.com:1280");
        assert_eq!((token.subject(), token.method(), token.expires()), ("W4kErfsB6a", Method::Ott, Some(1_787_082_041)));
    }

    #[test]
    fn names_each_mistake() {
        let with = |from: &str, to: &str| format!("{:?}", token(HEADER, &CLAIMS.replace(from, to)).unwrap_err());
        assert!(with("\"ott\"", "\"erott\"").contains("router"));
        assert!(with("\"em\":\"ott\",", "").contains("no enrollment method"));
        assert!(with("\"em\":\"ott\"", "\"em\":\"ott\",\"em\":\"ott\"").contains("twice"));
        assert!(with("https:", "http:").contains("Issuer"));
        assert!(with("1280\"", "1280/path\"").contains("Issuer"));
        assert!(with("\"jti\"", "\"x\"").contains("Id"));
        assert!(with("1787082041", "\"1787082041\"").contains("not a time"));
        assert!(with("W4kErfsB6a", "../../etc").contains("`sub`"));
        for alg in ["none", "HS256", "PS256", "EdDSA", "es256"] {
            let error = token(&HEADER.replace("ES256", alg), CLAIMS).unwrap_err();
            assert!(matches!(error, TokenError::Algorithm(_)), "{alg}");
        }
        assert!(matches!(token(&HEADER.replace("\"typ\"", "\"crit\""), CLAIMS), Err(TokenError::Malformed(_))));
    }

    /// As controllers write them (enrollment-protocol.md §1.2).
    #[test]
    fn tokens_for_everybody_name_no_identity_and_have_no_end() {
        let of_ca = r#"{"em":"ca","ctrls":null,"iss":"https://ctrl.example.com:1280/","sub":"6RZrJEWf8","aud":["openziti-enroller"],"jti":"6RZrJEWf8"}"#;
        let of_network = r#"{"em":"network","ctrls":null,"iss":"https://ctrl.example.com:1280/","sub":"https://ctrl.example.com:1280/","aud":["openziti-enroller"],"jti":"0b4f2c1e-6c9b-4c2a-9a39-0a6f5e3d2c1b"}"#;
        for (claims, method) in [(of_ca, Method::Ca), (of_network, Method::Network)] {
            let token = token(HEADER, claims).unwrap();
            assert_eq!((token.method(), token.identity(), token.expires()), (method, None, None));
            assert!(token.accepted().id().is_none());
            assert!(token.check_expiry(UnixTime::since_unix_epoch(Duration::MAX)).is_ok());
        }
        assert_eq!(token(HEADER, of_ca).unwrap().subject(), "6RZrJEWf8");
    }

    #[test]
    fn tokens_for_one_identity_need_its_id_a_name_and_an_end() {
        for method in ["ott", "ottca", "updb"] {
            let claims = CLAIMS.replace("\"ott\"", &format!("\"{method}\""));
            assert_eq!(token(HEADER, &claims).unwrap().identity(), Some("W4kErfsB6a"));
            assert!(matches!(token(HEADER, &claims.replace("\"jti\"", "\"x\"")), Err(TokenError::Id)), "{method}");
            for claim in ["\"exp\"", "\"sub\""] {
                assert!(matches!(token(HEADER, &claims.replace(claim, "\"x\"")), Err(TokenError::Malformed(_))), "{method}");
            }
        }
    }

    #[test]
    fn forgives_white_space_and_a_byte_order_mark() {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let text = format!("\u{feff} {}.\n{}.{}\r\n", part(HEADER), part(CLAIMS), part("x"));
        assert!(UnverifiedToken::parse(&SecretString::from(text)).is_ok());
        assert!(matches!(UnverifiedToken::parse(&SecretString::from(" \n")), Err(TokenError::Empty)));
    }

    #[test]
    fn leaves_five_minutes_to_the_controllers_clock() {
        let token = token(HEADER, CLAIMS).unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        assert!(token.check_expiry(at(1_787_082_041 + 300)).is_ok());
        assert!(matches!(token.check_expiry(at(1_787_082_041 + 301)), Err(TokenError::Expired(_))));
    }

    #[test]
    fn is_not_printed() {
        let token = token(HEADER, CLAIMS).unwrap();
        assert!(!format!("{token:?}").contains("b93f8658"));
    }
}
