//! Cellar: HTTP/1.1 by ureq over our own TLS connector, which records what each handshake showed.
//!
//! One [`Client`] talks to one [`Origin`], directly or through the [`Proxy`] of its [`Reach`]. No redirect is followed, no
//! request repeated, no proxy taken from the environment. An error says whether the request may have reached the server: that decides whether a token may be spent.

mod proxy;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};
use secrecy::{ExposeSecret, SecretString};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, TcpConnector, Transport, TransportAdapter,
};

use self::proxy::Tunnel;
use crate::origin::Origin;
use crate::text::{Printable, system_words};

pub use proxy::{NoProxy, Proxy, ProxyAddressError, ProxyError};

/// Largest answer that is read where the caller names no other limit, in bytes.
const LARGEST: u64 = 64 * 1024;

/// How the network is reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Time for name, TCP and TLS.
    pub connect: Duration,
    /// Time for one request and its answer, the connection included. Longer than the controller's own 10 s, so that
    /// its answer is seen.
    pub request: Duration,
    /// The proxy that is gone through.
    pub proxy: Option<Proxy>,
    /// Whom it is not for.
    pub no_proxy: NoProxy,
}

impl Default for Reach {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), request: Duration::from_secs(30), proxy: None, no_proxy: NoProxy::default() }
    }
}

impl Reach {
    /// The proxy on the way to `origin`.
    pub fn proxy_for(&self, origin: &Origin) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.no_proxy.covers(origin))
    }
}

/// A request that got no whole answer.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct HttpError {
    /// What happened.
    pub kind: HttpErrorKind,
    /// Whether a byte of the request may have reached the server.
    pub sent: bool,
}

/// What happened to a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpErrorKind {
    /// The name has no address.
    Unresolved,
    /// No connection.
    Connect(io::Error),
    /// TLS did not come up, or broke.
    Tls(rustls::Error),
    /// No answer in time; the phase.
    Timeout(&'static str),
    /// The connection ended before the answer was whole.
    Closed,
    /// The answer is larger than is read.
    TooLarge(u64),
    /// Not HTTP, or of a form that is not taken.
    Protocol(String),
    /// There is no way through the proxy.
    Proxy {
        /// Its address, without user and password.
        proxy: String,
        /// Why.
        why: ProxyError,
    },
}

impl HttpErrorKind {
    /// Whether the same may work later without anybody's doing.
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Proxy { why, .. } => why.may_heal(),
            Self::Unresolved
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Timeout(_)
            | Self::Closed
            | Self::TooLarge(_)
            | Self::Protocol(_) => true,
        }
    }
}

impl fmt::Display for HttpErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("its name has no address"),
            Self::Connect(e) => write!(f, "no connection ({})", system_words(e)),
            Self::Tls(rustls::Error::AlertReceived(alert)) => write!(f, "it ended TLS with alert {alert:?}"),
            Self::Tls(e) => write!(f, "TLS failed ({e})"),
            Self::Timeout(phase) => write!(f, "no answer in time ({phase})"),
            Self::Closed => f.write_str("the connection ended before the answer was whole"),
            Self::TooLarge(limit) => write!(f, "its answer is larger than {limit} bytes"),
            Self::Protocol(what) => write!(f, "its answer is not usable HTTP ({what})"),
            Self::Proxy { proxy, why } => write!(f, "there is no way through the proxy {proxy}: {why}"),
        }
    }
}

/// What one handshake showed.
#[derive(Clone, Debug)]
pub struct HandshakeSeen {
    /// The server's certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// TLS 1.2 or 1.3.
    pub version: Option<ProtocolVersion>,
    /// Full, with a retry, or resumed.
    pub kind: Option<HandshakeKind>,
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status; controllers also send 6xx.
    pub status: u16,
    /// `content-type`, up to the first `;`, lower case.
    pub content_type: Option<String>,
    /// `retry-after`, where it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// `location`.
    pub location: Option<Printable>,
    /// `zt-session`.
    pub session: Option<String>,
    /// The body, to its end.
    pub body: Vec<u8>,
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'static str,
    /// From the root.
    pub path: &'a str,
    /// Names and values; a value may be a secret and is percent-encoded here.
    pub query: &'a [(&'static str, &'a SecretString)],
    /// `accept`, session, …
    pub headers: &'a [(&'static str, &'a str)],
    /// Content type and bytes of the body.
    pub body: Option<(&'static str, &'a [u8])>,
    /// Largest answer that is read, in bytes; 0 for the usual.
    pub limit: u64,
}

