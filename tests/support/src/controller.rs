//! One strict controller on a socket of this machine: it checks what a real one checks, spends each token once, keeps
//! each certificate that it issues, writes down what it saw, and misbehaves when told to.
//!
//! It speaks the client API of the `like`d version as far as enrollment and a login need it.

mod answers;
mod connection;
mod core;
mod csr;
mod endpoints;
mod enroll;
mod extend;
mod face;
pub(crate) mod log;
pub(crate) mod misbehave;
mod options;
pub(crate) mod password;
mod sessions;
pub(crate) mod signers;
pub(crate) mod store;
pub(crate) mod third_party;
pub(crate) mod tokens;
mod wire;

pub use options::{Face, Like, Options, Tls};

use self::core::{Core, client_judge, locked};
use crate::pki::{Key, Network, pem, sha1_hex};
use face::{Setting, Shown};
use log::{Counts, Log, Recorder};
use misbehave::{Fault, Faults};
use password::Password;
use rustls::DistinguishedName;
use serde_json::{Value, json};
use signers::IdentityProvider;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use store::{Authenticator, Store};
use third_party::ThirdPartyCa;
use tokens::{Token, TokenBuilder};

/// A running controller. Dropping it closes every connection and waits for every thread.
#[derive(Debug)]
pub struct Controller {
    core: Arc<Core>,
    listening: Option<JoinHandle<()>>,
}

impl Controller {
    /// Starts it; when this returns, it listens.
    pub fn start(options: Options) -> Self {
        let network = Arc::new(Network::new(options.own_client_signer));
        Self::start_in(network, Arc::default(), options)
    }

    /// Another controller of the same network: a leaf and a key of its own, the same CAs, tokens and authenticators.
    pub fn peer(&self) -> Self {
        let options = Options { listen: "127.0.0.1:0".into(), face: Face::Own, faults: Vec::new(), ..self.core.options.clone() };
        Self::start_in(self.core.network.clone(), self.core.store.clone(), options)
    }

