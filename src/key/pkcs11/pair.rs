//! [`Pair`]: a private key and the public key that belongs to it.
//!
//! A pair is two objects with the same CKA_ID. One search by id finds all that belongs together, and the classes are
//! sorted here: SoftHSM opens a file for each object it holds at every search. The public key is read from its own
//! object, else from the private one, else from a certificate of that name; which of them tells the truth is proved by
//! a signature, not here.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::Session;
use der::asn1::OctetStringRef;
use der::oid::ObjectIdentifier;
use der::{Decode, Encode};

use super::error::Failure;
use super::object::{Name, Object, filled, flags, read, search};
use crate::key::algorithm::PublicKeyError;
use crate::key::{Answer, Fault, KeyAlgorithm, KeyError, PublicKey};
use crate::text::Hint;

/// The private half of a key and whatever has the same name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) privates: Vec<Object>,
    pub(super) publics: Vec<Object>,
    pub(super) certificates: Vec<Object>,
}

impl Found {
    /// All objects of that name. Where the label decides and not the id, what belongs to the private key by its id
    /// counts as well.
    pub(super) fn by(session: &Session, name: &Name) -> Result<Self, Error> {
        let Some(id) = filled(&name.id) else {
            let label = name.label.clone().unwrap_or_default();
            let mut by_label = Self::sort(search(session, &[Attribute::Label(label)])?);
            if name.id.is_some() {
                for objects in [&mut by_label.privates, &mut by_label.publics, &mut by_label.certificates] {
                    objects.retain(|object| object.id.is_empty());
                }
                return Ok(by_label);
            }
            return match by_label.privates.as_slice() {
                // Another private key with that id makes it ambiguous, whatever its label.
                [one] if !one.id.is_empty() => Ok(Self::sort(search(session, &[Attribute::Id(one.id.clone())])?)),
                _ => Ok(by_label),
            };
        };
        let mut found = Self::sort(search(session, &[Attribute::Id(id.clone())])?);
        if let Some(label) = &name.label {
            let of_another = !found.privates.is_empty();
            found.privates.retain(|p| &p.label == label);
            // Public halves of another key with the same id are not those of this one.
            if found.publics.iter().any(|p| &p.label == label) || (of_another && found.privates.is_empty()) {
                found.publics.retain(|p| &p.label == label);
            }
        }
        Ok(found)
    }

    /// Neither half is there; a certificate alone is no key.
    pub(super) fn is_nothing(&self) -> bool {
        self.privates.is_empty() && self.publics.is_empty()
    }

    /// One half without the other, as a device leaves it that is stopped while it makes a pair.
    pub(super) fn is_half(&self) -> bool {
        self.privates.is_empty() != self.publics.is_empty()
    }

    /// Both halves, to be destroyed; the private one first.
    ///
    /// # Errors
    /// `key_ambiguous` where there are several private keys.
    pub(super) fn both_halves(&self, name: &Name, place: &str) -> Result<impl Iterator<Item = &Object>, KeyError> {
        match self.privates.as_slice() {
            [] | [_] => Ok(self.privates.iter().chain(&self.publics)),
            several => Err(ambiguous(several.iter(), name, place)),
        }
    }

    fn sort(objects: Vec<Object>) -> Self {
        let mut found = Self { privates: Vec::new(), publics: Vec::new(), certificates: Vec::new() };
        for object in objects {
            match object.class {
                ObjectClass::PRIVATE_KEY => found.privates.push(object),
                ObjectClass::PUBLIC_KEY => found.publics.push(object),
                ObjectClass::CERTIFICATE => found.certificates.push(object),
                _ => {}
            }
        }
        found
    }

    /// The one private key among them, with its public key; `None` where there is neither half.
    ///
    /// # Errors
    /// `key_ambiguous`, `key_half`, and `key_type_unsupported` for a key that this program does not work with.
    pub(super) fn pair(self, session: &Session, name: &Name, place: &str) -> Result<Option<Pair>, Failure> {
        self.pair_of(session, name, place, None)
    }

