//! The rules in `P11FAULT`: `;` between them, spaces around them ignored. Numbers are written `0x30`, and everywhere a
//! name of the standard (`CKA_ID`, `CKM_ECDSA`, `CKF_LOGIN_REQUIRED`) may stand, its number may stand as well.
//!
//! **One call**
//!
//! | rule | effect |
//! |---|---|
//! | `C_Sign:2:0x30` | the 2nd `C_Sign` of the process answers 0x30 and does not reach the real module |
//! | `C_Sign:*:0x30` | so does every one |
//! | `C_Sign:2:0x30-after` | it reaches the real module, whose answer is thrown away for 0x30 |
//! | `C_Sign:1:kill` | the process sends itself SIGKILL before the call reaches the real module |
//! | `C_Sign:1:kill-after` | the same when the real module has answered |
//! | `C_Sign:1:hang` | the call never comes back |
//! | `C_Sign:1:print` | a line is printed to stdout, then the call goes on |
//!
//! **Slots and tokens**
//!
//! | rule | effect |
//! |---|---|
//! | `token-flags:+CKF_WRITE_PROTECTED` | `C_GetTokenInfo` shows these flags set |
//! | `token-flags:-0x4` | and these cleared |
//! | `token:label=edge` | every token is shown with this label; so `serial`, `model` and `manufacturer` |
//! | `slots:renumber` | slots have other numbers in each process, and new ones in each list; those given before still work |
//! | `slots:twice` | every initialised token is shown in a second slot as well |
//! | `slots:accelerator` | a slot before the others with a token `accelerator`, that wants no login, refuses one (0x102), shows no objects and makes no private ones (0xd1); nShield |
//! | `mechanism:-CKM_ECDSA` | the token does not list it and refuses it (0x70) |
//! | `sessions:no-read-only=0x6` | `C_OpenSession` answers this without CKF_RW_SESSION; 0x6 is CloudHSM's |
//! | `sessions:no-read-write=0xe2` | and this with it |
//!
//! **Login**
//!
//! | rule | effect |
//! |---|---|
//! | `login:null-pin` | without a PIN, where the flags shown have CKF_PROTECTED_AUTHENTICATION_PATH, `C_Login` takes the one in `P11FAULT_PIN`, as if it were typed at the token |
//! | `login:not-needed` | CKF_LOGIN_REQUIRED is not shown, and every session is logged in from the start, with `P11FAULT_PIN` |
//! | `login:context` | private keys show CKA_ALWAYS_AUTHENTICATE; between `C_SignInit` and `C_Sign`, `C_SignUpdate` or `C_SignFinal` they want a `C_Login` as CKU_CONTEXT_SPECIFIC with the PIN that the user gave in this process, or else the signature ends with 0x101 |
//! | `login:expired` | CKF_USER_PIN_TO_BE_CHANGED is shown; after a login keys are not made, used or deleted (0xa3) |
//! | `login:tries=3` | the third refused PIN in a row locks the user out (0xa4), and the flags tell how near that is; `P11FAULT_STATE` keeps the count over processes |
//! | `sign:in-parts` | `C_SignUpdate` and `C_SignFinal` work for mechanisms that the real module signs with `C_Sign` alone |
//!
//! **Objects.** A class, `public:`, `private:` or `certificate:`, may stand before an attribute: only for those.
//!
//! | rule | effect |
//! |---|---|
//! | `attribute:private:CKA_SENSITIVE=false` | `C_GetAttributeValue` shows this value: `true`, `false`, `empty`, or bytes as `0x0102` |
//! | `attribute:CKA_LOCAL=unreadable` | it may not be read: CKR_ATTRIBUTE_SENSITIVE |
//! | `attribute:CKA_LOCAL=unknown` | there is no such attribute: CKR_ATTRIBUTE_TYPE_INVALID |
//! | `attribute:CKA_LOCAL=untouched` | the same from a module that leaves the length as it was |
//! | `lie:extractable`, `lie:sensitive` | short for `attribute:private:CKA_EXTRACTABLE=true` and `attribute:private:CKA_SENSITIVE=false` |
//! | `lie:ec-point` | the last bit of CKA_EC_POINT turned: another point, and not one of the curve |
//! | `lie:modulus` | the last but one bit of CKA_MODULUS turned: another number, and still odd |
//! | `lie:other-key` | public keys show the key of another one of their kind, where there is one |
//! | `hide:public` | `C_FindObjects` finds no public keys; so `private` and `certificate` |
//!
//! **New keys**
//!
//! | rule | effect |
//! |---|---|
//! | `generate:refuse:CKA_ID:0x13` | `C_GenerateKeyPair` answers this where a template has the attribute |
//! | `generate:refuse:public:CKA_PRIVATE=false:0x13` | where it has this value |
//! | `generate:demand:CKA_TOKEN=true:0x13` | where it does not have it |
//! | `generate:replace:CKA_ID=first-byte` | of the id that is asked for the key gets the first byte |
//! | `generate:replace:private:CKA_LABEL=Private key 1` | and this label whatever is asked for; bytes as `0x0102`, `true`, `false`; `nothing`: it is left out |
//!
//! **Makes**, which stand for several of these rules: `make:cloudhsm`, `make:cloud-kms`, `make:luna-cloud`,
//! `make:nshield`, `make:tpm2-pkcs11`, `make:yubihsm`, `make:yubikey`; see `MAKES`.
//!
//! Of several rules for one function the first that fits the call counts, so `C_Sign:1:print;C_Sign:*:0x30` works; so it
//! is for an attribute. A rule that an earlier one leaves nothing to do is refused, as is everything that is not in the
//! tables.
//!
//! Traps. cryptoki calls `C_Sign` twice for a signature, first for the length: the n-th signature is call 2n. And the
//! standard ends a signature when `C_Sign` fails, but a real module that never heard of the call has it still open and
//! answers the next `C_SignInit` of that session with CKR_OPERATION_ACTIVE: `0x30-after` is the faithful failure there.
//! What is shown of a slot, a token or an object is not what a search compares with: `C_FindObjectsInit` sees the truth.

