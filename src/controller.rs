//! Room 5: the controller's calls that need no login.
//!
//! A [`Controller`] is built over a [`Channel`], which only `trust` makes: there is no way to talk to one that was not
//! judged. Paths and answers follow OpenZiti's edge client API v1; the generic `/enroll` works with every release.

pub mod answer;
pub mod extend;
pub mod session;
pub mod signer;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use crate::certificate::Chain;
use crate::csr::Csr;
use crate::http::Request;
use crate::jwt::EnrollmentToken;
use crate::trust::{Channel, TrustError};

pub use answer::{Answer, ControllerError, Failure, Outcome, Refusal};
pub use extend::{Authenticator, Extension};
pub use session::Session;
pub use signer::Signer;

const API: &str = "/edge/client/v1";
/// Exactly this value: controllers up to 1.4 compare the whole header line.
const JSON: (&str, &str) = ("accept", "application/json");

/// What an enrollment request brings along; no secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submission {
    /// A certificate signing request.
    Csr(Csr),
    /// A certificate that was shown in the handshake, with its intermediates.
    Certificate {
        /// As it was shown.
        chain: Chain,
        /// The name that a new identity is to have.
        name: Option<String>,
    },
    /// A certificate signing request, beside the token of an identity provider.
    IdpToken {
        /// The request.
        csr: Csr,
        /// The id of the provider at the controller, where the token alone does not say which.
        issuer: Option<String>,
    },
    /// A password.
    Password,
    /// Nothing: no request is made.
    Nothing,
}

/// A controller that was judged.
#[derive(Debug)]
pub struct Controller {
    channel: Channel,
}

/// What a controller says of itself.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v2.0.3`.
    pub version: String,
    /// `OIDC_AUTH`, `HA_CONTROLLER`, …; unknown ones are possible.
    pub capabilities: Vec<String>,
}

impl Controller {
    /// The controller at the other end of `channel`.
    pub fn at(channel: Channel) -> Self {
        Self { channel }
    }

    /// `GET /edge/client/v1/version`.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn version(&self) -> Result<Version, ControllerError> {
        #[derive(Deserialize)]
        struct Data {
            version: String,
            #[serde(default)]
            capabilities: Vec<String>,
        }
        let path = format!("{API}/version");
        let answer = self.request("GET", &path, &[], &[JSON], None)?;
        let data: Data = answer.data()?;
        Ok(Version { version: data.version, capabilities: data.capabilities })
    }

    /// `POST /edge/client/v1/enroll`: the request that may spend the token. It is sent once; repeating is the caller's
    /// decision. The answer is raw, so that it can be made durable before anyone reads it. `secret` is what `submission`
    /// must not hold: the password, the token of an identity provider.
    ///
    /// The generic path with the method in its query is the one that works in every release; of the others only
    /// `/enroll/token` does.
    ///
    /// # Errors
    /// [`TrustError::Network`] says whether a byte of the request may have reached the controller.
    pub fn enroll(
        &self,
        token: &EnrollmentToken,
        submission: &Submission,
        secret: Option<&SecretString>,
    ) -> Result<Answer, TrustError> {
        let said = secret.map(ExposeSecret::expose_secret).unwrap_or_default();
        let (content_type, body) = match submission {
            Submission::Csr(csr) => ("application/x-pem-file", csr.as_pem().to_owned()),
            // A body of JSON would be read for `ottca` too; the name counts for `ca` alone.
            Submission::Certificate { .. } if token.id().is_some() => ("text/plain", String::new()),
            Submission::Certificate { name: Some(name), .. } => (JSON.1, json!({"name": name}).to_string()),
            Submission::Certificate { name: None, .. } => (JSON.1, json!({}).to_string()),
            Submission::IdpToken { csr, .. } => (JSON.1, json!({"clientCsr": csr.as_pem()}).to_string()),
            Submission::Password => (JSON.1, json!({"password": said}).to_string()),
            Submission::Nothing => (JSON.1, String::new()),
        };
        let body = Zeroizing::new(body);
        let bearer = Zeroizing::new(format!("Bearer {said}"));
        let mut headers = vec![JSON];
        let mut path = format!("{API}/enroll");
        let method = SecretString::from(token.method().name());
        let mut query = vec![("method", &method)];
        query.extend(token.id().map(|id| ("token", id)));
        if let Submission::IdpToken { issuer, .. } = submission {
            path.push_str("/token");
            query.clear();
            headers.push(("authorization", bearer.as_str()));
            headers.extend(issuer.iter().map(|id| ("ziti-token-issuer-id", id.as_str())));
        }
        let response = self.channel.send(&Request {
            method: "POST",
            path: &path,
            query: &query,
            headers: &headers,
            body: Some((content_type, body.as_bytes())),
            limit: 0,
        })?;
        Ok(Answer::from(response))
    }

    /// Logs in with the certificate of the channel.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] with `INVALID_AUTH` where the certificate is not accepted.
    pub fn login(&self) -> Result<Session<'_>, ControllerError> {
        Session::begin(self)
    }

    fn request(
        &self,
        method: &'static str,
        path: &str,
        query: &[(&'static str, &SecretString)],
        headers: &[(&'static str, &str)],
        body: Option<(&'static str, &[u8])>,
    ) -> Result<Answer, ControllerError> {
        Ok(Answer::from(self.channel.send(&Request { method, path, query, headers, body, limit: 0 })?))
    }
}
