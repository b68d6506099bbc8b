//! What a TPM answers, in our words and by its own name: `TPM_RC_LOCKOUT 0x921`.
//!
//! A response code says who made it (TSS 2.0 Overview §3.1: the layer) and, from the TPM, what it is about (TPM 2.0 Part 2
//! §6.6: format, parameter, handle or session). libtss2's and tss-esapi's own text goes no further than here.

use std::fmt;

use crate::key::pin::LoginRefusal;
use crate::key::{Fault, KeyError};
use crate::text::Hint;

/// A response code of the TPM or of libtss2; never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u32);

/// Codes of the TPM, without the number of the parameter, handle or session that they are about.
mod base {
    pub(super) const INITIALIZE: u32 = 0x100;
    pub(super) const FAILURE: u32 = 0x101;
    pub(super) const AUTH_UNAVAILABLE: u32 = 0x12f;
    pub(super) const NV_SPACE: u32 = 0x14b;
    pub(super) const NV_DEFINED: u32 = 0x14c;
    pub(super) const HANDLE: u32 = 0x08b;
    pub(super) const AUTH_FAIL: u32 = 0x08e;
    pub(super) const INTEGRITY: u32 = 0x09f;
    pub(super) const BAD_AUTH: u32 = 0x0a2;
    pub(super) const LOCKOUT: u32 = 0x921;
    /// Out of memory for objects, sessions or both; out of handles for sessions or objects.
    pub(super) const OUT_OF_MEMORY: std::ops::RangeInclusive<u32> = 0x902..=0x906;
    /// A type, size, curve, hash, scheme or value that this TPM does not have.
    pub(super) const UNSUPPORTED: [u32; 9] = [0x081, 0x083, 0x084, 0x087, 0x08a, 0x092, 0x096, 0x0a6, 0x143];
}

/// Which layer made a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The TPM, or a resource manager that speaks for it.
    Tpm,
    /// The way to the TPM.
    Tcti,
    /// libtss2 itself.
    Library,
}

impl Code {
    /// `None` for 0, which is no error.
    pub(super) fn new(value: u32) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    fn layer(self) -> Layer {
        match (self.0 >> 16) & 0xff {
            0 => Layer::Tpm,
            10 => Layer::Tcti,
            // tpm2-abrmd and the kernel's resource manager.
            11 | 12 if self.0 & 0xffff >= 0x80 => Layer::Tpm,
            _ => Layer::Library,
        }
    }

    /// The code without what it is about; 0 where it is not the TPM's.
    fn base(self) -> u32 {
        let code = self.0 & 0xfff;
        match self.layer() {
            Layer::Tpm if code & 0x80 != 0 => code & 0x0bf,
            Layer::Tpm => code,
            Layer::Tcti | Layer::Library => 0,
        }
    }

    /// Whether the TPM cannot be talked to any more over the same connection.
    pub(super) fn is_lost(self) -> bool {
        self.layer() != Layer::Tpm
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.base()) {
            Some(name) => write!(f, "TPM_RC_{name} {:#x}", self.0 & 0xfff),
            None if self.layer() == Layer::Tpm => write!(f, "TPM_RC {:#x}", self.0 & 0xfff),
            None => write!(f, "TSS2_RC {:#x}", self.0),
        }
    }
}

/// A step inside the TPM that did not work.
#[derive(Debug)]
pub(super) enum Failure {
    /// A command was answered with a code.
    Code(Code, &'static str),
    /// tss-esapi did not take what it was given, or what the TPM answered.
    Library(String, &'static str),
    /// A judgement of ours, which stands.
    Judged(KeyError),
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Judged(error)
    }
}

impl Failure {
    fn base(&self) -> u32 {
        match self {
            Self::Code(code, _) => code.base(),
            Self::Library(..) | Self::Judged(_) => 0,
        }
    }

    /// The auth value of what the command needed was refused.
    pub(super) fn is_refused_auth(&self) -> bool {
        matches!(self.base(), base::AUTH_FAIL | base::BAD_AUTH)
    }

    /// There is nothing at that handle.
    pub(super) fn is_no_handle(&self) -> bool {
        self.base() == base::HANDLE
    }

    /// A blob that this TPM, or this parent, did not make.
    pub(super) fn is_foreign_blob(&self) -> bool {
        self.base() == base::INTEGRITY
    }

    /// The handle is taken.
    pub(super) fn is_taken(&self) -> bool {
        self.base() == base::NV_DEFINED
    }

    /// The TPM does not have what the command named.
    pub(super) fn is_unsupported(&self) -> bool {
        base::UNSUPPORTED.contains(&self.base())
    }

    /// What a refused auth value means for the login policy; `place` is the TPM.
    pub(super) fn refusal(self, place: &str) -> LoginRefusal {
        match self {
            Self::Code(code, _) if self.is_refused_auth() => LoginRefusal::Incorrect(code.to_string()),
            other => LoginRefusal::Other(other.at(place)),
        }
    }

