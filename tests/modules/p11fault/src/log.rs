//! The call log: one line a call, `<pid> <C_Function> <n> 0x<rv>`.
//!
//! `n` counts the calls of that function in that process, from 1. A call that never comes back has `kill` or `hang`
//! where the answer would stand. Arguments are never written: neither PINs nor data.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use cryptoki_sys::CK_RV;

/// Where the lines go, if anywhere.
pub struct Log(Option<File>);

impl Log {
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self(None)) };
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => Ok(Self(Some(file))),
            Err(error) => Err(format!("P11FAULT_LOG {}: {error}", path.display())),
        }
    }

    /// A call that came back with `rv`, be it the real module's or ours.
    pub fn answered(&self, function: &str, n: u64, rv: CK_RV) {
        self.write(format!("{} {function} {n} {rv:#x}\n", std::process::id()));
    }

    /// A call that is not going to come back.
    pub fn ends(&self, function: &str, n: u64, how: &str) {
        self.write(format!("{} {function} {n} {how}\n", std::process::id()));
    }

    /// One write to a file opened with O_APPEND, so lines of threads and processes never mix.
    fn write(&self, line: String) {
        let Some(mut file) = self.0.as_ref() else { return };
        let written = file.write(line.as_bytes());
        assert!(matches!(written, Ok(n) if n == line.len()), "p11fault: cannot write the log: {written:?}");
    }
}