    fn start_in(network: Arc<Network>, store: Arc<Store>, options: Options) -> Self {
        let (host, _) = options.listen.rsplit_once(':').expect("HOST:PORT");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let listen: Vec<SocketAddr> = options.listen.to_socket_addrs().expect("the host to listen on resolves").collect();
        let listener = TcpListener::bind(&listen[..]).unwrap_or_else(|error| panic!("listening on {}: {error}", options.listen));
        let address = listener.local_addr().expect("a listener has an address");
        let name = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_loopback() || ip.is_unspecified() => "localhost".to_owned(),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "localhost".to_owned(),
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => host.to_owned(),
        };
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        if !names.iter().any(|known| known == host) && !address.ip().is_unspecified() {
            names.push(host.to_owned());
        }
        let hints = match options.like {
            Like::V1_4 => Vec::new(),
            Like::V2_1 => subjects(&network),
        };
        let setting = Setting { tls: options.tls, names, hints };
        let key = Key::generate(face::key_type_for(&options.face, options.key));
        let shown = Shown::new(&options.face, &network, key, &setting);
        let faults = Faults::default();
        faults.set(options.faults.clone());
        let core = Arc::new(Core {
            url: format!("https://{name}:{}", address.port()),
            address,
            instance_id: store::uuid(),
            client_judge: client_judge(&network),
            network,
            foreign: Network::new(false),
            setting,
            store,
            sessions: Default::default(),
            faults,
            recorder: Recorder::new(),
            shown: Mutex::new(Arc::new(shown)),
            sockets: Mutex::default(),
            stopping: Mutex::new(false),
            stopped: Default::default(),
            options,
        });
        let listening = thread::spawn({
            let core = core.clone();
            move || accept(&core, &listener)
        });
        Self { core, listening: Some(listening) }
    }

    /// `https://NAME:PORT`, without a slash: the `iss` of its tokens.
    pub fn url(&self) -> String {
        self.core.url.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.core.address
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.core.address.port()
    }

    /// Root and intermediates, PEM.
    pub fn ca_pem(&self) -> String {
        self.core.network.certificates().iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// The chain that it shows now: DER, leaf first.
    pub fn server_chain(&self) -> Vec<Vec<u8>> {
        self.core.shown().chain.clone()
    }

    /// The leaf that it shows now, DER.
    pub fn server_leaf(&self) -> Vec<u8> {
        self.core.shown().leaf().to_vec()
    }

    /// The key that signs its handshakes and tokens now.
    pub fn server_key(&self) -> Key {
        self.core.shown().key.clone()
    }

    /// The CAs behind it.
    pub fn network(&self) -> &Network {
        &self.core.network
    }

    /// A token of method `ott` for a new identity of this name, good for three hours.
    pub fn issue(&self, name: &str) -> Token {
        self.token(name).issue()
    }

    /// The same, but its `iss` is `url`: a relay before this controller, or an attacker.
    pub fn issue_at(&self, name: &str, url: &str) -> Token {
        self.token(name).iss(url).issue()
    }

    /// A token in the making.
    pub fn token(&self, name: &str) -> TokenBuilder<'_> {
        let shown = self.core.shown();
        let ctrls = match self.core.options.like {
            Like::V1_4 => Value::Null,
            Like::V2_1 => json!([format!(
                "tls:{}:6262",
                self.core.url.trim_start_matches("https://").rsplit_once(':').map_or("", |(host, _)| host)
            )]),
        };
        TokenBuilder::new(self, name, shown.leaf(), shown.key.clone(), ctrls)
    }

    /// A token of the network, in a file of this name: it leads to this controller and enrolls nobody.
    pub fn network_token(&self, name: &str) -> Token {
        let iss = format!("{}/", self.url());
        let token = self.token(name).claim("em", "network").claim("sub", iss.as_str()).iss(&iss).without_claim("exp");
        token.claim("aud", json!(["openziti-enroller"])).claim("ctrls", Value::Null).unregistered().issue()
    }

    /// A token that sets the password of an identity, whose name is what it logs in with.
    pub fn password_token(&self, name: &str) -> Token {
        self.token(name).claim("em", "updb").issue()
    }

    /// The passwords that were set, in order.
    pub fn passwords(&self) -> Vec<Password> {
        self.core.store.passwords()
    }

    /// Makes an identity provider known to the controllers of this network, or changes one that is.
    pub fn trust_provider(&self, provider: &IdentityProvider) {
        self.core.store.set_provider(provider.clone());
    }

    /// Tells it of a CA of somebody else, or what has changed of one.
    pub fn set_ca(&self, ca: &ThirdPartyCa) {
        self.core.store.set_ca(ca.clone());
    }

    /// The token of method `ca` of such a CA, in the making: for everybody, without an end, not in the books. A controller
    /// signs it with the key of its root identity, which is the listener's unless `signed_by` says otherwise.
    pub fn ca_token(&self, ca: &ThirdPartyCa) -> TokenBuilder<'_> {
        let token =
            self.token(&ca.name).claim("em", "ca").iss(&format!("{}/", self.url())).id(&ca.id).claim("jti", ca.id.as_str());
        token.claim("aud", json!(["openziti-enroller"])).claim("ctrls", Value::Null).without_claim("exp").unregistered()
    }

    /// What an administrator's refresh of an enrollment does: the old token is not known any more, a new one is out, good for
    /// three hours.
    pub fn refresh(&self, token: &Token) -> Token {
        self.core.store.withdraw(token.jti()).expect("a token that is out");
        self.token(token.name()).id(token.sub()).issue()
    }

    /// What an administrator's re-enrollment does: the identity's authenticator is gone, a new token for it is out. It is of
    /// method `ott` even where the certificate was a third party's: `ottca` comes out for one that is for servers too and
    /// directly below its CA, and so for hardly any (run against 1.6.20 and 2.0.3).
    pub fn re_enroll(&self, identity_id: &str) -> Token {
        let name = self.core.store.retire(identity_id).expect("an identity of this controller");
        self.token(&name).id(identity_id).issue()
    }

    /// What an administrator does instead: the authenticator is gone, and a new token of method `ottca` is out.
    pub fn re_enroll_by(&self, ca: &ThirdPartyCa, identity_id: &str) -> Token {
        let name = self.core.store.retire(identity_id).expect("an identity of this controller");
        self.token(&name).id(identity_id).of_ca(ca).issue()
    }

    /// A new server certificate with a new key: tokens made before are not of this server's key any more.
    pub fn renew_certificate(&self) {
        self.show(Key::generate(self.core.options.key));
    }

    /// A new server certificate with the old key: the `kid` of tokens made before differs, their signature still holds.
    pub fn renew_certificate_with_same_key(&self) {
        self.show(self.server_key());
    }

    fn show(&self, key: Key) {
        let core = &self.core;
        *locked(&core.shown) = Arc::new(Shown::new(&core.options.face, &core.network, key, &core.setting));
    }

    /// Replaces what it does wrong from now on.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.core.faults.set(faults.into_iter().collect());
    }

    /// What it does wrong now; faults that are meant once leave the list when they happened.
    pub fn faults(&self) -> Vec<Fault> {
        self.core.faults.list()
    }

    /// A copy of what it saw until now.
    pub fn log(&self) -> Log {
        self.core.recorder.read()
    }

    /// Waits until the log shows something; panics with `what` when it does not within `limit`.
    pub fn wait_for(&self, what: &str, limit: Duration, seen: impl Fn(&Log) -> bool) -> Log {
        let waited = self.core.recorder.wait_for(limit, seen);
        waited.unwrap_or_else(|log| panic!("waited {limit:?} in vain for {what}; the controller saw {log:#?}"))
    }

    /// Connections, handshakes, requests, POSTs to enroll.
    pub fn counts(&self) -> Counts {
        self.log().counts()
    }

    /// POSTs to enroll.
    pub fn enroll_posts(&self) -> usize {
        self.counts().enroll_posts
    }

    /// What a correct client would never have sent.
    pub fn violations(&self) -> Vec<String> {
        self.log().violations
    }

    /// Every certificate ever issued, in order.
    pub fn authenticators(&self) -> Vec<Authenticator> {
        self.core.store.authenticators()
    }

    /// Whether somebody got a certificate for the token.
    pub fn is_spent(&self, token: &Token) -> bool {
        self.core.store.is_spent(token.jti())
    }

    /// Logins that did not log out.
    pub fn sessions_open(&self) -> usize {
        self.core.sessions.open()
    }

    /// Ends every open connection without a word, as a restart would; it goes on listening.
    pub fn close_connections(&self) {
        self.core.close_connections();
    }

    /// All that it saw and did, as one JSON object. No token is in it that could still be used.
    pub fn report(&self) -> Value {
        let log = self.log();
        let enrolled: Vec<Value> = self
            .authenticators()
            .iter()
            .map(|one| {
                json!({
                    "id": one.identity_id, "name": one.identity_name, "authenticator": one.id,
                    "fingerprint_sha1": one.fingerprint_sha1, "spki_sha256": sha256_hex(&one.spki_der),
                    "subject": one.subject, "certificate": one.cert_pem,
                })
            })
            .collect();
        json!({
            "url": self.url(), "server_fingerprint_sha1": sha1_hex(&self.server_leaf()), "counts": log.counts(),
            "connections": log.connections, "handshakes": log.handshakes, "failed_handshakes": log.failed_handshakes,
            "requests": log.requests, "enrolled": enrolled, "sessions_open": self.sessions_open(),
            "violations": log.violations,
        })
    }

    fn store(&self) -> &Store {
        &self.core.store
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.core.stop();
        if let Some(listening) = self.listening.take() {
            listening.join().ok();
        }
    }
}

fn accept(core: &Arc<Core>, listener: &TcpListener) {
    let mut serving: Vec<JoinHandle<()>> = Vec::new();
    for socket in listener.incoming() {
        if core.is_stopping() {
            break;
        }
        let Ok(socket) = socket else { continue };
        let number = core.recorder.write(|log| {
            log.connections.push(log::Connection { at_ms: core.recorder.at_ms() });
            log.connections.len() - 1
        });
        if let Ok(handle) = socket.try_clone() {
            locked(&core.sockets).insert(number, handle);
        }
        // A stop between the look above and the entry in the list would otherwise leave this socket open.
        if core.is_stopping() {
            break;
        }
        serving.retain(|one| !one.is_finished());
        serving.push(thread::spawn({
            let core = core.clone();
            move || {
                connection::serve(&core, socket, number);
                locked(&core.sockets).remove(&number);
            }
        }));
    }
    for one in serving {
        one.join().ok();
    }
}

fn subjects(network: &Network) -> Vec<DistinguishedName> {
    let mut anchors = rustls::RootCertStore::empty();
    anchors.add_parsable_certificates(network.certificates().into_iter().map(Into::into));
    anchors.subjects()
}

fn sha256_hex(bytes: &[u8]) -> String {
    crate::pki::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}
