//! One TCP connection from accept to close: handshake, then requests one after the other.

use super::answers::{Answer, Ending};
use super::core::Core;
use super::log::{ClientCertificate, FailedHandshake, Handshake, Request};
use super::misbehave::Fault;
use super::wire::{self, Incoming, Manner, NoRequest, Reader};
use super::{Like, endpoints};
use crate::pki::{sha1_hex, subject_of};
use rustls::server::Acceptor;
use rustls::{HandshakeKind, ServerConnection, StreamOwned};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) connection: usize,
    /// DER, leaf first; empty if none was shown.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) address: String,
}

pub(crate) fn serve(core: &Arc<Core>, mut socket: TcpStream, number: usize) {
    if socket.set_nodelay(true).and_then(|()| socket.set_read_timeout(Some(core.options.idle))).is_err() {
        return;
    }
    if core.faults.has(&Fault::SilentAccept) {
        hold(&mut socket);
        return;
    }
    let (tls, handshake) = match shake_hands(core, &mut socket, number) {
        Ok(done) => done,
        Err(why) => {
            core.recorder.write(|log| log.failed_handshakes.push(FailedHandshake { connection: number, why }));
            linger(&mut socket);
            return;
        }
    };
    let chain = tls.peer_certificates().unwrap_or_default().iter().map(|one| one.to_vec()).collect();
    let address = socket.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
    let peer = Peer { connection: number, chain, address };
    core.recorder.write(|log| log.handshakes.push(handshake));
    converse(core, &mut StreamOwned::new(tls, socket), &peer);
}

fn shake_hands(core: &Core, socket: &mut TcpStream, number: usize) -> Result<(ServerConnection, Handshake), String> {
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        match acceptor.read_tls(socket) {
            Ok(0) => return Err("the client closed before a ClientHello".into()),
            Ok(_) => {}
            Err(error) => return Err(format!("no ClientHello: {error}")),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) => {}
            Err((error, mut alert)) => {
                alert.write_all(socket).ok();
                return Err(error.to_string());
            }
        }
    };
    let hello = accepted.client_hello();
    let offered = hello.alpn().into_iter().flatten().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let sni = hello.server_name().map(str::to_owned);
    let shown = core.shown();
    let config = match (core.faults.has(&Fault::MissingIntermediate), core.faults.has(&Fault::RootInChain)) {
        (true, _) => shown.leaf_only.clone(),
        (false, true) => shown.with_root.clone(),
        (false, false) => shown.whole.clone(),
    };
    let mut tls = accepted.into_connection(config).map_err(|(error, mut alert)| {
        alert.write_all(socket).ok();
        error.to_string()
    })?;
    while tls.is_handshaking() {
        tls.complete_io(socket).map_err(|error| error.to_string())?;
    }
    let client_certificate = tls.peer_certificates().and_then(|chain| {
        let leaf = chain.first()?;
        Some(ClientCertificate { subject: subject_of(leaf), fingerprint_sha1: sha1_hex(leaf), chain_length: chain.len() })
    });
    let handshake = Handshake {
        connection: number,
        version: tls.protocol_version().and_then(|version| version.as_str()).unwrap_or_default().to_owned(),
        alpn_offered: offered,
        sni,
        group: tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        client_certificate,
    };
    Ok((tls, handshake))
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn converse(core: &Arc<Core>, stream: &mut Stream, peer: &Peer) {
    let mut reader = Reader::default();
    loop {
        stream.sock.set_read_timeout(Some(core.idle())).ok();
        if !reader.wait(stream) {
            break goodbye(stream);
        }
        stream.sock.set_read_timeout(Some(core.options.idle)).ok();
        let request = match reader.next(stream) {
            Ok(request) => request,
            Err(NoRequest::Gone) => break goodbye(stream),
            Err(NoRequest::Stalled) => {
                core.recorder.violation("a request that was begun and not ended, or has no end");
                break goodbye(stream);
            }
        };
        let index = note(core, &request, peer);
        let answer = answer(core, &request, peer);
        if !deliver(core, stream, &request, &answer, index) {
            break;
        }
    }
}

