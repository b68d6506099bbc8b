//! `POST /enroll`: a token and a request for a certificate (enrollment-protocol.md §2.0, §2.1, §2.8, §5).

use super::Like;
use super::answers::{Answer, Ending};
use super::connection::Peer;
use super::core::Core;
use super::csr::{self, Csr};
use super::misbehave::Fault;
use super::password;
use super::store::{Authenticator, Enrollment, Unusable, short_id};
use super::third_party;
use super::wire::Incoming;
use crate::pki::{self, Key, KeyType, Leaf, pem, sha1_hex, spki_of};
use serde_json::{Value, json};

/// The content types that carry a request; the first two in every version.
const MODERN: [&str; 4] = ["application/x-pem-file", "text/plain", "application/pkcs7", "application/json"];

/// Token and request, wherever they stood.
struct Submission {
    token: String,
    method: Option<String>,
    csr: Vec<u8>,
}

/// Why an enrollment is refused, and what is answered.
pub(crate) struct Refused {
    code: &'static str,
    answer: Answer,
}

impl Refused {
    pub(crate) fn by(code: &'static str) -> Self {
        Self { code, answer: Answer::error(code) }
    }

    /// With the cause as it stands in the envelope.
    pub(crate) fn because(code: &'static str, cause: Value) -> Self {
        Self { code, answer: Answer::error_with(code, cause) }
    }
}

pub(crate) fn answer(core: &Core, request: &Incoming, peer: &Peer, json_form: bool) -> Answer {
    let token = request.parameter("token").unwrap_or_default();
    let said = request.parameter("method");
    // Up to 1.4 it is the token that counts, whatever the query says.
    let stored = core.store.method_of(token).filter(|_| core.options.like == Like::V1_4 && said != Some("ca"));
    let by_certificate = match stored.as_deref().or(said) {
        Some("ottca") => third_party::one_time,
        Some("ca") => third_party::auto,
        Some("updb") => return password::answer(core, request),
        _ => return by_request(core, request, json_form),
    };
    if let Err(refusal) = accepts_json(core, request) {
        return *refusal;
    }
    match early_fault(core) {
        Some(refusal) => refused_early(core, token, refusal),
        None => by_certificate(core, request, peer).unwrap_or_else(|refused| refused_late(core, token, refused)),
    }
}

/// With a certificate signing request.
fn by_request(core: &Core, request: &Incoming, json_form: bool) -> Answer {
    let submission = match submission(core, request, json_form) {
        Ok(submission) => submission,
        Err(refusal) => return *refusal,
    };
    if !core.store.post_seen(&submission.token, &submission.csr) {
        core.recorder.violation("enroll: two POSTs with one token and different requests, the first not refused");
    }
    match early_fault(core) {
        Some(refusal) => refused_early(core, &submission.token, refusal),
        None => enroll(core, request, &submission).unwrap_or_else(|refused| refused_late(core, &submission.token, refused)),
    }
}

fn refused_early(core: &Core, token: &str, refusal: Answer) -> Answer {
    let definite = (400..500).contains(&refusal.status) && refusal.status != 429;
    if definite && !core.faults.has(&Fault::Gone) {
        core.store.post_refused(token);
    }
    refusal
}

fn refused_late(core: &Core, token: &str, refused: Refused) -> Answer {
    if !["INVALID_ENROLLMENT_TOKEN", "NOT_FOUND"].contains(&refused.code) {
        core.store.post_refused(token);
    }
    refused.answer
}

/// What every enrollment says that it takes.
fn accepts_json(core: &Core, request: &Incoming) -> Result<(), Box<Answer>> {
    if request.values("accept").collect::<Vec<_>>() != ["application/json"] {
        core.recorder
            .violation("enroll: Accept is not the single value application/json; up to 1.4 the answer would be the leaf alone");
    }
    // Of several Accept lines the first counts.
    let accepts = |accept: &str| accept.contains("application/json") || accept.contains("*/*");
    if core.options.like == Like::V2_1 && request.value("accept").is_some_and(|accept| !accepts(accept)) {
        return Err(Answer::error("UNSUPPORTED_MEDIA").into());
    }
    Ok(())
}

