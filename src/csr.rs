//! Room 4: the certificate signing request, PKCS#10 (RFC 2986), signed by a [`Key`] wherever that lives.

use std::str::FromStr;

use der::asn1::BitString;
use der::asn1::{Any, Ia5String, ObjectIdentifier, OctetString, SetOfVec};
use der::{Decode, Encode, Tag};
use serde::{Deserialize, Serialize};
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::attr::{Attribute, AttributeTypeAndValue};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};

use crate::certificate::pem;
use crate::key::{Fault, Key, KeyError};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// The names of RFC 5280 §4.2.1.12, as openssl writes them.
const USAGES: [(&str, &str); 7] = [
    ("serverAuth", "1.3.6.1.5.5.7.3.1"),
    ("clientAuth", "1.3.6.1.5.5.7.3.2"),
    ("codeSigning", "1.3.6.1.5.5.7.3.3"),
    ("emailProtection", "1.3.6.1.5.5.7.3.4"),
    ("timeStamping", "1.3.6.1.5.5.7.3.8"),
    ("OCSPSigning", "1.3.6.1.5.5.7.3.9"),
    ("anyExtendedKeyUsage", "2.5.29.37.0"),
];

/// A request, PEM: one block `CERTIFICATE REQUEST`, and exactly one newline after it. Controllers refuse any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Csr(String);

/// Whom a certificate is to be for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject(Name);

impl Subject {
    /// `CN=<common_name>`, whatever characters it has.
    ///
    /// # Errors
    /// [`KeyError::Device`] for a name that no certificate can hold.
    pub fn named(common_name: &str) -> Result<Self, KeyError> {
        name(common_name).map(Self).map_err(unencodable)
    }
}

impl FromStr for Subject {
    type Err = NotAName;

    /// RFC 4514, `CN=gate-7,O=Acme,C=DE`; or a common name alone.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let read = if text.contains('=') { text.parse::<Name>() } else { name(text) };
        // An attribute that is not known by name would be dropped from what comes out.
        read.ok().filter(|name| text.is_empty() || !name.is_empty()).map(Self).ok_or(NotAName)
    }
}

/// A text that is no distinguished name.
#[derive(Debug, thiserror::Error)]
#[error("it is no distinguished name like `CN=gate-7,O=Acme`")]
pub struct NotAName;

/// A further name that a certificate is to have (RFC 5280 §4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlternativeName(GeneralName);

impl FromStr for AlternativeName {
    type Err = NotAnAlternativeName;

    /// As openssl writes them: `DNS:…`, `IP:…`, `URI:…`, `email:…`.
    fn from_str(text: &str) -> Result<Self, NotAnAlternativeName> {
        let (kind, value) = text.split_once(':').filter(|(_, value)| !value.is_empty()).ok_or(NotAnAlternativeName)?;
        let ascii = || Ia5String::new(value).map_err(|_| NotAnAlternativeName);
        let name = match kind.to_ascii_lowercase().as_str() {
            "dns" => GeneralName::DnsName(ascii()?),
            "uri" => GeneralName::UniformResourceIdentifier(ascii()?),
            "email" => GeneralName::Rfc822Name(ascii()?),
            "ip" => {
                let bytes = match value.parse().map_err(|_| NotAnAlternativeName)? {
                    std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                    std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                GeneralName::IpAddress(OctetString::new(bytes).map_err(|_| NotAnAlternativeName)?)
            }
            _ => return Err(NotAnAlternativeName),
        };
        Ok(Self(name))
    }
}

/// A text that is no alternative name.
#[derive(Debug, thiserror::Error)]
#[error("it is no name like `DNS:gate-7.example`, `IP:192.0.2.7`, `URI:spiffe://example/gate-7` or `email:gate-7@example`")]
pub struct NotAnAlternativeName;

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage(ObjectIdentifier);

impl Usage {
    /// To log in as a client: what every controller asks for.
    pub const CLIENT_AUTH: Self = Self(ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"));
}

impl FromStr for Usage {
    type Err = NotAUsage;

