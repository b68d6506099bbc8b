//! What `list` and `key` were asked for.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use ziti_enroller::error::Error;
use ziti_enroller::flow::World;
use ziti_enroller::flow::keys::{Doomed, doomed, doomed_with};
use ziti_enroller::key::{KeyAlgorithm, KeyUri, Providers};

use super::PinArgs;
use super::enroll::{Given, algorithm, fold, reference, usage, usage_with};
use super::limits::LimitArgs;

/// The options of `list tokens`, `list keys`, `key create`, `key delete`, but for those that providers declare.
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    /// The key, or for `key delete` the identity that refers to it
    #[arg(value_name = "REF|IDENTITY")]
    what: Option<String>,
    /// Where keys live [default: what the reference says, else the first that is a device]
    #[arg(long, value_name = "NAME", env = "ZITI_ENROLLER_PROVIDER", hide_env = true)]
    provider: Option<String>,
    /// Type of a new key: p256, p384, rsa2048, rsa3072, rsa4096 [default: p256]
    #[arg(short = 'a', long, value_name = "TYPE", env = "ZITI_ENROLLER_KEY_ALG", hide_env = true)]
    key_alg: Option<String>,
    /// Destroy it without asking
    #[arg(long, env = "ZITI_ENROLLER_FORCE", hide_env = true, value_parser = FalseyValueParser::new())]
    force: bool,
    /// Where PINs come from.
    #[command(flatten)]
    pub pins: PinArgs,
    /// How long others may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// What was typed behind such a command.
#[derive(Debug)]
pub struct OfKeys {
    /// What clap read.
    pub typed: KeyArgs,
    /// Options of providers.
    pub options: Vec<Given>,
}

impl OfKeys {
    /// The place, or the key, that was named.
    ///
    /// # Errors
    /// Usage.
    pub fn within(&self, providers: &Providers) -> Result<KeyUri, Error> {
        let named = self.typed.what.as_deref().map(|text| reference(text, providers).map_err(usage)).transpose()?;
        let provider = match (&self.typed.provider, &named) {
            (Some(name), _) => providers.named(name).ok_or_else(|| usage(format!("there is no provider `{name}`")))?,
            (None, Some(uri)) => providers.of(uri).map_err(|e| usage(e.to_string()))?,
            (None, None) => {
                let device = providers.iter().find(|p| p.keys_live_in_a_device());
                device.ok_or_else(|| usage("no provider of this build has a device"))?
            }
        };
        if let Some(uri) = named.as_ref().filter(|u| u.scheme() != provider.scheme()) {
            return Err(usage(format!("--provider {} does not read `{}:` references", provider.name(), uri.scheme())));
        }
        fold(&self.options, provider, named.unwrap_or_else(|| KeyUri::new(provider.scheme())))
    }

    /// Name and type of a key to make.
    ///
    /// # Errors
    /// Usage.
    pub fn new_key(&self, providers: &Providers) -> Result<(KeyUri, KeyAlgorithm), Error> {
        if self.typed.what.is_none() {
            return Err(usage_with("which key is not said", "give a reference with the name that it is to have"));
        }
        let algorithm = self.typed.key_alg.as_deref().map(algorithm).transpose()?.unwrap_or(KeyAlgorithm::P256);
        Ok((self.within(providers)?, algorithm))
    }

    /// What is to be destroyed.
    ///
    /// # Errors
    /// Usage, and an identity that cannot be read.
    pub fn doomed(&self, world: &World<'_>) -> Result<Doomed, Error> {
        let Some(what) = self.typed.what.as_deref() else {
            return Err(usage_with("which key is not said", "name it, or the identity that refers to it"));
        };
        let path = PathBuf::from(what);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            return doomed_with(&path, world);
        }
        self.within(&world.providers).map(doomed)
    }

    /// Whether a person need not be asked.
    pub fn forced(&self) -> bool {
        self.typed.force
    }
}
