//! The means of one run: the old identity and its login, the new key, and the steps that use them.
//!
//! A means is made when first asked for and dies with the run; what is learnt goes into a record.

use std::cell::OnceCell;
use std::sync::Arc;

use super::stage::{Extended, Keyed, Next as NextIdentity, OldKey, Record, Renewing};
use super::work::Work;
use super::{Due, NotDue, Renewed, Request, Rotation, arrival, due, printable};
use crate::certificate::{Anchors, Chain, Summary, rfc3339};
use crate::controller::session::CurrentIdentity;
use crate::controller::{ControllerError, Extension, Refusal, Session};
use crate::csr::{Csr, Subject};
use crate::error::{Error, IssuedError, Spent};
use crate::flow::enroll::stage::{KeyFact, KeyWish};
use crate::flow::login::{self, Entrance};
use crate::flow::{CertificateSummary, IdentitySummary, Next, World, days_left, pause};
use crate::identity::{Identity, IdentityError};
use crate::key::{Embed, Fault, Key, KeyError, KeyOwner, KeyPlan, KeyUri, NewKey};
use crate::text::hex;

pub(super) type Learnt = Result<Next<Record>, Error>;

pub(super) struct Live<'a> {
    pub(super) request: &'a Request,
    pub(super) world: &'a World<'a>,
    pub(super) work: Work,
    /// The identity that stands in the file, and its way to the controller.
    entrance: &'a OnceCell<Entrance>,
    session: Option<Session<'a>>,
    who: Option<CurrentIdentity>,
    /// The new key.
    key: Option<Arc<dyn Key>>,
    /// It is written down that the controller will be told, and this run has not told it yet.
    pub(super) announced: bool,
    /// How often this run has told it.
    pub(super) told: usize,
    /// How often what was issued was void.
    pub(super) void: usize,
}

impl<'a> Live<'a> {
    pub(super) fn new(request: &'a Request, world: &'a World<'a>, work: Work, entrance: &'a OnceCell<Entrance>) -> Self {
        Self { request, world, work, entrance, session: None, who: None, key: None, announced: false, told: 0, void: 0 }
    }

