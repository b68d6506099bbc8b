//! [`Token`]: what a slot holds, and which of several is meant.
//!
//! A token is known by label and serial, never by its slot number: that changes with readers and restarts. One token may
//! show in several slots. None or several that fit is an error with all of them in it, never a choice.

use std::fmt;
use std::path::Path;

use cryptoki::slot::{Slot, TokenInfo};

use super::known;
use super::wanted::Wanted;
use crate::key::pin::{Tries, locked};
use crate::key::{Fault, KeyError, KeyUri, PinState, Place, PlaceListing};
use crate::text::{Hint, Printable};

/// A token, as its module describes it (`CK_TOKEN_INFO`, PKCS#11 v3.1 §3.2).
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) slot: Slot,
    pub(super) identity: Identity,
    pub(super) tries: Tries,
    pub(super) wants_login: bool,
    pub(super) protected_path: bool,
    /// Where it sits; read only for a reference that says so.
    pub(super) seat: Option<Seat>,
    initialised: bool,
    write_protected: bool,
    /// The PIN is the first one, which somebody else chose. Only said: the device knows best when it minds.
    pin_to_be_changed: bool,
}

/// A slot, as its module describes it (`CK_SLOT_INFO`, PKCS#11 v3.1 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) description: String,
    pub(super) manufacturer: String,
}

/// What stays the same when the token moves to another slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) label: String,
    pub(super) serial: String,
    pub(super) manufacturer: String,
    pub(super) model: String,
}

impl Identity {
    /// Whether the serial tells this token from others: tpm2-pkcs11 gives zeros to all of its tokens.
    pub(super) fn has_serial(&self) -> bool {
        self.serial.chars().any(|c| c != '0')
    }
}

/// What the slots of a module hold.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) tokens: Vec<Token>,
    /// Why a slot did not say what it holds. No reason to refuse the others; but what is not found may be there.
    pub(super) unread: Option<KeyError>,
}

/// Why a slot without a token in it is no candidate.
const EMPTY: &str = "not initialised";

/// What a token is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To make or delete a key.
    Write,
    /// To use one that is there.
    Use,
}

impl Token {
    pub(super) fn new(slot: Slot, info: &TokenInfo) -> Self {
        Self {
            slot,
            identity: Identity {
                label: unpadded(info.label()),
                serial: unpadded(info.serial_number()),
                manufacturer: unpadded(info.manufacturer_id()),
                model: unpadded(info.model()),
            },
            tries: if info.user_pin_locked() {
                Tries::None
            } else if info.user_pin_final_try() {
                Tries::Last
            } else if info.user_pin_count_low() {
                Tries::Enough
            } else {
                Tries::Unknown
            },
            wants_login: info.login_required(),
            protected_path: info.protected_authentication_path(),
            seat: None,
            initialised: info.token_initialized(),
            write_protected: info.write_protected(),
            pin_to_be_changed: info.user_pin_to_be_changed(),
        }
    }

