//! What the controller has issued is checked, and becomes the identity.

use super::{Learnt, Live};
use crate::certificate::{Chain, Summary, rfc3339};
use crate::controller::{Answer, Submission};
use crate::error::{Error, IssuedError, Spent};
use crate::flow::Next;
use crate::flow::enroll::stage::Intent;
use crate::flow::enroll::stage::{Ready, Record};
use crate::flow::enroll::{arrival, exists};
use crate::identity::{Identity, IdentityError, Network};
use crate::key::{Embed, KeyReference, Readers};
use crate::origin::Origin;

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
        self.world.within("answer_synced", Spent::Yes)?;
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
        if matches!(stage.submission, Submission::Password | Submission::Nothing) {
            return self.accept_without_a_key(stage);
        }
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
            self.world.note(&format!("the certificate is valid from {begins}, which is later than this machine's clock"));
        }
        let embed = if self.request.embed_pin { Embed::Pin } else { Embed::Nothing };
        let reference = match &fact.reference {
            Some(text) if embed == Embed::Nothing => KeyReference::names(text),
            _ => {
                let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source, spent: Spent::Yes };
                self.key(&stage.keyed, Spent::Yes)?.reference(embed).map_err(failed)?
            }
        };
        let apis = apis(intent, Some(&answer));
        let pem = chain.to_pem();
        let identity = Identity { apis, key: reference, chain, anchors: anchors.clone() };
        let text = identity.to_json().map_err(|e| self.quarantine(pem.as_bytes(), e.into()))?;
        // What will be read is what was meant.
        let read = Identity::parse(text.as_bytes()).map_err(|e| self.quarantine(pem.as_bytes(), e.into()))?;
        if read.key.holds_the_key() != fact.reference.is_none() {
            return Err(self.quarantine(pem.as_bytes(), IdentityError::HoldsAKey.into()));
        }
        self.publish(&text, Spent::Yes)?;
        self.learn_identity(stage)?;
        let readers = self.world.providers.readers(&read.key, Some(&fact.facts));
        let id = self.identity.clone();
        self.arrived = Some(arrival::report(self.world, &self.work, stage, id, Some(&summary), None, readers)?);
        Ok(Next::Learnt(Record::Done))
    }

    /// There is nothing to be checked: the file says where the network is and whom to trust there.
    fn accept_without_a_key(&mut self, stage: &Ready) -> Learnt {
        let spent = if stage.submission == Submission::Nothing { Spent::No } else { Spent::Yes };
        let local = |source| Error::Local { source, spent };
        // None where there was no request, or where its answer was lost.
        let answer = self.work.answer().map_err(local)?;
        let anchors = stage.keyed.trusted.anchors.clone();
        let network = Network { apis: apis(stage.intent(), answer.as_ref()), anchors };
        let text = network.to_json().map_err(|e| Error::Unexpected(e.to_string()))?;
        self.publish(&text, spent)?;
        let username = answer.and_then(|answer| answer.username());
        self.arrived = Some(arrival::report(self.world, &self.work, stage, None, None, username, Readers::without_a_key())?);
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

    fn publish(&self, text: &str, spent: Spent) -> Result<(), Error> {
        let local = |source| Error::Local { source, spent };
        // An earlier run may have been killed right after the rename.
        match self.work.published() {
            Ok(Some(there)) if there == text.as_bytes() => return self.work.sync_published().map_err(local),
            Ok(Some(_)) if !self.request.force => return Err(local(exists(self.work.out()))),
            Ok(_) | Err(_) => {}
        }
        self.work.write_identity(text).map_err(local)?;
        self.world.within("identity_written", spent)?;
        self.work.publish(self.request.force).map_err(local)?;
        self.world.within("identity_renamed", spent)
    }

    /// Keeps what cannot be used: the answer stays in the work folder, its certificates are put beside the output.
    fn quarantine(&self, pem: &[u8], source: IssuedError) -> Error {
        match self.work.reject(pem) {
            Ok(kept) => Error::Issued { source, kept: Some(kept) },
            Err(error) => {
                self.world.note(&error.to_string());
                Error::Issued { source, kept: Some(self.work.folder().path().to_owned()) }
            }
        }
    }
}

/// The controller that was met, then the others of its network.
fn apis(intent: &Intent, answer: Option<&Answer>) -> Vec<String> {
    let others = answer.map(Answer::apis).unwrap_or_default().into_iter();
    let others = others.filter(|url| Origin::of_url(url).is_ok_and(|origin| origin != intent.origin));
    std::iter::once(Identity::api_of(&intent.origin)).chain(others).collect()
}
