//! tpm2-pkcs11 over a TPM of one's own: PKCS#11 as the SDKs of today reach a TPM. It has no session keys, refuses
//! templates that say what a key is not for, shows zeros for a serial, and tells nothing of tries through its flags; the
//! TPM locks after 3.
//!
//! Keys stay loaded in the raw TPM, which has room for three objects: one pair a process, and [`Swtpm::flush`] where a
//! process was killed.

use crate::p11fault::{Tokens, initialise, text};
use crate::softhsm::SoftToken;
use crate::swtpm::Swtpm;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MODULES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1",
    "/usr/lib/aarch64-linux-gnu/libtpm2_pkcs11.so.1",
    "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
];

/// A private store with at least one token, and its TPM; both gone when dropped.
#[derive(Debug)]
pub struct Tpm2Pkcs11 {
    folder: TempDir,
    tpm: Swtpm,
    tokens: Vec<SoftToken>,
}

impl Default for Tpm2Pkcs11 {
    fn default() -> Self {
        Self::new()
    }
}

impl Tpm2Pkcs11 {
    /// The wrong PINs after which the TPM refuses the right one as well.
    pub const TRIES: usize = 3;

    /// A store in the temporary folder with one token, labelled `ziti-test`.
    pub fn new() -> Self {
        let mut made = Self::empty();
        made.add_token("ziti-test");
        made
    }

    /// The same, and this is the user's PIN.
    pub fn with_pin(pin: &str) -> Self {
        let mut made = Self::empty();
        made.add(SoftToken { pin: pin.into(), ..SoftToken::of("ziti-test", PathBuf::new()) });
        made
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::create_dir(folder.path().join("store")).expect("the temporary folder is writable");
        Self { folder, tpm: Swtpm::new(), tokens: Vec::new() }
    }

    /// Makes another token with this label.
    pub fn add_token(&mut self, label: &str) -> SoftToken {
        self.add(SoftToken::of(label, PathBuf::new()))
    }

    fn add(&mut self, mut token: SoftToken) -> SoftToken {
        let number = self.tokens.len();
        token.pin_file = self.folder.path().join(format!("pin-{number}"));
        // It always shows one more slot than it has tokens.
        let slot = (number + 1).to_string();
        let token = initialise(&self.real_module(), &self.settings(), &["--slot", &slot], token);
        self.tpm.flush();
        self.tokens.push(token.clone());
        token
    }

    /// The TPM behind it.
    pub fn tpm(&self) -> &Swtpm {
        &self.tpm
    }
}

impl Tokens for Tpm2Pkcs11 {
    const MAKE: &'static str = "tpm2-pkcs11";

    fn tokens(&self) -> &[SoftToken] {
        &self.tokens
    }

    fn directory(&self) -> &Path {
        self.folder.path()
    }

    fn real_module(&self) -> PathBuf {
        let found = MODULES.iter().map(PathBuf::from).find(|path| path.is_file());
        found.unwrap_or_else(|| panic!("libtpm2_pkcs11.so is missing: apt-get install libtpm2-pkcs11-1"))
    }

    fn settings(&self) -> Vec<(String, String)> {
        let own = [
            ("TPM2_PKCS11_STORE".to_owned(), text(self.folder.path().join("store"))),
            ("TPM2_PKCS11_LOG_LEVEL".to_owned(), "0".to_owned()),
        ];
        self.tpm.env().into_iter().chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p11fault::tests::{makes_and_uses_keys, tells_tokens_apart};

    #[test]
    fn makes_and_uses_keys_of_every_type() {
        makes_and_uses_keys(&Tpm2Pkcs11::new(), &["EC:prime256v1", "EC:secp384r1", "rsa:2048"]);
    }

    #[test]
    fn has_tokens_with_pins_of_their_own() {
        let mut hsm = Tpm2Pkcs11::new();
        hsm.add_token("second");
        tells_tokens_apart(&hsm);
        assert!(hsm.tokens().iter().all(|token| token.serial == "0000000000000000"));
    }

    #[test]
    fn locks_after_three_wrong_pins_and_shows_no_sign_of_it() {
        let hsm = Tpm2Pkcs11::new();
        let list = |pin: &str| hsm.tool(pin).arg("--list-objects").run();
        for _ in 0..Tpm2Pkcs11::TRIES {
            let refused = list("not the PIN");
            assert!(refused.stderr.contains("CKR_PIN_INCORRECT"), "{refused}");
        }
        let locked = list(hsm.pin());
        assert!(locked.stderr.contains("CKR_PIN_LOCKED"), "{locked}");
        assert_eq!(hsm.tpm().wrong_tries(), 3);
        let mut flags: Vec<_> = hsm.login_lines().iter().map(|line| line.split(' ').nth(3).map(str::to_owned)).collect();
        flags.dedup();
        assert_eq!(flags.len(), 1, "{flags:?}");
    }

    #[test]
    fn leaves_nothing_behind() {
        let hsm = Tpm2Pkcs11::new();
        let folders = [hsm.directory().to_owned(), hsm.tpm().directory().to_owned()];
        drop(hsm);
        assert!(folders.iter().all(|folder| !folder.exists()));
    }
}
