//! The same stories against a real controller, which is what ours is held to.
//!
//! ```console
//! $ ZITI_BIN=/path/to/ziti cargo test --features crash-points --test real_controller -- --ignored
//! ```
//!
//! Each starts `ziti edge quickstart` without a router, on loopback, in a folder of its own, and ends it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use ziti_enroller_support::{Outcome, Program, Running};

#[expect(dead_code, reason = "the other target uses all of it")]
mod machine;
// In a target of its own a module lies beside its root, and there lie the stories.
#[path = "real_controller/renew.rs"]
mod renew;

#[path = "real_controller/no_one_time_token.rs"]
mod no_one_time_token;
#[path = "real_controller/third_party.rs"]
mod third_party;

use machine::{Failed, Fixture, IdentityFile, InFiles, InToken, Machine, PROGRAM, ending, report};

/// How long a controller may take to its first login, and to its end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A controller of OpenZiti's own. Dropping it ends it.
struct RealController {
    home: TempDir,
    port: u16,
    running: Option<Running>,
}

impl RealController {
    fn start() -> Self {
        let ziti = std::env::var_os("ZITI_BIN").map(PathBuf::from).filter(|path| path.is_file());
        let ziti = ziti.expect("name a `ziti` binary: ZITI_BIN=/path/to/ziti (https://github.com/openziti/ziti/releases)");
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        fs::create_dir(home.path().join("bin")).expect("the temporary folder is writable");
        symlink(ziti, home.path().join("bin/ziti")).expect("the temporary folder is writable");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut controller = Self { home, port: free.expect("a free port").port(), running: None };

        let mut quickstart = vec!["edge".to_owned(), "quickstart".into(), "--no-router".into()];
        let port = controller.port;
        // The router is not started; its address is wanted all the same.
        for (option, value) in [("ctrl-address", "localhost".to_owned()), ("ctrl-port", port.to_string())] {
            quickstart.extend([format!("--{option}"), value.clone(), format!("--{}", option.replace("ctrl", "router")), value]);
        }
        quickstart.extend(["--home".into(), machine::text(&controller.home.path().join("quickstart"))]);
        let program = controller.ziti(&quickstart).limit(PATIENCE * 10);
        let loopback = [("ZITI_CTRL_BIND_ADDRESS", "127.0.0.1"), ("ZITI_CTRL_EDGE_BIND_ADDRESS", "127.0.0.1")];
        controller.running = Some(program.envs(loopback).start());
        controller.wait_until_it_answers();
        controller
    }

    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        let address = format!("localhost:{}", self.port);
        loop {
            let login = self.ziti(&["edge", "login", &address, "-u", "admin", "-p", "admin", "-y"]).run();
            if login.code == Some(0) {
                return;
            }
            assert!(Instant::now() < deadline, "no controller after {PATIENCE:?}: {login}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The command line of this controller's administrator.
    fn ziti<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Program {
        self.in_its_home(Program::new(self.home.path().join("bin/ziti")).args(arguments))
    }

    fn in_its_home(&self, program: Program) -> Program {
        let home = self.home.path();
        program.current_dir(home).env("HOME", home).env("ZITI_CONFIG_DIR", home.join("cli"))
    }

    /// A token for a new identity, in `folder`.
    fn issue(&self, name: &str, folder: &Path) -> PathBuf {
        let file = folder.join(format!("{name}.jwt"));
        self.ziti(&["edge", "create", "identity", name, "-o"]).arg(&file).run().success();
        file
    }

    /// What `ziti edge list` says of all that fit.
    fn all_listed(&self, what: &str, filter: &str) -> Vec<Value> {
        let listed = self.ziti(&["edge", "list", what, filter, "-j"]).run().success();
        let mut listed: Value = serde_json::from_str(&listed.stdout).expect("-j prints JSON");
        match listed["data"].take() {
            Value::Array(all) => all,
            other => panic!("no list: {other}"),
        }
    }

    /// The same of the one that fits.
    fn listed(&self, what: &str, filter: &str) -> Value {
        self.all_listed(what, filter).into_iter().next().unwrap_or_else(|| panic!("no {what} with {filter}"))
    }

    /// The token of the enrollment that is open for an identity, in `folder`.
    fn open_token(&self, identity_id: &str, folder: &Path) -> PathBuf {
        let enrollment = self.listed("enrollments", &format!("identity=\"{identity_id}\""));
        let file = folder.join("again.jwt");
        fs::write(&file, enrollment["jwt"].as_str().expect("an enrollment has a token")).expect("a writable folder");
        file
    }
}

impl Drop for RealController {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.terminate();
            // A test that fails has said enough: then it is killed, on drop.
            if !thread::panicking() {
                running.wait();
            }
        }
    }
}

