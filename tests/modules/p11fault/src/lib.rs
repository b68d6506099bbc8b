//! A PKCS#11 module that stands between a program and a real module: it passes every call on, writes a line about it,
//! and on demand answers with an error, kills the process, hangs, or shows something that is not so. Only for tests,
//! and the only crate here with `unsafe`.
//!
//! The environment says what it does; it is read once, at the first call:
//!
//! | variable | meaning |
//! |---|---|
//! | `P11FAULT_MODULE` | path of the real module; without it nothing works |
//! | `P11FAULT_LOG` | file that gets one line a call; see `log.rs` |
//! | `P11FAULT` | what goes wrong, `;` between rules; see `rules.rs`; unset or empty: nothing |
//! | `P11FAULT_LOGINS` | file that gets one line a login, with what the caller could know; see `log.rs` |
//! | `P11FAULT_RECORD` | file that gets a line when a process begins, and one a login; see `log.rs` |
//! | `P11FAULT_NOTE` | a word that stands in the former |
//! | `P11FAULT_PIN` | the PIN of the user, for the rules that log in by themselves |
//! | `P11FAULT_PIN_FILE` | or a file that holds it and nothing else, so that it is in nobody's environment |
//! | `P11FAULT_STATE` | file that keeps the number of refused logins, for `login:tries` |
//!
//! Only `C_GetFunctionList` is exported, so callers that know PKCS#11 3.x find a 2.40 module and fall back. A function
//! that the real module leaves out stays left out. The real module is never unloaded, not even when this one is.

mod generate;
mod log;
mod login;
mod names;
mod real;
mod rules;
mod seen;
mod slots;

use std::fmt::Display;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::*;
use libloading::Library;

use crate::log::Log;
use crate::rules::{Action, Rules};

/// The function list of the real module, and the one that callers get.
struct Lists {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
}

/// What the environment asks for.
struct Setup {
    rules: Rules,
    log: Log,
}

static LISTS: OnceLock<Result<Lists, String>> = OnceLock::new();
static SETUP: OnceLock<Result<Setup, String>> = OnceLock::new();

fn lists() -> Result<&'static Lists, &'static str> {
    LISTS.get_or_init(load).as_ref().map_err(String::as_str)
}

fn setup() -> Result<&'static Setup, &'static str> {
    let read = || {
        let rules = std::env::var_os("P11FAULT").unwrap_or_default();
        let rules = Rules::parse(rules.to_str().ok_or("P11FAULT is not UTF-8")?, FUNCTIONS)?;
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        if rules.wants_pin() && unset("P11FAULT_PIN") && unset("P11FAULT_PIN_FILE") {
            return Err("a rule of P11FAULT wants P11FAULT_PIN or P11FAULT_PIN_FILE, and neither is set".into());
        }
        if rules.wants_state() && unset("P11FAULT_STATE") {
            return Err("a rule of P11FAULT wants P11FAULT_STATE, which is not set".into());
        }
        Ok(Setup { rules, log: Log::open("P11FAULT_LOG", "P11FAULT_LOGINS", "P11FAULT_RECORD")? })
    };
    SETUP.get_or_init(read).as_ref().map_err(String::as_str)
}

/// `None` where they cannot be read: then nothing is changed, for C_Initialize has refused to start.
fn rules() -> Option<&'static Rules> {
    setup().ok().map(|setup| &setup.rules)
}

fn load() -> Result<Lists, String> {
    let path = std::env::var_os("P11FAULT_MODULE").ok_or("P11FAULT_MODULE is not set")?;
    let blame = |why: &dyn Display| format!("P11FAULT_MODULE {}: {why}", Path::new(&path).display());
    // SAFETY: loading runs the module's initialisers; the test that set P11FAULT_MODULE names a real PKCS#11 module,
    // and `forget` below keeps it loaded, so that no pointer into it ever dangles.
    let library = unsafe { Library::new(&path) }.map_err(|error| blame(&error))?;
    // SAFETY: PKCS#11 2.40 §5.4 gives this symbol this type, and `CK_C_GetFunctionList` is that type.
    let get_list = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList") }.map_err(|error| blame(&error))?;
    let get_list = get_list.ok_or_else(|| blame(&"C_GetFunctionList is null"))?;
    if std::ptr::fn_addr_eq(get_list, C_GetFunctionList as unsafe extern "C" fn(_) -> _) {
        return Err(blame(&"this is p11fault itself"));
    }
    let mut list = std::ptr::null_mut();
    // SAFETY: the function wants a place for one pointer, and `list` is one.
    let rv = unsafe { get_list(&mut list) };
    if rv != CKR_OK || list.is_null() {
        return Err(blame(&format_args!("C_GetFunctionList answered {rv:#x}")));
    }
    // SAFETY: CKR_OK and not null: it points to the module's own list, which is readable as long as it is loaded.
    let real = unsafe { *list };
    std::mem::forget(library);
    let mut ours = real;
    put_ours_into(&mut ours);
    Ok(Lists { real, ours })
}

