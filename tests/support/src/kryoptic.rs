//! kryoptic with tokens of one's own: a second opinion beside SoftHSM. It locks the PIN at the tenth wrong one, shows in
//! its flags after the seventh that this is near, and takes PINs of 8 characters and more.

use crate::p11fault::{Tokens, initialise, set_pin, target, text};
use crate::softhsm::SoftToken;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A private store with at least one token; removed when dropped.
#[derive(Debug)]
pub struct Kryoptic {
    folder: TempDir,
    tokens: Vec<SoftToken>,
}

impl Default for Kryoptic {
    fn default() -> Self {
        Self::new()
    }
}

impl Kryoptic {
    /// The wrong PIN that locks the user out.
    pub const TRIES: usize = 10;

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
        let made = Self { folder, tokens: Vec::new() };
        made.write_conf("");
        made
    }

    /// Makes another token with this label.
    pub fn add_token(&mut self, label: &str) -> SoftToken {
        self.add(SoftToken::of(label, PathBuf::new()))
    }

    fn add(&mut self, mut token: SoftToken) -> SoftToken {
        let number = self.tokens.len() + 1;
        let mut conf = fs::read_to_string(self.conf()).expect("it is ours");
        let place = self.folder.path().join(format!("token-{number}.sql"));
        conf += &format!("[[slots]]\nslot = {number}\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", place.display());
        self.write_conf(&conf);
        token.pin_file = self.folder.path().join(format!("pin-{number}"));
        let token = initialise(&self.real_module(), &self.settings(), &["--slot", &number.to_string()], token);
        self.tokens.push(token.clone());
        token
    }

    /// The security officer gives the user of the first token the old PIN again, which unlocks it.
    pub fn unlock(&self) {
        set_pin(&self.real_module(), &self.settings(), &["--slot", "1"], &self.tokens[0]);
    }

    /// What `KRYOPTIC_CONF` names.
    pub fn conf(&self) -> PathBuf {
        self.folder.path().join("kryoptic.conf")
    }

    fn write_conf(&self, text: &str) {
        fs::write(self.conf(), text).expect("the temporary folder is writable");
    }
}

impl Tokens for Kryoptic {
    const MAKE: &'static str = "kryoptic";

    fn tokens(&self) -> &[SoftToken] {
        &self.tokens
    }

    fn directory(&self) -> &Path {
        self.folder.path()
    }

    fn real_module(&self) -> PathBuf {
        let module = target().join("kryoptic/libkryoptic.so");
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/kryoptic/build");
        assert!(module.is_file(), "{} is missing: {build} {}", module.display(), target().display());
        module
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![("KRYOPTIC_CONF".into(), text(self.conf()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p11fault::tests::{makes_and_uses_keys, tells_tokens_apart};

    #[test]
    fn makes_and_uses_p256() {
        makes_and_uses_keys(&Kryoptic::new(), &["EC:prime256v1"]);
    }

    #[test]
    fn makes_and_uses_p384() {
        makes_and_uses_keys(&Kryoptic::new(), &["EC:secp384r1"]);
    }

    #[test]
    fn makes_and_uses_rsa2048() {
        makes_and_uses_keys(&Kryoptic::new(), &["rsa:2048"]);
    }

    #[test]
    fn has_tokens_with_pins_of_their_own() {
        let mut hsm = Kryoptic::new();
        hsm.add_token("second");
        tells_tokens_apart(&hsm);
    }

    #[test]
    fn locks_at_the_tenth_wrong_pin_and_can_be_unlocked() {
        let hsm = Kryoptic::new();
        let list = |pin: &str| hsm.tool(pin).arg("--list-objects").run();
        for n in 1..=Kryoptic::TRIES {
            let said = list("not the PIN").stderr;
            let expected = if n < Kryoptic::TRIES { "CKR_PIN_INCORRECT" } else { "CKR_PIN_LOCKED" };
            assert!(said.contains(expected), "{n}: {said}");
        }
        let locked = list(hsm.pin());
        assert!(locked.stderr.contains("CKR_PIN_LOCKED"), "{locked}");
        // What a caller could see before each try: nothing, count low after the seventh, final try, locked.
        let flags =
            |line: &String| line.split(' ').find_map(|w| w.strip_prefix("flags=0x")).map(|f| u64::from_str_radix(f, 16).unwrap());
        let seen: Vec<_> = hsm.login_lines().iter().map(|line| flags(line).unwrap() >> 16 & 0b111).collect();
        assert_eq!(seen, [0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4]);
        hsm.unlock();
        list(hsm.pin()).success();
    }

    #[test]
    fn leaves_nothing_behind() {
        let hsm = Kryoptic::new();
        let folder = hsm.directory().to_owned();
        assert!(hsm.pin_file().starts_with(&folder) && folder.exists());
        drop(hsm);
        assert!(!folder.exists());
    }
}
