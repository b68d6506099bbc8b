//! What the controller answered, and what that says about the token.
//!
//! The token is consumed by one transaction that stores the certificate, before the answer is written. Everything
//! after it can still fail, so an error status does not mean that the token is intact.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{HttpError, Response};
use crate::text::Printable;
use crate::trust::TrustError;

/// An answer as it came: kept on disk before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `content-type` without parameters.
    pub content_type: Option<String>,
    /// `retry-after`.
    pub retry_after: Option<Duration>,
    /// `zt-session`.
    pub session: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl From<Response> for Answer {
    fn from(r: Response) -> Self {
        Self { status: r.status, content_type: r.content_type, retry_after: r.retry_after, session: r.session, body: r.body }
    }
}

/// A call to the controller did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// It was not reached, or not trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It accepted the login, and has another certificate in its books for the identity.
    #[error("it knows another certificate for this identity than the one that has logged in")]
    OtherCertificate,
    /// Its answer is not of the form that the API promises.
    #[error("its answer cannot be read: {0}")]
    Form(&'static str),
}

/// The controller's own words for a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `INVALID_ENROLLMENT_TOKEN`; the first bytes of the body where there is none.
    pub code: Printable,
    /// Its message.
    pub message: Printable,
    /// Its reason, where it gives one.
    pub cause: Option<Printable>,
}

/// In place of a code that is not there.
const NO_CODE: &str = "NO_CODE";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            NO_CODE => write!(f, "status {} without an error code", self.status)?,
            code => write!(f, "{code} (status {})", self.status)?,
        }
        for part in std::iter::once(&self.message).chain(&self.cause).filter(|p| !p.as_str().is_empty()) {
            write!(f, ": {part}")?;
        }
        Ok(())
    }
}

impl Refusal {
    /// Reads every shape that controllers give an error: in an envelope, bare (413), or not at all (panics).
    fn of(answer: &Answer) -> Self {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let error = json.get("error").unwrap_or(&json);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(Printable::new);
        let cause = error.get("cause").and_then(|cause| match cause {
            Value::String(text) => Some(Printable::new(text)),
            cause => text(cause.get("message").or_else(|| cause.get("reason"))),
        });
        let excerpt = &answer.body[..answer.body.len().min(512)];
        Self {
            status: answer.status,
            code: text(error.get("code")).unwrap_or_else(|| Printable::new(code_of_none(answer.status))),
            message: text(error.get("message")).unwrap_or_else(|| Printable::from_bytes(excerpt)),
            cause: cause.or_else(|| text(error.get("causeMessage"))),
        }
    }
}

/// A path without a handler is answered by the controller's library, with a bare string: 1.6 does so for tokens of providers.
fn code_of_none(status: u16) -> &'static str {
    if status == 501 { "NOT_IMPLEMENTED" } else { NO_CODE }
}

/// What an answer to the enrollment request says about the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200, arrived whole: the token is spent, the certificate is in the body.
    Accepted,
    /// A definite no: the token is intact, and the same request will be refused again.
    Refused(Refusal),
    /// The token is not valid there. On the very first request that is definite; after one of our own it means that
    /// that one succeeded and its answer was lost.
    Gone(Refusal),
    /// Not reached, or not now: the token is intact.
    Retry(Box<Failure>),
    /// Nobody can tell whether the token is spent: the same bytes may be sent again.
    Unknown(Box<Failure>),
}

/// Why there is no definite answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub why: String,
    /// The controller's wish.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// Reads an answer, or the lack of one.
    pub fn of(result: &Result<Answer, HttpError>) -> Self {
        let failure = |why: String, retry_after| Box::new(Failure { why, retry_after });
        let answer = match result {
            Err(error) if error.sent => return Self::Unknown(failure(error.to_string(), None)),
            Err(error) => return Self::Retry(failure(error.to_string(), None)),
            Ok(answer) => answer,
        };
        if answer.status == 200 {
            return Self::Accepted;
        }
        let refusal = Refusal::of(answer);
        let wait = answer.retry_after;
        match (answer.status, refusal.code.as_str()) {
            _ if Self::is_gone(&refusal) => Self::Gone(refusal),
            (503, "CLUSTER_NO_LEADER") => Self::Retry(failure(refusal.to_string(), wait)),
            // Usually a full queue; in a cluster also a forward to the leader that nobody waited for.
            (429, _) => Self::Unknown(failure(refusal.to_string(), wait)),
            // 6xx: the controller copies the codes of its validation library.
            // 501: there is nobody who could have done anything.
            (400..=499 | 501 | 600..=699, _) => Self::Refused(refusal),
            _ => Self::Unknown(failure(refusal.to_string(), wait)),
        }
    }
}

