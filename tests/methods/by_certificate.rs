//! `ottca` and `ca`: the certificate of a third party, shown in the one handshake.

use std::fs;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Fault, Key, KeyType, Leaf, Options, Outcome, ThirdPartyCa, Token, pem};

use super::third_party::ThirdParty;
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, ending, report, text};

struct Scene<F> {
    controller: Controller,
    third_party: ThirdParty,
    machine: Machine<F>,
}

impl<F: Fixture> Scene<F> {
    fn with(options: Options) -> Self {
        let controller = Controller::start(options);
        let third_party = ThirdParty::known_to(&controller);
        Self { controller, third_party, machine: Machine::new() }
    }

    fn new() -> Self {
        Self::with(Options::default())
    }

    fn one_time(&self) -> Token {
        self.controller.token("gate-7").of_ca(&self.third_party.ca).issue()
    }

    fn for_all(&self) -> Token {
        self.controller.ca_token(&self.third_party.ca).issue()
    }

    /// Enrolls with the key called `mine`, made and certified.
    fn enroll(&self, token: &Token) -> Outcome {
        self.third_party.enroll(&self.machine, token, "mine").run()
    }

    /// The same command again.
    fn again(&self, token: &Token) -> ziti_enroller_support::Program {
        let certificate = text(&self.machine.path("mine.crt"));
        self.machine.enroll_with(token).args(["--key", &self.machine.keys.reference("mine"), "--cert", &certificate])
    }

    fn no_violations(&self) {
        assert!(self.controller.violations().is_empty(), "{:?}", self.controller.violations());
    }
}

/// What the controller was shown in its last handshake: leaf and intermediates.
fn shown(controller: &Controller) -> usize {
    let log = controller.log();
    log.handshakes.last().and_then(|seen| seen.client_certificate.as_ref()).map_or(0, |shown| shown.chain_length)
}

#[test]
fn certificate_becomes_the_identity_with_its_intermediates() {
    let scene = Scene::<InToken>::new();
    let token = scene.one_time();
    let said = report(&scene.enroll(&token));
    assert_eq!((&said["identity"]["id"], &said["key"]["created"]), (&json!(token.sub()), &json!(false)));
    let identity = scene.machine.identity(&token);
    assert_eq!((identity.chain().len(), shown(&scene.controller)), (2, 2));
    let authenticator = &scene.controller.authenticators()[0];
    assert_eq!(said["certificate"]["fingerprint_sha1"], json!(authenticator.fingerprint_sha1));
    assert_eq!(identity.public_key(), authenticator.spki_der);
    assert_eq!(scene.machine.keys.most_logins(), 1);
    report(&scene.machine.verify(&token).run());
    scene.no_violations();
}

#[test]
fn certificate_beside_the_key_in_the_token_is_found_with_what_issued_it() {
    let scene = Scene::<InToken>::new();
    let (token, keys) = (scene.one_time(), &scene.machine.keys);
    keys.make_pair("mine", "0102", KeyType::P256);
    let leaf = scene.third_party.certify(&Leaf::client_named("device-7"), &keys.read_public("0102"));
    for (name, id, der) in [("mine", "0102", leaf.as_slice()), ("issuing", "99", scene.third_party.issuing.certificate())] {
        let file = scene.machine.path(&format!("{name}.der"));
        fs::write(&file, der).expect("the machine's folder is writable");
        let write = keys.tool().args(["--write-object", &text(&file), "--type", "cert", "--label", name, "--id", id]);
        write.run().success();
    }
    let enroll = |more: &[&str]| {
        let program = scene.machine.enroll_with(&token).args(["--key", &keys.reference("mine"), "--dry-run"]);
        program.args(more).run()
    };
    report(&enroll(&["--cert", "auto"]));
    let said = scene.machine.enroll_with(&token).args(["--key", &keys.reference("mine")]).run();
    report(&said);
    assert_eq!((scene.machine.identity(&token).chain().len(), shown(&scene.controller)), (2, 2));
    report(&scene.machine.verify(&token).run());
}

#[test]
fn certificate_in_the_file_of_its_key_is_found() {
    let scene = Scene::<InFiles>::new();
    let token = scene.one_time();
    let key = Key::generate(KeyType::P256);
    let chain = scene.third_party.chain(&Leaf::client_named("device-7"), &key.spki_der());
    fs::write(scene.machine.path("both.pem"), key.pkcs8_pem() + &chain).expect("the machine's folder is writable");
    report(&scene.machine.enroll_with(&token).args(["--key", "file:both.pem"]).run());
    report(&scene.machine.verify(&token).run());
}

