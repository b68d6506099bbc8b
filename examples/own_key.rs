//! A key of your own: a provider that this library has never heard of enrolls an identity; a later program opens it with the
//! key alone, and logs in.
//!
//! ```text
//! cargo run --example own_key -- device.jwt FOLDER
//! ```
//!
//! The "device" is FOLDER, with a file for each key; yours may be a KMS, an agent or a secure enclave. All that the library
//! wants of it is here: a name, a public key, and signatures over digests.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use secrecy::SecretString;
use ziti_enroller::flow::enroll::stage::KeyWish;
use ziti_enroller::flow::enroll::{Request, enroll};
use ziti_enroller::flow::{NoWatch, Patience, World};
use ziti_enroller::http::Reach;
use ziti_enroller::identity::Identity;
use ziti_enroller::jwt::UnverifiedToken;
use ziti_enroller::key::pin::NoPins;
use ziti_enroller::key::{
    Access, Embed, Fault, Key, KeyAlgorithm, KeyError, KeyFacts, KeyPlan, KeyProvider, KeyReference, KeyUri, NewKey, Providers,
    PublicKey, Readers, SignatureAlgorithm,
};

/// Of its references: `shelf:object=NAME`.
const SCHEME: &str = "shelf";

/// The device.
#[derive(Clone, Debug)]
struct Shelf(PathBuf);

impl Shelf {
    fn file(&self, uri: &KeyUri) -> Result<PathBuf, KeyError> {
        let name = uri.text("object").map_err(|e| KeyError::Other(e.into()))?.unwrap_or("unnamed");
        Ok(self.0.join(format!("{}.key", name.replace('/', "_"))))
    }

    fn take(&self, uri: &KeyUri) -> Result<Arc<dyn Key>, KeyError> {
        let not_here = |e| KeyError::Selection(Fault::new("key_not_found", format!("{uri} is not on the shelf")).because(e));
        let pkcs8 = std::fs::read(self.file(uri)?).map_err(not_here)?;
        let broken = |_| KeyError::Device(Fault::new("device_error", format!("{uri} is no key")));
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).map_err(broken)?;
        let public = PublicKey::from_spki(&spki(&pair)).map_err(|e| KeyError::Other(e.into()))?;
        Ok(Arc::new(Taken { uri: uri.clone(), pair, public }))
    }
}

/// SubjectPublicKeyInfo of a P-256 key (RFC 5480 §2): a fixed head, and the point.
fn spki(pair: &EcdsaKeyPair) -> Vec<u8> {
    const HEAD: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
        0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [&HEAD, pair.public_key().as_ref()].concat()
}

/// One key of it.
#[derive(Debug)]
struct Taken {
    uri: KeyUri,
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl Key for Taken {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithms(&self) -> &[SignatureAlgorithm] {
        &[SignatureAlgorithm::EcdsaSha256]
    }

    fn sign_digest(&self, _: SignatureAlgorithm, given: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |what: &'static str| KeyError::Device(Fault::new("device_error", what));
        let given = Digest::import_less_safe(given, &SHA256).map_err(|_| failed("that is no SHA-256"))?;
        let signed = self.pair.sign_digest(&given).map_err(|_| failed("it did not sign"))?;
        Ok(signed.as_ref().to_vec())
    }

    fn reference(&self, _: Embed) -> Result<KeyReference, KeyError> {
        Ok(KeyReference::names(self.uri.to_string()))
    }

    fn facts(&self) -> Result<KeyFacts, KeyError> {
        Ok(KeyFacts::of_a_file())
    }
}

impl KeyProvider for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn open(&self, uri: &KeyUri, _: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        self.take(uri)
    }

    fn open_reference(
        &self,
        reference: &KeyReference,
        _: Option<&PublicKey>,
        _: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>> {
        Some(self.take(&mine(reference)?))
    }

    fn readers(&self, reference: &KeyReference, _: Option<&KeyFacts>) -> Option<Readers> {
        mine(reference).map(|_| Readers::default())
    }

    fn plan(&self, wish: &NewKey<'_>, _: &Access<'_>) -> Result<KeyPlan, KeyError> {
        let name = wish.owner.map(|owner| owner.subject).unwrap_or_default();
        let uri = KeyUri::new(SCHEME).with("object", name.as_bytes());
        let there_already = self.file(&uri)?.exists();
        Ok(KeyPlan { uri, there_already, outlives_us: true })
    }

    fn generate(&self, plan: &KeyPlan, _: &NewKey<'_>, _: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        let file = self.file(&plan.uri)?;
        // An earlier run may have been killed after it had made it.
        if !file.exists() {
            let failed = |_| KeyError::Device(Fault::new("device_error", "it made no key"));
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(failed)?;
            std::fs::write(file, pkcs8.as_ref()).map_err(|e| KeyError::Other(e.into()))?;
        }
        self.take(&plan.uri)
    }

    fn delete(&self, uri: &KeyUri, _: &Access<'_>) -> Result<(), KeyError> {
        std::fs::remove_file(self.file(uri)?).map_err(|e| KeyError::Other(e.into()))
    }
}

/// What is in an identity, where it is ours.
fn mine(reference: &KeyReference) -> Option<KeyUri> {
    reference.expose().parse().ok().filter(|uri: &KeyUri| uri.scheme() == SCHEME)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [jwt, folder] = &words[..] else { return Err("usage: own_key JWT FOLDER".into()) };
    let identity = PathBuf::from(jwt).with_extension("json");
    let shelf = Shelf(folder.into());

    enroll_with(&shelf, Path::new(jwt), &identity)?;

    // Another program, another day: no provider is needed to use the key.
    let opened = Identity::open_with(&identity, &NoPins, |reference| mine(reference).map(|uri| shelf.take(&uri)))?;
    let controller = opened.controller(&Reach::default())?;
    let session = controller.login()?;
    println!("logged in as {} with {}", session.current_identity()?.name, opened.key().uri());
    Ok(())
}

fn enroll_with(shelf: &Shelf, jwt: &Path, identity: &Path) -> Result<(), Box<dyn Error>> {
    let world = World {
        providers: Providers::compiled_in().with(shelf.clone()),
        access: Access::new(&NoPins),
        watch: &NoWatch,
        reach: Reach::default(),
        patience: Patience::default(),
    };
    let token = UnverifiedToken::parse(&SecretString::from(std::fs::read_to_string(jwt)?))?;
    let key = KeyWish::New { within: KeyUri::new(SCHEME), algorithm: KeyAlgorithm::P256, reuse: true };
    let request = Request { token_file: Some(jwt.into()), ..Request::new(Some(Arc::new(token)), identity.to_owned(), key) };
    let enrolled = enroll(request, &world)?;
    println!("{} has the key {}", enrolled.identity.file, enrolled.key.map(|key| key.reference).unwrap_or_default());
    Ok(())
}
