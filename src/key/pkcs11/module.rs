//! [`Module`]: one PKCS#11 module, loaded and initialised.
//!
//! Loading a module runs its code with our rights, so its path is judged first (threat T34), wherever it came from.
//! C_Initialize happens once per process and is never undone: C_Finalize would end the sessions of everybody else in
//! this process, and a module with threads of its own does not survive being unmapped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;

use super::error::{names, rv, translate};
use super::known;
use super::token::{Seat, Shown, Token, unpadded};
use super::wanted::{About, Wanted};
use crate::files;
use crate::key::call::doing;
use crate::key::uri::UriError;
use crate::key::{Fault, KeyAlgorithm, KeyError, KeyUri};
use crate::text::{Hint, Printable};

/// A loaded module.
#[derive(Debug)]
pub(super) struct Module {
    path: PathBuf,
    pkcs11: Pkcs11,
}

/// The absolute path of the module that `uri` names. `module-name` is a file name without `lib` and `.so` (RFC 7512
/// §2.3): sought in the folder that `module-path` names, else where this machine keeps its modules (`known.rs`).
///
/// # Errors
/// `module_missing` where it names none, with those that are on this machine; `usage` where path and name disagree.
pub(super) fn path_in(uri: &KeyUri) -> Result<PathBuf, KeyError> {
    let said = |name: &str| uri.attribute(name).filter(|value| !value.is_empty());
    let path = said("module-path").map(|path| files::absolute(Path::new(OsStr::from_bytes(path)))).transpose()?;
    match (path, uri.text("module-name").map_err(unreadable)?.filter(|name| !name.is_empty())) {
        (Some(path), None) => Ok(path),
        (Some(path), Some(name)) if path.is_dir() => {
            let found = known::called(name, known::in_folder(&path));
            one_called(name, found, &format!("in {}", path.display()))
        }
        (Some(path), Some(name)) if known::is_called(&path, name) => Ok(path),
        (Some(path), Some(name)) => {
            let message = format!("module-name {:?} is not the name of {}", Printable::new(name), path.display());
            Err(KeyError::Reference(Fault::new("usage", message).hint(Hint::say("leave out one of the two"))))
        }
        (None, Some(name)) => one_called(name, known::called(name, known::on_this_machine()), "on this machine"),
        (None, None) => Err(missing("no PKCS#11 module is named".into())),
    }
}

fn unreadable(error: UriError) -> KeyError {
    KeyError::Reference(Fault::new("usage", error.to_string()))
}

/// The one module of that name among `found`.
fn one_called(name: &str, found: Vec<PathBuf>, place: &str) -> Result<PathBuf, KeyError> {
    let name = Printable::new(name);
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(missing(format!("no module called {name:?} is {place}"))),
        several => {
            let all: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            let message = format!("{} modules called {name:?} are {place}: {}", all.len(), all.join(", "));
            let hint = Hint::say("say which with --module, and leave out module-name");
            Err(KeyError::Unavailable(Fault::new("module_missing", message).hint(hint)))
        }
    }
}

fn missing(message: String) -> KeyError {
    let found = known::on_this_machine();
    let hint = if found.is_empty() {
        Hint::say("install the module of your token (for tests: package softhsm2), and name it with --module")
    } else {
        let found: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
        Hint::say(format!("name one with --module; on this machine: {}", found.join(", ")))
    };
    KeyError::Unavailable(Fault::new("module_missing", message).hint(hint))
}

