//! A new key pair: asked for, and destroyed again where it is not what was promised.

use std::sync::Arc;

use cryptoki::error::{Error, RvError};

use super::error::{Failure, is_about_the_template, is_lost, names, rv};
use super::object::{Name, Object, described};
use super::pair::{Found, Pair};
use super::pool::Lent;
use super::private_key::PrivateKey;
use super::session::OpenToken;
use super::template::{Asking, for_the_session, key_pair};
use crate::key::call::{doing, making_a_key};
use crate::key::{Fault, KeyAlgorithm, KeyError, Rehearsal};
use crate::text::Hint;

/// Both halves of a pair that this run has made.
#[derive(Debug)]
pub(super) struct Made {
    private: Object,
    public: Option<Object>,
    opening: u64,
}

impl Made {
    /// Has the token make a pair. One that refuses the template is asked once more for each thing that it may dislike;
    /// what is never given up is that the key stays inside.
    pub(super) fn by(lent: &Lent, algorithm: KeyAlgorithm, name: &Name, place: &str) -> Result<Self, Failure> {
        let mut first: Option<Error> = None;
        for asking in Asking::ALL {
            let (mechanism, public, private) = key_pair(algorithm, name, asking);
            let _call = making_a_key("C_GenerateKeyPair");
            match lent.session.generate_key_pair(&mechanism, &public, &private) {
                Ok((public, private)) => {
                    let gone =
                        || KeyError::Device(Fault::new("device_error", format!("{place} does not show the key that it made")));
                    let private = described(&lent.session, private)?.ok_or_else(gone)?;
                    let public = described(&lent.session, public)?;
                    return Ok(Self { private, public, opening: lent.opening });
                }
                Err(error) if is_about_the_template(&error) => {
                    log::info!("{place}: template {asking:?} refused: {:?}", names(&error));
                    // The first is the whole wish; what a lesser one was refused for says less.
                    first.get_or_insert(error);
                }
                Err(error) => {
                    return Err(match first {
                        Some(first) if !is_lost(&error) => refused(&first, place),
                        _ => error.into(),
                    });
                }
            }
        }
        Err(first.map_or(Failure::Call(Error::InvalidValue), |first| refused(&first, place)))
    }

    /// The same, read back; destroyed again where it is not what was promised.
    pub(super) fn key(
        token: &Arc<OpenToken>,
        lent: &Lent,
        algorithm: KeyAlgorithm,
        name: &Name,
        pin_source: Option<&str>,
    ) -> Result<(PrivateKey, Self), Failure> {
        let place = token.token().to_string();
        let made = Self::by(lent, algorithm, name, &place)?;
        let key = made.pair(lent, &place).and_then(|pair| PrivateKey::read(token, lent, pair, pin_source));
        match key.and_then(|key| key.must_be_as_promised(algorithm).map(|()| key).map_err(Failure::from)) {
            Ok(key) => Ok((key, made)),
            Err(why) => {
                made.discard(lent);
                Err(why)
            }
        }
    }

    /// The pair as the token shows it.
    pub(super) fn pair(&self, lent: &Lent, place: &str) -> Result<Pair, Failure> {
        let found = Found {
            privates: vec![self.private.clone()],
            publics: self.public.clone().into_iter().collect(),
            certificates: Vec::new(),
        };
        let name = Name { id: Some(self.private.id.clone()), label: None };
        let lost = || KeyError::Device(Fault::new("device_error", format!("{place} does not show the key that it made")));
        found.pair(&lent.session, &name, place)?.ok_or_else(|| lost().into())
    }

    /// Destroys what was made; that it could not be is said, and is not the reason why.
    pub(super) fn discard(&self, lent: &Lent) {
        // Handles of an earlier opening could be those of somebody else's objects by now.
        let left = if lent.opening == self.opening {
            destroy(lent, [&self.private].into_iter().chain(&self.public)).err().map(|error| format!("{:?}", names(&error)))
        } else {
            Some("the token was opened again".into())
        };
        if let Some(left) = left {
            log::warn!("key {} was made, is not used, and could not be destroyed: {left}", self.private);
        }
    }
}

