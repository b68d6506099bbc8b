//! The device is another one, and has the same keys: the public key decides, the serial helps.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Options, Program, SoftHsm, require};

use crate::machine::{Failed, InToken, Machine, report, text};

/// The device broke, and another one has a clone of the partition: another serial, the same keys.
#[test]
fn a_clone_is_found_by_the_public_key() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let said = report(&machine.enroll(&token).run());
    let clone = tempfile::tempdir().expect("a temporary folder can be made");
    copy(&machine.keys.hsm.directory().join("tokens"), &clone.path().join("tokens"));
    let conf = fs::read_to_string(machine.keys.hsm.conf()).expect("it is ours");
    let old = text(&machine.keys.hsm.directory().join("tokens"));
    let conf = conf.replace(&old, &text(&clone.path().join("tokens")));
    fs::write(clone.path().join("softhsm2.conf"), conf).expect("the folder is ours");
    fs::remove_dir_all(machine.keys.hsm.directory().join("tokens")).expect("it is ours");
    let in_clone = |program: Program| {
        program
            .env("SOFTHSM2_CONF", clone.path().join("softhsm2.conf"))
            .env("P11FAULT", "token:serial=c10ec10ec10ec10e;token:label=standby")
    };

    let verified = in_clone(machine.verify(&token)).run().success();
    assert!(verified.stderr.contains("its key is in token \"standby\" (serial c10ec10ec10ec10e), which is used"), "{verified}");
    let key = &serde_json::from_str::<Value>(&verified.stdout).expect("JSON")["key"];
    assert_eq!(key["spki_sha256"], said["key"]["spki_sha256"]);

    // A re-enrollment there finds the key by its derived name.
    let again = controller.re_enroll(token.sub());
    let place = ["--module", &text(&machine.keys.hsm.module()), "--token", "standby", "--force"].map(str::to_owned);
    let found = report(&in_clone(machine.enroll_with(&again)).args(["--provider", "pkcs11"]).args(place).run());
    assert_eq!((&found["key"]["created"], &found["key"]["spki_sha256"]), (&json!(false), &said["key"]["spki_sha256"]));
    assert_eq!(found["token"]["serial"], "c10ec10ec10ec10e");
    let written = machine.identity(&again);
    assert!(written.key().contains("serial=c10ec10ec10ec10e"), "{}", written.key());
    assert!(in_clone(machine.verify(&again)).run().success().stderr.is_empty());

    // A reference that names the old device and no identity has nothing but its words.
    let old = said["key"]["reference"].as_str().expect("a reference is text");
    let outcome = in_clone(machine.enroll_with(&controller.issue("gate-8"))).args(["--key", old]).run();
    Failed::with(outcome, 24, "token_not_found").hints("\"standby\" (serial c10ec10ec10ec10e").spent("no");
}

/// The same key was imported into two tokens: serial and label decide while they fit, and when they do not, neither is
/// taken.
#[test]
fn of_two_clones_none_is_chosen() {
    let controller = Controller::start(Options::default());
    let mut machine = Machine::<InToken>::new();
    let first = machine.keys.hsm.tokens()[0].clone();
    let second = machine.keys.hsm.add_token("standby", &first.pin);
    let pem = machine.path("key.pem");
    let openssl = Program::new(require("openssl", "openssl")).args(["genpkey", "-algorithm", "EC", "-pkeyopt"]);
    openssl.args(["ec_paramgen_curve:P-256", "-out"]).arg(&pem).run().success();
    for token in [&first, &second] {
        import(&machine.keys.hsm, &token.label, &token.pin, &pem);
    }
    let key = format!("pkcs11:token=ziti-test;id=%01?module-path={}", text(&machine.keys.hsm.module()));
    let token = controller.issue("gate-7");
    machine.enroll_with(&token).args(["--key", &key]).run().success();
    machine.verify(&token).run().success();

    let named = machine.identity(&token);
    let elsewhere = named.key().replace(&first.serial, "ffffffffffffffff");
    let write = |key: &str| {
        let mut json = named.json.clone();
        json["id"]["key"] = json!(key);
        fs::write(machine.out(&token), json.to_string()).expect("the identity is ours");
    };
    write(&elsewhere);
    Failed::with(machine.verify(&token).run(), 24, "token_ambiguous").says(&first.serial).says(&second.serial);
    // One of them lost its key: the other one is the only one that shows it.
    machine.keys.remove("privkey", "01");
    machine.keys.remove("pubkey", "01");
    let outcome = machine.verify(&token).run().success();
    assert!(outcome.stderr.contains("its key is in token \"standby\""), "{outcome}");
    assert!(machine.keys.hsm.call_lines().iter().all(|line| !line.contains(" C_Login ") || line.ends_with(" 0x0")));
}

fn import(hsm: &SoftHsm, label: &str, pin: &str, pem: &Path) {
    let util = Program::new(require("softhsm2-util", "softhsm2")).env("SOFTHSM2_CONF", hsm.conf());
    let util = util.arg("--module").arg(hsm.real_module()).arg("--import").arg(pem);
    util.args(["--token", label, "--pin", pin, "--label", "mine", "--id", "01"]).run().success();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        let name = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() { copy(&path, &name) } else { fs::copy(&path, &name).map(drop).expect("the folder is ours") }
    }
}
