//! Keys in a TPM of the machine's own, by provider `tpm`: in a file that only this TPM loads, or at a persistent handle.
//! Every key here has a PIN, which a file holds; keys without one are in `tests/tpm.rs`.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ziti_enroller_support::{KeyType, Program, Swtpm};

use super::{Fixture, text};

/// swtpm has no RSA-4096.
const MAKES: &[&str] = &["p256", "p384", "rsa2048", "rsa3072"];
/// Where the handles begin that are ours to fill.
const FIRST: u32 = 0x8102_0000;
/// Of the keys, unless told otherwise.
const PIN: &str = "tpm-47110815";
/// What a file of tpm2-openssl is taken for by its name.
const EXTENSION: &str = ".tss2.pem";

/// A TPM, and the PIN of its keys.
#[derive(Debug)]
struct WithPin {
    tpm: Swtpm,
    pin: String,
    file: PathBuf,
}

impl WithPin {
    fn new(folder: &Path, pin: &str) -> Self {
        let file = folder.join("pin");
        fs::write(&file, pin).expect("the machine's folder is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        Self { tpm: Swtpm::new(), pin: pin.into(), file }
    }

    fn surroundings(&self) -> Vec<(String, String)> {
        vec![("TSS2_LOG".into(), "all+NONE".into())]
    }

    fn option(&self) -> Vec<String> {
        vec!["--pin-file".into(), text(&self.file)]
    }
}

/// Keys in a TPM that may be reached in another way than directly.
pub trait InTpm: Fixture {
    /// The TPM.
    fn tpm(&self) -> &Swtpm;
    /// As [`Fixture::place`], with the TPM behind `tcti`.
    fn place_behind(&self, tcti: &str) -> Vec<String>;
}

/// The value of an attribute of a `tpm2:` reference.
fn attribute<'a>(reference: &'a str, name: &str) -> &'a str {
    let said = reference.strip_prefix("tpm2:").expect("`tpm2:`").split(['?', ';', '&']);
    let mut said = said.filter_map(|part| part.split_once('='));
    said.find_map(|(found, value)| (found == name).then_some(value)).unwrap_or_else(|| panic!("{name} is not in {reference}"))
}

/// What the program writes to a file that it is given as its last argument.
fn written_by(program: Program) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    program.arg(file.path()).run().success();
    fs::read(file.path()).expect("it was written")
}

/// Keys in TSS2 PEM files, beside the identity.
#[derive(Debug)]
pub struct InTpmFile {
    keys: WithPin,
    folder: PathBuf,
}

impl InTpmFile {
    /// With this PIN for every key.
    pub fn with_pin(folder: &Path, pin: &str) -> Self {
        Self { keys: WithPin::new(folder, pin), folder: folder.to_owned() }
    }

    /// The TPM.
    pub fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).expect("the machine's folder can be listed");
        let paths = entries.map(|entry| entry.expect("the machine's folder can be listed").path());
        let mut files: Vec<PathBuf> = paths.filter(|path| text(path).ends_with(EXTENSION)).collect();
        files.sort();
        files
    }

    /// By tpm2-openssl, which loads it into the TPM.
    fn public_half(&self, file: &Path) -> Vec<u8> {
        let openssl = self.keys.tpm.openssl("pkey").args(["-passin", &format!("pass:{}", self.keys.pin), "-in"]).arg(file);
        written_by(openssl.args(["-pubout", "-outform", "DER", "-out"]))
    }
}

/// Keys in, or beside, a TPM of the machine's own.
pub trait OnTpm: Fixture {
    /// That TPM.
    fn tpm(&self) -> &Swtpm;
}

impl OnTpm for InTpmFile {
    fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }
}

impl OnTpm for InTpmHandle {
    fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }
}

impl Fixture for InTpmFile {
    const PROVIDER: &'static str = "tpm";
    const NAME: &'static str = "tpm file";
    const MAKES: &'static [&'static str] = MAKES;
    const SIGNATURES: usize = 20;

    fn new(folder: &Path) -> Self {
        Self::with_pin(folder, PIN)
    }

    fn surroundings(&self) -> Vec<(String, String)> {
        self.keys.surroundings()
    }

    fn place(&self) -> Vec<String> {
        self.place_behind(&self.keys.tpm.tcti())
    }

    fn pin(&self) -> Vec<String> {
        self.keys.option()
    }

    fn reference(&self, name: &str) -> String {
        format!("tpm2:file={}/{name}{EXTENSION}?tcti={}", self.folder.display(), self.keys.tpm.tcti())
    }

    fn make(&self, name: &str, kind: KeyType) {
        let kind = match kind {
            KeyType::P256 => ["EC", "group:P-256"],
            KeyType::P384 => ["EC", "group:P-384"],
            KeyType::P521 => ["EC", "group:P-521"],
            KeyType::Rsa2048 => ["RSA", "bits:2048"],
        };
        let openssl = self.keys.tpm.openssl("genpkey").args(["-algorithm", kind[0], "-pkeyopt", kind[1], "-pkeyopt"]);
        let openssl = openssl.arg(format!("user-auth:{}", self.keys.pin)).arg("-out");
        openssl.arg(self.folder.join(format!("{name}{EXTENSION}"))).run().success();
    }

    fn public_keys(&self) -> Vec<Vec<u8>> {
        self.files().iter().map(|file| self.public_half(file)).collect()
    }

    fn private_keys(&self) -> usize {
        self.files().len()
    }

    fn most_logins(&self) -> usize {
        self.keys.tpm.wrong_tries() as usize
    }

    /// A raw TPM keeps what a killed program has loaded.
    fn after_a_kill(&self) {
        self.keys.tpm.flush();
    }

    fn public_key_of(&self, id_key: &str) -> Vec<u8> {
        self.public_half(Path::new(attribute(id_key, "file")))
    }
}