    /// Why it is no candidate, if it is none.
    fn ruled_out(&self, purpose: Purpose) -> Option<&'static str> {
        if !self.initialised {
            Some(EMPTY)
        } else if !self.wants_login {
            Some("has no login")
        } else if self.write_protected && purpose == Purpose::Write {
            Some("write-protected")
        } else {
            None
        }
    }

    /// As lists show it; `module_path` goes into its reference.
    pub(super) fn listing(&self, module_path: &[u8]) -> PlaceListing {
        let Identity { label, serial, manufacturer, .. } = &self.identity;
        let mut reference = KeyUri::new("pkcs11");
        for (name, value) in [("token", label), ("serial", serial)] {
            if !value.is_empty() {
                reference.set(name, value.as_bytes());
            }
        }
        if !self.initialised {
            // It has no name yet. The number is what the tools want that give it one.
            reference = KeyUri::new("pkcs11").with("slot-id", self.slot.id().to_string().as_bytes());
        }
        let pin = match self.tries {
            _ if !self.initialised || !self.wants_login => PinState::None,
            Tries::None => PinState::Locked,
            Tries::Last => PinState::FinalTry,
            _ if self.pin_to_be_changed => PinState::Expired,
            Tries::Enough => PinState::CountLow,
            Tries::Unknown if self.protected_path => PinState::Keypad,
            Tries::Unknown => PinState::Ok,
        };
        let by_pin = match pin {
            PinState::Locked => Some("its PIN is locked".to_owned()),
            PinState::Expired => Some("its PIN must be changed first, with its own tool".to_owned()),
            PinState::Ok | PinState::CountLow | PinState::FinalTry | PinState::Keypad | PinState::None => None,
        };
        PlaceListing {
            reference: reference.with("module-path", module_path),
            place: self.place(),
            manufacturer: Printable::new(manufacturer),
            pin,
            obstacle: self.ruled_out(Purpose::Write).map(|why| self.with_advice(why)).or(by_pin),
        }
    }

    /// What rules it out, and what to do about it where that is not in the words.
    fn with_advice(&self, why: &str) -> String {
        if self.initialised {
            return why.to_owned();
        }
        format!("{why}: make a token of it with its own tool, or `pkcs11-tool --init-token --slot {}`", self.slot.id())
    }

    /// Whether it is fit for `purpose`.
    pub(super) fn is_fit_for(&self, purpose: Purpose) -> bool {
        self.ruled_out(purpose).is_none()
    }

    /// Refuses one whose PIN is locked, before anything else is tried.
    ///
    /// # Errors
    /// `pin_locked`.
    pub(super) fn must_not_be_locked(&self) -> Result<(), KeyError> {
        if self.tries == Tries::None { Err(locked(&self.to_string(), None)) } else { Ok(()) }
    }

    /// As facts show it.
    pub(super) fn place(&self) -> Place {
        let Identity { label, serial, manufacturer, model } = &self.identity;
        // The last is what tpm2-pkcs11 says of swtpm.
        let software = ["softhsm", "kryoptic", "mozilla foundation", "sw tpm"];
        let maker = format!("{manufacturer} {model}").to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        Place {
            label: Printable::new(label),
            serial: Printable::new(serial),
            model: Printable::new(model),
            software: software.iter().any(|name| maker.contains(name)),
        }
    }
}

/// Without the blanks of the standard, or the NUL that some modules fill the fields with.
pub(super) fn unpadded(text: &str) -> String {
    text.trim_end_matches(['\0', ' ']).to_owned()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// `token "edge" (serial 1f2e)`: as a person knows it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {:?}", Printable::new(&self.label))?;
        if !self.serial.is_empty() { write!(f, " (serial {})", Printable::new(&self.serial)) } else { Ok(()) }
    }
}

/// The one token of `shown` that is meant and fit for `purpose`; `module` is where they show.
///
/// # Errors
/// `token_not_found`, `token_ambiguous`, with all of them.
pub(super) fn choose(shown: Shown, wanted: &Wanted, purpose: Purpose, module: &Path) -> Result<Token, KeyError> {
    let Shown { tokens, unread } = shown;
    let fit_for = |purpose| each_once(tokens.iter().filter(|t| wanted.fits(t) && t.is_fit_for(purpose)).cloned().collect());
    let mut fitting: Vec<Token> = fit_for(Purpose::Write);
    if fitting.is_empty() {
        // One that cannot be written is good enough to use what is on it.
        fitting = fit_for(purpose);
    }
    match fitting.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(unread.unwrap_or_else(|| not_found(&each_once(tokens), &wanted.to_string(), purpose, module))),
        several => Err(ambiguous(&several.iter().collect::<Vec<_>>(), module)),
    }
}

/// None of `shown` is the `wanted` one: empty, or ` "edge"` with its space.
pub(super) fn not_found(shown: &[Token], wanted: &str, purpose: Purpose, module: &Path) -> KeyError {
    let fault = Fault::new("token_not_found", format!("module {} has no token{wanted} that can be used", module.display()));
    let hint = if shown.is_empty() {
        known::setting(module)
            .map_or_else(|| "it shows no token at all".to_owned(), |setting| format!("it shows no token at all: {setting}"))
    } else {
        let line = |t: &Token| t.ruled_out(purpose).map_or_else(|| described(t), |why| format!("{}: {why}", described(t)));
        format!("it has {}", shown.iter().map(line).collect::<Vec<_>>().join(", "))
    };
    KeyError::Selection(fault.hint(Hint::say(hint)))
}

