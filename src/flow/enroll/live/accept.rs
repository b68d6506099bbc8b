//! What the controller has issued is checked, and becomes the identity.

use super::{Learnt, Live};
use crate::certificate::{Chain, Summary, rfc3339};
use crate::controller::{Answer, Submission};
use crate::error::{Error, IssuedError, Spent};
use crate::flow::Next;
use crate::flow::enroll::stage::{Ready, Record};
use crate::flow::enroll::{arrival, exists, note, within};
use crate::identity::{Identity, IdentityError};
use crate::key::{Embed, KeyReference};

impl Live<'_> {
    /// Whether a certificate was handed to us that is not the answer yet.
    pub(in crate::flow::enroll) fn has_a_certificate(&self) -> bool {
        self.request.issued.is_some() && !self.took_back
    }

    /// A certificate that the controller has issued, and whose answer was lost or cannot be used, is handed to us.
    pub(in crate::flow::enroll) fn take_back(&mut self, stage: &Ready) -> Learnt {
        let Some(certificate) = &self.request.issued else {
            return Err(Error::AnswerLost { subject: stage.intent().subject.clone(), out: self.work.out() });
        };
        let answer = Answer { status: 200, content_type: None, retry_after: None, session: None, body: certificate.clone() };
        // Judged before it is kept: another file may be given instead.
        self.judge(stage, certificate)?;
        self.work.keep_instead(&answer).map_err(|source| Error::Local { source, spent: Spent::Yes })?;
        self.took_back = true;
        within(self.world, "answer_synced", Spent::Yes)?;
        Ok(Next::Learnt(Record::Answered))
    }

    fn judge(&self, stage: &Ready, pem: &[u8]) -> Result<(Chain, Summary), Error> {
        let public = arrival::public_key(arrival::key_of(stage)?)?;
        let trusted = &stage.keyed.trusted;
        let judged = Chain::from_pem(pem).and_then(|chain| {
            chain
                .check_issued(&public, &trusted.anchors, trusted.intent.subject.as_deref(), self.world.now())
                .map(|summary| (chain, summary))
        });
        judged.map_err(|e| Error::Issued { source: e.into(), kept: None })
    }

    /// What the controller issued is checked, and becomes the identity.
    pub(in crate::flow::enroll) fn accept(&mut self, stage: &Ready) -> Learnt {
        let intent = stage.intent();
        let local = |source| Error::Local { source, spent: Spent::Yes };
        // Not there: stopped while another certificate took its place, or somebody has removed it.
        let lost = || Error::AnswerLost { subject: intent.subject.clone(), out: self.work.out() };
        let answer = self.work.answer().map_err(local)?.ok_or_else(lost)?;
        let fact = arrival::key_of(stage)?;
        let anchors = &stage.keyed.trusted.anchors;
        let (chain, summary) = self.certified(stage, &answer)?;
        if summary.not_before > self.world.now().as_secs() {
            let begins = rfc3339(summary.not_before);
            note(self.world, &format!("the certificate is valid from {begins}, which is later than this machine's clock"));
        }
        let embed = if self.request.embed_pin { Embed::Pin } else { Embed::Nothing };
        let reference = match &fact.reference {
            Some(text) if embed == Embed::Nothing => KeyReference::names(text),
            _ => {
                let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source, spent: Spent::Yes };
                self.key(&stage.keyed, Spent::Yes)?.reference(embed).map_err(failed)?
            }
        };
        let own = Identity::api_of(&intent.origin);
        let others = answer.apis().into_iter();
        let others = others.filter(|url| crate::origin::Origin::of_url(url).is_ok_and(|o| o != intent.origin));
        let apis = std::iter::once(own).chain(others).collect();
        let pem = chain.to_pem();
        let identity = Identity { apis, key: reference, chain, anchors: anchors.clone() };
        let text = identity.to_json().map_err(|e| self.quarantine(pem.as_bytes(), e.into()))?;
        // What will be read is what was meant.
        let read = Identity::parse(text.as_bytes()).map_err(|e| self.quarantine(pem.as_bytes(), e.into()))?;
        if read.key.holds_the_key() != fact.reference.is_none() {
            return Err(self.quarantine(pem.as_bytes(), IdentityError::HoldsAKey.into()));
        }
        self.publish(&text)?;
        self.learn_identity(stage)?;
        let readers = self.world.providers.readers(&read.key, Some(&fact.facts));
        self.arrived = Some(arrival::report(self.world, &self.work, stage, self.identity.clone(), Some(&summary), readers)?);
        Ok(Next::Learnt(Record::Done))
    }

    /// The certificate that the identity will have: the issued one, checked, or the one that was shown.
    fn certified(&self, stage: &Ready, answer: &Answer) -> Result<(Chain, Summary), Error> {
        match &stage.submission {
            Submission::Csr(_) | Submission::IdpToken { .. } => {
                let issued = answer.issued().map_err(|why| self.quarantine(&answer.body, IssuedError::Answer(why)))?;
                self.judge(stage, &issued.cert).map_err(|error| match error {
                    Error::Issued { source, .. } => self.quarantine(&issued.cert, source),
                    other => other,
                })
            }
            Submission::Certificate { chain, .. } => {
                let summary = chain.summary().map_err(|e| Error::Issued { source: e.into(), kept: None })?;
                Ok((chain.clone(), summary))
            }
            Submission::Password | Submission::Nothing => Err(Error::Unexpected("a method without a certificate".into())),
        }
    }

    fn publish(&self, text: &str) -> Result<(), Error> {
        let local = |source| Error::Local { source, spent: Spent::Yes };
        // An earlier run may have been killed right after the rename.
        match self.work.published() {
            Ok(Some(there)) if there == text.as_bytes() => return Ok(()),
            Ok(Some(_)) if !self.request.force => return Err(local(exists(self.work.out()))),
            Ok(_) | Err(_) => {}
        }
        self.work.write_identity(text).map_err(local)?;
        within(self.world, "identity_written", Spent::Yes)?;
        self.work.publish(self.request.force).map_err(local)?;
        within(self.world, "identity_renamed", Spent::Yes)
    }

    /// Keeps what cannot be used: the answer stays in the work folder, its certificates are put beside the output.
    fn quarantine(&self, pem: &[u8], source: IssuedError) -> Error {
        match self.work.reject(pem) {
            Ok(kept) => Error::Issued { source, kept: Some(kept) },
            Err(error) => {
                note(self.world, &error.to_string());
                Error::Issued { source, kept: Some(self.work.folder().path().to_owned()) }
            }
        }
    }
}
