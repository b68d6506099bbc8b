use crate::client::{Answer, Conversation};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use ziti_enroller_support::{Controller, Fault, Key, KeyType, Options, Token};

/// One enrollment against a fault: the answer to cacerts, the answer to the POST, and whether the token is gone.
fn meet(fault: &str) -> (Controller, Token, Key, std::io::Result<Answer>) {
    let faults = vec![fault.parse().expect("a fault")];
    let controller = Controller::start(Options { faults, ..Options::default() });
    let (token, key) = (controller.issue("gate-7"), Key::generate(KeyType::P256));
    let answer = Conversation::with(&controller).enroll(&token, &key.csr_pem(token.sub()));
    (controller, token, key, answer)
}

fn cacerts(fault: &str) -> (Controller, Conversation, std::io::Result<Answer>) {
    let controller = Controller::start(Options { faults: vec![fault.parse().expect("a fault")], ..Options::default() });
    let mut talk = Conversation::with(&controller);
    let answer = talk.cacerts();
    (controller, talk, answer)
}

fn certificates_in(body: &str) -> usize {
    let der = STANDARD.decode(body.replace('\n', "")).expect("base64");
    der.windows(4).filter(|window| window.starts_with(&[0x30, 0x82]) && window[2] < 4).count() / 2
}

#[test]
fn answers_without_a_usable_list_of_cas() {
    let answer = |fault| cacerts(fault).2.expect("an answer");
    assert!(answer("cacerts-html").head.contains("text/html"));
    assert!(answer("cacerts-pem").body.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(answer("cacerts-large").body.len() > 10_000_000);
    assert_eq!(answer("cacerts-500").status, 500);
    assert!(answer("cacerts-empty").body.len() < 80);
    assert!(certificates_in(&answer("cacerts-65").body) >= 65);
    let (controller, mut talk, redirect) = cacerts("redirect");
    let redirect = redirect.expect("an answer");
    assert_eq!(redirect.status, 302);
    assert!(redirect.head.contains(&format!("Location: {}/.well-known/est/redirected\r\n", controller.url())));
    assert_eq!(talk.ask("GET /.well-known/est/redirected HTTP/1.1", "").expect("an answer").code(), "NOT_FOUND");
    assert_eq!(controller.violations(), ["followed a redirect"]);
}

#[test]
fn server_without_its_intermediate() {
    let controller = Controller::start(Options { faults: vec![Fault::MissingIntermediate], ..Options::default() });
    let root = ziti_enroller_support::pem("CERTIFICATE", controller.network().root.certificate());
    let refused = Conversation::try_with(&controller, &root, None, true).err().expect("no path to the root");
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    for faults in [vec![], vec![Fault::RootInChain]] {
        controller.set_faults(faults);
        Conversation::try_with(&controller, &root, None, true).expect("the chain is whole again");
    }
}

#[test]
fn silence_lasts_as_long_as_the_client_waits() {
    let controller = Controller::start(Options { faults: vec![Fault::SilentAccept], ..Options::default() });
    let mut socket = TcpStream::connect(controller.address()).expect("TCP");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let silence = socket.read(&mut [0]).expect_err("silence").kind();
    assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert_eq!((controller.counts().connections, controller.counts().handshakes), (1, 0));

    for (fault, path) in [(Fault::SilentCacerts, "/.well-known/est/cacerts"), (Fault::SilentPost, "/edge/client/v1/enroll")] {
        let controller = Controller::start(Options { faults: vec![fault], ..Options::default() });
        let token = controller.issue("gate-7");
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut talk = Conversation::with(&controller);
                if path.contains("est") { talk.cacerts() } else { talk.enroll(&token, "x") }
            });
            let log = controller.wait_for("the request", Duration::from_secs(5), |log| !log.requests.is_empty());
            assert_eq!((&*log.requests[0].path, log.requests[0].status), (path, None));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!asking.is_finished());
            controller.close_connections();
            assert!(asking.join().expect("no panic").is_err());
        });
        assert!(!controller.is_spent(&token));
    }
}

