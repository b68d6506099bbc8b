//! The library in programs of others: the examples, as children.

use std::path::{Path, PathBuf};

use ziti_enroller_support::{Controller, Options, Program, Token, figures, sample};

use crate::machine::{Fixture, InFiles, InToken, Machine, report};

/// An example, built beside the running test.
fn example(name: &str) -> Program {
    let running = std::env::current_exe().expect("the running test knows its own path");
    let built = running.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let program = built.join("examples").join(name);
    assert!(program.is_file(), "{} is missing: cargo build --example {name}", program.display());
    Program::new(program)
}

/// A controller, and a machine with an identity whose key is in a token.
fn in_a_token() -> (Controller, Machine<InToken>, PathBuf) {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    let identity = machine.out(&token);
    (controller, machine, identity)
}

fn client<F: Fixture>(machine: &Machine<F>, identity: &Path, threads: usize, each: usize) -> Program {
    let client = example("mtls_client").envs(machine.keys.surroundings()).arg(identity);
    let client = client.args([threads.to_string(), each.to_string()]);
    match &machine.keys.pin()[..] {
        [_, file] => client.env("ZITI_ENROLLER_PIN_FILE", file),
        _ => client,
    }
}

#[test]
fn sixteen_threads_share_one_identity_in_a_token() {
    let (controller, machine, identity) = in_a_token();
    let (threads, each) = (16, if sample::is_whole() { 100 } else { 25 });
    let logins = machine.keys.logins();
    let before = controller.counts();
    let ended = client(&machine, &identity, threads, each).limit(std::time::Duration::from_secs(400)).run();
    let answered = ended.stdout.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    figures::record("requests of 16 threads through one identity in a token", threads * each, answered, "");
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended}");
    assert_eq!(controller.counts().connections - before.connections, threads * each, "not each was a handshake of its own");
    assert_eq!(machine.keys.logins() - logins, 1, "one login, however many threads");
    assert_eq!(controller.sessions_open(), 0);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

/// The session is lost, or the token was taken out and is back, while threads are at work.
#[test]
fn token_that_was_reset_is_opened_again() {
    // CKR_SESSION_HANDLE_INVALID, CKR_DEVICE_REMOVED, CKR_TOKEN_NOT_PRESENT, CKR_USER_NOT_LOGGED_IN.
    for lost in ["0xb3", "0x32", "0xe0", "0x101"] {
        let (_controller, machine, identity) = in_a_token();
        let rules = format!("C_SignInit:5:{lost};C_SignInit:30:{lost}");
        let ended = client(&machine, &identity, 4, 10).env("P11FAULT", rules).run();
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{lost}: {ended}");
        assert!(ended.stdout.starts_with("40 of 40 requests answered"), "{lost}: {ended}");
    }
}

#[test]
fn client_fails_where_the_token_stays_away() {
    let (_controller, machine, identity) = in_a_token();
    // The first signature is the one that proves the key.
    let ended = client(&machine, &identity, 1, 3).env("P11FAULT", "C_SignInit:2:0x32;C_SignInit:3:0x32").run();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stdout.starts_with("2 of 3 requests answered"), "it is there again for the next one: {ended}");
    assert!(ended.stderr.contains("CKR_DEVICE_REMOVED"), "{ended}");
}

#[cfg(feature = "tpm")]
#[test]
fn key_in_a_tpm_signs_each_handshake() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<crate::machine::tpm::InTpmFile>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    let before = controller.counts().connections;
    let ended = client(&machine, &machine.out(&token), 3, 2).run();
    assert!(ended.stdout.starts_with("6 of 6 requests answered"), "{ended}");
    assert_eq!((controller.counts().connections - before, &*ended.stderr), (6, ""), "{ended}");
}

#[test]
fn embedded_pin_is_enough() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).arg("--embed-pin").run());
    let client = example("mtls_client").envs(machine.keys.surroundings()).arg(machine.out(&token)).args(["1", "2"]);
    assert!(client.run().success().stdout.starts_with("2 of 2"));
}

#[test]
fn key_of_a_provider_of_ones_own() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token: Token = controller.issue("gate-7");
    let shelf = machine.path("shelf");
    std::fs::create_dir(&shelf).expect("the machine's folder is writable");
    let ended = example("own_key").arg(token.write(machine.folder())).arg(&shelf).run().success();
    let named = format!("shelf:object={}", token.sub());
    assert!(ended.stdout.ends_with(&format!("logged in as gate-7 with {named}\n")), "{ended}");
    assert_eq!(ended.stderr, "", "the library talks: {ended}");
    assert_eq!(machine.identity(&token).key(), named);
    assert_eq!(controller.sessions_open(), 0);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
    // This program itself has no such provider, and says so.
    let ended = machine.verify(&token).run();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stdout.contains("scheme `shelf:` is unknown"), "{ended}");
}
