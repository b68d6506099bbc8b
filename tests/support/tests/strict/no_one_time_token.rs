//! Passwords, tokens of identity providers, and the list of these, as 2.0.3 answers (run).

use crate::client::Conversation;
use serde_json::{Value, json};
use ziti_enroller_support::{Controller, IdentityProvider, Key, KeyType, Like, Options, Password};

fn start() -> Controller {
    Controller::start(Options::default())
}

fn head(path: &str, more: &str) -> String {
    format!("POST /edge/client/v1{path} HTTP/1.1\nAccept: application/json\nContent-Type: application/json\n{more}")
}

/// A request for a certificate, as JSON has it.
fn body() -> String {
    let key = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(key.path(), Key::generate(KeyType::P256).pkcs8_pem()).expect("writable");
    let openssl = ziti_enroller_support::Program::new(ziti_enroller_support::require("openssl", "openssl"));
    let csr = openssl.args(["req", "-new", "-subj", "/CN=x", "-key"]).arg(key.path()).run().success().stdout;
    json!({"clientCsr": csr}).to_string()
}

#[test]
fn sets_a_password_once() {
    let controller = start();
    let token = controller.password_token("gate-7");
    let path = format!("/enroll?method=updb&token={}", token.jti());
    let mut talk = Conversation::with(&controller);
    for (body, status, code) in [
        (r#"{"password":"abc"}"#.to_owned(), 400, "COULD_NOT_VALIDATE"),
        (json!({"password": "x".repeat(101)}).to_string(), 400, "COULD_NOT_VALIDATE"),
        (r#"{"password":""}"#.to_owned(), 500, "UNHANDLED"),
        ("[]".to_owned(), 400, "COULD_NOT_PARSE_BODY"),
    ] {
        let answer = talk.ask(&head(&path, ""), &body).expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
        assert!(controller.passwords().is_empty() && !controller.violations().is_empty());
    }
    let before = controller.violations().len();
    let wrong = talk.ask(&head("/enroll?method=updb&token=nobody", ""), r#"{"password":"hush hush"}"#).expect("an answer");
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "INVALID_ENROLLMENT_TOKEN"));
    let set = talk.ask(&head(&path, ""), r#"{"password":"hush hush"}"#).expect("an answer");
    assert_eq!((set.status, &set.json()["data"]["username"]), (200, &json!("gate-7")));
    let again = talk.ask(&head(&path, ""), r#"{"password":"hush hush"}"#).expect("an answer");
    assert_eq!(again.code(), "INVALID_ENROLLMENT_TOKEN");
    let expected = Password { identity_id: token.sub().into(), username: "gate-7".into(), password: "hush hush".into() };
    assert_eq!(controller.passwords(), [expected]);
    let ott = controller.issue("gate-8");
    let other = format!("/enroll?method=updb&token={}", ott.jti());
    assert_eq!(talk.ask(&head(&other, ""), r#"{"password":"hush hush"}"#).expect("an answer").code(), "INVALID_ENROLL_METHOD");
    assert!(controller.violations().len() > before);
}

#[test]
fn takes_only_tokens_of_its_providers() {
    let controller = start();
    let mut provider = IdentityProvider::new("idp");
    controller.trust_provider(&provider);
    let mut talk = Conversation::with(&controller);
    let mut ask = |token: &str, more: &str| {
        let authorization = format!("Authorization: Bearer {token}\n{more}");
        let answer = talk.ask(&head("/enroll/token", &authorization), &body()).expect("an answer");
        (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
    };
    let without = Conversation::with(&controller).ask(&head("/enroll/token", ""), &body()).expect("an answer");
    assert_eq!((without.status, without.code().as_str()), (602, "COULD_NOT_VALIDATE"));
    let invalid = (400, "INVALID_ENROLLMENT_TOKEN".to_owned());
    let with = |name: &str, value: Value| {
        let mut claims = provider.claims("gate-7");
        claims.insert(name.into(), value);
        provider.sign(&claims)
    };
    for token in [
        with("aud", json!("others")),
        with("exp", json!(1_000_000_000)),
        with("iss", json!("https://elsewhere.example/")),
        with("sub", json!("")),
        // The same issuer, and another key.
        IdentityProvider::new("idp").token("gate-7"),
        "opaque".to_owned(),
    ] {
        assert_eq!(ask(&token, ""), invalid, "{token}");
    }
    let token = provider.token("gate-7");
    assert_eq!(ask(&token, "ziti-token-issuer-id: nobody"), invalid);
    assert_eq!(ask(&token, &format!("ziti-token-issuer-id: {}", provider.id)), (200, String::new()));
    assert_eq!(ask(&token, ""), (409, "ENROLLMENT_IDENTITY_ALREADY_ENROLLED".into()));
    assert_eq!(controller.authenticators().len(), 1);

    // An old key of it is still good, as long as it is listed.
    let old = provider.token("gate-8");
    provider.renew_key();
    controller.trust_provider(&provider);
    assert_eq!(ask(&old, ""), (200, String::new()));
    assert_eq!(ask(&provider.token("gate-9"), ""), (200, String::new()));
    provider.enroll_to_cert = false;
    controller.trust_provider(&provider);
    assert_eq!(ask(&provider.token("gate-10"), ""), (409, "INVALID_ENROLLMENT_NOT_ALLOWED".into()));
    provider.enabled = false;
    controller.trust_provider(&provider);
    assert_eq!(ask(&provider.token("gate-10"), ""), invalid);
}

#[test]
fn answers_with_chain_and_ca_certificates() {
    let controller = start();
    let provider = IdentityProvider::new("idp");
    controller.trust_provider(&provider);
    let authorization = format!("Authorization: Bearer {}", provider.token("gate-7"));
    let answer = Conversation::with(&controller).ask(&head("/enroll/token", &authorization), &body()).expect("an answer");
    let data = &answer.json()["data"];
    let count = |name: &str| data[name].as_str().expect("PEM").matches("BEGIN CERTIFICATE").count();
    assert_eq!((count("cert"), count("ca")), (2, 2));
    assert!(data["ca"].as_str().is_some_and(|ca| ca.starts_with('\n')));
    assert_eq!(controller.violations(), [""; 0]);
    assert!(!controller.report().to_string().contains(&provider.token("gate-7")), "the report is no place for tokens");
}

#[test]
fn lists_ten_at_a_time_to_everybody() {
    let controller = start();
    for number in 0..12 {
        controller.trust_provider(&IdentityProvider::new(&format!("idp-{number}")));
    }
    let mut talk = Conversation::with(&controller);
    let mut ask = |query: &str| {
        let answer = talk.ask(&format!("GET /edge/client/v1/external-jwt-signers{query} HTTP/1.1\nAccept: application/json"), "");
        answer.expect("an answer").json()
    };
    let first = ask("");
    assert_eq!((first["data"].as_array().map(Vec::len), &first["meta"]["pagination"]["totalCount"]), (Some(10), &json!(12)));
    assert_eq!(first["data"][0]["enrollToCertEnabled"], true);
    assert!(first["data"][0].get("enrollToTokenEnabled").is_none(), "what is false is left out");
    assert_eq!(ask("?limit=50&offset=10")["data"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_older_one_has_no_tokens_of_providers() {
    let controller = Controller::start(Options { like: Like::V1_4, ..Options::default() });
    let authorization = format!("Authorization: Bearer {}", IdentityProvider::new("idp").token("gate-7"));
    let answer = Conversation::with(&controller).ask(&head("/enroll/token", &authorization), &body()).expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (404, "NOT_FOUND"));
}
