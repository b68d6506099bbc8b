//! [`Access`]: the one road from a PIN to a device, and the login policy; without a device.
//!
//! A token locks after a few wrong PINs, for everybody. So there is never more than one *refused* login: the provider
//! reads the device's flags first and says how many [`Tries`] are left; [`Access`] asks the [`PinSource`] at most once
//! a place and calls back at most once with a PIN that has not worked yet. A PIN that was accepted may be given again.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretSlice};

use super::error::{Fault, KeyError};
use crate::text::Hint;

/// A PIN, as bytes; wiped when dropped, never printed.
pub struct Pin(SecretSlice<u8>);

impl Pin {
    /// Takes `bytes` as they came from a source: one final LF or CRLF is removed, nothing else.
    ///
    /// # Errors
    /// `pin_empty`, and `pin_unreadable` where a control character is in it, which no device takes on purpose.
    pub fn read(mut bytes: Vec<u8>, origin: &PinOrigin) -> Result<Self, KeyError> {
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        let (empty, control) = (bytes.is_empty(), bytes.iter().any(|b| *b < 0x20 || *b == 0x7f));
        let pin = Self(bytes.into());
        if empty {
            return Err(KeyError::Pin(Fault::new("pin_empty", format!("PIN from {origin} is empty; no try was used"))));
        }
        if control {
            let message = format!("PIN from {origin} has a NUL or another control character; no try was used");
            return Err(KeyError::Pin(Fault::new("pin_unreadable", message)));
        }
        Ok(pin)
    }

    /// The bytes, for the call that logs in.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Where a PIN came from; every PIN error names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinOrigin {
    /// `--pin-fd N`.
    Descriptor(i32),
    /// `--pin-file F`.
    File(PathBuf),
    /// `pin-source` in the reference.
    Reference(PathBuf),
    /// An environment variable.
    Variable(&'static str),
    /// A systemd credential.
    Credential(PathBuf),
    /// Typed at a terminal.
    Terminal,
    /// In the identity file (`--embed-pin`).
    Identity,
    /// Handed over by the program that uses the library.
    Caller,
}

impl fmt::Display for PinOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(n @ 0..1000) => write!(f, "descriptor {n}"),
            // A number so high is more likely the PIN itself, given to the wrong option.
            Self::Descriptor(_) => f.write_str("the descriptor of that number"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Reference(path) => write!(f, "{} (pin-source of the reference)", path.display()),
            Self::Variable(name) => write!(f, "{name}"),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
            Self::Terminal => f.write_str("the terminal"),
            Self::Identity => f.write_str("the identity file"),
            Self::Caller => f.write_str("the calling program"),
        }
    }
}

/// What a PIN is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinFor {
    /// The user of a token, or the auth value of a key.
    User,
    /// The owner hierarchy of a device.
    Owner,
}

/// A PIN is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The token or device, as a person knows it: `token "edge" (serial 1f2e)`.
    pub place: &'a str,
    /// Whose PIN.
    pub whose: PinFor,
    /// `pin-source` of the reference: a path or a `file:` URI (RFC 7512 §2.4).
    pub pin_source: Option<&'a str>,
}

/// Where PINs come from. The library may ask, never how; `None` means that there is nobody to ask.
pub trait PinSource: Send + Sync {
    /// The PIN that answers `question`, and where it came from.
    ///
    /// # Errors
    /// [`KeyError::Pin`] where a source is named and cannot be read: an unreadable PIN is not an empty one.
    fn pin(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError>;

    /// The same, as far as it can be had without asking a person: a key that is about to be made can do without.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    fn at_hand(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        self.pin(question)
    }
}

/// Nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPins;

impl PinSource for NoPins {
    fn pin(&self, _: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        Ok(None)
    }
}

/// One PIN that the calling program has, for whatever user's place asks. The owner of a device has none.
pub struct OnePin(SecretSlice<u8>);

impl OnePin {
    /// Takes it as it is, but for one final LF or CRLF.
    pub fn new(pin: impl Into<Vec<u8>>) -> Self {
        Self(pin.into().into())
    }
}

impl fmt::Debug for OnePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnePin(…)")
    }
}

impl PinSource for OnePin {
    fn pin(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        if question.whose == PinFor::Owner {
            return Ok(None);
        }
        Ok(Some((Pin::read(self.0.expose_secret().to_vec(), &PinOrigin::Caller)?, PinOrigin::Caller)))
    }
}

