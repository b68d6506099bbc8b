//! Renewals, by a client that knows nothing of ours: the order of the checks, and which certificate is in force when.

use crate::client::{Answer, Conversation, enrolled};
use serde_json::json;
use ziti_enroller_support::{Controller, Fault, Key, KeyType, Like, Options};

const LOGIN: &str = "POST /edge/client/v1/authenticate?method=cert HTTP/1.1\nContent-Type: application/json";

/// A login, and the connection that it was made over.
struct Session {
    talk: Conversation,
    token: String,
    authenticator: String,
}

impl Session {
    fn of(controller: &Controller, chain: &str, key: &Key) -> Self {
        let mut talk = Conversation::with_certificate(controller, chain, key);
        let data = talk.ask(LOGIN, "{}").expect("an answer").json()["data"].clone();
        let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("no {name}: {data}")).to_owned();
        Self { token: text("token"), authenticator: text("authenticatorId"), talk }
    }

    fn call(&mut self, method: &str, below: &str, body: &str) -> Answer {
        let head = format!(
            "{method} /edge/client/v1/current-identity/authenticators/{below} HTTP/1.1\nContent-Type: application/json\nzt-session: {}",
            self.token
        );
        self.talk.ask(&head, body).expect("an answer")
    }

    fn extend(&mut self, id: &str, csr: &str) -> Answer {
        self.call("POST", &format!("{id}/extend"), &json!({"clientCertCsr": csr}).to_string())
    }

    fn verify(&mut self, id: &str, certificate: &str) -> Answer {
        self.call("POST", &format!("{id}/extend-verify"), &json!({"clientCert": certificate}).to_string())
    }
}

