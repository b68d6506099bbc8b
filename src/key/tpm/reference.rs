//! [`Reference`]: what a `tpm2:` reference says.
//!
//! `tpm2:file=%2Fetc%2Fziti%2Fgate.tss2.pem`, `tpm2:handle=0x81020000;auth=none?tcti=device:/dev/tpm0&parent=0x81000001`.
//! `auth` says whether a key at a handle wants a PIN: the TPM does not tell, and asking it by trying costs a try. A key
//! file says so itself. In an identity the same stands with the path in plain, and never a PIN.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tcti::Tcti;
use crate::files;
use crate::key::uri::UriError;
use crate::key::{Fault, KeyError, KeyReference, KeyUri};
use crate::text::{Hint, Printable, percent_encode_but};

/// The scheme of all these references.
pub(super) const SCHEME: &str = "tpm2";
/// The range of persistent handles (TPM 2.0 Part 2 §7.2: TPM_HT_PERSISTENT).
const PERSISTENT: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x81ff_ffff;
/// Those that the owner may fill; the rest is the platform's (TCG Registry of Reserved TPM 2.0 Handles §2.3).
const OWNERS: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x817f_ffff;

/// Where a key lives in, or beside, a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// A TSS2 PEM file, which only this TPM can load; absolute.
    File(PathBuf),
    /// A persistent handle.
    Handle(u32),
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "TPM key {}", path.display()),
            Self::Handle(handle) => write!(f, "TPM key {}", hex(*handle)),
        }
    }
}

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// One key.
    Key(Home),
    /// A new key at the first free handle.
    FreeHandle,
    /// The TPM alone.
    Nothing,
}

/// A `tpm2:` reference, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The key.
    pub(super) named: Named,
    /// Whether it wants a PIN, where that was said.
    pub(super) auth: Option<bool>,
    /// The way to the TPM.
    pub(super) tcti: Tcti,
    /// The storage key above it, where another than usual was said.
    pub(super) parent: Option<u32>,
    /// Where its PIN is (RFC 7512 §2.4).
    pub(super) pin_source: Option<String>,
}

impl Reference {
    /// Understands `uri`.
    ///
    /// # Errors
    /// [`KeyError::Reference`] where it is not of this form, and `tcti_unknown`.
    pub(super) fn of(uri: &KeyUri) -> Result<Self, KeyError> {
        const KNOWN: [&str; 6] = ["file", "handle", "auth", "tcti", "parent", "pin-source"];
        if let Some(name) = uri.names().find(|n| !KNOWN.contains(n)) {
            let fault = Fault::new("usage", format!("a tpm2: reference has no attribute `{}`", Printable::new(name)));
            return Err(KeyError::Reference(fault.hint(Hint::say(format!("known are {}", KNOWN.join(", "))))));
        }
        let text = |name| uri.text(name).map_err(not_text);
        let named = match (uri.attribute("file"), text("handle")?) {
            (Some(_), Some(_)) => return Err(usage("a key lives in a file or at a handle, not in both")),
            (Some(b""), None) => return Err(usage("file= names no file")),
            (Some(path), None) => Named::Key(Home::File(files::absolute(Path::new(OsStr::from_bytes(path)))?)),
            (None, Some("auto")) => Named::FreeHandle,
            (None, Some(handle)) => Named::Key(Home::Handle(persistent("handle", handle)?)),
            (None, None) => Named::Nothing,
        };
        let auth = match text("auth")? {
            None => None,
            Some("none") => Some(false),
            Some("pin") => Some(true),
            Some(_) => return Err(usage("auth= is neither none nor pin")),
        };
        let tcti = text("tcti")?.map(Tcti::parse).transpose()?.unwrap_or_default();
        let parent = text("parent")?.map(|p| persistent("parent", p)).transpose()?;
        Ok(Self { named, auth, tcti, parent, pin_source: text("pin-source")?.map(str::to_owned) })
    }

    /// The key at `home`, as a person knows it: a handle is one of one TPM.
    pub(super) fn place(&self, home: &Home) -> String {
        match home {
            Home::Handle(_) if self.tcti != Tcti::default() => format!("{home} at {}", self.tcti),
            Home::Handle(_) | Home::File(_) => home.to_string(),
        }
    }

    /// The TPM alone.
    pub(super) fn tpm(&self) -> KeyUri {
        let uri = KeyUri::new(SCHEME);
        if self.tcti == Tcti::default() { uri } else { uri.with("tcti", self.tcti.to_string().as_bytes()) }
    }

    /// The exact name of the key at `home`, with what else it takes to open it again.
    pub(super) fn uri(&self, home: &Home, auth: Option<bool>) -> KeyUri {
        let mut uri = KeyUri::new(SCHEME);
        match home {
            Home::File(path) => uri.set("file", path.as_os_str().as_bytes()),
            Home::Handle(handle) => uri.set("handle", hex(*handle).as_bytes()),
        }
        if let (Home::Handle(_), Some(auth)) = (home, auth) {
            uri.set("auth", word(auth).as_bytes());
        }
        if self.tcti != Tcti::default() {
            uri.set("tcti", self.tcti.to_string().as_bytes());
        }
        if let Some(parent) = self.parent {
            uri.set("parent", hex(parent).as_bytes());
        }
        if let Some(source) = &self.pin_source {
            uri.set("pin-source", source.as_bytes());
        }
        uri
    }

