//! What is wrong with a token, in words.

use std::fmt;
use std::time::Duration;

use crate::origin::OriginError;
use crate::text::Printable;

/// What is wrong with an enrollment token, before anyone was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No file, or nobody gave one.
    #[error("{0}")]
    Missing(String),
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// More than [`LARGEST`](super::LARGEST) bytes.
    #[error("it is larger than 64 KiB")]
    TooLarge,
    /// Not a JWT in compact form, or a claim is not of its type.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// A signature algorithm that is not accepted.
    #[error("its algorithm `{0}` is not accepted: controllers sign with RS256, ES256, ES384 or ES512")]
    Algorithm(Printable),
    /// An enrollment method that is not for this program.
    #[error("{0}")]
    Method(String),
    /// `iss` is missing, or is no address of a controller.
    #[error("its issuer `{issuer}` is no address of a controller")]
    Issuer {
        /// As it stands in the token.
        issuer: Printable,
        /// What is wrong with it.
        #[source]
        source: OriginError,
    },
    /// `iss` is missing.
    #[error("it names no issuer")]
    NoIssuer,
    /// `jti`, the one-time token itself, is missing or malformed.
    #[error("its id (`jti`) is missing or malformed")]
    Id,
    /// `exp` lies in the past.
    #[error("it expired {} ago", Ago(*.0))]
    Expired(Duration),
    /// `exp` of the token of an identity provider lies in the past.
    #[error("that of the identity provider expired {} ago", Ago(*.0))]
    IdpExpired(Duration),
    /// The signature is not by the key of the certificate that was shown.
    #[error("its signature does not verify with the controller's certificate")]
    NotSigned {
        /// `kid` is the certificate's SHA-1: the right certificate, so the token was altered.
        damaged: bool,
    },
}

struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} seconds"),
            120..7200 => write!(f, "{} minutes", seconds / 60),
            7200..172_800 => write!(f, "{} hours", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86400),
        }
    }
}
