//! An error in place of each call that changes a file of ours, one at a time: nobody ever sees half an identity, the report
//! says what to do, and doing it ends with one identity, one key and one certificate.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use ziti_enroller_support::{Controller, Options, Outcome, Program, Sample, Token, figures, require};

use super::trace::{Call, MUTATING, failing, record};
use super::watcher::Watcher;
use super::written;
use crate::machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, report, text};

/// The name of an error, the words for it, and the `error.code`s that it may have.
const ERRORS: [(&str, &str, &[&str]); 6] = [
    ("ENOSPC", "no space left on device", &["disk_full"]),
    ("EDQUOT", "quota exceeded", &["disk_full"]),
    ("EIO", "input/output error", &["file_error"]),
    ("EROFS", "read-only file system", &["folder_not_writable"]),
    ("EACCES", "permission denied", &["folder_not_writable", "file_error"]),
    // Made again, and never heard of.
    ("EINTR", "", &[]),
];
/// Cases in a run that is not whole.
const SAMPLED: usize = 110;

/// Where the key of an enrollment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyGoes {
    IntoTheIdentity,
    ToAFile,
}

fn enroll(machine: &Machine<InFiles>, token: &Token, key: KeyGoes) -> Program {
    match key {
        KeyGoes::IntoTheIdentity => machine.enroll(token),
        KeyGoes::ToAFile => machine.enroll(token).args(["--key", &machine.keys.reference("gate"), "--create"]),
    }
}

#[derive(Clone, Debug)]
struct Case {
    key: KeyGoes,
    call: Call,
    error: (&'static str, &'static str, &'static [&'static str]),
}

#[test]
fn no_error_of_the_system_costs_a_token_or_shows_half_an_identity() {
    let sample = Sample::from_environment();
    let controller = Controller::start(Options::default());
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for key in [KeyGoes::IntoTheIdentity, KeyGoes::ToAFile] {
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let (outcome, calls) = record(enroll(&machine, &token, key), MUTATING, &written(&machine, &token));
        report(&outcome);
        let names: BTreeSet<_> = calls.iter().filter(|call| call.changes()).map(|call| call.name.clone()).collect();
        for name in names {
            let calls = calls.iter().filter(|call| call.changes() && call.name == name);
            let cases = calls.flat_map(|call| ERRORS.map(|error| Case { key, call: call.clone(), error }));
            groups.push(cases.collect());
        }
    }
    let mut cases = sample.in_turns(groups);
    assert!(cases.len() >= 300, "an enrollment makes fewer calls than it did: {}", cases.len());
    if !sample.is_whole() {
        cases.truncate(SAMPLED);
    }
    let asked = cases.len();
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|case| {
            let why = figures::wrong(|| survives(&controller, &case))?;
            Some(format!("{:?}, {} at {}: {why}", case.key, case.error.0, case.call))
        })
        .collect();
    figures::record("errors at calls that change files", asked, asked - wrong.len(), &sample.seed());
    assert!(wrong.is_empty(), "{} of {asked} (seed {}):\n{}", wrong.len(), sample.seed(), wrong.join("\n"));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

fn survives(controller: &Controller, case: &Case) {
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let watcher = Watcher::of(machine.out(&token));
    let before = controller.enroll_posts();
    let (name, words, codes) = case.error;
    let program = enroll(&machine, &token, case.key);
    let ended = failing(program, &case.call.name, case.call.number, name, &written(&machine, &token)).run();
    let sent = controller.enroll_posts() > before;
    if ended.code == Some(0) {
        assert!(sent, "{ended}");
        // Either it was made again, or what failed was the tidying up, which is said.
        let tidying = ended.stderr.contains("its work folder stays");
        let again = name == "EINTR" || (name == "EACCES" && case.call.name == "openat");
        assert!(again != tidying && (tidying || ended.stderr.is_empty()), "{ended}");
        if tidying {
            let next = enroll(&machine, &token, case.key).run();
            assert!(next.code == Some(0) || next.stdout.contains("output_exists"), "{next}");
        }
    } else {
        assert!(!codes.is_empty(), "{ended}");
        let printed = says_what_to_do(ended, &machine, sent, words, codes);
        let next = match printed {
            Some(certificates) => {
                let file = machine.path("printed.pem");
                fs::write(&file, certificates).expect("the machine's folder is writable");
                let next = machine.resume(&token).arg("--certificate").arg(&file).run();
                fs::remove_file(file).expect("the machine's folder is writable");
                next
            }
            None => enroll(&machine, &token, case.key).run(),
        };
        assert_eq!(next.code, Some(0), "{next}");
    }
    is_whole(controller, &machine, &token, case.key);
    let identity = machine.identity(&token).text.into_bytes();
    let seen = watcher.seen();
    assert!(seen.iter().all(|content| *content == identity), "somebody has seen {} contents", seen.len());
}

