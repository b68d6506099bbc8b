//! What a place holds, as references ready to paste, with what rules each out.

use std::fmt;

use serde::Serialize;

use super::{KeyUri, Place};
use crate::text::Printable;

/// What a device says about its PIN before any try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinState {
    /// Nothing is wrong with it.
    Ok,
    /// There was a wrong try since the last right one.
    CountLow,
    /// One more wrong try locks it.
    FinalTry,
    /// Locked.
    Locked,
    /// It must be changed before it can be used.
    Expired,
    /// Typed at the device itself.
    Keypad,
    /// The device wants none, or has none yet.
    None,
}

/// For people.
impl fmt::Display for PinState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "PIN ok",
            Self::CountLow => "a wrong PIN was tried",
            Self::FinalTry => "one more wrong PIN locks it",
            Self::Locked => "PIN locked",
            Self::Expired => "PIN must be changed",
            Self::Keypad => "PIN at its keypad",
            Self::None => "no PIN",
        })
    }
}

/// A token or device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceListing {
    /// Names it on the command line.
    pub reference: KeyUri,
    /// As it describes itself.
    #[serde(flatten)]
    pub place: Place,
    /// Its manufacturer.
    pub manufacturer: Printable,
    /// Its PIN.
    pub pin: PinState,
    /// Why no key can be made in it; `null` where one can.
    pub obstacle: Option<String>,
}

/// On one line, for people.
impl fmt::Display for PlaceListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { label, serial, model, .. } = &self.place;
        match (label.as_str(), serial.as_str()) {
            ("", "") => f.write_str("no name yet")?,
            (_, "") => write!(f, "{label:?}")?,
            _ => write!(f, "{label:?}, serial {serial}")?,
        }
        for part in [model, &self.manufacturer].into_iter().filter(|part| !part.as_str().is_empty()) {
            write!(f, ", {part}")?;
        }
        write!(f, ", {}", self.pin)
    }
}

/// A private key in a token or device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyListing {
    /// Names it on the command line.
    pub reference: KeyUri,
    /// Its label.
    pub label: Printable,
    /// Its type, where it can be read: `p256`, or the device's words for one that is not worked with.
    pub algorithm: Option<String>,
    /// SHA-256 of its public half, hexadecimal, where that can be read.
    pub spki_sha256: Option<String>,
    /// Why it cannot be enrolled with; `null` where it can.
    pub obstacle: Option<String>,
}

/// What a rehearsal has shown: a key that vanishes with the session was made and has signed, or why that was not tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rehearsal {
    /// Made, signed, checked, gone.
    Done,
    /// The device has no such keys, which is no failure; its words.
    NotHere(String),
}
