//! The same stories at real controllers and at ours, which is held to them.
//!
//! ```console
//! $ ZITI_BIN=/path/to/ziti cargo test --features crash-points,tpm --test real_controller -- --ignored
//! ```
//!
//! Each test starts `ziti edge quickstart` without a router, on loopback, in a folder of its own, tells all stories of one
//! place where keys live, and ends it. A line `place⇥story⇥controller⇥result⇥seconds` is appended to `target/real.tsv` for each,
//! and the table of all that was told until now is printed; runs with several binaries add up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ziti_enroller_support::{Like, Outcome, Program, figures, require};

#[expect(dead_code, reason = "the other target uses all of it")]
mod machine;

// In a target of its own a module lies beside its root, and there lie the stories.
#[path = "real_controller/controllers.rs"]
mod controllers;
#[path = "real_controller/hint.rs"]
mod hint;
#[path = "real_controller/no_one_time_token.rs"]
mod no_one_time_token;
#[path = "real_controller/one_time.rs"]
mod one_time;
#[path = "real_controller/ours.rs"]
mod ours;
#[path = "real_controller/reader.rs"]
mod reader;
#[path = "real_controller/real.rs"]
mod real;
#[path = "real_controller/renew.rs"]
mod renew;
#[path = "real_controller/third_party.rs"]
mod third_party;

#[cfg(feature = "tpm")]
use machine::tpm::{InTpmFile, InTpmHandle};
use machine::{Fixture, InFiles, InToken, InTpm2Pkcs11, Machine};

use controllers::AnyController;
use ours::OurController;
use real::RealController;

/// What the table calls it, and what it does.
type Story = (&'static str, fn(&dyn AnyController));

/// What controllers had not at first: `story` is not told to older ones.
const SINCE: [(&str, u32, u32); 1] = [("renew: asked for", 1, 6)];

/// The stories that a place where keys live has a part in.
fn of_keys<F: Fixture>() -> Vec<Story> {
    vec![
        ("ott", one_time::enrolls_and_logs_in::<F>),
        ("ott: used token", one_time::refuses_a_used_token::<F>),
        ("ott: lost answer, resume --certificate", one_time::lost_answer_is_resumed_from_the_copy::<F>),
        ("ott: re-enrollment", one_time::re_enrollment_finds_the_key::<F>),
        ("ottca", third_party::one_time_tokens_enroll_and_log_in::<F>),
        ("ca", third_party::token_for_everybody_enrolls_and_logs_in::<F>),
        ("token", no_one_time_token::idp_token_buys_a_certificate::<F>),
        ("renew", renew::renewal_keeps_the_key::<F>),
        ("renew --rotate", renew::rotation_makes_a_new_key::<F>),
    ]
}

/// The stories of what is refused before a key is of any weight.
fn of_tokens<F: Fixture>() -> Vec<Story> {
    vec![
        ("ott: out of date, refreshed", one_time::refreshed_token_replaces_one_out_of_date::<F>),
        ("ott: damaged token", one_time::damaged_token_is_refused_and_the_whole_one_still_works::<F>),
        ("ott: wrong method", one_time::wrong_method_leaves_the_token::<F>),
        ("ott: bad request", one_time::bad_request_leaves_the_token::<F>),
        ("ottca: another CA", third_party::certificate_of_another_ca_is_refused_and_the_right_one_still_works::<F>),
        ("renew: asked for", renew::administrator_asks_for_a_renewal_and_for_a_new_key::<F>),
    ]
}

/// The stories that are about one kind of key, or about none.
const OF_NO_KEYS: [Story; 4] = [
    ("network", no_one_time_token::network_token_says_whom_to_trust::<InFiles>),
    ("updb", no_one_time_token::password_is_set_and_logs_in::<InFiles>),
    ("renew: killed", renew::killed_renewal_is_finished_by_the_same_command),
    ("renew: overwritten", renew::renewal_that_another_program_has_overwritten_is_asked_for_again),
];

fn curl() -> Program {
    Program::new(require("curl", "curl")).args(["-sSk", "--max-time", "60"])
}

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path, more: &[&str]) -> Program {
    let program = machine.program().args(["enroll", "--format", "json", "--provider", F::PROVIDER]).args(machine.keys.place());
    program.args(machine.keys.pin()).arg("--jwt").arg(token).args(more)
}

