//! `POST /enroll?method=updb`: the password of an identity (enrollment-protocol.md §2.4).

use super::Like;
use super::answers::{Answer, Ending};
use super::core::Core;
use super::enroll::early_fault;
use super::misbehave::Fault;
use super::store::Unusable;
use super::wire::Incoming;
use serde_json::{Value, json};

/// The password of an identity, as the controller of a test keeps it: in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password {
    /// The token's `sub`.
    pub identity_id: String,
    /// The name that an administrator gave.
    pub username: String,
    /// What the identity has chosen.
    pub password: String,
}

pub(crate) fn answer(core: &Core, request: &Incoming) -> Answer {
    let violation = |sentence: &str| core.recorder.violation(format!("enroll with a password: {sentence}"));
    if request.values("accept").collect::<Vec<_>>() != ["application/json"] {
        violation("Accept is not the single value application/json");
    }
    if request.media_type() != Some("application/json") {
        violation("a body that is not declared as application/json");
        return Answer::wrong_type(request.value("content-type"), "application/json");
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
        violation("a body that is no JSON object");
        return Answer::error_because("COULD_NOT_PARSE_BODY", "parsing body body from \"\" failed");
    };
    if body.keys().any(|name| name != "password") {
        violation("more in the body than the password");
    }
    let password = body.get("password").and_then(Value::as_str).unwrap_or_default();
    // go-openapi counts characters; 2.0.3 answers so (run).
    match password.chars().count() {
        0 => violation("no password"),
        1..5 => {
            violation("a password that is too short");
            return Answer::invalid(400, "password", "password in body should be at least 5 chars long", password);
        }
        5..=100 => {}
        _ => {
            violation("a password that is too long");
            return Answer::invalid(400, "password", "password in body should be at most 100 chars long", password);
        }
    }
    let token = request.parameter("token").unwrap_or_default();
    if !core.store.post_seen(token, &request.body) {
        violation("two POSTs with one token and different requests, the first not refused");
    }
    if let Some(refusal) = early_fault(core) {
        let definite = (400..500).contains(&refusal.status) && refusal.status != 429;
        if definite && !core.faults.has(&Fault::Gone) {
            core.store.post_refused(token);
        }
        return refusal;
    }
    let enrollment = match core.store.usable(token) {
        Ok(enrollment) => enrollment,
        Err(Unusable::Invalid) => return Answer::error("INVALID_ENROLLMENT_TOKEN"),
        Err(Unusable::Expired) => return Answer::error("ENROLLMENT_EXPIRED"),
    };
    if enrollment.method != "updb" {
        violation("another method than the token's");
        core.store.post_refused(token);
        return Answer::error("INVALID_ENROLL_METHOD");
    }
    if password.is_empty() {
        return Answer::error_because("UNHANDLED", "password expected for updb enrollment");
    }
    let username = enrollment.identity_name.clone();
    let set = Password { identity_id: enrollment.identity_id, username: username.clone(), password: password.into() };
    if !core.store.set_password(token, set) {
        return Answer::error("NOT_FOUND");
    }
    let faults = &core.faults;
    if faults.has(&Fault::DropPostAfter) {
        return Answer::none(Ending::Drop);
    }
    if faults.has(&Fault::ConsumeThen500) {
        return Answer::error("UNHANDLED");
    }
    if faults.has(&Fault::ConsumeThen503) {
        return Answer::error("TIMEOUT");
    }
    match core.options.like {
        Like::V1_4 => Answer::data(&json!({})),
        Like::V2_1 => Answer::data(&json!({"username": username, "controllers": [super::enroll::itself(core)]})),
    }
}