#[test]
fn connections_close_as_told() {
    let (_controller, mut talk, answer) = cacerts("close-after-cacerts");
    assert!(!answer.expect("an answer").head.contains("Connection: close"));
    assert_eq!(talk.rest().expect("an orderly end"), 0);
    let (_controller, mut talk, answer) = cacerts("close-header");
    assert!(answer.expect("an answer").head.contains("Connection: close\r\n"));
    assert_eq!(talk.rest().expect("an orderly end"), 0);
    let (_controller, mut talk, answer) = cacerts("idle-close=50");
    answer.expect("an answer");
    let started = Instant::now();
    assert_eq!(talk.rest().expect("an orderly end"), 0);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn posts_that_get_no_answer() {
    for (fault, spent) in
        [("drop-post-before", false), ("drop-post-before-once", false), ("drop-post-after", true), ("answer-cut=700", true)]
    {
        let (controller, token, key, answer) = meet(fault);
        assert!(answer.is_err(), "{fault}");
        assert_eq!(controller.is_spent(&token), spent, "{fault}");
        assert_eq!(controller.authenticators().len(), usize::from(spent), "{fault}");
        let again = Conversation::with(&controller).enroll(&token, &key.csr_pem(token.sub()));
        match fault {
            "drop-post-before" => assert!(again.is_err()),
            "drop-post-before-once" => assert_eq!(again.expect("an answer").status, 200),
            _ => assert_eq!(again.expect("an answer").code(), "INVALID_ENROLLMENT_TOKEN"),
        }
    }
}

#[test]
fn refusals_keep_the_token_and_doubtful_errors_do_not() {
    for (fault, status, code, spent) in [
        ("refuse=COULD_NOT_VALIDATE:602", 602, "COULD_NOT_VALIDATE", false),
        ("refuse-once=ENROLLMENT_EXPIRED:400", 400, "ENROLLMENT_EXPIRED", false),
        ("gone", 400, "INVALID_ENROLLMENT_TOKEN", false),
        ("unavailable-once", 503, "CLUSTER_NO_LEADER", false),
        ("too-many-once", 429, "SERVER_TOO_MANY_REQUESTS", false),
        ("consume-then-500", 500, "UNHANDLED", true),
        ("consume-then-503", 503, "TIMEOUT", true),
    ] {
        let (controller, token, key, answer) = meet(fault);
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, &*answer.code()), (status, code), "{fault}");
        assert_eq!(controller.is_spent(&token), spent, "{fault}");
        if fault.contains("once") {
            assert_eq!(controller.faults(), []);
            assert_eq!(Conversation::with(&controller).enroll(&token, &key.csr_pem("x")).expect("an answer").status, 200);
        }
    }
}

fn issued(answer: &Answer) -> Certificate {
    let pem = answer.json()["data"]["cert"].as_str().expect("a certificate").to_owned();
    Certificate::load_pem_chain(pem.as_bytes()).expect("PEM").remove(0)
}

