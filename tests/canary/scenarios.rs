//! What is done with a PIN, at every place.

use std::net::TcpListener;

use ziti_enroller_support::canary::Found;
use ziti_enroller_support::{Fault, Program};

use super::place::{Place, fault};
use super::stage::Stage;
use crate::machine::{ending, text};

/// A scenario: its name, and what is done.
pub type Scenario<F> = (&'static str, fn(&mut Stage<F>) -> Found);

/// Where a PIN may come from.
pub fn sources<F: Place>() -> Vec<Scenario<F>> {
    vec![
        ("PIN in a descriptor", |s| {
            let file = text(&s.machine.keys.pin_file());
            let enroll = s.new_key().args(["--pin-fd", "7"]);
            s.ends(0, enroll.within(["/bin/sh", "-c", &format!("exec \"$@\" 7<{file}"), "sh"]))
        }),
        ("PIN in a file", |s| s.ends(0, s.new_key().args(s.pin()))),
        ("PIN in a file that a reference names", |s| {
            let reference = format!("{}&pin-source=file:{}", s.make(), text(&s.machine.keys.pin_file()));
            s.ends(0, s.existing_at(&reference))
        }),
        ("PIN in a variable", |s| {
            let found = s.ends(0, s.new_key().env("ZITI_ENROLLER_PIN", s.secret()));
            assert_eq!(found.handed_on, 1, "{}", found.outcome);
            found
        }),
        ("PIN and token in variables", |s| {
            let key = s.make();
            let enroll = s.program(&["enroll", "--out", "gate-7.json", "--key", &key]);
            let enroll = enroll.env("ZITI_ENROLLER_PIN", s.secret()).env("ZITI_ENROLL_TOKEN", s.token.compact());
            let found = s.ends(0, enroll);
            assert_eq!(found.handed_on, 2, "{}", found.outcome);
            found
        }),
        ("PIN in a credential", |s| {
            let enroll = s.new_key().env("CREDENTIALS_DIRECTORY", s.credential());
            s.ends(0, enroll)
        }),
        ("PIN at a terminal", |s| {
            // A TPM does not tell whether a key has one, and nobody is asked for nothing.
            let reference = s.make().replace("?tcti=", ";auth=pin?tcti=");
            s.ends_at_terminal(0, s.existing_at(&reference))
        }),
    ]
}

/// What is done with it.
pub fn commands<F: Place>() -> Vec<Scenario<F>> {
    vec![
        ("enroll, existing key", |s| s.ends(0, s.existing().args(s.pin()))),
        ("enroll --dry-run", |s| s.ends(0, s.new_key().args(s.pin()).arg("--dry-run"))),
        ("resume", |s| {
            s.is_killed(ending(s.new_key().args(s.pin()), "after_generation", "kill"));
            s.ends(0, s.program(&["resume", "gate-7.json"]).args(s.pin()))
        }),
        ("verify", |s| {
            s.enrolled();
            s.ends(0, s.program(&["verify", "gate-7.json"]).args(s.pin()))
        }),
        ("doctor", |s| {
            let key = s.make();
            s.token.write(s.machine.folder());
            s.ends(0, s.program(&["doctor", "--jwt", "gate-7.jwt", "--key", &key]).args(s.pin()))
        }),
        ("list tokens", |s| s.ends(0, s.program(&["list", "tokens"]).args(s.place()).args(s.pin()))),
        ("list keys", |s| {
            s.make();
            s.ends(0, s.program(&["list", "keys"]).args(s.place()).args(s.pin()))
        }),
        ("key create", |s| s.ends(0, s.program(&["key", "create", &s.reference()]).args(s.pin()))),
        ("key delete", |s| {
            let key = s.make();
            s.ends(0, s.program(&["key", "delete", &key, "--force"]).args(s.pin()))
        }),
        ("status", |s| {
            s.is_killed(ending(s.new_key().args(s.pin()), "before_post", "kill"));
            s.ends(1, s.program(&["status", "gate-7.json"]))
        }),
        ("inspect", |s| {
            s.enrolled();
            s.ends(0, s.program(&["inspect", "gate-7.json"]))
        }),
    ]
}

/// How it may end.
pub fn outcomes<F: Place>() -> Vec<Scenario<F>> {
    vec![
        ("wrong PIN", |s| s.ends(21, s.existing().args(s.wrong_pin()))),
        ("wrong PIN again", |s| {
            let wrong = s.wrong_pin();
            s.ends(21, s.existing().args(&wrong));
            let again = s.ends(21, s.existing().args(&wrong));
            let said = [again.outcome.stdout.as_str(), &again.outcome.stderr].concat();
            assert!(said.contains("before, and that has not changed"), "{}", again.outcome);
            again
        }),
        ("PIN with a control character", |s| s.ends(21, s.existing().args(s.malformed_pin()))),
        ("PIN in the reference", |s| {
            let reference = format!("{}&pin-value={}", s.reference(), s.secret());
            s.ends(2, s.existing_at(&reference))
        }),
        ("locked", |s| {
            let enroll = s.existing();
            let locked = s.machine.keys.lock(s);
            s.ends(22, enroll.args(s.pin()).envs(locked))
        }),
        ("refused by the controller", |s| {
            s.controller.set_faults([Fault::Refuse("COULD_NOT_PROCESS_CSR".into(), 400)]);
            s.ends(31, s.new_key().args(s.pin()))
        }),
        ("controller not reached", |s| {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
            let token = s.controller.issue_at("gate-7", &format!("https://localhost:{port}"));
            s.holding(token);
            s.ends(30, s.new_key().args(s.pin()))
        }),
        ("killed with a new key", |s| {
            let killed = s.is_killed(ending(s.new_key().args(s.pin()), "after_generation", "kill"));
            s.ends(0, s.new_key().args(s.pin()));
            killed
        }),
        ("killed at the request", |s| s.is_killed(ending(s.existing().args(s.pin()), "before_post", "kill"))),
        ("stopped with the identity written", |s| {
            s.ends(70, ending(s.existing().env("ZITI_ENROLLER_PIN", s.secret()), "identity_written", "error"))
        }),
        ("device does not answer", |s| {
            let enroll = s.existing();
            let hanging = s.machine.keys.hang(s.bus.as_ref());
            s.ends(25, enroll.args(s.pin()).args(["--device-timeout", "500ms"]).envs(hanging))
        }),
    ]
}

/// What only a TPM asks.
pub fn of_a_tpm<F: Place>() -> Vec<Scenario<F>> {
    vec![
        ("owner with an auth value", |s| {
            let owner = s.owned();
            s.ends(0, s.new_key().args(s.pin()).args(owner))
        }),
        ("wrong auth value of the owner", |s| {
            s.owned();
            let wrong = s.wrong_pin();
            s.ends(21, s.new_key().args(s.pin()).args(["--owner-pin-file", &wrong[1]]))
        }),
    ]
}

/// What only a module does, and an identity that holds the PIN; at one place.
pub fn of_a_module<F: Place>() -> Vec<Scenario<F>> {
    vec![
        ("module prints", |s| {
            let printing = fault("C_Login:1:print;C_Sign:1:print;C_GenerateKeyPair:1:print");
            let found = s.ends(0, s.new_key().args(s.pin()).envs(printing));
            assert!(found.outcome.stderr.contains("p11fault: C_Login 1"), "{}", found.outcome);
            found
        }),
        ("PIN before every signature", |s| s.ends(0, s.existing().args(s.pin()).envs(fault("login:context;sign:in-parts")))),
        ("session lost", |s| s.ends(0, s.existing().args(s.pin()).envs(fault("C_SignInit:2:0xb3")))),
        ("PIN that two readers would read differently", |s| s.ends(2, s.new_key().args(s.pin()).arg("--embed-pin"))),
    ]
}

/// A person who does not find `--pin` tries others.
pub fn in_the_wrong_option<F: Place>() -> Vec<Scenario<F>> {
    fn mistyped<F: Place>(s: &Stage<F>, words: &[&str]) -> Program {
        s.new_key().args(words)
    }
    vec![
        ("PIN for a descriptor", |s| s.ends(2, mistyped(s, &["--pin-fd", s.secret()]))),
        ("PIN for the descriptor of a password", |s| s.ends(2, mistyped(s, &["--password-fd", s.secret()]))),
        ("PIN for a descriptor, in a variable", |s| s.ends(2, s.new_key().env("ZITI_ENROLLER_PIN_FD", s.secret()))),
        ("PIN with --pin", |s| s.ends(2, mistyped(s, &["--pin", s.secret()]))),
        ("PIN with --pin=", |s| s.ends(2, mistyped(s, &[&format!("--pin={}", s.secret())]))),
        ("PIN in a reference, as SDKs have it", |s| s.ends(2, s.existing_at(&format!("{}&pin={}", s.reference(), s.secret())))),
        ("PIN in the URI of a token", |s| {
            let token = format!("pkcs11:token=ziti-test;pin-value={}", s.secret());
            let place = s.place().into_iter().map(|word| if word == "ziti-test" { token.clone() } else { word });
            s.ends(2, s.program(&["list", "keys"]).args(place))
        }),
        ("PIN in the reference of an identity", |s| {
            s.enrolled();
            let identity = s.machine.identity(&s.token);
            s.ends(2, s.program(&["key", "delete", &format!("{}&pin={}", identity.key(), s.secret()), "--force"]))
        }),
        ("PIN in a reference, in capitals", |s| s.ends(2, s.existing_at(&format!("{}&PIN-VALUE={}", s.reference(), s.secret())))),
        ("PIN in a reference to list keys", |s| {
            let within = format!("pkcs11:token=ziti-test;pin-value={}", s.secret());
            s.ends(2, s.program(&["list", "keys", &within]))
        }),
        ("PIN in a reference that no colon ends", |s| {
            let within = format!("pkcs11:token=ziti-test;pin-value:{}", s.secret());
            s.ends(2, s.program(&["list", "keys", &within]))
        }),
        ("PIN for auth of a TPM reference", |s| s.ends(2, s.existing_at(&format!("tpm2:handle=0x81020000;auth={}", s.secret())))),
    ]
}
