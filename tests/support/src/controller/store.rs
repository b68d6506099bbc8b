//! The controller's books: which tokens are out, which are spent, and every certificate ever issued.

use super::extend::Renewals;
use super::password::Password;
use super::signers::IdentityProvider;
use super::third_party::ThirdPartyCa;
use crate::pki::{self, random, unix_now};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one enrollment left behind: a certificate that logs the identity in.
#[derive(Clone, Debug, Serialize)]
pub struct Authenticator {
    /// Ten characters.
    pub id: String,
    /// The token's `sub`.
    pub identity_id: String,
    /// The name that the token was issued for.
    pub identity_name: String,
    /// Of the token that it was bought with.
    pub jti: String,
    /// Lower-case hex SHA-1 of the leaf's DER.
    pub fingerprint_sha1: String,
    /// Leaf and intermediates, as `certPem` of the management API.
    pub cert_pem: String,
    /// The leaf, DER.
    #[serde(skip)]
    pub cert_der: Vec<u8>,
    /// Its SubjectPublicKeyInfo, DER.
    #[serde(skip)]
    pub spki_der: Vec<u8>,
    /// Its subject, RFC 4514 text.
    pub subject: String,
    /// The CA of somebody else that issued it; `None` for the network's own.
    pub ca_id: Option<String>,
}

/// One token that is out.
#[derive(Clone, Debug)]
pub(crate) struct Enrollment {
    pub(crate) method: String,
    pub(crate) identity_id: String,
    pub(crate) identity_name: String,
    /// The CA that a certificate must lead to, for `ottca`.
    pub(crate) ca_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) expires_at: u64,
    spent: bool,
    /// SHA-256 of the request whose outcome the client cannot know, or knows as success.
    pending_csr: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    enrollments: HashMap<String, Enrollment>,
    passwords: Vec<Password>,
    providers: Vec<IdentityProvider>,
    /// By external id: the request whose outcome the client cannot know, or knows as success, and whether it has bought.
    externals: HashMap<String, (Option<Vec<u8>>, bool)>,
    pub(super) authenticators: Vec<Authenticator>,
    /// CAs of others.
    cas: Vec<ThirdPartyCa>,
    /// Those that log nobody in any more, by id and fingerprint: taken away by an administrator, or renewed.
    retired: Vec<(String, String)>,
    pub(super) renewals: Renewals,
}

impl Enrollment {
    /// In place of one, for an identity that a token of an identity provider makes.
    pub(crate) fn made_for(name: &str) -> Self {
        Self {
            method: "token".into(),
            identity_id: short_id(),
            identity_name: name.into(),
            ca_id: None,
            expires_at: u64::MAX,
            spent: false,
            pending_csr: None,
        }
    }
}

impl Books {
    fn knows(&self, fingerprint: &str) -> bool {
        self.in_force().any(|one| one.fingerprint_sha1 == fingerprint)
    }

    /// Those that log somebody in.
    pub(super) fn in_force(&self) -> impl Iterator<Item = &Authenticator> {
        self.authenticators.iter().filter(|one| !self.retired.contains(&retirement(one)))
    }

    /// From now on those that it is log nobody in.
    pub(super) fn retire(&mut self, is_it: impl Fn(&Authenticator) -> bool) {
        let old: Vec<_> = self.authenticators.iter().filter(|one| is_it(one)).map(retirement).collect();
        self.retired.extend(old);
    }
}

/// A renewal keeps the id, and a certificate of a third party may come back under another one.
fn retirement(one: &Authenticator) -> (String, String) {
    (one.id.clone(), one.fingerprint_sha1.clone())
}

/// Why a token buys nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Unknown or spent.
    Invalid,
    Expired,
}

/// Shared by the controllers of one network.
#[derive(Debug, Default)]
pub(crate) struct Store(Mutex<Books>);

impl Store {
    pub(crate) fn register(&self, jti: &str, method: &str, identity: (&str, &str), ca_id: Option<&str>, expires_at: u64) {
        let (identity_id, identity_name) = identity;
        let enrollment = Enrollment {
            ca_id: ca_id.map(str::to_owned),
            method: method.into(),
            identity_id: identity_id.into(),
            identity_name: identity_name.into(),
            expires_at,
            spent: false,
            pending_csr: None,
        };
        self.lock().enrollments.insert(jti.into(), enrollment);
    }

    /// The token buys nothing any more, as if it had never been out.
    pub(crate) fn withdraw(&self, jti: &str) -> Option<Enrollment> {
        self.lock().enrollments.remove(jti)
    }