impl Outcome {
    /// Whether a refusal is about the token of an identity provider: out of date, or of a provider that is not taken. It
    /// says nothing about requests before.
    pub fn is_about_idp_token(refusal: &Refusal) -> bool {
        refusal.code.as_str() == "INVALID_ENROLLMENT_TOKEN"
    }

    /// Whether a refusal says that the token is not there, or not there any more.
    pub fn is_gone(refusal: &Refusal) -> bool {
        let gone = [
            "INVALID_ENROLLMENT_TOKEN",
            "NOT_FOUND",
            "INVALID_ENROLLMENT_ALREADY_ENROLLED",
            "ENROLLMENT_IDENTITY_ALREADY_ENROLLED",
        ];
        gone.contains(&refusal.code.as_str())
    }

    /// Whether a refusal says that an identity has this very certificate already.
    pub fn is_in_use(refusal: &Refusal) -> bool {
        refusal.code.as_str() == "CERT_IN_USE"
    }
}

impl Answer {
    /// In place of an answer that was lost, where a login has shown that the enrollment was done.
    pub fn settled() -> Self {
        Self { status: 200, content_type: None, retry_after: None, session: None, body: br#"{"data":{},"meta":{}}"#.to_vec() }
    }

    /// `data` of a successful envelope.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, ControllerError> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        if !(200..300).contains(&self.status) {
            return Err(Refusal::of(self).into());
        }
        let envelope: Result<Envelope<T>, _> = serde_json::from_slice(&self.body);
        envelope.map(|e| e.data).map_err(|_| ControllerError::Form("it is not the JSON that the API promises"))
    }

    /// For the answer to an enrollment.
    ///
    /// # Errors
    /// In words, what it is instead.
    pub fn issued(&self) -> Result<Issued, &'static str> {
        // Controllers up to 1.4 answer with bare PEM where they do not like our `accept`.
        if self.body.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Ok(Issued { cert: self.body.clone(), apis: Vec::new() });
        }
        #[derive(Deserialize)]
        struct Envelope {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            cert: Option<String>,
        }
        let envelope: Envelope = serde_json::from_slice(&self.body).map_err(|_| "it is neither JSON nor PEM")?;
        let cert = envelope.data.cert.filter(|c| !c.is_empty()).ok_or("it holds no certificate")?;
        Ok(Issued { cert: cert.into_bytes(), apis: self.apis() })
    }

    /// The name that an identity logs in with, where the answer to an enrollment with a password says so (from 1.5.1).
    pub fn username(&self) -> Option<Printable> {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json.pointer("/data/username").and_then(Value::as_str).map(Printable::new)
    }

    /// The client APIs of all controllers of the network, where the answer to an enrollment says so (from 2.1).
    pub fn apis(&self) -> Vec<String> {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json.pointer("/data/controllers").and_then(Value::as_array).into_iter().flatten().flat_map(client_apis).collect()
    }
}

fn client_apis(controller: &Value) -> Vec<String> {
    let apis = controller.pointer("/apiAddresses/edge-client").and_then(Value::as_array);
    let v1 = apis.into_iter().flatten().filter(|api| api.get("version").and_then(Value::as_str) == Some("v1"));
    v1.filter_map(|api| api.get("url").and_then(Value::as_str)).map(str::to_owned).collect()
}