/// What must hold before the token is looked at.
fn submission(core: &Core, request: &Incoming, json_form: bool) -> Result<Submission, Box<Answer>> {
    let violation = |sentence: &str| core.recorder.violation(format!("enroll: {sentence}"));
    accepts_json(core, request)?;
    let modern = core.options.like == Like::V2_1;
    let media_type = request.media_type();
    let taken: &[&str] = if modern { &MODERN } else { &MODERN[..2] };
    let known = media_type.is_some_and(|sent| taken.contains(&sent));
    if media_type != Some("application/x-pem-file") && !(modern && media_type == Some("application/json")) {
        violation("the content type is not application/x-pem-file, the one that every version takes for a request");
    }
    if !known && !modern {
        return Err(Answer::error("INVALID_CONTENT_TYPE").into());
    }
    // go-openapi forgives case and white space; the code behind it does not, and then sees no body.
    let forgiven = media_type.is_some_and(|sent| taken.contains(&&*sent.trim().to_ascii_lowercase()));
    if !known && !forgiven {
        return Err(Answer::wrong_type(
            request.value("content-type"),
            "application/json application/x-pem-file text/plain application/pkcs7",
        )
        .into());
    }
    if !modern && json_form {
        violation("POST /enroll/ott, which controllers before 1.5 do not have");
        return Err(Answer::error("INVALID_CONTENT_TYPE").into());
    }
    let mut submission = Submission {
        token: request.parameter("token").unwrap_or_default().into(),
        method: request.parameter("method").map(str::to_owned),
        csr: if known { request.body.clone() } else { Vec::new() },
    };
    if media_type == Some("application/json") {
        let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
            violation("a body that is no JSON object");
            return Err(Answer::error_because("COULD_NOT_PARSE_BODY", "parsing body body from \"\" failed").into());
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        submission.csr = text("clientCsr").into_bytes();
        if json_form {
            submission.token = text("token");
            submission.method = Some("ott".into());
        }
    } else if json_form {
        violation("POST /enroll/ott without JSON");
        return Err(Answer::wrong_type(request.value("content-type"), "application/json").into());
    }
    Ok(submission)
}

/// Faults that keep the token.
pub(crate) fn early_fault(core: &Core) -> Option<Answer> {
    let faults = &core.faults;
    if faults.has(&Fault::SilentPost) {
        return Some(Answer::none(Ending::Hold));
    }
    if faults.take(&Fault::DropPostBeforeOnce) || faults.has(&Fault::DropPostBefore) {
        return Some(Answer::none(Ending::Drop));
    }
    if faults.has(&Fault::Gone) {
        return Some(Answer::error("INVALID_ENROLLMENT_TOKEN"));
    }
    if faults.take(&Fault::UnavailableOnce) {
        return Some(Answer::error("CLUSTER_NO_LEADER"));
    }
    if faults.take(&Fault::TooManyOnce) {
        return Some(Answer::error("SERVER_TOO_MANY_REQUESTS").with_header("Retry-After", "1"));
    }
    if faults.has(&Fault::EntityTooLarge) {
        return Some(Answer::bare("REQUEST_ENTITY_TOO_LARGE"));
    }
    if faults.has(&Fault::Panic) {
        return Some(Answer::new(500, "", ""));
    }
    faults.refusal().map(|(code, status)| Answer::refusal(&code, status, None))
}

/// The enrollment behind a token that can be used, and that is of this method.
pub(crate) fn usable(core: &Core, token: &str, method: Option<&str>) -> Result<Enrollment, Refused> {
    let enrollment = core.store.usable(token).map_err(|why| match why {
        Unusable::Invalid => Refused::by("INVALID_ENROLLMENT_TOKEN"),
        Unusable::Expired => Refused::by("ENROLLMENT_EXPIRED"),
    })?;
    if method.is_some_and(|method| method != enrollment.method) {
        core.recorder.violation(format!("enroll: another method than the token's, which is {}", enrollment.method));
        if core.options.like == Like::V2_1 {
            return Err(Refused::by("INVALID_ENROLL_METHOD"));
        }
    }
    Ok(enrollment)
}

fn enroll(core: &Core, request: &Incoming, submission: &Submission) -> Result<Answer, Refused> {
    let enrollment = usable(core, &submission.token, submission.method.as_deref())?;
    if enrollment.method != "ott" {
        return Err(Refused::by("INVALID_ENROLL_METHOD")); // the other methods are not built here yet
    }
    let csr = csr::read(&submission.csr).map_err(|cause| {
        core.recorder.violation(format!("enroll: the request for a certificate is refused: {cause}"));
        Refused { code: "COULD_NOT_PROCESS_CSR", answer: Answer::error_because("COULD_NOT_PROCESS_CSR", &cause) }
    })?;
    csr.oddities.iter().for_each(|oddity| core.recorder.violation(format!("enroll: {oddity}")));
    let (authenticator, chain) = issue(core, &submission.token, &enrollment, &csr);
    if !core.store.spend(&submission.token, authenticator) {
        return Err(Refused::by("NOT_FOUND")); // somebody else was faster between our look and now
    }
    Ok(success(core, request, &chain, false))
}

/// The certificate, with what the faults spoil in it, and its chain as PEM blocks.
pub(crate) fn issue(core: &Core, token: &str, enrollment: &Enrollment, csr: &Csr) -> (Authenticator, Vec<String>) {
    let (certificate, chain) = certify(core, csr, &enrollment.identity_id);
    let authenticator = Authenticator {
        id: short_id(),
        identity_id: enrollment.identity_id.clone(),
        identity_name: enrollment.identity_name.clone(),
        jti: token.into(),
        fingerprint_sha1: sha1_hex(&certificate),
        cert_pem: chain.concat(),
        spki_der: spki_of(&certificate),
        subject: pki::subject_of(&certificate),
        cert_der: certificate,
        ca_id: None,
    };
    (authenticator, chain)
}

