//! [`OpenToken`]: a token that we are logged in to.
//!
//! The only place that calls C_Login. A login belongs to the process and lasts while one session is open. A session that
//! the device has lost is replaced once, with the PIN that was accepted before; a PIN that is refused then is never
//! given again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use super::error::{Failure, is_lost, rv, rv_name, translate};
use super::module::Module;
use super::pool::{Lent, Mode, Pool, close};
use super::token::Token;
use crate::key::call::doing;
use crate::key::pin::{LoginRefusal, PinFor, Question, Tries, locked};
use crate::key::{Access, Fault, KeyError, Pin, PinOrigin};
use crate::text::Hint;

/// A token that we are logged in to.
#[derive(Debug)]
pub(super) struct OpenToken {
    module: Arc<Module>,
    token: Token,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    /// Whether the login of this opening has worked.
    logged_in: bool,
    pin: Credential,
}

/// How we got in, and get in again.
#[derive(Clone, Debug)]
enum Credential {
    /// No login, or somebody else in this process had logged in.
    None,
    /// The token has a keypad of its own.
    Keypad,
    Pin(Arc<Pin>),
    /// It was refused at a later opening.
    Spent,
}

impl OpenToken {
    /// Opens a session and logs in, with at most one PIN.
    ///
    /// # Errors
    /// What [`Access::login`] says, and what the device says.
    pub(super) fn open(
        module: Arc<Module>,
        token: Token,
        access: &Access<'_>,
        pin_source: Option<&str>,
        held: Option<(Arc<Pin>, PinOrigin)>,
    ) -> Result<Arc<Self>, KeyError> {
        let place = token.to_string();
        let mut pool = Pool::at(token.slot);
        let (mode, session) = pool.new_session(&module, Mode::Read).map_err(|e| translate(&e, &place))?;
        let login = || -> Result<Credential, KeyError> {
            if !token.wants_login || is_logged_in(&session) {
                return Ok(Credential::None);
            }
            if token.protected_path {
                login_at_keypad(&session, &token, &place)?;
                return Ok(Credential::Keypad);
            }
            let question = Question { place: &place, whose: PinFor::User, pin_source };
            let ((), pin) =
                access.login(&question, token.tries, held, |pin| login(&session, pin).map_err(|e| refusal(&e, &place)))?;
            Ok(Credential::Pin(pin))
        };
        match login() {
            Ok(pin) => {
                pool.add((mode, session));
                let state = Mutex::new(State { pool, logged_in: true, pin });
                Ok(Arc::new(Self { module, token, state, returned: Condvar::new() }))
            }
            Err(error) => {
                close(session);
                Err(error)
            }
        }
    }

    /// Whether this is `token` of `module`, in whichever slot.
    pub(super) fn is(&self, module: &Module, token: &Token) -> bool {
        // Without a serial only the slot tells tokens apart.
        let told_apart = token.identity.has_serial() || self.slot() == token.slot;
        self.module.path() == module.path() && self.token.identity == token.identity && told_apart
    }

    pub(super) fn module(&self) -> &Module {
        &self.module
    }

    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// The slot where the token is now.
    pub(super) fn slot(&self) -> Slot {
        self.lock().pool.slot
    }

    /// Does `work` in a session; once more in a new one, where the first was lost.
    pub(super) fn with<T>(&self, mode: Mode, work: impl Fn(&Lent) -> Result<T, Failure>) -> Result<T, KeyError> {
        let at = |failure: Failure| failure.at(&self.token.to_string());
        let (opening, logged_in) = {
            let state = self.lock();
            (state.pool.opening, state.logged_in)
        };
        if !logged_in {
            self.reopen(opening)?;
        }
        let lent = self.lend(mode).map_err(|e| at(e.into()))?;
        let opening = lent.opening;
        let first = work(&lent);
        self.take_back(lent, &first);
        let again = match first {
            Err(Failure::Call(error)) if is_lost(&error) => {
                log::info!("{}: opened again after {:?}", self.token, rv(&error).map(rv_name));
                self.reopen(opening)?;
                let lent = self.lend(mode).map_err(|e| at(e.into()))?;
                let second = work(&lent);
                self.take_back(lent, &second);
                second
            }
            first => first,
        };
        again.map_err(at)
    }

