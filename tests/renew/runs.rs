//! What surrounds a renewal: hooks, folders, and a second run at the same time.

use std::fs;
use std::time::Duration;

use ziti_enroller_support::{Controller, Fault, Options};

use super::{enrolled, report_of};
use crate::machine::{Failed, InFiles, Machine, ending, report, text};

#[test]
fn a_hook_runs_after_a_renewal_and_only_then() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let hook = ["--hook", "echo \"$1\" >>ran; cat \"$1\" >seen"];
    report(&machine.renew(&token).args(hook).run());
    assert!(!machine.path("ran").exists(), "nothing was renewed");
    let said = report(&machine.renew(&token).args(hook).arg("--force").run());
    assert_eq!(said["hook"]["exit"], 0);
    let ran = fs::read_to_string(machine.path("ran")).expect("the hook has run");
    assert_eq!(ran, format!("{}\n", machine.out(&token).display()));
    // It sees the new identity in its place.
    assert_eq!(fs::read(machine.path("seen")).expect("it has run"), fs::read(machine.out(&token)).expect("an identity"));
    let ended = machine.renew(&token).args(["--force", "--hook", "exit 3"]).run();
    assert!(ended.stderr.contains("the identity is renewed, and the hook has failed"), "{ended}");
    assert_eq!((ended.code, &report_of(&ended.stdout)["hook"]["exit"]), (Some(1), &3.into()), "{ended}");
}

#[test]
fn a_hook_of_a_run_that_was_killed_runs_in_the_next() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let renew = || machine.renew(&token).args(["--force", "--hook", "echo once >>ran"]);
    let killed = ending(renew(), "identity_replaced", "kill").run();
    assert_eq!((killed.signal, machine.path("ran").exists()), (Some(9), false), "{killed}");
    report(&renew().run());
    assert_eq!(fs::read_to_string(machine.path("ran")).expect("the hook has run"), "once\n");
}

#[test]
fn all_of_a_folder_are_looked_at_and_one_that_fails_stops_nobody() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    fs::create_dir(machine.path("identities")).expect("the machine's folder is writable");
    for (name, lifetime) in [("a", 864_000), ("b", 365 * 86400), ("c", 864_000), ("d", 864_000)] {
        controller.set_faults([Fault::CertLifetime(lifetime)]);
        let token = controller.issue(name);
        let out = machine.path("identities").join(format!("{name}.json"));
        report(&machine.enroll_with(&token).arg("--out").arg(&out).run());
        if name == "c" {
            controller.disown(token.sub());
        }
    }
    fs::write(machine.path("identities/config.json"), "{\"log\": 4}").expect("the folder is ours");
    fs::write(machine.path("identities/d.json.bak"), "{}").expect("the folder is ours");
    controller.set_faults([]);
    let renew = || machine.program().args(["renew", "--all", "identities", "--format", "json"]);
    let ended = renew().args(["--hook", "echo $1 >>ran"]).run();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stderr.contains("config.json is no identity: left alone"), "{ended}");
    let said = report_of(&ended.stdout);
    let each = said["identities"].as_array().expect("a list");
    let of = |name: &str| {
        let file = text(&machine.path("identities").join(name));
        each.iter().find(|one| one["file"] == file.as_str()).unwrap_or_else(|| panic!("{name} is missing: {said}"))
    };
    assert_eq!(each.len(), 4, "{said}");
    assert_eq!((&of("a.json")["renewed"], &of("b.json")["renewed"]), (&true.into(), &false.into()));
    assert_eq!(of("c.json")["error"]["exit"], 31);
    assert_eq!(of("d.json")["renewed"], true);
    let ran = fs::read_to_string(machine.path("ran")).expect("the hook has run");
    assert_eq!(ran.lines().count(), 2, "{ran}");
    fs::remove_file(machine.path("identities/c.json")).expect("the folder is ours");
    let again = report(&renew().run());
    assert!(again["identities"].as_array().is_some_and(|list| list.iter().all(|one| one["renewed"] == false)), "{again}");
}

#[test]
fn of_two_renewals_at_once_one_is_told_to_wait() {
    let controller = Controller::start(Options::default());
    let (machine, token) = enrolled::<InFiles>(&controller);
    let mut first = ending(machine.renew(&token).arg("--force"), "before_extend", "hang").start();
    controller.wait_for("the first run", Duration::from_secs(20), |log| {
        log.requests.iter().any(|request| request.path.contains("/authenticators/"))
    });
    Failed::with(machine.renew(&token).arg("--force").run(), 75, "output_in_use").says("another run works on it");
    first.kill();
    first.wait();
    assert_eq!(report(&machine.renew(&token).arg("--force").run())["renewed"], true);
}
