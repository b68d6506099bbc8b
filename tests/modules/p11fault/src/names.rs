//! The names of the standard that a rule may use, beside numbers like 0x30.

use cryptoki_sys::*;

macro_rules! named {
    ($( $name:ident )*) => { &[$( (stringify!($name), $name) ),*] };
}

/// Attributes that are true or false.
const BOOLEANS: &[(&str, CK_ULONG)] = named! {
    CKA_TOKEN CKA_PRIVATE CKA_TRUSTED CKA_SENSITIVE CKA_ENCRYPT CKA_DECRYPT CKA_WRAP CKA_UNWRAP CKA_SIGN CKA_SIGN_RECOVER
    CKA_VERIFY CKA_VERIFY_RECOVER CKA_DERIVE CKA_EXTRACTABLE CKA_LOCAL CKA_NEVER_EXTRACTABLE CKA_ALWAYS_SENSITIVE
    CKA_MODIFIABLE CKA_COPYABLE CKA_DESTROYABLE CKA_ALWAYS_AUTHENTICATE CKA_WRAP_WITH_TRUSTED
};

/// The others.
const ATTRIBUTES: &[(&str, CK_ULONG)] = named! {
    CKA_CLASS CKA_LABEL CKA_UNIQUE_ID CKA_VALUE CKA_KEY_TYPE CKA_SUBJECT CKA_ID CKA_MODULUS CKA_MODULUS_BITS
    CKA_PUBLIC_EXPONENT CKA_PUBLIC_KEY_INFO CKA_KEY_GEN_MECHANISM CKA_EC_PARAMS CKA_EC_POINT
};

const MECHANISMS: &[(&str, CK_ULONG)] = named! {
    CKM_EC_KEY_PAIR_GEN CKM_RSA_PKCS_KEY_PAIR_GEN CKM_ECDSA CKM_ECDSA_SHA256 CKM_ECDSA_SHA384 CKM_RSA_PKCS CKM_RSA_PKCS_PSS
    CKM_RSA_X_509 CKM_SHA256_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS
};

/// Of tokens.
const FLAGS: &[(&str, CK_ULONG)] = named! {
    CKF_RNG CKF_WRITE_PROTECTED CKF_LOGIN_REQUIRED CKF_USER_PIN_INITIALIZED CKF_RESTORE_KEY_NOT_NEEDED CKF_CLOCK_ON_TOKEN
    CKF_PROTECTED_AUTHENTICATION_PATH CKF_DUAL_CRYPTO_OPERATIONS CKF_TOKEN_INITIALIZED CKF_USER_PIN_COUNT_LOW
    CKF_USER_PIN_FINAL_TRY CKF_USER_PIN_LOCKED CKF_USER_PIN_TO_BE_CHANGED CKF_SO_PIN_COUNT_LOW CKF_SO_PIN_FINAL_TRY
    CKF_SO_PIN_LOCKED CKF_SO_PIN_TO_BE_CHANGED CKF_ERROR_STATE
};

/// `0x30`.
pub fn number(text: &str) -> Option<CK_ULONG> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    CK_ULONG::from_str_radix(digits, 16).ok()
}

fn find(text: &str, names: &[(&str, CK_ULONG)]) -> Option<CK_ULONG> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

pub fn attribute(text: &str) -> Option<CK_ATTRIBUTE_TYPE> {
    find(text, BOOLEANS).or_else(|| find(text, ATTRIBUTES)).or_else(|| number(text))
}

pub fn is_boolean(attribute: CK_ATTRIBUTE_TYPE) -> bool {
    BOOLEANS.iter().any(|(_, value)| *value == attribute)
}

pub fn mechanism(text: &str) -> Option<CK_MECHANISM_TYPE> {
    find(text, MECHANISMS).or_else(|| number(text))
}

pub fn token_flags(text: &str) -> Option<CK_FLAGS> {
    find(text, FLAGS).or_else(|| number(text))
}

pub fn class(text: &str) -> Option<CK_OBJECT_CLASS> {
    match text {
        "public" => Some(CKO_PUBLIC_KEY),
        "private" => Some(CKO_PRIVATE_KEY),
        "certificate" => Some(CKO_CERTIFICATE),
        _ => None,
    }
}
