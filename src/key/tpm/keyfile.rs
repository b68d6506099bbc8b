//! [`KeyFile`]: a key that only its own TPM can load, as a TSS2 PEM file.
//!
//! The format is that of the ASN.1 Specification for TPM 2.0 Key Files (James Bottomley), which tpm2-openssl, the kernel and
//! others read: `TPMKey ::= SEQUENCE { OID, [0] emptyAuth, [1] policy, [2] secret, [3] authPolicy, INTEGER parent, OCTET
//! STRING TPM2B_PUBLIC, OCTET STRING TPM2B_PRIVATE }`. The private half is encrypted by the TPM.

use der::asn1::{Int, OctetString};
use der::oid::ObjectIdentifier;
use der::{Any, Decode, Encode, Tag, Tagged};

use super::public_area::PublicArea;

/// `id-loadablekey`: TPM2_Load takes it as it is.
const LOADABLE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.3");
/// The label of the PEM block.
const LABEL: &str = "TSS2 PRIVATE KEY";
/// TPM_RH_OWNER: the parent is the primary key that the H-2 template gives in the owner hierarchy.
pub(super) const OWNER: u32 = 0x4000_0001;

/// Both halves of a key, as TPM2_Create gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// The public half.
    pub(super) public: PublicArea,
    /// The private half, encrypted by its parent: TPM2B_PRIVATE without its size.
    pub(super) private: Vec<u8>,
}

/// What a TSS2 PEM file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyFile {
    /// The key has no auth value. Left out by the writer: not known.
    pub(super) empty_auth: Option<bool>,
    /// A persistent handle, or a hierarchy whose primary key it is.
    pub(super) parent: u32,
    /// The key.
    pub(super) blob: Blob,
}

/// Why a text is not a [`KeyFile`].
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("not a TSS2 private key in PEM")]
    Pem,
    #[error("damaged or cut short")]
    Damaged,
    #[error("of a kind that must be imported first, or no key")]
    NotLoadable,
    #[error("bound to a policy")]
    Policy,
}

#[derive(der::Sequence)]
struct TpmKey {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    empty_auth: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    policy: Option<Any>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    secret: Option<OctetString>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    auth_policy: Option<Any>,
    parent: Int,
    public: OctetString,
    private: OctetString,
}

impl KeyFile {
    /// Reads one TSS2 PEM file.
    pub(super) fn read(pem: &[u8]) -> Result<Self, KeyFileError> {
        let (label, der) = der::pem::decode_vec(pem).map_err(|_| KeyFileError::Pem)?;
        if label != LABEL {
            return Err(KeyFileError::Pem);
        }
        let key = TpmKey::from_der(&der).map_err(|_| KeyFileError::Damaged)?;
        if key.kind != LOADABLE || key.secret.is_some() {
            return Err(KeyFileError::NotLoadable);
        }
        if key.policy.is_some() || key.auth_policy.is_some() {
            return Err(KeyFileError::Policy);
        }
        let public = sized(key.public.as_bytes()).and_then(PublicArea::read).ok_or(KeyFileError::Damaged)?;
        let private = sized(key.private.as_bytes()).ok_or(KeyFileError::Damaged)?.to_vec();
        let parent = handle(key.parent.as_bytes()).ok_or(KeyFileError::Damaged)?;
        // tpm2-openssl writes TRUE as 1, which is BER and not DER.
        let empty_auth = key.empty_auth.map(|flag| match (flag.tag(), flag.value()) {
            (Tag::Boolean, [flag]) => Ok(*flag != 0),
            _ => Err(KeyFileError::Damaged),
        });
        Ok(Self { empty_auth: empty_auth.transpose()?, parent, blob: Blob { public, private } })
    }

