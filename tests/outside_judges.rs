//! What others say of our work: openssl, pkcs11-tool, p11tool, jsonwebtoken.

use std::fs;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use secrecy::SecretString;
use ziti_enroller::jwt::UnverifiedToken;
use ziti_enroller_support::{Controller, Key, KeyType, Options, Outcome, Program, Token, require, second_opinion};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, ending, report};

fn openssl(arguments: &[&str]) -> Program {
    Program::new(require("openssl", "openssl")).args(arguments)
}

/// The public key in a request (`req`) or certificate (`x509`), PEM, as openssl reads it: SubjectPublicKeyInfo, DER.
fn public_key_in(kind: &str, pem: &str, folder: &Path) -> Vec<u8> {
    let (file, der) = (folder.join("judged.pem"), folder.join("judged.der"));
    let shown = openssl(&[kind, "-pubkey", "-noout"]).stdin(pem).run().success().stdout;
    fs::write(&file, shown).expect("the machine's folder is writable");
    openssl(&["pkey", "-pubin", "-outform", "DER", "-in"]).arg(&file).arg("-out").arg(&der).run().success();
    fs::read(der).expect("openssl has written it")
}

mod request {
    use super::*;

    /// Enrolls up to the recorded request and has openssl judge it; then lets the enrollment end.
    fn is_sound<F: Fixture>(algorithm: &str) -> (Machine<F>, Token, String) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<F>::new();
        let token = controller.issue("gate-7");
        let enroll = || machine.enroll(&token).args(["--key-alg", algorithm]);
        Failed::with(ending(enroll(), "recorded-keyed", "error").run(), 70, "unexpected");
        let request = machine.recorded_request(&token);

        let judged = openssl(&["req", "-verify", "-noout", "-text", "-subject"]).stdin(request.as_str()).run().success();
        let said = format!("{}{}", judged.stdout, judged.stderr);
        assert!(said.contains("verify OK"), "{judged}");
        assert!(said.contains(&format!("subject=CN = {}", token.sub())), "{judged}");
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        let attributes = lines.iter().position(|line| *line == "Attributes:").expect("openssl lists attributes");
        assert_eq!(lines[attributes + 1], "(none)", "{judged}");
        assert!(request.ends_with("-----END CERTIFICATE REQUEST-----\n"), "{request:?}");
        assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{request:?}");

        report(&enroll().run());
        let sent = controller.log().requests.iter().find(|one| one.is_enroll()).map(|one| one.body_length);
        assert_eq!(sent, Some(request.len()), "it was not sent as it was recorded");
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
        (machine, token, request)
    }

    /// The same bytes in the device, in the request, and in the certificate.
    fn has_the_key<F: Fixture>(algorithm: &str) {
        let (machine, token, request) = is_sound::<F>(algorithm);
        let identity = machine.identity(&token);
        let key = machine.keys.public_key_of(identity.key());
        assert_eq!(public_key_in("req", &request, machine.folder()), key);
        assert_eq!(public_key_in("x509", identity.pem("cert"), machine.folder()), key);
    }

    #[test]
    fn of_a_p256_file_key_is_accepted_by_openssl() {
        has_the_key::<InFiles>("p256");
    }

    #[test]
    fn of_an_rsa2048_file_key_is_accepted_by_openssl() {
        has_the_key::<InFiles>("rsa2048");
    }

    #[test]
    fn of_a_p256_token_key_is_accepted_by_openssl() {
        has_the_key::<InToken>("p256");
    }

    #[test]
    fn of_an_rsa2048_token_key_is_accepted_by_openssl() {
        has_the_key::<InToken>("rsa2048");
    }

    #[test]
    fn of_a_p384_key_is_signed_with_sha384() {
        let (_, _, request) = is_sound::<InFiles>("p384");
        let text = openssl(&["req", "-noout", "-text"]).stdin(request).run().success().stdout;
        assert!(text.contains("Signature Algorithm: ecdsa-with-SHA384"), "{text}");
    }
}

mod token_key {
    use super::*;

    fn enrolled(algorithm: &str) -> (Machine<InToken>, serde_json::Value) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let said = report(&machine.enroll(&controller.issue("gate-7")).args(["--key-alg", algorithm]).run());
        (machine, said)
    }

    #[test]
    fn never_left_the_token_says_pkcs11_tool() {
        for algorithm in ["p256", "rsa2048"] {
            let (machine, _) = enrolled(algorithm);
            let objects = machine.keys.objects();
            let [private] = &machine.keys.of_class("Private Key Object")[..] else { panic!("{objects:?}") };
            let [public] = &machine.keys.of_class("Public Key Object")[..] else { panic!("{objects:?}") };
            assert_eq!(private.access, "sensitive, always sensitive, never extractable, local", "{algorithm}");
            assert_eq!((&private.id, &private.label), (&public.id, &public.label));
            assert_eq!((objects.len(), private.id.len()), (2, 32), "{objects:?}");
        }
    }

    #[test]
    fn shows_the_public_half_that_was_certified_says_pkcs11_tool() {
        for algorithm in ["p256", "rsa2048"] {
            let (machine, _) = enrolled(algorithm);
            let (id, file) = (machine.keys.of_class("Public Key Object")[0].id.clone(), machine.path("public.der"));
            let tool = machine.keys.tool().args(["--read-object", "--type", "pubkey", "--id", &id, "--output-file"]);
            tool.arg(&file).run().success();
            let certified = crate::machine::IdentityFile::read(&machine.path("gate-7.json")).public_key();
            assert_eq!(fs::read(file).expect("pkcs11-tool has written it"), certified, "{algorithm}");
        }
    }

    #[test]
    fn is_found_by_its_reference_says_p11tool() {
        let (machine, said) = enrolled("p256");
        let reference = said["key"]["reference"].as_str().expect("a reference is text");
        let (uri, _) = reference.split_once('?').expect("module and key");
        let listed = machine.keys.other_tool().args(["--list-all", uri]).run().success().stdout;
        let flags: Vec<&str> = listed.lines().filter_map(|line| line.trim().strip_prefix("Flags:")).collect();
        assert_eq!(flags.len(), 2, "both halves of one key: {listed}");
        let private = flags.iter().find(|flags| flags.contains("CKA_PRIVATE")).expect("a private key");
        for flag in ["CKA_NEVER_EXTRACTABLE", "CKA_SENSITIVE"] {
            assert!(private.contains(flag), "{listed}");
        }
        assert!(!flags.iter().any(|flags| flags.contains(" CKA_EXTRACTABLE") || flags.contains("CKA_UNWRAP;")), "{listed}");
    }
}

