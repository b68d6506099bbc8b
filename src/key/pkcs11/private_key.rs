//! [`PrivateKey`]: one private key of an open token, as the rest of the program uses it.
//!
//! The hash is made in software, and the token signs the digest: CKM_ECDSA, CKM_RSA_PKCS and CKM_RSA_PKCS_PSS are what
//! all of them have, CKM_ECDSA_SHA256 is not in SoftHSM (PKCS#11 v3.1 §6.3.12, §6.1.5, §6.1.9).

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{AttributeType, ObjectHandle};

use super::certificate;
use super::error::{Failure, is_lost, names, rv};
use super::object::{Name, Object, flags};
use super::pair::{Found, Pair};
use super::pool::{Lent, Mode};
use super::reference;
use super::session::OpenToken;
use crate::key::call::doing;
use crate::key::encoding::{Hash, ecdsa_der};
use crate::key::{
    Answer, Embed, Fault, Key, KeyAlgorithm, KeyError, KeyFacts, KeyReference, KeyUri, PublicKey, SignatureAlgorithm,
};
use crate::text::Hint;

/// What to do about a token that makes other keys than it was asked for.
const ANOTHER_TOKEN: &str = "this token does not keep keys as they were asked for: use another";

/// A private key in a token.
#[derive(Debug)]
pub(super) struct PrivateKey {
    token: Arc<OpenToken>,
    uri: KeyUri,
    object: Object,
    /// Its handle, and the opening of the token in which that is good.
    handle: Mutex<(u64, ObjectHandle)>,
    public: PublicKey,
    algorithms: Vec<SignatureAlgorithm>,
    /// The PIN is wanted before every signature (CKA_ALWAYS_AUTHENTICATE).
    always_authenticate: bool,
    facts: KeyFacts,
    held: Embed,
    elsewhere: bool,
}

impl PrivateKey {
    /// Reads what the token says of the key; `pin_source` goes into its name.
    pub(super) fn read(token: &Arc<OpenToken>, lent: &Lent, pair: Pair, pin_source: Option<&str>) -> Result<Self, Failure> {
        use AttributeType as T;
        let wanted = [T::Sensitive, T::Extractable, T::AlwaysSensitive, T::NeverExtractable, T::AlwaysAuthenticate];
        let read = flags(&lent.session, &pair.private, &wanted)?;
        let curve = pair.public.algorithm().curve().is_some();
        let can = |mechanism| Some(curve || token.module().can(token.token(), mechanism));
        let facts = KeyFacts {
            sensitive: read[0].into(),
            extractable: read[1].into(),
            always_sensitive: read[2].into(),
            never_extractable: read[3].into(),
            public_object: pair.beside,
            pin_each_time: read[4].into(),
            pss: can(MechanismType::RSA_PKCS_PSS).into(),
            raw_rsa: can(MechanismType::RSA_X_509).into(),
            place: Some(token.token().place()),
        };
        let mut algorithms = pair.public.algorithm().signatures().to_vec();
        if facts.pss == Answer::No {
            algorithms.retain(|a| pss(*a).is_none());
        }
        Ok(Self {
            uri: named(token, &pair.private.id, &pair.private.label, pin_source),
            handle: Mutex::new((lent.opening, pair.private.handle)),
            object: pair.private,
            token: token.clone(),
            public: pair.public,
            algorithms,
            always_authenticate: read[4] == Some(true),
            facts,
            held: Embed::Nothing,
            elsewhere: false,
        })
    }

    /// The same, for one that the reference of an identity has led to: what it held, and whether it led elsewhere.
    pub(super) fn opened_by_reference(self, held: Embed, elsewhere: bool) -> Self {
        Self { held, elsewhere, ..self }
    }

    /// Refuses a key that was there before us and is not kept inside the token. What cannot be read is no refusal.
    pub(super) fn must_stay_inside(&self, allow_extractable: bool) -> Result<(), KeyError> {
        let wrong = [
            ("CKA_SENSITIVE is false", self.facts.sensitive == Answer::No),
            ("CKA_EXTRACTABLE is true", self.facts.extractable == Answer::Yes),
        ];
        if !allow_extractable {
            self.must_be(&wrong, "use a key that was made in the token; --allow-extractable takes this one")?;
        }
        for (what, answer) in
            [("always sensitive", self.facts.always_sensitive), ("never extractable", self.facts.never_extractable)]
        {
            if answer != Answer::Yes {
                log::warn!("{}: the token does not say that it was {what}: it may have been outside before", self.uri);
            }
        }
        Ok(())
    }

