//! What keys and signatures there are: [`KeyAlgorithm`], [`SignatureAlgorithm`], [`PublicKey`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{self, VerificationAlgorithm};
use der::{Decode, Encode, oid::ObjectIdentifier};
use serde::{Deserialize, Serialize};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

use super::encoding::Hash;

/// A key that this program makes, and every Ziti SDK can use for mutual TLS.
///
/// P-521 is not among them: the Go SDK cannot load it from a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// RSA, modulus of 2048 bits, exponent 65537.
    Rsa2048,
    /// RSA, modulus of 3072 bits, exponent 65537.
    Rsa3072,
    /// RSA, modulus of 4096 bits, exponent 65537.
    Rsa4096,
}

impl KeyAlgorithm {
    /// All of them, the default first.
    pub const ALL: [Self; 5] = [Self::P256, Self::P384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// As typed after `--key-alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        }
    }

    /// Bits of the RSA modulus; `None` for a curve.
    pub fn modulus_bits(self) -> Option<u32> {
        match self {
            Self::P256 | Self::P384 => None,
            Self::Rsa2048 => Some(2048),
            Self::Rsa3072 => Some(3072),
            Self::Rsa4096 => Some(4096),
        }
    }

    /// The named curve (RFC 5480 §2.1.1.1); `None` for RSA.
    pub fn curve(self) -> Option<ObjectIdentifier> {
        match self {
            Self::P256 => Some(SECP256R1),
            Self::P384 => Some(SECP384R1),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => None,
        }
    }

    /// What a CSR for such a key is signed with: SHA-256 for P-256 and RSA, SHA-384 for P-384.
    pub fn csr_signature(self) -> SignatureAlgorithm {
        match self {
            Self::P256 => SignatureAlgorithm::EcdsaSha256,
            Self::P384 => SignatureAlgorithm::EcdsaSha384,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
        }
    }

    /// What such a key can sign where its device knows every padding, best first.
    pub fn signatures(self) -> &'static [SignatureAlgorithm] {
        use SignatureAlgorithm::*;
        match self {
            // One curve, one hash: TLS 1.3 pairs them (RFC 8446 §4.2.3), and servers accept it in TLS 1.2.
            Self::P256 => &[EcdsaSha256],
            Self::P384 => &[EcdsaSha384],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                &[RsaPssSha256, RsaPssSha384, RsaPssSha512, RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512]
            }
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;
    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL.into_iter().find(|a| a.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// A name that is none of [`KeyAlgorithm::ALL`].
#[derive(Debug, thiserror::Error)]
#[error("not one of p256, p384, rsa2048, rsa3072, rsa4096")]
pub struct UnknownAlgorithm;

/// A way to sign, with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-256; the signature is DER, `SEQUENCE { r, s }`.
    EcdsaSha256,
    /// ECDSA with SHA-384; the signature is DER, `SEQUENCE { r, s }`.
    EcdsaSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256 for message and MGF1, salt of 32 bytes (RFC 8446 §4.2.3).
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384 for message and MGF1, salt of 48 bytes.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512 for message and MGF1, salt of 64 bytes.
    RsaPssSha512,
}

impl SignatureAlgorithm {
    /// The hash that the message goes through first.
    pub fn hash(self) -> Hash {
        match self {
            Self::EcdsaSha256 | Self::RsaPkcs1Sha256 | Self::RsaPssSha256 => Hash::Sha256,
            Self::EcdsaSha384 | Self::RsaPkcs1Sha384 | Self::RsaPssSha384 => Hash::Sha384,
            Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => Hash::Sha512,
        }
    }

    /// The AlgorithmIdentifier of a CSR: RFC 5758 §3.2 (no parameters), RFC 4055 §5 (NULL parameters).
    ///
    /// `None` for PSS: a CSR is signed with PKCS#1 v1.5, which every controller reads.
    pub fn identifier(self) -> Option<AlgorithmIdentifierOwned> {
        let (oid, null) = match self {
            Self::EcdsaSha256 => ("1.2.840.10045.4.3.2", false),
            Self::EcdsaSha384 => ("1.2.840.10045.4.3.3", false),
            Self::RsaPkcs1Sha256 => ("1.2.840.113549.1.1.11", true),
            Self::RsaPkcs1Sha384 => ("1.2.840.113549.1.1.12", true),
            Self::RsaPkcs1Sha512 => ("1.2.840.113549.1.1.13", true),
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => return None,
        };
        Some(AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap(oid), parameters: null.then(der::Any::null) })
    }
}

/// A public key: one SubjectPublicKeyInfo, DER (RFC 5280 §4.1.2.7), of an algorithm that this program works with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    algorithm: KeyAlgorithm,
}

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why bytes are not a [`PublicKey`].
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// Not one DER SubjectPublicKeyInfo.
    #[error("not a SubjectPublicKeyInfo in DER")]
    Der(#[from] der::Error),
    /// A well-formed key of a kind that this program does not use.
    #[error("key type is not supported: {0}")]
    Unsupported(String),
}

