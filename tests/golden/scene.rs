//! The scene of a scenario: a controller, a token of it, and a machine, all new for each run.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use ziti_enroller_support::{Canary, Controller, Fault, Options, Outcome, Program, Running, Terminal, Token, require};

use super::redact::redact;
use crate::machine::{Fixture, InFiles, InToken, Machine, PROGRAM, text};

/// For whom the program reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A person.
    Text,
    /// A script.
    Json,
}

/// A controller that works, a token of it, and a folder to work in.
pub struct Scene {
    pub controller: Controller,
    pub token: Token,
    machine: Machine<InFiles>,
    keys: OnceCell<InToken>,
    format: Format,
    /// Identities that earlier tokens were for.
    others: Vec<String>,
}

impl Scene {
    pub fn new(format: Format) -> Self {
        let controller = Controller::start(Options::default());
        let token = controller.issue("gate-7");
        Self { controller, token, machine: Machine::new(), keys: OnceCell::new(), format, others: Vec::new() }
    }

    /// With another controller.
    pub fn with(self, options: Options) -> Self {
        let controller = Controller::start(options);
        let token = controller.issue("gate-7");
        Self { controller, token, ..self }
    }

    /// With a controller that does this.
    pub fn facing(self, fault: Fault) -> Self {
        self.controller.set_faults([fault]);
        self
    }

    /// With another token.
    pub fn holding(self, token: impl FnOnce(&Controller) -> Token) -> Self {
        let token = token(&self.controller);
        let mut others = self.others;
        others.extend([self.token.sub().to_owned()].into_iter().filter(|sub| sub != token.sub()));
        Self { token, others, ..self }
    }

    /// With a new token for the same identity.
    pub fn holding_again(self) -> Self {
        let identity = self.token.sub().to_owned();
        self.holding(|controller| controller.re_enroll(&identity))
    }

    /// With these keys.
    pub fn with_keys(self, keys: InToken) -> Self {
        Self { keys: OnceCell::from(keys), ..self }
    }

    /// The place where keys are, made when somebody first looks.
    pub fn keys(&self) -> &InToken {
        self.keys.get_or_init(|| InToken::new(self.machine.folder()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.machine.path(name)
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the machine's folder is writable");
        path
    }

    /// A command line in the folder.
    pub fn command(&self, words: &str) -> Run<'_> {
        Run {
            scene: self,
            why: None,
            around: Vec::new(),
            words: words.split_whitespace().map(str::to_owned).collect(),
            shown: Vec::new(),
            stdin: None,
            names: Vec::new(),
        }
    }

    /// `enroll --jwt gate-7.jwt`, with a key that will be in the identity.
    pub fn enroll(&self) -> Run<'_> {
        self.token.write(self.machine.folder());
        self.command("enroll --jwt gate-7.jwt")
    }

    /// The same with a key in the token that [`keys`](Self::keys) has, and without a PIN.
    pub fn enroll_without_pin(&self) -> Run<'_> {
        let keys = self.keys();
        self.enroll().args(["--provider", InToken::PROVIDER]).args(keys.place())
    }

    /// The same with the PIN in a file.
    pub fn enroll_in_token(&self) -> Run<'_> {
        self.enroll_without_pin().args(self.keys().pin())
    }

    /// `enroll` with the key in the token that is called `name`.
    pub fn enroll_with_key(&self, name: &str) -> Run<'_> {
        let reference = self.keys().reference(name);
        self.enroll().args(["--key", &reference]).args(self.keys().pin())
    }

    /// `verify` of the identity that the others write.
    pub fn verify(&self) -> Run<'_> {
        let run = self.command("verify gate-7.json");
        if self.keys.get().is_some() { run.args(self.keys().pin()) } else { run }
    }

    /// What stands for what in a golden file.
    fn known(&self) -> Vec<(String, &'static str)> {
        let mut known = vec![
            (PROGRAM.to_owned(), "ziti-enroller"),
            (text(self.machine.folder()), "[DIR]"),
            // As references write it.
            (text(self.machine.folder()).replace('/', "%2F"), "[DIR]"),
            (self.token.compact().to_owned(), "[TOKEN]"),
            (env!("CARGO_PKG_VERSION").to_owned(), "[VERSION]"),
        ];
        // That of a network token is the controller's address.
        known.extend([self.token.sub().to_owned()].into_iter().filter(|sub| !sub.starts_with("https:")).map(|sub| (sub, "[ID]")));
        known.extend(self.controller.authenticators().into_iter().map(|one| (one.identity_id, "[ID]")));
        known.extend(self.others.iter().map(|identity| (identity.clone(), "[OTHER ID]")));
        if let Some(InToken { hsm }) = self.keys.get() {
            known.push((text(hsm.directory()), "[TOKEN DIR]"));
            known.push((text(&hsm.module()), "[MODULE]"));
            known.push((text(&hsm.real_module()), "[REAL MODULE]"));
            known.extend(hsm.tokens().iter().map(|token| (token.serial.clone(), "[SERIAL]")));
            known.extend(hsm.tokens().iter().map(|token| (token.pin.clone(), "[PIN]")));
        }
        known
    }

    /// What must be in nothing that is said.
    fn secrets(&self) -> Vec<Canary> {
        let pins = self.keys.get().into_iter().flat_map(|keys| keys.hsm.tokens()).map(|token| ("PIN", token.pin.as_str()));
        let secrets = pins.chain([("jti", self.token.jti()), ("token", self.token.compact())]);
        secrets.filter(|(_, secret)| !secret.is_empty()).map(|(name, secret)| Canary::new(name, secret)).collect()
    }
}

