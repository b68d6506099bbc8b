//! The token of an identity provider: read as far as it says whom it means and when it ends, and judged by the controller.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::envelope::{object, string};
use super::{TokenError, malformed};

/// Longest one that is read, in bytes: it goes into a header.
const LARGEST: usize = 32 * 1024;

/// A bearer token of an identity provider (RFC 7519); nobody has vouched for it.
#[derive(Clone)]
pub struct IdpToken {
    compact: SecretString,
    whom: String,
    expires: Option<u64>,
}

impl IdpToken {
    /// Reads a compact JWT; white space around it is forgiven.
    ///
    /// # Errors
    /// [`TokenError`]: the form alone. Which algorithms are good is the controller's business.
    pub fn parse(text: &SecretString) -> Result<Self, TokenError> {
        let compact = text.expose_secret().trim_start_matches('\u{feff}').trim();
        if compact.len() > LARGEST {
            return Err(malformed("that of the identity provider is larger than 32 KiB"));
        }
        if compact.is_empty() {
            return Err(TokenError::Empty);
        }
        let [_, claims, _] = compact.split('.').collect::<Vec<_>>()[..] else {
            return Err(malformed("that of the identity provider is no JWT: it has not three parts"));
        };
        if !compact.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(malformed("that of the identity provider is not base64url"));
        }
        let claims = object("claims", claims)?;
        let said = |name| string(&claims, name).map(Option::unwrap_or_default);
        let whom = format!("{}\0{}", said("iss")?, said("sub")?);
        let expires = claims.get("exp").and_then(Value::as_f64).filter(|f| *f >= 0.0).map(|f| f as u64);
        Ok(Self { compact: SecretString::from(compact), whom, expires })
    }

    /// As it goes to the controller.
    pub fn compact(&self) -> &SecretString {
        &self.compact
    }

    /// Whom it means: the provider and its name for them.
    pub(super) fn whom(&self) -> &str {
        &self.whom
    }

    /// When it ends; seconds since the Unix epoch.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }
}

impl fmt::Debug for IdpToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdpToken")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::jwt::{Method, UnverifiedToken};

    fn token(claims: &str) -> Result<IdpToken, TokenError> {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        IdpToken::parse(&SecretString::from(format!(" {}.{}.{}\n", part("{}"), part(claims), part("x"))))
    }

    #[test]
    fn reads_whom_it_means_and_until_when() {
        let read = token(r#"{"iss":"https://idp/","sub":"gate-7","exp":1787082041.5}"#).unwrap();
        assert_eq!((read.whom(), read.expires()), ("https://idp/\0gate-7", Some(1_787_082_041)));
        assert!(!format!("{read:?}").contains("gate-7"));
        assert!(token(r#"{"sub":7}"#).is_err());
        for text in ["", "a.b", "a.b.c.d", "a b.c.d", &"x".repeat(40_000)] {
            assert!(IdpToken::parse(&SecretString::from(text)).is_err(), "{text:.20}");
        }
    }

    /// A later token for the same one goes on where the first one stopped.
    #[test]
    fn tokens_for_one_are_one() {
        let at = || UnverifiedToken::of_controller("https://ctrl:1280".parse().unwrap());
        let digest = |claims: &str| at().with_idp_token(&token(claims).unwrap()).unwrap().digest();
        let first = digest(r#"{"iss":"a","sub":"b","exp":1}"#);
        assert_eq!(first, digest(r#"{"iss":"a","sub":"b","exp":2}"#));
        assert_ne!(first, digest(r#"{"iss":"a","sub":"c","exp":1}"#));
        let both = at().with_idp_token(&token("{}").unwrap()).unwrap();
        assert_eq!((both.method(), both.is_signed(), both.identity()), (Method::Token, false, None));
        assert!(both.with_idp_token(&token("{}").unwrap()).is_err());
    }
}
