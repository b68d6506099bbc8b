//! What `list signers` was asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use ziti_enroller::error::Error;
use ziti_enroller::flow::Watch;
use ziti_enroller::flow::signers::Whence;
use ziti_enroller::jwt::UnverifiedToken;

use super::ProxyArgs;
use super::enroll::{anchors, controller, read_token, usage_with};
use super::limits::LimitArgs;
use crate::cli::process::Inherited;

/// The options of `list signers`.
#[derive(Debug, clap::Args)]
pub struct SignersArgs {
    /// An identity file, also one that a network token gave
    #[arg(value_name = "IDENTITY")]
    identity: Option<PathBuf>,
    /// A token of the controller, such as a network token: a file, or `-`
    #[arg(short, long, value_name = "FILE|-", env = "ZITI_ENROLLER_JWT", hide_env = true)]
    jwt: Option<OsString>,
    /// The controller's address, for --ca
    #[arg(long, value_name = "URL", env = "ZITI_ENROLLER_CONTROLLER", hide_env = true)]
    controller: Option<String>,
    /// Trust the controller by the CA certificates in this file
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_CA", hide_env = true)]
    ca: Option<PathBuf>,
    /// How long others may take.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// The way to the controller.
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

impl SignersArgs {
    /// Where the controller is, and whom to trust there.
    ///
    /// # Errors
    /// Usage, and files that cannot be read.
    pub fn whence(self, inherited: &Inherited, watch: &dyn Watch) -> Result<Whence, Error> {
        if let Some(identity) = self.identity {
            return Ok(Whence::Identity(identity));
        }
        let given = self.ca.as_deref().map(anchors).transpose()?;
        let token = match &self.jwt {
            Some(jwt) => Some(read_token(jwt, watch)?.0),
            None => inherited.token(),
        };
        let token = match (token, self.controller.as_deref()) {
            (Some(text), _) => UnverifiedToken::parse(&text).map_err(Error::Token)?,
            (None, Some(url)) => controller(url, given.is_some())?,
            (None, None) => {
                let hint = "give an identity file, a network token with --jwt, or --controller with --ca";
                return Err(usage_with("which controller is not said", hint));
            }
        };
        Ok(Whence::Token(Arc::new(token), given))
    }
}
