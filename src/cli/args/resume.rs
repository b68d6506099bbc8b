//! What `resume` was asked for: the rest is in the work folder.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::FalseyValueParser;
use ziti_enroller::error::Error;
use ziti_enroller::files;
use ziti_enroller::flow::Watch;
use ziti_enroller::flow::enroll::{Request, Standing};
use ziti_enroller::identity;
use ziti_enroller::jwt::{Brings, UnverifiedToken};

use super::enroll::{read_token, usage_with};
use super::limits::{LimitArgs, PatienceArgs};
use super::secret::{SecretArgs, together};
use super::{PinArgs, ProxyArgs};
use crate::cli::process::Inherited;

/// The options of `resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The identity file that was to be written
    #[arg(value_name = "IDENTITY")]
    pub identity: PathBuf,
    /// The token, where it is not in its file any more
    #[arg(short, long, value_name = "FILE|-")]
    jwt: Option<std::ffi::OsString>,
    /// The certificate that the controller has issued and whose answer was lost, PEM
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Replace an identity file that is there
    #[arg(long, env = "ZITI_ENROLLER_FORCE", hide_env = true, value_parser = FalseyValueParser::new())]
    force: bool,
    /// Put the PIN into the identity file, for SDKs that look nowhere else
    #[arg(long, env = "ZITI_ENROLLER_EMBED_PIN", hide_env = true, value_parser = FalseyValueParser::new())]
    embed_pin: bool,
    /// What some methods put into the request.
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// How often something is tried again.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// Where PINs come from.
    #[command(flatten)]
    pub pins: PinArgs,
    /// How long others may take.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// The way to the controller.
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

impl ResumeArgs {
    /// The enrollment that stands at `standing`, to be gone on with.
    ///
    /// # Errors
    /// A token or certificate that was named and cannot be read.
    pub fn into_request(self, standing: Standing, inherited: &Inherited, watch: &dyn Watch) -> Result<Request, Error> {
        let recorded = standing.token_file.clone().filter(|f| self.jwt.is_none() && f.exists()).map(PathBuf::into_os_string);
        let given = self.jwt.clone().or(recorded);
        let (token, token_file) = match (given, inherited.token()) {
            (Some(jwt), _) => {
                let (token, file) = read_token(&jwt, watch)?;
                (Some(token), file)
            }
            (None, token) => (token, None),
        };
        let token = token.map(|t| UnverifiedToken::parse(&t)).transpose().map_err(Error::Token)?;
        let idp = self.secrets.idp_token(watch)?;
        let (token, secret) = match standing.method {
            // It began with a token of the network, or with no token of the controller at all.
            Some(method) if method.brings() == Brings::IdpToken => {
                let token =
                    token.or_else(|| standing.origin.clone().map(UnverifiedToken::of_controller)).filter(|_| idp.is_some());
                let token = token.map(|token| together(token, idp.as_ref())).transpose()?;
                (token, self.secrets.for_request(method, idp.as_ref())?)
            }
            Some(method) if !["answered", "done", "lost"].contains(&standing.stage) => {
                (token, self.secrets.for_request(method, None)?)
            }
            _ => (token, None),
        };
        let issued = self.certificate.map(|f| files::read_file(&f, identity::LARGEST)).transpose().map_err(Error::Read)?;
        let key = standing.key.ok_or_else(|| usage_with("this enrollment has not begun yet", "enroll with the same --out"))?;
        Ok(Request {
            issued,
            secret,
            token_file: token_file.or(standing.token_file),
            force: self.force,
            embed_pin: self.embed_pin,
            // Certificate, name and CA certificates that this enrollment began with are written down.
            ..Request::new(token.map(Arc::new), self.identity, key)
        })
    }
}
