//! The means of one run: connection, open key, and the steps that use them.
//!
//! A means is made when first asked for and dies with the run; what is learnt goes into a record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::stage::{Intent, KeyFact, KeyWish, Keyed, Ready, Record, Stage, Trusted};
use super::work::Work;
use super::{Enrolled, Request, arrival, exists, note, sentence, token_of, within};
use crate::certificate::{Chain, Summary, rfc3339};
use crate::controller::{Answer, Controller, Failure, Outcome, Refusal, Submission};
use crate::csr::Csr;
use crate::error::{Error, IssuedError, Spent};
use crate::files::FileError;
use crate::flow::{Next, World, pause};
use crate::identity::{Identity, IdentityError};
use crate::jwt::{Brings, EnrollmentToken};
use crate::key::facts;
use crate::key::{Embed, Fault, Key, KeyError, KeyOwner, KeyPlan, KeyReference, KeyUri, NewKey};
use crate::text::Hint;
use crate::trust::{self, TrustError};

/// Time for a follower to hear of a new token.
const FOLLOWER: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is obeyed.
const LONGEST_WISH: Duration = Duration::from_secs(60);

type Learnt = Result<Next<Record>, Error>;

pub(super) struct Live<'a> {
    request: &'a Request,
    world: &'a World<'a>,
    work: Work,
    trust: Option<(EnrollmentToken, Controller)>,
    key: Option<Arc<dyn Key>>,
    /// Requests of this run.
    posted: usize,
    /// The first request ever was answered with "no such token", and it is tried once more.
    gone_at_first: bool,
    /// The certificate that was handed to us is the answer now.
    took_back: bool,
    arrived: Option<Enrolled>,
}

impl<'a> Live<'a> {
    pub(super) fn new(request: &'a Request, world: &'a World<'a>, work: Work) -> Self {
        Self { request, world, work, trust: None, key: None, posted: 0, gone_at_first: false, took_back: false, arrived: None }
    }

    /// The controller is proved to be the token's issuer, while the module is loaded beside it.
    pub(super) fn meet_controller(&mut self, intent: &Intent) -> Learnt {
        let uri = intent.key.uri();
        let key_error = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(key_error)?;
        let (prepared, met) = std::thread::scope(|scope| {
            // 6 ms of dlopen and C_Initialize that nobody needs to wait for.
            let prepared = scope.spawn(|| provider.prepare(uri));
            let met = self.meet();
            (prepared.join(), met)
        });
        // Our own side first: it is what the person can mend here.
        prepared.map_err(|_| Error::Unexpected("the key provider panicked".into()))?.map_err(key_error)?;
        let trust = met?;
        let anchors = trust.anchors;
        self.trust = Some((trust.token, Controller::at(trust.channel)));
        within(self.world, "connected", Spent::No)?;
        Ok(Next::Learnt(Record::Anchors(anchors)))
    }

    fn meet(&self) -> Result<trust::Trust, Error> {
        let token = token_of(self.request)?;
        trust::establish(token, None, &self.world.reach, self.world.now())
            .map_err(|e| Error::trust(token.issuer().to_string(), e))
    }

    /// The connection, made anew in a run that did not begin with it.
    fn controller(&mut self) -> Result<&(EnrollmentToken, Controller), Error> {
        if self.trust.is_none() {
            let trust = self.meet()?;
            self.trust = Some((trust.token, Controller::at(trust.channel)));
        }
        self.trust.as_ref().ok_or_else(|| Error::Unexpected("no connection".into()))
    }

