//! A run that ends where it must not, and the same command again: at most one certificate, one key, one identity.

mod calls;
mod cut;
mod ending;
mod keys;
mod next;
mod signals;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use ziti_enroller_support::{Controller, Fault, Options, Outcome, Relay, figures};

use self::ending::{Finished, all_is_well, ends, finish, issued};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, ending, report};

/// The stages of an enrollment that makes a key, but the last; each is entered, left and recorded.
const STAGES: [&str; 8] = ["fresh", "intended", "trusted", "planned", "keyed", "ready", "posting", "answered"];
/// Moments within them, and the last stage, after which nothing is recorded.
const MOMENTS: [&str; 12] = [
    "output_reserved",
    "connected",
    "before_generation",
    "after_generation",
    "key_ready",
    "before_post",
    "after_post",
    "answer_synced",
    "identity_written",
    "identity_renamed",
    "entering-done",
    "left-done",
];

fn events() -> Vec<String> {
    let of_stages = STAGES.iter().flat_map(|stage| ["entering", "left", "recorded"].map(|what| format!("{what}-{stage}")));
    of_stages.chain(MOMENTS.map(str::to_owned)).collect()
}

#[test]
fn a_killed_enrollment_with_a_file_key_is_finished_by_the_same_command() {
    survives_every_event::<InFiles>();
}

#[test]
fn a_killed_enrollment_with_a_token_key_is_finished_by_the_same_command() {
    survives_every_event::<InToken>();
}

#[cfg(feature = "tpm")]
#[test]
fn a_killed_enrollment_with_a_key_in_a_file_of_the_tpm_is_finished_by_the_same_command() {
    survives_every_event::<InTpmFile>();
}

#[cfg(feature = "tpm")]
#[test]
fn a_killed_enrollment_with_a_key_at_a_handle_is_finished_by_the_same_command() {
    survives_every_event::<InTpmHandle>();
}

/// Between the controller's answer and our disk: the one moment in which an answer can be lost.
const LOSES_THE_ANSWER: &str = "after_post";

fn survives_every_event<F: Fixture>() {
    let events = events();
    let (mut wrong, mut with_the_copy) = (Vec::new(), Vec::new());
    for event in &events {
        match std::panic::catch_unwind(|| survives::<F>(event)) {
            Ok(Finished::Again) => {}
            Ok(Finished::WithTheCopy) => with_the_copy.push(event.as_str()),
            Err(why) => {
                let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
                wrong.push(format!("{event}: {why}"));
            }
        }
    }
    let promise = format!("killed at a named event, {} key", F::NAME);
    figures::record(&promise, events.len(), events.len() - wrong.len(), "");
    figures::record(&format!("{promise}: needed the controller's copy"), 1, with_the_copy.len(), "");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), events.len(), wrong.join("\n"));
    assert_eq!(with_the_copy, [LOSES_THE_ANSWER], "the controller's copy was needed");
}

fn survives<F: Fixture>(event: &str) -> Finished {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::on_tmpfs(F::new);
    let token = controller.issue("gate-7");
    ends(&machine, &token, event, "kill");
    let finished = finish(&controller, &machine, &token, || machine.enroll(&token));
    all_is_well(&controller, &machine, &token, 0);
    // The whole key, by other tools: what the identity names is what was certified.
    let key = machine.keys.public_key_of(machine.identity(&token).key());
    assert_eq!(key, issued(&controller, &token)[0].spki_der, "another key is named");
    finished
}

