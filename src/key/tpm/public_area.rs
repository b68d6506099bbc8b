//! [`PublicArea`]: what a TPM shows of a key, and our judgement of it.
//!
//! A public area is one TPMT_PUBLIC (TPM 2.0 Part 2 §12.2.4), big-endian, without the size in front. It is read here, so
//! that no library stands between the TPM's answer and the judgement.

use super::template::{
    DECRYPT, ECC, ECDSA, FIXED_PARENT, FIXED_TPM, NO_DA, NULL, P256, P384, RESTRICTED, RSA, RSAPSS, RSASSA,
    SENSITIVE_DATA_ORIGIN, SHA256, SHA384, SHA512, SIGN, USER_WITH_AUTH,
};
use crate::key::algorithm::PublicKeyError;
use crate::key::encoding::Hash;
use crate::key::{Answer, Fault, KeyAlgorithm, KeyError, KeyFacts, Place, PublicKey, SignatureAlgorithm};
use crate::text::Hint;

/// A public area that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicArea {
    bytes: Vec<u8>,
    name_algorithm: u16,
    attributes: u32,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Ecc {
        scheme: Option<Scheme>,
        curve: u16,
        x: Vec<u8>,
        y: Vec<u8>,
    },
    Rsa {
        scheme: Option<Scheme>,
        exponent: u32,
        modulus: Vec<u8>,
    },
    /// A symmetric or HMAC key.
    Other,
}

/// The one way to sign that a key is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheme {
    algorithm: u16,
    hash: u16,
}

