//! What `renew` was asked for.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use ziti_enroller::error::Error;
use ziti_enroller::flow::enroll::stage::KeyWish;
use ziti_enroller::flow::renew::{Request, Rotation};
use ziti_enroller::key::Providers;

use super::PinArgs;
use super::enroll::{AskedKey, Given, algorithm, must_suit_the_tunneler, usage_with};
use super::limits::{LimitArgs, PatienceArgs};

/// The options of `renew`, but for those that providers declare.
#[derive(Debug, clap::Args)]
pub struct RenewArgs {
    /// The identity file
    #[arg(value_name = "IDENTITY", required_unless_present = "all", conflicts_with = "all")]
    identity: Option<PathBuf>,
    /// Every identity (*.json) of this folder
    #[arg(long, value_name = "DIR", env = "ZITI_ENROLLER_ALL", hide_env = true)]
    all: Option<PathBuf>,
    /// Renew now, though nothing is due
    #[arg(long, env = "ZITI_ENROLLER_FORCE", hide_env = true, value_parser = FalseyValueParser::new())]
    force: bool,
    /// With a new key: beside the old one, or where --provider or --key says; a move to another provider is made at once
    #[arg(long, env = "ZITI_ENROLLER_ROTATE", hide_env = true, value_parser = FalseyValueParser::new())]
    rotate: bool,
    /// Where the new key lives [default: where the old one does]
    #[arg(long, value_name = "NAME", env = "ZITI_ENROLLER_PROVIDER", hide_env = true)]
    provider: Option<String>,
    /// The new key: a reference, or `auto` for the next one named after the identity
    #[arg(short, long, value_name = "REF|auto", env = "ZITI_ENROLLER_KEY", hide_env = true)]
    key: Option<String>,
    /// Make the key that --key names; it must not be there
    #[arg(long, env = "ZITI_ENROLLER_CREATE", hide_env = true, value_parser = FalseyValueParser::new())]
    create: bool,
    /// Type of a new key: p256, p384, rsa2048, rsa3072, rsa4096 [default: that of the old one; elsewhere p256]
    #[arg(short = 'a', long, value_name = "TYPE", env = "ZITI_ENROLLER_KEY_ALG", hide_env = true)]
    key_alg: Option<String>,
    /// Destroy the old key once the new identity has logged in; there is no way back
    #[arg(long, env = "ZITI_ENROLLER_DELETE_OLD_KEY", hide_env = true, value_parser = FalseyValueParser::new())]
    delete_old_key: bool,
    /// Put the PIN into the identity file, for SDKs that look nowhere else
    #[arg(long, env = "ZITI_ENROLLER_EMBED_PIN", hide_env = true, value_parser = FalseyValueParser::new())]
    embed_pin: bool,
    /// Keep the old identity file as IDENTITY.bak
    #[arg(long, env = "ZITI_ENROLLER_BACKUP", hide_env = true, value_parser = FalseyValueParser::new())]
    backup: bool,
    /// Run this by the shell after each identity that was renewed; $1 is its file
    #[arg(long, value_name = "CMD", env = "ZITI_ENROLLER_HOOK", hide_env = true)]
    hook: Option<String>,
    /// How often something is tried again.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// Where PINs come from.
    #[command(flatten)]
    pub pins: PinArgs,
    /// How long others may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// A renewal, as it was typed.
#[derive(Debug)]
pub struct Renew {
    /// What clap read.
    pub typed: RenewArgs,
    /// Options of providers.
    pub options: Vec<Given>,
}

/// Which identities.
#[derive(Clone, Debug)]
pub enum Which {
    /// One.
    One(PathBuf),
    /// Those of a folder.
    All(PathBuf),
}

impl Renew {
    /// Which identities, and how: the request is for any of them.
    ///
    /// # Errors
    /// Usage.
    pub fn into_request(self, providers: &Providers) -> Result<(Which, Request, Option<String>), Error> {
        let typed = &self.typed;
        let which = match (&typed.identity, &typed.all) {
            (_, Some(folder)) => Which::All(folder.clone()),
            (Some(identity), None) => Which::One(identity.clone()),
            (None, None) => return Err(usage_with("no identity is named", "name one, or a folder with --all")),
        };
        let rotate = self.rotation(providers)?;
        if let (Which::All(_), Some(Rotation::To(wish))) = (&which, &rotate)
            && typed.key.as_deref().is_some_and(|key| key != "auto")
            && !providers.of(wish.uri()).is_ok_and(|provider| provider.implies_new(wish.uri()))
        {
            return Err(usage_with("--key names one key, and --all is for many identities", "leave --key out: each gets a key"));
        }
        if let (Which::One(identity), Some(Rotation::To(wish))) = (&which, &rotate) {
            must_suit_the_tunneler(wish, providers, identity, typed.embed_pin)?;
        }
        let identity = match &which {
            Which::One(identity) => identity.clone(),
            Which::All(_) => PathBuf::new(),
        };
        let request = Request {
            identity,
            force: typed.force,
            rotate,
            embed_pin: typed.embed_pin,
            delete_old_key: typed.delete_old_key,
            backup: typed.backup,
        };
        Ok((which, request, self.typed.hook))
    }

    fn rotation(&self, providers: &Providers) -> Result<Option<Rotation>, Error> {
        let RenewArgs { provider, key, create, key_alg, .. } = &self.typed;
        if !self.typed.rotate {
            // What stands in the environment is for `enroll` too. An administrator can ask for a new key, and --delete-old-key
            // is for that case as well.
            let typed = |given: bool, variable: &str| given && std::env::var_os(variable).is_none();
            let described = typed(provider.is_some(), "ZITI_ENROLLER_PROVIDER")
                || typed(key.is_some(), "ZITI_ENROLLER_KEY")
                || typed(*create, "ZITI_ENROLLER_CREATE")
                || typed(key_alg.is_some(), "ZITI_ENROLLER_KEY_ALG")
                || self.options.iter().any(Given::is_typed);
            if described {
                return Err(usage_with("a new key is described, and none is asked for", "give --rotate for a new key"));
            }
            return Ok(None);
        }
        if provider.is_none() && key.is_none() && !self.options.iter().any(Given::is_typed) {
            if *create {
                return Err(usage_with("--create needs the name of the key", "give it with --key, or leave --create out"));
            }
            return Ok(Some(Rotation::Beside(key_alg.as_deref().map(algorithm).transpose()?)));
        }
        let asked = AskedKey { provider: provider.as_deref(), key: key.as_deref(), create: *create, key_alg: key_alg.as_deref() };
        let wish: KeyWish = asked.wish(&self.options, providers)?;
        Ok(Some(Rotation::To(wish)))
    }
}