    pub(crate) fn usable(&self, jti: &str) -> Result<Enrollment, Unusable> {
        let books = self.lock();
        let enrollment = books.enrollments.get(jti).filter(|enrollment| !enrollment.spent).ok_or(Unusable::Invalid)?;
        if enrollment.expires_at <= unix_now() { Err(Unusable::Expired) } else { Ok(enrollment.clone()) }
    }

    pub(crate) fn method_of(&self, jti: &str) -> Option<String> {
        self.lock().enrollments.get(jti).map(|enrollment| enrollment.method.clone())
    }

    /// Spends the token and keeps what it bought, in one step. False: somebody else was faster.
    pub(crate) fn spend(&self, jti: &str, authenticator: Authenticator) -> bool {
        let mut books = self.lock();
        match books.enrollments.get_mut(jti) {
            Some(enrollment) if !enrollment.spent => enrollment.spent = true,
            _ => return false,
        }
        books.authenticators.push(authenticator);
        true
    }

    /// Keeps what nobody spent a token for. False: somebody has this certificate already.
    pub(crate) fn add(&self, authenticator: Authenticator) -> bool {
        let mut books = self.lock();
        if books.knows(&authenticator.fingerprint_sha1) {
            return false;
        }
        books.authenticators.push(authenticator);
        true
    }

    /// Whether an authenticator has this fingerprint.
    pub(crate) fn knows(&self, fingerprint: &str) -> bool {
        self.lock().knows(fingerprint)
    }

    /// Puts a CA into the books, in place of one with the same id.
    pub(crate) fn set_ca(&self, ca: ThirdPartyCa) {
        let mut books = self.lock();
        books.cas.retain(|known| known.id != ca.id);
        books.cas.push(ca);
    }

    pub(crate) fn ca(&self, id: &str) -> Option<ThirdPartyCa> {
        self.lock().cas.iter().find(|ca| ca.id == id).cloned()
    }

    pub(crate) fn cas(&self) -> Vec<ThirdPartyCa> {
        self.lock().cas.clone()
    }

    /// The name of a new identity by a CA's format. One that is taken gets a number of six digits, once more for each that
    /// is taken too.
    pub(crate) fn unused_name(&self, symbols: &[(&str, &str)], format: &str) -> String {
        let mut name = symbols.iter().fold(format.to_owned(), |name, (symbol, value)| name.replace(symbol, value));
        let books = self.lock();
        let taken = |name: &str| {
            let enrolled = books.authenticators.iter().any(|one| one.identity_name == name);
            enrolled || books.enrollments.values().any(|one| one.identity_name == name)
        };
        for number in 1.. {
            if !taken(&name) {
                break;
            }
            name.push_str(&format!("{number:06}"));
        }
        name
    }

