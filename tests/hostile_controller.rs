//! What a wrong, broken or hostile controller gets, and what it does not get.

use std::fs;
use std::time::Duration;

use ziti_enroller_support::{Controller, Face, Fault, Key, KeyType, Options, Outcome, Relay, Token};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report};

/// A controller, and a machine whose keys are in a token.
struct Scene {
    controller: Controller,
    machine: Machine<InToken>,
}

impl Scene {
    fn of(options: Options) -> Self {
        Self { controller: Controller::start(options), machine: Machine::new() }
    }

    fn with(fault: Fault) -> Self {
        Self::of(Options { faults: vec![fault], ..Options::default() })
    }

    fn facing(face: Face) -> Self {
        Self::of(Options { face, ..Options::default() })
    }

    /// Enrolls, and holds the program to what must be so whatever failed: no request, no key, no try of the PIN, no
    /// file left behind.
    fn nothing_given(&self, token: &Token) -> Outcome {
        let outcome = self.machine.enroll(token).run();
        assert_eq!(self.controller.enroll_posts(), 0, "it has sent a request: {outcome}");
        assert_eq!(self.machine.keys.logins(), 0, "it has tried the PIN: {outcome}");
        assert_eq!(self.machine.keys.objects(), [], "it has made a key: {outcome}");
        assert!(!self.machine.out(token).exists() && !self.machine.work(token).exists(), "it leaves a file: {outcome}");
        assert!(!self.controller.is_spent(token), "{outcome}");
        outcome
    }
}

mod bad_token {
    use super::*;

    #[test]
    fn that_was_damaged_is_told_from_one_of_somebody_else() {
        let scene = Scene::of(Options::default());
        let outcome = scene.nothing_given(&scene.controller.issue("gate-7").damaged());
        Failed::with(outcome, 12, "token_damaged")
            .says("its signature does not verify")
            .hints("copy the token again")
            .spent("no");
    }

    #[test]
    fn that_expired_six_minutes_ago_is_refused_before_a_connection() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.token("gate-7").expired_since(Duration::from_secs(360)).issue();
        let outcome = scene.nothing_given(&token);
        Failed::with(outcome, 11, "token_expired").says("it expired 6 minutes ago").hints("refresh the enrollment").spent("no");
        assert_eq!(scene.controller.counts().connections, 0);
    }

    #[test]
    fn that_expired_four_minutes_ago_is_left_to_the_controller() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.token("gate-7").expired_since(Duration::from_secs(240)).issue();
        let outcome = scene.machine.enroll(&token).run();
        Failed::with(outcome, 31, "refused_enrollment_expired").says("ENROLLMENT_EXPIRED").hints("refresh").spent("no");
        assert_eq!(scene.controller.enroll_posts(), 1);
        assert_eq!(scene.machine.keys.objects(), [], "the key that it made stays");
    }

    #[test]
    fn that_another_key_signed_is_refused_in_the_handshake() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.token("gate-7").signed_by(&Key::generate(KeyType::P256)).header("kid", "00").issue();
        let outcome = scene.nothing_given(&token);
        Failed::with(outcome, 12, "controller_not_signer")
            .says("was not signed by the certificate that answers there")
            .hints("another certificate answers at https://localhost")
            .spent("no");
        let log = scene.controller.log();
        assert_eq!((log.handshakes.len(), log.requests.len()), (0, 0));
    }

    #[test]
    fn of_a_controller_whose_certificate_was_renewed_says_so() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        scene.controller.renew_certificate();
        Failed::with(scene.nothing_given(&token), 12, "controller_not_signer")
            .hints("renewed since the token was made")
            .spent("no");
    }

    #[test]
    fn of_a_controller_that_kept_its_key_is_taken() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        scene.controller.renew_certificate_with_same_key();
        report(&scene.machine.enroll(&token).run());
    }

    #[test]
    fn is_refused_before_a_connection() {
        let scene = Scene::of(Options::default());
        let controller = &scene.controller;
        let make = || controller.token("gate-7");
        for (token, code, says) in [
            (make().header("alg", "none").issue(), "token_alg", "`none` is not accepted"),
            (make().header("alg", "HS256").issue(), "token_alg", "`HS256` is not accepted"),
            (make().header("crit", "exp").issue(), "token_malformed", "its header has `crit`"),
            (make().claim("em", "erott").issue(), "token_method", "ziti router enroll"),
            (make().without_claim("em").issue(), "token_method", "names no enrollment method"),
            (make().iss("http://localhost").issue(), "token_issuer", "is no address of a controller"),
            (make().without_claim("iss").issue(), "token_issuer", "names no issuer"),
            (make().without_claim("sub").issue(), "token_malformed", "`sub` is missing"),
            (make().claim("sub", "../../etc").issue(), "token_malformed", "`sub` is missing or malformed"),
            (make().without_claim("jti").issue(), "token_jti", "is missing or malformed"),
            (make().claim("exp", "soon").issue(), "token_malformed", "`exp` is not a time"),
        ] {
            Failed::with(scene.nothing_given(&token), 10, code).says(says).spent("no");
        }
        assert_eq!(controller.counts().connections, 0);
    }
}

