//! What a module answers, in our words and by its own name: `CKR_…` of the `C_…` that said it.
//!
//! cryptoki prints a return value as a paragraph of the standard, so its text never goes further than here.
//! PKCS#11 v3.1 §3.6 lists the values, §5.1 what they mean.

use std::borrow::Cow;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::key::{Fault, KeyError};
use crate::text::Hint;

/// A step inside a token that did not work: a call that failed, which may be tried again in a new session, or a
/// judgement of ours, which stands.
#[derive(Debug)]
pub(super) enum Failure {
    Call(Error),
    Judged(KeyError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Judged(error)
    }
}

impl Failure {
    /// As the caller of a provider gets it; `place` is the token or module that failed.
    pub(super) fn at(self, place: &str) -> KeyError {
        match self {
            Self::Call(error) => translate(&error, place),
            Self::Judged(error) => error,
        }
    }
}

/// The return value, where the module answered at all.
pub(super) fn rv(error: &Error) -> Option<RvError> {
    match error {
        Error::Pkcs11(rv, _) => Some(*rv),
        _ => None,
    }
}

/// Whether the session, or an object handle got in it, is gone: worth one new session.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(
        rv(error),
        Some(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid
                | RvError::ObjectHandleInvalid
                | RvError::KeyHandleInvalid
        )
    )
}

/// Whether a template was refused, so that another template might not be.
pub(super) fn is_about_the_template(error: &Error) -> bool {
    matches!(
        rv(error),
        Some(
            RvError::AttributeValueInvalid
                | RvError::AttributeTypeInvalid
                | RvError::AttributeReadOnly
                | RvError::TemplateInconsistent
                | RvError::TemplateIncomplete
        )
    )
}

/// The native name and the call of a failure: `CKR_DEVICE_ERROR`, `C_Sign`.
pub(super) fn names(error: &Error) -> (Option<Cow<'static, str>>, String) {
    match error {
        Error::Pkcs11(rv, function) => (Some(rv_name(*rv)), call_name(*function)),
        Error::NullFunctionPointer => (None, "a function that the module does not have".into()),
        // What the module gave does not fit the standard; cryptoki's own words are short here.
        other => (None, format!("a call of the module ({})", other.to_string().to_lowercase())),
    }
}

fn call_name(function: Function) -> String {
    format!("C_{function:?}")
}

/// Any failure that nobody handled on the way.
pub(super) fn translate(error: &Error, place: &str) -> KeyError {
    use RvError::*;
    let (native, call) = names(error);
    let named = |fault: Fault| match &native {
        Some(name) => fault.native(name.clone()),
        None => fault,
    };
    let failed = || format!("{place}: {call} failed");
    match rv(error) {
        Some(
            DeviceRemoved
            | TokenNotPresent
            | TokenNotRecognized
            | SlotIdInvalid
            | SessionHandleInvalid
            | SessionClosed
            | CryptokiNotInitialized,
        ) => {
            let fault = Fault::new("device_gone", format!("{place} is gone: {call} failed"));
            KeyError::Device(named(fault).hint(Hint::say("see that the device is connected and its service runs")))
        }
        Some(MechanismInvalid | MechanismParamInvalid | KeySizeRange | CurveNotSupported | DomainParamsInvalid)
            if has_a_mechanism(error) =>
        {
            let fault = Fault::new("key_type_unsupported", format!("{place} does not work with such a key: {call} failed"));
            KeyError::Unavailable(named(fault).hint(Hint::say("ask for another type with --key-alg")))
        }
        // YubiKey: keys are made by its security officer alone.
        Some(UserTypeInvalid) => {
            let fault =
                Fault::new("key_type_unsupported", format!("{place} lets only its security officer do this: {call} failed"));
            KeyError::Unavailable(
                named(fault)
                    .hint(Hint::say("make the key with the token's own tool (for a YubiKey: ykman), and name it with --key")),
            )
        }
        Some(PinExpired) => {
            let fault = Fault::new("pin_expired", format!("PIN of {place} must be changed before it can be used"));
            KeyError::Locked(named(fault).hint(Hint::say("change it with the token's own tool, then run this again")))
        }
        Some(TokenWriteProtected | SessionReadOnly) => {
            let fault = named(Fault::new("device_error", format!("{place} cannot be written: {call} failed")));
            KeyError::Device(fault.hint(Hint::say("make it writable with its own tool, or name a key that is there with --key")))
        }
        Some(FunctionNotSupported) => KeyError::Unavailable(named(Fault::new("module_refused", failed()))),
        Some(DeviceError | GeneralError | FunctionFailed | HostMemory | DeviceMemory) => {
            let fault = named(Fault::new("device_error", failed()));
            KeyError::Device(fault.hint(Hint::say("the module's own log says more")))
        }
        Some(_) => KeyError::Device(named(Fault::new("device_error", failed()))),
        None if matches!(error, Error::NullFunctionPointer) => KeyError::Unavailable(Fault::new("module_refused", failed())),
        None => KeyError::Device(Fault::new("device_error", failed())),
    }
}

