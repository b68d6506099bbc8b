use crate::client::{Answer, Conversation};
use ziti_enroller_support::{Authority, Controller, Fault, Key, KeyType, Leaf, Like, Options, ThirdPartyCa, Token, pem};

struct Device {
    key: Key,
    leaf: String,
    whole: String,
}

fn device(root: &Authority, leaf: &Leaf) -> Device {
    let (key, issuing) = (Key::generate(KeyType::P256), root.intermediate("Issuing"));
    let leaf = pem("CERTIFICATE", &issuing.sign(leaf, &key.spki_der()));
    Device { whole: leaf.clone() + &pem("CERTIFICATE", issuing.certificate()), leaf, key }
}

fn good(root: &Authority) -> Device {
    device(root, &Leaf::client_named("device-7"))
}

fn one_time(talk: &mut Conversation, token: &Token) -> Answer {
    let head = "POST /edge/client/v1/enroll?method=ottca&token=JTI HTTP/1.1\nContent-Type: text/plain\nAccept: application/json";
    talk.ask(&head.replace("JTI", token.jti()), "").expect("an answer")
}

fn auto(talk: &mut Conversation, body: &str) -> Answer {
    let head = "POST /edge/client/v1/enroll?method=ca HTTP/1.1\nContent-Type: application/json\nAccept: application/json";
    talk.ask(head, body).expect("an answer")
}

fn known(options: Options) -> (Controller, Authority, ThirdPartyCa) {
    let (controller, root) = (Controller::start(options), Authority::root("Acme"));
    let ca = ThirdPartyCa::new("acme", &root);
    controller.set_ca(&ca);
    (controller, root, ca)
}

/// In the order in which the real one looks: the token, the CA, the chain, the fingerprint.
#[test]
fn one_time_token_buys_a_place_for_a_certificate_of_its_ca() {
    let (controller, root, mut ca) = known(Options::default());
    let token = controller.token("gate-7").of_ca(&ca).issue();
    let mine = good(&root);
    let stranger = good(&Authority::root("Stranger"));
    let code = |chain: &str, key: &Key, token: &Token| {
        let mut talk = Conversation::with_certificate(&controller, chain, key);
        one_time(&mut talk, token).code()
    };
    ca.one_time = false;
    controller.set_ca(&ca);
    assert_eq!(code(&stranger.whole, &stranger.key, &token), "ENROLLMENT_CA_NOT_VALID");
    ca.one_time = true;
    controller.set_ca(&ca);
    let failed = "CERTIFICATE_FAILED_VALIDATION";
    assert_eq!(code(&stranger.whole, &stranger.key, &token), failed);
    assert_eq!(code(&mine.leaf, &mine.key, &token), failed, "without its intermediate");
    for leaf in [Leaf::client_named("x").expired(), Leaf::client_named("x").without_client_auth()] {
        let bad = device(&root, &leaf);
        assert_eq!(code(&bad.whole, &bad.key, &token), failed);
    }
    assert_eq!(one_time(&mut Conversation::with(&controller), &token).code(), failed, "without a certificate");
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    let answer = one_time(&mut talk, &token);
    assert_eq!((answer.status, answer.json()["data"]["cert"].as_str()), (200, None));
    assert_eq!(answer.json()["data"]["controllers"].as_array().map(Vec::len), Some(1));
    assert_eq!(one_time(&mut talk, &token).code(), "INVALID_ENROLLMENT_TOKEN");
    let second = controller.token("gate-8").of_ca(&ca).issue();
    let in_use = one_time(&mut talk, &second);
    assert_eq!((in_use.status, in_use.code()), (409, "CERT_IN_USE".into()));
    assert_eq!(in_use.json()["error"]["cause"]["data"]["fingerprint"], controller.authenticators()[0].fingerprint_sha1);
}

#[test]
fn token_of_a_ca_lets_everybody_in_who_has_a_certificate_of_it() {
    let (controller, root, mut ca) = known(Options::default());
    let mine = good(&root);
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    ca.is_verified = false;
    controller.set_ca(&ca);
    assert_eq!(auto(&mut talk, "{}").code(), "CERT_FAILED_VALIDATION");
    ca.is_verified = true;
    ca.name_format = "[caName]/[requestedName]/[commonName]".into();
    controller.set_ca(&ca);
    assert_eq!(auto(&mut talk, "[]").code(), "COULD_NOT_PARSE_BODY");
    let answer = auto(&mut talk, r#"{"name":"seven"}"#);
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"data":{},"meta":{}}"#));
    assert_eq!(auto(&mut talk, "{}").code(), "CERT_IN_USE");
    assert_eq!(controller.authenticators()[0].identity_name, "acme/seven/device-7");
    let other = good(&root);
    let mut talk = Conversation::with_certificate(&controller, &other.whole, &other.key);
    assert_eq!(auto(&mut talk, r#"{"name":"seven"}"#).status, 200);
    assert_eq!(controller.authenticators()[1].identity_name, "acme/seven/device-7000001");
    let nobody = Controller::start(Options::default());
    assert_eq!(auto(&mut Conversation::with(&nobody), "{}").code(), "ENROLLMENT_NO_VALID_CAS");
}

#[test]
fn certificate_of_a_third_party_logs_in_while_its_ca_may() {
    let (controller, root, mut ca) = known(Options::default());
    let mine = good(&root);
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    assert_eq!(auto(&mut talk, "{}").status, 200);
    let login = "POST /edge/client/v1/authenticate?method=cert HTTP/1.1\nContent-Type: application/json";
    let answer = talk.ask(login, "{}").expect("an answer");
    assert_eq!(answer.json()["data"]["identityId"], controller.authenticators()[0].identity_id);
    ca.auth = false;
    controller.set_ca(&ca);
    assert_eq!(talk.ask(login, "{}").expect("an answer").code(), "INVALID_AUTH");
}

#[test]
fn old_controllers_look_at_no_intermediates() {
    let (controller, root, ca) = known(Options { like: Like::V1_4, ..Options::default() });
    let token = controller.token("gate-7").of_ca(&ca).issue();
    let mine = good(&root);
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    assert_eq!(one_time(&mut talk, &token).code(), "CERT_FAILED_VALIDATION");
    let key = Key::generate(KeyType::P256);
    let leaf = pem("CERTIFICATE", &root.sign(&Leaf::client_named("device-7"), &key.spki_der()));
    let mut talk = Conversation::with_certificate(&controller, &leaf, &key);
    assert_eq!(one_time(&mut talk, &token).body, r#"{"data":{},"meta":{}}"#);
}

#[test]
fn what_a_client_should_not_send_is_written_down() {
    let (controller, root, ca) = known(Options::default());
    let mine = good(&root);
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    let head = "POST /edge/client/v1/enroll?method=ca&token=x HTTP/1.1\nContent-Type: text/plain\nAccept: application/json";
    controller.set_faults([Fault::DropPostBeforeOnce]);
    assert!(talk.ask(head, "").is_err());
    let mut talk = Conversation::with_certificate(&controller, &mine.whole, &mine.key);
    talk.ask(head, "").expect("an answer");
    let token = controller.token("gate-7").of_ca(&ca).issue();
    let with_body =
        "POST /edge/client/v1/enroll?method=ottca&token=JTI HTTP/1.1\nContent-Type: text/plain\nAccept: application/json";
    talk.ask(&with_body.replace("JTI", token.jti()), "-----BEGIN").expect("an answer");
    let violations = controller.violations().join("\n");
    for part in ["a token, which is the id of a CA", "a name would be lost", "a body, which nobody reads"] {
        assert!(violations.contains(part), "{violations}");
    }
}