mod impostor {
    use super::*;

    #[test]
    fn with_the_right_certificate_and_without_its_key_is_found_out() {
        let real = Controller::start(Options::default());
        let scene = Scene::facing(Face::WithoutKey(real.server_chain()));
        let token = real.issue_at("gate-7", &scene.controller.url());
        let outcome = scene.nothing_given(&token);
        Failed::with(outcome, 12, "controller_not_key_owner")
            .says("does not hold the key of the certificate that it shows")
            .hints("pretends to be the controller")
            .spent("no");
        assert_eq!((scene.controller.counts().requests, real.counts().connections), (0, 0));
    }

    #[test]
    fn with_a_forged_certificate_is_found_out() {
        // Where a careless parser looks, it carries the public key that signed the token.
        for key in [KeyType::Rsa2048, KeyType::P256] {
            let real = Controller::start(Options { key, ..Options::default() });
            let scene = Scene::facing(Face::Forged(real.server_leaf()));
            let token = real.issue_at("gate-7", &scene.controller.url());
            let outcome = scene.nothing_given(&token);
            Failed::with(outcome, 12, "controller_not_signer").says("was not signed by the certificate").spent("no");
            assert_eq!((scene.controller.counts().requests, real.counts().connections), (0, 0));
        }
    }

    #[test]
    fn of_another_network_is_found_out() {
        let real = Controller::start(Options::default());
        let scene = Scene::of(Options::default());
        let token = real.issue_at("gate-7", &scene.controller.url());
        Failed::with(scene.nothing_given(&token), 12, "controller_not_signer").hints("an impostor").spent("no");
        assert_eq!(scene.controller.counts().requests, 0);
    }
}

mod chain {
    use super::*;

    /// The certificate that the token names is shown, and does not hold against the CA certificates.
    fn refuses(options: Options, code: &str, says: &str, hints: &str) {
        let scene = Scene::of(options);
        let outcome = scene.nothing_given(&scene.controller.issue("gate-7"));
        Failed::with(outcome, 12, code).says(says).hints(hints).spent("no");
    }

    fn face(face: Face) -> Options {
        Options { face, ..Options::default() }
    }

    fn fault(fault: Fault) -> Options {
        Options { faults: vec![fault], ..Options::default() }
    }

    #[test]
    fn for_another_host_is_refused() {
        refuses(face(Face::WrongHost), "controller_name", "its certificate is for another host", "must name https://localhost");
    }

    #[test]
    fn of_a_foreign_ca_is_refused() {
        let why = "does not hold against its CA certificates";
        refuses(face(Face::ForeignCa), "controller_chain", why, "must hand out the CA that issued its own certificate");
    }

    #[test]
    fn that_has_expired_is_refused_with_what_our_clock_says() {
        refuses(face(Face::Expired), "controller_chain", "it has expired", "the clock of this machine says 20");
    }

    #[test]
    fn that_is_not_valid_yet_is_refused_with_what_our_clock_says() {
        refuses(face(Face::NotYetValid), "controller_chain", "it is not valid yet", "the clock of this machine says 20");
    }

    #[test]
    fn whose_leaf_is_a_ca_is_refused() {
        refuses(face(Face::CaLeaf), "controller_chain", "does not hold against its CA certificates", "the CA that issued");
    }

    #[test]
    fn with_the_ca_certificates_of_another_network_is_refused() {
        refuses(fault(Fault::OtherCacerts), "controller_chain", "none of them has issued it", "must hand out the CA");
    }

