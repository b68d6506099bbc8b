//! strace around a program: what it does to files, and an error in place of one call.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use ziti_enroller_support::{Outcome, Program, require};

use crate::machine::text;

/// Every call that changes a file, a name or a lock. `?`: not every machine has it.
pub const MUTATING: &str = "?open,openat,?creat,?mkdir,mkdirat,write,pwrite64,writev,pwritev2,ftruncate,?truncate,fallocate,fsync,\
     fdatasync,?chmod,fchmod,fchmodat,?chown,fchown,fchownat,?rename,?renameat,renameat2,?link,linkat,symlinkat,?unlink,unlinkat,\
     ?rmdir,flock";

/// A call that a program has made.
#[derive(Clone, Debug)]
pub struct Call {
    /// `openat`.
    pub name: String,
    /// Which of that name, counted from 1.
    pub number: usize,
    /// As strace shows it: descriptors with their paths.
    pub line: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.name, self.number, self.line)
    }
}

impl Call {
    /// Whether it opens something to write to it, or makes it.
    pub fn opens_to_write(&self) -> bool {
        self.name.starts_with("open") && ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| self.line.contains(flag))
    }

    /// Whether it changes something: opening does only where it makes a file.
    pub fn changes(&self) -> bool {
        !self.name.starts_with("open") || self.line.contains("O_CREAT")
    }
}

fn strace(program: Program, trace: &str, paths: &[PathBuf], more: &[String]) -> Program {
    let mut words = vec!["-f".to_owned(), "-qq".into(), "-y".into(), "-e".into(), "signal=none".into()];
    words.extend(["-e".to_owned(), format!("trace={trace}")]);
    words.extend(paths.iter().flat_map(|path| ["-P".to_owned(), text(path)]));
    words.extend_from_slice(more);
    program.under(require("strace", "strace"), words)
}

/// Runs `program` and says which of these calls it has made, all or those on `paths`; only its first thread may make any.
pub fn record(program: Program, trace: &str, paths: &[PathBuf]) -> (Outcome, Vec<Call>) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let out = ["-s", "64", "-o"].map(str::to_owned).into_iter().chain([text(file.path())]);
    let outcome = strace(program, trace, paths, &out.collect::<Vec<_>>()).run();
    let shown = fs::read_to_string(file.path()).expect("strace has written it");
    let mut calls: Vec<Call> = Vec::new();
    let first = shown.split_whitespace().next().unwrap_or_default().to_owned();
    for line in shown.lines() {
        let Some((process, line)) = line.split_once(' ') else { continue };
        let line = line.trim_start();
        // The second half of a call that another thread has come between.
        let Some((name, _)) = line.split_once('(').filter(|_| !line.starts_with("<...")) else { continue };
        assert!(process == first || paths.is_empty(), "another thread touches files of ours: {line}");
        let number = 1 + calls.iter().filter(|call| call.name == name).count();
        calls.push(Call { name: name.to_owned(), number, line: line.to_owned() });
    }
    (outcome, calls)
}

/// The program, with this error in place of the `number`-th call of that name on `paths`.
pub fn failing(program: Program, name: &str, number: usize, error: &str, paths: &[PathBuf]) -> Program {
    let inject = format!("inject={name}:error={error}:when={number}");
    strace(program, name, paths, &["-o", "/dev/null", "-e", &inject].map(str::to_owned))
}