impl InTpm for InTpmFile {
    fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }

    fn place_behind(&self, tcti: &str) -> Vec<String> {
        vec!["--tcti".into(), tcti.into()]
    }
}

/// Keys at persistent handles.
#[derive(Debug)]
pub struct InTpmHandle {
    keys: WithPin,
    folder: PathBuf,
    /// The names in the order in which they were first said: each stands for the next handle.
    names: RefCell<Vec<String>>,
}

impl InTpmHandle {
    /// With this PIN for every key.
    pub fn with_pin(folder: &Path, pin: &str) -> Self {
        Self { keys: WithPin::new(folder, pin), folder: folder.to_owned(), names: RefCell::default() }
    }

    /// The TPM.
    pub fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }

    fn handle(&self, name: &str) -> u32 {
        let mut names = self.names.borrow_mut();
        let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        FIRST + u32::try_from(at).expect("a TPM has a few handles")
    }

    fn handles(&self) -> Vec<u32> {
        self.keys.tpm.handles("handles-persistent")
    }

    /// By tpm2-tools.
    fn public_half(&self, handle: &str) -> Vec<u8> {
        written_by(self.keys.tpm.tool("tpm2_readpublic").args(["-Q", "-c", handle, "-f", "der", "-o"]))
    }
}

impl Fixture for InTpmHandle {
    const PROVIDER: &'static str = "tpm";
    const NAME: &'static str = "tpm handle";
    const MAKES: &'static [&'static str] = MAKES;
    const SIGNATURES: usize = 20;

    fn new(folder: &Path) -> Self {
        Self::with_pin(folder, PIN)
    }

    fn surroundings(&self) -> Vec<(String, String)> {
        self.keys.surroundings()
    }

    fn place(&self) -> Vec<String> {
        self.place_behind(&self.keys.tpm.tcti())
    }

    fn pin(&self) -> Vec<String> {
        self.keys.option()
    }

    fn reference(&self, name: &str) -> String {
        format!("tpm2:handle={}?tcti={}", self.called(name), self.keys.tpm.tcti())
    }

    /// A handle has no name.
    fn called(&self, name: &str) -> String {
        format!("{:#010x}", self.handle(name))
    }

    fn make(&self, name: &str, kind: KeyType) {
        let kind = match kind {
            KeyType::P256 => "ecc256",
            KeyType::P384 => "ecc384",
            KeyType::P521 => "ecc521",
            KeyType::Rsa2048 => "rsa2048",
        };
        let (tpm, file) = (&self.keys.tpm, |name: &str| self.folder.join(name));
        tpm.tool("tpm2_createprimary")
            .args(["-Q", "-C", "o", "-G", "ecc256:aes128cfb", "-c"])
            .arg(file("parent.ctx"))
            .run()
            .success();
        tpm.flush();
        let make = tpm.tool("tpm2_create").args(["-Q", "-G", kind, "-p", &self.keys.pin]);
        let make = make.args(["-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"]);
        make.arg("-C").arg(file("parent.ctx")).arg("-c").arg(file("key.ctx")).run().success();
        tpm.flush();
        let keep = tpm.tool("tpm2_evictcontrol").args(["-Q", "-C", "o", "-c"]).arg(file("key.ctx"));
        keep.arg(self.called(name)).run().success();
        tpm.flush();
    }

    fn public_keys(&self) -> Vec<Vec<u8>> {
        self.handles().iter().map(|handle| self.public_half(&format!("{handle:#x}"))).collect()
    }

    fn private_keys(&self) -> usize {
        self.handles().len()
    }

    fn most_logins(&self) -> usize {
        self.keys.tpm.wrong_tries() as usize
    }

    /// A raw TPM keeps what a killed program has loaded.
    fn after_a_kill(&self) {
        self.keys.tpm.flush();
    }

    fn public_key_of(&self, id_key: &str) -> Vec<u8> {
        self.public_half(attribute(id_key, "handle"))
    }
}

impl InTpm for InTpmHandle {
    fn tpm(&self) -> &Swtpm {
        &self.keys.tpm
    }

    fn place_behind(&self, tcti: &str) -> Vec<String> {
        vec!["--tcti".into(), tcti.into(), "--key".into(), "tpm2:handle=auto".into()]
    }
}
