//! The whole state machine of an enrollment, without I/O.
//!
//! A [`Record`] is what a step has learnt; a [`Stage`] is the sum of all before it. A stage nests its predecessor, so it
//! holds every earlier fact and nothing that may be missing. The way back from any stage is in `ARCHITECTURE.md`.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::certificate::Anchors;
use crate::controller::{Refusal, Submission};
use crate::flow::{OutOfOrder, Stages};
use crate::jwt::{Method, TokenDigest};
use crate::key::{Embed, Key, KeyAlgorithm, KeyError, KeyFacts, KeyPlan, KeyUri};
use crate::origin::Origin;

/// What the journal holds, one a line. No secret is in it: the token is there by its digest and its file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// An enrollment began, or began anew: with another token for the same identity, or because the key that it had made is
    /// not there any more.
    Intent(Intent),
    /// The controller is proved to be the token's issuer; its CA certificates.
    Anchors(Anchors),
    /// A key of exactly this name is about to be made.
    Plan(KeyPlan),
    /// The key is there, read back and tried; none where the method brings none.
    Key(Option<KeyFact>),
    /// What will be sent.
    Csr(Submission),
    /// The request is about to be sent, counted over all runs: from here the token may be spent.
    Posting(u32),
    /// The raw answer is on disk.
    Answered,
    /// A definite no.
    Refused(Refusal),
    /// The controller has issued a certificate and we do not have it.
    Lost,
    /// The identity is in place.
    Done,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// SHA-256 of the token.
    pub token: TokenDigest,
    /// Its file, to read it again.
    pub token_file: Option<PathBuf>,
    /// How.
    #[serde(default)]
    pub method: Method,
    /// The controller.
    pub origin: Origin,
    /// The identity's id, where the token says it.
    pub subject: Option<String>,
    /// The key.
    pub key: KeyWish,
    /// Where the certificate is that is shown in the handshake, for a method that brings one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateWish>,
    /// The name that a new identity is to have, for a method that makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The controller's id of the identity provider, where the provider's token does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// CA certificates that the controller is trusted by, given by the person who began this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Anchors>,
    /// A key of ours that an abandoned enrollment left in this place, unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<KeyUri>,
}

impl Intent {
    /// Whether it is for this identity; one that names none is for no other.
    pub(super) fn is_for(&self, identity: Option<&str>) -> bool {
        self.subject.is_some() && self.subject.as_deref() == identity
    }
}

/// Which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyWish {
    /// The one that the reference names.
    Existing(KeyUri),
    /// A new one.
    New {
        /// Where, as far as it was said.
        within: KeyUri,
        /// Of which type.
        algorithm: KeyAlgorithm,
        /// Whether one that is there already under that name is taken.
        reuse: bool,
    },
}

impl KeyWish {
    /// The reference that it was said with.
    pub fn uri(&self) -> &KeyUri {
        match self {
            Self::Existing(uri) | Self::New { within: uri, .. } => uri,
        }
    }
}

/// Which certificate, for a method that brings one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateWish {
    /// The one that lies beside the key.
    Beside,
    /// The one in this file, PEM, with its intermediates.
    File(PathBuf),
}

/// The key, as the rest of the enrollment needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFact {
    /// Its exact name.
    pub uri: KeyUri,
    /// Its public half, base64 of the SubjectPublicKeyInfo.
    pub spki: String,
    /// Whether this enrollment made it: then, and only then, a definite refusal deletes it.
    pub created: bool,
    /// What `id.key` will say; `None` where that is the key itself.
    pub reference: Option<String>,
    /// What was read back.
    pub facts: KeyFacts,
}

impl KeyFact {
    /// What is to be known of `key` from now on.
    ///
    /// # Errors
    /// What the key says, and [`KeyError::Reference`] where an identity cannot name it.
    pub fn of(key: &dyn Key, created: bool) -> Result<Self, KeyError> {
        let reference = key.reference(Embed::Nothing)?;
        Ok(Self {
            uri: key.uri().clone(),
            spki: BASE64_STANDARD.encode(key.public_key().spki()),
            created,
            reference: (!reference.holds_the_key()).then(|| reference.expose().to_owned()),
            facts: key.facts()?,
        })
    }

    /// Whether `key` is the one.
    pub fn is_of(&self, key: &dyn Key) -> bool {
        BASE64_STANDARD.encode(key.public_key().spki()) == self.spki
    }
}

/// The controller is trusted.
#[derive(Clone, Debug)]
pub struct Trusted {
    pub(super) intent: Intent,
    pub(super) anchors: Anchors,
}

/// The key is there, or none is needed.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub(super) trusted: Trusted,
    pub(super) key: Option<KeyFact>,
}

impl Keyed {
    /// The key that this enrollment made.
    pub(super) fn made(&self) -> Option<&KeyUri> {
        self.key.as_ref().filter(|key| key.created).map(|key| &key.uri)
    }
}

