//! What devices are doing at this moment, by the names of their own calls.
//!
//! A module or device that hangs cannot be interrupted from within: a call of C does not come back. Somebody else in the
//! process can look at [`active`] and end it; the library itself never does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

static NEXT: AtomicU64 = AtomicU64::new(0);
static ACTIVE: Mutex<Vec<Call>> = Mutex::new(Vec::new());

/// A call that has not come back yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// No other call of this process has it.
    pub number: u64,
    /// `C_Sign`, `TPM2_Create`, …
    pub name: &'static str,
    /// It makes a key, which takes devices minutes.
    pub makes_a_key: bool,
}

/// Announces a call for as long as it lives.
#[derive(Debug)]
#[must_use]
pub struct Doing(u64);

/// A call begins.
pub fn doing(name: &'static str) -> Doing {
    begin(name, false)
}

/// A call that makes a key begins.
pub fn making_a_key(name: &'static str) -> Doing {
    begin(name, true)
}

fn begin(name: &'static str, makes_a_key: bool) -> Doing {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner).push(Call { number, name, makes_a_key });
    Doing(number)
}

impl Drop for Doing {
    fn drop(&mut self) {
        ACTIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|call| call.number != self.0);
    }
}

/// The calls that have not come back.
pub fn active() -> Vec<Call> {
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_active_until_it_comes_back() {
        let doing = making_a_key("test");
        let mine = |call: &Call| call.number == doing.0 && call.makes_a_key && call.name == "test";
        assert!(active().iter().any(mine));
        let number = doing.0;
        drop(doing);
        assert!(!active().iter().any(|call| call.number == number));
    }
}