    /// As the caller of a provider gets it; `place` is the TPM.
    pub(super) fn at(self, place: &str) -> KeyError {
        match self {
            Self::Judged(error) => error,
            Self::Code(code, command) => translate(code, command, place),
            Self::Library(why, command) => {
                let fault = Fault::new("device_error", format!("{place}: {command} gave what is not understood"));
                KeyError::Device(fault.because(why))
            }
        }
    }
}

fn translate(code: Code, command: &str, place: &str) -> KeyError {
    let fault = |name, message: String| Fault::new(name, message).native(code.to_string());
    match (code.layer(), code.base()) {
        (Layer::Tcti, _) => {
            let fault = fault("device_gone", format!("{place} is gone: {command} had no answer"));
            KeyError::Device(fault.hint(Hint::say("see that the TPM, or the service before it, runs")))
        }
        (_, base::LOCKOUT) => locked(place, &format!("{command} was refused"), None, Some(code)),
        (_, base::AUTH_FAIL | base::BAD_AUTH) => {
            let fault = fault("pin_incorrect", format!("{place} refused the auth value that {command} needs"));
            KeyError::Pin(fault.hint(Hint::say("the next wrong one may lock the TPM: look at it with `tpm2_getcap properties-variable`")))
        }
        (_, memory) if base::OUT_OF_MEMORY.contains(&memory) => {
            let fault = fault("tpm_out_of_memory", format!("{place} has no room for another object or session: {command} failed"));
            KeyError::Device(fault.hint(Hint::run(
                "a program that was killed may have left some loaded: free them, or use the resource manager (--tcti device:/dev/tpmrm0)",
                "tpm2_flushcontext -t && tpm2_flushcontext -l && tpm2_flushcontext -s",
            )))
        }
        (_, base::NV_SPACE) => {
            let fault = fault("tpm_out_of_memory", format!("{place} has no room for another persistent key"));
            KeyError::Device(fault.hint(Hint::run(
                "keep the key in a file (leave out --key), or remove a persistent key that nobody needs",
                "tpm2_getcap handles-persistent",
            )))
        }
        (_, base::INITIALIZE) => {
            let fault = fault("device_error", format!("{place} was not started"));
            KeyError::Device(fault.hint(Hint::run("the firmware or the simulator starts it", "tpm2_startup -c")))
        }
        (_, base::FAILURE) => {
            let fault = fault("device_error", format!("{place} has failed its self-test and takes no commands"));
            KeyError::Device(fault.hint(Hint::say("restart the machine; if it stays so, the TPM is broken")))
        }
        (_, base::AUTH_UNAVAILABLE) => {
            let fault = fault("key_type_unsupported", format!("{place}: the key can be used with a policy only, not with a PIN"));
            KeyError::Unavailable(fault)
        }
        (_, unsupported) if base::UNSUPPORTED.contains(&unsupported) => {
            let fault = fault("key_type_unsupported", format!("{place} does not work with such a key: {command} failed"));
            KeyError::Unavailable(fault.hint(Hint::say("ask for another type with --key-alg")))
        }
        (Layer::Library, _) => KeyError::Device(fault("device_error", format!("{place}: libtss2 could not do {command}"))),
        (Layer::Tpm, _) => KeyError::Device(fault("device_error", format!("{place}: {command} failed"))),
    }
}

/// The TPM takes no auth value at the moment. `wait`: until it takes one again, in seconds.
pub(super) fn locked(place: &str, what: &str, wait: Option<u32>, code: Option<Code>) -> KeyError {
    let when = wait.map_or(String::new(), |s| format!("it takes one try again after {s} s without any; "));
    let fault = Fault::new("tpm_lockout", format!("{place} is locked after too many wrong auth values: {what}"));
    let fault = fault.hint(Hint::run(format!("{when}whoever knows the lockout auth can unlock it now"), "tpm2_dictionarylockout --clear-lockout"));
    KeyError::Locked(match code {
        Some(code) => fault.native(code.to_string()),
        None => fault,
    })
}

/// The name of a code, TPM 2.0 Part 2 §6.6.3.
fn name(base: u32) -> Option<&'static str> {
    Some(match base {
        0x100 => "INITIALIZE",
        0x101 => "FAILURE",
        0x103 => "SEQUENCE",
        0x10b => "PRIVATE",
        0x119 => "HMAC",
        0x120 => "DISABLED",
        0x121 => "EXCLUSIVE",
        0x124 => "AUTH_TYPE",
        0x125 => "AUTH_MISSING",
        0x126 => "POLICY",
        0x127 => "PCR",
        0x128 => "PCR_CHANGED",
        0x12d => "UPGRADE",
        0x12e => "TOO_MANY_CONTEXTS",
        0x12f => "AUTH_UNAVAILABLE",
        0x130 => "REBOOT",
        0x131 => "UNBALANCED",
        0x142 => "COMMAND_SIZE",
        0x143 => "COMMAND_CODE",
        0x144 => "AUTHSIZE",
        0x145 => "AUTH_CONTEXT",
        0x146 => "NV_RANGE",
        0x147 => "NV_SIZE",
        0x148 => "NV_LOCKED",
        0x149 => "NV_AUTHORIZATION",
        0x14a => "NV_UNINITIALIZED",
        0x14b => "NV_SPACE",
        0x14c => "NV_DEFINED",
        0x150 => "BAD_CONTEXT",
        0x151 => "CPHASH",
        0x152 => "PARENT",
        0x153 => "NEEDS_TEST",
        0x154 => "NO_RESULT",
        0x155 => "SENSITIVE",
        0x081 => "ASYMMETRIC",
        0x082 => "ATTRIBUTES",
        0x083 => "HASH",
        0x084 => "VALUE",
        0x085 => "HIERARCHY",
        0x087 => "KEY_SIZE",
        0x088 => "MGF",
        0x089 => "MODE",
        0x08a => "TYPE",
        0x08b => "HANDLE",
        0x08c => "KDF",
        0x08d => "RANGE",
        0x08e => "AUTH_FAIL",
        0x08f => "NONCE",
        0x090 => "PP",
        0x092 => "SCHEME",
        0x095 => "SIZE",
        0x096 => "SYMMETRIC",
        0x097 => "TAG",
        0x098 => "SELECTOR",
        0x09a => "INSUFFICIENT",
        0x09b => "SIGNATURE",
        0x09c => "KEY",
        0x09d => "POLICY_FAIL",
        0x09f => "INTEGRITY",
        0x0a0 => "TICKET",
        0x0a1 => "RESERVED_BITS",
        0x0a2 => "BAD_AUTH",
        0x0a3 => "EXPIRED",
        0x0a4 => "POLICY_CC",
        0x0a5 => "BINDING",
        0x0a6 => "CURVE",
        0x0a7 => "ECC_POINT",
        0x901 => "CONTEXT_GAP",
        0x902 => "OBJECT_MEMORY",
        0x903 => "SESSION_MEMORY",
        0x904 => "MEMORY",
        0x905 => "SESSION_HANDLES",
        0x906 => "OBJECT_HANDLES",
        0x907 => "LOCALITY",
        0x908 => "YIELDED",
        0x909 => "CANCELED",
        0x90a => "TESTING",
        0x910..=0x916 => "REFERENCE_H",
        0x918..=0x91e => "REFERENCE_S",
        0x920 => "NV_RATE",
        0x921 => "LOCKOUT",
        0x922 => "RETRY",
        0x923 => "NV_UNAVAILABLE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(value: u32) -> Failure {
        Failure::Code(Code::new(value).unwrap(), "TPM2_Sign")
    }

    #[test]
    fn names_are_those_of_the_standard_with_the_number_that_others_print() {
        for (value, name) in [
            (0x921, "TPM_RC_LOCKOUT 0x921"),
            (0x98e, "TPM_RC_AUTH_FAIL 0x98e"),
            (0x9a2, "TPM_RC_BAD_AUTH 0x9a2"),
            (0x2c4, "TPM_RC_VALUE 0x2c4"),
            (0x1df, "TPM_RC_INTEGRITY 0x1df"),
            (0x14c, "TPM_RC_NV_DEFINED 0x14c"),
            (0xb0143, "TPM_RC_COMMAND_CODE 0x143"),
            (0xa000a, "TSS2_RC 0xa000a"),
            (0x70007, "TSS2_RC 0x70007"),
            (0x5ff, "TPM_RC 0x5ff"),
        ] {
            assert_eq!(Code::new(value).unwrap().to_string(), name);
        }
    }

    #[test]
    fn every_fault_has_its_own_code() {
        for (value, code) in [
            (0x921, "tpm_lockout"),
            (0x922, "device_error"),
            (0x902, "tpm_out_of_memory"),
            (0x903, "tpm_out_of_memory"),
            (0x908, "device_error"),
            (0x98e, "pin_incorrect"),
            (0x101, "device_error"),
            (0x2c4, "key_type_unsupported"),
            (0x14b, "tpm_out_of_memory"),
            (0xa000a, "device_gone"),
            (0x7001b, "device_error"),
        ] {
            assert_eq!(failure(value).at("TPM").fault().map(|f| f.code), Some(code), "{value:#x}");
        }
    }

    #[test]
    fn tells_a_wrong_pin_from_a_locked_tpm() {
        assert!(matches!(failure(0x98e).refusal("TPM"), LoginRefusal::Incorrect(native) if native == "TPM_RC_AUTH_FAIL 0x98e"));
        assert!(matches!(failure(0x921).refusal("TPM"), LoginRefusal::Other(KeyError::Locked(_))));
    }
}