    /// The file's text. `emptyAuth` is always written, also where it is false: tpm2-openssl 1.1.1 takes a key without it
    /// for one that has no auth value, and burns tries on it.
    pub(super) fn to_pem(&self) -> Result<String, der::Error> {
        let octets = |bytes: &[u8]| OctetString::new([&(bytes.len() as u16).to_be_bytes()[..], bytes].concat());
        let positive = [&[0][..], &self.parent.to_be_bytes()].concat();
        let digits = if positive[1] & 0x80 == 0 { &positive[1..] } else { &positive[..] };
        let key = TpmKey {
            kind: LOADABLE,
            empty_auth: Some(Any::new(Tag::Boolean, [if self.empty_auth == Some(true) { 0xff } else { 0 }])?),
            policy: None,
            secret: None,
            auth_policy: None,
            parent: Int::new(digits)?,
            public: octets(self.blob.public.bytes())?,
            private: octets(&self.blob.private)?,
        };
        Ok(der::pem::encode_string(LABEL, der::pem::LineEnding::LF, &key.to_der()?)?)
    }
}

/// What is in a TPM2B that fills `bytes` exactly.
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let (size, content) = bytes.split_at_checked(2)?;
    (usize::from(u16::from_be_bytes([size[0], size[1]])) == content.len()).then_some(content)
}

/// A handle as an INTEGER; some writers take it for a signed number of 32 bits.
fn handle(integer: &[u8]) -> Option<u32> {
    match integer {
        [0, rest @ ..] if rest.len() == 4 => rest.try_into().ok().map(u32::from_be_bytes),
        _ => integer.try_into().ok().map(u32::from_be_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyAlgorithm;
    use crate::key::tpm::template::signing_key;

    fn file(empty_auth: bool, parent: u32) -> KeyFile {
        let public = PublicArea::read(&signing_key(KeyAlgorithm::P256, !empty_auth)).unwrap();
        KeyFile { empty_auth: Some(empty_auth), parent, blob: Blob { public, private: vec![7; 126] } }
    }

    #[test]
    fn reads_what_it_writes() {
        for file in [file(true, OWNER), file(false, 0x8100_0001), file(false, OWNER)] {
            let pem = file.to_pem().unwrap();
            assert_eq!(KeyFile::read(pem.as_bytes()).unwrap(), file);
            assert!(pem.starts_with("-----BEGIN TSS2 PRIVATE KEY-----\n"), "{pem}");
        }
    }

    #[test]
    fn says_whether_there_is_an_auth_value_also_where_there_is_one() {
        for (empty, byte) in [(true, 0xff), (false, 0)] {
            let (_, der) = der::pem::decode_vec(file(empty, OWNER).to_pem().unwrap().as_bytes()).unwrap();
            assert!(der.windows(5).any(|w| w == [0xa0, 3, 1, 1, byte]), "{empty}");
        }
    }

    #[test]
    fn writes_a_persistent_parent_as_a_positive_number() {
        let (_, der) = der::pem::decode_vec(file(true, 0x8100_0001).to_pem().unwrap().as_bytes()).unwrap();
        assert!(der.windows(7).any(|w| w == [2, 5, 0, 0x81, 0, 0, 1]));
        assert_eq!(handle(&[0x81, 0, 0, 1]), Some(0x8100_0001));
        assert_eq!((handle(&[1]), handle(&[1, 0x81, 0, 0, 1])), (None, None));
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let whole = file(true, OWNER).to_pem().unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let cut = [&lines[..2], &lines[lines.len() - 1..]].concat().join("\n");
        assert!(matches!(KeyFile::read(cut.as_bytes()), Err(KeyFileError::Damaged)));
        for text in ["", "hello", &whole[..whole.len() / 2], "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(matches!(KeyFile::read(text.as_bytes()), Err(KeyFileError::Pem)), "{text}");
        }
        let sealed = der::pem::decode_vec(whole.as_bytes()).unwrap().1;
        let at = sealed.windows(6).position(|w| w == [0x67, 0x81, 0x05, 0x0a, 0x01, 0x03]).unwrap();
        let sealed = [&sealed[..at + 5], &[5], &sealed[at + 6..]].concat();
        let sealed = der::pem::encode_string(LABEL, der::pem::LineEnding::LF, &sealed).unwrap();
        assert!(matches!(KeyFile::read(sealed.as_bytes()), Err(KeyFileError::NotLoadable)));
    }
}
