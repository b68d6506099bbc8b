use crate::client::{Conversation, curl, enrolled};
use std::fs;
use ziti_enroller_support::{Authority, Controller, Fault, Key, KeyType, Leaf, Options, pem, sha1_hex};

const LOGIN: &str = "POST /edge/client/v1/authenticate?method=cert HTTP/1.1\nContent-Type: application/json";

#[test]
fn certificate_of_an_enrollment_logs_in_by_curl() {
    let controller = Controller::start(Options { own_client_signer: true, ..Options::default() });
    let (key, token, chain) = enrolled(&controller, "gate-7");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("ca.pem", controller.ca_pem()), ("cert.pem", chain), ("key.pem", key.pkcs8_pem())] {
        fs::write(folder.path().join(name), text).expect("writable");
    }
    for tls in ["1.2", "1.3"] {
        let mtls = || curl(folder.path()).args(["--cert", "cert.pem", "--key", "key.pem", "--tls-max", tls, "--json", "{}"]);
        let said = mtls().arg(format!("{}/edge/client/v1/authenticate?method=cert", controller.url())).run().success().stdout;
        let (body, status) = said.rsplit_once('\n').expect("a status");
        assert_eq!(status, "200", "{body}");
        let session: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(session["data"]["identityId"], token.sub());
    }
    assert_eq!(controller.sessions_open(), 2);
    let shown = controller.log().handshakes.last().and_then(|handshake| handshake.client_certificate.clone());
    let shown = shown.expect("a client certificate");
    assert_eq!(shown.fingerprint_sha1, controller.authenticators()[0].fingerprint_sha1);
    assert_eq!((shown.subject, shown.chain_length), (format!("CN={}", token.sub()), 2));
}

#[test]
fn session_says_who_it_is_until_it_logs_out() {
    let controller = Controller::start(Options::default());
    let (key, token, chain) = enrolled(&controller, "gate-7");
    let mut talk = Conversation::with_certificate(&controller, &chain, &key);
    let login = talk.ask(LOGIN, "{}").expect("an answer");
    let data = login.json()["data"].clone();
    let session = data["token"].as_str().expect("a token").to_owned();
    assert!(login.head.contains(&format!("Zt-Session: {session}\r\n")), "{}", login.head);
    assert_eq!((data["isMfaRequired"].as_bool(), data["authQueries"].as_array().map(Vec::len)), (Some(false), Some(0)));

    let with = |method: &str, path: &str| format!("{method} /edge/client/v1/{path} HTTP/1.1\nzt-session: {session}");
    let me = talk.ask(&with("GET", "current-identity"), "").expect("an answer").json()["data"].clone();
    assert_eq!((me["id"].as_str(), me["name"].as_str()), (Some(token.sub()), Some("gate-7")));
    assert_eq!(me["authenticators"]["cert"]["fingerprint"], controller.authenticators()[0].fingerprint_sha1);
    assert_eq!(talk.ask(&with("GET", "current-api-session"), "").expect("an answer").status, 200);
    let nobody = talk.ask("GET /edge/client/v1/current-identity HTTP/1.1", "").expect("an answer");
    assert_eq!((nobody.status, nobody.code()), (401, "UNAUTHORIZED".into()));
    assert!(nobody.head.contains("Www-Authenticate: zt-session realm=\"zt-session\" error=\"missing\""), "{}", nobody.head);
    assert_eq!(controller.violations().len(), 1, "no zt-session header");
    assert_eq!(talk.ask(&with("DELETE", "current-api-session"), "").expect("an answer").status, 200);
    assert_eq!(controller.sessions_open(), 0);
    assert_eq!(talk.ask(&with("GET", "current-identity"), "").expect("an answer").status, 401);
    assert!(!controller.report().to_string().contains(&session));
}

