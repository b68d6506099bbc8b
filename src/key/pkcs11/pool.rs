//! [`Pool`]: the sessions of one token, kept and lent.
//!
//! Read-only ones to sign, read-write ones to make and delete; each thread gets one of its own, for an operation belongs
//! to one session (PKCS#11 v3.1 §5.6). None is closed in between: a login lasts while one session is open.

use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::error::{is_lost, rv, rv_name};
use super::module::Module;
use super::token::Token;
use crate::key::call::doing;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Finding and signing.
    Read,
    /// Making and destroying as well.
    Write,
}

/// A session on loan.
pub(super) struct Lent {
    pub(super) session: Session,
    /// Which opening of the token it belongs to: object handles are good within one.
    pub(super) opening: u64,
    mode: Mode,
}

/// The sessions of one token.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) slot: Slot,
    pub(super) opening: u64,
    idle: Vec<(Mode, Session)>,
    lent: usize,
    /// The module has no read-only sessions.
    always_write: bool,
}

impl Pool {
    pub(super) fn at(slot: Slot) -> Self {
        Self { slot, opening: 0, idle: Vec::new(), lent: 0, always_write: false }
    }

    /// A session for `mode`; `None` where as many as the token allows are at work, and one of them must come back first.
    pub(super) fn lend(&mut self, module: &Module, mode: Mode) -> Result<Option<Lent>, Error> {
        let always_write = self.always_write;
        let good = |(has, _): &(Mode, Session)| *has == mode || always_write;
        let (mode, session) = match self.idle.iter().position(good) {
            Some(i) => self.idle.swap_remove(i),
            None => match self.new_session(module, mode) {
                Ok(new) => new,
                Err(error) if rv(&error) == Some(RvError::SessionCount) && self.lent > 0 => return Ok(None),
                Err(error) if rv(&error) == Some(RvError::SessionCount) && self.idle.len() > 1 => {
                    // An idle one of the other kind stands in the way; the login outlives it.
                    if let Some((_, idle)) = self.idle.pop() {
                        close(idle);
                    }
                    self.new_session(module, mode)?
                }
                Err(error) => return Err(error),
            },
        };
        self.lent += 1;
        Ok(Some(Lent { session, opening: self.opening, mode }))
    }

    /// Takes a session back. One that is not `clean` may have an operation open, which would fail the next one: a new
    /// one takes its place.
    pub(super) fn take_back(&mut self, module: &Module, lent: Lent, clean: bool) {
        self.lent -= 1;
        // One of an earlier opening is dropped, not closed: its handle may be that of a new session by now.
        if lent.opening == self.opening {
            match if clean { None } else { self.new_session(module, lent.mode).ok() } {
                Some(fresh) => {
                    self.idle.push(fresh);
                    close(lent.session);
                }
                None => self.idle.push((lent.mode, lent.session)),
            }
        }
    }

    /// Adds a session that is there already.
    pub(super) fn add(&mut self, session: (Mode, Session)) {
        self.idle.push(session);
    }

    /// Closes what is here; what is lent is not taken back any more.
    pub(super) fn end(&mut self) {
        self.idle.drain(..).for_each(|(_, session)| close(session));
        self.opening += 1;
    }

    pub(super) fn new_session(&mut self, module: &Module, mode: Mode) -> Result<(Mode, Session), Error> {
        let pkcs11 = module.pkcs11();
        if mode == Mode::Write || self.always_write {
            let _call = doing("C_OpenSession");
            return pkcs11.open_rw_session_no_drop(self.slot).map(|s| (Mode::Write, s));
        }
        let _call = doing("C_OpenSession");
        match pkcs11.open_ro_session_no_drop(self.slot) {
            Ok(session) => Ok((Mode::Read, session)),
            // CloudHSM has no read-only sessions; which value says so is up to the module.
            Err(error) if !is_lost(&error) && rv(&error) != Some(RvError::SessionCount) => {
                let session = pkcs11.open_rw_session_no_drop(self.slot).map_err(|_| error)?;
                self.always_write = true;
                Ok((Mode::Write, session))
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

/// Does `work` in a session without login, which sees public objects only: no PIN is used.
pub(super) fn peek<T>(module: &Module, token: &Token, work: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    let (_, session) = Pool::at(token.slot).new_session(module, Mode::Read)?;
    let result = work(&session);
    close(session);
    result
}

/// Ends a session of ours; one that is gone already is what we want.
pub(super) fn close(session: Session) {
    let _call = doing("C_CloseSession");
    if let Err(error) = session.close() {
        log::debug!("a session did not close: {:?}", rv(&error).map(rv_name));
    }
}
