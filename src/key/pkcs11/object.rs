//! [`Object`]: what a token holds, sought by [`Name`] and read.
//!
//! An attribute that cannot be read is missing, never an error: which ones a device shows is its own affair
//! (PKCS#11 v3.1 §4.4, §4.9).

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::is_lost;
use crate::key::KeyUri;
use crate::key::call::doing;
use crate::text::{Printable, hex};

/// An object, by what it is called.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) handle: ObjectHandle,
    pub(super) class: ObjectClass,
    pub(super) id: Vec<u8>,
    pub(super) label: Vec<u8>,
}

/// What a key is sought by. At least one of the two is there and not empty: an empty id alone would fit every object
/// without one. Beside the other, an empty one means that the key has none (RFC 7512 §2.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) id: Option<Vec<u8>>,
    pub(super) label: Option<Vec<u8>>,
}

impl Name {
    /// What `id` and `object` of a reference say; `None` where they say nothing.
    pub(super) fn of(uri: &KeyUri) -> Option<Self> {
        let said = |name: &str| uri.attribute(name).map(<[u8]>::to_vec);
        let name = Self { id: said("id"), label: said("object") };
        (filled(&name.id).is_some() || filled(&name.label).is_some()).then_some(name)
    }

    /// Without what is empty.
    pub(super) fn filled(&self) -> Self {
        Self { id: filled(&self.id).cloned(), label: filled(&self.label).cloned() }
    }

    /// The id alone, where there is one: that is what must be unique, and no token changes it on its own.
    pub(super) fn shortest(&self) -> Self {
        let Self { id, label } = self.filled();
        Self { label: label.filter(|_| id.is_none()), id }
    }

    pub(super) fn id(id: &[u8]) -> Self {
        Self { id: Some(id.to_vec()), label: None }
    }
}

/// What is there and not empty.
pub(super) fn filled(part: &Option<Vec<u8>>) -> Option<&Vec<u8>> {
    part.as_ref().filter(|part| !part.is_empty())
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let label = self.label.iter().map(|l| format!("label {:?}", Printable::from_bytes(l)));
        let id = self.id.iter().map(|id| if id.is_empty() { "no id".to_owned() } else { format!("id {}", hex(id)) });
        f.write_str(&label.chain(id).collect::<Vec<_>>().join(" and "))
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} (id {}, handle {})", Printable::from_bytes(&self.label), hex(&self.id), self.handle)
    }
}

/// The name of one object; `None` for one of a class that the standard does not know.
pub(super) fn described(session: &Session, handle: ObjectHandle) -> Result<Option<Object>, Error> {
    let mut class = None;
    let (mut id, mut label) = (Vec::new(), Vec::new());
    for attribute in read(session, handle, &[AttributeType::Class, AttributeType::Id, AttributeType::Label])? {
        match attribute {
            Attribute::Class(value) => class = Some(value),
            Attribute::Id(value) => id = value,
            Attribute::Label(value) => label = value,
            _ => {}
        }
    }
    Ok(class.map(|class| Object { handle, class, id, label }))
}

/// Objects that fit a template, with their names.
pub(super) fn search(session: &Session, template: &[Attribute]) -> Result<Vec<Object>, Error> {
    let finding = doing("C_FindObjects");
    let handles = session.find_objects(template)?;
    drop(finding);
    handles.into_iter().filter_map(|handle| described(session, handle).transpose()).collect()
}

/// Those attributes of an object that can be read.
pub(super) fn read(session: &Session, object: ObjectHandle, types: &[AttributeType]) -> Result<Vec<Attribute>, Error> {
    let _call = doing("C_GetAttributeValue");
    match session.get_attributes(object, types) {
        Ok(attributes) => Ok(attributes),
        Err(error) if is_lost(&error) => Err(error),
        // One of them spoils the call: each alone.
        Err(_) => {
            let mut attributes = Vec::new();
            for one in types {
                match session.get_attributes(object, &[*one]) {
                    Ok(mut read) => attributes.append(&mut read),
                    Err(error) if is_lost(&error) => return Err(error),
                    Err(_) => {}
                }
            }
            Ok(attributes)
        }
    }
}

/// Attributes that are true or false; `None` for one that the device does not show.
///
/// Each is asked for by its length first: cryptoki takes an answer of CKR_ATTRIBUTE_TYPE_INVALID for a value where the
/// module leaves the length as it was, and that value would be "false".
pub(super) fn flags(session: &Session, object: &Object, types: &[AttributeType]) -> Result<Vec<Option<bool>>, Error> {
    let mut shown = Vec::with_capacity(types.len());
    for one in types {
        let _call = doing("C_GetAttributeValue");
        let ask = || session.get_attribute_info(object.handle, &[*one]);
        // A device that failed once is asked once more: what it says here decides whether the key is trusted.
        match ask().or_else(|error| if is_lost(&error) { Err(error) } else { ask() }) {
            Err(error) if is_lost(&error) => return Err(error),
            Ok(info) if matches!(info.as_slice(), [AttributeInfo::Available(1)]) => shown.push(*one),
            _ => {}
        }
    }
    let read = read(session, object.handle, &shown)?;
    let value_of = |wanted: &AttributeType| {
        read.iter().find(|a| a.attribute_type() == *wanted).and_then(|attribute| match attribute {
            Attribute::Sensitive(value)
            | Attribute::AlwaysSensitive(value)
            | Attribute::Extractable(value)
            | Attribute::NeverExtractable(value)
            | Attribute::AlwaysAuthenticate(value)
            | Attribute::Private(value) => Some(*value),
            _ => None,
        })
    };
    Ok(types.iter().map(value_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_no_name() {
        assert_eq!(Name::of(&"pkcs11:token=t;id=;object=".parse().unwrap()), None);
        assert_eq!(Name::of(&"pkcs11:id=%01".parse().unwrap()), Some(Name::id(&[1])));
        // Beside another one it says that the key has none.
        let name = Name::of(&"pkcs11:object=k;id=".parse().unwrap()).unwrap();
        assert_eq!((name.id.as_deref(), name.to_string().as_str()), (Some(&[][..]), "label \"k\" and no id"));
        assert_eq!(name.shortest(), Name { id: None, label: Some(b"k".to_vec()) });
    }
}
