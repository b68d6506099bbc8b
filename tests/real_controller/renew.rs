//! Renewals at a real controller: what is asked for, moves of the key, and runs that are killed.

use std::fs;
use std::path::{Path, PathBuf};

use ziti_enroller_support::Program;

use super::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, ending, report, text};
use super::{RealController, enroll, verify};

/// An identity whose key is in the file, at a machine that has a token too.
struct Enrolled {
    controller: RealController,
    machine: Machine<InToken>,
    out: PathBuf,
    left_behind: Vec<PathBuf>,
}

impl Enrolled {
    fn new() -> Self {
        let controller = RealController::start();
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7", machine.folder());
        let out = token.with_extension("json");
        report(&machine.program().args(["enroll", "--format", "json", "--jwt"]).arg(&token).run());
        Self { controller, machine, out, left_behind: Vec::new() }
    }

    fn renew(&self, options: &[&str]) -> Program {
        self.machine.program().args(["renew", "--format", "json"]).arg(&self.out).args(options).args(self.machine.keys.pin())
    }

    /// Does it; the identity logs in afterwards, and none that it was before.
    fn renewed(&mut self, options: &[&str]) -> serde_json::Value {
        let before = self.machine.path(&format!("before-{}.json", self.left_behind.len()));
        fs::copy(&self.out, &before).expect("the machine's folder is writable");
        let said = report(&self.renew(options).run());
        assert_eq!(said["renewed"], true, "{said}");
        self.left_behind.push(before);
        self.only_the_last_one_logs_in();
        said
    }

    fn only_the_last_one_logs_in(&self) {
        let seen = report(&verify(&self.machine, &self.out));
        assert_eq!(seen["renewal"]["issued_by_network"], true, "{seen}");
        for old in &self.left_behind {
            Failed::with(verify(&self.machine, old), 60, "login_refused").says("INVALID_AUTH");
        }
    }

    /// The administrator's `ziti edge update authenticator cert`.
    fn ask(&self, what: &str) {
        let seen = report(&verify(&self.machine, &self.out));
        let authenticator = seen["renewal"]["authenticator"].as_str().expect("an id").to_owned();
        self.controller.ziti(&["edge", "update", "authenticator", "cert", &authenticator, what]).run().success();
    }
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn identity_is_renewed_and_moves_through_every_place() {
    let mut identity = Enrolled::new();
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false);
    let first = IdentityFile::read(&identity.out);
    identity.renewed(&["--force"]);
    let second = IdentityFile::read(&identity.out);
    assert_eq!((first.public_key(), first.key()), (second.public_key(), second.key()));
    assert!(second.chain().len() > 1, "the chain is not whole");

    let place = identity.machine.keys.place();
    let place: Vec<&str> = ["--rotate", "--provider", "pkcs11"].into_iter().chain(place.iter().map(String::as_str)).collect();
    let said = identity.renewed(&place);
    assert_eq!((&said["key"]["provider"], &said["key"]["created"]), (&"pkcs11".into(), &true.into()));
    let said = identity.renewed(&["--rotate", "--force"]);
    assert_eq!((&said["key"]["provider"], identity.machine.keys.private_keys()), (&"pkcs11".into(), 2));
    println!("renewed, and moved into a token, at port {}", identity.controller.port);
    through_a_tpm(&mut identity, &place);
}

#[cfg(feature = "tpm")]
fn through_a_tpm(identity: &mut Enrolled, back: &[&str]) {
    let tpm = ziti_enroller_support::Swtpm::new();
    let handle = format!("tpm2:handle=auto;auth=none?tcti={}", tpm.tcti());
    // The old keys stay, so that the controller alone can refuse the old certificates.
    let said = identity.renewed(&["--rotate", "--key", &handle]);
    assert_eq!((&said["key"]["provider"], &said["old_key"]["deleted"]), (&"tpm".into(), &false.into()));
    let said = identity.renewed(back);
    assert_eq!((&said["key"]["provider"], identity.machine.keys.private_keys()), (&"pkcs11".into(), 3));
    let said = report(&identity.renew(&["--rotate", "--force", "--delete-old-key"]).run());
    identity.only_the_last_one_logs_in();
    assert_eq!((&said["old_key"]["deleted"], identity.machine.keys.private_keys()), (&true.into(), 3));
    println!("moved through a TPM, at port {}", identity.controller.port);
}

