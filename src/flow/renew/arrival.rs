//! What a renewal gave, and the end of the old key.

use super::stage::Extended;
use super::work::Work;
use super::{Renewed, Replaced, Request, printable};
use crate::error::Error;
use crate::flow::enroll::{self, sentence};
use crate::flow::login;
use crate::flow::{CertificateSummary, IdentitySummary, World};
use crate::identity::IdentityError;
use crate::key::{Fault, KeyError};
use crate::text::hex;

/// Deletes the key that another has taken the place of, where that was asked for: the new identity has logged in.
pub(super) fn old_key(request: &Request, world: &World<'_>, stage: &Extended) -> Option<Replaced> {
    let old = stage.keyed.renewing.old_key.as_ref()?;
    let reference = old.uri.to_string();
    if !request.delete_old_key {
        return Some(Replaced { reference, deleted: false });
    }
    let deleted = world.providers.of(&old.uri).and_then(|provider| {
        // A name can be given out again: what goes must be the key that it was.
        let there = provider.open(&old.uri, &world.access)?;
        if hex(&there.public_key().sha256()) != old.spki_sha256 {
            return Err(KeyError::Selection(Fault::new("key_not_found", "another key has its name now")));
        }
        drop(there);
        provider.delete(&old.uri, &world.access)
    });
    match deleted {
        Ok(()) => Some(Replaced { reference, deleted: true }),
        Err(error) => {
            world.note(&format!("the old key {reference} is not deleted: {}", sentence(&error)));
            Some(Replaced { reference, deleted: false })
        }
    }
}

/// From the identity that is in its place, and from what was learnt on the way.
pub(super) fn report(world: &World<'_>, work: &Work, stage: &Extended, old_key: Option<Replaced>) -> Result<Renewed, Error> {
    let path = work.place().path();
    let identity = login::parse(&path, &work.place().read()?)?;
    let summary = identity.chain.summary();
    let summary = summary.map_err(|e| Error::Identity { path: path.clone(), source: IdentityError::Certificates("cert", e) })?;
    if summary.fingerprint_sha1 != stage.next.fingerprint {
        world.note("another program has replaced the new identity already");
    }
    let keyed = &stage.keyed;
    Ok(Renewed {
        identity: IdentitySummary {
            id: Some(printable(&keyed.renewing.identity)),
            controller: keyed.renewing.origin.to_string(),
            file: path.display().to_string(),
        },
        renewed: true,
        key: enroll::arrival::enrolled_key(world, &keyed.key)?,
        token: keyed.key.facts.place.clone(),
        certificate: CertificateSummary::from(&summary),
        replaced: keyed.renewing.fingerprint.clone(),
        old_key,
        readers: world.providers.readers(&identity.key, Some(&keyed.key.facts)),
    })
}
