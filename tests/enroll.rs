//! From a token to an identity that logs in.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use ziti_enroller_support::{Controller, KeyType, Like, Options, Program, Running, Tls, Token};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, PROGRAM, ending, report, text};

mod file {
    use super::*;

    #[test]
    fn p256_key_enrolls_and_logs_in() {
        enrolls_everywhere::<InFiles>("p256");
    }

    #[test]
    fn rsa2048_key_enrolls_and_logs_in() {
        enrolls_everywhere::<InFiles>("rsa2048");
    }
}

mod pkcs11 {
    use super::*;

    #[test]
    fn p256_key_enrolls_and_logs_in() {
        enrolls_everywhere::<InToken>("p256");
    }

    #[test]
    fn rsa2048_key_enrolls_and_logs_in() {
        enrolls_everywhere::<InToken>("rsa2048");
    }
}

/// Controllers that sign with RS256 and ES256, over TLS 1.2 and 1.3, of an older and a newer release.
fn enrolls_everywhere<F: Fixture>(algorithm: &str) {
    for (key, tls, like) in [
        (KeyType::Rsa2048, Tls::Only12, Like::V2_1),
        (KeyType::Rsa2048, Tls::Only13, Like::V1_4),
        (KeyType::P256, Tls::Only12, Like::V1_4),
        (KeyType::P256, Tls::Only13, Like::V2_1),
    ] {
        enrolls::<F>(algorithm, Options { key, tls, like, ..Options::default() });
    }
}

fn enrolls<F: Fixture>(algorithm: &str, options: Options) {
    let version = if options.tls == Tls::Only12 { "TLSv1_2" } else { "TLSv1_3" };
    let case = format!("{} {algorithm}, {options:?}", F::PROVIDER);
    let controller = Controller::start(options);
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");

    let enrolled = machine.enroll(&token).args(["--key-alg", algorithm]).run();
    let said = report(&enrolled);
    assert_eq!(enrolled.stderr, "", "{case}");
    assert_eq!((&said["key"]["algorithm"], &said["key"]["created"]), (&json!(algorithm), &json!(true)), "{case}");

    let log = controller.log();
    let counts = log.counts();
    assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 2, 1), "{case}");
    assert_eq!(log.handshakes[0].version, version, "{case}");
    assert!(log.violations.is_empty(), "{case}: {:?}", log.violations);

    let identity = machine.identity(&token);
    let issued = controller.authenticators();
    assert_eq!(issued.len(), 1, "{case}");
    let key = machine.keys.public_key_of(identity.key());
    assert_eq!((&key, &key), (&issued[0].spki_der, &identity.public_key()), "{case}");
    assert_eq!(identity.api(), format!("{}/edge/client/v1", controller.url()), "{case}");
    assert_eq!((identity.chain().len(), identity.anchors().len()), (2, 2), "{case}");
    assert!(!machine.work(&token).exists(), "{case}");

    let verified = machine.verify(&token).run();
    let said = report(&verified);
    assert_eq!(verified.stderr, "", "{case}");
    assert_eq!((&said["name"], &said["identity"]["id"]), (&json!("gate-7"), &json!(token.sub())), "{case}");
    let log = controller.log();
    let login = log.handshakes.last().expect("a login has a handshake");
    let shown = login.client_certificate.as_ref().expect("a login shows a certificate");
    assert_eq!((&*login.version, &shown.fingerprint_sha1), (version, &issued[0].fingerprint_sha1), "{case}");
    assert_eq!((controller.sessions_open(), log.violations.len()), (0, 0), "{case}: {:?}", log.violations);
}

#[test]
fn takes_tokens_that_are_signed_with_es384_and_es512() {
    for key in [KeyType::P384, KeyType::P521] {
        enrolls::<InFiles>("p256", Options { key, ..Options::default() });
    }
}

