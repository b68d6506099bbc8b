//! [`Done`] and [`Error`] as text and as JSON: nobody else prints a result.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use ziti_enroller::error::{Error, Spent};
use ziti_enroller::flow::doctor::Check;
use ziti_enroller::flow::enroll::EnrolledKey;
use ziti_enroller::flow::inspect::{Certificate, Inspected};
use ziti_enroller::flow::renew::Outcome;
use ziti_enroller::flow::status::{PathStatus, State};
use ziti_enroller::key::{KeyListing, PinState, Place, PlaceListing, Readers};
use ziti_enroller::text::shell_word;

use super::Done;
use super::renew::{Each, EachResult, One};

/// How results and errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// Writes a result; the exit code is 0, or 70 where it cannot be written.
pub fn success(done: &Done, format: Format, stdout: Option<File>) -> ExitCode {
    let text = match format {
        Format::Json => {
            let mut object = Map::from_iter([("ok".to_owned(), json!(done.exit_code() == 0))]);
            // Plain data: cannot fail.
            if let Ok(Value::Object(fields)) = serde_json::to_value(done) {
                object.extend(fields);
            }
            if let (Done::RenewAll(all), Some(Value::Array(identities))) = (done, object.get_mut("identities")) {
                for (each, json) in all.identities.iter().zip(identities) {
                    if let (EachResult::Done(one), Some(fields)) = (&each.result, json.as_object_mut())
                        && let Outcome::Renewed(renewed) = &one.outcome
                    {
                        fields.insert("readers".into(), json!(able(&renewed.readers)));
                    }
                }
            }
            if let Some(readers) = readers(done) {
                object.insert("readers".into(), json!(able(readers)));
                object.insert("reader_environment".into(), json!(environment(readers)));
            }
            format!("{}\n", Value::Object(object))
        }
        Format::Text => words(done),
    };
    match write(&text, stdout) {
        ExitCode::SUCCESS => ExitCode::from(done.exit_code()),
        failed => failed,
    }
}

/// An error, as JSON has it.
#[derive(Debug, serde::Serialize)]
pub struct Mistake {
    /// The stable name.
    pub code: String,
    /// The exit code.
    pub exit: u8,
    /// What failed.
    pub message: String,
    /// Why, from the outermost to the innermost.
    pub causes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Whether the token is spent.
    pub token_spent: Spent,
}

/// `error`, as JSON has it.
pub fn mistake(error: &Error) -> Mistake {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // A transparent error says the same as its cause.
        if causes.last() != Some(&text) && text != error.to_string() {
            causes.push(text);
        }
        source = cause.source();
    }
    Mistake {
        code: error.code(),
        exit: error.exit_code(),
        message: error.to_string(),
        causes,
        hint: error.hint().map(|hint| hint.to_string()),
        token_spent: error.spent(),
    }
}

/// Writes an error and returns its exit code.
pub fn failure(error: &Error, format: Format, stdout: Option<File>) -> ExitCode {
    if let (Error::Unkept { certificates, .. }, Format::Text) = (error, format) {
        // Public, and nowhere else by now.
        write(certificates, stdout.as_ref().and_then(|f| f.try_clone().ok()));
    }
    let Mistake { causes, .. } = mistake(error);
    let hint = error.hint();
    match format {
        Format::Json => {
            let mut object = json!({ "ok": false, "error": mistake(error) });
            if let Error::Unkept { certificates, .. } = error {
                object["certificates"] = json!(certificates);
            }
            write(&format!("{object}\n"), stdout);
        }
        Format::Text => {
            let mut text = format!("error: {error}\n");
            for cause in &causes {
                text.push_str(&format!("  cause: {cause}\n"));
            }
            if error.spent() == Spent::Unknown && !matches!(error, Error::RenewalUnknown { .. }) {
                text.push_str("  the token may be spent\n");
            }
            if let Some(hint) = hint {
                text.push_str(&format!("hint: {}\n", hint.say));
                if let Some(run) = hint.run {
                    text.push_str(&format!("      {run}\n"));
                }
            }
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
    ExitCode::from(error.exit_code())
}

fn readers(done: &Done) -> Option<&Readers> {
    match done {
        Done::Enroll(e) | Done::Resume(e) => Some(&e.readers),
        Done::Inspect(Inspected::Identity { readers, .. }) => Some(readers),
        Done::Renew(One { outcome: Outcome::Renewed(renewed), .. }) => Some(&renewed.readers),
        Done::Renew(_) | Done::RenewAll(_) => None,
        Done::Verify(_)
        | Done::Inspect(_)
        | Done::Doctor(_)
        | Done::Status(_)
        | Done::ListTokens(_)
        | Done::ListKeys(_)
        | Done::CreateKey(_)
        | Done::DeleteKey(_)
        | Done::Version { .. } => None,
    }
}

/// Who can open the identity.
fn able(readers: &Readers) -> Vec<&str> {
    let able = readers.list.iter().filter(|r| r.obstacle.is_none()).map(|r| r.name.as_str());
    std::iter::once("ziti-enroller").chain(able).collect()
}

/// The settings of this process that a reader needs too.
fn environment(readers: &Readers) -> BTreeMap<&str, String> {
    let set = |name: &String| std::env::var(name).ok();
    readers.variables.iter().filter_map(|name| Some((name.as_str(), set(name)?))).collect()
}

/// `readable by: …`, who cannot and why, and what a reader needs.
fn reader_lines(readers: &Readers) -> String {
    let mut line = format!("readable by: {}", able(readers).join(", "));
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for reader in &readers.list {
        if let Some(why) = reader.obstacle.as_deref() {
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, names)) => names.push(&reader.name),
                None => reasons.push((why, vec![&reader.name])),
            }
        }
    }
    if !reasons.is_empty() {
        let not: Vec<String> = reasons.iter().map(|(why, names)| format!("{}: {why}", names.join(", "))).collect();
        line.push_str(&format!(" (not by {})", not.join("; ")));
    }
    line.push('\n');
    let needs: Vec<String> = environment(readers).iter().map(|(name, value)| format!("{name}={}", shell_word(value))).collect();
    if !needs.is_empty() {
        line.push_str(&format!("a reader needs: {}\n", needs.join(" ")));
    }
    line
}

