//! Judges the logins of a whole run of the suite, by the records that p11fault and the program leave for every fixture.
//!
//! A record is one file of lines, in the order in which things happened: `<pid> begins <note> <program> <word>…` and
//! `<pid> login <microseconds> user=<n> flags=<flags> pin=<given|null> <rv>` from p11fault (its `log.rs`), and
//! `<pid> event <event>` from the program, where it is built with `crash-points`. Tests that run at once write to records of
//! their own, and processes of one test are told apart by their numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Programs of others: what they do with PINs is their own affair.
const FOREIGN: [&str; 4] = ["pkcs11-tool", "p11tool", "p11calls", "openssl"];
/// Commands of ours that are given no enrollment token.
const WITHOUT_TOKEN: [&str; 8] = ["verify", "list", "key", "status", "inspect", "csr", "renew", "exec"];
/// Methods that show a certificate in the handshake, so that their key is opened before it.
const CERTIFICATE_FIRST: [&str; 2] = ["ottca", "ca"];

/// CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED (PKCS#11 v3.1 §3.2).
const FINAL_TRY: u64 = 0x20000;
const LOCKED: u64 = 0x40000;
/// CKR_OK, CKR_USER_ALREADY_LOGGED_IN, and what says that the device is gone, so that it has judged no PIN:
/// CKR_DEVICE_REMOVED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_NOT_PRESENT, CKR_USER_NOT_LOGGED_IN.
const NO_REFUSAL: [u64; 7] = [0, 0x100, 0x32, 0xb0, 0xb3, 0xe0, 0x101];

/// Where fixtures leave their records: beside the build.
pub fn folder() -> PathBuf {
    crate::figures::folder().join("logins")
}

/// Whether an answer to C_Login may have cost a try.
pub fn is_refusal(rv: u64) -> bool {
    !NO_REFUSAL.contains(&rv)
}

/// What the records show.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Processes of ours that used a token.
    pub runs: usize,
    /// Their logins.
    pub logins: usize,
    /// Those that were refused.
    pub refused: usize,
    /// What must not be, a sentence each.
    pub wrong: Vec<String>,
    /// Processes of ours that did something of that.
    pub wrong_runs: usize,
}

/// Judges all records in `folder`.
///
/// # Panics
/// When one cannot be read.
pub fn judge(folder: &Path) -> Verdict {
    let mut verdict = Verdict::default();
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut records: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    records.sort();
    for record in records {
        let text = fs::read_to_string(&record).unwrap_or_else(|error| panic!("{}: {error}", record.display()));
        verdict.add(&record.file_name().unwrap_or_default().to_string_lossy(), &text);
    }
    verdict
}

/// One process, as far as its record has been read.
#[derive(Debug, Default)]
struct Run {
    /// `ott`, or `-` where nobody said.
    note: String,
    program: String,
    words: Vec<String>,
    /// The token was verified, now or before this run.
    verified: bool,
    walks: bool,
    logins: usize,
    refused: usize,
    wrong: bool,
}

impl Run {
    fn is_ours(&self) -> bool {
        !FOREIGN.contains(&self.program.as_str())
    }

    /// Whether it was given a token that must be verified before a PIN is tried. `ziti-enroller` without a command enrolls.
    /// Programs that use the library tell of no events.
    fn must_verify(&self) -> bool {
        let with_token = self.words.first().is_none_or(|command| !WITHOUT_TOKEN.contains(&command.as_str()));
        self.program == "ziti-enroller" && with_token && !CERTIFICATE_FIRST.contains(&self.note.as_str())
    }

    fn may_use_the_final_try(&self) -> bool {
        self.words.iter().any(|word| word == "--allow-final-try")
    }
}

impl Verdict {
    /// Adds the record called `name`.
    pub fn add(&mut self, name: &str, text: &str) {
        let mut runs: BTreeMap<&str, Run> = BTreeMap::new();
        let mut recorded = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let mut wrong = Vec::new();
            let [process, kind, rest @ ..] = &words[..] else {
                self.wrong.push(format!("{name}: `{line}` is no line of a record"));
                continue;
            };
            let run = runs.entry(process).or_default();
            match (*kind, rest) {
                ("begins", [note, program, words @ ..]) => {
                    run.note = (*note).to_owned();
                    run.program = (*program).to_owned();
                    run.words = words.iter().map(|word| (*word).to_owned()).collect();
                }
                ("event", [event]) => {
                    // Once the anchors are written down, a later run goes on from there and needs no second proof.
                    recorded |= *event == "recorded-intended";
                    let goes_on = !run.walks && event.starts_with("entering-");
                    let later = goes_on && !["entering-fresh", "entering-intended"].contains(event);
                    run.walks |= goes_on;
                    run.verified |= *event == "connected" || (later && recorded);
                }
                ("login", [_, _, flags, _, rv]) if !run.program.is_empty() => {
                    let flags = number(flags.trim_start_matches("flags="));
                    if run.refused > 0 {
                        wrong.push("a login after one that was refused");
                    }
                    match number(rv) {
                        Some(rv) => run.refused += usize::from(is_refusal(rv)),
                        None => wrong.push("a login without an answer"),
                    }
                    run.logins += 1;
                    let forbids = |flag| flags.is_some_and(|flags| flags & flag != 0);
                    if forbids(LOCKED) {
                        wrong.push("a login though the token's flags say that its PIN is locked");
                    }
                    if forbids(FINAL_TRY) && !run.may_use_the_final_try() {
                        wrong.push("a login though the token's flags say that it is the final try");
                    }
                    if run.must_verify() && !run.verified {
                        wrong.push("a login before the token was verified");
                    }
                }
                _ => self.wrong.push(format!("{name}: `{line}` is no line of a record, or of a process that never began")),
            }
            if run.is_ours() {
                run.wrong |= !wrong.is_empty();
                let who = format!("{name}: process {process}, {} {}", run.program, run.words.join(" "));
                self.wrong.extend(wrong.iter().map(|what| format!("{who}: {what}")));
            }
        }
        // Events alone are those of a run that never came to its module.
        for run in runs.values().filter(|run| run.is_ours() && !run.program.is_empty()) {
            self.runs += 1;
            self.logins += run.logins;
            self.refused += run.refused;
            self.wrong_runs += usize::from(run.wrong);
        }
    }
}

