//! [`Done`] and [`Error`] as text and as JSON: nobody else prints a result.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use ziti_enroller::controller::Signer;
use ziti_enroller::error::{Error, Spent};
use ziti_enroller::flow::IdentitySummary;
use ziti_enroller::flow::doctor::Check;
use ziti_enroller::flow::enroll::Enrolled;
use ziti_enroller::flow::enroll::EnrolledKey;
use ziti_enroller::flow::inspect::{Certificate, Inspected};
use ziti_enroller::flow::keys::Victim;
use ziti_enroller::flow::renew::Outcome;
use ziti_enroller::flow::status::{PathStatus, State};
use ziti_enroller::key::{KeyListing, Place, PlaceListing, Readers};
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
    if let Done::Exec(ended) = done {
        // Standard output was the program's.
        return ExitCode::from(ended.exit);
    }
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
    let issued = match error {
        Error::Unkept { certificates, .. } => Some(certificates),
        _other => None,
    };
    // Public, and nowhere else by now.
    let mut printed = stdout.is_some();
    if let (Some(certificates), Format::Text) = (issued, format) {
        printed &= write(certificates, stdout.as_ref().and_then(|f| f.try_clone().ok())) == ExitCode::SUCCESS;
    }
    let mistake = mistake(error);
    match format {
        Format::Json => {
            let mut object = json!({ "ok": false, "error": mistake });
            if let Some(certificates) = issued {
                object["certificates"] = json!(certificates);
            }
            printed &= write(&format!("{object}\n"), stdout) == ExitCode::SUCCESS;
        }
        Format::Text => {
            let mut text = format!("error: {error}\n");
            for cause in &mistake.causes {
                text.push_str(&format!("  cause: {cause}\n"));
            }
            if error.spent() == Spent::Unknown && !matches!(error, Error::RenewalUnknown { .. }) {
                text.push_str("  the token may be spent\n");
            }
            if let Some(hint) = error.hint() {
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
        Done::Inspect(Inspected::Identity { readers, .. } | Inspected::Network { readers, .. }) => Some(readers),
        Done::Renew(One { outcome: Outcome::Renewed(renewed), .. }) => Some(&renewed.readers),
        Done::Renew(_) | Done::RenewAll(_) => None,
        Done::Verify(_)
        | Done::Inspect(_)
        | Done::Doctor(_)
        | Done::Status(_)
        | Done::ListTokens(_)
        | Done::ListKeys(_)
        | Done::ListSigners(_)
        | Done::CreateKey(_)
        | Done::DeleteKey(_)
        | Done::Csr(_)
        | Done::Exec(_)
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
        Done::Exec(_) => String::new(),
        Done::Status(status) => status.paths.iter().map(path_status).collect(),
        Done::Enroll(e) | Done::Resume(e) => enrolled(e),
        Done::Renew(one) => renewal(one),
        Done::RenewAll(all) => all.identities.iter().map(each_renewal).collect(),
        Done::Doctor(diagnosis) => diagnosis.checks.iter().map(check).collect(),
        Done::ListTokens(list) => list.tokens.iter().map(token).collect(),
        Done::ListKeys(list) => list.keys.iter().map(key).collect(),
        Done::ListSigners(list) if list.signers.is_empty() => {
            format!("{} takes tokens of no identity provider\n", list.controller)
        }
        Done::ListSigners(list) => list.signers.iter().map(signer).collect(),
        Done::CreateKey(made) => format!("{}\n", made.reference),
        Done::Csr(request) => match &request.file {
            None => request.csr.as_pem().to_owned(),
            Some(file) => {
                let made = if request.created { "new" } else { "existing" };
                format!("{file}: a request by the {made} {} key {}\n", request.key.algorithm, request.key.reference)
            }
        },
        Done::DeleteKey(gone) => {
            let victim = gone.with.as_ref().map(|Victim { identity, certificate }| {
                let (who, until) = (who(identity), &certificate.not_after);
                format!(
                    "{}: nobody can log in with it any more ({who} at {}, certificate until {until})\n",
                    identity.file, identity.controller
                )
            });
            format!("destroyed {}\n{}", gone.reference, victim.unwrap_or_default())
        }
        Done::Verify(v) => format!(
            "{} is `{}` ({}) at {} {}: logged in with its {} key, certificate until {} ({})\n",
            v.identity.file,
            v.name,
            who(&v.identity),
            v.identity.controller,
            v.controller_version,
            v.key.algorithm,
            v.certificate.not_after,
            left(v.days_left)
        ),
        Done::Inspect(Inspected::Token { controller, subject, method, algorithm, signer_sha1, expires, expired }) => {
            let signer = signer_sha1.as_ref().map(|s| format!(" by the certificate {s}")).unwrap_or_default();
            let whom = if *method == "ca" { "CA" } else { "identity" };
            let until = expires.as_ref().map(|e| format!("{} {e}", if *expired { "expired" } else { "valid until" }));
            // That of the network names nobody.
            let whose = if *subject == format!("{controller}/") { String::new() } else { format!("  {whom}: {subject}\n") };
            format!(
                "enrollment token, not verified\n  controller: {controller}\n{whose}  method: {method}\n  \
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
        Done::Inspect(Inspected::Network { apis, anchors, readers }) => format!(
            "network, without an identity\n  controller: {}\n  CA certificates: {anchors}\n{}",
            apis.join(", "),
            reader_lines(readers)
        ),
        Done::Inspect(Inspected::Certificates { certificates }) => certificates.iter().map(certificate).collect(),
    }
}

fn enrolled(e: &Enrolled) -> String {
    if e.identity.id.is_none() && e.key.is_none() {
        let (file, controller) = (&e.identity.file, &e.identity.controller);
        return format!("{file}: where {controller} is and whom to trust there, and no identity\n{}", reader_lines(&e.readers));
    }
    let key = e.key.as_ref().map(|key| {
        let made = if key.created { "new" } else { "existing" };
        format!("{made} {}", key_words(key, e.token.as_ref()))
    });
    let until = e.certificate.as_ref().map(|c| format!("certificate until {}", c.not_after));
    let username = e.username.as_ref().map(|name| format!("logs in as `{name}` with the password"));
    let facts: Vec<String> = key.into_iter().chain(until).chain(username).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let who = e.identity.id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    format!("enrolled{who} at {}: {}{facts}\n{}", e.identity.controller, e.identity.file, reader_lines(&e.readers))
}

/// The id of one who has logged in.
fn who(identity: &IdentitySummary) -> &str {
    identity.id.as_deref().unwrap_or_default()
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
            who(&n.identity),
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
                who(&r.identity),
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
        State::Network => "a network without an identity".to_owned(),
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
    format!("{}\n  {t}\n{}", t.reference, not_usable(&t.obstacle))
}

fn key(k: &KeyListing) -> String {
    let kind = k.algorithm.as_deref().unwrap_or("unknown type");
    let label = if k.label.as_str().is_empty() { String::new() } else { format!("{:?}, ", k.label) };
    format!("{}\n  {label}{kind}\n{}", k.reference, not_usable(&k.obstacle))
}

fn not_usable(obstacle: &Option<String>) -> String {
    obstacle.as_ref().map(|why| format!("  not usable: {why}\n")).unwrap_or_default()
}

fn signer(s: &Signer) -> String {
    let ways: Vec<&str> = [(s.enroll_to_cert, "a certificate"), (s.enroll_to_token, "logins with its tokens")]
        .into_iter()
        .filter_map(|(can, what)| can.then_some(what))
        .collect();
    let ways = if ways.is_empty() { "nothing".to_owned() } else { ways.join(" or ") };
    let more = [("audience", &s.audience), ("client id", &s.client_id), ("asked for a token at", &s.external_auth_url)];
    let more: String = more.iter().filter_map(|(name, value)| Some(format!("  {name}: {}\n", value.as_ref()?))).collect();
    let scopes: Vec<&str> = s.scopes.iter().map(|scope| scope.as_str()).collect();
    let scopes = if scopes.is_empty() { String::new() } else { format!("  scopes: {}\n", scopes.join(" ")) };
    format!("{} `{}`\n  its tokens enroll to: {ways}\n{more}{scopes}", s.id, s.name)
}

fn certificate(c: &Certificate) -> String {
    let kind = if c.is_ca { "CA certificate" } else { "certificate" };
    let identity = c.spiffe.as_ref().map(|s| format!("  for: {s}\n")).unwrap_or_default();
    format!(
        "{kind} {}\n  issued by: {}\n{identity}  valid: {} to {}\n  SHA-1: {}\n",
        c.subject, c.issuer, c.not_before, c.not_after, c.fingerprint_sha1
    )
}
