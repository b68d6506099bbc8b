//! How a controller is started.

use super::misbehave::Fault;
use crate::pki::KeyType;
use std::str::FromStr;
use std::time::Duration;

/// Whose manners the controller has (enrollment-protocol.md §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Like {
    /// 1.4: old Accept rule and content types, no SPIFFE id, `ctrls` null, no `controllers`.
    V1_4,
    /// 2.1: JSON always, SPIFFE id, `ctrls`, `controllers`, method mismatch is an error, 1 MiB limit.
    #[default]
    V2_1,
}

impl FromStr for Like {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.4" => Ok(Self::V1_4),
            "2.1" => Ok(Self::V2_1),
            _ => Err(format!("no version `{text}`: 1.4 or 2.1")),
        }
    }
}

/// The TLS versions that are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 alone.
    Only12,
    /// 1.3 alone.
    Only13,
}

impl FromStr for Tls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "both" => Ok(Self::Both),
            "1.2" => Ok(Self::Only12),
            "1.3" => Ok(Self::Only13),
            _ => Err(format!("no TLS version `{text}`: 1.2, 1.3 or both")),
        }
    }
}

/// Which certificate the listener shows. Tokens are signed with the key that signs the handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Face {
    /// Its own, under the network's intermediate, for localhost, 127.0.0.1, ::1 and the name it listens on.
    #[default]
    Own,
    /// Its own, for `elsewhere.example`.
    WrongHost,
    /// Of a CA that is not of the network.
    ForeignCa,
    /// Its own, ended yesterday.
    Expired,
    /// Its own, beginning tomorrow.
    NotYetValid,
    /// Its own, with CA:TRUE.
    CaLeaf,
    /// This chain (DER, leaf first), without its key: the handshakes are signed with another of the same type.
    WithoutKey(Vec<Vec<u8>>),
    /// A forgery that carries the public key of this leaf (DER) where a careless parser finds it first
    /// (trust-bootstrap.md, "One parser for both questions"); handshakes are signed with the forger's own key.
    Forged(Vec<u8>),
}

/// How a controller is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT`; port 0 takes a free one. A loopback IPv4 address goes by the name `localhost`.
    pub listen: String,
    /// Whose manners it has.
    pub like: Like,
    /// Of the server certificate, and so of the tokens.
    pub key: KeyType,
    /// The TLS versions that it speaks.
    pub tls: Tls,
    /// How long a connection may say nothing: between requests, within one, and in the handshake.
    pub idle: Duration,
    /// Which certificate it shows.
    pub face: Face,
    /// Whether clients are signed by an intermediate of their own.
    pub own_client_signer: bool,
    /// What it does wrong from the start.
    pub faults: Vec<Fault>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            like: Like::default(),
            key: KeyType::P256,
            tls: Tls::default(),
            idle: Duration::from_secs(5), // of the real one
            face: Face::default(),
            own_client_signer: false,
            faults: Vec::new(),
        }
    }
}