#[test]
fn certificates_that_must_not_be_used() {
    for fault in ["other-key", "other-ca", "expired-cert", "no-client-auth", "ca-cert", "other-sub", "leaf-only"] {
        let (controller, token, key, answer) = meet(fault);
        let answer = answer.expect("an answer");
        let certificate = issued(&answer);
        assert!(controller.is_spent(&token));
        let tbs = certificate.tbs_certificate();
        let same_key = tbs.subject_public_key_info().to_der().expect("DER") == key.spki_der();
        assert_eq!(same_key, fault != "other-key");
        let der = certificate.to_der().expect("DER");
        let has = |bytes: &[u8]| der.windows(bytes.len()).any(|window| window == bytes);
        assert_eq!(
            has(token.sub().as_bytes()) && has(b"/identity/") && has(format!("/identity/{}", token.sub()).as_bytes()),
            fault != "other-sub"
        );
        let client_auth = [0x2b, 6, 1, 5, 5, 7, 3, 2];
        assert_eq!(has(&client_auth), fault != "no-client-auth");
        let issuer = Certificate::from_der(controller.network().server_signer.certificate()).expect("DER");
        assert_eq!(tbs.issuer() == issuer.tbs_certificate().subject(), fault != "other-ca");
        assert_eq!(tbs.validity().not_after.to_system_time() < std::time::SystemTime::now(), fault == "expired-cert");
        assert_eq!(has(&[0x55, 0x1d, 0x13]), fault == "ca-cert");
        assert_eq!(answer.body.matches("BEGIN CERTIFICATE").count() == 2, fault == "leaf-only", "the other is of `controllers`");
    }
}

#[test]
fn answers_that_hold_no_certificate() {
    for fault in ["no-cert", "truncated-pem", "html-200", "empty-200", "no-accept-json"] {
        let (controller, token, _, answer) = meet(fault);
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200);
        assert!(controller.is_spent(&token), "{fault}");
        match fault {
            "no-cert" => assert!(answer.json()["data"].get("cert").is_none()),
            "truncated-pem" => assert!(!answer.json()["data"]["cert"].as_str().expect("text").contains("END")),
            "html-200" => assert!(answer.body.starts_with("<!doctype html>")),
            "empty-200" => assert!(answer.body.is_empty()),
            _ => assert!(answer.head.contains("application/x-pem-file") && answer.body.matches("BEGIN").count() == 1),
        }
    }
}

#[test]
fn bodies_travel_in_other_ways() {
    let (_, _, _, answer) = meet("chunked");
    issued(&answer.expect("an answer"));
    let (_, _, _, answer) = meet("wrong-length");
    assert_eq!(answer.err().map(|error| error.kind()), Some(ErrorKind::UnexpectedEof));
    let started = Instant::now();
    let (_, _, _, answer) = meet("slow=200");
    issued(&answer.expect("an answer"));
    assert!(started.elapsed() >= Duration::from_millis(200));
    let started = Instant::now();
    let (_, _, _, answer) = meet("drip=8000");
    issued(&answer.expect("an answer"));
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn gzip_unpacks_to_the_same() {
    use ziti_enroller_support::{Program, require};
    let (controller, _, answer) = cacerts("gzip");
    assert!(answer.expect("an answer").head.contains("Content-Encoding: gzip"));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), controller.ca_pem()).expect("writable");
    let curl =
        Program::new(require("curl", "curl")).current_dir(folder.path()).args(["-sS", "--cacert", "ca.pem", "--compressed"]);
    let said = curl.arg(format!("{}/version", controller.url())).run().success().stdout;
    let version: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(version["data"]["version"], "v2.1.0");
}

#[test]
fn stops_at_once_whatever_hangs() {
    for fault in [Fault::SilentAccept, Fault::SilentCacerts, Fault::Slow(60_000), Fault::Drip(1)] {
        let controller = Controller::start(Options { faults: vec![fault.clone()], ..Options::default() });
        let address = controller.address();
        let ca = controller.ca_pem();
        let silent = fault == Fault::SilentAccept;
        let socket = TcpStream::connect(address).expect("TCP");
        let talk = (!silent).then(|| Conversation::try_with(&controller, &ca, None, true).expect("a handshake"));
        let asking = talk.map(|mut talk| std::thread::spawn(move || talk.cacerts().is_err()));
        if !silent {
            controller.wait_for("the request", Duration::from_secs(5), |log| log.requests.len() == 1);
        }
        let started = Instant::now();
        drop(controller);
        assert!(started.elapsed() < Duration::from_secs(2), "{fault}");
        drop(socket);
        if let Some(asking) = asking {
            assert!(asking.join().expect("no panic"), "{fault}");
        }
    }
}
