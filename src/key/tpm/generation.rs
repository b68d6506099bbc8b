//! Making a key.
//!
//! A key comes out of TPM2_Create and exists nowhere else until it is written down. So it is judged and tried first, and
//! what is not as promised needs no deleting.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::context::{Object, Visit};
use super::error::Failure;
use super::keyfile::KeyFile;
use super::lockout::Lockout;
use super::parent::Parent;
use super::private_key::{PrivateKey, fits};
use super::reference::{Home, Reference};
use super::{described, found, template, type_differs};
use crate::key::pin::{PinFor, Question};
use crate::key::{Access, Fault, Key, KeyAlgorithm, KeyError, NewKey, Pin};
use crate::text::Hint;

/// A new key as a file. It has its name only when it is whole and was tried, so that a crash leaves no half of one.
pub(super) fn in_file(
    visit: &mut Visit<'_>,
    reference: &Reference,
    path: &Path,
    wish: &NewKey<'_>,
    access: &Access<'_>,
) -> Result<PrivateKey, Failure> {
    let algorithm = wish.algorithm;
    let home = Home::File(path.to_owned());
    if path.symlink_metadata().is_ok() {
        // An earlier run was killed after this point; its name may not be durable yet.
        wish.beside.or_of(path).and_then(|folder| folder.sync()).map_err(KeyError::from)?;
        let found = found(reference, home.clone())?;
        let ready = found.ready(visit, Some(access))?;
        let key = PrivateKey::try_out(visit, found, ready, access)?;
        let there = key.public_key().algorithm();
        return if there == algorithm { Ok(key) } else { Err(type_differs(&home, there, algorithm).into()) };
    }
    let made = new_key(visit, reference, &home, algorithm, access)?;
    let name = path.file_name().unwrap_or(OsStr::new(""));
    let text = pem(&made.file)?;
    wish.beside.or_of(path).and_then(|folder| folder.write_new(name, text.as_bytes())).map_err(KeyError::from)?;
    Ok(made.key)
}

/// A new key that was tried, and is still loaded.
pub(super) struct Made {
    pub(super) key: PrivateKey,
    pub(super) file: KeyFile,
    pub(super) object: Object,
}

/// Makes a key and tries it; it exists nowhere but in what comes back.
pub(super) fn new_key(
    visit: &mut Visit<'_>,
    reference: &Reference,
    home: &Home,
    algorithm: KeyAlgorithm,
    access: &Access<'_>,
) -> Result<Made, Failure> {
    let place = reference.place(home);
    let question = Question { place: &place, whose: PinFor::User, pin_source: reference.pin_source.as_deref() };
    let pin = new_pin(visit, reference, &question, access)?;
    let (file, object) = make(visit, reference, &home.to_string(), algorithm, pin.as_deref(), access)?;
    access.made_with_offer(&question);
    let found = described(reference, home, &file)?;
    let key = PrivateKey::try_out(visit, found, (object, file.blob.public.clone()), access)?;
    Ok(Made { key, file, object })
}

fn make(
    visit: &mut Visit<'_>,
    reference: &Reference,
    name: &str,
    algorithm: KeyAlgorithm,
    pin: Option<&Pin>,
    access: &Access<'_>,
) -> Result<(KeyFile, Object), Failure> {
    let parent = Parent::for_new(visit, reference.parent)?;
    let above = parent.ready(visit, Some(access))?;
    let blob = visit.create(above, &template::signing_key(algorithm, pin.is_some()), pin)?;
    blob.public.must_be_as_promised(name, algorithm, pin.is_some())?;
    let object = visit.load(above, &blob)?;
    visit.release(above);
    Ok((KeyFile { empty_auth: Some(pin.is_none()), parent: parent.number(), blob }, object))
}

/// Makes a key that is never written down, and has it sign.
pub(super) fn rehearse(
    visit: &mut Visit<'_>,
    reference: &Reference,
    algorithm: KeyAlgorithm,
    access: &Access<'_>,
) -> Result<(), Failure> {
    let name = format!("a key for trial in {}", visit.device());
    let (file, object) = make(visit, reference, &name, algorithm, None, access)?;
    let public = file.blob.public.public_key(&name)?;
    let (signature, message) = (algorithm.csr_signature(), b"rehearsal");
    let modulus_bytes = algorithm.modulus_bits().map_or(0, |bits| bits as usize / 8);
    let signed = visit.sign(object, None, signature, &signature.hash().digest(message), modulus_bytes)?;
    if public.verifies(signature, message, &signed) {
        return Ok(());
    }
    let fault = Fault::new("signature_wrong", format!("{name} has made a signature that does not fit its public key"));
    Err(KeyError::NotAsPromised(fault).into())
}

/// The auth value of a new key: the PIN, where there is a source of one. A TPM that is locked could not try it.
fn new_pin(
    visit: &mut Visit<'_>,
    reference: &Reference,
    question: &Question<'_>,
    access: &Access<'_>,
) -> Result<Option<Arc<Pin>>, Failure> {
    if reference.auth == Some(false) {
        return Ok(None);
    }
    let (name, pin) = (question.place, access.offer(question)?);
    match &pin {
        Some(pin) => {
            // Our templates have SHA-256 for their names.
            fits(pin, 32, name)?;
            Lockout::read(visit)?.must_take_tries(&visit.device().to_string())?;
        }
        None if reference.auth == Some(true) => {
            let fault = Fault::new("pin_missing", format!("{name} is to have a PIN and none was given"));
            return Err(KeyError::Pin(fault.hint(Hint::say("give it with --pin-file, or leave out auth=pin"))).into());
        }
        None => {}
    }
    Ok(pin)
}

/// The text of a key file.
pub(super) fn pem(file: &KeyFile) -> Result<String, Failure> {
    file.to_pem().map_err(|e| KeyError::Device(Fault::new("device_error", "cannot write the new key as PEM").because(e)).into())
}