/// The request is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    pub(super) keyed: Keyed,
    pub(super) submission: Submission,
}

impl Ready {
    pub(super) fn intent(&self) -> &Intent {
        &self.keyed.trusted.intent
    }
}

/// Where an enrollment stands.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Nothing yet.
    Fresh,
    /// Asked for.
    Intended(Intent),
    /// Controller trusted.
    Trusted(Trusted),
    /// Key about to be made.
    Planned(Trusted, KeyPlan),
    /// Key there.
    Keyed(Keyed),
    /// Request ready.
    Ready(Ready),
    /// Request sent or about to be, so many times in all.
    Posting(Ready, u32),
    /// Answer on disk.
    Answered(Ready),
    /// Refused for good; our key is to be cleaned up.
    Refused(Ready, Refusal),
    /// Certificate issued and lost.
    Lost(Ready),
    /// Identity in place.
    Done(Ready),
}

impl Stage {
    pub(super) fn intent(&self) -> Option<&Intent> {
        match self {
            Self::Fresh => None,
            Self::Intended(intent) => Some(intent),
            Self::Trusted(t) | Self::Planned(t, _) => Some(&t.intent),
            Self::Keyed(k) => Some(&k.trusted.intent),
            Self::Ready(r) | Self::Posting(r, _) | Self::Answered(r) | Self::Refused(r, _) | Self::Lost(r) | Self::Done(r) => {
                Some(r.intent())
            }
        }
    }

    /// The key that this enrollment made, or was about to make.
    pub(super) fn own_key(&self) -> Option<&KeyUri> {
        match self {
            Self::Fresh | Self::Intended(_) | Self::Trusted(_) => None,
            Self::Planned(_, plan) => (!plan.there_already).then_some(&plan.uri),
            Self::Keyed(k) => k.made(),
            Self::Ready(r) | Self::Posting(r, _) | Self::Answered(r) | Self::Refused(r, _) | Self::Lost(r) | Self::Done(r) => {
                r.keyed.made()
            }
        }
    }

    /// Whether a request may have reached the controller.
    pub(super) fn has_posted(&self) -> bool {
        match self {
            Self::Fresh | Self::Intended(_) | Self::Trusted(_) | Self::Planned(..) | Self::Keyed(_) | Self::Ready(_) => false,
            Self::Posting(..) | Self::Answered(_) | Self::Refused(..) | Self::Lost(_) | Self::Done(_) => true,
        }
    }

    /// Whether a new token for the same identity may begin anew here.
    fn may_begin_anew(&self) -> bool {
        !self.has_posted() || matches!(self, Self::Refused(..) | Self::Lost(_))
    }
}

impl Stages for Stage {
    type Record = Record;

