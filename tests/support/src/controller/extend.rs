//! Renewals: `extend` issues a certificate beside the one in force, `extend-verify` puts it in force
//! (identity-and-renewal.md §D; held against 1.6.20 and 2.0.3).

use super::answers::{Answer, Ending};
use super::connection::Peer;
use super::core::Core;
use super::misbehave::Fault;
use super::sessions::{Session, judged, session_of, unauthorized, within_its_dates};
use super::store::{Authenticator, Store};
use super::wire::Incoming;
use super::{Controller, Like, csr, enroll};
use crate::pki::{self, pem, sha1_hex, spki_of};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// What the books hold of renewals, by the id of the authenticator.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// Issued, and not said to have arrived.
    pending: HashMap<String, Authenticator>,
    /// An administrator has asked for one; true: with a new key.
    requested: HashMap<String, bool>,
    /// Certificates that the network has not issued.
    foreign: HashSet<String>,
}

impl Controller {
    /// What an administrator's `request-extend` does, with `new_key` as `rollKeys`.
    pub fn request_renewal(&self, identity_id: &str, new_key: bool) {
        let authenticator = self.in_force(identity_id).expect("an identity of this controller");
        self.store().lock().renewals.requested.insert(authenticator.id, new_key);
    }

    /// From now on the certificate of this identity counts as issued by a CA of its own.
    pub fn disown(&self, identity_id: &str) {
        let authenticator = self.in_force(identity_id).expect("an identity of this controller");
        self.store().lock().renewals.foreign.insert(authenticator.id);
    }

    /// The certificate that logs an identity in now.
    pub fn in_force(&self, identity_id: &str) -> Option<Authenticator> {
        self.store().in_force(|one| one.identity_id == identity_id)
    }

    /// Renewals that this controller was asked for, and news that one has arrived.
    pub fn renewal_posts(&self) -> (usize, usize) {
        let log = self.log();
        let posts = |end: &str| log.requests.iter().filter(|r| r.method == "POST" && r.path.ends_with(end)).count();
        (posts("/extend"), posts("/extend-verify"))
    }
}

impl Store {
    /// The one certificate in force that it is.
    pub(super) fn in_force(&self, is_it: impl Fn(&Authenticator) -> bool) -> Option<Authenticator> {
        let books = self.lock();
        books.in_force().find(|one| is_it(one)).cloned()
    }

    /// Whether a renewal is asked for, and whether with a new key.
    pub(super) fn requested(&self, authenticator: &str) -> (bool, bool) {
        let asked = self.lock().renewals.requested.get(authenticator).copied();
        (asked.is_some(), asked == Some(true))
    }

    /// Whether another CA than the network's counts as its issuer.
    pub(super) fn is_foreign(&self, authenticator: &str) -> bool {
        self.lock().renewals.foreign.contains(authenticator)
    }

    fn lay_by(&self, next: Authenticator) {
        self.lock().renewals.pending.insert(next.id.clone(), next);
    }

    fn pending(&self, authenticator: &str) -> Option<Authenticator> {
        self.lock().renewals.pending.get(authenticator).cloned()
    }

    fn forget(&self, authenticator: &str) {
        self.lock().renewals.pending.remove(authenticator);
    }

    /// One transaction: the pending certificate takes the place of the one in force.
    fn promote(&self, authenticator: &str) {
        let mut books = self.lock();
        let Some(next) = books.renewals.pending.remove(authenticator) else { return };
        books.retire(|one| one.id == authenticator);
        books.authenticators.push(next);
        books.renewals.requested.remove(authenticator);
    }
}