#[test]
fn certificate_may_stand_behind_its_issuer() {
    let scene = Scene::<InFiles>::new();
    let token = scene.one_time();
    scene.machine.keys.make("mine", KeyType::P256);
    let leaf = scene.third_party.certify(&Leaf::client_named("device-7"), &scene.machine.keys.public_keys()[0]);
    let chain = pem("CERTIFICATE", scene.third_party.issuing.certificate()) + &pem("CERTIFICATE", &leaf);
    report(&scene.third_party.show(&scene.machine, &token, "mine", &chain).run());
    report(&scene.machine.verify(&token).run());
}

mod before_anyone_is_called {
    use super::*;

    fn refused(chain: impl Fn(&ThirdParty, &[u8]) -> String, exit: i32, code: &str) -> Failed {
        let scene = Scene::<InToken>::new();
        let token = scene.one_time();
        scene.machine.keys.make("mine", KeyType::P256);
        let chain = chain(&scene.third_party, &scene.machine.keys.public_keys()[0]);
        let outcome = scene.third_party.show(&scene.machine, &token, "mine", &chain).run();
        assert_eq!(scene.controller.counts().connections, 0, "{outcome}");
        assert!(!scene.machine.work(&token).exists());
        Failed::with(outcome, exit, code).spent("no")
    }

    #[test]
    fn certificate_of_another_key_is_refused() {
        let other = Key::generate(KeyType::P256).spki_der();
        refused(|ca, _| ca.chain(&Leaf::client_named("device-7"), &other), 24, "key_not_found")
            .says("has no certificate for pkcs11:")
            .hints("give with --key the key that the certificate was issued for");
    }

    #[test]
    fn certificate_that_has_ended_is_refused() {
        refused(|ca, key| ca.chain(&Leaf::client_named("device-7").expired(), key), 50, "file_error")
            .says("the certificate ended at");
    }

    #[test]
    fn certificate_that_is_for_servers_is_refused() {
        let leaf = Leaf::client_named("device-7").without_client_auth();
        refused(|ca, key| ca.chain(&leaf, key), 50, "file_error").says("not for client authentication");
    }

    #[test]
    fn file_without_a_certificate_is_refused() {
        refused(|_, _| "no certificate".into(), 50, "file_error").says("it has no certificate");
    }

    #[test]
    fn key_without_a_certificate_is_asked_for_one() {
        let scene = Scene::<InToken>::new();
        scene.machine.keys.make("mine", KeyType::P256);
        let program = scene.machine.enroll_with(&scene.one_time()).args(["--key", &scene.machine.keys.reference("mine")]);
        Failed::with(program.run(), 2, "usage").says("no certificate lies beside pkcs11:").hints("--cert FILE").spent("no");
        assert_eq!(scene.controller.counts().connections, 0);
    }

    #[test]
    fn key_that_is_not_said_is_asked_for() {
        let scene = Scene::<InFiles>::new();
        for token in [scene.one_time(), scene.for_all()] {
            let outcome = scene.machine.enroll_with(&token).run();
            Failed::with(outcome, 2, "usage").says("needs --key").hints("--cert").spent("no");
            let outcome = scene.machine.enroll_with(&token).args(["--key", "file:new.pem", "--create"]).run();
            Failed::with(outcome, 2, "usage").says("so is its key").hints("ziti-enroller csr").spent("no");
        }
        assert_eq!(scene.controller.counts().connections, 0);
    }

    #[test]
    fn key_named_after_the_identity_is_not_made() {
        let scene = Scene::<InToken>::new();
        let token = scene.one_time();
        Failed::with(scene.machine.enroll(&token).run(), 24, "key_not_found").says("there is no key pkcs11:").spent("no");
        assert_eq!((scene.machine.keys.private_keys(), scene.controller.counts().connections), (0, 0));
    }
}

mod controller {
    use super::*;