use cryptoki_sys::*;

use crate::names;

/// What stands behind `make:`.
const MAKES: &[(&str, &str)] = &[
    // OpenSC/libp11#412; the AWS guide calls it an issue of SDK 5.
    ("cloudhsm", "sessions:no-read-only=0x6"),
    (
        "cloud-kms",
        "login:not-needed;\
         generate:replace:CKA_ID=projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
    ),
    ("luna-cloud", "generate:demand:CKA_PRIVATE=true:0xd1;generate:demand:private:CKA_SENSITIVE=true:0xd1"),
    ("nshield", "slots:accelerator"),
    ("tpm2-pkcs11", "generate:demand:CKA_TOKEN=true:0x13;token:serial=0000000000000000"),
    (
        "yubihsm",
        "generate:demand:private:CKA_TOKEN=true:0x13;generate:refuse:public:CKA_EXTRACTABLE=false:0x13;\
         generate:refuse:public:CKA_PRIVATE=true:0x13",
    ),
    // Only its security officer makes keys.
    ("yubikey", "C_GenerateKeyPair:*:0x103"),
];

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Answer(CK_RV),
    AnswerAfter(CK_RV),
    Kill,
    KillAfter,
    Hang,
    Print,
}

/// What is shown of every token.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Token {
    pub set_flags: CK_FLAGS,
    pub clear_flags: CK_FLAGS,
    pub label: Option<String>,
    pub serial: Option<String>,
    pub model: Option<String>,
    pub manufacturer: Option<String>,
}

/// Which slots there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Slots {
    pub renumber: bool,
    pub twice: bool,
    pub accelerator: bool,
}

/// What sessions and logins want.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Login {
    pub null_pin: bool,
    pub not_needed: bool,
    pub context: bool,
    pub expired: bool,
    pub tries: Option<u32>,
    pub in_parts: bool,
    pub no_read_only: Option<CK_RV>,
    pub no_read_write: Option<CK_RV>,
}

/// An attribute, of objects of one class or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    class: Option<CK_OBJECT_CLASS>,
    attribute: CK_ATTRIBUTE_TYPE,
}

