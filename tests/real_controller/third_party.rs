//! A CA of somebody else at a real controller: its certificates enroll by `ottca` and `ca`, and log in.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ziti_enroller_support::{Authority, Key, KeyType, Leaf, Program, pem, require};

use crate::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, ending, report, text};
use crate::{RealController, verify};

/// A CA that a controller knows and has verified, with an issuing CA under it.
struct Acme {
    issuing: Authority,
    id: String,
}

impl Acme {
    fn known_to(controller: &RealController, folder: &Path) -> Self {
        let root = Authority::root("Acme Root CA");
        let file = folder.join("acme.pem");
        fs::write(&file, pem("CERTIFICATE", root.certificate())).expect("a writable folder");
        let may = ["--autoca", "--ottca", "--auth", "--identity-name-format", "[caName]-[requestedName]"];
        controller.ziti(&["edge", "create", "ca", "acme", &text(&file)].iter().chain(&may).collect::<Vec<_>>()).run().success();
        let ca = controller.listed("cas", "name=\"acme\"");
        // The holder of the CA's key proves it by a certificate for this name.
        let proof = Leaf::client_named(ca["verificationToken"].as_str().expect("a CA that is to be verified"));
        let proof = root.sign(&proof, &Key::generate(KeyType::P256).spki_der());
        fs::write(&file, pem("CERTIFICATE", &proof)).expect("a writable folder");
        controller.ziti(&["edge", "verify", "ca", "acme", "--cert", &text(&file)]).run().success();
        Self { issuing: root.intermediate("Acme Issuing CA"), id: ca["id"].as_str().expect("an id").to_owned() }
    }

    /// Makes the key called `name`, and its certificate in `NAME.crt`.
    fn certify<F: Fixture>(&self, machine: &Machine<F>, name: &str) {
        let before = machine.keys.public_keys();
        machine.keys.make(name, KeyType::P256);
        let made = machine.keys.public_keys().into_iter().find(|key| !before.contains(key)).expect("a new key");
        let chain = [self.issuing.sign(&Leaf::client_named(name), &made), self.issuing.certificate().to_vec()];
        let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        fs::write(machine.path(&format!("{name}.crt")), chain).expect("a writable folder");
    }

    /// A one-time token for a new identity; its id is given too.
    fn one_time(&self, controller: &RealController, name: &str, folder: &Path) -> (PathBuf, String) {
        controller.ziti(&["edge", "create", "identity", name]).run().success();
        let identity = controller.listed("identities", &format!("name=\"{name}\""));
        let identity_id = identity["id"].as_str().expect("an id").to_owned();
        (self.one_time_again(controller, name, &identity_id, folder), identity_id)
    }

    /// A one-time token for an identity that is there.
    fn one_time_again(&self, controller: &RealController, name: &str, identity_id: &str, folder: &Path) -> PathBuf {
        controller.ziti(&["edge", "create", "enrollment", "ottca", name, "acme"]).run().success();
        let enrollments = controller.all_listed("enrollments", &format!("identity=\"{identity_id}\""));
        let enrollment = enrollments.into_iter().find(|one| one["method"] == "ottca").expect("one of method ottca");
        let file = folder.join(format!("{name}.jwt"));
        fs::write(&file, enrollment["jwt"].as_str().expect("an enrollment has a token")).expect("a writable folder");
        file
    }

    /// The token for everybody. The command line does not have it.
    fn for_all(&self, controller: &RealController, folder: &Path) -> PathBuf {
        let api = format!("https://localhost:{}/edge/management/v1", controller.port);
        let curl = || Program::new(require("curl", "curl")).args(["-sSfk"]);
        let admin = json!({"username": "admin", "password": "admin"}).to_string();
        let login = curl().args(["--json", &admin, &format!("{api}/authenticate?method=password")]).run().success();
        let login: Value = serde_json::from_str(&login.stdout).expect("JSON");
        let session = format!("zt-session: {}", login["data"]["token"].as_str().expect("a session"));
        let token = curl().args(["-H", &session, &format!("{api}/cas/{}/jwt", self.id)]).run().success().stdout;
        let file = folder.join("acme.jwt");
        fs::write(&file, token).expect("a writable folder");
        file
    }
}

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path, key: &str) -> Program {
    let program = machine.program().args(["enroll", "--format", "json"]).args(machine.keys.pin()).arg("--jwt").arg(token);
    program.args(["--key", &machine.keys.reference(key), "--cert", &format!("{key}.crt")])
}