    fn refuses(spoil: impl Fn(&mut ThirdPartyCa), token: impl Fn(&Scene<InFiles>) -> Token, code: &str) -> Failed {
        let mut scene = Scene::<InFiles>::new();
        spoil(&mut scene.third_party.ca);
        scene.controller.set_ca(&scene.third_party.ca);
        let token = token(&scene);
        let outcome = scene.enroll(&token);
        assert!(!scene.controller.is_spent(&token) && !scene.machine.out(&token).exists());
        assert_eq!(scene.machine.keys.private_keys(), 1, "a key that was there before is gone");
        let failed = Failed::with(outcome, 31, code).spent("no");
        // What was refused can be repaired.
        scene
            .controller
            .set_ca(&ThirdPartyCa { id: scene.third_party.ca.id.clone(), ..ThirdPartyCa::new("acme", &scene.third_party.root) });
        report(&scene.again(&token).run());
        scene.no_violations();
        failed
    }

    #[test]
    fn refuses_a_certificate_of_another_ca() {
        let other = ziti_enroller_support::Authority::root("Other").certificate().to_vec();
        refuses(|ca| ca.certificate.clone_from(&other), Scene::one_time, "refused_certificate_failed_validation").hints("--cert");
        refuses(|ca| ca.certificate.clone_from(&other), Scene::for_all, "refused_cert_failed_validation").hints("--cert");
    }

    #[test]
    fn refuses_a_ca_that_may_not_enroll() {
        refuses(|ca| ca.one_time = false, Scene::one_time, "refused_enrollment_ca_not_valid").hints("--ottca");
        refuses(|ca| ca.auto = false, Scene::for_all, "refused_cert_failed_validation");
        refuses(|ca| ca.is_verified = false, Scene::for_all, "refused_cert_failed_validation").hints("has verified");
    }

    #[test]
    fn refuses_a_chain_without_its_intermediate() {
        let scene = Scene::<InToken>::new();
        let token = scene.one_time();
        scene.machine.keys.make("mine", KeyType::P256);
        let leaf = scene.third_party.certify(&Leaf::client_named("device-7"), &scene.machine.keys.public_keys()[0]);
        let outcome = scene.third_party.show(&scene.machine, &token, "mine", &pem("CERTIFICATE", &leaf)).run();
        Failed::with(outcome, 31, "refused_certificate_failed_validation").hints("intermediates").spent("no");
        assert!(!scene.controller.is_spent(&token));
    }

    #[test]
    fn refuses_a_certificate_that_another_identity_has() {
        let scene = Scene::<InToken>::new();
        report(&scene.enroll(&scene.for_all()));
        let outcome = scene.again(&scene.one_time()).run();
        Failed::with(outcome, 31, "refused_cert_in_use").hints("another certificate issued").spent("no");
    }

    #[test]
    fn that_is_an_impostor_never_sees_the_certificate() {
        let scene = Scene::<InToken>::new();
        for token in
            [scene.controller.token("gate-7").of_ca(&scene.third_party.ca), scene.controller.ca_token(&scene.third_party.ca)]
        {
            let token = token.signed_by(&Key::generate(KeyType::P256)).without_header("kid").issue();
            let outcome = scene.third_party.enroll(&scene.machine, &token, token.name()).run();
            Failed::with(outcome, 12, "controller_not_signer").hints("--ca").spent("no");
        }
        let log = scene.controller.log();
        assert_eq!((log.handshakes.len(), log.requests.len(), log.failed_handshakes.len()), (0, 0, 2), "{log:?}");
    }
}

#[test]
fn re_enrolled_identity_finds_its_key() {
    let scene = Scene::<InToken>::new();
    let token = scene.one_time();
    report(&scene.enroll(&token));
    let again = scene.controller.re_enroll_by(&scene.third_party.ca, token.sub());
    let said = report(&scene.again(&again).arg("--force").run());
    assert_eq!((&said["key"]["created"], scene.machine.keys.private_keys()), (&json!(false), 1));
    report(&scene.machine.verify(&again).run());
    // What a controller makes of it by itself: the network certifies the same key, and the certificate is not needed.
    let again = scene.controller.re_enroll(token.sub());
    let said = scene.again(&again).arg("--force").run();
    assert!(said.stderr.contains("--cert is for tokens of methods ottca and ca"), "{said}");
    report(&said);
    assert_eq!(
        (scene.machine.identity(&again).public_key(), scene.machine.keys.private_keys()),
        (scene.machine.keys.public_keys()[0].clone(), 1)
    );
    report(&scene.machine.verify(&again).run());
    scene.no_violations();
}

