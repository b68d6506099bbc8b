//! `C_GenerateKeyPair`, whose templates are judged and rewritten: `generate:`.

use cryptoki_sys::*;

use crate::rules::{Asked, Rules};
use crate::{login, real, rules, slots};

/// `C_GenerateKeyPair`.
///
/// # Safety
/// The caller's promise of PKCS#11 2.40 §5.13: the templates are null or point to as many attributes as is said, each of
/// which has a value of the length that it says; the handles have room for one each.
#[allow(clippy::too_many_arguments, reason = "the function of the standard, and the list that it is in")]
pub unsafe fn key_pair(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(function) = real.C_GenerateKeyPair else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the caller's promise above; `as_ref` looks for null itself.
    if unsafe { mechanism.as_ref() }.is_some_and(|mechanism| slots::lacks(mechanism.mechanism)) {
        return CKR_MECHANISM_INVALID;
    }
    if login::expired(real, session) {
        return CKR_PIN_EXPIRED;
    }
    // SAFETY: the caller's promise above.
    let mut for_public = unsafe { Template::new(CKO_PUBLIC_KEY, public, public_count) };
    // SAFETY: the caller's promise above.
    let mut for_private = unsafe { Template::new(CKO_PRIVATE_KEY, private, private_count) };
    if slots::place_of(real, session).is_some_and(|place| place.accelerator) && for_private.is(CKA_PRIVATE, true) {
        return CKR_TEMPLATE_INCONSISTENT;
    }
    if let Some(rules) = rules().filter(|rules| !rules.templates.is_empty()) {
        for template in [&mut for_public, &mut for_private] {
            match template.judge(rules) {
                CKR_OK => template.rewrite(rules),
                rv => return rv,
            }
        }
    }
    let (public_count, private_count) = (for_public.len(), for_private.len());
    let (mut public, mut private) = (for_public.attributes(), for_private.attributes());
    let (public, private) = (public.as_mut_ptr(), private.as_mut_ptr());
    // SAFETY: the real function, with templates that point into `for_public` and `for_private`, and the caller's handles.
    unsafe { function(session, mechanism, public, public_count, private, private_count, public_key, private_key) }
}

/// A template with values of its own.
struct Template {
    class: CK_OBJECT_CLASS,
    values: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>,
}

impl Template {
    /// # Safety
    /// `attributes` is null or points to `count` of them, each of which has a value of the length that it says.
    unsafe fn new(class: CK_OBJECT_CLASS, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Self {
        // SAFETY: the caller's promise above.
        let attributes = unsafe { real::slice(attributes, count) };
        let value = |attribute: &CK_ATTRIBUTE| {
            // SAFETY: the caller's promise above.
            let value = unsafe { real::slice(attribute.pValue.cast::<u8>(), attribute.ulValueLen) };
            (attribute.type_, value.to_vec())
        };
        Self { class, values: attributes.iter().map(value).collect() }
    }

    fn len(&self) -> CK_ULONG {
        self.values.len() as CK_ULONG
    }

    /// Pointing into this template.
    fn attributes(&mut self) -> Vec<CK_ATTRIBUTE> {
        let attribute = |(type_, value): &mut (CK_ATTRIBUTE_TYPE, Vec<u8>)| CK_ATTRIBUTE {
            type_: *type_,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        };
        self.values.iter_mut().map(attribute).collect()
    }

    fn has(&self, attribute: CK_ATTRIBUTE_TYPE) -> bool {
        self.values.iter().any(|(type_, _)| *type_ == attribute)
    }

    fn is(&self, attribute: CK_ATTRIBUTE_TYPE, truth: bool) -> bool {
        let of_it = |(type_, value): &(CK_ATTRIBUTE_TYPE, Vec<u8>)| {
            *type_ == attribute && value.first().is_some_and(|byte| (*byte != CK_FALSE) == truth)
        };
        self.values.iter().any(of_it)
    }

    fn judge(&self, rules: &Rules) -> CK_RV {
        for (which, asked) in rules.templates.iter().filter(|(which, _)| which.is_of(self.class)) {
            let refused = match asked {
                Asked::Refuse(None, rv) => self.has(which.attribute()).then_some(rv),
                Asked::Refuse(Some(truth), rv) => self.is(which.attribute(), *truth).then_some(rv),
                Asked::Demand(truth, rv) => (!self.is(which.attribute(), *truth)).then_some(rv),
                _ => None,
            };
            if let Some(rv) = refused {
                return *rv;
            }
        }
        CKR_OK
    }

    fn rewrite(&mut self, rules: &Rules) {
        for (which, asked) in rules.templates.iter().filter(|(which, _)| which.is_of(self.class)) {
            let attribute = which.attribute();
            let value = match asked {
                Asked::Refuse(..) | Asked::Demand(..) => continue,
                Asked::Replace(value) => Some(value.clone()),
                Asked::LeaveOut => None,
                Asked::FirstByte => {
                    let asked = self.values.iter().find(|(type_, _)| *type_ == attribute);
                    asked.map(|(_, value)| value.iter().take(1).copied().collect())
                }
            };
            self.values.retain(|(type_, _)| *type_ != attribute);
            self.values.extend(value.map(|value| (attribute, value)));
        }
    }
}
