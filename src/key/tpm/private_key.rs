//! [`PrivateKey`]: a key of a TPM that signs.
//!
//! It is loaded for each signature and flushed after it: a TPM has room for three, and belongs to the whole machine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::{Device, Object, Visit};
use super::error::Failure;
use super::keyfile::Blob;
use super::lockout::Lockout;
use super::parent::{OTHER_TPM, Parent};
use super::place;
use super::public_area::{PublicArea, hash_id};
use super::reference::{Home, Reference, hex};
use crate::key::encoding::Hash;
use crate::key::pin::{LoginRefusal, PinFor, Question, Tries};
use crate::key::{
    Access, Embed, Fault, Key, KeyError, KeyFacts, KeyReference, KeyUri, Pin, Place, PublicKey, SignatureAlgorithm,
};
use crate::text::Hint;

/// What is loaded to sign.
#[derive(Clone, Debug)]
pub(super) enum Material {
    /// A blob under its parent.
    Blob(Parent, Blob),
    /// What is at a persistent handle.
    Persistent(u32),
}

/// A key that is known, and was not used yet.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What names it.
    pub(super) reference: Reference,
    /// Where it lives.
    pub(super) home: Home,
    /// What is loaded.
    pub(super) material: Material,
    /// What its file or its reference says about a PIN.
    pub(super) wants_pin: Option<bool>,
}

impl Found {
    /// Gets it ready to sign, with its public area. `access`: who is asked where the owner must allow it.
    ///
    /// # Errors
    /// `key_not_found` where the handle is empty or another TPM made the blob, and what the TPM says.
    pub(super) fn ready(&self, visit: &mut Visit<'_>, access: Option<&Access<'_>>) -> Result<(Object, PublicArea), Failure> {
        let has_secret = self.wants_pin != Some(false);
        match &self.material {
            Material::Persistent(handle) => {
                let Some(found) = visit.persistent(*handle)? else { return Err(missing(visit, *handle)?.into()) };
                if has_secret && let parent @ Parent::Persistent(_) = Parent::for_new(visit, self.reference.parent)? {
                    let salt = parent.ready(visit, access)?;
                    visit.protect(Some(salt))?;
                }
                Ok(found)
            }
            Material::Blob(parent, blob) => {
                let parent = parent.ready(visit, access)?;
                if has_secret {
                    visit.protect(Some(parent))?;
                }
                let loaded = visit.load(parent, blob);
                visit.release(parent);
                match loaded {
                    Ok(key) => Ok((key, blob.public.clone())),
                    Err(foreign) if foreign.is_foreign_blob() => {
                        let fault = Fault::new("key_not_found", format!("{} cannot load {}", visit.device(), self.home));
                        Err(KeyError::Selection(fault.native(foreign.native()).hint(Hint::say(OTHER_TPM))).into())
                    }
                    Err(failure) => Err(failure),
                }
            }
        }
    }
}

/// The first signature of a key, and the PIN that it took. `None` where the TPM does not have the algorithm; where it took none.
type First = (Option<Vec<u8>>, Option<Arc<Pin>>);

/// A key of a TPM.
pub(super) struct PrivateKey {
    device: Arc<Device>,
    found: Found,
    uri: KeyUri,
    area: PublicArea,
    public: PublicKey,
    algorithms: Vec<SignatureAlgorithm>,
    pin: Option<Arc<Pin>>,
    /// The PIN was refused after it had been accepted: it is never given again.
    spent: AtomicBool,
    place: Place,
}

