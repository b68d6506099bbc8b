//! Keys at persistent handles.
//!
//! A new key is first a file in the work folder, made durable, and then put at its handle. So an object that is found at a
//! planned handle after a crash is ours if it is that file's key, and somebody else's if not.

use super::context::Visit;
use super::error::Failure;
use super::generation::{Made, new_key, pem};
use super::keyfile::{Blob, KeyFile};
use super::parent::as_owner;
use super::private_key::{Found, Material, PrivateKey};
use super::reference::{Home, Reference, hex};
use super::{LARGEST, described};
use crate::files::Folder;
use crate::key::{Access, Fault, KeyError, NewKey};
use crate::text::Hint;

/// Where this program puts keys by itself: past the handles that the TCG has given away, below the platform's.
const OURS: std::ops::RangeInclusive<u32> = 0x8102_0000..=0x817f_ffff;
/// Name in the work folder of a key on its way to a handle.
const WAITING: &str = "key.tss2.pem";

/// The first free handle for a key of ours.
pub(super) fn first_free(visit: &mut Visit<'_>) -> Result<u32, Failure> {
    let taken = visit.persistent_handles()?;
    OURS.into_iter().find(|handle| taken.binary_search(handle).is_err()).ok_or_else(|| {
        KeyError::Device(Fault::new("tpm_out_of_memory", "no persistent handle is free from 0x81020000 to 0x817fffff")).into()
    })
}

/// Makes the planned key at `number`, or finds it where an earlier run has put it.
pub(super) fn at(
    visit: &mut Visit<'_>,
    reference: &Reference,
    number: u32,
    wish: &NewKey<'_>,
    access: &Access<'_>,
) -> Result<PrivateKey, Failure> {
    let home = Home::Handle(number);
    let waiting =
        waiting(wish.work)?.filter(|file| file.blob.public.public_key("").is_ok_and(|k| k.algorithm() == wish.algorithm));
    if let Some((_, there)) = visit.persistent(number)? {
        let ours = waiting.filter(|file| file.blob.public == there).ok_or_else(|| taken(number))?;
        let wants_pin = ours.empty_auth.map(|empty| !empty);
        let found = Found { reference: reference.clone(), home, material: Material::Persistent(number), wants_pin };
        let ready = found.ready(visit, Some(access))?;
        return PrivateKey::try_out(visit, found, ready, access);
    }
    let Made { key, file, object } = match waiting {
        // Made by an earlier run, and not yet in its place.
        Some(file) => {
            let found = described(reference, &home, &file)?;
            let (object, area) = found.ready(visit, Some(access))?;
            Made { key: PrivateKey::try_out(visit, found, (object, area), access)?, file, object }
        }
        None => {
            let made = new_key(visit, reference, &home, wish.algorithm, access)?;
            keep(wish.work, &pem(&made.file)?)?;
            made
        }
    };
    match as_owner(visit, Some(access), |visit, auth| visit.persist(object, number, auth)) {
        Err(failure) if failure.is_taken() => return Err(taken(number).into()),
        put => put?,
    }
    match visit.persistent(number)? {
        Some((_, there)) if there == file.blob.public => Ok(key.moved_to(number)),
        _ => {
            let fault =
                Fault::new("key_not_as_promised", format!("{} does not show the new key at {}", visit.device(), hex(number)));
            Err(KeyError::NotAsPromised(fault).into())
        }
    }
}

/// Removes the key at `number`, or only `this` one.
///
/// # Errors
/// [`KeyError::Selection`] `key_not_found` where it is not there.
pub(super) fn remove(visit: &mut Visit<'_>, number: u32, this: Option<&Blob>, access: &Access<'_>) -> Result<(), Failure> {
    let Some((object, there)) = visit.persistent(number)?.filter(|(_, there)| this.is_none_or(|blob| blob.public == *there))
    else {
        return Err(nothing_of_ours(&visit.device().to_string(), number).into());
    };
    // Under a storage key there are others, which would be lost with it.
    there.must_be_usable(&Home::Handle(number).to_string(), true)?;
    as_owner(visit, Some(access), |visit, auth| visit.evict(object, number, auth))
}

/// There is no such key, or it is not the one.
pub(super) fn nothing_of_ours(device: &str, number: u32) -> KeyError {
    KeyError::Selection(Fault::new("key_not_found", format!("{device} has no such key at {}", hex(number))))
}

/// The key that waits in the work folder, if a whole one is there.
pub(super) fn waiting(work: &Folder) -> Result<Option<KeyFile>, KeyError> {
    Ok(work.read(WAITING, LARGEST)?.and_then(|pem| KeyFile::read(&pem).ok()))
}

fn keep(work: &Folder, pem: &str) -> Result<(), KeyError> {
    work.fill(WAITING, pem.as_bytes())?;
    Ok(work.sync()?)
}

fn taken(number: u32) -> KeyError {
    let fault = Fault::new("key_exists", format!("another program has put a key at {} meanwhile", hex(number)));
    KeyError::Selection(fault.hint(Hint::say("name another handle, or handle=auto")))
}