fn write(text: &str, stdout: Option<File>) -> ExitCode {
    let written = match stdout {
        Some(mut file) => file.write_all(text.as_bytes()),
        // Standard output was closed from the start.
        None => Ok(()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: cannot write the result: {error}"));
            ExitCode::from(70)
        }
    }
}

fn words(done: &Done) -> String {
    match done {
        Done::Version { version } => format!("ziti-enroller {version}\n"),
        Done::Status(status) => status.paths.iter().map(path_status).collect(),
        Done::Enroll(e) | Done::Resume(e) => {
            let made = if e.key.created { "new" } else { "existing" };
            format!(
                "enrolled {} at {}: {} ({made} {}, certificate until {})\n{}",
                e.identity.id,
                e.identity.controller,
                e.identity.file,
                key_words(&e.key, e.token.as_ref()),
                e.certificate.not_after,
                reader_lines(&e.readers)
            )
        }
        Done::Renew(one) => renewal(one),
        Done::RenewAll(all) => all.identities.iter().map(each_renewal).collect(),
        Done::Doctor(diagnosis) => diagnosis.checks.iter().map(check).collect(),
        Done::ListTokens(list) => list.tokens.iter().map(token).collect(),
        Done::ListKeys(list) => list.keys.iter().map(key).collect(),
        Done::CreateKey(made) => format!("{}\n", made.reference),
        Done::DeleteKey(gone) => format!("destroyed {}\n", gone.reference),
        Done::Verify(v) => format!(
            "{} is `{}` ({}) at {} {}: logged in with its {} key, certificate until {} ({})\n",
            v.identity.file,
            v.name,
            v.identity.id,
            v.identity.controller,
            v.controller_version,
            v.key.algorithm,
            v.certificate.not_after,
            left(v.days_left)
        ),
        Done::Inspect(Inspected::Token { controller, subject, method, algorithm, signer_sha1, expires, expired }) => {
            let signer = signer_sha1.as_ref().map(|s| format!(" by the certificate {s}")).unwrap_or_default();
            let until = expires.as_ref().map(|e| format!("{} {e}", if *expired { "expired" } else { "valid until" }));
            format!(
                "enrollment token, not verified\n  controller: {controller}\n  identity: {subject}\n  method: {method}\n  \
                 signed: {algorithm}{signer}\n  {}\n",
                until.unwrap_or_else(|| "without an end".into())
            )
        }
        Done::Inspect(Inspected::Identity { apis, key, certificates, anchors, readers }) => {
            format!(
                "identity\n  controller: {}\n  key: {key}\n  CA certificates: {anchors}\n{}{}",
                apis.join(", "),
                certificates.iter().map(certificate).collect::<String>(),
                reader_lines(readers)
            )
        }
        Done::Inspect(Inspected::Certificates { certificates }) => certificates.iter().map(certificate).collect(),
    }
}

/// Type and place of a key.
fn key_words(key: &EnrolledKey, token: Option<&Place>) -> String {
    let place = match token {
        Some(place) => format!("in token `{}` ({})", place.label, place.model),
        None if key.reference == "file:" => "in the identity file".to_owned(),
        None => format!("in {}", key.reference),
    };
    format!("{} key {place}", key.algorithm)
}