/// DER of the leaf, and the chain.
pub(super) fn certify(core: &Core, csr: &Csr, identity_id: &str) -> (Vec<u8>, Vec<String>) {
    let faults = &core.faults;
    let mut leaf = Leaf::client(&csr.subject);
    if core.options.like == Like::V2_1 {
        let id = if faults.has(&Fault::OtherSub) { short_id() } else { identity_id.to_owned() };
        leaf = leaf.uri(&format!("spiffe://{}/identity/{id}", core.network.trust_domain));
    }
    if let Some(seconds) = faults.number(|fault| if let Fault::CertLifetime(life) = fault { Some(*life) } else { None }) {
        leaf = leaf.valid(pki::unix_now() - 60, pki::unix_now() + seconds);
    }
    if faults.has(&Fault::ExpiredCert) {
        leaf = leaf.expired();
    }
    if faults.has(&Fault::NoClientAuth) {
        leaf = leaf.without_client_auth();
    }
    if faults.has(&Fault::CaCert) {
        leaf = leaf.ca();
    }
    let spki = if faults.has(&Fault::OtherKey) { Key::generate(KeyType::P256).spki_der() } else { csr.spki_der.clone() };
    let signer = if faults.has(&Fault::OtherCa) { core.foreign.signer() } else { core.network.signer() };
    let certificate = signer.sign(&leaf, &spki);
    let chain = vec![pem("CERTIFICATE", &certificate), pem("CERTIFICATE", signer.certificate())];
    (certificate, chain)
}

/// The token is spent; what the client hears of it is another matter.
pub(crate) fn lost(core: &Core) -> Option<Answer> {
    let faults = &core.faults;
    if faults.has(&Fault::DropPostAfter) {
        return Some(Answer::none(Ending::Drop));
    }
    if faults.has(&Fault::ConsumeThen500) {
        return Some(Answer::error("UNHANDLED"));
    }
    if faults.has(&Fault::ConsumeThen503) {
        return Some(Answer::error("TIMEOUT"));
    }
    if faults.has(&Fault::Html200) {
        return Some(Answer::html());
    }
    faults.has(&Fault::Empty200).then(|| Answer::new(200, "application/json", ""))
}

/// An answer that leaves, whole or not.
pub(crate) fn finished(core: &Core, mut answer: Answer) -> Answer {
    answer.overstated = core.faults.has(&Fault::WrongLength);
    let cut = core.faults.number(|fault| if let Fault::AnswerCut(length) = fault { Some(*length) } else { None });
    if let Some(length) = cut {
        answer.ending = Ending::Cut(length as usize);
    }
    answer
}

/// `with_ca`: the CA certificates too.
pub(crate) fn success(core: &Core, request: &Incoming, chain: &[String], with_ca: bool) -> Answer {
    let faults = &core.faults;
    if let Some(lost) = lost(core) {
        return lost;
    }
    // The old test: a line of Accept, up to its `;`, is exactly this.
    let said_json = request.values("accept").any(|line| line.split(';').next() == Some("application/json"));
    let as_pem = core.options.like == Like::V1_4 && !said_json || faults.has(&Fault::NoAcceptJson);
    let mut chain = chain.to_vec();
    if faults.has(&Fault::LeafOnly) || as_pem {
        chain.truncate(1);
    }
    let mut cert = chain.concat();
    if faults.has(&Fault::TruncatedPem) {
        cert.truncate(chain[0].len() / 2);
    }
    if as_pem {
        return finished(core, Answer::new(200, "application/x-pem-file", cert));
    }
    let mut data = json!({});
    if !faults.has(&Fault::NoCert) {
        data["cert"] = cert.into();
    }
    if with_ca {
        let ca: String = core.network.certificates().iter().map(|der| format!("\n{}", pem("CERTIFICATE", der))).collect();
        data["ca"] = ca.into();
    }
    if core.options.like == Like::V2_1 {
        data["controllers"] = json!([itself(core)]);
    }
    finished(core, Answer::data(&data))
}

/// The element that a single controller makes of itself for `controllers`.
pub(crate) fn itself(core: &Core) -> Value {
    let shown = core.shown();
    let client = json!([{"url": format!("{}/edge/client/v1", core.url), "version": "v1"}]);
    json!({
        "id": "ctrl1", "name": "ctrl1", "ctrlAddress": null, "isOnline": true,
        "lastJoinedAt": super::core::rfc3339(pki::unix_now()),
        "certPem": pem("CERTIFICATE", shown.leaf()), "fingerprint": sha1_hex(shown.leaf()),
        "apiAddresses": {"edge-client": client},
        "tags": {}, "_links": {"self": {"href": "./controllers/ctrl1"}},
    })
}
