//! Cellar: certificates. [`Chain`], [`Anchors`], the certs-only PKCS#7 of `cacerts`, and the check of an issued chain.

mod renewed;

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};

use crate::key::PublicKey;
use crate::key::encoding::sha1;
use crate::text::{Printable, hex};

/// Most CA certificates that a controller may hand out.
pub const MOST_ANCHORS: usize = 64;
/// Largest `cacerts` answer, in bytes.
pub const LARGEST_CACERTS: u64 = 256 * 1024;
/// Most certificates in an issued chain.
const LONGEST_CHAIN: usize = 10;
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// Certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not the encoding it must have.
    #[error("it is not {0}")]
    Form(&'static str),
    /// More than [`MOST_ANCHORS`] CA certificates, or more than ten in a chain.
    #[error("it has {0} certificates, more than any network")]
    TooMany(usize),
    /// More bytes than are read.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// No certificate, or none with CA:TRUE.
    #[error("it has no CA certificate")]
    NoAnchor,
    /// The chain is empty.
    #[error("it has no certificate")]
    Empty,
    /// The leaf holds another public key than ours.
    #[error("the certificate is for another public key than ours")]
    OtherKey,
    /// No path from the leaf to an anchor.
    #[error("the certificate does not lead to the controller's CA certificates: {0}")]
    Path(String),
    /// Not for client authentication, or a CA certificate.
    #[error("the certificate is not for client authentication")]
    Usage,
    /// Its time is over.
    #[error("the certificate ended at {0}")]
    Expired(String),
    /// Its SPIFFE id names another identity.
    #[error("the certificate is for another identity: {0}")]
    OtherIdentity(Printable),
}

/// A leaf and its intermediates, leaf first, without a root.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// Reads PEM; text between the blocks is skipped.
    ///
    /// # Errors
    /// [`CertificateError::Form`], [`CertificateError::Empty`], [`CertificateError::TooMany`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::of(read_pem(pem)?)
    }

    /// Takes certificates in DER, leaf first.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem).
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, CertificateError> {
        certificates.iter().try_for_each(|c| parse(c).map(drop))?;
        Self::of(certificates.into_iter().map(CertificateDer::from).collect())
    }

    fn of(chain: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        match chain.len() {
            0 => Err(CertificateError::Empty),
            1..=LONGEST_CHAIN => Ok(Self(chain)),
            long => Err(CertificateError::TooMany(long)),
        }
    }

    /// The chain with the certificate for `key` as its leaf, wherever that stood; `None` where there is none for it.
    pub fn beginning_with(mut self, key: &PublicKey) -> Option<Self> {
        let at = self.0.iter().position(|c| spki(c).is_ok_and(|spki| spki == key.spki()))?;
        self.0[..=at].rotate_right(1);
        Some(self)
    }

    /// DER, leaf first.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        // Not empty: the only maker refuses that.
        &self.0[0]
    }

    /// PEM, leaf first, nothing between the blocks.
    pub fn to_pem(&self) -> String {
        write_pem(&self.0)
    }

    /// What the leaf says.
    ///
    /// # Errors
    /// [`CertificateError::Form`].
    pub fn summary(&self) -> Result<Summary, CertificateError> {
        Summary::of(self.leaf())
    }

    /// The leaf's public key, where it is of a kind that we use.
    ///
    /// # Errors
    /// [`CertificateError::Form`].
    pub fn public_key(&self) -> Result<PublicKey, CertificateError> {
        PublicKey::from_spki(&spki(self.leaf())?)
            .map_err(|_| CertificateError::Form("a certificate for a key of a supported type"))
    }

    /// Checks what a third party has issued and we are about to show: for client authentication, and not ended.
    ///
    /// # Errors
    /// [`CertificateError::Usage`], [`CertificateError::Expired`].
    pub fn check_shown(&self, now: UnixTime) -> Result<(), CertificateError> {
        let summary = self.summary()?;
        if summary.is_ca || !summary.client_auth {
            return Err(CertificateError::Usage);
        }
        if summary.not_after < now.as_secs() {
            return Err(CertificateError::Expired(rfc3339(summary.not_after)));
        }
        Ok(())
    }

    /// Checks what the controller has issued: our key, a path to `anchors`, for client authentication, still valid,
    /// and for identity `subject` where it says for whom (controllers from 2.0) and we know it.
    ///
    /// # Errors
    /// The first of these that does not hold. A certificate that is not valid *yet* passes: our clock may be slow.
    pub fn check_issued(
        &self,
        key: &PublicKey,
        anchors: &Anchors,
        subject: Option<&str>,
        now: UnixTime,
    ) -> Result<Summary, CertificateError> {
        let summary = self.summary()?;
        if spki(self.leaf())? != key.spki() {
            return Err(CertificateError::OtherKey);
        }
        if summary.is_ca {
            return Err(CertificateError::Usage);
        }
        if summary.not_after < now.as_secs() {
            return Err(CertificateError::Expired(rfc3339(summary.not_after)));
        }
        let judged_at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs().max(summary.not_before)));
        let end = webpki::EndEntityCert::try_from(self.leaf()).map_err(|e| CertificateError::Path(path_error(&e)))?;
        let roots = anchors.root_store();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let usage = webpki::KeyUsage::client_auth();
        end.verify_for_usage(algorithms.all, &roots.roots, &self.0[1..], judged_at, usage, None, None).map_err(|e| match e {
            webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::Usage,
            e => CertificateError::Path(path_error(&e)),
        })?;
        if let (Some(uri), Some(subject)) = (&summary.spiffe, subject) {
            let ours = uri.as_str().rsplit_once("/identity/").is_some_and(|(_, id)| id == subject);
            if !ours {
                return Err(CertificateError::OtherIdentity(uri.clone()));
            }
        }
        Ok(summary)
    }
}

