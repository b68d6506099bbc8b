//! The means of one run: connection, open key, and the steps that use them.
//!
//! A means is made when first asked for and dies with the run; what is learnt goes into a record.

mod accept;
mod post;
mod settle;

use std::sync::Arc;

use super::stage::{CertificateWish, Intent, KeyFact, KeyWish, Keyed, Ready, Record, Stage, Trusted};
use super::work::Work;
use super::{Enrolled, Request, arrival, handshake, token_of};
use crate::controller::{Controller, Submission};
use crate::csr::{Csr, Subject};
use crate::error::{Error, Spent};
use crate::flow::{Next, World};
use crate::jwt::{Brings, EnrollmentToken};
use crate::key::facts;
use crate::key::{Embed, Fault, Key, KeyError, KeyOwner, KeyPlan, KeyUri, NewKey};
use crate::text::Hint;
use crate::tls::ClientAuth;
use crate::trust::Trust;

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
    /// The identity, where the controller has said it.
    identity: Option<String>,
    /// The certificate that was handed to us is the answer now.
    took_back: bool,
    arrived: Option<Enrolled>,
}

/// A key that is there, or the name of one to be made.
enum Found {
    Key(Arc<dyn Key>),
    Plan(KeyPlan),
}

impl<'a> Live<'a> {
    pub(super) fn new(request: &'a Request, world: &'a World<'a>, work: Work) -> Self {
        Self {
            request,
            world,
            work,
            trust: None,
            key: None,
            posted: 0,
            gone_at_first: false,
            identity: None,
            took_back: false,
            arrived: None,
        }
    }

    /// The controller is proved to be the token's issuer. A certificate that is shown in the handshake needs its key, and
    /// its one login, before.
    pub(super) fn meet_controller(&mut self, intent: &Intent) -> Learnt {
        let trust = match intent.method.brings() {
            Brings::Csr | Brings::IdpToken => self.meet_beside_the_device(intent)?,
            Brings::Certificate => {
                let client = self.own_certificate(intent, None)?;
                self.meet(intent, Some(&client))?
            }
            Brings::Password | Brings::Nothing => self.meet(intent, None)?,
        };
        let anchors = trust.anchors.clone();
        self.trust = Some((trust.token, Controller::at(trust.channel)));
        self.world.within("connected", Spent::No)?;
        Ok(Next::Learnt(Record::Anchors(anchors)))
    }

    fn meet_beside_the_device(&self, intent: &Intent) -> Result<Trust, Error> {
        let uri = intent.key.uri();
        let key_error = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(key_error)?;
        let (prepared, met) = std::thread::scope(|scope| {
            // 6 ms of dlopen and C_Initialize that nobody needs to wait for.
            let prepared = scope.spawn(|| provider.prepare(uri));
            let met = self.meet(intent, None);
            (prepared.join(), met)
        });
        // Our own side first: it is what the person can mend here.
        prepared.map_err(|_| Error::Unexpected("the key provider panicked".into()))?.map_err(key_error)?;
        met
    }

    fn meet(&self, intent: &Intent, client: Option<&ClientAuth>) -> Result<Trust, Error> {
        let given = self.request.given.as_ref().or(intent.given.as_ref());
        handshake::meet(token_of(self.request)?, given, client, self.world)
    }

    /// The connection, made anew in a run that did not begin with it.
    fn controller(&mut self, stage: &Ready) -> Result<&(EnrollmentToken, Controller), Error> {
        if self.trust.is_none() {
            let client = match &stage.submission {
                Submission::Certificate { .. } => Some(self.own_certificate(stage.intent(), Some(stage))?),
                Submission::Csr(_) | Submission::IdpToken { .. } | Submission::Password | Submission::Nothing => None,
            };
            let trust = self.meet(stage.intent(), client.as_ref())?;
            self.trust = Some((trust.token, Controller::at(trust.channel)));
        }
        self.trust.as_ref().ok_or_else(|| Error::Unexpected("no connection".into()))
    }

