//! Room 5: the controller's calls that need no login.
//!
//! A [`Controller`] is built over a [`Channel`], which only `trust` makes: there is no way to talk to one that was not
//! judged. Paths and answers follow OpenZiti's edge client API v1; the generic `/enroll` works with every release.

pub mod answer;
pub mod extend;
pub mod session;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::csr::Csr;
use crate::http::Request;
use crate::jwt::EnrollmentToken;
use crate::trust::{Channel, TrustError};

pub use answer::{Answer, ControllerError, Failure, Outcome, Refusal};
pub use extend::{Authenticator, Extension};
pub use session::Session;

const API: &str = "/edge/client/v1";
/// Exactly this value: controllers up to 1.4 compare the whole header line.
const JSON: (&str, &str) = ("accept", "application/json");

/// What an enrollment request brings along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submission {
    /// A certificate signing request.
    Csr(Csr),
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
    /// decision. The answer is raw, so that it can be made durable before anyone reads it.
    ///
    /// # Errors
    /// [`TrustError::Network`] says whether a byte of the request may have reached the controller.
    pub fn enroll(&self, token: &EnrollmentToken, submission: &Submission) -> Result<Answer, TrustError> {
        let method = SecretString::from(token.method().name());
        let Submission::Csr(csr) = submission;
        let response = self.channel.send(&Request {
            method: "POST",
            path: &format!("{API}/enroll"),
            query: &[("method", &method), ("token", token.id())],
            headers: &[JSON],
            body: Some(("application/x-pem-file", csr.as_pem().as_bytes())),
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