impl Serialize for Chain {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_pem())
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_pem(String::deserialize(d)?.as_bytes()).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({} certificates)", self.0.len())
    }
}

/// CA certificates that decide whom we trust, sorted by DER so that files are reproducible.
#[derive(Clone, PartialEq, Eq)]
pub struct Anchors(Vec<CertificateDer<'static>>);

impl Anchors {
    /// Reads the answer of `/.well-known/est/cacerts`: base64 of a certs-only PKCS#7 (RFC 7030 §4.1.3, RFC 5652 §5).
    ///
    /// The controller's answer has an empty CRL field `A1 00` that strict readers stumble over.
    ///
    /// # Errors
    /// [`CertificateError::Form`], [`CertificateError::TooMany`], [`CertificateError::NoAnchor`].
    pub fn from_cacerts(body: &[u8]) -> Result<Self, CertificateError> {
        let text: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        let der = BASE64_STANDARD.decode(text).map_err(|_| CertificateError::Form("base64"))?;
        let certificates = pkcs7(&der).map_err(|_| CertificateError::Form("a certs-only PKCS#7"))?;
        Self::from_der(certificates)
    }

    /// Reads PEM, as identity files and `--ca` have it.
    ///
    /// # Errors
    /// As [`from_cacerts`](Self::from_cacerts).
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(read_pem(pem)?)
    }

    fn from_der(mut certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        if certificates.len() > MOST_ANCHORS {
            return Err(CertificateError::TooMany(certificates.len()));
        }
        certificates.retain(|c| Summary::of(c).is_ok_and(|s| s.is_ca) && webpki::anchor_from_trusted_cert(c).is_ok());
        certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        certificates.dedup();
        if certificates.is_empty() { Err(CertificateError::NoAnchor) } else { Ok(Self(certificates)) }
    }

    /// These and `others`.
    ///
    /// # Errors
    /// [`CertificateError::TooMany`].
    pub fn and(&self, others: &Self) -> Result<Self, CertificateError> {
        Self::from_der(self.0.iter().chain(&others.0).cloned().collect())
    }

    /// PEM, sorted by DER.
    pub fn to_pem(&self) -> String {
        write_pem(&self.0)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// As rustls takes them.
    pub fn root_store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.0.iter().cloned());
        store
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({} certificates)", self.0.len())
    }
}

impl Serialize for Anchors {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_pem())
    }
}