fn enroll<F: Fixture>(machine: &Machine<F>, token: &Path, more: &[&str]) -> Program {
    let program = machine.program().args(["enroll", "--format", "json", "--provider", F::PROVIDER]).args(machine.keys.place());
    program.args(machine.keys.pin()).arg("--jwt").arg(token).args(more)
}

fn verify<F: Fixture>(machine: &Machine<F>, identity: &Path) -> Outcome {
    machine.program().args(["verify", "--format", "json"]).arg(identity).args(machine.keys.pin()).run()
}

/// Enrolls and logs in with a key of each type that every SDK takes; a used token buys nothing more.
fn enrolls_and_logs_in<F: Fixture>() {
    let controller = RealController::start();
    let machine = Machine::<F>::new();
    for algorithm in ["p256", "rsa2048", "p384"] {
        let token = controller.issue(algorithm, machine.folder());
        let out = token.with_extension("json");
        let said = report(&enroll(&machine, &token, &["--key-alg", algorithm]).run());
        let identity = IdentityFile::read(&out);
        assert_eq!(identity.api(), format!("https://localhost:{}/edge/client/v1", controller.port));
        assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
        let logged_in = report(&verify(&machine, &out));
        assert_eq!((&logged_in["name"], &logged_in["identity"]["id"]), (&algorithm.into(), &said["identity"]["id"]));
        println!("{}, {algorithm}: enrolled and logged in at {}", F::PROVIDER, logged_in["controller_version"]);

        let again = enroll(&machine, &token, &["--key-alg", algorithm, "--out", "again.json"]).run();
        Failed::with(again, 32, "token_gone").says("INVALID_ENROLLMENT_TOKEN").spent("yes");
    }
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn file_keys_enroll_and_log_in() {
    enrolls_and_logs_in::<InFiles>();
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn token_keys_enroll_and_log_in() {
    enrolls_and_logs_in::<InToken>();
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn damaged_token_is_refused_and_the_whole_one_still_works() {
    let controller = RealController::start();
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7", machine.folder());
    let whole = fs::read_to_string(&token).expect("the token was written");
    let (signed, signature) = whole.trim().rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    fs::write(&token, format!("{signed}.{other}{}", &signature[1..])).expect("the token is ours");
    Failed::with(enroll(&machine, &token, &[]).run(), 12, "token_damaged").hints("copy the token again").spent("no");
    assert_eq!((machine.keys.logins(), machine.keys.private_keys()), (0, 0));
    fs::write(&token, whole).expect("the token is ours");
    report(&enroll(&machine, &token, &[]).run());
}

#[test]
#[ignore = "needs ZITI_BIN"]
fn lost_answer_is_recovered_by_the_command_that_the_hint_says() {
    let controller = RealController::start();
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7", machine.folder());
    let killed = ending(enroll(&machine, &token, &[]), "after_post", "kill").run();
    assert_eq!(killed.signal, Some(9), "{killed}");
    let lost = enroll(&machine, &token, &[]).run();
    let hint: Value = serde_json::from_str(&lost.stdout).unwrap_or_else(|error| panic!("{error}: {lost}"));
    let hint = hint["error"]["hint"].as_str().unwrap_or_default().to_owned();
    Failed::with(lost, 33, "answer_lost").spent("yes");

    ziti_enroller_support::require("jq", "jq");
    let command = &hint[hint.rfind("ziti edge list").unwrap_or_else(|| panic!("no command in `{hint}`"))..];
    let programs = Path::new(PROGRAM).parent().expect("a program lies in a folder");
    let path = [&controller.home.path().join("bin"), programs].map(|p| p.display().to_string()).join(":");
    let path = format!("{path}:{}", std::env::var("PATH").expect("a PATH"));
    let shell = |line: &str| {
        let shell = controller.in_its_home(Program::new("/bin/sh").args(["-e", "-c", line])).env("PATH", &path);
        shell.current_dir(machine.folder()).run().success();
    };
    shell(command);
    let out = token.with_extension("json");
    let key = machine.keys.public_keys();
    assert_eq!(IdentityFile::read(&out).public_key(), key[0]);
    report(&verify(&machine, &out));

    // The other way that the hint names: a new enrollment, which finds the same key.
    let identity_id = command.split("identity=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("the identity's id");
    let listed = format!("ziti edge list authenticators 'identity=\"{identity_id}\" and method=\"cert\"' -j");
    shell(&format!("ziti edge update authenticator cert \"$({listed} | jq -r '.data[0].id')\" --re-enroll"));
    let again = controller.open_token(identity_id, machine.folder());
    let said = report(&enroll(&machine, &again, &["--force", "--out", &machine::text(&out)]).run());
    assert_eq!(IdentityFile::read(&out).public_key(), key[0]);
    assert_eq!((said["identity"]["id"].as_str(), machine.keys.private_keys()), (Some(identity_id), 1));
    report(&verify(&machine, &out));
}
