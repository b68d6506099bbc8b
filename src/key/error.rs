//! [`KeyError`]: what goes wrong with keys and the places where they live.
//!
//! The variants say *what kind* of mistake it is, which decides the exit code; a [`Fault`] carries the stable code, the
//! sentence, the device's own name for it (`CKR_…`, `TPM_RC_…`) and what to do. A provider translates its native errors
//! in its own file, so that a new provider needs nothing here.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use super::{KeyAlgorithm, KeyUri};
use crate::files::FileError;
use crate::text::Hint;

/// A key, or the place where it lives, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The reference or an option is not of a form that the provider reads.
    #[error(transparent)]
    Reference(Fault),
    /// The module, device or service cannot be used at all, or cannot do what was asked.
    #[error(transparent)]
    Unavailable(Fault),
    /// No PIN, one that cannot be taken, or one that was refused.
    #[error(transparent)]
    Pin(Fault),
    /// The device allows no try, or the next one might lock it. No try was used.
    #[error(transparent)]
    Locked(Fault),
    /// A key was made or opened, and is not what was promised.
    #[error(transparent)]
    NotAsPromised(Fault),
    /// None, several, or another than was asked for.
    #[error(transparent)]
    Selection(Fault),
    /// The device failed, vanished, or did not answer.
    #[error(transparent)]
    Device(Fault),
    /// A file beside the key could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// From a provider of your own.
    #[error(transparent)]
    Other(Box<dyn StdError + Send + Sync>),
}

impl KeyError {
    /// The key that was found is of another type than was asked for.
    pub fn type_differs(uri: &KeyUri, found: KeyAlgorithm, asked: KeyAlgorithm) -> Self {
        Self::Selection(
            Fault::new("key_type_differs", format!("{uri} is {found}, and {asked} was asked for"))
                .hint(Hint::say(format!("give --key-alg {found}, or another name with --key"))),
        )
    }

    /// The key file is not there.
    pub(super) fn no_file(path: &Path) -> Self {
        Self::Selection(Fault::new("key_not_found", format!("no key file {}", path.display())))
    }

    /// What is wrong with the key file: it is not there, or something else.
    pub(super) fn of_file(path: &Path, source: FileError) -> Self {
        if source.is_missing() { Self::no_file(path) } else { source.into() }
    }

    /// The key that an identity names does not fit its certificate.
    pub fn not_its_key(uri: &KeyUri) -> Self {
        let named = if uri.names_something() { uri.to_string() } else { "the key in it".to_owned() };
        let message = format!("{named} is not the key of this identity: it does not fit its certificate");
        Self::Selection(Fault::new("key_not_found", message))
    }

    /// Whether a device that is not there yet may come: plugged in, started, or its service up.
    pub fn may_heal(&self) -> bool {
        self.fault().is_some_and(|f| ["token_not_found", "device_gone", "tpm_missing"].contains(&f.code))
    }

    /// The fault inside; `None` where the error is of another house.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Reference(f)
            | Self::Unavailable(f)
            | Self::Pin(f)
            | Self::Locked(f)
            | Self::NotAsPromised(f)
            | Self::Selection(f)
            | Self::Device(f) => Some(f),
            Self::File(_) | Self::Other(_) => None,
        }
    }
}

/// One mistake, in words.
#[derive(Debug)]
pub struct Fault {
    /// Stable name for scripts: `pin_incorrect`.
    pub code: &'static str,
    /// What failed: lower case, no full stop, never a PIN.
    pub message: String,
    /// The device's own name for it, `CKR_PIN_INCORRECT`, for search.
    pub native: Option<String>,
    /// What to do.
    pub hint: Option<Box<Hint>>,
    /// What came before.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Fault {
    /// A fault without native name or hint.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), native: None, hint: None, source: None }
    }

    /// With the device's own name for it.
    pub fn native(mut self, name: impl Into<String>) -> Self {
        self.native = Some(name.into());
        self
    }

    /// With something to do.
    pub fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(Box::new(hint));
        self
    }

    /// With what came before.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.native {
            Some(name) => write!(f, "{} ({name})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}
