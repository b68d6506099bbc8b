use crate::client::{Conversation, curl, openssl};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::fs;
use std::time::Duration;
use ziti_enroller_support::{Controller, Face, Key, KeyType, Options, Program, Tls, require, second_opinion, sha1_hex};

#[test]
fn cacerts_is_base64_of_a_pkcs7_that_openssl_reads() {
    let controller = Controller::start(Options { own_client_signer: true, ..Options::default() });
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("ca.pem"), controller.ca_pem()).expect("writable");
    for path in ["/.well-known/est/cacerts", "/edge/client/v1/.well-known/est/cacerts"] {
        let url = format!("{}{path}", controller.url());
        let said = curl(folder.path()).args(["-D", "head", "-o", "body", &url]).run().success().stdout;
        assert_eq!(said.trim(), "200");
        let head = fs::read_to_string(folder.path().join("head")).expect("a head");
        assert!(head.contains("Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n"), "{head}");
        assert!(head.contains("Transfer-Encoding: chunked\r\n"), "as Go's server sends what is longer than 2048 bytes: {head}");
        let body = fs::read_to_string(folder.path().join("body")).expect("a body");
        let lines: Vec<&str> = body.split('\n').collect();
        assert!(lines[..lines.len() - 1].iter().all(|line| line.len() == 64) && (1..=64).contains(&lines[lines.len() - 1].len()));
        let der = STANDARD.decode(lines.concat()).expect("base64");
        assert!(der.ends_with(&[0xa1, 0, 0x31, 0]));
        fs::write(folder.path().join("ca.p7"), der).expect("writable");
        let listed = openssl(folder.path(), "pkcs7 -inform DER -in ca.p7 -print_certs").success().stdout;
        assert_eq!(listed.matches("BEGIN CERTIFICATE").count(), 3, "{listed}");
    }
}

#[test]
fn tokens_verify_with_the_leaf_of_every_key_type() {
    for key in KeyType::ALL {
        let controller = Controller::start(Options { key, ..Options::default() });
        let token = controller.issue("gate-7");
        let mut parts = token.compact().split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url"));
        let (header, claims): (serde_json::Value, serde_json::Value) = (
            serde_json::from_slice(&parts.next().expect("a header")).expect("JSON"),
            serde_json::from_slice(&parts.next().expect("claims")).expect("JSON"),
        );
        let signature = parts.next().expect("a signature");
        assert_eq!(header["alg"], key.jws());
        assert_eq!(header["kid"], sha1_hex(&controller.server_leaf()));
        assert_eq!(
            (&claims["iss"], &claims["sub"], &claims["jti"]),
            (&controller.url().into(), &token.sub().into(), &token.jti().into())
        );
        assert_eq!((&claims["em"], &claims["aud"]), (&"ott".into(), &serde_json::json!([""])));
        assert!(claims.get("iat").is_none() && claims.get("nbf").is_none() && claims["exp"].is_u64());
        if key == KeyType::P521 {
            assert_eq!(signature.len(), 132);
            judge_es512(&controller, token.compact(), &signature);
        } else {
            assert_eq!(second_opinion(token.compact(), &controller.server_leaf()), Ok(claims), "{key}");
            assert!(second_opinion(token.damaged().compact(), &controller.server_leaf()).is_err());
            let other = Controller::start(Options { key, ..Options::default() });
            assert!(second_opinion(token.compact(), &other.server_leaf()).is_err());
        }
        Conversation::with(&controller);
    }
}

/// jsonwebtoken knows no ES512; openssl does, once `r‖s` is DER.
fn judge_es512(controller: &Controller, compact: &str, signature: &[u8]) {
    let integer = |bytes: &[u8]| {
        let mut digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        if digits[0] & 0x80 != 0 {
            digits.insert(0, 0);
        }
        [&[0x02, digits.len() as u8], &digits[..]].concat()
    };
    let both = [integer(&signature[..66]), integer(&signature[66..])].concat();
    let der = [&[0x30, 0x81, both.len() as u8], &both[..]].concat();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("writable");
    write("leaf.der", &controller.server_leaf());
    write("signature", &der);
    write("message", compact.rsplit_once('.').expect("three parts").0.as_bytes());
    let key = openssl(folder.path(), "x509 -inform DER -in leaf.der -noout -pubkey").success().stdout;
    write("key.pem", key.as_bytes());
    openssl(folder.path(), "dgst -sha512 -verify key.pem -signature signature message").success();
}

