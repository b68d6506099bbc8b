//! The real module's functions as this crate itself uses them, to know what it changes: one place for their pointers.
//! Nothing here is counted or logged.

use cryptoki_sys::*;

/// What `pointer` and `count` of a caller stand for: nothing where the pointer is null.
///
/// # Safety
/// `pointer` is null, or points to `count` initialised values that nobody else uses while the slice lives.
pub unsafe fn slice<'a, T>(pointer: *mut T, count: CK_ULONG) -> &'a mut [T] {
    match (pointer.is_null(), usize::try_from(count)) {
        // SAFETY: not null, so the caller's promise says that it points to `count` values.
        (false, Ok(count)) => unsafe { std::slice::from_raw_parts_mut(pointer, count) },
        _ => &mut [],
    }
}

pub fn token_info(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID) -> Option<CK_TOKEN_INFO> {
    let mut info = CK_TOKEN_INFO::default();
    // SAFETY: `info` is one structure, of our own.
    let rv = unsafe { real.C_GetTokenInfo?(slot, &mut info) };
    (rv == CKR_OK).then_some(info)
}

pub fn session_info(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> Option<CK_SESSION_INFO> {
    let mut info = CK_SESSION_INFO::default();
    // SAFETY: `info` is one structure, of our own.
    let rv = unsafe { real.C_GetSessionInfo?(session, &mut info) };
    (rv == CKR_OK).then_some(info)
}

/// Whether the user is logged in.
pub fn is_user(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> bool {
    session_info(real, session).is_some_and(|info| [CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS].contains(&info.state))
}

/// A list whose length the module is asked for first.
///
/// # Errors
/// What the module answers.
pub fn list<T: Clone + Default>(ask: impl Fn(*mut T, &mut CK_ULONG) -> CK_RV) -> Result<Vec<T>, CK_RV> {
    let mut count = 0;
    match ask(std::ptr::null_mut(), &mut count) {
        CKR_OK => {}
        rv => return Err(rv),
    }
    let mut items = vec![T::default(); count as usize];
    match ask(items.as_mut_ptr(), &mut count) {
        CKR_OK => {
            items.truncate(count as usize);
            Ok(items)
        }
        rv => Err(rv),
    }
}

/// Gives `items` to a caller as the standard gives lists: first their number, then all of them if there is room.
///
/// # Safety
/// `count` is null or points to one number; `room` is null or points to as many values as that number says.
pub unsafe fn give<T: Copy>(items: &[T], room: *mut T, count: *mut CK_ULONG) -> CK_RV {
    // SAFETY: the caller's promise above; `as_mut` looks for null itself.
    let Some(count) = (unsafe { count.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    let had = std::mem::replace(count, items.len() as CK_ULONG);
    if room.is_null() {
        return CKR_OK;
    }
    if had < items.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: not null, so the caller's promise says that it points to `had` values.
    let room = unsafe { slice(room, had) };
    room[..items.len()].copy_from_slice(items);
    CKR_OK
}

/// An attribute that is one number.
pub fn number(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attribute: CK_ATTRIBUTE_TYPE,
) -> Option<CK_ULONG> {
    let mut value: CK_ULONG = 0;
    let mut template =
        CK_ATTRIBUTE { type_: attribute, pValue: (&raw mut value).cast(), ulValueLen: size_of::<CK_ULONG>() as CK_ULONG };
    // SAFETY: one attribute, whose value is a number of the length that it says.
    let rv = unsafe { real.C_GetAttributeValue?(session, object, &mut template, 1) };
    (rv == CKR_OK && template.ulValueLen == size_of::<CK_ULONG>() as CK_ULONG).then_some(value)
}

/// Every object of a class in the token of `slot`, sought in a session of its own, so that no search is disturbed.
pub fn objects(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID, mut class: CK_OBJECT_CLASS) -> Option<Vec<CK_OBJECT_HANDLE>> {
    let mut session = 0;
    // SAFETY: `session` is one handle; neither application data nor a callback is given.
    let rv = unsafe { real.C_OpenSession?(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, std::ptr::null_mut(), None, &mut session) };
    if rv != CKR_OK {
        return None;
    }
    let mut template =
        CK_ATTRIBUTE { type_: CKA_CLASS, pValue: (&raw mut class).cast(), ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG };
    let mut found = Vec::new();
    // SAFETY: one attribute, whose value is a number of the length that it says.
    let mut rv = unsafe { real.C_FindObjectsInit?(session, &mut template, 1) };
    while rv == CKR_OK {
        let (mut object, mut count) = (0, 0);
        // SAFETY: room for one handle, and for the number of those found.
        rv = unsafe { real.C_FindObjects?(session, &mut object, 1, &mut count) };
        if rv != CKR_OK || count == 0 {
            break;
        }
        found.push(object);
    }
    // SAFETY: no pointers; the session is ours.
    unsafe { real.C_CloseSession?(session) };
    Some(found)
}
