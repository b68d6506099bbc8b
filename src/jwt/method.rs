//! How an identity enrolls, and what that takes.

use serde::{Deserialize, Serialize};

use super::TokenError;
use crate::text::Printable;

/// How an identity enrolls: the claim `em`, but for [`Method::Token`], which a token of an identity provider makes of
/// `network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// One-time token; the controller issues the certificate.
    #[default]
    Ott,
    /// One-time token, and a certificate of a third-party CA that the controller knows.
    OttCa,
    /// A token for all who have a certificate of a third-party CA: the controller makes the identity.
    Ca,
    /// The controller's CA certificates, and no identity.
    Network,
    /// One-time token; sets the password of an identity that logs in with one.
    Updb,
    /// A token of an identity provider; the controller makes the identity and issues the certificate.
    Token,
}

/// What a request brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// A certificate signing request.
    Csr,
    /// A certificate that was there before, shown in the handshake: its key is opened before anyone is called.
    Certificate,
    /// The token of an identity provider, and a certificate signing request.
    IdpToken,
    /// A password.
    Password,
    /// Nothing: no request is made.
    Nothing,
}

impl Brings {
    /// Whether there is a private key.
    pub fn a_key(self) -> bool {
        match self {
            Self::Csr | Self::Certificate | Self::IdpToken => true,
            Self::Password | Self::Nothing => false,
        }
    }
}

impl Method {
    /// As it stands in token and query.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ott => "ott",
            Self::OttCa => "ottca",
            Self::Ca => "ca",
            Self::Network => "network",
            Self::Updb => "updb",
            Self::Token => "token",
        }
    }

    /// What its request brings along.
    pub fn brings(self) -> Brings {
        match self {
            Self::Ott => Brings::Csr,
            Self::OttCa | Self::Ca => Brings::Certificate,
            Self::Token => Brings::IdpToken,
            Self::Updb => Brings::Password,
            Self::Network => Brings::Nothing,
        }
    }

    /// Whether its token is for one identity, once, and ends; else it is for everybody, and names none.
    pub fn is_one_time(self) -> bool {
        match self {
            Self::Ott | Self::OttCa | Self::Updb => true,
            Self::Ca | Self::Network | Self::Token => false,
        }
    }

    pub(super) fn from_claim(em: &str) -> Result<Self, TokenError> {
        match em {
            "ott" => Ok(Self::Ott),
            "ottca" => Ok(Self::OttCa),
            "ca" => Ok(Self::Ca),
            "network" => Ok(Self::Network),
            "updb" => Ok(Self::Updb),
            "erott" | "trott" => Err(TokenError::Method(format!(
                "its method `{em}` enrolls a router: use `ziti router enroll` on the router's own host"
            ))),
            _ => Err(TokenError::Method(format!(
                "its method `{}` is unknown: known are ott, ottca, ca, network, updb; a newer version may know it",
                Printable::new(em)
            ))),
        }
    }
}