#[test]
fn wrong_tokens_can_be_made() {
    let controller = Controller::start(Options::default());
    let leaf = controller.server_leaf();
    let verdict = |token: ziti_enroller_support::TokenBuilder<'_>| second_opinion(token.issue().compact(), &leaf);
    assert_eq!(verdict(controller.token("a").expired_since(Duration::from_secs(600))), Err("ExpiredSignature".into()));
    assert!(verdict(controller.token("a").signed_by(&Key::generate(KeyType::P256))).is_err());
    assert!(verdict(controller.token("a").header("alg", "none")).is_err());
    assert!(controller.token("a").header("alg", "none").issue().compact().ends_with('.'));
    assert_eq!(
        verdict(controller.token("a").id("..-_..x").iss("https://elsewhere:1")).expect("good")["iss"],
        "https://elsewhere:1"
    );
    assert_eq!(verdict(controller.token("a").without_claim("jti").claim("x", 7)).expect("good")["x"], 7);
    let unknown = controller.token("a").unregistered().issue();
    let answer = Conversation::with(&controller).enroll(&unknown, &Key::generate(KeyType::P256).csr_pem("x"));
    assert_eq!(answer.expect("an answer").code(), "INVALID_ENROLLMENT_TOKEN");
}

#[test]
fn renewal_of_the_certificate_changes_what_tokens_verify_with() {
    let controller = Controller::start(Options::default());
    let (token, leaf) = (controller.issue("gate-7"), controller.server_leaf());
    controller.renew_certificate_with_same_key();
    assert_ne!(controller.server_leaf(), leaf);
    assert!(second_opinion(token.compact(), &controller.server_leaf()).is_ok());
    controller.renew_certificate();
    assert!(second_opinion(token.compact(), &controller.server_leaf()).is_err());
    assert!(second_opinion(controller.issue("x").compact(), &controller.server_leaf()).is_ok());
    Conversation::with(&controller);
}

#[test]
fn wrong_faces_are_refused_by_rustls_and_no_request_comes() {
    let real = Controller::start(Options { key: KeyType::Rsa2048, ..Options::default() });
    let faces = [
        (Face::WrongHost, "not valid for name"),
        (Face::ForeignCa, "UnknownIssuer"),
        (Face::Expired, "expired"),
        (Face::NotYetValid, "not valid yet"),
        (Face::CaLeaf, "CaUsedAsEndEntity"),
        (Face::WithoutKey(real.server_chain()), "BadSignature"),
        (Face::Forged(real.server_leaf()), "invalid peer certificate"),
    ];
    for (face, word) in faces {
        for tls in [Tls::Only12, Tls::Only13] {
            let controller = Controller::start(Options { face: face.clone(), tls, ..Options::default() });
            let stolen = matches!(face, Face::WithoutKey(_));
            let ca = if stolen { real.ca_pem() } else { controller.ca_pem() };
            let refused = Conversation::try_with(&controller, &ca, None, tls == Tls::Only13);
            let why = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(why.contains(word), "{face:?}: {why}");
            let log =
                controller.wait_for("the failed handshake", Duration::from_secs(5), |log| !log.failed_handshakes.is_empty());
            assert_eq!((log.connections.len(), log.handshakes.len(), log.requests.len()), (1, 0, 0), "{face:?}");
        }
    }
}

#[test]
fn forger_shows_a_handshake_that_is_valid_for_its_own_key() {
    let real = Controller::start(Options { key: KeyType::Rsa2048, ..Options::default() });
    let forger = Controller::start(Options { face: Face::Forged(real.server_leaf()), ..Options::default() });
    let token = real.issue_at("gate-7", &forger.url());
    assert!(second_opinion(token.compact(), &real.server_leaf()).is_ok());
    assert!(second_opinion(token.compact(), &forger.server_leaf()).is_err(), "a parser that follows the structure");
    // openssl looks at no issuer here, and finds nothing wrong with the signature of the handshake.
    let s_client = Program::new(require("openssl", "openssl")).args(["s_client", "-connect"]).arg(forger.address().to_string());
    let seen = s_client.args(["-tls1_3", "-servername", "localhost"]).run();
    assert!(seen.stdout.contains("Peer signature type: RSA-PSS"), "{seen}");
}

#[test]
fn peer_shares_network_and_tokens_but_not_the_key() {
    let first = Controller::start(Options::default());
    let second = first.peer();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_ne!(first.server_leaf(), second.server_leaf());
    let token = first.issue("gate-7");
    let answer = Conversation::with(&second).enroll(&token, &Key::generate(KeyType::P256).csr_pem("x")).expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(first.is_spent(&token) && first.authenticators().len() == 1);
    assert_eq!((first.enroll_posts(), second.enroll_posts()), (0, 1));
}

#[test]
fn says_what_was_offered_and_refuses_an_unknown_protocol() {
    let controller = Controller::start(Options::default());
    let s_client = |alpn: &str| {
        let openssl = Program::new(require("openssl", "openssl")).args(["s_client", "-connect"]);
        openssl.arg(controller.address().to_string()).args(["-alpn", alpn]).run()
    };
    assert!(s_client("h2,http/1.1").stdout.contains("ALPN protocol: http/1.1"));
    assert_eq!(controller.log().handshakes[0].alpn_offered, ["h2", "http/1.1"]);
    let refused = s_client("ziti-ctrl");
    assert!(refused.stderr.contains("no application protocol"), "{refused}");
}