    /// What an identity stores of the key at `home`. A TCTI that is not the usual one stands there too: whoever reads the
    /// identity has no other way to learn it.
    pub(super) fn in_identity(&self, home: &Home, auth: bool) -> KeyReference {
        let key = match home {
            Home::File(path) => format!("file={}", percent_encode_but(path.as_os_str().as_bytes(), "/")),
            Home::Handle(handle) => format!("handle={}", hex(*handle)),
        };
        let mut text = format!("{SCHEME}:{key};auth={}", word(auth));
        let tcti = (self.tcti != Tcti::default())
            .then(|| format!("tcti={}", percent_encode_but(self.tcti.to_string().as_bytes(), "/:=,")));
        let parent = self.parent.map(|parent| format!("parent={}", hex(parent)));
        for (i, said) in [tcti, parent].into_iter().flatten().enumerate() {
            text.push(if i == 0 { '?' } else { '&' });
            text.push_str(&said);
        }
        KeyReference::names(text)
    }
}

/// `uri` without the name of its key.
pub(super) fn like_it(uri: &KeyUri) -> KeyUri {
    let said = ["auth", "tcti", "parent", "pin-source"].into_iter().filter_map(|name| Some((name, uri.attribute(name)?)));
    said.fold(KeyUri::new(SCHEME), |like, (name, value)| like.with(name, value))
}

/// A handle as people write it.
pub(super) fn hex(handle: u32) -> String {
    format!("{handle:#010x}")
}

/// Refuses a handle that the owner of the TPM cannot give to a new key.
pub(super) fn must_be_the_owners(handle: u32) -> Result<(), KeyError> {
    if OWNERS.contains(&handle) {
        return Ok(());
    }
    let message = format!("handle {} belongs to the platform, not to the owner of the TPM", hex(handle));
    Err(KeyError::Reference(
        Fault::new("usage", message).hint(Hint::say("take one from 0x81000000 to 0x817fffff, or handle=auto")),
    ))
}

fn word(auth: bool) -> &'static str {
    if auth { "pin" } else { "none" }
}

fn persistent(name: &str, text: &str) -> Result<u32, KeyError> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = digits.filter(|d| d.chars().all(|c| c.is_ascii_hexdigit())).and_then(|d| u32::from_str_radix(d, 16).ok());
    number.filter(|n| PERSISTENT.contains(n)).ok_or_else(|| {
        let message = format!("{name}= is not a persistent handle: `{}`", Printable::new(text));
        KeyError::Reference(Fault::new("usage", message).hint(Hint::say("persistent handles go from 0x81000000 to 0x81ffffff")))
    })
}

fn usage(message: &str) -> KeyError {
    KeyError::Reference(Fault::new("usage", message))
}

fn not_text(error: UriError) -> KeyError {
    KeyError::Reference(Fault::new("usage", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Reference, KeyError> {
        Reference::of(&text.parse().unwrap())
    }

    #[test]
    fn reads_both_homes() {
        let file = read("tpm2:file=%2Fetc%2Fa%20b.tss2.pem").unwrap();
        assert_eq!(file.named, Named::Key(Home::File("/etc/a b.tss2.pem".into())));
        assert_eq!((file.auth, file.parent, file.tcti.to_string().as_str()), (None, None, "device:/dev/tpmrm0"));
        let handle = read("tpm2:handle=0x81020000;auth=pin?tcti=swtpm:port=4711&parent=0x81000001").unwrap();
        assert_eq!(handle.named, Named::Key(Home::Handle(0x8102_0000)));
        assert_eq!((handle.auth, handle.parent), (Some(true), Some(0x8100_0001)));
        assert_eq!(read("tpm2:handle=auto").unwrap().named, Named::FreeHandle);
        assert_eq!(read("tpm2:").unwrap().named, Named::Nothing);
    }

    #[test]
    fn names_a_key_so_that_it_is_found_again() {
        let said = read("tpm2:?tcti=swtpm:host=127.0.0.1,port=4711&pin-source=/run/pin").unwrap();
        for (home, auth) in [(Home::File("/a b/k.pem".into()), None), (Home::Handle(0x8102_0001), Some(false))] {
            let again = Reference::of(&said.uri(&home, auth)).unwrap();
            assert_eq!(again, Reference { named: Named::Key(home), auth, ..said.clone() });
        }
        let stored = said.in_identity(&Home::File("/a b/k.pem".into()), true);
        assert_eq!(stored.expose(), "tpm2:file=/a%20b/k.pem;auth=pin?tcti=swtpm:host=127.0.0.1,port=4711");
        let again = read(stored.expose()).unwrap();
        assert_eq!((again.named, again.auth, again.tcti), (Named::Key(Home::File("/a b/k.pem".into())), Some(true), said.tcti));
        let plain = read("tpm2:").unwrap().in_identity(&Home::Handle(0x8102_0000), false);
        assert_eq!(plain.expose(), "tpm2:handle=0x81020000;auth=none");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for text in [
            "tpm2:file=/a;handle=0x81020000",
            "tpm2:handle=0x80000000",
            "tpm2:handle=81020000",
            "tpm2:handle=0x82000000",
            "tpm2:handle=0x+1020000",
            "tpm2:handle=0x8102000000",
            "tpm2:parent=0x40000001",
            "tpm2:file=",
            "tpm2:id=01",
        ] {
            assert!(matches!(read(text), Err(KeyError::Reference(_))), "{text}");
        }
        assert!(must_be_the_owners(0x8180_0000).is_err() && must_be_the_owners(0x8102_0000).is_ok());
    }
}
