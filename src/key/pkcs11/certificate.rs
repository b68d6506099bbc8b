//! Certificates that lie beside a key: CKO_CERTIFICATE with its CKA_ID (PKCS#11 v3.1 §4.6), and those that issued it.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use der::{Decode, Encode};
use x509_cert::Certificate;

use super::object::{read, search};
use super::pair::certified;
use super::pool::Lent;
use crate::key::PublicKey;

/// Most certificates of a chain; more are a circle.
const LONGEST: usize = 10;

struct Held {
    id: Vec<u8>,
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    ends: u64,
}

/// The certificate with this id, DER, and the intermediates above it that the token holds. Of several the one for
/// `public` that lasts longest; one for another key where there is none for it.
pub(super) fn beside(lent: &Lent, id: &[u8], public: &PublicKey) -> Result<Vec<Vec<u8>>, Error> {
    let mut held = Vec::new();
    for object in search(&lent.session, &[Attribute::Class(ObjectClass::CERTIFICATE)])? {
        let read = read(&lent.session, object.handle, &[AttributeType::Value])?;
        let value = read.into_iter().find_map(|a| if let Attribute::Value(der) = a { Some(der) } else { None });
        held.extend(value.and_then(|der| Held::read(object.id, der)));
    }
    let fits = |held: &Held| certified(&held.der).and_then(Result::ok).is_some_and(|key| key == *public);
    let named = held.iter().filter(|held| !id.is_empty() && held.id == id);
    let Some(leaf) = named.max_by_key(|held| (fits(held), held.ends)) else { return Ok(Vec::new()) };
    let mut chain = vec![leaf];
    while let Some(last) = chain.last().filter(|last| last.subject != last.issuer && chain.len() < LONGEST) {
        let issuers = held.iter().filter(|held| held.subject == last.issuer && held.subject != held.issuer);
        match issuers.max_by_key(|held| held.ends) {
            Some(issuer) => chain.push(issuer),
            None => break,
        }
    }
    Ok(chain.into_iter().map(|held| held.der.clone()).collect())
}

impl Held {
    /// `None` for what is no X.509 certificate.
    fn read(id: Vec<u8>, der: Vec<u8>) -> Option<Self> {
        let certificate = Certificate::from_der(&der).ok()?;
        let tbs = certificate.tbs_certificate();
        let (subject, issuer) = (tbs.subject().to_der().ok()?, tbs.issuer().to_der().ok()?);
        let ends = tbs.validity().not_after.to_unix_duration().as_secs();
        Some(Self { id, der, subject, issuer, ends })
    }
}