    /// Notes that `csr` was posted with this token. False: another one was before, and nobody told the client no.
    pub(crate) fn post_seen(&self, jti: &str, csr: &[u8]) -> bool {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, csr).as_ref().to_vec();
        let mut books = self.lock();
        let Some(enrollment) = books.enrollments.get_mut(jti) else { return true };
        let before = enrollment.pending_csr.get_or_insert_with(|| digest.clone());
        *before == digest
    }

    /// A definite no was answered: the client may come again with another request.
    pub(crate) fn post_refused(&self, jti: &str) {
        if let Some(enrollment) = self.lock().enrollments.get_mut(jti).filter(|enrollment| !enrollment.spent) {
            enrollment.pending_csr = None;
        }
    }

    /// Spends the token and keeps the password, in one step. False: somebody else was faster.
    pub(crate) fn set_password(&self, jti: &str, password: Password) -> bool {
        let mut books = self.lock();
        match books.enrollments.get_mut(jti) {
            Some(enrollment) if !enrollment.spent => enrollment.spent = true,
            _ => return false,
        }
        books.passwords.push(password);
        true
    }

    pub(crate) fn passwords(&self) -> Vec<Password> {
        self.lock().passwords.clone()
    }

    pub(crate) fn set_provider(&self, provider: IdentityProvider) {
        let mut books = self.lock();
        books.providers.retain(|known| known.id != provider.id);
        books.providers.push(provider);
    }

    pub(crate) fn providers(&self) -> Vec<IdentityProvider> {
        self.lock().providers.clone()
    }

    /// As [`post_seen`](Self::post_seen), by external id.
    pub(crate) fn provider_post_seen(&self, external: &str, csr: &[u8]) -> bool {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, csr).as_ref().to_vec();
        let mut books = self.lock();
        let (pending, bought) = books.externals.entry(external.into()).or_default();
        *bought || *pending.get_or_insert_with(|| digest.clone()) == digest
    }

    pub(crate) fn provider_post_refused(&self, external: &str) {
        if let Some((pending, _)) = self.lock().externals.get_mut(external) {
            *pending = None;
        }
    }

    pub(crate) fn has_external(&self, external: &str) -> bool {
        self.lock().externals.get(external).is_some_and(|(_, bought)| *bought)
    }

    /// Makes the identity and keeps its certificate, in one step. False: somebody else was faster.
    pub(crate) fn add_external(&self, external: &str, authenticator: Authenticator) -> bool {
        let mut books = self.lock();
        let (_, bought) = books.externals.entry(external.into()).or_default();
        if std::mem::replace(bought, true) {
            return false;
        }
        books.authenticators.push(authenticator);
        true
    }

    pub(crate) fn is_spent(&self, jti: &str) -> bool {
        self.lock().enrollments.get(jti).is_some_and(|enrollment| enrollment.spent)
    }

    pub(crate) fn authenticators(&self) -> Vec<Authenticator> {
        self.lock().authenticators.clone()
    }

    /// The authenticator that a leaf (DER) logs in with.
    pub(crate) fn authenticator_of(&self, leaf: &[u8]) -> Option<Authenticator> {
        let fingerprint = pki::sha1_hex(leaf);
        let books = self.lock();
        books.in_force().find(|one| one.fingerprint_sha1 == fingerprint).cloned()
    }

    /// Takes away what logs the identity in; returns its name. A third party's certificate may come back.
    pub(crate) fn retire(&self, identity_id: &str) -> Option<String> {
        let mut books = self.lock();
        let of_identity = books.authenticators.iter().filter(|one| one.identity_id == identity_id);
        let enrolled = of_identity.map(|one| one.identity_name.clone()).next();
        books.retire(|one| one.identity_id == identity_id);
        enrolled.or_else(|| {
            let known = books.enrollments.values().find(|enrollment| enrollment.identity_id == identity_id);
            known.map(|enrollment| enrollment.identity_name.clone())
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ten characters, as the controller's own ids. (Theirs may hold `.`, `-` and `_` too; a test that wants those says so.)
pub(crate) fn short_id() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    random::<10>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = pki::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bought(jti: &str) -> Authenticator {
        Authenticator {
            id: short_id(),
            identity_id: "W4kErfsB6a".into(),
            identity_name: "gate-7".into(),
            jti: jti.into(),
            fingerprint_sha1: pki::sha1_hex(b"leaf"),
            cert_pem: String::new(),
            cert_der: b"leaf".into(),
            spki_der: Vec::new(),
            subject: String::new(),
            ca_id: None,
        }
    }

    #[test]
    fn spends_a_token_once_however_many_ask_at_once() {
        let store = Store::default();
        store.register("t", "ott", ("W4kErfsB6a", "gate-7"), None, unix_now() + 60);
        let won = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..16).map(|_| scope.spawn(|| store.spend("t", bought("t")))).collect();
            racers.into_iter().filter_map(|racer| racer.join().ok()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
        assert_eq!(store.authenticators().len(), 1);
        assert_eq!(store.usable("t").expect_err("spent"), Unusable::Invalid);
    }

    #[test]
    fn retired_certificate_stays_in_the_books_and_logs_nobody_in() {
        let store = Store::default();
        store.register("t", "ott", ("W4kErfsB6a", "gate-7"), None, unix_now() + 60);
        assert!(store.spend("t", bought("t")));
        assert!(store.authenticator_of(b"leaf").is_some());
        assert_eq!(store.retire("W4kErfsB6a").as_deref(), Some("gate-7"));
        assert!(store.authenticator_of(b"leaf").is_none());
        assert_eq!(store.authenticators().len(), 1);
    }

    #[test]
    fn tells_a_second_request_from_a_repeated_one() {
        let store = Store::default();
        store.register("t", "ott", ("i", "n"), None, unix_now() + 60);
        assert!(store.post_seen("t", b"one"));
        assert!(store.post_seen("t", b"one"));
        assert!(!store.post_seen("t", b"two"));
        store.post_refused("t");
        assert!(store.post_seen("t", b"two"));
    }
}
