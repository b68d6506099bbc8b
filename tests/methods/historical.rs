//! The command lines of the historical tool of this name, and what it never said.

use std::fs;

use ziti_enroller_support::{Controller, Key, KeyType, Leaf, Options};

use super::third_party::ThirdParty;
use crate::machine::{InFiles, Machine};

#[test]
fn token_alone_makes_an_identity_beside_it() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    token.write(machine.folder());
    machine.program().args(["--jwt", "gate-7.jwt"]).run().success();
    assert!(machine.identity(&token).key().starts_with("pem:"));
}

#[test]
fn certificate_key_and_name_enroll_by_both_methods() {
    let controller = Controller::start(Options::default());
    let mut third_party = ThirdParty::known_to(&controller);
    third_party.ca.name_format = "[requestedName]".into();
    controller.set_ca(&third_party.ca);
    let machine = Machine::<InFiles>::new();
    for (token, name) in [
        (controller.ca_token(&third_party.ca).issue(), "from a name"),
        (controller.token("gate-7").of_ca(&third_party.ca).issue(), "gate-7"),
    ] {
        let key = Key::generate(KeyType::P256);
        fs::write(machine.path("key.pem"), key.pkcs8_pem()).expect("the machine's folder is writable");
        let chain = third_party.chain(&Leaf::client_named("device-7"), &key.spki_der());
        fs::write(machine.path("cert.pem"), chain).expect("the machine's folder is writable");
        let file = token.write(machine.folder());
        let line = ["--cert", "cert.pem", "--key", "key.pem", "--idname", "from a name"];
        machine.program().arg("-v").arg("--jwt").arg(file).args(line).run().success();
        assert_eq!(controller.authenticators().last().map(|one| one.identity_name.clone()), Some(name.into()));
        assert!(machine.identity(&token).key().starts_with("file:///"));
    }
    let short = ["-n", "x", "-c", "cert.pem", "-k", "key.pem", "-o", "out.json"];
    let refused = machine.program().args(["-v", "-j", "acme.jwt"]).args(short).run();
    assert_eq!(refused.code, Some(31), "{refused}");
}

/// They took a certificate with any token, and used it where there was use for it.
#[test]
fn certificate_that_a_token_has_no_use_for_is_said_to_be_unused() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    token.write(machine.folder());
    let done = machine.program().args(["--jwt", "gate-7.jwt", "--cert", "none.pem", "--idname", "x"]).run().success();
    assert!(done.stderr.contains("--cert is for tokens of methods ottca and ca"), "{done}");
}
