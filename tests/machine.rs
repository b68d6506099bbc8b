//! The machine of a story: a folder of its own, a place where keys live, and the program under test.
//!
//! A [`Fixture`] is such a place. A provider that joins is one more of them, and one more line in `key_providers.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use x509_cert::Certificate;
use x509_cert::der::Encode;
use ziti_enroller_support::softhsm::folder_on_tmpfs;
use ziti_enroller_support::{Key, KeyType, Kryoptic, Outcome, Program, SoftHsm, Token, Tokens, Tpm2Pkcs11, require};

pub mod makes;
#[cfg(feature = "tpm")]
pub mod tpm;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ziti-enroller");

/// Every type of key that `--key-alg` names.
pub const ALGORITHMS: [&str; 5] = ["p256", "p384", "rsa2048", "rsa3072", "rsa4096"];

/// A place where keys live, looked into with other tools than ours.
pub trait Fixture {
    /// After `--provider`.
    const PROVIDER: &'static str;
    /// In a figure; several places share a provider.
    const NAME: &'static str = Self::PROVIDER;
    /// The types of key that we make here, as `--key-alg` names them.
    const MAKES: &'static [&'static str] = &ALGORITHMS;
    /// Whether RSA keys here sign with PSS; those that do not log in over TLS 1.2 only.
    const HAS_PSS: bool = true;
    /// How many signatures each of 8 threads makes; a TPM takes its time.
    const SIGNATURES: usize = 200;

    /// An empty one; `folder` is the machine's.
    fn new(folder: &Path) -> Self;
    /// What surrounds every run.
    fn surroundings(&self) -> Vec<(String, String)>;
    /// The options that say where keys live.
    fn place(&self) -> Vec<String>;
    /// The options that say where the PIN is.
    fn pin(&self) -> Vec<String>;
    /// The reference of the key called `name`.
    fn reference(&self, name: &str) -> String;
    /// What a message calls the key called `name`.
    fn called(&self, name: &str) -> String {
        name.to_owned()
    }
    /// Makes the key called `name`.
    fn make(&self, name: &str, kind: KeyType);
    /// The public halves of the keys here, SubjectPublicKeyInfo, DER. What is in an identity is not here.
    fn public_keys(&self) -> Vec<Vec<u8>>;
    /// How many private keys are here.
    fn private_keys(&self) -> usize;
    /// The most tries of a PIN that one run here has made; in a TPM, which nobody logs in to, those that it counts.
    fn most_logins(&self) -> usize;
    /// The public half of the key that `id.key` of an identity names or holds, SubjectPublicKeyInfo, DER.
    fn public_key_of(&self, id_key: &str) -> Vec<u8>;
    /// How many private keys and how many public keys are here.
    fn halves(&self) -> [usize; 2] {
        [self.private_keys(); 2]
    }
    /// How many things are here that are no half of a key, because nobody can tell whose they are.
    fn pieces(&self) -> usize {
        0
    }
    /// What must be done by hand after a run was killed.
    fn after_a_kill(&self) {}
}

/// Keys in files: in the identity, or in a folder `keys`.
#[derive(Debug)]
pub struct InFiles {
    keys: PathBuf,
}

impl Fixture for InFiles {
    const PROVIDER: &'static str = "file";

    fn new(folder: &Path) -> Self {
        let keys = folder.join("keys");
        fs::create_dir(&keys).expect("the machine's folder is writable");
        Self { keys }
    }

    fn surroundings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn place(&self) -> Vec<String> {
        Vec::new()
    }

    fn pin(&self) -> Vec<String> {
        Vec::new()
    }

    fn reference(&self, name: &str) -> String {
        format!("file:{}/{name}.pem", self.keys.display())
    }

    fn make(&self, name: &str, kind: KeyType) {
        let file = self.keys.join(format!("{name}.pem"));
        fs::write(file, Key::generate(kind).pkcs8_pem()).expect("the folder of the keys is writable");
    }

    fn public_keys(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(&self.keys).expect("the folder of the keys can be listed");
        files.map(|file| public_half(&file.expect("the folder of the keys can be listed").path())).collect()
    }

    fn private_keys(&self) -> usize {
        self.public_keys().len()
    }

    fn most_logins(&self) -> usize {
        0
    }

    fn public_key_of(&self, id_key: &str) -> Vec<u8> {
        match id_key.strip_prefix("pem:") {
            Some(pem) => {
                let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
                fs::write(file.path(), pem).expect("a temporary file can be written");
                public_half(file.path())
            }
            None => public_half(Path::new(id_key.strip_prefix("file://").expect("`pem:` or `file://`"))),
        }
    }
}