/// One call, whatever the function: counted, looked up in the rules, passed on by `real`, logged.
fn call(function: &'static str, calls: &AtomicU64, real: impl FnOnce() -> CK_RV) -> CK_RV {
    let n = calls.fetch_add(1, Ordering::Relaxed) + 1;
    // With rules that cannot be read nothing is faulted: C_Initialize has refused to start.
    let Ok(Setup { rules, log }) = setup() else { return real() };
    let action = rules.action(function, n);
    match action {
        Some(Action::Answer(rv)) => {
            log.answered(function, n, rv);
            return rv;
        }
        Some(Action::Kill) => {
            log.ends(function, n, "kill");
            kill_this_process();
        }
        Some(Action::Hang) => {
            log.ends(function, n, "hang");
            loop {
                std::thread::park();
            }
        }
        Some(Action::Print) => println!("p11fault: {function} {n}"),
        Some(Action::AnswerAfter(_) | Action::KillAfter) | None => {}
    }
    let real = real();
    let rv = if let Some(Action::AnswerAfter(rv)) = action { rv } else { real };
    log.answered(function, n, rv);
    if action == Some(Action::KillAfter) {
        kill_this_process();
    }
    rv
}

fn kill_this_process() -> ! {
    let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    panic!("p11fault: the process outlived SIGKILL: {killed:?}"); // and a panic cannot leave `extern "C"`: it aborts
}

fn complain(message: &str) -> CK_RV {
    eprintln!("p11fault: {message}");
    CKR_GENERAL_ERROR
}

