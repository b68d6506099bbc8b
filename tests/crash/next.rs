//! `status` says where an enrollment stands and what to type, and that, typed as it stands there, goes on from there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Fault, Options, Outcome, Program, Token, require};

use super::ending::{all_is_well, ends, issued};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, PROGRAM, report};

/// The stages in which a kill leaves an enrollment that can be gone on with.
const STAGES: [&str; 8] = ["intended", "trusted", "planned", "keyed", "ready", "posting", "answered", "done"];

/// What `status` says: the stage, whether the token is spent, the next command.
fn standing<F: Fixture>(machine: &Machine<F>, token: &Token) -> (String, String, String) {
    let told = machine.program().args(["status", "--format", "json"]).arg(machine.out(token)).run();
    assert_eq!(told.code, Some(1), "{told}");
    let told: Value = serde_json::from_str(&told.stdout).expect("a status is JSON");
    let path = &told["paths"][0];
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
    let unfinished = &path["state"]["unfinished"];
    (text(&unfinished["stage"]), text(&unfinished["token_spent"]), text(&path["next"]))
}

/// Types `line` into a shell on the machine, where `ziti` asks this controller. The token is on standard input, the PIN
/// where the environment says.
fn typed<F: Fixture>(controller: &Controller, machine: &Machine<F>, token: &Token, line: &str) -> Outcome {
    let tools = tempfile::tempdir().expect("a temporary folder can be made");
    let tool = |name: &str| tools.path().join(name);
    symlink(PROGRAM, tool("ziti-enroller")).expect("the temporary folder is writable");
    let data: Vec<Value> = issued(controller, token).iter().map(|one| json!({"id": one.id, "certPem": one.cert_pem})).collect();
    fs::write(tool("data"), json!({"data": data, "meta": {}}).to_string()).expect("the temporary folder is writable");
    let ziti = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {0}/asked\ncat {0}/data\n", tools.path().display());
    fs::write(tool("ziti"), ziti).expect("the temporary folder is writable");
    fs::set_permissions(tool("ziti"), fs::Permissions::from_mode(0o700)).expect("the file is ours");
    require("jq", "jq");
    let places = std::env::var("PATH").expect("there is a PATH");
    let shell = Program::new("/bin/sh").args(["-c", line]).envs(machine.keys.surroundings()).current_dir(machine.folder());
    let shell = shell.env("PATH", format!("{}:{places}", tools.path().display())).env("ZITI_ENROLLER_FORMAT", "json");
    let shell = machine.keys.pin().get(1).into_iter().fold(shell, |shell, pin| shell.env("ZITI_ENROLLER_PIN_FILE", pin));
    let ended = shell.stdin(token.compact()).run();
    if let Ok(asked) = fs::read_to_string(tool("asked")) {
        let filter = format!("identity=\"{}\" and method=\"cert\"", token.sub());
        assert_eq!(asked.lines().collect::<Vec<_>>(), ["edge", "list", "authenticators", &filter, "-j"]);
    }
    ended
}

fn goes_on_from_every_stage<F: Fixture>() {
    for stage in STAGES {
        let controller = Controller::start(Options::default());
        let machine = Machine::<F>::on_tmpfs(F::new);
        let token = controller.issue("gate-7");
        ends(&machine, &token, &format!("entering-{stage}"), "kill");
        let (said, spent, next) = standing(&machine, &token);
        let is_spent = match stage {
            "answered" | "done" => "yes",
            "posting" => "unknown",
            _ => "no",
        };
        assert_eq!((&*said, &*spent), (stage, is_spent));
        let done = typed(&controller, &machine, &token, &next);
        assert_eq!(report(&done)["command"], "resume", "{done}");
        all_is_well(&controller, &machine, &token, 0);
    }
}

#[test]
fn command_goes_on_from_every_stage_with_a_file_key() {
    goes_on_from_every_stage::<InFiles>();
}

