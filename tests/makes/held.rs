//! What is looked at of each make: the lists, a diagnosis, an enrollment with a new key and with one that is there.

use serde_json::{Value, json};
use ziti_enroller::key::KeyUri;
use ziti_enroller_support::{Controller, KeyType, Options, Program, Token, Tokens};

use super::{Ends::*, Make};
use crate::machine::{Failed, Fixture, InToken, Machine, TokenObject, report, text};

/// The machine with the manners of `make`.
struct Place<'a> {
    machine: Machine<InToken>,
    controller: Controller,
    make: &'a Make,
}

impl Place<'_> {
    fn with_manners(&self, program: Program) -> Program {
        let keys = &self.machine.keys;
        let program = program.env("P11FAULT", self.make.rules).env("P11FAULT_PIN_FILE", keys.hsm.pin_file());
        if self.make.keypad { program } else { program.args(keys.pin()) }
    }

    fn command(&self, words: &[&str]) -> Program {
        self.with_manners(self.machine.program().args(words).args(self.machine.keys.place()))
    }

    fn with_token(&self, words: &[&str], token: &Token) -> Program {
        self.command(words).args(["--provider", "pkcs11", "--jwt"]).arg(token.write(self.machine.folder()))
    }

    fn verify(&self, token: &Token) -> Value {
        let program = self.machine.program().args(["verify", "--format", "json"]).arg(self.machine.out(token));
        report(&self.with_manners(program).run())
    }

    /// Logins that were refused, and those with a PIN where the flags forbade one.
    fn refused_logins(&self) -> usize {
        self.machine.keys.hsm.call_lines().iter().filter(|line| line.contains(" C_Login ") && !line.ends_with(" 0x0")).count()
    }
}

/// Holds a token with these manners to what is expected of it.
pub fn holds(make: Make) {
    let place = Place { machine: Machine::new(), controller: Controller::start(Options::default()), make: &make };
    let (keys, token) = (&place.machine.keys, place.controller.issue("gate-7"));
    lists_the_token(&place);
    is_diagnosed(&place, &token);

    keys.hsm.clear_calls();
    let outcome = place.with_token(&["enroll", "--format", "json"], &token).run();
    match make.new {
        Refused(exit, code, says, hints) => {
            Failed::with(outcome, exit, code).says(says).hints(hints).spent("no");
            assert_eq!((keys.objects(), place.controller.enroll_posts()), (Vec::new(), 0));
            assert!(place.refused_logins() <= 1, "{:?}", keys.hsm.call_lines());
        }
        Enrolled => {
            let said = report(&outcome);
            assert_eq!((&said["key"]["created"], place.controller.enroll_posts()), (&json!(true), 1));
            others_agree(&place, &token, &said);
            assert_eq!(place.verify(&token)["key"]["spki_sha256"], said["key"]["spki_sha256"]);
            lists_the_key(&place, &said);
            assert_eq!(place.refused_logins(), 0, "{:?}", keys.hsm.call_lines());
        }
    }
    uses_a_key_that_is_there(&place);
}

fn uses_a_key_that_is_there(place: &Place<'_>) {
    let (keys, make) = (&place.machine.keys, place.make);
    let (before, posts) = (keys.objects().len(), place.controller.enroll_posts());
    keys.make_pair("mine", "6d", KeyType::P256);
    let token = place.controller.issue("gate-8");
    let enroll = place.machine.enroll_with(&token);
    let enroll = if make.keypad {
        place.machine.program().args(["enroll", "--format", "json", "--jwt"]).arg(token.write(place.machine.folder()))
    } else {
        enroll
    };
    let enroll = enroll.env("P11FAULT", make.rules).env("P11FAULT_PIN_FILE", keys.hsm.pin_file());
    let outcome = enroll.args(["--key", &keys.reference("mine")]).run();
    match make.existing {
        Refused(exit, code, says, hints) => {
            Failed::with(outcome, exit, code).says(says).hints(hints).spent("no");
            assert_eq!(place.controller.enroll_posts(), posts);
        }
        Enrolled => {
            let said = report(&outcome);
            assert_eq!((&said["key"]["created"], place.controller.enroll_posts()), (&json!(false), posts + 1));
            assert_eq!(place.machine.identity(&token).public_key(), keys.read_public("6d"));
            place.verify(&token);
        }
    }
    // Whatever came of it, the key that was there is there.
    assert_eq!(keys.objects().len(), before + 2);
}

