use crate::client::{Conversation, curl, enrolled, openssl};
use std::fs;
use std::path::Path;
use ziti_enroller_support::{Controller, Key, KeyType, Like, Options, Program, Tls, Token, require, second_opinion};

fn start() -> Controller {
    Controller::start(Options::default())
}

fn folder_with_csr(controller: &Controller, token: &Token) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("ca.pem"), controller.ca_pem()).expect("writable");
    let subject = format!("/CN={}", token.sub());
    let openssl = require("openssl", "openssl");
    let request = Program::new(openssl).current_dir(folder.path());
    let words = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out csr.pem -subj";
    request.args(words.split(' ')).arg(subject).run().success();
    folder
}

fn post(controller: &Controller, folder: &Path, token: &Token) -> (serde_json::Value, String) {
    let url = format!("{}/edge/client/v1/enroll?method=ott&token={}", controller.url(), token.jti());
    let headers = ["-H", "Content-Type: application/x-pem-file", "-H", "Accept: application/json"];
    let answer = curl(folder).args(headers).args(["--data-binary", "@csr.pem", &url]).run().success().stdout;
    let (body, status) = answer.rsplit_once('\n').expect("a status");
    (serde_json::from_str(body).expect("JSON"), status.to_owned())
}

#[test]
fn certifies_a_request_of_openssl_by_curl_once() {
    let controller = start();
    let token = controller.issue("gate-7");
    let folder = folder_with_csr(&controller, &token);
    let (answer, status) = post(&controller, folder.path(), &token);
    assert_eq!(status, "200", "{answer}");
    assert_eq!(answer["data"]["controllers"][0]["apiAddresses"]["edge-client"][0]["version"], "v1");

    let chain = answer["data"]["cert"].as_str().expect("a certificate");
    assert_eq!(chain.matches("-----BEGIN CERTIFICATE-----").count(), 2, "leaf and intermediate, no root");
    assert!(chain.ends_with("-----END CERTIFICATE-----\n"));
    fs::write(folder.path().join("cert.pem"), chain).expect("writable");
    openssl(folder.path(), "verify -CAfile ca.pem -purpose sslclient cert.pem").success();
    let text = openssl(folder.path(), "x509 -in cert.pem -noout -text").success().stdout;
    let spiffe = format!("URI:spiffe://{}/identity/{}", controller.network().trust_domain, token.sub());
    for part in ["TLS Web Client Authentication", "Digital Signature, Key Encipherment, Data Encipherment", &spiffe] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    assert!(!text.contains("Basic Constraints"), "{text}");

    let (again, status) = post(&controller, folder.path(), &token);
    assert_eq!((again["error"]["code"].as_str(), &*status), (Some("INVALID_ENROLLMENT_TOKEN"), "400"));
    assert!(controller.is_spent(&token));
    assert_eq!(controller.authenticators().len(), 1);
    assert_eq!(controller.authenticators()[0].cert_pem, chain);
    assert_eq!(controller.enroll_posts(), 2);
    assert_eq!(controller.violations(), [""; 0]);
    assert!(!controller.report().to_string().contains(token.jti()), "the report is no place for tokens");
}

#[test]
fn refuses_a_byte_after_the_request_and_keeps_the_token() {
    let controller = start();
    let token = controller.issue("gate-7");
    let csr = Key::generate(KeyType::P256).csr_pem(token.sub());
    let answer = Conversation::with(&controller).enroll(&token, &format!("{csr}\n")).expect("an answer");
    assert_eq!((answer.status, answer.code()), (400, "COULD_NOT_PROCESS_CSR".into()));
    assert_eq!(answer.json()["error"]["cause"]["message"], "unexpected PEM blocks at end of CSR");
    assert_eq!(controller.violations().len(), 1);
    let answer = Conversation::with(&controller).enroll(&token, csr.trim_end()).expect("an answer");
    assert_eq!(answer.status, 200, "no newline at the end is fine: {}", answer.body);
}

#[test]
fn refuses_a_request_that_another_key_signed() {
    let controller = start();
    let token = controller.issue("gate-7");
    let folder = folder_with_csr(&controller, &token);
    let words = "req -in csr.pem -outform DER -out csr.der";
    openssl(folder.path(), words).success();
    let mut der = fs::read(folder.path().join("csr.der")).expect("DER");
    let last = der.len() - 1;
    der[last] ^= 1;
    let csr = ziti_enroller_support::pem("CERTIFICATE REQUEST", &der);
    let answer = Conversation::with(&controller).enroll(&token, &csr).expect("an answer");
    let cause = answer.json()["error"]["cause"]["message"].as_str().expect("a cause").to_owned();
    assert!(answer.status == 400 && cause.starts_with("CSR signature validation failed: x509:"), "{cause}");
    assert!(!controller.is_spent(&token));
}

