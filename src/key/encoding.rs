//! Digests, DigestInfo, and `r‖s` to DER: here and nowhere else.

use aws_lc_rs::digest;
use der::{Encode, asn1::UintRef};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Hash {
    /// The digest of `message`.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        digest::digest(self.algorithm(), message).as_ref().to_vec()
    }

    /// Bytes of a digest; also of a PSS salt.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    pub(crate) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// `DigestInfo` around a digest, DER: what RSASSA-PKCS1-v1_5 pads (RFC 8017 §9.2, note 1).
    pub fn digest_info(self, digest: &[u8]) -> Vec<u8> {
        let oid_end = match self {
            Self::Sha256 => 1,
            Self::Sha384 => 2,
            Self::Sha512 => 3,
        };
        let length = self.bytes() as u8;
        let mut info = vec![0x30, 17 + length, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, oid_end];
        info.extend([0x05, 0x00, 0x04, length]);
        info.extend_from_slice(digest);
        info
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// SHA-1 of `bytes`: the name that controllers give to a certificate, never a security check.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    out
}

/// An ECDSA signature as PKCS#11 and JWS give it, `r‖s`, both big-endian and of equal length, as X.509 and TLS
/// want it: DER, `SEQUENCE { INTEGER r, INTEGER s }` (RFC 3279 §2.2.3). P-521 needs DER's long length form.
///
/// `None` where the length is odd or zero.
pub fn ecdsa_der(raw: &[u8]) -> Option<Vec<u8>> {
    #[derive(der::Sequence)]
    struct Signature<'a> {
        r: UintRef<'a>,
        s: UintRef<'a>,
    }
    if raw.is_empty() || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    Signature { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? }.to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_zeros_and_adds_a_sign_byte() {
        let raw = [0, 0, 0, 1, 0x80, 0, 0, 0];
        assert_eq!(ecdsa_der(&raw).unwrap(), [0x30, 0x0a, 2, 1, 1, 2, 5, 0, 0x80, 0, 0, 0]);
    }

    #[test]
    fn writes_the_long_form_for_p521() {
        let der = ecdsa_der(&[0x01; 132]).unwrap();
        assert_eq!(&der[..3], &[0x30, 0x81, 136]);
    }

    #[test]
    fn refuses_odd_lengths() {
        assert_eq!(ecdsa_der(&[1; 63]), None);
        assert_eq!(ecdsa_der(&[]), None);
    }

    #[test]
    fn digest_info_is_what_rfc_8017_prints() {
        let info = Hash::Sha256.digest_info(&[0xaa; 32]);
        assert_eq!(crate::text::hex(&info[..19]), "3031300d060960864801650304020105000420");
        assert_eq!(info.len(), 51);
        assert_eq!(crate::text::hex(&Hash::Sha512.digest_info(&[0; 64])[..19]), "3051300d060960864801650304020305000440");
    }
}