/// All of `fitting` are meant as well as each other.
pub(super) fn ambiguous(fitting: &[&Token], module: &Path) -> KeyError {
    let all: Vec<String> = fitting.iter().map(|t| described(t)).collect();
    let fault = Fault::new(
        "token_ambiguous",
        format!("module {} has {} tokens that fit: {}", module.display(), all.len(), all.join(", ")),
    );
    KeyError::Selection(fault.hint(Hint::say("say which with --token and its serial")))
}

fn described(token: &Token) -> String {
    let Identity { label, serial, model, .. } = &token.identity;
    let serial = if serial.is_empty() { Printable::new("none") } else { Printable::new(serial) };
    format!("{:?} (serial {serial}, {})", Printable::new(label), Printable::new(model))
}

/// Each token once, in whichever slots it shows; one without a serial cannot be told from its like.
pub(super) fn each_once(shown: Vec<Token>) -> Vec<Token> {
    let mut once: Vec<Token> = Vec::with_capacity(shown.len());
    for token in shown {
        let known = token.identity.has_serial() && once.iter().any(|t| t.identity == token.identity);
        if !known {
            once.push(token);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(slot: u64, label: &str, serial: &str) -> Token {
        let identity = Identity {
            label: label.into(),
            serial: serial.into(),
            manufacturer: "SoftHSM project".into(),
            model: "SoftHSM v2".into(),
        };
        Token {
            slot: Slot::try_from(slot).unwrap(),
            identity,
            tries: Tries::Unknown,
            wants_login: true,
            protected_path: false,
            seat: None,
            initialised: true,
            write_protected: false,
            pin_to_be_changed: false,
        }
    }

    fn chosen(shown: Vec<Token>, uri: &str, purpose: Purpose) -> Result<Token, KeyError> {
        choose(Shown { tokens: shown, unread: None }, &Wanted::by(&uri.parse().unwrap()), purpose, Path::new("/m.so"))
    }

    #[test]
    fn takes_label_or_serial() {
        let shown = || vec![token(1, "edge", "aa"), token(2, "gate", "bb")];
        for uri in ["pkcs11:token=gate", "pkcs11:token=bb", "pkcs11:serial=bb", "pkcs11:token=gate;model=SoftHSM%20v2"] {
            assert_eq!(chosen(shown(), uri, Purpose::Write).unwrap().identity.serial, "bb", "{uri}");
        }
    }

    #[test]
    fn says_which_tokens_fit_when_two_do() {
        let error = chosen(vec![token(1, "edge", "aa"), token(2, "edge", "bb")], "pkcs11:token=edge", Purpose::Use).unwrap_err();
        assert_eq!(error.fault().map(|f| f.code), Some("token_ambiguous"));
        assert!(error.to_string().contains("serial aa") && error.to_string().contains("serial bb"), "{error}");
    }

    #[test]
    fn counts_a_token_once_over_its_slots() {
        assert_eq!(chosen(vec![token(1, "edge", "aa"), token(7, "edge", "aa")], "pkcs11:", Purpose::Use).unwrap().slot.id(), 1);
        for serial in ["", "0000000000000000"] {
            assert!(chosen(vec![token(1, "edge", serial), token(7, "edge", serial)], "pkcs11:", Purpose::Use).is_err());
        }
    }

    #[test]
    fn says_what_rules_a_token_out() {
        let mut locked = token(1, "edge", "aa");
        locked.write_protected = true;
        assert!(chosen(vec![locked.clone()], "pkcs11:", Purpose::Use).is_ok());
        let error = chosen(vec![locked], "pkcs11:", Purpose::Write).unwrap_err();
        let hint = &error.fault().unwrap().hint.as_ref().unwrap().say;
        assert!(hint.contains("\"edge\" (serial aa, SoftHSM v2): write-protected"), "{hint}");
    }
}