#[test]
fn refuses_every_certificate_that_is_not_an_authenticator() {
    let controller = Controller::start(Options::default());
    let (good_key, token, good) = enrolled(&controller, "gate-7");
    let key = Key::generate(KeyType::P256);
    let signer = &controller.network().server_signer;
    let mut cases = vec![("none", String::new(), key.clone())];
    for (what, leaf) in [
        ("unknown to the books", Leaf::client_named("x")),
        ("without clientAuth", Leaf::client_named("x").without_client_auth()),
        ("expired", Leaf::client_named("x").expired()),
    ] {
        cases.push((
            what,
            [pem("CERTIFICATE", &signer.sign(&leaf, &key.spki_der())), pem("CERTIFICATE", signer.certificate())].concat(),
            key.clone(),
        ));
    }
    let foreign = Authority::root("Foreign").sign(&Leaf::client_named("x"), &key.spki_der());
    cases.push(("of a foreign CA", pem("CERTIFICATE", &foreign), key.clone()));
    for (what, chain, key) in &cases {
        let mut talk = if chain.is_empty() {
            Conversation::with(&controller)
        } else {
            Conversation::with_certificate(&controller, chain, key)
        };
        let answer = talk.ask(LOGIN, "").expect("an answer");
        assert_eq!((answer.status, answer.code()), (401, "INVALID_AUTH".into()), "{what}");
    }
    assert_eq!(Conversation::with_certificate(&controller, &good, &good_key).ask(LOGIN, "").expect("an answer").status, 200);
    let again = controller.re_enroll(token.sub());
    assert_eq!((again.sub(), again.name()), (token.sub(), "gate-7"));
    let retired = Conversation::with_certificate(&controller, &good, &good_key).ask(LOGIN, "").expect("an answer");
    assert_eq!(retired.status, 401, "re-enrollment takes the old certificate away");
}

#[test]
fn a_certificate_without_its_key_ends_the_handshake() {
    let controller = Controller::start(Options::default());
    let (_, _, chain) = enrolled(&controller, "gate-7");
    // rustls refuses to be configured like that, so openssl plays the thief: the key is of another certificate.
    let folder = tempfile::tempdir().expect("a folder");
    let thief = Key::generate(KeyType::P256);
    let forged = Authority::root("R").sign(&Leaf::client_named("x"), &thief.spki_der());
    assert_ne!(sha1_hex(&forged), controller.authenticators()[0].fingerprint_sha1);
    fs::write(folder.path().join("cert.pem"), &chain).expect("writable");
    fs::write(folder.path().join("key.pem"), thief.pkcs8_pem()).expect("writable");
    fs::write(folder.path().join("ca.pem"), controller.ca_pem()).expect("writable");
    let url = format!("{}/edge/client/v1/authenticate?method=cert", controller.url());
    let said = curl(folder.path()).args(["--cert", "cert.pem", "--key", "key.pem", "--json", "{}", &url]).run();
    assert_ne!(said.code, Some(0), "{said}");
    assert_eq!(controller.sessions_open(), 0);
}

#[test]
fn login_faults() {
    let controller = Controller::start(Options::default());
    let (key, _, chain) = enrolled(&controller, "gate-7");
    let mut talk = Conversation::with_certificate(&controller, &chain, &key);
    controller.set_faults([Fault::Login401]);
    assert_eq!(talk.ask(LOGIN, "{}").expect("an answer").code(), "INVALID_AUTH");
    controller.set_faults([Fault::LoginTooManyOnce, Fault::LoginMfa]);
    let busy = talk.ask(LOGIN, "{}").expect("an answer");
    assert!(busy.status == 429 && busy.head.contains("Retry-After: 1\r\n"));
    let data = talk.ask(LOGIN, "{}").expect("an answer").json()["data"].clone();
    assert_eq!((&data["isMfaRequired"], &data["authQueries"][0]["typeId"]), (&true.into(), &"MFA".into()));
    let head = format!("GET /edge/client/v1/current-identity HTTP/1.1\nzt-session: {}", data["token"].as_str().expect("a token"));
    assert_eq!(talk.ask(&head, "").expect("an answer").status, 401);
    assert_eq!(talk.ask(LOGIN, "[").expect("an answer").code(), "COULD_NOT_PARSE_BODY");
    let password = LOGIN.replace("cert", "foo");
    assert_eq!(talk.ask(&password, "{}").expect("an answer").status, 606);
    assert_eq!(talk.ask(&LOGIN.replace("application/json", "text/plain"), "{}").expect("an answer").status, 415);
    assert_eq!(talk.ask("GET /edge/client/v1/authenticate HTTP/1.1", "").expect("an answer").code(), "METHOD_NOT_ALLOWED");
    assert_eq!(talk.ask("GET /edge/client/v1/nothing HTTP/1.1", "").expect("an answer").code(), "NOT_FOUND");
}
