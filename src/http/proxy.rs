//! The way through an HTTP proxy: who goes through it, and the tunnel (`CONNECT`, RFC 9110 §9.3.6).
//!
//! ureq has a connector of its own for this. It does not say whether proxy or server failed, keeps the password where it is
//! not wiped, and asks for the proxy by a second run through our TLS; this one is a link of the chain between TCP and TLS.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};
use ureq::unversioned::transport::{ConnectionDetails, Connector, Either, Transport, TransportAdapter};
use zeroize::Zeroizing;

use crate::origin::{Origin, host_and_port};
use crate::text::{percent_decode, system_words};

/// The port of a proxy whose address names none, as curl has it.
const PORT: u16 = 1080;
/// Longest user and password, in bytes.
const LONGEST_CREDENTIALS: usize = 2048;
/// Longest head of an answer that is read, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// An HTTP proxy, with what it wants to know of us.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `user:password` in base64.
    credentials: Option<SecretString>,
}

/// Why a text is no address of a proxy. The text may hold a password and is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// `socks5://`, `https://`.
    #[error("its scheme is not http, the only one that is spoken to a proxy")]
    Scheme,
    /// No host, or no port that is one.
    #[error("it is not [http://][USER:PASSWORD@]HOST[:PORT]")]
    Form,
    /// Not percent-encoding, or too long.
    #[error("its user or password is not well percent-encoded")]
    Credentials,
}

impl Proxy {
    /// Reads `[http://][USER[:PASSWORD]@]HOST[:PORT][/]`; user and password are percent-encoded.
    ///
    /// # Errors
    /// [`ProxyAddressError`].
    pub fn parse(address: &SecretString) -> Result<Self, ProxyAddressError> {
        let address = address.expose_secret();
        let rest = match address.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyAddressError::Scheme),
            None => address,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, authority) = rest.rsplit_once('@').map_or((None, rest), |(c, a)| (Some(c), a));
        let (host, port) = host_and_port(authority, PORT).map_err(|_| ProxyAddressError::Form)?;
        let credentials = credentials.map(basic).transpose()?;
        Ok(Self { host, port, credentials })
    }

    /// Whether it has a user or password to give.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Where it listens; IPv6 without brackets.
    pub(super) fn address(&self) -> (&str, u16) {
        (super::bare(&self.host), self.port)
    }
}

/// Without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Of RFC 7617; a user without a password has an empty one.
fn basic(user_info: &str) -> Result<SecretString, ProxyAddressError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |part| percent_decode(part).map(Zeroizing::new).ok_or(ProxyAddressError::Credentials);
    let (user, password) = (decode(user)?, decode(password)?);
    let plain = Zeroizing::new([&**user, b":", &**password].concat());
    // A colon in the user would be read as its end.
    if plain.len() > LONGEST_CREDENTIALS || user.contains(&b':') {
        return Err(ProxyAddressError::Credentials);
    }
    Ok(SecretString::from(BASE64_STANDARD.encode(&*plain)))
}

/// Who is reached without the proxy: `NO_PROXY`, read as curl does, and with ports, as Go does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Exception>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    whom: Whom,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    Everyone,
    /// A name, and every name below it.
    Name(String),
    /// Addresses that begin with so many bits of this one.
    Addresses(IpAddr, u32),
}

impl NoProxy {
    /// Reads a list with commas or white space between: `*`, `example.com` (and all below it; `.example.com` and
    /// `*.example.com` are the same), `192.0.2.1`, `2001:db8::/32`, `[::1]`, each with `:PORT` or without. What is none of
    /// them fits nothing.
    pub fn parse(list: &str) -> Self {
        let entries = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|e| !e.is_empty());
        Self(entries.filter_map(exception).collect())
    }

    /// Whether the proxy is not for `origin`.
    pub fn covers(&self, origin: &Origin) -> bool {
        let host = origin.host().trim_end_matches('.');
        let address: Option<IpAddr> = host.parse().ok();
        let fits = |whom: &Whom| match (whom, address) {
            (Whom::Everyone, _) => true,
            (Whom::Name(name), None) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Whom::Addresses(network, bits), Some(address)) => begins_with(address, *network, *bits),
            (Whom::Name(_), Some(_)) | (Whom::Addresses(..), None) => false,
        };
        self.0.iter().any(|e| e.port.is_none_or(|port| port == origin.port()) && fits(&e.whom))
    }
}

fn exception(entry: &str) -> Option<Exception> {
    if let Some(whom) = addresses(entry) {
        return Some(Exception { whom, port: None });
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let name = || {
        let name = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Whom::Name(name))
    };
    let whom = if host == "*" { Some(Whom::Everyone) } else { addresses(host).or_else(name) };
    Some(Exception { whom: whom?, port })
}

/// `192.0.2.1`, `::1`, `[::1]`, `192.0.2.0/24`.
fn addresses(text: &str) -> Option<Whom> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = super::bare(address).parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(all), |b| b.parse().ok().filter(|b| *b <= all))?;
    Some(Whom::Addresses(address, bits))
}

