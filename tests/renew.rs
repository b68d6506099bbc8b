//! A new certificate before the old one ends, and a new key: what is due, what is kept, what is refused.

mod crash;
#[cfg(feature = "tpm")]
mod journey;
mod rotation;
mod runs;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;
use ziti_enroller_support::{Controller, Fault, Like, Options, Token, pem, sha1_hex};

use crate::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, report};

/// A machine with an identity whose key is in the file.
fn enrolled<F: Fixture>(controller: &Controller) -> (Machine<F>, Token) {
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll_with(&token).run());
    (machine, token)
}

/// Certificates that are due at once.
fn short_lived() -> Options {
    Options { faults: vec![Fault::CertLifetime(10 * 24 * 3600)], ..Options::default() }
}

/// SHA-1 of the certificate in an identity file.
fn fingerprint(identity: &Path) -> String {
    use x509_cert::der::Encode;
    let text = fs::read_to_string(identity).expect("there is an identity");
    let json: Value = serde_json::from_str(&text).expect("an identity is JSON");
    let pem = json["id"]["cert"].as_str().expect("a certificate").trim_start_matches("pem:").to_owned();
    let chain = x509_cert::Certificate::load_pem_chain(pem.as_bytes()).expect("certificates are PEM");
    sha1_hex(&chain[0].to_der().expect("a certificate that was read encodes"))
}

#[test]
fn nothing_is_done_before_something_is_due() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let before = fs::read(machine.out(&token)).expect("there is an identity");
    let said = report(&machine.renew(&token).run());
    assert_eq!((&said["renewed"], &said["command"]), (&false.into(), &"renew".into()));
    assert!(said["days_left"].as_i64().is_some_and(|days| (363..=366).contains(&days)), "{said}");
    let said = (said["due"].as_str().map(str::to_owned), said["certificate"]["not_after"].as_str().map(str::to_owned));
    assert!(said.0 < said.1, "{said:?}");
    assert_eq!(fs::read(machine.out(&token)).expect("there is an identity"), before);
    assert!(!machine.renewal(&token).exists(), "the work folder is left");
    assert_eq!(controller.renewal_posts(), (0, 0));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn what_ends_soon_is_renewed_with_the_same_key() {
    let controller = Controller::start(short_lived());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    let old = machine.path("old.json");
    fs::copy(machine.out(&token), &old).expect("the machine's folder is writable");
    let before = machine.identity(&token);
    controller.set_faults([]);
    let said = report(&machine.renew(&token).run());
    let after = machine.identity(&token);
    assert_eq!((said["renewed"].clone(), said["key"]["created"].clone()), (true.into(), false.into()));
    assert_eq!(said["replaced"].as_str(), Some(&*fingerprint(&old)));
    assert_eq!((before.key(), before.public_key()), (after.key(), after.public_key()));
    assert_eq!(before.pem("ca"), after.pem("ca"));
    assert!(!machine.logs_in(&old) && machine.logs_in(&machine.out(&token)));
    assert_eq!((controller.renewal_posts(), machine.keys.private_keys()), ((1, 1), 1));
    assert!(machine.keys.most_logins() <= 1);
    let again = report(&machine.renew(&token).run());
    assert_eq!(again["renewed"], false);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
    assert_eq!(controller.sessions_open(), 0, "a login did not log out");
}

#[test]
fn what_has_ended_is_renewed_where_the_policy_lets_it_log_in() {
    let controller = Controller::start(Options { faults: vec![Fault::CertLifetime(3)], ..Options::default() });
    let (machine, token) = enrolled::<InFiles>(&controller);
    // Until it has ended.
    std::thread::sleep(std::time::Duration::from_millis(4100));
    let status = machine.program().args(["status", "--format", "json"]).arg(machine.out(&token)).run();
    assert_eq!(status.code, Some(1), "{status}");
    controller.set_faults([Fault::RefuseExpired]);
    Failed::with(machine.renew(&token).run(), 60, "login_refused").says("INVALID_AUTH");
    controller.set_faults([]);
    assert_eq!(report(&machine.renew(&token).run())["renewed"], true);
    assert!(machine.logs_in(&machine.out(&token)));
}

