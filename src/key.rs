//! Room 3, the seam: keys wherever they live.
//!
//! Two nouns. A [`KeyProvider`] is a kind of place (files, PKCS#11 tokens, …), one per URI scheme; it owns loaded modules
//! and logins for as long as it lives. A [`Key`] is one key in such a place. Nobody outside `key/` knows which provider
//! it holds: whoever wants to ask is missing a method here.
//!
//! A new provider is one file beside these and one line in `COMPILED_IN`; a provider of your own joins with
//! [`Providers::with`].

pub mod algorithm;
pub mod call;
pub mod encoding;
pub mod error;
pub mod facts;
pub mod file;
pub mod listing;
pub mod name;
pub mod pin;
pub mod uri;

#[cfg(feature = "pkcs11")]
pub mod pkcs11;

#[cfg(feature = "tpm")]
pub mod tpm;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::files::Folder;
use crate::text::Hint;

pub use algorithm::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
pub use error::{Fault, KeyError};
pub use facts::{Answer, KeyFacts, Place, Reader, Readers};
pub use listing::{KeyListing, PinState, PlaceListing, Rehearsal};
pub use name::{KeyName, KeyOwner};
pub use pin::{Access, Pin, PinOrigin, PinSource};
pub use uri::KeyUri;

/// A kind of place where keys live.
pub trait KeyProvider: Debug + Send + Sync {
    /// Its name after `--provider`.
    fn name(&self) -> &'static str;

    /// The scheme of its references.
    fn scheme(&self) -> &'static str;