    /// The same, where `known` is the public key if the token shows none: whether it is, a signature proves.
    ///
    /// # Errors
    /// As [`pair`](Self::pair).
    pub(super) fn pair_of(
        mut self,
        session: &Session,
        name: &Name,
        place: &str,
        known: Option<&PublicKey>,
    ) -> Result<Option<Pair>, Failure> {
        let private = match (self.privates.pop(), self.privates.as_slice()) {
            (Some(one), []) => one,
            (Some(last), others) => return Err(ambiguous(others.iter().chain([&last]), name, place).into()),
            (None, _) if self.publics.is_empty() => return Ok(None),
            (None, _) => {
                let message = format!("{place} has a public key with {name}, and no private one");
                let hint = Hint::say(
                    "an earlier run may have been cut off: look at it with `pkcs11-tool --list-objects`, and delete it",
                );
                return Err(KeyError::Selection(Fault::new("key_half", message).hint(hint)).into());
            }
        };
        let unsupported = |error: PublicKeyError| {
            KeyError::Unavailable(Fault::new("key_type_unsupported", format!("{place}: key with {name}: {error}")))
        };
        let mut public = None;
        for object in &self.publics {
            match public_key(session, object)? {
                // Two public halves that say different things: one of them lies.
                Some(Ok(key)) if public.as_ref().is_some_and(|p| *p != key) => {
                    return Err(ambiguous(self.publics.iter(), name, place).into());
                }
                Some(key) => public = Some(key.map_err(unsupported)?),
                None => {}
            }
        }
        // The private key itself, and last a certificate of the same name.
        for object in [&private].into_iter().chain(&self.certificates) {
            if public.is_none() {
                public = public_key(session, object)?.transpose().map_err(unsupported)?;
            }
        }
        let Some(public) = public.or_else(|| known.cloned()) else {
            let message = format!(
                "{place} has a private key with {name}, and neither it nor a public key or certificate beside it shows its public half"
            );
            let hint = Hint::say("write the public key or a certificate with the same id to the token");
            return Err(KeyError::Selection(Fault::new("key_half", message).hint(hint)).into());
        };
        let beside = match self.publics.first() {
            None => Answer::No,
            // A public object that only a login shows is none for a reader without one.
            Some(object) => Answer::from(flags(session, object, &[AttributeType::Private])?[0].map(|private| !private)),
        };
        Ok(Some(Pair { private, public, beside }))
    }
}

fn ambiguous<'a>(keys: impl Iterator<Item = &'a Object>, name: &Name, place: &str) -> KeyError {
    let mut all: Vec<String> = keys.map(Object::to_string).collect();
    // Tokens list in no order.
    all.sort();
    let fault = Fault::new("key_ambiguous", format!("{place} has {} keys with {name}: {}", all.len(), all.join(", ")));
    KeyError::Selection(fault.hint(Hint::say("say which with both id= and object=, or delete those that are not needed")))
}

/// A private key, and the public key that it claims.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) private: Object,
    pub(super) public: PublicKey,
    /// Whether a public object lies beside it for a reader without login.
    pub(super) beside: Answer,
}

/// The public objects that show this very key.
pub(super) fn showing(session: &Session, key: &PublicKey) -> Result<Vec<Object>, Error> {
    let mut all = Vec::new();
    for attribute in values_of(key) {
        all.extend(search(session, &[Attribute::Class(ObjectClass::PUBLIC_KEY), attribute])?);
    }
    Ok(all)
}

/// What a public object of this key has: an EC point in both of the forms that modules store, or a modulus.
fn values_of(key: &PublicKey) -> Vec<Attribute> {
    #[derive(der::Sequence)]
    struct Rsa<'a> {
        modulus: der::asn1::UintRef<'a>,
        exponent: der::asn1::UintRef<'a>,
    }
    let Ok(spki) = spki::SubjectPublicKeyInfoRef::from_der(key.spki()) else { return Vec::new() };
    let bits = spki.subject_public_key.raw_bytes();
    if key.algorithm().curve().is_some() {
        let wrapped = OctetStringRef::new(bits).and_then(|o| o.to_der());
        return wrapped.into_iter().chain([bits.to_vec()]).map(Attribute::EcPoint).collect();
    }
    Rsa::from_der(bits).map(|rsa| vec![Attribute::Modulus(rsa.modulus.as_bytes().to_vec())]).unwrap_or_default()
}

