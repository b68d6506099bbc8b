//! The templates of the keys that are made, and the numbers that public areas are written in.
//!
//! A template is one TPMT_PUBLIC (TPM 2.0 Part 2 §12.2.4), big-endian, without the size in front; its `unique` is empty.

use crate::key::KeyAlgorithm;

// TPM_ALG_ID (Part 2 §6.3) and TPM_ECC_CURVE (§6.4).
pub(super) const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
pub(super) const SHA256: u16 = 0x000b;
pub(super) const SHA384: u16 = 0x000c;
pub(super) const SHA512: u16 = 0x000d;
pub(super) const NULL: u16 = 0x0010;
pub(super) const RSASSA: u16 = 0x0014;
pub(super) const RSAPSS: u16 = 0x0016;
pub(super) const ECDSA: u16 = 0x0018;
pub(super) const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
pub(super) const P256: u16 = 0x0003;
pub(super) const P384: u16 = 0x0004;

// TPMA_OBJECT (Part 2 §8.3).
pub(super) const FIXED_TPM: u32 = 1 << 1;
pub(super) const FIXED_PARENT: u32 = 1 << 4;
pub(super) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
pub(super) const USER_WITH_AUTH: u32 = 1 << 6;
pub(super) const NO_DA: u32 = 1 << 10;
pub(super) const RESTRICTED: u32 = 1 << 16;
pub(super) const DECRYPT: u32 = 1 << 17;
pub(super) const SIGN: u32 = 1 << 18;
/// What a key of ours is, whatever its type; NO_DA is added where it has no auth value.
const SIGNING_KEY: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | SIGN;
const STORAGE_KEY: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT;

/// A template of a signing key. Without an auth value it stays usable while the TPM is locked for others.
///
/// Its scheme is left open, so that one RSA key signs PKCS#1 v1.5 and PSS.
pub(super) fn signing_key(algorithm: KeyAlgorithm, has_auth: bool) -> Vec<u8> {
    let attributes = if has_auth { SIGNING_KEY } else { SIGNING_KEY | NO_DA };
    match algorithm {
        KeyAlgorithm::P256 => ecc(attributes, P256, &[NULL]),
        KeyAlgorithm::P384 => ecc(attributes, P384, &[NULL]),
        KeyAlgorithm::Rsa2048 => rsa(attributes, 2048),
        KeyAlgorithm::Rsa3072 => rsa(attributes, 3072),
        KeyAlgorithm::Rsa4096 => rsa(attributes, 4096),
    }
}

/// The template of a storage root key: H-2 of the TCG EK Credential Profile, which the ASN.1 Specification for TPM 2.0 Key
/// Files means by parent 0x40000001: ECC P-256, AES-128-CFB, empty auth, noDA. The same TPM makes the same key from it
/// every time, until it is cleared.
pub(super) fn storage_key() -> Vec<u8> {
    ecc(STORAGE_KEY, P256, &[AES, 128, CFB])
}

fn ecc(attributes: u32, curve: u16, symmetric: &[u16]) -> Vec<u8> {
    let parameters: Vec<u16> = symmetric.iter().copied().chain([NULL, curve, NULL]).collect();
    // unique: an empty point.
    area(ECC, attributes, &parameters, &[0; 4])
}

fn rsa(attributes: u32, bits: u16) -> Vec<u8> {
    // Exponent 0 is 65537; unique: an empty modulus.
    area(RSA, attributes, &[NULL, NULL, bits], &[0; 6])
}

fn area(kind: u16, attributes: u32, parameters: &[u16], rest: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_be_bytes(), SHA256.to_be_bytes()].concat();
    bytes.extend(attributes.to_be_bytes());
    // authPolicy: none.
    bytes.extend([0, 0]);
    bytes.extend(parameters.iter().flat_map(|p| p.to_be_bytes()));
    bytes.extend(rest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hex;

    #[test]
    fn the_storage_key_is_h_2() {
        // `tpm2_createprimary -C o -g sha256 -G ecc256:aes128cfb -a 'fixedtpm|…|noda|restricted|decrypt'`.
        assert_eq!(hex(&storage_key()), "0023000b00030472000000060080004300100003001000000000");
    }
}