/// HTTP to one origin.
pub struct Client {
    agent: ureq::Agent,
    origin: Origin,
    proxy: Option<Proxy>,
    seen: Arc<Mutex<Vec<HandshakeSeen>>>,
    written: Arc<AtomicU64>,
    tunnels: Arc<AtomicU64>,
}

impl Client {
    /// A client; nothing is dialled yet.
    pub fn new(origin: &Origin, tls: ClientConfig, reach: &Reach) -> Self {
        let seen = Arc::<Mutex<Vec<HandshakeSeen>>>::default();
        let (written, tunnels) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let proxy = reach.proxy_for(origin).cloned();
        let config = ureq::config::Config::builder()
            .https_only(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("ziti-enroller/", env!("CARGO_PKG_VERSION")))
            // None: the controller compresses for who says that it can read it.
            .accept_encoding("")
            .accept("")
            .no_delay(true)
            .max_response_header_size(16 * 1024)
            // A key in hardware can take longer than ureq's 15 s; the server ends idle connections sooner anyway.
            .max_idle_age(Duration::from_secs(60))
            .timeout_connect(Some(reach.connect))
            .timeout_global(Some(reach.request))
            .build();
        let tls = TlsConnector { config: Arc::new(tls), seen: seen.clone(), written: written.clone() };
        let tunnel = Tunnel { proxy: proxy.clone(), target: origin.authority(), opened: tunnels.clone() };
        let connector = ().chain(TcpConnector::default()).chain(tunnel).chain(tls);
        let agent = ureq::Agent::with_parts(config, connector, SystemResolver { proxy: proxy.clone() });
        Self { agent, origin: origin.clone(), proxy, seen, written, tunnels }
    }

