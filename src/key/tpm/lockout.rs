//! [`Lockout`]: how many wrong auth values the TPM still takes.
//!
//! A TPM counts wrong tries at all its protected keys together (TPM 2.0 Part 1 §19.8). At the limit it takes none for any of
//! them, also no right one, until time has passed or the lockout auth is given. So the state is read before each first try.

use super::context::Visit;
use super::error::{Failure, locked};
use crate::key::pin::Tries;
use crate::key::{KeyError, PinState};

// TPM_PT (Part 2 §6.13).
const PERMANENT: u32 = 0x200;
const LOCKOUT_COUNTER: u32 = 0x20e;
const MAX_AUTH_FAIL: u32 = 0x20f;
const LOCKOUT_INTERVAL: u32 = 0x210;
/// TPMA_PERMANENT.inLockout (Part 2 §8.6).
const IN_LOCKOUT: u32 = 1 << 9;

/// The state of the dictionary attack protection; each as far as the TPM says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lockout {
    locked: Option<bool>,
    /// TPM_PT_LOCKOUT_COUNTER: wrong tries that count now.
    counter: Option<u32>,
    /// TPM_PT_MAX_AUTH_FAIL: at so many it locks.
    limit: Option<u32>,
    /// TPM_PT_LOCKOUT_INTERVAL: seconds until one is forgotten.
    interval: Option<u32>,
}

impl Lockout {
    /// Asks the TPM; no auth value is needed.
    pub(super) fn read(visit: &mut Visit<'_>) -> Result<Self, Failure> {
        Ok(Self {
            locked: visit.property(PERMANENT)?.map(|bits| bits & IN_LOCKOUT != 0),
            counter: visit.property(LOCKOUT_COUNTER)?,
            limit: visit.property(MAX_AUTH_FAIL)?,
            interval: visit.property(LOCKOUT_INTERVAL)?,
        })
    }

    /// What is left for a key that is protected.
    pub(super) fn tries(self) -> Tries {
        match (self.locked, self.counter, self.limit) {
            (Some(true), _, _) => Tries::None,
            (_, Some(counter), Some(limit)) if counter.saturating_add(1) >= limit => Tries::Last,
            (_, Some(_), Some(_)) => Tries::Enough,
            _ => Tries::Unknown,
        }
    }

    /// The same for a list.
    pub(super) fn state(self) -> PinState {
        match (self.tries(), self.counter) {
            (Tries::None, _) => PinState::Locked,
            (Tries::Last, _) => PinState::FinalTry,
            (Tries::Enough | Tries::Unknown, Some(1..)) => PinState::CountLow,
            (Tries::Enough | Tries::Unknown, _) => PinState::Ok,
        }
    }

    /// Refuses before a try is used up for nothing; `place` is the TPM.
    ///
    /// # Errors
    /// [`KeyError::Locked`] `tpm_lockout`.
    pub(super) fn must_take_tries(self, place: &str) -> Result<(), KeyError> {
        if self.tries() == Tries::None {
            return Err(locked(place, "no try was used", self.interval, None));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_the_try_that_locks() {
        let state = |locked, counter, limit| Lockout { locked, counter, limit, interval: Some(1000) }.tries();
        assert_eq!(state(Some(false), Some(0), Some(3)), Tries::Enough);
        assert_eq!(state(Some(false), Some(1), Some(3)), Tries::Enough);
        assert_eq!(state(Some(false), Some(2), Some(3)), Tries::Last);
        assert_eq!(state(Some(false), Some(0), Some(1)), Tries::Last);
        assert_eq!(state(Some(true), Some(3), Some(3)), Tries::None);
        assert_eq!(state(Some(false), None, Some(3)), Tries::Unknown);
    }

    #[test]
    fn says_when_a_locked_tpm_takes_a_try_again() {
        let locked = Lockout { locked: Some(true), counter: Some(3), limit: Some(3), interval: Some(1000) };
        let error = locked.must_take_tries("TPM").unwrap_err();
        let fault = error.fault().unwrap();
        assert_eq!(fault.code, "tpm_lockout");
        assert!(fault.hint.as_ref().unwrap().say.contains("1000 s"));
    }
}
