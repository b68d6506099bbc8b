//! How an enrollment is cut off, how it is finished, and what must be there then.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use ziti_enroller_support::{Authenticator, Controller, Outcome, Program, Token};

use crate::machine::{Failed, Fixture, Machine, ending, report};

/// What finished an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finished {
    /// The same command again.
    Again,
    /// That, and then `resume --certificate` with the controller's own copy.
    WithTheCopy,
}

/// The same enrollment, which ends at `event`: `kill`, `error`.
pub fn ends<F: Fixture>(machine: &Machine<F>, token: &Token, event: &str, how: &str) -> Outcome {
    let ended = ending(machine.enroll(token), event, how).run();
    let as_told = if how == "kill" { ended.signal == Some(9) } else { ended.code == Some(70) };
    assert!(as_told, "{event} never came: {ended}");
    machine.keys.after_a_kill();
    ended
}

/// A run that is killed at `event`.
pub fn cut_off(program: Program, event: &str) {
    let ended = ending(program, event, "kill").run();
    assert_eq!(ended.signal, Some(9), "{event} never came: {ended}");
}

/// Finishes what was cut off. The second step is due only where a request was sent and its answer is not on disk, and then
/// it always helps.
pub fn finish<F: Fixture>(
    controller: &Controller,
    machine: &Machine<F>,
    token: &Token,
    enroll: impl Fn() -> Program,
) -> Finished {
    let is_left = machine.work(token).join("journal").exists();
    let (answered, in_place) = (has_answer(machine, token), machine.out(token).exists());
    let announced = is_left && machine.recorded(token).iter().any(|name| name == "posting");
    let again = enroll().run();
    if in_place && !is_left {
        // It was killed when all was done, and has tidied up: the same command meets an identity that is there.
        if again.code == Some(2) {
            Failed::with(again, 2, "usage").says("no unfinished enrollment").hints("nothing is left to do");
            // `resume` changes nothing there; an empty folder does no harm, and the next enrollment takes it away.
            fs::remove_file(machine.work(token).join("lock")).ok();
            fs::remove_dir(machine.work(token)).ok();
        } else {
            Failed::with(again, 50, "output_exists");
        }
        return Finished::Again;
    }
    if again.code != Some(33) {
        report(&again);
        return Finished::Again;
    }
    assert!(announced && !answered, "an answer cannot have been lost here: {again}");
    Failed::with(again, 33, "answer_lost").spent("yes");
    let posts = controller.enroll_posts();
    let copy = machine.path("copy.pem");
    fs::write(&copy, issued(controller, token).remove(0).cert_pem).expect("the machine's folder is writable");
    report(&machine.resume(token).arg("--certificate").arg(&copy).run());
    fs::remove_file(copy).expect("it was written a line ago");
    assert_eq!(controller.enroll_posts(), posts, "the controller was asked again");
    Finished::WithTheCopy
}

/// The certificates that the controller has issued for the identity of `token`.
pub fn issued(controller: &Controller, token: &Token) -> Vec<Authenticator> {
    controller.authenticators().into_iter().filter(|one| one.identity_id == token.sub()).collect()
}

/// Whether the answer is on disk, whole, or the identity in place.
fn has_answer<F: Fixture>(machine: &Machine<F>, token: &Token) -> bool {
    let answer = fs::read(machine.work(token).join("answer")).unwrap_or_default();
    let end = answer.iter().position(|byte| *byte == b'\n');
    let described = end.and_then(|end| Some((serde_json::from_slice::<Value>(&answer[..end]).ok()?, end + 1)));
    let whole = described.is_some_and(|(of, from)| of["length"].as_u64().is_some_and(|n| (answer.len() - from) as u64 >= n));
    whole || machine.out(token).exists()
}

/// One certificate, one key pair beside the `others` that were there before, one identity that logs in with them, and
/// nothing that was only needed on the way.
pub fn all_is_well<F: Fixture>(controller: &Controller, machine: &Machine<F>, token: &Token, others: usize) {
    let issued = issued(controller, token);
    let identity = machine.identity(token);
    assert_eq!(issued.len(), 1, "certificates");
    assert_eq!(identity.public_key(), issued[0].spki_der, "another key was certified");
    let pairs = others + usize::from(!identity.key().starts_with("pem:"));
    assert_eq!(machine.keys.halves(), [pairs; 2], "private and public halves that are there");
    let left = fs::read_dir(machine.folder()).expect("the machine's folder can be listed").flatten();
    let left: BTreeSet<_> = left.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] == b'.').collect();
    assert!(left.is_empty(), "{left:?} is left");
    report(&machine.verify(token).run());
    assert!(machine.keys.most_logins() <= 1, "a run has tried the PIN {} times", machine.keys.most_logins());
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}