/// The network's own certificate is replaced by one of a third party, for the same key: nobody need name it.
#[test]
fn key_named_after_the_identity_is_found_for_a_certificate() {
    let scene = Scene::<InToken>::new();
    let first = scene.controller.issue("gate-7");
    report(&scene.machine.enroll(&first).run());
    let key = scene.machine.keys.public_keys();
    let token = scene.controller.re_enroll_by(&scene.third_party.ca, first.sub());
    let chain = scene.third_party.chain(&Leaf::client_named("device-7"), &key[0]);
    fs::write(scene.machine.path("mine.crt"), chain).expect("the machine's folder is writable");
    let said = report(&scene.machine.enroll(&token).args(["--cert", "mine.crt", "--force"]).run());
    assert_eq!((&said["key"]["created"], scene.machine.keys.public_keys()), (&json!(false), key));
    report(&scene.machine.verify(&token).run());
}

mod for_everybody {
    use super::*;

    fn named(said: &Value, scene: &Scene<InToken>) -> String {
        let id = said["identity"]["id"].as_str().expect("the controller has said it");
        let enrolled = scene.controller.authenticators();
        let one = enrolled.iter().find(|one| one.identity_id == id).expect("an identity of the controller");
        one.identity_name.clone()
    }

    #[test]
    fn identity_is_named_by_the_format_of_the_ca() {
        let mut scene = Scene::<InToken>::new();
        let token = scene.for_all();
        let mut enroll = |format: &str, key: &str| {
            scene.third_party.ca.name_format = format.into();
            scene.controller.set_ca(&scene.third_party.ca);
            let program = scene.third_party.enroll(&scene.machine, &token, key).args(["--idname", "gate 7", "--force"]);
            named(&report(&program.run()), &scene)
        };
        assert_eq!(enroll("[caName]-[commonName]", "one"), "acme-device-7");
        assert_eq!(enroll("[caName]-[commonName]", "two"), "acme-device-7000001");
        assert_eq!(enroll("[caName]-[requestedName]", "three"), "acme-gate 7");
        scene.no_violations();
    }

    #[test]
    fn identity_that_is_enrolled_already_is_written_with_force() {
        let scene = Scene::<InToken>::new();
        let token = scene.for_all();
        let first = report(&scene.enroll(&token));
        fs::remove_file(scene.machine.out(&token)).expect("the identity is ours");
        Failed::with(scene.again(&token).run(), 31, "refused_cert_in_use").hints("--force writes its identity file").spent("no");
        assert!(!scene.machine.out(&token).exists());
        let said = report(&scene.again(&token).arg("--force").run());
        assert_eq!(said["identity"]["id"], first["identity"]["id"]);
        assert_eq!(scene.controller.authenticators().len(), 1);
        report(&scene.machine.verify(&token).run());
        scene.no_violations();
    }

    #[test]
    fn ca_that_logs_nobody_in_enrolls_all_the_same() {
        let mut scene = Scene::<InFiles>::new();
        scene.third_party.ca.auth = false;
        scene.controller.set_ca(&scene.third_party.ca);
        let outcome = scene.enroll(&scene.for_all());
        assert!(outcome.stderr.contains("takes no login with this certificate"), "{outcome}");
        assert_eq!(report(&outcome)["identity"]["id"], Value::Null);
    }
}

mod answer {
    use super::*;

    /// A login tells that the enrollment was done: nothing is lost with such an answer.
    fn is_not_needed(fault: Fault) {
        for token in [Scene::<InToken>::one_time, Scene::<InToken>::for_all] {
            let scene = Scene::<InToken>::with(Options { faults: vec![fault.clone()], ..Options::default() });
            let token = token(&scene);
            let said = report(&scene.enroll(&token));
            let enrolled = scene.controller.authenticators();
            assert_eq!((scene.controller.enroll_posts(), enrolled.len()), (1, 1));
            assert_eq!(said["identity"]["id"], json!(enrolled[0].identity_id));
            report(&scene.machine.verify(&token).run());
            scene.no_violations();
        }
    }

    #[test]
    fn that_never_came_is_not_needed() {
        is_not_needed(Fault::DropPostAfter);
    }

    #[test]
    fn that_was_an_error_after_all_was_done_is_not_needed() {
        is_not_needed(Fault::ConsumeThen500);
    }