fn verify<F: Fixture>(machine: &Machine<F>, identity: &Path) -> Outcome {
    machine.program().args(["verify", "--format", "json"]).arg(identity).args(machine.keys.pin()).run()
}

fn table_file() -> PathBuf {
    figures::folder().join("real.tsv")
}

/// Tells every story at every controller, or those whose name has the words of `ZITI_STORY` in it; panics at the end with those
/// that ended wrongly.
fn tell(place: &str, stories: &[Story], controllers: &[&dyn AnyController]) {
    let words = std::env::var("ZITI_STORY").unwrap_or_default();
    let mut wrong = Vec::new();
    for at in controllers {
        for (story, tell) in stories.iter().filter(|(story, _)| story.contains(&words)) {
            if SINCE.iter().any(|(since, major, minor)| since == story && at.is_before(*major, *minor)) {
                continue;
            }
            let started = Instant::now();
            let why = figures::wrong(|| tell(*at));
            let result = if why.is_none() { "ok" } else { "FAILED" };
            let line = format!("{place}\t{story}\t{}\t{result}\t{:.1}\n", at.name(), started.elapsed().as_secs_f64());
            let file = OpenOptions::new().append(true).create(true).open(table_file());
            file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the folder of the build is writable");
            wrong.extend(why.map(|why| format!("{place}, {story}, at {}: {why}", at.name())));
        }
    }
    println!("{}", table());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What was told last of each story, place and controller.
fn table() -> String {
    let told = fs::read_to_string(table_file()).expect("stories were told");
    let (mut rows, mut columns) = (BTreeMap::new(), BTreeMap::new());
    for line in told.lines() {
        if let [place, story, controller, result, ..] = line.split('\t').collect::<Vec<_>>()[..] {
            columns.insert(controller, ());
            rows.entry((place, story)).or_insert_with(BTreeMap::new).insert(controller, result);
        }
    }
    let mut table = format!("| keys | story | {} |\n", columns.keys().copied().collect::<Vec<_>>().join(" | "));
    writeln!(table, "|---|---|{}", "---|".repeat(columns.len())).expect("a string can be written to");
    for ((place, story), results) in rows {
        let results: Vec<&str> = columns.keys().map(|controller| results.get(controller).copied().unwrap_or("-")).collect();
        writeln!(table, "| {place} | {story} | {} |", results.join(" | ")).expect("a string can be written to");
    }
    table
}

/// At ours with the manners of each version, then at the real one.
fn everywhere<F: Fixture>(stories: &[Story]) {
    let real = RealController::start();
    let [old, new] = [Like::V1_4, Like::V2_1].map(OurController::start);
    tell(F::NAME, stories, &[&old, &new, &real]);
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn stories_of_file_keys() {
    everywhere::<InFiles>(&[of_keys::<InFiles>(), of_tokens::<InFiles>(), OF_NO_KEYS.to_vec()].concat());
}

fn moves<F: Fixture>() -> Vec<Story> {
    vec![("renew --rotate, from a file", renew::key_moves_into_hardware::<F>)]
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn stories_of_token_keys() {
    everywhere::<InToken>(&[of_keys::<InToken>(), of_tokens::<InToken>(), moves::<InToken>()].concat());
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn stories_of_tpm2_pkcs11_keys() {
    everywhere::<InTpm2Pkcs11>(&[of_keys::<InTpm2Pkcs11>(), moves::<InTpm2Pkcs11>()].concat());
}

#[cfg(feature = "tpm")]
#[test]
#[ignore = "needs ZITI_BIN"]
fn stories_of_keys_beside_a_tpm() {
    everywhere::<InTpmFile>(&[of_keys::<InTpmFile>(), moves::<InTpmFile>()].concat());
}

#[cfg(feature = "tpm")]
#[test]
#[ignore = "needs ZITI_BIN"]
fn stories_of_keys_in_a_tpm() {
    everywhere::<InTpmHandle>(&[of_keys::<InTpmHandle>(), moves::<InTpmHandle>()].concat());
}

/// The list holds together without a `ziti`, so that a change of ours is noticed where there is none.
#[cfg(feature = "crash-points")]
#[test]
fn our_controller_tells_the_same_stories() {
    let [old, new] = [Like::V1_4, Like::V2_1].map(OurController::start);
    let stories = [of_keys::<InFiles>(), of_tokens::<InFiles>(), OF_NO_KEYS.to_vec()].concat();
    tell(InFiles::NAME, &stories, &[&old, &new]);
}
