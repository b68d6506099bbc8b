//! Ways in without a one-time token that buys a certificate, at a real controller: the network alone, a password, the token
//! of an identity provider.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ziti_enroller_support::{IdentityProvider, Program, require};

use crate::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, ending, report, text};
use crate::{RealController, verify};

fn curl() -> Program {
    Program::new(require("curl", "curl")).args(["-sSk"])
}

fn api(controller: &RealController) -> String {
    format!("https://localhost:{}/edge/client/v1", controller.port)
}

/// The token of the network, which it gives to everybody.
fn network_token(controller: &RealController, folder: &Path) -> PathBuf {
    let listed = curl().arg(format!("{}/network-jwts", api(controller))).run().success();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let file = folder.join("network.jwt");
    fs::write(&file, listed["data"][0]["token"].as_str().expect("a network has a token")).expect("a writable folder");
    file
}

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path) -> Program {
    machine.program().args(["enroll", "--format", "json"]).args(machine.keys.pin()).arg("--jwt").arg(token)
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn network_token_says_whom_to_trust() {
    let controller = RealController::start();
    let machine = Machine::<InFiles>::new();
    let token = network_token(&controller, machine.folder());
    report(&enroll(&machine, &token).run());
    let file: Value = serde_json::from_slice(&fs::read(machine.path("network.json")).expect("a file")).expect("JSON");
    assert_eq!(file["ztAPI"], api(&controller));
    // By another program.
    let ca = file["id"]["ca"].as_str().and_then(|ca| ca.strip_prefix("pem:")).expect("CA certificates");
    fs::write(machine.path("ca.pem"), ca).expect("a writable folder");
    let version = Program::new(require("curl", "curl")).args(["-sSf", "--cacert"]).arg(machine.path("ca.pem"));
    version.arg(format!("{}/version", api(&controller))).run().success();
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn password_is_set_and_logs_in() {
    let controller = RealController::start();
    let machine = Machine::<InFiles>::new();
    let token = machine.path("gate-7.jwt");
    controller.ziti(&["edge", "create", "identity", "gate-7", "--updb", "gate-user", "-o"]).arg(&token).run().success();
    fs::write(machine.path("password"), "h\u{fc}sh hush\n").expect("a writable folder");
    let enroll = || enroll(&machine, &token).args(["--password-file", "password"]);
    // The answer is lost, and nothing was in it.
    let killed = ending(enroll(), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    let ended = enroll().run().success();
    assert!(ended.stderr.contains("an earlier request has set the password"), "{ended}");
    Failed::with(enroll().args(["--out", "again.json"]).run(), 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN");
    let login = |password: &str| {
        let body = json!({"username": "gate-user", "password": password}).to_string();
        let url = format!("{}/authenticate?method=password", api(&controller));
        curl()
            .args(["-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json", "-d", &body, &url])
            .run()
            .success()
            .stdout
    };
    assert_eq!((login("h\u{fc}sh hush").as_str(), login("another one").as_str()), ("200", "401"));
}

/// Whether this controller has the method: from 2.0.
fn has_tokens(controller: &RealController) -> bool {
    let version = curl().arg(format!("{}/version", api(controller))).run().success();
    let version: Value = serde_json::from_str(&version.stdout).expect("JSON");
    !version["data"]["version"].as_str().expect("a version").starts_with("v1.")
}

fn idp_token_buys_a_certificate<F: Fixture>() {
    let controller = RealController::start();
    let machine = Machine::<F>::new();
    let network = network_token(&controller, machine.folder());
    let provider = IdentityProvider::new("idp");
    let write = |subject: &str| {
        fs::write(machine.path("idp.jwt"), provider.token(subject)).expect("a writable folder");
    };
    write("gate-7");
    let enroll = || {
        let program = enroll(&machine, &network).args(["--idp-token", "idp.jwt", "--out", "gate-7.json", "--create"]);
        program.args(["--key", &machine.keys.reference("gate-7")])
    };
    if !has_tokens(&controller) {
        Failed::with(enroll().run(), 31, "refused_not_implemented").hints("OpenZiti 2.0").spent("no");
        assert_eq!(machine.keys.private_keys(), 0);
        return;
    }
    let certificate = machine.path("idp.pem");
    fs::write(&certificate, provider.certificate_pem()).expect("a writable folder");
    let create =
        ["edge", "create", "ext-jwt-signer", "idp", &provider.issuer, "-a", &provider.audience, "-k", provider.kid(), "-f"];
    controller.ziti(&create).arg(&certificate).run().success();
    Failed::with(enroll().run(), 31, "refused_invalid_enrollment_not_allowed").spent("no");
    assert_eq!(machine.keys.private_keys(), 0);
    controller.ziti(&["edge", "update", "ext-jwt-signer", "idp", "--enroll-to-cert"]).run().success();
    let listed = machine.program().args(["list", "signers", "--format", "json", "--jwt"]).arg(&network).run();
    let listed = report(&listed);
    assert_eq!((&listed["signers"][0]["name"], &listed["signers"][0]["enroll_to_cert"]), (&json!("idp"), &json!(true)));

    let said = report(&enroll().run());
    let out = machine.path("gate-7.json");
    let identity = IdentityFile::read(&out);
    assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
    let logged_in = report(&verify(&machine, &out));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("gate-7"), &said["identity"]["id"]));
    println!("{}, token: enrolled and logged in at {}", F::PROVIDER, logged_in["controller_version"]);

    let again = |name: &str| {
        let program = machine.program().args(["enroll", "--format", "json", "--jwt", &text(&network), "--idp-token", "idp.jwt"]);
        program.args(machine.keys.pin()).args([
            "--out",
            &format!("{name}.json"),
            "--create",
            "--key",
            &machine.keys.reference(name),
        ])
    };
    Failed::with(again("again").run(), 32, "token_gone").says("ENROLLMENT_IDENTITY_ALREADY_ENROLLED").spent("yes");
    write("");
    Failed::with(again("nobody").run(), 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN").hints("get a new token");

    // Killed before anybody heard the answer: the controller says so, and its copy ends it.
    write("gate-8");
    let killed = ending(again("gate-8"), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    Failed::with(again("gate-8").run(), 33, "answer_lost").spent("yes");
    let identity = controller.listed("identities", "name=\"gate-8\"");
    let of_identity = format!("identity=\"{}\" and method=\"cert\"", identity["id"].as_str().expect("an id"));
    let copy = controller.listed("authenticators", &of_identity);
    fs::write(machine.path("copy.pem"), copy["certPem"].as_str().expect("a certificate")).expect("a writable folder");
    let resume = machine.program().args(["resume", "gate-8.json", "--format", "json", "--certificate", "copy.pem"]);
    report(&resume.args(machine.keys.pin()).run());
    report(&verify(&machine, &machine.path("gate-8.json")));
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn idp_token_buys_a_certificate_for_a_file_key() {
    idp_token_buys_a_certificate::<InFiles>();
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn idp_token_buys_a_certificate_for_a_token_key() {
    idp_token_buys_a_certificate::<InToken>();
}
