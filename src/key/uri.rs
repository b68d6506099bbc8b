//! [`KeyUri`]: a key, or a place for keys, named on the command line and in the journal.
//!
//! The syntax is that of RFC 7512 for every scheme: `pkcs11:token=edge;object=gate-7?module-path=…`. A key file is
//! `file:/abs/k.pem`, or just its path. It holds no secret: `pin-value` and whatever else is called a PIN is refused and
//! never printed. What is read is a little more than the RFC writes: characters that it wants encoded are taken as they
//! stand where they can mean nothing else, so that a reference between quotes need not be encoded by hand. What is printed
//! is the RFC's own form: everything but its unreserved characters is encoded, and every byte of an id.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::{from_hex, percent_decode, percent_encode_but};

/// Scheme, path attributes (before `?`), query attributes (after it); values are bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyUri {
    scheme: String,
    file: Option<PathBuf>,
    attributes: Vec<(String, Vec<u8>)>,
    query: Vec<(String, Vec<u8>)>,
}

/// Why a text is not a [`KeyUri`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme, or a character that a scheme cannot have.
    #[error("a key reference begins with a scheme (`pkcs11:`, `file:`) or is the path of a key file")]
    Scheme,
    /// `pin-value`, or `pin` as SDKs write it, would put the PIN into shell history and process list.
    #[error("a PIN is not taken in a key reference: the process list would show it")]
    PinValue,
    /// `auth` says whether there is a PIN; what else stands there may be one.
    #[error("value of `auth` is neither none nor pin")]
    Auth,
    /// A part that is not `name=value`, or a name of other characters than letters, digits, `-` and `_`; as much of it as is
    /// a name, for the rest could be a PIN.
    #[error("`{0}` is not of the form name=value")]
    Attribute(String),
    /// An id that is hexadecimal by its `0x`, and has half a byte.
    #[error("value of `{0}` has an odd number of hexadecimal digits")]
    HalfAByte(String),
    /// `%` without two hexadecimal digits.
    #[error("value of `{0}` has a `%` without two hexadecimal digits")]
    Percent(String),
    /// The same attribute twice (RFC 7512 §2.3 forbids it), in one part or over both.
    #[error("attribute `{0}` is given twice")]
    Twice(String),
    /// The value must be text.
    #[error("value of `{0}` is not UTF-8 text")]
    Text(String),
}

/// Longest name of an attribute; the RFC's own have 20 characters.
const LONGEST_NAME: usize = 64;

/// Attributes that stand after the `?`.
const QUERY: [&str; 6] = ["module-path", "module-name", "pin-source", "tcti", "parent", "pin-value"];

impl KeyUri {
    /// `scheme:` without attributes: the place as a whole.
    pub fn new(scheme: &str) -> Self {
        Self { scheme: scheme.to_owned(), file: None, attributes: Vec::new(), query: Vec::new() }
    }

    /// `file:` of `path`.
    pub fn file(path: &Path) -> Self {
        Self { file: Some(path.to_owned()), ..Self::new("file") }
    }

    /// The scheme, lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The path of a `file:` reference.
    pub fn file_path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The value of an attribute, wherever it stands.
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        self.attributes.iter().chain(&self.query).find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }

    /// The same as text; an attribute that is not UTF-8 counts as an error.
    pub fn text(&self, name: &str) -> Result<Option<&str>, UriError> {
        self.attribute(name).map(|v| std::str::from_utf8(v).map_err(|_| UriError::Text(name.to_owned()))).transpose()
    }

    /// Sets an attribute, in the part where it belongs; an earlier value is replaced.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let part = if QUERY.contains(&name) { &mut self.query } else { &mut self.attributes };
        match part.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => part.push((name.to_owned(), value.to_vec())),
        }
    }

    /// [`set`](Self::set), for building.
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.set(name, value);
        self
    }

    /// Whether any path attribute narrows it down beyond the whole place.
    pub fn names_something(&self) -> bool {
        self.file.is_some() || !self.attributes.is_empty()
    }

    /// The names of all attributes, to refuse unknown ones.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().chain(&self.query).map(|(n, _)| n.as_str())
    }

    /// Whether an attribute of this name stands after the `?`.
    pub fn is_in_query(&self, name: &str) -> bool {
        self.query.iter().any(|(n, _)| n == name)
    }

    /// The first attribute that stands on the wrong side of the `?`, among those that belong on one side.
    pub fn misplaced(&self, of_the_path: &[&str]) -> Option<&str> {
        let before = self.attributes.iter().filter(|(n, _)| QUERY.contains(&n.as_str()));
        let after = self.query.iter().filter(|(n, _)| of_the_path.contains(&n.as_str()));
        before.chain(after).map(|(n, _)| n.as_str()).next()
    }
}