#[test]
fn an_administrator_asks_for_a_renewal() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let key = machine.identity(&token).public_key();
    controller.request_renewal(token.sub(), false);
    let seen = machine.verify(&token).run();
    assert!(seen.stderr.contains("an administrator asks for a renewal"), "{seen}");
    assert_eq!(report(&seen)["renewal"]["requested"], true);
    assert_eq!(report(&machine.renew(&token).run())["renewed"], true);
    assert_eq!(machine.identity(&token).public_key(), key);
    // What was asked for is done.
    assert_eq!(report(&machine.renew(&token).run())["renewed"], false);
    assert_eq!(report(&machine.verify(&token).run())["renewal"]["requested"], false);
}

#[test]
fn an_administrator_asks_for_a_new_key() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).arg("--embed-pin").run());
    let key = machine.identity(&token).public_key();
    controller.request_renewal(token.sub(), true);
    let ended = machine.renew(&token).run();
    assert!(ended.stderr.contains("an administrator asks for a new key: it is made beside the old one"), "{ended}");
    let said = report(&ended);
    assert_eq!((said["key"]["created"].clone(), said["old_key"]["deleted"].clone()), (true.into(), false.into()));
    let after = machine.identity(&token);
    assert!(after.public_key() != key && machine.keys.private_keys() == 2);
    // Readers that had the PIN before have it now.
    assert!(after.key().ends_with(&format!("&pin={}", machine.keys.hsm.pin())), "the PIN is gone from the identity");
    assert_eq!(report(&machine.renew(&token).run())["renewed"], false);
}

#[test]
fn a_chain_that_the_controller_did_not_complete_is_completed() {
    for (like, fault) in [(Like::V1_4, Fault::CertLifetime(864_000)), (Like::V2_1, Fault::ExtendLeafOnly)] {
        let controller = Controller::start(Options { like, own_client_signer: true, ..Options::default() });
        let (machine, token) = enrolled::<InFiles>(&controller);
        assert_eq!(machine.identity(&token).chain().len(), 2);
        controller.set_faults([fault]);
        assert_eq!(report(&machine.renew(&token).arg("--force").run())["renewed"], true);
        assert_eq!(machine.identity(&token).chain().len(), 2, "{like:?}");
        controller.set_faults([]);
        assert_eq!(report(&machine.verify(&token).run())["renewal"]["chain_incomplete"], false);
    }
}

#[test]
fn a_chain_that_lacks_an_intermediate_is_mended() {
    let controller = Controller::start(Options { faults: vec![Fault::LeafOnly], ..Options::default() });
    let (machine, token) = enrolled::<InFiles>(&controller);
    controller.set_faults([]);
    assert_eq!(machine.identity(&token).chain().len(), 1);
    assert_eq!(report(&machine.verify(&token).run())["renewal"]["chain_incomplete"], true);
    assert_eq!(report(&machine.renew(&token).run())["renewed"], true);
    assert_eq!(machine.identity(&token).chain().len(), 2);
    assert_eq!(report(&machine.verify(&token).run())["renewal"]["chain_incomplete"], false);
}

#[test]
fn ca_certificates_that_have_come_to_the_network_are_added() {
    let controller = Controller::start(Options { own_client_signer: true, ..Options::default() });
    let (machine, token) = enrolled::<InFiles>(&controller);
    let all = machine.identity(&token).anchors().len();
    let mut json = machine.identity(&token).json;
    json["id"]["ca"] = pem("CERTIFICATE", controller.network().root.certificate()).into();
    fs::write(machine.out(&token), json.to_string()).expect("the identity is ours");
    assert_eq!(report(&machine.renew(&token).arg("--force").run())["renewed"], true);
    assert_eq!((machine.identity(&token).anchors().len(), all), (3, 3));
}