    /// Certificate and key of a method that shows one, found to fit: those that were `announced`, where that is past.
    fn own_certificate(&mut self, intent: &Intent, announced: Option<&Ready>) -> Result<ClientAuth, Error> {
        let key = match announced {
            Some(stage) => self.key(&stage.keyed, Spent::No)?,
            None => self.existing_key(intent)?,
        };
        let chain = match announced.map(|stage| &stage.submission) {
            Some(Submission::Certificate { chain, .. }) => chain.clone(),
            _ => {
                let wish = intent.certificate.as_ref().unwrap_or(&CertificateWish::Beside);
                handshake::certificate(wish, &key, self.world)?
            }
        };
        Ok(ClientAuth::new(chain, key))
    }

    /// The key is found, or a name for a new one; from here a login may be needed.
    pub(super) fn choose_key(&mut self, stage: &Trusted) -> Learnt {
        let intent = &stage.intent;
        if let Some(uri) = &intent.discard {
            self.discard(uri)?;
        }
        match intent.method.brings() {
            Brings::Csr | Brings::IdpToken => match self.find_key(intent)? {
                Found::Key(key) => self.keyed(key, false),
                Found::Plan(plan) => Ok(Next::Learnt(Record::Plan(plan))),
            },
            Brings::Certificate => {
                let key = self.existing_key(intent)?;
                self.keyed(key, false)
            }
            Brings::Password | Brings::Nothing => Ok(Next::Learnt(Record::Key(None))),
        }
    }

    fn find_key(&self, intent: &Intent) -> Result<Found, Error> {
        let (uri, access) = (intent.key.uri(), &self.world.access);
        let failed = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(failed)?;
        let uri = match &intent.key {
            KeyWish::Existing(uri) => uri.clone(),
            KeyWish::New { .. } => {
                let plan = self.wish(intent, |wish| provider.plan(wish, access)).map_err(failed)?;
                if !plan.there_already {
                    return Ok(Found::Plan(plan));
                }
                plan.uri
            }
        };
        provider.open(&uri, access).map(Found::Key).map_err(failed)
    }