fn logs_in(controller: &Controller, chain: &str, key: &Key) -> bool {
    Conversation::with_certificate(controller, chain, key).ask(LOGIN, "{}").expect("an answer").status == 200
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn checks_stand_in_the_order_of_a_real_controller() {
    let controller = Controller::start(Options::default());
    let (key, token, chain) = enrolled(&controller, "gate-7");
    let (other_key, other_token, other_chain) = enrolled(&controller, "gate-8");
    let mut own = Session::of(&controller, &chain, &key);
    let other = Session::of(&controller, &other_chain, &other_key).authenticator;
    let (id, csr) = (own.authenticator.clone(), key.csr_pem(token.sub()));

    assert_eq!(said(&own.call("POST", &format!("{id}/extend"), "{}")), refused(400, "COULD_NOT_VALIDATE"));
    assert_eq!(said(&own.extend("nosuch", &csr)), refused(404, "NOT_FOUND"));
    // A bad request for somebody else's certificate: whose it is comes first.
    assert_eq!(said(&own.extend(&other, "no request")), refused(401, "UNAUTHORIZED"));
    assert_eq!(said(&own.extend(&id, "no request")), refused(400, "COULD_NOT_PROCESS_CSR"));
    assert_eq!(said(&own.verify("nosuch", &chain)), refused(404, "NOT_FOUND"));
    assert_eq!(said(&own.verify(&other, &chain)), refused(401, "UNAUTHORIZED"));
    assert_eq!(said(&own.verify(&id, "no certificate")), refused(409, "CAN_NOT_UPDATE_AUTHENTICATOR"));

    // The session is good for the API, and the connection must show the certificate all the same.
    let mut without = Session { talk: Conversation::with(&controller), token: own.token.clone(), authenticator: id.clone() };
    assert_eq!(said(&without.extend(&id, &csr)), refused(401, "UNAUTHORIZED"));
    let mut with_another = Session {
        talk: Conversation::with_certificate(&controller, &other_chain, &other_key),
        token: own.token.clone(),
        authenticator: id.clone(),
    };
    assert_eq!(said(&with_another.extend(&id, &csr)), refused(401, "UNAUTHORIZED"));
    let mut nobody = Session { token: "00000000-0000-0000-0000-000000000000".into(), ..with_another };
    assert_eq!(said(&nobody.extend(&id, &csr)), refused(401, "UNAUTHORIZED"));

    controller.disown(other_token.sub());
    let mut third_party = Session::of(&controller, &other_chain, &other_key);
    assert_eq!(said(&third_party.extend(&other, "no request")), refused(409, "CAN_NOT_UPDATE_AUTHENTICATOR"));
    let shown = third_party.call("GET", &other, "").json()["data"].clone();
    assert_eq!((&shown["isIssuedByNetwork"], &shown["method"]), (&false.into(), &"cert".into()));
    assert_eq!(said(&third_party.call("GET", &id, "")), refused(404, "NOT_FOUND"));
    assert_eq!(said(&own.extend(&id, &csr)), (200, String::new()));
}

#[test]
fn the_new_certificate_is_in_force_when_it_has_arrived_and_the_old_one_no_more() {
    let controller = Controller::start(Options::default());
    let (key, token, old) = enrolled(&controller, "gate-7");
    let new_key = Key::generate(KeyType::P384);
    let mut session = Session::of(&controller, &old, &key);
    let id = session.authenticator.clone();
    let issue = |session: &mut Session, key: &Key| {
        let data = session.extend(&id, &key.csr_pem(token.sub())).json()["data"].clone();
        assert!(data["ca"].as_str().is_some_and(|ca| ca.starts_with('\n')), "{data}");
        data["clientCert"].as_str().expect("a certificate").to_owned()
    };
    let first = issue(&mut session, &new_key);
    let second = issue(&mut session, &new_key);
    assert!(logs_in(&controller, &old, &key) && !logs_in(&controller, &second, &new_key), "nothing has arrived yet");
    assert_eq!(said(&session.verify(&id, &first)), refused(400, "INVALID_CLIENT_CERT"));
    assert_eq!(said(&session.verify(&id, "garbage")), refused(400, "INVALID_CLIENT_CERT"));
    assert_eq!(said(&session.verify(&id, &second)), (200, String::new()));
    assert!(!logs_in(&controller, &old, &key) && logs_in(&controller, &second, &new_key));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
    // The session goes on, and the old certificate renews nothing any more.
    assert_eq!(said(&session.extend(&id, &key.csr_pem(token.sub()))), refused(401, "UNAUTHORIZED"));
    assert_eq!(said(&session.verify(&id, &second)), refused(409, "CAN_NOT_UPDATE_AUTHENTICATOR"));
    assert_eq!(controller.violations(), ["extend-verify: repeated for a certificate that is in force"]);
    let in_force = controller.in_force(token.sub()).expect("one is in force");
    assert_eq!((in_force.spki_der, in_force.id), (new_key.spki_der(), id));
}

#[test]
fn what_an_administrator_asks_for_is_said_until_it_is_done() {
    let controller = Controller::start(Options::default());
    let (key, token, chain) = enrolled(&controller, "gate-7");
    let login = |chain: &str| {
        Conversation::with_certificate(&controller, chain, &key).ask(LOGIN, "{}").expect("an answer").json()["data"].clone()
    };
    assert!(login(&chain)["isCertExtendRequested"].is_null());
    controller.request_renewal(token.sub(), false);
    assert!(login(&chain)["isCertExtendRequested"] == true && login(&chain)["isCertKeyRollRequested"].is_null());
    controller.request_renewal(token.sub(), true);
    assert_eq!(login(&chain)["isCertKeyRollRequested"], true);
    let mut session = Session::of(&controller, &chain, &key);
    let id = session.authenticator.clone();
    let new = session.extend(&id, &key.csr_pem(token.sub())).json()["data"]["clientCert"].as_str().expect("one").to_owned();
    assert_eq!(session.verify(&id, &new).status, 200);
    assert!(login(&new)["isCertExtendRequested"].is_null());
}

#[test]
fn faults_of_a_renewal() {
    // Fault; whether an answer comes to `extend`; to `extend-verify`; whether the new one is in force then.
    for (fault, extended, verified, in_force) in [
        (Fault::DropExtend, false, false, false),
        (Fault::DropExtendOnce, false, false, false),
        (Fault::RefuseExtend("UNHANDLED".into(), 500), true, false, false),
        (Fault::DropVerifyBefore, true, false, false),
        (Fault::DropVerifyBeforeOnce, true, false, false),
        (Fault::DropVerifyAfter, true, false, true),
        (Fault::VerifyThen500, true, true, true),
        (Fault::VerifyUnavailableOnce, true, true, false),
        (Fault::ForgetPendingOnce, true, true, false),
    ] {
        let controller = Controller::start(Options::default());
        let (key, token, chain) = enrolled(&controller, "gate-7");
        controller.set_faults([fault.clone()]);
        let mut session = Session::of(&controller, &chain, &key);
        let path = format!("/edge/client/v1/current-identity/authenticators/{}", session.authenticator);
        let head =
            |what: &str| format!("POST {path}/{what} HTTP/1.1\nContent-Type: application/json\nzt-session: {}", session.token);
        let csr = json!({"clientCertCsr": key.csr_pem(token.sub())}).to_string();
        let extend = session.talk.ask(&head("extend"), &csr);
        assert_eq!(extend.is_ok(), extended, "{fault}");
        if let Ok(answer) = extend.as_ref().map(Answer::json)
            && let Some(new) = answer["data"]["clientCert"].as_str()
        {
            let verify = session.talk.ask(&head("extend-verify"), &json!({"clientCert": new}).to_string());
            assert_eq!(verify.as_ref().is_ok(), verified, "{fault}");
            assert!(verify.is_err() || verify.is_ok_and(|answer| answer.status != 200), "{fault}");
            assert_eq!((logs_in(&controller, new, &key), logs_in(&controller, &chain, &key)), (in_force, !in_force), "{fault}");
        }
    }
}

#[test]
fn an_older_controller_answers_with_the_leaf_alone() {
    for (like, faults, certificates) in
        [(Like::V1_4, vec![], 1), (Like::V2_1, vec![Fault::ExtendLeafOnly], 1), (Like::V2_1, vec![], 2)]
    {
        let controller = Controller::start(Options { like, ..Options::default() });
        let (key, token, chain) = enrolled(&controller, "gate-7");
        controller.set_faults(faults);
        let mut session = Session::of(&controller, &chain, &key);
        let id = session.authenticator.clone();
        let answer = session.extend(&id, &key.csr_pem(token.sub())).json();
        let new = answer["data"]["clientCert"].as_str().expect("a certificate");
        assert_eq!(new.matches("BEGIN CERTIFICATE").count(), certificates, "{like:?}");
    }
}

#[test]
fn certificates_that_have_ended_log_in_unless_the_policy_forbids_it() {
    let controller = Controller::start(Options { faults: vec![Fault::CertLifetime(3)], ..Options::default() });
    let (key, _, chain) = enrolled(&controller, "gate-7");
    // Until it has ended.
    std::thread::sleep(std::time::Duration::from_millis(4100));
    assert!(logs_in(&controller, &chain, &key));
    controller.set_faults([Fault::RefuseExpired]);
    assert!(!logs_in(&controller, &chain, &key));
}
