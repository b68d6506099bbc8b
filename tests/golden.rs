//! Golden runs: what a person sees, one file in `cmd/` for each scenario, named by what happens.
//!
//! A file holds the command line, the exit code, both streams, the JSON of the same scenario, and how many requests that
//! may spend the token have reached the controller; what differs from run to run stands in brackets. With
//! UPDATE_GOLDEN=1 the files are written anew instead of compared: then `git diff` shows what has changed.
//!
//! The modules stand in the order of the rooms.

mod redact;
mod scene;

mod answers;
mod codes;
mod commands;
mod help;
mod issued;
mod key;
mod module;
mod output;
mod patience;
mod pin;
mod proxy;
mod reading;
mod refusal;
mod renew;
mod resumed;
mod success;
mod token;
mod tpm;
mod trust;
mod usage;
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use scene::{Format, Ran, Scene};

/// Each scenario is a test, and has the file of its name.
macro_rules! scenarios {
    ($($(#[doc = $doc:literal])* fn $name:ident($scene:ident) $body:block)*) => {
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            $(#[doc = $doc])*
            #[test]
            fn $name() {
                crate::golden::holds(stringify!($name), |$scene: crate::golden::scene::Scene| $body);
            }
        )*
    };
}
use scenarios;

/// The scenarios of all rooms.
const ALL: &[&[&str]] = &[
    help::NAMES,
    usage::NAMES,
    token::NAMES,
    trust::NAMES,
    proxy::NAMES,
    module::NAMES,
    pin::NAMES,
    key::NAMES,
    tpm::NAMES,
    patience::NAMES,
    refusal::NAMES,
    issued::NAMES,
    output::NAMES,
    resumed::NAMES,
    success::NAMES,
    reading::NAMES,
    commands::NAMES,
    ways::NAMES,
    renew::NAMES,
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd")
}

fn is_updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// Plays `scenario` twice, for a person and for a script, and holds both to the file `name`.
fn holds(name: &str, scenario: impl Fn(Scene) -> Ran) {
    let text = scenario(Scene::new(Format::Text));
    let json = scenario(Scene::new(Format::Json));
    compare(name, &text.golden(&json));
}

fn compare(name: &str, seen: &str) {
    let path = folder().join(format!("{name}.txt"));
    if is_updating() {
        fs::write(&path, seen).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; it should be\n{seen}", path.display()));
    assert!(golden == seen, "{} says\n{golden}\nand what happens is\n{seen}\n(UPDATE_GOLDEN=1 writes it anew)", path.display());
}

#[test]
fn every_file_has_its_scenario() {
    let all: Vec<&str> = ALL.concat();
    let names: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(names.len(), all.len(), "two scenarios have one name");
    let files = fs::read_dir(folder()).expect("tests/cmd can be listed");
    let files: BTreeSet<String> = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    let wanted: BTreeSet<String> = names.iter().map(|name| format!("{name}.txt")).collect();
    let without: Vec<_> = files.difference(&wanted).collect();
    assert!(without.is_empty(), "files without a scenario: {without:?}");
    let missing: Vec<_> = wanted.difference(&files).collect();
    assert!(is_updating() || missing.is_empty(), "scenarios without a file: {missing:?}");
}