#[test]
fn chain_of_the_identity_leads_to_its_anchors_says_openssl() {
    for own_client_signer in [false, true] {
        let controller = Controller::start(Options { own_client_signer, ..Options::default() });
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        let identity = machine.identity(&token);
        for member in ["ca", "cert"] {
            fs::write(machine.path(&format!("{member}.pem")), identity.pem(member)).expect("the machine's folder is writable");
        }
        let verify = openssl(&["verify", "-purpose", "sslclient", "-CAfile", "ca.pem", "-untrusted", "cert.pem", "cert.pem"]);
        let judged: Outcome = verify.current_dir(machine.folder()).run().success();
        assert_eq!(judged.stdout, "cert.pem: OK\n");
        assert_eq!(identity.pem("ca").matches("BEGIN CERTIFICATE").count(), controller.network().certificates().len());
    }
}

#[test]
fn anchors_are_those_of_the_controller_in_an_order_that_never_changes() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    use x509_cert::der::Encode;
    let anchors: Vec<Vec<u8>> = machine.identity(&token).anchors().iter().map(|one| one.to_der().expect("DER")).collect();
    let mut expected = controller.network().certificates();
    expected.sort_unstable();
    assert_eq!(anchors, expected);
}

mod verdict {
    use super::*;

    fn ours(compact: &str, leaf: &[u8]) -> Result<(), String> {
        let token = UnverifiedToken::parse(&SecretString::from(compact)).map_err(|error| error.to_string())?;
        token.verify(&CertificateDer::from(leaf)).map(drop).map_err(|error| error.to_string())
    }

    /// Holds our verdict to jsonwebtoken's, and both to what is right.
    fn agrees(what: &str, compact: &str, leaf: &[u8], good: bool) {
        let (we, they) = (ours(compact, leaf), second_opinion(compact, leaf).map(drop));
        assert_eq!((we.is_ok(), they.is_ok()), (good, good), "{what}: we say {we:?}, jsonwebtoken says {they:?}");
    }

    #[test]
    fn on_good_and_bad_tokens_is_that_of_jsonwebtoken() {
        let other = Controller::start(Options::default());
        for key in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
            let controller = Controller::start(Options { key, ..Options::default() });
            let leaf = controller.server_leaf();
            let good = controller.issue("gate-7");
            agrees("good", good.compact(), &leaf, true);
            agrees("one bit of the signature", good.damaged().compact(), &leaf, false);
            agrees("another's certificate", good.compact(), &other.server_leaf(), false);
            agrees("no certificate", good.compact(), b"", false);
            let stranger = controller.token("gate-7").signed_by(&Key::generate(key)).issue();
            agrees("another's key of the same type", stranger.compact(), &leaf, false);

            let parts: Vec<&str> = good.compact().split('.').collect();
            let [header, claims, signature] = parts[..] else { panic!("three parts") };
            let elsewhere = controller.token("gate-7").iss("https://elsewhere.example").issue();
            let foreign = elsewhere.compact().split('.').nth(1).expect("three parts");
            agrees("another's claims", &format!("{header}.{foreign}.{signature}"), &leaf, false);
            agrees("no signature", &format!("{header}.{claims}."), &leaf, false);
            agrees("two parts", &format!("{header}.{claims}"), &leaf, false);
            agrees("four parts", &format!("{header}.{claims}.{signature}.{signature}"), &leaf, false);
            agrees("a signature cut short", &good.compact()[..good.compact().len() - 4], &leaf, false);
            agrees("a signature made longer", &format!("{}AAAA", good.compact()), &leaf, false);
            agrees("padding", &format!("{}==", good.compact()), &leaf, false);
            for alg in ["none", "HS256", "RS512", "PS256", "RS256", "ES256", "ES384"] {
                let token = controller.token("gate-7").header("alg", alg).issue();
                agrees(&format!("{key} that says {alg}"), token.compact(), &leaf, alg == key.jws());
            }
        }
    }

    #[test]
    fn on_every_length_of_a_token_is_that_of_jsonwebtoken() {
        let controller = Controller::start(Options::default());
        let (token, leaf) = (controller.issue("gate-7"), controller.server_leaf());
        for length in 0..token.compact().len() {
            agrees(&format!("{length} bytes"), &token.compact()[..length], &leaf, false);
        }
    }
}
