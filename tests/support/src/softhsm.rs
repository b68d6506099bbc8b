//! SoftHSM with tokens of one's own: a folder per fixture, nothing shared, nothing left behind. Programs load it through
//! p11fault, which logs every call and fails the ones it is told to.

use crate::p11fault::{self, Tokens};
use crate::pki::random;
use crate::program::{Program, require};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../softhsm/softhsm2.conf.in");
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];

/// One token.
#[derive(Clone, Debug)]
pub struct SoftToken {
    /// CKA_LABEL of the token, unpadded.
    pub label: String,
    /// As the token shows it; SoftHSM's are sixteen hex digits.
    pub serial: String,
    /// The user's PIN: digits that occur nowhere else, so that a leak can be searched for.
    pub pin: String,
    /// The security officer's.
    pub so_pin: String,
    /// A file (0600) that holds the user's PIN and nothing else.
    pub pin_file: PathBuf,
}

impl SoftToken {
    /// With PINs of its own; its serial is not known yet.
    pub(crate) fn of(label: &str, pin_file: PathBuf) -> Self {
        let pin = format!("{:010}", u64::from_le_bytes(random()) % 10_000_000_000);
        let so_pin = format!("so{:014}", u64::from_le_bytes(random()) % 100_000_000_000_000);
        Self { label: label.into(), serial: String::new(), pin, so_pin, pin_file }
    }

    pub(crate) fn write_pin_file(&self) {
        fs::write(&self.pin_file, &self.pin).expect("the temporary folder is writable");
        fs::set_permissions(&self.pin_file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }
}

/// A private SoftHSM store with at least one token; removed when dropped.
#[derive(Debug)]
pub struct SoftHsm {
    folder: TempDir,
    tokens: Vec<SoftToken>,
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}

impl SoftHsm {
    /// A store in the temporary folder with one token, labelled `ziti-test`.
    pub fn new() -> Self {
        Self::empty_in(tempfile::tempdir().expect("a temporary folder can be made")).with_token("ziti-test")
    }

    /// The same on a RAM file system where there is one (/dev/shm).
    pub fn on_tmpfs() -> Self {
        Self::empty_in(folder_on_tmpfs()).with_token("ziti-test")
    }

    /// The same, and this is the user's PIN.
    pub fn with_pin(pin: &str) -> Self {
        let mut made = Self::empty_in(folder_on_tmpfs());
        made.add_token("ziti-test", pin);
        made
    }

    /// Another store with all that is in this one, on a RAM file system where there is one; a tenth of the time that a
    /// new token takes.
    pub fn copy(&self) -> Self {
        let copy = Self::empty_in(folder_on_tmpfs());
        for token in fs::read_dir(self.tokens_folder()).expect("the store can be listed").flatten() {
            let to = copy.tokens_folder().join(token.file_name());
            fs::create_dir(&to).expect("the temporary folder is writable");
            for file in fs::read_dir(token.path()).expect("a token can be listed").flatten() {
                fs::copy(file.path(), to.join(file.file_name())).expect("the temporary folder is writable");
            }
        }
        let tokens = self.tokens.iter().enumerate().map(|(number, token)| {
            let token = SoftToken { pin_file: copy.folder.path().join(format!("pin-{number}")), ..token.clone() };
            token.write_pin_file();
            token
        });
        let tokens = tokens.collect();
        Self { tokens, ..copy }
    }

    /// A folder for each token, with a file for each object.
    pub fn tokens_folder(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    /// Every file of the store, and what is in it.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let tokens = fs::read_dir(self.tokens_folder()).expect("the store can be listed").flatten();
        let files = tokens.flat_map(|token| fs::read_dir(token.path()).expect("a token can be listed").flatten());
        files.map(|file| (file.path(), fs::read(file.path()).expect("the store is ours"))).collect()
    }

    /// SoftHSM writes `token.object` anew at every login, in place: whoever kills it in between has no token any more.
    pub fn is_destroyed(&self) -> bool {
        self.files().iter().any(|(path, content)| path.ends_with("token.object") && content.is_empty())
    }

    fn empty_in(folder: TempDir) -> Self {
        let template = fs::read_to_string(TEMPLATE).unwrap_or_else(|error| panic!("{TEMPLATE}: {error}"));
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).expect("the temporary folder is writable");
        assert!(template.contains("@TOKENDIR@"), "{TEMPLATE} has no @TOKENDIR@ to fill in");
        let text = template.replace("@TOKENDIR@", tokens.to_str().expect("temporary folders have UTF-8 names"));
        fs::write(folder.path().join("softhsm2.conf"), text).expect("the temporary folder is writable");
        Self { folder, tokens: Vec::new() }
    }

    fn with_token(mut self, label: &str) -> Self {
        let pin = SoftToken::of(label, PathBuf::new()).pin;
        self.add_token(label, &pin);
        self
    }

    /// Makes another token with this label and user PIN.
    pub fn add_token(&mut self, label: &str, pin: &str) -> SoftToken {
        let mut token = SoftToken::of(label, self.folder.path().join(format!("pin-{}", self.tokens.len())));
        token.pin = pin.into();
        let before = self.serials();
        self.util().args(["--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", &token.so_pin]).run().success();
        let new = self.serials().into_iter().find(|serial| !before.contains(serial));
        token.serial = new.expect("the new token has a serial");
        token.write_pin_file();
        self.tokens.push(token.clone());
        token
    }

