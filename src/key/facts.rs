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
    /// CKA_ALWAYS_AUTHENTICATE: the device wants the PIN before every signature.
    pub pin_each_time: Answer,
    /// The device pads RSA-PSS, which TLS 1.3 wants of RSA keys; yes for a curve.
    pub pss: Answer,
    /// The device does raw RSA, which some readers pad themselves; yes for a curve.
    pub raw_rsa: Answer,
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
            pin_each_time: Answer::No,
            pss: Answer::Yes,
            raw_rsa: Answer::Yes,
            place: None,
        }
    }
}

/// A program or SDK that reads identity files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    /// As people call it.
    pub name: String,
    /// Why it cannot open an identity with this key; `None` where it can.
    pub obstacle: Option<String>,
}

impl Reader {
    /// One that can, unless there are obstacles.
    pub fn unless(name: &str, obstacles: &[(bool, &str)]) -> Self {
        let obstacles: Vec<&str> = obstacles.iter().filter(|(there, _)| *there).map(|(_, why)| *why).collect();
        Self { name: name.to_owned(), obstacle: (!obstacles.is_empty()).then(|| obstacles.join(", ")) }
    }
}

/// Who can open an identity with a key, besides this program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readers {
    /// Each SDK, whether it can or not.
    pub list: Vec<Reader>,
    /// Environment variables that decide where the key's device looks; a reader needs those that are set here.
    pub variables: Vec<String>,
}

impl Readers {
    /// Of an identity file without a key.
    pub fn without_a_key() -> Self {
        let list = vec![
            Reader::unless("Go SDK", &[(true, "it opens no identity without a key")]),
            Reader::unless("C SDK", &[]),
            Reader::unless("JVM SDK", &[]),
        ];
        Self { list, variables: Vec::new() }
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
