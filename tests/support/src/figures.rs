//! Figures that a suite promises: `tests/run` prints them and fails where one is short.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::Counts;

/// Appends the line `promise⇥asked⇥reached⇥seed` to the file that ZITI_ENROLLER_TEST_FIGURES names, else to
/// `target/figures.tsv`. `seed` is empty where nothing was sampled.
///
/// # Panics
/// When the file cannot be written, or a field would break the line.
pub fn record(promise: &str, asked: usize, reached: usize, seed: &str) {
    assert!(![promise, seed].iter().any(|field| field.contains(['\t', '\n'])), "a figure is one line: {promise:?} {seed:?}");
    let path = std::env::var_os("ZITI_ENROLLER_TEST_FIGURES").map_or_else(|| folder().join("figures.tsv"), PathBuf::from);
    append(&path, &format!("{promise}\t{asked}\t{reached}\t{seed}\n"));
}

/// Appends the line `method⇥provider⇥TLS⇥connections⇥requests` to the file that ZITI_ENROLLER_TEST_METHODS names, else to
/// `target/methods.tsv`: what one enrollment took. `None` for a method without a key, which says `no key`.
///
/// # Panics
/// When the file cannot be written.
pub fn method(method: &str, provider: &str, tls: &str, took: Option<Counts>) {
    let path = std::env::var_os("ZITI_ENROLLER_TEST_METHODS").map_or_else(|| folder().join("methods.tsv"), PathBuf::from);
    let took = took.map_or("no key\tno key".into(), |counts| format!("{}\t{}", counts.connections, counts.requests));
    append(&path, &format!("{method}\t{provider}\t{tls}\t{took}\n"));
}

/// One write to a file opened to append, so that lines of tests that run at once never mix.
fn append(path: &Path, line: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// What is wrong, where `check` panics: its message. Of many cases, all that fail are heard of.
pub fn wrong(check: impl FnOnce()) -> Option<String> {
    let why = catch_unwind(AssertUnwindSafe(check)).err()?;
    let text = why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(text.unwrap_or_else(|| "it panicked".into()))
}

/// The folder of the build, `target`, for what a suite leaves behind for a person.
pub fn folder() -> PathBuf {
    let running = std::env::current_exe().expect("the running test knows its own path");
    // target/<profile>/deps/<test>
    running.ancestors().nth(3).unwrap_or(Path::new(".")).to_owned()
}