/// What an accepted enrollment gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM, leaf first, without the root.
    pub cert: Vec<u8>,
    /// The client APIs of all controllers of the network, where it said so (from 2.1).
    pub apis: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpErrorKind;

    fn answer(status: u16, body: &str) -> Result<Answer, HttpError> {
        Ok(Answer { status, content_type: None, retry_after: None, session: None, body: body.as_bytes().to_vec() })
    }

    fn refused(status: u16, code: &str) -> Outcome {
        Outcome::of(&answer(
            status,
            &format!(r#"{{"error":{{"code":"{code}","message":"m","cause":{{"message":"c"}}}},"meta":{{}}}}"#),
        ))
    }

    #[test]
    fn only_a_definite_no_is_a_refusal() {
        for (status, code) in
            [(400, "COULD_NOT_PROCESS_CSR"), (400, "ENROLLMENT_EXPIRED"), (415, "UNSUPPORTED_MEDIA"), (602, "COULD_NOT_VALIDATE")]
        {
            assert!(matches!(refused(status, code), Outcome::Refused(_)), "{code}");
        }
        for (status, code) in
            [(400, "INVALID_ENROLLMENT_TOKEN"), (404, "NOT_FOUND"), (410, "INVALID_ENROLLMENT_ALREADY_ENROLLED")]
        {
            assert!(matches!(refused(status, code), Outcome::Gone(_)), "{code}");
        }
        for (status, code) in [(500, "UNHANDLED"), (503, "TIMEOUT"), (429, "SERVER_TOO_MANY_REQUESTS")] {
            assert!(matches!(refused(status, code), Outcome::Unknown(_)), "{code}");
        }
        assert!(matches!(refused(503, "CLUSTER_NO_LEADER"), Outcome::Retry(_)));
        assert!(matches!(Outcome::of(&answer(500, "")), Outcome::Unknown(_)));
        assert!(matches!(Outcome::of(&answer(206, "")), Outcome::Unknown(_)));
        assert!(matches!(Outcome::of(&answer(501, "\"not yet implemented\"")), Outcome::Refused(_)));
    }

    #[test]
    fn a_lost_connection_is_unknown_only_after_the_first_byte() {
        let lost = |sent| Outcome::of(&Err(HttpError { kind: HttpErrorKind::Closed, sent }));
        assert!(matches!(lost(true), Outcome::Unknown(_)));
        assert!(matches!(lost(false), Outcome::Retry(_)));
    }

    #[test]
    fn reads_every_shape_of_an_error() {
        let read = |status, body: &str| Refusal::of(&answer(status, body).unwrap()).to_string();
        assert_eq!(
            read(400, r#"{"error":{"code":"A","message":"b","cause":{"code":"UNHANDLED","message":"c"}}}"#),
            "A (status 400): b: c"
        );
        assert_eq!(read(413, r#"{"code":"A","message":"b","cause":null}"#), "A (status 413): b");
        assert_eq!(read(400, r#"{"error":{"code":"A","message":"b","causeMessage":"c"}}"#), "A (status 400): b: c");
        assert_eq!(
            read(400, r#"{"error":{"code":"A","message":"b","cause":{"field":"f","reason":"r"}}}"#),
            "A (status 400): b: r"
        );
        assert_eq!(read(501, "\"not yet implemented\"\n"), "NOT_IMPLEMENTED (status 501): \"not yet implemented\"\\u{a}");
        assert_eq!(read(500, ""), "status 500 without an error code");
        assert_eq!(read(502, "<html>\u{1b}"), "status 502 without an error code: <html>\\u{1b}");
    }

    #[test]
    fn reads_certificate_and_addresses() {
        let body = r#"{"data":{"cert":"PEM","controllers":[{"apiAddresses":{"edge-client":[{"url":"https://a/edge/client/v1","version":"v1"},{"url":"x","version":"v2"}]}}]},"meta":{}}"#;
        let issued = answer(200, body).unwrap().issued().unwrap();
        assert_eq!(issued, Issued { cert: b"PEM".to_vec(), apis: vec!["https://a/edge/client/v1".into()] });
        assert!(answer(200, r#"{"data":{}}"#).unwrap().issued().is_err());
        assert!(answer(200, "<html>").unwrap().issued().is_err());
    }
}