    /// The PIN, where both SDKs that read identities would take it for the same: they decode it differently.
    ///
    /// # Errors
    /// `pin_missing` where we got in without one, `usage` where the two would differ.
    pub(super) fn pin_for_readers(&self) -> Result<Arc<Pin>, KeyError> {
        let Credential::Pin(pin) = self.lock().pin.clone() else {
            let fault = Fault::new("pin_missing", format!("{} was opened without a PIN, so there is none to embed", self.token));
            return Err(KeyError::Pin(fault));
        };
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~=/: ".contains(b);
        if pin.expose().iter().all(plain) {
            return Ok(pin);
        }
        let message = "the PIN has characters that the SDKs read differently in an identity, so it is not embedded";
        let hint = Hint::say("a PIN of letters, digits and - . _ ~ = / : and blanks is read the same by both");
        Err(KeyError::Reference(Fault::new("usage", message).hint(hint)))
    }

    /// The login that a key with CKA_ALWAYS_AUTHENTICATE wants between C_SignInit and C_Sign.
    pub(super) fn login_for_this_operation(&self, lent: &Lent) -> Result<(), Failure> {
        let pin = self.lock().pin.clone();
        let place = self.token.to_string();
        let result = match &pin {
            Credential::Pin(pin) => {
                let _call = doing("C_Login");
                lent.session.login_with_raw(UserType::ContextSpecific, &raw(pin))
            }
            Credential::Keypad => lent.session.login(UserType::ContextSpecific, None),
            Credential::None | Credential::Spent => {
                let fault =
                    Fault::new("pin_missing", format!("{place} wants the PIN before every signature, and it is not known here"));
                return Err(KeyError::Pin(fault).into());
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused_later(&error).unwrap_or(Failure::Call(error))),
        }
    }