#[test]
fn command_goes_on_from_every_stage_with_a_token_key() {
    goes_on_from_every_stage::<InToken>();
}

#[cfg(feature = "tpm")]
#[test]
fn command_goes_on_from_every_stage_with_a_key_in_a_file_of_the_tpm() {
    goes_on_from_every_stage::<InTpmFile>();
}

#[cfg(feature = "tpm")]
#[test]
fn command_goes_on_from_every_stage_with_a_key_at_a_handle() {
    goes_on_from_every_stage::<InTpmHandle>();
}

#[test]
fn command_asks_for_the_token_where_its_file_is_gone() {
    for (stage, wants_it) in [("keyed", true), ("posting", true), ("answered", false), ("done", false)] {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::on_tmpfs(InFiles::new);
        let token = controller.issue("gate-7");
        ends(&machine, &token, &format!("entering-{stage}"), "kill");
        fs::remove_file(machine.path("gate-7.jwt")).expect("the token's file is there");
        let (_, _, next) = standing(&machine, &token);
        assert_eq!(next.ends_with(" --jwt -"), wants_it, "{stage}: {next}");
        report(&typed(&controller, &machine, &token, &next));
        all_is_well(&controller, &machine, &token, 0);
    }
}

#[test]
fn command_begins_where_nothing_has_begun() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::on_tmpfs(InFiles::new);
    let token = controller.issue("gate-7");
    ends(&machine, &token, "entering-fresh", "kill");
    let (stage, spent, next) = standing(&machine, &token);
    assert_eq!((&*stage, &*spent), ("fresh", "no"));
    // Nothing of it was written down, so there is nothing to resume either.
    Failed::with(machine.resume(&token).run(), 2, "usage").says("has not begun yet").hints("enroll with the same --out");
    report(&typed(&controller, &machine, &token, &next));
    all_is_well(&controller, &machine, &token, 0);
}

#[test]
fn command_takes_a_lost_certificate_back_from_the_controller() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::on_tmpfs(InToken::new);
    let token = controller.issue("gate-7");
    ends(&machine, &token, "after_post", "kill");
    let lost = machine.enroll(&token).run();
    let (stage, spent, next) = standing(&machine, &token);
    assert_eq!((&*stage, &*spent), ("lost", "yes"));
    // The error says the same command, and where the copy is to be had by other means.
    let filter = format!("identity%3D%22{}%22%20and%20method%3D%22cert%22", token.sub());
    let query = format!("`certPem` of GET /edge/management/v1/authenticators?filter={filter}: {next}");
    Failed::with(lost, 33, "answer_lost").hints(&query);
    // Without the certificate nothing is asked for, and nothing is lost.
    Failed::with(machine.resume(&token).run(), 33, "answer_lost").hints(&next).spent("yes");
    assert_eq!(controller.enroll_posts(), 2);
    report(&typed(&controller, &machine, &token, &next));
    fs::remove_file(machine.path(&format!("{}.pem", token.sub()))).expect("the command has written it");
    all_is_well(&controller, &machine, &token, 0);
}

#[test]
fn command_cleans_up_after_a_refusal() {
    let controller = Controller::start(Options::default());
    controller.set_faults([Fault::Refuse("ENROLLMENT_EXPIRED".into(), 400)]);
    let machine = Machine::<InToken>::on_tmpfs(InToken::new);
    let token = controller.issue("gate-7");
    ends(&machine, &token, "recorded-posting", "kill");
    let (stage, spent, next) = standing(&machine, &token);
    assert_eq!((&*stage, &*spent, machine.keys.private_keys()), ("refused", "no", 1));
    let refused = typed(&controller, &machine, &token, &next);
    Failed::with(refused, 31, "refused_enrollment_expired").spent("no");
    assert_eq!(machine.keys.halves(), [0, 0]);
    assert!(!machine.work(&token).exists(), "the work folder is left");
    assert_eq!(controller.enroll_posts(), 1);
}