    /// The key of a certificate that was issued before: it is there, or nothing can be done.
    fn existing_key(&mut self, intent: &Intent) -> Result<Arc<dyn Key>, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        match self.find_key(intent)? {
            Found::Key(key) => Ok(self.key.insert(key).clone()),
            Found::Plan(plan) => {
                let source = handshake::no_key(&plan.uri);
                Err(Error::Key { uri: Box::new(plan.uri), source, spent: Spent::No })
            }
        }
    }

    fn wish<T>(&self, intent: &Intent, ask: impl FnOnce(&NewKey<'_>) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let (algorithm, reuse) = match &intent.key {
            KeyWish::New { algorithm, reuse, .. } => (*algorithm, *reuse),
            KeyWish::Existing(_) => (crate::key::KeyAlgorithm::P256, true),
        };
        let (out, origin) = (self.work.out(), intent.origin.to_string());
        ask(&NewKey {
            within: intent.key.uri(),
            owner: intent.subject.as_deref().map(|subject| KeyOwner { origin: &origin, subject }),
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
        self.world.within("before_generation", Spent::No)?;
        let made = self.wish(&stage.intent, |wish| provider.generate(plan, wish, &self.world.access)).map_err(failed)?;
        self.world.within("after_generation", Spent::No)?;
        self.keyed(made, true)
    }

    fn keyed(&mut self, key: Arc<dyn Key>, created: bool) -> Learnt {
        let failed = |source| Error::Key { uri: Box::new(key.uri().clone()), source, spent: Spent::No };
        let fact = KeyFact::of(&*key, created).map_err(failed)?;
        if self.request.embed_pin && fact.reference.is_some() {
            // Found out before anything is spent; the PIN itself stays out of the journal.
            key.reference(Embed::Pin).map_err(failed)?;
        }
        if !created && fact.facts.never_extractable == facts::Answer::No && fact.facts.place.is_some() {
            self.world.note("the key was not always in its device: it may have a copy elsewhere");
        }
        if fact.facts.pss == facts::Answer::No {
            self.world.note("the device pads no RSA-PSS: this key logs in over TLS 1.2 only");
        }
        self.key = Some(key);
        self.world.within("key_ready", Spent::No)?;
        Ok(Next::Learnt(Record::Key(Some(fact))))
    }

    /// The key, opened anew in a run that did not begin with it.
    fn key(&mut self, stage: &Keyed, spent: Spent) -> Result<Arc<dyn Key>, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let fact = stage.key.as_ref().ok_or_else(|| Error::Unexpected("the journal names no key".into()))?;
        let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source: vanished(source, spent), spent };
        let provider = self.world.providers.of(&fact.uri).map_err(failed)?;
        let key = if fact.created && fact.reference.is_none() {
            // It waits for the identity that will hold it, which its name alone does not say.
            let plan = KeyPlan { uri: fact.uri.clone(), there_already: true, outlives_us: false };
            self.wish(&stage.trusted.intent, |wish| provider.generate(&plan, wish, &self.world.access))
        } else {
            provider.open(&fact.uri, &self.world.access)
        };
        let key = key.map_err(failed)?;
        if !fact.is_of(&*key) {
            let message = "another key is there now than when this enrollment began";
            return Err(failed(KeyError::Selection(Fault::new("key_not_found", message))));
        }
        self.key = Some(key.clone());
        Ok(key)
    }

    /// The request is signed, and its signature checked; or what takes its place is at hand.
    pub(super) fn prepare(&mut self, stage: &Keyed) -> Learnt {
        let intent = &stage.trusted.intent;
        let submission = match intent.method.brings() {
            method @ (Brings::Csr | Brings::IdpToken) => {
                let csr = match self.request_for(stage) {
                    Err(error) if stage.made().is_some() && is_missing(&error) => return Ok(self.begin_anew(stage)),
                    csr => csr?,
                };
                if method == Brings::Csr {
                    Submission::Csr(csr)
                } else {
                    Submission::IdpToken { csr, issuer: intent.issuer.clone() }
                }
            }
            Brings::Certificate => {
                let chain = self.own_certificate(intent, None)?.chain().clone();
                Submission::Certificate { chain, name: intent.name.clone() }
            }
            Brings::Password => Submission::Password,
            Brings::Nothing => Submission::Nothing,
        };
        Ok(Next::Learnt(Record::Csr(submission)))
    }

    /// Nothing was sent, and a key that nobody has heard of is gone: another one does as well.
    fn begin_anew(&self, stage: &Keyed) -> Next<Record> {
        if let Some(uri) = stage.made() {
            self.world.note(&format!("{uri} was made by an earlier run and is not there any more: the enrollment begins anew"));
        }
        Next::Learnt(Record::Intent(stage.trusted.intent.clone()))
    }

    fn request_for(&mut self, stage: &Keyed) -> Result<Csr, Error> {
        let key = self.key(stage, Spent::No)?;
        let failed = |source| Error::Key { uri: Box::new(key.uri().clone()), source, spent: Spent::No };
        let subject =
            stage.trusted.intent.subject.as_deref().map(Subject::named).transpose().map_err(failed)?.unwrap_or_default();
        Csr::sign(&*key, &subject.into()).map_err(failed)
    }

    fn discard(&mut self, uri: &KeyUri) -> Result<(), Error> {
        self.key = None;
        let failed = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(uri).map_err(failed)?;
        match provider.abandon(uri, self.work.folder(), &self.world.access) {
            Ok(()) => self.world.note(&format!("{uri} was made for an enrollment that did not happen: deleted")),
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