/// What a device says about tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    /// More than one is left.
    Enough,
    /// One more wrong PIN locks it.
    Last,
    /// It is locked.
    None,
    /// It does not say.
    Unknown,
}

/// What a device said to a PIN.
#[derive(Debug)]
pub enum LoginRefusal {
    /// Wrong; the native name.
    Incorrect(String),
    /// Locked, now or before; the native name.
    Locked(String),
    /// Right, but must be changed first; the native name.
    Expired(String),
    /// Not about the PIN at all.
    Other(KeyError),
}

/// What earlier runs have learnt: which PIN a place has refused, by where it came from. Never a PIN itself.
pub trait PinMemory: Send + Sync {
    /// Whether `place` has refused what `origin` held, and that has not changed since.
    fn refused_before(&self, place: &str, origin: &PinOrigin) -> bool;

    /// `place` has refused what `origin` holds.
    fn remember(&self, place: &str, origin: &PinOrigin);

    /// `place` has accepted a PIN.
    fn forget(&self, place: &str);
}

/// The login policy of one run; shared by all threads and providers of that run.
pub struct Access<'a> {
    source: &'a dyn PinSource,
    memory: Option<&'a dyn PinMemory>,
    allow_final_try: bool,
    allow_extractable: bool,
    places: Mutex<HashMap<(String, PinFor), Known>>,
}

#[derive(Clone)]
enum Known {
    /// Asked for, and given to no device yet.
    Offered(Arc<Pin>, PinOrigin),
    Accepted(Arc<Pin>),
    Refused(PinOrigin),
}

impl<'a> Access<'a> {
    /// A run's policy over `source`.
    pub fn new(source: &'a dyn PinSource) -> Self {
        Self { source, memory: None, allow_final_try: false, allow_extractable: false, places: Mutex::default() }
    }

