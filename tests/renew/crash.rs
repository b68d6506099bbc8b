//! A renewal that ends where it must not, and answers that get lost: afterwards exactly one of old and new logs in, and the
//! file holds it.

use std::fs;

use ziti_enroller_support::{Controller, Fault, Options, Outcome, figures};

use super::{enrolled, fingerprint};
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, ending, report};

/// The stages of a renewal, but the last; each is entered, left and recorded.
const STAGES: [&str; 6] = ["fresh", "begun", "keyed", "extended", "confirming", "confirmed"];
/// Moments within them, and the last stage, after which nothing is recorded.
const MOMENTS: [&str; 11] = [
    "key_ready",
    "before_extend",
    "after_extend",
    "next_written",
    "before_verify",
    "after_verify",
    "identity_replaced",
    "entering-done",
    "left-done",
    "old_key_is_gone",
    "after_is_done",
];
/// What comes before that where a key is made.
const OF_A_NEW_KEY: [&str; 5] = ["entering-planned", "before_generation", "after_generation", "left-planned", "recorded-planned"];

fn events() -> Vec<String> {
    let of_stages = STAGES.iter().flat_map(|stage| ["entering", "left", "recorded"].map(|what| format!("{what}-{stage}")));
    of_stages.chain(MOMENTS.map(str::to_owned)).collect()
}

/// What goes wrong besides.
fn faults() -> [Option<Fault>; 5] {
    [
        None,
        // The answer to `extend` is lost.
        Some(Fault::DropExtendOnce),
        // The controller never hears that the new certificate has arrived.
        Some(Fault::DropVerifyBeforeOnce),
        // It hears it, and its answer is lost.
        Some(Fault::DropVerifyAfter),
        // It hears it, and its second transaction fails.
        Some(Fault::VerifyThen500),
    ]
}

