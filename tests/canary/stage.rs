//! The stage of a scenario: a controller, a token of it, a place with the canary for a PIN, and a command line for each
//! thing that people do there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ziti_enroller_support::canary::Found;
use ziti_enroller_support::{Canary, Controller, KeyType, Options, Outcome, Program, Proxy, Running, Search, Terminal, Token};

use super::place::Place;
use crate::machine::{Machine, PROGRAM, text};

/// Of every place here; each form of it differs from the others.
pub const PIN: &str = "Kan4r1e+v:???l/0%";
/// One that nobody would refuse to put into an identity.
pub const PLAIN_PIN: &str = "Kan4r1envogel0815";
/// Of no place.
const WRONG_PIN: &str = "Zur2hAehnl+ch/7%";
/// The auth value of a TPM's owner hierarchy, where it has one.
const OWNER_PIN: &str = "E1gner>h4t???0/%";
/// The name of the key that is there.
const KEY: &str = "gate";

pub struct Stage<F> {
    pub controller: Controller,
    pub token: Token,
    pub machine: Machine<F>,
    pub bus: Option<Proxy>,
    pin: &'static str,
    json: bool,
}

impl<F: Place> Stage<F> {
    /// A new one, whose program reports in JSON or not.
    pub fn new(pin: &'static str, json: bool) -> Self {
        let controller = Controller::start(Options::default());
        let token = controller.issue("gate-7");
        let machine = Machine::with(|folder| F::with_pin(folder, pin));
        let bus = machine.keys.tpm().map(Proxy::before);
        Self { controller, token, machine, bus, pin, json }
    }

    /// With this token instead.
    pub fn holding(&mut self, token: Token) {
        self.token = token;
    }

