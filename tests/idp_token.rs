//! Tokens of identity providers: the controller makes the identity, and the key is in hardware all the same.

use std::fs;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Fault, IdentityProvider, Options, Program, Tls, Token};

use crate::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, ending, report};

struct Scene<F> {
    controller: Controller,
    provider: IdentityProvider,
    machine: Machine<F>,
    network: Token,
}

impl<F: Fixture> Scene<F> {
    fn new(options: Options) -> Self {
        let controller = Controller::start(options);
        let provider = IdentityProvider::new("idp");
        controller.trust_provider(&provider);
        let network = controller.network_token("gate-7");
        Self { controller, provider, machine: Machine::new(), network }
    }

    /// With a token for `gate-7` that was made a moment ago, and a key of the name that identities have.
    fn enroll(&self) -> Program {
        self.renew_token();
        let program = self.machine.enroll_with(&self.network).args(["--idp-token", "idp.jwt"]);
        program.args(["--key", &self.machine.keys.reference("gate-7"), "--create"])
    }

    fn renew_token(&self) {
        let mut claims = self.provider.claims("gate-7");
        claims.insert("jti".into(), json!(self.controller.log().requests.len()));
        fs::write(self.machine.path("idp.jwt"), self.provider.sign(&claims)).expect("the folder is writable");
    }

    fn resume(&self) -> Program {
        self.renew_token();
        let program = self.machine.program().args(["resume", "--format", "json"]).arg(self.machine.out(&self.network));
        program.args(self.machine.keys.pin()).args(["--idp-token", "idp.jwt"])
    }

    fn no_violations(&self) {
        assert!(self.controller.violations().is_empty(), "{:?}", self.controller.violations());
    }
}

fn enrolls_and_logs_in<F: Fixture>() {
    for tls in [Tls::Only12, Tls::Only13] {
        let scene = Scene::<F>::new(Options { tls, ..Options::default() });
        let enrolled = scene.enroll().arg("-vv").run().success();
        let idp = fs::read_to_string(scene.machine.path("idp.jwt")).expect("it was written");
        let said: Value = serde_json::from_str(&enrolled.stdout).expect("JSON");
        let counts = scene.controller.counts();
        assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 2, 1));
        let issued = scene.controller.authenticators();
        assert_eq!((issued.len(), &said["identity"]["id"]), (1, &json!(issued[0].identity_id)));
        let identity = scene.machine.identity(&scene.network);
        let key = scene.machine.keys.public_key_of(identity.key());
        assert_eq!((&key, &key), (&issued[0].spki_der, &identity.public_key()));
        let logged_in = report(&scene.machine.verify(&scene.network).run());
        assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("gate-7"), &said["identity"]["id"]));
        for text in [&enrolled.stdout, &enrolled.stderr, &identity.text] {
            assert!(!text.contains(&idp), "{text}");
        }
        scene.no_violations();
    }
}

#[test]
fn file_key_enrolls_and_logs_in() {
    enrolls_and_logs_in::<InFiles>();
}

#[test]
fn token_key_enrolls_and_logs_in() {
    enrolls_and_logs_in::<InToken>();
}

