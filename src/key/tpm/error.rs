//! What a TPM answers, in our words. libtss2's and tss-esapi's own text goes no further than here.

use super::code::{Code, Layer, base};
use crate::key::pin::LoginRefusal;
use crate::key::{Fault, KeyError};
use crate::text::Hint;

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

    /// What happened by its own name: `TPM2_Load: TPM_RC_INTEGRITY 0x1df`.
    pub(super) fn native(&self) -> String {
        match self {
            Self::Code(code, command) => format!("{command}: {code}"),
            Self::Library(why, command) => format!("{command}: {why}"),
            Self::Judged(error) => error.to_string(),
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
            KeyError::Pin(
                fault.hint(Hint::say("the next wrong one may lock the TPM: look at it with `tpm2_getcap properties-variable`")),
            )
        }
        (_, memory) if base::OUT_OF_MEMORY.contains(&memory) => {
            let fault =
                fault("tpm_out_of_memory", format!("{place} has no room for another object or session: {command} failed"));
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
        (Layer::Library, _) if code.is_forged_answer() => {
            let fault = fault("device_error", format!("{place}: the answer to {command} is not what the TPM said"));
            KeyError::Device(
                fault.hint(Hint::say("something between this machine and the TPM changes what they say to each other")),
            )
        }
        (Layer::Library, _) => KeyError::Device(fault("device_error", format!("{place}: libtss2 could not do {command}"))),
        (Layer::Tpm, _) => KeyError::Device(fault("device_error", format!("{place}: {command} failed"))),
    }
}

/// The TPM takes no auth value at the moment. `wait`: until it takes one again, in seconds.
pub(super) fn locked(place: &str, what: &str, wait: Option<u32>, code: Option<Code>) -> KeyError {
    let when = wait.map_or(String::new(), |s| format!("it takes one try again after {s} s without any; "));
    let fault = Fault::new("tpm_lockout", format!("{place} is locked after too many wrong auth values: {what}"));
    let fault = fault.hint(Hint::run(
        format!("{when}whoever knows the lockout auth can unlock it now"),
        "tpm2_dictionarylockout --clear-lockout",
    ));
    KeyError::Locked(match code {
        Some(code) => fault.native(code.to_string()),
        None => fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(value: u32) -> Failure {
        Failure::Code(Code::new(value).unwrap(), "TPM2_Sign")
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