#[test]
fn takes_every_key_and_signature_that_go_takes() {
    let controller = start();
    let kinds = [
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256", "-sha256"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-384", "-sha384"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-521", "-sha512"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-384", "-sha256"),
        ("-newkey rsa:2048", "-sha256"),
        ("-newkey rsa:2048", "-sha384"),
        ("-newkey rsa:2048", "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"),
        ("-newkey rsa:2048", "-sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"),
        ("-newkey ed25519", ""),
    ];
    for (key, hash) in kinds {
        let token = controller.issue("gate-7");
        let folder = folder_with_csr(&controller, &token);
        openssl(folder.path(), &format!("req -new {key} -nodes -keyout key.pem -out csr.pem -subj /CN=x {hash}")).success();
        let (answer, status) = post(&controller, folder.path(), &token);
        assert_eq!(status, "200", "{key} {hash}: {answer}");
        openssl(folder.path(), "pkey -in key.pem -pubout -outform DER -out key.der").success();
        let spki = fs::read(folder.path().join("key.der")).expect("DER");
        assert!(controller.authenticators().last().expect("one").spki_der == spki, "{key}: another public key");
    }
    for hash in ["-sha1", "-sha224", "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20"] {
        let token = controller.issue("gate-7");
        let folder = folder_with_csr(&controller, &token);
        openssl(folder.path(), &format!("req -new -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=x {hash}"))
            .success();
        let (answer, status) = post(&controller, folder.path(), &token);
        assert_eq!((answer["error"]["code"].as_str(), &*status), (Some("COULD_NOT_PROCESS_CSR"), "400"), "{hash}");
    }
}

#[test]
fn keeps_of_the_subject_what_go_has_names_for() {
    let controller = start();
    let token = controller.issue("gate-7");
    let folder = folder_with_csr(&controller, &token);
    let subject = "/DC=example/O=OpenZiti/CN=W4kErfsB6a/emailAddress=a@b.c/C=US/L=l/ST=s";
    openssl(folder.path(), &format!("req -new -key key.pem -out csr.pem -subj {subject}")).success();
    let (answer, status) = post(&controller, folder.path(), &token);
    assert_eq!(status, "200", "{answer}");
    fs::write(folder.path().join("cert.pem"), answer["data"]["cert"].as_str().expect("PEM")).expect("writable");
    let shown = openssl(folder.path(), "x509 -in cert.pem -noout -subject").success().stdout;
    assert_eq!(shown.trim(), "subject=C = US, ST = s, L = l, O = OpenZiti, CN = W4kErfsB6a");
}

#[test]
fn answers_as_1_4_does() {
    let controller = Controller::start(Options { like: Like::V1_4, ..Options::default() });
    let (_, _, chain) = enrolled(&controller, "gate-7");
    assert_eq!(chain.matches("BEGIN").count(), 2);
    let claims = second_opinion(controller.issue("x").compact(), &controller.server_leaf()).expect("a good token");
    assert!(claims["ctrls"].is_null());

    for accept in ["", "\nAccept: application/json, */*"] {
        let token = controller.issue("gate-8");
        let head = format!("POST /enroll?token={} HTTP/1.1\nContent-Type: text/plain{accept}", token.jti());
        let csr = Key::generate(KeyType::P256).csr_pem("x");
        let answer = Conversation::with(&controller).ask(&head, &csr).expect("an answer");
        assert!(answer.head.contains("Content-Type: application/x-pem-file"), "{}", answer.head);
        assert_eq!(answer.body.matches("BEGIN").count(), 1, "the leaf alone");
    }
    let token = controller.issue("gate-9");
    for content_type in ["application/json", "Application/X-Pem-File", "application/pkcs7"] {
        let head = format!("POST /edge/v1/enroll?token={} HTTP/1.1\nContent-Type: {content_type}", token.jti());
        let answer = Conversation::with(&controller).ask(&head, "x").expect("an answer");
        assert_eq!((answer.status, answer.code()), (400, "INVALID_CONTENT_TYPE".into()));
    }
    let other = format!("POST /edge/client/v1/enroll?method=ottca&token={} HTTP/1.1\nContent-Type: text/plain", token.jti());
    let csr = Key::generate(KeyType::P256).csr_pem("x");
    assert_eq!(Conversation::with(&controller).ask(&other, &csr).expect("an answer").status, 200, "the mismatch is ignored");
}