    /// The key is found, or a name for a new one; from here a login may be needed.
    pub(super) fn choose_key(&mut self, stage: &Trusted) -> Learnt {
        let intent = &stage.intent;
        let access = &self.world.access;
        if let Some(uri) = &intent.discard {
            self.discard(uri)?;
        }
        let uri = intent.key.uri();
        let failed = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(failed)?;
        match &intent.key {
            KeyWish::Existing(uri) => {
                let key = provider.open(uri, access).map_err(failed)?;
                self.keyed(key, false)
            }
            KeyWish::New { .. } => {
                let origin = intent.origin.to_string();
                let plan = self.wish(intent, &origin, |wish| provider.plan(wish, access)).map_err(failed)?;
                if plan.there_already {
                    let key = provider.open(&plan.uri, access).map_err(failed)?;
                    return self.keyed(key, false);
                }
                Ok(Next::Learnt(Record::Plan(plan)))
            }
        }
    }

    fn wish<T>(
        &self,
        intent: &Intent,
        origin: &str,
        ask: impl FnOnce(&NewKey<'_>) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        let (algorithm, reuse) = match &intent.key {
            KeyWish::New { algorithm, reuse, .. } => (*algorithm, *reuse),
            KeyWish::Existing(_) => (crate::key::KeyAlgorithm::P256, true),
        };
        let out = self.work.out();
        ask(&NewKey {
            within: intent.key.uri(),
            owner: Some(KeyOwner { origin, subject: &intent.subject }),
            algorithm,
            reuse,
            work: self.work.folder(),
            identity: &out,
            beside: self.work.beside(),
        })
    }

    /// The planned key is made, or found where an earlier run has made it.
    pub(super) fn make_key(&mut self, stage: &Trusted, plan: &KeyPlan) -> Learnt {
        let failed = |source| Error::Key { uri: Box::new(plan.uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(&plan.uri).map_err(failed)?;
        within(self.world, "before_generation", Spent::No)?;
        let origin = stage.intent.origin.to_string();
        let made = self.wish(&stage.intent, &origin, |wish| provider.generate(plan, wish, &self.world.access)).map_err(failed)?;
        within(self.world, "after_generation", Spent::No)?;
        self.keyed(made, true)
    }

    fn keyed(&mut self, key: Arc<dyn Key>, created: bool) -> Learnt {
        let failed = |source| Error::Key { uri: Box::new(key.uri().clone()), source, spent: Spent::No };
        let reference = key.reference(Embed::Nothing).map_err(failed)?;
        if self.request.embed_pin && !reference.holds_the_key() {
            // Found out before anything is spent; the PIN itself stays out of the journal.
            key.reference(Embed::Pin).map_err(failed)?;
        }
        let fact = KeyFact {
            uri: key.uri().clone(),
            spki: BASE64_STANDARD.encode(key.public_key().spki()),
            created,
            reference: (!reference.holds_the_key()).then(|| reference.expose().to_owned()),
            facts: key.facts().map_err(failed)?,
        };
        if !created && fact.facts.never_extractable == facts::Answer::No && fact.facts.place.is_some() {
            note(self.world, "the key was not always in its device: it may have a copy elsewhere");
        }
        if fact.facts.pss == facts::Answer::No {
            note(self.world, "the device pads no RSA-PSS: this key logs in over TLS 1.2 only");
        }
        self.key = Some(key);
        within(self.world, "key_ready", Spent::No)?;
        Ok(Next::Learnt(Record::Key(fact)))
    }

    /// The key, opened anew in a run that did not begin with it.
    fn key(&mut self, stage: &Keyed, spent: Spent) -> Result<Arc<dyn Key>, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let (intent, fact) = (&stage.trusted.intent, &stage.key);
        let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source: vanished(source, spent), spent };
        let provider = self.world.providers.of(&fact.uri).map_err(failed)?;
        let key = if fact.created && fact.reference.is_none() {
            // It waits for the identity that will hold it, which its name alone does not say.
            let plan = KeyPlan { uri: fact.uri.clone(), there_already: true, outlives_us: false };
            let origin = intent.origin.to_string();
            self.wish(intent, &origin, |wish| provider.generate(&plan, wish, &self.world.access))
        } else {
            provider.open(&fact.uri, &self.world.access)
        };
        let key = key.map_err(failed)?;
        if BASE64_STANDARD.encode(key.public_key().spki()) != fact.spki {
            let message = "another key is there now than when this enrollment began";
            return Err(failed(KeyError::Selection(Fault::new("key_not_found", message))));
        }
        self.key = Some(key.clone());
        Ok(key)
    }