#[test]
fn a_certificate_of_another_ca_is_left_alone() {
    let controller = Controller::start(short_lived());
    let (machine, token) = enrolled::<InFiles>(&controller);
    controller.disown(token.sub());
    let before = fs::read(machine.out(&token)).expect("there is an identity");
    Failed::with(machine.renew(&token).run(), 31, "refused_can_not_update_authenticator")
        .says("the network has not issued the certificate")
        .hints("from the CA that has issued this one")
        .spent("no");
    // Foreseen: it was not even asked for.
    assert_eq!(controller.renewal_posts(), (0, 0));
    assert_eq!(fs::read(machine.out(&token)).expect("there is an identity"), before);
    assert!(!machine.renewal(&token).exists());
    assert_eq!(report(&machine.verify(&token).run())["renewal"]["issued_by_network"], false);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn a_refused_renewal_leaves_all_as_it_was() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll_with(&token).run());
    let before = fs::read(machine.out(&token)).expect("there is an identity");
    controller.set_faults([Fault::RefuseExtend("COULD_NOT_PROCESS_CSR".into(), 400)]);
    let refused = machine.rotate(&token).run();
    assert!(refused.stderr.contains("was made for a renewal that did not happen: deleted"), "{refused}");
    Failed::with(refused, 31, "refused_could_not_process_csr").says("the identity is as before").spent("no");
    for fault in [Fault::OtherKey, Fault::OtherCa, Fault::ExpiredCert, Fault::NoClientAuth, Fault::CaCert, Fault::OtherSub] {
        controller.set_faults([fault.clone()]);
        let refused = machine.rotate(&token).run();
        assert_eq!(refused.code, Some(40), "{fault}: {refused}");
    }
    controller.set_faults([]);
    assert_eq!(fs::read(machine.out(&token)).expect("there is an identity"), before);
    assert!(!machine.renewal(&token).exists());
    assert_eq!(machine.keys.private_keys(), 0, "a key of a renewal that did not happen is left");
    assert!(machine.logs_in(&machine.out(&token)));
    assert_eq!(controller.renewal_posts().1, 0);
}

#[test]
fn a_renewal_that_another_one_has_overwritten_is_asked_for_again() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    controller.set_faults([Fault::ForgetPendingOnce]);
    let ended = machine.renew(&token).arg("--force").run();
    assert!(ended.stderr.contains("does not know the new certificate any more"), "{ended}");
    report(&ended);
    assert_eq!(controller.renewal_posts(), (2, 2));
    assert!(machine.logs_in(&machine.out(&token)));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn owner_and_mode_stay_and_so_does_what_others_keep_in_the_file() {
    let controller = Controller::start(short_lived());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let out = machine.out(&token);
    let mut json: Value = serde_json::from_slice(&fs::read(&out).expect("there is an identity")).expect("JSON");
    json["configTypes"] = serde_json::json!(["intercept.v1"]);
    json["enableHa"] = false.into();
    json["ztAPIs"] = Value::Null;
    json["ztAPI"] = controller.url().into();
    fs::write(&out, json.to_string()).expect("the identity is ours");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).expect("the identity is ours");
    // Only root gives files away.
    let is_root = fs::metadata(machine.folder()).is_ok_and(|folder| folder.uid() == 0);
    if is_root {
        std::os::unix::fs::chown(&out, Some(65534), Some(65533)).expect("root gives files away");
    }
    assert_eq!(report(&machine.renew(&token).arg("--backup").run())["renewed"], true);
    let after: Value = serde_json::from_slice(&fs::read(&out).expect("there is an identity")).expect("JSON");
    for member in ["configTypes", "enableHa", "ztAPI"] {
        assert_eq!(after[member], json[member], "{member}");
    }
    assert_eq!((&after["id"]["key"], &after["id"]["ca"]), (&json["id"]["key"], &json["id"]["ca"]));
    assert_ne!(after["id"]["cert"], json["id"]["cert"]);
    for file in [out.clone(), machine.path("gate-7.json.bak")] {
        let meta = fs::metadata(&file).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640, "{}", file.display());
        assert!(!is_root || (meta.uid(), meta.gid()) == (65534, 65533), "{}", file.display());
    }
    let kept: Value = serde_json::from_slice(&fs::read(machine.path("gate-7.json.bak")).expect("a copy")).expect("JSON");
    assert_eq!(kept, json);
}

#[test]
fn a_key_that_has_moved_is_used_and_the_new_place_is_written() {
    let controller = Controller::start(short_lived());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).arg("--embed-pin").run());
    let out = machine.out(&token);
    let right = machine.identity(&token).key().to_owned();
    // As after an HSM was replaced: another serial, another slot.
    let text = fs::read_to_string(&out).expect("there is an identity");
    let serial = machine.keys.hsm.serial();
    let wrong = text.replace(&format!("serial={serial}"), "serial=0000000000000000").replace("slot=0x", "slot=0x1");
    fs::write(&out, &wrong).expect("the identity is ours");
    let ended = machine.verify(&token).run();
    assert!(ended.stderr.contains("but its key is in"), "{ended}");
    assert_eq!(ended.code, Some(0), "{ended}");
    let ended = machine.renew(&token).run();
    assert!(ended.stderr.contains("the new identity says where it is now"), "{ended}");
    assert_eq!(report_of(&ended.stdout)["renewed"], true);
    assert_eq!(machine.identity(&token).key(), right);
}