/// The public key that an object shows: `None` where it shows none, an error where it is of a kind we do not work with.
fn public_key(session: &Session, object: &Object) -> Result<Option<Result<PublicKey, PublicKeyError>>, Error> {
    use AttributeType as T;
    let wanted: &[T] = match object.class {
        ObjectClass::CERTIFICATE => &[T::Value],
        ObjectClass::PUBLIC_KEY => &[T::EcParams, T::EcPoint, T::Modulus, T::PublicExponent, T::PublicKeyInfo],
        _ => &[T::PublicKeyInfo, T::EcParams, T::EcPoint, T::Modulus, T::PublicExponent],
    };
    let (mut info, mut curve, mut point, mut modulus, mut exponent) = (None, None, None, None, None);
    for attribute in read(session, object.handle, wanted)? {
        match attribute {
            Attribute::Value(value) => return Ok(certified(&value)),
            Attribute::PublicKeyInfo(value) => info = some(value),
            Attribute::EcParams(value) => curve = some(value),
            Attribute::EcPoint(value) => point = some(value),
            Attribute::Modulus(value) => modulus = some(value),
            Attribute::PublicExponent(value) => exponent = some(value),
            _ => {}
        }
    }
    Ok(match (info, curve, point, modulus, exponent) {
        (_, Some(curve), Some(point), ..) => Some(from_ec(&curve, &point)),
        (_, _, _, Some(modulus), Some(exponent)) => Some(PublicKey::from_modulus(&modulus, &exponent)),
        (Some(info), ..) => Some(PublicKey::from_spki(&info)),
        _ => None,
    })
}

/// An empty value says nothing: SoftHSM shows an empty CKA_PUBLIC_KEY_INFO.
fn some(value: Vec<u8>) -> Option<Vec<u8>> {
    (!value.is_empty()).then_some(value)
}

/// The public key of a certificate.
pub(super) fn certified(der: &[u8]) -> Option<Result<PublicKey, PublicKeyError>> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().ok()?;
    Some(PublicKey::from_spki(&spki))
}

/// CKA_EC_PARAMS as the DER of a curve's name, CKA_EC_POINT as the DER of an OCTET STRING around the point, or as some
/// modules have it, the point alone (PKCS#11 v3.1 §6.3.3).
fn from_ec(params: &[u8], point: &[u8]) -> Result<PublicKey, PublicKeyError> {
    let curve = ObjectIdentifier::from_der(params).map_err(|_| PublicKeyError::Unsupported("curve without a name".into()))?;
    let algorithm = [KeyAlgorithm::P256, KeyAlgorithm::P384].into_iter().find(|a| a.curve() == Some(curve));
    let length = match algorithm {
        Some(KeyAlgorithm::P384) => 97,
        Some(_) => 65,
        None => return Err(PublicKeyError::Unsupported(format!("curve {curve}"))),
    };
    // The first byte is 04 in both forms; the length tells them apart.
    if point.len() == length {
        return PublicKey::from_point(curve, point);
    }
    let unwrapped = <&OctetStringRef>::from_der(point).map_err(PublicKeyError::Der)?;
    PublicKey::from_point(curve, unwrapped.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator of P-256 (SEC 2 §2.4.2): a point like any other.
    const POINT: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    const P256: &str = "06082a8648ce3d030107";

    fn bytes(digits: &str) -> Vec<u8> {
        crate::text::from_hex(digits).unwrap()
    }

    #[test]
    fn reads_a_point_wrapped_and_bare() {
        let bare = from_ec(&bytes(P256), &bytes(POINT)).unwrap();
        let wrapped = from_ec(&bytes(P256), &bytes(&format!("0441{POINT}"))).unwrap();
        assert_eq!(bare, wrapped);
        assert_eq!(bare.algorithm(), KeyAlgorithm::P256);
    }

    #[test]
    fn refuses_what_is_no_point_of_a_known_curve() {
        assert!(from_ec(&bytes(P256), &bytes(&POINT[..64])).is_err());
        assert!(from_ec(&bytes(P256), &bytes(&format!("0442{POINT}"))).is_err());
        // secp521r1, and explicit parameters.
        assert!(matches!(from_ec(&bytes("06052b81040023"), &bytes(POINT)), Err(PublicKeyError::Unsupported(_))));
        assert!(matches!(from_ec(&bytes("300506032b6570"), &bytes(POINT)), Err(PublicKeyError::Unsupported(_))));
    }

    #[test]
    fn seeks_a_key_by_what_its_object_has() {
        let ec = from_ec(&bytes(P256), &bytes(POINT)).unwrap();
        assert_eq!(values_of(&ec), [Attribute::EcPoint(bytes(&format!("0441{POINT}"))), Attribute::EcPoint(bytes(POINT))]);
        let modulus = [&[0xc5][..], &[0x11; 255]].concat();
        let rsa = PublicKey::from_modulus(&modulus, &[1, 0, 1]).unwrap();
        assert_eq!(values_of(&rsa), [Attribute::Modulus(modulus)]);
    }
}
