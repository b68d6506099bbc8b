//! [`PrivateKey`]: a key of a TPM that signs.
//!
//! It is loaded for each signature and flushed after it: a TPM has room for three, and belongs to the whole machine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::{Device, Object, Visit};
use super::error::Failure;
use super::keyfile::{Blob, KeyFile};
use super::lockout::Lockout;
use super::parent::{OTHER_TPM, Parent};
use super::place;
use super::reference::{Home, Reference, hex};
use super::template::PublicArea;
use crate::key::pin::{LoginRefusal, PinFor, Question, Tries};
use crate::key::{Access, Fault, Key, KeyError, KeyFacts, KeyReference, KeyUri, Pin, Place, PublicKey, SignatureAlgorithm};
use crate::text::Hint;

/// What is loaded to sign.
#[derive(Clone, Debug)]
pub(super) enum Material {
    /// A blob under its parent.
    Blob(Parent, Blob),
    /// What is at a persistent handle.
    Persistent(u32),
}

impl Material {
    /// What a key file holds.
    ///
    /// # Errors
    /// `key_type_unsupported` where its parent is in a hierarchy that is not used here.
    pub(super) fn of_file(file: KeyFile, home: &Home) -> Result<Self, KeyError> {
        let parent = Parent::of_file(file.parent).ok_or_else(|| {
            let message = format!("{home} has its parent in another hierarchy ({}) than the owner's", hex(file.parent));
            KeyError::Unavailable(Fault::new("key_type_unsupported", message))
        })?;
        Ok(Self::Blob(parent, file.blob))
    }

    /// Gets the key ready, with its public area.
    pub(super) fn ready(&self, visit: &mut Visit<'_>, home: &Home, access: Option<&Access<'_>>) -> Result<(Object, PublicArea), Failure> {
        match self {
            Self::Persistent(handle) => match visit.persistent(*handle)? {
                Some(found) => Ok(found),
                None => Err(missing(visit, *handle)?.into()),
            },
            Self::Blob(parent, blob) => {
                let parent = parent.ready(visit, access)?;
                let key = visit.load(parent, blob).map_err(|failure| match failure {
                    foreign if foreign.is_foreign_blob() => {
                        let fault = Fault::new("key_not_found", format!("the {} cannot load {home}", visit.device()));
                        KeyError::Selection(fault.because(format!("{foreign:?}")).hint(Hint::say(OTHER_TPM))).into()
                    }
                    failure => failure,
                })?;
                Ok((key, blob.public.clone()))
            }
        }
    }

    /// The storage key that hides what is secret, where one is at hand.
    fn salt(&self, visit: &mut Visit<'_>, said: Option<u32>) -> Result<Option<Object>, Failure> {
        let parent = match (self, said) {
            (Self::Blob(parent, _), _) => *parent,
            (Self::Persistent(_), said) => Parent::for_new(visit, said)?,
        };
        match parent {
            Parent::Persistent(_) => parent.ready(visit, None).map(Some),
            // It would have to be made with the owner's leave.
            Parent::StorageRoot => Ok(None),
        }
    }
}