#[test]
fn prefers_a_post_quantum_key_exchange() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    machine.enroll(&controller.issue("gate-7")).run().success();
    assert_eq!(controller.log().handshakes[0].group.as_deref(), Some("X25519MLKEM768"));
}

#[test]
fn says_who_was_enrolled_and_who_can_read_it() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let file = token.write(machine.folder());
    // A module is known by its name.
    let module = machine.path("libsofthsm2.so");
    std::os::unix::fs::symlink(machine.keys.hsm.module(), &module).expect("the machine's folder is writable");
    let enrolled = machine.program().args(["enroll", "--provider", "pkcs11", "--module"]).arg(module).args(machine.keys.pin());
    let enrolled = enrolled.arg("--jwt").arg(file).run().success();
    assert_eq!(enrolled.stderr, "", "{enrolled}");
    let lines: Vec<&str> = enrolled.stdout.lines().collect();
    let [first, readers, surroundings] = lines[..] else { panic!("{enrolled}") };
    let out = text(&machine.out(&token));
    for part in [token.sub(), &controller.url(), &out, "new p256 key", "in token `ziti-test`", "SoftHSM"] {
        assert!(first.contains(part), "`{part}`: {enrolled}");
    }
    assert!(readers.starts_with("readable by: ziti-enroller"), "{enrolled}");
    assert!(surroundings.contains(&format!("SOFTHSM2_CONF={}", machine.keys.hsm.conf().display())), "{enrolled}");
    let verified = machine.program().arg("verify").arg(&out).args(machine.keys.pin()).run().success();
    assert_eq!((verified.stdout.lines().count(), &*verified.stderr), (1, ""), "{verified}");
    assert!(verified.stdout.contains("is `gate-7`"), "{verified}");
}

#[test]
fn report_has_every_field_that_was_promised() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let said = report(&machine.enroll(&token).run());
    let issued = &controller.authenticators()[0];
    assert_eq!(said["command"], "enroll");
    let out = text(&machine.out(&token));
    assert_eq!(said["identity"], json!({"id": token.sub(), "controller": controller.url(), "file": out}));
    assert_eq!(
        said["token"],
        json!({"label": "ziti-test", "serial": machine.keys.hsm.serial(), "model": "SoftHSM v2", "software": true})
    );
    let key = &said["key"];
    assert_eq!((&key["provider"], &key["extractable"]), (&json!("pkcs11"), &json!(false)));
    let reference = key["reference"].as_str().expect("a reference is text");
    assert!(reference.starts_with("pkcs11:") && !reference.contains(machine.keys.hsm.pin()), "{reference}");
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.spki_der);
    assert_eq!(key["spki_sha256"], sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert_eq!(said["certificate"]["fingerprint_sha1"], json!(issued.fingerprint_sha1));
    for time in ["not_before", "not_after"] {
        let time = said["certificate"][time].as_str().expect("a time is text");
        assert!(time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
    // What it names can be pasted behind --key.
    let again = controller.re_enroll(token.sub());
    let again = report(&machine.enroll_with(&again).args(["--force", "--key", reference]).run());
    assert_eq!((&again["key"]["reference"], &again["key"]["created"]), (&json!(reference), &json!(false)));
}

#[test]
fn identity_of_a_token_key_holds_no_private_key_and_no_pin() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    machine.enroll(&token).run().success();
    let identity = machine.identity(&token);
    assert!(!identity.text.contains("PRIVATE KEY") && !identity.text.contains(machine.keys.hsm.pin()), "{}", identity.text);
    let module = text(&machine.keys.hsm.module());
    let serial = machine.keys.hsm.serial();
    let key = identity.key();
    assert!(key.starts_with(&format!("pkcs11://{module}?slot=0x")) && key.contains(&format!("&serial={serial}")), "{key}");
}

#[test]
fn new_token_for_the_same_identity_finds_the_same_key() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    machine.enroll(&token).run().success();
    let again = controller.re_enroll(token.sub());
    let said = report(&machine.enroll(&again).args(["--force", "--key", "auto"]).run());
    assert_eq!(said["key"]["created"], false);
    assert_eq!(machine.keys.private_keys(), 1);
    let issued = controller.authenticators();
    assert_eq!((issued.len(), &issued[0].spki_der), (2, &issued[1].spki_der));
    machine.verify(&again).run().success();
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn keys_of_two_identities_share_a_token() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let tokens = ["gate-7", "gate-8"].map(|name| controller.issue(name));
    for token in &tokens {
        machine.enroll(token).run().success();
    }
    assert_eq!(machine.keys.private_keys(), 2);
    for token in &tokens {
        machine.verify(token).run().success();
    }
}

