//! [`Device`] and [`Visit`]: a TPM, and the time that one has it to oneself. This file and [`command`](super::command) are the
//! only ones that know tss-esapi.
//!
//! A [`Visit`] has the TPM to itself: what it loads is flushed when it ends, in whatever way, so that a killed program
//! leaves at most what one visit had loaded. Public areas and private blobs come and go as the TPM's own bytes. An auth
//! value is only ever used in an HMAC session that is salted with a key of the TPM and encrypts its parameters (TPM 2.0
//! Part 1 §19.6, §21): a listener on the bus learns nothing of it. Somebody who can *change* what goes over the bus can
//! stand in for the TPM from the beginning; no session helps against that.
//!
//! Libtss2 itself repeats a command that the TPM answers with RETRY, TESTING or YIELDED, a few times and at once; the
//! kernel does the same with patience.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCode;
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, SymmetricDefinition};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, Error};

use super::code::Code;
use super::error::Failure;
use super::tcti::Tcti;
use crate::key::Pin;
use crate::key::call::{doing, making_a_key};

/// A TPM that is talked to over one connection, for as long as this lives; shared by threads.
#[derive(Debug)]
pub(super) struct Device {
    tcti: Tcti,
    context: Mutex<Option<Context>>,
    /// The auth value of the owner hierarchy, once it was accepted.
    owner: Mutex<Option<Arc<Pin>>>,
}

impl Device {
    /// Connects.
    pub(super) fn open(tcti: Tcti) -> Result<Self, Failure> {
        let context = connect(&tcti)?;
        Ok(Self { tcti, context: Mutex::new(Some(context)), owner: Mutex::default() })
    }

    /// Waits until nobody else uses it; connects again where the connection was lost before.
    pub(super) fn visit(self: &Arc<Self>) -> Result<Visit<'_>, Failure> {
        let mut context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if context.is_none() {
            *context = Some(connect(&self.tcti)?);
        }
        Ok(Visit { device: self, context, loaded: Vec::new(), opened: Vec::new(), session: None, lost: None })
    }

    /// The accepted auth value of the owner hierarchy.
    pub(super) fn owner(&self) -> Option<Arc<Pin>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers it.
    pub(super) fn remember_owner(&self, pin: Arc<Pin>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the TPM at {}", self.tcti)
    }
}

fn connect(tcti: &Tcti) -> Result<Context, Failure> {
    let failed = |e| failure(e, "connecting");
    let _call = doing("Tss2_TctiLdr_Initialize");
    let configuration: TctiNameConf = tcti.to_string().parse().map_err(failed)?;
    Context::new(configuration).map_err(failed)
}

/// Something in the TPM that a visit can use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object(pub(super) KeyHandle);

/// What crosses the bus encrypted: the first parameter of the command, of the response. Only a sized buffer can be.
#[derive(Clone, Copy)]
pub(super) enum Hidden {
    Nothing,
    Sent,
    Both,
}

/// The TPM, for us alone until this is dropped.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    device: &'a Arc<Device>,
    context: MutexGuard<'a, Option<Context>>,
    /// Transient objects, in the order in which they were loaded.
    pub(super) loaded: Vec<ObjectHandle>,
    /// libtss2's notes about persistent objects: to be closed, never flushed.
    pub(super) opened: Vec<ObjectHandle>,
    session: Option<AuthSession>,
    /// The code that said that the connection is gone.
    lost: Option<Code>,
}