/// A key of a TPM.
pub(super) struct PrivateKey {
    device: Arc<Device>,
    reference: Reference,
    home: Home,
    uri: KeyUri,
    material: Material,
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
    /// `wants_pin`: what its file or reference says about it.
    ///
    /// # Errors
    /// What [`Access::login`] says, `signature_wrong`, `key_not_as_promised`, and what the TPM says.
    pub(super) fn try_out(
        visit: &mut Visit<'_>,
        device: &Arc<Device>,
        reference: &Reference,
        home: &Home,
        material: Material,
        (object, area): (Object, PublicArea),
        wants_pin: Option<bool>,
        access: &Access<'_>,
    ) -> Result<Self, Failure> {
        let name = home.to_string();
        area.must_be_usable(&name)?;
        let public = area.public_key(&name)?;
        let mut key = Self {
            device: device.clone(),
            reference: reference.clone(),
            home: home.clone(),
            uri: reference.uri(home, wants_pin),
            material,
            algorithms: area.signatures(public.algorithm()),
            area,
            public,
            pin: None,
            spent: AtomicBool::new(false),
            place: place::of(visit)?,
        };
        let first = *key.algorithms.first().ok_or_else(|| {
            let fault = Fault::new("key_type_unsupported", format!("{name} is bound to a way to sign that TLS does not use"));
            KeyError::Unavailable(fault)
        })?;
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|e| KeyError::Device(Fault::new("device_error", "the system gave no random numbers").because(e)))?;
        let signature = key.first_signature(visit, object, first, &nonce, wants_pin, access)?;
        key.uri = reference.uri(home, Some(key.pin.is_some()));
        let fits = signature.as_ref().is_some_and(|signature| key.public.verifies(first, &nonce, signature));
        if !fits && is_pss(first) {
            // Its salt is as long as fits, or it has no PSS at all: no TLS peer takes that. Where it has PKCS#1 alone, TLS 1.2 works.
            log::info!("{name}: the TPM does not make PSS signatures as TLS wants them; only PKCS#1 v1.5 is offered");
            key.algorithms.retain(|a| !is_pss(*a));
            let pin = key.pin.clone();
            return key.prove(visit, object, pin.as_deref(), &nonce).map(|()| key);
        }
        if fits { Ok(key) } else { Err(wrong_signature(&name).into()) }
    }

    fn prove(&self, visit: &mut Visit<'_>, object: Object, pin: Option<&Pin>, nonce: &[u8]) -> Result<(), Failure> {
        let name = self.home.to_string();
        let first = *self.algorithms.first().ok_or_else(|| wrong_signature(&name))?;
        let signature = self.sign_with(visit, object, pin, first, &first.hash().digest(nonce))?;
        if self.public.verifies(first, nonce, &signature) { Ok(()) } else { Err(wrong_signature(&name).into()) }
    }

    /// The first signature, which shows whether the PIN is right; `None` where the TPM does not have `algorithm`.
    fn first_signature(
        &mut self,
        visit: &mut Visit<'_>,
        object: Object,
        algorithm: SignatureAlgorithm,
        nonce: &[u8],
        wants_pin: Option<bool>,
        access: &Access<'_>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let name = self.home.to_string();
        let tpm = self.device.to_string();
        let digest = algorithm.hash().digest(nonce);
        let question = Question { place: &name, whose: PinFor::User, pin_source: self.reference.pin_source.as_deref() };
        let protected = self.area.is_protected();
        let without = match wants_pin {
            Some(wants) => !wants,
            // An empty auth value that is wrong costs no try there.
            None if !protected => true,
            None => access.offer(&question)?.is_none(),
        };
        if without && wants_pin.is_none() && protected {
            let message = format!("{name} may want a PIN and none was given; no try was used");
            let hint = Hint::say("give the PIN with --pin-file; or say in the reference that there is none: handle=…;auth=none");
            return Err(KeyError::Pin(Fault::new("pin_missing", message).hint(hint)).into());
        }
        if without {
            match optional(self.sign_with(visit, object, None, algorithm, &digest)) {
                Err(failure) if failure.is_refused_auth() && wants_pin.is_none() => {}
                done => return done,
            }
        }
        let tries = if protected {
            let lockout = Lockout::read(visit)?;
            lockout.must_take_tries(&tpm)?;
            lockout.tries()
        } else {
            Tries::Enough
        };
        let salt = self.material.salt(visit, self.reference.parent)?;
        visit.protect(salt)?;
        let longest = self.area.longest_auth();
        let sign = |pin: &Pin| {
            fits(pin, longest, &name).map_err(LoginRefusal::Other)?;
            optional(self.sign_with(visit, object, Some(pin), algorithm, &digest)).map_err(|e| e.refusal(&tpm))
        };
        let (signature, pin) = access.login(&question, tries, None, sign)?;
        self.pin = Some(pin);
        Ok(signature)
    }

    fn sign_with(
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

    /// The same key, where it lives from now on.
    pub(super) fn moved(mut self, handle: u32) -> Self {
        self.home = Home::Handle(handle);
        self.material = Material::Persistent(handle);
        self.uri = self.reference.uri(&self.home, Some(self.pin.is_some()));
        self
    }

    fn sign_again(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut visit = self.device.visit()?;
        let (object, area) = self.material.ready(&mut visit, &self.home, None)?;
        if area != self.area {
            let fault = Fault::new("key_not_found", format!("{} is another key now than when it was opened", self.home));
            return Err(KeyError::Selection(fault).into());
        }
        if self.pin.is_some() {
            let salt = self.material.salt(&mut visit, self.reference.parent)?;
            visit.protect(salt)?;
        }
        self.sign_with(&mut visit, object, self.pin.as_deref(), algorithm, digest)
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
            let fault = Fault::new("pin_incorrect", format!("{} refuses the PIN that it took before: it was changed; it is not tried again", self.home));
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

    fn reference(&self) -> Result<KeyReference, KeyError> {
        Ok(self.reference.in_identity(&self.home, self.pin.is_some()))
    }

    fn facts(&self) -> Result<KeyFacts, KeyError> {
        Ok(self.area.facts(self.place.clone()))
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
    let fault = Fault::new("key_not_found", format!("the {} has no key at {}", visit.device(), hex(handle)));
    Ok(KeyError::Selection(fault.hint(Hint::say(format!("{shown}; clearing a TPM removes them all")))))
}

fn wrong_signature(name: &str) -> KeyError {
    let fault = Fault::new("signature_wrong", format!("{name} signed a test message, and the signature does not fit its public key"));
    KeyError::NotAsPromised(fault.hint(Hint::say("the TPM is faulty, or something stands between it and this machine")))
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
            log::info!("{failure:?}");
            Ok(None)
        }
        signed => signed.map(Some),
    }
}