fn report_of(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[test]
fn a_link_is_not_replaced() {
    let controller = Controller::start(short_lived());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let link = machine.path("link.json");
    symlink(machine.out(&token), &link).expect("the machine's folder is writable");
    let ended = machine.program().args(["renew", "--format", "json"]).arg(&link).run();
    Failed::with(ended, 50, "output_is_symlink").hints("name the file that it leads to");
    assert_eq!(controller.renewal_posts(), (0, 0));
}

#[test]
fn what_the_environment_says_for_enrollments_is_no_wish_for_a_new_key() {
    let controller = Controller::start(short_lived());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let environment = [("ZITI_ENROLLER_PROVIDER", "pkcs11"), ("ZITI_ENROLLER_KEY_ALG", "p384")];
    assert_eq!(report(&machine.renew(&token).envs(environment).run())["key"]["provider"], "file");
    Failed::with(machine.renew(&token).args(["--provider", "pkcs11"]).run(), 2, "usage").hints("--rotate");
}

#[test]
fn a_login_that_is_no_more_served_is_told_from_a_refused_one() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    controller.set_faults([Fault::OidcOnly]);
    for ended in [machine.verify(&token).run(), machine.renew(&token).run()] {
        Failed::with(ended, 61, "login_needs_more").says("OpenID Connect");
    }
    controller.set_faults([Fault::OtherFingerprint]);
    Failed::with(machine.verify(&token).run(), 60, "login_refused").says("it knows another certificate");
    controller.set_faults([Fault::LoginMfa]);
    Failed::with(machine.renew(&token).run(), 61, "login_needs_more").says("second factor");
}

#[test]
fn another_wish_takes_over_what_was_not_asked_for_yet() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll_with(&token).run());
    let killed = crate::machine::ending(machine.rotate(&token), "after_generation", "kill").run();
    assert_eq!((killed.signal, machine.keys.private_keys()), (Some(9), 1), "{killed}");
    // Not into the token after all.
    let ended = machine.renew(&token).args(["--rotate", "--provider", "file", "--force"]).run();
    assert!(ended.stderr.contains("was made for a renewal that did not happen: deleted"), "{ended}");
    assert_eq!(report(&ended)["key"]["provider"], "file");
    assert_eq!(machine.keys.private_keys(), 0);
    assert!(machine.logs_in(&machine.out(&token)));
}

#[test]
fn an_identity_that_was_enrolled_anew_makes_the_renewal_void() {
    for event in ["recorded-keyed", "before_verify", "identity_replaced"] {
        let controller = Controller::start(Options::default());
        let (machine, token) = enrolled::<InFiles>(&controller);
        let killed = crate::machine::ending(machine.renew(&token).arg("--force"), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{killed}");
        let again = controller.re_enroll(token.sub());
        report(&machine.enroll_with(&again).arg("--force").run());
        let anew = fs::read(machine.out(&token)).expect("there is an identity");
        let ended = machine.renew(&token).run();
        if event == "before_verify" {
            Failed::with(ended, 31, "refused_invalid_auth").says("the identity is as before");
        } else {
            assert_eq!(ended.code, Some(0), "{event}: {ended}");
        }
        assert_eq!(fs::read(machine.out(&token)).expect("there is an identity"), anew, "{event}");
        assert!(!machine.renewal(&token).exists(), "{event}");
        assert_eq!(report(&machine.renew(&token).run())["renewed"], false);
    }
}

#[test]
fn a_key_file_that_is_not_the_certificates_is_told_from_a_refusal() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let identity = machine.identity(&token);
    let other = pem("PRIVATE KEY", &ziti_enroller_support::Key::generate(ziti_enroller_support::KeyType::P256).pkcs8_der());
    let mut json = identity.json.clone();
    json["id"]["key"] = format!("pem:{other}").into();
    fs::write(machine.out(&token), json.to_string()).expect("the identity is ours");
    Failed::with(machine.verify(&token).run(), 24, "key_not_found").says("the key in it is not the key of this identity");
    assert_eq!(IdentityFile::read(&machine.out(&token)).chain().len(), 2);
}