mod command_line {
    use super::*;

    #[test]
    fn historical_one_writes_a_file_key_beside_the_token() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let enrolled = machine.program().args(["-v", "--jwt"]).arg(&file).run().success();
        assert!(enrolled.stdout.starts_with(&format!("enrolled {} at {}", token.sub(), controller.url())), "{enrolled}");
        assert!(!enrolled.stderr.is_empty(), "-v says nothing: {enrolled}");
        let identity = machine.identity(&token);
        assert!(identity.key().starts_with("pem:-----BEGIN PRIVATE KEY-----\n"));
        assert!(file.exists(), "the token is removed without --rm");
    }

    #[test]
    fn historical_letters_name_output_and_curve() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        token.write(machine.folder());
        machine.program().args(["-j", "gate-7.jwt", "-o", "here.json", "-a", "EC"]).run().success();
        let identity = crate::machine::IdentityFile::read(&machine.path("here.json"));
        let key = machine.keys.public_key_of(identity.key());
        // id-ecPublicKey with secp384r1
        assert!(key.windows(7).any(|oid| oid == [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]), "{key:02x?}");
    }

    #[test]
    fn rm_removes_the_token_only_on_success() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let damaged = token.damaged().write(machine.folder());
        Failed::with(machine.program().args(["--format", "json", "--rm", "-j"]).arg(&damaged).run(), 12, "token_damaged");
        assert!(damaged.exists(), "the token is removed without an identity");
        let file = token.write(machine.folder());
        machine.program().args(["--rm", "-j"]).arg(&file).run().success();
        assert!(machine.out(&token).exists() && !file.exists(), "the token stays");
    }

    #[test]
    fn every_option_has_a_variable() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let hsm = &machine.keys.hsm;
        let program = machine.program().arg("enroll").env("ZITI_ENROLLER_JWT", file).env("ZITI_ENROLLER_OUT", "here.json");
        let program = program.env("ZITI_ENROLLER_PROVIDER", "pkcs11").env("ZITI_ENROLLER_KEY_ALG", "rsa2048");
        let program = program.env("ZITI_ENROLLER_MODULE", hsm.module()).env("ZITI_ENROLLER_TOKEN", hsm.serial());
        let program = program.env("ZITI_ENROLLER_PIN_FILE", hsm.pin_file()).env("ZITI_ENROLLER_FORMAT", "json");
        let said = report(&program.run());
        assert_eq!((&said["key"]["algorithm"], &said["key"]["provider"]), (&json!("rsa2048"), &json!("pkcs11")));
        assert!(machine.path("here.json").exists());
    }

    #[test]
    fn module_may_be_named_by_the_variable_that_other_tools_read() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let program = machine.enroll_with(&token).args(["--provider", "pkcs11"]);
        program.env("PKCS11_MODULE_PATH", machine.keys.hsm.module()).run().success();
        assert_eq!(machine.keys.private_keys(), 1);
    }
}

mod token_source {
    use super::*;

