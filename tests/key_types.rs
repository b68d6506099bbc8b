//! Every type of key with both providers, made and found again, at every kind of controller.

use serde_json::json;
use ziti_enroller_support::{Controller, KeyType, Options, Tls};

use crate::machine::{Fixture, InFiles, InToken, Machine, report, text};

/// The controllers that sign tokens with each algorithm, over each version of TLS: a type of key meets one of them.
const CONTROLLERS: [(KeyType, Tls); 5] = [
    (KeyType::P256, Tls::Only12),
    (KeyType::P384, Tls::Only13),
    (KeyType::P521, Tls::Only12),
    (KeyType::Rsa2048, Tls::Only13),
    (KeyType::P521, Tls::Only13),
];

fn controller((key, tls): (KeyType, Tls)) -> Controller {
    Controller::start(Options { key, tls, ..Options::default() })
}

/// A new key of this type, under a name of its own, enrolls and logs in; with another token it is found again.
fn is_made_and_found_again<F: Fixture>(algorithm: &str, manners: (KeyType, Tls)) {
    let controller = controller(manners);
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    let new = ["--key", &machine.keys.reference("mine"), "--create", "--key-alg", algorithm].map(str::to_owned);
    let said = report(&machine.enroll_with(&token).args(new).run());
    assert_eq!((&said["key"]["algorithm"], &said["key"]["created"]), (&json!(algorithm), &json!(true)));
    report(&machine.verify(&token).run());

    let reference = said["key"]["reference"].as_str().expect("a reference is text").to_owned();
    let again = controller.re_enroll(token.sub());
    let found = report(&machine.enroll_with(&again).args(["--force", "--key", &reference]).run());
    assert_eq!((&found["key"]["spki_sha256"], &found["key"]["created"]), (&said["key"]["spki_sha256"], &json!(false)));
    report(&machine.verify(&again).run());

    assert_eq!((machine.keys.private_keys(), controller.authenticators().len()), (1, 2));
    let issued = controller.authenticators();
    assert_eq!((&issued[0].spki_der, &issued[1].spki_der), (&machine.keys.public_keys()[0], &machine.keys.public_keys()[0]));
    let version = if manners.1 == Tls::Only12 { "TLSv1_2" } else { "TLSv1_3" };
    let log = controller.log();
    assert!(log.handshakes.iter().all(|handshake| handshake.version == version), "{:?}", log.handshakes);
    assert!(log.violations.is_empty(), "{:?}", log.violations);
}

/// The providers meet the controllers in a different order.
macro_rules! key_types {
    ($provider:ident, $fixture:ty, $first:literal: $($name:ident = $at:literal,)*) => {
        mod $provider {
            use super::*;

            $(
                #[test]
                fn $name() {
                    is_made_and_found_again::<$fixture>(stringify!($name), CONTROLLERS[($first + $at) % CONTROLLERS.len()]);
                }
            )*
        }
    };
}

key_types!(file, InFiles, 0: p256 = 0, p384 = 1, rsa2048 = 2, rsa3072 = 3, rsa4096 = 4,);
key_types!(pkcs11, InToken, 1: p256 = 0, p384 = 1, rsa2048 = 2, rsa3072 = 3, rsa4096 = 4,);

#[test]
fn every_algorithm_of_a_token_is_taken_over_every_version_of_tls() {
    for key in KeyType::ALL {
        for tls in [Tls::Only12, Tls::Only13] {
            let controller = controller((key, tls));
            let machine = Machine::<InFiles>::new();
            let token = controller.issue("gate-7");
            let file = token.write(machine.folder());
            let said = report(&machine.program().args(["inspect", "--format", "json", &text(&file)]).run());
            assert_eq!(said["algorithm"], json!(key.jws()));
            report(&machine.enroll(&token).run());
            report(&machine.verify(&token).run());
        }
    }
}
