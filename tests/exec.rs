//! `exec`: an SDK program that wants the PIN inside the identity. A shell script stands in for it, and rewrites its file as the
//! C SDK does: `<path>.bak`, `<path>.tmp`, rename.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use ziti_enroller_support::softhsm::folder_on_tmpfs;
use ziti_enroller_support::{Canary, Controller, Options, Program, Token, figures, sha1_hex};

use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report, text, until};

/// `$1`: the copy; `$2`: a folder for what the test wants to know, and says.
const WAITS: &str = r#"echo $$ > "$2/pid"; trap 'exit 5' TERM; while :; do sleep 0.02; done"#;
/// As the C SDK stores a renewed identity.
const RENEWS: &str = r#"echo $$ > "$2/pid"
while [ ! -e "$2/go" ]; do sleep 0.01; done
cp -p "$1" "$1.bak"; cp "$2/new" "$1.tmp"; mv "$1.tmp" "$1"; : > "$2/renewed"
trap 'exit 5' TERM; while :; do sleep 0.02; done"#;

/// A machine with an identity, and a RAM file system of its own.
struct Scene<F> {
    controller: Controller,
    machine: Machine<F>,
    token: Token,
    memory: TempDir,
}

impl<F: Fixture> Scene<F> {
    fn new() -> Self {
        let controller = Controller::start(Options::default());
        let machine = Machine::<F>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        fs::create_dir(machine.path("told")).expect("the machine's folder is writable");
        Self { controller, machine, token, memory: folder_on_tmpfs() }
    }

    fn told(&self, name: &str) -> PathBuf {
        self.machine.path("told").join(name)
    }

    fn identity(&self) -> PathBuf {
        self.machine.out(&self.token)
    }

    /// `exec` of a script that gets the copy and the folder `told`.
    fn exec(&self, script: &str) -> Program {
        let exec = self.machine.program().env("XDG_RUNTIME_DIR", self.memory.path()).arg("exec").args(self.machine.keys.pin());
        exec.arg(self.identity()).args(["--", "/bin/sh", "-c", script, "sdk", "{}"]).arg(self.machine.path("told"))
    }

    /// A new certificate for the same key, as an SDK would have it written: the old one is dead. Gives its fingerprint.
    fn renew_behind_its_back(&self) -> String {
        let other = self.machine.path("other.json");
        fs::copy(self.identity(), &other).expect("the machine's folder is writable");
        let renew = self.machine.program().args(["renew", "--force", "--format", "json"]).arg(&other);
        report(&renew.args(self.machine.keys.pin()).run());
        let (new, fingerprint) = (read(&other), fingerprint(&other));
        fs::remove_file(&other).expect("it was written a line ago");
        let bare = |member: &str| new["id"][member].as_str().expect("text").trim_start_matches("pem:").to_owned();
        let api = new["ztAPI"].as_str().expect("an address");
        // Other members are gone, `pem:` too, another controller has come, and the key is one that must not be taken over.
        let written = json!({
            "ztAPI": api, "ztAPIs": [api, "https://ctrl-2.example:1280/edge/client/v1"],
            "id": { "cert": bare("cert"), "ca": bare("ca"), "key": "pkcs11:///of/the/program.so?id=01&pin=1" },
        });
        fs::write(self.told("new"), written.to_string()).expect("the folder is writable");
        fingerprint
    }

    fn lets_it_go(&self) {
        fs::write(self.told("go"), "").expect("the folder is writable");
    }

    fn program_waits(&self) {
        until("the program has started", || fs::read_to_string(self.told("pid")).is_ok_and(|pid| pid.ends_with('\n')));
    }

    fn send(&self, signal: Signal) {
        kill(fs::read_to_string(self.told("pid")).expect("it has started").trim().parse().expect("a number"), signal);
    }

    /// Folders that are left in memory.
    fn left(&self) -> usize {
        fs::read_dir(self.memory.path()).expect("it can be listed").count()
    }

    /// The identity has the new certificate, its own key, and logs in.
    fn holds(&self, fingerprint_of_new: &str, before: &Value) {
        let after = read(&self.identity());
        assert_eq!(fingerprint(&self.identity()), fingerprint_of_new);
        assert_eq!((&after["id"]["key"], after["id"].as_object().map(|id| id.len())), (&before["id"]["key"], Some(3)));
        assert_eq!(after["ztAPIs"].as_array().map(Vec::len), Some(2), "addresses are not taken over: {after}");
        let mode = self.identity().metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(!self.machine.path(".gate-7.json.exec").exists(), "the work folder is left");
        assert!(self.machine.logs_in(&self.identity()));
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("it is alive");
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("there is an identity")).expect("an identity is JSON")
}

