//! What a token, an identity or a certificate says; offline, and nothing is proved.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use serde::Serialize;

use super::World;
use crate::certificate::{Summary, rfc3339};
use crate::error::Error;
use crate::files;
use crate::identity::{self, Identity, IdentityError, Network};
use crate::jwt::UnverifiedToken;
use crate::key::Readers;
use crate::text::Printable;

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Inspected {
    /// An enrollment token; nobody has vouched for it.
    Token {
        /// The controller.
        controller: String,
        /// The identity.
        subject: String,
        /// `ott`, …
        method: &'static str,
        /// `ES256`, …
        algorithm: &'static str,
        /// SHA-1 of the certificate that signed it, as it says.
        signer_sha1: Option<Printable>,
        /// RFC 3339.
        expires: Option<String>,
        /// Whether that is over, by this machine's clock.
        expired: bool,
    },
    /// An identity.
    Identity {
        /// Addresses of its controllers.
        apis: Vec<String>,
        /// Where the key is; the file itself where it holds it. Never a PIN.
        key: String,
        /// Its certificates, leaf first.
        certificates: Vec<Certificate>,
        /// How many CA certificates it trusts.
        anchors: usize,
        /// Who else can open it, as far as the file says.
        readers: Readers,
    },
    /// An identity file without an identity.
    Network {
        /// Addresses of its controllers.
        apis: Vec<String>,
        /// How many CA certificates it trusts.
        anchors: usize,
        /// Who else can open it.
        readers: Readers,
    },
    /// Certificates.
    Certificates {
        /// In the order of the file.
        certificates: Vec<Certificate>,
    },
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// RFC 4514.
    pub subject: Printable,
    /// RFC 4514.
    pub issuer: Printable,
    /// SHA-1 of the DER, hexadecimal.
    pub fingerprint_sha1: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// CA:TRUE.
    pub is_ca: bool,
    /// The identity that it is for, where it says so.
    pub spiffe: Option<Printable>,
}

impl From<Summary> for Certificate {
    fn from(s: Summary) -> Self {
        Self {
            subject: s.subject,
            issuer: s.issuer,
            fingerprint_sha1: s.fingerprint_sha1,
            not_before: rfc3339(s.not_before),
            not_after: rfc3339(s.not_after),
            is_ca: s.is_ca,
            spiffe: s.spiffe,
        }
    }
}

/// Reads `path`, whatever of the three it is.
///
/// # Errors
/// [`Error::Read`], [`Error::Identity`], [`Error::Token`].
pub fn inspect(path: &Path, world: &World<'_>) -> Result<Inspected, Error> {
    let content = files::read_file(path, identity::LARGEST).map_err(Error::Read)?;
    let text = content.trim_ascii_start();
    if text.starts_with(b"{") {
        return identity(path, &content, world);
    }
    if text.starts_with(b"-----BEGIN") {
        return certificates(path, &content);
    }
    let text = String::from_utf8_lossy(&content).into_owned();
    let token = UnverifiedToken::parse(&SecretString::from(text)).map_err(Error::Token)?;
    let (algorithm, signer_sha1) = token.signed_with();
    Ok(Inspected::Token {
        controller: token.issuer().to_string(),
        subject: token.subject().to_owned(),
        method: token.method().name(),
        algorithm,
        signer_sha1,
        expires: token.expires().map(rfc3339),
        expired: token.expires().is_some_and(|end| end < world.now().as_secs()),
    })
}

fn identity(path: &Path, content: &[u8], world: &World<'_>) -> Result<Inspected, Error> {
    let failed = |source| Error::Identity { path: path.to_owned(), source };
    if Network::is_all_of(content) {
        let Network { apis, anchors } = Network::parse(content).map_err(failed)?;
        return Ok(Inspected::Network { apis, anchors: anchors.count(), readers: Readers::without_a_key() });
    }
    let identity = Identity::parse(content).map_err(failed)?;
    let all = identity.chain.certificates().iter().map(|c| Summary::of(c).map(Certificate::from));
    let certificates = all.collect::<Result<_, _>>().map_err(|e| failed(IdentityError::Certificates("cert", e)))?;
    let key = if identity.key.holds_the_key() { "in this file".to_owned() } else { without_pin(identity.key.expose()) };
    let readers = world.providers.readers(&identity.key, None);
    Ok(Inspected::Identity { apis: identity.apis, key, certificates, anchors: identity.anchors.count(), readers })
}

fn certificates(path: &Path, content: &[u8]) -> Result<Inspected, Error> {
    let failed = |e| Error::Identity { path: path.to_owned(), source: IdentityError::Certificates("cert", e) };
    let read: Vec<_> = CertificateDer::pem_slice_iter(content).filter_map(Result::ok).collect();
    if read.is_empty() {
        return Err(failed(crate::certificate::CertificateError::Empty));
    }
    let all = read.iter().map(|c| Summary::of(c).map(Certificate::from));
    Ok(Inspected::Certificates { certificates: all.collect::<Result<_, _>>().map_err(failed)? })
}

/// A reference as it stands in an identity, up to its PIN: a PIN may hold `&`, so nothing behind it is safe to show.
fn without_pin(reference: &str) -> String {
    let lower = reference.to_ascii_lowercase();
    let pin = ["?pin", "&pin", ";pin"].iter().filter_map(|p| lower.find(p)).min();
    let text = pin.map_or_else(|| reference.to_owned(), |at| format!("{}…", &reference[..=at]));
    Printable::new(&text).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_the_pin_out() {
        assert_eq!(without_pin("pkcs11:///l.so?slot=0x1&pin=47&11&id=01"), "pkcs11:///l.so?slot=0x1&…");
        assert_eq!(without_pin("pkcs11:///l.so?PIN-value=4711"), "pkcs11:///l.so?…");
        assert_eq!(without_pin("pkcs11:///l.so?slot=0x1&id=01"), "pkcs11:///l.so?slot=0x1&id=01");
    }
}
