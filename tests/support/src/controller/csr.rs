//! Reads a certificate request as Go's controller does (enrollment-protocol.md §5): one PEM block and not a byte after
//! it, named curves, and a signature that is really verified.

use crate::pki::tlv;
use crate::pki::{CopiedKey, EC, ED25519, P256, P384, P521, RSA};
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode, Sequence};
use spki::AlgorithmIdentifierOwned;
use x509_cert::name::Name;
use x509_cert::request::CertReq;

/// A request that a controller certifies.
#[derive(Debug)]
pub(crate) struct Csr {
    pub(crate) subject: Name,
    pub(crate) spki_der: Vec<u8>,
    /// What Go does not mind and a careful client does not do.
    pub(crate) oddities: Vec<&'static str>,
}

/// The error is the text that the controller puts into `cause.message`.
pub(crate) fn read(pem: &[u8]) -> Result<Csr, String> {
    if pem.is_empty() {
        return Err("csrPem must not be null or empty".into());
    }
    let (der, oddities) = pem_block(pem)?;
    let request = CertReq::from_der(&der).map_err(|error| format!("x509: malformed certificate request: {error}"))?;
    let info = tlv::open(&der).and_then(|(content, _)| tlv::elements(content)).and_then(|parts| parts.first().copied());
    let info = info.ok_or("x509: malformed certificate request")?;
    let spki_der = request.info.public_key.to_der().map_err(|error| error.to_string())?;
    CopiedKey::from_spki(&spki_der)?;
    verify(&request, info).map_err(|why| format!("CSR signature validation failed: x509: {why}"))?;
    Ok(Csr { subject: request.info.subject, spki_der, oddities })
}

/// The first block of any label; text before it is ignored, anything after the newline of its END line is an error.
fn pem_block(pem: &[u8]) -> Result<(Vec<u8>, Vec<&'static str>), String> {
    const NONE: &str = "could not decode csrPem as PEM";
    let text = std::str::from_utf8(pem).map_err(|_| NONE)?;
    let begin = match text.find("-----BEGIN ") {
        Some(at) if at == 0 || text[..at].ends_with('\n') => at,
        _ => return Err(NONE.into()),
    };
    let (label, rest) = text[begin + 11..].split_once("-----").ok_or(NONE)?;
    let (body, rest) = rest.split_once(&format!("-----END {label}-----")).ok_or(NONE)?;
    let mut oddities = Vec::new();
    if begin != 0 {
        oddities.push("text before the PEM block of the certificate request");
    }
    if label != "CERTIFICATE REQUEST" {
        oddities.push("another PEM label than CERTIFICATE REQUEST");
    }
    let rest = rest.trim_start_matches([' ', '\t', '\r']);
    if !rest.strip_prefix('\n').unwrap_or(rest).is_empty() {
        return Err("unexpected PEM blocks at end of CSR".into());
    }
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| NONE)?;
    Ok((der, oddities))
}

/// RSASSA-PSS parameters without a default left out: SHA-1 is the default, and it is refused.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT")]
    mask: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    salt: u8,
}

const UNIMPLEMENTED: &str = "cannot verify signature: algorithm unimplemented";

fn verify(request: &CertReq, signed: &[u8]) -> Result<(), String> {
    let oid = |text| ObjectIdentifier::new_unwrap(text);
    let key = &request.info.public_key;
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let scheme = request.algorithm.oid;
    let bits = match scheme {
        s if s == oid("1.2.840.10045.4.3.2") || s == oid("1.2.840.113549.1.1.11") => 256,
        s if s == oid("1.2.840.10045.4.3.3") || s == oid("1.2.840.113549.1.1.12") => 384,
        s if s == oid("1.2.840.10045.4.3.4") || s == oid("1.2.840.113549.1.1.13") => 512,
        s if s == oid("1.2.840.113549.1.1.10") => pss_bits(request.algorithm.parameters.as_ref())?,
        ED25519 => 0,
        // Stricter than Go, which takes SHA-1 in requests (run against 1.6.20 and 2.0.3), as no client of today should.
        _ => return Err(UNIMPLEMENTED.into()),
    };
    let pss = scheme == oid("1.2.840.113549.1.1.10");
    let pkcs1 = scheme.to_string().starts_with("1.2.840.113549.1.1.1") && !pss;
    let ecdsa = scheme.to_string().starts_with("1.2.840.10045.4.3.");
    let algorithm: &'static dyn VerificationAlgorithm = match (key.algorithm.oid, curve, bits) {
        (EC, Some(P256), 256) if ecdsa => &aws::ECDSA_P256_SHA256_ASN1,
        (EC, Some(P256), 384) if ecdsa => &aws::ECDSA_P256_SHA384_ASN1,
        (EC, Some(P256), 512) if ecdsa => &aws::ECDSA_P256_SHA512_ASN1,
        (EC, Some(P384), 256) if ecdsa => &aws::ECDSA_P384_SHA256_ASN1,
        (EC, Some(P384), 384) if ecdsa => &aws::ECDSA_P384_SHA384_ASN1,
        (EC, Some(P384), 512) if ecdsa => &aws::ECDSA_P384_SHA512_ASN1,
        (EC, Some(P521), 256) if ecdsa => &aws::ECDSA_P521_SHA256_ASN1,
        (EC, Some(P521), 384) if ecdsa => &aws::ECDSA_P521_SHA384_ASN1,
        (EC, Some(P521), 512) if ecdsa => &aws::ECDSA_P521_SHA512_ASN1,
        (RSA, _, 256) if pkcs1 => &aws::RSA_PKCS1_2048_8192_SHA256,
        (RSA, _, 384) if pkcs1 => &aws::RSA_PKCS1_2048_8192_SHA384,
        (RSA, _, 512) if pkcs1 => &aws::RSA_PKCS1_2048_8192_SHA512,
        (RSA, _, 256) if pss => &aws::RSA_PSS_2048_8192_SHA256,
        (RSA, _, 384) if pss => &aws::RSA_PSS_2048_8192_SHA384,
        (RSA, _, 512) if pss => &aws::RSA_PSS_2048_8192_SHA512,
        (ED25519, _, 0) => &aws::ED25519,
        _ => return Err("signature algorithm specifies another kind of public key".into()),
    };
    UnparsedPublicKey::new(algorithm, key.subject_public_key.raw_bytes())
        .verify(signed, request.signature.raw_bytes())
        .map_err(|_| if ecdsa { "ECDSA verification failure" } else { "crypto/rsa: verification error" }.into())
}

fn pss_bits(parameters: Option<&der::Any>) -> Result<u16, String> {
    // One hash for all, and a salt as long as it; Go knows no other RSA-PSS.
    let parameters: PssParameters = parameters.and_then(|any| any.decode_as().ok()).ok_or(UNIMPLEMENTED)?;
    let masked: Option<ObjectIdentifier> =
        parameters.mask.parameters.as_ref().and_then(|any| any.decode_as::<AlgorithmIdentifierOwned>().ok()).map(|hash| hash.oid);
    let bits = match parameters.hash.oid.to_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => 256,
        "2.16.840.1.101.3.4.2.2" => 384,
        "2.16.840.1.101.3.4.2.3" => 512,
        _ => return Err(UNIMPLEMENTED.into()),
    };
    let one_hash = masked == Some(parameters.hash.oid) && u16::from(parameters.salt) * 8 == bits;
    one_hash.then_some(bits).ok_or_else(|| UNIMPLEMENTED.into())
}
