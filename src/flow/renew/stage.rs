//! The whole state machine of a renewal, without I/O.
//!
//! Until the controller hears that the new certificate has arrived, the old one is in force and all can be done again. From
//! then on the new one is. So the new identity is durable before that is said, and after any doubt the controller is asked by
//! logging in: with the new one, then with the old one.

use serde::{Deserialize, Serialize};

use crate::flow::enroll::stage::{KeyFact, KeyWish};
use crate::flow::{OutOfOrder, Stages};
use crate::key::{KeyPlan, KeyUri};
use crate::origin::Origin;

/// What the journal holds, one a line. No secret is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A renewal began, or began anew: the old certificate has logged in and can be renewed.
    Renewing(Renewing),
    /// A key of exactly this name is about to be made.
    Plan(KeyPlan),
    /// The key is there, read back and tried; or what was issued for it is void, and is asked for again.
    Key(KeyFact),
    /// The new identity is on disk.
    Next(Next),
    /// The controller is about to be told that it has arrived, counted over all runs: from here it may be in force.
    Confirming(u32),
    /// The new certificate has logged in: it is in force, and the old one is not.
    Renewed,
    /// The new identity is in its place.
    Done,
}

/// What is renewed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewing {
    /// SHA-1 of the old certificate.
    pub fingerprint: String,
    /// The controller.
    pub origin: Origin,
    /// The identity's id.
    pub identity: String,
    /// The common name of the old certificate, which the new one keeps.
    pub common_name: String,
    /// The controller's id for the certificate.
    pub authenticator: String,
    /// The new key; `None` where the key stays.
    pub rotate: Option<KeyWish>,
    /// Whether the PIN goes into the new identity.
    pub embed_pin: bool,
    /// The old key, if it does not stay and is not in the identity itself.
    pub old_key: Option<OldKey>,
}

/// A key that another one takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldKey {
    /// Its exact name.
    pub uri: KeyUri,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal: what is deleted must be it.
    pub spki_sha256: String,
}

/// The new identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// SHA-1 of its certificate.
    pub fingerprint: String,
}

/// The key is there.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub(super) renewing: Renewing,
    pub(super) key: KeyFact,
}

/// The new identity is on disk.
#[derive(Clone, Debug)]
pub struct Extended {
    pub(super) keyed: Keyed,
    pub(super) next: Next,
}

/// Where a renewal stands.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Nothing yet.
    Fresh,
    /// The old certificate has logged in.
    Begun(Renewing),
    /// Key about to be made.
    Planned(Renewing, KeyPlan),
    /// Key there.
    Keyed(Keyed),
    /// New identity on disk; the old one is in force.
    Extended(Extended),
    /// Said that it has arrived, or about to say it, so many times in all.
    Confirming(Extended, u32),
    /// The new one is in force.
    Confirmed(Extended),
    /// It is in its place.
    Done(Extended),
}

impl Stage {
    pub(super) fn renewing(&self) -> Option<&Renewing> {
        match self {
            Self::Fresh => None,
            Self::Begun(renewing) | Self::Planned(renewing, _) => Some(renewing),
            Self::Keyed(keyed) => Some(&keyed.renewing),
            Self::Extended(e) | Self::Confirming(e, _) | Self::Confirmed(e) | Self::Done(e) => Some(&e.keyed.renewing),
        }
    }

    /// The key that this renewal made, or was about to make.
    pub(super) fn own_key(&self) -> Option<&KeyUri> {
        match self {
            Self::Fresh | Self::Begun(_) => None,
            Self::Planned(_, plan) => (!plan.there_already).then_some(&plan.uri),
            Self::Keyed(keyed) => keyed.key.created.then_some(&keyed.key.uri),
            Self::Extended(e) | Self::Confirming(e, _) | Self::Confirmed(e) | Self::Done(e) => {
                e.keyed.key.created.then_some(&e.keyed.key.uri)
            }
        }
    }

    /// The certificate that the renewal brings, once it is on disk.
    pub(super) fn next(&self) -> Option<&str> {
        match self {
            Self::Fresh | Self::Begun(_) | Self::Planned(..) | Self::Keyed(_) => None,
            Self::Extended(e) | Self::Confirming(e, _) | Self::Confirmed(e) | Self::Done(e) => Some(&e.next.fingerprint),
        }
    }

    /// Whether the controller may have been told: then the renewal is gone on with, whatever was asked for.
    pub(super) fn may_be_in_force(&self) -> bool {
        match self {
            Self::Fresh | Self::Begun(_) | Self::Planned(..) | Self::Keyed(_) | Self::Extended(_) => false,
            Self::Confirming(..) | Self::Confirmed(_) | Self::Done(_) => true,
        }
    }
}

impl Stages for Stage {
    type Record = Record;

    fn name(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Begun(_) => "begun",
            Self::Planned(..) => "planned",
            Self::Keyed(_) => "keyed",
            Self::Extended(_) => "extended",
            Self::Confirming(..) => "confirming",
            Self::Confirmed(_) => "confirmed",
            Self::Done(_) => "done",
        }
    }

    fn after(self, record: Record) -> Result<Self, OutOfOrder> {
        Ok(match (self, record) {
            (Self::Fresh, Record::Renewing(renewing)) => Self::Begun(renewing),
            (Self::Begun(renewing), Record::Plan(plan)) => Self::Planned(renewing, plan),
            (Self::Begun(renewing) | Self::Planned(renewing, _), Record::Key(key)) => Self::Keyed(Keyed { renewing, key }),
            (Self::Keyed(keyed), Record::Next(next)) => Self::Extended(Extended { keyed, next }),
            (Self::Extended(extended), Record::Confirming(1)) => Self::Confirming(extended, 1),
            (Self::Confirming(extended, n), Record::Confirming(m)) if m == n + 1 => Self::Confirming(extended, m),
            // The controller does not know what it has issued any more: another renewal has taken its place.
            (Self::Confirming(extended, _), Record::Key(key)) => Self::Keyed(Keyed { key, ..extended.keyed }),
            (Self::Confirming(extended, _), Record::Renewed) => Self::Confirmed(extended),
            (Self::Confirmed(extended), Record::Done) => Self::Done(extended),
            _ => return Err(OutOfOrder),
        })
    }

    /// Before a key is made that outlives us, and before the new certificate may be in force. The new identity is durable by
    /// itself, and so is its name.
    fn must_be_durable(record: &Record) -> bool {
        match record {
            Record::Plan(plan) => plan.outlives_us,
            Record::Confirming(_) => true,
            Record::Renewing(_) | Record::Key(_) | Record::Next(_) | Record::Renewed | Record::Done => false,
        }
    }
}