    /// What is looked for, and where.
    pub fn search(&self) -> Search<'_> {
        let pins = [("PIN", self.pin), ("wrong PIN", WRONG_PIN), ("owner's", OWNER_PIN)];
        let pins = pins.map(|(name, pin)| Canary::new(name, pin).and_hashes());
        let token = [Canary::new("jti", self.token.jti()), Canary::new("token", self.token.compact())];
        let search = Search::new(self.machine.folder(), pins.into_iter().chain(token));
        let search = search.but_not_in(self.machine.keys.pin_file()).but_not_in(self.wrong_file()).but_not_in(self.jwt());
        let search = search.but_not_in(self.credentials().join("ziti-enroller.pin")).but_not_in(self.malformed_file());
        let search = search.but_not_in(self.owner_file());
        let search = self.machine.keys.folder().into_iter().fold(search, Search::and_in);
        self.bus.iter().fold(search, Search::and_on)
    }

    /// The program with these words, over the bus where there is one, saying all that it can say.
    pub fn program(&self, words: &[&str]) -> Program {
        let format = if self.json { "json" } else { "text" };
        let program = Program::new(PROGRAM).args(words).args(["-vv", "--format", format]);
        let surroundings = self.machine.keys.surroundings().into_iter().map(|(name, value)| (name, self.over_the_bus(value)));
        let program = program.envs(surroundings).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
        program.env("XDG_STATE_HOME", self.machine.path("state")).current_dir(self.machine.folder())
    }

    fn over_the_bus(&self, text: String) -> String {
        match (self.machine.keys.tpm(), &self.bus) {
            (Some(tpm), Some(bus)) => text.replace(&tpm.tcti(), &bus.tcti()),
            _ => text,
        }
    }

    /// The options that say where keys are, and no key.
    pub fn place(&self) -> Vec<String> {
        let mut place: Vec<String> = self.machine.keys.place().into_iter().map(|word| self.over_the_bus(word)).collect();
        if let Some(key) = place.iter().position(|word| word == "--key") {
            place.drain(key..key + 2);
        }
        [vec!["--provider".into(), F::PROVIDER.into()], place].concat()
    }

    /// The option for the file with the PIN.
    pub fn pin(&self) -> Vec<String> {
        self.machine.keys.pin()
    }

    /// The same for another one.
    pub fn wrong_pin(&self) -> Vec<String> {
        vec!["--pin-file".into(), private(&self.wrong_file(), WRONG_PIN)]
    }

    /// The same for one with a control character at its end.
    pub fn malformed_pin(&self) -> Vec<String> {
        vec!["--pin-file".into(), private(&self.malformed_file(), &format!("{}\u{1}", self.pin))]
    }

    fn wrong_file(&self) -> PathBuf {
        self.machine.path("wrong")
    }

    fn malformed_file(&self) -> PathBuf {
        self.machine.path("malformed")
    }

    fn owner_file(&self) -> PathBuf {
        self.machine.path("owner")
    }

    /// Gives the owner hierarchy of the TPM an auth value; the option for the file with it.
    pub fn owned(&self) -> Vec<String> {
        self.machine.keys.tpm().expect("a TPM is there").set_auth("owner", OWNER_PIN);
        vec!["--owner-pin-file".into(), private(&self.owner_file(), OWNER_PIN)]
    }

    /// What systemd would name as CREDENTIALS_DIRECTORY.
    fn credentials(&self) -> PathBuf {
        self.machine.path("credentials")
    }

    /// The same, with the PIN in it.
    pub fn credential(&self) -> PathBuf {
        fs::create_dir(self.credentials()).expect("the machine's folder is writable");
        private(&self.credentials().join("ziti-enroller.pin"), self.pin);
        self.credentials()
    }

    fn jwt(&self) -> PathBuf {
        self.machine.path("gate-7.jwt")
    }

    /// The PIN itself.
    pub fn secret(&self) -> &'static str {
        self.pin
    }

    /// The key that [`existing`](Self::existing) makes.
    pub fn reference(&self) -> String {
        self.over_the_bus(self.machine.keys.reference(KEY))
    }

    /// Makes that key, where it is not there yet.
    pub fn make(&self) -> String {
        if self.machine.keys.private_keys() == 0 {
            self.machine.keys.make(KEY, KeyType::P256);
        }
        self.settle();
        self.reference()
    }

    /// `enroll` with a key that is made, and no PIN yet.
    pub fn new_key(&self) -> Program {
        self.token.write(self.machine.folder());
        let place: Vec<String> = self.machine.keys.place().into_iter().map(|word| self.over_the_bus(word)).collect();
        self.program(&["enroll", "--jwt", "gate-7.jwt", "--provider", F::PROVIDER]).args(place)
    }

    /// `enroll` with the key that is there, and no PIN yet.
    pub fn existing(&self) -> Program {
        let key = self.make();
        self.existing_at(&key)
    }

    /// The same by another reference.
    pub fn existing_at(&self, reference: &str) -> Program {
        self.token.write(self.machine.folder());
        self.program(&["enroll", "--jwt", "gate-7.jwt", "--key", reference])
    }

    /// An identity is there.
    pub fn enrolled(&self) {
        self.new_key().args(self.pin()).run().success();
        self.settle();
    }

    /// What a killed run has left loaded in a TPM.
    pub fn settle(&self) {
        if let Some(tpm) = self.machine.keys.tpm() {
            tpm.flush();
        }
    }

    /// Runs `program`, which ends with this code.
    pub fn ends(&self, code: i32, program: Program) -> Found {
        self.ends_while(code, program, Running::wait)
    }

    fn ends_while(&self, code: i32, program: Program, meanwhile: impl FnOnce(Running) -> Outcome) -> Found {
        let found = self.search().watch(program, meanwhile);
        assert_eq!(found.outcome.code, Some(code), "{}", found.outcome);
        found
    }

    /// The same, with somebody at a terminal who types the PIN.
    pub fn ends_at_terminal(&self, code: i32, program: Program) -> Found {
        let terminal = Terminal::open();
        let mut found = self.ends_while(code, terminal.seat(program), |running| {
            terminal.answer("PIN of", self.pin);
            running.wait()
        });
        self.search().at_terminal(&terminal.shown(), &mut found);
        found
    }

    /// Runs `program`, which is killed.
    pub fn is_killed(&self, program: Program) -> Found {
        let found = self.search().run(program);
        assert_eq!(found.outcome.signal, Some(9), "{}", found.outcome);
        self.settle();
        found
    }
}

/// Writes a file that nobody else reads.
fn private(path: &Path, content: &str) -> String {
    fs::write(path, content).expect("the machine's folder is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    text(path)
}