/// `0x30`.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
        7 event entering-fresh\n\
        7 begins ott ziti-enroller enroll --format --jwt --pin-file\n\
        7 event connected\n\
        7 login 1790000000000000 user=1 flags=0x40d pin=given 0x0\n";

    fn verdict(text: &str) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.add("record", text);
        verdict
    }

    fn only_wrong(text: &str) -> String {
        let verdict = verdict(text);
        assert_eq!((verdict.wrong.len(), verdict.wrong_runs), (1, 1), "{verdict:?}");
        verdict.wrong[0].clone()
    }

    #[test]
    fn a_good_run_is_counted() {
        assert_eq!(verdict(GOOD), Verdict { runs: 1, logins: 1, ..Verdict::default() });
    }

    #[test]
    fn one_refused_login_is_no_mistake_and_a_second_one_is() {
        let refused = GOOD.replace("given 0x0", "given 0xa0");
        assert_eq!(verdict(&refused), Verdict { runs: 1, logins: 1, refused: 1, ..Verdict::default() });
        let twice = format!("{refused}7 login 1790000000000001 user=1 flags=0x1040d pin=given 0xa0\n");
        assert!(only_wrong(&twice).ends_with("a login after one that was refused"));
        // Also one that is right, and one before a signature.
        let right = format!("{refused}7 login 1790000000000001 user=2 flags=0x1040d pin=given 0x0\n");
        assert!(only_wrong(&right).ends_with("a login after one that was refused"));
        let other_run = format!("{refused}{}", refused.replace("7 ", "8 "));
        assert_eq!(verdict(&other_run).wrong, [""; 0]);
    }

    #[test]
    fn a_login_that_the_flags_forbid_is_a_mistake() {
        assert!(only_wrong(&GOOD.replace("0x40d", "0x4040d")).ends_with("its PIN is locked"));
        let last = GOOD.replace("0x40d", "0x2040d");
        assert!(only_wrong(&last).ends_with("it is the final try"));
        assert_eq!(verdict(&last.replace("--jwt", "--allow-final-try --jwt")).wrong, [""; 0]);
    }

    #[test]
    fn a_login_before_the_token_is_verified_is_a_mistake() {
        let early = GOOD.replace("7 event connected\n", "");
        assert!(only_wrong(&early).ends_with("before the token was verified"));
        assert!(only_wrong(&early.replace(" enroll ", " ")).ends_with("before the token was verified"));
        assert_eq!(verdict(&early.replace("ott", "ottca")).wrong, [""; 0]);
        assert_eq!(verdict(&early.replace(" enroll ", " verify ")).wrong, [""; 0]);
        // Another process of the same test.
        assert!(only_wrong(&early.replace("7 begins", "8 event connected\n7 begins")).ends_with("was verified"));
    }

    #[test]
    fn a_run_that_goes_on_after_the_proof_needs_no_second_one() {
        let again = "8 event entering-planned\n8 begins ott ziti-enroller enroll\n\
            8 login 1790000000000002 user=1 flags=0x40d pin=given 0x0\n";
        assert_eq!(verdict(&format!("{GOOD}7 event recorded-intended\n{again}")).wrong, [""; 0]);
        assert!(only_wrong(&format!("{GOOD}{again}")).ends_with("before the token was verified"));
    }

    #[test]
    fn what_others_do_is_not_judged() {
        let tool = "9 begins - pkcs11-tool --login\n".to_owned()
            + &"9 login 1790000000000000 user=1 flags=0x4040d pin=given 0xa4\n".repeat(3);
        assert_eq!(verdict(&tool), Verdict::default());
    }

    #[test]
    fn a_record_that_cannot_be_understood_is_a_mistake() {
        for line in ["9 login 1790000000000000 user=1 flags=0x40d pin=given 0x0", "9", "9 begins", "9 ends"] {
            assert_eq!(verdict(line).wrong.len(), 1, "{line}");
        }
    }
}
