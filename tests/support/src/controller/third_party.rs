//! Enrollment with a certificate of somebody else's CA: `ottca` and `ca` (enrollment-protocol.md §2.2, §2.3). What is
//! checked, and in which order, is what 1.6.20 and 2.0.3 check.

use super::Like;
use super::answers::Answer;
use super::connection::Peer;
use super::core::Core;
use super::enroll::{Refused, finished, itself, lost, usable};
use super::face::provider;
use super::store::{Authenticator, short_id};
use super::wire::Incoming;
use crate::pki::{self, Authority, pem, sha1_hex, spki_of};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};

/// A CA of somebody else that a controller was told of.
#[derive(Clone, Debug)]
pub struct ThirdPartyCa {
    /// At the controller.
    pub id: String,
    /// Goes into the names of identities.
    pub name: String,
    /// DER; what is shown must lead to it.
    pub certificate: Vec<u8>,
    /// Its owner has proved to hold the key: without that it enrolls nobody by itself and logs nobody in.
    pub is_verified: bool,
    /// For tokens of method `ottca`.
    pub one_time: bool,
    /// For the token of method `ca`.
    pub auto: bool,
    /// Its certificates log in.
    pub auth: bool,
    /// Name of a new identity; knows `[caName]`, `[caId]`, `[commonName]`, `[requestedName]`, `[identityId]`.
    pub name_format: String,
}

impl ThirdPartyCa {
    /// One that may do everything.
    pub fn new(name: &str, authority: &Authority) -> Self {
        Self::of_certificate(name, authority.certificate())
    }

    /// The same, of a certificate (DER).
    pub fn of_certificate(name: &str, certificate: &[u8]) -> Self {
        Self {
            id: short_id(),
            name: name.into(),
            certificate: certificate.to_vec(),
            is_verified: true,
            one_time: true,
            auto: true,
            auth: true,
            name_format: "[caName]-[commonName]".into(),
        }
    }

    /// Whether the chain (DER, leaf first) leads here, for client authentication and now.
    pub(crate) fn vouches_for(&self, chain: &[Vec<u8>]) -> bool {
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates([CertificateDer::from(self.certificate.as_slice())]);
        let Ok(judge) = WebPkiClientVerifier::builder_with_provider(anchors.into(), provider()).build() else { return false };
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        judge.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// `POST /enroll?method=ottca&token=…`, the certificate in the handshake and no body.
pub(crate) fn one_time(core: &Core, request: &Incoming, peer: &Peer) -> Result<Answer, Refused> {
    let violation = |sentence: &str| core.recorder.violation(format!("enroll ottca: {sentence}"));
    if !request.body.is_empty() {
        violation("a body, which nobody reads");
    }
    if !matches!(request.media_type(), Some("text/plain" | "application/json")) {
        violation("the content type is neither text/plain nor application/json");
    }
    let token = request.parameter("token").unwrap_or_default();
    let fingerprint = peer.chain.first().map(|leaf| sha1_hex(leaf)).unwrap_or_default();
    if !core.store.post_seen(token, fingerprint.as_bytes()) {
        violation("two POSTs with one token and different certificates, the first not refused");
    }
    let enrollment = usable(core, token, request.parameter("method"))?;
    let Some(ca) = enrollment.ca_id.as_deref().and_then(|id| core.store.ca(id)) else {
        return Err(Refused::by("INVALID_ENROLLMENT_TOKEN"));
    };
    if !ca.one_time {
        return Err(Refused::by("ENROLLMENT_CA_NOT_VALID"));
    }
    // Intermediates count from 1.6.1.
    let (shown, failed) = match core.options.like {
        Like::V1_4 => (peer.chain.get(..1).unwrap_or_default(), "CERT_FAILED_VALIDATION"),
        Like::V2_1 => (peer.chain.as_slice(), "CERTIFICATE_FAILED_VALIDATION"),
    };
    if !ca.vouches_for(shown) {
        return Err(Refused::by(failed));
    }
    if core.store.knows(&fingerprint) {
        return Err(Refused::because("CERT_IN_USE", json!({"data": {"fingerprint": fingerprint}, "message": ""})));
    }
    let authenticator = authenticator(&ca, peer, token, &enrollment.identity_id, &enrollment.identity_name);
    if !core.store.spend(token, authenticator) {
        return Err(Refused::by("NOT_FOUND"));
    }
    let data = if core.options.like == Like::V2_1 { json!({"controllers": [itself(core)]}) } else { json!({}) };
    Ok(success(core, data))
}

/// `POST /enroll?method=ca`: no token; `{"name":"…"}` may be the body.
pub(crate) fn auto(core: &Core, request: &Incoming, peer: &Peer) -> Result<Answer, Refused> {
    let violation = |sentence: &str| core.recorder.violation(format!("enroll ca: {sentence}"));
    if request.parameter("token").is_some() {
        violation("a token, which is the id of a CA and no business of this request");
    }
    let mut requested = String::new();
    if request.media_type() != Some("application/json") {
        violation("the content type is not application/json: a name would be lost");
    } else if !request.body.is_empty() {
        let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
            violation("a body that is no JSON object");
            return Err(Refused::because("COULD_NOT_PARSE_BODY", json!({"code": "UNHANDLED", "message": "parsing body"})));
        };
        requested = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    let cas = core.store.cas();
    if cas.is_empty() {
        return Err(Refused::by("ENROLLMENT_NO_VALID_CAS"));
    }
    let vouching = cas.into_iter().filter(|ca| ca.auto && ca.is_verified).find(|ca| ca.vouches_for(&peer.chain));
    let Some(ca) = vouching else { return Err(Refused::by("CERT_FAILED_VALIDATION")) };
    let fingerprint = sha1_hex(&peer.chain[0]);
    if core.store.knows(&fingerprint) {
        return Err(Refused::by("CERT_IN_USE"));
    }
    let identity_id = short_id();
    if requested.is_empty() {
        requested.clone_from(&identity_id);
    }
    let name = core.store.unused_name(
        &[
            ("[caName]", &ca.name),
            ("[caId]", &ca.id),
            ("[commonName]", &common_name(&peer.chain[0])),
            ("[requestedName]", &requested),
            ("[identityId]", &identity_id),
        ],
        &ca.name_format,
    );
    let added = core.store.add(authenticator(&ca, peer, "", &identity_id, &name));
    if added { Ok(success(core, json!({}))) } else { Err(Refused::by("CERT_IN_USE")) }
}

fn success(core: &Core, data: Value) -> Answer {
    lost(core).unwrap_or_else(|| finished(core, Answer::data(&data)))
}

fn authenticator(ca: &ThirdPartyCa, peer: &Peer, jti: &str, identity_id: &str, name: &str) -> Authenticator {
    let leaf = &peer.chain[0];
    Authenticator {
        id: short_id(),
        identity_id: identity_id.into(),
        identity_name: name.into(),
        jti: jti.into(),
        fingerprint_sha1: sha1_hex(leaf),
        cert_pem: pem("CERTIFICATE", leaf),
        spki_der: spki_of(leaf),
        subject: pki::subject_of(leaf),
        cert_der: leaf.clone(),
        ca_id: Some(ca.id.clone()),
    }
}

/// As Go reads it: the last one.
fn common_name(leaf: &[u8]) -> String {
    let subject = pki::subject_of(leaf);
    let name = subject.split(',').find_map(|part| part.strip_prefix("CN="));
    name.unwrap_or_default().to_owned()
}
