//! `login:`, `sign:`, and the log of logins.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{PIN, Token};

/// Up to the login.
const OPEN: [&str; 3] = ["initialize", "slots", "session"];
const KEYPAD: &str = "login:null-pin;token-flags:+CKF_PROTECTED_AUTHENTICATION_PATH";

fn opened(token: &Token, calls: &[&str]) -> Vec<String> {
    token.calls(&[&OPEN, calls].concat())[OPEN.len()..].to_vec()
}

#[test]
fn a_keypad_takes_the_pin() {
    let token = Token::new(KEYPAD);
    assert_eq!(opened(&token, &["login-null", "generate", "sign"]), ["login-null ok", "generate ok", "sign ok 64"]);
    let file = token.folder.path().join("pin");
    fs::write(&file, PIN).unwrap();
    let mut from_file = token.caller(&[&OPEN[..], &["login-null"]].concat());
    let output = from_file.env_remove("P11FAULT_PIN").env("P11FAULT_PIN_FILE", file).output().unwrap();
    assert_eq!(super::lines(&output)[3..], ["login-null ok"]);
    let mut mistyped = token.caller(&[&OPEN[..], &["login-null", "login"]].concat());
    let output = mistyped.env("P11FAULT_PIN", "mistyped").output().unwrap();
    assert_eq!(super::lines(&output)[3..], ["login-null PinIncorrect in Login", "login ok"]);
}

#[test]
fn without_a_keypad_a_pin_is_needed() {
    let token = Token::new("login:null-pin");
    assert_eq!(opened(&token, &["login-null", "login"]), ["login-null ArgumentsBad in Login", "login ok"]);
}

#[test]
fn a_login_may_not_be_needed() {
    let mut token = Token::new("");
    token.after_login(&["generate"]);
    token.faults = "login:not-needed";
    let answers = opened(&token, &["flags", "find", "reopen", "sign", "generate", "session-ro", "sign"]);
    assert_eq!(answers[..2], ["flags ok initialised", "find ok (1, 1)"]);
    assert_eq!(answers[3..], ["sign ok 64", "generate ok", "session-ro ok", "sign ok 64"]);
    assert_eq!(token.logged("C_Login"), ["1 0x0"], "only that of the run before");
}

#[test]
fn each_signature_may_want_the_pin() {
    let token = Token::new("login:context;sign:in-parts");
    let answers = token.after_login(&[
        "generate",
        "always-authenticate",
        "sign",
        "login-context",
        "sign-init",
        "sign-update",
        "sign-init",
        "login-context-wrong",
        "login-context",
        "sign-update",
        "sign-final",
        "sign-final",
        "sign-init",
        "sign-final",
    ]);
    assert_eq!(
        answers[1..],
        [
            "always-authenticate ok [AlwaysAuthenticate(true)]",
            "sign UserNotLoggedIn in Sign",
            "login-context OperationNotInitialized in Login",
            "sign-init ok",
            "sign-update UserNotLoggedIn in SignUpdate",
            "sign-init ok",
            "login-context-wrong PinIncorrect in Login",
            "login-context ok",
            "sign-update ok",
            "sign-final ok",
            "sign-final OperationNotInitialized in SignFinal",
            "sign-init ok",
            "sign-final UserNotLoggedIn in SignFinal",
        ]
    );
}

#[test]
fn each_signature_may_want_the_pin_at_the_keypad() {
    let token = Token::new("login:null-pin;token-flags:+CKF_PROTECTED_AUTHENTICATION_PATH;login:context;sign:in-parts");
    let answers = opened(&token, &["login-null", "generate", "sign-init", "login-context-null", "sign-update", "sign-final"]);
    assert_eq!(answers[3..], ["login-context-null ok", "sign-update ok", "sign-final ok"]);
}

