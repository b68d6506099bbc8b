//! Provider `file`: a private key in a PEM file, or inside the identity itself.
//!
//! A new key waits in the work folder until the identity that holds it is in place (`pem:` in `id.key`); with
//! `--key file:PATH --create` it goes to that path and the identity refers to it (`file://PATH`).

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    Access, Embed, Fault, Key, KeyAlgorithm, KeyError, KeyFacts, KeyPlan, KeyProvider, KeyReference, KeyUri, NewKey, PublicKey,
    Reader, Readers, SignatureAlgorithm,
};
use crate::files::{self, Folder};
use crate::text::Hint;

/// Name of a new key in the work folder.
const WAITING: &str = "key.pem";
/// Largest key file that is read, in bytes; RSA-4096 takes 3.3 KiB.
const LARGEST: u64 = 64 * 1024;

/// The provider; it holds nothing.
#[derive(Debug)]
pub struct FileProvider;

impl KeyProvider for FileProvider {
    fn name(&self) -> &'static str {
        "file"
    }

    fn scheme(&self) -> &'static str {
        "file"
    }

    fn open(&self, uri: &KeyUri, _: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        let path = path_of(uri)?;
        let pem = files::read_regular(path, LARGEST).map_err(|e| KeyError::of_file(path, e))?;
        Ok(Arc::new(FileKey::read(secret_text(pem, path)?, uri.clone(), false)?))
    }

    fn open_reference(
        &self,
        reference: &KeyReference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>> {
        let text = reference.expose();
        if reference.holds_the_key() {
            let pem = SecretString::from(text.strip_prefix("pem:").unwrap_or(text));
            let read = FileKey::read(pem, KeyUri::new("file"), true).map(|k| Arc::new(k) as _);
            return Some(read.and_then(|key| of_the_certificate(key, expected)));
        }
        // Without a scheme it is a path, as every SDK takes it.
        let has_scheme = text.split_once(':').is_some_and(|(s, _)| s.chars().all(|c| c.is_ascii_alphanumeric()));
        if !text.starts_with("file:") && has_scheme {
            return None;
        }
        let uri = text
            .parse::<KeyUri>()
            .map_err(|e| KeyError::Reference(Fault::new("usage", "key reference is not a path").because(e)));
        Some(uri.and_then(|uri| self.open(&uri, access)).and_then(|key| of_the_certificate(key, expected)))
    }

    fn readers(&self, reference: &KeyReference, _: Option<&KeyFacts>) -> Option<Readers> {
        let text = reference.expose();
        if !reference.holds_the_key() && !text.starts_with("file:") {
            return None;
        }
        let elsewhere = (!reference.holds_the_key(), "it reads keys only from inside the identity");
        let list = vec![Reader::unless("Go SDK", &[]), Reader::unless("C SDK", &[]), Reader::unless("JVM SDK", &[elsewhere])];
        Some(Readers { list, variables: Vec::new() })
    }

    fn keys_live_in_a_device(&self) -> bool {
        false
    }

    fn plan(&self, wish: &NewKey<'_>, access: &Access<'_>) -> Result<KeyPlan, KeyError> {
        let (uri, there_already) = match wish.within.file_path() {
            None => {
                let path = files::absolute(&wish.work.join(WAITING))?;
                (KeyUri::file(&path), false)
            }
            Some(path) => {
                let path = files::absolute(path)?;
                (KeyUri::file(&path), path.symlink_metadata().is_ok())
            }
        };
        if there_already {
            if !wish.reuse {
                let message = format!("{} is there already", path_of(&uri)?.display());
                let hint = Hint::say("leave out --create to use it, or name another file");
                return Err(KeyError::Selection(Fault::new("key_exists", message).hint(hint)));
            }
            let found = self.open(&uri, access)?.public_key().algorithm();
            if found != wish.algorithm {
                return Err(KeyError::type_differs(&uri, found, wish.algorithm));
            }
        }
        Ok(KeyPlan { uri, there_already, outlives_us: wish.within.file_path().is_some() })
    }

    fn generate(&self, plan: &KeyPlan, wish: &NewKey<'_>, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        let path = path_of(&plan.uri)?;
        let inline = wish.within.file_path().is_none();
        // What an earlier run has made before it was killed. A half-written file in the work folder is no key: made again.
        if inline {
            let waiting = wish.work.read(WAITING, LARGEST)?;
            let waiting = waiting.and_then(|pem| FileKey::read(secret_text(pem, path).ok()?, plan.uri.clone(), true).ok());
            match waiting.filter(|key| key.public.algorithm() == wish.algorithm) {
                Some(key) => {
                    // Killed before it was durable, perhaps.
                    wish.work.fill(WAITING, key.pem.expose_secret().as_bytes())?;
                    return Ok(Arc::new(key));
                }
                None if plan.there_already => return Err(KeyError::no_file(path)),
                None => {}
            }
        } else if plan.there_already || path.symlink_metadata().is_ok() {
            let key = self.open(&plan.uri, access)?;
            let there = key.public_key().algorithm();
            wish.beside.or_of(path)?.sync()?;
            return if there == wish.algorithm { Ok(key) } else { Err(KeyError::type_differs(&plan.uri, there, wish.algorithm)) };
        }
        let pem = new_pem(wish.algorithm)?;
        let text = pem.expose_secret().as_bytes();
        if inline {
            // Its name becomes durable with that of the journal.
            wish.work.fill(WAITING, text)?;
        } else {
            let name = path.file_name().ok_or_else(|| not_a_file(&plan.uri))?;
            wish.beside.or_of(path)?.write_new(name, text)?;
        }
        let key = FileKey::read(pem, plan.uri.clone(), inline)?;
        super::prove(&key)?;
        Ok(Arc::new(key))
    }

    fn delete(&self, uri: &KeyUri, _: &Access<'_>) -> Result<(), KeyError> {
        let path = path_of(uri)?;
        files::remove_file(path).map_err(|e| KeyError::of_file(path, e))
    }

    /// Within the identity where it was within one; else `k.1.pem` beside `k.pem`.
    fn place_of(&self, uri: &KeyUri) -> Result<KeyUri, KeyError> {
        let Some(path) = uri.file_path() else { return Ok(KeyUri::new(self.scheme())) };
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("pem");
        let stem = path.file_stem().and_then(|s| s.to_str()).ok_or_else(|| not_a_file(uri))?;
        let stem = match stem.rsplit_once('.') {
            Some((stem, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => stem,
            _ => stem,
        };
        let later = (1_u32..).map(|n| path.with_file_name(format!("{stem}.{n}.{extension}")));
        let free = later.into_iter().find(|path| path.symlink_metadata().is_err());
        Ok(free.map_or_else(|| KeyUri::new(self.scheme()), |path| KeyUri::file(&path)))
    }

    fn abandon(&self, uri: &KeyUri, work: &Folder, access: &Access<'_>) -> Result<(), KeyError> {
        if path_of(uri)? == files::absolute(&work.join(WAITING))? {
            return Ok(work.remove(WAITING)?);
        }
        self.delete(uri, access)
    }
}

/// A key that an identity names or holds must be the one of its certificate, and sign.
fn of_the_certificate(key: Arc<dyn Key>, expected: Option<&PublicKey>) -> Result<Arc<dyn Key>, KeyError> {
    match expected {
        Some(expected) if key.public_key() != expected => Err(KeyError::not_its_key(key.uri())),
        _ => super::prove(&*key).map(|()| key),
    }
}

fn secret_text(bytes: Vec<u8>, path: &Path) -> Result<SecretString, KeyError> {
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes);
    text.map(SecretString::from)
        .map_err(|_| KeyError::Reference(Fault::new("key_type_unsupported", format!("{} is not a key in PEM", path.display()))))
}

fn path_of(uri: &KeyUri) -> Result<&Path, KeyError> {
    uri.file_path().ok_or_else(|| not_a_file(uri))
}

fn not_a_file(uri: &KeyUri) -> KeyError {
    KeyError::Reference(Fault::new("usage", format!("`{uri}` names no file")))
}

/// PKCS#8 PEM of a new key.
fn new_pem(algorithm: KeyAlgorithm) -> Result<SecretString, KeyError> {
    let failed = |e: aws_lc_rs::error::Unspecified| {
        KeyError::Device(Fault::new("device_error", format!("cannot make a key of type {algorithm}")).because(e))
    };
    let ec = |curve| EcdsaKeyPair::generate(curve)?.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec()));
    let rsa = |size| {
        let der: Pkcs8V1Der<'static> = aws_lc_rs::rsa::KeyPair::generate(size)?.as_der()?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    };
    let der = match algorithm {
        KeyAlgorithm::P256 => ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyAlgorithm::P384 => ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyAlgorithm::Rsa2048 => rsa(KeySize::Rsa2048),
        KeyAlgorithm::Rsa3072 => rsa(KeySize::Rsa3072),
        KeyAlgorithm::Rsa4096 => rsa(KeySize::Rsa4096),
    }
    .map_err(failed)?;
    let pem = der::pem::encode_string("PRIVATE KEY", der::pem::LineEnding::LF, &der);
    pem.map(SecretString::from)
        .map_err(|e| KeyError::Device(Fault::new("device_error", "cannot write the new key as PEM").because(e.to_string())))
}