    #[test]
    fn that_lacks_an_intermediate_is_refused() {
        refuses(fault(Fault::MissingIntermediate), "controller_chain", "none of them has issued it", "must hand out the CA");
    }

    #[test]
    fn with_its_root_in_it_is_taken() {
        let scene = Scene::with(Fault::RootInChain);
        report(&scene.machine.enroll(&scene.controller.issue("gate-7")).run());
    }
}

mod cacerts {
    use super::*;

    fn refuses(fault: Fault, code: &str, says: &str) {
        let scene = Scene::with(fault);
        let outcome = scene.nothing_given(&scene.controller.issue("gate-7"));
        Failed::with(outcome, 12, code).says(says).hints("does not behave like an OpenZiti controller").spent("no");
    }

    #[test]
    fn without_a_certificate_are_refused() {
        refuses(Fault::CacertsEmpty, "cacerts_unusable", "it has no CA certificate");
    }

    #[test]
    fn that_are_a_web_page_are_refused() {
        refuses(Fault::CacertsHtml, "cacerts_unusable", "it is not base64");
    }

    #[test]
    fn that_are_pem_are_refused() {
        refuses(Fault::CacertsPem, "cacerts_unusable", "it is not base64");
    }

    #[test]
    fn of_ten_mebibytes_are_refused() {
        refuses(Fault::CacertsLarge, "cacerts_unusable", "its CA certificates cannot be used");
    }

    #[test]
    fn that_are_too_many_are_refused() {
        refuses(Fault::Cacerts65, "cacerts_unusable", "it has 65 certificates");
    }

    #[test]
    fn behind_a_redirect_are_refused() {
        refuses(Fault::Redirect, "redirect", "it redirects to");
    }

    #[test]
    fn with_more_in_them_become_anchors_as_far_as_they_are_cas() {
        let scene = Scene::with(Fault::CacertsMixed);
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        assert_eq!(scene.machine.identity(&token).anchors().len(), 2);
    }

    #[test]
    fn of_a_controller_in_trouble_may_be_had_later() {
        let scene = Scene::with(Fault::Cacerts500);
        let token = scene.controller.issue("gate-7");
        Failed::with(scene.nothing_given(&token), 30, "unreachable").says("status 500").hints("same command again").spent("no");
        scene.controller.set_faults([]);
        report(&scene.machine.enroll(&token).run());
    }

    #[test]
    fn that_come_compressed_are_refused() {
        let scene = Scene::with(Fault::Gzip);
        let outcome = scene.nothing_given(&scene.controller.issue("gate-7"));
        Failed::with(outcome, 30, "unreachable").says("compressed, though we ask for plain").spent("no");
    }
}

#[test]
fn controller_that_is_not_there_costs_nothing() {
    let scene = Scene::of(Options::default());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let token = scene.controller.issue_at("gate-7", &format!("https://localhost:{}", nobody.port()));
    Failed::with(scene.nothing_given(&token), 30, "unreachable")
        .says("cannot reach controller https://localhost")
        .hints("run the same command again when the controller can be reached")
        .spent("no");
}

mod wrong_answer {
    use super::*;

    /// The token is spent, and what it bought cannot be used: all is kept, and a rerun asks nobody.
    fn keeps(fault: Fault, code: &str, says: &str) {
        let scene = Scene::with(fault);
        let Scene { controller, machine } = scene;
        let token = controller.issue("gate-7");
        let hint = "the key and the answer are kept";
        Failed::with(machine.enroll(&token).run(), 40, code).says(says).says("it is kept in").hints(hint).spent("yes");
        assert!(controller.is_spent(&token));
        assert!(!machine.out(&token).exists(), "an identity appeared");
        let answer = fs::read(machine.work(&token).join("answer")).expect("the answer is in the work folder");
        let rejected = fs::read(machine.path("gate-7.rejected.pem")).expect("the certificates are beside the output");
        assert!(!answer.is_empty());
        assert_eq!(machine.keys.private_keys(), 1, "the key is gone");

        drop(controller);
        Failed::with(machine.enroll(&token).run(), 40, code).says(says).hints(hint).spent("yes");
        assert_eq!(fs::read(machine.work(&token).join("answer")).ok(), Some(answer));
        assert_eq!(fs::read(machine.path("gate-7.rejected.pem")).ok(), Some(rejected));
        assert_eq!(machine.keys.private_keys(), 1, "the rerun has deleted the key");
    }