#[test]
fn an_enrollment_that_fails_at_any_event_is_finished_by_the_same_command() {
    // An error is not a kill: what is cleaned up then must not be what the next run needs.
    let mut wrong = Vec::new();
    for event in events().iter().filter(|event| *event != "after_post") {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let ended = ends(&machine, &token, event, "error");
        let again = machine.enroll(&token).run();
        if again.code != Some(0) || controller.authenticators().len() != 1 || machine.work(&token).exists() {
            wrong.push(format!("{event}: {ended}\n{again}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_stopped_enrollment_says_that_the_same_command_goes_on() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    for (event, spent) in [("recorded-trusted", "no"), ("before_post", "unknown"), ("answer_synced", "yes")] {
        Failed::with(ends(&machine, &token, event, "error"), 70, "unexpected")
            .says(event)
            .hints("same command again")
            .spent(spent);
    }
    let again = machine.enroll(&token).run();
    assert!(again.stderr.contains("going on with the enrollment that stopped at stage `answered`"), "{again}");
    report(&again);
    assert_eq!((controller.enroll_posts(), controller.authenticators().len()), (1, 1));
}

#[test]
fn an_answer_on_disk_needs_no_controller() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    ends(&machine, &token, "answer_synced", "kill");
    let issued = controller.authenticators();
    drop(controller);
    report(&machine.enroll(&token).run());
    assert_eq!(machine.identity(&token).public_key(), issued[0].spki_der);
}

mod answer {
    use super::*;

    /// The token is spent and no answer comes: the same request again shows that it is gone, and only then is it lost.
    fn is_lost(fault: Fault) {
        let controller = Controller::start(Options { faults: vec![fault], ..Options::default() });
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let lost = machine.enroll(&token).run();
        assert!(lost.stderr.contains("trying again"), "{lost}");
        Failed::with(lost, 33, "answer_lost")
            .says("the controller has enrolled the identity, and its answer is lost")
            .hints(&format!("identity=\"{}\"", token.sub()))
            .spent("yes");
        assert_eq!((controller.enroll_posts(), controller.authenticators().len()), (2, 1));
        assert_eq!(machine.keys.private_keys(), 1, "the key is gone");
        // The same token cannot help any more, and nobody is asked again.
        Failed::with(machine.enroll(&token).run(), 33, "answer_lost").spent("yes");
        assert_eq!(controller.enroll_posts(), 2);
        // What the hint says.
        controller.set_faults([]);
        let again = controller.re_enroll(token.sub());
        report(&machine.enroll(&again).run());
        report(&machine.verify(&again).run());
        assert_eq!(machine.keys.private_keys(), 1);
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
    }

    #[test]
    fn that_never_came_is_lost() {
        is_lost(Fault::DropPostAfter);
    }

    #[test]
    fn that_was_cut_is_lost() {
        is_lost(Fault::AnswerCut(700));
    }

    #[test]
    fn that_is_shorter_than_it_said_is_lost() {
        is_lost(Fault::WrongLength);
    }

    #[test]
    fn that_was_an_error_after_all_was_done_is_lost() {
        is_lost(Fault::ConsumeThen500);
    }

    #[test]
    fn that_came_too_late_is_lost() {
        is_lost(Fault::ConsumeThen503);
    }
}

#[test]
fn a_request_that_got_lost_on_its_way_is_sent_again() {
    let controller = Controller::start(Options { faults: vec![Fault::DropPostBeforeOnce], ..Options::default() });
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    report_with_note(&machine.enroll(&token).run(), "trying again");
    assert_eq!((controller.enroll_posts(), controller.authenticators().len()), (2, 1));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn a_full_controller_is_asked_again_when_it_says() {
    let controller = Controller::start(Options { faults: vec![Fault::TooManyOnce], ..Options::default() });
    let machine = Machine::<InFiles>::new();
    report_with_note(&machine.enroll(&controller.issue("gate-7")).run(), "trying again in 1 s");
    let posts: Vec<u64> = controller.log().requests.iter().filter(|one| one.is_enroll()).map(|one| one.at_ms).collect();
    assert!(posts.len() == 2 && posts[1] - posts[0] >= 1000, "{posts:?}");
}

/// Exit 0 with a result, and something was said meanwhile.
fn report_with_note(outcome: &Outcome, note: &str) {
    assert!(outcome.stderr.contains(note), "{outcome}");
    report(outcome);
}

#[test]
fn a_controller_without_a_leader_is_not_asked_twice_in_a_run() {
    let controller = Controller::start(Options { faults: vec![Fault::UnavailableOnce], ..Options::default() });
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    Failed::with(machine.enroll(&token).run(), 30, "unreachable")
        .says("does not serve us now: CLUSTER_NO_LEADER")
        .hints("same command again")
        .spent("no");
    assert_eq!((controller.enroll_posts(), machine.keys.private_keys()), (1, 1));
    report(&machine.enroll(&token).run());
    assert_eq!((controller.enroll_posts(), machine.keys.private_keys()), (2, 1));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn an_unknown_outcome_is_asked_for_at_once_and_then_after_a_second() {
    let controller = Controller::start(Options { faults: vec![Fault::DropPostBefore], ..Options::default() });
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let mut running = machine.enroll(&token).start();
    let posts = |log: &ziti_enroller_support::Log| -> Vec<u64> {
        log.requests.iter().filter(|one| one.is_enroll()).map(|one| one.at_ms).collect()
    };
    let log = controller.wait_for("three requests", Duration::from_secs(8), |log| posts(log).len() >= 3);
    running.kill();
    running.wait();
    let at = posts(&log);
    assert!(at[1] - at[0] < 500, "the first repeat is at once: {at:?}");
    assert!((900..2500).contains(&(at[2] - at[1])), "the second after a second: {at:?}");
    controller.set_faults([]);
    report(&machine.enroll(&token).run());
    assert_eq!(controller.authenticators().len(), 1);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn an_outcome_that_stays_unknown_is_asked_for_four_times_more() {
    let controller = Controller::start(Options { faults: vec![Fault::DropPostBefore], ..Options::default() });
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let unknown = machine.enroll(&token).args(["--retry-delay", "10ms"]).run();
    Failed::with(unknown, 33, "outcome_unknown").hints("the same request is sent once more").spent("unknown");
    assert_eq!((controller.enroll_posts(), machine.keys.private_keys()), (5, 1));
    controller.set_faults([]);
    report(&machine.enroll(&token).run());
    assert_eq!((controller.authenticators().len(), machine.keys.private_keys()), (1, 1));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn an_outcome_stays_unknown_while_the_controller_is_away() {
    let controller = Controller::start(Options::default());
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let relay = Relay::start(controller.address(), Duration::ZERO);
    let machine = Machine::<InToken>::new();
    let token = controller.issue_at("gate-7", &relay.url());
    ends(&machine, &token, "before_post", "kill");
    relay.set_target(nobody);
    Failed::with(machine.enroll(&token).run(), 33, "outcome_unknown")
        .says("the controller may have enrolled the identity")
        .hints("run the same command again")
        .spent("unknown");
    assert_eq!(machine.keys.private_keys(), 1, "the key is gone");
    relay.set_target(controller.address());
    report(&machine.enroll(&token).run());
    assert_eq!((controller.authenticators().len(), machine.keys.private_keys()), (1, 1));
}

#[test]
fn of_two_runs_at_once_one_is_told_to_wait() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let mut first = ending(machine.enroll(&token), "before_post", "hang").start();
    controller.wait_for("the first run", Duration::from_secs(20), |log| !log.requests.is_empty());
    Failed::with(machine.enroll(&token).run(), 75, "output_in_use")
        .says("another run works on it")
        .hints("wait until")
        .spent("no");
    assert_eq!(controller.counts().connections, 1);
    first.kill();
    first.wait();
    report(&machine.enroll(&token).run());
    assert_eq!(controller.authenticators().len(), 1);
}

mod another_token {
    use super::*;

    #[test]
    fn waits_for_an_enrollment_whose_outcome_matters() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let [first, second] = ["gate-7"; 2].map(|name| controller.issue(name));
        ends(&machine, &first, "before_post", "kill");
        let kept = machine.recorded(&first);
        Failed::with(machine.enroll(&second).run(), 75, "output_in_use")
            .says("an enrollment with another token has not ended")
            .hints("--force")
            .spent("no");
        assert_eq!((machine.recorded(&first), controller.enroll_posts()), (kept, 0));

        let forced = machine.enroll(&second).arg("--force").run();
        assert!(forced.stderr.contains("the unfinished enrollment is kept in"), "{forced}");
        report(&forced);
        assert_eq!(machine.identity(&second).public_key(), controller.authenticators()[0].spki_der);
        assert_eq!(controller.authenticators()[0].identity_id, second.sub());
        // Nothing of the first is lost: neither its key nor its journal.
        assert_eq!(machine.keys.private_keys(), 2);
        let aside = fs::read_dir(machine.folder()).expect("the machine's folder can be listed");
        let aside: Vec<_> = aside.flatten().filter(|entry| entry.path().join("journal").exists()).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
    }

    #[test]
    fn takes_over_what_was_never_sent_and_deletes_its_key() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let [first, second] = ["gate-7"; 2].map(|name| controller.issue(name));
        ends(&machine, &first, "recorded-keyed", "kill");
        assert_eq!(machine.keys.private_keys(), 1);
        let taken = machine.enroll(&second).run();
        report(&taken);
        let keys: BTreeSet<_> = machine.keys.public_keys().into_iter().collect();
        let issued = controller.authenticators();
        assert_eq!((issued.len(), keys), (1, BTreeSet::from([issued[0].spki_der.clone()])), "{taken}");
        assert!(!controller.is_spent(&first));
    }

    #[test]
    fn of_the_same_identity_goes_on_with_its_key() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let first = controller.issue("gate-7");
        ends(&machine, &first, "recorded-keyed", "kill");
        let key = machine.keys.public_keys();
        let second = controller.token("gate-7").id(first.sub()).issue();
        report(&machine.enroll(&second).run());
        assert_eq!((machine.keys.public_keys(), controller.authenticators()[0].spki_der.clone()), (key.clone(), key[0].clone()));
    }
}

mod journal {
    use super::*;

    #[test]
    fn with_a_torn_last_line_is_read_up_to_it() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        ends(&machine, &token, "recorded-keyed", "kill");
        let file = machine.work(&token).join("journal");
        let mut text = fs::read(&file).expect("there is a journal");
        text.extend_from_slice(b"5 0123abcd {\"post");
        fs::write(&file, text).expect("the journal is ours");
        report(&machine.enroll(&token).run());
        assert_eq!(controller.authenticators().len(), 1);
    }

    #[test]
    fn with_any_other_damage_stops_and_deletes_nothing() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        ends(&machine, &token, "before_post", "kill");
        let file = machine.work(&token).join("journal");
        let damaged = fs::read_to_string(&file).expect("there is a journal").replacen("anchors", "anchorz", 1);
        fs::write(&file, &damaged).expect("the journal is ours");
        Failed::with(machine.enroll(&token).run(), 51, "journal_damaged")
            .says("is damaged at line 2; nothing was deleted")
            .hints("the token may be spent")
            .spent("unknown");
        assert_eq!(fs::read_to_string(&file).ok(), Some(damaged));
        assert!(machine.work(&token).join("key.pem").exists(), "the key is gone");
        assert_eq!(controller.enroll_posts(), 0);
    }
}