    /// The identity that stands in the file, its key opened.
    pub(super) fn entrance(&self) -> Result<&'a Entrance, Error> {
        if self.entrance.get().is_none() {
            let path = self.work.place().path();
            let identity = login::parse(&path, &self.work.place().read()?)?;
            // Empty a line ago, and nobody else has it.
            drop(self.entrance.set(Entrance::open(&path, identity, self.world)?));
        }
        self.entrance.get().ok_or_else(|| Error::Unexpected("no identity".into()))
    }

    /// Its login.
    fn session(&mut self) -> Result<&Session<'a>, Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.entrance()?.log_in()?,
        };
        Ok(self.session.insert(session))
    }

    /// Logs in with it once more; `None` where it is taken.
    pub(super) fn old_is_refused(&mut self) -> Result<Option<Refusal>, Error> {
        self.session = None;
        match self.session() {
            Ok(_) | Err(Error::LoginNeedsMore) => Ok(None),
            Err(Error::Login { source: ControllerError::Refused(why), .. }) if why.status == 401 => Ok(Some(why)),
            Err(error) => Err(error),
        }
    }

    fn who(&mut self) -> Result<CurrentIdentity, Error> {
        if let Some(who) = &self.who {
            return Ok(who.clone());
        }
        let entrance = self.entrance()?;
        let who = self.session()?.current_identity().map_err(|e| entrance.failed(e))?;
        Ok(self.who.insert(who).clone())
    }

    fn summary(&self) -> Result<Summary, Error> {
        let (path, chain) = (self.work.place().path(), &self.entrance()?.opened.identity().chain);
        chain.summary().map_err(|e| Error::Identity { path, source: IdentityError::Certificates("cert", e) })
    }

    fn due(&mut self) -> Result<Option<Due>, Error> {
        let (request, world, summary) = (self.request, self.world, self.summary()?);
        let key = self.entrance()?.opened.key().uri();
        Ok(Due::of(request, world, &summary, self.session()?, key))
    }

    /// When it is, where nothing is to be done now.
    pub(super) fn nothing_is_due(&mut self) -> Result<Option<NotDue>, Error> {
        if self.due()?.is_some() {
            return Ok(None);
        }
        let (who, summary) = (self.who()?, self.summary()?);
        Ok(Some(NotDue {
            identity: IdentitySummary {
                id: Some(printable(who.id.as_str())),
                controller: self.entrance()?.origin.clone(),
                file: self.work.place().path().display().to_string(),
            },
            renewed: false,
            certificate: CertificateSummary::from(&summary),
            days_left: days_left(summary.not_after, self.world),
            due: rfc3339(due::due_at(&summary)),
        }))
    }

    /// The old certificate logs in, is the one that the controller knows, and can be renewed by it.
    pub(super) fn begin(&mut self) -> Learnt {
        let (entrance, due, who) = (self.entrance()?, self.due()?, self.who()?);
        let (opened, path) = (&entrance.opened, self.work.place().path());
        let fingerprint = opened.identity().chain.fingerprint_sha1();
        let session = self.session()?;
        let not_renewable = || Error::NotRenewable { controller: entrance.origin.clone() };
        let authenticator = session.authenticator.clone().or(who.authenticator).ok_or_else(not_renewable)?;
        let known = session.authenticator(&authenticator).map_err(|error| match error {
            // A CA of its own names the identity: the controller keeps nothing of the certificate.
            ControllerError::Refused(why) if why.status == 404 => not_renewable(),
            error => entrance.failed(error),
        })?;
        if known.issued_by_network == Some(false) {
            return Err(not_renewable());
        }
        if known.fingerprint_sha1.is_some_and(|known| known.as_str() != fingerprint) {
            return Err(Error::Login { controller: entrance.origin.clone(), source: ControllerError::OtherCertificate });
        }
        let old = opened.key();
        let beside = |algorithm: &Option<_>| -> Result<KeyWish, Error> {
            let failed = |source| Error::IdentityKey { identity: path.clone(), source };
            let provider = self.world.providers.of(old.uri()).map_err(failed)?;
            let within = provider.place_of(old.uri()).map_err(failed)?;
            Ok(KeyWish::New { within, algorithm: algorithm.unwrap_or(old.public_key().algorithm()), reuse: false })
        };
        let is_held = old.held() == Embed::Pin;
        let (rotate, embed_pin) = match (&self.request.rotate, due) {
            (Some(Rotation::To(wish)), _) => (Some(wish.clone()), self.request.embed_pin),
            (Some(Rotation::Beside(algorithm)), _) => (Some(beside(algorithm)?), self.request.embed_pin || is_held),
            (None, Some(Due::NewKeyAsked)) => {
                self.world.note("an administrator asks for a new key: it is made beside the old one");
                (Some(beside(&None)?), is_held)
            }
            (None, _) => (None, is_held),
        };
        let in_itself = opened.identity().key.holds_the_key();
        let old_key = (rotate.is_some() && !in_itself)
            .then(|| OldKey { uri: old.uri().clone(), spki_sha256: hex(&old.public_key().sha256()) });
        let identity_error = |source| Error::Identity { path: path.clone(), source };
        Ok(Next::Learnt(Record::Renewing(Renewing {
            fingerprint,
            origin: opened.identity().origin().map_err(identity_error)?,
            identity: who.id.as_str().to_owned(),
            common_name: opened
                .identity()
                .chain
                .common_name()
                .map_err(|e| identity_error(IdentityError::Certificates("cert", e)))?,
            authenticator,
            rotate,
            embed_pin,
            old_key,
        })))
    }

    /// The key that stays, one that is there already, or a name for a new one.
    pub(super) fn choose_key(&mut self, stage: &Renewing) -> Learnt {
        let access = &self.world.access;
        match &stage.rotate {
            None => {
                let key = self.entrance()?.opened.key().clone();
                self.keyed(stage, key, false)
            }
            Some(KeyWish::Existing(uri)) => {
                let key = self.world.providers.of(uri).and_then(|p| p.open(uri, access)).map_err(|e| failed(uri, e))?;
                self.keyed(stage, key, false)
            }
            Some(KeyWish::New { within, .. }) => {
                let provider = self.world.providers.of(within).map_err(|e| failed(within, e))?;
                let plan = self.wish(stage, |wish| provider.plan(wish, access)).map_err(|e| failed(within, e))?;
                Ok(Next::Learnt(Record::Plan(plan)))
            }
        }
    }

    fn wish<T>(&self, stage: &Renewing, ask: impl FnOnce(&NewKey<'_>) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let Some(KeyWish::New { within, algorithm, .. }) = &stage.rotate else {
            return Err(KeyError::Reference(Fault::new("usage", "no new key is wanted")));
        };
        let (origin, identity) = (stage.origin.to_string(), self.work.place().path());
        ask(&NewKey {
            within,
            owner: Some(KeyOwner { origin: &origin, subject: &stage.identity }),
            algorithm: *algorithm,
            reuse: false,
            work: self.work.folder(),
            identity: &identity,
            beside: self.work.place().folder(),
        })
    }

    /// The planned key is made, or found where an earlier run has made it.
    pub(super) fn make_key(&mut self, stage: &Renewing, plan: &KeyPlan) -> Learnt {
        self.world.within("before_generation", Spent::No)?;
        let made = self.generated(stage, plan)?;
        self.world.within("after_generation", Spent::No)?;
        self.keyed(stage, made, true)
    }

    fn generated(&self, stage: &Renewing, plan: &KeyPlan) -> Result<Arc<dyn Key>, Error> {
        let provider = self.world.providers.of(&plan.uri).map_err(|e| failed(&plan.uri, e))?;
        self.wish(stage, |wish| provider.generate(plan, wish, &self.world.access)).map_err(|e| failed(&plan.uri, e))
    }

    fn keyed(&mut self, stage: &Renewing, key: Arc<dyn Key>, created: bool) -> Learnt {
        let fact = KeyFact::of(&*key, created).map_err(|e| failed(key.uri(), e))?;
        if stage.rotate.is_some() && stage.embed_pin && fact.reference.is_some() {
            // Found out before anything is asked for; the PIN itself stays out of the journal.
            key.reference(Embed::Pin).map_err(|e| failed(key.uri(), e))?;
        }
        self.key = Some(key);
        self.world.within("key_ready", Spent::No)?;
        Ok(Next::Learnt(Record::Key(fact)))
    }

    /// The key, opened anew in a run that did not begin with it.
    fn key(&mut self, stage: &Keyed) -> Result<Arc<dyn Key>, Error> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let fact = &stage.key;
        let key = match &stage.renewing.rotate {
            None => self.entrance()?.opened.key().clone(),
            // It waits for the identity that will hold it, which its name alone does not say.
            Some(_) if fact.created && fact.reference.is_none() => {
                let plan = KeyPlan { uri: fact.uri.clone(), there_already: true, outlives_us: false };
                self.generated(&stage.renewing, &plan)?
            }
            Some(_) => {
                let provider = self.world.providers.of(&fact.uri).map_err(|e| failed(&fact.uri, e))?;
                provider.open(&fact.uri, &self.world.access).map_err(|e| failed(&fact.uri, e))?
            }
        };
        if !fact.is_of(&*key) {
            let message = "another key is there now than when this renewal began";
            return Err(failed(&fact.uri, KeyError::Selection(Fault::new("key_not_found", message))));
        }
        Ok(self.key.insert(key).clone())
    }

    /// The new certificate is asked for, checked, and becomes an identity that nobody reads yet.
    pub(super) fn extend(&mut self, stage: &Keyed) -> Learnt {
        let key = self.key(stage)?;
        let subject = Subject::named(&stage.renewing.common_name);
        let csr = subject.and_then(|subject| Csr::sign(&*key, &subject.into())).map_err(|e| failed(&stage.key.uri, e))?;
        self.world.within("before_extend", Spent::No)?;
        let extension = self.extension(&stage.renewing, &csr)?;
        self.world.within("after_extend", Spent::No)?;
        let (text, fingerprint) = self.next_identity(stage, &*key, &extension)?;
        self.work.write_next(&text).map_err(super::local)?;
        self.world.within("next_written", Spent::No)?;
        Ok(Next::Learnt(Record::Next(NextIdentity { fingerprint })))
    }

    /// Asks until there is an answer: what was issued and lost changes nothing.
    fn extension(&mut self, stage: &Renewing, csr: &Csr) -> Result<Extension, Error> {
        let entrance = self.entrance()?;
        let mut repeats = self.world.patience.repeats.clone().into_iter();
        loop {
            let error = match self.session()?.extend(&stage.authenticator, csr) {
                Ok(extension) => return Ok(extension),
                Err(error) => error,
            };
            let error = match entrance.failed(error) {
                Error::Login { source: ControllerError::Refused(why), .. } if why.status == 409 => {
                    log::debug!("{why}");
                    return Err(Error::NotRenewable { controller: entrance.origin.clone() });
                }
                Error::Login { source: ControllerError::Refused(why), .. } => return Err(Error::RenewalRefused(why)),
                Error::Login { source: ControllerError::Form(why), .. } => {
                    return Err(Error::RenewalUnusable(IssuedError::Answer(why)));
                }
                error @ (Error::Network { .. } | Error::NotNow { .. }) => error,
                error => return Err(error),
            };
            let Some(length) = repeats.next() else { return Err(error) };
            pause(self.world.watch, &crate::flow::enroll::sentence(&error), length);
        }
    }

    /// The text of the new identity, and the fingerprint of its certificate.
    fn next_identity(&self, stage: &Keyed, key: &dyn Key, extension: &Extension) -> Result<(String, String), Error> {
        let unusable = |source: IssuedError| Error::RenewalUnusable(source);
        let old = self.entrance()?.opened.identity();
        let anchors =
            match extension.ca.as_deref().map(|ca| Anchors::from_pem(ca.as_bytes()).and_then(|new| old.anchors.and(&new))) {
                Some(Ok(anchors)) => anchors,
                // Those that we have vouch for the controller already.
                Some(Err(error)) => {
                    log::debug!("the CA certificates that came along cannot be used: {error}");
                    old.anchors.clone()
                }
                None => old.anchors.clone(),
            };
        let chain = Chain::from_pem(extension.cert.as_bytes()).map_err(|e| unusable(e.into()))?.completed(&anchors);
        let summary = chain
            .check_issued(key.public_key(), &anchors, Some(&stage.renewing.identity), self.world.now())
            .map_err(|e| unusable(e.into()))?;
        if summary.not_before > self.world.now().as_secs() {
            let begins = rfc3339(summary.not_before);
            self.world.note(&format!("the new certificate is valid from {begins}, which is later than this machine's clock"));
        }
        let reference = match &stage.renewing.rotate {
            None if key.is_elsewhere() => {
                self.world.note("the key is not where the identity says: the new identity says where it is now");
                key.reference(key.held()).map_err(|e| failed(key.uri(), e))?
            }
            None => old.key.clone(),
            Some(_) => {
                let embed = if stage.renewing.embed_pin { Embed::Pin } else { Embed::Nothing };
                key.reference(embed).map_err(|e| failed(key.uri(), e))?
            }
        };
        let is_held = reference.holds_the_key();
        let identity = Identity { apis: old.apis.clone(), key: reference, chain, anchors };
        let text = identity.to_json_over(&self.work.place().read()?).map_err(|e| unusable(e.into()))?;
        // What will be read is what was meant.
        let read = Identity::parse(text.as_bytes()).map_err(|e| unusable(e.into()))?;
        if read.key.holds_the_key() != is_held || read.chain != identity.chain {
            return Err(unusable(IdentityError::HoldsAKey.into()));
        }
        Ok((text, summary.fingerprint_sha1))
    }

    /// All is durable: the next step may put the new certificate in force.
    pub(super) fn announce(&mut self) -> Next<Record> {
        self.announced = true;
        Next::Learnt(Record::Confirming(1))
    }

    /// Tells the controller that the new certificate has arrived.
    pub(super) fn tell(&mut self, stage: &Extended, chain: &Chain) -> Result<Result<(), ControllerError>, Error> {
        self.world.within("before_verify", Spent::Yes)?;
        let told = self.session()?.extend_verify(&stage.keyed.renewing.authenticator, &chain.to_pem());
        self.world.within("after_verify", Spent::Yes)?;
        Ok(told)
    }

    /// The new identity takes its place.
    pub(super) fn publish(&mut self, stage: &Extended) -> Learnt {
        let local = |source| Error::Local { source, spent: Spent::Yes };
        let there = self.work.place().read().ok().and_then(|text| Identity::parse(&text).ok());
        let there = there.map(|identity| identity.chain.fingerprint_sha1());
        // An earlier run may have been killed right after the rename; what has come there since is another's.
        if there.as_ref() == Some(&stage.next.fingerprint) || self.work.next().map_err(local)?.is_none() {
            return Ok(Next::Learnt(Record::Done));
        }
        if there.is_some_and(|there| there != stage.keyed.renewing.fingerprint) {
            self.must_still_be_in_force(stage)?;
        }
        self.work.publish(self.request.backup).map_err(local)?;
        self.world.within("identity_replaced", Spent::Yes)?;
        Ok(Next::Learnt(Record::Done))
    }

    /// What the renewal gave, and the end of the old key where that is wanted.
    pub(super) fn arrive(&self, stage: &Extended) -> Result<Renewed, Error> {
        let old_key = arrival::old_key(self.request, self.world, stage);
        self.world.within("old_key_is_gone", Spent::Yes)?;
        arrival::report(self.world, &self.work, stage, old_key)
    }
}

fn failed(uri: &KeyUri, source: KeyError) -> Error {
    Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No }
}
