//! Paths, and the answers that need no books: CA certificates and version.

use super::answers::{Answer, Ending};
use super::connection::Peer;
use super::core::Core;
use super::misbehave::Fault;
use super::wire::{Incoming, canonical_path};
use super::{Like, enroll, extend, sessions, signers};
use crate::pki::tlv::{CONTEXT_0, CONTEXT_1, SEQUENCE, SET, element};
use crate::pki::{Authority, pem, random};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

const CLIENT: &str = "/edge/client/v1";
const AUTHENTICATORS: &str = "/current-identity/authenticators/";

pub(crate) fn answer(core: &Core, request: &Incoming, peer: &Peer) -> Answer {
    let path = canonical_path(&request.path);
    let below = path.strip_prefix(CLIENT).unwrap_or(&path);
    match (request.method.as_str(), below) {
        ("GET", "/.well-known/est/cacerts") => cacerts(core),
        ("GET", "" | "/" | "/version") => version(core),
        ("GET", "/external-jwt-signers") => signers::list(core, request),
        ("POST", "/enroll/token") => signers::enroll(core, request),
        ("POST", "/enroll" | "/enroll/ott") => enroll::answer(core, request, peer, below == "/enroll/ott"),
        ("POST", "/authenticate") => sessions::authenticate(core, request, peer),
        ("GET", "/current-identity") => sessions::current_identity(core, request),
        ("GET", "/current-api-session") => sessions::current_session(core, request, peer),
        ("DELETE", "/current-api-session") => sessions::log_out(core, request),
        (_, below) if below.starts_with(AUTHENTICATORS) => extend::answer(core, request, peer, &below[AUTHENTICATORS.len()..]),
        _ => {
            if path.starts_with("/.well-known/est/redirected") {
                core.recorder.violation("followed a redirect");
            }
            match allowed(below) {
                Some(methods) => {
                    let why = format!("method {} is not allowed, but [{methods}] are", request.method);
                    Answer::error_because("METHOD_NOT_ALLOWED", &why)
                }
                None => Answer::error_because("NOT_FOUND", &format!("path {path} was not found")),
            }
        }
    }
}

/// The methods of the paths that there are.
fn allowed(below: &str) -> Option<&'static str> {
    match below {
        "/.well-known/est/cacerts" | "" | "/" | "/version" | "/current-identity" | "/external-jwt-signers" => Some("GET"),
        "/enroll" | "/enroll/ott" | "/enroll/token" | "/authenticate" => Some("POST"),
        "/current-api-session" => Some("DELETE,GET"),
        _ => None,
    }
}

/// `GET /.well-known/est/cacerts` (enrollment-protocol.md §3). Whatever Accept says, as 1.6.20 and 2.0.3 do (run).
fn cacerts(core: &Core) -> Answer {
    let faults = &core.faults;
    if faults.has(&Fault::SilentCacerts) {
        return Answer::none(Ending::Hold);
    }
    if faults.has(&Fault::Cacerts500) {
        return Answer::error("UNHANDLED");
    }
    if faults.has(&Fault::Redirect) {
        let to = format!("{}/.well-known/est/redirected", core.url);
        return Answer::new(302, "text/html; charset=utf-8", format!("<a href=\"{to}\">Found</a>.\n"))
            .with_header("Location", to);
    }
    if faults.has(&Fault::CacertsHtml) {
        return Answer::html();
    }
    let mut certificates = core.network.certificates();
    if faults.has(&Fault::MissingIntermediate) {
        certificates.truncate(1);
    }
    if faults.has(&Fault::OtherCacerts) {
        certificates = core.foreign.certificates();
    }
    if faults.has(&Fault::CacertsEmpty) {
        certificates.clear();
    }
    if faults.has(&Fault::Cacerts65) {
        certificates.extend((certificates.len()..65).map(|n| Authority::root(&format!("Root {n}")).certificate().to_vec()));
    }
    if faults.has(&Fault::CacertsMixed) {
        certificates.extend(core.network.certificates());
        certificates.push(core.shown().leaf().to_vec());
    }
    shuffle(&mut certificates);
    let body = if faults.has(&Fault::CacertsLarge) {
        lines(&vec![0x30; 10 * 1024 * 1024 / 65 * 48])
    } else if faults.has(&Fault::CacertsPem) {
        certificates.iter().map(|der| pem("CERTIFICATE", der)).collect()
    } else {
        lines(&certs_only(&certificates))
    };
    let ending = match (faults.has(&Fault::CloseAfterCacerts), faults.has(&Fault::CloseHeader)) {
        (_, true) => Ending::CloseSaid,
        (true, false) => Ending::CloseUnsaid,
        (false, false) => Ending::Open,
    };
    let mut answer = Answer::new(200, "application/pkcs7-mime", body);
    answer.chunked = answer.body.len() > 2048;
    answer.with_header("Content-Transfer-Encoding", "base64").ending(ending)
}

/// Go hands CAs out in the order of a map, which is none.
fn shuffle(certificates: &mut [Vec<u8>]) {
    for place in (1..certificates.len()).rev() {
        let other = u64::from_le_bytes(random()) % (place as u64 + 1);
        certificates.swap(place, other as usize);
    }
}

/// A degenerate PKCS#7 SignedData as the controller's library writes it: no digest algorithms, no signers, and an empty
/// `[1]` where CRLs would be.
fn certs_only(certificates: &[Vec<u8>]) -> Vec<u8> {
    const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    const VERSION_1: &[u8] = &[0x02, 0x01, 0x01];
    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    let signed_data = element(
        SEQUENCE,
        &[
            VERSION_1,
            &element(SET, &[]),
            &element(SEQUENCE, &[DATA]),
            &element(CONTEXT_0, &certificates),
            &element(CONTEXT_1, &[]),
            &element(SET, &[]),
        ],
    );
    element(SEQUENCE, &[SIGNED_DATA, &element(CONTEXT_0, &[&signed_data])])
}

/// Base64 in lines of 64, no newline after the last.
fn lines(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut body = String::with_capacity(text.len() + text.len() / 64);
    for (place, letter) in text.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            body.push('\n');
        }
        body.push(letter);
    }
    body
}

/// `GET /version` (identity-and-renewal.md §C.2). No OIDC is announced but by a fault: this controller has none.
fn version(core: &Core) -> Answer {
    let api = |path: &str| json!({"v1": {"path": path, "apiBaseUrls": [format!("{}{path}", core.url)]}});
    let mut data = json!({
        "version": core.version(),
        "revision": "000000000000",
        "buildDate": "2026-01-01T00:00:00Z",
        "runtimeVersion": "go1.25.0",
        "apiVersions": {"edge": api(CLIENT), "edge-client": api(CLIENT), "edge-management": api("/edge/management/v1")},
    });
    if core.options.like == Like::V2_1 {
        let oidc = core.faults.has(&Fault::OidcOnly);
        data["capabilities"] = if oidc { json!(["OIDC_AUTH"]) } else { json!([]) };
    }
    Answer::data(&data)
}