    fn util(&self) -> Program {
        let util = require("softhsm2-util", "softhsm2");
        Program::new(util).env("SOFTHSM2_CONF", self.conf()).arg("--module").arg(self.real_module())
    }

    /// Of the initialised tokens.
    fn serials(&self) -> Vec<String> {
        let slots = self.util().arg("--show-slots").run().success().stdout;
        let serials = slots.lines().filter_map(|line| line.trim().strip_prefix("Serial number:"));
        serials.map(|serial| serial.trim().to_owned()).filter(|serial| !serial.is_empty()).collect()
    }

    /// The first token.
    fn token(&self) -> &SoftToken {
        &self.tokens[0]
    }

    /// All tokens, in the order in which they were made.
    pub fn tokens(&self) -> &[SoftToken] {
        &self.tokens
    }

    /// Of the first token.
    pub fn label(&self) -> &str {
        &self.token().label
    }

    /// Of the first token.
    pub fn serial(&self) -> &str {
        &self.token().serial
    }

    /// Of the first token.
    pub fn pin(&self) -> &str {
        &self.token().pin
    }

    /// Of the first token.
    pub fn so_pin(&self) -> &str {
        &self.token().so_pin
    }

    /// Of the first token: a file (0600) that holds the PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.token().pin_file.clone()
    }

    /// Everything is in here.
    pub fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// What `SOFTHSM2_CONF` names.
    pub fn conf(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    /// The module to load: p11fault, as built beside the running test.
    pub fn module(&self) -> PathBuf {
        p11fault::module()
    }

    /// SoftHSM itself.
    pub fn real_module(&self) -> PathBuf {
        let found = MODULES.iter().map(PathBuf::from).find(|path| path.is_file());
        found.unwrap_or_else(|| panic!("libsofthsm2.so is missing: apt-get install softhsm2"))
    }

    /// What a program needs in its environment: SoftHSM's configuration and p11fault's module and logs.
    pub fn env(&self) -> Vec<(String, String)> {
        Tokens::env(self)
    }

    /// The names of the functions called through p11fault, in order.
    pub fn calls(&self) -> Vec<String> {
        Tokens::calls(self)
    }

    /// p11fault's lines: `<pid> <C_Function> <n-th call of that function> <rv as 0x%x>`.
    pub fn call_lines(&self) -> Vec<String> {
        Tokens::call_lines(self)
    }

    /// How often a function was called.
    pub fn count(&self, function: &str) -> usize {
        Tokens::count(self, function)
    }

    /// Begins the log of calls anew.
    pub fn clear_calls(&self) {
        Tokens::clear_calls(self);
    }
}

/// A temporary folder on a RAM file system where there is one (/dev/shm): what is synced there costs nothing.
pub fn folder_on_tmpfs() -> TempDir {
    let ram = Path::new("/dev/shm");
    let folder = if ram.is_dir() { tempfile::tempdir_in(ram) } else { tempfile::tempdir() };
    folder.expect("a temporary folder can be made")
}

impl Tokens for SoftHsm {
    const MAKE: &'static str = "SoftHSM";

    fn tokens(&self) -> &[SoftToken] {
        &self.tokens
    }

    fn directory(&self) -> &Path {
        self.folder.path()
    }

    fn real_module(&self) -> PathBuf {
        SoftHsm::real_module(self)
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![("SOFTHSM2_CONF".into(), p11fault::text(self.conf()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_tokens_and_keys_of_its_own() {
        let hsm = SoftHsm::on_tmpfs();
        hsm.make_key("EC:prime256v1", "01", "both");
        let copy = hsm.copy();
        copy.make_key("EC:prime256v1", "02", "of the copy");
        let listed = |hsm: &SoftHsm| hsm.tool(hsm.pin()).args(["--list-objects", "--type", "privkey"]).run().success().stdout;
        assert_eq!((hsm.serial(), hsm.pin()), (copy.serial(), copy.pin()));
        assert_eq!((listed(&hsm).matches("label:").count(), listed(&copy).matches("label:").count()), (1, 2));
        assert_ne!(hsm.pin_file(), copy.pin_file());
    }

    #[test]
    fn makes_tokens_that_take_their_pins() {
        let pkcs11_tool = require("pkcs11-tool", "opensc");
        let mut hsm = SoftHsm::new();
        let second = hsm.add_token("second", "246813579");
        assert_ne!(hsm.serial(), second.serial);
        for token in hsm.tokens() {
            let tool = Program::new(&pkcs11_tool).envs(hsm.env()).arg("--module").arg(hsm.real_module());
            tool.args(["--token-label", &token.label, "--login", "--pin", &token.pin, "--list-objects"]).run().success();
        }
    }

    #[test]
    fn leaves_nothing_behind() {
        let hsm = SoftHsm::on_tmpfs();
        let folder = hsm.directory().to_owned();
        assert!(hsm.pin_file().starts_with(&folder) && folder.exists());
        drop(hsm);
        assert!(!folder.exists());
    }
}