/// Whether `text` has an attribute for a PIN, in whatever spelling of a reference: SDKs write `pin`, RFC 7512 `pin-value`.
pub fn holds_a_pin(text: &str) -> bool {
    let names = text.split(['?', ';', '&']).filter_map(|part| part.split_once('=')).map(|(name, _)| name);
    names.filter_map(|name| name.rsplit(':').next()).any(is_a_pin)
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            // A bare path means `file:` of it.
            _ if !text.is_empty() => return Ok(Self::file(Path::new(text))),
            _ => return Err(UriError::Scheme),
        };
        if scheme == "file" {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let path = decoded("file", path)?;
            // Without a path it is the place as a whole: the journal says so of a key that is in the identity.
            return Ok(if path.is_empty() { Self::new(&scheme) } else { Self::file(Path::new(OsStr::from_bytes(&path))) });
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let uri = Self { attributes: parse(path, ';')?, query: parse(query, '&')?, ..Self::new(&scheme) };
        let mut names: Vec<&str> = uri.names().collect();
        names.sort_unstable();
        match names.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => Err(UriError::Twice(twice[0].to_owned())),
            None => Ok(uri),
        }
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn parse(part: &str, separator: char) -> Result<Vec<(String, Vec<u8>)>, UriError> {
    part.split(separator)
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            let of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let plain: String = name.chars().take_while(|c| of_a_name(*c)).take(LONGEST_NAME).collect();
            let broken = plain.is_empty() || plain != name || !p.contains('=');
            if is_a_pin(&plain) || (broken && could_be_a_pin(&plain)) {
                return Err(UriError::PinValue);
            }
            if broken {
                return Err(UriError::Attribute(plain));
            }
            if name == "auth" && !["none", "pin"].contains(&value) {
                return Err(UriError::Auth);
            }
            let value = if name == "id" { id_bytes(value)? } else { decoded(name, value)? };
            Ok((plain, value))
        })
        .collect()
}

/// `pin-value`, and what others call the same: `pin`, `x-pin-value`, `PIN_VALUE`. Where a PIN lies is not one.
fn is_a_pin(name: &str) -> bool {
    name != "pin-source" && name.split(['-', '_']).any(|word| word.eq_ignore_ascii_case("pin"))
}

/// What may be the name and the PIN run together: `pin4711`.
fn could_be_a_pin(text: &str) -> bool {
    text.split(['-', '_']).any(|word| word.to_ascii_lowercase().starts_with("pin"))
}

/// `%01%02`, `0102`, `0x0102`, `01:02`; anything else is taken as it stands (RFC 7512 §2.3), an odd number of digits too.
fn id_bytes(value: &str) -> Result<Vec<u8>, UriError> {
    if !value.contains('%') {
        let digits = value.strip_prefix("0x").unwrap_or_default();
        if digits.len() % 2 == 1 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(UriError::HalfAByte("id".to_owned()));
        }
        let digits = value.strip_prefix("0x").unwrap_or(value);
        let digits: String = if digits.split(':').all(|d| d.len() == 2) { digits.replace(':', "") } else { digits.to_owned() };
        if let Some(bytes) = from_hex(&digits).filter(|b| !b.is_empty()) {
            return Ok(bytes);
        }
    }
    decoded("id", value)
}

fn decoded(name: &str, value: &str) -> Result<Vec<u8>, UriError> {
    percent_decode(value).ok_or_else(|| UriError::Percent(name.to_owned()))
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.file {
            let path = percent_encode_but(path.as_os_str().as_bytes(), "/");
            // Two slashes before a path are those of an authority, which is empty here.
            return write!(f, "file:{}{path}", if path.starts_with("//") { "//" } else { "" });
        }
        write!(f, "{}:", self.scheme)?;
        write_part(f, &self.attributes, ";", "")?;
        if !self.query.is_empty() {
            f.write_str("?")?;
            // RFC 7512 lets `/` and `:` stand in the query; paths are readable so.
            write_part(f, &self.query, "&", "/:=,")?;
        }
        Ok(())
    }
}

fn write_part(f: &mut fmt::Formatter<'_>, part: &[(String, Vec<u8>)], separator: &str, also_plain: &str) -> fmt::Result {
    for (i, (name, value)) in part.iter().enumerate() {
        let value = match name.as_str() {
            // Ids are bytes: printed so that no reader takes them for text.
            "id" => value.iter().map(|b| format!("%{b:02X}")).collect(),
            _ => percent_encode_but(value, also_plain),
        };
        write!(f, "{}{name}={value}", if i == 0 { "" } else { separator })?;
    }
    Ok(())
}

impl fmt::Debug for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyUri({self})")
    }
}

impl Serialize for KeyUri {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyUri {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> KeyUri {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn reads_rfc_7512() {
        let uri =
            parsed("pkcs11:token=Software%20PKCS%2311;id=%69%95%3E;type=private?module-path=/lib/p.so&pin-source=file:/etc/pin");
        assert_eq!(uri.text("token").unwrap(), Some("Software PKCS#11"));
        assert_eq!(uri.attribute("id"), Some(&[0x69, 0x95, 0x3e][..]));
        assert_eq!(uri.text("module-path").unwrap(), Some("/lib/p.so"));
        assert_eq!(parsed(&uri.to_string()), uri);
    }

