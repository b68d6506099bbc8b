//! [`Reference`]: what `id.key` of an identity file says of a key in a token.
//!
//! Two Ziti readers, two grammars: the Go one is a URL, the C one its own. The form that both read, and that is written
//! here, is `pkcs11://<absolute module>?slot=0x<hex>&id=<even hex>`; behind it stand `token`, `serial` and `object`, which
//! both ignore and which let this program find the token when its slot has changed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::object::Name;
use crate::key::{Fault, KeyError, KeyUri, Pin, PinOrigin};
use crate::text::{Hint, from_hex, hex, percent_encode};

/// A reference, taken apart.
pub(super) struct Reference {
    pub(super) module: PathBuf,
    pub(super) slot: Option<Slots>,
    /// By id; by label only where there is no id. `None` where it says neither.
    pub(super) key: Option<Name>,
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    /// The PIN that stands in it.
    pub(super) held: Option<(Arc<Pin>, PinOrigin)>,
}

/// The slots that a number can mean, likeliest first: the C reader takes every number for hexadecimal, the Go reader
/// only one with `0x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots(pub(super) Vec<u64>);

impl Reference {
    /// Reads `pkcs11://…` of whatever maker; `None` for text of another form, RFC 7512 among them.
    ///
    /// # Errors
    /// [`KeyError::Reference`]; the text is not repeated, for a PIN may be in it.
    pub(super) fn parse(text: &str) -> Option<Result<Self, KeyError>> {
        let (scheme, rest) = text.split_once(':')?;
        (scheme.eq_ignore_ascii_case("pkcs11") && rest.starts_with('/')).then(|| Self::read(rest))
    }

    /// The same as a reference for people, without its PIN; the slot is left out: it is where to look first, not a name.
    pub(super) fn uri(&self) -> KeyUri {
        let mut uri = KeyUri::new("pkcs11");
        let name = self.key.as_ref();
        let parts = [
            ("token", self.token.as_ref().map(|t| t.as_bytes())),
            ("serial", self.serial.as_ref().map(|s| s.as_bytes())),
            ("object", name.and_then(|n| n.label.as_deref())),
            ("id", name.and_then(|n| n.id.as_deref())),
        ];
        for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            uri.set(name, value);
        }
        uri.with("module-path", self.module.as_os_str().as_bytes())
    }

    fn read(rest: &str) -> Result<Self, KeyError> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut read = Self { module: module(path)?, slot: None, key: None, token: None, serial: None, held: None };
        let (mut id, mut label) = (None, None);
        for (name, value) in query.split('&').filter_map(|part| part.split_once('=')).filter(|(_, value)| !value.is_empty()) {
            match name {
                "slot" => read.slot = Some(slots(value)?),
                "id" => id = Some(id_bytes(value)?),
                "label" => label = Some(decoded(value)),
                "token" => read.token = Some(text(decoded(value), "token")?),
                "serial" => read.serial = Some(text(decoded(value), "serial")?),
                "pin" => {
                    let origin = PinOrigin::Identity;
                    read.held = Some((Arc::new(Pin::read(decoded(value), &origin)?), origin));
                }
                // `object` repeats what the id says; all others are those of other programs.
                _ => {}
            }
        }
        read.key = match (id, label) {
            (Some(id), _) => Some(Name::id(&id)),
            (None, Some(label)) => Some(Name { id: None, label: Some(label) }),
            (None, None) => None,
        };
        Ok(read)
    }
}

fn broken(message: impl Into<String>) -> KeyError {
    KeyError::Reference(Fault::new("usage", message))
}

/// One, two or more slashes lead to an absolute path; a host is ignored, as by the Go reader.
fn module(path: &str) -> Result<PathBuf, KeyError> {
    let path = match path.strip_prefix("//") {
        Some(authority) => authority.find('/').map_or("", |start| &authority[start..]),
        None => path,
    };
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Err(broken("the key reference of this identity names no module by an absolute path"));
    }
    // A path is shown in messages.
    if path.contains("pin=") {
        return Err(broken("the key reference of this identity has a PIN before its `?`"));
    }
    Ok(Path::new("/").join(OsStr::from_bytes(&decoded(path))))
}

fn slots(value: &str) -> Result<Slots, KeyError> {
    let as_hex = |digits| u64::from_str_radix(digits, 16).ok();
    let slots: Vec<u64> = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => as_hex(digits).into_iter().collect(),
        None => as_hex(value).into_iter().chain(value.parse().ok()).collect(),
    };
    if slots.is_empty() { Err(broken("slot in the key reference of this identity is not a number")) } else { Ok(Slots(slots)) }
}

/// The C reader takes an odd number of digits, so a leading zero is supplied.
fn id_bytes(digits: &str) -> Result<Vec<u8>, KeyError> {
    let even = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    from_hex(&even).ok_or_else(|| broken("id in the key reference of this identity is not hexadecimal"))
}

/// The Go reader decodes `%41`, the C reader does not: decoded where that can be meant.
fn decoded(value: &str) -> Vec<u8> {
    // It may be a PIN; what is left behind on the way is wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len()));
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).and_then(from_hex);
            let Some(byte) = digits else { return value.as_bytes().to_vec() };
            bytes.extend(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    std::mem::take(&mut *bytes)
}

fn text(bytes: Vec<u8>, what: &str) -> Result<String, KeyError> {
    String::from_utf8(bytes).map_err(|_| broken(format!("{what} in the key reference of this identity is not UTF-8 text")))
}