impl Module {
    /// Loads and initialises the module at `path`, which is absolute.
    ///
    /// # Errors
    /// `module_missing`, `module_not_pkcs11`, `module_refused`.
    pub(super) fn load(path: &Path) -> Result<Self, KeyError> {
        // What was judged is what is loaded, whatever happens to a link on the way meanwhile.
        let target = judge(path)?;
        let loading = doing("dlopen");
        let pkcs11 = Pkcs11::new(target).map_err(|error| unloadable(path, error))?;
        drop(loading);
        // It stays mapped for the life of the process: what C_Initialize has started is never stopped.
        std::mem::forget(pkcs11.clone());
        let module = Self { path: path.to_owned(), pkcs11 };
        let _call = doing("C_Initialize");
        match module.pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Err(error) if rv(&error) != Some(RvError::CryptokiAlreadyInitialized) => {
                Err(module.refused("does not start", &error))
            }
            _ => Ok(module),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// What the slots hold, as the module describes it now.
    pub(super) fn tokens(&self) -> Result<Shown, KeyError> {
        let listing = doing("C_GetSlotList");
        let slots = self.pkcs11.get_slots_with_token().map_err(|e| self.refused("shows no slots", &e))?;
        drop(listing);
        let mut shown = Shown { tokens: Vec::new(), unread: None };
        for slot in slots {
            let _call = doing("C_GetTokenInfo");
            match self.pkcs11.get_token_info(slot) {
                Ok(info) => shown.tokens.push(Token::new(slot, &info)),
                Err(error) => match rv(&error) {
                    // Pulled out since the list was made, or a card of another kind.
                    Some(RvError::TokenNotPresent | RvError::TokenNotRecognized) => {}
                    _ => shown.unread = Some(translate(&error, &format!("{self}, slot {slot:#x}"))),
                },
            }
        }
        Ok(shown)
    }

    /// The same, with what `wanted` needs to know of the slots, where the module is the one that it means.
    ///
    /// # Errors
    /// `token_not_found` for another module; what [`tokens`](Self::tokens) says.
    pub(super) fn tokens_for(&self, wanted: &Wanted) -> Result<Shown, KeyError> {
        if wanted.asks_about_the_module() {
            let _call = doing("C_GetInfo");
            let info = self.pkcs11.get_library_info().map_err(|e| self.refused("does not say what it is", &e))?;
            let version = info.library_version();
            let about = About {
                manufacturer: unpadded(info.manufacturer_id()),
                description: unpadded(info.library_description()),
                version: (version.major(), version.minor()),
            };
            wanted.must_be_of(&about, &self.to_string())?;
        }
        let mut shown = self.tokens()?;
        if wanted.asks_about_seats() {
            for token in &mut shown.tokens {
                let _call = doing("C_GetSlotInfo");
                // A slot that does not say what it is called is not the one that was named.
                token.seat = self.pkcs11.get_slot_info(token.slot).ok().map(|info| Seat {
                    description: unpadded(info.slot_description()),
                    manufacturer: unpadded(info.manufacturer_id()),
                });
            }
        }
        Ok(shown)
    }

    fn refused(&self, what: &str, error: &Error) -> KeyError {
        let (native, call) = names(error);
        let mut fault = Fault::new("module_refused", format!("{self} {what}: {call} failed"));
        fault.native = native.map(String::from);
        KeyError::Unavailable(with_setting(fault, &self.path))
    }

    /// Whether the token can do `mechanism`; a token that does not list what it can do is believed to.
    pub(super) fn can(&self, token: &Token, mechanism: MechanismType) -> bool {
        self.first_missing(token, &[mechanism]).is_none()
    }

    /// The first of these that the token does not list.
    fn first_missing(&self, token: &Token, mechanisms: &[MechanismType]) -> Option<MechanismType> {
        let _call = doing("C_GetMechanismList");
        let listed = self.pkcs11.get_mechanism_list(token.slot).unwrap_or_default();
        mechanisms.iter().find(|m| !listed.is_empty() && !listed.contains(m)).copied()
    }

    /// Whether the token says that it can make a key of this kind, and sign with it.
    ///
    /// # Errors
    /// `key_type_unsupported`.
    pub(super) fn can_make(&self, token: &Token, algorithm: KeyAlgorithm) -> Result<(), KeyError> {
        let (make, sign, bits) = match algorithm {
            KeyAlgorithm::P256 => (MechanismType::ECC_KEY_PAIR_GEN, MechanismType::ECDSA, 256),
            KeyAlgorithm::P384 => (MechanismType::ECC_KEY_PAIR_GEN, MechanismType::ECDSA, 384),
            KeyAlgorithm::Rsa2048 => (MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS, 2048),
            KeyAlgorithm::Rsa3072 => (MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS, 3072),
            KeyAlgorithm::Rsa4096 => (MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS, 4096),
        };
        let lacks = |what: String| {
            let fault = Fault::new("key_type_unsupported", format!("{token} cannot make a key of type {algorithm}: {what}"));
            Err(KeyError::Unavailable(fault.hint(Hint::say("ask for another type with --key-alg"))))
        };
        if let Some(mechanism) = self.first_missing(token, &[make, sign]) {
            return lacks(format!("it has no {mechanism}"));
        }
        let _call = doing("C_GetMechanismInfo");
        if let Ok(info) = self.pkcs11.get_mechanism_info(token.slot, make) {
            let (least, most) = (info.min_key_size(), info.max_key_size());
            // Some modules say nothing (0) or count bytes here: only a plausible number of bits is believed.
            let plausible = most >= if algorithm.curve().is_some() { 160 } else { 1024 };
            if plausible && (bits < least || bits > most) {
                return lacks(format!("it makes {least} to {most} bits"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "module {}", self.path.display())
    }
}

/// The file that `path` leads to; refused where it is no module, or where somebody else could have put it there.
fn judge(path: &Path) -> Result<PathBuf, KeyError> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(missing(format!("there is no module {}", path.display())));
        }
        Err(error) => {
            let message = format!("module {} cannot be reached ({})", path.display(), error.kind());
            return Err(KeyError::Unavailable(Fault::new("module_refused", message)));
        }
    };
    let us = rustix::process::geteuid().as_raw();
    for place in target.ancestors() {
        let unsafe_to_load = |why: &str| {
            let message = format!("module {} is not loaded: {} {why}", path.display(), place.display());
            let hint = Hint::say("it must belong to root or to you, with no folder on its path that others may write to");
            Err(KeyError::Unavailable(Fault::new("module_refused", message).hint(hint)))
        };
        let metadata = match fs::metadata(place) {
            Ok(metadata) => metadata,
            Err(error) => return unsafe_to_load(&format!("cannot be looked at ({})", error.kind())),
        };
        if place == target && !metadata.is_file() {
            return Err(not_pkcs11(path, "it is not a regular file"));
        }
        let (mode, owner) = (metadata.mode(), metadata.uid());
        // In a folder with the sticky bit nobody replaces what is not theirs.
        let sticky = metadata.is_dir() && mode & 0o1000 != 0;
        if mode & 0o002 != 0 && !sticky {
            return unsafe_to_load("may be written by everyone");
        }
        if owner != 0 && owner != us {
            return unsafe_to_load("belongs to another user");
        }
    }
    // The dynamic loader would say the same of this as of a file that is no library.
    if let Err(error) = fs::File::open(&target) {
        let message = format!("module {} cannot be read ({})", path.display(), error.kind());
        return Err(KeyError::Unavailable(Fault::new("module_refused", message)));
    }
    Ok(target)
}

fn not_pkcs11(path: &Path, why: &str) -> KeyError {
    KeyError::Unavailable(Fault::new("module_not_pkcs11", format!("{} is not a PKCS#11 module: {why}", path.display())))
}

fn unloadable(path: &Path, error: Error) -> KeyError {
    match error {
        Error::MissingSymbol(name) => not_pkcs11(path, &format!("it has no {name}")),
        // The dynamic loader's own words: a missing library, another architecture, no ELF file.
        Error::LibraryLoading(error) => {
            let message = format!("{} cannot be loaded as a PKCS#11 module", path.display());
            KeyError::Unavailable(Fault::new("module_not_pkcs11", message).because(error))
        }
        error => {
            let (native, call) = names(&error);
            let mut fault = Fault::new("module_refused", format!("module {} does not start: {call} failed", path.display()));
            fault.native = native.map(String::from);
            KeyError::Unavailable(with_setting(fault, path))
        }
    }
}

/// What this module reads, where its failure may come from there.
fn with_setting(fault: Fault, module: &Path) -> Fault {
    match known::setting(module) {
        Some(setting) => fault.hint(Hint::say(setting)),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: &KeyError) -> &'static str {
        error.fault().map_or("", |f| f.code)
    }

    #[test]
    fn says_what_is_wrong_with_a_path() {
        for (path, expected) in [
            ("/nonexistent/libsofthsm2.so", "module_missing"),
            ("/etc/passwd/x.so", "module_missing"),
            ("/usr", "module_not_pkcs11"),
            ("/etc/passwd", "module_not_pkcs11"),
        ] {
            assert_eq!(code(&Module::load(Path::new(path)).unwrap_err()), expected, "{path}");
        }
    }

    #[test]
    fn refuses_a_module_that_everyone_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("ziti-enroller-module-{}.so", std::process::id()));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let result = Module::load(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        let by_group = Module::load(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(code(&result.unwrap_err()), "module_refused");
        assert_eq!(code(&by_group.unwrap_err()), "module_not_pkcs11");
    }

    #[test]
    fn a_library_that_is_no_module_is_called_so() {
        let libc = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"];
        let path = libc.iter().map(Path::new).find(|p| p.exists()).unwrap();
        let error = Module::load(path).unwrap_err();
        assert!(error.to_string().contains("it has no C_GetFunctionList"), "{error}");
    }
}
