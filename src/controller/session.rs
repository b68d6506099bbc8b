//! The controller's calls that need a login; logs out when dropped.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{API, Controller, ControllerError, JSON};
use crate::text::Printable;

/// A login by certificate (`POST authenticate?method=cert`), over the channel of its controller.
#[derive(Debug)]
pub struct Session<'c> {
    controller: &'c Controller,
    token: SecretString,
    /// A second factor is due: the certificate was accepted, further calls are not.
    pub needs_more: bool,
    /// The chain that we send lacks an intermediate (from 1.6.2).
    pub chain_incomplete: bool,
    /// The id of the identity that has logged in.
    pub identity: Option<Printable>,
}

/// Who the controller says that we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CurrentIdentity {
    /// Its id.
    pub id: Printable,
    /// Its name.
    pub name: Printable,
    /// SHA-1 of the certificate that the controller knows for it, lower-case hexadecimal.
    pub fingerprint_sha1: Option<Printable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    token: String,
    #[serde(default)]
    auth_queries: Vec<serde_json::Value>,
    #[serde(default)]
    improper_client_cert_chain: bool,
    identity_id: Option<String>,
}

#[derive(Deserialize)]
struct Who {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    authenticators: Authenticators,
}

#[derive(Default, Deserialize)]
struct Authenticators {
    cert: Option<Certificate>,
}

#[derive(Deserialize)]
struct Certificate {
    fingerprint: Option<String>,
}

impl<'c> Session<'c> {
    pub(super) fn begin(controller: &'c Controller) -> Result<Self, ControllerError> {
        use secrecy::ExposeSecret;
        let method = SecretString::from("cert");
        // An empty object: what one sends as sdkInfo overwrites what administrators see of the identity.
        let body = Some(("application/json", &b"{}"[..]));
        let answer = controller.request("POST", &format!("{API}/authenticate"), &[("method", &method)], &[JSON], body)?;
        let login: Login = answer.data()?;
        let token = answer.session.map_or_else(|| SecretString::from(login.token), SecretString::from);
        if token.expose_secret().is_empty() {
            return Err(ControllerError::Form("a login without a session"));
        }
        let (needs_more, chain_incomplete) = (!login.auth_queries.is_empty(), login.improper_client_cert_chain);
        let identity = login.identity_id.as_deref().map(Printable::new);
        Ok(Self { controller, token, needs_more, chain_incomplete, identity })
    }

    /// `GET current-identity`.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] where a second factor is missing.
    pub fn current_identity(&self) -> Result<CurrentIdentity, ControllerError> {
        let who: Who = self.call("GET", "current-identity")?.data()?;
        let fingerprint = who.authenticators.cert.and_then(|c| c.fingerprint);
        Ok(CurrentIdentity {
            id: Printable::new(&who.id),
            name: Printable::new(&who.name),
            fingerprint_sha1: fingerprint.as_deref().map(Printable::new),
        })
    }

    fn call(&self, method: &'static str, what: &str) -> Result<super::Answer, ControllerError> {
        use secrecy::ExposeSecret;
        let headers = [JSON, ("zt-session", self.token.expose_secret())];
        self.controller.request(method, &format!("{API}/{what}"), &[], &headers, None)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Sessions count until they time out. One that cannot be ended now ends by itself.
        if let Err(error) = self.call("DELETE", "current-api-session") {
            log::debug!("cannot log out: {error}");
        }
    }
}