    fn enrolls_from(start: impl FnOnce(Program, &Token) -> Program) -> (Controller, Machine<InFiles>) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let enrolled = start(machine.program(), &token).run().success();
        assert!(!enrolled.to_string().contains(token.jti()), "{enrolled}");
        machine.identity(&token);
        (controller, machine)
    }

    #[test]
    fn may_be_standard_input() {
        let newline = |token: &Token| format!("{}\n", token.compact());
        enrolls_from(|program, token| program.args(["--jwt", "-", "--out", "gate-7.json"]).stdin(newline(token)));
    }

    #[test]
    fn may_be_the_environment() {
        enrolls_from(|program, token| program.args(["enroll", "--out", "gate-7.json"]).env("ZITI_ENROLL_TOKEN", token.compact()));
    }

    #[test]
    fn without_a_file_needs_an_output() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let refused = machine.program().args(["enroll", "--format", "json"]).env("ZITI_ENROLL_TOKEN", token.compact()).run();
        Failed::with(refused, 2, "usage").says("needs --out").hints("--out").spent("no");
        assert_eq!(controller.counts().connections, 0);
    }

    #[test]
    fn that_is_nowhere_is_an_error() {
        let machine = Machine::<InFiles>::new();
        let enroll = || machine.program().args(["enroll", "--format", "json"]);
        Failed::with(enroll().run(), 10, "token_missing").says("none was given").hints("--jwt").spent("no");
        Failed::with(enroll().args(["--jwt", "no.jwt"]).run(), 10, "token_missing").says("no.jwt").hints("--jwt").spent("no");
    }
}

mod pin_source {
    use super::*;

    /// Enrolls and verifies with the PIN from where `give` puts it; one login each.
    fn takes(give: impl Fn(Program, &InToken) -> Program) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let program = machine.program().args(["enroll", "--provider", "pkcs11"]).args(machine.keys.place());
        give(program.arg("--jwt").arg(file), &machine.keys).run().success();
        assert_eq!(machine.keys.logins(), 1);
        give(machine.program().arg("verify").arg(machine.out(&token)), &machine.keys).run().success();
        assert_eq!(machine.keys.logins(), 2);
    }

    #[test]
    fn may_be_a_file() {
        takes(|program, keys| program.arg("--pin-file").arg(keys.hsm.pin_file()));
    }

    #[test]
    fn may_be_the_environment() {
        takes(|program, keys| program.env("ZITI_ENROLLER_PIN", keys.hsm.pin()));
    }

    #[test]
    fn may_be_a_credential_of_systemd() {
        takes(|program, keys| {
            let folder = keys.hsm.directory().join("credentials");
            fs::create_dir_all(&folder).expect("the folder of the token is writable");
            fs::write(folder.join("ziti-enroller.pin"), keys.hsm.pin()).expect("the folder of the token is writable");
            program.env("CREDENTIALS_DIRECTORY", folder)
        });
    }

    #[test]
    fn may_be_an_open_descriptor() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let shell = Program::new("/bin/sh").envs(machine.keys.hsm.env()).current_dir(machine.folder());
        let shell = shell.env("PIN", machine.keys.hsm.pin_file()).args(["-c", "exec \"$@\" 7<\"$PIN\"", "sh", PROGRAM]);
        let shell = shell.args(["enroll", "--pin-fd", "7", "--provider", "pkcs11"]).args(machine.keys.place());
        shell.arg("--jwt").arg(file).run().success();
        assert_eq!(machine.keys.logins(), 1);
    }

    #[test]
    fn may_be_named_in_the_reference() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        machine.keys.make("mine", KeyType::P256);
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let reference = format!("{}&pin-source=file:{}", machine.keys.reference("mine"), text(&machine.keys.hsm.pin_file()));
        let program = machine.program().args(["enroll", "--format", "json", "--key", &reference]).arg("--jwt").arg(file);
        assert_eq!(report(&program.run())["key"]["created"], false);
        assert_eq!(machine.keys.logins(), 1);
    }

    #[test]
    fn that_is_nowhere_costs_no_try() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let file = token.write(machine.folder());
        let program = machine.program().args(["enroll", "--format", "json", "--provider", "pkcs11"]).args(machine.keys.place());
        Failed::with(program.arg("--jwt").arg(file).run(), 21, "pin_missing")
            .says("wants a PIN and none was given")
            .hints("--pin-file")
            .spent("no");
        assert_eq!((machine.keys.logins(), controller.enroll_posts()), (0, 0));
    }

    #[test]
    fn that_others_can_write_costs_no_try() {
        use std::os::unix::fs::PermissionsExt;
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let mode = fs::Permissions::from_mode(0o620);
        fs::set_permissions(machine.keys.hsm.pin_file(), mode).expect("the PIN file is ours");
        Failed::with(machine.enroll(&controller.issue("gate-7")).run(), 21, "pin_file_unsafe")
            .says("can be written by others than its owner; no try was used")
            .hints("chmod go-w")
            .spent("no");
        assert_eq!((machine.keys.logins(), controller.enroll_posts()), (0, 0));
    }
}

