//! From a file into a token, into a TPM, and back: the identity stays who it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use ziti_enroller_support::{Controller, Options, Program, SoftHsm, Swtpm, Token};

use super::fingerprint;
use crate::machine::{Failed, IdentityFile, InFiles, Machine, report, text};

/// An identity on its way through the places.
struct Journey {
    controller: Controller,
    machine: Machine<InFiles>,
    token: Token,
    /// Copies of the identity as it was before each step.
    left_behind: Vec<PathBuf>,
    surroundings: Vec<(String, String)>,
}

impl Journey {
    fn begin(surroundings: Vec<(String, String)>) -> Self {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        Self { controller, machine, token, left_behind: Vec::new(), surroundings }
    }

    fn out(&self) -> PathBuf {
        self.machine.out(&self.token)
    }

    fn program(&self, command: &str, options: &[String]) -> Program {
        let program = self.machine.program().envs(self.surroundings.iter().cloned()).args([command, "--format", "json"]);
        program.arg(self.out()).args(options)
    }

    /// Rotates, and logs in; the old certificate does not any more. `pin` says where the PIN of the new place is.
    fn move_on(&mut self, how: &[String], pin: &[String]) -> Value {
        let before = self.machine.path(&format!("before-{}.json", self.left_behind.len()));
        fs::copy(self.out(), &before).expect("the machine's folder is writable");
        let said = report(&self.program("renew", how).arg("--rotate").run());
        assert_eq!((&said["renewed"], &said["identity"]["id"]), (&true.into(), &self.token.sub().into()));
        assert_eq!(said["replaced"].as_str(), Some(&*fingerprint(&before)));
        let seen = report(&self.program("verify", pin).run());
        assert_eq!(seen["identity"]["id"], self.token.sub());
        self.left_behind.push(before);
        let in_force = self.controller.in_force(self.token.sub()).expect("one is in force");
        assert_eq!(fingerprint(&self.out()), in_force.fingerprint_sha1);
        said
    }
}

/// No private key in any file below a folder, but in those copies that the test itself has made.
fn holds_no_private_key(folder: &Path, but: &[PathBuf]) {
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            holds_no_private_key(&path, but);
        } else if !but.contains(&path) {
            let content = fs::read(&path).expect("it can be read");
            let content = String::from_utf8_lossy(&content).into_owned();
            // A TSS2 PRIVATE KEY is wrapped by the TPM that it belongs to.
            let plain = content.replace("TSS2 PRIVATE KEY", "");
            assert!(!plain.contains("PRIVATE KEY"), "a private key is in {}", path.display());
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The options that lead into the `n`th token, and those that say where its PIN is.
fn into_token(hsm: &SoftHsm, n: usize) -> (Vec<String>, Vec<String>) {
    let token = &hsm.tokens()[n];
    let pin = words(&["--pin-file", &text(&token.pin_file)]);
    let place = words(&["--provider", "pkcs11", "--module", &text(&hsm.module()), "--token", &token.label]);
    ([place, pin.clone()].concat(), pin)
}

#[test]
fn a_software_identity_moves_into_a_token_a_tpm_and_back() {
    let (mut hsm, tpm) = (SoftHsm::on_tmpfs(), Swtpm::new());
    hsm.add_token("other", "97531");
    let mut journey = Journey::begin(hsm.env());
    let ((there, pin), (back, other_pin)) = (into_token(&hsm, 0), into_token(&hsm, 1));

    let said = journey.move_on(&there, &pin);
    assert_eq!((&said["key"]["provider"], &said["key"]["extractable"]), (&"pkcs11".into(), &false.into()));
    assert_eq!(said["old_key"], Value::Null, "the old key was in the identity, and is gone with it");
    // A key without a PIN, while the old one wants its own.
    let handle = format!("tpm2:handle=auto;auth=none?tcti={}", tpm.tcti());
    let said = journey.move_on(&[words(&["--key", &handle]), pin.clone()].concat(), &[]);
    assert_eq!((&said["key"]["provider"], &said["old_key"]["deleted"]), (&"tpm".into(), &false.into()));
    let said = journey.move_on(&back, &other_pin);
    assert_eq!((&said["key"]["provider"], &said["token"]["label"]), (&"pkcs11".into(), &"other".into()));

    // Each step had a certificate of its own; their keys are all there yet, and the controller takes the last one alone.
    let pins = [vec![], pin, vec![]];
    for (old, pin) in journey.left_behind.iter().zip(pins) {
        let program = journey.machine.program().envs(journey.surroundings.iter().cloned());
        let login = program.args(["verify", "--format", "json"]).arg(old).args(pin).run();
        Failed::with(login, 60, "login_refused").says("INVALID_AUTH");
    }
    let issued = journey.controller.authenticators();
    let of: BTreeSet<String> = issued.iter().map(|one| format!("{}/{}", one.identity_id, one.id)).collect();
    assert_eq!((issued.len(), of.len()), (4, 1), "another identity, or another authenticator: {of:?}");
    holds_no_private_key(journey.machine.folder(), &journey.left_behind);
    IdentityFile::read(&journey.out());
    assert!(journey.controller.violations().is_empty(), "{:?}", journey.controller.violations());
}

#[test]
fn old_keys_go_when_that_is_asked_for() {
    let (hsm, tpm) = (SoftHsm::on_tmpfs(), Swtpm::new());
    let mut journey = Journey::begin(hsm.env());
    let (there, pin) = into_token(&hsm, 0);
    let delete = words(&["--delete-old-key"]);
    let deleted = |said: &Value| said["old_key"]["deleted"] == true;
    journey.move_on(&there, &pin);

    let handle = format!("tpm2:handle=auto;auth=none?tcti={}", tpm.tcti());
    let into = [words(&["--key", &handle]), pin.clone(), delete.clone()].concat();
    assert!(deleted(&journey.move_on(&into, &[])));
    let listed = journey.machine.program().envs(hsm.env()).args(["list", "keys", "--module"]).arg(hsm.module()).args(&pin);
    assert_eq!(listed.run().success().stdout, "", "the key in the token is there yet");
    // Into a file of the TPM, which is another place of the same provider: named, so at once.
    let beside = format!("tpm2:file={}?tcti={}", text(&journey.machine.path("gate-7.tss2.pem")), tpm.tcti());
    let into = [words(&["--create", "--key", &beside]), pin.clone(), delete.clone()].concat();
    assert!(deleted(&journey.move_on(&into, &pin)));
    assert!(tpm.handles("handles-persistent").is_empty(), "the key at the handle is there yet");

    // With the key in the TPM as it is, and then with one beside it: another file.
    let said = report(&journey.program("renew", &[words(&["--force"]), pin.clone()].concat()).run());
    assert_eq!((&said["key"]["provider"], &said["key"]["created"]), (&"tpm".into(), &false.into()));
    assert!(deleted(&journey.move_on(&[words(&["--force"]), pin.clone(), delete].concat(), &pin)));
    let there = |name: &str| journey.machine.path(name).exists();
    assert!(!there("gate-7.tss2.pem") && there("gate-7.1.tss2.pem"));
    assert!(journey.controller.violations().is_empty(), "{:?}", journey.controller.violations());
}
