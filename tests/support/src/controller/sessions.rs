//! Login by certificate, and what a session gives (identity-and-renewal.md §C).

use super::Like;
use super::answers::Answer;
use super::connection::Peer;
use super::core::{Core, locked, rfc3339};
use super::misbehave::Fault;
use super::store::{Authenticator, uuid};
use super::wire::Incoming;
use crate::pki::unix_now;
use der::Decode;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Mutex;

/// Seconds; the default of `edge.api.sessionTimeout`.
const LIFETIME: u64 = 30 * 60;

#[derive(Clone, Debug)]
pub(super) struct Session {
    id: String,
    token: String,
    pub(super) authenticator: Authenticator,
    /// False while a second factor is due.
    pub(super) complete: bool,
    address: String,
}

/// The open sessions, by token.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    pub(crate) fn open(&self) -> usize {
        locked(&self.0).len()
    }
}

/// `POST /edge/client/v1/authenticate?method=…`
pub(crate) fn authenticate(core: &Core, request: &Incoming, peer: &Peer) -> Answer {
    if core.faults.take(&Fault::LoginTooManyOnce) {
        return Answer::error("SERVER_TOO_MANY_REQUESTS").with_header("Retry-After", "1");
    }
    match request.parameter("method") {
        Some("cert") => {}
        None => {
            core.recorder.violation("authenticate without a method");
            return Answer::invalid(602, "method", "method in query is required", "[]");
        }
        Some(other) => {
            core.recorder.violation("authenticate with another method than cert");
            return Answer::invalid(606, "method", "method in query should be one of [password cert ext-jwt]", other);
        }
    }
    if !request.body.is_empty() {
        if request.media_type() != Some("application/json") {
            core.recorder.violation("authenticate: a body that is not declared as application/json");
            return Answer::wrong_type(request.value("content-type"), "application/json");
        }
        if !serde_json::from_slice::<Value>(&request.body).is_ok_and(|body| body.is_object()) {
            core.recorder.violation("authenticate: a body that is no JSON object");
            return Answer::error_because("COULD_NOT_PARSE_BODY", "parsing auth body from \"\" failed");
        }
    }
    let refused = || Answer::error("INVALID_AUTH");
    if core.faults.has(&Fault::OidcOnly) {
        return Answer::error("NOT_FOUND");
    }
    if core.faults.has(&Fault::Login401) {
        return refused();
    }
    let Some(authenticator) = authenticator_of(core, peer) else { return refused() };
    let complete = !core.faults.has(&Fault::LoginMfa);
    let session = Session { id: uuid(), token: uuid(), authenticator, complete, address: peer.address.clone() };
    let answer = session_answer(core, &session, peer);
    locked(&core.sessions.0).insert(session.token.clone(), session);
    answer
}

/// Every reason gives the same 401: no certificate, no chain, no clientAuth, unknown, retired. One that has ended logs in, as
/// the policy allows that controllers begin with.
fn authenticator_of(core: &Core, peer: &Peer) -> Option<Authenticator> {
    let leaf = peer.chain.first()?;
    let at = if core.faults.has(&Fault::RefuseExpired) { UnixTime::now() } else { within_its_dates(leaf)? };
    judged(core, peer, at).then(|| core.store.authenticator_of(leaf))?
}

/// Whether the chain that was shown leads to the network's CAs at this time.
pub(super) fn judged(core: &Core, peer: &Peer, at: UnixTime) -> bool {
    let chain: Vec<CertificateDer<'_>> = peer.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let judge = |(leaf, rest): (&CertificateDer<'_>, &[CertificateDer<'_>])| core.client_judge.verify_client_cert(leaf, rest, at);
    let of_others = || core.store.cas().iter().any(|ca| ca.auth && ca.is_verified && ca.vouches_for(&peer.chain));
    chain.split_first().is_some_and(|chain| judge(chain).is_ok()) || of_others()
}

/// Now, or the nearest moment at which the certificate is valid.
pub(super) fn within_its_dates(leaf: &[u8]) -> Option<UnixTime> {
    let validity = *x509_cert::Certificate::from_der(leaf).ok()?.tbs_certificate().validity();
    let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
    let at = unix_now().clamp(seconds(validity.not_before), seconds(validity.not_after));
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)))
}