fn note(core: &Core, request: &Incoming, peer: &Peer) -> usize {
    let hidden = |names: &[&str], name: &str, value: &str| {
        if names.contains(&name) { "…".to_owned() } else { value.to_owned() }
    };
    let query = request.query.iter().map(|(key, value)| (key.clone(), hidden(&["token"], key, value))).collect();
    let headers = request.headers.iter().map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let value = hidden(&["authorization", "zt-session"], &name, value);
        (name, value)
    });
    let seen = Request {
        connection: peer.connection,
        at_ms: core.recorder.at_ms(),
        method: request.method.clone(),
        path: request.path.clone(),
        query,
        headers: headers.collect(),
        body_length: request.body.len(),
        status: None,
    };
    core.recorder.write(|log| {
        let place = format!("{} {}", seen.method, seen.path);
        log.violations.extend(request.problems.iter().map(|(_, sentence)| format!("{place}: {sentence}")));
        log.requests.push(seen);
        log.requests.len() - 1
    })
}

fn answer(core: &Core, request: &Incoming, peer: &Peer) -> Answer {
    match request.problems.iter().find_map(|(status, sentence)| Some((status.as_ref()?, sentence))) {
        Some((413, _)) if core.options.like == Like::V2_1 => Answer::bare("REQUEST_ENTITY_TOO_LARGE").ending(Ending::CloseSaid),
        Some((status, sentence)) => {
            // Go's server answers these itself, before any handler: plain text and the end of the connection.
            Answer::new(*status, "text/plain; charset=utf-8", sentence.as_str()).ending(Ending::CloseSaid)
        }
        None => endpoints::answer(core, request, peer),
    }
}

/// Whether the conversation goes on.
fn deliver(core: &Core, stream: &mut Stream, request: &Incoming, answer: &Answer, index: usize) -> bool {
    if let Some(time) = core.slowness() {
        core.pause(time);
    }
    if core.is_stopping() {
        return false;
    }
    let wants_close = request.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    match answer.ending {
        Ending::Hold => {
            hold(&mut stream.sock);
            return false;
        }
        Ending::Drop => {
            stream.sock.shutdown(Shutdown::Both).ok();
            return false;
        }
        _ => {}
    }
    let mut headers = answer.headers.clone();
    headers.extend(core.common_headers());
    if answer.ending == Ending::CloseSaid || wants_close {
        headers.push(("Connection".into(), "close".into()));
    }
    let manner = Manner {
        gzip: core.faults.has(&Fault::Gzip) && !answer.body.is_empty(),
        chunk: match core.faults.has(&Fault::Chunked) {
            true if !answer.overstated => Some(777),
            _ => answer.chunked.then_some(2048),
        },
        overstated: answer.overstated,
        bytes_per_second: core.drip(),
    };
    let mut bytes = wire::serialize(answer.status, &headers, &answer.body, manner);
    if let Ending::Cut(length) = answer.ending {
        bytes.truncate(length);
    }
    let whole = !matches!(answer.ending, Ending::Cut(_));
    // Before the last byte leaves: who has read the answer must find its status in the log.
    let status = |status| core.recorder.write(|log| log.requests[index].status = status);
    status(whole.then_some(answer.status));
    let sent = wire::send(stream, &bytes, manner, |time| core.pause(time));
    match (sent, answer.ending) {
        (Err(_), _) => {
            status(None);
            false
        }
        (Ok(()), Ending::Cut(_)) => {
            stream.sock.shutdown(Shutdown::Both).ok();
            false
        }
        (Ok(()), ending) => {
            let open = ending == Ending::Open && !wants_close && !answer.overstated;
            if !open {
                goodbye(stream);
            }
            open
        }
    }
}

/// close_notify, then the end.
fn goodbye(stream: &mut Stream) {
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock).ok();
    linger(&mut stream.sock);
}

/// Ends our half and reads what the client still sends, so that its kernel gets no reset that would take our last bytes
/// (an answer, an alert) away from it.
fn linger(socket: &mut TcpStream) {
    socket.shutdown(Shutdown::Write).ok();
    socket.set_read_timeout(Some(Duration::from_millis(200))).ok();
    let mut rest = [0; 4096];
    while matches!(socket.read(&mut rest), Ok(length) if length > 0) {}
}

/// Reads and says nothing until the other end, or the controller's stop, closes the socket.
fn hold(socket: &mut TcpStream) {
    socket.set_read_timeout(None).ok();
    let mut ignored = [0; 4096];
    while matches!(socket.read(&mut ignored), Ok(length) if length > 0) {}
}
