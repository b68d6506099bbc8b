//! `--embed-pin`: the PIN is in the identity file, and nowhere else.

use ziti_enroller_support::canary::Found;
use ziti_enroller_support::softhsm::folder_on_tmpfs;
use ziti_enroller_support::{Sink, figures};

use super::is_clean;
use super::scenarios::Scenario;
use super::stage::{PLAIN_PIN, Stage};
use crate::machine::InToken;

/// What is done with such an identity; it needs no other source.
const SCENARIOS: [Scenario<InToken>; 6] = [
    ("enroll", |s| s.ends(0, s.new_key().args(s.pin()).arg("--embed-pin"))),
    ("enroll, PIN in a variable", |s| s.ends(0, s.new_key().env("ZITI_ENROLLER_PIN", s.secret()).arg("--embed-pin"))),
    ("verify", |s| embedded(s, &["verify", "gate-7.json"])),
    ("inspect", |s| embedded(s, &["inspect", "gate-7.json"])),
    ("status", |s| embedded(s, &["status", "gate-7.json"])),
    ("key delete", |s| {
        embeds(s);
        s.ends(0, s.program(&["key", "delete", "gate-7.json", "--force"]).args(s.pin()))
    }),
];

fn embeds(stage: &Stage<InToken>) {
    stage.new_key().args(stage.pin()).arg("--embed-pin").run().success();
}

fn embedded(stage: &Stage<InToken>, words: &[&str]) -> Found {
    embeds(stage);
    stage.ends(0, stage.program(words))
}

#[test]
fn the_embedded_pin_is_in_the_identity_alone() {
    for (number, (name, play)) in SCENARIOS.into_iter().enumerate() {
        let mut stage = Stage::<InToken>::new(PLAIN_PIN, number % 2 == 1);
        let mut found = play(&mut stage);
        let identity = stage.machine.path("gate-7.json");
        let at = identity.display().to_string();
        let places: Vec<_> = found.hits.iter().filter(|hit| hit.sink == Sink::Content).map(|hit| hit.at.clone()).collect();
        assert_eq!(places, [at], "{name}: {:?}", found.hits);
        // It was written once, under the name that it had before.
        let written = stage.machine.work(&stage.token).join("identity");
        found.hits.retain(|hit| {
            let writing = hit.sink == Sink::Call && hit.at.ends_with(&format!(" {}", written.display()));
            hit.sink != Sink::Content && !(writing && hit.form == "raw")
        });
        is_clean(&stage.search(), &found).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    figures::record("uses of an embedded PIN that show it nowhere else", SCENARIOS.len(), SCENARIOS.len(), "");
}

/// `exec`: the PIN is in the copy for the program, on a RAM file system, and nowhere else.
#[test]
fn exec_puts_the_pin_into_memory_alone() {
    let stage = Stage::<InToken>::new(PLAIN_PIN, false);
    stage.enrolled();
    let memory = folder_on_tmpfs();
    let exec = stage.program(&["exec", "gate-7.json"]).args(stage.pin()).env("XDG_RUNTIME_DIR", memory.path());
    let mut found = stage.ends(0, exec.args(["--", "/bin/true", "{}"]));
    let all = found.hits.len();
    found.hits.retain(|hit| {
        let copy = hit.at.contains(&memory.path().display().to_string()) && hit.at.ends_with("/id/gate-7.json");
        !(hit.sink == Sink::Call && hit.form == "raw" && copy)
    });
    assert_eq!(all - found.hits.len(), 2, "it is written once, and looked at once: {:?}", found.hits);
    is_clean(&stage.search(), &found).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(std::fs::read_dir(memory.path()).expect("it can be listed").count(), 0, "the copy is left");
}