mod certificate {
    use super::*;

    fn given(machine: &Machine<InToken>, token: &Token, pem: &str) -> Outcome {
        let copy = machine.path("copy.pem");
        fs::write(&copy, pem).expect("the machine's folder is writable");
        machine.resume(token).arg("--certificate").arg(copy).run()
    }

    #[test]
    fn is_taken_before_it_is_known_that_the_answer_is_lost() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::on_tmpfs(InToken::new);
        let token = controller.issue("gate-7");
        ends(&machine, &token, "after_post", "kill");
        report(&given(&machine, &token, &issued(&controller, &token)[0].cert_pem));
        assert_eq!(controller.enroll_posts(), 1);
        all_is_well(&controller, &machine, &token, 0);
    }

    #[test]
    fn of_another_identity_changes_nothing() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::on_tmpfs(InToken::new);
        let [token, other] = ["gate-7", "gate-8"].map(|name| controller.issue(name));
        report(&machine.enroll(&other).run());
        ends(&machine, &token, "after_post", "kill");
        let before = machine.recorded(&token);
        let wrong = given(&machine, &token, &issued(&controller, &other)[0].cert_pem);
        Failed::with(wrong, 40, "certificate_other_key").spent("yes");
        Failed::with(given(&machine, &token, "no certificate"), 40, "answer_unusable").spent("yes");
        assert_eq!(machine.recorded(&token), before);
        report(&given(&machine, &token, &issued(&controller, &token)[0].cert_pem));
        all_is_well(&controller, &machine, &token, 1);
    }

    #[test]
    fn takes_the_place_of_an_answer_that_cannot_be_used() {
        let controller = Controller::start(Options::default());
        controller.set_faults([Fault::NoCert]);
        let machine = Machine::<InToken>::on_tmpfs(InToken::new);
        let token = controller.issue("gate-7");
        Failed::with(machine.enroll(&token).run(), 40, "answer_unusable").spent("yes");
        controller.set_faults([]);
        let answer = fs::read(machine.work(&token).join("answer")).expect("the answer is kept");
        Failed::with(given(&machine, &token, "no certificate"), 40, "answer_unusable").spent("yes");
        assert_eq!(fs::read(machine.work(&token).join("answer")).ok(), Some(answer), "the answer is gone");
        report(&given(&machine, &token, &issued(&controller, &token)[0].cert_pem));
        assert_eq!(controller.enroll_posts(), 1);
        all_is_well(&controller, &machine, &token, 0);
    }

    #[test]
    fn before_the_request_cannot_be_ours() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::on_tmpfs(InToken::new);
        let [token, other] = ["gate-7", "gate-8"].map(|name| controller.issue(name));
        report(&machine.enroll(&other).run());
        ends(&machine, &token, "recorded-keyed", "kill");
        let wrong = given(&machine, &token, &issued(&controller, &other)[0].cert_pem);
        Failed::with(wrong, 2, "usage").says("no request was sent yet").hints("leave out --certificate").spent("no");
        report(&machine.enroll(&token).run());
        all_is_well(&controller, &machine, &token, 1);
    }
}

#[test]
fn nothing_is_left_to_do_where_only_the_tidying_up_was_cut_off() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::on_tmpfs(InFiles::new);
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).run());
    fs::create_dir(machine.work(&token)).expect("the machine's folder is writable");
    let told = machine.program().args(["status", "--format", "json"]).arg(machine.out(&token)).run().success();
    let told: Value = serde_json::from_str(&told.stdout).expect("a status is JSON");
    assert!(told["paths"][0]["state"]["enrolled"].is_object() && told["paths"][0]["next"].is_null(), "{told}");
    Failed::with(machine.resume(&token).run(), 2, "usage").says("no unfinished enrollment").hints("nothing is left to do");
    Failed::with(machine.enroll(&token).run(), 50, "output_exists");
    all_is_well(&controller, &machine, &token, 0);
}
