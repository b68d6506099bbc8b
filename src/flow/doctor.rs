//! Proves all that an enrollment needs, and burns nothing: no request that spends the token, no key that stays.
//!
//! Each check says what was tried, what was found, and what to do. One that stands on another that failed is left out, and
//! so no PIN is tried while the controller is not trusted.

use serde::Serialize;

use super::World;
use super::enroll::stage::KeyWish;
use super::enroll::{self, Request};
use crate::certificate::rfc3339;
use crate::error::{Error, Spent};
use crate::jwt::{TokenError, UnverifiedToken};
use crate::key::{KeyError, KeyOwner, NewKey, Rehearsal};
use crate::trust;

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
            format!("for identity {} of {}, until {until}", token.subject(), token.issuer())
        }),
    );
    diagnosis.add("output", enroll::try_output(request));
    let uri = request.key.uri();
    let key_error = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
    let provider = match world.providers.of(uri) {
        Ok(provider) => provider,
        Err(error) => {
            diagnosis.add("device", Err(key_error(error)));
            return diagnosis;
        }
    };
    let device = diagnosis.add("device", provider.prepare(uri).map(|()| found_by(provider.name())).map_err(key_error));
    let met = trust::establish(token, None, &world.reach, world.now());
    let met = met.map(|t| format!("{} is the token's issuer; it has {} CA certificates", token.issuer(), t.anchors.count()));
    let controller = diagnosis.add("controller", met.map_err(|e| Error::trust(token.issuer().to_string(), e)));
    if device && controller {
        diagnosis.add("key", try_key(request, token, world).map_err(key_error));
    }
    diagnosis
}

fn found_by(provider: &str) -> String {
    format!("provider {provider} is ready")
}

/// One login; the key is opened, or a name for it is found and a key that leaves nothing behind is made in its place.
fn try_key(request: &Request, token: &UnverifiedToken, world: &World<'_>) -> Result<String, KeyError> {
    let access = &world.access;
    let provider = world.providers.of(request.key.uri())?;
    let describe = |key: &dyn crate::key::Key| format!("{} key {} signs", key.public_key().algorithm(), key.uri());
    let (within, algorithm, reuse) = match &request.key {
        KeyWish::Existing(uri) => return provider.open(uri, access).map(|key| describe(&*key)),
        KeyWish::New { within, algorithm, reuse } => (within, *algorithm, *reuse),
    };
    let origin = token.issuer().to_string();
    let (folder, out) = enroll::folder_of(request).map_err(KeyError::File)?;
    let owner = Some(KeyOwner { origin: &origin, subject: token.subject() });
    let wish = NewKey { within, owner, algorithm, reuse, work: &folder, identity: &out, beside: &folder };
    let plan = provider.plan(&wish, access)?;
    if plan.there_already {
        return provider.open(&plan.uri, access).map(|key| describe(&*key));
    }
    match provider.rehearse(within, algorithm, access)? {
        Rehearsal::Done => {
            Ok(format!("a {algorithm} key can be made as {}; one that leaves nothing behind has signed", plan.uri))
        }
        Rehearsal::NotHere(why) => Ok(format!("a {algorithm} key can be made as {}; not rehearsed: {why}", plan.uri)),
    }
}