fn session_answer(core: &Core, session: &Session, peer: &Peer) -> Answer {
    let expires_at = rfc3339(unix_now() + LIFETIME);
    let now = rfc3339(unix_now());
    let second_factor = json!({
        "typeId": "MFA", "provider": "ziti", "httpMethod": "POST", "httpUrl": "./authenticate/mfa",
        "minLength": 4, "maxLength": 6, "format": "alphaNumeric",
    });
    let identity = &session.authenticator.identity_id;
    let mut data = json!({
        "id": session.id,
        "token": session.token,
        "identityId": identity,
        "identity": {
            "entity": "identities", "id": identity, "name": session.authenticator.identity_name,
            "_links": {"self": {"href": format!("./identities/{identity}")}},
        },
        "authenticatorId": session.authenticator.id,
        "ipAddress": session.address,
        "configTypes": [],
        "authQueries": if session.complete { json!([]) } else { json!([second_factor]) },
        "isMfaRequired": !session.complete,
        "isMfaComplete": false,
        "expiresAt": expires_at,
        "expirationSeconds": LIFETIME,
        "createdAt": now,
        "updatedAt": now,
        "lastActivityAt": now,
        "cachedLastActivityAt": now,
        "isCertExtendable": !core.store.is_foreign(&session.authenticator.id),
        "tags": {},
        "_links": {"self": {"href": "./current-api-session"}},
    });
    // `isCertExtendRequested`, `isCertKeyRollRequested` and this one are left out where they are false.
    if core.options.like == Like::V2_1 {
        let (renewal, new_key) = core.store.requested(&session.authenticator.id);
        let alone = peer.chain.len() == 1 && session.authenticator.ca_id.is_none();
        let improper = alone || core.faults.has(&Fault::ImproperChain);
        let flags =
            [("isCertExtendRequested", renewal), ("isCertKeyRollRequested", new_key), ("improperClientCertChain", improper)];
        for (name, _) in flags.into_iter().filter(|(_, is_so)| *is_so) {
            data[name] = true.into();
        }
    }
    Answer::data(&data)
        .with_header("Zt-Session", &session.token)
        .with_header("Expiration-Seconds", LIFETIME.to_string())
        .with_header("Expires-At", expires_at.replace('T', " ").replace('Z', ".000000001 +0000 UTC"))
}

pub(super) fn session_of(core: &Core, request: &Incoming) -> Option<Session> {
    locked(&core.sessions.0).get(request.value("zt-session")?).cloned()
}

pub(super) fn unauthorized(core: &Core, what: &str, request: &Incoming) -> Answer {
    // 401s of 2.x say how to do better.
    let challenge = |answer: Answer, error: &str| match core.options.like {
        Like::V1_4 => answer,
        Like::V2_1 => answer.with_header("Www-Authenticate", format!("zt-session realm=\"zt-session\" {error}")),
    };
    if request.value("zt-session").is_some() {
        return challenge(Answer::error("UNAUTHORIZED"), "error=\"invalid\" error_description=\"token is invalid\"");
    }
    core.recorder.violation(format!("{what} without a zt-session header"));
    let answer = Answer::error_because("UNAUTHORIZED", "unauthenticated for invalid credentials");
    challenge(answer, "error=\"missing\" error_description=\"no matching token was provided\"")
}

/// `GET /edge/client/v1/current-identity`
pub(crate) fn current_identity(core: &Core, request: &Incoming) -> Answer {
    let Some(session) = session_of(core, request).filter(|session| session.complete) else {
        return unauthorized(core, "current-identity", request);
    };
    let now = core.store.in_force(|one| one.id == session.authenticator.id);
    let mut authenticator = now.unwrap_or(session.authenticator);
    if core.faults.has(&Fault::OtherFingerprint) {
        authenticator.fingerprint_sha1 = crate::pki::sha1_hex(b"another");
    }
    let identity = &authenticator.identity_id;
    Answer::data(&json!({
        "id": identity,
        "name": authenticator.identity_name,
        "type": {"entity": "identity-types", "id": "Default", "name": "Default"},
        "typeId": "Default",
        "isAdmin": false,
        "isDefaultAdmin": false,
        "disabled": false,
        "hasApiSession": true,
        "hasEdgeRouterConnection": false,
        "edgeRouterConnectionStatus": "offline",
        "appData": {},
        "authPolicy": {"entity": "auth-policies", "id": "default", "name": "Default"},
        "defaultHostingCost": 0,
        "defaultHostingPrecedence": "default",
        "interfaces": null,
        "permissions": null,
        "serviceHostingCosts": {},
        "serviceHostingPrecedences": {},
        "isMfaEnabled": false,
        "roleAttributes": [],
        "authPolicyId": "default",
        "externalId": null,
        "authenticators": {"cert": {"id": authenticator.id, "fingerprint": authenticator.fingerprint_sha1}},
        "enrollment": {},
        "envInfo": {},
        "sdkInfo": {},
        "tags": {},
        "_links": {"self": {"href": format!("./identities/{identity}")}},
    }))
}

/// `GET /edge/client/v1/current-api-session`; a session that lacks its second factor may ask too.
pub(crate) fn current_session(core: &Core, request: &Incoming, peer: &Peer) -> Answer {
    match session_of(core, request) {
        Some(session) => session_answer(core, &session, peer),
        None => unauthorized(core, "current-api-session", request),
    }
}

/// `DELETE /edge/client/v1/current-api-session`
pub(crate) fn log_out(core: &Core, request: &Incoming) -> Answer {
    let token = request.value("zt-session").unwrap_or_default();
    match locked(&core.sessions.0).remove(token) {
        Some(_) => Answer::data(&json!({})),
        None => unauthorized(core, "logout", request),
    }
}
