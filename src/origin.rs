//! [`Origin`]: scheme, host and port of a controller, parsed once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `https://host:port`, host in lower case, the port always written (RFC 6454 §6.1 with an explicit port).
///
/// Of an issuer or an API address only this part matters; paths are never concatenated to what a token says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    host: String,
    port: u16,
}

/// Why a text is not an [`Origin`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not `https://`.
    #[error("it is not an https address")]
    Scheme,
    /// `user@host`.
    #[error("it carries user information")]
    UserInfo,
    /// Anything behind the port but one `/`.
    #[error("it carries a path, a query or a fragment")]
    Path,
    /// No host, or a character that none can have.
    #[error("its host is missing or malformed")]
    Host,
    /// Not 1-65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl Origin {
    /// Reads an address whose path does not matter, as identity files have it.
    ///
    /// # Errors
    /// As [`FromStr`], but for the path.
    pub fn of_url(url: &str) -> Result<Self, OriginError> {
        let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
        url[..end].parse()
    }

    /// The host as a name or an address; IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// `host:port`, IPv6 in its brackets.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let scheme = text.get(..8).filter(|s| s.eq_ignore_ascii_case("https://"));
        let rest = &text[scheme.ok_or(OriginError::Scheme)?.len()..];
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(OriginError::Path);
        }
        if authority.contains('@') {
            return Err(OriginError::UserInfo);
        }
        let (host, port) = host_and_port(authority, 443)?;
        Ok(Self { host, port })
    }
}

/// `HOST[:PORT]`: the host in lower case, IPv6 in its brackets.
pub(crate) fn host_and_port(authority: &str, usual: u16) -> Result<(String, u16), OriginError> {
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], authority[at + 1..].parse().map_err(|_| OriginError::Port)?),
        None => (authority, usual),
    };
    if port == 0 {
        return Err(OriginError::Port);
    }
    let bare = host.strip_prefix('[').map(|h| h.strip_suffix(']').unwrap_or(""));
    let valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if valid { Ok((host.to_ascii_lowercase(), port)) } else { Err(OriginError::Host) }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_port_and_lower_case() {
        for (text, origin) in [
            ("https://Ctrl.Example.com", "https://ctrl.example.com:443"),
            ("https://ctrl:1280/", "https://ctrl:1280"),
            ("https://[2001:db8::1]:1280", "https://[2001:db8::1]:1280"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]:443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), origin);
        }
        assert_eq!("https://[::1]:1".parse::<Origin>().unwrap().host(), "::1");
        assert_eq!(Origin::of_url("https://a:1/edge/client/v1").unwrap().to_string(), "https://a:1");
    }

    #[test]
    fn refuses_everything_else() {
        for (text, error) in [
            ("http://a", OriginError::Scheme),
            ("a:1280", OriginError::Scheme),
            ("https://u@a", OriginError::UserInfo),
            ("https://a/b", OriginError::Path),
            ("https://a?b", OriginError::Path),
            ("https://", OriginError::Host),
            ("https://a b", OriginError::Host),
            ("https://[::1", OriginError::Host),
            ("https://a:0", OriginError::Port),
            ("https://a:65536", OriginError::Port),
            ("https://a:", OriginError::Port),
            ("hättps://a", OriginError::Scheme),
        ] {
            assert_eq!(text.parse::<Origin>(), Err(error), "{text}");
        }
    }
}
