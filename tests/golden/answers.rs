//! Section 2.8 of `enrollment-protocol.md`, with section 2.1 of `reliability.md` where they differ: every error code that a
//! controller answers an enrollment with has a golden run, which ends as they say.

use std::fs;

use serde_json::Value;
use ziti_enroller_support::figures;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// 31: a definite no to what was sent; the token is kept.
    Refused,
    /// 32: it never was one there, or somebody else has used it.
    Gone,
    /// 30: not now; the token is kept.
    NotNow,
    /// 33: nobody can tell.
    Unknown,
}

/// Status, code, end. `NO_CODE`: nothing in the answer is one.
const TABLE: &[(u16, &str, End)] = &[
    (400, "INVALID_ENROLLMENT_TOKEN", End::Gone),
    (400, "ENROLLMENT_EXPIRED", End::Refused),
    (400, "INVALID_ENROLL_METHOD", End::Refused),
    (400, "COULD_NOT_PROCESS_CSR", End::Refused),
    (400, "MISSING_OR_INVALID_CSR", End::Refused),
    (400, "CERTIFICATE_FAILED_VALIDATION", End::Refused),
    (400, "CERT_FAILED_VALIDATION", End::Refused),
    (409, "CERT_IN_USE", End::Refused),
    (400, "ENROLLMENT_CA_NOT_VALID", End::Refused),
    (400, "ENROLLMENT_NO_VALID_CAS", End::Refused),
    (400, "MISSING_CERT_CLAIM", End::Refused),
    (409, "INVALID_ENROLLMENT_NOT_ALLOWED", End::Refused),
    (409, "ENROLLMENT_IDENTITY_ALREADY_ENROLLED", End::Gone),
    (410, "INVALID_ENROLLMENT_ALREADY_ENROLLED", End::Gone),
    (404, "NOT_FOUND", End::Gone),
    (400, "COULD_NOT_PARSE_BODY", End::Refused),
    (400, "INVALID_CONTENT_TYPE", End::Refused),
    (400, "INVALID_FIELD", End::Refused),
    (400, "COULD_NOT_VALIDATE", End::Refused),
    (601, "COULD_NOT_VALIDATE", End::Refused),
    (602, "COULD_NOT_VALIDATE", End::Refused),
    (401, "UNAUTHORIZED", End::Refused),
    (413, "REQUEST_ENTITY_TOO_LARGE", End::Refused),
    (415, "UNSUPPORTED_MEDIA", End::Refused),
    (429, "SERVER_TOO_MANY_REQUESTS", End::Unknown),
    (429, "RATE_LIMITED", End::Unknown),
    // Of a path that has no handler there (run, 1.6.20).
    (501, "NOT_IMPLEMENTED", End::Refused),
    (503, "CLUSTER_NO_LEADER", End::NotNow),
    (503, "TIMEOUT", End::Unknown),
    (500, "UNHANDLED", End::Unknown),
    (500, "NO_CODE", End::Unknown),
];

impl End {
    /// Exit code, `error.code`, `token_spent`.
    fn promise(self, code: &str) -> (i64, String, &'static str) {
        match self {
            Self::Refused => (31, format!("refused_{}", code.to_lowercase()), "no"),
            Self::Gone => (32, "token_gone".into(), "yes"),
            Self::NotNow => (30, "unreachable".into(), "no"),
            Self::Unknown => (33, "outcome_unknown".into(), "unknown"),
        }
    }

    /// Codes for which there is nothing that the person here can do: without a hint.
    fn may_be_without_a_hint(code: &str) -> bool {
        ["COULD_NOT_PARSE_BODY", "INVALID_CONTENT_TYPE", "INVALID_FIELD", "COULD_NOT_VALIDATE", "UNSUPPORTED_MEDIA"]
            .contains(&code)
    }
}

/// The reports of all golden runs in which an enrollment failed, with their names.
fn reports() -> Vec<(String, Value)> {
    let files = fs::read_dir(super::folder()).expect("tests/cmd can be listed");
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).expect("a golden file can be read");
        let is_of_an_enrollment =
            [" enroll ", " resume "].iter().any(|command| text.split("\n--- ").next().is_some_and(|l| l.contains(command)));
        if !is_of_an_enrollment {
            return None;
        }
        let json = text.split("--- --format json\n").nth(1)?.split("\n--- ").next()?;
        let mut report: Value = serde_json::from_str(json).ok()?;
        let error = report.get_mut("error")?.take();
        Some((path.file_stem()?.to_string_lossy().into_owned(), error))
    };
    files.filter_map(|file| read(file.expect("a file").path())).collect()
}

/// Whether message or causes name this answer of the controller.
fn tells_of(error: &Value, status: u16, code: &str) -> bool {
    let words = match code {
        "NO_CODE" => format!("status {status} without an error code"),
        code => format!("{code} (status {status})"),
    };
    let causes = error["causes"].as_array().into_iter().flatten();
    causes.chain([&error["message"]]).filter_map(Value::as_str).any(|text| text.contains(&words))
}

#[test]
fn every_error_code_of_the_protocol_has_a_case() {
    let reports = reports();
    let mut wrong = Vec::new();
    let mut reached = 0;
    for (status, code, end) in TABLE {
        let (exit, name, spent) = end.promise(code);
        // After a request of our own "no such token" is another matter; so is an answer that a repeat has overtaken.
        let of_a_first = |error: &Value| error["exit"] == exit && error["code"] == name && error["token_spent"] == spent;
        let cases: Vec<&(String, Value)> = reports.iter().filter(|(_, error)| tells_of(error, *status, code)).collect();
        match cases.iter().find(|(_, error)| of_a_first(error)) {
            None => wrong.push(format!("{status} {code}: no run ends with {exit} {name} {spent}, of {cases:?}")),
            Some((run, error)) if error["hint"].is_null() && !End::may_be_without_a_hint(code) => {
                wrong.push(format!("{status} {code}: {run} does not say what to do"));
            }
            Some(_) => reached += 1,
        }
        for (run, error) in cases.iter().filter(|(_, error)| !of_a_first(error)) {
            let overtaken = *end == End::Gone && error["code"] == "answer_lost";
            // 404 also says that there is no such path.
            if !overtaken && error["code"] != "refused_not_found" {
                wrong.push(format!("{status} {code}: {run} ends with {} {}", error["exit"], error["code"]));
            }
        }
    }
    figures::record("error codes of section 2.8 with a case", TABLE.len(), reached, "0");
    assert!(super::is_updating() || wrong.is_empty(), "{}", wrong.join("\n"));
}
