//! [`Device`] and [`Visit`]: the commands of a TPM, and the only place that knows tss-esapi.
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
use tss_esapi::constants::response_code::Tss2ResponseCode;
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType, StructureTag};
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, CapabilityData, Digest, HashScheme, HashcheckTicket, Private, Public, Signature, SignatureScheme, SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::tss2_esys::{TPM2_RH_NULL, TPM2B_DIGEST, TPMT_TK_HASHCHECK};
use tss_esapi::{Context, Error};

use super::error::{Code, Failure};
use super::keyfile::Blob;
use super::tcti::Tcti;
use super::template::{self, PublicArea, padded};
use crate::key::encoding::{Hash, ecdsa_der};
use crate::key::{Pin, SignatureAlgorithm};

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

    /// The way to it.
    pub(super) fn tcti(&self) -> &Tcti {
        &self.tcti
    }

    /// Waits until nobody else uses it; connects again where the connection was lost before.
    pub(super) fn visit(&self) -> Result<Visit<'_>, Failure> {
        let mut context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if context.is_none() {
            *context = Some(connect(&self.tcti)?);
        }
        Ok(Visit { device: self, context, loaded: Vec::new(), opened: Vec::new(), session: None, lost: false })
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
        write!(f, "TPM at {}", self.tcti)
    }
}

fn connect(tcti: &Tcti) -> Result<Context, Failure> {
    let failed = |e| failure(e, "connecting");
    let configuration: TctiNameConf = tcti.to_string().parse().map_err(failed)?;
    Context::new(configuration).map_err(failed)
}

/// Something in the TPM that a visit can use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object(KeyHandle);

/// What crosses the bus encrypted: the first parameter of the command, of the response. Only a sized buffer can be.
#[derive(Clone, Copy)]
enum Hidden {
    Nothing,
    Sent,
    Both,
}

/// The TPM, for us alone until this is dropped.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    device: &'a Device,
    context: MutexGuard<'a, Option<Context>>,
    /// Transient objects, in the order in which they were loaded.
    loaded: Vec<ObjectHandle>,
    /// libtss2's notes about persistent objects: to be closed, never flushed.
    opened: Vec<ObjectHandle>,
    session: Option<AuthSession>,
    lost: bool,
}