#[derive(der::Sequence)]
struct RsaPublicKey {
    modulus: der::asn1::Uint,
    exponent: der::asn1::Uint,
}

impl PublicKey {
    /// Reads one SubjectPublicKeyInfo, DER.
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der)?;
        let raw = spki.subject_public_key.raw_bytes();
        let algorithm = if spki.algorithm.oid == EC_PUBLIC_KEY {
            let curve =
                spki.algorithm.parameters_oid().map_err(|_| PublicKeyError::Unsupported("curve without a name".into()))?;
            let algorithm = [KeyAlgorithm::P256, KeyAlgorithm::P384].into_iter().find(|a| a.curve() == Some(curve));
            let algorithm = algorithm.ok_or_else(|| PublicKeyError::Unsupported(format!("curve {curve}")))?;
            // RFC 5480 §2.2: 04 and two coordinates. A compressed point is legal there, and refused by controllers.
            if raw.first() != Some(&4) || raw.len() != 1 + 2 * coordinate_bytes(algorithm) {
                return Err(PublicKeyError::Unsupported("point is not in uncompressed form".into()));
            }
            algorithm
        } else if spki.algorithm.oid == RSA_ENCRYPTION {
            let rsa = RsaPublicKey::from_der(raw)?;
            let bits = bits(rsa.modulus.as_bytes());
            KeyAlgorithm::ALL
                .into_iter()
                .find(|a| a.modulus_bits() == Some(bits))
                .ok_or_else(|| PublicKeyError::Unsupported(format!("RSA with {bits} bits")))?
        } else {
            return Err(PublicKeyError::Unsupported(format!("algorithm {}", spki.algorithm.oid)));
        };
        Ok(Self { spki: der.to_vec(), algorithm })
    }

    /// Puts a curve point into a SubjectPublicKeyInfo: `curve` DER of the named-curve OID, `point` 04‖x‖y.
    pub fn from_point(curve: ObjectIdentifier, point: &[u8]) -> Result<Self, PublicKeyError> {
        let algorithm = AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(der::Any::from(curve)) };
        Self::wrap(algorithm, point)
    }

    /// Puts an RSA key into a SubjectPublicKeyInfo: both numbers big-endian, leading zeros allowed.
    pub fn from_modulus(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        let key = RsaPublicKey { modulus: der::asn1::Uint::new(modulus)?, exponent: der::asn1::Uint::new(exponent)? };
        let algorithm = AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(der::Any::null()) };
        Self::wrap(algorithm, &key.to_der()?)
    }

    fn wrap(algorithm: AlgorithmIdentifierOwned, bits: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = SubjectPublicKeyInfoOwned { algorithm, subject_public_key: der::asn1::BitString::from_bytes(bits)? };
        Self::from_spki(&spki.to_der()?)
    }

    /// DER, one SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 of the DER, the name under which reports show the key.
    pub fn sha256(&self) -> [u8; 32] {
        super::encoding::sha256(&self.spki)
    }

    /// Whether `signature` over `message` was made by the other half of this key; checked in software.
    pub fn verifies(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let ec = self.algorithm.curve();
        let judge: &dyn VerificationAlgorithm = match algorithm {
            SignatureAlgorithm::EcdsaSha256 if ec == Some(SECP384R1) => &signature::ECDSA_P384_SHA256_ASN1,
            SignatureAlgorithm::EcdsaSha384 if ec == Some(SECP256R1) => &signature::ECDSA_P256_SHA384_ASN1,
            SignatureAlgorithm::EcdsaSha256 => &signature::ECDSA_P256_SHA256_ASN1,
            SignatureAlgorithm::EcdsaSha384 => &signature::ECDSA_P384_SHA384_ASN1,
            SignatureAlgorithm::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            SignatureAlgorithm::RsaPkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            SignatureAlgorithm::RsaPkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            SignatureAlgorithm::RsaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
            SignatureAlgorithm::RsaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
            SignatureAlgorithm::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        };
        let Ok(spki) = SubjectPublicKeyInfoRef::from_der(&self.spki) else { return false };
        judge.verify_sig(spki.subject_public_key.raw_bytes(), message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, sha256 {})", self.algorithm, crate::text::hex(&self.sha256()))
    }
}

/// Bytes of one coordinate of a point.
fn coordinate_bytes(algorithm: KeyAlgorithm) -> usize {
    if algorithm == KeyAlgorithm::P384 { 48 } else { 32 }
}

fn bits(number: &[u8]) -> u32 {
    let number = &number[number.iter().take_while(|b| **b == 0).count()..];
    number.first().map_or(0, |top| (number.len() as u32) * 8 - top.leading_zeros())
}