fn begins_with(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Why there is no way through a proxy. Nothing has reached the server then.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// Its name has no address.
    Unresolved,
    /// No connection to it.
    Connect(io::Error),
    /// It does not answer in time.
    Timeout,
    /// It ended the connection in place of an answer.
    Closed,
    /// It refuses, with this status.
    Refused(u16),
    /// What it says is not HTTP.
    Protocol,
}

impl ProxyError {
    /// Whether the same may work later: a refusal stands, but for a proxy that did not reach the server itself.
    pub(super) fn may_heal(&self) -> bool {
        match self {
            Self::Refused(status) => *status >= 500,
            Self::Unresolved | Self::Connect(_) | Self::Timeout | Self::Closed => true,
            Self::Protocol => false,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("its name has no address"),
            Self::Connect(e) => write!(f, "no connection to it ({})", system_words(e)),
            Self::Timeout => f.write_str("it has not answered in time"),
            Self::Closed => f.write_str("it ended the connection without an answer"),
            Self::Refused(407) => f.write_str("it wants a user and password, or others (status 407)"),
            Self::Refused(status @ 500..) => write!(f, "it cannot open the way (status {status})"),
            Self::Refused(status) => write!(f, "it does not allow this (status {status})"),
            Self::Protocol => f.write_str("what it says is not HTTP"),
        }
    }
}

/// On its way through ureq.
impl std::error::Error for ProxyError {}

/// What went wrong before the tunnel stood: with the proxy, for nobody else was talked to.
pub(super) fn failure(error: ureq::Error) -> ProxyError {
    match error {
        ureq::Error::HostNotFound => ProxyError::Unresolved,
        ureq::Error::Timeout(_) => ProxyError::Timeout,
        ureq::Error::Io(e) => io_failure(e),
        ureq::Error::ConnectionFailed => ProxyError::Connect(io::ErrorKind::NotConnected.into()),
        _ => ProxyError::Protocol,
    }
}

fn io_failure(error: io::Error) -> ProxyError {
    let timed_out = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
        || error.get_ref().and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, ureq::Error::Timeout(_)));
    if timed_out {
        return ProxyError::Timeout;
    }
    match error.downcast::<ProxyError>() {
        Ok(own) => own,
        Err(error) => ProxyError::Connect(error),
    }
}

/// Opens the tunnel over a connection to the proxy, where there is one; else passes the connection on.
pub(super) struct Tunnel {
    pub(super) proxy: Option<Proxy>,
    /// `HOST:PORT` of the server.
    pub(super) target: String,
    /// How many it has opened.
    pub(super) opened: Arc<AtomicU64>,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("proxy", &self.proxy).field("target", &self.target).finish_non_exhaustive()
    }
}

impl<In: Transport> Connector<In> for Tunnel {
    type Out = Either<In, Box<dyn Transport>>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        let Some(proxy) = &self.proxy else { return Ok(Some(Either::A(transport))) };
        let mut way = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        way.set_timeout(details.timeout);
        let target = &self.target;
        let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(credentials) = &proxy.credentials {
            request.push_str(&format!("Proxy-Authorization: Basic {}\r\n", credentials.expose_secret()));
        }
        request.push_str("\r\n");
        way.write_all(request.as_bytes())?;
        match status(&mut way).map_err(ended)? {
            200..300 => {}
            refused => return Err(io::Error::other(ProxyError::Refused(refused)).into()),
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Either::B(way.into_inner())))
    }
}

/// The status of the answer, whose head is read to its end and no further: what follows is the server's.
fn status(way: &mut impl Read) -> io::Result<u16> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() == LONGEST_HEAD || !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(io::Error::other(ProxyError::Protocol));
        }
        match way.read(&mut byte)? {
            0 => return Err(io::Error::other(ProxyError::Closed)),
            _ => head.push(byte[0]),
        }
    }
    // `HTTP/1.1 200 Connection established`
    let code = head.get(9..12).filter(|_| head.get(8) == Some(&b' ')).and_then(|c| std::str::from_utf8(c).ok());
    let code = code.and_then(|c| c.parse().ok()).filter(|c| (100..600).contains(c));
    code.ok_or_else(|| io::Error::other(ProxyError::Protocol))
}