impl<'a> Visit<'a> {
    /// Whose TPM it is.
    pub(super) fn device(&self) -> &'a Device {
        self.device
    }

    /// A property, TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES); `None` where the TPM does not have it.
    pub(super) fn property(&mut self, tag: PropertyTag) -> Result<Option<u32>, Failure> {
        // One at a time: tss-esapi refuses a list with a tag that it does not know.
        let found = self.call("TPM2_GetCapability", None, |c| c.get_capability(CapabilityType::TpmProperties, tag.into(), 1))?;
        Ok(match found.0 {
            CapabilityData::TpmProperties(list) => list.find(tag).map(|p| p.value()),
            _ => None,
        })
    }

    /// The persistent handles that are taken, ascending.
    pub(super) fn persistent_handles(&mut self) -> Result<Vec<u32>, Failure> {
        let mut handles: Vec<u32> = Vec::new();
        loop {
            let next = handles.last().map_or(0x8100_0000, |last| last + 1);
            let (found, more) =
                self.call("TPM2_GetCapability", None, |c| c.get_capability(CapabilityType::Handles, next, 254))?;
            let before = handles.len();
            if let CapabilityData::Handles(list) = found {
                handles.extend(list.into_inner().into_iter().map(u32::from).filter(|h| (next..=0x81ff_ffff).contains(h)));
            }
            if !more || handles.len() == before {
                return Ok(handles);
            }
        }
    }

    /// Whether the TPM can make such a key, TPM2_TestParms; nothing is made.
    pub(super) fn can_make(&mut self, template: &[u8]) -> Result<bool, Failure> {
        use tss_esapi::structures::PublicParameters;
        let parameters = match public(template, "TPM2_TestParms")? {
            Public::Rsa { parameters, .. } => PublicParameters::Rsa(parameters),
            Public::Ecc { parameters, .. } => PublicParameters::Ecc(parameters),
            Public::KeyedHash { .. } | Public::SymCipher { .. } => return Ok(false),
        };
        match self.call("TPM2_TestParms", None, |c| c.test_parms(parameters)) {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_unsupported() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The object at a persistent handle, with its public area; `None` where there is none.
    pub(super) fn persistent(&mut self, handle: u32) -> Result<Option<(Object, PublicArea)>, Failure> {
        let command = "TPM2_ReadPublic";
        let handle = PersistentTpmHandle::new(handle).map_err(|e| failure(e, command))?;
        let found = match self.call(command, None, |c| c.tr_from_tpm_public(TpmHandle::Persistent(handle))) {
            Ok(found) => found,
            Err(failure) if failure.is_no_handle() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        self.opened.push(found);
        let key = KeyHandle::from(found);
        let (area, _, _) = self.call(command, None, |c| c.read_public(key))?;
        Ok(Some((Object(key), public_area(&area, command)?)))
    }

    /// The storage root key that the H-2 template gives in the owner hierarchy, made anew. `auth`: the owner's.
    pub(super) fn storage_root(&mut self, auth: Option<&Pin>) -> Result<Object, Failure> {
        self.primary(Hierarchy::Owner, auth)
    }

    fn primary(&mut self, hierarchy: Hierarchy, auth: Option<&Pin>) -> Result<Object, Failure> {
        let command = "TPM2_CreatePrimary";
        let template = public(&template::storage_key(), command)?;
        let made = self.authorised(command, ObjectHandle::from(hierarchy), auth, Hidden::Both, |c| {
            c.create_primary(hierarchy, template, None, None, None, None)
        })?;
        self.loaded.push(made.key_handle.into());
        Ok(Object(made.key_handle))
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

    /// Makes a key under `parent`, TPM2_Create: it exists in what comes back and nowhere else. `auth`: the new key's own.
    pub(super) fn create(&mut self, parent: Object, template: &[u8], auth: Option<&Pin>) -> Result<Blob, Failure> {
        let command = "TPM2_Create";
        self.protect(Some(parent))?;
        let template = public(template, command)?;
        let auth = auth.map(|pin| auth_value(pin, command)).transpose()?;
        let session = self.session(Hidden::Both)?;
        let made = self.call(command, Some(session), |c| c.create(parent.0, template, auth, None, None, None))?;
        Ok(Blob { public: public_area(&made.out_public, command)?, private: made.out_private.value().to_vec() })
    }

    /// Loads a key, TPM2_Load.
    pub(super) fn load(&mut self, parent: Object, blob: &Blob) -> Result<Object, Failure> {
        let command = "TPM2_Load";
        let private = Private::try_from(blob.private.as_slice()).map_err(|e| failure(e, command))?;
        let public = public(blob.public.bytes(), command)?;
        let session = if self.session.is_some() { self.session(Hidden::Sent)? } else { AuthSession::Password };
        let key = self.call(command, Some(session), |c| c.load(parent.0, private, public))?;
        self.loaded.push(key.into());
        Ok(Object(key))
    }

    /// Flushes what is needed no more, to make room.
    pub(super) fn release(&mut self, object: Object) {
        let handle = ObjectHandle::from(object.0);
        if let Some(i) = self.loaded.iter().position(|loaded| *loaded == handle) {
            self.loaded.remove(i);
            self.flush(handle);
        }
    }

    /// Signs `digest`, TPM2_Sign. ECDSA comes as DER; RSA as long as the modulus, which is `modulus_bytes`.
    pub(super) fn sign(
        &mut self,
        key: Object,
        auth: Option<&Pin>,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
        modulus_bytes: usize,
    ) -> Result<Vec<u8>, Failure> {
        let command = "TPM2_Sign";
        let digest = Digest::try_from(digest).map_err(|e| failure(e, command))?;
        // A digest that the TPM did not make itself: any key that is not restricted signs it.
        let ticket = TPMT_TK_HASHCHECK { tag: StructureTag::Hashcheck.into(), hierarchy: TPM2_RH_NULL, digest: TPM2B_DIGEST::default() };
        let ticket = HashcheckTicket::try_from(ticket).map_err(|e| failure(e, command))?;
        let scheme = scheme(algorithm);
        let signed = self.authorised(command, key.0.into(), auth, Hidden::Sent, |c| c.sign(key.0, digest, scheme, ticket))?;
        let whole = match &signed {
            Signature::EcDsa(pair) => {
                let (r, s) = (pair.signature_r().value(), pair.signature_s().value());
                let size = r.len().max(s.len());
                padded(r, size).zip(padded(s, size)).and_then(|(r, s)| ecdsa_der(&[r, s].concat()))
            }
            Signature::RsaSsa(rsa) | Signature::RsaPss(rsa) => padded(rsa.signature().value(), modulus_bytes),
            _ => None,
        };
        whole.ok_or_else(|| Failure::Library("a signature of another kind".into(), command))
    }

    /// Makes a loaded key persistent at `handle`, TPM2_EvictControl. `auth`: the owner's.
    pub(super) fn persist(&mut self, key: Object, handle: u32, auth: Option<&Pin>) -> Result<(), Failure> {
        let kept = self.evict_control(key.0.into(), handle, auth)?;
        self.opened.push(kept);
        Ok(())
    }

    /// Removes the persistent object, TPM2_EvictControl. `auth`: the owner's.
    pub(super) fn evict(&mut self, object: Object, handle: u32, auth: Option<&Pin>) -> Result<(), Failure> {
        self.evict_control(object.0.into(), handle, auth)?;
        // libtss2 closes its note by itself.
        self.opened.retain(|opened| *opened != ObjectHandle::from(object.0));
        Ok(())
    }

    fn evict_control(&mut self, object: ObjectHandle, handle: u32, auth: Option<&Pin>) -> Result<ObjectHandle, Failure> {
        let command = "TPM2_EvictControl";
        let handle = PersistentTpmHandle::new(handle).map_err(|e| failure(e, command))?;
        let owner = ObjectHandle::from(AuthHandle::Owner);
        self.authorised(command, owner, auth, Hidden::Nothing, |c| {
            c.evict_control(Provision::Owner, object, Persistent::Persistent(handle))
        })
    }

    /// Does a command that needs the auth value of `object`.
    fn authorised<T>(
        &mut self,
        command: &'static str,
        object: ObjectHandle,
        auth: Option<&Pin>,
        hidden: Hidden,
        work: impl FnOnce(&mut Context) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let Some(pin) = auth else {
            // Nothing secret: an empty auth value, in the session that there is, if any.
            let session = if self.session.is_some() { self.session(hidden)? } else { AuthSession::Password };
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
            log::debug!("an auth value stays with libtss2: {failure:?}");
        }
        done
    }

    /// The session, set to what it is to hide.
    fn session(&mut self, hidden: Hidden) -> Result<AuthSession, Failure> {
        let command = "TPM2_StartAuthSession";
        let session = self.session.ok_or_else(|| Failure::Library("there is no session".into(), command))?;
        let (sent, received) = match hidden {
            Hidden::Nothing => (false, false),
            Hidden::Sent => (true, false),
            Hidden::Both => (true, true),
        };
        let (attributes, _) = SessionAttributesBuilder::new().with_decrypt(sent).with_encrypt(received).with_continue_session(true).build();
        // The mask names all three, so that what the last command had set is taken back.
        let (_, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).with_continue_session(true).build();
        self.call(command, None, |c| c.tr_sess_set_attributes(session, attributes, mask))?;
        Ok(session)
    }

    fn call<T>(
        &mut self,
        command: &'static str,
        session: Option<AuthSession>,
        work: impl FnOnce(&mut Context) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let Some(context) = self.context.as_mut().filter(|_| !self.lost) else {
            return Err(Failure::Library("the connection was lost before".into(), command));
        };
        let result = context.execute_with_session(session, work).map_err(|e| failure(e, command));
        if let Err(Failure::Code(code, _)) = &result {
            self.lost |= code.is_lost();
        }
        result
    }

    fn flush(&mut self, handle: ObjectHandle) {
        // Twice: an object that stays takes one of a few places, for everybody.
        for _ in 0..2 {
            match self.call("TPM2_FlushContext", None, |c| c.flush_context(handle)) {
                Ok(()) => return,
                Err(why) => log::debug!("an object or session stays in the TPM: {why:?}"),
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
        while let Some(mut opened) = self.opened.pop() {
            if let Err(why) = self.call("closing", None, |c| c.tr_close(&mut opened)) {
                log::debug!("libtss2 keeps a note of a persistent object: {why:?}");
            }
        }
        if self.lost {
            // A new connection is made by the next visit.
            *self.context = None;
        }
    }
}

fn scheme(algorithm: SignatureAlgorithm) -> SignatureScheme {
    use SignatureAlgorithm::*;
    let hash_scheme = HashScheme::new(match algorithm.hash() {
        Hash::Sha256 => HashingAlgorithm::Sha256,
        Hash::Sha384 => HashingAlgorithm::Sha384,
        Hash::Sha512 => HashingAlgorithm::Sha512,
    });
    match algorithm {
        EcdsaSha256 | EcdsaSha384 => SignatureScheme::EcDsa { hash_scheme },
        RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 => SignatureScheme::RsaSsa { hash_scheme },
        RsaPssSha256 | RsaPssSha384 | RsaPssSha512 => SignatureScheme::RsaPss { hash_scheme },
    }
}

fn auth_value(pin: &Pin, command: &'static str) -> Result<Auth, Failure> {
    Auth::try_from(pin.expose()).map_err(|e| failure(e, command))
}

fn public(area: &[u8], command: &'static str) -> Result<Public, Failure> {
    Public::unmarshall(area).map_err(|e| failure(e, command))
}

fn public_area(public: &Public, command: &'static str) -> Result<PublicArea, Failure> {
    let bytes = public.marshall().map_err(|e| failure(e, command))?;
    PublicArea::read(&bytes).ok_or_else(|| Failure::Library("a public area that is none".into(), command))
}

fn failure(error: Error, command: &'static str) -> Failure {
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
    fn tss_esapi_takes_every_template_and_gives_it_back() {
        let templates = crate::key::KeyAlgorithm::ALL.map(|a| template::signing_key(a, true));
        for bytes in templates.into_iter().chain([template::storage_key()]) {
            let read = public(&bytes, "").unwrap();
            assert_eq!(public_area(&read, "").unwrap().bytes(), bytes);
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
