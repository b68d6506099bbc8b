//! What the program says about itself, and the README's blocks that run offline.

use std::fs;
use std::path::Path;

use ziti_enroller_support::softhsm::SoftToken;
use ziti_enroller_support::{Controller, Options, Program, require};

use super::compare;
use crate::machine::{Fixture, InToken, Machine, PROGRAM, text};

pub(super) const NAMES: &[&str] = &["help", "help_enroll", "help_verify", "help_inspect", "nothing_typed"];

/// In a terminal of 100 columns.
fn said(words: &str) -> String {
    let outcome = Program::new(PROGRAM).args(words.split_whitespace()).env("COLUMNS", "100").run();
    let line = format!("$ ziti-enroller {words}");
    let part = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("--- {name}\n{text}") };
    let code = outcome.code.expect("an exit code");
    format!("{}\n--- exit {code}\n{}{}", line.trim_end(), part("stdout", &outcome.stdout), part("stderr", &outcome.stderr))
}

#[test]
fn help() {
    compare("help", &said("--help"));
}

#[test]
fn help_enroll() {
    compare("help_enroll", &said("enroll --help"));
}

#[test]
fn help_verify() {
    compare("help_verify", &said("verify --help"));
}

#[test]
fn help_inspect() {
    compare("help_inspect", &said("inspect --help"));
}

#[test]
fn nothing_typed() {
    compare("nothing_typed", &said(""));
}

/// The blocks of README.md that call the program, as lines for a shell.
fn blocks_of_the_readme() -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let blocks = readme.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block);
    let typed = |block: &str| block.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    blocks.filter(|block| block.contains("$ ziti-enroller ")).map(typed).collect()
}

/// With the module, the token's folder and the PIN of this machine in place of those that it names.
#[test]
fn blocks_of_the_readme_work() {
    let controller = Controller::start(Options::default());
    let mut machine = Machine::<InToken>::new();
    machine.keys.hsm.add_token("edge", "2468024680");
    let SoftToken { pin, pin_file, .. } = &machine.keys.hsm.tokens()[1];
    let tool = Program::new(require("pkcs11-tool", "opensc")).envs(machine.keys.surroundings());
    let tool = tool.arg("--module").arg(machine.keys.hsm.real_module()).args(["--token-label", "edge", "--login", "--pin", pin]);
    tool.args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", "gate-7", "--id", "07"]).run().success();
    let blocks = blocks_of_the_readme();
    assert!(blocks.len() >= 4, "README.md shows less than it did: {blocks:?}");
    for block in blocks {
        if block.contains("--jwt") {
            fs::remove_file(machine.path("gate-7.json")).ok();
            controller.issue("gate-7").write(machine.folder());
        }
        let here = block.replace("/usr/lib/softhsm/libsofthsm2.so", &text(&machine.keys.hsm.module()));
        let here = here.replace("/run/secrets/edge.pin", &text(pin_file));
        let programs = Path::new(PROGRAM).parent().expect("a program lies in a folder");
        let path = format!("{}:/usr/bin:/bin", programs.display());
        let shell = Program::new("/bin/sh").args(["-e", "-c", &here]).env("PATH", path).envs(machine.keys.surroundings());
        shell.current_dir(machine.folder()).run().success();
    }
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}