/// By openssl.
fn public_half(private: &Path) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let openssl = Program::new(require("openssl", "openssl")).args(["pkey", "-pubout", "-outform", "DER", "-in"]);
    openssl.arg(private).arg("-out").arg(file.path()).run().success();
    fs::read(file.path()).expect("openssl has written it")
}

/// Keys in a PKCS#11 token of the machine's own.
#[derive(Debug)]
pub struct InTokenOf<T> {
    pub hsm: T,
}

/// In a SoftHSM token, on a RAM disk: its files are written 60 times for a new key.
pub type InToken = InTokenOf<SoftHsm>;
/// In a token that libtpm2_pkcs11 keeps in a TPM, which is how the SDKs of today reach one.
pub type InTpm2Pkcs11 = InTokenOf<Tpm2Pkcs11>;
/// In a token of kryoptic, which locks its PIN, and is a second opinion beside SoftHSM.
pub type InKryoptic = InTokenOf<Kryoptic>;

/// A make of tokens whose fixture is at hand.
pub trait Make: Tokens {
    /// See [`Fixture::NAME`].
    const NAME: &'static str;
    /// See [`Fixture::MAKES`].
    const MAKES: &'static [&'static str] = &ALGORITHMS;
    /// See [`Fixture::HAS_PSS`].
    const HAS_PSS: bool = true;
    /// See [`Fixture::SIGNATURES`].
    const SIGNATURES: usize = 200;
    /// Whether a program gives the PIN; at a keypad a person does.
    const ASKS_FOR_THE_PIN: bool = true;

    /// An empty token.
    fn fresh() -> Self;
    /// An empty token with this PIN.
    fn with_pin(pin: &str) -> Self;
    /// See [`Fixture::after_a_kill`].
    fn after_a_kill(&self) {}
}

impl Make for SoftHsm {
    const NAME: &'static str = "pkcs11";

    fn fresh() -> Self {
        Self::on_tmpfs()
    }

    fn with_pin(pin: &str) -> Self {
        Self::with_pin(pin)
    }
}

impl Make for Tpm2Pkcs11 {
    const NAME: &'static str = "tpm2-pkcs11";
    /// swtpm has no RSA-4096.
    const MAKES: &'static [&'static str] = &["p256", "p384", "rsa2048", "rsa3072"];
    const HAS_PSS: bool = false;
    const SIGNATURES: usize = 20;

    fn fresh() -> Self {
        Self::new()
    }

    fn with_pin(pin: &str) -> Self {
        Self::with_pin(pin)
    }

    fn after_a_kill(&self) {
        self.tpm().flush();
    }
}

impl Make for Kryoptic {
    const NAME: &'static str = "kryoptic";

    fn fresh() -> Self {
        Self::new()
    }

    fn with_pin(pin: &str) -> Self {
        Self::with_pin(pin)
    }
}

/// An object that pkcs11-tool lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenObject {
    /// `Private Key Object`, `Public Key Object`, `Certificate Object`.
    pub class: String,
    pub label: String,
    /// Hexadecimal.
    pub id: String,
    /// `sensitive, always sensitive, never extractable, local`.
    pub access: String,
}

impl TokenObject {
    /// SoftHSM writes an object before it says what it is: whoever kills it in between leaves one that has neither id nor
    /// label, no value, and no past. No program can tell it from what another process is making right now.
    pub fn is_nameless(&self) -> bool {
        self.id.is_empty() && self.label.is_empty() && !self.access.split(", ").any(|access| access == "local")
    }
}

impl<T: Tokens> InTokenOf<T> {
    /// pkcs11-tool, logged in to the first token; without p11fault, so that only our own calls are counted.
    pub fn tool(&self) -> Program {
        let tool =
            Program::new(require("pkcs11-tool", "opensc")).envs(self.hsm.env()).arg("--module").arg(self.hsm.real_module());
        tool.args(["--token-label", self.hsm.label(), "--login", "--pin", self.hsm.pin()])
    }

    /// What is on the first token.
    pub fn objects(&self) -> Vec<TokenObject> {
        let listed = self.tool().arg("--list-objects").run().success().stdout;
        let mut objects: Vec<TokenObject> = Vec::new();
        for line in listed.lines() {
            if let Some((class, _)) = line.split_once(';').filter(|(class, _)| class.ends_with(" Object")) {
                let class = class.to_owned();
                objects.push(TokenObject { class, label: String::new(), id: String::new(), access: String::new() });
            }
            let (Some(object), Some((name, value))) = (objects.last_mut(), line.trim().split_once(':')) else { continue };
            let value = value.trim().to_owned();
            match name {
                "label" => object.label = value,
                "ID" => object.id = value,
                "Access" => object.access = value,
                _ => {}
            }
        }
        objects
    }