mod inspect {
    use super::*;

    fn inspected(machine: &Machine<InToken>, file: &Path) -> serde_json::Value {
        let said = report(&machine.program().args(["inspect", "--format", "json"]).arg(file).run());
        assert_eq!(said["command"], "inspect");
        said
    }

    #[test]
    fn says_what_token_identity_and_certificate_are() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");

        let file = token.write(machine.folder());
        let said = inspected(&machine, &file);
        assert_eq!((&said["kind"], &said["controller"]), (&json!("token"), &json!(controller.url())));
        assert_eq!((&said["subject"], &said["method"]), (&json!(token.sub()), &json!("ott")));
        assert_eq!((&said["algorithm"], &said["expired"]), (&json!("ES256"), &json!(false)));
        assert!(!said.to_string().contains(token.jti()), "the one-time token is shown: {said}");

        machine.enroll(&token).run().success();
        machine.keys.hsm.clear_calls();
        let said = inspected(&machine, &machine.out(&token));
        let issued = &controller.authenticators()[0];
        assert_eq!((&said["kind"], &said["anchors"]), (&json!("identity"), &json!(2)));
        assert_eq!(said["key"], json!(machine.identity(&token).key()));
        assert_eq!(said["certificates"][0]["fingerprint_sha1"], json!(issued.fingerprint_sha1));
        assert_eq!(machine.keys.hsm.calls(), [""; 0], "the token was asked");

        let file = machine.path("leaf.pem");
        fs::write(&file, &issued.cert_pem).expect("the machine's folder is writable");
        let said = inspected(&machine, &file);
        assert_eq!(said["kind"], "certificates");
        let leaf = &said["certificates"][0];
        assert_eq!((&leaf["fingerprint_sha1"], &leaf["is_ca"]), (&json!(issued.fingerprint_sha1), &json!(false)));
        assert!(leaf["spiffe"].as_str().is_some_and(|id| id.ends_with(&format!("/identity/{}", token.sub()))), "{leaf}");
        assert_eq!(said["certificates"][1]["is_ca"], true);

        // Enrollment: two requests. Looking at files: none.
        assert_eq!(controller.counts().requests, 2);
    }

    #[test]
    fn shows_no_pin_of_an_identity() {
        let machine = Machine::<InToken>::new();
        let controller = Controller::start(Options::default());
        let token = controller.issue("gate-7");
        machine.enroll(&token).run().success();
        let mut identity = machine.identity(&token);
        identity.json["id"]["key"] = json!(format!("{}&pin=84629173&5501", identity.key()));
        let file = machine.path("with-pin.json");
        fs::write(&file, identity.json.to_string()).expect("the machine's folder is writable");
        let said = inspected(&machine, &file);
        let key = said["key"].as_str().expect("a reference is text");
        assert!(!key.contains("pin") && !key.contains("84629173") && !key.contains("5501"), "{said}");
    }
}

mod secrets {
    use super::*;

    /// A run that stands still right before the request, when it has read token and PIN.
    fn held(program: Program, controller: &Controller) -> Running {
        let running = ending(program, "before_post", "hang").start();
        controller.wait_for("the request for CA certificates", Duration::from_secs(20), |log| !log.requests.is_empty());
        running
    }