    #[test]
    fn for_another_key_is_kept() {
        keeps(Fault::OtherKey, "certificate_other_key", "for another public key than ours");
    }

    #[test]
    fn of_another_ca_is_kept() {
        keeps(Fault::OtherCa, "certificate_chain", "does not lead to the controller's CA certificates");
    }

    #[test]
    fn that_has_expired_is_kept() {
        keeps(Fault::ExpiredCert, "certificate_expired", "the certificate ended at 20");
    }

    #[test]
    fn that_is_not_for_clients_is_kept() {
        keeps(Fault::NoClientAuth, "certificate_usage", "not for client authentication");
    }

    #[test]
    fn that_is_a_ca_is_kept() {
        keeps(Fault::CaCert, "certificate_usage", "not for client authentication");
    }

    #[test]
    fn for_another_identity_is_kept() {
        keeps(Fault::OtherSub, "answer_unusable", "the certificate is for another identity: spiffe://");
    }

    #[test]
    fn without_a_certificate_is_kept() {
        keeps(Fault::NoCert, "answer_unusable", "it holds no certificate");
    }

    #[test]
    fn that_ends_within_the_certificate_is_kept() {
        keeps(Fault::TruncatedPem, "answer_unusable", "it is not PEM");
    }

    #[test]
    fn that_is_a_web_page_is_kept() {
        keeps(Fault::Html200, "answer_unusable", "it is neither JSON nor PEM");
    }

    #[test]
    fn that_is_empty_is_kept() {
        keeps(Fault::Empty200, "answer_unusable", "it is neither JSON nor PEM");
    }

    #[test]
    fn with_the_leaf_alone_has_a_chain_if_the_anchors_do() {
        // The issuer is among the CA certificates that the controller hands out.
        let scene = Scene::with(Fault::LeafOnly);
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        assert_eq!(scene.machine.identity(&token).chain().len(), 1);
    }

    #[test]
    fn that_is_bare_pem_is_taken() {
        let scene = Scene::with(Fault::NoAcceptJson);
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        report(&scene.machine.verify(&token).run());
    }
}

mod refusal {
    use super::*;

    fn refused(code: &str, status: u16) -> Scene {
        Scene::with(Fault::Refuse(code.into(), status))
    }

    #[test]
    fn deletes_the_key_that_was_made_for_it() {
        let scene = refused("COULD_NOT_PROCESS_CSR", 400);
        let token = scene.controller.issue("gate-7");
        let outcome = scene.machine.enroll(&token).run();
        assert!(outcome.stderr.contains("was made for an enrollment that did not happen: deleted"), "{outcome}");
        Failed::with(outcome, 31, "refused_could_not_process_csr")
            .says("COULD_NOT_PROCESS_CSR (status 400)")
            .hints("the token can be used again")
            .spent("no");
        assert_eq!(scene.machine.keys.objects(), []);
        assert!(!scene.machine.out(&token).exists() && !scene.machine.work(&token).exists());
        assert_eq!(scene.controller.enroll_posts(), 1);

        scene.controller.set_faults([]);
        report(&scene.machine.enroll(&token).run());
    }

    #[test]
    fn does_not_delete_a_key_that_was_there_before() {
        let scene = refused("COULD_NOT_PROCESS_CSR", 400);
        scene.machine.keys.make("mine", KeyType::P256);
        let before = scene.machine.keys.objects();
        let token = scene.controller.issue("gate-7");
        let reference = scene.machine.keys.reference("mine");
        let outcome = scene.machine.enroll_with(&token).args(["--key", &reference]).run();
        Failed::with(outcome, 31, "refused_could_not_process_csr").spent("no");
        assert_eq!(scene.machine.keys.objects(), before);
    }

