//! The places whose PIN is looked for, and what each does in its own way.

use std::path::{Path, PathBuf};

use ziti_enroller_support::{BusFault, Kryoptic, Proxy, SoftHsm, Swtpm, Tokens, Tpm2Pkcs11};

use super::stage::Stage;
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Fixture, InTokenOf, Make};

/// Variables that a run gets besides.
pub type Variables = Vec<(String, String)>;

/// A place with a PIN.
pub trait Place: Fixture + Sized {
    /// An empty one with this PIN.
    fn with_pin(folder: &Path, pin: &str) -> Self;
    /// What a run has left in it, apart from the machine's folder.
    fn folder(&self) -> Option<&Path>;
    /// The file that holds the PIN.
    fn pin_file(&self) -> PathBuf;
    /// The TPM behind it.
    fn tpm(&self) -> Option<&Swtpm>;
    /// Locks the PIN, or lets it look so.
    fn lock(&self, stage: &Stage<Self>) -> Variables;
    /// Has the next signature hang.
    fn hang(&self, bus: Option<&Proxy>) -> Variables;
}

/// A rule for p11fault.
pub fn fault(rule: &str) -> Variables {
    vec![("P11FAULT".into(), rule.into())]
}

/// What makes of tokens differ in.
pub trait Lock: Make {
    fn lock(&self) -> Variables;
    fn tpm(&self) -> Option<&Swtpm> {
        None
    }
}

/// With so many wrong PINs.
fn wrong_pins<T: Tokens>(tokens: &T, tries: usize) -> Variables {
    (0..tries).for_each(|_| assert!(tokens.tool("not the PIN").arg("--list-objects").run().code != Some(0)));
    Variables::new()
}

impl Lock for SoftHsm {
    /// It never does.
    fn lock(&self) -> Variables {
        fault("token-flags:+CKF_USER_PIN_LOCKED")
    }
}

impl Lock for Kryoptic {
    fn lock(&self) -> Variables {
        wrong_pins(self, Self::TRIES)
    }
}

impl Lock for Tpm2Pkcs11 {
    fn lock(&self) -> Variables {
        wrong_pins(self, Self::TRIES)
    }

    fn tpm(&self) -> Option<&Swtpm> {
        Some(self.tpm())
    }
}

impl<T: Lock> Place for InTokenOf<T> {
    fn with_pin(_: &Path, pin: &str) -> Self {
        Self { hsm: T::with_pin(pin) }
    }

    fn folder(&self) -> Option<&Path> {
        Some(self.hsm.directory())
    }

    fn pin_file(&self) -> PathBuf {
        self.hsm.pin_file()
    }

    fn tpm(&self) -> Option<&Swtpm> {
        Lock::tpm(&self.hsm)
    }

    fn lock(&self, _: &Stage<Self>) -> Variables {
        Lock::lock(&self.hsm)
    }

    fn hang(&self, _: Option<&Proxy>) -> Variables {
        fault("C_Sign:1:hang")
    }
}

/// TPM2_Sign.
const SIGN: u32 = 0x15d;

/// What keys in a TPM have in common: their PIN file is in the machine's folder, and nothing else is anywhere.
macro_rules! in_a_tpm {
    ($($fixture:ident)*) => {
        $(
            impl Place for $fixture {
                fn with_pin(folder: &Path, pin: &str) -> Self {
                    Self::with_pin(folder, pin)
                }

                fn folder(&self) -> Option<&Path> {
                    None
                }

                fn pin_file(&self) -> PathBuf {
                    PathBuf::from(&self.pin()[1])
                }

                fn tpm(&self) -> Option<&Swtpm> {
                    Some(self.tpm())
                }

                fn lock(&self, stage: &Stage<Self>) -> Variables {
                    for _ in 0..3 {
                        let wrong = stage.existing().args(stage.wrong_pin()).args(["--retry-pin", "--allow-final-try"]);
                        assert!(wrong.run().code != Some(0));
                    }
                    assert_eq!(self.tpm().wrong_tries(), 3);
                    Variables::new()
                }

                fn hang(&self, bus: Option<&Proxy>) -> Variables {
                    bus.expect("a TPM is on a bus").fail(SIGN, 0, BusFault::Hang);
                    Variables::new()
                }
            }
        )*
    };
}

in_a_tpm!(InTpmFile InTpmHandle);
