//! What `csr` was asked for.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use ziti_enroller::csr::{AlternativeName, Subject, Usage, Wanted};
use ziti_enroller::error::Error;
use ziti_enroller::flow::enroll::stage::KeyWish;
use ziti_enroller::flow::request::Signer;
use ziti_enroller::key::Providers;

use super::PinArgs;
use super::enroll::{AskedKey, Given, usage_with};
use super::limits::LimitArgs;

/// The options of `csr`, but for those that providers declare.
#[derive(Debug, clap::Args)]
pub struct CsrArgs {
    /// The key: a reference
    #[arg(short, long, value_name = "REF", env = "ZITI_ENROLLER_KEY", hide_env = true)]
    key: Option<String>,
    /// Where the key lives [default: what --key says]
    #[arg(long, value_name = "NAME", env = "ZITI_ENROLLER_PROVIDER", hide_env = true)]
    provider: Option<String>,
    /// Make the key that --key names; it must not be there
    #[arg(long, env = "ZITI_ENROLLER_CREATE", hide_env = true, value_parser = FalseyValueParser::new())]
    create: bool,
    /// Type of a new key: p256, p384, rsa2048, rsa3072, rsa4096 [default: p256]
    #[arg(short = 'a', long, value_name = "TYPE", env = "ZITI_ENROLLER_KEY_ALG", hide_env = true)]
    key_alg: Option<String>,
    /// Subject: a distinguished name like `CN=gate-7,O=Acme`, or a common name alone
    #[arg(long, value_name = "NAME", env = "ZITI_ENROLLER_SUBJECT", hide_env = true)]
    subject: Option<String>,
    /// Further names: `DNS:…`, `IP:…`, `URI:…`, `email:…`; several with commas or again
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "ZITI_ENROLLER_SAN", hide_env = true)]
    san: Vec<String>,
    /// What the certificate is for: clientAuth, serverAuth, … or an object identifier; several with commas or again
    #[arg(
        long,
        value_name = "USAGE",
        value_delimiter = ',',
        default_value = "clientAuth",
        env = "ZITI_ENROLLER_EXT_KEY_USAGE",
        hide_env = true
    )]
    ext_key_usage: Vec<String>,
    /// The file to write the request to [default: standard output]
    #[arg(short, long, value_name = "FILE", env = "ZITI_ENROLLER_OUT", hide_env = true)]
    pub out: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long, env = "ZITI_ENROLLER_FORCE", hide_env = true, value_parser = FalseyValueParser::new())]
    pub force: bool,
    /// Where PINs come from.
    #[command(flatten)]
    pub pins: PinArgs,
    /// How long others may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// A request, as it was typed.
#[derive(Debug)]
pub struct Request {
    /// What clap read.
    pub typed: CsrArgs,
    /// Options of providers.
    pub options: Vec<Given>,
}

impl Request {
    /// Who signs.
    ///
    /// # Errors
    /// Usage.
    pub fn signer(&self, providers: &Providers) -> Result<Signer, Error> {
        let CsrArgs { key, provider, create, key_alg, .. } = &self.typed;
        if key.as_deref().is_none_or(|key| key == "auto") {
            return Err(usage_with(
                "csr needs --key",
                "name the key: `--key REF` for one that is there, `--key REF --create` for a new one",
            ));
        }
        let asked = AskedKey { provider: provider.as_deref(), key: key.as_deref(), create: *create, key_alg: key_alg.as_deref() };
        Ok(match asked.wish(&self.options, providers)? {
            KeyWish::Existing(uri) => Signer::Existing(uri),
            KeyWish::New { within, algorithm, .. } => Signer::New(within, algorithm),
        })
    }

    /// What for.
    ///
    /// # Errors
    /// Usage.
    pub fn wanted(&self) -> Result<Wanted, Error> {
        let CsrArgs { subject, san, ext_key_usage, .. } = &self.typed;
        let wrong = |option: &str, text: &str, why: String| usage_with(format!("--{option} {text}: {why}"), "see --help");
        let read_subject = |text: &String| text.parse::<Subject>().map_err(|e| wrong("subject", text, e.to_string()));
        let read_name = |text: &String| text.parse::<AlternativeName>().map_err(|e| wrong("san", text, e.to_string()));
        let read_usage = |text: &String| text.parse::<Usage>().map_err(|e| wrong("ext-key-usage", text, e.to_string()));
        if subject.as_ref().is_none_or(String::is_empty) && san.is_empty() {
            return Err(usage_with("whom the request is for is not said", "give --subject, --san or both"));
        }
        Ok(Wanted {
            subject: subject.as_ref().map(read_subject).transpose()?.unwrap_or_default(),
            names: san.iter().map(read_name).collect::<Result<_, _>>()?,
            usages: ext_key_usage.iter().filter(|text| !text.is_empty()).map(read_usage).collect::<Result<_, _>>()?,
        })
    }
}
