//! Through which proxy the controller is reached: the options first, then the variables that curl reads too.

use std::convert::Infallible;

use clap::ArgMatches;
use clap::parser::ValueSource;
use secrecy::{ExposeSecret, SecretString};
use ziti_enroller::error::Error;
use ziti_enroller::flow::Watch;
use ziti_enroller::http::{NoProxy, Proxy, Reach};
use ziti_enroller::text::Hint;

/// curl's order; an empty value stands for no proxy.
const PROXY: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// The way to the controller.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// Reach the controller through this HTTP proxy; '' for none [default: HTTPS_PROXY]
    #[arg(long, value_name = "URL", value_parser = secret, env = "ZITI_ENROLLER_PROXY", hide_env = true, hide_env_values = true)]
    proxy: Option<SecretString>,
    /// Go without the proxy to these names, addresses, networks, each with a port or without [default: NO_PROXY]
    #[arg(long, value_name = "LIST", env = "ZITI_ENROLLER_NO_PROXY", hide_env = true)]
    no_proxy: Option<String>,
}

impl ProxyArgs {
    /// `usual`, with the proxy.
    ///
    /// # Errors
    /// Usage, without the address: it may hold a password.
    pub fn on_the_way(&self, usual: Reach, typed: bool, watch: &dyn Watch) -> Result<Reach, Error> {
        let variable = || first_of(&PROXY).map(|(name, value)| (name, SecretString::from(value)));
        let given = self.proxy.clone().map(|address| (if typed { "--proxy" } else { "ZITI_ENROLLER_PROXY" }, address));
        let given = given.or_else(variable).filter(|(_, address)| !address.expose_secret().is_empty());
        let proxy = given.as_ref().map(|(name, address)| {
            Proxy::parse(address).map_err(|error| Error::Usage {
                message: format!("{name} names no proxy that can be used: {error}"),
                hint: Some(Hint::say("give --proxy http://HOST:PORT, or --proxy '' to go without one")),
            })
        });
        let proxy = proxy.transpose()?;
        if typed && proxy.as_ref().is_some_and(Proxy::has_credentials) {
            let text = "a password on the command line is seen by everyone who lists processes: put the proxy into HTTPS_PROXY";
            // A watcher that wants to end the run does so at the next stage.
            watch.note(text);
        }
        let list = self.no_proxy.clone().or_else(|| first_of(&NO_PROXY).map(|(_, list)| list)).unwrap_or_default();
        Ok(Reach { proxy, no_proxy: NoProxy::parse(&list), ..usual })
    }
}

/// Whether --proxy stands on the command line, which others can read.
pub fn is_typed(matches: &ArgMatches) -> bool {
    matches.try_contains_id("proxy").is_ok_and(|known| known) && matches.value_source("proxy") == Some(ValueSource::CommandLine)
}

fn first_of(variables: &[&'static str]) -> Option<(&'static str, String)> {
    variables.iter().find_map(|name| Some((*name, std::env::var_os(name)?.to_string_lossy().into_owned())))
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}