    #[test]
    fn reads_ids_in_every_spelling() {
        for id in ["id=%01%02", "id=0102", "id=0x0102", "id=01:02"] {
            assert_eq!(parsed(&format!("pkcs11:{id}")).attribute("id"), Some(&[1, 2][..]), "{id}");
        }
        assert_eq!(parsed("pkcs11:id=zz").attribute("id"), Some(&b"zz"[..]));
    }

    #[test]
    fn takes_a_bare_path_for_a_file() {
        assert_eq!(parsed("/a/k.pem").to_string(), "file:/a/k.pem");
        assert_eq!(parsed("file:///a%20b/k.pem").file_path(), Some(Path::new("/a b/k.pem")));
        assert_eq!(parsed("file:/a%20b/k.pem").to_string(), "file:/a%20b/k.pem");
    }

    #[test]
    fn reads_a_place_as_a_whole() {
        for place in ["file", "pkcs11"] {
            assert_eq!(parsed(&KeyUri::new(place).to_string()), KeyUri::new(place));
        }
    }

    #[test]
    fn refuses_a_pin_and_does_not_print_it() {
        let error = "pkcs11:token=t?pin-value=4711".parse::<KeyUri>().unwrap_err();
        assert_eq!(error, UriError::PinValue);
        assert!(!error.to_string().contains("4711"));
        for hidden in ["pin-value=4711", "pin=4711", "token=t?PIN-VALUE=4711", "token=%zz?Pin=4711", "pin=4711;pin=4711"] {
            let error = format!("pkcs11:{hidden}").parse::<KeyUri>().unwrap_err();
            assert!(!error.to_string().contains("4711"), "{hidden}: {error}");
        }
        assert_eq!("pkcs11:pin-value=4711".parse::<KeyUri>(), Err(UriError::PinValue));
        for text in
            ["pkcs11:pin=4", "pkcs11:///m.so?slot=0x1&id=01&pin=4", "tpm2:handle=0x81020000;PIN=4", "pkcs11:a=b?pin-value=4:"]
        {
            assert!(holds_a_pin(text), "{text}");
        }
        for text in [
            "pkcs11:///m.so?slot=0x1&id=01",
            "pkcs11:object=pin",
            "tpm2:handle=0x81020000;auth=pin",
            "/pin",
            "pkcs11:a=b?pin-source=file:/pin",
        ] {
            assert!(!holds_a_pin(text), "{text}");
        }
        assert_eq!("tpm2:handle=0x81020000;auth=4711".parse::<KeyUri>(), Err(UriError::Auth));
    }

    #[test]
    fn refuses_whatever_is_called_a_pin_and_does_not_print_it() {
        for name in ["pin", "PIN-VALUE", "x-pin-value", "pin_value", "pin-value:", "pin-value%3D", "pin;", "user-pin"] {
            for text in
                [format!("pkcs11:token=t?{name}4711"), format!("pkcs11:{name}=4711"), format!("pkcs11:token=t?{name}=4711")]
            {
                let error = text.parse::<KeyUri>().expect_err(&text);
                assert!(!error.to_string().contains("4711"), "{text}: {error}");
            }
        }
        assert!("pkcs11:token=t?pin-source=file:/pin".parse::<KeyUri>().is_ok());
        assert!("pkcs11:x-pinned=1".parse::<KeyUri>().is_ok());
    }

    #[test]
    fn says_what_stands_on_the_wrong_side() {
        assert_eq!(parsed("pkcs11:module-path=/m.so").misplaced(&["token"]), Some("module-path"));
        assert_eq!(parsed("pkcs11:?token=t").misplaced(&["token"]), Some("token"));
        assert_eq!(parsed("pkcs11:token=t?module-path=/m.so").misplaced(&["token"]), None);
    }

    #[test]
    fn refuses_what_is_no_reference() {
        assert_eq!("".parse::<KeyUri>(), Err(UriError::Scheme));
        assert_eq!("pkcs11:token".parse::<KeyUri>(), Err(UriError::Attribute("token".into())));
        assert_eq!("pkcs11:token=%zz".parse::<KeyUri>(), Err(UriError::Percent("token".into())));
        assert_eq!("pkcs11:token=a;token=b".parse::<KeyUri>(), Err(UriError::Twice("token".into())));
        assert_eq!("pkcs11:id=%01%0".parse::<KeyUri>(), Err(UriError::Percent("id".into())));
        assert_eq!("pkcs11:id=0x012".parse::<KeyUri>(), Err(UriError::HalfAByte("id".into())));
        assert_eq!("pkcs11:to ken=a".parse::<KeyUri>(), Err(UriError::Attribute("to".into())));
    }
}
