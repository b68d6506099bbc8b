//! Whether a renewal is due, and why.

use super::{Request, Rotation};
use crate::certificate::Summary;
use crate::controller::Session;
use crate::flow::enroll::stage::KeyWish;
use crate::flow::{DUE_WITHIN, World};
use crate::key::KeyUri;

/// Why a renewal is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The certificate ends soon, or has ended.
    Date,
    /// The controller asks for it, or for a chain that is whole.
    Asked,
    /// The controller asks for a new key with it.
    NewKeyAsked,
    /// The person asks for it.
    Told,
}

impl Due {
    /// What speaks for a renewal of the certificate now; the old key is `key`.
    pub(super) fn of(
        request: &Request,
        world: &World<'_>,
        summary: &Summary,
        session: &Session<'_>,
        key: &KeyUri,
    ) -> Option<Self> {
        if session.new_key_requested {
            return Some(Self::NewKeyAsked);
        }
        if request.force || request.rotate.as_ref().is_some_and(|rotation| moves(rotation, key, world)) {
            return Some(Self::Told);
        }
        if session.renewal_requested || session.chain_incomplete {
            return Some(Self::Asked);
        }
        (due_at(summary) <= world.now().as_secs()).then_some(Self::Date)
    }
}

/// Seconds since the Unix epoch.
pub(super) fn due_at(summary: &Summary) -> u64 {
    summary.not_after.saturating_sub(DUE_WITHIN.as_secs())
}

/// Whether a rotation leads to another kind of place, or to a key that was named: that is wanted now. A new key where the old
/// one is can wait until something is due, so that a timer may ask for it every day.
fn moves(rotation: &Rotation, key: &KeyUri, world: &World<'_>) -> bool {
    match rotation {
        Rotation::Beside(_) => false,
        Rotation::To(KeyWish::Existing(_)) => true,
        Rotation::To(KeyWish::New { within, reuse, .. }) => {
            let is_named = !reuse && !world.providers.of(within).is_ok_and(|provider| provider.implies_new(within));
            is_named || within.scheme() != key.scheme()
        }
    }
}
