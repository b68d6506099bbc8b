//! A new key beside the old one, or under a name that was said.

use ziti_enroller_support::{Controller, Options};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report};

#[test]
fn generations_go_up_and_the_highest_is_found_again_when_older_ones_are_gone() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    let label = |n: usize| if n == 0 { format!("ziti:{}", token.sub()) } else { format!("ziti:{}.{n}", token.sub()) };
    for generation in 1..=4 {
        let said = report(&machine.renew(&token).args(["--rotate", "--force", "--delete-old-key"]).run());
        assert_eq!(said["old_key"]["deleted"], true, "{said}");
        let keys = machine.keys.of_class("Private Key Object");
        let labels: Vec<&str> = keys.iter().map(|key| key.label.as_str()).collect();
        let expected = if generation == 4 { label(4) } else { label(generation) };
        assert_eq!(labels, [expected.as_str()]);
        if generation == 3 {
            // Re-enrolled: the key of the third generation serves again, though those below it are gone.
            let again = controller.re_enroll(token.sub());
            let said = report(&machine.enroll(&again).arg("--force").run());
            assert_eq!((&said["key"]["created"], machine.keys.private_keys()), (&false.into(), 1));
        }
    }
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn a_move_to_where_the_key_is_waits_until_something_is_due() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll_with(&token).run());
    // As a timer asks for it every day: the first time it moves, and then it waits.
    assert_eq!(report(&machine.rotate(&token).run())["renewed"], true);
    assert_eq!(report(&machine.rotate(&token).run())["renewed"], false);
    assert_eq!(machine.keys.private_keys(), 1);
    assert_eq!(report(&machine.rotate(&token).arg("--force").run())["renewed"], true);
    assert_eq!(machine.keys.private_keys(), 2);
}

#[test]
fn a_key_file_of_its_own_has_its_successor_beside_it() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let key = machine.path("keys/gate.pem");
    report(&machine.enroll(&token).args(["--create", "--key-alg", "p384", "--key"]).arg(&key).run());
    let said = report(&machine.renew(&token).args(["--rotate", "--force", "--delete-old-key"]).run());
    assert_eq!((&said["key"]["algorithm"], &said["old_key"]["deleted"]), (&"p384".into(), &true.into()));
    assert!(!key.exists() && machine.path("keys/gate.1.pem").exists());
    let said = report(&machine.renew(&token).args(["--rotate", "--force", "--key-alg", "p256"]).run());
    assert_eq!((&said["key"]["algorithm"], &said["old_key"]["deleted"]), (&"p256".into(), &false.into()));
    assert!(machine.path("keys/gate.2.pem").exists() && machine.path("keys/gate.1.pem").exists());
    assert!(machine.logs_in(&machine.out(&token)));
}

#[test]
fn a_key_that_is_there_already_can_be_taken() {
    use ziti_enroller_support::KeyType;

    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll_with(&token).run());
    machine.keys.make("spare", KeyType::P256);
    let reference = machine.keys.reference("spare");
    let said = report(&machine.renew(&token).args(["--rotate", "--key", &reference]).run());
    assert_eq!(said["key"]["created"], false);
    assert_eq!(machine.identity(&token).public_key(), machine.keys.public_keys()[0]);
    let missing = machine.renew(&token).args(["--rotate", "--key", &machine.keys.reference("none")]).run();
    Failed::with(missing, 24, "key_not_found");
    let create = machine.renew(&token).args(["--rotate", "--create", "--key", &reference]).run();
    Failed::with(create, 24, "key_exists").hints("leave out --create");
    assert!(machine.logs_in(&machine.out(&token)));
}
