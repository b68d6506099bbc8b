//! Foreign text, cleaned; and what to say beside an error.
//!
//! Token labels, certificate subjects, file names and the controller's answers are written by others and end on a
//! terminal or in a log. They become [`Printable`] the moment they are read, so that no later place can forget it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest foreign text that is passed on, in characters; the rest is replaced by `…`.
const LONGEST: usize = 256;

/// Text from a stranger: control characters, bidirectional overrides and zero-width characters stand as `\u{..}`,
/// and it is at most 256 characters long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Printable(String);

impl Printable {
    /// Cleans `foreign`.
    pub fn new(foreign: &str) -> Self {
        let mut clean = String::with_capacity(foreign.len().min(LONGEST));
        for (count, c) in foreign.chars().enumerate() {
            if count == LONGEST {
                clean.push('…');
                break;
            }
            if hides(c) {
                clean.extend(c.escape_unicode());
            } else {
                clean.push(c);
            }
        }
        Self(clean)
    }

    /// Cleans bytes that are not necessarily UTF-8.
    pub fn from_bytes(foreign: &[u8]) -> Self {
        Self::new(&String::from_utf8_lossy(foreign))
    }

    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// C0, C1, DEL, bidirectional controls, zero-width characters, line and paragraph separators, the BOM, tags.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl From<&str> for Printable {
    fn from(foreign: &str) -> Self {
        Self::new(foreign)
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What to do next, beside an error: a sentence, and the command to type where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// What to say; lower case, no full stop.
    pub say: String,
    /// What to paste into a shell.
    pub run: Option<String>,
}

impl Hint {
    /// A hint without a command.
    pub fn say(say: impl Into<String>) -> Self {
        Self { say: say.into(), run: None }
    }

    /// A hint that ends with a command.
    pub fn run(say: impl Into<String>, run: impl Into<String>) -> Self {
        Self { say: say.into(), run: Some(run.into()) }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.say)?;
        self.run.as_ref().map_or(Ok(()), |run| write!(f, ": {run}"))
    }
}

/// What the system says of an error, in lower case and without its number.
pub fn system_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes that an even number of hexadecimal digits stand for; `None` for anything else.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok().filter(|_| digits.as_bytes()[i] != b'+'))
        .collect()
}

/// `value` with everything percent-encoded that is outside `A-Za-z0-9._~-` (RFC 3986 §2.3).
pub fn percent_encode(value: &[u8]) -> String {
    percent_encode_but(value, "")
}

/// The same, with the characters of `also_plain` left as they are.
pub fn percent_encode_but(value: &[u8], also_plain: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for &byte in value {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "._~-".contains(c) || also_plain.contains(c) {
            text.push(c);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The bytes of `text`, in which `%` begins a byte in hexadecimal (RFC 3986 §2.1); `None` where two digits do not follow.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.extend(u8::from_str_radix(digits, 16).ok());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

/// `text` as one word of a POSIX shell, quoted where it must be.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let clean = Printable::new("edge\u{1b}[2J\u{202e}\u{9b}x");
        assert_eq!(clean.as_str(), "edge\\u{1b}[2J\\u{202e}\\u{9b}x");
    }

    #[test]
    fn cuts_long_text() {
        assert_eq!(Printable::new(&"a".repeat(1000)).as_str().chars().count(), LONGEST + 1);
    }

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(from_hex(&hex(&[0, 1, 0xfe])), Some(vec![0, 1, 0xfe]));
        assert_eq!(from_hex("+1"), None);
        assert_eq!(from_hex("012"), None);
        assert_eq!(from_hex("0ä1"), None);
    }

    #[test]
    fn quotes_for_a_shell() {
        assert_eq!(shell_word("/a/b.json"), "/a/b.json");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