/// A command line in the making.
pub struct Run<'s> {
    scene: &'s Scene,
    why: Option<&'static str>,
    around: Vec<String>,
    words: Vec<String>,
    /// The part of the environment that the golden file shows.
    shown: Vec<(String, String)>,
    stdin: Option<Vec<u8>>,
    /// What stands for what in the golden file of this run alone.
    names: Vec<(String, &'static str)>,
}

impl<'s> Run<'s> {
    /// Says in the golden file what the command line does not show.
    pub fn when(mut self, why: &'static str) -> Self {
        self.why = Some(why);
        self
    }

    /// Lets the golden file say `name` for `value`.
    pub fn naming(mut self, value: impl Into<String>, name: &'static str) -> Self {
        self.names.push((value.into(), name));
        self
    }

    pub fn arg(self, word: impl AsRef<str>) -> Self {
        self.args([word])
    }

    pub fn args<W: AsRef<str>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.shown.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the module does wrong.
    pub fn fault(self, rules: &str) -> Self {
        self.env("P11FAULT", rules)
    }

    /// Where the program ends itself.
    pub fn crash(self, event: &str) -> Self {
        if !cfg!(feature = "crash-points") {
            panic!("cargo test --features crash-points");
        }
        self.env("ZITI_ENROLLER_CRASH", event)
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Has a shell start the program by `line`, in which `"$@"` is the command line.
    pub fn by_shell(mut self, line: &str) -> Self {
        self.around = ["/bin/sh", "-c", line, "sh"].map(str::to_owned).into();
        self
    }

    /// Makes system calls fail: an `inject` expression of strace. With `path`, only those that have to do with that file.
    pub fn inject(mut self, fault: &str, path: Option<&Path>) -> Self {
        let strace = text(&require("strace", "strace"));
        let call = fault.split(':').next().unwrap_or_default();
        self.around = [&strace, "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"].map(str::to_owned).into();
        self.around.push(format!("inject={fault}"));
        if let Some(path) = path {
            self.around.extend(["-P".to_owned(), text(path)]);
        }
        self
    }

    fn program(&self) -> Program {
        let mut line = self.around.iter().map(String::as_str).chain([PROGRAM]).collect::<Vec<_>>().into_iter();
        let mut words = self.words.clone();
        if self.scene.format == Format::Json {
            // What stands behind `--` belongs to another program.
            let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
            words.splice(end..end, ["--format", "json"].map(str::to_owned));
        }
        let mut program = Program::new(line.next().unwrap_or(PROGRAM)).args(line).args(&words);
        program = program.current_dir(self.scene.machine.folder()).envs(self.shown.iter().cloned());
        if let Some(keys) = self.scene.keys.get() {
            let own: Vec<&str> = self.shown.iter().map(|(name, _)| name.as_str()).collect();
            program = program.envs(keys.surroundings().into_iter().filter(|(name, _)| !own.contains(&name.as_str())));
        }
        match &self.stdin {
            Some(bytes) => program.stdin(bytes.clone()),
            None => program,
        }
    }

    /// As somebody would type it.
    fn line(&self) -> String {
        let quoted = |word: &str| {
            let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c));
            if plain { word.to_owned() } else { format!("'{word}'") }
        };
        let environment = self.shown.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = environment.chain(["ziti-enroller".to_owned()]).chain(self.words.iter().map(|word| quoted(word)));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Starts it, to be looked at while it runs.
    pub fn start(self) -> Running {
        self.program().start()
    }

