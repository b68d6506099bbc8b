//! Ways in without a one-time token that buys a certificate: the network alone, a password, the token of an identity provider.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ziti_enroller_support::{IdentityProvider, Program, require};

use super::controllers::AnyController;
use super::machine::{Failed, Fixture, IdentityFile, Machine, ending, report};
use super::verify;

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path) -> Program {
    machine.program().args(["enroll", "--format", "json"]).args(machine.keys.pin()).arg("--jwt").arg(token)
}

pub fn network_token_says_whom_to_trust<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.network_token(machine.folder());
    report(&enroll(&machine, &token).run());
    let file: Value = serde_json::from_slice(&fs::read(machine.path("network.json")).expect("a file")).expect("JSON");
    let api = format!("{}/edge/client/v1", at.url());
    assert_eq!(file["ztAPI"], api);
    // By another program.
    let ca = file["id"]["ca"].as_str().and_then(|ca| ca.strip_prefix("pem:")).expect("CA certificates");
    fs::write(machine.path("ca.pem"), ca).expect("a writable folder");
    let version = Program::new(require("curl", "curl")).args(["-sSf", "--cacert"]).arg(machine.path("ca.pem"));
    version.arg(format!("{api}/version")).run().success();
}

pub fn password_is_set_and_logs_in<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.password_token("gate-user", machine.folder());
    fs::write(machine.path("password"), "h\u{fc}sh hush\n").expect("a writable folder");
    let enroll = || enroll(&machine, &token).args(["--password-file", "password"]);
    // The answer is lost, and nothing was in it.
    let killed = ending(enroll(), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    let ended = enroll().run().success();
    assert!(ended.stderr.contains("an earlier request has set the password"), "{ended}");
    Failed::with(enroll().args(["--out", "again.json"]).run(), 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN");
    let taken = |password: &str| at.takes_password("gate-user", password);
    assert_eq!((taken("h\u{fc}sh hush"), taken("hush hush")), (true, false));
}

/// From 2.0; before, it is said and nothing is made.
pub fn idp_token_buys_a_certificate<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let network = at.network_token(machine.folder());
    let provider = IdentityProvider::new("idp");
    let write = |subject: &str| {
        fs::write(machine.path("idp.jwt"), provider.token(subject)).expect("a writable folder");
    };
    let enroll = |name: &str| {
        let program = enroll(&machine, &network).args(["--idp-token", "idp.jwt", "--out", &format!("{name}.json"), "--create"]);
        program.args(["--key", &machine.keys.reference(name)])
    };
    // tpm2-pkcs11 leaves a key that was deleted loaded in the TPM, as a program does that is killed.
    let run = |program: Program| {
        let ended = program.run();
        machine.keys.after_a_kill();
        ended
    };
    write("gate-7");
    if at.is_before(2, 0) {
        // 1.6 knows of the path, and does not serve it.
        let no = if at.is_before(1, 6) { "refused_not_found" } else { "refused_not_implemented" };
        Failed::with(run(enroll("gate-7")), 31, no).hints("OpenZiti 2.0").spent("no");
        assert_eq!(machine.keys.private_keys(), 0);
        return;
    }
    at.trust_provider(&provider, false, machine.folder());
    Failed::with(run(enroll("gate-7")), 31, "refused_invalid_enrollment_not_allowed").spent("no");
    assert_eq!(machine.keys.private_keys(), 0);
    at.trust_provider(&provider, true, machine.folder());
    let listed = machine.program().args(["list", "signers", "--format", "json", "--jwt"]).arg(&network).run();
    let listed = report(&listed);
    assert_eq!((&listed["signers"][0]["name"], &listed["signers"][0]["enroll_to_cert"]), (&json!("idp"), &json!(true)));

    let said = report(&run(enroll("gate-7")));
    let out = machine.path("gate-7.json");
    let identity = IdentityFile::read(&out);
    assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
    let logged_in = report(&verify(&machine, &out));
    assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&json!("gate-7"), &said["identity"]["id"]));
    Failed::with(run(enroll("again")), 32, "token_gone").says("ENROLLMENT_IDENTITY_ALREADY_ENROLLED").spent("yes");
    write("");
    Failed::with(run(enroll("nobody")), 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN").hints("get a new token");

    // Killed before anybody heard the answer: the controller says so, and its copy ends it.
    write("gate-8");
    let killed = run(ending(enroll("gate-8"), "after_post", "kill"));
    assert_eq!(killed.signal, Some(9), "{killed}");
    Failed::with(run(enroll("gate-8")), 33, "answer_lost").spent("yes");
    fs::write(machine.path("copy.pem"), at.certificate(&at.identity_called("gate-8"))).expect("a writable folder");
    let resume = machine.program().args(["resume", "gate-8.json", "--format", "json", "--certificate", "copy.pem"]);
    report(&resume.args(machine.keys.pin()).run());
    let logged_in = report(&verify(&machine, &machine.path("gate-8.json")));
    assert_eq!(logged_in["name"], "gate-8");
}
