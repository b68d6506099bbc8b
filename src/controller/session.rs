//! The controller's calls that need a login; logs out when dropped.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{API, Answer, Controller, ControllerError, JSON};
use crate::certificate::LARGEST_CACERTS;
use crate::http::Request;
use crate::text::Printable;

/// Largest answer that is read, in bytes: a renewal brings all CA certificates along.
const LARGEST: u64 = 2 * LARGEST_CACERTS;

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
    /// The controller's id for the certificate that was shown.
    pub authenticator: Option<String>,
    /// An administrator has asked for a renewal (from 1.6.1).
    pub renewal_requested: bool,
    /// An administrator has asked for a new key with it (from 1.6.1).
    pub new_key_requested: bool,
}

/// Who the controller says that we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CurrentIdentity {
    /// Its id.
    pub id: Printable,
    /// Its name.
    pub name: Printable,
    /// The controller's id for its certificate; `None` for a certificate of a CA that names identities itself.
    pub authenticator: Option<String>,
    /// SHA-1 of the certificate that the controller knows for it, lower-case hexadecimal.
    pub fingerprint_sha1: Option<Printable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    token: String,
    #[serde(default)]
    auth_queries: Vec<serde_json::Value>,
    identity_id: Option<String>,
    authenticator_id: Option<String>,
    // Left out or null where they are false.
    improper_client_cert_chain: Option<bool>,
    is_cert_extend_requested: Option<bool>,
    is_cert_key_roll_requested: Option<bool>,
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
    id: Option<String>,
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
        Ok(Self {
            controller,
            token,
            needs_more: !login.auth_queries.is_empty(),
            chain_incomplete: login.improper_client_cert_chain == Some(true),
            identity: login.identity_id.as_deref().map(Printable::new),
            authenticator: login.authenticator_id.filter(|id| !id.is_empty()),
            renewal_requested: login.is_cert_extend_requested == Some(true),
            new_key_requested: login.is_cert_key_roll_requested == Some(true),
        })
    }

    /// `GET current-identity`.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] where a second factor is missing.
    pub fn current_identity(&self) -> Result<CurrentIdentity, ControllerError> {
        let who: Who = self.call("GET", "current-identity", None)?.data()?;
        let certificate = who.authenticators.cert;
        let fingerprint = certificate.as_ref().and_then(|c| c.fingerprint.as_deref()).map(Printable::new);
        Ok(CurrentIdentity {
            id: Printable::new(&who.id),
            name: Printable::new(&who.name),
            authenticator: certificate.and_then(|c| c.id),
            fingerprint_sha1: fingerprint,
        })
    }

    /// A call of this session; a body is JSON.
    pub(super) fn call(&self, method: &'static str, what: &str, body: Option<&[u8]>) -> Result<Answer, ControllerError> {
        use secrecy::ExposeSecret;
        let response = self.controller.channel.send(&Request {
            method,
            path: &format!("{API}/{what}"),
            query: &[],
            headers: &[JSON, ("zt-session", self.token.expose_secret())],
            body: body.map(|json| ("application/json", json)),
            limit: LARGEST,
        })?;
        Ok(Answer::from(response))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Sessions count until they time out. One that cannot be ended now ends by itself.
        if let Err(error) = self.call("DELETE", "current-api-session", None) {
            log::debug!("cannot log out: {error}");
        }
    }
}