    /// What a person can say about the place; the command line is built from it.
    fn options(&self) -> &'static [ProviderOption] {
        &[]
    }

    /// Variables that keep its libraries from printing, by name and value; they count only where they are set before the
    /// process starts.
    fn silence(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Loads what needs no login and no network: module, token, flags. Called while the connection is made.
    ///
    /// # Errors
    /// What would stop [`plan`](Self::plan) or [`open`](Self::open) for sure.
    fn prepare(&self, within: &KeyUri) -> Result<(), KeyError> {
        let _ = within;
        Ok(())
    }

    /// Opens the one key that `uri` names.
    ///
    /// # Errors
    /// [`KeyError::Selection`] with the candidates where none or several fit.
    fn open(&self, uri: &KeyUri, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError>;

    /// Opens what `id.key` of an identity file holds, in every spelling that SDKs write. `None`: not mine.
    ///
    /// `expected` is the public key of the identity's certificate: it decides, where the place has changed.
    fn open_reference(
        &self,
        reference: &KeyReference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>>;

    /// The exact name behind what stands in `id.key` of an identity. `None`: not mine, or it holds the key itself.
    fn locate(&self, reference: &KeyReference) -> Option<Result<KeyUri, KeyError>> {
        let _ = reference;
        None
    }

    /// The tokens or devices that `within` leaves open, those too that cannot be used.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] where this kind of place has no such list.
    fn places(&self, within: &KeyUri) -> Result<Vec<PlaceListing>, KeyError> {
        let _ = within;
        Err(cannot(self.name(), "list places"))
    }

    /// The private keys in the one place that `within` names.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] where this kind of place has no such list.
    fn keys(&self, within: &KeyUri, access: &Access<'_>) -> Result<Vec<KeyListing>, KeyError> {
        let _ = (within, access);
        Err(cannot(self.name(), "list keys"))
    }

    /// Makes a key that leaves nothing behind, and has it sign: proves what an enrollment needs.
    ///
    /// # Errors
    /// What an enrollment with a new key would stumble over.
    fn rehearse(&self, within: &KeyUri, algorithm: KeyAlgorithm, access: &Access<'_>) -> Result<Rehearsal, KeyError> {
        let _ = (within, algorithm, access);
        Ok(Rehearsal::NotHere(format!("provider {} has no keys that leave nothing behind", self.name())))
    }

    /// Who else can open an identity whose `id.key` is `reference`, as far as that and what was read back of the key say.
    /// `None`: not mine.
    fn readers(&self, reference: &KeyReference, facts: Option<&KeyFacts>) -> Option<Readers>;

    /// Whether Ziti SDKs of today can use its keys, once the PIN is in the identity.
    fn is_known_to_sdks(&self) -> bool {
        true
    }

    /// Whether its keys live in a device: then an identity without a PIN stops a program that reads it unattended.
    fn keys_live_in_a_device(&self) -> bool {
        true
    }

    /// Turns a wish into an exact name, and says whether such a key was there before us. Writes nothing.
    ///
    /// # Errors
    /// [`KeyError::Selection`] where a key of that name cannot be reused: half a pair, another type, or one that
    /// must not be there; [`KeyError::Unavailable`] where the place cannot make such a key.
    fn plan(&self, wish: &NewKey<'_>, access: &Access<'_>) -> Result<KeyPlan, KeyError>;

    /// Makes the planned key, or finds it where an earlier run has made it. Read back and tried, else destroyed.
    fn generate(&self, plan: &KeyPlan, wish: &NewKey<'_>, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError>;

    /// Destroys both halves of the key that `uri` names.
    fn delete(&self, uri: &KeyUri, access: &Access<'_>) -> Result<(), KeyError>;

    /// Destroys what was planned or made for an enrollment that did not happen; `work` is its [`NewKey::work`]. A provider
    /// whose names are given out again by others looks there for proof that the key is really the one.
    ///
    /// # Errors
    /// [`KeyError::Selection`] `key_not_found` where the plan was never carried out.
    fn abandon(&self, uri: &KeyUri, work: &Folder, access: &Access<'_>) -> Result<(), KeyError> {
        let _ = work;
        self.delete(uri, access)
    }

    /// The place of the key that `uri` names, for another key beside it: the next generation of the same owner.
    ///
    /// # Errors
    /// [`KeyError::Reference`] where `uri` cannot be read.
    fn place_of(&self, uri: &KeyUri) -> Result<KeyUri, KeyError> {
        let _ = uri;
        Ok(KeyUri::new(self.scheme()))
    }

    /// Whether `uri` asks for a new key by itself, so that nobody need say so besides.
    fn implies_new(&self, uri: &KeyUri) -> bool {
        let _ = uri;
        false
    }
}

/// One key.
pub trait Key: Debug + Send + Sync {
    /// Its exact name: serial, id, label.
    fn uri(&self) -> &KeyUri;

    /// Its public half.
    fn public_key(&self) -> &PublicKey;

    /// What it can sign, best first.
    fn signature_algorithms(&self) -> &[SignatureAlgorithm];

    /// Signs a digest. ECDSA comes as DER, RSA-PSS with a salt as long as the hash. May block; called from several
    /// threads.
    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// What an identity file stores in `id.key`: names the key, or holds it.
    ///
    /// # Errors
    /// [`KeyError::Reference`] where the readers of identities would not read it as it is meant.
    fn reference(&self, embed: Embed) -> Result<KeyReference, KeyError>;

    /// Attributes as read back.
    fn facts(&self) -> Result<KeyFacts, KeyError>;

    /// The certificates that lie beside it, DER: the one for this key first, then those that issued it, as far as they are
    /// there. None where its place holds no certificates.
    fn certificates(&self) -> Result<Vec<Vec<u8>>, KeyError> {
        Ok(Vec::new())
    }

    /// What the reference of the identity held besides the name, for a key that was opened by one.
    fn held(&self) -> Embed {
        Embed::Nothing
    }

    /// Whether the reference of the identity is out of date: the key was found elsewhere than it says.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Hashes and signs a message.
    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_digest(algorithm, &algorithm.hash().digest(message))
    }
}

/// Something that a person can say about a place: `--module PATH` is also `module-path=` in its references.
#[derive(Clone, Copy, Debug)]
pub struct ProviderOption {
    /// After `--`, without the dashes.
    pub flag: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// The attribute of a reference that says the same.
    pub attribute: &'static str,
    /// Attributes that say it in another way: beside one of them no variable is looked at.
    pub instead: &'static [&'static str],
    /// A variable that is honoured after the option and `ZITI_ENROLLER_<OPTION>`; empty for none.
    pub variable: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// A key that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// Where, as far as it was said: the scheme at least.
    pub within: &'a KeyUri,
    /// Whose it is: names it where `within` does not. `None`: `within` must.
    pub owner: Option<KeyOwner<'a>>,
    /// What kind.
    pub algorithm: KeyAlgorithm,
    /// Whether a key that is there already is taken. Else one under a name that was said is an error, and where none was
    /// said it is the next one that is wanted: of a later generation, or under the next free name.
    pub reuse: bool,
    /// A private folder that outlives a crash: what is made but not yet in place waits here.
    pub work: &'a Folder,
    /// The identity file that will refer to it; a provider may put its own file beside it.
    pub identity: &'a Path,
    /// The folder of that file, opened: what a provider puts beside it is made in there ([`Folder::or_of`]), so that nobody
    /// can swap the folder meanwhile.
    pub beside: &'a Folder,
}

/// What [`KeyProvider::plan`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPlan {
    /// The exact name.
    pub uri: KeyUri,
    /// A key of that name was there before us: it is reused, and never deleted.
    pub there_already: bool,
    /// It will be an object outside the work folder: the plan must be durable before it is made.
    pub outlives_us: bool,
}

/// What goes into a reference besides the name of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embed {
    /// Nothing.
    Nothing,
    /// The PIN, for SDKs that look nowhere else.
    Pin,
}

