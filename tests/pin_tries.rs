//! What a wrong PIN costs, judged by a token that locks, and by the record that every fixture leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use ziti_enroller_support::logins::{Verdict, folder};
use ziti_enroller_support::{Controller, Kryoptic, Options, Tokens, figures};

use crate::machine::{Failed, InToken, InTokenOf, Machine, report, text};

const RUNS: usize = 50;

#[test]
fn a_service_that_restarts_with_a_wrong_pin_costs_one_try() {
    let controller = Controller::start(Options::default());
    let machine = Machine::with(|_| InTokenOf { hsm: Kryoptic::new() });
    let (hsm, token) = (&machine.keys.hsm, controller.issue("gate-7"));
    let (wrong, state) = (machine.path("wrong-pin"), machine.path("state"));
    fs::write(&wrong, "000000000\n").expect("the machine's folder is writable");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    fs::create_dir(&state).expect("the machine's folder is writable");
    let jwt = token.write(machine.folder());
    let run = |pin: &PathBuf| {
        let program = machine.program().args(["enroll", "--format", "json", "--provider", "pkcs11", "--jwt"]).arg(&jwt);
        let program = program.args(["--module", &text(&hsm.module()), "--token", hsm.label(), "--pin-file"]).arg(pin);
        program.env("STATE_DIRECTORY", &state).run()
    };
    Failed::with(run(&wrong), 21, "pin_incorrect").says("refused the PIN").spent("no");
    for _ in 1..RUNS {
        Failed::with(run(&wrong), 21, "pin_refused_before").says("no try was used").hints("--retry-pin").spent("no");
    }
    let tried = hsm.count("C_Login");
    // As the token is now, the right PIN enrolls; then it is put back, and more wrong ones show how many it has counted.
    let store = hsm.directory().join("token-1.sql");
    let before = fs::read(&store).expect("the token is a file");
    report(&run(&hsm.pin_file()));
    fs::write(&store, before).expect("the token is ours");
    let list = || hsm.tool("not the PIN").arg("--list-objects").run().stderr;
    let left = (1..=Kryoptic::TRIES).find(|_| list().contains("CKR_PIN_LOCKED")).expect("it locks at the tenth");
    let burnt = Kryoptic::TRIES - left;
    figures::record("runs with one wrong PIN that cost no further try, kryoptic", RUNS - 1, RUNS - burnt, "");
    assert_eq!((tried, burnt), (1, 1));
}

/// The judge catches a real run whose lines stand in another order.
#[test]
fn a_login_that_comes_too_early_is_seen_in_the_record() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    report(&machine.enroll(&controller.issue("gate-7")).run());
    let record = machine.keys.hsm.env().into_iter().find(|(name, _)| name == "P11FAULT_RECORD").map(|(_, path)| path);
    let record = record.expect("a fixture leaves a record");
    assert!(PathBuf::from(&record).starts_with(folder()), "{record}");
    let text = fs::read_to_string(&record).expect("it was written");
    let verdict = |text: &str| {
        let mut verdict = Verdict::default();
        verdict.add("gate-7", text);
        verdict
    };
    assert_eq!(verdict(&text), Verdict { runs: 1, logins: 1, ..Verdict::default() });
    let (logins, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(" login "));
    let begins = rest.iter().position(|line| line.contains(" begins ")).expect("a process begins");
    let early = [&rest[..=begins], &logins[..], &rest[begins + 1..]].concat().join("\n");
    assert!(verdict(&early).wrong[0].ends_with("a login before the token was verified"), "{early}");
    let wrong = text.replace("pin=given 0x0", "pin=given 0xa0");
    let twice = format!("{wrong}{}\n", logins[0]);
    assert!(verdict(&twice).wrong[0].ends_with("a login after one that was refused"), "{twice}");
}