/// How long a certificate lives yet.
fn left(days: i64) -> String {
    match days {
        1 => "1 day left".into(),
        0.. => format!("{days} days left"),
        _ => "it has ended".into(),
    }
}

fn renewal(one: &One) -> String {
    match &one.outcome {
        Outcome::NotDue(n) => format!(
            "{} ({}) at {}: nothing is due before {}, certificate until {} ({}); --force renews now\n",
            n.identity.file,
            n.identity.id,
            n.identity.controller,
            n.due,
            n.certificate.not_after,
            left(n.days_left)
        ),
        Outcome::Renewed(r) => {
            let made = if r.key.created { "new " } else { "" };
            let old = r.old_key.as_ref().map(|old| match old.deleted {
                true => format!("old key {}: deleted\n", old.reference),
                false => format!("old key {}: kept\n", old.reference),
            });
            format!(
                "renewed {} at {}: {} ({made}{}, certificate until {})\n{}{}",
                r.identity.id,
                r.identity.controller,
                r.identity.file,
                key_words(&r.key, r.token.as_ref()),
                r.certificate.not_after,
                old.unwrap_or_default(),
                reader_lines(&r.readers)
            )
        }
    }
}

fn each_renewal(each: &Each) -> String {
    match &each.result {
        EachResult::Done(one) => renewal(one),
        EachResult::Failed { error } => {
            let why = std::iter::once(&error.message).chain(&error.causes).cloned().collect::<Vec<_>>().join(": ");
            let hint = error.hint.as_ref().map(|h| format!("       hint: {h}\n")).unwrap_or_default();
            format!("FAILED {}: {why} ({}, exit {})\n{hint}", each.file, error.code, error.exit)
        }
    }
}

fn path_status(path: &PathStatus) -> String {
    let state = match &path.state {
        State::Nothing => "nothing is there".to_owned(),
        State::Enrolled(enrolled) => {
            let due = if enrolled.due { ": due for renewal" } else { "" };
            format!("enrolled, certificate until {} ({}){due}", enrolled.certificate.not_after, left(enrolled.days_left))
        }
        State::Renewing { stage } => format!("a renewal stopped at stage `{stage}`"),
        State::Unfinished { stage, subject, token_spent } => {
            let spent = match token_spent {
                Spent::No => "the token is not spent",
                Spent::Yes => "the token is spent",
                Spent::Unknown => "the token may be spent",
            };
            let whose = subject.as_ref().map(|s| format!(" of {s}")).unwrap_or_default();
            format!("an enrollment{whose} stopped at stage `{stage}`; {spent}")
        }
        State::Unreadable(why) => format!("cannot be read: {why}"),
    };
    let next = path.next.as_ref().map(|n| format!("  next: {n}\n")).unwrap_or_default();
    format!("{}: {state}\n{next}", path.file)
}

fn check(check: &Check) -> String {
    match &check.error {
        None => format!("ok     {}: {}\n", check.tried, check.found),
        Some(mistake) => {
            let hint = mistake.hint.as_ref().map(|h| format!("       hint: {h}\n")).unwrap_or_default();
            format!("FAILED {}: {} ({}, exit {})\n{hint}", check.tried, check.found, mistake.code, mistake.exit)
        }
    }
}

fn token(t: &PlaceListing) -> String {
    let pin = match t.pin {
        PinState::Ok => "PIN ok",
        PinState::CountLow => "a wrong PIN was tried",
        PinState::FinalTry => "one more wrong PIN locks it",
        PinState::Locked => "PIN locked",
        PinState::Keypad => "PIN at its keypad",
        PinState::None => "no PIN",
    };
    let obstacle = t.obstacle.as_ref().map(|o| format!("  not usable: {o}\n")).unwrap_or_default();
    let Place { label, serial, model, .. } = &t.place;
    format!("{}\n  {label:?}, serial {serial}, {model}, {}, {pin}\n{obstacle}", t.reference, t.manufacturer)
}

fn key(k: &KeyListing) -> String {
    let kind = k.algorithm.as_deref().unwrap_or("unknown type");
    let obstacle = k.obstacle.as_ref().map(|o| format!("  not usable: {o}\n")).unwrap_or_default();
    format!("{}\n  {kind}\n{obstacle}", k.reference)
}

fn certificate(c: &Certificate) -> String {
    let kind = if c.is_ca { "CA certificate" } else { "certificate" };
    let identity = c.spiffe.as_ref().map(|s| format!("  for: {s}\n")).unwrap_or_default();
    format!(
        "{kind} {}\n  issued by: {}\n{identity}  valid: {} to {}\n  SHA-1: {}\n",
        c.subject, c.issuer, c.not_before, c.not_after, c.fingerprint_sha1
    )
}