impl Which {
    pub fn fits(&self, class: Option<CK_OBJECT_CLASS>, attribute: CK_ATTRIBUTE_TYPE) -> bool {
        self.attribute == attribute && (self.class.is_none() || self.class == class)
    }

    fn covers(&self, other: &Self) -> bool {
        self.fits(other.class, other.attribute)
    }

    pub fn attribute(&self) -> CK_ATTRIBUTE_TYPE {
        self.attribute
    }

    /// Whether it is about objects of this class.
    pub fn is_of(&self, class: CK_OBJECT_CLASS) -> bool {
        self.class.is_none_or(|only| only == class)
    }
}

/// What `C_GetAttributeValue` says of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Value(Vec<u8>),
    Unreadable,
    Unknown,
    Untouched,
}

/// What is not so about the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Objects {
    shown: Vec<(Which, Shown)>,
    pub ec_point: bool,
    pub modulus: bool,
    pub other_key: bool,
    pub hidden: Vec<CK_OBJECT_CLASS>,
}

impl Objects {
    pub fn shown(&self, class: Option<CK_OBJECT_CLASS>, attribute: CK_ATTRIBUTE_TYPE) -> Option<&Shown> {
        self.shown.iter().find(|(which, _)| which.fits(class, attribute)).map(|(_, shown)| shown)
    }

    /// Whether all is shown as it is.
    pub fn are_true(&self) -> bool {
        self.shown.is_empty() && !self.ec_point && !self.modulus && !self.other_key
    }
}

/// What is done about an attribute of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Answers where it is there, with this value or with any.
    Refuse(Option<bool>, CK_RV),
    /// Answers where it is not there with this value.
    Demand(bool, CK_RV),
    FirstByte,
    Replace(Vec<u8>),
    LeaveOut,
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    function: &'static str,
    /// `None`: every call.
    nth: Option<u64>,
    action: Action,
}

/// All that `P11FAULT` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rules {
    faults: Vec<Fault>,
    pub token: Token,
    pub slots: Slots,
    pub login: Login,
    pub objects: Objects,
    pub templates: Vec<(Which, Asked)>,
    /// Mechanisms that the token does not have.
    pub without: Vec<CK_MECHANISM_TYPE>,
}

const NO_RULE: &str = "no such rule";
const NOTHING_TO_DO: &str = "an earlier rule leaves it nothing to do";

type Refused = Result<(), &'static str>;