    /// The objects of one class: `Private Key Object`, `Public Key Object`.
    pub fn of_class(&self, class: &str) -> Vec<TokenObject> {
        self.objects().into_iter().filter(|object| object.class == class).collect()
    }

    /// p11tool, logged in to the first token; it reads curves that pkcs11-tool does not.
    pub fn other_tool(&self) -> Program {
        let tool = Program::new(require("p11tool", "gnutls-bin")).envs(self.hsm.env());
        tool.arg("--provider").arg(self.hsm.real_module()).args(["--login", "--set-pin", self.hsm.pin()])
    }

    /// The public object with this id (hexadecimal), SubjectPublicKeyInfo, DER.
    pub fn read_public(&self, id: &str) -> Vec<u8> {
        let id: String = id.as_bytes().chunks(2).map(|digits| format!("%{}", String::from_utf8_lossy(digits))).collect();
        let uri = format!("pkcs11:token={};id={id};type=public", self.hsm.label());
        // Without a file it sleeps for three seconds.
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        self.other_tool().args(["--export-pubkey", &uri, "--outfile"]).arg(file.path()).run().success();
        let pem = fs::read_to_string(file.path()).expect("p11tool has written it");
        let (label, der) = x509_cert::der::pem::decode_vec(pem.trim().as_bytes()).expect("p11tool writes PEM");
        assert_eq!(label, "PUBLIC KEY");
        der
    }

    /// Removes one half of a pair: `privkey`, `pubkey`.
    pub fn remove(&self, half: &str, id: &str) {
        self.tool().args(["--delete-object", "--type", half, "--id", id]).run().success();
    }

    /// Makes a key pair.
    pub fn make_pair(&self, label: &str, id: &str, kind: KeyType) {
        let kind = match kind {
            KeyType::P256 => "EC:prime256v1",
            KeyType::P384 => "EC:secp384r1",
            KeyType::P521 => "EC:secp521r1",
            KeyType::Rsa2048 => "rsa:2048",
        };
        self.tool().args(["--keypairgen", "--key-type", kind, "--label", label, "--id", id]).run().success();
    }

    /// The tries of a PIN that our program has made.
    pub fn logins(&self) -> usize {
        self.hsm.count("C_Login")
    }
}

impl<T: Make> Fixture for InTokenOf<T> {
    const PROVIDER: &'static str = "pkcs11";
    const NAME: &'static str = T::NAME;
    const MAKES: &'static [&'static str] = T::MAKES;
    const HAS_PSS: bool = T::HAS_PSS;
    const SIGNATURES: usize = T::SIGNATURES;

    fn new(_: &Path) -> Self {
        Self { hsm: T::fresh() }
    }

    fn surroundings(&self) -> Vec<(String, String)> {
        self.hsm.env()
    }

    fn place(&self) -> Vec<String> {
        vec!["--module".into(), text(&self.hsm.module()), "--token".into(), self.hsm.label().into()]
    }

    fn pin(&self) -> Vec<String> {
        if T::ASKS_FOR_THE_PIN { vec!["--pin-file".into(), text(&self.hsm.pin_file())] } else { Vec::new() }
    }

    fn reference(&self, name: &str) -> String {
        format!("pkcs11:token={};object={name}?module-path={}", self.hsm.label(), text(&self.hsm.module()))
    }

    fn make(&self, name: &str, kind: KeyType) {
        let id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.make_pair(name, &id, kind);
    }

    fn public_keys(&self) -> Vec<Vec<u8>> {
        self.of_class("Public Key Object").iter().map(|object| self.read_public(&object.id)).collect()
    }

    fn private_keys(&self) -> usize {
        self.of_class("Private Key Object").len()
    }

    fn most_logins(&self) -> usize {
        let lines = self.hsm.call_lines();
        let mut of_process: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &lines {
            if let [process, "C_Login", ..] = line.split(' ').collect::<Vec<_>>()[..] {
                *of_process.entry(process).or_default() += 1;
            }
        }
        of_process.into_values().max().unwrap_or(0)
    }

    fn after_a_kill(&self) {
        self.hsm.after_a_kill();
    }

    fn halves(&self) -> [usize; 2] {
        let mut objects = self.objects();
        objects.retain(|object| !object.is_nameless());
        ["Private Key Object", "Public Key Object"].map(|class| objects.iter().filter(|object| object.class == class).count())
    }

    fn pieces(&self) -> usize {
        self.objects().iter().filter(|object| object.is_nameless()).count()
    }

    fn public_key_of(&self, id_key: &str) -> Vec<u8> {
        let (_, query) = id_key.split_once('?').expect("a reference with a query");
        let id = query.split('&').find_map(|part| part.strip_prefix("id=")).expect("a reference with an id");
        self.read_public(id)
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("temporary folders have UTF-8 names").to_owned()
}

