//! The identity providers whose tokens a controller takes: its external JWT signers, which it names to everybody.

use serde::{Deserialize, Serialize};

use super::{API, Controller, ControllerError, JSON};
use crate::text::Printable;

/// So many are asked for at once.
const PAGE: usize = 50;

/// An identity provider, as a controller names it to who has not logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// What `--issuer-id` means.
    pub id: Printable,
    /// Its name.
    pub name: Printable,
    /// Whom its tokens must be for.
    pub audience: Option<Printable>,
    /// As whom a program asks it for a token.
    pub client_id: Option<Printable>,
    /// Where a program asks it for a token.
    pub external_auth_url: Option<Printable>,
    /// What it is asked for.
    pub scopes: Vec<Printable>,
    /// Which of its tokens is meant: `ACCESS` or `ID`.
    pub target_token: Option<Printable>,
    /// Whether its tokens buy a certificate (from 2.0).
    pub enroll_to_cert: bool,
    /// Whether its tokens make an identity that logs in with such tokens (from 2.0).
    pub enroll_to_token: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    id: String,
    name: String,
    audience: Option<String>,
    client_id: Option<String>,
    external_auth_url: Option<String>,
    scopes: Option<Vec<String>>,
    target_token: Option<String>,
    #[serde(default)]
    enroll_to_cert_enabled: bool,
    #[serde(default)]
    enroll_to_token_enabled: bool,
}

impl From<Listed> for Signer {
    fn from(listed: Listed) -> Self {
        let text = |text: Option<String>| text.filter(|t| !t.is_empty()).map(|t| Printable::new(&t));
        Self {
            id: Printable::new(&listed.id),
            name: Printable::new(&listed.name),
            audience: text(listed.audience),
            client_id: text(listed.client_id),
            external_auth_url: text(listed.external_auth_url),
            scopes: listed.scopes.iter().flatten().map(|scope| Printable::new(scope)).collect(),
            target_token: text(listed.target_token),
            enroll_to_cert: listed.enroll_to_cert_enabled,
            enroll_to_token: listed.enroll_to_token_enabled,
        }
    }
}

impl Controller {
    /// `GET /edge/client/v1/external-jwt-signers`, page by page.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn signers(&self) -> Result<Vec<Signer>, ControllerError> {
        let mut signers = Vec::new();
        loop {
            let path = format!("{API}/external-jwt-signers?limit={PAGE}&offset={}", signers.len());
            let page: Vec<Listed> = self.request("GET", &path, &[], &[JSON], None)?.data()?;
            let is_last = page.len() < PAGE;
            signers.extend(page.into_iter().map(Signer::from));
            if is_last {
                return Ok(signers);
            }
        }
    }
}