impl<'a> Visit<'a> {
    /// Whose TPM it is.
    pub(super) fn device(&self) -> &'a Arc<Device> {
        self.device
    }

    /// From here on, what is secret crosses the bus encrypted. `salt`: a storage key; without one, a key that this TPM makes
    /// for the moment in the null hierarchy, which needs nobody's auth value. Once is enough.
    pub(super) fn protect(&mut self, salt: Option<Object>) -> Result<(), Failure> {
        if self.session.is_some() {
            return Ok(());
        }
        let own = if salt.is_none() { Some(self.primary(Hierarchy::Null, None)?) } else { None };
        let salt = salt.or(own).map(|o| o.0);
        let command = "TPM2_StartAuthSession";
        let (cipher, hash) = (SymmetricDefinition::AES_128_CFB, HashingAlgorithm::Sha256);
        self.session = self.call(command, None, |c| c.start_auth_session(salt, None, None, SessionType::Hmac, cipher, hash))?;
        if let Some(own) = own {
            self.release(own);
        }
        self.session.map(|_| ()).ok_or_else(|| Failure::Library("it gave no session".into(), command))
    }

    /// Lets libtss2 forget a persistent object, which stays where it is.
    pub(super) fn forget(&mut self, object: Object) {
        let handle = ObjectHandle::from(object.0);
        if let Some(i) = self.opened.iter().position(|opened| *opened == handle) {
            self.opened.remove(i);
            self.close(handle);
        }
    }

    fn close(&mut self, mut handle: ObjectHandle) {
        if let Err(why) = self.call("Esys_TR_Close", None, |c| c.tr_close(&mut handle)) {
            log::debug!("libtss2 keeps a note of a persistent object: {}", why.native());
        }
    }

    /// Flushes what is needed no more, to make room.
    pub(super) fn release(&mut self, object: Object) {
        let handle = ObjectHandle::from(object.0);
        if let Some(i) = self.loaded.iter().position(|loaded| *loaded == handle) {
            self.loaded.remove(i);
            self.flush(handle);
        }
    }

    /// Does a command that needs the auth value of `object`.
    pub(super) fn authorised<T>(
        &mut self,
        command: &'static str,
        object: ObjectHandle,
        auth: Option<&Pin>,
        hidden: Hidden,
        work: impl FnOnce(&mut Context) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let Some(pin) = auth else {
            // Nothing secret: an empty auth value, in the session that there is, if any.
            let session = self.session_if_any(hidden)?;
            return self.call(command, Some(session), work);
        };
        self.protect(None)?;
        let session = self.session(hidden)?;
        let value = auth_value(pin, command)?;
        self.call(command, None, |c| c.tr_set_auth(object, value))?;
        let done = self.call(command, Some(session), work);
        // libtss2 would put what it remembers into a later password session, in plain.
        let forgotten = self.call(command, None, |c| c.tr_set_auth(object, Auth::default()));
        if let (Ok(_), Err(failure)) = (&done, forgotten) {
            log::debug!("an auth value stays with libtss2: {}", failure.native());
        }
        done
    }

    /// The session if there is one, else one for an empty auth value.
    pub(super) fn session_if_any(&mut self, hidden: Hidden) -> Result<AuthSession, Failure> {
        if self.session.is_some() { self.session(hidden) } else { Ok(AuthSession::Password) }
    }

    /// The session, set to what it is to hide.
    pub(super) fn session(&mut self, hidden: Hidden) -> Result<AuthSession, Failure> {
        let command = "TPM2_StartAuthSession";
        let session = self.session.ok_or_else(|| Failure::Library("there is no session".into(), command))?;
        let (sent, received) = match hidden {
            Hidden::Nothing => (false, false),
            Hidden::Sent => (true, false),
            Hidden::Both => (true, true),
        };
        let (attributes, _) =
            SessionAttributesBuilder::new().with_decrypt(sent).with_encrypt(received).with_continue_session(true).build();
        // The mask names all three, so that what the last command had set is taken back.
        let (_, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).with_continue_session(true).build();
        self.call(command, None, |c| c.tr_sess_set_attributes(session, attributes, mask))?;
        Ok(session)
    }

    /// Does a command, in a session if it needs one.
    pub(super) fn call<T>(
        &mut self,
        command: &'static str,
        session: Option<AuthSession>,
        work: impl FnOnce(&mut Context) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        if let Some(code) = self.lost {
            return Err(Failure::Code(code, command));
        }
        let Some(context) = self.context.as_mut() else {
            return Err(Failure::Library("there is no connection".into(), command));
        };
        let _call = if matches!(command, "TPM2_Create" | "TPM2_CreatePrimary") { making_a_key(command) } else { doing(command) };
        let result = context.execute_with_session(session, work).map_err(|e| failure(e, command));
        if let Err(Failure::Code(code, _)) = &result
            && code.is_lost()
        {
            self.lost = Some(*code);
        }
        result
    }

    fn flush(&mut self, handle: ObjectHandle) {
        // Twice: an object that stays takes one of a few places, for everybody.
        for _ in 0..2 {
            match self.call("TPM2_FlushContext", None, |c| c.flush_context(handle)) {
                Ok(()) => return,
                Err(why) => log::debug!("an object or session stays in the TPM: {}", why.native()),
            }
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.flush(SessionHandle::from(session).into());
        }
        while let Some(object) = self.loaded.pop() {
            self.flush(object);
        }
        while let Some(opened) = self.opened.pop() {
            self.close(opened);
        }
        if self.lost.is_some() {
            // A new connection is made by the next visit.
            *self.context = None;
        }
    }
}

/// A PIN, as libtss2 takes it.
pub(super) fn auth_value(pin: &Pin, command: &'static str) -> Result<Auth, Failure> {
    Auth::try_from(pin.expose()).map_err(|e| failure(e, command))
}

/// What tss-esapi says about a command.
pub(super) fn failure(error: Error, command: &'static str) -> Failure {
    match error {
        Error::Tss2Error(code) => match value(code).and_then(Code::new) {
            Some(code) => Failure::Code(code, command),
            None => Failure::Library(code.to_string(), command),
        },
        Error::WrapperError(kind) => Failure::Library(kind.to_string(), command),
    }
}

/// The number of a code. tss-esapi keeps it to itself but for the text of the code's source.
fn value(code: Tss2ResponseCode) -> Option<u32> {
    let text = std::error::Error::source(&code)?.to_string();
    u32::from_str_radix(text.rsplit("0x").next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gets_the_number_of_a_code_out_of_tss_esapi() {
        for number in [0x921, 0x98e, 0x101, 0x2c4, 0x000a_000a, 0x000b_0143, 0x0007_001b] {
            assert_eq!(value(Tss2ResponseCode::from(number)), Some(number), "{number:#x}");
        }
    }

    #[test]
    fn tss_esapi_takes_every_tcti() {
        for text in ["device", "device:/dev/tpm0", "swtpm:port=1,host=::1", "mssim:host=a.example", "tabrmd:bus_type=session"] {
            let tcti = Tcti::parse(text).unwrap().to_string();
            let read: TctiNameConf = tcti.parse().unwrap();
            assert_eq!(std::ffi::CString::try_from(read).unwrap().into_string().unwrap(), tcti);
        }
    }
}