#[test]
fn answers_as_2_1_does() {
    let controller = start();
    let token = controller.issue("gate-7");
    let mut talk = Conversation::with(&controller);
    let mut enroll = |query: &str, headers: &str, body: &str| {
        let answer = talk.ask(&format!("POST /edge/client/v1/enroll{query} HTTP/1.1\n{headers}"), body).expect("an answer");
        (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let csr = Key::generate(KeyType::P256).csr_pem("x");
    let ours = format!("?method=ott&token={}", token.jti());
    let pem = "Content-Type: application/x-pem-file";
    assert_eq!(enroll(&ours, &format!("{pem}\nAccept: text/html"), &csr), (415, "UNSUPPORTED_MEDIA".into()));
    assert_eq!(
        enroll(&ours, &format!("{pem}\nAccept: text/html\nAccept: application/json"), &csr),
        (415, "UNSUPPORTED_MEDIA".into())
    );
    assert_eq!(enroll(&ours, "Content-Type: application/X-pem-file", &csr), (400, "COULD_NOT_PROCESS_CSR".into()));
    assert_eq!(enroll(&ours, "Content-Type: application/pkcs10", &csr), (415, "COULD_NOT_VALIDATE".into()));
    assert_eq!(enroll(&ours, "Content-Type: application/json", &csr), (400, "COULD_NOT_PARSE_BODY".into()));
    assert_eq!(enroll(&ours.replace("ott", "ottca"), pem, &csr), (400, "INVALID_ENROLL_METHOD".into()));
    assert_eq!(enroll("?method=ott&token=x", pem, &csr), (400, "INVALID_ENROLLMENT_TOKEN".into()));
    let late = controller.token("late").expired_since(std::time::Duration::from_secs(1)).issue();
    assert_eq!(enroll(&format!("?token={}", late.jti()), pem, &csr), (400, "ENROLLMENT_EXPIRED".into()));
    let json = serde_json::json!({"token": token.jti(), "clientCsr": csr}).to_string();
    assert_eq!(enroll("/ott", "Content-Type: application/json\nAccept: application/json", &json), (200, String::new()));
    assert!(controller.is_spent(&token));
}

#[test]
fn writes_down_what_a_correct_client_would_not_send() {
    let controller = start();
    let token = controller.issue("gate-7");
    controller.set_faults(["consume-then-503".parse().expect("a fault")]);
    let mut talk = Conversation::with(&controller);
    for _ in 0..2 {
        talk.enroll(&token, &Key::generate(KeyType::P256).csr_pem("x")).expect("an answer");
    }
    let head = "GET /version HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert_eq!(talk.raw(head).expect("an answer").status, 505);
    assert_eq!(Conversation::with(&controller).raw("GET /version HTTP/1.1\r\n\r\n").expect("an answer").status, 400);
    let chunked = "POST /enroll HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(Conversation::with(&controller).raw(chunked).expect("an answer").status, 411);
    let violations = controller.violations();
    for part in ["different requests", "speaks HTTP/1.0", "no Host header", "in chunks"] {
        assert_eq!(violations.iter().filter(|one| one.contains(part)).count(), 1, "`{part}` in {violations:#?}");
    }
    let large = format!("POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 2 << 20);
    let answer = Conversation::with(&controller).raw(&large).expect("an answer");
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("REQUEST_ENTITY_TOO_LARGE")));
}

#[test]
fn a_repeated_request_and_one_after_a_refusal_are_no_violation() {
    let controller = start();
    let token = controller.issue("gate-7");
    controller
        .set_faults(["drop-post-before-once", "refuse-once=ENROLLMENT_EXPIRED:400"].map(|name| name.parse().expect("a fault")));
    let csr = Key::generate(KeyType::P256).csr_pem("x");
    assert!(Conversation::with(&controller).enroll(&token, &csr).is_err());
    assert_eq!(Conversation::with(&controller).enroll(&token, &csr).expect("an answer").code(), "ENROLLMENT_EXPIRED");
    let other = Key::generate(KeyType::P256).csr_pem("x");
    assert_eq!(Conversation::with(&controller).enroll(&token, &other).expect("an answer").status, 200);
    assert_eq!(controller.violations(), [""; 0]);
}

#[test]
fn counts_one_connection_one_handshake_two_requests() {
    for tls in [Tls::Only12, Tls::Only13] {
        let controller = Controller::start(Options { tls, ..Options::default() });
        let token = controller.issue("gate-7");
        let mut talk = Conversation::try_with(&controller, &controller.ca_pem(), None, tls == Tls::Only13).expect("a handshake");
        assert_eq!(talk.cacerts().expect("an answer").status, 200);
        assert_eq!(talk.enroll(&token, &Key::generate(KeyType::P256).csr_pem("x")).expect("an answer").status, 200);
        let log = controller.log();
        let counts = log.counts();
        assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 2, 1));
        let handshake = &log.handshakes[0];
        assert_eq!(handshake.version, if tls == Tls::Only12 { "TLSv1_2" } else { "TLSv1_3" });
        assert_eq!(handshake.sni.as_deref(), Some("localhost"));
        assert!(handshake.client_certificate.is_none() && !handshake.resumed && handshake.alpn_offered.is_empty());
        if tls == Tls::Only13 {
            assert_eq!(handshake.group.as_deref(), Some("X25519MLKEM768"));
        }
        assert!(log.requests[0].is_cacerts() && log.requests[1].is_enroll());
        assert_eq!(log.requests[1].query, [("method".into(), "ott".into()), ("token".into(), "…".into())]);
        assert_eq!(log.requests[1].status, Some(200));
    }
}