/// Whether the call that failed was told a mechanism: only then can another type of key help.
fn has_a_mechanism(error: &Error) -> bool {
    use Function::{GenerateKeyPair, GetMechanismInfo, Sign, SignFinal, SignInit, SignUpdate};
    matches!(error, Error::Pkcs11(_, GenerateKeyPair | GetMechanismInfo | SignInit | Sign | SignUpdate | SignFinal))
}

/// The name that the standard gives to a return value.
pub(super) fn rv_name(rv: RvError) -> Cow<'static, str> {
    Cow::Borrowed(match rv {
        RvError::Cancel => "CKR_CANCEL",
        RvError::HostMemory => "CKR_HOST_MEMORY",
        RvError::SlotIdInvalid => "CKR_SLOT_ID_INVALID",
        RvError::GeneralError => "CKR_GENERAL_ERROR",
        RvError::FunctionFailed => "CKR_FUNCTION_FAILED",
        RvError::ArgumentsBad => "CKR_ARGUMENTS_BAD",
        RvError::NoEvent => "CKR_NO_EVENT",
        RvError::NeedToCreateThreads => "CKR_NEED_TO_CREATE_THREADS",
        RvError::CantLock => "CKR_CANT_LOCK",
        RvError::AttributeReadOnly => "CKR_ATTRIBUTE_READ_ONLY",
        RvError::AttributeSensitive => "CKR_ATTRIBUTE_SENSITIVE",
        RvError::AttributeTypeInvalid => "CKR_ATTRIBUTE_TYPE_INVALID",
        RvError::AttributeValueInvalid => "CKR_ATTRIBUTE_VALUE_INVALID",
        RvError::ActionProhibited => "CKR_ACTION_PROHIBITED",
        RvError::DataInvalid => "CKR_DATA_INVALID",
        RvError::DataLenRange => "CKR_DATA_LEN_RANGE",
        RvError::DeviceError => "CKR_DEVICE_ERROR",
        RvError::DeviceMemory => "CKR_DEVICE_MEMORY",
        RvError::DeviceRemoved => "CKR_DEVICE_REMOVED",
        RvError::EncryptedDataInvalid => "CKR_ENCRYPTED_DATA_INVALID",
        RvError::EncryptedDataLenRange => "CKR_ENCRYPTED_DATA_LEN_RANGE",
        RvError::FunctionCanceled => "CKR_FUNCTION_CANCELED",
        RvError::FunctionNotParallel => "CKR_FUNCTION_NOT_PARALLEL",
        RvError::FunctionNotSupported => "CKR_FUNCTION_NOT_SUPPORTED",
        RvError::CurveNotSupported => "CKR_CURVE_NOT_SUPPORTED",
        RvError::KeyHandleInvalid => "CKR_KEY_HANDLE_INVALID",
        RvError::KeySizeRange => "CKR_KEY_SIZE_RANGE",
        RvError::KeyTypeInconsistent => "CKR_KEY_TYPE_INCONSISTENT",
        RvError::KeyNotNeeded => "CKR_KEY_NOT_NEEDED",
        RvError::KeyChanged => "CKR_KEY_CHANGED",
        RvError::KeyNeeded => "CKR_KEY_NEEDED",
        RvError::KeyIndigestible => "CKR_KEY_INDIGESTIBLE",
        RvError::KeyFunctionNotPermitted => "CKR_KEY_FUNCTION_NOT_PERMITTED",
        RvError::KeyNotWrappable => "CKR_KEY_NOT_WRAPPABLE",
        RvError::KeyUnextractable => "CKR_KEY_UNEXTRACTABLE",
        RvError::MechanismInvalid => "CKR_MECHANISM_INVALID",
        RvError::MechanismParamInvalid => "CKR_MECHANISM_PARAM_INVALID",
        RvError::ObjectHandleInvalid => "CKR_OBJECT_HANDLE_INVALID",
        RvError::OperationActive => "CKR_OPERATION_ACTIVE",
        RvError::OperationNotInitialized => "CKR_OPERATION_NOT_INITIALIZED",
        RvError::PinIncorrect => "CKR_PIN_INCORRECT",
        RvError::PinInvalid => "CKR_PIN_INVALID",
        RvError::PinLenRange => "CKR_PIN_LEN_RANGE",
        RvError::PinExpired => "CKR_PIN_EXPIRED",
        RvError::PinLocked => "CKR_PIN_LOCKED",
        RvError::SessionClosed => "CKR_SESSION_CLOSED",
        RvError::SessionCount => "CKR_SESSION_COUNT",
        RvError::SessionHandleInvalid => "CKR_SESSION_HANDLE_INVALID",
        RvError::SessionParallelNotSupported => "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
        RvError::SessionReadOnly => "CKR_SESSION_READ_ONLY",
        RvError::SessionExists => "CKR_SESSION_EXISTS",
        RvError::SessionReadOnlyExists => "CKR_SESSION_READ_ONLY_EXISTS",
        RvError::SessionReadWriteSoExists => "CKR_SESSION_READ_WRITE_SO_EXISTS",
        RvError::SignatureInvalid => "CKR_SIGNATURE_INVALID",
        RvError::SignatureLenRange => "CKR_SIGNATURE_LEN_RANGE",
        RvError::TemplateIncomplete => "CKR_TEMPLATE_INCOMPLETE",
        RvError::TemplateInconsistent => "CKR_TEMPLATE_INCONSISTENT",
        RvError::TokenNotPresent => "CKR_TOKEN_NOT_PRESENT",
        RvError::TokenNotRecognized => "CKR_TOKEN_NOT_RECOGNIZED",
        RvError::TokenWriteProtected => "CKR_TOKEN_WRITE_PROTECTED",
        RvError::UnwrappingKeyHandleInvalid => "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
        RvError::UnwrappingKeySizeRange => "CKR_UNWRAPPING_KEY_SIZE_RANGE",
        RvError::UnwrappingKeyTypeInconsistent => "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
        RvError::UserAlreadyLoggedIn => "CKR_USER_ALREADY_LOGGED_IN",
        RvError::UserNotLoggedIn => "CKR_USER_NOT_LOGGED_IN",
        RvError::UserPinNotInitialized => "CKR_USER_PIN_NOT_INITIALIZED",
        RvError::UserTypeInvalid => "CKR_USER_TYPE_INVALID",
        RvError::UserAnotherAlreadyLoggedIn => "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
        RvError::UserTooManyTypes => "CKR_USER_TOO_MANY_TYPES",
        RvError::WrappedKeyInvalid => "CKR_WRAPPED_KEY_INVALID",
        RvError::WrappedKeyLenRange => "CKR_WRAPPED_KEY_LEN_RANGE",
        RvError::WrappingKeyHandleInvalid => "CKR_WRAPPING_KEY_HANDLE_INVALID",
        RvError::WrappingKeySizeRange => "CKR_WRAPPING_KEY_SIZE_RANGE",
        RvError::WrappingKeyTypeInconsistent => "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
        RvError::RandomSeedNotSupported => "CKR_RANDOM_SEED_NOT_SUPPORTED",
        RvError::RandomNoRng => "CKR_RANDOM_NO_RNG",
        RvError::DomainParamsInvalid => "CKR_DOMAIN_PARAMS_INVALID",
        RvError::BufferTooSmall => "CKR_BUFFER_TOO_SMALL",
        RvError::SavedStateInvalid => "CKR_SAVED_STATE_INVALID",
        RvError::InformationSensitive => "CKR_INFORMATION_SENSITIVE",
        RvError::StateUnsaveable => "CKR_STATE_UNSAVEABLE",
        RvError::CryptokiNotInitialized => "CKR_CRYPTOKI_NOT_INITIALIZED",
        RvError::CryptokiAlreadyInitialized => "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        RvError::MutexBad => "CKR_MUTEX_BAD",
        RvError::MutexNotLocked => "CKR_MUTEX_NOT_LOCKED",
        RvError::NewPinMode => "CKR_NEW_PIN_MODE",
        RvError::NextOtp => "CKR_NEXT_OTP",
        RvError::ExceededMaxIterations => "CKR_EXCEEDED_MAX_ITERATIONS",
        RvError::FipsSelfTestFailed => "CKR_FIPS_SELF_TEST_FAILED",
        RvError::LibraryLoadFailed => "CKR_LIBRARY_LOAD_FAILED",
        RvError::PinTooWeak => "CKR_PIN_TOO_WEAK",
        RvError::PublicKeyInvalid => "CKR_PUBLIC_KEY_INVALID",
        RvError::FunctionRejected => "CKR_FUNCTION_REJECTED",
        RvError::VendorDefined(code) => return Cow::Owned(format!("CKR_VENDOR_DEFINED + {:#x}", code & 0x7fff_ffff)),
        RvError::UnknownErrorCode(code) => return Cow::Owned(format!("CKR {code:#x}")),
    })
}