#[test]
fn without_parts_softhsm_signs_in_one_call_only() {
    let answers = Token::new("login:context").after_login(&["generate", "sign-init", "login-context", "sign-update"]);
    assert_eq!(answers[2..], ["login-context ok", "sign-update OperationNotInitialized in SignUpdate"]);
    let answers = Token::new("sign:in-parts").after_login(&["generate", "sign-init", "sign-update", "sign-update"]);
    assert_eq!(answers[1..], ["sign-init ok", "sign-update ok", "sign-update ok"]);
}

#[test]
fn a_pin_may_have_expired() {
    let mut token = Token::new("");
    token.after_login(&["generate"]);
    token.faults = "login:expired";
    let answers = opened(&token, &["flags", "login", "generate", "reopen", "sign", "destroy", "find"]);
    assert_eq!(answers[..3], ["flags ok login initialised change", "login ok", "generate PinExpired in GenerateKeyPair"]);
    assert_eq!(answers[4..], ["sign PinExpired in SignInit", "destroy PinExpired in DestroyObject", "find ok (1, 1)"]);
}

#[test]
fn tries_are_counted_over_processes_and_shown() {
    let token = Token::new("login:tries=3");
    assert_eq!(
        opened(&token, &["flags", "login-wrong", "flags"])[1..],
        ["login-wrong PinIncorrect in Login", "flags ok login initialised low"]
    );
    assert_eq!(opened(&token, &["login", "flags"]), ["login ok", "flags ok login initialised"]);
    assert_eq!(opened(&token, &["login-wrong"]), ["login-wrong PinIncorrect in Login"]);
    assert_eq!(opened(&token, &["login-wrong", "flags"])[1], "flags ok login initialised low final");
    assert_eq!(
        opened(&token, &["login-wrong", "flags"]),
        ["login-wrong PinLocked in Login", "flags ok login initialised low locked"]
    );
    assert_eq!(opened(&token, &["login"]), ["login PinLocked in Login"]);
}

#[test]
fn tells_of_each_login_what_the_caller_could_see() {
    let token = Token::new("C_Login:1:0x30;token-flags:+0x20000");
    opened(&token, &["login", "login-wrong", "login", "login-null"]);
    let text = fs::read_to_string(token.folder.path().join("logins.log")).unwrap();
    assert!(!text.contains(PIN));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let mut told = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let at: u128 = words[1].parse().unwrap();
        assert!(at <= now && now - at < 60_000_000, "{line}");
        told.push(words[2..].join(" "));
    }
    let flags =
        |line: &str| line.split(' ').nth(1).unwrap().strip_prefix("flags=0x").map(|f| u64::from_str_radix(f, 16).unwrap());
    assert!(told.iter().all(|line| flags(line).is_some_and(|flags| flags & 0x20404 == 0x20404)), "{told:?}");
    let rest: Vec<_> = told.iter().map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rest, ["pin=given 0x30", "pin=given 0xa0", "pin=given 0x0", "pin=null 0x7"]);
    assert_eq!(token.logged("C_Login"), ["1 0x30", "2 0xa0", "3 0x0", "4 0x7"], "the same answers as in the log of calls");
}

#[test]
fn records_who_begins_and_logs_in() {
    let token = Token::new("C_Login:1:0x30");
    let record = token.folder.path().join("record");
    let mut caller = token.caller(&[&OPEN[..], &["login", "login"]].concat());
    caller.args(["--allow-final-try", "--pin-file=x"]).env("P11FAULT_RECORD", &record).env("P11FAULT_NOTE", "ott");
    caller.output().unwrap();
    let text = fs::read_to_string(record).unwrap();
    let of_one = text.split(' ').next().unwrap();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(of_one).unwrap()).collect();
    let [begins, first, second] = lines[..] else { panic!("{text}") };
    assert_eq!(begins, " begins ott p11calls --allow-final-try --pin-file");
    assert!(first.starts_with(" login ") && first.ends_with(" 0x30") && second.ends_with(" 0x0"), "{text}");
    assert!(!text.contains(PIN));
}