/// Each case by name, and why it went wrong.
fn tally(promise: &str, cases: impl Iterator<Item = (String, Box<dyn Fn() + std::panic::UnwindSafe>)>) {
    let (mut asked, mut wrong) = (0, Vec::new());
    for (name, case) in cases {
        asked += 1;
        if let Err(why) = std::panic::catch_unwind(case) {
            let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
            wrong.push(format!("{name}: {why}"));
        }
    }
    figures::record(promise, asked, asked - wrong.len(), "");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Renews with `options`, is killed at `event`, and is told the same again. `rotates`: a new key is made in the machine's
/// place.
fn survives<F: Fixture>(event: &str, fault: Option<&Fault>, rotates: bool) {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<F>(&controller);
    let out = machine.out(&token);
    let old = machine.path("old.json");
    fs::copy(&out, &old).expect("the machine's folder is writable");
    controller.set_faults(fault.cloned());
    let renew = || {
        let program = if rotates { machine.rotate(&token).arg("--delete-old-key") } else { machine.renew(&token) };
        program.args(["--force", "--retry-delay", "10ms"])
    };
    let killed = ending(renew(), event, "kill").run();
    assert_eq!(killed.signal, Some(9), "{event} never came: {killed}");

    // Whichever is in force: it is on this disk, and so is its key.
    let in_force = controller.in_force(token.sub()).expect("one is in force").fingerprint_sha1;
    let next = machine.renewal(&token).join("next");
    let kept = [&out, &next].into_iter().any(|file| file.exists() && !is_empty(file) && fingerprint(file) == in_force);
    assert!(kept, "the certificate in force is in neither file");

    report(&renew().run());
    let in_force = controller.in_force(token.sub()).expect("one is in force");
    assert_eq!(fingerprint(&out), in_force.fingerprint_sha1, "the file holds another certificate than is in force");
    assert!(machine.logs_in(&out), "the identity does not log in");
    assert!(!machine.logs_in(&old), "the old certificate logs in too");
    assert!(!machine.renewal(&token).exists(), "the work folder is left");
    let identity = machine.identity(&token);
    assert_eq!(machine.keys.public_key_of(identity.key()), in_force.spki_der, "the key is another one");
    if rotates {
        assert_eq!((machine.keys.private_keys(), machine.keys.public_keys()), (1, vec![in_force.spki_der]), "keys are left over");
    }
    assert!(machine.keys.most_logins() <= 1, "a run has tried the PIN {} times", machine.keys.most_logins());
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

fn is_empty(file: &std::path::Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.len() == 0)
}

#[test]
fn a_killed_renewal_is_finished_by_the_same_command_whatever_is_lost_besides() {
    let cases = events().into_iter().flat_map(|event| faults().map(|fault| (event.clone(), fault)));
    tally(
        "renewal killed at a named event, with and without an answer lost",
        cases.map(|(event, fault)| {
            let name = format!("{event}, {}", fault.as_ref().map_or("no fault".into(), ToString::to_string));
            let case = move || survives::<InFiles>(&event, fault.as_ref(), false);
            (name, Box::new(case) as Box<dyn Fn() + std::panic::UnwindSafe>)
        }),
    );
}

#[test]
fn a_killed_move_into_a_token_is_finished_by_the_same_command() {
    let events = OF_A_NEW_KEY.map(str::to_owned).into_iter().chain(events());
    tally(
        "move into a token killed at a named event",
        events.enumerate().map(|(n, event)| {
            // Each fault meets each kind of moment sooner or later.
            let fault = faults()[n % 5].clone();
            let name = format!("{event}, {}", fault.as_ref().map_or("no fault".into(), ToString::to_string));
            let case = move || survives::<InToken>(&event, fault.as_ref(), true);
            (name, Box::new(case) as Box<dyn Fn() + std::panic::UnwindSafe>)
        }),
    );
}

#[cfg(feature = "tpm")]
#[test]
fn a_killed_move_into_a_tpm_is_finished_by_the_same_command() {
    use crate::machine::tpm::{InTpmFile, InTpmHandle};

    let at_a_handle = ["recorded-planned", "before_generation", "after_generation", "left-planned", "after_verify"];
    let handles = at_a_handle.map(|event| {
        let case = move || survives::<InTpmHandle>(event, None, true);
        (format!("{event}, at a handle"), Box::new(case) as Box<dyn Fn() + std::panic::UnwindSafe>)
    });
    let files = ["after_generation", "before_verify"].map(|event| {
        let case = move || survives::<InTpmFile>(event, Some(&Fault::VerifyThen500), true);
        (format!("{event}, in a file"), Box::new(case) as Box<dyn Fn() + std::panic::UnwindSafe>)
    });
    tally("move into a TPM killed at a named event", handles.into_iter().chain(files));
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again_in_the_same_run() {
    for (fault, posts) in [
        (Fault::DropExtendOnce, (2, 1)),
        (Fault::DropVerifyBeforeOnce, (1, 2)),
        (Fault::VerifyUnavailableOnce, (1, 2)),
        // In force already: it logs in, so nothing is repeated.
        (Fault::DropVerifyAfter, (1, 1)),
        (Fault::VerifyThen500, (1, 1)),
    ] {
        let controller = Controller::start(Options::default());
        let (machine, token) = enrolled::<InFiles>(&controller);
        controller.set_faults([fault.clone()]);
        let ended = machine.renew(&token).args(["--force", "--retry-delay", "10ms"]).run();
        assert_eq!(report(&ended)["renewed"], true, "{fault}");
        assert_eq!(controller.renewal_posts(), posts, "{fault}");
        assert!(machine.logs_in(&machine.out(&token)), "{fault}");
        assert!(controller.violations().is_empty(), "{fault}: {:?}", controller.violations());
    }
}

/// A run that ends in doubt.
fn doubt(machine: &Machine<InFiles>, token: &ziti_enroller_support::Token) -> Outcome {
    machine.renew(token).args(["--force", "--retry-delay", "1ms", "--retries", "2"]).run()
}

#[test]
fn what_stays_in_doubt_is_found_out_later() {
    let controller = Controller::start(Options { faults: vec![Fault::DropVerifyBefore], ..Options::default() });
    let (machine, token) = enrolled::<InFiles>(&controller);
    let before = fs::read(machine.out(&token)).expect("there is an identity");
    Failed::with(doubt(&machine, &token), 33, "outcome_unknown")
        .says("nobody can tell which certificate is in force")
        .hints("ziti-enroller renew")
        .spent("unknown");
    assert_eq!(fs::read(machine.out(&token)).expect("there is an identity"), before);
    assert!(machine.logs_in(&machine.out(&token)), "the old one is still in force");
    let status = machine.program().args(["status"]).arg(machine.out(&token)).run();
    assert_eq!(status.code, Some(1), "{status}");
    assert!(status.stdout.contains("a renewal stopped at stage `confirming`"), "{status}");
    controller.set_faults([]);
    // Nothing need be said again: it is this renewal that is meant.
    assert_eq!(report(&machine.renew(&token).run())["renewed"], true);
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn a_controller_that_refuses_both_leaves_both() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let killed = ending(machine.renew(&token).arg("--force"), "after_verify", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    let kept = fs::read(machine.renewal(&token).join("next")).expect("it is kept");
    controller.set_faults([Fault::Login401]);
    Failed::with(machine.renew(&token).run(), 33, "outcome_unknown").says("the controller refuses both").spent("unknown");
    assert_eq!(fs::read(machine.renewal(&token).join("next")).expect("it is kept"), kept);
    // The old one is dead, and whoever tries it is told why.
    controller.set_faults([]);
    let refused = machine.verify(&token).run();
    assert!(refused.stderr.contains("a renewal of") && refused.stderr.contains("goes on with it"), "{refused}");
    Failed::with(refused, 60, "login_refused");
    report(&machine.renew(&token).run());
    assert!(machine.logs_in(&machine.out(&token)));
}

#[test]
fn a_renewal_that_fails_at_any_event_is_finished_by_the_same_command() {
    // An error is not a kill: what is cleaned up then must not be what the next run needs.
    let mut wrong = Vec::new();
    for event in OF_A_NEW_KEY.map(str::to_owned).into_iter().chain(events()) {
        let controller = Controller::start(Options::default());
        let (machine, token) = enrolled::<InFiles>(&controller);
        let renew = || machine.renew(&token).args(["--force", "--rotate"]);
        let ended = ending(renew(), &event, "error").run();
        let again = renew().run();
        if ended.code != Some(70)
            || again.code != Some(0)
            || !machine.logs_in(&machine.out(&token))
            || machine.renewal(&token).exists()
        {
            wrong.push(format!("{event}: {ended}\n{again}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
