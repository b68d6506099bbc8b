//! What is seen of objects and their attributes: `attribute:`, `lie:` and `hide:`.

use cryptoki_sys::*;

use crate::rules::{Objects, Shown};
use crate::{real, rules, slots};

/// What makes a public key what it is.
const PUBLIC_VALUES: [CK_ATTRIBUTE_TYPE; 6] =
    [CKA_EC_PARAMS, CKA_EC_POINT, CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_PUBLIC_KEY_INFO];

/// `C_GetAttributeValue`, with some of the values changed.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.7: `template` is null or points to `count` attributes, and each `pValue` is
/// null or has room for `ulValueLen` bytes.
pub unsafe fn attribute_value(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let Some(function) = real.C_GetAttributeValue else { return CKR_FUNCTION_NOT_SUPPORTED };
    let rules = rules().filter(|rules| !rules.objects.are_true() && !template.is_null());
    let class = rules.and_then(|_| real::number(real, session, object, CKA_CLASS));
    let (Some(rules), Some(class)) = (rules, class) else {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(session, object, template, count) };
    };
    let objects = &rules.objects;
    // SAFETY: not null, so the caller's promise says that it points to `count` attributes.
    let template = unsafe { real::slice(template, count) };
    let other = objects.other_key.then(|| other_key(real, session, object, class)).flatten();
    let source = |attribute: &CK_ATTRIBUTE| other.filter(|_| PUBLIC_VALUES.contains(&attribute.type_)).unwrap_or(object);

    let mut rv = CKR_OK;
    for attribute in template {
        let one = match objects.shown(Some(class), attribute.type_) {
            // SAFETY: the caller's promise above.
            Some(shown) => unsafe { show(shown, attribute) },
            None => {
                // SAFETY: the real function, with one of the caller's own attributes.
                let one = unsafe { function(session, source(attribute), attribute, 1) };
                if one == CKR_OK {
                    // SAFETY: the caller's promise above, and the real module has just said how long the value is.
                    unsafe { change(objects, attribute) };
                }
                one
            }
        };
        match one {
            CKR_OK => {}
            // These four say something of one attribute; the others are filled all the same (§5.7).
            CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL => rv = one,
            _ => return one,
        }
    }
    rv
}

/// Answers for the real module.
///
/// # Safety
/// `pValue` is null or has room for `ulValueLen` bytes.
unsafe fn show(shown: &Shown, attribute: &mut CK_ATTRIBUTE) -> CK_RV {
    let value = match shown {
        Shown::Value(value) => value,
        Shown::Untouched => return CKR_ATTRIBUTE_TYPE_INVALID,
        Shown::Unknown | Shown::Unreadable => {
            attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            return if *shown == Shown::Unknown { CKR_ATTRIBUTE_TYPE_INVALID } else { CKR_ATTRIBUTE_SENSITIVE };
        }
    };
    // SAFETY: the caller's promise above.
    let room = unsafe { real::slice(attribute.pValue.cast::<u8>(), attribute.ulValueLen) };
    attribute.ulValueLen = value.len() as CK_ULONG;
    if attribute.pValue.is_null() {
        return CKR_OK;
    }
    match room.get_mut(..value.len()) {
        Some(room) => {
            room.copy_from_slice(value);
            CKR_OK
        }
        None => {
            attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            CKR_BUFFER_TOO_SMALL
        }
    }
}

/// Turns the bit that `lie:` asks for.
///
/// # Safety
/// `pValue` is null or points to `ulValueLen` bytes.
unsafe fn change(objects: &Objects, attribute: &mut CK_ATTRIBUTE) {
    let bit = match attribute.type_ {
        CKA_EC_POINT if objects.ec_point => 1,
        CKA_MODULUS if objects.modulus => 2,
        _ => return,
    };
    // SAFETY: the caller's promise above.
    let value = unsafe { real::slice(attribute.pValue.cast::<u8>(), attribute.ulValueLen) };
    if let Some(last) = value.last_mut() {
        *last ^= bit;
    }
}

/// The next public key of the same kind in the token.
fn other_key(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    class: CK_OBJECT_CLASS,
) -> Option<CK_OBJECT_HANDLE> {
    if class != CKO_PUBLIC_KEY {
        return None;
    }
    let kind = |object| real::number(real, session, object, CKA_KEY_TYPE);
    let keys = real::objects(real, slots::place_of(real, session)?.slot, CKO_PUBLIC_KEY)?;
    keys.into_iter().find(|other| *other != object && kind(*other) == kind(object))
}

/// `C_FindObjects`, as if there were none of those that are hidden. It goes on asking until `max` are found or the real
/// module has no more, for fewer than `max` means to a caller that the search is over.
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
    let accelerator = rules().is_some_and(|rules| rules.slots.accelerator)
        && slots::place_of(real, session).is_some_and(|place| place.accelerator);
    let hidden = rules().map(|rules| &rules.objects.hidden[..]).unwrap_or_default();
    if !accelerator && hidden.is_empty() || objects.is_null() || count.is_null() {
        // SAFETY: the real function, with the caller's own arguments.
        return unsafe { function(session, objects, max, count) };
    }
    let is_hidden =
        |object| accelerator || real::number(real, session, object, CKA_CLASS).is_some_and(|class| hidden.contains(&class));
    // SAFETY: not null, so the caller's promise says that it points to `max` handles.
    let objects = unsafe { real::slice(objects, max) };
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
            if !is_hidden(objects[i]) {
                objects[shown] = objects[i];
                shown += 1;
            }
        }
    }
    // SAFETY: not null, so the caller's promise says that it points to one number.
    unsafe { *count = shown as CK_ULONG };
    CKR_OK
}