/// A key in memory.
struct FileKey {
    uri: KeyUri,
    pem: SecretString,
    inline: bool,
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl FileKey {
    /// PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`), unencrypted.
    fn read(pem: SecretString, uri: KeyUri, inline: bool) -> Result<Self, KeyError> {
        let unsupported = |what: String| {
            KeyError::Unavailable(Fault::new("key_type_unsupported", what).hint(Hint::say(
                "p256, p384, rsa2048, rsa3072 and rsa4096 keys are read, as PKCS#8, SEC1 or PKCS#1 PEM without password",
            )))
        };
        let name = if uri.file_path().is_some() { uri.to_string() } else { "the key in the identity".to_owned() };
        if pem.expose_secret().contains("ENCRYPTED") {
            return Err(unsupported(format!("{name} is encrypted")));
        }
        let der = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes())
            .map_err(|_| unsupported(format!("{name} is not a private key in PEM")))?;
        let curves = [&signature::ECDSA_P256_SHA256_ASN1_SIGNING, &signature::ECDSA_P384_SHA384_ASN1_SIGNING];
        let bytes = der.secret_der();
        let pair = curves
            .into_iter()
            .find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, bytes).ok())
            .map(|p| Pair::Ec(Box::new(p)))
            .or_else(|| {
                RsaKeyPair::from_pkcs8(bytes).or_else(|_| RsaKeyPair::from_der(bytes)).ok().map(|p| Pair::Rsa(Box::new(p)))
            })
            .ok_or_else(|| unsupported(format!("{name} is of a type that is not supported")))?;
        let spki = match &pair {
            Pair::Ec(pair) => pair.public_key().as_der().map(|d| d.as_ref().to_vec()),
            Pair::Rsa(pair) => pair.public_key().as_der().map(|d| d.as_ref().to_vec()),
        };
        let spki = spki.map_err(|_| unsupported(format!("public half of {name} cannot be written")))?;
        let public = PublicKey::from_spki(&spki).map_err(|e| unsupported(format!("{name}: {e}")))?;
        Ok(Self { uri, pem, inline, pair, public })
    }
}