/// The machine; removed when dropped.
#[derive(Debug)]
pub struct Machine<F> {
    folder: TempDir,
    pub keys: F,
}

impl<F: Fixture> Machine<F> {
    pub fn new() -> Self {
        Self::with(F::new)
    }

    /// With keys that are made in its folder.
    pub fn with(keys: impl FnOnce(&Path) -> F) -> Self {
        Self::in_folder(tempfile::tempdir().expect("a temporary folder can be made"), keys)
    }

    /// One whose folder is on a RAM file system, with these keys.
    pub fn on_tmpfs(keys: impl FnOnce(&Path) -> F) -> Self {
        Self::in_folder(folder_on_tmpfs(), keys)
    }

    fn in_folder(folder: TempDir, keys: impl FnOnce(&Path) -> F) -> Self {
        let keys = keys(folder.path());
        Self { folder, keys }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in the machine's folder, without arguments.
    pub fn program(&self) -> Program {
        Program::new(PROGRAM).envs(self.keys.surroundings()).current_dir(self.folder.path())
    }

    /// `enroll` with `NAME.jwt`, which is written here, and a key that is made here.
    pub fn enroll(&self, token: &Token) -> Program {
        self.enroll_with(token).args(["--provider", F::PROVIDER]).args(self.keys.place())
    }

    /// The same, and it is not said where the key lives.
    pub fn enroll_with(&self, token: &Token) -> Program {
        let file = token.write(self.folder.path());
        // The record of p11fault tells which methods may log in before they connect.
        let program = self.program().env("P11FAULT_NOTE", token.method());
        program.args(["enroll", "--format", "json", "--jwt"]).arg(file).args(self.keys.pin())
    }

    /// `resume` of the identity that [`enroll`](Self::enroll) was to write.
    pub fn resume(&self, token: &Token) -> Program {
        self.program().args(["resume", "--format", "json"]).arg(self.out(token)).args(self.keys.pin())
    }

    /// `verify` of the identity that [`enroll`](Self::enroll) has written.
    pub fn verify(&self, token: &Token) -> Program {
        self.program().args(["verify", "--format", "json"]).arg(self.out(token)).args(self.keys.pin())
    }

    /// `renew` of that identity.
    pub fn renew(&self, token: &Token) -> Program {
        self.program().args(["renew", "--format", "json"]).arg(self.out(token)).args(self.keys.pin())
    }

    /// `renew --rotate` to a new key where this machine's keys are.
    pub fn rotate(&self, token: &Token) -> Program {
        self.renew(token).args(["--rotate", "--provider", F::PROVIDER]).args(self.keys.place())
    }

    /// What waits for a rerun of `renew`.
    pub fn renewal(&self, token: &Token) -> PathBuf {
        self.path(&format!(".{}.json.renew", token.name()))
    }

    /// Whether the identity in a file logs in: exit 0, or 60.
    pub fn logs_in(&self, identity: &Path) -> bool {
        let ended = self.program().args(["verify", "--format", "json"]).arg(identity).args(self.keys.pin()).run();
        match ended.code {
            Some(0) => true,
            Some(60) => false,
            _ => panic!("{ended}"),
        }
    }

    /// Where the identity appears.
    pub fn out(&self, token: &Token) -> PathBuf {
        self.path(&format!("{}.json", token.name()))
    }

    /// The identity that has appeared, whole and of the right form.
    pub fn identity(&self, token: &Token) -> IdentityFile {
        IdentityFile::read(&self.out(token))
    }

    /// What waits for a rerun.
    pub fn work(&self, token: &Token) -> PathBuf {
        self.path(&format!(".{}.json.enroll", token.name()))
    }

    /// The records of the journal, in order; a last line that a kill has cut off is none.
    pub fn journal(&self, token: &Token) -> Vec<Value> {
        let text = fs::read_to_string(self.work(token).join("journal")).expect("there is a journal");
        text.split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(|line| {
                let json = line.splitn(3, ' ').nth(2).expect("number, checksum, record");
                serde_json::from_str(json).expect("a record is JSON")
            })
            .collect()
    }

    /// The names of the records.
    pub fn recorded(&self, token: &Token) -> Vec<String> {
        let name = |record: Value| match record {
            Value::String(name) => name,
            Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
            other => panic!("a record is a name or an object with one, not {other}"),
        };
        self.journal(token).into_iter().map(name).collect()
    }

    /// The certificate request that was recorded last, PEM.
    pub fn recorded_request(&self, token: &Token) -> String {
        let csr = |record: &Value| record.pointer("/csr/csr").and_then(Value::as_str).map(str::to_owned);
        self.journal(token).iter().rev().find_map(csr).expect("a request was recorded")
    }
}

/// `program`, to be ended at `event` of its walk: `kill`, `error`, `hang`.
pub fn ending(program: Program, event: &str, how: &str) -> Program {
    if cfg!(not(feature = "crash-points")) {
        panic!("the program under test ends where it is told to only with: cargo test --features crash-points");
    }
    program.env("ZITI_ENROLLER_CRASH", format!("{event}:{how}"))
}

/// An identity file that was read by nobody of ours.
#[derive(Debug)]
pub struct IdentityFile {
    pub text: String,
    pub json: Value,
}

impl IdentityFile {
    /// Reads it and holds it to the form that every SDK reads.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mode = path.metadata().expect("it was read a line ago").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", path.display());
        let json: Value = serde_json::from_str(&text).expect("an identity is JSON");
        assert_eq!(names(&json), ["id", "ztAPI", "ztAPIs"]);
        assert_eq!(names(&json["id"]), ["ca", "cert", "key"]);
        assert_eq!(json["ztAPI"], json["ztAPIs"][0]);
        Self { text, json }
    }

