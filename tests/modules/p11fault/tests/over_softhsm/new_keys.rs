//! `generate:` and `make:`.

use super::Token;

const NAMES: [&str; 2] = ["generate+named", "names"];

fn names(faults: &'static str) -> String {
    let answers = Token::new(faults).after_login(&NAMES);
    assert_eq!(answers[0], "generate+named ok");
    answers[1].clone()
}

fn shown(id: &[u8], label: &str) -> String {
    format!("[Id({id:?}), Label({:?})]", label.as_bytes())
}

#[test]
fn refuses_an_id_or_a_label_or_both() {
    let refused = |faults| Token::new(faults).after_login(&["generate+named", "generate"]);
    let value = ["generate+named AttributeValueInvalid in GenerateKeyPair", "generate ok"];
    assert_eq!(refused("generate:refuse:CKA_ID:0x13"), value);
    assert_eq!(refused("generate:refuse:private:CKA_LABEL:0x13;generate:refuse:private:CKA_ID:0x12"), value);
    let kind = ["generate+named AttributeTypeInvalid in GenerateKeyPair", "generate ok"];
    assert_eq!(refused("generate:refuse:public:CKA_LABEL:0x12"), kind);
}

#[test]
fn gives_a_key_other_names_than_it_was_asked_for() {
    let asked = shown(&[0xa1, 0xb2, 0xc3], "asked for");
    assert_eq!(names(""), format!("names ok ({asked}, {asked})"));
    let yubikey = names(
        "generate:replace:CKA_ID=first-byte;generate:replace:public:CKA_LABEL=Public key for PIV Authentication;\
         generate:replace:private:CKA_LABEL=Private key for PIV Authentication",
    );
    let id = [0xa1];
    let (public, private) = (shown(&id, "Public key for PIV Authentication"), shown(&id, "Private key for PIV Authentication"));
    assert_eq!(yubikey, format!("names ok ({public}, {private})"));
    let id = shown(&[1, 2], "");
    assert_eq!(names("generate:replace:CKA_ID=0x0102;generate:replace:CKA_LABEL=nothing"), format!("names ok ({id}, {id})"));
}

#[test]
fn gives_names_to_a_key_without() {
    let token = Token::new("generate:replace:CKA_ID=0x2a;generate:replace:CKA_LABEL=fixed: 1");
    let name = shown(&[0x2a], "fixed: 1");
    assert_eq!(token.after_login(&["generate", "names"])[1], format!("names ok ({name}, {name})"));
}

#[test]
fn cloud_kms_names_keys_by_resource_and_wants_no_login() {
    let token = Token::new("make:cloud-kms");
    let answers = token.calls(&["initialize", "slots", "session", "flags", "generate+named", "names", "sign"]);
    assert_eq!((&*answers[3], &*answers[4], &*answers[6]), ("flags ok initialised", "generate+named ok", "sign ok 64"));
    let name = shown(b"projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "asked for");
    assert_eq!(answers[5], format!("names ok ({name}, {name})"));
}

#[test]
fn luna_cloud_wants_public_keys_private() {
    let token = Token::new("make:luna-cloud");
    let answers = token.after_login(&["generate", "generate+private", "flags-of-keys"]);
    assert_eq!(answers[..2], ["generate TemplateInconsistent in GenerateKeyPair", "generate+private ok"]);
    assert_eq!(answers[2], "flags-of-keys ok ([Private(true), Local(true)], [Private(true), Local(true)])");
}

#[test]
fn yubihsm_wants_them_public() {
    let token = Token::new("make:yubihsm");
    let answers = token.after_login(&["generate+private", "generate+session", "generate"]);
    let refused = "AttributeValueInvalid in GenerateKeyPair";
    assert_eq!(answers, [format!("generate+private {refused}"), format!("generate+session {refused}"), "generate ok".into()]);
}

#[test]
fn tpm2_pkcs11_has_no_session_keys() {
    let token = Token::new("make:tpm2-pkcs11");
    let answers = token.after_login(&["generate+session", "generate", "names-of-tokens"]);
    assert_eq!(answers[..2], ["generate+session AttributeValueInvalid in GenerateKeyPair", "generate ok"]);
    assert!(answers[2].contains(r#""0000000000000000""#), "{answers:?}");
}

#[test]
fn a_yubikey_wants_its_security_officer() {
    let token = Token::new("make:yubikey");
    assert_eq!(token.after_login(&["generate", "find"]), ["generate UserTypeInvalid in GenerateKeyPair", "find ok (0, 0)"]);
}