    #[test]
    fn are_not_in_the_environment_of_the_running_program() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let program = machine.program().args(["enroll", "--out", "gate-7.json", "--provider", "pkcs11"]);
        let program = program.args(machine.keys.place()).env("ZITI_ENROLL_TOKEN", token.compact());
        let mut running = held(program.env("ZITI_ENROLLER_PIN", machine.keys.hsm.pin()), &controller);
        // Until it has logged in, and so has the PIN.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while machine.keys.logins() == 0 {
            assert!(std::time::Instant::now() < deadline, "it does not log in");
            std::thread::yield_now();
        }
        let process = format!("/proc/{}", running.id());
        for place in ["environ", "cmdline"] {
            let shown = match fs::read(format!("{process}/{place}")) {
                Ok(shown) => shown,
                // Not even readable: it is not dumpable, and we are not root.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => continue,
                Err(error) => panic!("{place}: {error}"),
            };
            let has = |text: &str| shown.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(has(if place == "environ" { "ZITI_ENROLLER_CRASH" } else { "gate-7.json" }), "that is not {place}");
            for secret in [machine.keys.hsm.pin(), token.compact(), token.jti()] {
                assert!(!has(secret), "{place} holds a secret");
            }
        }
        // What was handed on at the second start has been emptied.
        if let Ok(descriptors) = fs::read_dir(format!("{process}/fd")) {
            for descriptor in descriptors {
                let descriptor = descriptor.expect("descriptors can be listed").path();
                let is_ours = fs::read_link(&descriptor).is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"/memfd:"));
                let length = fs::metadata(&descriptor).map_or(0, |meta| meta.len());
                assert!(!is_ours || length == 0, "{} holds {length} bytes", descriptor.display());
            }
        }
        running.kill();
        running.wait();
    }

    #[test]
    fn are_not_in_journal_output_or_log() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let mut running = held(machine.enroll(&token).arg("-vv"), &controller);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !machine.work(&token).join("journal").exists() || !machine.recorded(&token).iter().any(|name| name == "posting") {
            assert!(std::time::Instant::now() < deadline, "it does not come to its request");
            std::thread::yield_now();
        }
        running.kill();
        let said = running.wait().to_string();
        let files = fs::read_dir(machine.work(&token)).expect("the work folder can be listed");
        let kept: Vec<u8> = files.flat_map(|file| fs::read(file.expect("a file").path()).expect("a readable file")).collect();
        for secret in [machine.keys.hsm.pin(), token.compact(), token.jti()] {
            assert!(!said.contains(secret), "it is said: {said}");
            assert!(!kept.windows(secret.len()).any(|part| part == secret.as_bytes()), "it is in the work folder");
        }
    }
}

#[test]
fn module_that_prints_does_not_spoil_the_result() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let enrolled = machine.enroll(&controller.issue("gate-7")).env("P11FAULT", "C_Login:1:print").run();
    assert!(enrolled.stderr.contains("p11fault: C_Login 1"), "{enrolled}");
    report(&enrolled);
}

#[test]
fn first_random_number_does_not_wait_for_jitter_entropy() {
    let config = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.cargo/config.toml")).expect(".cargo/config.toml");
    assert!(config.lines().any(|line| line == "AWS_LC_SYS_NO_JITTER_ENTROPY = \"1\""), "{config}");
    // aws-lc has two sets of entropy sources and links the one that it was built for; a debug build keeps their names.
    let program = fs::read(PROGRAM).expect("the program can be read");
    let has = |name: &[u8]| program.windows(name.len()).any(|part| part == name);
    assert!(has(b"opt_out_cpu_jitter_initialize"), "aws-lc's entropy sources have other names now: find out which");
    assert!(!has(b"tree_jitter_initialize"), "built without AWS_LC_SYS_NO_JITTER_ENTROPY=1: 32-47 ms at the first random number");
}
