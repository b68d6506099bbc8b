//! External JWT signers: identity providers whose tokens the controllers of a network take, and `POST /enroll/token`
//! (enrollment-protocol.md §2.6), as 2.0.3 does it.

use super::answers::{Answer, Ending};
use super::core::Core;
use super::csr;
use super::enroll::{self, early_fault};
use super::store::{Enrollment, short_id};
use super::tokens::second_opinion;
use super::wire::Incoming;
use super::{Like, misbehave::Fault};
use crate::pki::{Authority, Key, KeyType, Leaf, pem, unix_now};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// One key that signs tokens, with the name that they call it by.
#[derive(Clone, Debug)]
struct SigningKey {
    kid: String,
    key: Key,
    /// Its certificate, DER.
    certificate: Vec<u8>,
}

/// An identity provider, as an administrator has made it known.
#[derive(Clone, Debug)]
pub struct IdentityProvider {
    /// The controller's id of it.
    pub id: String,
    /// Its name there.
    pub name: String,
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// One of the claim `aud` of its tokens.
    pub audience: String,
    /// The claim that says whom a token means.
    pub claims_property: String,
    /// Whether its tokens are taken at all.
    pub enabled: bool,
    /// Whether its tokens buy certificates.
    pub enroll_to_cert: bool,
    /// Whether its tokens make identities that log in with such tokens.
    pub enroll_to_token: bool,
    /// Where a program asks for a token.
    pub external_auth_url: Option<String>,
    /// What it asks for.
    pub scopes: Option<Vec<String>>,
    /// One where it is known by a certificate, several where by a JWKS. The last signs.
    keys: Vec<SigningKey>,
}

impl IdentityProvider {
    /// One whose tokens buy certificates.
    pub fn new(name: &str) -> Self {
        let mut provider = Self {
            id: short_id(),
            name: name.into(),
            issuer: format!("https://{name}.example/"),
            audience: "openziti".into(),
            claims_property: "sub".into(),
            enabled: true,
            enroll_to_cert: true,
            enroll_to_token: false,
            external_auth_url: None,
            scopes: None,
            keys: Vec::new(),
        };
        provider.renew_key();
        provider
    }

    /// It signs with another key from now on, and the old one stays known, as in a JWKS.
    pub fn renew_key(&mut self) {
        let key = Key::generate(KeyType::P256);
        let certificate = Authority::root("IdP").sign(&Leaf::server(&["idp.example"]), &key.spki_der());
        self.keys.push(SigningKey { kid: short_id(), key, certificate });
    }

    /// A token that means `subject`, good for an hour.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }

    /// The name of the key that signs.
    pub fn kid(&self) -> &str {
        &self.signing().kid
    }

    /// The certificate of the key that signs.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.signing().certificate)
    }

    fn signing(&self) -> &SigningKey {
        self.keys.last().expect("it has a key")
    }

    /// The claims of one.
    pub fn claims(&self, subject: &str) -> Map<String, Value> {
        let claims = json!({
            "iss": self.issuer, "aud": [self.audience, "others"], "iat": unix_now(), "exp": unix_now() + 3600,
            self.claims_property.as_str(): subject,
        });
        let Value::Object(claims) = claims else { unreachable!("it is an object") };
        claims
    }

    /// Signs any claims.
    pub fn sign(&self, claims: &Map<String, Value>) -> String {
        let signing = self.signing();
        let header = json!({"alg": "ES256", "kid": signing.kid, "typ": "JWT"});
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", part(&header), part(&Value::Object(claims.clone())));
        let signature = URL_SAFE_NO_PAD.encode(signing.key.sign_jws(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// Whom a token means, or why it is none of ours.
    fn verify(&self, compact: &str) -> Result<String, String> {
        let header = part(compact, 0).ok_or("no header")?;
        let kid = header.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty()).ok_or("missing kid")?;
        let key = self.keys.iter().find(|key| key.kid == kid).ok_or("kid not found")?;
        let claims = second_opinion(compact, &key.certificate)?;
        if claims["iss"] != *self.issuer {
            return Err("issuer does not match".into());
        }
        let audiences = match &claims["aud"] {
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        if !audiences.iter().any(|audience| *audience == *self.audience) {
            return Err("token audience does not match expected audience".into());
        }
        let whom = claims.get(&self.claims_property).and_then(Value::as_str).filter(|whom| !whom.is_empty());
        whom.map(str::to_owned).ok_or_else(|| "claim was empty".into())
    }

    /// As 2.0.3 lists it: what is false or not given is left out.
    fn listed(&self) -> Value {
        let mut listed = json!({
            "id": self.id, "name": self.name, "audience": self.audience, "scopes": self.scopes, "targetToken": "ACCESS",
            "externalAuthUrl": self.external_auth_url,
            "createdAt": super::core::rfc3339(0), "updatedAt": super::core::rfc3339(0), "tags": {},
            "_links": {"self": {"href": format!("./external-jwt-signers/{}", self.id)}},
        });
        for (name, value) in [("enrollToCertEnabled", self.enroll_to_cert), ("enrollToTokenEnabled", self.enroll_to_token)] {
            if value {
                listed[name] = true.into();
            }
        }
        listed
    }
}

fn part(compact: &str, which: usize) -> Option<Value> {
    let segment = compact.split('.').nth(which)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).ok()?).ok()
}

