//! What a new key pair is asked to be.
//!
//! Only what is wanted is said, never what is not: tpm2-pkcs11 refuses a template with "no decryption", and signs RSA by
//! decrypting. The price is that SoftHSM lets the key decrypt as well. Whatever the token answers, the key is read back.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;

use super::object::Name;
use crate::key::KeyAlgorithm;

/// A way to ask for a pair; all of them ask for a key that cannot leave the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// Everything as we would like it.
    Whole,
    /// Without id and label, for a token that gives its own.
    Nameless,
    /// With a public object that wants a login as well (Luna Cloud HSM).
    PublicIsPrivate,
}

impl Asking {
    /// In the order in which they are tried, each once.
    pub(super) const ALL: [Self; 3] = [Self::Whole, Self::Nameless, Self::PublicIsPrivate];
}

/// Mechanism and both templates.
pub(super) fn key_pair(
    algorithm: KeyAlgorithm,
    name: &Name,
    asking: Asking,
) -> (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>) {
    let mut public = vec![Attribute::Token(true), Attribute::Private(asking == Asking::PublicIsPrivate), Attribute::Verify(true)];
    let mechanism = match algorithm.curve() {
        Some(curve) => {
            // The DER of an OBJECT IDENTIFIER; curve names are far shorter than one length byte can say.
            let mut params = vec![0x06, curve.as_bytes().len() as u8];
            params.extend_from_slice(curve.as_bytes());
            public.push(Attribute::EcParams(params));
            Mechanism::EccKeyPairGen
        }
        None => {
            let bits = algorithm.modulus_bits().unwrap_or_default();
            public.push(Attribute::ModulusBits(u64::from(bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    if asking != Asking::Nameless {
        let id = name.id.clone().map(Attribute::Id);
        let label = name.label.clone().map(Attribute::Label);
        for attribute in [label, id].into_iter().flatten() {
            public.push(attribute.clone());
            private.push(attribute);
        }
    }
    (mechanism, public, private)
}

/// Mechanism and both templates of a pair that vanishes with its session, as little as such a pair can be asked for.
pub(super) fn for_the_session(algorithm: KeyAlgorithm) -> (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>) {
    let nameless = Name { id: None, label: None };
    let (mechanism, mut public, mut private) = key_pair(algorithm, &nameless, Asking::Whole);
    for template in [&mut public, &mut private] {
        template.retain(|a| *a != Attribute::Token(true));
        template.push(Attribute::Token(false));
    }
    (mechanism, public, private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_asks_for_a_key_that_can_leave() {
        let name = Name::id(&[1]);
        for asking in Asking::ALL {
            for algorithm in KeyAlgorithm::ALL {
                let (_, public, private) = key_pair(algorithm, &name, asking);
                assert!(private.contains(&Attribute::Sensitive(true)) && private.contains(&Attribute::Extractable(false)));
                assert!(public.contains(&Attribute::Private(asking == Asking::PublicIsPrivate)));
                assert_eq!(private.contains(&Attribute::Id(vec![1])), asking != Asking::Nameless);
            }
        }
    }

    #[test]
    fn names_the_curve_in_der() {
        let (_, public, _) = key_pair(KeyAlgorithm::P384, &Name::id(&[1]), Asking::Whole);
        assert!(public.contains(&Attribute::EcParams(vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22])));
    }
}
