//! The certificate that a method brings along, and the first handshake, in which it is shown.

use std::sync::Arc;

use super::sentence;
use super::stage::CertificateWish;
use crate::certificate::{Anchors, CertificateError, Chain};
use crate::error::{Error, Spent};
use crate::files;
use crate::flow::World;
use crate::identity::{self, IdentityError};
use crate::jwt::UnverifiedToken;
use crate::key::{Fault, Key, KeyError, KeyUri};
use crate::text::Hint;
use crate::tls::ClientAuth;
use crate::trust::{self, Trust};

const WHICH_KEY: &str = "give with --key the key that the certificate was issued for";

/// The certificate that `wish` means, with its intermediates; it is for `key` and a client can show it.
///
/// # Errors
/// [`Error::Read`] and [`Error::Identity`] for its file, [`Error::Usage`] where none lies beside the key, and
/// [`Error::Key`] `key_not_found` where it is for another key.
pub(in crate::flow) fn certificate(wish: &CertificateWish, key: &Arc<dyn Key>, world: &World<'_>) -> Result<Chain, Error> {
    let key_error = |source| Error::Key { uri: Box::new(key.uri().clone()), source, spent: Spent::No };
    let (chain, place) = match wish {
        CertificateWish::File(path) => {
            let pem = files::read_file(path, identity::LARGEST).map_err(Error::Read)?;
            (Chain::from_pem(&pem), path.clone())
        }
        CertificateWish::Beside => {
            let beside = key.certificates().map_err(key_error)?;
            if beside.is_empty() {
                let message = format!("no certificate lies beside {}", key.uri());
                return Err(Error::Usage { message, hint: Some(Hint::say("give it with --cert FILE")) });
            }
            (Chain::from_der(beside), key.uri().to_string().into())
        }
    };
    let unusable = |e| Error::Identity { path: place.clone(), source: IdentityError::Certificates("cert", e) };
    let chain = chain.map_err(unusable)?.beginning_with(key.public_key()).ok_or_else(|| {
        let message = format!("{} has no certificate for {}", place.display(), key.uri());
        key_error(KeyError::Selection(Fault::new("key_not_found", message).hint(Hint::say(WHICH_KEY))))
    })?;
    match chain.check_shown(world.now()) {
        // The controller has a clock that counts.
        Err(error @ CertificateError::Expired(_)) if world.clock_is_wrong() => world.note(&error.to_string()),
        checked => checked.map_err(unusable)?,
    }
    Ok(chain)
}

/// A method that shows a certificate is asked for with a key that is not there.
pub(in crate::flow) fn no_key(uri: &KeyUri) -> KeyError {
    let message = format!("there is no key {uri}, and a certificate is for one that is there");
    KeyError::Selection(Fault::new("key_not_found", message).hint(Hint::say(WHICH_KEY)))
}

/// Connects to the token's issuer; `client` is shown there.
///
/// # Errors
/// [`Error::Trust`], [`Error::Network`], and [`Error::Key`] where our own key did not sign.
pub(in crate::flow) fn meet(
    token: &Arc<UnverifiedToken>,
    given: Option<&Anchors>,
    client: Option<&ClientAuth>,
    world: &World<'_>,
) -> Result<Trust, Error> {
    let met = trust::establish(token, given, client, &world.reach, world.now());
    let trust = met.map_err(|error| match client.and_then(|c| Some((c, c.take_failure()?))) {
        Some((client, source)) => Error::Key { uri: Box::new(client.key().uri().clone()), source, spent: Spent::No },
        None => Error::trust(token.issuer().to_string(), error),
    })?;
    if let Some(doubt) = &trust.doubt {
        let issuer = token.issuer();
        world.note(&format!(
            "{issuer} is trusted by the CA certificates that were given; the token alone would not do: {}",
            sentence(doubt)
        ));
    }
    Ok(trust)
}
