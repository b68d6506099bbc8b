//! The certificates of a Ziti network: root, intermediates, server leaves, client certificates, and their wrong
//! brothers. What is issued follows the controller's own habits (enrollment-protocol.md §5).

mod forged;
mod key;
mod leaf;
pub(crate) mod tlv;

pub use forged::forged_certificate;
pub use key::{Key, KeyType};
pub use leaf::Leaf;

use aws_lc_rs::digest;
use der::Encode;
use der::asn1::ObjectIdentifier;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, PublicKeyData};
use spki::SubjectPublicKeyInfoRef;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const DAY: u64 = 24 * 60 * 60;

/// The certificate authorities of one network.
#[derive(Debug)]
pub struct Network {
    /// Self-signed.
    pub root: Authority,
    /// Intermediate under the root; signs server leaves, and clients unless there is a `client_signer`.
    pub server_signer: Authority,
    /// A second intermediate under the root, for client certificates only.
    pub client_signer: Option<Authority>,
    /// Of the SPIFFE ids: lower-case hex SHA-1 of the root, as a controller makes it that was not told one.
    pub trust_domain: String,
}

impl Network {
    /// A new network; with `own_client_signer` clients have an intermediate of their own.
    pub fn new(own_client_signer: bool) -> Self {
        let root = Authority::root("Test Network Root CA");
        let server_signer = root.intermediate("Test Network Signing CA");
        let client_signer = own_client_signer.then(|| root.intermediate("Test Network Client CA"));
        let trust_domain = sha1_hex(root.certificate());
        Self { root, server_signer, client_signer, trust_domain }
    }

    /// The authority that signs client certificates.
    pub fn signer(&self) -> &Authority {
        self.client_signer.as_ref().unwrap_or(&self.server_signer)
    }

    /// Root and intermediates, DER.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        [Some(&self.root), Some(&self.server_signer), self.client_signer.as_ref()]
            .into_iter()
            .flatten()
            .map(|authority| authority.certificate.clone())
            .collect()
    }
}

/// A CA: its certificate and the key behind it (P-256).
#[derive(Debug)]
pub struct Authority {
    params: CertificateParams,
    key: Key,
    certificate: Vec<u8>,
}

impl Authority {
    /// A self-signed CA.
    pub fn root(name: &str) -> Self {
        let (params, key) = Self::prepare(name);
        let certificate = params.self_signed(key.pair()).expect("a CA certificate can be signed").der().to_vec();
        Self { params, key, certificate }
    }

    /// A CA under this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = Self::prepare(name);
        let certificate = params.signed_by(key.pair(), &self.issuer()).expect("a CA certificate can be signed").der().to_vec();
        Self { params, key, certificate }
    }

    fn prepare(name: &str) -> (CertificateParams, Key) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "ziti-enroller tests");
        // Two networks must not share names, or a chain would be judged by its signature alone.
        params.distinguished_name.push(DnType::CommonName, format!("{name} {}", random_hex(4)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        leaf::set_validity(&mut params, unix_now() - DAY, unix_now() + 3650 * DAY);
        (params, Key::generate(KeyType::P256))
    }

    fn issuer(&self) -> Issuer<'_, &rcgen::KeyPair> {
        Issuer::from_params(&self.params, self.key.pair())
    }

    /// DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Signs `leaf` for the public key `spki_der` (DER, one SubjectPublicKeyInfo). Returns the certificate, DER.
    pub fn sign(&self, leaf: &Leaf, spki_der: &[u8]) -> Vec<u8> {
        let key = CopiedKey::from_spki(spki_der).expect("a public key of a kind that controllers certify");
        leaf.params().signed_by(&key, &self.issuer()).expect("a leaf can be signed").der().to_vec()
    }
}

/// A public key as it goes into a certificate, without its private half.
pub(crate) struct CopiedKey {
    bits: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

pub(crate) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(crate) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(crate) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
pub(crate) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(crate) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
pub(crate) const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

impl CopiedKey {
    /// Takes what Go's x509 takes: named curve and uncompressed point, RSA, Ed25519.
    pub(crate) fn from_spki(spki_der: &[u8]) -> Result<Self, String> {
        let spki = SubjectPublicKeyInfoRef::try_from(spki_der).map_err(|error| format!("x509: malformed public key: {error}"))?;
        let bits = spki.subject_public_key.raw_bytes().to_vec();
        let curve = spki.algorithm.parameters_oid().ok();
        let (algorithm, point) = match (spki.algorithm.oid, curve) {
            (RSA, _) => (&rcgen::PKCS_RSA_SHA256, None),
            (ED25519, _) => (&rcgen::PKCS_ED25519, None),
            (EC, Some(P256)) => (&rcgen::PKCS_ECDSA_P256_SHA256, Some(65)),
            (EC, Some(P384)) => (&rcgen::PKCS_ECDSA_P384_SHA384, Some(97)),
            (EC, Some(P521)) => (&rcgen::PKCS_ECDSA_P521_SHA512, Some(133)),
            (EC, _) => return Err("x509: unsupported elliptic curve".into()),
            (other, _) => return Err(format!("x509: unknown public key algorithm {other}")),
        };
        if point.is_some_and(|length| bits.len() != length || bits.first() != Some(&4)) {
            return Err("x509: failed to unmarshal elliptic curve point".into());
        }
        Ok(Self { bits, algorithm })
    }
}

impl PublicKeyData for CopiedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

/// PEM with LF line ends and one after the END line; `label` is e.g. `CERTIFICATE`.
pub fn pem(label: &'static str, der: &[u8]) -> String {
    der::pem::encode_string(label, der::pem::LineEnding::LF, der).expect("a PEM label of ours is well formed")
}

/// Lower-case hex of the SHA-1 of `der`: what controllers call a fingerprint, and a token's `kid`.
pub fn sha1_hex(der: &[u8]) -> String {
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

pub(crate) fn random_hex(length: usize) -> String {
    hex(&random::<32>()[..length])
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970").as_secs()
}

/// The SubjectPublicKeyInfo of a certificate; both DER.
pub(crate) fn spki_of(certificate: &[u8]) -> Vec<u8> {
    let certificate = x509_certificate(certificate);
    certificate.tbs_certificate().subject_public_key_info().to_der().expect("a parsed key encodes")
}

/// The subject of a certificate (DER) as RFC 4514 text.
pub(crate) fn subject_of(certificate: &[u8]) -> String {
    x509_certificate(certificate).tbs_certificate().subject().to_string()
}

fn x509_certificate(der: &[u8]) -> x509_cert::Certificate {
    der::Decode::from_der(der).expect("a certificate that TLS took parses")
}
