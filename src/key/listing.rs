//! What a place holds, as references ready to paste, with what rules each out.

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
    /// Typed at the device itself.
    Keypad,
    /// The device wants none, or has none yet.
    None,
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