    /// Refuses a key of ours that is not what was asked for, or that nothing could find again.
    pub(super) fn must_be_as_promised(&self, asked: KeyAlgorithm) -> Result<(), KeyError> {
        self.must_be_as_asked(asked)?;
        let nameless = self.object.id.is_empty() && self.object.label.is_empty();
        self.must_be(&[("it has neither id nor label, so nothing could find it again", nameless)], ANOTHER_TOKEN)
    }

    /// Refuses one that is not what was asked for.
    pub(super) fn must_be_as_asked(&self, asked: KeyAlgorithm) -> Result<(), KeyError> {
        let KeyFacts { sensitive, extractable, always_sensitive, never_extractable, .. } = self.facts;
        let wrong = [
            ("CKA_SENSITIVE is false", sensitive == Answer::No),
            ("CKA_EXTRACTABLE is true", extractable == Answer::Yes),
            ("CKA_ALWAYS_SENSITIVE is false", always_sensitive == Answer::No),
            ("CKA_NEVER_EXTRACTABLE is false", never_extractable == Answer::No),
            ("it is of another type than was asked for", self.public.algorithm() != asked),
        ];
        self.must_be(&wrong, ANOTHER_TOKEN)
    }

    fn must_be(&self, wrong: &[(&str, bool)], hint: &str) -> Result<(), KeyError> {
        let wrong: Vec<&str> = wrong.iter().filter(|(_, is)| *is).map(|(what, _)| *what).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let fault = Fault::new("key_not_as_promised", format!("key {} is not what it must be: {}", self.uri, wrong.join(", ")));
        Err(KeyError::NotAsPromised(fault.hint(Hint::say(hint))))
    }

    /// The handle in this opening of the token: sought anew where the token was opened again.
    fn handle(&self, lent: &Lent) -> Result<ObjectHandle, Failure> {
        let mut known = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != lent.opening {
            let id = Some(self.object.id.clone()).filter(|id| !id.is_empty());
            let label = Some(self.object.label.clone()).filter(|label| !label.is_empty());
            let found = Found::by(&lent.session, &Name { id, label })?;
            let [one] = found.privates.as_slice() else {
                let message = format!("{} was opened again, and does not show the key {} any more", self.token.token(), self.uri);
                return Err(KeyError::Device(Fault::new("device_gone", message)).into());
            };
            *known = (lent.opening, one.handle);
        }
        Ok(known.1)
    }

    fn not_in_parts(&self, error: Error) -> Failure {
        // A device that is broken or gone says nothing about parts.
        let broken = matches!(rv(&error), Some(RvError::DeviceError | RvError::DeviceMemory | RvError::HostMemory));
        if broken || is_lost(&error) {
            return error.into();
        }
        let (native, call) = names(&error);
        let place = self.token.token();
        let what = "a key that wants the PIN before every signature cannot be used through this module";
        let mut fault = Fault::new("key_type_unsupported", format!("{place}: {what}: {call} failed"));
        fault.native = native.map(String::from);
        KeyError::Unavailable(fault.hint(Hint::say("use a key without CKA_ALWAYS_AUTHENTICATE, as all Ziti SDKs need"))).into()
    }

    fn sign_raw(&self, mechanism: &Mechanism<'_>, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.token.with(Mode::Read, |lent| self.sign_in(lent, mechanism, data))
    }

    fn sign_in(&self, lent: &Lent, mechanism: &Mechanism<'_>, data: &[u8]) -> Result<Vec<u8>, Failure> {
        let handle = self.handle(lent)?;
        if !self.always_authenticate {
            let _call = doing("C_Sign");
            return Ok(lent.session.sign(mechanism, handle, data)?);
        }
        // The login stands between C_SignInit and C_Sign, which cryptoki calls together. In two parts there is a gap,
        // and the modules of YubiKeys (YKCS11 from 2.0, OpenSC) collect what they get in parts.
        let _call = doing("C_Sign");
        lent.session.sign_init(mechanism, handle)?;
        self.token.login_for_this_operation(lent)?;
        lent.session.sign_update(data).map_err(|error| self.not_in_parts(error))?;
        Ok(lent.session.sign_final()?)
    }

