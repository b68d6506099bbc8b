//! The means of one run: connection, open key, and the steps that use them.
//!
//! A means is made when first asked for and dies with the run; what is learnt goes into a record.

mod accept;
mod post;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::stage::{Intent, KeyFact, KeyWish, Keyed, Record, Stage, Trusted};
use super::work::Work;
use super::{Enrolled, Request, arrival, note, token_of, within};
use crate::controller::{Controller, Submission};
use crate::csr::Csr;
use crate::error::{Error, Spent};
use crate::flow::{Next, World};
use crate::jwt::{Brings, EnrollmentToken};
use crate::key::facts;
use crate::key::{Embed, Key, KeyError, KeyOwner, KeyPlan, KeyUri, NewKey};
use crate::trust;

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
    arrived: Option<Enrolled>,
}

impl<'a> Live<'a> {
    pub(super) fn new(request: &'a Request, world: &'a World<'a>, work: Work) -> Self {
        Self { request, world, work, trust: None, key: None, posted: 0, gone_at_first: false, arrived: None }
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
    fn key(&mut self, intent: &Intent, fact: &KeyFact) -> Result<Arc<dyn Key>, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let failed = |source| Error::Key { uri: Box::new(fact.uri.clone()), source, spent: Spent::No };
        let provider = self.world.providers.of(&fact.uri).map_err(failed)?;
        let key = if fact.created && fact.reference.is_none() {
            // It waits for the identity that will hold it, which its name alone does not say.
            let plan = KeyPlan { uri: fact.uri.clone(), there_already: false, outlives_us: false };
            let origin = intent.origin.to_string();
            self.wish(intent, &origin, |wish| provider.generate(&plan, wish, &self.world.access))
        } else {
            provider.open(&fact.uri, &self.world.access)
        };
        let key = key.map_err(failed)?;
        if BASE64_STANDARD.encode(key.public_key().spki()) != fact.spki {
            let message = "another key is there now than when this enrollment began";
            return Err(failed(KeyError::Selection(crate::key::Fault::new("key_not_found", message))));
        }
        self.key = Some(key.clone());
        Ok(key)
    }

    /// The request is signed, and its signature checked.
    pub(super) fn prepare(&mut self, stage: &Keyed) -> Learnt {
        let key = self.key(&stage.trusted.intent, &stage.key)?;
        match token_of(self.request)?.method().brings() {
            Brings::Csr => {
                let failed = |source| Error::Key { uri: Box::new(stage.key.uri.clone()), source, spent: Spent::No };
                let csr = Csr::sign(&*key, &stage.trusted.intent.subject).map_err(failed)?;
                Ok(Next::Learnt(Record::Csr(Submission::Csr(csr))))
            }
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
