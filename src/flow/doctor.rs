//! Proves all that an enrollment needs, and burns nothing: no request that spends the token, no key that stays.
//!
//! Each check says what was tried, what was found, and what to do. One that stands on another that failed is left out, and
//! so no PIN is tried while the controller is not trusted.

use std::sync::Arc;

use serde::Serialize;

use super::enroll::stage::{CertificateWish, KeyWish};
use super::enroll::{self, Request, handshake};
use super::{Event, World};
use crate::certificate::rfc3339;
use crate::error::{Error, Spent};
use crate::jwt::{Brings, TokenError, UnverifiedToken};
use crate::key::{Key, KeyAlgorithm, KeyError, KeyOwner, KeyPlan, KeyProvider, KeyUri, NewKey, Rehearsal};
use crate::tls::ClientAuth;
use crate::trust::Trust;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// In the order in which an enrollment would meet them.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was tried.
    pub tried: &'static str,
    /// What was found.
    pub found: String,
    /// What is wrong, by the name and exit code that an enrollment would end with; `null` where nothing is.
    pub error: Option<Mistake>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The stable name.
    pub code: String,
    /// The exit code.
    pub exit: u8,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnosis {
    /// The exit code of the first failure; 0 without one.
    pub fn exit_code(&self) -> u8 {
        self.checks.iter().find_map(|c| c.error.as_ref()).map_or(0, |e| e.exit)
    }

    fn add(&mut self, tried: &'static str, result: Result<String, Error>) -> bool {
        let (found, error) = match result {
            Ok(found) => (found, None),
            Err(error) => {
                let hint = error.hint().map(|hint| hint.to_string());
                (enroll::sentence(&error), Some(Mistake { code: error.code(), exit: error.exit_code(), hint }))
            }
        };
        let fine = error.is_none();
        self.checks.push(Check { tried, found, error });
        fine
    }
}

/// Tries everything that `request` would need. `request` is what was typed, or why it makes no request; without a token
/// only the device is looked at.
pub fn doctor(request: &Request, world: &World<'_>) -> Diagnosis {
    let mut diagnosis = Diagnosis { checks: Vec::new() };
    let Some(token) = &request.token else {
        let missing = TokenError::Missing("none was given".into());
        diagnosis.add("token", Err(Error::Token(missing)));
        return diagnosis;
    };
    diagnosis.add(
        "token",
        enroll::check_expiry(token, world).map(|()| {
            let until = token.expires().map(rfc3339).unwrap_or_default();
            match token.identity() {
                Some(identity) => format!("for identity {identity} of {}, until {until}", token.issuer()),
                None if token.method().brings() == Brings::IdpToken => {
                    let until = if until.is_empty() { until } else { format!(", until {until}") };
                    format!("of an identity provider, for {}{until}", token.issuer())
                }
                None => format!("method {}, for everybody at {}", token.method().name(), token.issuer()),
            }
        }),
    );
    diagnosis.add("output", enroll::try_output(request));
    if !token.method().brings().a_key() {
        try_controller(&mut diagnosis, request, token, None, world);
        return diagnosis;
    }
    let uri = request.key.uri();
    let key_error = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
    let provider = match world.providers.of(uri) {
        Ok(provider) => provider,
        Err(error) => {
            diagnosis.add("device", Err(key_error(error)));
            return diagnosis;
        }
    };
    let device = diagnosis.add("device", provider.prepare(uri).map(|()| found_by(provider, uri)).map_err(key_error));
    let mut shown = None;
    let fits = match token.method().brings() {
        Brings::Certificate => {
            device
                && diagnosis.add(
                    "certificate",
                    try_certificate(request, token, world).map(|client| {
                        let found = format!("it is for {} key {}", client.key().public_key().algorithm(), client.key().uri());
                        shown = Some(client);
                        found
                    }),
                )
        }
        Brings::Csr | Brings::IdpToken | Brings::Password | Brings::Nothing => true,
    };
    if !fits {
        return diagnosis;
    }
    let controller = try_controller(&mut diagnosis, request, token, shown.as_ref(), world);
    if controller {
        // A watcher that wants to end the run has nothing to end here.
        drop(world.watch.event(&Event::Within("connected")));
    }
    if device && controller && shown.is_none() {
        diagnosis.add("key", try_key(request, token, world).map_err(key_error));
    }
    diagnosis
}

