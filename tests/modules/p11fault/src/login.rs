//! Who may do what: `login:` and `sign:`. PINs are kept as a hash, to compare the second with the first.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;

use crate::log::Asked;
use crate::rules::Rules;
use crate::slots::{self, Place};
use crate::{call, lists, real, rules, setup};

/// A signature that has begun.
#[derive(Debug, Default)]
struct Signing {
    /// The PIN was given since `C_SignInit`.
    allowed: bool,
    /// What `C_SignUpdate` has brought.
    data: Vec<u8>,
}

#[derive(Debug)]
struct State {
    /// By real slot: what the user got in with.
    accepted: BTreeMap<CK_SLOT_ID, u64>,
    signing: BTreeMap<CK_SESSION_HANDLE, Signing>,
}

static STATE: Mutex<State> = Mutex::new(State { accepted: BTreeMap::new(), signing: BTreeMap::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(pin: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    pin.hash(&mut hasher);
    hasher.finish()
}

/// What a login has to say through the flags of the token.
pub fn flags(rules: &Rules) -> CK_FLAGS {
    let Some(tries) = rules.login.tries else { return 0 };
    match refused_so_far() {
        0 => 0,
        n if n >= tries => CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED,
        n if n + 1 == tries => CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY,
        _ => CKF_USER_PIN_COUNT_LOW,
    }
}

fn state_file() -> OsString {
    std::env::var_os("P11FAULT_STATE").unwrap_or_default()
}

fn refused_so_far() -> u32 {
    std::fs::read_to_string(state_file()).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn remember_refused(n: u32) {
    std::fs::write(state_file(), n.to_string()).expect("P11FAULT_STATE can be written");
}

/// What a rule logs in with by itself.
fn own_pin() -> Vec<u8> {
    if let Some(pin) = std::env::var_os("P11FAULT_PIN") {
        return pin.into_vec();
    }
    let file = std::env::var_os("P11FAULT_PIN_FILE").unwrap_or_default();
    std::fs::read(file).expect("P11FAULT_PIN_FILE can be read")
}

/// `C_Login`, made by hand for the line in `P11FAULT_LOGINS`, which tells what the caller could see when it asked.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.6: `pin` is null or points to `pin_len` bytes.
#[allow(non_snake_case, reason = "the name of the standard")]
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let Ok(lists) = lists() else { return CKR_GENERAL_ERROR };
    let asked = setup().ok().filter(|setup| setup.log.has_logins()).map(|_| {
        let flags = slots::flags_of(&lists.real, session);
        Asked::now(user, flags, !pin.is_null())
    });
    // SAFETY: the caller's promise is the one that `login` asks for.
    let rv = call("C_Login", &CALLS, || unsafe { login(&lists.real, session, user, pin, pin_len) });
    if let (Some(asked), Ok(setup)) = (asked, setup()) {
        setup.log.login(&asked, rv);
    }
    rv
}

/// # Safety
/// `pin` is null or points to `pin_len` bytes.
unsafe fn login(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_Login else { return CKR_FUNCTION_NOT_SUPPORTED };
    let place = slots::place_of(real, session);
    let (Some(rules), Some(place)) = (rules(), place) else {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(session, user, pin, pin_len) };
    };
    if place.accelerator {
        return CKR_USER_PIN_NOT_INITIALIZED;
    }
    let typed_there = pin.is_null()
        && rules.login.null_pin
        && slots::flags_of(real, session).is_some_and(|flags| flags & CKF_PROTECTED_AUTHENTICATION_PATH != 0);
    let mut typed = if typed_there { own_pin() } else { Vec::new() };
    let (pin, pin_len) = if typed_there { (typed.as_mut_ptr(), typed.len() as CK_ULONG) } else { (pin, pin_len) };
    // SAFETY: null, or the caller's own bytes, or those of `typed`, which lives as long as this function.
    let given = hash(unsafe { real::slice(pin, pin_len) });

    let counted = rules.login.tries.filter(|_| user != CKU_SO);
    if counted.is_some_and(|tries| refused_so_far() >= tries) {
        return CKR_PIN_LOCKED;
    }
    let rv = if user == CKU_CONTEXT_SPECIFIC && rules.login.context {
        let mut state = state();
        let accepted = state.accepted.get(&place.slot).copied();
        match (state.signing.get_mut(&session), accepted) {
            (None, _) => CKR_OPERATION_NOT_INITIALIZED,
            (_, None) => CKR_USER_NOT_LOGGED_IN,
            (Some(signing), Some(accepted)) if accepted == given => {
                signing.allowed = true;
                CKR_OK
            }
            _ => CKR_PIN_INCORRECT,
        }
    } else {
        // SAFETY: the real function, with the caller's own PIN or with ours.
        unsafe { function(session, user, pin, pin_len) }
    };
    if rv == CKR_OK && user == CKU_USER {
        state().accepted.insert(place.slot, given);
    }
    match (counted, rv) {
        (Some(tries), CKR_PIN_INCORRECT) => {
            let refused = refused_so_far() + 1;
            remember_refused(refused);
            if refused >= tries { CKR_PIN_LOCKED } else { rv }
        }
        (Some(_), CKR_OK) => {
            remember_refused(0);
            rv
        }
        _ => rv,
    }
}

/// Logs a new session in where no login is to be needed.
pub fn opened(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, place: Place) {
    if place.accelerator || !rules().is_some_and(|rules| rules.login.not_needed) || real::is_user(real, session) {
        return;
    }
    let Some(function) = real.C_Login else { return };
    let mut pin = own_pin();
    // SAFETY: `pin` is as long as is said here.
    let rv = unsafe { function(session, CKU_USER, pin.as_mut_ptr(), pin.len() as CK_ULONG) };
    assert_eq!(rv, CKR_OK, "p11fault: P11FAULT_PIN is not the PIN");
    state().accepted.insert(place.slot, hash(&pin));
}

/// Whether all that wants a login is refused because the PIN is to be changed first.
pub fn expired(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> bool {
    rules().is_some_and(|rules| rules.login.expired) && real::is_user(real, session)
}

/// `C_DestroyObject`.
///
/// # Safety
/// None is needed; the other functions of the list have pointers.
pub unsafe fn destroy_object(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    match real.C_DestroyObject {
        _ if expired(real, session) => CKR_PIN_EXPIRED,
        None => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: no pointers.
        Some(function) => unsafe { function(session, object) },
    }
}

/// `C_SignInit`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.11: `mechanism` is null or points to one.
pub unsafe fn sign_init(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(function) = real.C_SignInit else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the caller's promise above; `as_ref` looks for null itself.
    if unsafe { mechanism.as_ref() }.is_some_and(|mechanism| slots::lacks(mechanism.mechanism)) {
        return CKR_MECHANISM_INVALID;
    }
    if expired(real, session) {
        return CKR_PIN_EXPIRED;
    }
    // SAFETY: the real function, with the caller's own arguments.
    let rv = unsafe { function(session, mechanism, key) };
    if rv == CKR_OK {
        state().signing.insert(session, Signing::default());
    }
    rv
}

/// Whether the signature of a session still wants its PIN. If so it ends, in the real module as well.
fn wants_pin(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> bool {
    if !rules().is_some_and(|rules| rules.login.context) || state().signing.get(&session).is_none_or(|s| s.allowed) {
        return false;
    }
    state().signing.remove(&session);
    if let Some(function) = real.C_Sign {
        let (mut data, mut signature) = ([0; 32], [0; 2048]);
        let mut len = signature.len() as CK_ULONG;
        // SAFETY: both buffers are as long as is said here. The signature, if it is one, is thrown away.
        unsafe { function(session, data.as_mut_ptr(), data.len() as CK_ULONG, signature.as_mut_ptr(), &mut len) };
    }
    true
}

/// A signature is over when it was given, and when it failed; not when only its length was.
fn ends(session: CK_SESSION_HANDLE, out: *const CK_BYTE, rv: CK_RV) {
    if rv != CKR_BUFFER_TOO_SMALL && !(rv == CKR_OK && out.is_null()) {
        state().signing.remove(&session);
    }
}

/// `C_Sign`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.11: `data` points to `data_len` bytes, `out` is null or has room for as many
/// as `out_len` says.
pub unsafe fn sign(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_len: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_Sign else { return CKR_FUNCTION_NOT_SUPPORTED };
    if wants_pin(real, session) {
        return CKR_USER_NOT_LOGGED_IN;
    }
    // SAFETY: the real function, with the caller's own arguments.
    let rv = unsafe { function(session, data, data_len, out, out_len) };
    ends(session, out, rv);
    rv
}

/// `C_SignUpdate`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.11: `data` points to `data_len` bytes.
pub unsafe fn sign_update(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG) -> CK_RV {
    let Some(function) = real.C_SignUpdate else { return CKR_FUNCTION_NOT_SUPPORTED };
    if wants_pin(real, session) {
        return CKR_USER_NOT_LOGGED_IN;
    }
    if rules().is_some_and(|rules| rules.login.in_parts) {
        // SAFETY: the caller's promise above.
        let data = unsafe { real::slice(data, data_len) };
        return match state().signing.get_mut(&session) {
            Some(signing) => {
                signing.data.extend_from_slice(data);
                CKR_OK
            }
            None => CKR_OPERATION_NOT_INITIALIZED,
        };
    }
    // SAFETY: the real function, with the caller's own arguments.
    unsafe { function(session, data, data_len) }
}

/// `C_SignFinal`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.11: `out` is null or has room for as many bytes as `out_len` says.
pub unsafe fn sign_final(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    if wants_pin(real, session) {
        return CKR_USER_NOT_LOGGED_IN;
    }
    let rv = if rules().is_some_and(|rules| rules.login.in_parts) {
        let data = state().signing.get(&session).map(|signing| signing.data.clone());
        match (data, real.C_Sign) {
            (None, _) => CKR_OPERATION_NOT_INITIALIZED,
            (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
            // SAFETY: `data` is as long as is said here; the rest is the caller's own.
            (Some(mut data), Some(sign)) => unsafe { sign(session, data.as_mut_ptr(), data.len() as CK_ULONG, out, out_len) },
        }
    } else {
        let Some(function) = real.C_SignFinal else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the real function, with the caller's own arguments.
        unsafe { function(session, out, out_len) }
    };
    ends(session, out, rv);
    rv
}
