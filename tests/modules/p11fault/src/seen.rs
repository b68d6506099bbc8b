//! The three calls whose answers can be made to lie: what is seen of the token, of attributes and of objects.

use cryptoki_sys::*;

use crate::rules::Lies;

fn lies() -> Option<&'static Lies> {
    crate::setup().ok().map(|setup| &setup.rules.lies)
}

/// `C_GetTokenInfo`, with flags set or cleared.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.5: `info` is null or points to one structure.
pub unsafe fn token_info(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let Some(function) = real.C_GetTokenInfo else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the real function, with the caller's own arguments.
    let rv = unsafe { function(slot, info) };
    // SAFETY: with CKR_OK the real module has just filled this structure, and the caller owns it.
    if let (CKR_OK, Some(lies), Some(info)) = (rv, lies(), unsafe { info.as_mut() }) {
        info.flags = (info.flags | lies.set_token_flags) & !lies.clear_token_flags;
    }
    rv
}

/// `C_GetAttributeValue`, with some of the values changed.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.7: `template` is null or points to `count` attributes, and each `pValue` is
/// null or points to `ulValueLen` bytes.
pub unsafe fn attribute_value(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_GetAttributeValue else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the real function, with the caller's own arguments.
    let rv = unsafe { function(session, object, template, count) };
    // These four fill what they can of the template, and mark the rest as CK_UNAVAILABLE_INFORMATION.
    let filled = matches!(rv, CKR_OK | CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL);
    let Some(lies) = lies().filter(|_| filled && !template.is_null()) else { return rv };
    // SAFETY: not null, so the caller's promise says that it points to `count` attributes.
    for attribute in unsafe { std::slice::from_raw_parts_mut(template, count as usize) } {
        let length = attribute.ulValueLen;
        if attribute.pValue.is_null() || length == 0 || length == CK_UNAVAILABLE_INFORMATION {
            continue;
        }
        // SAFETY: not null and not marked as unavailable, so the real module has just written `length` bytes here.
        let value = unsafe { std::slice::from_raw_parts_mut(attribute.pValue.cast::<u8>(), length as usize) };
        match attribute.type_ {
            CKA_EXTRACTABLE if lies.extractable => value.fill(CK_TRUE),
            CKA_SENSITIVE if lies.sensitive => value.fill(CK_FALSE),
            CKA_EC_POINT if lies.ec_point => value[value.len() - 1] ^= 1,
            _ => {}
        }
    }
    rv
}

/// `C_FindObjects`, as if there were no public keys. It goes on asking until `max` are found or the real module has no
/// more, for fewer than `max` means to a caller that the search is over.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.7: `objects` points to `max` handles and `count` to one number.
pub unsafe fn find_objects(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    max: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_FindObjects else { return CKR_FUNCTION_NOT_SUPPORTED };
    if !lies().is_some_and(|lies| lies.hide_public) || objects.is_null() || count.is_null() {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(session, objects, max, count) };
    }
    // SAFETY: not null, so the caller's promise says that it points to `max` handles.
    let objects = unsafe { std::slice::from_raw_parts_mut(objects, max as usize) };
    let mut shown = 0;
    while shown < objects.len() {
        let mut found = 0;
        let room = &mut objects[shown..];
        // SAFETY: `room` is as long as is said here, and `found` is one number.
        let rv = unsafe { function(session, room.as_mut_ptr(), room.len() as CK_ULONG, &mut found) };
        if rv != CKR_OK {
            return rv;
        }
        if found == 0 {
            break;
        }
        let (first, end) = (shown, shown + found as usize);
        for i in first..end {
            if !is_public_key(real, session, objects[i]) {
                objects[shown] = objects[i];
                shown += 1;
            }
        }
    }
    // SAFETY: not null, so the caller's promise says that it points to one number.
    unsafe { *count = shown as CK_ULONG };
    CKR_OK
}

fn is_public_key(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> bool {
    let Some(function) = real.C_GetAttributeValue else { return false };
    let mut class: CK_OBJECT_CLASS = CKO_DATA;
    let mut template =
        CK_ATTRIBUTE { type_: CKA_CLASS, pValue: (&raw mut class).cast(), ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG };
    // SAFETY: one attribute, whose value is a number of the length that it says.
    let rv = unsafe { function(session, object, &mut template, 1) };
    rv == CKR_OK && class == CKO_PUBLIC_KEY
}