fn try_controller(
    diagnosis: &mut Diagnosis,
    request: &Request,
    token: &Arc<UnverifiedToken>,
    client: Option<&ClientAuth>,
    world: &World<'_>,
) -> bool {
    let met = handshake::meet(token, request.given.as_ref(), client, world);
    let met = met.map(|t| format!("{} is {}; it has {} CA certificates", token.issuer(), how(token, &t), t.anchors.count()));
    diagnosis.add("controller", met)
}

fn how(token: &UnverifiedToken, trust: &Trust) -> &'static str {
    if token.is_signed() && trust.doubt.is_none() { "the token's issuer" } else { "what the given CA certificates say" }
}

/// One login; the key of the certificate is opened, and both are found to fit. What lies there is neither made nor changed.
fn try_certificate(request: &Request, token: &UnverifiedToken, world: &World<'_>) -> Result<ClientAuth, Error> {
    let uri = request.key.uri();
    let key_error = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
    match look_for(request, token, world).map_err(key_error)? {
        Planned::There(key) => {
            let wish = request.certificate.as_ref().unwrap_or(&CertificateWish::Beside);
            Ok(ClientAuth::new(handshake::certificate(wish, &key, world)?, key))
        }
        Planned::ToBeMade { plan, .. } => Err(key_error(handshake::no_key(&plan.uri))),
    }
}

/// The device by its name, where there is one and it is the only one that will do.
fn found_by(provider: &dyn KeyProvider, uri: &KeyUri) -> String {
    let ready = format!("provider {} is ready", provider.name());
    // A provider without a device has no list, which is no failure here.
    let places = provider.places(uri).unwrap_or_default();
    let mut usable = places.iter().filter(|place| place.obstacle.is_none());
    match (usable.next(), usable.next()) {
        (Some(one), None) => format!("{ready}: {one}"),
        _ => ready,
    }
}

/// One login; the key is opened, or a name for it is found and a key that leaves nothing behind is made in its place.
fn try_key(request: &Request, token: &UnverifiedToken, world: &World<'_>) -> Result<String, KeyError> {
    let (plan, within, algorithm) = match look_for(request, token, world)? {
        Planned::There(key) => return Ok(format!("{} key {} signs", key.public_key().algorithm(), key.uri())),
        Planned::ToBeMade { plan, within, algorithm } => (plan, within, algorithm),
    };
    match world.providers.of(within)?.rehearse(within, algorithm, &world.access)? {
        Rehearsal::Done => {
            Ok(format!("a {algorithm} key can be made as {}; one that leaves nothing behind has signed", plan.uri))
        }
        Rehearsal::NotHere(why) => Ok(format!("a {algorithm} key can be made as {}; not rehearsed: {why}", plan.uri)),
    }
}

enum Planned<'a> {
    There(Arc<dyn Key>),
    ToBeMade { plan: KeyPlan, within: &'a KeyUri, algorithm: KeyAlgorithm },
}

fn look_for<'a>(request: &'a Request, token: &UnverifiedToken, world: &World<'_>) -> Result<Planned<'a>, KeyError> {
    let access = &world.access;
    let provider = world.providers.of(request.key.uri())?;
    let (within, algorithm, reuse) = match &request.key {
        KeyWish::Existing(uri) => return provider.open(uri, access).map(Planned::There),
        KeyWish::New { within, algorithm, reuse } => (within, *algorithm, *reuse),
    };
    let origin = token.issuer().to_string();
    let (folder, out) = enroll::folder_of(request).map_err(KeyError::File)?;
    let owner = token.identity().map(|subject| KeyOwner { origin: &origin, subject });
    let plan =
        provider.plan(&NewKey { within, owner, algorithm, reuse, work: &folder, identity: &out, beside: &folder }, access)?;
    if plan.there_already {
        return provider.open(&plan.uri, access).map(Planned::There);
    }
    Ok(Planned::ToBeMade { plan, within, algorithm })
}