fn third_party_certificates_enroll_and_log_in<F: Fixture>() {
    let controller = RealController::start();
    let machine = Machine::<F>::new();
    let acme = Acme::known_to(&controller, machine.folder());
    acme.certify(&machine, "one");
    let (token, identity_id) = acme.one_time(&controller, "gate-7", machine.folder());
    let said = report(&enroll(&machine, &token, "one").run());
    let out = token.with_extension("json");
    let identity = IdentityFile::read(&out);
    assert_eq!((said["identity"]["id"].as_str(), identity.chain().len()), (Some(&*identity_id), 2));
    let logged_in = report(&verify(&machine, &out));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("gate-7"), &json!(identity_id)));
    println!("{}, ottca: enrolled and logged in at {}", F::PROVIDER, logged_in["controller_version"]);
    let again = enroll(&machine, &token, "one").args(["--out", "again.json"]).run();
    Failed::with(again, 32, "token_gone").spent("yes");

    // The same identity, the same certificate, a new token.
    let authenticator = controller.listed("authenticators", &format!("identity=\"{identity_id}\" and method=\"cert\""));
    controller.ziti(&["edge", "delete", "authenticator", authenticator["id"].as_str().expect("an id")]).run().success();
    let token = acme.one_time_again(&controller, "gate-7", &identity_id, machine.folder());
    report(&enroll(&machine, &token, "one").args(["--force", "--out", &text(&out)]).run());
    report(&verify(&machine, &out));

    // A lost answer is none.
    acme.certify(&machine, "two");
    let (token, identity_id) = acme.one_time(&controller, "gate-8", machine.folder());
    assert_eq!(ending(enroll(&machine, &token, "two"), "after_post", "kill").run().signal, Some(9));
    let settled = report(&enroll(&machine, &token, "two").run());
    assert_eq!(settled["identity"]["id"], json!(identity_id));
    report(&verify(&machine, &token.with_extension("json")));

    // For everybody.
    acme.certify(&machine, "three");
    let token = acme.for_all(&controller, machine.folder());
    let said = report(&enroll(&machine, &token, "three").args(["--idname", "gate 9"]).run());
    let logged_in = report(&verify(&machine, &token.with_extension("json")));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("acme-gate 9"), &said["identity"]["id"]));
    println!("{}, ca: enrolled and logged in at {}", F::PROVIDER, logged_in["controller_version"]);
    fs::remove_file(token.with_extension("json")).expect("the identity is ours");
    Failed::with(enroll(&machine, &token, "three").run(), 31, "refused_cert_in_use").spent("no");
    let forced = report(&enroll(&machine, &token, "three").arg("--force").run());
    assert_eq!(forced["identity"]["id"], said["identity"]["id"]);
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn third_party_certificates_of_file_keys_enroll_and_log_in() {
    third_party_certificates_enroll_and_log_in::<InFiles>();
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn third_party_certificates_of_token_keys_enroll_and_log_in() {
    third_party_certificates_enroll_and_log_in::<InToken>();
}

/// What the controller refuses leaves the token, and a repaired certificate buys what it promises.
#[test]
#[ignore = "needs ZITI_BIN"]
fn certificate_of_another_ca_is_refused_and_the_right_one_still_works() {
    let controller = RealController::start();
    let machine = Machine::<InFiles>::new();
    let acme = Acme::known_to(&controller, machine.folder());
    let other = Acme { issuing: Authority::root("Other"), id: String::new() };
    other.certify(&machine, "wrong");
    acme.certify(&machine, "right");
    let (token, _) = acme.one_time(&controller, "gate-7", machine.folder());
    Failed::with(enroll(&machine, &token, "wrong").run(), 31, "refused_certificate_failed_validation").spent("no");
    let for_all = acme.for_all(&controller, machine.folder());
    Failed::with(enroll(&machine, &for_all, "wrong").run(), 31, "refused_cert_failed_validation").spent("no");
    report(&enroll(&machine, &token, "right").run());
}