    #[test]
    fn to_a_request_that_got_lost_comes_to_the_next() {
        for token in [Scene::<InToken>::one_time, Scene::<InToken>::for_all] {
            let scene = Scene::<InToken>::with(Options { faults: vec![Fault::DropPostBeforeOnce], ..Options::default() });
            let token = token(&scene);
            report(&scene.enroll(&token));
            assert_eq!((scene.controller.enroll_posts(), scene.controller.authenticators().len()), (2, 1));
            scene.no_violations();
        }
    }

    /// The CA may enroll and not log in: nobody can tell, and nothing is claimed.
    #[test]
    fn that_cannot_be_asked_for_stays_unknown() {
        let mut scene = Scene::<InToken>::with(Options { faults: vec![Fault::DropPostAfter], ..Options::default() });
        scene.third_party.ca.auth = false;
        scene.controller.set_ca(&scene.third_party.ca);
        let token = scene.one_time();
        Failed::with(scene.enroll(&token), 33, "outcome_unknown")
            .says("a login with the certificate is refused")
            .spent("unknown");
        scene.third_party.ca.auth = true;
        scene.controller.set_ca(&scene.third_party.ca);
        report(&scene.again(&token).run());
        assert_eq!(scene.controller.authenticators().len(), 1);
    }
}

/// The events of an enrollment that shows a certificate: it makes no key.
const EVENTS: [&str; 24] = [
    "output_reserved",
    "entering-intended",
    "recorded-intended",
    "connected",
    "left-trusted",
    "key_ready",
    "recorded-trusted",
    "entering-keyed",
    "left-keyed",
    "recorded-keyed",
    "entering-ready",
    "left-ready",
    "recorded-ready",
    "entering-posting",
    "before_post",
    "after_post",
    "answer_synced",
    "left-posting",
    "recorded-posting",
    "entering-answered",
    "identity_written",
    "identity_renamed",
    "recorded-answered",
    "left-done",
];

#[test]
fn killed_enrollment_is_finished_by_the_same_command_or_by_resume() {
    let mut wrong = Vec::new();
    for (at, event) in EVENTS.iter().enumerate() {
        let survives = || {
            let scene = Scene::<InFiles>::new();
            let token = if at % 2 == 0 { scene.one_time() } else { scene.for_all() };
            let ended = ending(scene.third_party.enroll(&scene.machine, &token, "mine"), event, "kill").run();
            assert_eq!(ended.signal, Some(9), "{event} never came: {ended}");
            let resume = at % 4 > 1 && scene.machine.work(&token).join("journal").exists() && at > 2;
            let again = if resume {
                scene.machine.program().args(["resume", "--format", "json"]).arg(scene.machine.out(&token)).run()
            } else {
                scene.again(&token).run()
            };
            report(&again);
            assert_eq!(scene.controller.authenticators().len(), 1);
            assert!(!scene.machine.work(&token).exists(), "the work folder is left");
            report(&scene.machine.verify(&token).run());
            scene.no_violations();
        };
        if let Err(why) = std::panic::catch_unwind(survives) {
            wrong.push(format!("{event}: {}", why.downcast_ref::<String>().map_or("it panicked", String::as_str)));
        }
    }
    ziti_enroller_support::figures::record(
        "killed at a named event, certificate shown",
        EVENTS.len(),
        EVENTS.len() - wrong.len(),
        "",
    );
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), EVENTS.len(), wrong.join("\n"));
}

#[test]
fn doctor_proves_that_the_certificate_fits_and_burns_nothing() {
    let scene = Scene::<InToken>::new();
    for token in [scene.one_time(), scene.for_all()] {
        let said = report(&scene.third_party.enroll(&scene.machine, &token, token.name()).arg("--dry-run").run());
        let tried: Vec<&str> =
            said["checks"].as_array().expect("a list").iter().filter_map(|check| check["tried"].as_str()).collect();
        assert_eq!(tried, ["token", "output", "device", "certificate", "controller"]);
        assert_eq!(shown(&scene.controller), 2);
    }
    assert_eq!((scene.controller.enroll_posts(), scene.controller.authenticators().len()), (0, 0));
    let other = scene.third_party.chain(&Leaf::client_named("device-7"), &Key::generate(KeyType::P256).spki_der());
    let before = scene.controller.counts();
    let diagnosed = scene.third_party.show(&scene.machine, &scene.one_time(), "gate-7", &other).arg("--dry-run").run();
    assert_eq!((diagnosed.code, scene.controller.counts()), (Some(24), before), "{diagnosed}");
}
