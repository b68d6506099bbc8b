//! What stands between a PIN in memory and a core dump or another process of the same user, seen from outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ziti_enroller_support::{Canary, Controller, Options, Program, Running, require};

use super::stage::PIN;
use crate::machine::until;
use crate::machine::{PROGRAM, ending, text};

/// A user who is not root: the one of these tests, else `nobody`.
struct Somebody {
    folder: tempfile::TempDir,
    id: u32,
    is_root: bool,
}

impl Somebody {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let ours = folder.path().metadata().expect("it was made a line ago").uid();
        let (is_root, id) = (ours == 0, if ours == 0 { 65534 } else { ours });
        chown(folder.path(), Some(id), Some(id)).expect("root may give it away, and others keep it");
        Self { folder, id, is_root }
    }

    /// `program`, as this user.
    fn runs(&self, program: Program) -> Program {
        let program = program.current_dir(self.folder.path()).env("HOME", self.folder.path());
        if !self.is_root {
            return program;
        }
        let setpriv = text(&require("setpriv", "util-linux"));
        let id = self.id.to_string();
        program.within([&setpriv, "--reuid", &id, "--regid", &id, "--clear-groups"])
    }

    /// Our program where this user can start it.
    fn program(&self) -> PathBuf {
        let copy = self.folder.path().join("ziti-enroller");
        fs::copy(PROGRAM, &copy).expect("the folder is writable");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
        copy
    }

    /// Whether this user can read the memory of a process of theirs.
    fn reads(&self, running: &Running, what: &str) -> bool {
        let read = Program::new(require("head", "coreutils")).args(["-c", "1"]).arg(format!("/proc/{}/{what}", running.id()));
        self.runs(read).run().code == Some(0)
    }
}

/// To whom the kernel gives the entries of a process: root, where it hides itself.
fn owner(running: &Running) -> u32 {
    Path::new(&format!("/proc/{}/environ", running.id())).metadata().expect("it runs").uid()
}

fn core_limit(running: &Running) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.id())).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    line.expect("every process has this limit").split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_running_program_dumps_no_core_and_shows_its_memory_to_nobody() {
    let somebody = Somebody::new();
    // The control: another program of this user.
    let mut other = somebody.runs(Program::new("/bin/sleep").arg("60")).start();
    until("it has started", || {
        fs::read(format!("/proc/{}/cmdline", other.id())).is_ok_and(|line| line.starts_with(b"/bin/sleep"))
    });
    assert_eq!((owner(&other), somebody.reads(&other, "environ")), (somebody.id, true));
    other.kill();

    let controller = Controller::start(Options::default());
    let token = controller.issue("gate-7").write(somebody.folder.path());
    let program = Program::new(somebody.program()).args(["enroll", "--jwt"]).arg(token).arg("--out").arg("gate-7.json");
    let program = ending(program, "output_reserved", "hang").env("ZITI_ENROLLER_PIN", PIN);
    let running = somebody.runs(program).start();
    let reserved = somebody.folder.path().join(".gate-7.json.enroll/identity");
    until("it works", || reserved.exists());
    if somebody.is_root {
        let environment = fs::read(format!("/proc/{}/environ", running.id())).expect("root reads everything");
        assert_eq!(Canary::new("PIN", PIN).found_in(environment), None);
    }
    assert_eq!((core_limit(&running).as_str(), owner(&running)), ("0 0", 0));
    for what in ["environ", "maps", "auxv"] {
        assert!(!somebody.reads(&running, what), "{what} can be read by another process of the same user");
    }
}

#[test]
fn an_abort_leaves_no_core() {
    let somebody = Somebody::new();
    let controller = Controller::start(Options::default());
    let token = controller.issue("gate-7");
    // Handed on to itself, which a process that hides itself can still do.
    let program = Program::new(somebody.program()).args(["enroll", "--out", "gate-7.json"]);
    let program = program.env("ZITI_ENROLLER_PIN", PIN).env("ZITI_ENROLL_TOKEN", token.compact());
    let running = somebody.runs(ending(program, "output_reserved", "hang")).start();
    let reserved = somebody.folder.path().join(".gate-7.json.enroll/identity");
    until("it works", || reserved.exists());
    running.abort();
    let ended = running.wait();
    assert_eq!(ended.signal, Some(6), "{ended}");
    let left = fs::read_dir(somebody.folder.path()).expect("it can be listed").flatten().map(|entry| entry.file_name());
    let cores: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("core")).collect();
    assert!(cores.is_empty(), "{cores:?}");
}
