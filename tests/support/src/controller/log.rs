//! What the controller saw, readable at any time.

use serde::Serialize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Everything seen since the start. Connections are numbered from 0.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Log {
    /// TCP connections accepted.
    pub connections: Vec<Connection>,
    /// Handshakes that both sides finished.
    pub handshakes: Vec<Handshake>,
    /// Handshakes that ended otherwise.
    pub failed_handshakes: Vec<FailedHandshake>,
    /// Requests whose head was read.
    pub requests: Vec<Request>,
    /// What a correct client would never have sent, a sentence each.
    pub violations: Vec<String>,
}

/// One TCP connection.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Milliseconds since the controller started.
    pub at_ms: u64,
}

/// One finished TLS handshake.
#[derive(Clone, Debug, Serialize)]
pub struct Handshake {
    /// Which connection.
    pub connection: usize,
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: String,
    /// The client's ALPN list; empty if it sent none.
    pub alpn_offered: Vec<String>,
    /// The server name that the client sent.
    pub sni: Option<String>,
    /// Key exchange group, e.g. `X25519MLKEM768`.
    pub group: Option<String>,
    /// Whether it resumed an earlier session, so that the client saw no certificate.
    pub resumed: bool,
    /// What the client showed.
    pub client_certificate: Option<ClientCertificate>,
}

/// A client certificate as shown in a handshake.
#[derive(Clone, Debug, Serialize)]
pub struct ClientCertificate {
    /// RFC 4514 text.
    pub subject: String,
    /// Lower-case hex SHA-1 of the DER.
    pub fingerprint_sha1: String,
    /// How many certificates came, the leaf among them.
    pub chain_length: usize,
}

/// One handshake that did not finish.
#[derive(Clone, Debug, Serialize)]
pub struct FailedHandshake {
    /// Which connection.
    pub connection: usize,
    /// What ended it, in rustls' words: an alert of the client, or the connection's end.
    pub why: String,
}

/// One request. No token and no credential is in it.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Which connection.
    pub connection: usize,
    /// Milliseconds since the controller started.
    pub at_ms: u64,
    /// GET, POST, …
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// Decoded. The value of `token` is `…`.
    pub query: Vec<(String, String)>,
    /// Names in lower case. The values of `authorization` and `zt-session` are `…`.
    pub headers: Vec<(String, String)>,
    /// Bytes.
    pub body_length: usize,
    /// Of the answer; `None` while there is none, and when it did not leave whole.
    pub status: Option<u16>,
}

impl Request {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a POST to enroll, under any of its paths.
    pub fn is_enroll(&self) -> bool {
        self.method == "POST" && super::wire::canonical_path(&self.path).starts_with("/edge/client/v1/enroll")
    }

    /// Whether it asks for the CA certificates, under any of their paths.
    pub fn is_cacerts(&self) -> bool {
        super::wire::canonical_path(&self.path) == "/.well-known/est/cacerts"
    }
}

/// The figures that a budget is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// TCP connections accepted.
    pub connections: usize,
    /// Handshakes finished.
    pub handshakes: usize,
    /// Requests read.
    pub requests: usize,
    /// POSTs to enroll among them.
    pub enroll_posts: usize,
}

impl Log {
    /// How much of each.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.len(),
            handshakes: self.handshakes.len(),
            requests: self.requests.len(),
            enroll_posts: self.requests.iter().filter(|request| request.is_enroll()).count(),
        }
    }
}

/// The log as the controller's threads write it.
#[derive(Debug)]
pub(crate) struct Recorder {
    started: Instant,
    log: Mutex<Log>,
    changed: Condvar,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), log: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn at_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(crate) fn read(&self) -> Log {
        self.lock().clone()
    }

    pub(crate) fn write<T>(&self, note: impl FnOnce(&mut Log) -> T) -> T {
        let noted = note(&mut self.lock());
        self.changed.notify_all();
        noted
    }

    pub(crate) fn violation(&self, sentence: impl Into<String>) {
        self.write(|log| log.violations.push(sentence.into()));
    }

    pub(crate) fn wait_for(&self, limit: Duration, seen: impl Fn(&Log) -> bool) -> Result<Log, Log> {
        let log = self.lock();
        let (log, waited) = self.changed.wait_timeout_while(log, limit, |log| !seen(log)).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && !seen(&log) { Err(log.clone()) } else { Ok(log.clone()) }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