fn cannot(provider: &str, what: &str) -> KeyError {
    KeyError::Unavailable(Fault::new("provider_absent", format!("provider {provider} cannot {what}")))
}

/// What an identity file stores in `id.key`. Secret: it may hold the key itself, or a PIN.
#[derive(Clone)]
pub struct KeyReference {
    text: SecretString,
    holds: bool,
}

impl KeyReference {
    /// A reference that only names the key.
    pub fn names(text: impl Into<String>) -> Self {
        Self { text: SecretString::from(text.into()), holds: false }
    }

    /// One that holds the private key.
    pub fn holds(text: impl Into<String>) -> Self {
        Self { text: SecretString::from(text.into()), holds: true }
    }

    /// As found in an identity file of whatever maker.
    pub fn found(text: impl Into<String>) -> Self {
        let text = text.into();
        let holds = text.contains("-----BEGIN");
        Self { text: SecretString::from(text), holds }
    }

    /// Whether the private key is in it.
    pub fn holds_the_key(&self) -> bool {
        self.holds
    }

    /// The text, for the provider that reads it and the file that stores it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl std::fmt::Debug for KeyReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyReference({})", if self.holds { "holds a key" } else { "names a key" })
    }
}

type Maker = fn() -> Box<dyn KeyProvider>;

static COMPILED_IN: &[Maker] = &[
    || Box::new(file::FileProvider),
    #[cfg(feature = "pkcs11")]
    || Box::new(pkcs11::Pkcs11Provider::default()),
    #[cfg(not(feature = "pkcs11"))]
    || Box::new(Absent { name: "pkcs11", scheme: "pkcs11" }),
    #[cfg(feature = "tpm")]
    || Box::new(tpm::TpmProvider::default()),
    #[cfg(not(feature = "tpm"))]
    || Box::new(Absent { name: "tpm", scheme: "tpm2" }),
];

/// The providers of a run.
#[derive(Debug)]
pub struct Providers(Vec<Box<dyn KeyProvider>>);

impl Providers {
    /// Those that this build has.
    pub fn compiled_in() -> Self {
        Self(COMPILED_IN.iter().map(|make| make()).collect())
    }

