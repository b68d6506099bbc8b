//! Tokens that are no software token at hand: SoftHSM behind p11fault, which gives it the manners of another make.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use ziti_enroller_support::softhsm::SoftToken;
use ziti_enroller_support::{SoftHsm, Tokens};

use super::{InTokenOf, Make, text};

/// How a make differs from SoftHSM; the rules are those of `P11FAULT`.
pub trait Manners {
    /// In a figure, and in the name of a case.
    const NAME: &'static str;
    /// See `rules.rs` of p11fault.
    const RULES: &'static str;
    /// The PIN is typed at the token itself.
    const HAS_A_KEYPAD: bool = false;
}

/// A token of SoftHSM with such manners.
#[derive(Debug)]
pub struct Mannered<M> {
    hsm: SoftHsm,
    manners: PhantomData<M>,
}

/// The place of its keys.
pub type InMannered<M> = InTokenOf<Mannered<M>>;

impl<M: Manners> Tokens for Mannered<M> {
    const MAKE: &'static str = M::NAME;

    fn tokens(&self) -> &[SoftToken] {
        self.hsm.tokens()
    }

    fn directory(&self) -> &Path {
        self.hsm.directory()
    }

    fn real_module(&self) -> PathBuf {
        self.hsm.real_module()
    }

    fn settings(&self) -> Vec<(String, String)> {
        Tokens::settings(&self.hsm)
    }

    fn env(&self) -> Vec<(String, String)> {
        let mut env = self.hsm.env();
        env.push(("P11FAULT".into(), M::RULES.into()));
        env.push(("P11FAULT_PIN_FILE".into(), text(&self.hsm.pin_file())));
        env
    }
}

impl<M: Manners> Make for Mannered<M> {
    const NAME: &'static str = M::NAME;
    // Each of them may log in before every signature.
    const SIGNATURES: usize = 20;
    const ASKS_FOR_THE_PIN: bool = !M::HAS_A_KEYPAD;

    fn fresh() -> Self {
        Self { hsm: SoftHsm::on_tmpfs(), manners: PhantomData }
    }

    fn with_pin(pin: &str) -> Self {
        Self { hsm: SoftHsm::with_pin(pin), manners: PhantomData }
    }
}

/// One type for each make.
macro_rules! manners {
    ($($(#[$about:meta])* $make:ident = $name:literal, $rules:literal $(, keypad: $keypad:literal)?;)*) => {
        $(
            $(#[$about])*
            #[derive(Debug)]
            pub struct $make;

            impl Manners for $make {
                const NAME: &'static str = $name;
                const RULES: &'static str = $rules;
                $(const HAS_A_KEYPAD: bool = $keypad;)?
            }
        )*
    };
}

manners! {
    /// AWS CloudHSM, SDK 5: no read-only sessions.
    CloudHsm = "CloudHSM", "make:cloudhsm";
    /// Luna Cloud HSM: whatever is made must be private.
    LunaCloud = "Luna Cloud HSM", "make:luna-cloud";
    /// nShield: an `accelerator` beside the token.
    NShield = "nShield", "make:nshield";
    /// tpm2-pkcs11: no session keys, and one serial number for all tokens.
    Tpm2 = "tpm2-pkcs11 manners", "make:tpm2-pkcs11";
    /// YubiHSM: no session keys, public objects that anybody sees.
    YubiHsm = "YubiHSM", "make:yubihsm";
    /// A reader with keys of its own for the PIN.
    Keypad = "keypad", "token-flags:+CKF_PROTECTED_AUTHENTICATION_PATH;login:null-pin", keypad: true;
    /// YubiKey PIV, slot 9c: the PIN before every signature, which is made in parts.
    PinEachTime = "PIN each time", "login:context;sign:in-parts";
    /// Readers that come and go: other slot numbers in every list.
    Renumbered = "renumbered slots", "slots:renumber";
    /// A cluster whose members all show the one token.
    ManySlots = "several slots", "slots:twice";
    /// pkcs11-logger and Cloud KMS: the module talks.
    Talks = "talking module", "C_Initialize:1:print;C_OpenSession:1:print;C_Login:1:print;C_SignInit:1:print;C_Sign:1:print";
    /// Attributes that a token need not show.
    Silent = "silent attributes", "attribute:private:CKA_ALWAYS_SENSITIVE=unknown;attribute:private:CKA_NEVER_EXTRACTABLE=unreadable;attribute:private:CKA_ALWAYS_AUTHENTICATE=untouched;attribute:CKA_PUBLIC_KEY_INFO=unknown";
}