/// What pkcs11-tool and p11tool say of the new key is what was reported.
fn others_agree(place: &Place<'_>, token: &Token, said: &Value) {
    let keys = &place.machine.keys;
    let reference = said["key"]["reference"].as_str().expect("a reference is text");
    let named: KeyUri = reference.parse().expect("a reference is one");
    let attribute = |name: &str| named.attribute(name).unwrap_or_default().to_vec();
    let privates = keys.of_class("Private Key Object");
    let [TokenObject { label, id, access, .. }] = privates.as_slice() else { panic!("one private key: {privates:?}") };
    assert_eq!(ziti_enroller::text::hex(&attribute("id")), *id, "{reference}");
    assert_eq!(attribute("object"), label.as_bytes(), "{reference}");
    assert_eq!(access, "sensitive, always sensitive, never extractable, local");
    let public = keys.public_keys();
    assert_eq!(public, [place.machine.identity(token).public_key()]);
    let asked = ["algorithm", "extractable"].map(|name| said["key"][name].clone());
    let extractable = if place.make.rules.contains("CKA_EXTRACTABLE=unknown") { Value::Null } else { json!(false) };
    assert_eq!(asked, [json!("p256"), extractable]);
}

/// `list tokens` shows the token of the test, in both formats, with what rules it out.
fn lists_the_token(place: &Place<'_>) {
    let (hsm, make) = (&place.machine.keys.hsm, place.make);
    let list = |format: &str| {
        let program = place.machine.program().args(["list", "tokens", "--format", format, "--module", &text(&hsm.module())]);
        program.env("P11FAULT", make.rules).env("P11FAULT_PIN_FILE", hsm.pin_file()).run()
    };
    let said = report(&list("json"));
    let tokens = said["tokens"].as_array().expect("a list");
    let ours: Vec<&Value> = tokens.iter().filter(|token| token["label"] == "ziti-test").collect();
    let [ours] = ours.as_slice() else { panic!("one token of that label: {said}") };
    let serial = if make.rules.contains("tpm2-pkcs11") { "0000000000000000" } else { hsm.serial() };
    assert_eq!(
        (&ours["serial"], &ours["model"], &ours["manufacturer"]),
        (&json!(serial), &json!("SoftHSM v2"), &json!("SoftHSM project"))
    );
    let (pin, obstacle) = make.listed;
    assert_eq!(ours["pin"], pin, "{said}");
    match (obstacle, ours["obstacle"].as_str()) {
        (None, None) => {}
        (Some(words), Some(said)) if said.contains(words) => {}
        (expected, found) => panic!("obstacle {found:?}, not {expected:?}"),
    }
    // The slot that SoftHSM always has empty, and nShield's accelerator: seen, and ruled out.
    for other in tokens.iter().filter(|token| token["label"] != "ziti-test") {
        assert!(other["obstacle"].is_string(), "{other}");
    }
    let lines = list("text").success().stdout;
    for token in tokens {
        let reference = token["reference"].as_str().expect("a reference is text");
        assert!(!reference.contains("token=;") && !reference.contains("token=?"), "{reference}");
        // Where numbers change from list to list, they do.
        if !make.rules.contains("slots:renumber") || token["label"] != "" {
            assert!(lines.contains(reference) && lines.contains(token["model"].as_str().expect("text")), "{lines}");
            assert!(token["obstacle"].as_str().is_none_or(|why| lines.contains(&format!("not usable: {why}"))), "{lines}");
        }
    }
    assert_eq!(hsm.count("C_Login"), 0);
}

