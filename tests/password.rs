//! An identity that logs in with a password: the token sets it.

use std::fs;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Fault, Options, Password, Program, Tls, Token};

use crate::machine::{Failed, InFiles, Machine, PROGRAM, ending, report, text};

const HUSH: &str = "h\u{fc}sh \"hush\"";

struct Scene {
    controller: Controller,
    machine: Machine<InFiles>,
    token: Token,
}

impl Scene {
    fn new(options: Options) -> Self {
        let controller = Controller::start(options);
        let machine = Machine::new();
        let token = controller.password_token("gate-7");
        fs::write(machine.path("password"), format!("{HUSH}\r\n")).expect("the folder is writable");
        Self { controller, machine, token }
    }

    fn enroll(&self) -> Program {
        self.machine.enroll_with(&self.token).args(["--password-file", "password"])
    }

    fn set(&self) -> Vec<Password> {
        self.controller.passwords()
    }

    fn expected(&self) -> Vec<Password> {
        vec![Password { identity_id: self.token.sub().into(), username: "gate-7".into(), password: HUSH.into() }]
    }

    fn nothing_says_it(&self, said: &[String]) {
        let mut files = vec![self.machine.folder().to_owned()];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            } else if path.file_name().is_some_and(|name| name != "password") {
                let content = String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned();
                assert!(!content.contains("hush"), "{}", path.display());
            }
        }
        assert!(said.iter().all(|said| !said.contains("hush")), "{said:?}");
    }
}

#[test]
fn sets_the_password_and_leaves_a_file_without_a_key() {
    for tls in [Tls::Only12, Tls::Only13] {
        let scene = Scene::new(Options { tls, ..Options::default() });
        let enrolled = scene.enroll().arg("-vv").run().success();
        let said: Value = serde_json::from_str(&enrolled.stdout).expect("JSON");
        assert_eq!((&said["identity"]["id"], &said["username"]), (&json!(scene.token.sub()), &json!("gate-7")));
        assert_eq!((&said["key"], &said["certificate"]), (&Value::Null, &Value::Null));
        assert_eq!(scene.set(), scene.expected());
        let counts = scene.controller.counts();
        assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 2, 1));
        assert!(scene.controller.violations().is_empty(), "{:?}", scene.controller.violations());
        let file = fs::read_to_string(scene.machine.out(&scene.token)).expect("there is a file");
        let file: Value = serde_json::from_str(&file).expect("it is JSON");
        assert_eq!(file["id"].as_object().expect("an object").keys().collect::<Vec<_>>(), ["ca"]);
        scene.nothing_says_it(&[enrolled.stdout, enrolled.stderr]);
    }
}

#[test]
fn reads_it_from_a_descriptor() {
    let scene = Scene::new(Options::default());
    let file = scene.token.write(scene.machine.folder());
    let shell = Program::new("/bin/sh").args(["-c", "exec \"$@\" 7<password", "sh", PROGRAM, "enroll", "--format", "json"]);
    let shell = shell.current_dir(scene.machine.folder()).args(["--password-fd", "7", "--jwt"]).arg(text(&file));
    report(&shell.run());
    assert_eq!(scene.set(), scene.expected());
}

/// Whether a request was sent or not, a rerun ends it, and the password is set once.
#[test]
fn goes_on_wherever_it_was_killed() {
    for event in [
        "recorded-trusted",
        "recorded-ready",
        "before_post",
        "after_post",
        "answer_synced",
        "identity_written",
        "identity_renamed",
    ] {
        let scene = Scene::new(Options::default());
        let killed = ending(scene.enroll(), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{event}: {killed}");
        scene.nothing_says_it(&[killed.stdout, killed.stderr]);
        report(&scene.enroll().run());
        assert_eq!(scene.set(), scene.expected(), "{event}");
        assert!(scene.machine.out(&scene.token).exists() && !scene.machine.work(&scene.token).exists(), "{event}");
        assert!(scene.controller.violations().is_empty(), "{event}: {:?}", scene.controller.violations());
    }
}

#[test]
fn is_resumed_with_the_password_given_again() {
    let scene = Scene::new(Options { faults: vec![Fault::DropPostBefore], ..Options::default() });
    Failed::with(scene.enroll().args(["--retries", "0"]).run(), 33, "outcome_unknown").spent("unknown");
    scene.controller.set_faults([]);
    let resume = || scene.machine.program().args(["resume", "--format", "json"]).arg(scene.machine.out(&scene.token));
    Failed::with(resume().run(), 2, "usage").hints("--password-file");
    report(&resume().args(["--password-file", "password"]).run());
    assert_eq!(scene.set(), scene.expected());
}