/// Holds a failure to what it must say; the certificates that it has printed.
fn says_what_to_do(ended: Outcome, machine: &Machine<InFiles>, sent: bool, words: &str, codes: &[&str]) -> Option<String> {
    let said: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"));
    let code = said["error"]["code"].as_str().unwrap_or_default().to_owned();
    assert!(codes.contains(&code.as_str()), "{ended}");
    let spent = said["error"]["token_spent"].clone();
    assert!(if sent { spent == "yes" || spent == "unknown" } else { spent == "no" }, "{ended}");
    let printed = said["certificates"].as_str().map(str::to_owned);
    let hint = if printed.is_some() { "ziti-enroller resume" } else { "run the same command again" };
    let folder = text(machine.folder());
    Failed::with(ended, if sent { 51 } else { 50 }, &code).says(words).says(&folder).hints(hint);
    printed
}

/// One identity, one key, one certificate, and nothing else.
fn is_whole(controller: &Controller, machine: &Machine<InFiles>, token: &Token, key: KeyGoes) {
    let issued: Vec<_> = controller.authenticators().into_iter().filter(|one| one.identity_id == token.sub()).collect();
    assert_eq!(issued.len(), 1, "certificates");
    let identity = machine.identity(token);
    assert_eq!(identity.public_key(), issued[0].spki_der);
    assert_eq!(machine.keys.public_key_of(identity.key()), issued[0].spki_der);
    let keys = usize::from(key == KeyGoes::ToAFile);
    let count = |folder: &str| fs::read_dir(machine.path(folder)).expect("it can be listed").count();
    assert_eq!((count("keys"), count(".")), (keys, 3), "something is left in {}", machine.folder().display());
}

fn in_format<F: Fixture>(format: &str, machine: &Machine<F>, token: &Token) -> Program {
    let program = machine.program().args(["enroll", "--format", format, "--jwt"]).arg(token.write(machine.folder()));
    program.args(["--provider", F::PROVIDER]).args(machine.keys.place()).args(machine.keys.pin())
}

/// The certificate that is printed, as a person takes it from standard output.
#[test]
fn certificate_that_cannot_be_kept_is_printed_and_taken_back() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let answer = machine.work(&token).join("answer");
    let ended = failing(in_format("text", &machine, &token), "ftruncate", 1, "ENOSPC", &[answer]).run();
    assert_eq!(ended.code, Some(51), "{ended}");
    assert_eq!(ended.stdout, controller.authenticators()[0].cert_pem, "{ended}");
    fs::write(machine.path("printed.pem"), &ended.stdout).expect("the machine's folder is writable");
    let command = format!("ziti-enroller resume {} --certificate FILE", text(&machine.out(&token)));
    assert!(ended.stderr.contains(&command), "{ended}");
    report(&machine.resume(&token).args(["--certificate", "printed.pem"]).run());
    report(&machine.verify(&token).run());
    assert_eq!((controller.authenticators().len(), machine.keys.private_keys()), (1, 1));
    assert_eq!(controller.enroll_posts(), 1, "the same request was sent once more");
}

/// Standard output leads to the same full disk: what is nowhere else goes where a person reads.
#[test]
fn certificate_that_cannot_be_printed_either_goes_to_standard_error() {
    let controller = Controller::start(Options::default());
    for format in ["text", "json"] {
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let answer = machine.work(&token).join("answer");
        let shell = ["-c", "exec \"$@\" >/dev/full", "sh"];
        let ended = failing(in_format(format, &machine, &token), "ftruncate", 1, "ENOSPC", &[answer])
            .under(require("sh", "dash"), shell)
            .run();
        assert_eq!(ended.code, Some(51), "{ended}");
        let issued = controller.authenticators().pop().expect("a certificate was issued");
        assert!(ended.stderr.contains(&issued.cert_pem), "{ended}");
    }
}