impl Key for FileKey {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithms(&self) -> &[SignatureAlgorithm] {
        self.public.algorithm().signatures()
    }

    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = || KeyError::Device(Fault::new("device_error", "the key file cannot make such a signature"));
        let digest = Digest::import_less_safe(digest, algorithm.hash().algorithm()).map_err(|_| failed())?;
        match (&self.pair, algorithm) {
            (Pair::Ec(pair), SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::EcdsaSha384) => {
                pair.sign_digest(&digest).map(|s| s.as_ref().to_vec()).map_err(|_| failed())
            }
            (Pair::Rsa(pair), _) => {
                let padding: &'static dyn signature::RsaEncoding = match algorithm {
                    SignatureAlgorithm::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    SignatureAlgorithm::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
                    SignatureAlgorithm::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
                    SignatureAlgorithm::RsaPssSha256 => &signature::RSA_PSS_SHA256,
                    SignatureAlgorithm::RsaPssSha384 => &signature::RSA_PSS_SHA384,
                    SignatureAlgorithm::RsaPssSha512 => &signature::RSA_PSS_SHA512,
                    SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::EcdsaSha384 => return Err(failed()),
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign_digest(padding, &digest, &mut signed).map_err(|_| failed())?;
                Ok(signed)
            }
            (Pair::Ec(_), _) => Err(failed()),
        }
    }

    fn reference(&self, _: Embed) -> Result<KeyReference, KeyError> {
        match self.uri.file_path() {
            Some(path) if !self.inline => {
                let path = files::absolute(path)?;
                // The Go reader decodes `%` and cuts at `?` and `#`; the C reader does none of it.
                let text = path.to_str().filter(|p| !p.contains(['%', '?', '#', '\n'])).ok_or_else(|| {
                    let message =
                        format!("{} cannot be written into an identity: every SDK reads such a path differently", path.display());
                    KeyError::Reference(Fault::new("usage", message).hint(Hint::say("use a path without %, ? and #")))
                })?;
                Ok(KeyReference::names(format!("file://{text}")))
            }
            _ => Ok(KeyReference::holds(format!("pem:{}", self.pem.expose_secret()))),
        }
    }

    fn facts(&self) -> Result<KeyFacts, KeyError> {
        Ok(KeyFacts::of_a_file())
    }

    /// Those in the same file.
    fn certificates(&self) -> Result<Vec<Vec<u8>>, KeyError> {
        let blocks = CertificateDer::pem_slice_iter(self.pem.expose_secret().as_bytes());
        Ok(blocks.filter_map(Result::ok).map(|der| der.to_vec()).collect())
    }
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKey").field("uri", &self.uri).field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_signs_what_its_public_key_verifies() {
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Rsa2048] {
            let key = FileKey::read(new_pem(algorithm).unwrap(), KeyUri::new("file"), true).unwrap();
            assert_eq!(key.public_key().algorithm(), algorithm);
            for signature in key.signature_algorithms() {
                let signed = key.sign(*signature, b"message").unwrap();
                assert!(key.public_key().verifies(*signature, b"message", &signed), "{algorithm} {signature:?}");
                assert!(!key.public_key().verifies(*signature, b"massage", &signed), "{algorithm} {signature:?}");
            }
            super::super::prove(&key).unwrap();
        }
    }

    #[test]
    fn says_what_kind_of_file_it_is_not() {
        for text in ["", "hello", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"] {
            let error = FileKey::read(SecretString::from(text), KeyUri::new("file"), true).unwrap_err();
            assert_eq!(error.fault().map(|f| f.code), Some("key_type_unsupported"), "{text}");
        }
    }
}
