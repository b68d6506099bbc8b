//! What the program says about itself, and the README's blocks that run offline.

use std::fs;
use std::path::Path;

use ziti_enroller_support::softhsm::SoftToken;
use ziti_enroller_support::{Controller, Options, Program, require};

use super::compare;
use crate::machine::{Fixture, InToken, Machine, PROGRAM, text};

/// Each command with its help; the first is the program's own.
const HELP: [(&str, &str); 15] = [
    ("help", ""),
    ("help_enroll", "enroll"),
    ("help_resume", "resume"),
    ("help_status", "status"),
    ("help_doctor", "doctor"),
    ("help_verify", "verify"),
    ("help_renew", "renew"),
    ("help_list", "list"),
    ("help_list_keys", "list keys"),
    ("help_list_signers", "list signers"),
    ("help_key", "key"),
    ("help_key_create", "key create"),
    ("help_csr", "csr"),
    ("help_exec", "exec"),
    ("help_inspect", "inspect"),
];

pub(super) const NAMES: &[&str] = &[
    "help",
    "help_enroll",
    "help_resume",
    "help_status",
    "help_doctor",
    "help_verify",
    "help_renew",
    "help_list",
    "help_list_keys",
    "help_list_signers",
    "help_key",
    "help_key_create",
    "help_csr",
    "help_exec",
    "help_inspect",
    "nothing_typed",
];

/// In a terminal of 100 columns.
fn said(words: &str) -> String {
    let outcome = Program::new(PROGRAM).args(words.split_whitespace()).env("COLUMNS", "100").run();
    let line = format!("$ ziti-enroller {words}");
    let part = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("--- {name}\n{text}") };
    let code = outcome.code.expect("an exit code");
    format!("{}\n--- exit {code}\n{}{}", line.trim_end(), part("stdout", &outcome.stdout), part("stderr", &outcome.stderr))
}

#[test]
fn of_each_command() {
    for (name, command) in HELP {
        compare(name, &said(format!("{command} --help").trim_start()));
    }
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

/// One a line; a backslash goes on.
fn commands(block: &str) -> Vec<String> {
    block.replace("\\\n", "").lines().map(str::to_owned).collect()
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
    let identity = machine.path("gate-7.json");
    let mut exported = String::new();
    let mut enrolled = Vec::new();
    for command in blocks.iter().flat_map(|block| commands(block)) {
        if command.starts_with("export ") {
            exported = format!("{command}; ");
        }
        // A token for each enrollment, and no identity yet; all others find the last one.
        if command.contains("--jwt") || command.contains(" resume ") {
            fs::remove_file(&identity).ok();
            controller.issue("gate-7").write(machine.folder());
            if command.contains(" resume ") {
                let killed = machine.program().args(["--jwt", "gate-7.jwt"]).env("ZITI_ENROLLER_CRASH", "before_post:kill").run();
                assert_eq!(killed.signal, Some(9), "{killed}");
            }
        } else if !identity.exists() && !enrolled.is_empty() {
            fs::write(&identity, &enrolled).expect("the machine's folder is writable");
        }
        let here = format!("{exported}{command}").replace("/usr/lib/softhsm/libsofthsm2.so", &text(&machine.keys.hsm.module()));
        let here = here.replace("/run/secrets/edge.pin", &text(pin_file));
        let programs = Path::new(PROGRAM).parent().expect("a program lies in a folder");
        let path = format!("{}:/usr/bin:/bin", programs.display());
        let shell = Program::new("/bin/sh").args(["-e", "-c", &here]).env("PATH", path).envs(machine.keys.surroundings());
        shell.current_dir(machine.folder()).run().success();
        enrolled = fs::read(&identity).unwrap_or(enrolled);
    }
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}