impl PublicArea {
    /// Reads one TPMT_PUBLIC; `None` where it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let kind = rest.u16()?;
        let name_algorithm = rest.u16()?;
        let attributes = rest.u32()?;
        let _policy = rest.sized()?;
        let kind = match kind {
            ECC => {
                rest.symmetric()?;
                let scheme = rest.scheme()?;
                let curve = rest.u16()?;
                // The key derivation of a signing key is null; with a hash it would be one of a storage key.
                if rest.u16()? != NULL {
                    rest.u16()?;
                }
                Kind::Ecc { scheme, curve, x: rest.sized()?.to_vec(), y: rest.sized()?.to_vec() }
            }
            RSA => {
                rest.symmetric()?;
                let scheme = rest.scheme()?;
                let _bits = rest.u16()?;
                Kind::Rsa { scheme, exponent: rest.u32()?, modulus: rest.sized()?.to_vec() }
            }
            _ => return Some(Self { bytes: bytes.to_vec(), name_algorithm, attributes, kind: Kind::Other }),
        };
        rest.0.is_empty().then(|| Self { bytes: bytes.to_vec(), name_algorithm, attributes, kind })
    }

    /// TPMT_PUBLIC, as it was read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The public key.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] `key_type_unsupported` for a type that this program does not use.
    pub(super) fn public_key(&self, home: &str) -> Result<PublicKey, KeyError> {
        let unsupported = |what: String| {
            let fault = Fault::new("key_type_unsupported", format!("{home} is of a type that is not supported: {what}"));
            KeyError::Unavailable(fault.hint(Hint::say("p256, p384, rsa2048, rsa3072 and rsa4096 keys are used")))
        };
        let key: Result<PublicKey, PublicKeyError> = match &self.kind {
            Kind::Ecc { curve, x, y, .. } => {
                let algorithm = match *curve {
                    P256 => KeyAlgorithm::P256,
                    P384 => KeyAlgorithm::P384,
                    other => return Err(unsupported(format!("TPM_ECC_CURVE {other:#06x}"))),
                };
                let size = if algorithm == KeyAlgorithm::P384 { 48 } else { 32 };
                let (Some(x), Some(y), Some(curve)) = (padded(x, size), padded(y, size), algorithm.curve()) else {
                    return Err(unsupported("its point is too long".into()));
                };
                PublicKey::from_point(curve, &[&[4], &x[..], &y[..]].concat())
            }
            Kind::Rsa { exponent, modulus, .. } => {
                let exponent = if *exponent == 0 { 65537 } else { *exponent };
                PublicKey::from_modulus(modulus, &exponent.to_be_bytes())
            }
            Kind::Other => return Err(unsupported("it is not an asymmetric key".into())),
        };
        key.map_err(|e| unsupported(e.to_string()))
    }

    /// What the key can sign where the TPM knows every padding, best first; one that is bound to a scheme knows only that.
    pub(super) fn signatures(&self, algorithm: KeyAlgorithm) -> Vec<SignatureAlgorithm> {
        let scheme = match &self.kind {
            Kind::Ecc { scheme, .. } | Kind::Rsa { scheme, .. } => *scheme,
            Kind::Other => None,
        };
        let fits = |s: &SignatureAlgorithm| {
            scheme.is_none_or(|bound| bound == Scheme { algorithm: padding(*s), hash: hash_id(s.hash()) })
        };
        algorithm.signatures().iter().copied().filter(fits).collect()
    }

    /// Longest auth value that the key can have, in bytes: a digest of its name algorithm (Part 1 §26.2).
    pub(super) fn longest_auth(&self) -> usize {
        self.name_hash().map_or(32, Hash::bytes)
    }

    fn name_hash(&self) -> Option<Hash> {
        match self.name_algorithm {
            SHA256 => Some(Hash::Sha256),
            SHA384 => Some(Hash::Sha384),
            SHA512 => Some(Hash::Sha512),
            _ => None,
        }
    }

    /// Whether wrong tries at its auth value count towards the lock of the TPM.
    pub(super) fn is_protected(&self) -> bool {
        self.attributes & NO_DA == 0
    }

    /// Whether other keys can be made under it.
    pub(super) fn is_storage_key(&self) -> bool {
        let needed = FIXED_TPM | RESTRICTED | DECRYPT;
        self.attributes & (needed | SIGN) == needed && self.kind != Kind::Other
    }

    /// Refuses a key that cannot sign what is asked of it, or that could have a copy elsewhere, unless that is allowed.
    ///
    /// # Errors
    /// [`KeyError::NotAsPromised`] `key_not_as_promised` with what is missing.
    pub(super) fn must_be_usable(&self, home: &str, allow_extractable: bool) -> Result<(), KeyError> {
        if self.attributes & RESTRICTED != 0 {
            return Err(not_as_promised(home, "it is restricted to what the TPM itself has made", OTHER_KEY));
        }
        self.must_have(home, &[(SIGN, "sign"), (USER_WITH_AUTH, "userWithAuth")], OTHER_KEY)?;
        if allow_extractable {
            return Ok(());
        }
        let hint = "use a key that was made in the TPM; --allow-extractable takes this one";
        self.must_have(home, &[(FIXED_TPM, "fixedTPM"), (FIXED_PARENT, "fixedParent")], hint)
    }

    /// Refuses a new key that is not what was asked for.
    ///
    /// # Errors
    /// [`KeyError::NotAsPromised`] `key_not_as_promised`.
    pub(super) fn must_be_as_promised(&self, home: &str, algorithm: KeyAlgorithm, has_auth: bool) -> Result<(), KeyError> {
        self.must_be_usable(home, false)?;
        self.must_have(home, &[(SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin")], OTHER_KEY)?;
        let found = self.public_key(home)?.algorithm();
        if found != algorithm {
            return Err(not_as_promised(home, &format!("it is {found}, and {algorithm} was asked for"), OTHER_KEY));
        }
        if self.is_protected() != has_auth {
            return Err(not_as_promised(home, "the TPM did not take noDA as it was given", OTHER_KEY));
        }
        Ok(())
    }

    fn must_have(&self, home: &str, needed: &[(u32, &str)], hint: &str) -> Result<(), KeyError> {
        match needed.iter().find(|(bit, _)| self.attributes & bit == 0) {
            Some((_, name)) => Err(not_as_promised(home, &format!("its attribute {name} is not set"), hint)),
            None => Ok(()),
        }
    }

    /// Its attributes, in the words of all providers. `pss`: what a test signature has shown.
    pub(super) fn facts(&self, place: Place, pss: bool) -> KeyFacts {
        let set = |bits: u32| Answer::from(Some(self.attributes & bits == bits));
        let fixed = self.attributes & (FIXED_TPM | FIXED_PARENT) == FIXED_TPM | FIXED_PARENT;
        KeyFacts {
            extractable: Answer::from(Some(!fixed)),
            sensitive: Answer::Yes,
            always_sensitive: set(SENSITIVE_DATA_ORIGIN),
            never_extractable: set(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN),
            public_object: Answer::Yes,
            // Said once, it is remembered.
            pin_each_time: Answer::No,
            pss: Answer::from(Some(pss)),
            // TPM2_RSA_Decrypt would do it for a key that may decrypt; ours may not.
            raw_rsa: Answer::from(Some(matches!(self.kind, Kind::Ecc { .. }))),
            place: Some(place),
        }
    }
}

const OTHER_KEY: &str = "name another key, or let this program make one";

fn not_as_promised(home: &str, why: &str, hint: &str) -> KeyError {
    let fault = Fault::new("key_not_as_promised", format!("{home} is not what it must be: {why}"));
    KeyError::NotAsPromised(fault.hint(Hint::say(hint)))
}

/// TPM_ALG_ID of a way to sign.
fn padding(algorithm: SignatureAlgorithm) -> u16 {
    use SignatureAlgorithm::*;
    match algorithm {
        EcdsaSha256 | EcdsaSha384 => ECDSA,
        RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 => RSASSA,
        RsaPssSha256 | RsaPssSha384 | RsaPssSha512 => RSAPSS,
    }
}

/// TPM_ALG_ID of a hash.
pub(super) fn hash_id(hash: Hash) -> u16 {
    match hash {
        Hash::Sha256 => SHA256,
        Hash::Sha384 => SHA384,
        Hash::Sha512 => SHA512,
    }
}

/// `number` in exactly `size` bytes: a TPM may leave out leading zeros.
pub(super) fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let digits = &number[number.iter().take_while(|b| **b == 0).count()..];
    let zeros = size.checked_sub(digits.len())?;
    Some([&vec![0; zeros][..], digits].concat())
}

/// Big-endian numbers and sized buffers, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A TPM2B.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// TPMT_SYM_DEF_OBJECT.
    fn symmetric(&mut self) -> Option<()> {
        if self.u16()? != NULL {
            self.take(4)?;
        }
        Some(())
    }

    /// TPMT_ECC_SCHEME or TPMT_RSA_SCHEME, of those that name one hash.
    fn scheme(&mut self) -> Option<Option<Scheme>> {
        let algorithm = self.u16()?;
        if algorithm == NULL {
            return Some(None);
        }
        Some(Some(Scheme { algorithm, hash: self.u16()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tpm::template::{signing_key, storage_key};
    use crate::text::{from_hex, hex};

    /// Made by `openssl genpkey -provider tpm2 -algorithm EC -pkeyopt group:P-256`; its point with a short x.
    fn foreign() -> Vec<u8> {
        let point = format!("001f{}0020{}", "11".repeat(31), "22".repeat(32));
        from_hex(&format!("0023000b0006007200000010001000030010{point}")).unwrap()
    }

    #[test]
    fn a_key_with_auth_is_protected_and_one_without_is_not() {
        for algorithm in KeyAlgorithm::ALL {
            for has_auth in [true, false] {
                let area = PublicArea::read(&signing_key(algorithm, has_auth)).unwrap();
                assert_eq!(area.is_protected(), has_auth);
                assert!(area.must_be_usable("k", false).is_ok() && !area.is_storage_key());
                assert_eq!(area.signatures(algorithm), algorithm.signatures());
            }
        }
    }

    #[test]
    fn pads_a_short_coordinate() {
        let area = PublicArea::read(&foreign()).unwrap();
        let key = area.public_key("k").unwrap();
        assert_eq!(key.algorithm(), KeyAlgorithm::P256);
        assert!(hex(key.spki()).contains(&format!("0400{}22", "11".repeat(31))));
        assert_eq!(padded(&[0, 0, 1], 2), Some(vec![0, 1]));
        assert_eq!(padded(&[1, 0, 1], 2), None);
    }

    #[test]
    fn refuses_what_could_have_a_copy() {
        for (bit, name) in [(FIXED_TPM, "fixedTPM"), (SIGN, "sign"), (USER_WITH_AUTH, "userWithAuth")] {
            let mut bytes = foreign();
            let attributes = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) & !bit;
            bytes[4..8].copy_from_slice(&attributes.to_be_bytes());
            let error = PublicArea::read(&bytes).unwrap().must_be_usable("k", false).unwrap_err();
            assert!(matches!(&error, KeyError::NotAsPromised(f) if f.message.contains(name)), "{error}");
        }
        let storage = PublicArea::read(&storage_key()).unwrap();
        assert!(storage.is_storage_key() && storage.must_be_usable("k", false).is_err());
    }

    #[test]
    fn a_key_that_is_bound_to_a_scheme_offers_only_that() {
        let mut bound = signing_key(KeyAlgorithm::Rsa2048, true);
        // After type, name algorithm, attributes, policy and symmetric: the scheme.
        let scheme = [RSASSA.to_be_bytes(), SHA256.to_be_bytes()].concat();
        bound.splice(12..14, scheme);
        let area = PublicArea::read(&bound).unwrap();
        assert_eq!(area.signatures(KeyAlgorithm::Rsa2048), [SignatureAlgorithm::RsaPkcs1Sha256]);
    }

    #[test]
    fn is_not_confused_by_what_is_cut_short() {
        let whole = foreign();
        for length in 0..whole.len() {
            assert_eq!(PublicArea::read(&whole[..length]), None, "{length}");
        }
        assert_eq!(PublicArea::read(&[&whole[..], &[0]].concat()), None);
    }
}