/// Refuses to start with rules that it cannot read or a log that it cannot write, so that no test passes by a typo.
///
/// # Safety
/// `args` is null or points to a `CK_C_INITIALIZE_ARGS` (PKCS#11 2.40 §5.4).
unsafe fn initialize(real: &CK_FUNCTION_LIST, args: *mut std::ffi::c_void) -> CK_RV {
    match (setup(), real.C_Initialize) {
        (Err(message), _) => complain(message),
        (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: `args` is the caller's own, passed on untouched.
        (_, Some(function)) => unsafe { function(args) },
    }
}

/// `C_GetFunctionList`, exported and in the list: both give ours.
///
/// # Safety
/// `list` is null or a place for one pointer (PKCS#11 2.40 §5.4).
unsafe fn function_list(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: the caller's promise above; `as_mut` looks for null itself.
    let Some(list) = (unsafe { list.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    match lists() {
        Ok(lists) => {
            // Callers read it and never write (§5.4), so a pointer into a `static` will do.
            *list = (&raw const lists.ours).cast_mut();
            CKR_OK
        }
        Err(message) => complain(message),
    }
}

/// Makes, for each row, the function that stands in the list instead of the real one, and `FUNCTIONS`, their names.
/// A row with `=> f` calls `f(real list, arguments…)` instead of the real function itself.
macro_rules! stand_between {
    ($( $function:ident ( $( $arg:ident : $type:ty ),* ) $( => $instead:path )? ; )*) => {
        /// Every function of PKCS#11 2.40. `C_GetFunctionList`, the exported one, and `C_Login` are made by hand.
        const FUNCTIONS: &[&str] = &["C_GetFunctionList", "C_Login", $( stringify!($function) ),*];

        $(
            #[allow(non_snake_case, reason = "the names of the standard")]
            unsafe extern "C" fn $function($( $arg: $type ),*) -> CK_RV {
                static CALLS: AtomicU64 = AtomicU64::new(0);
                let Ok(Lists { real, .. }) = lists() else { return CKR_GENERAL_ERROR };
                call(stringify!($function), &CALLS, || stand_between!(@pass real $function ($( $arg ),*) $( $instead )?))
            }
        )*

        /// Puts ours in the place of every function that `list` has.
        fn put_ours_into(list: &mut CK_FUNCTION_LIST) {
            list.C_GetFunctionList = Some(C_GetFunctionList);
            list.C_Login = list.C_Login.and(Some(login::C_Login));
            $( list.$function = list.$function.and(Some($function)); )*
        }
    };
    (@pass $real:ident $function:ident ($( $arg:ident ),*)) => {
        match $real.$function {
            // SAFETY: the real module's function of the same name and type, with the caller's own arguments.
            Some(function) => unsafe { function($( $arg ),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
    (@pass $real:ident $function:ident ($( $arg:ident ),*) $instead:path) => {
        // SAFETY: what these want of their pointers is what the standard wants of the caller's.
        unsafe { $instead($real, $( $arg ),*) }
    };
}

/// The list has a version, padded to the size of a pointer, and then functions: none is left out.
const _: () = assert!(size_of::<CK_FUNCTION_LIST>() == (FUNCTIONS.len() + 1) * size_of::<CK_C_GetFunctionList>());

/// The one symbol of the module.
///
/// # Safety
/// `list` is null or a place for one pointer (PKCS#11 2.40 §5.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // SAFETY: the caller's promise is the one that `function_list` asks for.
    call("C_GetFunctionList", &CALLS, || unsafe { function_list(list) })
}

stand_between! {
    C_Initialize(args: *mut std::ffi::c_void) => initialize;
    C_Finalize(reserved: *mut std::ffi::c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) => slots::list;
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) => slots::slot_info;
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) => slots::token_info;
    C_GetMechanismList(slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG) => slots::mechanisms;
    C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO) => slots::mechanism_info;
    C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_UTF8CHAR, pin_len: CK_ULONG, label: *mut CK_UTF8CHAR) => slots::init_token;
    C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, pin_len: CK_ULONG);
    C_SetPIN(
        session: CK_SESSION_HANDLE, old: *mut CK_UTF8CHAR, old_len: CK_ULONG, new: *mut CK_UTF8CHAR, new_len: CK_ULONG
    );
    C_OpenSession(
        slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut std::ffi::c_void, notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE
    ) => slots::open_session;
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_CloseAllSessions(slot: CK_SLOT_ID) => slots::close_all_sessions;
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) => slots::session_info;
    C_GetOperationState(session: CK_SESSION_HANDLE, state: *mut CK_BYTE, len: *mut CK_ULONG);
    C_SetOperationState(
        session: CK_SESSION_HANDLE, state: *mut CK_BYTE, len: CK_ULONG, encryption: CK_OBJECT_HANDLE,
        authentication: CK_OBJECT_HANDLE
    );
    C_Logout(session: CK_SESSION_HANDLE);
    C_CreateObject(
        session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE
    );
    C_CopyObject(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        copy: *mut CK_OBJECT_HANDLE
    );
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) => login::destroy_object;
    C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG);
    C_GetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG
    ) => seen::attribute_value;
    C_SetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG
    );
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(
        session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, max: CK_ULONG, count: *mut CK_ULONG
    ) => seen::find_objects;
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Encrypt(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_EncryptUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_EncryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DecryptUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DecryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM);
    C_Digest(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DigestUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG);
    C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE);
    C_DigestFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => login::sign_init;
    C_Sign(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    ) => login::sign;
    C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG) => login::sign_update;
    C_SignFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => login::sign_final;
    C_SignRecoverInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_SignRecover(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_VerifyInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Verify(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, signature: *mut CK_BYTE,
        signature_len: CK_ULONG
    );
    C_VerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG);
    C_VerifyFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, signature_len: CK_ULONG);
    C_VerifyRecoverInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_VerifyRecover(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DigestEncryptUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DecryptDigestUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_SignEncryptUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_DecryptVerifyUpdate(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG
    );
    C_GenerateKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    );
    C_GenerateKeyPair(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG,
        private: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut CK_OBJECT_HANDLE,
        private_key: *mut CK_OBJECT_HANDLE
    ) => generate::key_pair;
    C_WrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE, wrapped_len: *mut CK_ULONG
    );
    C_UnwrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE, wrapped_len: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    );
    C_DeriveKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, base: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE
    );
    C_SeedRandom(session: CK_SESSION_HANDLE, seed: *mut CK_BYTE, len: CK_ULONG);
    C_GenerateRandom(session: CK_SESSION_HANDLE, random: *mut CK_BYTE, len: CK_ULONG);
    C_GetFunctionStatus(session: CK_SESSION_HANDLE);
    C_CancelFunction(session: CK_SESSION_HANDLE);
    C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut std::ffi::c_void);
}
