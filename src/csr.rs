//! Room 4: the certificate signing request, PKCS#10 (RFC 2986), signed by a [`Key`] wherever that lives.

use der::asn1::{Any, BitString, ObjectIdentifier, SetOfVec};
use der::{Decode, Encode, Tag};
use serde::{Deserialize, Serialize};
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::{CertReq, CertReqInfo, Version};

use crate::certificate::pem;
use crate::key::{Fault, Key, KeyError};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A request, PEM: one block `CERTIFICATE REQUEST`, and exactly one newline after it. Controllers refuse any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Csr(String);

impl Csr {
    /// Makes a request for `CN=<common_name>` and checks its signature in software before anyone sees it.
    ///
    /// # Errors
    /// What the key says, and [`KeyError::NotAsPromised`] `signature_wrong`.
    pub fn sign(key: &dyn Key, common_name: &str) -> Result<Self, KeyError> {
        let algorithm = key.public_key().algorithm().csr_signature();
        let info = CertReqInfo {
            version: Version::V1,
            subject: name(common_name).map_err(unencodable)?,
            public_key: SubjectPublicKeyInfoOwned::from_der(key.public_key().spki()).map_err(unencodable)?,
            // Empty, not an extensionRequest without extensions, which RFC 5272 §3.1 does not allow.
            attributes: SetOfVec::new(),
        };
        let signed = info.to_der().map_err(unencodable)?;
        let signature = key.sign(algorithm, &signed)?;
        if !key.public_key().verifies(algorithm, &signed, &signature) {
            let message = "the key signed the request, and the signature does not fit its public key";
            return Err(KeyError::NotAsPromised(Fault::new("signature_wrong", message)));
        }
        let request = CertReq {
            info,
            // PKCS#1 v1.5 or ECDSA always: `csr_signature` names no other.
            algorithm: algorithm.identifier().ok_or_else(|| unencodable(Tag::Null.value_error().into()))?,
            signature: BitString::from_bytes(&signature).map_err(unencodable)?,
        };
        Ok(Self(pem("CERTIFICATE REQUEST", &request.to_der().map_err(unencodable)?)))
    }

    /// The PEM text.
    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

fn name(common_name: &str) -> der::Result<Name> {
    let attribute = AttributeTypeAndValue { oid: COMMON_NAME, value: Any::new(Tag::Utf8String, common_name.as_bytes())? };
    let rdn = RelativeDistinguishedName::try_from(vec![attribute])?;
    // By way of DER: a name from text would give `,` and `+` a meaning.
    Name::from_der(&RdnSequence::from(vec![rdn]).to_der()?)
}

fn unencodable(error: der::Error) -> KeyError {
    KeyError::Device(Fault::new("device_error", "the certificate request cannot be encoded").because(error))
}
