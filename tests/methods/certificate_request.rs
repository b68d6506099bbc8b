//! `csr`: the first half of a third-party enrollment, and no other tool is needed for it.

use std::fs;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Leaf, Options, Outcome, Program, require};

use super::third_party::ThirdParty;
use crate::machine::{Failed, Fixture, InFiles, InToken, InTpm2Pkcs11, Machine, report, text};

fn csr<F: Fixture>(machine: &Machine<F>, key: &str) -> Program {
    let program = machine.program().args(["csr", "--format", "json", "--key", &machine.keys.reference(key)]);
    program.args(machine.keys.pin())
}

/// By openssl, which checks the signature too.
fn judged(request: &str) -> Outcome {
    let openssl = Program::new(require("openssl", "openssl")).args(["req", "-verify", "-noout", "-text", "-nameopt", "RFC2253"]);
    openssl.stdin(request.as_bytes().to_vec()).run().success()
}

/// By openssl, SubjectPublicKeyInfo, DER.
fn public_key(request: &str) -> Vec<u8> {
    let openssl = Program::new(require("openssl", "openssl")).args(["req", "-noout", "-pubkey"]);
    let pem = openssl.stdin(request.as_bytes().to_vec()).run().success().stdout;
    x509_cert::der::pem::decode_vec(pem.trim().as_bytes()).expect("openssl writes PEM").1
}

/// A key is made, its request is signed by a third party, and the certificate enrolls it.
fn needs_no_other_tool<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let third_party = ThirdParty::known_to(&controller);
    let machine = Machine::<F>::new();
    let wanted =
        ["--subject", "CN=gate-7,O=Acme", "--san", "DNS:gate-7.example,IP:2001:db8::7", "--san", "URI:spiffe://acme/gate-7"];
    let said = report(&csr(&machine, "mine").args(["--create"]).args(wanted).run());
    assert_eq!((&said["created"], &said["key"]["algorithm"], &said["file"]), (&json!(true), &json!("p256"), &Value::Null));
    let request = said["csr"].as_str().expect("PEM");
    let text = judged(request).stdout;
    for part in [
        "CN=gate-7,O=Acme",
        "DNS:gate-7.example",
        "IP Address:2001:DB8",
        "URI:spiffe://acme/gate-7",
        "TLS Web Client Authentication",
    ] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    let key = public_key(request);
    assert_eq!((machine.keys.public_keys(), machine.keys.private_keys()), (vec![key.clone()], 1));
    // The same key, another request.
    let again = report(&csr(&machine, "mine").args(["--subject", "gate-7", "--ext-key-usage", "clientAuth,1.2.3.4"]).run());
    let request = again["csr"].as_str().expect("PEM");
    assert_eq!((&again["created"], public_key(request)), (&json!(false), key.clone()));
    assert!(judged(request).stdout.contains("1.2.3.4"), "{request}");
    let token = controller.token("gate-7").of_ca(&third_party.ca).issue();
    let chain = third_party.chain(&Leaf::client_named("gate-7"), &key);
    report(&third_party.show(&machine, &token, "mine", &chain).run());
    report(&machine.verify(&token).run());
    let left: Vec<_> =
        fs::read_dir(machine.folder()).expect("the machine's folder").flatten().map(|one| one.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn in_files_needs_no_other_tool() {
    needs_no_other_tool::<InFiles>();
}

#[test]
fn in_a_token_needs_no_other_tool() {
    needs_no_other_tool::<InToken>();
}

#[test]
fn in_a_tpm_by_pkcs11_needs_no_other_tool() {
    needs_no_other_tool::<InTpm2Pkcs11>();
}

#[cfg(feature = "tpm")]
#[test]
fn in_a_tpm_needs_no_other_tool() {
    needs_no_other_tool::<crate::machine::tpm::InTpmFile>();
}

#[test]
fn every_type_of_key_signs_what_openssl_accepts() {
    let machine = Machine::<InToken>::new();
    for algorithm in ["p384", "rsa2048"] {
        let said = report(&csr(&machine, algorithm).args(["--create", "--key-alg", algorithm, "--subject", "gate-7"]).run());
        assert_eq!(said["key"]["algorithm"], json!(algorithm));
        judged(said["csr"].as_str().expect("PEM"));
    }
}

#[test]
fn file_is_written_once_and_found_writable_before_a_key_is_made() {
    let machine = Machine::<InToken>::new();
    let out = machine.path("gate-7.csr");
    let write = |key: &str, more: &[&str]| {
        csr(&machine, key).args(["--create", "--subject", "gate-7", "--out", &text(&out)]).args(more).run()
    };
    let said = report(&write("one", &[]));
    assert_eq!((said["file"].as_str(), fs::read_to_string(&out).ok().as_deref()), (out.to_str(), said["csr"].as_str()));
    Failed::with(write("two", &[]), 50, "output_exists").says("cannot write the request").hints("--force").spent("no");
    assert_eq!((machine.keys.private_keys(), machine.keys.most_logins()), (1, 1));
    report(&write("two", &["--force"]));
    assert_eq!(machine.keys.private_keys(), 2);
    let nowhere = csr(&machine, "three").args(["--create", "--subject", "x", "--out", "/no/such/folder/x.csr"]).run();
    Failed::with(nowhere, 50, "folder_missing").spent("no");
    assert_eq!(machine.keys.private_keys(), 2);
}

#[test]
fn mistakes_are_named_before_anything_is_opened() {
    let machine = Machine::<InToken>::new();
    for (words, says) in [
        (&["--subject", "NOSUCH=1"][..], "no distinguished name"),
        (&["--san", "gate-7"], "DNS:gate-7.example"),
        (&["--subject", "x", "--ext-key-usage", "client"], "clientAuth"),
        (&[], "whom the request is for is not said"),
    ] {
        Failed::with(csr(&machine, "mine").args(words).run(), 2, "usage").says(says).spent("no");
    }
    let keyless = machine.program().args(["csr", "--format", "json", "--subject", "x"]).run();
    Failed::with(keyless, 2, "usage").says("csr needs --key").hints("--create").spent("no");
    assert_eq!(machine.keys.most_logins(), 0);
}