impl Rules {
    /// `functions`: the names that a rule may use.
    pub fn parse(text: &str, functions: &'static [&'static str]) -> Result<Self, String> {
        let mut rules = Self::default();
        for rule in text.split(';').map(str::trim).filter(|rule| !rule.is_empty()) {
            let made = match rule.strip_prefix("make:") {
                Some(make) => match MAKES.iter().find(|(name, _)| *name == make) {
                    Some((_, meant)) => meant.split(';').try_for_each(|rule| rules.add(rule, functions)),
                    None => Err("no such make"),
                },
                None => rules.add(rule, functions),
            };
            made.map_err(|why| format!("P11FAULT rule `{rule}`: {why}"))?;
        }
        Ok(rules)
    }

    /// What to do about the `n`-th call of `function`.
    pub fn action(&self, function: &str, n: u64) -> Option<Action> {
        let fits = |fault: &&Fault| fault.function == function && fault.nth.is_none_or(|nth| nth == n);
        self.faults.iter().find(fits).map(|fault| fault.action)
    }

    /// Whether a PIN of p11fault's own is needed.
    pub fn wants_pin(&self) -> bool {
        self.login.null_pin || self.login.not_needed
    }

    /// Whether `P11FAULT_STATE` is needed.
    pub fn wants_state(&self) -> bool {
        self.login.tries.is_some()
    }

    fn add(&mut self, rule: &str, functions: &'static [&'static str]) -> Refused {
        let (subject, rest) = rule.split_once(':').ok_or(NO_RULE)?;
        match subject {
            "token-flags" => self.token_flags(rest),
            "token" => self.token_text(rest),
            "slots" => self.slots(rest),
            "mechanism" => {
                let mechanism = rest.strip_prefix('-').ok_or("mechanisms can only be taken away: -CKM_…")?;
                add_once(&mut self.without, names::mechanism(mechanism).ok_or("no such mechanism")?)
            }
            "sessions" => self.sessions(rest),
            "login" => self.logins(rest),
            "sign" if rest == "in-parts" => turn_on(&mut self.login.in_parts),
            "attribute" => self.attribute(rest),
            "lie" => self.lie(rest),
            "hide" => add_once(&mut self.objects.hidden, names::class(rest).ok_or("public, private or certificate")?),
            "generate" => self.template(rest),
            function => {
                let function = functions.iter().find(|name| **name == function);
                self.fault(function.ok_or("no such function")?, rest)
            }
        }
    }

    fn fault(&mut self, function: &'static str, rest: &str) -> Refused {
        let (nth, action) = rest.split_once(':').ok_or(NO_RULE)?;
        let nth = match nth {
            "*" => None,
            number => Some(number.parse().ok().filter(|n| *n > 0).ok_or("which call: 1, 2, … or *")?),
        };
        let action = match action {
            "kill" => Action::Kill,
            "kill-after" => Action::KillAfter,
            "hang" => Action::Hang,
            "print" => Action::Print,
            rv => match rv.strip_suffix("-after") {
                Some(rv) => Action::AnswerAfter(answer(rv)?),
                None => Action::Answer(answer(rv)?),
            },
        };
        let covers = |fault: &Fault| fault.function == function && (fault.nth.is_none() || fault.nth == nth);
        if self.faults.iter().any(covers) {
            return Err(NOTHING_TO_DO);
        }
        self.faults.push(Fault { function, nth, action });
        Ok(())
    }

    fn token_flags(&mut self, rest: &str) -> Refused {
        let flags = |text| names::token_flags(text).ok_or("no such flag");
        match rest.split_at_checked(1) {
            Some(("+", name)) => self.token.set_flags |= flags(name)?,
            Some(("-", name)) => self.token.clear_flags |= flags(name)?,
            _ => return Err("flags begin with + or -"),
        }
        Ok(())
    }

    fn token_text(&mut self, rest: &str) -> Refused {
        let token = &mut self.token;
        let (what, text) = rest.split_once('=').ok_or(NO_RULE)?;
        let (field, room) = match what {
            "label" => (&mut token.label, 32),
            "manufacturer" => (&mut token.manufacturer, 32),
            "model" => (&mut token.model, 16),
            "serial" => (&mut token.serial, 16),
            _ => return Err("label, serial, model or manufacturer"),
        };
        if text.len() > room {
            return Err("it is too long");
        }
        set_once(field, text.to_owned())
    }

    fn slots(&mut self, rest: &str) -> Refused {
        match rest {
            "renumber" => turn_on(&mut self.slots.renumber),
            "twice" => turn_on(&mut self.slots.twice),
            "accelerator" => turn_on(&mut self.slots.accelerator),
            _ => Err(NO_RULE),
        }
    }

    fn sessions(&mut self, rest: &str) -> Refused {
        match rest.split_once('=') {
            Some(("no-read-only", rv)) => set_once(&mut self.login.no_read_only, answer(rv)?),
            Some(("no-read-write", rv)) => set_once(&mut self.login.no_read_write, answer(rv)?),
            _ => Err(NO_RULE),
        }
    }

    fn logins(&mut self, rest: &str) -> Refused {
        let login = &mut self.login;
        match rest {
            "null-pin" => turn_on(&mut login.null_pin),
            "not-needed" => {
                self.token.clear_flags |= CKF_LOGIN_REQUIRED;
                turn_on(&mut login.not_needed)
            }
            "expired" => {
                self.token.set_flags |= CKF_USER_PIN_TO_BE_CHANGED;
                turn_on(&mut login.expired)
            }
            "context" => {
                let which = Which { class: Some(CKO_PRIVATE_KEY), attribute: CKA_ALWAYS_AUTHENTICATE };
                // Where a rule has said before what the attribute shows, that is what is wanted.
                if !self.objects.shown.iter().any(|(known, _)| known.covers(&which)) {
                    self.objects.shown.push((which, Shown::Value(vec![CK_TRUE])));
                }
                turn_on(&mut login.context)
            }
            _ => {
                let tries = rest.strip_prefix("tries=").ok_or(NO_RULE)?;
                set_once(&mut login.tries, tries.parse().ok().filter(|n| *n > 0).ok_or("how many: 1, 2, …")?)
            }
        }
    }

    fn attribute(&mut self, rest: &str) -> Refused {
        let (which, value) = rest.split_once('=').ok_or("which value")?;
        let which = which_attribute(which)?;
        let shown = match value {
            "unreadable" => Shown::Unreadable,
            "unknown" => Shown::Unknown,
            "untouched" => Shown::Untouched,
            "empty" => Shown::Value(Vec::new()),
            value => Shown::Value(match truth(value) {
                Some(_) if !names::is_boolean(which.attribute) => return Err("it is neither true nor false"),
                Some(truth) => vec![byte(truth)],
                None => bytes(value).ok_or("no such value")?,
            }),
        };
        self.show(which, shown)
    }

    fn show(&mut self, which: Which, shown: Shown) -> Refused {
        if self.objects.shown.iter().any(|(known, _)| known.covers(&which)) {
            return Err(NOTHING_TO_DO);
        }
        self.objects.shown.push((which, shown));
        Ok(())
    }

    fn lie(&mut self, rest: &str) -> Refused {
        let of_private = |attribute| Which { class: Some(CKO_PRIVATE_KEY), attribute };
        match rest {
            "extractable" => self.show(of_private(CKA_EXTRACTABLE), Shown::Value(vec![CK_TRUE])),
            "sensitive" => self.show(of_private(CKA_SENSITIVE), Shown::Value(vec![CK_FALSE])),
            "ec-point" => turn_on(&mut self.objects.ec_point),
            "modulus" => turn_on(&mut self.objects.modulus),
            "other-key" => turn_on(&mut self.objects.other_key),
            _ => Err(NO_RULE),
        }
    }

    fn template(&mut self, rest: &str) -> Refused {
        let (verb, rest) = rest.split_once(':').ok_or(NO_RULE)?;
        let (which, asked) = match verb {
            "replace" => {
                let (which, value) = rest.split_once('=').ok_or("by what")?;
                let which = which_attribute(which)?;
                let asked = match value {
                    "first-byte" => Asked::FirstByte,
                    "nothing" => Asked::LeaveOut,
                    value => Asked::Replace(match truth(value).filter(|_| names::is_boolean(which.attribute)) {
                        Some(truth) => vec![byte(truth)],
                        None => bytes(value).unwrap_or_else(|| value.as_bytes().to_vec()),
                    }),
                };
                (which, asked)
            }
            "refuse" | "demand" => {
                let (what, rv) = rest.rsplit_once(':').ok_or("no answer")?;
                let rv = answer(rv)?;
                let (which, value) = match what.split_once('=') {
                    Some((which, value)) => (which_attribute(which)?, Some(truth(value).ok_or("true or false")?)),
                    None => (which_attribute(what)?, None),
                };
                if value.is_some() && !names::is_boolean(which.attribute) {
                    return Err("it is neither true nor false");
                }
                match (verb, value) {
                    ("refuse", value) => (which, Asked::Refuse(value, rv)),
                    (_, Some(value)) => (which, Asked::Demand(value, rv)),
                    (_, None) => return Err("which value"),
                }
            }
            _ => return Err(NO_RULE),
        };
        add_once(&mut self.templates, (which, asked))
    }
}

