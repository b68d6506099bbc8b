//! `--ca`: the controller is trusted by CA certificates that a person has given.

use std::fs;

use ziti_enroller_support::{Authority, Controller, Face, Key, KeyType, Options, pem};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report, text};

#[test]
fn token_of_another_signer_is_taken_with_one_warning() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    fs::write(machine.path("ca.pem"), controller.ca_pem()).expect("the machine's folder is writable");
    let token = controller.token("gate-7").signed_by(&Key::generate(KeyType::P256)).issue();
    let outcome = machine.enroll(&token).args(["--ca", "ca.pem"]).run();
    report(&outcome);
    assert_eq!(outcome.stderr.matches("is trusted by the CA certificates that were given").count(), 1, "{outcome}");
    let counts = controller.counts();
    assert_eq!((counts.connections, counts.handshakes, counts.requests), (1, 1, 2));
    report(&machine.verify(&token).run());
    // A token that is signed as it should be is worth no word.
    let token = controller.issue("gate-8");
    let outcome = machine.enroll(&token).args(["--ca", "ca.pem"]).run();
    report(&outcome);
    assert!(!outcome.stderr.contains("CA certificates"), "{outcome}");
}

#[test]
fn certificate_that_the_controller_does_not_hand_out_is_trusted_and_kept() {
    let controller = Controller::start(Options { face: Face::ForeignCa, ..Options::default() });
    let machine = Machine::<InFiles>::new();
    let issuer = &controller.server_chain()[1];
    fs::write(machine.path("ca.pem"), pem("CERTIFICATE", issuer)).expect("the machine's folder is writable");
    let token = controller.issue("gate-7");
    Failed::with(machine.enroll(&token).run(), 12, "controller_chain").spent("no");
    report(&machine.enroll(&token).args(["--ca", "ca.pem"]).run());
    assert_eq!(machine.identity(&token).anchors().len(), 3, "root, intermediate, and the one that was given");
    report(&machine.verify(&token).run());
}

#[test]
fn another_ca_is_refused_before_anything_is_said() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let other = pem("CERTIFICATE", Authority::root("Other").certificate());
    fs::write(machine.path("ca.pem"), other).expect("the machine's folder is writable");
    let token = controller.issue("gate-7");
    Failed::with(machine.enroll(&token).args(["--ca", "ca.pem"]).run(), 12, "controller_chain")
        .says("against the CA certificates that were given")
        .hints("give with --ca")
        .spent("no");
    assert_eq!((controller.log().requests.len(), machine.keys.private_keys()), (0, 0));
}

#[test]
fn name_still_counts() {
    let controller = Controller::start(Options { face: Face::WrongHost, ..Options::default() });
    let machine = Machine::<InFiles>::new();
    fs::write(machine.path("ca.pem"), controller.ca_pem()).expect("the machine's folder is writable");
    let outcome = machine.enroll(&controller.issue("gate-7")).args(["--ca", "ca.pem"]).run();
    Failed::with(outcome, 12, "controller_name").spent("no");
    assert!(controller.log().requests.is_empty());
}

#[test]
fn file_is_remembered_by_resume() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let file = machine.path("ca.pem");
    fs::write(&file, controller.ca_pem()).expect("the machine's folder is writable");
    let token = controller.token("gate-7").signed_by(&Key::generate(KeyType::P256)).issue();
    let program = machine.enroll(&token).args(["--ca", &text(&file)]);
    assert_eq!(crate::machine::ending(program, "recorded-keyed", "kill").run().signal, Some(9));
    fs::remove_file(file).expect("it is ours");
    report(&machine.program().args(["resume", "--format", "json"]).arg(machine.out(&token)).run());
    report(&machine.verify(&token).run());
}
