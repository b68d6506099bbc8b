//! A CA of somebody else, with an issuing CA under it, and what it certifies.

use std::fs;

use ziti_enroller_support::{Authority, Controller, KeyType, Leaf, Program, ThirdPartyCa, Token, pem};

use crate::machine::{Fixture, Machine, text};

#[derive(Debug)]
pub struct ThirdParty {
    pub root: Authority,
    pub issuing: Authority,
    /// What the controller knows of it: the root.
    pub ca: ThirdPartyCa,
}

impl ThirdParty {
    /// One that may do everything at `controller`.
    pub fn known_to(controller: &Controller) -> Self {
        let root = Authority::root("Acme Root CA");
        let issuing = root.intermediate("Acme Issuing CA");
        let ca = ThirdPartyCa::new("acme", &root);
        controller.set_ca(&ca);
        Self { root, issuing, ca }
    }

    /// The certificate (DER) of the issuing CA for a public key.
    pub fn certify(&self, leaf: &Leaf, spki_der: &[u8]) -> Vec<u8> {
        self.issuing.sign(leaf, spki_der)
    }

    /// The same with its issuer, PEM.
    pub fn chain(&self, leaf: &Leaf, spki_der: &[u8]) -> String {
        [self.certify(leaf, spki_der), self.issuing.certificate().to_vec()].iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// Makes the key called `key`, certifies it as `device-7` in `KEY.crt`, and enrolls with both.
    pub fn enroll<F: Fixture>(&self, machine: &Machine<F>, token: &Token, key: &str) -> Program {
        self.enroll_as(machine, token, key, &Leaf::client_named("device-7"))
    }

    /// The same with another certificate.
    pub fn enroll_as<F: Fixture>(&self, machine: &Machine<F>, token: &Token, key: &str, leaf: &Leaf) -> Program {
        let before = machine.keys.public_keys();
        machine.keys.make(key, KeyType::P256);
        let made = machine.keys.public_keys().into_iter().find(|made| !before.contains(made)).expect("a new key");
        self.show(machine, token, key, &self.chain(leaf, &made))
    }

    /// Enrolls with the key called `key` and this chain, which is written to `KEY.crt`.
    pub fn show<F: Fixture>(&self, machine: &Machine<F>, token: &Token, key: &str, chain: &str) -> Program {
        let file = machine.path(&format!("{key}.crt"));
        fs::write(&file, chain).expect("the machine's folder is writable");
        machine.enroll_with(token).args(["--key", &machine.keys.reference(key), "--cert", &text(&file)])
    }
}
