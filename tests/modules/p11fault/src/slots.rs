//! Which slots there are, and which sessions were opened in which of them: `slots:` and `sessions:`, and the rules about
//! what a token is shown to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;

use crate::rules::{Rules, Slots};
use crate::{login, real, rules};

/// What stands behind the number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub slot: CK_SLOT_ID,
    pub accelerator: bool,
}

#[derive(Debug)]
struct Known {
    /// By the number that callers know.
    places: BTreeMap<CK_SLOT_ID, Place>,
    /// The number of the slot as its opener gave it.
    sessions: BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    lists: CK_SLOT_ID,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { places: BTreeMap::new(), sessions: BTreeMap::new(), lists: 0 });

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a caller means by `slot`; `None` where the number is not one that this process was given.
fn place(slot: CK_SLOT_ID) -> Option<Place> {
    let itself = Place { slot, accelerator: false };
    let renumbered = rules().is_some_and(|rules| rules.slots.renumber);
    known().places.get(&slot).copied().or((!renumbered).then_some(itself))
}

/// Where a session was opened.
pub fn place_of(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> Option<Place> {
    let slot = known().sessions.get(&session).copied();
    slot.and_then(place).or_else(|| Some(Place { slot: real::session_info(real, session)?.slotID, accelerator: false }))
}

/// The flags of the token of a session, as callers are shown them.
pub fn flags_of(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> Option<CK_FLAGS> {
    let place = place_of(real, session)?;
    let mut info = real::token_info(real, place.slot)?;
    show(place, &mut info);
    Some(info.flags)
}

/// `C_GetSlotList`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `slots` is null or has room for as many numbers as `count` says.
pub unsafe fn list(real: &CK_FUNCTION_LIST, present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    let Some(function) = real.C_GetSlotList else { return CKR_FUNCTION_NOT_SUPPORTED };
    let Some(wanted) = rules().map(|rules| &rules.slots).filter(|slots| **slots != Slots::default()) else {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(present, slots, count) };
    };
    // SAFETY: room for as many numbers as `count` says, or null, both of our own.
    let found = real::list(|slots, count| unsafe { function(present, slots, count) });
    match found {
        Ok(found) => {
            let numbers = number(wanted, places(real, wanted, &found), slots.is_null());
            // SAFETY: the caller's promise is the one that `give` asks for.
            unsafe { real::give(&numbers, slots, count) }
        }
        Err(rv) => rv,
    }
}

/// In the order of the list; a second slot of a token is told from the first by the highest bit of 32.
fn places(real: &CK_FUNCTION_LIST, wanted: &Slots, found: &[CK_SLOT_ID]) -> Vec<(CK_SLOT_ID, Place)> {
    let initialised = |slot: CK_SLOT_ID| real::token_info(real, slot).is_some_and(|i| i.flags & CKF_TOKEN_INITIALIZED != 0);
    let mut places = Vec::new();
    if let (true, Some(first)) = (wanted.accelerator, found.iter().find(|slot| initialised(**slot))) {
        places.push((0x4000_0000 ^ first, Place { slot: *first, accelerator: true }));
    }
    for slot in found {
        let place = Place { slot: *slot, accelerator: false };
        places.push((*slot, place));
        if wanted.twice && initialised(*slot) {
            places.push((0x8000_0000 ^ slot, place));
        }
    }
    places
}

/// Gives each its number and remembers it. `counting`: it is only asked how many there are.
fn number(wanted: &Slots, places: Vec<(CK_SLOT_ID, Place)>, counting: bool) -> Vec<CK_SLOT_ID> {
    let mut known = known();
    if !counting {
        known.lists += 1;
    }
    let first = (CK_SLOT_ID::from(std::process::id()) << 8) + (known.lists << 4);
    let numbered = places.into_iter().enumerate().map(|(i, (slot, place))| match wanted.renumber {
        true => (first + i as CK_SLOT_ID, place),
        false => (slot, place),
    });
    let numbered: Vec<_> = numbered.collect();
    if !counting {
        known.places.extend(numbered.iter().copied());
    }
    numbered.into_iter().map(|(slot, _)| slot).collect()
}

/// What the rules make of the token in a slot.
fn show(place: Place, info: &mut CK_TOKEN_INFO) {
    let Some(rules) = rules() else { return };
    let token = &rules.token;
    info.flags |= login::flags(rules);
    info.flags = (info.flags | token.set_flags) & !token.clear_flags;
    for (text, field) in [
        (&token.label, &mut info.label[..]),
        (&token.serial, &mut info.serialNumber[..]),
        (&token.model, &mut info.model[..]),
        (&token.manufacturer, &mut info.manufacturerID[..]),
    ] {
        if let Some(text) = text {
            fill(field, text);
        }
    }
    if place.accelerator {
        info.flags &= !(CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED);
        fill(&mut info.label, "accelerator");
        fill(&mut info.serialNumber, "accelerator");
    }
}

/// Padded with blanks, as all text of the standard is.
fn fill(field: &mut [u8], text: &str) {
    field.fill(b' ');
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// `C_GetTokenInfo`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `info` is null or points to one structure.
pub unsafe fn token_info(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let Some(function) = real.C_GetTokenInfo else { return CKR_FUNCTION_NOT_SUPPORTED };
    let Some(place) = place(slot) else { return CKR_SLOT_ID_INVALID };
    // SAFETY: the real function, with the caller's own structure.
    let rv = unsafe { function(place.slot, info) };
    // SAFETY: the caller's promise above; `as_mut` looks for null itself.
    if let (CKR_OK, Some(info)) = (rv, unsafe { info.as_mut() }) {
        show(place, info);
    }
    rv
}

/// `C_GetSlotInfo`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `info` is null or points to one structure.
pub unsafe fn slot_info(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    match (place(slot), real.C_GetSlotInfo) {
        (None, _) => CKR_SLOT_ID_INVALID,
        (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: the real function, with the caller's own structure.
        (Some(place), Some(function)) => unsafe { function(place.slot, info) },
    }
}

/// `C_InitToken`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `pin` is null or points to `pin_len` bytes, `label` to 32.
pub unsafe fn init_token(
    real: &CK_FUNCTION_LIST,
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    match (place(slot), real.C_InitToken) {
        (None, _) => CKR_SLOT_ID_INVALID,
        (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: the real function, with the caller's own arguments.
        (Some(place), Some(function)) => unsafe { function(place.slot, pin, pin_len, label) },
    }
}

/// `C_GetMechanismList`, without those that a rule takes away.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `mechanisms` is null or has room for as many as `count` says.
pub unsafe fn mechanisms(
    real: &CK_FUNCTION_LIST,
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_GetMechanismList else { return CKR_FUNCTION_NOT_SUPPORTED };
    let Some(place) = place(slot) else { return CKR_SLOT_ID_INVALID };
    let Some(rules) = rules().filter(|rules| !rules.without.is_empty()) else {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(place.slot, mechanisms, count) };
    };
    // SAFETY: room for as many as `count` says, or null, both of our own.
    let listed = real::list(|mechanisms, count| unsafe { function(place.slot, mechanisms, count) });
    match listed {
        Ok(mut listed) => {
            listed.retain(|mechanism| !rules.without.contains(mechanism));
            // SAFETY: the caller's promise is the one that `give` asks for.
            unsafe { real::give(&listed, mechanisms, count) }
        }
        Err(rv) => rv,
    }
}

/// `C_GetMechanismInfo`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `info` is null or points to one structure.
pub unsafe fn mechanism_info(
    real: &CK_FUNCTION_LIST,
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    if lacks(mechanism) {
        return CKR_MECHANISM_INVALID;
    }
    match (place(slot), real.C_GetMechanismInfo) {
        (None, _) => CKR_SLOT_ID_INVALID,
        (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: the real function, with the caller's own structure.
        (Some(place), Some(function)) => unsafe { function(place.slot, mechanism, info) },
    }
}

/// Whether a rule takes the mechanism away.
pub fn lacks(mechanism: CK_MECHANISM_TYPE) -> bool {
    rules().is_some_and(|rules| rules.without.contains(&mechanism))
}

/// `C_OpenSession`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.6: `session` is null or has room for one handle.
pub unsafe fn open_session(
    real: &CK_FUNCTION_LIST,
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut std::ffi::c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let Some(function) = real.C_OpenSession else { return CKR_FUNCTION_NOT_SUPPORTED };
    let Some(place) = place(slot) else { return CKR_SLOT_ID_INVALID };
    if let Some(rv) = rules().and_then(|rules| refused(rules, flags)) {
        return rv;
    }
    // SAFETY: the real function, with the caller's own arguments.
    let rv = unsafe { function(place.slot, flags, application, notify, session) };
    // SAFETY: the caller's promise above; `as_ref` looks for null itself.
    if let (CKR_OK, Some(session)) = (rv, unsafe { session.as_ref() }) {
        known().sessions.insert(*session, slot);
        login::opened(real, *session, place);
    }
    rv
}

fn refused(rules: &Rules, flags: CK_FLAGS) -> Option<CK_RV> {
    if flags & CKF_RW_SESSION == 0 { rules.login.no_read_only } else { rules.login.no_read_write }
}

/// `C_CloseAllSessions`.
///
/// # Safety
/// None is needed; the other functions of the list have pointers.
pub unsafe fn close_all_sessions(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID) -> CK_RV {
    match (place(slot), real.C_CloseAllSessions) {
        (None, _) => CKR_SLOT_ID_INVALID,
        (_, None) => CKR_FUNCTION_NOT_SUPPORTED,
        // SAFETY: no pointers.
        (Some(place), Some(function)) => unsafe { function(place.slot) },
    }
}

/// `C_GetSessionInfo`, with the number of the slot that its opener knows.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.6: `info` is null or points to one structure.
pub unsafe fn session_info(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) -> CK_RV {
    let Some(function) = real.C_GetSessionInfo else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the real function, with the caller's own structure.
    let rv = unsafe { function(session, info) };
    // SAFETY: the caller's promise above; `as_mut` looks for null itself.
    if let (CKR_OK, Some(info)) = (rv, unsafe { info.as_mut() }) {
        info.slotID = known().sessions.get(&session).copied().unwrap_or(info.slotID);
    }
    rv
}
