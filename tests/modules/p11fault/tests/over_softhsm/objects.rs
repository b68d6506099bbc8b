//! `attribute:`, `lie:`, `hide:`.

use super::Token;

#[test]
fn lies_about_attributes() {
    let private = |faults| Token::new(faults).after_login(&["generate", "private"]).remove(1);
    assert_eq!(private(""), "private ok [Extractable(false), Sensitive(true)]");
    assert_eq!(private("lie:extractable"), "private ok [Extractable(true), Sensitive(true)]");
    assert_eq!(private("lie:sensitive"), "private ok [Extractable(false), Sensitive(false)]");
}

#[test]
fn turns_the_last_bit_of_the_point() {
    let mut token = Token::new("");
    let point = |token: &Token, calls: &[&str]| token.after_login(calls).pop().unwrap();
    let truth = point(&token, &["generate", "point"]);
    token.faults = "lie:ec-point";
    let lie = point(&token, &["reopen", "point"]);
    let last = |point: &str| point.trim_end_matches("])]").rsplit(", ").next().unwrap().parse::<u8>().unwrap();
    assert_eq!(last(&truth) ^ 1, last(&lie));
    let rest = |point: &str| point.rsplit_once(", ").unwrap().0.to_owned();
    assert_eq!(rest(&truth), rest(&lie));
}

#[test]
fn hides_public_keys_however_many_there_are() {
    let mut token = Token::new("");
    // 12 pairs: more than the 10 handles that cryptoki asks for at a time, so a search goes on after a hidden batch.
    let answers = token.after_login(&[&["generate"; 12][..], &["find", "find-all"]].concat());
    assert_eq!(answers[12..], ["find ok (12, 12)", "find-all ok 24"]);
    token.faults = "hide:public";
    assert_eq!(token.after_login(&["find", "find-all"]), ["find ok (0, 12)", "find-all ok 12"]);
}

#[test]
fn shows_any_attribute_as_it_is_told() {
    let mut token = Token::new("");
    let flags = |token: &Token| token.after_login(&["generate", "flags-of-keys"]).remove(1);
    assert_eq!(flags(&token), "flags-of-keys ok ([Private(false), Local(true)], [Private(true), Local(true)])");
    token.faults = "attribute:public:CKA_PRIVATE=true;attribute:CKA_LOCAL=false";
    assert_eq!(flags(&token), "flags-of-keys ok ([Private(true), Local(false)], [Private(true), Local(false)])");
    token.faults = "attribute:private:CKA_LOCAL=unreadable;attribute:public:CKA_LOCAL=unknown";
    assert_eq!(flags(&token), "flags-of-keys ok ([Private(false)], [Private(true)])");
}

#[test]
fn an_attribute_may_be_missing_in_three_ways() {
    let length = |faults| Token::new(faults).after_login(&["generate", "length-of-local"]).remove(1);
    assert_eq!(length(""), "length-of-local ok [Available(1)]");
    assert_eq!(length("attribute:CKA_LOCAL=unreadable"), "length-of-local ok [Sensitive]");
    assert_eq!(length("attribute:CKA_LOCAL=unknown"), "length-of-local ok [TypeInvalid]");
    assert_eq!(length("attribute:CKA_LOCAL=untouched"), "length-of-local ok [TypeInvalid]");
}

#[test]
fn ids_and_labels_may_be_shown_as_any_bytes() {
    let token = Token::new("attribute:CKA_ID=0x0102;attribute:private:CKA_LABEL=empty");
    let names = token.after_login(&["generate+named", "names"]).remove(1);
    let asked_for = "[97, 115, 107, 101, 100, 32, 102, 111, 114]";
    assert_eq!(names, format!("names ok ([Id([1, 2]), Label({asked_for})], [Id([1, 2]), Label([])])"));
}

#[test]
fn turns_a_bit_of_the_modulus() {
    let mut token = Token::new("");
    let modulus = |token: &Token, calls: &[&str]| {
        let answer = token.after_login(calls).pop().unwrap();
        let bytes = answer.strip_prefix("modulus ok [Modulus([").unwrap().strip_suffix("])]").unwrap();
        bytes.split(", ").map(|byte| byte.parse::<u8>().unwrap()).collect::<Vec<_>>()
    };
    let truth = modulus(&token, &["generate+rsa", "modulus"]);
    token.faults = "lie:modulus";
    let lie = modulus(&token, &["reopen", "modulus"]);
    let (last, rest) = truth.split_last().unwrap();
    assert_eq!(lie, [rest, &[last ^ 2]].concat());
}

#[test]
fn shows_the_public_key_of_another() {
    let token = Token::new("lie:other-key");
    let point = |token: &Token| token.after_login(&["generate", "point"]).remove(1);
    // Alone it has nobody to be taken for; neither has the only one of its kind.
    let first = point(&token);
    assert!(token.after_login(&["generate+rsa", "modulus"])[1].len() > 256);
    assert_eq!(point(&token), first);
}

#[test]
fn hides_objects_of_other_classes_too() {
    assert_eq!(Token::new("hide:private").after_login(&["generate", "find"])[1], "find ok (1, 0)");
    assert_eq!(Token::new("hide:certificate").after_login(&["generate", "find"])[1], "find ok (1, 1)");
    assert_eq!(Token::new("hide:public;hide:private").after_login(&["generate", "find-all"])[1], "find-all ok 0");
}