impl<'de> Deserialize<'de> for Anchors {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_pem(String::deserialize(d)?.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// What a certificate says, as far as people ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its subject, RFC 4514.
    pub subject: Printable,
    /// Its issuer, RFC 4514.
    pub issuer: Printable,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// First second of its validity, since the Unix epoch.
    pub not_before: u64,
    /// Last second of its validity, since the Unix epoch.
    pub not_after: u64,
    /// SHA-1 of its DER, lower-case hexadecimal: the controller's name for it.
    pub fingerprint_sha1: String,
    /// Basic constraints say CA:TRUE.
    pub is_ca: bool,
    /// Its extended key usage, where it has one, allows client authentication (RFC 5280 §4.2.1.12).
    pub client_auth: bool,
    /// The URI of a `spiffe:` subject alternative name.
    pub spiffe: Option<Printable>,
}

impl Summary {
    /// Reads one certificate, DER.
    ///
    /// # Errors
    /// [`CertificateError::Form`].
    pub fn of(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let tbs = certificate.tbs_certificate();
        let is_ca = matches!(tbs.get_extension::<BasicConstraints>(), Ok(Some((_, BasicConstraints { ca: true, .. }))));
        let client_auth = match tbs.get_extension::<ExtendedKeyUsage>() {
            Ok(usage) => usage.is_none_or(|(_, usage)| usage.0.contains(&CLIENT_AUTH) || usage.0.contains(&ANY_USAGE)),
            Err(_) => false,
        };
        let names = tbs.get_extension::<SubjectAltName>().ok().flatten().map(|(_, names)| names.0).unwrap_or_default();
        let spiffe = names.iter().find_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) if uri.as_str().starts_with("spiffe:") => {
                Some(Printable::new(uri.as_str()))
            }
            _ => None,
        });
        Ok(Self {
            subject: Printable::new(&tbs.subject().to_string()),
            issuer: Printable::new(&tbs.issuer().to_string()),
            serial: hex(tbs.serial_number().as_bytes()),
            not_before: tbs.validity().not_before.to_unix_duration().as_secs(),
            not_after: tbs.validity().not_after.to_unix_duration().as_secs(),
            fingerprint_sha1: hex(&sha1(der)),
            is_ca,
            client_auth,
            spiffe,
        })
    }
}

fn parse(der: &[u8]) -> Result<Certificate, CertificateError> {
    Certificate::from_der(der).map_err(|_| CertificateError::Form("a certificate in DER"))
}

fn spki(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    parse(der)?.tbs_certificate().subject_public_key_info().to_der().map_err(|_| CertificateError::Form("a certificate in DER"))
}

/// `seconds` since the Unix epoch as RFC 3339, UTC.
pub fn rfc3339(seconds: u64) -> String {
    der::DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))
        .map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

/// The words for why no path was found, without webpki's internals.
pub fn path_error(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnknownIssuer => "no CA certificate has issued it".into(),
        webpki::Error::CertExpired { .. } => "a certificate of the chain has expired".into(),
        webpki::Error::CertNotValidYet { .. } => "a certificate of the chain is not valid yet".into(),
        webpki::Error::CaUsedAsEndEntity => "it is a CA certificate".into(),
        webpki::Error::InvalidSignatureForPublicKey => "a signature in the chain is wrong".into(),
        other => format!("{other:?}").chars().take_while(|c| c.is_ascii_alphanumeric()).collect(),
    }
}

fn read_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|_| CertificateError::Form("PEM"))?;
    if certificates.is_empty() {
        return Err(CertificateError::Empty);
    }
    certificates.iter().try_for_each(|c| parse(c).map(drop))?;
    Ok(certificates)
}

fn write_pem(certificates: &[CertificateDer<'static>]) -> String {
    certificates.iter().map(|c| pem("CERTIFICATE", c)).collect()
}

/// One PEM block (RFC 7468) with exactly one final newline.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    // Base64 is ASCII: every byte is a character.
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// The certificates of a degenerate SignedData (RFC 5652 §5.1): version, digests and content are skipped, signer
/// infos ignored: the channel vouches for the bundle, not a signature.
fn pkcs7(der: &[u8]) -> der::Result<Vec<CertificateDer<'static>>> {
    const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
    let mut outer = SliceReader::new(der)?;
    let signed: AnyRef<'_> = outer.sequence(|content| {
        if ObjectIdentifier::decode(content)? != SIGNED_DATA {
            return Err(der::ErrorKind::Value { tag: Tag::ObjectIdentifier }.into());
        }
        let wrapped = AnyRef::decode(content)?;
        if wrapped.tag() != constructed(0) {
            return Err(wrapped.tag().unexpected_error(Some(constructed(0))).into());
        }
        AnyRef::from_der(wrapped.value())
    })?;
    outer.finish()?;
    if signed.tag() != Tag::Sequence {
        return Err(signed.tag().unexpected_error(Some(Tag::Sequence)).into());
    }
    let mut fields = SliceReader::new(signed.value())?;
    while !fields.is_finished() {
        let field = AnyRef::decode(&mut fields)?;
        if field.tag() == constructed(0) {
            let mut set = SliceReader::new(field.value())?;
            let mut certificates = Vec::new();
            while !set.is_finished() {
                let element = AnyRef::decode(&mut set)?;
                certificates.push(CertificateDer::from(element.to_der()?));
            }
            return Ok(certificates);
        }
    }
    Ok(Vec::new())
}

fn constructed(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: der::TagNumber(number) }
}
