//! Every fault of this machine that is there before the request, with every provider: no request is sent, the exit code is
//! the documented one, and the token enrolls afterwards.

mod devices;

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use ziti_enroller_support::{Controller, KeyType, Options, Outcome, Program, Token, figures, require};

use super::trace::failing;
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Failed, Fixture, InToken, InTpm2Pkcs11, Machine, report};

/// One token, and a folder of its own for its identity.
pub struct Case<'m, F> {
    machine: &'m Machine<F>,
    token: Token,
    folder: PathBuf,
}

impl<F: Fixture> Case<'_, F> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn work(&self) -> PathBuf {
        self.path(".gate.json.enroll")
    }

    /// Without a word about key and PIN.
    fn bare(&self) -> Program {
        self.bare_to(&self.path("gate.json"))
    }

    fn bare_to(&self, out: &Path) -> Program {
        let jwt = self.token.write(&self.folder);
        self.machine.program().args(["enroll", "--format", "json", "--jwt"]).arg(jwt).arg("--out").arg(out)
    }

    fn without_pin(&self) -> Program {
        self.bare().args(["--provider", F::PROVIDER]).args(self.machine.keys.place())
    }

    /// An enrollment with a new key, in which nothing is wrong.
    fn enroll(&self) -> Program {
        self.without_pin().args(self.machine.keys.pin())
    }

    fn enroll_to(&self, out: impl AsRef<Path>) -> Program {
        let program = self.bare_to(out.as_ref()).args(["--provider", F::PROVIDER]);
        program.args(self.machine.keys.place()).args(self.machine.keys.pin())
    }

    /// With the key that is called so.
    fn with_key(&self, name: &str) -> Program {
        self.bare().args(["--key", &self.machine.keys.reference(name)])
    }

    /// Makes the work folder, as an earlier run has.
    fn make_work(&self) -> PathBuf {
        fs::DirBuilder::new().mode(0o700).create(self.work()).expect("the folder is ours");
        self.work()
    }

    /// Writes a file that is private.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder is ours");
        set_mode(&path, 0o600);
        path
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// What is wrong, how the run must end, and the run.
pub struct Fault<F> {
    name: &'static str,
    exit: i32,
    code: &'static str,
    run: fn(&Case<'_, F>) -> Outcome,
}

/// A list of faults, one a line.
macro_rules! faults {
    ($($name:literal, $exit:literal, $code:literal => |$case:ident| $run:expr;)*) => {
        vec![$($crate::local_faults::before_the_post::Fault { name: $name, exit: $exit, code: $code, run: |$case| $run }),*]
    };
}
pub(super) use faults;

/// Those that have nothing to do with the provider: folders, files, limits.
fn of_files<F: Fixture>() -> Vec<Fault<F>> {
    faults! {
        "the token's file is missing", 10, "token_missing" => |case| {
            case.machine.program().args(["enroll", "--format", "json", "--jwt"]).arg(case.path("none.jwt")).run()
        };
        "the folder is missing", 50, "folder_missing" => |case| case.enroll_to(case.path("none/gate.json")).run();
        "the folder is a file", 50, "folder_missing" => |case| {
            case.file("file", "");
            case.enroll_to(case.path("file/gate.json")).run()
        };
        "the folder may not be written", 50, "folder_not_writable" => |case| {
            failing(case.enroll(), "mkdirat", 1, "EACCES", std::slice::from_ref(&case.folder)).run()
        };
        "the file system is read-only", 50, "folder_not_writable" => |case| {
            failing(case.enroll(), "mkdirat", 1, "EROFS", std::slice::from_ref(&case.folder)).run()
        };
        "no inode is free", 50, "disk_full" => |case| {
            failing(case.enroll(), "mkdirat", 1, "ENOSPC", std::slice::from_ref(&case.folder)).run()
        };
        "the disk is full", 50, "disk_full" => |case| {
            failing(case.enroll(), "fallocate", 2, "ENOSPC", &[case.work().join("answer"), case.work().join("identity")]).run()
        };
        "the quota is used up", 50, "disk_full" => |case| {
            failing(case.enroll(), "fallocate", 1, "EDQUOT", &[case.work().join("answer")]).run()
        };
        "the disk breaks when the journal is synced", 50, "file_error" => |case| {
            failing(case.enroll(), "fdatasync", 1, "EIO", &[case.work().join("journal")]).run()
        };
        "the disk is full when the journal is written", 50, "disk_full" => |case| {
            failing(case.enroll(), "write", 2, "ENOSPC", &[case.work().join("journal")]).run()
        };
        "the folder of the journal cannot be synced", 50, "file_error" => |case| {
            failing(case.enroll(), "fsync", 1, "EIO", std::slice::from_ref(&case.folder)).run()
        };
        "the file system has no locks", 50, "file_error" => |case| {
            failing(case.enroll(), "flock", 1, "ENOLCK", &[case.work().join("lock")]).run()
        };
        "files may not be large", 50, "disk_full" => |case| {
            case.enroll().under(require("prlimit", "util-linux"), ["--fsize=1000"]).run()
        };
        "only few files may be open", 50, "file_error" => |case| {
            // The record of events, which only tests have, would be one more.
            let without = ["-u", "ZITI_ENROLLER_EVENTS", "prlimit", "--nofile=8"];
            require("prlimit", "util-linux");
            case.enroll().under(require("env", "coreutils"), without).run()
        };
        "the current folder is gone", 50, "file_error" => |case| {
            let gone = "mkdir \"$GONE\" && cd \"$GONE\" && rmdir \"$GONE\" && exec \"$@\"";
            let program = case.enroll_to("gate.json").env("GONE", case.path("gone"));
            program.under(require("sh", "dash"), ["-c", gone, "sh"]).run()
        };
        "an identity is there", 50, "output_exists" => |case| {
            case.file("gate.json", "precious");
            case.enroll().run()
        };
        "the output is a link", 50, "output_is_symlink" => |case| {
            symlink("elsewhere", case.path("gate.json")).expect("the folder is ours");
            case.enroll().arg("--force").run()
        };
        "the output is a folder", 50, "output_not_a_file" => |case| {
            fs::create_dir(case.path("gate.json")).expect("the folder is ours");
            case.enroll().arg("--force").run()
        };
        "the output is a FIFO", 50, "output_not_a_file" => |case| {
            Program::new(require("mkfifo", "coreutils")).arg(case.path("gate.json")).run().success();
            case.enroll().arg("--force").run()
        };
        "everyone may write to the folder", 50, "folder_unsafe" => |case| {
            set_mode(&case.folder, 0o777);
            case.enroll().run()
        };
        "others may write to the work folder", 50, "folder_unsafe" => |case| {
            set_mode(&case.make_work(), 0o770);
            case.enroll().run()
        };
        "the work folder is a link", 50, "folder_unsafe" => |case| {
            symlink(case.machine.folder(), case.work()).expect("the folder is ours");
            case.enroll().run()
        };
        "the work folder is a file", 50, "folder_unsafe" => |case| {
            case.file(".gate.json.enroll", "");
            case.enroll().run()
        };
        "another run works on it", 75, "output_in_use" => |case| {
            case.make_work();
            let held = File::create(case.work().join("lock")).expect("the folder is ours");
            flock(&held, FlockOperation::LockExclusive).expect("nobody else holds it");
            case.enroll().run()
        };
        "the journal is damaged", 51, "journal_damaged" => |case| {
            fs::write(case.make_work().join("journal"), "0 00000000 {}\n").expect("the folder is ours");
            case.enroll().run()
        };
        "the journal is a link", 51, "output_is_symlink" => |case| {
            symlink(case.machine.folder().join("elsewhere"), case.make_work().join("journal")).expect("the folder is ours");
            case.enroll().run()
        };
        "the identity may not be given away", 50, "file_error" => |case| {
            failing(case.enroll().args(["--owner", "65534"]), "fchownat", 1, "EPERM", &[case.work()]).run()
        };
    }
}

/// Tries every fault, and after each a run without it.
fn cost_nothing<F: Fixture>(own: Vec<Fault<F>>) {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    machine.keys.make("clean", KeyType::P256);
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for fault in of_files().into_iter().chain(own) {
        asked += 1;
        if let Some(why) = figures::wrong(|| costs_nothing(&controller, &machine, &fault)) {
            wrong.push(format!("{}: {why}", fault.name));
        }
    }
    figures::record(&format!("faults before the request that cost no token, {}", F::NAME), asked, asked - wrong.len(), "");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

fn costs_nothing<F: Fixture>(controller: &Controller, machine: &Machine<F>, fault: &Fault<F>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let case = Case { machine, token: controller.issue("gate"), folder: folder.path().to_owned() };
    let before = controller.enroll_posts();
    let ended = (fault.run)(&case);
    assert_eq!(controller.enroll_posts(), before, "a request was sent: {ended}");
    assert!(!controller.is_spent(&case.token), "{ended}");
    let spent = if fault.exit == 51 { "unknown" } else { "no" };
    Failed::with(ended, fault.exit, fault.code).spent(spent);
    if (20..30).contains(&fault.exit) {
        machine.keys.after_a_kill();
    }
    // Another place, and a key that is there.
    let clean = case.bare_to(&machine.path("clean.json")).args(["--force", "--key", &machine.keys.reference("clean")]);
    report(&clean.args(machine.keys.pin()).run());
    assert!(controller.is_spent(&case.token));
}

#[test]
fn of_an_enrollment_with_a_file_key() {
    cost_nothing(devices::of_key_files());
}

#[test]
fn of_an_enrollment_with_a_key_in_softhsm() {
    cost_nothing::<InToken>(devices::of_tokens());
}

#[test]
fn of_an_enrollment_with_a_key_in_tpm2_pkcs11() {
    cost_nothing::<InTpm2Pkcs11>(devices::of_tokens());
}

#[cfg(feature = "tpm")]
#[test]
fn of_an_enrollment_with_a_key_file_of_a_tpm() {
    cost_nothing::<InTpmFile>(devices::of_tpms());
}

#[cfg(feature = "tpm")]
#[test]
fn of_an_enrollment_with_a_key_at_a_handle_of_a_tpm() {
    cost_nothing::<InTpmHandle>(devices::of_tpms());
}