#[cfg(not(feature = "tpm"))]
fn through_a_tpm(_: &mut Enrolled, _: &[&str]) {}

#[test]
#[ignore = "needs ZITI_BIN"]
fn administrator_asks_for_a_renewal_and_for_a_new_key() {
    let mut identity = Enrolled::new();
    let key = IdentityFile::read(&identity.out).public_key();
    identity.ask("--request-extend");
    let seen = report(&verify(&identity.machine, &identity.out));
    assert_eq!((&seen["renewal"]["requested"], &seen["renewal"]["new_key_requested"]), (&true.into(), &false.into()));
    identity.renewed(&[]);
    assert_eq!(IdentityFile::read(&identity.out).public_key(), key);
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false, "what was asked for is done");

    identity.ask("--request-key-roll");
    assert_eq!(report(&verify(&identity.machine, &identity.out))["renewal"]["new_key_requested"], true);
    let said = identity.renewed(&[]);
    assert_eq!(said["key"]["created"], true);
    assert_ne!(IdentityFile::read(&identity.out).public_key(), key);
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false, "what was asked for is done");
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn killed_renewal_is_finished_by_the_same_command() {
    let mut identity = Enrolled::new();
    for event in ["after_extend", "next_written", "before_verify", "after_verify", "recorded-confirming", "identity_replaced"] {
        let before = identity.machine.path(&format!("before-{event}.json"));
        fs::copy(&identity.out, &before).expect("the machine's folder is writable");
        let killed = ending(identity.renew(&["--force"]), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{event}: {killed}");
        report(&identity.renew(&["--force"]).run());
        identity.left_behind.push(before);
        identity.only_the_last_one_logs_in();
        assert!(!work(&identity.out).exists(), "{event}: the work folder is left");
    }
}

fn work(out: &Path) -> PathBuf {
    out.with_file_name(format!(".{}.renew", text(Path::new(out.file_name().expect("a name")))))
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn renewal_that_another_program_has_overwritten_is_asked_for_again() {
    let identity = Enrolled::new();
    let killed = ending(identity.renew(&["--force"]), "entering-confirming", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    // Another copy of the same identity is renewed meanwhile, as the C SDK would do it, and stops half-way.
    let copy = identity.machine.path("copy.json");
    fs::copy(&identity.out, &copy).expect("the machine's folder is writable");
    let other = identity.machine.program().args(["renew", "--force", "--format", "json"]).arg(&copy);
    assert_eq!(ending(other, "after_extend", "kill").run().signal, Some(9));
    report(&identity.renew(&[]).run());
    report(&verify(&identity.machine, &identity.out));
    Failed::with(verify(&identity.machine, &copy), 60, "login_refused");
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn token_identity_is_renewed_with_the_key_that_it_has() {
    let controller = RealController::start();
    for algorithm in ["p256", "rsa2048"] {
        let machine = Machine::<InToken>::new();
        let token = controller.issue(algorithm, machine.folder());
        report(&enroll(&machine, &token, &["--key-alg", algorithm]).run());
        let out = token.with_extension("json");
        let renew = machine.program().args(["renew", "--force", "--format", "json"]).arg(&out).args(machine.keys.pin());
        report(&renew.run());
        report(&verify(&machine, &out));
        assert_eq!((machine.keys.private_keys(), machine.keys.most_logins()), (1, 1), "{algorithm}");
    }
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("p384", machine.folder());
    report(&enroll(&machine, &token, &["--key-alg", "p384"]).run());
    report(&machine.program().args(["renew", "--force", "--format", "json"]).arg(token.with_extension("json")).run());
}
