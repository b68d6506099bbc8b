//! A new certificate for one that is in force: the two calls of a renewal.
//!
//! `extend` issues it and lays it beside the old one, which stays the one that logs in; it may be called again. `extend-verify`
//! says that it has arrived: from then on the new one logs in and the old one does not. Both want the old certificate on the
//! connection. The public key of the request may be another one.

use serde::Deserialize;
use serde_json::json;

use super::{ControllerError, Session};
use crate::csr::Csr;
use crate::text::{Printable, percent_encode};

/// What the controller knows of a certificate that logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticator {
    /// SHA-1 of its DER, lower-case hexadecimal.
    pub fingerprint_sha1: Option<Printable>,
    /// Whether the network has issued it, and so can renew it; `None` where the controller does not say.
    pub issued_by_network: Option<bool>,
}

/// What a renewal gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// PEM, leaf first; the leaf alone from controllers before 1.6.
    pub cert: String,
    /// The CA certificates of the network, PEM, in no order.
    pub ca: Option<String>,
}

impl Session<'_> {
    /// `GET current-identity/authenticators/{id}`.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] with `NOT_FOUND` where there is none of this id.
    pub fn authenticator(&self, id: &str) -> Result<Authenticator, ControllerError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            fingerprint: Option<String>,
            is_issued_by_network: Option<bool>,
        }
        let data: Data = self.call("GET", &path(id, ""), None)?.data()?;
        let fingerprint_sha1 = data.fingerprint.filter(|f| !f.is_empty()).as_deref().map(Printable::new);
        Ok(Authenticator { fingerprint_sha1, issued_by_network: data.is_issued_by_network })
    }

    /// `POST current-identity/authenticators/{id}/extend`. May be repeated: each call takes the place of the one before.
    ///
    /// # Errors
    /// [`ControllerError`]; the old certificate stays in force in any case.
    pub fn extend(&self, id: &str, csr: &Csr) -> Result<Extension, ControllerError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            client_cert: String,
            ca: Option<String>,
        }
        let body = json!({ "clientCertCsr": csr.as_pem() }).to_string();
        let data: Data = self.call("POST", &path(id, "/extend"), Some(body.as_bytes()))?.data()?;
        Ok(Extension { cert: data.client_cert, ca: data.ca })
    }

    /// `POST current-identity/authenticators/{id}/extend-verify` with the new certificate, PEM. After anything but a success
    /// nobody knows which certificate is in force: the controller can fail when it has made the change already.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn extend_verify(&self, id: &str, certificate: &str) -> Result<(), ControllerError> {
        let body = json!({ "clientCert": certificate }).to_string();
        let done: Result<serde::de::IgnoredAny, _> =
            self.call("POST", &path(id, "/extend-verify"), Some(body.as_bytes()))?.data();
        done.map(drop)
    }
}

fn path(id: &str, what: &str) -> String {
    format!("current-identity/authenticators/{}{what}", percent_encode(id.as_bytes()))
}
