//! Renewals: with the same key, with a new one, when an administrator asks, when a run is killed, when another program comes
//! between, and moves of the key.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use ziti_enroller_support::Program;

use super::controllers::{AnyController, Issued};
use super::machine::{Failed, Fixture, IdentityFile, InFiles, Machine, ending, report, text};
use super::{enroll, verify};

/// An identity, and what it was before.
struct Enrolled<F> {
    machine: Machine<F>,
    token: Issued,
    out: PathBuf,
    left_behind: Vec<PathBuf>,
}

impl<F: Fixture> Enrolled<F> {
    /// Its key lives where the machine's keys live.
    fn new(at: &dyn AnyController, name: &str) -> Self {
        Self::by(at, name, |machine, token| enroll(machine, &token.file, &[]))
    }

    /// Its key is in its file, wherever the machine's keys live.
    fn in_its_file(at: &dyn AnyController, name: &str) -> Self {
        Self::by(at, name, |machine, token| machine.program().args(["enroll", "--format", "json", "--jwt"]).arg(&token.file))
    }

    fn by(at: &dyn AnyController, name: &str, enroll: impl FnOnce(&Machine<F>, &Issued) -> Program) -> Self {
        let machine = Machine::<F>::new();
        let token = at.issue(name, machine.folder());
        report(&enroll(&machine, &token).run());
        let out = token.out();
        Self { machine, token, out, left_behind: Vec::new() }
    }

    fn renew(&self, options: &[&str]) -> Program {
        self.machine.program().args(["renew", "--format", "json"]).arg(&self.out).args(options).args(self.machine.keys.pin())
    }

    /// `--rotate` to where the machine's keys live.
    fn home(&self) -> Vec<String> {
        let options = ["--rotate", "--force", "--provider", F::PROVIDER].map(str::to_owned);
        options.into_iter().chain(self.machine.keys.place()).collect()
    }

    /// Does it; the identity logs in afterwards, and none that it was before.
    fn renewed<T: AsRef<str>>(&mut self, options: &[T]) -> Value {
        let before = self.machine.path(&format!("before-{}.json", self.left_behind.len()));
        fs::copy(&self.out, &before).expect("the machine's folder is writable");
        let said = report(&self.renew(&options.iter().map(AsRef::as_ref).collect::<Vec<_>>()).run());
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

    fn key(&self) -> Vec<u8> {
        let identity = IdentityFile::read(&self.out);
        assert_eq!(self.machine.keys.public_key_of(identity.key()), identity.public_key());
        identity.public_key()
    }
}

/// Nothing when nothing is due; when told to, with the key that it has, and one login.
pub fn renewal_keeps_the_key<F: Fixture>(at: &dyn AnyController) {
    let mut identity = Enrolled::<F>::new(at, "renew");
    let (key, keys) = (identity.key(), identity.machine.keys.private_keys());
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false);
    identity.renewed(&["--force"]);
    assert_eq!((identity.key(), identity.machine.keys.private_keys()), (key, keys));
    assert!(IdentityFile::read(&identity.out).chain().len() > 1, "the chain is not whole");
    assert!(identity.machine.keys.most_logins() < 2);
}

/// To a new key in the same place; the old one stays unless it is to go.
pub fn rotation_makes_a_new_key<F: Fixture>(at: &dyn AnyController) {
    let mut identity = Enrolled::<F>::new(at, "rotate");
    let (key, keys) = (identity.key(), identity.machine.keys.private_keys());
    let home = identity.home();
    let said = identity.renewed(&home);
    assert_eq!((&said["key"]["provider"], &said["key"]["created"]), (&F::PROVIDER.into(), &true.into()));
    assert_ne!(identity.key(), key);
    assert_eq!(identity.machine.keys.private_keys(), 2 * keys);
}

/// From the identity's file to where the machine's keys live, and to a third key, the second deleted.
pub fn key_moves_into_hardware<F: Fixture>(at: &dyn AnyController) {
    let mut identity = Enrolled::<F>::in_its_file(at, "move");
    assert_eq!(identity.machine.keys.private_keys(), 0);
    let home = identity.home();
    let said = identity.renewed(&home);
    assert_eq!((&said["key"]["provider"], identity.machine.keys.private_keys()), (&F::PROVIDER.into(), 1));
    let key = identity.key();
    let home: Vec<String> = home.into_iter().chain(["--delete-old-key".into()]).collect();
    // Without its key, what it was before cannot ask to be let in.
    let said = report(&identity.renew(&home.iter().map(String::as_str).collect::<Vec<_>>()).run());
    assert_eq!((&said["old_key"]["deleted"], identity.machine.keys.private_keys()), (&true.into(), 1));
    identity.only_the_last_one_logs_in();
    assert_ne!(identity.key(), key);
}

/// From 1.6 on an administrator can ask.
pub fn administrator_asks_for_a_renewal_and_for_a_new_key<F: Fixture>(at: &dyn AnyController) {
    let mut identity = Enrolled::<F>::new(at, "asked");
    let key = identity.key();
    at.ask(&identity.token.identity_id, false);
    let seen = report(&verify(&identity.machine, &identity.out));
    assert_eq!((&seen["renewal"]["requested"], &seen["renewal"]["new_key_requested"]), (&true.into(), &false.into()));
    identity.renewed::<&str>(&[]);
    assert_eq!(identity.key(), key);
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false, "what was asked for is done");

    at.ask(&identity.token.identity_id, true);
    assert_eq!(report(&verify(&identity.machine, &identity.out))["renewal"]["new_key_requested"], true);
    let said = identity.renewed::<&str>(&[]);
    assert_eq!(said["key"]["created"], true);
    assert_ne!(identity.key(), key);
    assert_eq!(report(&identity.renew(&[]).run())["renewed"], false, "what was asked for is done");
}

pub fn killed_renewal_is_finished_by_the_same_command(at: &dyn AnyController) {
    let mut identity = Enrolled::<InFiles>::new(at, "killed");
    for event in ["after_extend", "next_written", "before_verify", "after_verify", "recorded-confirming", "identity_replaced"] {
        let before = identity.machine.path(&format!("before-{event}.json"));
        fs::copy(&identity.out, &before).expect("the machine's folder is writable");
        let killed = ending(identity.renew(&["--force"]), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{event}: {killed}");
        report(&identity.renew(&["--force"]).run());
        identity.left_behind.push(before);
        identity.only_the_last_one_logs_in();
        let name = identity.out.file_name().map(PathBuf::from).expect("a name");
        let work = identity.machine.path(&format!(".{}.renew", text(&name)));
        assert!(!work.exists(), "{event}: the work folder is left");
    }
}

pub fn renewal_that_another_program_has_overwritten_is_asked_for_again(at: &dyn AnyController) {
    let identity = Enrolled::<InFiles>::new(at, "overwritten");
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