/// Everything below `/edge/client/v1/current-identity/authenticators/`.
pub(crate) fn answer(core: &Core, request: &Incoming, peer: &Peer, below: &str) -> Answer {
    let (id, what) = below.split_once('/').unwrap_or((below, ""));
    // go-openapi looks at the body before anybody is asked who it is.
    let wanted = match (request.method.as_str(), what) {
        ("GET", "") => "",
        ("POST", "extend") => "clientCertCsr",
        ("POST", "extend-verify") => "clientCert",
        _ => return Answer::error("METHOD_NOT_ALLOWED"),
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let sent = body.get(wanted).and_then(Value::as_str);
    if !wanted.is_empty() && sent.is_none() {
        core.recorder.violation(format!("{what} without {wanted}"));
        return Answer::invalid(400, wanted, &format!("{wanted} in body is required"), "<nil>");
    }
    let Some(session) = session_of(core, request).filter(|session| session.complete) else {
        return unauthorized(core, what, request);
    };
    let done = match (what, sent) {
        ("extend", Some(csr)) => extend(core, &session, peer, id, csr),
        ("extend-verify", Some(certificate)) => verify(core, &session, id, certificate),
        _ => show(core, &session, id),
    };
    done.unwrap_or_else(|refusal| *refusal)
}

type Done = Result<Answer, Box<Answer>>;

fn refuse<T>(code: &str) -> Result<T, Box<Answer>> {
    Err(Answer::error(code).into())
}

fn show(core: &Core, session: &Session, id: &str) -> Done {
    let own = core.store.in_force(|one| one.id == id && one.identity_id == session.authenticator.identity_id);
    let Some(authenticator) = own else {
        return Err(Answer::error_because("NOT_FOUND", &format!("authenticator with id {id} not found")).into());
    };
    let (requested, new_key) = core.store.requested(id);
    let mut data = json!({
        "id": id, "method": "cert", "identityId": authenticator.identity_id, "certPem": authenticator.cert_pem,
        "fingerprint": authenticator.fingerprint_sha1, "isIssuedByNetwork": authenticator.ca_id.is_none() && !core.store.is_foreign(id),
        "tags": {}, "_links": {"self": {"href": format!("./current-identity/authenticators/{id}")}},
    });
    if core.options.like == Like::V2_1 {
        data["isExtendRequested"] = requested.into();
        data["isKeyRollRequested"] = new_key.into();
    }
    Ok(Answer::data(&data))
}

/// The checks of a controller, in its order.
fn extend(core: &Core, session: &Session, peer: &Peer, id: &str, csr: &str) -> Done {
    let Some(leaf) = peer.chain.first() else { return refuse("UNAUTHORIZED") };
    let Some(authenticator) = core.store.in_force(|one| one.id == id) else { return refuse("NOT_FOUND") };
    if authenticator.identity_id != session.authenticator.identity_id {
        return refuse("UNAUTHORIZED");
    }
    if core.store.is_foreign(id) {
        core.recorder.violation("extend: of a certificate that another CA has issued, which the controller had said");
        return refuse("CAN_NOT_UPDATE_AUTHENTICATOR");
    }
    if sha1_hex(leaf) != authenticator.fingerprint_sha1 || !within_its_dates(leaf).is_some_and(|at| judged(core, peer, at)) {
        return refuse("UNAUTHORIZED");
    }
    if let Some((code, status)) = core.faults.refusal_of_renewals() {
        return Err(Answer::refusal(&code, status, None).into());
    }
    let csr = csr::read(csr.as_bytes()).map_err(|cause| {
        core.recorder.violation(format!("extend: the request for a certificate is refused: {cause}"));
        Box::new(Answer::error_because("COULD_NOT_PROCESS_CSR", &cause))
    })?;
    csr.oddities.iter().for_each(|oddity| core.recorder.violation(format!("extend: {oddity}")));
    let (certificate, mut chain) = enroll::certify(core, &csr, &authenticator.identity_id);
    if pki::subject_of(&certificate) != authenticator.subject {
        core.recorder.violation("extend: another subject than that of the old certificate, which nobody checks");
    }
    core.store.lay_by(Authenticator {
        fingerprint_sha1: sha1_hex(&certificate),
        // A renewed certificate is kept without its chain.
        cert_pem: pem("CERTIFICATE", &certificate),
        spki_der: spki_of(&certificate),
        subject: pki::subject_of(&certificate),
        cert_der: certificate,
        ..authenticator
    });
    if core.faults.take(&Fault::DropExtendOnce) || core.faults.has(&Fault::DropExtend) {
        return Ok(Answer::none(Ending::Drop));
    }
    if core.options.like == Like::V1_4 || core.faults.has(&Fault::ExtendLeafOnly) {
        chain.truncate(1);
    }
    let ca: String = core.network.certificates().iter().map(|der| pem("CERTIFICATE", der)).collect();
    Ok(Answer::data(&json!({"clientCert": chain.concat(), "ca": format!("\n{ca}")})))
}

fn verify(core: &Core, session: &Session, id: &str, certificate: &str) -> Done {
    if core.faults.take(&Fault::DropVerifyBeforeOnce) || core.faults.has(&Fault::DropVerifyBefore) {
        return Ok(Answer::none(Ending::Drop));
    }
    if core.faults.take(&Fault::VerifyUnavailableOnce) {
        return refuse("CLUSTER_NO_LEADER");
    }
    let Some(authenticator) = core.store.in_force(|one| one.id == id) else { return refuse("NOT_FOUND") };
    if authenticator.identity_id != session.authenticator.identity_id {
        return refuse("UNAUTHORIZED");
    }
    if core.faults.take(&Fault::ForgetPendingOnce) {
        core.store.forget(id);
    }
    let sent = CertificateDer::pem_slice_iter(certificate.as_bytes()).next();
    let sent = sent.and_then(Result::ok).map(|der| sha1_hex(&der));
    let Some(pending) = core.store.pending(id) else {
        if sent.as_ref() == Some(&authenticator.fingerprint_sha1) {
            core.recorder.violation("extend-verify: repeated for a certificate that is in force");
        }
        return refuse("CAN_NOT_UPDATE_AUTHENTICATOR");
    };
    if sent != Some(pending.fingerprint_sha1) {
        return refuse("INVALID_CLIENT_CERT");
    }
    core.store.promote(id);
    if core.faults.has(&Fault::DropVerifyAfter) {
        return Ok(Answer::none(Ending::Drop));
    }
    if core.faults.has(&Fault::VerifyThen500) {
        return refuse("UNHANDLED");
    }
    Ok(Answer::data(&json!({})))
}
