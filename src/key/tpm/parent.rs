//! [`Parent`]: the storage key above a key in a file, and the owner's auth value where it takes one.
//!
//! The storage root key at 0x81000001, where provisioning puts it, is taken if it is there; else the same key is made anew
//! from its template each time. None is ever put there, or taken away.

use super::context::{Object, Visit};
use super::error::Failure;
use super::keyfile::OWNER;
use super::reference::hex;
use crate::key::pin::{PinFor, Question, Tries};
use crate::key::{Access, Fault, KeyError, Pin};
use crate::text::Hint;

/// Where the storage root key is by convention (TCG TPM v2.0 Provisioning Guidance §7.8).
const STORAGE_ROOT: u32 = 0x8100_0001;

/// A storage key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// At a persistent handle.
    Persistent(u32),
    /// Made from the H-2 template in the owner hierarchy.
    StorageRoot,
}

impl Parent {
    /// The one for a new key: the one that was said, else the usual one.
    pub(super) fn for_new(visit: &mut Visit<'_>, said: Option<u32>) -> Result<Self, Failure> {
        if let Some(handle) = said {
            return Ok(Self::Persistent(handle));
        }
        let there = visit.persistent(STORAGE_ROOT)?.is_some_and(|(_, area)| area.is_storage_key());
        Ok(if there { Self::Persistent(STORAGE_ROOT) } else { Self::StorageRoot })
    }

    /// The one that a key file names; `None` where it is in a hierarchy that is not the owner's.
    pub(super) fn of_file(number: u32) -> Option<Self> {
        match number >> 24 {
            0x81 => Some(Self::Persistent(number)),
            _ => (number == OWNER).then_some(Self::StorageRoot),
        }
    }

    /// As a key file names it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Persistent(handle) => handle,
            Self::StorageRoot => OWNER,
        }
    }

    /// Gets it ready. `access`: who is asked for the owner's auth value, where it has one and it is not known yet.
    ///
    /// # Errors
    /// `key_not_found` where there is none, `key_type_unsupported` where it is no storage key.
    pub(super) fn ready(self, visit: &mut Visit<'_>, access: Option<&Access<'_>>) -> Result<Object, Failure> {
        let Self::Persistent(handle) = self else {
            return as_owner(visit, access, |visit, auth| visit.storage_root(auth));
        };
        let Some((parent, area)) = visit.persistent(handle)? else {
            let fault = Fault::new("key_not_found", format!("the parent key {} is not in {}", hex(handle), visit.device()));
            return Err(KeyError::Selection(fault.hint(Hint::say(OTHER_TPM))).into());
        };
        if !area.is_storage_key() {
            let fault = Fault::new(
                "key_type_unsupported",
                format!("what is at {} is not a storage key: nothing can be made under it", hex(handle)),
            );
            return Err(KeyError::Unavailable(fault.hint(Hint::say("name another with --parent, or leave it out"))).into());
        }
        Ok(parent)
    }
}

/// What to do about a key that this TPM did not make, or has forgotten.
pub(super) const OTHER_TPM: &str = "it was made by another TPM, or this one was cleared since: the key cannot come back; make a new one, and let an administrator re-enroll";

/// Does what the owner of the TPM must allow. The owner's auth value is asked for only where the TPM refuses an empty one,
/// which costs no try: the owner hierarchy is not protected (TPM 2.0 Part 1 §19.8.2). The key's PIN is never tried on it.
pub(super) fn as_owner<T>(
    visit: &mut Visit<'_>,
    access: Option<&Access<'_>>,
    work: impl Fn(&mut Visit<'_>, Option<&Pin>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let known = visit.device().owner();
    let refused = match work(visit, known.as_deref()) {
        Err(failure) if failure.is_refused_auth() => failure,
        done => return done,
    };
    let place = format!("owner hierarchy of {}", visit.device());
    let Some(access) = access.filter(|_| known.is_none()) else {
        let fault = Fault::new("pin_missing", format!("the {place} has an auth value, and it is not known here"));
        return Err(KeyError::Pin(fault.native(refused.native())).into());
    };
    let question = Question { place: &place, whose: PinFor::Owner, pin_source: None };
    let tpm = visit.device().to_string();
    let (done, pin) = access.login(&question, Tries::Enough, None, |pin| work(visit, Some(pin)).map_err(|e| e.refusal(&tpm)))?;
    visit.device().remember_owner(pin);
    Ok(done)
}
