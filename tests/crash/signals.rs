//! SIGINT and SIGTERM: one line that says what to type, and what was begun is finished by that.

use std::time::Duration;

use ziti_enroller_support::{Controller, Options, Token, figures};

use super::ending::{all_is_well, finish};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Fixture, InFiles, InToken, Machine, ending, until};

/// Where the program is held, and how one sees from outside that it has come there, or is about to.
const MOMENTS: [(&str, HasCome); 8] = [
    ("output_reserved", |seen| seen.file("identity").is_some()),
    ("connected", |seen| seen.recorded("intent") && seen.controller.counts().requests > 0),
    ("before_generation", |seen| seen.recorded("plan")),
    ("after_generation", |seen| seen.recorded("plan")),
    ("before_post", |seen| seen.recorded("posting")),
    ("after_post", |seen| seen.controller.is_spent(seen.token)),
    ("answer_synced", |seen| seen.file("answer").is_some_and(|answer| answer.starts_with(b"{"))),
    ("identity_renamed", |seen| seen.out.exists()),
];

/// Whether it is there, or about to be.
type HasCome = fn(&Seen<'_>) -> bool;

/// What one sees of a run from outside.
struct Seen<'a> {
    controller: &'a Controller,
    token: &'a Token,
    work: std::path::PathBuf,
    out: std::path::PathBuf,
}

impl Seen<'_> {
    fn file(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.work.join(name)).ok()
    }

    fn recorded(&self, name: &str) -> bool {
        self.file("journal").is_some_and(|text| String::from_utf8_lossy(&text).contains(&format!("\"{name}\"")))
    }
}

fn interrupted<F: Fixture>() {
    for (at, (moment, has_come)) in MOMENTS.iter().enumerate() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<F>::on_tmpfs(F::new);
        let token = controller.issue("gate-7");
        let running = ending(machine.enroll(&token), moment, "hang").start();
        let (work, out) = (machine.work(&token), machine.out(&token));
        let seen = Seen { controller: &controller, token: &token, work, out };
        until(moment, || has_come(&seen));
        // What is seen from outside comes a moment before; within it the signal is as welcome.
        std::thread::sleep(Duration::from_millis(50));
        let code = if at % 2 == 0 { 130 } else { 143 };
        if code == 130 {
            running.interrupt()
        } else {
            running.terminate()
        }
        let ended = running.wait();
        let said = "interrupted: run the same command again: it goes on from where it stopped\n";
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(code), "", said), "{moment}: {ended}");
        machine.keys.after_a_kill();
        finish(&controller, &machine, &token, || machine.enroll(&token));
        all_is_well(&controller, &machine, &token, 0);
    }
    figures::record(&format!("interrupted, {} key", F::NAME), MOMENTS.len(), MOMENTS.len(), "");
}

#[test]
fn end_an_enrollment_with_a_file_key_by_one_line() {
    interrupted::<InFiles>();
}

#[test]
fn end_an_enrollment_with_a_token_key_by_one_line() {
    interrupted::<InToken>();
}

#[cfg(feature = "tpm")]
#[test]
fn end_an_enrollment_with_a_key_in_a_file_of_the_tpm_by_one_line() {
    interrupted::<InTpmFile>();
}

#[cfg(feature = "tpm")]
#[test]
fn end_an_enrollment_with_a_key_at_a_handle_by_one_line() {
    interrupted::<InTpmHandle>();
}
