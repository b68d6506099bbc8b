//! What was read back of a key, and of the place where it lives.

use serde::{Deserialize, Serialize};

use crate::text::Printable;

/// Yes, no, or a device that does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The device says yes.
    Yes,
    /// The device says no.
    No,
    /// The device does not say: neither a crash nor a pass.
    Unknown,
}

impl From<Option<bool>> for Answer {
    fn from(read: Option<bool>) -> Self {
        match read {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }
}

/// A key's attributes, as the device reports them.
///
/// The names are PKCS#11's (v2.40 §4.9); other devices say what is equivalent (TPM: `fixedTPM` and `fixedParent` are
/// "not extractable", `sensitiveDataOrigin` is "never extractable").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// CKA_EXTRACTABLE: the key can leave the device, wrapped or not.
    pub extractable: Answer,
    /// CKA_SENSITIVE: its value cannot be read in plain.
    pub sensitive: Answer,
    /// CKA_ALWAYS_SENSITIVE: it never could be.
    pub always_sensitive: Answer,
    /// CKA_NEVER_EXTRACTABLE: it was made in the device and never could leave it.
    pub never_extractable: Answer,
    /// The public half lies beside it where a reader without login finds it.
    pub public_object: Answer,
    /// The token or device; `None` for a file.
    pub place: Option<Place>,
}

impl KeyFacts {
    /// Of a key in a file, which anyone with the file can use.
    pub fn of_a_file() -> Self {
        Self {
            extractable: Answer::Yes,
            sensitive: Answer::No,
            always_sensitive: Answer::No,
            never_extractable: Answer::No,
            public_object: Answer::Yes,
            place: None,
        }
    }
}

/// A token or device, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its label.
    pub label: Printable,
    /// Its serial number.
    pub serial: Printable,
    /// Its model.
    pub model: Printable,
    /// Whether it is known to be software, for tests only.
    pub software: bool,
}