/// `list keys` shows the one key, and that nothing rules it out, unless nobody can see what it is.
fn lists_the_key(place: &Place<'_>, enrolled: &Value) {
    let said = report(&place.command(&["list", "keys", "--format", "json"]).run());
    let [key] = said["keys"].as_array().expect("a list").as_slice() else { panic!("one key: {said}") };
    assert_eq!(key["reference"], enrolled["key"]["reference"]);
    if place.make.rules == "hide:public" {
        assert!(key["obstacle"].as_str().is_some_and(|why| why.contains("shows its public half")), "{said}");
    } else {
        assert_eq!((&key["obstacle"], &key["algorithm"]), (&Value::Null, &json!("p256")));
        assert_eq!(key["spki_sha256"], enrolled["key"]["spki_sha256"]);
    }
}

/// `doctor` finds what an enrollment would, uses no more than one try, and leaves the token of the controller and the device
/// as they are.
fn is_diagnosed(place: &Place<'_>, token: &Token) {
    let keys = &place.machine.keys;
    keys.hsm.clear_calls();
    let outcome = place.with_token(&["doctor", "--format", "json"], token).run();
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    let said: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let checks = said["checks"].as_array().expect("a diagnosis has checks");
    let failed = checks.iter().find(|check| !check["error"].is_null()).map(|check| &check["error"]);
    match (place.make.diagnosed, failed) {
        (Ok(words), None) => {
            let key = checks.last().expect("there are checks");
            assert_eq!((&key["tried"], outcome.code), (&json!("key"), Some(0)));
            assert!(key["found"].as_str().is_some_and(|found| found.contains(words)), "{said}");
            let device = checks.iter().find(|check| check["tried"] == "device").expect("the device was looked at");
            assert!(device["found"].as_str().is_some_and(|found| found.contains("\"ziti-test\"")), "{said}");
        }
        (Err((exit, code)), Some(error)) => {
            assert_eq!((&error["code"], &error["exit"], outcome.code), (&json!(code), &json!(exit), Some(exit as i32)));
            assert!(error["hint"].is_string(), "nothing is said to do: {said}");
        }
        (expected, _) => panic!("not {expected:?}: {said}"),
    }
    assert_eq!((keys.objects(), place.controller.enroll_posts()), (Vec::new(), 0));
    is_said_in_lines(place, token, checks);
    // A PIN that was accepted may be given again before a signature.
    let logins = keys.hsm.login_lines();
    let process = logins.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
    let as_user = logins.iter().filter(|line| line.starts_with(process) && line.contains(" user=1 ")).count();
    assert!(as_user <= 1, "{logins:?}");
    assert_eq!(keys.hsm.count("C_CreateObject") + keys.hsm.count("C_SetAttributeValue") + keys.hsm.count("C_InitToken"), 0);
}

/// For a person the same, and `enroll --dry-run` says it.
fn is_said_in_lines(place: &Place<'_>, token: &Token, checks: &[Value]) {
    let said = place.with_token(&["enroll", "--dry-run"], token).run();
    let words = |value: &Value| value.as_str().expect("text").to_owned();
    let lines = checks.iter().map(|check| {
        let (tried, found, error) = (words(&check["tried"]), words(&check["found"]), &check["error"]);
        if error.is_null() {
            return format!("ok     {tried}: {found}\n");
        }
        let (code, hint) = (words(&error["code"]), words(&error["hint"]));
        format!("FAILED {tried}: {found} ({code}, exit {})\n       hint: {hint}\n", error["exit"])
    });
    let expected: String = lines.collect();
    let code = checks.iter().find_map(|check| check["error"]["exit"].as_i64()).unwrap_or(0);
    assert_eq!((said.stdout.as_str(), said.code.map(i64::from)), (expected.as_str(), Some(code)), "{said}");
}