    /// `clientAuth`, …, or an object identifier.
    fn from_str(text: &str) -> Result<Self, NotAUsage> {
        let known = USAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, oid)| *oid);
        ObjectIdentifier::new(known.unwrap_or(text)).map(Self).map_err(|_| NotAUsage)
    }
}

/// A text that is no extended key usage.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is none of serverAuth, clientAuth, codeSigning, emailProtection, timeStamping, OCSPSigning, anyExtendedKeyUsage, nor an \
     object identifier"
)]
pub struct NotAUsage;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its subject; may be empty.
    pub subject: Subject,
    /// Further names.
    pub names: Vec<AlternativeName>,
    /// What it is for.
    pub usages: Vec<Usage>,
}

/// For nothing but the name.
impl From<Subject> for Wanted {
    fn from(subject: Subject) -> Self {
        Self { subject, ..Self::default() }
    }
}

impl Wanted {
    fn extensions(&self) -> der::Result<Vec<Extension>> {
        let mut extensions = Vec::new();
        let mut add = |extn_id, value: Vec<u8>, critical| {
            extensions.push(Extension { extn_id, critical, extn_value: OctetString::new(value)? });
            Ok::<_, der::Error>(())
        };
        if !self.names.is_empty() {
            let names = SubjectAltName(self.names.iter().map(|name| name.0.clone()).collect());
            // RFC 5280 §4.2.1.6: critical where there is no other name.
            add(ALTERNATIVE_NAMES, names.to_der()?, self.subject.0.is_empty())?;
        }
        if !self.usages.is_empty() {
            let usages = ExtendedKeyUsage(self.usages.iter().map(|usage| usage.0).collect());
            add(EXTENDED_KEY_USAGE, usages.to_der()?, false)?;
        }
        Ok(extensions)
    }

    fn attributes(&self) -> der::Result<SetOfVec<Attribute>> {
        let mut attributes = SetOfVec::new();
        let extensions = self.extensions()?;
        // An extensionRequest without extensions is not allowed (RFC 5272 §3.1).
        if !extensions.is_empty() {
            attributes.insert(Attribute::try_from(ExtensionReq(extensions))?)?;
        }
        Ok(attributes)
    }
}

impl Csr {
    /// Makes a request and checks its signature in software before anyone sees it.
    ///
    /// # Errors
    /// What the key says, and [`KeyError::NotAsPromised`] `signature_wrong`.
    pub fn sign(key: &dyn Key, wanted: &Wanted) -> Result<Self, KeyError> {
        let algorithm = key.public_key().algorithm().csr_signature();
        let info = CertReqInfo {
            version: Version::V1,
            subject: wanted.subject.0.clone(),
            public_key: SubjectPublicKeyInfoOwned::from_der(key.public_key().spki()).map_err(unencodable)?,
            attributes: wanted.attributes().map_err(unencodable)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_subjects_as_people_write_them() {
        let read = |text: &str| text.parse::<Subject>().map(|s| s.0.to_string());
        assert_eq!(read("gate-7").unwrap(), "CN=gate-7");
        assert_eq!(read("CN=gate-7,O=Acme,C=DE").unwrap(), "CN=gate-7,O=Acme,C=DE");
        assert_eq!(read("CN=Doe\\, John").unwrap(), "CN=Doe\\, John");
        assert!(read("NOSUCH=1").is_err());
        assert!(read("CN").is_ok_and(|name| name == "CN=CN"));
    }

    #[test]
    fn reads_alternative_names() {
        for text in ["DNS:a.example", "ip:192.0.2.7", "IP:2001:db8::1", "URI:spiffe://example/gate-7", "email:a@b.example"] {
            assert!(text.parse::<AlternativeName>().is_ok(), "{text}");
        }
        for text in ["a.example", "IP:a", "DNS:", "dirName:x", "DNS:ä.example"] {
            assert!(text.parse::<AlternativeName>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_usages() {
        assert_eq!("clientauth".parse::<Usage>().unwrap(), Usage::CLIENT_AUTH);
        assert_eq!("1.3.6.1.5.5.7.3.2".parse::<Usage>().unwrap(), Usage::CLIENT_AUTH);
        assert!("client".parse::<Usage>().is_err());
    }
}