/// Each rerun has another token of the provider: they live for minutes.
#[test]
fn goes_on_wherever_it_was_killed() {
    for (event, lost) in [
        ("recorded-trusted", false),
        ("after_generation", false),
        ("recorded-ready", false),
        ("before_post", false),
        ("after_post", true),
        ("answer_synced", false),
        ("identity_written", false),
        ("identity_renamed", false),
    ] {
        let scene = Scene::<InToken>::new(Options::default());
        let killed = ending(scene.enroll(), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{event}: {killed}");
        let journal = scene.machine.work(&scene.network).join("journal");
        let idp = fs::read_to_string(scene.machine.path("idp.jwt")).expect("it was written");
        assert!(!fs::read_to_string(journal).is_ok_and(|text| text.contains(&idp)), "{event}");
        if lost {
            Failed::with(scene.enroll().run(), 33, "answer_lost").spent("yes").hints("--certificate");
            let copy = &scene.controller.authenticators()[0].cert_pem;
            fs::write(scene.machine.path("copy.pem"), copy).expect("the folder is writable");
            report(&scene.resume().args(["--certificate", "copy.pem"]).run());
        } else {
            report(&scene.enroll().run());
        }
        assert_eq!((scene.controller.authenticators().len(), scene.machine.keys.private_keys()), (1, 1), "{event}");
        report(&scene.machine.verify(&scene.network).run());
        scene.no_violations();
    }
}

/// That a token is out of date says nothing about the request that went before it.
#[test]
fn a_token_that_ended_meanwhile_does_not_make_an_answer_lost() {
    let mut scene = Scene::<InToken>::new(Options::default());
    let killed = ending(scene.enroll(), "before_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    scene.provider.enabled = false;
    scene.controller.trust_provider(&scene.provider);
    Failed::with(scene.resume().run(), 33, "outcome_unknown").says("INVALID_ENROLLMENT_TOKEN").spent("unknown");
    scene.provider.enabled = true;
    scene.controller.trust_provider(&scene.provider);
    report(&scene.resume().run());
    report(&scene.machine.verify(&scene.network).run());
    scene.no_violations();
}

/// A key that was made for an enrollment that is refused is deleted; one that was there stays.
#[test]
fn a_refusal_leaves_no_key_behind() {
    let mut scene = Scene::<InToken>::new(Options::default());
    scene.provider.enroll_to_cert = false;
    scene.controller.trust_provider(&scene.provider);
    let refused = scene.enroll().run();
    Failed::with(refused, 31, "refused_invalid_enrollment_not_allowed").hints("list signers").spent("no");
    assert_eq!(scene.machine.keys.private_keys(), 0);
    assert!(!scene.machine.work(&scene.network).exists());
}

#[test]
fn begun_with_given_ca_certificates_it_is_resumed_without_naming_them_again() {
    let scene = Scene::<InFiles>::new(Options { faults: vec![Fault::DropPostBefore], ..Options::default() });
    fs::write(scene.machine.path("ca.pem"), scene.controller.ca_pem()).expect("the folder is writable");
    scene.renew_token();
    let line =
        ["enroll", "--format", "json", "--idp-token", "idp.jwt", "--ca", "ca.pem", "--out", "gate-7.json", "--retries", "0"];
    let enroll = scene.machine.program().args(line).args(["--controller", &scene.controller.url()]);
    Failed::with(enroll.run(), 33, "outcome_unknown");
    scene.controller.set_faults([]);
    report(&scene.resume().run());
    IdentityFile::read(&scene.machine.out(&scene.network));
    report(&scene.machine.verify(&scene.network).run());
    scene.no_violations();
}

/// By its id at the controller, where another one says that it is the same issuer.
#[test]
fn the_provider_can_be_named() {
    let scene = Scene::<InFiles>::new(Options::default());
    let mut twin = IdentityProvider::new("idp");
    twin.audience = "elsewhere".into();
    scene.controller.trust_provider(&twin);
    fs::write(scene.machine.path("idp.jwt"), twin.token("gate-7")).expect("the folder is writable");
    let enroll = || scene.machine.enroll_with(&scene.network).args(["--idp-token", "idp.jwt"]);
    Failed::with(enroll().run(), 32, "token_gone").hints("get a new token");
    report(&enroll().args(["--issuer-id", &twin.id]).run());
}

#[test]
fn more_signers_than_one_answer_lists_are_all_listed() {
    let scene = Scene::<InFiles>::new(Options::default());
    for number in 0..120 {
        scene.controller.trust_provider(&IdentityProvider::new(&format!("idp-{number}")));
    }
    scene.network.write(scene.machine.folder());
    let listed = report(&scene.machine.program().args(["list", "signers", "--format", "json", "--jwt", "gate-7.jwt"]).run());
    let names: Vec<&str> = listed["signers"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!((names.len(), names[0], names[120]), (121, "idp", "idp-119"));
    assert_eq!(scene.controller.counts().connections, 1);
}