    /// The request is signed, and its signature checked.
    pub(super) fn prepare(&mut self, stage: &Keyed) -> Learnt {
        let key = match self.key(stage, Spent::No) {
            Err(error) if stage.key.created && is_missing(&error) => return Ok(self.begin_anew(stage)),
            key => key?,
        };
        match token_of(self.request)?.method().brings() {
            Brings::Csr => {
                let failed = |source| Error::Key { uri: Box::new(stage.key.uri.clone()), source, spent: Spent::No };
                let csr = Csr::sign(&*key, &stage.trusted.intent.subject).map_err(failed)?;
                Ok(Next::Learnt(Record::Csr(Submission::Csr(csr))))
            }
        }
    }

    /// All is ready, controller and key are there: the next step may spend the token.
    pub(super) fn announce(&mut self, stage: &Ready) -> Learnt {
        self.controller()?;
        match self.key(&stage.keyed, Spent::No) {
            Err(error) if stage.keyed.key.created && is_missing(&error) => Ok(self.begin_anew(&stage.keyed)),
            key => key.map(|_| Next::Learnt(Record::Posting(1))),
        }
    }

    /// Nothing was sent, and a key that nobody has heard of is gone: another one does as well.
    fn begin_anew(&self, stage: &Keyed) -> Next<Record> {
        let uri = &stage.key.uri;
        note(self.world, &format!("{uri} was made by an earlier run and is not there any more: the enrollment begins anew"));
        Next::Learnt(Record::Intent(stage.trusted.intent.clone()))
    }

    /// Sends the request: once, and again only where nobody can tell what became of it.
    pub(super) fn post(&mut self, stage: &Ready, n: u32) -> Learnt {
        let (world, subject) = (self.world, stage.intent().subject.clone());
        if self.posted == 0 && self.trust.is_none() {
            // A run that was killed here may have sent it: this one counts as another.
            let unknown = |error: Error| Error::OutcomeUnknown { why: sentence(&error) };
            self.controller().map_err(unknown)?;
            // A certificate for a key that is gone would be of no use.
            self.key(&stage.keyed, Spent::Unknown)?;
            self.posted += 1;
            return Ok(Next::Learnt(Record::Posting(n + 1)));
        }
        within(world, "before_post", Spent::Unknown)?;
        self.posted = self.posted.max(1);
        let (token, controller) = self.controller()?;
        let answer = match controller.enroll(token, &stage.submission) {
            Ok(answer) => Ok(answer),
            Err(TrustError::Network(error)) => Err(error),
            // A second handshake that is refused: nothing was sent in it.
            Err(error) if n == 1 => {
                let error = Error::trust(stage.intent().origin.to_string(), error);
                return Ok(Next::Stop(Record::Csr(stage.submission.clone()), error));
            }
            Err(error) => return Err(Error::OutcomeUnknown { why: error.to_string() }),
        };
        let outcome = Outcome::of(&answer);
        within(world, "after_post", Spent::Unknown)?;
        match (outcome, answer) {
            (Outcome::Accepted, Ok(answer)) => {
                self.work.keep(&answer).map_err(|source| unkept(source, &answer, self.work.out()))?;
                within(world, "answer_synced", Spent::Yes)?;
                Ok(Next::Learnt(Record::Answered))
            }
            (Outcome::Gone(_), _) if n == 1 && token_of(self.request)?.is_of_a_cluster() => {
                // A follower may not have heard yet of a token that was made a moment ago.
                self.gone_at_first = true;
                let why = "this controller does not know the token yet";
                pause(self.world.watch, why, FOLLOWER);
                self.posted += 1;
                Ok(Next::Learnt(Record::Posting(n + 1)))
            }
            (Outcome::Gone(why), _) if n == 2 && self.gone_at_first => Ok(Next::Learnt(Record::Refused(why))),
            (Outcome::Gone(_), _) if n > 1 => {
                let out = self.work.out();
                Ok(Next::Stop(Record::Lost, Error::AnswerLost { subject, out }))
            }
            (Outcome::Refused(why) | Outcome::Gone(why), _) => Ok(Next::Learnt(Record::Refused(why))),
            (Outcome::Retry(_), Err(source)) if n == 1 => {
                let error = Error::Network { controller: stage.intent().origin.to_string(), source };
                Ok(Next::Stop(Record::Csr(stage.submission.clone()), error))
            }
            (Outcome::Retry(failure), _) if n == 1 => {
                let error = Error::NotNow { controller: stage.intent().origin.to_string(), why: failure.why };
                Ok(Next::Stop(Record::Csr(stage.submission.clone()), error))
            }
            (Outcome::Retry(failure) | Outcome::Unknown(failure), _) => self.again(n, *failure),
            (Outcome::Accepted, Err(_)) => Err(Error::Unexpected("an answer that is none".into())),
        }
    }

