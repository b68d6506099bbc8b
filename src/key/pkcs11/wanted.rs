//! [`Wanted`]: what a reference says of module, slot and token (RFC 7512 §2.3, §2.6).
//!
//! What is not said fits everything; what is said must fit exactly, and an empty value fits an empty field. Fields of the
//! standard are padded with blanks, so blanks at the end tell nothing apart.

use std::fmt;

use super::token::{Token, unpadded};
use crate::key::{Fault, KeyError, KeyUri};
use crate::text::{Hint, Printable};

/// Which module, slot and token are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    name: Option<Vec<u8>>,
    serial: Option<Vec<u8>>,
    manufacturer: Option<Vec<u8>>,
    model: Option<Vec<u8>>,
    slot: Option<u64>,
    slot_description: Option<Vec<u8>>,
    slot_manufacturer: Option<Vec<u8>>,
    library: Library,
}

/// What is said of the module itself (`CK_INFO`, PKCS#11 v3.1 §3.1).
#[derive(Clone, Debug, Default)]
struct Library {
    manufacturer: Option<Vec<u8>>,
    description: Option<Vec<u8>>,
    version: Option<(u8, u8)>,
}

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) manufacturer: String,
    pub(super) description: String,
    pub(super) version: (u8, u8),
}

/// A number of `slot-id`: decimal, of any number of digits that a slot can have.
pub(super) fn slot_id(value: &[u8]) -> Option<u64> {
    Some(value).filter(|v| v.iter().all(u8::is_ascii_digit)).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
}

/// A number of `library-version`: `3` or `3.1`; a minor that is not said is 0.
pub(super) fn version(value: &[u8]) -> Option<(u8, u8)> {
    let text = std::str::from_utf8(value).ok()?;
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let number = |digits: &str| Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    Some((number(major)?, number(minor)?))
}

impl Wanted {
    /// What the attributes of `uri` say. `token` is a label, and as `--token` also a serial.
    pub(super) fn by(uri: &KeyUri) -> Self {
        let said = |name: &str| uri.attribute(name).map(<[u8]>::to_vec);
        Self {
            name: said("token"),
            serial: said("serial"),
            manufacturer: said("manufacturer"),
            model: said("model"),
            slot: uri.attribute("slot-id").and_then(slot_id),
            slot_description: said("slot-description"),
            slot_manufacturer: said("slot-manufacturer"),
            library: Library {
                manufacturer: said("library-manufacturer"),
                description: said("library-description"),
                version: uri.attribute("library-version").and_then(version),
            },
        }
    }

    /// Whether label and serial are among it, and nothing that only the module itself can say.
    pub(super) fn is_exact(&self) -> bool {
        self.serial.is_some() && self.name.is_some() && !self.asks_about_the_module()
    }

    /// Whether it says what a slot is called, which is asked of the module only then.
    pub(super) fn asks_about_seats(&self) -> bool {
        self.slot_description.is_some() || self.slot_manufacturer.is_some()
    }

    /// Whether it says anything about the module itself, which is asked only then.
    pub(super) fn asks_about_the_module(&self) -> bool {
        self.library.manufacturer.is_some() || self.library.description.is_some() || self.library.version.is_some()
    }

    pub(super) fn fits(&self, token: &Token) -> bool {
        let identity = &token.identity;
        let seat = |read: fn(&super::token::Seat) -> &str| token.seat.as_ref().map(read);
        let of_slot =
            |wanted: &Option<Vec<u8>>, value: Option<&str>| wanted.is_none() || value.is_some_and(|value| is(wanted, value));
        (is(&self.name, &identity.label) || self.names_by_serial(&identity.serial))
            && is(&self.serial, &identity.serial)
            && is(&self.manufacturer, &identity.manufacturer)
            && is(&self.model, &identity.model)
            && self.slot.is_none_or(|slot| slot == token.slot.id())
            && of_slot(&self.slot_description, seat(|s| &s.description))
            && of_slot(&self.slot_manufacturer, seat(|s| &s.manufacturer))
    }

    /// An empty name is that of a token without a label, not of one without a serial.
    fn names_by_serial(&self, serial: &str) -> bool {
        self.name.as_ref().is_some_and(|name| !name.is_empty()) && is(&self.name, serial)
    }

    /// Refuses a module that is not the one that is meant; `place` is its path.
    ///
    /// # Errors
    /// `token_not_found`.
    pub(super) fn must_be_of(&self, about: &About, place: &str) -> Result<(), KeyError> {
        let Library { manufacturer, description, version } = &self.library;
        let number = |(major, minor): (u8, u8)| format!("{major}.{minor}");
        let differs = |what: &str, is: String| {
            let message = format!("{place} is not the one that the reference means: its {what} is {is}");
            Err(KeyError::Selection(
                Fault::new("token_not_found", message).hint(Hint::say("name another with --module, or leave that attribute out")),
            ))
        };
        if !is(manufacturer, &about.manufacturer) {
            return differs("library-manufacturer", format!("{:?}", Printable::new(&about.manufacturer)));
        }
        if !is(description, &about.description) {
            return differs("library-description", format!("{:?}", Printable::new(&about.description)));
        }
        if version.is_some_and(|version| version != about.version) {
            return differs("library-version", number(about.version));
        }
        Ok(())
    }
}

fn is(wanted: &Option<Vec<u8>>, value: &str) -> bool {
    wanted.as_ref().is_none_or(|wanted| {
        // What is not text fits no field, for fields are text.
        std::str::from_utf8(wanted).is_ok_and(|wanted| unpadded(wanted) == value)
    })
}

/// Behind the word "token": ` "edge", serial "1f2e"`.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot.map(|slot| slot.to_string().into_bytes());
        let parts = [
            ("", &self.name),
            ("serial ", &self.serial),
            ("manufacturer ", &self.manufacturer),
            ("model ", &self.model),
            ("slot ", &slot),
            ("slot description ", &self.slot_description),
            ("slot manufacturer ", &self.slot_manufacturer),
        ];
        let mut space = " ";
        for (what, value) in parts.iter().filter_map(|(what, value)| Some((what, value.as_ref()?))) {
            write!(f, "{space}{what}{:?}", Printable::from_bytes(value))?;
            space = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_the_rfc_writes_them() {
        assert_eq!((slot_id(b"0"), slot_id(b"18446744073709551615")), (Some(0), Some(u64::MAX)));
        for wrong in ["", "-1", "+1", "0x1", "1 ", "18446744073709551616"] {
            assert_eq!(slot_id(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!((version(b"3"), version(b"3.0"), version(b"2.40")), (Some((3, 0)), Some((3, 0)), Some((2, 40))));
        for wrong in ["", ".", "3.", ".1", "3.1.4", "3.x", "256"] {
            assert_eq!(version(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_module_is_told_from_others() {
        let about = About { manufacturer: "SoftHSM".into(), description: "Implementation of PKCS11".into(), version: (2, 6) };
        let fits = |uri: &str| Wanted::by(&uri.parse().unwrap()).must_be_of(&about, "module /m.so").is_ok();
        for uri in [
            "pkcs11:",
            "pkcs11:library-manufacturer=SoftHSM",
            "pkcs11:library-description=Implementation%20of%20PKCS11%20%20;library-version=2.6",
        ] {
            assert!(fits(uri), "{uri}");
        }
        for uri in ["pkcs11:library-manufacturer=Other", "pkcs11:library-description=", "pkcs11:library-version=2"] {
            assert!(!fits(uri), "{uri}");
        }
    }
}
