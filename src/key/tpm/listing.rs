//! What a TPM holds, as references ready to paste. Key files are where people put them, and are not listed.

use super::context::Visit;
use super::error::Failure;
use super::lockout::Lockout;
use super::place;
use super::reference::{Home, Reference, hex};
use crate::key::{KeyListing, PlaceListing};
use crate::text::Printable;

/// The TPM itself. Its lock rules out nothing but keys with a PIN.
pub(super) fn place(visit: &mut Visit<'_>, reference: &Reference) -> Result<PlaceListing, Failure> {
    let place = place::of(visit)?;
    let pin = Lockout::read(visit)?.state();
    Ok(PlaceListing { reference: reference.tpm(), manufacturer: place.label.clone(), place, pin, obstacle: None })
}

/// The keys at persistent handles.
pub(super) fn keys(visit: &mut Visit<'_>, reference: &Reference) -> Result<Vec<KeyListing>, Failure> {
    let mut listed = Vec::new();
    for handle in visit.persistent_handles()? {
        let home = Home::Handle(handle);
        let name = home.to_string();
        // Removed since the list was made.
        let Some((object, area)) = visit.persistent(handle)? else { continue };
        visit.forget(object);
        let public = area.public_key(&name);
        let obstacle = area.must_be_usable(&name, false).err().map(|why| why.to_string());
        listed.push(KeyListing {
            reference: reference.uri(&home, None),
            label: Printable::new(&hex(handle)),
            algorithm: public.as_ref().ok().map(|key| key.algorithm().to_string()),
            spki_sha256: public.as_ref().ok().map(|key| crate::text::hex(&key.sha256())),
            obstacle: obstacle.or_else(|| public.as_ref().err().map(ToString::to_string)),
        });
    }
    Ok(listed)
}
