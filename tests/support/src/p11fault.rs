//! What all tokens of the tests have in common: programs load p11fault, which passes on to the token's own module, logs
//! every call, and does the rest of what it is told.

use crate::logins;
use crate::program::{Program, require};
use crate::softhsm::SoftToken;
use std::fs;
use std::path::{Path, PathBuf};

/// p11fault, as built beside the running test.
pub fn module() -> PathBuf {
    let running = std::env::current_exe().expect("the running test knows its own path");
    let profile = running.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let debug = profile.parent().map(|target| target.join("debug"));
    let places = [Some(profile.to_owned()), Some(profile.join("deps")), debug.clone(), debug.map(|debug| debug.join("deps"))];
    let found = places.into_iter().flatten().map(|folder| folder.join("libp11fault.so")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("libp11fault.so is missing in {}: build it with `cargo build -p p11fault`", profile.display()))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    let running = std::env::current_exe().expect("the running test knows its own path");
    running.ancestors().nth(3).expect("target/<profile>/deps/<test>").to_owned()
}

/// Tokens of one make, alone in a folder of their own: SoftHSM, kryoptic, tpm2-pkcs11. What is said of one token is said
/// of the first.
pub trait Tokens {
    /// Name of the make, for the message of an assertion.
    const MAKE: &'static str;

    /// All tokens, in the order in which they were made.
    fn tokens(&self) -> &[SoftToken];

    /// Everything is in here.
    fn directory(&self) -> &Path;

    /// The module itself.
    fn real_module(&self) -> PathBuf;

    /// What the module itself needs in the environment.
    fn settings(&self) -> Vec<(String, String)>;

    /// CKA_LABEL of the token, unpadded.
    fn label(&self) -> &str {
        &self.tokens()[0].label
    }

    /// As the token shows it; tpm2-pkcs11 shows zeros.
    fn serial(&self) -> &str {
        &self.tokens()[0].serial
    }

    /// The user's PIN.
    fn pin(&self) -> &str {
        &self.tokens()[0].pin
    }

    /// The security officer's.
    fn so_pin(&self) -> &str {
        &self.tokens()[0].so_pin
    }

    /// A file (0600) that holds the PIN.
    fn pin_file(&self) -> PathBuf {
        self.tokens()[0].pin_file.clone()
    }

    /// The module to load.
    fn module(&self) -> PathBuf {
        module()
    }

    /// What a program needs in its environment: the module's settings, and p11fault's module and logs.
    fn env(&self) -> Vec<(String, String)> {
        let own = [
            ("P11FAULT_MODULE", self.real_module()),
            ("P11FAULT_LOG", self.directory().join("calls")),
            ("P11FAULT_LOGINS", self.directory().join("logins")),
            // What `logins::judge` reads when all is over; the program adds what it does, where it tells tests of that.
            ("P11FAULT_RECORD", record_of(self.directory())),
            ("ZITI_ENROLLER_EVENTS", record_of(self.directory())),
        ];
        let own = own.into_iter().map(|(name, path)| (name.into(), text(path)));
        self.settings().into_iter().chain(own).collect()
    }

    /// The names of the functions called through p11fault, in order.
    fn calls(&self) -> Vec<String> {
        self.call_lines().iter().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    }

    /// p11fault's lines: `<pid> <C_Function> <n-th call of that function> <rv as 0x%x>`.
    fn call_lines(&self) -> Vec<String> {
        lines(&self.directory().join("calls"))
    }

    /// p11fault's lines about logins: `<pid> <microseconds> user=<n> flags=0x<flags> pin=<given|null> 0x<rv>`.
    fn login_lines(&self) -> Vec<String> {
        lines(&self.directory().join("logins"))
    }

    /// How often a function was called.
    fn count(&self, function: &str) -> usize {
        self.calls().iter().filter(|call| *call == function).count()
    }

    /// Begins the logs anew.
    fn clear_calls(&self) {
        fs::remove_file(self.directory().join("calls")).ok();
        fs::remove_file(self.directory().join("logins")).ok();
    }

    /// `pkcs11-tool` through p11fault, logged in with `pin`, ready for its command.
    fn tool(&self, pin: &str) -> Program {
        let tool = Program::new(require("pkcs11-tool", "opensc")).envs(self.env()).env("PIN", pin).arg("--module");
        tool.arg(self.module()).args(["--token-label", self.label(), "--login", "--pin", "env:PIN"])
    }

    /// Makes a pair in the token, by `pkcs11-tool` and through p11fault. `kind` is what that calls it: `EC:prime256v1`,
    /// `EC:secp384r1`, `rsa:2048`. `id` is in hex.
    fn make_key(&self, kind: &str, id: &str, label: &str) {
        self.tool(self.pin()).args(["--keypairgen", "--key-type", kind, "--id", id, "--label", label]).run().success();
    }
}