    /// None at all.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// One of your own, asked before all others.
    pub fn with(mut self, provider: impl KeyProvider + 'static) -> Self {
        self.0.insert(0, Box::new(provider));
        self
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &dyn KeyProvider> {
        self.0.iter().map(|p| &**p)
    }

    /// The one called `name` on the command line.
    pub fn named(&self, name: &str) -> Option<&dyn KeyProvider> {
        self.iter().find(|p| p.name() == name)
    }

    /// The one whose references look like `uri`.
    ///
    /// # Errors
    /// [`KeyError::Reference`] where there is none.
    pub fn of(&self, uri: &KeyUri) -> Result<&dyn KeyProvider, KeyError> {
        self.iter().find(|p| p.scheme() == uri.scheme()).ok_or_else(|| {
            let known: Vec<String> = self.iter().map(|p| format!("`{}:`", p.scheme())).collect();
            KeyError::Reference(
                Fault::new("usage", format!("no provider reads references of scheme `{}:`", uri.scheme()))
                    .hint(Hint::say(format!("known are {}", known.join(", ")))),
            )
        })
    }

    /// Who else can open an identity whose `id.key` is `reference`.
    pub fn readers(&self, reference: &KeyReference, facts: Option<&KeyFacts>) -> Readers {
        self.iter().find_map(|p| p.readers(reference, facts)).unwrap_or_default()
    }

    /// The exact name behind what stands in `id.key` of an identity.
    pub fn locate(&self, reference: &KeyReference) -> Option<Result<KeyUri, KeyError>> {
        self.iter().find_map(|p| p.locate(reference))
    }

    /// Opens `id.key` of an identity.
    ///
    /// # Errors
    /// [`KeyError::Reference`] where no provider reads it, else what the provider says.
    pub fn open_reference(
        &self,
        reference: &KeyReference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Result<Arc<dyn Key>, KeyError> {
        self.iter().find_map(|p| p.open_reference(reference, expected, access)).unwrap_or_else(|| {
            // Only the scheme: the rest may be a key or a PIN.
            let scheme =
                reference.expose().split(':').next().filter(|s| s.len() < 16 && s.chars().all(|c| c.is_ascii_alphanumeric()));
            let what = scheme.map_or(String::from("its form is unknown"), |s| format!("scheme `{s}:` is unknown"));
            Err(KeyError::Reference(Fault::new("usage", format!("no provider reads the key reference of this identity: {what}"))))
        })
    }
}

/// Makes the key sign a fresh nonce, and checks the signature in software against the public key.
///
/// A token can show the public object of one key and sign with another; every key passes here before it is used.
///
/// # Errors
/// [`KeyError::NotAsPromised`] `signature_wrong`, and what the device says.
pub fn prove(key: &dyn Key) -> Result<(), KeyError> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce)
        .map_err(|e| KeyError::Device(Fault::new("device_error", "the system gave no random numbers").because(e)))?;
    let algorithm = key.public_key().algorithm().csr_signature();
    let signature = key.sign(algorithm, &nonce)?;
    if key.public_key().verifies(algorithm, &nonce, &signature) {
        return Ok(());
    }
    Err(KeyError::NotAsPromised(
        Fault::new("signature_wrong", "the key signed a test message, and the signature does not fit its public key")
            .hint(Hint::say("private and public object of that name belong to different keys, or the device is faulty")),
    ))
}

/// A provider that this build was made without: it answers by saying so.
#[cfg(not(all(feature = "pkcs11", feature = "tpm")))]
#[derive(Debug)]
struct Absent {
    name: &'static str,
    scheme: &'static str,
}

#[cfg(not(all(feature = "pkcs11", feature = "tpm")))]
impl Absent {
    fn error(&self) -> KeyError {
        KeyError::Unavailable(
            Fault::new("provider_absent", format!("this build has no provider `{}`", self.name))
                .hint(Hint::run("build it with the feature", format!("cargo install ziti-enroller --features {}", self.name))),
        )
    }
}

#[cfg(not(all(feature = "pkcs11", feature = "tpm")))]
impl KeyProvider for Absent {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scheme(&self) -> &'static str {
        self.scheme
    }

    fn prepare(&self, _: &KeyUri) -> Result<(), KeyError> {
        Err(self.error())
    }

    fn open(&self, _: &KeyUri, _: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        Err(self.error())
    }

    fn open_reference(
        &self,
        reference: &KeyReference,
        _: Option<&PublicKey>,
        _: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>> {
        let mine = reference.expose().strip_prefix(self.scheme).is_some_and(|rest| rest.starts_with(':'));
        mine.then(|| Err(self.error()))
    }

    fn readers(&self, _: &KeyReference, _: Option<&KeyFacts>) -> Option<Readers> {
        None
    }

    fn plan(&self, _: &NewKey<'_>, _: &Access<'_>) -> Result<KeyPlan, KeyError> {
        Err(self.error())
    }

    fn generate(&self, _: &KeyPlan, _: &NewKey<'_>, _: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        Err(self.error())
    }

    fn delete(&self, _: &KeyUri, _: &Access<'_>) -> Result<(), KeyError> {
        Err(self.error())
    }
}

#[cfg(all(test, not(all(feature = "pkcs11", feature = "tpm"))))]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_is_not_built_in_says_how_to_get_it() {
        let providers = Providers::compiled_in();
        let missing = [("pkcs11", cfg!(feature = "pkcs11")), ("tpm", cfg!(feature = "tpm"))];
        for (name, _) in missing.into_iter().filter(|(_, built_in)| !built_in) {
            let provider = providers.named(name).expect("one that is not built in answers too");
            let error = provider.prepare(&KeyUri::new(provider.scheme())).unwrap_err();
            let fault = error.fault().expect("it is a fault");
            assert_eq!(fault.code, "provider_absent");
            let command = fault.hint.as_ref().and_then(|h| h.run.as_deref()).unwrap_or_default();
            assert!(command.ends_with(&format!("--features {name}")), "{command}");
        }
    }
}