    /// Something that must work before the scenario begins.
    pub fn succeeds(self) {
        self.program().run().success();
    }

    /// Something that fails before the scenario begins: killed, or not.
    pub fn fails(self) {
        let outcome = self.program().run();
        assert!(outcome.code != Some(0), "{outcome}");
    }

    /// What the scenario is about.
    pub fn run(self) -> Ran {
        self.watched(|running| running.wait())
    }

    /// The same, with somebody who does something while it runs.
    pub fn watched(self, watch: impl FnOnce(Running) -> Outcome) -> Ran {
        let before = self.scene.controller.enroll_posts();
        let outcome = watch(self.program().start());
        self.ran(&outcome, before, None)
    }

    /// The same, with somebody at a terminal who is asked `question` and types `answer`.
    pub fn at_terminal(self, question: &str, answer: &str) -> Ran {
        self.at_terminal_asked(&[(question, answer)])
    }

    /// The same with several questions.
    pub fn at_terminal_asked(self, dialogue: &[(&str, &str)]) -> Ran {
        let terminal = Terminal::open();
        let before = self.scene.controller.enroll_posts();
        let running = terminal.seat(self.program()).start();
        dialogue.iter().for_each(|(question, answer)| terminal.answer(question, answer));
        let outcome = running.wait();
        self.ran(&outcome, before, Some(terminal.shown()))
    }

    fn ran(&self, outcome: &Outcome, before: usize, terminal: Option<String>) -> Ran {
        let known = [self.scene.known(), self.names.clone()].concat();
        for secret in self.scene.secrets() {
            let said = [&outcome.stdout, &outcome.stderr, terminal.as_ref().unwrap_or(&String::new())].map(Clone::clone);
            assert_eq!(secret.found_in(said.concat()), None, "it says a secret ({}): {outcome}", secret.name());
        }
        let exit = outcome.code.unwrap_or_else(|| panic!("no exit code: {outcome}"));
        let why = self.why.map(|why| format!("# {why}\n")).unwrap_or_default();
        let line = redact(&format!("{why}$ {}", self.line()), &known);
        let clean = |text: &str| redact(text, &known);
        Ran {
            line,
            exit,
            stdout: clean(&outcome.stdout),
            stderr: clean(&outcome.stderr),
            terminal: terminal.map(|shown| clean(&shown.replace('\r', ""))),
            posts: self.scene.controller.enroll_posts() - before,
            before,
        }
    }
}

/// A command that has run, redacted.
pub struct Ran {
    line: String,
    exit: i32,
    stdout: String,
    stderr: String,
    terminal: Option<String>,
    /// Requests that may spend the token.
    posts: usize,
    /// The same in earlier runs of this scenario.
    before: usize,
}

impl Ran {
    /// The golden file of this run and of `json`, the same with `--format json`.
    pub fn golden(&self, json: &Self) -> String {
        assert_eq!(
            (self.exit, self.posts, self.before),
            (json.exit, json.posts, json.before),
            "text and JSON differ: {}",
            self.line
        );
        let before = if self.before > 0 { format!(" (after {} in earlier runs)", self.before) } else { String::new() };
        let posts = format!("--- POSTs at the controller: {}{before}\n", self.posts);
        // A signal ends the program with one line, whoever reads it.
        if self.exit > 128 && json.stdout.is_empty() {
            return self.text() + &posts;
        }
        let report: Value = serde_json::from_str(&json.stdout)
            .unwrap_or_else(|error| panic!("{error}, in the JSON of {}: {}\n{}", self.line, json.stdout, json.stderr));
        assert_eq!(json.stdout.lines().count(), 1, "more than one line of JSON: {}", json.stdout);
        let report = serde_json::to_string_pretty(&sorted(report)).expect("JSON can be written");
        let mut golden = self.text();
        golden.push_str(&part("--format json", &format!("{report}\n")));
        golden.push_str(&part("--format json: stderr", &json.stderr));
        golden + &posts
    }

    /// The golden file of a run that has no JSON.
    pub fn text(&self) -> String {
        let terminal = self.terminal.as_deref().map(|shown| part("terminal", shown)).unwrap_or_default();
        let streams = part("stdout", &self.stdout) + &part("stderr", &self.stderr);
        format!("{}\n--- exit {}\n{terminal}{streams}", self.line, self.exit)
    }
}

/// Nothing where nothing was said.
fn part(name: &str, text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    if text.is_empty() { String::new() } else { format!("--- {name}\n{text}{end}") }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}
