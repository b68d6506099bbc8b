//! [`Code`]: a response code by the name that the standard gives it, `TPM_RC_LOCKOUT 0x921`.
//!
//! A response code says who made it (TSS 2.0 Overview §3.1: the layer) and, from the TPM, what it is about (TPM 2.0 Part 2
//! §6.6: format, parameter, handle or session).

use std::fmt;

/// A response code of the TPM or of libtss2; never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u32);

/// Codes of the TPM, without the number of the parameter, handle or session that they are about.
pub(super) mod base {
    pub(in crate::key::tpm) const INITIALIZE: u32 = 0x100;
    pub(in crate::key::tpm) const FAILURE: u32 = 0x101;
    pub(in crate::key::tpm) const AUTH_UNAVAILABLE: u32 = 0x12f;
    pub(in crate::key::tpm) const NV_SPACE: u32 = 0x14b;
    pub(in crate::key::tpm) const NV_DEFINED: u32 = 0x14c;
    pub(in crate::key::tpm) const HANDLE: u32 = 0x08b;
    pub(in crate::key::tpm) const AUTH_FAIL: u32 = 0x08e;
    pub(in crate::key::tpm) const INTEGRITY: u32 = 0x09f;
    pub(in crate::key::tpm) const BAD_AUTH: u32 = 0x0a2;
    pub(in crate::key::tpm) const LOCKOUT: u32 = 0x921;
    /// Out of memory for objects, sessions or both; out of handles for sessions or objects.
    pub(in crate::key::tpm) const OUT_OF_MEMORY: std::ops::RangeInclusive<u32> = 0x902..=0x906;
    /// A type, size, curve, hash, scheme or value that this TPM does not have.
    pub(in crate::key::tpm) const UNSUPPORTED: [u32; 9] = [0x081, 0x083, 0x084, 0x087, 0x08a, 0x092, 0x096, 0x0a6, 0x143];
}

/// Which layer made a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
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

    /// Who made it.
    pub(super) fn layer(self) -> Layer {
        match (self.0 >> 16) & 0xff {
            0 => Layer::Tpm,
            10 => Layer::Tcti,
            // tpm2-abrmd and the kernel's resource manager.
            11 | 12 if self.0 & 0xffff >= 0x80 => Layer::Tpm,
            _ => Layer::Library,
        }
    }

    /// The code without what it is about; 0 where it is not the TPM's.
    pub(super) fn base(self) -> u32 {
        let code = self.0 & 0xfff;
        match self.layer() {
            Layer::Tpm if code & 0x80 != 0 => code & 0x0bf,
            Layer::Tpm => code,
            Layer::Tcti | Layer::Library => 0,
        }
    }

    /// Whether an answer came without the HMAC that the TPM's own has (TSS2_ESYS_RC_RSP_AUTH_FAILED).
    pub(super) fn is_forged_answer(self) -> bool {
        self.layer() == Layer::Library && self.0 & 0xffff == 0x1b
    }

    /// Whether nothing more goes over the same connection: it is gone, or libtss2 has lost its place in it
    /// (TSS2_ESYS_RC_BAD_SEQUENCE).
    pub(super) fn is_lost(self) -> bool {
        match self.layer() {
            Layer::Tpm => false,
            Layer::Tcti => true,
            Layer::Library => self.0 & 0xffff == 7,
        }
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
}
