//! The certificate of trust-bootstrap.md, "One parser for both questions": it shows one public key to a parser that
//! takes the first BIT STRING it meets, and another to everybody else.

use super::tlv::{BIT_STRING, SEQUENCE, element, elements, open};
use super::{Key, KeyType, Leaf, spki_of};
use crate::pki::leaf;
use rcgen::CertificateParams;

/// sha256WithRSAEncryption, 1.2.840.113549.1.1.11.
const SHA256_WITH_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];

/// A leaf for localhost whose SubjectPublicKeyInfo is the attacker's (RSA, 2048 bits; its key is returned), and whose
/// two signature AlgorithmIdentifiers carry the public key of `real_leaf` (DER) in their parameters.
pub fn forged_certificate(real_leaf: &[u8]) -> (Vec<u8>, Key) {
    let attacker = Key::generate(KeyType::Rsa2048);
    let mut params: CertificateParams = Leaf::server(&["localhost", "127.0.0.1", "::1"]).params().clone();
    leaf::set_validity(&mut params, super::unix_now() - super::DAY, super::unix_now() + super::DAY);
    let honest = params.self_signed(attacker.pair()).expect("a leaf can be signed").der().to_vec();
    let forged = smuggle(&honest, &spki_of(real_leaf), &attacker).expect("rcgen writes well-formed certificates");
    (forged, attacker)
}

fn smuggle(certificate: &[u8], real_spki: &[u8], attacker: &Key) -> Option<Vec<u8>> {
    // { {alg, params?}, BIT STRING key } of the real key becomes { alg OID, BIT STRING key }: the parameters of ours.
    let real = elements(open(real_spki)?.0)?;
    let kind = *elements(open(real.first()?)?.0)?.first()?;
    let key = *real.get(1)?;
    debug_assert_eq!(key.first(), Some(&BIT_STRING));
    let algorithm = element(SEQUENCE, &[SHA256_WITH_RSA, &element(SEQUENCE, &[kind, key])]);

    let tbs = *elements(open(certificate)?.0)?.first()?;
    let mut fields = elements(open(tbs)?.0)?;
    let signature_field = fields.get_mut(2)?; // [0] version, serialNumber, signature
    *signature_field = &algorithm;
    let tbs = element(SEQUENCE, &fields);
    let signature = element(BIT_STRING, &[&[0], &attacker.sign_jws(&tbs)]); // PKCS#1 v1.5 with SHA-256, as it says
    Some(element(SEQUENCE, &[&tbs, &algorithm, &signature]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn shows_the_attackers_key_to_a_parser_that_follows_the_structure() {
        let (real, attacker_spki) = forge(KeyType::Rsa2048);
        assert_ne!(spki_of(&real.0), attacker_spki);
        assert_eq!(spki_of(&real.1), attacker_spki);
    }

    #[test]
    fn shows_the_real_key_to_a_parser_that_takes_the_first_bit_string() {
        for kind in KeyType::ALL {
            let ((real, forged), _) = forge(kind);
            let real_spki = spki_of(&real);
            let key = elements(open(&real_spki).expect("DER").0).expect("DER")[1];
            assert_eq!(first_bit_string(&forged).expect("there is one"), key, "{kind}");
        }
    }

    fn first_bit_string(der: &[u8]) -> Option<&[u8]> {
        elements(der)?.into_iter().find_map(|one| match one[0] {
            BIT_STRING => Some(one),
            tag if tag & 0x20 != 0 => first_bit_string(open(one)?.0),
            _ => None,
        })
    }

    fn forge(kind: KeyType) -> ((Vec<u8>, Vec<u8>), Vec<u8>) {
        let real = Authority::root("R").sign(&Leaf::server(&["localhost"]), &Key::generate(kind).spki_der());
        let (forged, attacker) = forged_certificate(&real);
        ((real, forged), attacker.spki_der())
    }

    #[test]
    fn openssl_can_read_it() {
        let ((_, forged), _) = forge(KeyType::Rsa2048);
        let openssl = crate::require("openssl", "openssl");
        let text = crate::Program::new(openssl).args(["x509", "-inform", "DER", "-noout", "-subject"]).stdin(forged).run();
        assert_eq!(text.code, Some(0), "{text}");
    }
}