    fn name(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Intended(_) => "intended",
            Self::Trusted(_) => "trusted",
            Self::Planned(..) => "planned",
            Self::Keyed(_) => "keyed",
            Self::Ready(_) => "ready",
            Self::Posting(..) => "posting",
            Self::Answered(_) => "answered",
            Self::Refused(..) => "refused",
            Self::Lost(_) => "lost",
            Self::Done(_) => "done",
        }
    }

    fn after(self, record: Record) -> Result<Self, OutOfOrder> {
        Ok(match (self, record) {
            (stage, Record::Intent(intent)) if stage.may_begin_anew() => Self::Intended(intent),
            (Self::Intended(intent), Record::Anchors(anchors)) => Self::Trusted(Trusted { intent, anchors }),
            (Self::Trusted(trusted), Record::Plan(plan)) => Self::Planned(trusted, plan),
            (Self::Trusted(trusted) | Self::Planned(trusted, _), Record::Key(key)) => Self::Keyed(Keyed { trusted, key }),
            (Self::Keyed(keyed), Record::Csr(submission)) => Self::Ready(Ready { keyed, submission }),
            // The first request never left: nothing was posted after all.
            (Self::Posting(ready, 1), Record::Csr(submission)) => Self::Ready(Ready { submission, ..ready }),
            (Self::Ready(ready), Record::Posting(1)) => Self::Posting(ready, 1),
            // Nothing to post.
            (Self::Ready(ready), Record::Answered) if ready.submission == Submission::Nothing => Self::Answered(ready),
            (Self::Posting(ready, n), Record::Posting(m)) if m == n + 1 => Self::Posting(ready, m),
            (Self::Posting(ready, _) | Self::Lost(ready) | Self::Answered(ready), Record::Answered) => Self::Answered(ready),
            (Self::Posting(ready, _), Record::Refused(why)) => Self::Refused(ready, why),
            (Self::Posting(ready, _), Record::Lost) => Self::Lost(ready),
            (Self::Answered(ready), Record::Done) => Self::Done(ready),
            _ => return Err(OutOfOrder),
        })
    }

    /// Before an object is made that outlives us, and before the token may be spent. The answer is durable by itself.
    fn must_be_durable(record: &Record) -> bool {
        match record {
            Record::Plan(plan) => plan.outlives_us,
            Record::Posting(_) => true,
            Record::Intent(_)
            | Record::Anchors(_)
            | Record::Key(_)
            | Record::Csr(_)
            | Record::Answered
            | Record::Refused(_)
            | Record::Lost
            | Record::Done => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    /// A certificate with CA:TRUE; nothing else matters of it here.
    const CA: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIB8jCCAZegAwIBAgIUJ6Awx8Q/8luDdBWPn7uVZchPukAwCgYIKoZIzj0EAwIw\n\
        RjEcMBoGA1UECgwTeml0aS1lbnJvbGxlciB0ZXN0czEmMCQGA1UEAwwdVGVzdCBO\n\
        ZXR3b3JrIFJvb3QgQ0EgZjUwZmNlYmUwHhcNMjYxMTIzMjMzNzI0WhcNMzYxMTIx\n\
        MjMzNzI0WjBGMRwwGgYDVQQKDBN6aXRpLWVucm9sbGVyIHRlc3RzMSYwJAYDVQQD\n\
        DB1UZXN0IE5ldHdvcmsgUm9vdCBDQSBmNTBmY2ViZTBZMBMGByqGSM49AgEGCCqG\n\
        SM49AwEHA0IABOcZ1MYobnSflMHeQ55/d3Txc48RvMoWILkgVoRlOYnYMSaBpq+X\n\
        kclq0RqCHuvXamxz7rzetJx6IOW4fE13SlqjYzBhMB8GA1UdIwQYMBaAFMpIcNuC\n\
        yCQkmu7ZIWDm2PWguntdMA4GA1UdDwEB/wQEAwIBhjAdBgNVHQ4EFgQUykhw24LI\n\
        JCSa7tkhYObY9aC6e10wDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBG\n\
        AiEAmv9jmFdSgA8LfOopUUnqxt5GAYDSynMJgdM21cP+XkkCIQDa2ked9VtraXnv\n\
        Y+nCOid2E1SRfqLvEDBUb0FpnL9bvw==\n\
        -----END CERTIFICATE-----";

    /// One of each, as a journal holds it.
    fn records() -> Vec<Record> {
        let facts = ["extractable", "sensitive", "always_sensitive", "never_extractable"];
        let facts = facts.iter().chain(&["public_object", "pin_each_time", "pss", "raw_rsa"]);
        let mut facts: serde_json::Map<String, Value> = facts.map(|fact| ((*fact).to_owned(), json!("yes"))).collect();
        facts.insert("place".into(), Value::Null);
        let refusal = json!({"status": 400, "code": "C", "message": "m", "cause": null});
        let records = json!([
            {"intent": {
                "token": "00".repeat(32), "token_file": null, "origin": "https://localhost:1280", "subject": "s",
                "key": {"existing": "file:/k"},
            }},
            {"anchors": CA},
            {"plan": {"uri": "file:/k", "there_already": false, "outlives_us": true}},
            {"key": {"uri": "file:/k", "spki": "", "created": true, "reference": null, "facts": facts}},
            {"csr": {"csr": ""}},
            {"posting": 1}, {"posting": 2}, "answered", {"refused": refusal}, "lost", "done",
        ]);
        serde_json::from_value(records).unwrap()
    }

    /// Every stage that records lead to, and every way from one to another.
    fn ways() -> BTreeSet<(&'static str, &'static str)> {
        let mut ways = BTreeSet::new();
        let mut open = vec![Stage::Fresh];
        let mut known = BTreeSet::from(["fresh"]);
        while let Some(stage) = open.pop() {
            for record in records() {
                let Ok(next) = stage.clone().after(record) else { continue };
                ways.insert((stage.name(), next.name()));
                if known.insert(next.name()) {
                    open.push(next);
                }
            }
        }
        ways
    }

    #[test]
    fn ways_are_those_of_the_diagram() {
        let paper = include_str!("../../../ARCHITECTURE.md");
        let (_, diagram) = paper.split_once("stateDiagram-v2\n").unwrap();
        let (diagram, _) = diagram.split_once("```").unwrap();
        let drawn: BTreeSet<(String, String)> = diagram
            .lines()
            .filter_map(|line| line.split_once(':').map_or(line, |(arrow, _)| arrow).trim().split_once(" --> "))
            // The first is where nothing is written down yet; the last are those where nothing follows.
            .filter(|(_, to)| *to != "[*]")
            .map(|(from, to)| (if from == "[*]" { "fresh".into() } else { from.to_lowercase() }, to.to_lowercase()))
            .collect();
        let there = ways().into_iter().map(|(from, to)| (from.to_owned(), to.to_owned())).collect();
        assert_eq!(drawn, there);
    }
}