/// The key that an earlier run, which was killed, has made under this name. Nothing of that name was here when the plan was
/// written down, so what is here now is ours: half a pair, or one that cannot be read, is destroyed, and the whole one too
/// unless it is to be spared.
pub(super) fn of_an_earlier_run(
    token: &Arc<OpenToken>,
    lent: &Lent,
    name: &Name,
    pin_source: Option<&str>,
    spare_it: bool,
) -> Result<Option<PrivateKey>, Failure> {
    let place = token.token().to_string();
    let found = Found::by(&lent.session, &name.shortest())?;
    if found.is_nothing() {
        return Ok(None);
    }
    if spare_it && !found.is_half() {
        let pair = found.pair(&lent.session, &name.shortest(), &place);
        match pair.and_then(|pair| pair.map(|pair| PrivateKey::read(token, lent, pair, pin_source)).transpose()) {
            Err(Failure::Call(error)) if is_lost(&error) => return Err(error.into()),
            Err(why) => log::info!("{place}: what an earlier run has left cannot be read: {why:?}"),
            Ok(key) => return Ok(key),
        }
    }
    log::info!("{place}: what an earlier run has left of a key is replaced");
    destroy(lent, Found::by(&lent.session, &name.shortest())?.both_halves(name, &place)?)?;
    Ok(None)
}

/// Makes a pair that vanishes with its session, and has it sign.
pub(super) fn rehearse(token: &Arc<OpenToken>, lent: &Lent, algorithm: KeyAlgorithm) -> Result<Rehearsal, Failure> {
    let place = token.token().to_string();
    let (mechanism, public, private) = for_the_session(algorithm);
    let _call = making_a_key("C_GenerateKeyPair");
    let (public, private) = match lent.session.generate_key_pair(&mechanism, &public, &private) {
        Ok(made) => made,
        // tpm2-pkcs11 wants CKA_TOKEN true, YubiHSM too: no reason against a key that stays.
        Err(error) if is_about_the_template(&error) || is_not_done_here(&error) => {
            let (native, call) = names(&error);
            let words = native.map_or_else(|| call.clone(), |native| format!("{call} answered {native}"));
            return Ok(Rehearsal::NotHere(format!("{place} has no session keys ({words})")));
        }
        Err(error) => return Err(error.into()),
    };
    let gone = || KeyError::Device(Fault::new("device_error", format!("{place} does not show the key that it made")));
    let private = described(&lent.session, private)?.ok_or_else(gone)?;
    let public = described(&lent.session, public)?;
    let made = Made { private, public, opening: lent.opening };
    let tried = made.pair(lent, &place).and_then(|pair| {
        let key = PrivateKey::read(token, lent, pair, None)?;
        // What is promised of a key that stays is promised of this one too, but for a name.
        key.must_be_as_asked(algorithm)?;
        key.must_sign_in(lent)
    });
    made.discard(lent);
    tried.map(|()| Rehearsal::Done)
}

fn refused(error: &Error, place: &str) -> Failure {
    let (native, call) = names(error);
    let mut fault =
        Fault::new("key_type_unsupported", format!("{place} does not make a key that stays inside it: {call} failed"));
    fault.native = native.map(String::from);
    KeyError::Unavailable(fault.hint(Hint::say("make the key with the token's own tool, and name it with --key"))).into()
}

fn is_not_done_here(error: &Error) -> bool {
    matches!(rv(error), Some(RvError::FunctionNotSupported | RvError::SessionReadOnly))
}

/// Destroys objects, the first first; all are tried.
pub(super) fn destroy<'a>(lent: &Lent, objects: impl IntoIterator<Item = &'a Object>) -> Result<(), Error> {
    let _call = doing("C_DestroyObject");
    objects.into_iter().map(|object| lent.session.destroy_object(object.handle)).fold(Ok(()), Result::and)
}