/// The reference that every reader reads; never with a PIN.
///
/// # Errors
/// [`KeyError::Reference`] where a reader would understand another path than we mean, or there is no name for the key.
pub(super) fn write(module: &Path, slot: u64, id: &[u8], label: &[u8], token: &str, serial: &str) -> Result<String, KeyError> {
    let plain = |p: &&str| p.starts_with('/') && p.chars().all(|c| c.is_ascii_alphanumeric() || "._/+-".contains(c));
    let path = module.to_str().filter(plain).ok_or_else(|| {
        let message =
            format!("module path {} cannot be written into an identity: every SDK reads it differently", module.display());
        let hint = Hint::say("give --module a symbolic link whose path has only letters, digits and ._/+-");
        KeyError::Reference(Fault::new("usage", message).hint(hint))
    })?;
    let key = match (id, label) {
        ([], []) => return Err(broken("the key has neither id nor label, so nothing could find it again")),
        ([], label) => format!("label={}", percent_encode(label)),
        (id, _) => format!("id={}", hex(id)),
    };
    let mut text = format!("pkcs11://{path}?slot={slot:#x}&{key}");
    for (name, value) in [("token", token.as_bytes()), ("serial", serial.as_bytes()), ("object", label)] {
        if !value.is_empty() {
            text.push_str(&format!("&{name}={}", percent_encode(value)));
        }
    }
    Ok(text)
}

/// The same with the PIN in it, raw: the C reader decodes nothing. Only for a PIN of characters that both take as they are.
pub(super) fn with_pin(text: &str, pin: &Pin) -> String {
    // Last: whoever shows a reference cuts it at the PIN.
    format!("{text}&pin={}", String::from_utf8_lossy(pin.expose()))
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("module", &self.module).field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reference {
        Reference::parse(text).unwrap_or_else(|| panic!("{text}: not ours")).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn reads_every_spelling_of_the_path() {
        for path in ["pkcs11:///usr/lib/x.so", "pkcs11:/usr/lib/x.so", "pkcs11:////usr/lib/x.so", "pkcs11://host/usr/lib/x.so"] {
            assert_eq!(read(&format!("{path}?slot=0x1&id=02")).module, Path::new("/usr/lib/x.so"), "{path}");
        }
        for path in ["pkcs11://softhsm2.so?id=02", "pkcs11:///?id=02", "pkcs11:///usr/lib/x.so&pin=4711"] {
            assert!(Reference::parse(path).unwrap().is_err(), "{path}");
        }
    }

    #[test]
    fn takes_a_slot_as_either_reader_does() {
        assert_eq!(read("pkcs11:///x?slot=0xecd9fbe&id=02").slot, Some(Slots(vec![0x0ecd_9fbe])));
        assert_eq!(read("pkcs11:///x?slot=10&id=02").slot, Some(Slots(vec![0x10, 10])));
        assert_eq!(read("pkcs11:///x?id=02").slot, None);
        assert!(Reference::parse("pkcs11:///x?slot=first").unwrap().is_err());
    }

    #[test]
    fn the_id_beats_the_label() {
        assert_eq!(read("pkcs11:///x?id=2&label=k").key, Some(Name::id(&[2])));
        assert_eq!(read("pkcs11:///x?label=k%20y").key, Some(Name { id: None, label: Some(b"k y".to_vec()) }));
        assert_eq!(read("pkcs11:///x?slot=1").key, None);
        assert!(Reference::parse("pkcs11:///x?id=zz").unwrap().is_err());
    }

    #[test]
    fn reads_a_pin_and_does_not_print_it() {
        for (written, pin) in [("1234", "1234"), ("a%40b", "a@b"), ("50%", "50%"), ("1%2", "1%2"), ("a+b", "a+b")] {
            let reference = read(&format!("pkcs11:///x?id=02&pin={written}"));
            assert_eq!(reference.held.map(|(pin, _)| pin.expose().to_vec()), Some(pin.as_bytes().to_vec()), "{written}");
        }
        assert!(!format!("{:?}", read("pkcs11:///x?id=02&pin=4711")).contains("4711"));
        assert!(read("pkcs11:///x?id=02&pin=").held.is_none());
    }

    #[test]
    fn leaves_other_forms_alone() {
        for text in ["pkcs11:token=edge;id=%01", "file:///a", "/usr/lib/x.so", "pkcs11"] {
            assert!(Reference::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let written = write(Path::new("/usr/lib/x.so"), 0x0ecd_9fbe, &[0, 0xab], b"ziti:a b", "edge #1", "1f2e").unwrap();
        assert_eq!(written, "pkcs11:///usr/lib/x.so?slot=0xecd9fbe&id=00ab&token=edge%20%231&serial=1f2e&object=ziti%3Aa%20b");
        let back = read(&written);
        assert_eq!((back.token.as_deref(), back.serial.as_deref()), (Some("edge #1"), Some("1f2e")));
        assert_eq!((back.slot, back.key), (Some(Slots(vec![0x0ecd_9fbe])), Some(Name::id(&[0, 0xab]))));
        assert_eq!(
            read(&write(Path::new("/x"), 1, &[], b"k", "", "").unwrap()).key,
            Some(Name { id: None, label: Some(b"k".to_vec()) })
        );
    }

    #[test]
    fn refuses_a_path_that_readers_differ_on() {
        for path in ["/a b/x.so", "/a%20b/x.so", "/a@b/x.so", "x.so"] {
            assert!(write(Path::new(path), 1, &[1], b"", "t", "s").is_err(), "{path}");
        }
    }
}