    /// Asks `memory` before a PIN is tried, so that a service that restarts with a wrong PIN does not lock a token.
    pub fn remembering(mut self, memory: &'a dyn PinMemory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Uses an existing key that can leave its device, which is refused otherwise.
    pub fn allow_extractable(mut self, allow: bool) -> Self {
        self.allow_extractable = allow;
        self
    }

    /// Whether such a key may be used.
    pub fn allows_extractable(&self) -> bool {
        self.allow_extractable
    }

    /// Uses the last try before a lock, which is refused otherwise.
    pub fn allow_final_try(mut self, allow: bool) -> Self {
        self.allow_final_try = allow;
        self
    }

    /// The PIN that there is for the place of `question`, without using it: a new key is made with it, and one that may
    /// have none is opened with it. `None`: there is none [at hand](PinSource::at_hand). It is read once; a later
    /// [`login`](Self::login) uses the same PIN.
    ///
    /// # Errors
    /// [`KeyError::Pin`] where a source is named and cannot be read, and where its PIN was refused before.
    pub fn offer(&self, question: &Question<'_>) -> Result<Option<Arc<Pin>>, KeyError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (question.place.to_owned(), question.whose);
        match places.get(&key) {
            Some(Known::Offered(pin, _) | Known::Accepted(pin)) => Ok(Some(pin.clone())),
            Some(Known::Refused(origin)) => Err(refused(question.place, origin, "refused before in this run")),
            None => {
                let Some((pin, origin)) = self.source.at_hand(question)? else { return Ok(None) };
                let pin = Arc::new(pin);
                places.insert(key, Known::Offered(pin.clone(), origin));
                Ok(Some(pin))
            }
        }
    }

    /// A key was made with the PIN that was offered for it: it is right, whatever was refused at that place before.
    pub fn made_with_offer(&self, question: &Question<'_>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get_mut(&(question.place.to_owned(), question.whose))
            && let Known::Offered(pin, _) = known
        {
            *known = Known::Accepted(pin.clone());
            if let Some(memory) = self.memory {
                memory.forget(question.place);
            }
        }
    }

    /// Logs in to the place of `question`: at most one refused try in this run.
    ///
    /// `held` is a PIN that came with the reference itself; it goes before every source. `try_login` is called at most
    /// once with a PIN that has not worked yet, under a lock, so that threads cannot try twice.
    ///
    /// # Errors
    /// [`KeyError::Locked`] before any try where `tries` forbids it, [`KeyError::Pin`] where there is no PIN or it is
    /// refused, and whatever `try_login` says that is not about the PIN.
    pub fn login<T>(
        &self,
        question: &Question<'_>,
        tries: Tries,
        held: Option<(Arc<Pin>, PinOrigin)>,
        try_login: impl FnOnce(&Pin) -> Result<T, LoginRefusal>,
    ) -> Result<(T, Arc<Pin>), KeyError> {
        let place = question.place;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (place.to_owned(), question.whose);
        let (pin, origin) = match places.get(&key) {
            Some(Known::Refused(origin)) => return Err(refused(place, origin, "refused before in this run")),
            Some(Known::Accepted(pin)) => (pin.clone(), None),
            Some(Known::Offered(pin, origin)) => {
                self.permit(place, tries)?;
                (pin.clone(), Some(origin.clone()))
            }
            None => {
                self.permit(place, tries)?;
                let (pin, origin) = match held {
                    Some(held) => held,
                    None => self.source.pin(question)?.map(|(p, o)| (Arc::new(p), o)).ok_or_else(|| missing(question))?,
                };
                (pin, Some(origin))
            }
        };
        if let (Some(memory), Some(origin)) = (self.memory, &origin)
            && *origin != PinOrigin::Terminal
            && memory.refused_before(place, origin)
        {
            return Err(refused_before(place, origin));
        }
        match try_login(&pin) {
            Ok(done) => {
                if let Some(memory) = self.memory.filter(|_| origin.is_some()) {
                    memory.forget(place);
                }
                places.insert(key, Known::Accepted(pin.clone()));
                Ok((done, pin))
            }
            Err(LoginRefusal::Other(error)) => Err(error),
            Err(LoginRefusal::Expired(native)) => {
                let fault = Fault::new("pin_expired", format!("PIN of {place} must be changed before it can be used"));
                Err(KeyError::Locked(
                    fault.native(native).hint(Hint::say("change it with the token's own tool, then run this again")),
                ))
            }
            Err(LoginRefusal::Locked(native)) => Err(locked(place, Some(native))),
            Err(LoginRefusal::Incorrect(native)) => {
                let origin = origin.unwrap_or(PinOrigin::Caller);
                if let Some(memory) = self.memory {
                    memory.remember(place, &origin);
                }
                places.insert(key, Known::Refused(origin.clone()));
                Err(refused(place, &origin, &native))
            }
        }
    }

    fn permit(&self, place: &str, tries: Tries) -> Result<(), KeyError> {
        match tries {
            Tries::None => Err(locked(place, None)),
            Tries::Last if !self.allow_final_try => Err(KeyError::Locked(
                Fault::new("pin_final_try", format!("one more wrong PIN locks {place}; no try was used"))
                    .hint(Hint::say("if you are sure of the PIN, run this again with --allow-final-try")),
            )),
            Tries::Last | Tries::Enough | Tries::Unknown => Ok(()),
        }
    }
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("allow_final_try", &self.allow_final_try).finish_non_exhaustive()
    }
}

fn refused(place: &str, origin: &PinOrigin, native: &str) -> KeyError {
    KeyError::Pin(
        Fault::new("pin_incorrect", format!("{place} refused the PIN from {origin}"))
            .native(native)
            .hint(Hint::say("the next wrong PIN may lock it: look at the state of its PIN before you try again")),
    )
}

fn refused_before(place: &str, origin: &PinOrigin) -> KeyError {
    let message = format!("{place} has refused the PIN from {origin} before, and that has not changed; no try was used");
    KeyError::Pin(
        Fault::new("pin_refused_before", message)
            .hint(Hint::say("put the right PIN there, or try this one once more with --retry-pin")),
    )
}

/// The PIN of `place` is locked; `native` is the device's name for it, where it was asked.
pub(crate) fn locked(place: &str, native: Option<String>) -> KeyError {
    let fault = Fault::new("pin_locked", format!("the PIN of {place} is locked"));
    let fault = fault.hint(Hint::say("the token's security officer can set a new one"));
    KeyError::Locked(match native {
        Some(native) => fault.native(native),
        None => fault,
    })
}