fn turn_on(switch: &mut bool) -> Refused {
    if std::mem::replace(switch, true) { Err(NOTHING_TO_DO) } else { Ok(()) }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Refused {
    if place.replace(value).is_some() { Err(NOTHING_TO_DO) } else { Ok(()) }
}

fn add_once<T: PartialEq>(list: &mut Vec<T>, value: T) -> Refused {
    if list.contains(&value) {
        return Err(NOTHING_TO_DO);
    }
    list.push(value);
    Ok(())
}

/// `CKA_ID`, `private:CKA_ID`.
fn which_attribute(text: &str) -> Result<Which, &'static str> {
    let (class, attribute) = match text.split_once(':') {
        Some((class, attribute)) => (Some(names::class(class).ok_or("public, private or certificate")?), attribute),
        None => (None, text),
    };
    Ok(Which { class, attribute: names::attribute(attribute).ok_or("no such attribute")? })
}

fn truth(text: &str) -> Option<bool> {
    text.parse().ok()
}

fn byte(truth: bool) -> u8 {
    if truth { CK_TRUE } else { CK_FALSE }
}

/// `0x0102`, of any length but none.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").filter(|d| !d.is_empty() && d.len() % 2 == 0)?;
    let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok()).collect()
}

fn answer(text: &str) -> Result<CK_RV, &'static str> {
    names::number(text).ok_or("no such action, and no number like 0x30")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &[&str] = &["C_Initialize", "C_Sign", "C_SignInit", "C_GenerateKeyPair"];

    fn parse(text: &str) -> Rules {
        Rules::parse(text, FUNCTIONS).unwrap()
    }

    #[test]
    fn nothing_asked_is_nothing_done() {
        assert_eq!(parse(""), Rules::default());
        assert_eq!(parse(" ; ;"), Rules::default());
        assert_eq!(parse("").action("C_Sign", 1), None);
    }

    #[test]
    fn a_numbered_rule_is_for_that_call_of_that_function() {
        let rules = parse("C_Sign:2:0x30");
        assert_eq!(rules.action("C_Sign", 1), None);
        assert_eq!(rules.action("C_Sign", 2), Some(Action::Answer(0x30)));
        assert_eq!(rules.action("C_Sign", 3), None);
        assert_eq!(rules.action("C_SignInit", 2), None);
    }

    #[test]
    fn a_star_is_for_every_call() {
        let rules = parse("C_Sign:*:0x05");
        assert!((1..100).all(|n| rules.action("C_Sign", n) == Some(Action::Answer(5))));
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = parse("C_Sign:1:print; C_Sign:*:0x30");
        assert_eq!(rules.action("C_Sign", 1), Some(Action::Print));
        assert_eq!(rules.action("C_Sign", 2), Some(Action::Answer(0x30)));
    }

    #[test]
    fn every_action_has_its_word() {
        for (word, action) in [
            ("kill", Action::Kill),
            ("kill-after", Action::KillAfter),
            ("hang", Action::Hang),
            ("print", Action::Print),
            ("0xa0", Action::Answer(0xa0)),
            ("0xa0-after", Action::AnswerAfter(0xa0)),
            ("0x80000001", Action::Answer(0x8000_0001)),
        ] {
            assert_eq!(parse(&format!("C_GenerateKeyPair:1:{word}")).action("C_GenerateKeyPair", 1), Some(action));
        }
    }

    #[test]
    fn lies_add_up() {
        let rules = parse("token-flags:+0x40000;token-flags:+0x10000;token-flags:-0x4;lie:extractable;hide:public");
        assert_eq!((rules.token.set_flags, rules.token.clear_flags), (0x50000, 4));
        assert_eq!(rules.objects.shown(Some(CKO_PRIVATE_KEY), CKA_EXTRACTABLE), Some(&Shown::Value(vec![1])));
        assert_eq!(rules.objects.shown(Some(CKO_PUBLIC_KEY), CKA_EXTRACTABLE), None);
        assert_eq!(rules.objects.hidden, [CKO_PUBLIC_KEY]);
        assert!(parse("lie:ec-point").objects.ec_point);
    }

    #[test]
    fn names_and_numbers_are_the_same() {
        for (name, number) in [
            ("token-flags:+CKF_LOGIN_REQUIRED", "token-flags:+0x4"),
            ("attribute:CKA_LOCAL=unknown", "attribute:0x163=unknown"),
            ("mechanism:-CKM_ECDSA", "mechanism:-0x1041"),
            ("generate:refuse:CKA_ID:0x13", "generate:refuse:0x102:0x13"),
        ] {
            assert_eq!(parse(name), parse(number));
        }
    }

    #[test]
    fn the_first_rule_for_an_attribute_counts() {
        let rules = parse("attribute:private:CKA_LOCAL=false;attribute:CKA_LOCAL=0x0102");
        assert_eq!(rules.objects.shown(Some(CKO_PRIVATE_KEY), CKA_LOCAL), Some(&Shown::Value(vec![0])));
        assert_eq!(rules.objects.shown(Some(CKO_PUBLIC_KEY), CKA_LOCAL), Some(&Shown::Value(vec![1, 2])));
    }

    #[test]
    fn a_context_login_shows_its_attribute_unless_told_otherwise() {
        let shown = |rules: &str| parse(rules).objects.shown(Some(CKO_PRIVATE_KEY), CKA_ALWAYS_AUTHENTICATE).cloned();
        assert_eq!(shown("login:context"), Some(Shown::Value(vec![1])));
        assert_eq!(shown("attribute:CKA_ALWAYS_AUTHENTICATE=unknown;login:context"), Some(Shown::Unknown));
    }

    #[test]
    fn every_make_stands_for_rules() {
        for (make, _) in MAKES {
            assert_ne!(parse(&format!("make:{make}")), Rules::default(), "{make}");
        }
        let text = "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";
        assert_eq!(parse("make:cloud-kms").templates[0].1, Asked::Replace(text.into()));
    }

    #[test]
    fn refuses_everything_else_and_names_it() {
        for rule in [
            "C_Sing:1:kill",
            "C_Sign",
            "C_Sign:1",
            "C_Sign:1:kill:2",
            "C_Sign:0:kill",
            "C_Sign:-1:kill",
            "C_Sign::kill",
            "C_Sign:x:kill",
            "C_Sign:1:Kill",
            "C_Sign:1:48",
            "C_Sign:1:0x",
            "C_Sign:1:0x-after",
            "C_Sign:1:hang-after",
            "C_Sign:1:0x+3",
            "C_Sign:1:0x1ffffffffffffffff",
            "c_sign:1:kill",
            "token-flags:0x4",
            "token-flags:",
            "token-flags:+4",
            "lie:extractible",
            "lie:",
            "hide:secret",
            "token:label",
            "token:colour=red",
            "token:serial=12345678901234567",
            "slots:thrice",
            "mechanism:CKM_ECDSA",
            "mechanism:-CKM_EDCSA",
            "sessions:no-read-only",
            "sessions:no-read-only=6",
            "login:tries=0",
            "login:null",
            "sign:whole",
            "attribute:CKA_SENSITIVE",
            "attribute:CKA_SENSITIVE=maybe",
            "attribute:CKA_ID=true",
            "attribute:secret:CKA_ID=empty",
            "attribute:CKA_IDS=empty",
            "attribute:CKA_ID=0x012",
            "attribute:CKA_ID=0x+1+2",
            "generate:refuse:CKA_ID",
            "generate:refuse:CKA_ID=true:0x13",
            "generate:demand:CKA_TOKEN:0x13",
            "generate:replace:CKA_ID",
            "generate:forget:CKA_ID",
            "make:softhsm",
            "kill",
            "é",
        ] {
            let refused = Rules::parse(&format!("C_Initialize:1:print;{rule}"), FUNCTIONS);
            assert!(refused.as_ref().is_err_and(|why| why.contains(&format!("`{rule}`"))), "{rule}: {refused:?}");
        }
    }

    #[test]
    fn refuses_a_rule_that_never_comes_into_force() {
        for rules in [
            "C_Sign:1:kill;C_Sign:1:hang",
            "C_Sign:*:kill;C_Sign:7:hang",
            "C_Sign:*:kill;C_Sign:*:kill",
            "attribute:CKA_LOCAL=true;attribute:private:CKA_LOCAL=false",
            "slots:twice;slots:twice",
            "token:label=a;token:label=b",
            "hide:public;hide:public",
            "make:nshield;slots:accelerator",
            "generate:refuse:CKA_ID:0x13;generate:refuse:CKA_ID:0x13",
        ] {
            assert!(Rules::parse(rules, FUNCTIONS).is_err_and(|why| why.contains("nothing to do")), "{rules}");
        }
    }
}