    #[test]
    fn does_not_delete_the_key_of_an_earlier_enrollment() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        let before = scene.machine.keys.objects();
        scene.controller.set_faults([Fault::Refuse("ENROLLMENT_EXPIRED".into(), 400)]);
        let again = scene.controller.re_enroll(token.sub());
        Failed::with(scene.machine.enroll(&again).arg("--force").run(), 31, "refused_enrollment_expired").spent("no");
        assert_eq!(scene.machine.keys.objects(), before);
        assert!(scene.machine.out(&token).exists(), "the old identity is gone");
    }

    #[test]
    fn that_the_token_is_not_there_says_that_somebody_may_have_used_it() {
        let scene = Scene::with(Fault::Gone);
        let token = scene.controller.issue("gate-7");
        Failed::with(scene.machine.enroll(&token).run(), 32, "token_gone")
            .says("it was used by someone else, refreshed, or never valid there")
            .hints(token.sub())
            .spent("yes");
        assert_eq!(scene.controller.enroll_posts(), 1);
        assert_eq!(scene.machine.keys.objects(), [], "the key that was made stays");
    }

    #[test]
    fn of_a_token_that_was_used_before_is_the_same() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        let other = Machine::<InFiles>::new();
        report(&other.enroll(&token).run());
        Failed::with(scene.machine.enroll(&token).run(), 32, "token_gone").hints("authenticators of identity").spent("yes");
        assert_eq!(scene.controller.authenticators().len(), 1);
    }
}

mod own_fault {
    use super::*;

    #[test]
    fn wrong_pin_is_tried_once_and_the_token_is_not_spent() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        let file = scene.machine.path("wrong.pin");
        fs::write(&file, "000000").expect("the machine's folder is writable");
        let place = scene.machine.keys.place();
        let jwt = token.write(scene.machine.folder());
        let program = scene.machine.program().args(["enroll", "--format", "json", "--provider", "pkcs11"]).args(place);
        let outcome = program.arg("--jwt").arg(jwt).arg("--pin-file").arg(&file).run();
        assert!(!outcome.to_string().contains("000000"), "{outcome}");
        Failed::with(outcome, 21, "pin_incorrect")
            .says(&format!("refused the PIN from {}", file.display()))
            .says("CKR_PIN_INCORRECT")
            .hints("may lock it")
            .spent("no");
        assert_eq!((scene.machine.keys.logins(), scene.controller.enroll_posts()), (1, 0));
        assert_eq!(scene.machine.keys.objects(), []);
        assert!(!scene.machine.out(&token).exists());
    }

    #[test]
    fn last_try_of_a_pin_is_not_used() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        // CKF_USER_PIN_FINAL_TRY
        let outcome = scene.machine.enroll(&token).env("P11FAULT", "token-flags:+0x20000").run();
        Failed::with(outcome, 22, "pin_final_try").says("no try was used").hints("--allow-final-try").spent("no");
        assert_eq!((scene.machine.keys.logins(), scene.controller.enroll_posts()), (0, 0));
        let outcome = scene.machine.enroll(&token).arg("--allow-final-try").env("P11FAULT", "token-flags:+0x20000").run();
        report(&outcome);
        assert_eq!(scene.machine.keys.logins(), 1);
    }

    #[test]
    fn locked_pin_is_not_tried() {
        let scene = Scene::of(Options::default());
        // CKF_USER_PIN_LOCKED
        let program = scene.machine.enroll(&scene.controller.issue("gate-7")).env("P11FAULT", "token-flags:+0x40000");
        Failed::with(program.run(), 22, "pin_locked").says("is locked").hints("security officer").spent("no");
        assert_eq!((scene.machine.keys.logins(), scene.controller.enroll_posts()), (0, 0));
    }

    #[test]
    fn output_that_exists_stops_before_a_connection() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        fs::write(scene.machine.out(&token), "precious").expect("the machine's folder is writable");
        let outcome = scene.machine.enroll(&token).run();
        Failed::with(outcome, 50, "output_exists").says("it is there already").hints("--force").spent("no");
        assert_eq!((scene.controller.counts().connections, scene.machine.keys.hsm.calls().len()), (0, 0));
        assert_eq!(fs::read_to_string(scene.machine.out(&token)).ok().as_deref(), Some("precious"));
        report(&scene.machine.enroll(&token).arg("--force").run());
        scene.machine.identity(&token);
    }

    #[test]
    fn output_that_is_a_link_or_a_folder_stops_even_with_force() {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        std::os::unix::fs::symlink("elsewhere.json", scene.machine.out(&token)).expect("the machine's folder is writable");
        let outcome = scene.machine.enroll(&token).arg("--force").run();
        Failed::with(outcome, 50, "output_is_symlink").says("symbolic link").hints("--out").spent("no");
        fs::remove_file(scene.machine.out(&token)).expect("a link of ours");
        fs::create_dir(scene.machine.out(&token)).expect("the machine's folder is writable");
        let outcome = scene.machine.enroll(&token).arg("--force").run();
        Failed::with(outcome, 50, "output_not_a_file").says("not a regular file").hints("--out").spent("no");
        assert_eq!(scene.controller.counts().connections, 0);
    }

    #[test]
    fn folder_that_is_missing_stops_before_a_connection() {
        let scene = Scene::of(Options::default());
        let outcome = scene.machine.enroll(&scene.controller.issue("gate-7")).args(["--out", "no/gate-7.json"]).run();
        Failed::with(outcome, 50, "folder_missing").says("no such folder").hints("mkdir -p").spent("no");
        assert_eq!(scene.controller.counts().connections, 0);
    }
}

