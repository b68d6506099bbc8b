//! `token-flags:`, `token:`, `slots:`, `mechanism:`, `sessions:`.

use super::Token;

const SHOWN: [&str; 2] = ["initialize", "slots"];

#[test]
fn shows_token_flags_that_are_not_so() {
    let flags = |faults| Token::new(faults).after_login(&["flags"]).remove(0);
    assert_eq!(flags(""), "flags ok login initialised");
    assert_eq!(flags("token-flags:+0x20000;token-flags:-0x4"), "flags ok initialised final");
    assert_eq!(
        flags("token-flags:+CKF_PROTECTED_AUTHENTICATION_PATH;token-flags:+CKF_WRITE_PROTECTED;token-flags:+CKF_USER_PIN_LOCKED"),
        "flags ok login keypad protected initialised locked"
    );
    assert_eq!(Token::new("token-flags:-CKF_TOKEN_INITIALIZED").calls(&SHOWN)[1], "slots ok 0");
}

#[test]
fn shows_tokens_by_another_name() {
    let token = Token::new("token:label=edge;token:serial=0000000000000000;token:model=");
    assert_eq!(
        token.calls(&["initialize", "slots", "names-of-tokens"])[2],
        r#"names-of-tokens ok [("edge", "0000000000000000", "")]"#
    );
}

#[test]
fn several_slots_may_show_one_label() {
    let token = Token::new("token:label=edge");
    token.add("another");
    let answers = token.calls(&["initialize", "slots", "names-of-tokens"]);
    assert_eq!(answers[1], "slots ok 2");
    assert_eq!(answers[2].matches(r#"("edge", "#).count(), 2, "{answers:?}");
}

#[test]
fn slots_have_other_numbers_in_each_process_and_list() {
    let mut token = Token::new("");
    let numbers = |token: &Token| token.calls(&["initialize", "slots", "slot-numbers", "slots", "slot-numbers"]);
    let truth = numbers(&token);
    assert_eq!(truth[2], truth[4]);
    token.faults = "slots:renumber";
    let (one, other) = (numbers(&token), numbers(&token));
    let seen: std::collections::BTreeSet<_> = [&truth[2], &one[2], &one[4], &other[2], &other[4]].into();
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn a_slot_number_works_after_a_newer_list_was_made() {
    let token = Token::new("slots:renumber");
    // p11calls keeps the number of the first list in its session; `slots` makes further lists.
    let answers = token.after_login(&["slot-numbers", "slot-of-session", "slots", "generate", "sign", "slot-of-session"]);
    assert_eq!((&*answers[3], &*answers[4]), ("generate ok", "sign ok 64"));
    assert_eq!(answers[1], answers[5]);
    assert_eq!(answers[0].replace("slot-numbers ok [", "slot-of-session ok ").replace(']', ""), answers[1]);
}

#[test]
fn one_token_may_be_in_two_slots() {
    let token = Token::new("slots:twice");
    let answers = token.after_login(&["generate", "names-of-tokens", "second-slot", "session", "find", "slot-of-session"]);
    let names = answers[1].strip_prefix("names-of-tokens ok [").unwrap().strip_suffix(']').unwrap();
    let (one, other) = names.split_once("), ").unwrap();
    assert_eq!(format!("{one})"), other);
    // The login is the token's, so it holds in the second slot as well.
    assert_eq!(answers[4], "find ok (1, 1)");
    let numbers = token.calls(&["initialize", "slots", "slot-numbers"]).remove(2);
    assert!(numbers.ends_with(&format!(", {}]", answers[5].strip_prefix("slot-of-session ok ").unwrap())), "{numbers}");
}

#[test]
fn an_accelerator_wants_no_login_and_keeps_nothing() {
    let token = Token::new("make:nshield");
    let calls = ["initialize", "slots", "names-of-tokens", "flags", "session", "login", "generate", "find"];
    let answers = token.calls(&calls);
    assert_eq!(answers[1], "slots ok 2");
    assert!(answers[2].starts_with(r#"names-of-tokens ok [("accelerator", "accelerator", "#), "{answers:?}");
    assert_eq!(answers[3], "flags ok initialised");
    assert_eq!(answers[5], "login UserPinNotInitialized in Login");
    assert_eq!(answers[6], "generate TemplateInconsistent in GenerateKeyPair");
    let answers = token.calls(&["initialize", "slots", "second-slot", "flags", "session", "login", "generate", "find"]);
    assert_eq!(answers[3..], ["flags ok login initialised", "session ok", "login ok", "generate ok", "find ok (1, 1)"]);
    assert_eq!(token.calls(&calls)[7], "find ok (0, 0)");
}

#[test]
fn a_mechanism_may_be_missing() {
    let mut token = Token::new("");
    let calls = ["mechanisms", "mechanism-info", "generate", "sign"];
    assert_eq!(token.after_login(&calls), ["mechanisms ok [true, true, true]", "mechanism-info ok", "generate ok", "sign ok 64"]);
    token.faults = "mechanism:-CKM_ECDSA;mechanism:-CKM_RSA_PKCS_PSS";
    assert_eq!(
        token.after_login(&calls),
        [
            "mechanisms ok [false, false, true]",
            "mechanism-info MechanismInvalid in GetMechanismInfo",
            "generate ok",
            "sign MechanismInvalid in SignInit"
        ]
    );
    token.faults = "mechanism:-CKM_EC_KEY_PAIR_GEN";
    assert_eq!(token.after_login(&["generate"]), ["generate MechanismInvalid in GenerateKeyPair"]);
}

#[test]
fn a_token_may_have_no_read_only_sessions() {
    let token = Token::new("make:cloudhsm");
    let answers = token.calls(&[&SHOWN[..], &["session-ro", "session"]].concat());
    assert_eq!(answers[2..], ["session-ro FunctionFailed in OpenSession", "session ok"]);
}

#[test]
fn or_no_others() {
    let token = Token::new("sessions:no-read-write=0xe2");
    let answers = token.calls(&[&SHOWN[..], &["session-ro", "session"]].concat());
    assert_eq!(answers[2..], ["session-ro ok", "session TokenWriteProtected in OpenSession"]);
}