/// The record of a fixture's processes; it outlives the fixture.
fn record_of(fixture: &Path) -> PathBuf {
    let records = logins::folder();
    fs::create_dir_all(&records).expect("the folder of the build is writable");
    let name = fixture.file_name().expect("a temporary folder has a name").to_string_lossy();
    // Another process may be given the same temporary folder when this one is gone.
    records.join(format!("{}-{}", std::process::id(), name.trim_start_matches('.')))
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

pub(crate) fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("temporary folders have UTF-8 names")
}

/// Initialises the token in a slot, by `pkcs11-tool` and past p11fault, and writes the file for its PIN.
pub(crate) fn initialise(real: &Path, settings: &[(String, String)], slot: &[&str], mut token: SoftToken) -> SoftToken {
    let tool = || {
        let tool = Program::new(require("pkcs11-tool", "opensc")).envs(settings.iter().map(|(n, v)| (n, v)));
        tool.arg("--module").arg(real).args(slot)
    };
    tool().args(["--init-token", "--label", &token.label, "--so-pin", &token.so_pin]).run().success();
    set_pin(real, settings, slot, &token);
    let shown = tool().arg("--list-slots").run().success().stdout;
    let of_it = shown.split("  token label ").find(|part| part.lines().next().is_some_and(|l| l.ends_with(&token.label)));
    let serial = of_it.and_then(|part| part.lines().find_map(|line| line.trim().strip_prefix("serial num")?.split(": ").nth(1)));
    token.serial = serial.expect("the new token has a serial").to_owned();
    token.write_pin_file();
    token
}

/// The security officer sets the user's PIN, which also unlocks it.
pub(crate) fn set_pin(real: &Path, settings: &[(String, String)], slot: &[&str], token: &SoftToken) {
    let tool = Program::new(require("pkcs11-tool", "opensc")).envs(settings.iter().map(|(n, v)| (n, v)));
    let tool = tool.arg("--module").arg(real).args(slot).args(["--login", "--login-type", "so", "--so-pin", &token.so_pin]);
    tool.args(["--init-pin", "--new-pin", &token.pin]).run().success();
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MESSAGE: &str = "what is to be signed";

    /// Makes a pair of each kind, signs with it, and lets OpenSSL judge the signature by the public key of the token.
    pub(crate) fn makes_and_uses_keys<T: Tokens>(tokens: &T, kinds: &[&str]) {
        let file = |name: &str| tokens.directory().join(name);
        let openssl = || Program::new(require("openssl", "openssl"));
        fs::write(file("message"), MESSAGE).unwrap();
        openssl().args(["dgst", "-sha256", "-binary", "-out"]).args([file("digest"), file("message")]).run().success();
        for (number, kind) in kinds.iter().enumerate() {
            let id = format!("a{number}");
            tokens.clear_calls();
            tokens.make_key(kind, &id, kind);
            assert_eq!((tokens.count("C_GenerateKeyPair"), tokens.count("C_Login")), (1, 1), "{} {kind}", T::MAKE);
            let tool = || tokens.tool(tokens.pin()).args(["--id", &id]);
            // pkcs11-tool 0.23 cannot read a public key of P-384.
            let public = Program::new(require("p11tool", "gnutls-bin")).envs(tokens.env()).arg("--provider").arg(tokens.module());
            let uri = format!("pkcs11:token={};id=%{id};type=public", tokens.label());
            fs::write(file("public.pem"), public.args(["--export", &uri]).run().success().stdout).unwrap();
            let (mechanism, input) = match kind.starts_with("EC") {
                true => (&["ECDSA", "--signature-format", "openssl"][..], file("digest")),
                false => (&["SHA256-RSA-PKCS"][..], file("message")),
            };
            let sign = tool().args(["--sign", "--mechanism"]).args(mechanism).arg("--input-file").arg(input);
            sign.arg("--output-file").arg(file("signature")).run().success();
            let judge = openssl().args(["dgst", "-sha256", "-verify"]).arg(file("public.pem")).arg("-signature");
            judge.args([file("signature"), file("message")]).run().success();
        }
    }

    /// Each of two tokens takes its own PIN, and not the other's.
    pub(crate) fn tells_tokens_apart<T: Tokens>(tokens: &T) {
        let [one, other] = tokens.tokens() else { panic!("two tokens are wanted") };
        for (token, pin, code) in [(one, &one.pin, 0), (other, &other.pin, 0), (other, &one.pin, 1)] {
            let tool = Program::new(require("pkcs11-tool", "opensc")).envs(tokens.env()).env("PIN", pin).arg("--module");
            let tool = tool.arg(tokens.module()).args(["--token-label", &token.label, "--login", "--pin", "env:PIN"]);
            let outcome = tool.arg("--list-objects").run();
            assert_eq!(outcome.code, Some(code), "{} {}: {outcome}", T::MAKE, token.label);
            assert_eq!(fs::read_to_string(&token.pin_file).unwrap(), token.pin);
        }
    }
}