    /// Where it talks to.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What the last handshake showed.
    pub fn last_handshake(&self) -> Option<HandshakeSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// Sends a request once and reads the answer to its end.
    ///
    /// # Errors
    /// [`HttpError`] where no whole answer came. A status is never an error here.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, HttpError> {
        let counts = || (self.written.load(Ordering::Relaxed), self.tunnels.load(Ordering::Relaxed));
        let (written, tunnels) = counts();
        self.exchange(request).map_err(|error| {
            let now = counts();
            let sent = now.0 != written;
            let kind = match &self.proxy {
                Some(proxy) if !sent && now.1 == tunnels => {
                    HttpErrorKind::Proxy { proxy: proxy.to_string(), why: proxy::failure(error) }
                }
                _ => kind_of(error, sent),
            };
            HttpError { kind, sent }
        })
    }

    fn exchange(&self, request: &Request<'_>) -> Result<Response, ureq::Error> {
        let url = format!("{}{}", self.origin, request.path);
        let mut builder = ureq::http::Request::builder().method(request.method);
        let mut query = String::new();
        for (name, value) in request.query {
            let separator = if query.is_empty() { '?' } else { '&' };
            query.push_str(&format!("{separator}{name}={}", crate::text::percent_encode(value.expose_secret().as_bytes())));
        }
        builder = builder.uri(format!("{url}{query}"));
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        let response = match request.body {
            Some((content_type, bytes)) => self.agent.run(builder.header("content-type", content_type).body(bytes)?)?,
            None => self.agent.run(builder.body(())?)?,
        };
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        if header("content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
            return Err(ureq::Error::Io(io::Error::new(io::ErrorKind::Unsupported, "content-encoding")));
        }
        let limit = if request.limit == 0 { LARGEST } else { request.limit };
        let content_type = header("content-type").map(|t| t.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        Ok(Response {
            status: parts.status.as_u16(),
            content_type,
            retry_after: header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs),
            location: header("location").map(Printable::new),
            session: header("zt-session").map(str::to_owned),
            body: body.into_with_config().limit(limit).read_to_vec()?,
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn kind_of(error: ureq::Error, sent: bool) -> HttpErrorKind {
    match error {
        ureq::Error::HostNotFound => HttpErrorKind::Unresolved,
        ureq::Error::Timeout(t) => HttpErrorKind::Timeout(match t {
            ureq::Timeout::Resolve => "name",
            ureq::Timeout::Connect => "connecting",
            _ if sent => "waiting for the answer",
            _ => "connecting",
        }),
        ureq::Error::BodyExceedsLimit(limit) => HttpErrorKind::TooLarge(limit),
        ureq::Error::Rustls(e) => HttpErrorKind::Tls(e),
        ureq::Error::ConnectionFailed => HttpErrorKind::Connect(io::ErrorKind::NotConnected.into()),
        ureq::Error::Io(e) => io_kind(e, sent),
        ureq::Error::Other(e) => HttpErrorKind::Protocol(words(&e.to_string())),
        other => HttpErrorKind::Protocol(words(&other.to_string())),
    }
}

fn io_kind(error: io::Error, sent: bool) -> HttpErrorKind {
    if error.kind() == io::ErrorKind::Unsupported {
        return HttpErrorKind::Protocol("compressed, though we ask for plain".into());
    }
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).cloned();
    match (inner, error.kind()) {
        (Some(tls), _) => HttpErrorKind::Tls(tls),
        (None, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            HttpErrorKind::Timeout(if sent { "waiting for the answer" } else { "connecting" })
        }
        (None, io::ErrorKind::InvalidData) => HttpErrorKind::Protocol(words(&error.to_string())),
        (None, _) if sent => HttpErrorKind::Closed,
        (None, _) => HttpErrorKind::Connect(error),
    }
}

fn words(text: &str) -> String {
    Printable::new(text).as_str().to_lowercase()
}

/// Resolves in the calling thread; where there is a proxy, that one's name: only the proxy need know the server's.
///
/// ureq's own starts a thread, whose start waits for the loader while a PKCS#11 module is being loaded beside it; that
/// costs more than the look-up. The price is that the system's own time limit for names holds, not ours.
#[derive(Debug)]
struct SystemResolver {
    proxy: Option<Proxy>,
}

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let server = || uri.host().map(|host| (bare(host), uri.port_u16().unwrap_or(443)));
        let (host, port) = self.proxy.as_ref().map(Proxy::address).or_else(server).ok_or(ureq::Error::HostNotFound)?;
        let found = (host, port).to_socket_addrs().map_err(|_| ureq::Error::HostNotFound)?;
        let mut addresses = self.empty();
        for address in found.take(8) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// An IPv6 host without the brackets that a URI puts around it.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// TLS with our own configuration, over whatever came before in the chain.
struct TlsConnector {
    config: Arc<ClientConfig>,
    seen: Arc<Mutex<Vec<HandshakeSeen>>>,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Err(ureq::Error::Tls("plain http is not spoken"));
        }
        let host = details.uri.host().ok_or(ureq::Error::HostNotFound)?;
        let name = ServerName::try_from(bare(host).to_owned()).map_err(|_| ureq::Error::HostNotFound)?;
        let mut conn = ClientConnection::new(self.config.clone(), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let seen = HandshakeSeen {
            chain: conn.peer_certificates().map(|c| c.iter().map(|c| c.clone().into_owned()).collect()).unwrap_or_default(),
            version: conn.protocol_version(),
            kind: conn.handshake_kind(),
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn, sock };
        Ok(Some(Either::B(TlsTransport { buffers, stream, written: self.written.clone() })))
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        // Counted before the write: a write that fails may have left some of it behind.
        self.written.fetch_add(1, Ordering::Relaxed);
        let output = &self.buffers.output()[..amount];
        if let Err(error) = self.stream.write_all(output).and_then(|()| self.stream.flush()) {
            // A server that refuses our certificate says so in an alert that lies unread while our write already fails.
            let alert = self.stream.read(&mut [0]).err();
            let alert = alert.filter(|e| e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
            return Err(alert.unwrap_or(error).into());
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
