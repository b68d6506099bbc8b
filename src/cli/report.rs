//! [`Done`] and [`Error`] as text and as JSON: nobody else prints a result.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use ziti_enroller::error::{Error, Spent};
use ziti_enroller::flow::doctor::Check;
use ziti_enroller::flow::inspect::{Certificate, Inspected};
use ziti_enroller::flow::status::{PathStatus, State};
use ziti_enroller::key::{KeyListing, PinState, Place, PlaceListing, Readers};
use ziti_enroller::text::shell_word;

use super::Done;

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

/// Writes an error and returns its exit code.
pub fn failure(error: &Error, format: Format, stdout: Option<File>) -> ExitCode {
    let issued = match error {
        Error::Unkept { certificates, .. } => Some(certificates),
        _other => None,
    };
    // Public, and nowhere else by now.
    let mut printed = stdout.is_some();
    if let (Some(certificates), Format::Text) = (issued, format) {
        printed &= write(certificates, stdout.as_ref().and_then(|f| f.try_clone().ok())) == ExitCode::SUCCESS;
    }
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
    let hint = error.hint();
    match format {
        Format::Json => {
            let hint = hint.map(|hint| hint.to_string());
            let mut object = json!({
                "ok": false,
                "error": {
                    "code": error.code(), "exit": error.exit_code(), "message": error.to_string(), "causes": causes,
                    "hint": hint, "token_spent": error.spent(),
                },
            });
            if let Some(certificates) = issued {
                object["certificates"] = json!(certificates);
            }
            printed &= write(&format!("{object}\n"), stdout) == ExitCode::SUCCESS;
        }
        Format::Text => {
            let mut text = format!("error: {error}\n");
            for cause in &causes {
                text.push_str(&format!("  cause: {cause}\n"));
            }
            if error.spent() == Spent::Unknown {
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
    if let Some(certificates) = issued.filter(|_| !printed) {
        // Standard output was closed, or leads to the same disk.
        drop(std::io::stderr().write_all(certificates.as_bytes()));
    }
    ExitCode::from(error.exit_code())
}

fn readers(done: &Done) -> Option<&Readers> {
    match done {
        Done::Enroll(e) | Done::Resume(e) => Some(&e.readers),
        Done::Inspect(Inspected::Identity { readers, .. }) => Some(readers),
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
            let place = match &e.token {
                Some(place) => format!("in token `{}` ({})", place.label, place.model),
                None if e.key.reference == "file:" => "in the identity file".to_owned(),
                None => format!("in {}", e.key.reference),
            };
            format!(
                "enrolled {} at {}: {} ({made} {} key {place}, certificate until {})\n{}",
                e.identity.id,
                e.identity.controller,
                e.identity.file,
                e.key.algorithm,
                e.certificate.not_after,
                reader_lines(&e.readers)
            )
        }
        Done::Doctor(diagnosis) => diagnosis.checks.iter().map(check).collect(),
        Done::ListTokens(list) => list.tokens.iter().map(token).collect(),
        Done::ListKeys(list) => list.keys.iter().map(key).collect(),
        Done::CreateKey(made) => format!("{}\n", made.reference),
        Done::DeleteKey(gone) => format!("destroyed {}\n", gone.reference),
        Done::Verify(v) => format!(
            "{} is `{}` ({}) at {} {}: logged in with its {} key, certificate until {}\n",
            v.identity.file,
            v.name,
            v.identity.id,
            v.identity.controller,
            v.controller_version,
            v.key.algorithm,
            v.certificate.not_after
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

fn path_status(path: &PathStatus) -> String {
    let state = match &path.state {
        State::Nothing => "nothing is there".to_owned(),
        State::Enrolled(certificate) => format!("enrolled, certificate until {}", certificate.not_after),
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