/// `GET /external-jwt-signers?limit=…&offset=…`: anonymous, ten at a time unless told otherwise, never more than 500.
pub(crate) fn list(core: &Core, request: &Incoming) -> Answer {
    let number = |name: &str, usual: usize| request.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (limit, offset) = (number("limit", 10), number("offset", 0));
    let all = core.store.providers();
    let page: Vec<Value> = all.iter().skip(offset).take(limit.min(500)).map(IdentityProvider::listed).collect();
    let mut answer = Answer::data(&json!(page));
    let meta = json!({"pagination": {"limit": limit, "offset": offset, "totalCount": all.len()}});
    answer.body = json!({"data": page, "meta": meta}).to_string().into_bytes();
    answer
}

/// `POST /enroll/token`
pub(crate) fn enroll(core: &Core, request: &Incoming) -> Answer {
    let violation = |sentence: String| core.recorder.violation(format!("enroll with a token: {sentence}"));
    if core.options.like == Like::V1_4 {
        return Answer::error_because("NOT_FOUND", "path /enroll/token was not found");
    }
    if core.faults.has(&Fault::NoProviders) {
        return Answer::new(501, "application/json", "\"operation enroll.EnrollToken has not yet been implemented\"\n");
    }
    if request.values("accept").collect::<Vec<_>>() != ["application/json"] {
        violation("Accept is not the single value application/json".into());
    }
    if request.media_type() != Some("application/json") {
        violation("a body that is not declared as application/json".into());
        return Answer::wrong_type(request.value("content-type"), "application/json");
    }
    if !request.query.is_empty() {
        violation("a query, which this path does not have".into());
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
        violation("a body that is no JSON object".into());
        return Answer::error_because("COULD_NOT_PARSE_BODY", "parsing tokenEnrollmentRequest body from \"\" failed");
    };
    if let Some(name) = body.keys().find(|name| *name != "clientCsr") {
        violation(format!("`{name}` in the body"));
    }
    let Some(authorization) = request.value("authorization") else {
        violation("no Authorization".into());
        return Answer::invalid(602, "Authorization", "Authorization in header is required", "");
    };
    let Some(compact) = authorization.strip_prefix("Bearer ") else {
        violation("no bearer token".into());
        return Answer::error("INVALID_ENROLLMENT_TOKEN");
    };
    if let Some(refusal) = early_fault(core) {
        return refusal;
    }
    let providers = core.store.providers();
    let issuer = part(compact, 1).and_then(|claims| Some(claims.get("iss")?.as_str()?.to_owned()));
    let named = request.value("ziti-token-issuer-id");
    let provider = match named {
        Some(id) => providers.iter().find(|one| one.id == id),
        None => providers.iter().find(|one| Some(&one.issuer) == issuer.as_ref()),
    };
    let verified =
        provider.filter(|one| one.enabled).ok_or("no such issuer".to_owned()).and_then(|one| Ok((one, one.verify(compact)?)));
    let Ok((provider, whom)) = verified else { return Answer::error("INVALID_ENROLLMENT_TOKEN") };
    let csr = body.get("clientCsr").and_then(Value::as_str).unwrap_or_default();
    if !core.store.provider_post_seen(&whom, csr.as_bytes()) {
        violation("two POSTs for one identity and different requests, the first not refused".into());
    }
    if core.store.has_external(&whom) {
        return Answer::error("ENROLLMENT_IDENTITY_ALREADY_ENROLLED");
    }
    let allowed = if csr.is_empty() { provider.enroll_to_token } else { provider.enroll_to_cert };
    if !allowed {
        core.store.provider_post_refused(&whom);
        return Answer::error("INVALID_ENROLLMENT_NOT_ALLOWED");
    }
    if csr.is_empty() {
        violation("no request for a certificate".into());
        return Answer::data(&json!({}));
    }
    let csr = match csr::read(csr.as_bytes()) {
        Ok(csr) => csr,
        Err(cause) => {
            violation(format!("the request for a certificate is refused: {cause}"));
            core.store.provider_post_refused(&whom);
            return Answer::error_because("COULD_NOT_PROCESS_CSR", &cause);
        }
    };
    csr.oddities.iter().for_each(|oddity| violation(oddity.to_string()));
    let enrollment = Enrollment::made_for(&whom);
    let (authenticator, chain) = enroll::issue(core, &whom, &enrollment, &csr);
    if !core.store.add_external(&whom, authenticator) {
        return Answer::error("UNHANDLED"); // somebody else was faster between our look and now
    }
    if core.faults.has(&Fault::DropPostAfter) {
        return Answer::none(Ending::Drop);
    }
    enroll::success(core, request, &chain, true)
}
