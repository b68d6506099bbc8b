//! The call log: one line a call, `<pid> <C_Function> <n> 0x<rv>`.
//!
//! `n` counts the calls of that function in that process, from 1. A call that never comes back has `kill` or `hang`
//! where the answer would stand. Arguments are never written: neither PINs nor data.
//!
//! The log of logins: one line a `C_Login` that came back, `<pid> <microseconds> user=<n> flags=0x<flags> pin=<given|null>
//! 0x<rv>`: when it was asked (Unix time), for whom (CK_USER_TYPE), which flags `C_GetTokenInfo` would have shown just
//! then (`flags=unknown` where it has none), and the answer.
//!
//! The record, for those who judge many processes at once: `<pid> begins <note> <program> <word>…` when a process first
//! calls, and a login as `<pid> login …`, as above. The note is P11FAULT_NOTE, or `-`; the words are the command line but for
//! what could be a value: the first argument if it is of letters alone, and the names of options. Others may append lines of
//! their own to the same file: their order is that of the events.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_USER_TYPE};

/// Where the lines go, if anywhere.
pub struct Log {
    calls: Option<File>,
    logins: Option<File>,
    record: Option<File>,
}

/// A `C_Login`, as it was asked.
pub struct Asked(String);

impl Asked {
    pub fn now(user: CK_USER_TYPE, flags: Option<CK_FLAGS>, given: bool) -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let flags = flags.map_or("unknown".to_owned(), |flags| format!("{flags:#x}"));
        let pin = if given { "given" } else { "null" };
        Self(format!("{micros} user={user} flags={flags} pin={pin}"))
    }
}

impl Log {
    /// By the names of the variables that name the files.
    pub fn open(calls: &str, logins: &str, record: &str) -> Result<Self, String> {
        let log = Self { calls: open(calls)?, logins: open(logins)?, record: open(record)? };
        write(&log.record, format!("{} begins {}\n", std::process::id(), who()));
        Ok(log)
    }

    /// A call that came back with `rv`, be it the real module's or ours.
    pub fn answered(&self, function: &str, n: u64, rv: CK_RV) {
        write(&self.calls, format!("{} {function} {n} {rv:#x}\n", std::process::id()));
    }

    /// A call that is not going to come back.
    pub fn ends(&self, function: &str, n: u64, how: &str) {
        write(&self.calls, format!("{} {function} {n} {how}\n", std::process::id()));
    }

    pub fn has_logins(&self) -> bool {
        self.logins.is_some() || self.record.is_some()
    }

    pub fn login(&self, asked: &Asked, rv: CK_RV) {
        let process = std::process::id();
        write(&self.logins, format!("{process} {} {rv:#x}\n", asked.0));
        write(&self.record, format!("{process} login {} {rv:#x}\n", asked.0));
    }
}

fn who() -> String {
    let note = std::env::var("P11FAULT_NOTE").ok().filter(|note| is_word(note));
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default().rsplit('/').next().map(|name| name.replace(char::is_whitespace, "?"));
    let option = |word: String| {
        let name = word.split('=').next().map(str::to_owned)?;
        is_word(name.strip_prefix("--")?).then_some(name)
    };
    let first = words.next();
    let command = first.clone().filter(|word| is_word(word));
    let options = first.into_iter().chain(words).filter_map(option);
    [note.unwrap_or("-".into()), program.unwrap_or_default()]
        .into_iter()
        .chain(command)
        .chain(options)
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

fn open(variable: &str) -> Result<Option<File>, String> {
    let Some(path) = std::env::var_os(variable) else { return Ok(None) };
    match OpenOptions::new().append(true).create(true).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) => Err(format!("{variable} {}: {error}", Path::new(&path).display())),
    }
}

/// One write to a file opened with O_APPEND, so lines of threads and processes never mix.
fn write(file: &Option<File>, line: String) {
    let Some(mut file) = file.as_ref() else { return };
    let written = file.write(line.as_bytes());
    assert!(matches!(written, Ok(n) if n == line.len()), "p11fault: cannot write the log: {written:?}");
}
