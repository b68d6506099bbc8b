//! One-time tokens of method `ott`: used, used again, out of date, renewed, damaged, posted wrongly, and answers that are lost.

use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ziti_enroller_support::{Program, require};

use super::controllers::{AnyController, Issued};
use super::machine::{Failed, Fixture, IdentityFile, Machine, ending, report, text};
use super::{curl, enroll, verify};

/// A key of each type that every SDK takes and that lives here; a used token buys nothing more.
pub fn enrolls_and_logs_in<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let rsa = if F::HAS_PSS && F::SIGNATURES > 100 { &["rsa2048"][..] } else { &[] };
    for algorithm in ["p256", "p384"].iter().chain(rsa) {
        let token = at.issue(&format!("ott-{algorithm}"), machine.folder());
        let said = report(&enroll(&machine, &token.file, &["--key-alg", algorithm]).run());
        let identity = IdentityFile::read(&token.out());
        assert_eq!(identity.api(), format!("{}/edge/client/v1", at.url()));
        assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
        assert_eq!(
            (said["identity"]["id"].as_str(), at.certificate(&token.identity_id).is_empty()),
            (Some(&*token.identity_id), false)
        );
        let logged_in = report(&verify(&machine, &token.out()));
        assert_eq!(
            (&logged_in["name"], &logged_in["identity"]["id"]),
            (&format!("ott-{algorithm}").into(), &said["identity"]["id"])
        );
    }
}

/// What is used is gone, and its owner's key stays.
pub fn refuses_a_used_token<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("used", machine.folder());
    report(&enroll(&machine, &token.file, &[]).run());
    let keys = machine.keys.private_keys();
    let again = enroll(&machine, &token.file, &["--out", "again.json"]).run();
    Failed::with(again, 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN").spent("yes");
    assert_eq!(machine.keys.private_keys(), keys);
    report(&verify(&machine, &token.out()));
}

/// A moment late the controller is asked, and what its refresh gives is taken.
pub fn refreshed_token_replaces_one_out_of_date<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue_briefly("late", machine.folder());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs();
    while now() <= token.ends_at {
        thread::sleep(Duration::from_millis(100));
    }
    let late = enroll(&machine, &token.file, &[]).run();
    Failed::with(late, 31, "refused_enrollment_expired").says("ENROLLMENT_EXPIRED").spent("no");
    assert_eq!(machine.keys.private_keys(), 0);
    let old = machine.path("old.jwt");
    fs::copy(&token.file, &old).expect("the machine's folder is writable");
    let new = at.refresh(&token);
    assert_ne!(new.jti, token.jti);
    Failed::with(enroll(&machine, &old, &[]).run(), 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN");
    report(&enroll(&machine, &new.file, &["--force"]).run());
    report(&verify(&machine, &new.out()));
}

pub fn damaged_token_is_refused_and_the_whole_one_still_works<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("damaged", machine.folder());
    let whole = fs::read_to_string(&token.file).expect("the token was written");
    let (signed, signature) = whole.trim().rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    fs::write(&token.file, format!("{signed}.{other}{}", &signature[1..])).expect("the token is ours");
    Failed::with(enroll(&machine, &token.file, &[]).run(), 12, "token_damaged").hints("copy the token again").spent("no");
    assert_eq!((machine.keys.most_logins(), machine.keys.private_keys()), (0, 0));
    fs::write(&token.file, whole).expect("the token is ours");
    report(&enroll(&machine, &token.file, &[]).run());
}

/// Status and code of an answer to what no client of ours posts.
fn posted(at: &dyn AnyController, method: &str, jti: &str, body: &str) -> (u64, String) {
    let url = format!("{}/edge/client/v1/enroll?method={method}&token={jti}", at.url());
    let types = ["-H", "content-type: application/x-pem-file", "-H", "accept: application/json"];
    let answer = curl().args(types).args(["-w", "\n%{http_code}", "--data-binary", body, &url]).run().success().stdout;
    let (answer, status) = answer.rsplit_once('\n').expect("a status on a line of its own");
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {status} {answer}"));
    (status.parse().expect("a status"), answer["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn still_enrolls<F: Fixture>(at: &dyn AnyController, machine: &Machine<F>, token: &Issued) {
    report(&enroll(machine, &token.file, &[]).run());
    report(&verify(machine, &token.out()));
    assert!(at.certificate(&token.identity_id).contains("BEGIN CERTIFICATE"));
}

/// What stands behind `enroll --dry-run`: an answer that is a definite no leaves the token.
pub fn wrong_method_leaves_the_token<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("wrong-method", machine.folder());
    // Before 1.5 the token alone counts.
    let no = if at.is_before(1, 5) { "COULD_NOT_PROCESS_CSR" } else { "INVALID_ENROLL_METHOD" };
    assert_eq!(posted(at, "ottca", &token.jti, "no request"), (400, no.to_owned()));
    still_enrolls(at, &machine, &token);
}

/// The same of requests that cannot be read, or that nobody has signed.
pub fn bad_request_leaves_the_token<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("bad-csr", machine.folder());
    let (key, csr) = (machine.path("k.pem"), machine.path("csr.der"));
    let openssl = Program::new(require("openssl", "openssl"));
    let kind =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-outform", "DER"];
    openssl.args(kind).arg("-keyout").arg(&key).arg("-out").arg(&csr).run().success();
    let mut csr = fs::read(csr).expect("openssl has written it");
    let last = csr.len() - 1;
    csr[last] ^= 1;
    let armoured = |der: &[u8]| {
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(der))
    };
    for body in ["no request".to_owned(), armoured(b"no DER"), armoured(&csr)] {
        let answer = posted(at, "ott", &token.jti, &body);
        assert_eq!(answer, (400, "COULD_NOT_PROCESS_CSR".to_owned()), "{body}");
    }
    still_enrolls(at, &machine, &token);
}

/// The controller's own copy ends what a kill has left.
pub fn lost_answer_is_resumed_from_the_copy<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("lost", machine.folder());
    let killed = ending(enroll(&machine, &token.file, &[]), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    machine.keys.after_a_kill();
    Failed::with(enroll(&machine, &token.file, &[]).run(), 33, "answer_lost").spent("yes");
    fs::write(machine.path("copy.pem"), at.certificate(&token.identity_id)).expect("the machine's folder is writable");
    let resume = machine.program().args(["resume", "--format", "json", "--certificate", "copy.pem"]).arg(token.out());
    report(&resume.args(machine.keys.pin()).run());
    let identity = IdentityFile::read(&token.out());
    assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
    report(&verify(&machine, &token.out()));
}

/// The certificate is taken away, and a new token buys one for the same identity; in a token, for the same key.
pub fn re_enrollment_finds_the_key<F: Fixture>(at: &dyn AnyController) {
    let machine = Machine::<F>::new();
    let token = at.issue("again", machine.folder());
    report(&enroll(&machine, &token.file, &[]).run());
    let (before, out) = (IdentityFile::read(&token.out()), text(&token.out()));
    let again = at.re_enroll(&token.identity_id, machine.folder());
    Failed::with(verify(&machine, &token.out()), 60, "login_refused");
    let said = report(&enroll(&machine, &again.file, &["--force", "--out", &out]).run());
    assert_eq!(said["identity"]["id"].as_str(), Some(&*token.identity_id));
    report(&verify(&machine, &token.out()));
    if F::PROVIDER == "pkcs11" {
        assert_eq!(IdentityFile::read(&token.out()).public_key(), before.public_key());
        assert_eq!(machine.keys.private_keys(), 1);
    }
}
