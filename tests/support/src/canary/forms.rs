//! The forms in which a secret may hide.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::fmt::Write;

/// A secret, in every form that is looked for.
#[derive(Clone, Debug)]
pub struct Canary {
    name: &'static str,
    secret: Vec<u8>,
    forms: Vec<(&'static str, Vec<u8>)>,
    /// The first bytes of the forms.
    starts: Vec<bool>,
}

impl Canary {
    /// As it is; in base64 of both alphabets, wherever it stands in what was encoded; in hex of both cases, with and without
    /// something between the bytes; percent-encoded as little as a URL needs and as much as it allows; in UTF-16; and as
    /// Rust prints bytes.
    ///
    /// # Panics
    /// For fewer than six bytes, which may be anywhere by chance.
    pub fn new(name: &'static str, secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref().to_vec();
        assert!(secret.len() >= 6, "{name}: too short to be looked for");
        let each =
            |text: fn(u8) -> String, between: &str| secret.iter().map(|byte| text(*byte)).collect::<Vec<_>>().join(between);
        let mut forms = vec![
            ("hex", each(|b| format!("{b:02x}"), "")),
            ("HEX", each(|b| format!("{b:02X}"), "")),
            ("hex with spaces", each(|b| format!("{b:02x}"), " ")),
            ("hex with colons", each(|b| format!("{b:02x}"), ":")),
            ("HEX with colons", each(|b| format!("{b:02X}"), ":")),
            ("\\x", each(|b| format!("\\x{b:02x}"), "")),
            ("percent-encoded whole", each(|b| format!("%{b:02x}"), "")),
            ("PERCENT-ENCODED whole", each(|b| format!("%{b:02X}"), "")),
            ("percent-encoded", each(|b| percent(b, |b| format!("%{b:02x}")), "")),
            ("PERCENT-ENCODED", each(|b| percent(b, |b| format!("%{b:02X}")), "")),
            ("list of numbers", each(|b| b.to_string(), ", ")),
            ("escaped", String::from_utf8_lossy(&secret).escape_debug().to_string()),
        ];
        for (offset, names) in
            [["base64", "base64url"], ["base64 +1", "base64url +1"], ["base64 +2", "base64url +2"]].into_iter().enumerate()
        {
            forms.push((names[0], base64(&STANDARD_NO_PAD, &secret, offset)));
            forms.push((names[1], base64(&URL_SAFE_NO_PAD, &secret, offset)));
        }
        let mut forms: Vec<_> = forms.into_iter().map(|(form, text)| (form, text.into_bytes())).collect();
        forms.push(("UTF-16LE", secret.iter().flat_map(|byte| [*byte, 0]).collect()));
        forms.push(("UTF-16BE", secret.iter().flat_map(|byte| [0, *byte]).collect()));
        let raw = ("raw", secret.clone());
        let mut canary = Self { name, secret, forms: vec![raw], starts: vec![false; 256] };
        forms.into_iter().for_each(|(form, bytes)| canary.look_for(form, bytes));
        canary.look_for("raw", canary.secret.clone());
        canary
    }

    /// And its hashes: of a short secret they tell as much, and a TPM makes an auth value of one.
    pub fn and_hashes(mut self) -> Self {
        let hashes = [("SHA-256", &SHA256), ("SHA-1", &SHA1_FOR_LEGACY_USE_ONLY)];
        for (name, algorithm) in hashes {
            let hash = digest(algorithm, &self.secret).as_ref().to_vec();
            let hex = hash.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").ok();
                text
            });
            self.look_for(name, hex.to_uppercase().into_bytes());
            self.look_for(name, hex.into_bytes());
            self.look_for(name, base64(&STANDARD_NO_PAD, &hash, 0).into_bytes());
            self.look_for(name, base64(&URL_SAFE_NO_PAD, &hash, 0).into_bytes());
            self.look_for(name, hash);
        }
        self
    }

    fn look_for(&mut self, form: &'static str, bytes: Vec<u8>) {
        self.starts[usize::from(bytes[0])] = true;
        if !self.forms.iter().any(|(_, known)| *known == bytes) {
            self.forms.push((form, bytes));
        }
    }

    /// What it is: `PIN`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The secret itself.
    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Every form, by name, for whoever plants one.
    pub fn forms(&self) -> &[(&'static str, Vec<u8>)] {
        &self.forms
    }

    /// The form that stands first in `bytes`. Which characters are percent-encoded is everybody's own choice, so what comes
    /// of decoding them is looked at as well.
    pub fn found_in(&self, bytes: impl AsRef<[u8]>) -> Option<&'static str> {
        let bytes = bytes.as_ref();
        let plainly = self.plainly_in(bytes);
        plainly.or_else(|| bytes.contains(&b'%').then(|| self.plainly_in(&decoded(bytes)).map(|_| "percent-encoded in part"))?)
    }

    fn plainly_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let starts = bytes.iter().enumerate().filter(|(_, byte)| self.starts[usize::from(**byte)]);
        let form_at = |at: usize| self.forms.iter().find(|(_, form)| bytes[at..].starts_with(form)).map(|(name, _)| *name);
        starts.map(|(at, _)| at).find_map(form_at)
    }
}

/// With the byte for each `%2f`.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    decoded
}

/// The characters of base64 that these bytes alone decide, behind `offset` others.
fn base64(alphabet: &impl Engine, bytes: &[u8], offset: usize) -> String {
    let text = alphabet.encode([&vec![0; offset], bytes].concat());
    let (from, to) = ((offset * 8).div_ceil(6), (offset + bytes.len()) * 8 / 6);
    text[from..to].to_owned()
}

/// Unreserved characters as they are (RFC 3986 §2.3).
fn percent(byte: u8, encoded: impl Fn(u8) -> String) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { encoded(byte) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_in_every_form_wherever_it_stands() {
        let canary = Canary::new("PIN", "Kan4r1e+n?gel/0%").and_hashes();
        for (form, bytes) in canary.forms() {
            for before in 0..4 {
                let text = [&vec![b'K'; before], bytes.as_slice(), b"K"].concat();
                assert!(canary.found_in(&text).is_some(), "{form} behind {before}");
                assert!(canary.found_in(&text[..text.len() - 2]).is_none_or(|found| found != *form), "{form} was cut");
            }
        }
        assert!(canary.forms().len() > 20);
        for innocent in ["", "Kan4r1e+n?gel/0", "kan4r1e+n?gel/0%"] {
            assert_eq!(canary.found_in(innocent), None, "{innocent}");
        }
    }

    #[test]
    fn is_found_in_what_others_encode() {
        let canary = Canary::new("PIN", "Kan4r1e+n?gel/0%");
        for before in ["", "a", "ab", "abc", "a longer text: "] {
            let text = format!("{before}Kan4r1e+n?gel/0%, and more");
            assert!(canary.found_in(base64::engine::general_purpose::STANDARD.encode(&text)).is_some());
            assert!(canary.found_in(base64::engine::general_purpose::URL_SAFE.encode(&text)).is_some());
            assert!(canary.found_in(format!("{:?}", text.as_bytes())).is_some());
        }
        assert_eq!(canary.found_in("x=Kan4r1e%2Bn%3Fgel%2F0%25&y"), Some("PERCENT-ENCODED"));
        assert_eq!(canary.found_in("%zz=Kan4r1e%2Bn?gel/0%25&y"), Some("percent-encoded in part"));
    }
}