    fn again(&mut self, n: u32, failure: Failure) -> Learnt {
        let Some(usual) = self.posted.checked_sub(1).and_then(|i| self.world.patience.repeats.get(i)).copied() else {
            return Err(Error::OutcomeUnknown { why: failure.why });
        };
        let wait = failure.retry_after.map_or(usual, |wish| wish.min(LONGEST_WISH));
        pause(self.world.watch, &failure.why, wait);
        self.posted += 1;
        Ok(Next::Learnt(Record::Posting(n + 1)))
    }

    /// Whether a certificate was handed to us that is not the answer yet.
    pub(super) fn has_a_certificate(&self) -> bool {
        self.request.certificate.is_some() && !self.took_back
    }

    /// A certificate that the controller has issued, and whose answer was lost or cannot be used, is handed to us.
    pub(super) fn take_back(&mut self, stage: &Ready) -> Learnt {
        let Some(certificate) = &self.request.certificate else {
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
        let public = arrival::public_key(&stage.keyed.key)?;
        let trusted = &stage.keyed.trusted;
        let judged = Chain::from_pem(pem).and_then(|chain| {
            chain
                .check_issued(&public, &trusted.anchors, &trusted.intent.subject, self.world.now())
                .map(|summary| (chain, summary))
        });
        judged.map_err(|e| Error::Issued { source: e.into(), kept: None })
    }

    /// What the controller issued is checked, and becomes the identity.
    pub(super) fn accept(&mut self, stage: &Ready) -> Learnt {
        let intent = stage.intent();
        let local = |source| Error::Local { source, spent: Spent::Yes };
        // Not there: stopped while another certificate took its place, or somebody has removed it.
        let lost = || Error::AnswerLost { subject: intent.subject.clone(), out: self.work.out() };
        let answer = self.work.answer().map_err(local)?.ok_or_else(lost)?;
        let fact = &stage.keyed.key;
        let issued = answer.issued().map_err(|why| self.quarantine(&answer.body, IssuedError::Answer(why)))?;
        let anchors = &stage.keyed.trusted.anchors;
        let (chain, summary) = self.judge(stage, &issued.cert).map_err(|error| match error {
            Error::Issued { source, .. } => self.quarantine(&issued.cert, source),
            other => other,
        })?;
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
        let others = issued.apis.iter().filter(|url| crate::origin::Origin::of_url(url).is_ok_and(|o| o != intent.origin));
        let apis = std::iter::once(&own).chain(others).cloned().collect();
        let identity = Identity { apis, key: reference, chain, anchors: anchors.clone() };
        let text = identity.to_json().map_err(|e| self.quarantine(&issued.cert, e.into()))?;
        // What will be read is what was meant.
        let read = Identity::parse(text.as_bytes()).map_err(|e| self.quarantine(&issued.cert, e.into()))?;
        if read.key.holds_the_key() != fact.reference.is_none() {
            return Err(self.quarantine(&issued.cert, IdentityError::HoldsAKey.into()));
        }
        self.publish(&text)?;
        let readers = self.world.providers.readers(&read.key, Some(&fact.facts));
        self.arrived = Some(arrival::report(self.world, &self.work, stage, &summary, readers)?);
        Ok(Next::Learnt(Record::Done))
    }

    fn publish(&self, text: &str) -> Result<(), Error> {
        let local = |source| Error::Local { source, spent: Spent::Yes };
        // An earlier run may have been killed right after the rename.
        match self.work.published() {
            Ok(Some(there)) if there == text.as_bytes() => return self.work.sync_published().map_err(local),
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

    /// A definite no: a key that we made for this enrollment is deleted, and that is said.
    pub(super) fn clean_up(&mut self, stage: &Ready, why: &Refusal) -> Error {
        if stage.keyed.key.created {
            let uri = &stage.keyed.key.uri;
            if let Err(error) = self
                .discard(uri)
                .and_then(|()| self.work.note_clean().map_err(|source| Error::Local { source, spent: Spent::No }))
            {
                note(self.world, &format!("{uri} was made for this enrollment and stays: {}", sentence(&error)));
            }
        }
        let gone = Outcome::is_gone(why);
        if gone {
            Error::Gone { subject: stage.intent().subject.clone(), source: why.clone() }
        } else {
            Error::Refused(why.clone())
        }
    }

    fn discard(&mut self, uri: &KeyUri) -> Result<(), Error> {
        self.key = None;
        let failed = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(failed)?;
        match provider.abandon(uri, self.work.folder(), &self.world.access) {
            Ok(()) => note(self.world, &format!("{uri} was made for an enrollment that did not happen: deleted")),
            // A plan that was never carried out.
            Err(KeyError::Selection(fault)) if fault.code == "key_not_found" => {}
            Err(KeyError::File(_)) if uri.file_path().is_some_and(|path| !path.exists()) => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// What the enrollment gave, once it has `reached` its end: in this run, or in one that was killed after that.
    pub(super) fn enrolled(self, reached: &Stage) -> Result<Enrolled, Error> {
        match (&self.arrived, reached) {
            (Some(enrolled), _) => Ok(enrolled.clone()),
            (None, Stage::Done(ready)) => arrival::in_place(self.world, &self.work, ready),
            (None, _) => Err(Error::Unexpected("the enrollment has ended before its end".into())),
        }
    }
}

/// The key of this enrollment is not where it was.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Key { source: KeyError::Selection(fault), .. } if fault.code == "key_not_found")
}

/// What to do about a key that an earlier run has used is another matter than about one that was only named.
fn vanished(error: KeyError, spent: Spent) -> KeyError {
    let next = match spent {
        Spent::No => "put its token or file back, then run the same command again",
        Spent::Yes | Spent::Unknown => {
            "put its token or file back, then run the same command again; if the key is lost, have the administrator \
             re-enroll the identity, and give the new token with --force"
        }
    };
    match error {
        KeyError::Selection(fault) if fault.code == "key_not_found" => KeyError::Selection(fault.hint(Hint::say(next))),
        other => other,
    }
}

/// The last way to save what was issued: past the point of no return, and the disk does not take it.
fn unkept(source: FileError, answer: &Answer, out: PathBuf) -> Error {
    match answer.issued() {
        Ok(issued) => Error::Unkept { out, source, certificates: String::from_utf8_lossy(&issued.cert).into_owned() },
        Err(_) => Error::Local { source, spent: Spent::Yes },
    }
}