impl PrivateKey {
    /// Takes a key that is ready into use: it signs a nonce with at most one try of a PIN, and the signature is checked.
    ///
    /// # Errors
    /// What [`Access::login`] says, `signature_wrong`, `key_not_as_promised`, and what the TPM says.
    pub(super) fn try_out(
        visit: &mut Visit<'_>,
        found: Found,
        (object, area): (Object, PublicArea),
        access: &Access<'_>,
    ) -> Result<Self, Failure> {
        let name = found.home.to_string();
        area.must_be_usable(&name, access.allows_extractable())?;
        let public = area.public_key(&name)?;
        let mut algorithms = area.signatures(public.algorithm());
        for hash in [Hash::Sha384, Hash::Sha512] {
            if algorithms.iter().any(|a| a.hash() == hash) && !visit.has_algorithm(hash_id(hash))? {
                algorithms.retain(|a| a.hash() != hash);
            }
        }
        let Some(first) = algorithms.first().copied() else {
            let fault = Fault::new("key_type_unsupported", format!("{name} is bound to a way to sign that TLS does not use"));
            return Err(KeyError::Unavailable(fault).into());
        };
        let (device, place) = (visit.device().clone(), place::of(visit)?);
        let uri = found.reference.uri(&found.home, found.wants_pin);
        let mut key = Self { device, found, uri, area, public, algorithms, pin: None, spent: AtomicBool::new(false), place };
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|e| KeyError::Device(Fault::new("device_error", "the system gave no random numbers").because(e)))?;
        let (signature, pin) = key.first_signature(visit, object, first, &nonce, access)?;
        key.pin = pin;
        key.found.wants_pin = Some(key.pin.is_some());
        key.uri = key.found.reference.uri(&key.found.home, Some(key.pin.is_some()));
        if signature.is_some_and(|signature| key.public.verifies(first, &nonce, &signature)) {
            return Ok(key);
        }
        if is_pss(first) {
            // The TPM has no PSS, or its salt is as long as fits, which no TLS peer takes. With PKCS#1 alone TLS 1.2 works.
            log::info!("{name}: the TPM does not make PSS signatures as TLS wants them; only PKCS#1 v1.5 is offered");
            key.algorithms.retain(|a| !is_pss(*a));
            if let Some(first) = key.algorithms.first().copied() {
                let signature = key.sign_in(visit, object, key.pin.as_deref(), first, &first.hash().digest(&nonce))?;
                if key.public.verifies(first, &nonce, &signature) {
                    return Ok(key);
                }
            }
        }
        let fault =
            Fault::new("signature_wrong", format!("{name} signed a test message, and the signature does not fit its public key"));
        let hint = Hint::say("the TPM is faulty, or something stands between it and this machine");
        Err(KeyError::NotAsPromised(fault.hint(hint)).into())
    }

    /// The first signature shows whether there is a PIN, and whether it is the right one.
    fn first_signature(
        &self,
        visit: &mut Visit<'_>,
        object: Object,
        algorithm: SignatureAlgorithm,
        nonce: &[u8],
        access: &Access<'_>,
    ) -> Result<First, Failure> {
        let Found { reference, home, wants_pin, .. } = &self.found;
        let (name, tpm) = (reference.place(home), self.device.to_string());
        let digest = algorithm.hash().digest(nonce);
        let question = Question { place: &name, whose: PinFor::User, pin_source: reference.pin_source.as_deref() };
        let protected = self.area.is_protected();
        if wants_pin.is_none() && protected && access.offer(&question)?.is_none() {
            // An empty auth value that is wrong would count as a try.
            let fault = Fault::new("pin_missing", format!("{name} may want a PIN and none was given; no try was used"));
            let hint = "give the PIN with --pin-file; or say in the reference whether it has one: `tpm2:handle=…;auth=none`, `…;auth=pin`";
            return Err(KeyError::Pin(fault.hint(Hint::say(hint))).into());
        }
        if *wants_pin == Some(false) || (wants_pin.is_none() && !protected) {
            match optional(self.sign_in(visit, object, None, algorithm, &digest)) {
                Err(failure) if failure.is_refused_auth() && wants_pin.is_none() => {}
                done => return done.map(|signature| (signature, None)),
            }
        }
        let tries = if protected {
            let lockout = Lockout::read(visit)?;
            lockout.must_take_tries(&tpm)?;
            lockout.tries()
        } else {
            Tries::Enough
        };
        let longest = self.area.longest_auth();
        let (signature, pin) = access.login(&question, tries, None, |pin| {
            fits(pin, longest, &name).map_err(LoginRefusal::Other)?;
            optional(self.sign_in(visit, object, Some(pin), algorithm, &digest)).map_err(|e| e.refusal(&tpm))
        })?;
        Ok((signature, Some(pin)))
    }

    fn sign_in(
        &self,
        visit: &mut Visit<'_>,
        object: Object,
        pin: Option<&Pin>,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let modulus_bytes = self.public.algorithm().modulus_bits().map_or(0, |bits| bits as usize / 8);
        visit.sign(object, pin, algorithm, digest, modulus_bytes)
    }

    fn sign_again(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut visit = self.device.visit()?;
        let (object, area) = self.found.ready(&mut visit, None)?;
        if area != self.area {
            let fault = Fault::new("key_not_found", format!("{} is another key now than when it was opened", self.found.home));
            return Err(KeyError::Selection(fault).into());
        }
        self.sign_in(&mut visit, object, self.pin.as_deref(), algorithm, digest)
    }

    /// The same key, at the handle where it lives from now on.
    pub(super) fn moved_to(mut self, handle: u32) -> Self {
        self.found.home = Home::Handle(handle);
        self.found.material = Material::Persistent(handle);
        self.uri = self.found.reference.uri(&self.found.home, Some(self.pin.is_some()));
        self
    }
}