    pub fn api(&self) -> &str {
        self.json["ztAPI"].as_str().expect("an address is text")
    }

    pub fn key(&self) -> &str {
        self.json["id"]["key"].as_str().expect("a key is text")
    }

    /// Leaf first.
    pub fn chain(&self) -> Vec<Certificate> {
        self.certificates("cert")
    }

    pub fn anchors(&self) -> Vec<Certificate> {
        self.certificates("ca")
    }

    /// PEM of `cert` or `ca`.
    pub fn pem(&self, member: &str) -> &str {
        let text = self.json["id"][member].as_str().expect("certificates are text");
        text.strip_prefix("pem:").expect("certificates are within the file")
    }

    fn certificates(&self, member: &str) -> Vec<Certificate> {
        Certificate::load_pem_chain(self.pem(member).as_bytes()).expect("certificates are PEM")
    }

    /// Of the leaf, DER.
    pub fn public_key(&self) -> Vec<u8> {
        let chain = self.chain();
        let leaf = chain.first().expect("a chain has a leaf");
        leaf.tbs_certificate().subject_public_key_info().to_der().expect("a key that was read encodes")
    }
}

fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// The one JSON object that a successful run has printed, and nothing else was said.
pub fn report(outcome: &Outcome) -> Value {
    assert_eq!((outcome.code, outcome.stdout.lines().count()), (Some(0), 1), "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    assert_eq!(report["ok"], true, "{outcome}");
    report
}

/// How a run failed, in its own words.
#[derive(Debug)]
pub struct Failed {
    outcome: Outcome,
    error: Value,
}

impl Failed {
    /// Holds `outcome`, of a run with `--format json`, to this exit code and `error.code`.
    pub fn with(outcome: Outcome, exit: i32, code: &str) -> Self {
        assert_eq!(outcome.code, Some(exit), "{outcome}");
        assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
        let mut report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        let error = report["error"].take();
        let said = (&report["ok"], &error["code"], &error["exit"]);
        assert_eq!(said, (&false.into(), &code.into(), &exit.into()), "{outcome}");
        assert_eq!(names(&error), ["causes", "code", "exit", "hint", "message", "token_spent"], "{outcome}");
        Self { outcome, error }
    }

    /// Among message and causes.
    pub fn says(self, words: &str) -> Self {
        let causes = self.error["causes"].as_array().expect("causes are a list").iter();
        let said = causes.chain([&self.error["message"]]).filter_map(Value::as_str).any(|sentence| sentence.contains(words));
        assert!(said, "nothing says `{words}`: {}", self.outcome);
        self
    }

    /// What to do next; an empty string for nothing.
    pub fn hints(self, words: &str) -> Self {
        match self.error["hint"].as_str() {
            Some(hint) => assert!(!words.is_empty() && hint.contains(words), "not `{words}`: {}", self.outcome),
            None => assert!(words.is_empty(), "no hint `{words}`: {}", self.outcome),
        }
        self
    }

    /// `no`, `yes`, `unknown`.
    pub fn spent(self, whether: &str) -> Self {
        assert_eq!(self.error["token_spent"], whether, "{}", self.outcome);
        self
    }
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
