//! What an enrollment gave: told by the run that ends it, and again by one that comes when it has ended.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::io::Errno;

use super::stage::{KeyFact, Ready};
use super::work::Work;
use super::{Enrolled, EnrolledKey};
use crate::certificate::Summary;
use crate::error::{Error, Spent};
use crate::files::{FileError, FileErrorKind};
use crate::flow::{CertificateSummary, IdentitySummary, World};
use crate::identity::{Identity, IdentityError};
use crate::key::{Answer, PublicKey, Readers};

/// What an enrollment gave, from what was learnt on the way and from the certificate.
pub(super) fn report(
    world: &World<'_>,
    work: &Work,
    stage: &Ready,
    summary: &Summary,
    readers: Readers,
) -> Result<Enrolled, Error> {
    let fact = &stage.keyed.key;
    let public = public_key(fact)?;
    let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source, spent: Spent::Yes };
    let provider = world.providers.of(&fact.uri).map_err(failed)?;
    let held = fact.reference.is_none();
    Ok(Enrolled {
        identity: IdentitySummary {
            id: stage.intent().subject.clone(),
            controller: stage.intent().origin.to_string(),
            file: work.out().display().to_string(),
        },
        key: EnrolledKey {
            provider: provider.name(),
            reference: if held { format!("{}:", provider.scheme()) } else { fact.uri.to_string() },
            algorithm: public.algorithm().to_string(),
            spki_sha256: crate::text::hex(&public.sha256()),
            created: fact.created,
            extractable: match fact.facts.extractable {
                Answer::Yes => Some(true),
                Answer::No => Some(false),
                Answer::Unknown => None,
            },
        },
        token: fact.facts.place.clone(),
        certificate: CertificateSummary::from(summary),
        readers,
    })
}

/// The same of an earlier run that was killed after its end: read from the identity that is in place.
pub(super) fn in_place(world: &World<'_>, work: &Work, stage: &Ready) -> Result<Enrolled, Error> {
    let path = work.out();
    let missing = || FileError { action: "read", path: path.clone(), kind: FileErrorKind::System(Errno::NOENT) };
    let text = work.published().and_then(|text| text.ok_or_else(missing));
    let text = text.map_err(|source| Error::Local { source, spent: Spent::Yes })?;
    let failed = |source| Error::Identity { path: path.clone(), source };
    let identity = Identity::parse(&text).map_err(failed)?;
    let summary = identity.chain.summary().map_err(|e| failed(IdentityError::Certificates("cert", e)))?;
    let readers = world.providers.readers(&identity.key, Some(&stage.keyed.key.facts));
    report(world, work, stage, &summary, readers)
}

/// The public half of the key, as the journal holds it.
pub(super) fn public_key(fact: &KeyFact) -> Result<PublicKey, Error> {
    let public = BASE64_STANDARD.decode(&fact.spki).ok().and_then(|der| PublicKey::from_spki(&der).ok());
    public.ok_or_else(|| Error::Unexpected("the journal holds no public key".into()))
}
