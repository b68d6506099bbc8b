//! The commands that a hint prints are run as they stand, with the controller's own command line.

use std::path::Path;

use serde_json::Value;
use ziti_enroller_support::{Program, require};

use super::controllers::AnyController;
use super::machine::{Failed, Fixture, IdentityFile, InToken, Machine, PROGRAM, ending, report, text};
use super::real::RealController;
use super::{enroll, verify};

#[test]
#[ignore = "needs ZITI_BIN"]
fn lost_answer_is_recovered_by_the_command_that_the_hint_says() {
    let controller = RealController::start();
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7", machine.folder());
    let killed = ending(enroll(&machine, &token.file, &[]), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    let lost = enroll(&machine, &token.file, &[]).run();
    let hint: Value = serde_json::from_str(&lost.stdout).unwrap_or_else(|error| panic!("{error}: {lost}"));
    let hint = hint["error"]["hint"].as_str().unwrap_or_default().to_owned();
    Failed::with(lost, 33, "answer_lost").spent("yes");

    require("jq", "jq");
    let command = &hint[hint.rfind("ziti edge list").unwrap_or_else(|| panic!("no command in `{hint}`"))..];
    let programs = Path::new(PROGRAM).parent().expect("a program lies in a folder");
    let path = [&controller.home().join("bin"), programs].map(|p| p.display().to_string()).join(":");
    let path = format!("{path}:{}", std::env::var("PATH").expect("a PATH"));
    let shell = |line: &str| {
        let shell = controller.in_its_home(Program::new("/bin/sh").args(["-e", "-c", line])).env("PATH", &path);
        shell.current_dir(machine.folder()).run().success();
    };
    shell(command);
    let out = token.out();
    let key = machine.keys.public_keys();
    assert_eq!(IdentityFile::read(&out).public_key(), key[0]);
    report(&verify(&machine, &out));

    // The other way that the hint names: a new enrollment, which finds the same key.
    let identity_id = command.split("identity=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("the identity's id");
    assert_eq!(identity_id, token.identity_id);
    if controller.is_before(1, 6) {
        return;
    }
    let listed = format!("ziti edge list authenticators 'identity=\"{identity_id}\" and method=\"cert\"' -j");
    shell(&format!("ziti edge update authenticator cert --re-enroll -- \"$({listed} | jq -r '.data[0].id')\""));
    let again = controller.open_token(identity_id, "ott", machine.path("again.jwt"));
    let said = report(&enroll(&machine, &again.file, &["--force", "--out", &text(&out)]).run());
    assert_eq!(IdentityFile::read(&out).public_key(), key[0]);
    assert_eq!((said["identity"]["id"].as_str(), machine.keys.private_keys()), (Some(identity_id), 1));
    report(&verify(&machine, &out));
}