mod manners {
    use super::*;

    /// What a controller may do, if unusually: it works, with so many handshakes.
    fn works(fault: Fault, handshakes: usize) {
        let scene = Scene::with(fault);
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        let counts = scene.controller.counts();
        assert_eq!((counts.handshakes, counts.requests, counts.enroll_posts), (handshakes, 2, 1));
        assert_eq!(scene.controller.authenticators().len(), 1);
        assert!(scene.controller.violations().is_empty(), "{:?}", scene.controller.violations());
    }

    #[test]
    fn closing_after_the_ca_certificates_costs_a_handshake() {
        works(Fault::CloseAfterCacerts, 2);
    }

    #[test]
    fn announcing_the_close_costs_a_handshake() {
        works(Fault::CloseHeader, 2);
    }

    #[test]
    fn closing_an_idle_connection_costs_a_handshake() {
        // Such a key takes longer than that to make.
        let scene = Scene::with(Fault::IdleClose(20));
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).args(["--key-alg", "rsa3072"]).run());
        let counts = scene.controller.counts();
        assert_eq!((counts.handshakes, counts.enroll_posts, scene.controller.authenticators().len()), (2, 1, 1));
    }

    #[test]
    fn answering_in_chunks_is_fine() {
        works(Fault::Chunked, 1);
    }

    #[test]
    fn answering_slowly_is_fine() {
        works(Fault::Drip(20_000), 1);
    }
}

mod login {
    use super::*;

    fn enrolled() -> (Scene, Token) {
        let scene = Scene::of(Options::default());
        let token = scene.controller.issue("gate-7");
        report(&scene.machine.enroll(&token).run());
        (scene, token)
    }

    #[test]
    fn that_is_refused_says_what_may_be_the_reason() {
        let (scene, token) = enrolled();
        scene.controller.set_faults([Fault::Login401]);
        Failed::with(scene.machine.verify(&token).run(), 60, "login_refused")
            .says("did not accept the login")
            .says("INVALID_AUTH")
            .hints("disabled or deleted, enrolled anew, or its certificate expired")
            .spent("yes");
    }

    #[test]
    fn of_an_identity_that_was_enrolled_anew_is_refused() {
        let (scene, token) = enrolled();
        scene.controller.re_enroll(token.sub());
        Failed::with(scene.machine.verify(&token).run(), 60, "login_refused").hints("enrolled anew").spent("yes");
    }

    #[test]
    fn that_wants_a_second_factor_was_taken_all_the_same() {
        let (scene, token) = enrolled();
        scene.controller.set_faults([Fault::LoginMfa]);
        Failed::with(scene.machine.verify(&token).run(), 61, "login_needs_more").says("a second factor is due").spent("yes");
        assert_eq!(scene.controller.sessions_open(), 0);
    }

    #[test]
    fn to_an_impostor_shows_no_certificate() {
        let scene = Scene::of(Options::default());
        let relay = Relay::start(scene.controller.address(), Duration::ZERO);
        let token = scene.controller.issue_at("gate-7", &relay.url());
        report(&scene.machine.enroll(&token).run());
        let foreign = Controller::start(Options::default());
        relay.set_target(foreign.address());
        Failed::with(scene.machine.verify(&token).run(), 12, "controller_chain").says("none of them has issued it");
        let log = foreign.log();
        assert_eq!((log.handshakes.len(), log.requests.len()), (0, 0));
    }
}
