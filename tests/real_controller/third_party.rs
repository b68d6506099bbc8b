//! A CA of somebody else: its certificates enroll by `ottca` and `ca`, and log in.

use std::fs;

use serde_json::json;
use std::path::Path;
use ziti_enroller_support::{Authority, KeyType, Leaf, Program, pem};

use super::controllers::AnyController;
use super::machine::{Failed, Fixture, IdentityFile, Machine, ending, report, text};
use super::verify;

/// A CA that a controller knows and has verified, with an issuing CA under it; before 1.6 a token of method `ottca` is not
/// bought by a certificate that needs one.
struct Acme {
    issuing: Authority,
    id: String,
}

impl Acme {
    fn known_to(at: &dyn AnyController, name: &str, folder: &Path) -> Self {
        let root = Authority::root(&format!("{name} Root CA"));
        let id = at.know_ca(name, &root, folder);
        let issuing = if at.is_before(1, 6) { root } else { root.intermediate(&format!("{name} Issuing CA")) };
        Self { issuing, id }
    }
}

/// Makes the key called `name`, and its certificate in `NAME.crt`.
fn certify<F: Fixture>(issuing: &Authority, machine: &Machine<F>, name: &str) {
    let before = machine.keys.public_keys();
    machine.keys.make(name, KeyType::P256);
    let made = machine.keys.public_keys().into_iter().find(|key| !before.contains(key)).expect("a new key");
    let chain = [issuing.sign(&Leaf::client_named(name), &made), issuing.certificate().to_vec()];
    let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    fs::write(machine.path(&format!("{name}.crt")), chain).expect("a writable folder");
}

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path, key: &str) -> Program {
    let program = machine.program().args(["enroll", "--format", "json"]).args(machine.keys.pin()).arg("--jwt").arg(token);
    program.args(["--key", &machine.keys.reference(key), "--cert", &format!("{key}.crt")])
}

/// By one-time tokens: once, again after the certificate was taken away, and when the answer was lost, which is none.
pub fn one_time_tokens_enroll_and_log_in<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let acme = Acme::known_to(at, "acme", machine.folder());
    certify(&acme.issuing, &machine, "one");
    let token = at.issue_by_ca(&acme.id, "ottca", machine.folder());
    let said = report(&enroll(&machine, &token.file, "one").run());
    let out = token.out();
    let identity = IdentityFile::read(&out);
    assert_eq!((said["identity"]["id"].as_str(), identity.chain().len()), (Some(&*token.identity_id), 2));
    let logged_in = report(&verify(&machine, &out));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("ottca"), &json!(token.identity_id)));
    let again = enroll(&machine, &token.file, "one").args(["--out", "again.json"]).run();
    Failed::with(again, 32, "token_gone").spent("yes");

    // The same identity, the same certificate, a new token.
    let token = at.issue_again_by_ca(&acme.id, &token);
    report(&enroll(&machine, &token.file, "one").args(["--force", "--out", &text(&out)]).run());
    report(&verify(&machine, &out));

    certify(&acme.issuing, &machine, "two");
    let token = at.issue_by_ca(&acme.id, "ottca-lost", machine.folder());
    assert_eq!(ending(enroll(&machine, &token.file, "two"), "after_post", "kill").run().signal, Some(9));
    machine.keys.after_a_kill();
    let settled = report(&enroll(&machine, &token.file, "two").run());
    assert_eq!(settled["identity"]["id"], json!(token.identity_id));
    report(&verify(&machine, &token.out()));
}

/// By the token that everybody may use.
pub fn token_for_everybody_enrolls_and_logs_in<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let acme = Acme::known_to(at, "everybody", machine.folder());
    certify(&acme.issuing, &machine, "three");
    let token = at.ca_token(&acme.id, machine.folder());
    let said = report(&enroll(&machine, &token, "three").args(["--idname", "gate 9"]).run());
    let logged_in = report(&verify(&machine, &token.with_extension("json")));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("everybody-gate 9"), &said["identity"]["id"]));
    fs::remove_file(token.with_extension("json")).expect("the identity is ours");
    Failed::with(enroll(&machine, &token, "three").run(), 31, "refused_cert_in_use").spent("no");
    let forced = report(&enroll(&machine, &token, "three").arg("--force").run());
    assert_eq!(forced["identity"]["id"], said["identity"]["id"]);
}

/// What the controller refuses leaves the token, and a repaired certificate buys what it promises.
pub fn certificate_of_another_ca_is_refused_and_the_right_one_still_works<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let acme = Acme::known_to(at, "known", machine.folder());
    certify(&Authority::root("Other"), &machine, "wrong");
    certify(&acme.issuing, &machine, "right");
    let token = at.issue_by_ca(&acme.id, "ottca-wrong", machine.folder());
    let no = if at.is_before(1, 6) { "refused_cert_failed_validation" } else { "refused_certificate_failed_validation" };
    Failed::with(enroll(&machine, &token.file, "wrong").run(), 31, no).spent("no");
    let for_all = at.ca_token(&acme.id, machine.folder());
    Failed::with(enroll(&machine, &for_all, "wrong").run(), 31, "refused_cert_failed_validation").spent("no");
    report(&enroll(&machine, &token.file, "right").run());
}
