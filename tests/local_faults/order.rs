//! The order of things, by system calls: everything of ours is opened from one folder that was opened once, follows no link,
//! is durable before it matters, and is synced no more often than the budget says.

use std::path::Path;

use ziti_enroller_support::{Controller, KeyType, Options, Program, Token};

use super::trace::{Call, MUTATING, record};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Fixture, InFiles, InToken, Machine, report, text};

/// What `enroll` does to files below the machine's folder.
fn calls<F: Fixture>(enroll: impl FnOnce(&Machine<F>, &Token) -> Program) -> (Machine<F>, Vec<Call>) {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    let (outcome, calls) = record(enroll(&machine, &token), MUTATING, &[]);
    report(&outcome);
    let folder = text(machine.folder());
    // The current folder alone says nothing: what matters is a name that is relative to it.
    let here = format!("AT_FDCWD<{folder}>");
    let bare = |call: Call| Call { line: call.line.replace(&here, "AT_FDCWD"), ..call };
    let is_below = |call: &Call| {
        let relative = call.line.contains("AT_FDCWD") && name_of(call).is_some_and(|name| !name.starts_with('/'));
        call.line.contains(&folder) || relative
    };
    (machine, calls.into_iter().map(bare).filter(is_below).collect())
}

fn syncs(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.name == "fsync" || call.name == "fdatasync").count()
}

/// Where in `calls` one of this name that says all of `words` comes first.
fn at(calls: &[Call], name: &str, words: &[&str]) -> usize {
    let found = calls.iter().position(|call| call.name == name && words.iter().all(|word| call.line.contains(word)));
    found.unwrap_or_else(|| panic!("no {name} with {words:?} among {calls:#?}"))
}

/// Holds the calls of a whole enrollment to what must be true of every one.
fn hold(folder: &Path, calls: &[Call]) {
    let name = format!("\"{}\"", folder.display());
    let opened = calls.iter().position(|call| call.name.starts_with("open") && call.line.contains(&name));
    let opened = opened.expect("the folder is opened");
    for call in calls.iter().filter(|call| call.opens_to_write()) {
        let from_a_folder = call.name == "openat" && !call.line.contains("AT_FDCWD") && name_of(call).is_some_and(is_plain);
        assert!(from_a_folder, "not from a folder that is open: {call}");
        assert!(["O_NOFOLLOW", "O_CLOEXEC"].iter().all(|flag| call.line.contains(flag)), "follows or stays open: {call}");
        // Made new, or opened as what is there.
        assert_eq!(call.line.contains("O_CREAT"), call.line.contains("O_EXCL"), "{call}");
        assert!(!call.line.contains("O_CREAT") || call.line.contains(", 0600)"), "{call}");
    }
    for call in &calls[opened + 1..] {
        // The PIN of the tests lies in the same folder, and is the person's.
        let of_ours = !call.line.contains("/pin\"") && call.line.contains(&format!("\"{}", folder.display()));
        assert!(!of_ours, "by its path after the folder was opened: {call}");
    }
    for call in calls {
        let by_path = ["creat", "mkdir", "truncate", "chmod", "chown", "rename", "link", "unlink", "rmdir", "symlinkat"];
        assert!(!by_path.contains(&call.name.as_str()), "{call}");
    }
    for name in ["lock", "journal", "answer", "identity"] {
        let made = at(calls, "openat", &[&format!("\"{name}\""), "O_EXCL"]);
        assert!(calls[made + 1].name == "fchmod" && calls[made + 1].line.contains("0600"), "{}", calls[made + 1]);
    }
    assert!(calls[at(calls, "mkdirat", &["\".gate-7.json.enroll\""])].line.contains(", 0700)"));
    // Room for both before anything is recorded; all that the request rests on durable before it; the answer before its record.
    let room = calls.iter().rposition(|call| call.name == "fallocate").expect("space is reserved");
    let announced = at(calls, "write", &["journal", "posting"]);
    let kept = at(calls, "write", &["answer", "status"]);
    assert!(room < announced, "room is made too late");
    let before: Vec<&str> = calls[announced + 1..kept].iter().map(|call| call.name.as_str()).collect();
    assert!(before.starts_with(&["fdatasync"]), "{before:?}");
    let recorded = at(calls, "write", &["journal", "answered"]);
    assert!(calls[kept..recorded].iter().any(|call| call.name == "fsync"), "the answer is not durable before its record");
    let renamed = at(calls, "renameat2", &["\"gate-7.json\"", "RENAME_NOREPLACE"]);
    assert_eq!((calls[renamed - 1].name.as_str(), calls[renamed + 1].name.as_str()), ("fsync", "fsync"));
}

fn name_of(call: &Call) -> Option<&str> {
    call.line.split('"').nth(1)
}

fn is_plain(name: &str) -> bool {
    !name.contains('/')
}

#[test]
fn of_an_enrollment_with_a_key_in_the_identity() {
    let (machine, calls) = calls::<InFiles>(|machine, token| machine.enroll(token));
    hold(machine.folder(), &calls);
    assert!(syncs(&calls) <= 8, "{} syncs", syncs(&calls));
    let key = at(&calls, "write", &["key.pem"]);
    let durable = calls[key..].iter().position(|call| call.name == "fsync" && call.line.contains("key.pem"));
    let announced = at(&calls, "fdatasync", &["journal"]);
    assert!(durable.is_some_and(|after| key + after < announced), "the key is not durable before the request");
}

#[test]
fn of_an_enrollment_with_a_key_in_a_file() {
    let (machine, calls) = calls::<InFiles>(|machine, token| {
        machine.enroll(token).args(["--key", &format!("file:{}", text(&machine.path("gate.pem"))), "--create"])
    });
    hold(machine.folder(), &calls);
    let renamed = at(&calls, "renameat2", &["\"gate.pem\"", "RENAME_NOREPLACE"]);
    assert!(calls[renamed - 1].name == "fsync" && calls[renamed + 1].name == "fsync");
}

#[test]
fn of_an_enrollment_with_a_new_key_in_a_token() {
    let (machine, calls) = calls::<InToken>(|machine, token| machine.enroll(token));
    hold(machine.folder(), &calls);
    assert!(syncs(&calls) <= 7, "{} syncs", syncs(&calls));
}

#[test]
fn of_an_enrollment_with_an_existing_key_in_a_token() {
    let (machine, calls) = calls::<InToken>(|machine, token| {
        machine.keys.make("gate", KeyType::P256);
        machine.enroll_with(token).args(["--key", &machine.keys.reference("gate")])
    });
    hold(machine.folder(), &calls);
    assert!(syncs(&calls) <= 6, "{} syncs", syncs(&calls));
}

#[cfg(feature = "tpm")]
#[test]
fn of_an_enrollment_with_a_new_key_of_a_tpm() {
    let (machine, calls) = calls::<InTpmFile>(|machine, token| machine.enroll(token));
    hold(machine.folder(), &calls);
    let renamed = at(&calls, "renameat2", &["\"gate-7.tss2.pem\"", "RENAME_NOREPLACE"]);
    assert!(calls[renamed - 1].name == "fsync" && calls[renamed + 1].name == "fsync");
    let (machine, calls) = self::calls::<InTpmHandle>(|machine, token| machine.enroll(token));
    hold(machine.folder(), &calls);
}