    fn lend(&self, mode: Mode) -> Result<Lent, Error> {
        let mut state = self.lock();
        loop {
            match state.pool.lend(&self.module, mode)? {
                Some(lent) => return Ok(lent),
                None => state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn take_back<T>(&self, lent: Lent, result: &Result<T, Failure>) {
        let clean = match result {
            Ok(_) => true,
            Err(Failure::Call(error)) => is_lost(error),
            Err(Failure::Judged(_)) => false,
        };
        self.lock().pool.take_back(&self.module, lent, clean);
        self.returned.notify_one();
    }

    /// Finds the token again and logs in again; nothing where another thread has done so since `lost`.
    fn reopen(&self, lost: u64) -> Result<(), KeyError> {
        let place = self.token.to_string();
        let mut state = self.lock();
        if state.pool.opening != lost && state.logged_in {
            return Ok(());
        }
        state.logged_in = false;
        // Closed before anything is opened, while their handles can mean nothing else.
        state.pool.end();
        let shown = self.module.tokens()?;
        let here = shown.tokens.into_iter().filter(|t| t.identity == self.token.identity);
        let Some(token) = here.min_by_key(|t| t.slot != state.pool.slot) else {
            let fault = Fault::new("device_gone", format!("{place} is gone"));
            return Err(KeyError::Device(fault.hint(Hint::say("see that the device is connected and its service runs"))));
        };
        state.pool.slot = token.slot;
        let (mode, session) = state.pool.new_session(&self.module, Mode::Read).map_err(|e| translate(&e, &place))?;
        let again = match &state.pin {
            Credential::None => Ok(()),
            _ if is_logged_in(&session) => Ok(()),
            Credential::Keypad => login_at_keypad(&session, &token, &place),
            Credential::Pin(_) if matches!(token.tries, Tries::None | Tries::Last) => Err(changed(&place, None)),
            Credential::Pin(pin) => match login(&session, &pin.clone()) {
                Ok(()) => Ok(()),
                Err(error) => {
                    if is_refusal(&error) {
                        state.pin = Credential::Spent;
                    }
                    Err(if is_refusal(&error) { changed(&place, Some(&error)) } else { translate(&error, &place) })
                }
            },
            Credential::Spent => Err(changed(&place, None)),
        };
        match again {
            Ok(()) => {
                state.logged_in = true;
                state.pool.add((mode, session));
                Ok(())
            }
            Err(error) => {
                close(session);
                Err(error)
            }
        }
    }

    fn refused_later(&self, error: &Error) -> Option<Failure> {
        is_refusal(error).then(|| {
            self.lock().pin = Credential::Spent;
            changed(&self.token.to_string(), Some(error)).into()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this process is logged in already, by us or by somebody else in it.
fn is_logged_in(session: &Session) -> bool {
    let _call = doing("C_GetSessionInfo");
    let state = session.get_session_info().map(|info| info.session_state());
    matches!(state, Ok(SessionState::RoUser | SessionState::RwUser))
}

fn raw(pin: &Pin) -> RawAuthPin {
    RawAuthPin::new(Box::new(pin.expose().to_vec()))
}

fn login(session: &Session, pin: &Pin) -> Result<(), Error> {
    let _call = doing("C_Login");
    match session.login_with_raw(UserType::User, &raw(pin)) {
        Err(error) if rv(&error) == Some(RvError::UserAlreadyLoggedIn) => Ok(()),
        result => result,
    }
}

fn login_at_keypad(session: &Session, token: &Token, place: &str) -> Result<(), KeyError> {
    token.must_not_be_locked()?;
    match session.login(UserType::User, None) {
        Ok(()) => Ok(()),
        Err(error) => match (rv(&error), refusal(&error, place)) {
            (Some(RvError::UserAlreadyLoggedIn), _) => Ok(()),
            (_, LoginRefusal::Incorrect(native)) => {
                let fault = Fault::new("pin_incorrect", format!("{place} refused the PIN from its own keypad"));
                Err(KeyError::Pin(fault.native(native)))
            }
            (_, LoginRefusal::Locked(native)) => Err(locked(place, Some(native))),
            (_, LoginRefusal::Expired(_)) => Err(translate(&error, place)),
            (_, LoginRefusal::Other(error)) => Err(error),
        },
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(rv(error), Some(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid | RvError::PinLocked))
}

/// What a refused C_Login means for the policy.
fn refusal(error: &Error, place: &str) -> LoginRefusal {
    let native = rv(error).map(|rv| rv_name(rv).into_owned());
    match (rv(error), native) {
        (Some(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid), Some(native)) => {
            LoginRefusal::Incorrect(native)
        }
        (Some(RvError::PinLocked), Some(native)) => LoginRefusal::Locked(native),
        (Some(RvError::PinExpired), Some(native)) => LoginRefusal::Expired(native),
        (Some(RvError::UserPinNotInitialized), Some(native)) => {
            let fault = Fault::new("pin_missing", format!("{place} has no user PIN yet")).native(native);
            LoginRefusal::Other(KeyError::Pin(fault.hint(Hint::say("its security officer sets one: pkcs11-tool --init-pin"))))
        }
        _ => LoginRefusal::Other(translate(error, place)),
    }
}

/// The PIN that was right at first is not, or may not be, right any more.
fn changed(place: &str, error: Option<&Error>) -> KeyError {
    let native = error.and_then(rv).map(|rv| rv_name(rv).into_owned());
    if error.and_then(rv) == Some(RvError::PinLocked) {
        return locked(place, native);
    }
    let mut fault =
        Fault::new("pin_incorrect", format!("{place} was opened again and does not take the PIN that it took before"));
    fault.native = native;
    KeyError::Pin(fault.hint(Hint::say("the PIN was changed meanwhile: look at the token before you try again")))
}
