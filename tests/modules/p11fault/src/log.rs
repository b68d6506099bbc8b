//! The call log: one line a call, `<pid> <C_Function> <n> 0x<rv>`.
//!
//! `n` counts the calls of that function in that process, from 1. A call that never comes back has `kill` or `hang`
//! where the answer would stand. Arguments are never written: neither PINs nor data.
//!
//! The log of logins: one line a `C_Login` that came back, `<pid> <microseconds> user=<n> flags=0x<flags> pin=<given|null>
//! 0x<rv>`: when it was asked (Unix time), for whom (CK_USER_TYPE), which flags `C_GetTokenInfo` would have shown just
//! then (`flags=unknown` where it has none), and the answer.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_USER_TYPE};

/// Where the lines go, if anywhere.
pub struct Log {
    calls: Option<File>,
    logins: Option<File>,
}

/// A `C_Login`, as it was asked.
pub struct Asked(String);

impl Asked {
    pub fn now(user: CK_USER_TYPE, flags: Option<CK_FLAGS>, given: bool) -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let flags = flags.map_or("unknown".to_owned(), |flags| format!("{flags:#x}"));
        let pin = if given { "given" } else { "null" };
        Self(format!("{} {micros} user={user} flags={flags} pin={pin}", std::process::id()))
    }
}

impl Log {
    /// By the names of the variables that name the files.
    pub fn open(calls: &str, logins: &str) -> Result<Self, String> {
        Ok(Self { calls: open(calls)?, logins: open(logins)? })
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
        self.logins.is_some()
    }

    pub fn login(&self, asked: &Asked, rv: CK_RV) {
        write(&self.logins, format!("{} {rv:#x}\n", asked.0));
    }
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