/// Once it was talked to, a connection that breaks is one that it ended.
fn ended(error: io::Error) -> io::Error {
    match io_failure(error) {
        ProxyError::Connect(_) => io::Error::other(ProxyError::Closed),
        known => io::Error::other(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Result<(String, Option<String>), ProxyAddressError> {
        let proxy = Proxy::parse(&SecretString::from(text))?;
        Ok((proxy.to_string(), proxy.credentials.map(|c| c.expose_secret().to_owned())))
    }

    #[test]
    fn reads_addresses_of_proxies() {
        for (text, address, credentials) in [
            ("proxy", "http://proxy:1080", None),
            ("http://Proxy.example:3128/", "http://proxy.example:3128", None),
            ("HTTP://[::1]:8080", "http://[::1]:8080", None),
            ("u:p@proxy:1", "http://proxy:1", Some("dTpw")),
            ("http://u@proxy:1", "http://proxy:1", Some("dTo=")),
            // `u:p@s:w`
            ("http://u:p%40s:w@proxy:1", "http://proxy:1", Some("dTpwQHM6dw==")),
        ] {
            let expected = (address.to_owned(), credentials.map(str::to_owned));
            assert_eq!(proxy(text), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("socks5://proxy:1", ProxyAddressError::Scheme),
            ("https://proxy:1", ProxyAddressError::Scheme),
            ("http://", ProxyAddressError::Form),
            ("http://proxy:0", ProxyAddressError::Form),
            ("http://proxy:1/path", ProxyAddressError::Form),
            ("http://u:%4@proxy:1", ProxyAddressError::Credentials),
            ("http://u%3Av:p@proxy:1", ProxyAddressError::Credentials),
        ] {
            assert_eq!(proxy(text), Err(error), "{text}");
        }
    }

    #[test]
    fn never_shows_a_password() {
        let proxy = Proxy::parse(&SecretString::from("http://user:hush@proxy:1")).unwrap();
        for shown in [proxy.to_string(), format!("{proxy:?}")] {
            assert!(!shown.contains("hush") && !shown.contains("user") && !shown.contains("dXNlcjpodXNo"), "{shown}");
        }
    }

    #[test]
    fn knows_who_goes_without_a_proxy() {
        for (list, origin, covered) in [
            ("", "https://ctrl.example.com", false),
            ("*", "https://ctrl.example.com", true),
            ("a, *", "https://ctrl.example.com", true),
            ("ctrl.example.com", "https://CTRL.example.com", true),
            ("example.com", "https://ctrl.example.com", true),
            (".example.com", "https://ctrl.example.com", true),
            ("*.example.com", "https://ctrl.example.com", true),
            (".example.com", "https://example.com", true),
            ("example.com.", "https://ctrl.example.com", true),
            ("example.com", "https://ctrl.example.com.", true),
            ("example.com", "https://notexample.com", false),
            ("ple.com", "https://example.com", false),
            ("a,b example.com", "https://example.com", true),
            ("example.com:1280", "https://example.com:1280", true),
            ("example.com:1280", "https://example.com", false),
            ("127.0.0.1", "https://127.0.0.1:1280", true),
            ("127.0.0.1:1280", "https://127.0.0.1:1280", true),
            ("127.0.0.1:1", "https://127.0.0.1:1280", false),
            ("127.0.0.0/8", "https://127.1.2.3", true),
            ("127.0.0.0/33", "https://127.0.0.0", false),
            ("0.0.0.0/0", "https://192.0.2.1", true),
            ("0.0.0.0/0", "https://[::1]", false),
            ("0.0.0.0/0", "https://example.com", false),
            ("192.0.2.0/25", "https://192.0.2.128", false),
            ("::1", "https://[::1]:1280", true),
            ("[::1]", "https://[::1]:1280", true),
            ("[::1]:1280", "https://[::1]:1280", true),
            ("[::1]:1", "https://[::1]:1280", false),
            ("2001:db8::/32", "https://[2001:db8:1::1]", true),
            ("2001:db8::/32", "https://[2001:db9::1]", false),
            // A name that looks like the end of an address is none.
            ("0.1", "https://127.0.0.1", false),
        ] {
            assert_eq!(NoProxy::parse(list).covers(&origin.parse().unwrap()), covered, "{list:?} for {origin}");
        }
    }

    #[test]
    fn reads_the_head_of_an_answer_and_no_further() {
        let read = |text: &str| {
            let mut way = text.as_bytes();
            status(&mut way).map(|status| (status, way.len())).map_err(|e| io_failure(e).to_string())
        };
        assert_eq!(read("HTTP/1.1 200 Connection established\r\n\r\nTLS"), Ok((200, 3)));
        assert_eq!(read("HTTP/1.0 200 OK\r\nVia: x\r\n\r\n"), Ok((200, 0)));
        assert_eq!(read("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nabc"), Ok((407, 3)));
        assert_eq!(read("HTTP/1.1 200\n\n"), Ok((200, 0)));
        for (text, error) in [
            ("", ProxyError::Closed),
            ("HTTP/1.1 200 OK\r\n", ProxyError::Closed),
            ("SSH-2.0-OpenSSH\r\n", ProxyError::Protocol),
            ("HTTP/1.1 2x0 OK\r\n\r\n", ProxyError::Protocol),
            ("HTTP/1.1 OK\r\n\r\n", ProxyError::Protocol),
            (&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), ProxyError::Protocol),
        ] {
            assert_eq!(read(text), Err(error.to_string()), "{text:.40}");
        }
    }
}
