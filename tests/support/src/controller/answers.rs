//! Answers and their envelopes (enrollment-protocol.md §2.8, §9).

use serde_json::{Value, json};

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Stays open for the next request.
    Open,
    /// `Connection: close`, then closed.
    CloseSaid,
    /// Closed after the whole answer, without a word.
    CloseUnsaid,
    /// Closed after so many bytes of the answer.
    Cut(usize),
    /// Closed without an answer.
    Drop,
    /// No answer; the connection stays until the client or the controller ends.
    Hold,
}

/// One answer, before it is bytes.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) ending: Ending,
    pub(crate) overstated: bool,
    /// Go's server knows no length of a longer body that a handler wrote piece by piece.
    pub(crate) chunked: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = if content_type.is_empty() { Vec::new() } else { vec![("Content-Type".into(), content_type.into())] };
        Self { status, headers, body: body.into(), ending: Ending::Open, overstated: false, chunked: false }
    }

    /// 200 with `{"data":…,"meta":{}}`.
    pub(crate) fn data(data: &Value) -> Self {
        Self::new(200, "application/json", json!({"data": data, "meta": {}}).to_string())
    }

    /// The error envelope with the code's own status and sentence.
    pub(crate) fn error(code: &str) -> Self {
        Self::refusal(code, status_of(code), None)
    }

    /// The same with a cause of its own.
    pub(crate) fn error_with(code: &str, cause: Value) -> Self {
        Self::refusal(code, status_of(code), Some(cause))
    }

    /// The same with the text of an error below, as Go-level errors are wrapped.
    pub(crate) fn error_because(code: &str, cause: &str) -> Self {
        let cause = json!({"code": "UNHANDLED", "message": cause});
        Self::refusal(code, status_of(code), Some(cause))
    }

    /// What go-openapi finds wrong before any handler is asked; the status is its own, 602 and 606 among them.
    pub(crate) fn invalid(status: u16, field: &str, reason: &str, value: &str) -> Self {
        let cause = json!({"field": field, "reason": reason, "value": value});
        Self::refusal("COULD_NOT_VALIDATE", status, Some(cause))
    }

    /// 415 of the same, with the types that would have been taken.
    pub(crate) fn wrong_type(sent: Option<&str>, taken: &str) -> Self {
        let sent = sent.unwrap_or("application/octet-stream"); // what go-openapi makes of none
        Self::invalid(415, "Content-Type", &format!("unsupported media type \"{sent}\", only [{taken}] are allowed"), sent)
    }

    /// Any code with any status.
    pub(crate) fn refusal(code: &str, status: u16, cause: Option<Value>) -> Self {
        let mut error = json!({"code": code, "message": sentence(code), "requestId": request_id()});
        if let Some(cause) = cause {
            error["cause"] = cause;
        }
        let meta = json!({"apiEnrollmentVersion": "0.0.1", "apiVersion": "0.0.1"});
        Self::new(status, "application/json", json!({"error": error, "meta": meta}).to_string())
    }

    /// 413 and its like come without an envelope.
    pub(crate) fn bare(code: &str) -> Self {
        let body = json!({"code": code, "message": sentence(code), "cause": null});
        Self::new(status_of(code), "application/json", body.to_string())
    }

    /// A web page, as captive portals and balancers send.
    pub(crate) fn html() -> Self {
        Self::new(200, "text/html; charset=utf-8", "<!doctype html><html><title>Sign in</title><body>Welcome.</body></html>")
    }

    pub(crate) fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// No bytes at all; only the ending counts.
    pub(crate) fn none(ending: Ending) -> Self {
        Self::new(0, "", "").ending(ending)
    }
}

fn request_id() -> String {
    super::store::short_id()
}

/// The status that controllers answer a code with.
fn status_of(code: &str) -> u16 {
    match code {
        "UNAUTHORIZED" | "INVALID_AUTH" => 401,
        "NOT_FOUND" => 404,
        "METHOD_NOT_ALLOWED" => 405,
        "CERT_IN_USE"
        | "ENROLLMENT_IDENTITY_ALREADY_ENROLLED"
        | "INVALID_ENROLLMENT_NOT_ALLOWED"
        | "CAN_NOT_UPDATE_AUTHENTICATOR" => 409,
        "INVALID_ENROLLMENT_ALREADY_ENROLLED" => 410,
        "REQUEST_ENTITY_TOO_LARGE" => 413,
        "UNSUPPORTED_MEDIA" => 415,
        "SERVER_TOO_MANY_REQUESTS" | "RATE_LIMITED" => 429,
        "UNHANDLED" => 500,
        "CLUSTER_NO_LEADER" | "TIMEOUT" => 503,
        _ => 400,
    }
}

fn sentence(code: &str) -> &'static str {
    match code {
        "INVALID_ENROLLMENT_TOKEN" => "The supplied token is not valid",
        "ENROLLMENT_EXPIRED" => "The enrollment has expired",
        "INVALID_ENROLL_METHOD" => "The supplied enrollment method is not valid",
        "CERT_IN_USE" => "The certificate supplied is already associated with another identity",
        "CERT_FAILED_VALIDATION" => "certificate failed to validate against CA",
        "CERTIFICATE_FAILED_VALIDATION" => "The supplied certificate failed to validate against the CA's certificate chain",
        "ENROLLMENT_CA_NOT_VALID" => "The CA tied to the supplied token is no longer valid",
        "ENROLLMENT_NO_VALID_CAS" => "No CAs are valid for this request",
        "COULD_NOT_PROCESS_CSR" => "The supplied csr could not be processed",
        "MISSING_OR_INVALID_CSR" => "The supplied enrollment request is missing or contains an invalid CSR",
        "MISSING_CERT_CLAIM" => "The certificate is expected to contain and externalId, which was not found",
        "INVALID_ENROLLMENT_NOT_ALLOWED" => "The configuration does not allow this enrollment",
        "INVALID_ENROLLMENT_ALREADY_ENROLLED" => "The token provided has already been used to enroll",
        "ENROLLMENT_IDENTITY_ALREADY_ENROLLED" => {
            "The token supplied for this enrollment already has a matching identity, cannot enroll a new identity"
        }
        "INVALID_CONTENT_TYPE" => "The content type supplied is not acceptable",
        "COULD_NOT_PARSE_BODY" => "The body of the request could not be parsed",
        "COULD_NOT_VALIDATE" => {
            "The supplied request contains an invalid document or no valid accept content were available, see cause"
        }
        "INVALID_AUTH" => "The authentication request failed",
        "UNAUTHORIZED" => "The request could not be completed. The session is not authorized or the credentials are invalid",
        "NOT_FOUND" => "The resource requested was not found or is no longer available",
        "METHOD_NOT_ALLOWED" => "The resource requested does not support this HTTP verb",
        "REQUEST_ENTITY_TOO_LARGE" => "The request body exceeds the maximum accepted size",
        "UNSUPPORTED_MEDIA" => "No suitable accept media types were detected, supports: application/json",
        "SERVER_TOO_MANY_REQUESTS" => {
            "Too many requests to alter state have been issued. Please slow your request rate or try again later."
        }
        "CLUSTER_NO_LEADER" => "The cluster has no leader to process this request",
        "TIMEOUT" => "The request could not be served within the time allowed",
        "CAN_NOT_UPDATE_AUTHENTICATOR" => "The authenticator cannot be updated in this fashion",
        "INVALID_CLIENT_CERT" => "The provided client certificate is invalid",
        "UNHANDLED" => "An unhandled error occurred",
        _ => "The request was refused",
    }
}
