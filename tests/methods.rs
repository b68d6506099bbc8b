//! Every way to enroll, over every place where keys live and both versions of TLS: one connection in each.
//!
//! A [`row`] of the table that `tests/run` prints is one method with one kind of key; its cells go to `target/methods.tsv`.
//! Which rows there must be stands in `tests/methods.expected`.

mod by_certificate;
mod by_operator;
mod certificate_request;
mod historical;
mod third_party;

use std::time::Duration;

use ziti_enroller_support::{Controller, IdentityProvider, Options, Tls, Token, figures};

use crate::machine::{Fixture, InFiles, Machine, report};
use third_party::ThirdParty;

/// Makes one row: enrolls over each version of TLS, and logs in with what that gave. `enroll` gets a controller and a
/// machine of its own, and comes back with the token of its enrollment.
pub fn row<F: Fixture>(method: &str, provider: &str, enroll: impl Fn(&Controller, &Machine<F>) -> Token) {
    for (tls, version, name) in [(Tls::Only12, "1.2", "TLSv1_2"), (Tls::Only13, "1.3", "TLSv1_3")] {
        // A device on a busy machine may outlast the usual 5 s; then there is one more handshake, which is another matter.
        let controller = Controller::start(Options { tls, idle: Duration::from_secs(60), ..Options::default() });
        let machine = Machine::<F>::new();
        let token = enroll(&controller, &machine);
        let (log, counts) = (controller.log(), controller.counts());
        assert_eq!((counts.connections, counts.handshakes, counts.enroll_posts), (1, 1, 1), "{log:?}");
        assert!(log.handshakes.iter().all(|handshake| handshake.version == name) && log.violations.is_empty(), "{log:?}");
        figures::method(method, provider, version, Some(counts));
        assert_eq!(machine.keys.public_key_of(machine.identity(&token).key()), machine.identity(&token).public_key());
        report(&machine.verify(&token).run());
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
        assert_eq!(controller.sessions_open(), 0);
    }
}

/// One-time token, a new key.
fn ott<F: Fixture>(controller: &Controller, machine: &Machine<F>) -> Token {
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    token
}

/// One-time token, and the certificate of a third party for a key that is there.
fn ottca<F: Fixture>(controller: &Controller, machine: &Machine<F>) -> Token {
    let third_party = ThirdParty::known_to(controller);
    let token = controller.token("gate-7").of_ca(&third_party.ca).issue();
    report(&third_party.enroll(machine, &token, "mine").run());
    token
}

/// The token of a CA, and a certificate of it for a key that is there.
fn ca<F: Fixture>(controller: &Controller, machine: &Machine<F>) -> Token {
    let third_party = ThirdParty::known_to(controller);
    let token = controller.ca_token(&third_party.ca).issue();
    report(&third_party.enroll(machine, &token, "mine").run());
    token
}

/// The token of an identity provider, and a new key.
fn token<F: Fixture>(controller: &Controller, machine: &Machine<F>) -> Token {
    let provider = IdentityProvider::new("idp");
    controller.trust_provider(&provider);
    let token = controller.network_token("gate-7");
    std::fs::write(machine.path("idp.jwt"), provider.token("gate-7")).expect("the machine's folder is writable");
    let enroll = machine.enroll_with(&token).args(["--idp-token", "idp.jwt", "--create", "--key"]);
    report(&enroll.arg(machine.keys.reference("gate-7")).run());
    token
}

/// A row for each provider of a method that has no key; `posts` is what it asks of the controller.
fn row_without_a_key(method: &str, posts: usize, enroll: impl Fn(&Controller, &Machine<InFiles>)) {
    for (tls, version) in [(Tls::Only12, "1.2"), (Tls::Only13, "1.3")] {
        let controller = Controller::start(Options { tls, ..Options::default() });
        enroll(&controller, &Machine::new());
        let counts = controller.counts();
        assert_eq!((counts.connections, counts.handshakes, counts.enroll_posts), (1, 1, posts), "{:?}", controller.log());
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
        for provider in ["file", "SoftHSM", "tpm2-pkcs11", "TPM"] {
            figures::method(method, provider, version, None);
        }
    }
}

#[test]
fn network() {
    row_without_a_key("network", 0, |controller, machine| {
        report(&machine.enroll_with(&controller.network_token("gate-7")).run());
    });
}

#[test]
fn updb() {
    row_without_a_key("updb", 1, |controller, machine| {
        std::fs::write(machine.path("password"), "hush hush").expect("the machine's folder is writable");
        let token = controller.password_token("gate-7");
        report(&machine.enroll_with(&token).args(["--password-file", "password"]).run());
        assert_eq!(controller.passwords()[0].password, "hush hush");
    });
}

/// The rows of each provider.
macro_rules! rows {
    ($($module:ident: $place:ty, $name:literal: $($method:ident),+;)+) => { $(mod $module {
        $(#[test] fn $method() { super::row::<$place>(stringify!($method), $name, super::$method) })+
    })+ };
}

rows! {
    file: crate::machine::InFiles, "file": ott, ottca, ca, token;
    softhsm: crate::machine::InToken, "SoftHSM": ott, ottca, ca, token;
    tpm2_pkcs11: crate::machine::InTpm2Pkcs11, "tpm2-pkcs11": ott, ottca, ca, token;
}

#[cfg(feature = "tpm")]
rows! {
    tpm: crate::machine::tpm::InTpmFile, "TPM": ott, ottca, ca, token;
}
