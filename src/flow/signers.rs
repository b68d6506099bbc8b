//! Whose tokens a controller takes: the identity providers that it names to everybody.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::World;
use crate::certificate::Anchors;
use crate::controller::{Controller, ControllerError, Signer};
use crate::error::Error;
use crate::files;
use crate::identity::{self, Network};
use crate::jwt::UnverifiedToken;
use crate::trust;

/// What says where the controller is, and whom to trust there.
#[derive(Clone, Debug)]
pub enum Whence {
    /// An identity file, also one without an identity.
    Identity(PathBuf),
    /// A token, or CA certificates that are given for its controller.
    Token(Arc<UnverifiedToken>, Option<Anchors>),
}

/// Whose tokens a controller takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signers {
    /// `https://host:port`.
    pub controller: String,
    /// In the controller's order.
    pub signers: Vec<Signer>,
}

/// Asks the controller, without a login.
///
/// # Errors
/// [`Error::Read`], [`Error::Identity`], and those of the network.
pub fn signers(whence: &Whence, world: &World<'_>) -> Result<Signers, Error> {
    let (origin, channel) = match whence {
        Whence::Identity(path) => {
            let text = files::read_file(path, identity::LARGEST).map_err(Error::Read)?;
            let failed = |source| Error::Identity { path: path.clone(), source };
            let network = Network::parse(&text).map_err(failed)?;
            let origin = network.origin().map_err(failed)?;
            let channel = trust::anchored(&origin, &network.anchors, None, &world.reach);
            (origin, channel)
        }
        Whence::Token(token, given) => {
            let trust = trust::establish(token, given.as_ref(), None, &world.reach, world.now());
            (token.issuer().clone(), trust.map(|trust| trust.channel))
        }
    };
    let controller = origin.to_string();
    let channel = channel.map_err(|e| Error::trust(&controller, e))?;
    let signers = Controller::at(channel).signers().map_err(|error| match error {
        ControllerError::Trust(source) => Error::trust(&controller, source),
        error => Error::NotNow { controller: controller.clone(), why: error.to_string() },
    })?;
    Ok(Signers { controller, signers })
}