fn fingerprint(identity: &Path) -> String {
    use x509_cert::der::Encode;
    let json = read(identity);
    let pem = json["id"]["cert"].as_str().expect("a certificate").trim_start_matches("pem:");
    let chain = x509_cert::Certificate::load_pem_chain(pem.as_bytes()).expect("certificates are PEM");
    sha1_hex(&chain[0].to_der().expect("a certificate that was read encodes"))
}

#[test]
fn program_gets_the_pin_in_memory_and_nowhere_else() {
    let scene = Scene::<InToken>::new();
    let before = fs::read(scene.identity()).expect("there is an identity");
    let script = r#"cat "$1" > "$2/seen"; stat -f -c %T "$1" > "$2/system"
        stat -c %a "$(dirname "$1")" "$1" > "$2/modes"; cat /proc/$$/cmdline /proc/$PPID/cmdline > "$2/lines"
        cat /proc/$$/environ > "$2/environment"; readlink /proc/$$/fd/* > "$2/descriptors"; cat; echo out; echo err >&2; exit 7"#;
    let program = scene.exec(script).stdin("typed\n").env("ZITI_ENROLLER_PIN", scene.machine.keys.hsm.pin());
    let ended = program.env("KEPT", "1").run();
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(7), "typed\nout\n", "err\n"), "{ended}");
    let pin = scene.machine.keys.hsm.pin();
    let seen = read(&scene.told("seen"));
    assert!(seen["id"]["key"].as_str().expect("a key").ends_with(&format!("&pin={pin}")), "no PIN in the copy");
    let system = fs::read_to_string(scene.told("system")).expect("it was written");
    assert!(["tmpfs\n", "ramfs\n"].contains(&&*system), "{system}");
    assert_eq!(fs::read_to_string(scene.told("modes")).expect("it was written"), "700\n600\n");
    let environment = fs::read(scene.told("environment")).expect("it was written");
    let variables = String::from_utf8_lossy(&environment).into_owned();
    let ours = ["ZITI_ENROLLER_PIN", "ZITI_ENROLLER_HANDED_ON", "TSS2_LOG"];
    assert!(variables.contains("KEPT=1") && !ours.iter().any(|name| variables.contains(name)), "{variables}");
    for (what, bytes) in [("lines", fs::read(scene.told("lines")).expect("it was written")), ("environment", environment)] {
        assert_eq!(Canary::new("PIN", pin).found_in(&bytes), None, "in its {what}");
    }
    let open = fs::read_to_string(scene.told("descriptors")).expect("it was written");
    assert!(!open.contains("memfd"), "what handed the PIN on is open: {open}");
    assert_eq!((fs::read(scene.identity()).expect("there is an identity"), scene.left()), (before, 0));
    assert!(scene.machine.keys.most_logins() <= 1);
}

#[test]
fn descriptor_with_the_pin_is_not_the_programs() {
    let scene = Scene::<InToken>::new();
    let pin = text(&scene.machine.keys.hsm.pin_file());
    let exec = scene.machine.program().env("XDG_RUNTIME_DIR", scene.memory.path()).args(["exec", "--pin-fd", "9"]);
    let exec = exec.arg(scene.identity()).args(["--", "/bin/sh", "-c", "readlink /proc/$$/fd/*; exit 0", "sdk", "{}"]);
    let ended = exec.within(["/bin/sh", "-c", "exec 9<\"$PIN_FILE\"; exec \"$@\"", "sh"]).env("PIN_FILE", &pin).run().success();
    assert!(ended.stdout.contains("/lock") && !ended.stdout.contains(&pin), "{ended}");
}

#[test]
fn signals_are_the_programs_own() {
    let scene = Scene::<InFiles>::new();
    let running = scene.exec(WAITS).start();
    scene.program_waits();
    running.terminate();
    assert_eq!(running.wait().code, Some(5));
    fs::remove_file(scene.told("pid")).expect("the first one has written it");
    let running = scene.exec(WAITS).start();
    scene.program_waits();
    // Not caught: it ends by the signal, and so does whoever waits for it.
    running.interrupt();
    let ended = running.wait();
    assert_eq!((ended.signal, scene.left()), (Some(2), 0), "{ended}");
}

#[test]
fn what_the_program_renews_is_taken_over_at_once() {
    let scene = Scene::<InToken>::new();
    let before = read(&scene.identity());
    let running = scene.exec(RENEWS).start();
    scene.program_waits();
    let new = scene.renew_behind_its_back();
    scene.lets_it_go();
    until("the certificate is taken over", || fingerprint(&scene.identity()) == new);
    running.terminate();
    let ended = running.wait();
    assert_eq!((ended.code, scene.left()), (Some(5), 0), "{ended}");
    assert!(ended.stderr.contains("gate-7.json has what the program has written: certificate until "), "{ended}");
    scene.holds(&new, &before);
}

/// Kills somebody after the rewrite; gives the fingerprint of the new certificate.
type Kill = fn(&Scene<InToken>) -> String;

/// What must be in the identity when somebody was killed after the old certificate was dead.
#[test]
fn killed_after_the_rewrite_the_identity_has_the_new_certificate() {
    let cases: [(&str, Kill); 3] = [("the program", program_killed), ("both", both_killed), ("exec alone", exec_killed)];
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(name, play)| {
            let scene = Scene::<InToken>::new();
            let before = read(&scene.identity());
            let why = figures::wrong(|| {
                let new = play(&scene);
                scene.holds(&new, &before);
                assert_eq!(scene.left(), 0, "something is left in memory");
            });
            why.map(|why| format!("{name}: {why}"))
        })
        .collect();
    figures::record("kills after an SDK's rewrite that lost no certificate", cases.len(), cases.len() - wrong.len(), "");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn program_killed(scene: &Scene<InToken>) -> String {
    let running = scene.exec(RENEWS).start();
    scene.program_waits();
    let new = scene.renew_behind_its_back();
    // It sees nothing until the program is dead.
    kill(running.id(), Signal::STOP);
    scene.lets_it_go();
    until("it has written", || scene.told("renewed").exists());
    scene.send(Signal::KILL);
    kill(running.id(), Signal::CONT);
    let ended = running.wait();
    assert_eq!(ended.signal, Some(9), "{ended}");
    new
}

fn both_killed(scene: &Scene<InToken>) -> String {
    let mut running = scene.exec(RENEWS).start();
    scene.program_waits();
    let new = scene.renew_behind_its_back();
    kill(running.id(), Signal::STOP);
    scene.lets_it_go();
    until("it has written", || scene.told("renewed").exists());
    running.kill();
    scene.send(Signal::KILL);
    drop(running);
    assert!(fingerprint(&scene.identity()) != new && scene.left() == 1);
    let next = scene.exec("exit 0").run().success();
    assert!(next.stderr.contains("has what the program of an earlier run has written"), "{next}");
    all_is_cleared(scene);
    new
}

/// The program lives on, and keeps its folder; what it writes then is taken over by the next run.
fn exec_killed(scene: &Scene<InToken>) -> String {
    let mut running = scene.exec(RENEWS).start();
    scene.program_waits();
    let new = scene.renew_behind_its_back();
    running.kill();
    drop(running);
    scene.exec("exit 0").run().success();
    assert_eq!(scene.left(), 1, "the folder of a program that lives was removed");
    scene.lets_it_go();
    until("it has written", || scene.told("renewed").exists());
    scene.exec("exit 0").run().success();
    assert_eq!((fingerprint(&scene.identity()), scene.left()), (new.clone(), 1));
    scene.send(Signal::KILL);
    all_is_cleared(scene);
    new
}

/// Its last `sleep` lives a little longer than the program, and holds the folder as long.
fn all_is_cleared(scene: &Scene<InToken>) {
    until("the folder is removed", || {
        scene.exec("exit 0").run().success();
        scene.left() == 0
    });
}

#[test]
fn what_is_no_good_is_not_taken_over() {
    let scene = Scene::<InFiles>::new();
    let other = scene.controller.issue("gate-8");
    report(&scene.machine.enroll_with(&other).run());
    let before = fs::read(scene.identity()).expect("there is an identity");
    let stranger = Scene::<InFiles>::new();
    let mut foreign = read(&scene.identity());
    foreign["id"]["ca"] = read(&stranger.identity())["id"]["ca"].clone();
    let mut nowhere = read(&scene.identity());
    nowhere["ztAPIs"] = json!([nowhere["ztAPI"], "ftp://ctrl.example"]);
    let texts = [
        (
            "another key",
            fs::read_to_string(scene.machine.out(&other)).expect("there is an identity"),
            "for another public key than ours",
        ),
        ("CA certificates of another network", foreign.to_string(), ""),
        ("an address that is none", nowhere.to_string(), "an address of a controller in it is none"),
        ("no identity", "{".into(), "it is not the JSON of an identity"),
    ];
    for (name, text, why) in texts {
        fs::write(scene.told("new"), text).expect("the folder is writable");
        let ended = scene.exec(r#"cp "$2/new" "$1.tmp"; mv "$1.tmp" "$1""#).run();
        assert_eq!(ended.code, Some(0), "{name}: {ended}");
        let said = "what the program has written over its copy of the identity is not taken over: ";
        assert!(ended.stderr.contains(said) && ended.stderr.contains(why), "{name}: {ended}");
        assert_eq!((fs::read(scene.identity()).expect("there is an identity"), scene.left()), (before.clone(), 0), "{name}");
    }
}

/// Somebody runs `renew` meanwhile: that is the certificate in force.
#[test]
fn renewal_of_our_own_meanwhile_stays() {
    let scene = Scene::<InToken>::new();
    let running = scene.exec(WAITS).start();
    scene.program_waits();
    report(&scene.machine.renew(&scene.token).arg("--force").run());
    let renewed = fs::read(scene.identity()).expect("there is an identity");
    running.terminate();
    assert_eq!(running.wait().code, Some(5));
    assert_eq!(fs::read(scene.identity()).expect("there is an identity"), renewed);
    assert!(scene.machine.logs_in(&scene.identity()));
}

#[test]
fn wrong_pin_starts_nothing_and_costs_one_try() {
    let scene = Scene::<InToken>::new();
    let file = scene.machine.path("wrong");
    fs::write(&file, "n0t-it").expect("the machine's folder is writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let exec = || {
        let exec = scene.machine.program().env("XDG_RUNTIME_DIR", scene.memory.path());
        let exec = exec.env("XDG_STATE_HOME", scene.machine.path("state")).args(["exec", "--format", "json", "--pin-file"]);
        exec.arg(&file).arg(scene.identity()).args(["--", "/bin/sh", "-c", ": > started", "sdk", "{}"]).run()
    };
    let logins = scene.machine.keys.logins();
    Failed::with(exec(), 21, "pin_incorrect");
    // A service that is started again and again.
    Failed::with(exec(), 21, "pin_refused_before");
    assert_eq!(scene.machine.keys.logins() - logins, 1);
    assert!(!scene.machine.path("started").exists() && scene.left() == 0);
}

/// `$RUNTIME_DIRECTORY` may name several, and one that is on no RAM file system is passed over.
#[test]
fn copy_is_in_the_first_folder_that_is_in_memory() {
    let scene = Scene::<InFiles>::new();
    let (held, second) = (folder_on_tmpfs(), text(scene.memory.path()));
    let first = text(held.path());
    for (of_a_unit, expected) in
        [(format!("{first}:{second}"), &first), (format!("/proc:{first}"), &first), ("/proc".into(), &second)]
    {
        let ended = scene.exec(r#"echo "$1""#).env("RUNTIME_DIRECTORY", &of_a_unit).run().success();
        assert!(ended.stdout.starts_with(&format!("{expected}/ziti-enroller.")), "{of_a_unit}: {ended}");
        assert!(ended.stdout.ends_with("/id/gate-7.json\n"), "{ended}");
    }
}

/// A run was killed while it took something over.
#[test]
fn what_waits_beside_the_identity_is_removed() {
    let scene = Scene::<InFiles>::new();
    let work = scene.machine.path(".gate-7.json.exec");
    fs::create_dir(&work).expect("the machine's folder is writable");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    fs::write(work.join("next"), "half").expect("the folder is writable");
    scene.exec("exit 0").run().success();
    assert!(!work.exists());
}

#[test]
fn program_that_is_not_there_leaves_nothing() {
    let scene = Scene::<InFiles>::new();
    let exec = scene.machine.program().env("XDG_RUNTIME_DIR", scene.memory.path()).args(["exec", "--format", "json"]);
    let ended = exec.arg(scene.identity()).args(["--", "/no/such/program", "--identity={}"]).run();
    Failed::with(ended, 2, "usage").says("cannot start `/no/such/program`: no such file");
    assert_eq!(scene.left(), 0);
}