#[cfg(test)]
mod tests {
    use cryptoki::error::Rv;

    use super::*;

    /// Values from the standard's header, not from cryptoki's table.
    #[test]
    fn names_are_those_of_the_standard() {
        for (value, name) in [
            (0x05, "CKR_GENERAL_ERROR"),
            (0x30, "CKR_DEVICE_ERROR"),
            (0x70, "CKR_MECHANISM_INVALID"),
            (0xa0, "CKR_PIN_INCORRECT"),
            (0xa4, "CKR_PIN_LOCKED"),
            (0xb3, "CKR_SESSION_HANDLE_INVALID"),
            (0x102, "CKR_USER_PIN_NOT_INITIALIZED"),
            (0x190, "CKR_CRYPTOKI_NOT_INITIALIZED"),
            (0x8000_0042, "CKR_VENDOR_DEFINED + 0x42"),
            (0x7777, "CKR 0x7777"),
        ] {
            match Rv::from(value) {
                Rv::Error(rv) => assert_eq!(rv_name(rv), name),
                Rv::Ok => panic!("{name} is no error"),
            }
        }
    }

    #[test]
    fn says_which_call_failed_and_never_the_standards_prose() {
        let error = translate(&Error::Pkcs11(RvError::DeviceError, Function::Sign), "token \"t\"");
        assert_eq!(error.to_string(), "token \"t\": C_Sign failed (CKR_DEVICE_ERROR)");
        assert_eq!(error.fault().map(|f| f.code), Some("device_error"));
        let error = translate(&Error::Pkcs11(RvError::SessionHandleInvalid, Function::SignInit), "t");
        assert_eq!(error.fault().map(|f| f.code), Some("device_gone"));
    }

    #[test]
    fn another_type_of_key_is_proposed_only_where_a_mechanism_was_named() {
        for (function, code) in [
            (Function::GenerateKeyPair, "key_type_unsupported"),
            (Function::SignInit, "key_type_unsupported"),
            (Function::FindObjectsInit, "device_error"),
            (Function::GetTokenInfo, "device_error"),
        ] {
            let error = translate(&Error::Pkcs11(RvError::MechanismInvalid, function), "t");
            assert_eq!(error.fault().map(|f| f.code), Some(code), "{function:?}");
        }
    }
}