/// A disk that is really full, at every page: what fits ends well, and what does not says so and costs nothing.
#[test]
fn full_disk_costs_nothing_and_is_no_end() {
    let controller = Controller::start(Options::default());
    let unshare = require("unshare", "util-linux");
    if Program::new(&unshare).args(["-rm", "true"]).run().code != Some(0) {
        // Nobody may mount here: strace says that the disk is full, at every write.
        return (1..=6).for_each(|number| full_at_a_write(&controller, number));
    }
    let (mut refused, mut enrolled) = (0, 0);
    for kilobytes in [4, 8, 60, 64, 68, 100, 124, 128, 132, 136, 140, 144, 200] {
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        // The folder and its file system are seen by this shell and its children alone.
        let script = format!(
            "mkdir small && mount -t tmpfs -o size={kilobytes}k small small || exit 99
             \"$@\"; first=$?
             if [ $first != 0 ]; then
               ls -A small >&2
               mount -o remount,size=1m small && \"$@\" || exit 98
             fi
             cp small/gate-7.json . && ls -A small >&2; exit $first"
        );
        let program = machine.enroll(&token).args(["--out", "small/gate-7.json"]);
        let before = controller.enroll_posts();
        let ended = program.under(unshare.clone(), ["-rm", "sh", "-c", &script, "sh"]).run();
        let left: Vec<&str> = ended.stderr.lines().collect();
        match ended.code {
            Some(0) => enrolled += 1,
            Some(50) => {
                refused += 1;
                assert!(ended.stdout.lines().next().is_some_and(|first| first.contains("\"disk_full\"")), "{ended}");
            }
            _ => panic!("{kilobytes} KiB: {ended}"),
        }
        assert_eq!(left.last(), Some(&"gate-7.json"), "{ended}");
        assert_eq!(controller.enroll_posts() - before, 1, "{ended}");
        IdentityFile::read(&machine.path("gate-7.json"));
    }
    assert!(refused > 2 && enrolled > 2, "{refused} refused, {enrolled} enrolled");
}

fn full_at_a_write(controller: &Controller, number: usize) {
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let before = controller.enroll_posts();
    let full = failing(machine.enroll(&token), "write", number, "ENOSPC", &written(&machine, &token)).run();
    let exit = if controller.enroll_posts() > before { 51 } else { 50 };
    Failed::with(full, exit, "disk_full").hints("make room");
    report(&machine.enroll(&token).run());
}

/// RLIMIT_FSIZE: the system sends a signal that ends the program, unless it is caught.
#[test]
fn limit_on_the_size_of_files_is_found_before_the_request() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    for limit in [0, 1, 100, 4096, 65535] {
        let limited = machine.enroll(&token).under(require("prlimit", "util-linux"), [format!("--fsize={limit}")]);
        Failed::with(limited.run(), 50, "disk_full").says("files may not be that large here").hints("ulimit -f").spent("no");
        assert!(!machine.work(&token).exists(), "the work folder is left");
    }
    assert_eq!(controller.enroll_posts(), 0);
    report(&machine.enroll(&token).under(require("prlimit", "util-linux"), ["--fsize=65536"]).run());
}

/// Where the file system does not know RENAME_NOREPLACE, a hard link gives the name.
#[test]
fn without_the_flag_that_keeps_from_replacing_nothing_is_replaced() {
    let controller = Controller::start(Options::default());
    for error in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        for key in [KeyGoes::IntoTheIdentity, KeyGoes::ToAFile] {
            let machine = Machine::<InFiles>::new();
            let token = controller.issue("gate-7");
            let fault = format!("renameat2:error={error}");
            let without = |fault: &str| {
                let inject = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", &format!("inject={fault}")];
                enroll(&machine, &token, key).under(require("strace", "strace"), inject)
            };
            report(&without(&fault).run());
            is_whole(&controller, &machine, &token, key);
        }
        // Something appears there in the last moment.
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let inject = format!("inject=renameat2:error={error}:delay_enter=700000");
        let words = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", &inject];
        let running = machine.enroll(&token).under(require("strace", "strace"), words).start();
        let written = machine.work(&token).join("identity");
        while !fs::read(&written).is_ok_and(|content| content.ends_with(b"}\n") || content.ends_with(b"}")) {
            std::thread::yield_now();
        }
        fs::write(machine.out(&token), "precious").expect("the machine's folder is writable");
        Failed::with(running.wait(), 51, "output_exists").hints("move it away").spent("yes");
        assert_eq!(fs::read_to_string(machine.out(&token)).ok().as_deref(), Some("precious"));
        fs::remove_file(machine.out(&token)).expect("the machine's folder is writable");
        report(&machine.enroll(&token).run());
        is_whole(&controller, &machine, &token, KeyGoes::IntoTheIdentity);
    }
}
