//! What an enrollment gave: told by the run that ends it, and again by one that comes when it has ended.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::io::Errno;

use super::stage::{KeyFact, Ready};
use super::work::Work;
use super::{Enrolled, EnrolledKey};
use crate::certificate::Summary;
use crate::controller::Submission;
use crate::error::{Error, Spent};
use crate::files::{FileError, FileErrorKind};
use crate::flow::{CertificateSummary, IdentitySummary, World};
use crate::identity::{Identity, IdentityError, Network};
use crate::key::{Answer, PublicKey, Readers};
use crate::text::Printable;

/// What an enrollment gave, from what was learnt on the way and from the certificate. `id` is what the controller says,
/// where the token does not; what it issues for the token of an identity provider says whom it has made.
pub(super) fn report(
    world: &World<'_>,
    work: &Work,
    stage: &Ready,
    id: Option<String>,
    summary: Option<&Summary>,
    username: Option<Printable>,
    readers: Readers,
) -> Result<Enrolled, Error> {
    let key = stage.keyed.key.as_ref();
    let is_made = matches!(stage.submission, Submission::IdpToken { .. });
    Ok(Enrolled {
        identity: IdentitySummary {
            id: stage.intent().subject.clone().or(id).or_else(|| summary.filter(|_| is_made).and_then(identity_of)),
            controller: stage.intent().origin.to_string(),
            file: work.out().display().to_string(),
        },
        key: key.map(|fact| enrolled_key(world, fact)).transpose()?,
        token: key.and_then(|fact| fact.facts.place.clone()),
        certificate: summary.map(CertificateSummary::from),
        username,
        readers,
    })
}

/// `spiffe://DOMAIN/identity/ID`
fn identity_of(summary: &Summary) -> Option<String> {
    let (_, id) = summary.spiffe.as_ref()?.as_str().rsplit_once("/identity/")?;
    Some(id.to_owned())
}

/// The key, as reports have it.
pub(in crate::flow) fn enrolled_key(world: &World<'_>, fact: &KeyFact) -> Result<EnrolledKey, Error> {
    let public = public_key(fact)?;
    let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source, spent: Spent::Yes };
    let provider = world.providers.of(&fact.uri).map_err(failed)?;
    let held = fact.reference.is_none();
    Ok(EnrolledKey {
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
    })
}

/// The same of an earlier run that was killed after its end: read from the identity that is in place.
pub(super) fn in_place(world: &World<'_>, work: &Work, stage: &Ready) -> Result<Enrolled, Error> {
    let path = work.out();
    let missing = || FileError { action: "read", path: path.clone(), kind: FileErrorKind::System(Errno::NOENT) };
    let text = work.published().and_then(|text| text.ok_or_else(missing));
    let text = text.map_err(|source| Error::Local { source, spent: Spent::Yes })?;
    let failed = |source| Error::Identity { path: path.clone(), source };
    if stage.keyed.key.is_none() {
        Network::parse(&text).map_err(failed)?;
        return report(world, work, stage, None, None, None, Readers::without_a_key());
    }
    let identity = Identity::parse(&text).map_err(failed)?;
    let summary = identity.chain.summary().map_err(|e| failed(IdentityError::Certificates("cert", e)))?;
    let readers = world.providers.readers(&identity.key, stage.keyed.key.as_ref().map(|key| &key.facts));
    report(world, work, stage, None, Some(&summary), None, readers)
}

/// The key, for a step of a method that brings one.
pub(super) fn key_of(stage: &Ready) -> Result<&KeyFact, Error> {
    stage.keyed.key.as_ref().ok_or_else(|| Error::Unexpected("the journal names no key".into()))
}

/// The public half of the key, as the journal holds it.
pub(super) fn public_key(fact: &KeyFact) -> Result<PublicKey, Error> {
    let public = BASE64_STANDARD.decode(&fact.spki).ok().and_then(|der| PublicKey::from_spki(&der).ok());
    public.ok_or_else(|| Error::Unexpected("the journal holds no public key".into()))
}