    /// Signs a message and looks at the signature, in this session: another one may not see the key.
    pub(super) fn must_sign_in(&self, lent: &Lent) -> Result<(), Failure> {
        let algorithm = self.public.algorithm().csr_signature();
        let message = b"rehearsal";
        let digest = algorithm.hash().digest(message);
        let signature = match self.public.algorithm().curve() {
            Some(_) => ecdsa_der(&self.sign_in(lent, &Mechanism::Ecdsa, &digest)?),
            None => Some(self.sign_in(lent, &Mechanism::RsaPkcs, &algorithm.hash().digest_info(&digest))?),
        };
        if signature.is_some_and(|s| self.public.verifies(algorithm, message, &s)) {
            return Ok(());
        }
        let place = self.token.token();
        let message = format!("{place} signed a test message, and the signature does not fit the public key that it shows");
        let hint = Hint::say("the device is faulty, or shows another key than it has made: use another");
        Err(KeyError::NotAsPromised(Fault::new("signature_wrong", message).hint(hint)).into())
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
        let place = self.token.token();
        let failed = |what: String| Err(KeyError::Device(Fault::new("device_error", format!("{place}: {what}"))));
        // CKM_ECDSA cuts a longer digest without a word.
        if !self.algorithms.contains(&algorithm) || digest.len() != algorithm.hash().bytes() {
            return failed(format!("the key cannot make a signature of kind {algorithm:?} over {} bytes", digest.len()));
        }
        if let Some(curve) = self.public.algorithm().curve() {
            let raw = self.sign_raw(&Mechanism::Ecdsa, digest)?;
            return ecdsa_der(&raw).map_or_else(|| failed(format!("C_Sign gave {} bytes for curve {curve}", raw.len())), Ok);
        }
        match pss(algorithm) {
            Some(params) => self.sign_raw(&Mechanism::RsaPkcsPss(params), digest),
            None => self.sign_raw(&Mechanism::RsaPkcs, &algorithm.hash().digest_info(digest)),
        }
    }

    fn reference(&self, embed: Embed) -> Result<KeyReference, KeyError> {
        let token = self.token.token();
        let pin = match embed {
            Embed::Nothing => None,
            Embed::Pin => Some(self.token.pin_for_readers()?),
        };
        let slot = self.token.slot().id();
        let Object { id, label, .. } = &self.object;
        let text = reference::write(self.token.module().path(), slot, id, label, &token.identity.label, &token.identity.serial)?;
        Ok(KeyReference::names(match pin {
            Some(pin) => reference::with_pin(&text, &pin),
            None => text,
        }))
    }

    fn facts(&self) -> Result<KeyFacts, KeyError> {
        Ok(self.facts.clone())
    }

    fn certificates(&self) -> Result<Vec<Vec<u8>>, KeyError> {
        self.token.with(Mode::Read, |lent| Ok(certificate::beside(lent, &self.object.id, &self.public)?))
    }

    fn held(&self) -> Embed {
        self.held
    }

    fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }
}

/// The exact name of a key: token and serial, id and label, module and PIN source.
pub(super) fn named(token: &OpenToken, id: &[u8], label: &[u8], pin_source: Option<&str>) -> KeyUri {
    use std::os::unix::ffi::OsStrExt;
    let identity = &token.token().identity;
    let mut uri = KeyUri::new("pkcs11");
    for (name, value) in [
        ("token", identity.label.as_bytes()),
        ("serial", identity.serial.as_bytes()),
        ("object", label),
        ("id", id),
        ("module-path", token.module().path().as_os_str().as_bytes()),
        ("pin-source", pin_source.unwrap_or_default().as_bytes()),
    ] {
        if !value.is_empty() {
            uri.set(name, value);
        }
    }
    uri
}

/// Parameters of RSASSA-PSS with a salt as long as the hash; `None` for every other algorithm.
fn pss(algorithm: SignatureAlgorithm) -> Option<PkcsPssParams> {
    use SignatureAlgorithm::*;
    match algorithm {
        RsaPssSha256 | RsaPssSha384 | RsaPssSha512 => {}
        EcdsaSha256 | EcdsaSha384 | RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 => return None,
    }
    let (hash_alg, mgf, salt) = match algorithm.hash() {
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
    };
    Some(PkcsPssParams { hash_alg, mgf, s_len: salt.into() })
}