fn missing(question: &Question<'_>) -> KeyError {
    let (what, hint) = match question.whose {
        PinFor::User => ("a PIN", "give it with --pin-file, with pin-source in the reference, or in ZITI_ENROLLER_PIN"),
        PinFor::Owner => ("its auth value", "give it with --owner-pin-file"),
    };
    KeyError::Pin(Fault::new("pin_missing", format!("{} wants {what} and none was given", question.place)).hint(Hint::say(hint)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Always;
    impl PinSource for Always {
        fn pin(&self, _: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
            Pin::read(b"1234\n".to_vec(), &PinOrigin::Caller).map(|p| Some((p, PinOrigin::Caller)))
        }
    }

    const QUESTION: Question<'_> = Question { place: "token `t`", whose: PinFor::User, pin_source: None };

    fn code(error: &KeyError) -> &'static str {
        error.fault().map_or("", |f| f.code)
    }

    #[test]
    fn never_tries_a_refused_pin_twice() {
        let access = Access::new(&Always);
        let tried = Cell::new(0);
        for _ in 0..3 {
            let result = access.login(&QUESTION, Tries::Enough, None, |_| -> Result<(), _> {
                tried.set(tried.get() + 1);
                Err(LoginRefusal::Incorrect("CKR_PIN_INCORRECT".into()))
            });
            assert_eq!(code(&result.unwrap_err()), "pin_incorrect");
        }
        assert_eq!(tried.get(), 1);
    }

    #[test]
    fn gives_an_accepted_pin_again() {
        let access = Access::new(&Always);
        for _ in 0..3 {
            let (pin, _) = access.login(&QUESTION, Tries::Enough, None, |pin| Ok(pin.expose().to_vec())).unwrap();
            assert_eq!(pin, b"1234");
        }
    }

    #[test]
    fn an_offered_pin_is_asked_for_once_and_tried_like_any_other() {
        struct Once(Mutex<bool>);
        impl PinSource for Once {
            fn pin(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
                assert!(!std::mem::replace(&mut *self.0.lock().unwrap(), true), "asked twice");
                Always.pin(question)
            }
        }
        let source = Once(Mutex::new(false));
        let access = Access::new(&source);
        assert_eq!(access.offer(&QUESTION).unwrap().unwrap().expose(), b"1234");
        assert_eq!(access.offer(&QUESTION).unwrap().unwrap().expose(), b"1234");
        let refused =
            access.login(&QUESTION, Tries::Enough, None, |_| -> Result<(), _> { Err(LoginRefusal::Incorrect("no".into())) });
        assert_eq!(code(&refused.unwrap_err()), "pin_incorrect");
        assert_eq!(code(&access.offer(&QUESTION).unwrap_err()), "pin_incorrect");
        assert!(Access::new(&NoPins).offer(&QUESTION).unwrap().is_none());
    }

    #[test]
    fn tries_nothing_when_the_flags_forbid_it() {
        for (tries, expected) in [(Tries::None, "pin_locked"), (Tries::Last, "pin_final_try")] {
            let result = Access::new(&Always).login(&QUESTION, tries, None, |_| -> Result<(), _> { panic!("tried") });
            assert_eq!(code(&result.unwrap_err()), expected);
        }
        assert!(Access::new(&Always).allow_final_try(true).login(&QUESTION, Tries::Last, None, |_| Ok(())).is_ok());
    }

    #[test]
    fn removes_one_line_end_and_nothing_else() {
        let read = |bytes: &[u8]| Pin::read(bytes.to_vec(), &PinOrigin::Caller);
        assert_eq!(read(b"a b \r\n").unwrap().expose(), b"a b ");
        assert_eq!(read("ä".as_bytes()).unwrap().expose(), "ä".as_bytes());
        assert_eq!(code(&read(b"\n").unwrap_err()), "pin_empty");
        assert_eq!(code(&read(b"1\0").unwrap_err()), "pin_unreadable");
        assert_eq!(code(&read(b"1\n\n").unwrap_err()), "pin_unreadable");
    }

    #[test]
    fn does_not_print_a_pin() {
        assert_eq!(PinOrigin::Descriptor(9).to_string(), "descriptor 9");
        assert!(!PinOrigin::Descriptor(4711).to_string().contains("4711"));
        assert_eq!(format!("{:?}", Pin::read(b"1234".to_vec(), &PinOrigin::Caller).unwrap()), "Pin(…)");
    }
}