impl Key for PrivateKey {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithms(&self) -> &[SignatureAlgorithm] {
        &self.algorithms
    }

    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let changed = |native: Option<String>| {
            let fault = Fault::new(
                "pin_incorrect",
                format!("{} refuses the PIN that it took before: it was changed; it is not tried again", self.found.home),
            );
            KeyError::Pin(match native {
                Some(native) => fault.native(native),
                None => fault,
            })
        };
        if self.spent.load(Ordering::SeqCst) {
            return Err(changed(None));
        }
        self.sign_again(algorithm, digest).map_err(|failure| match failure {
            Failure::Code(code, _) if failure.is_refused_auth() && self.pin.is_some() => {
                self.spent.store(true, Ordering::SeqCst);
                changed(Some(code.to_string()))
            }
            other => other.at(&self.device.to_string()),
        })
    }

    fn reference(&self, embed: Embed) -> Result<KeyReference, KeyError> {
        if embed == Embed::Pin {
            // No SDK reads the reference, so no reader is helped.
            let fault = Fault::new("usage", format!("the PIN of {} is not put into an identity", self.found.home));
            return Err(KeyError::Reference(fault.hint(Hint::say("leave out --embed-pin"))));
        }
        Ok(self.found.reference.in_identity(&self.found.home, self.pin.is_some()))
    }

    fn facts(&self) -> Result<KeyFacts, KeyError> {
        let pss = self.public.algorithm().curve().is_some() || self.algorithms.iter().any(|a| is_pss(*a));
        Ok(self.area.facts(self.place.clone(), pss))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("uri", &self.uri).field("public", &self.public).finish_non_exhaustive()
    }
}

/// Refuses a PIN that the TPM would not take as a whole, before a try is used.
pub(super) fn fits(pin: &Pin, longest: usize, place: &str) -> Result<(), KeyError> {
    if pin.expose().len() <= longest {
        return Ok(());
    }
    let message = format!("the PIN for {place} is longer than {longest} bytes, which is all that its TPM takes; no try was used");
    Err(KeyError::Pin(Fault::new("pin_unreadable", message)))
}

/// There is nothing at `handle`; says what there is.
fn missing(visit: &mut Visit<'_>, handle: u32) -> Result<KeyError, Failure> {
    let taken = visit.persistent_handles()?;
    let shown = match taken.as_slice() {
        [] => "it holds no persistent key".to_owned(),
        taken => format!("it holds {}", taken.iter().map(|h| hex(*h)).collect::<Vec<_>>().join(", ")),
    };
    let fault = Fault::new("key_not_found", format!("{} has no key at {}", visit.device(), hex(handle)));
    Ok(KeyError::Selection(fault.hint(Hint::say(format!("{shown}; clearing a TPM removes them all")))))
}

fn is_pss(algorithm: SignatureAlgorithm) -> bool {
    use SignatureAlgorithm::*;
    match algorithm {
        RsaPssSha256 | RsaPssSha384 | RsaPssSha512 => true,
        EcdsaSha256 | EcdsaSha384 | RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 => false,
    }
}

/// A signature, or `None` where the TPM does not have what it takes.
fn optional(signed: Result<Vec<u8>, Failure>) -> Result<Option<Vec<u8>>, Failure> {
    match signed {
        Err(failure) if failure.is_unsupported() => {
            log::debug!("{}", failure.native());
            Ok(None)
        }
        signed => signed.map(Some),
    }
}
