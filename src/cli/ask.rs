//! [`Ask`]: where this program gets PINs from, and in which order.
//!
//! `--pin-fd`, `--pin-file`, `pin-source` of the reference, ZITI_ENROLLER_PIN, `$CREDENTIALS_DIRECTORY/ziti-enroller.pin`, a
//! prompt where standard input is a terminal.

//! The first that is there is taken; an unreadable one is an error, not an empty PIN.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use ziti_enroller::error::Error;
use ziti_enroller::key::pin::{PinFor, Question};
use ziti_enroller::key::{Fault, KeyError, Pin, PinOrigin, PinSource};
use ziti_enroller::text::{Hint, shell_word, system_words};

use super::args::PinArgs;
use super::process::Inherited;

/// Longest PIN that is read, in bytes.
const LONGEST: u64 = 4096;
const VARIABLE: &str = "ZITI_ENROLLER_PIN";

/// The program's own source of PINs.
#[derive(Debug)]
pub struct Ask {
    descriptor: Option<i32>,
    file: Option<PathBuf>,
    owner_file: Option<PathBuf>,
    variable: Option<secrecy::SecretSlice<u8>>,
    credential: Option<PathBuf>,
}

impl Ask {
    /// With what was typed and what the process was started with.
    pub fn new(typed: &PinArgs, inherited: &Inherited) -> Self {
        let credential =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|d| Path::new(&d).join("ziti-enroller.pin")).filter(|p| p.exists());
        Self {
            descriptor: typed.pin_fd,
            file: typed.pin_file.clone(),
            owner_file: typed.owner_pin_file.clone(),
            variable: inherited.pin(),
            credential,
        }
    }
}

impl PinSource for Ask {
    fn pin(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        match self.at_hand(question)? {
            None => at_the_terminal(question.place),
            pin => Ok(pin),
        }
    }

    fn at_hand(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        if question.whose == PinFor::Owner {
            let Some(path) = &self.owner_file else { return Ok(None) };
            let origin = PinOrigin::File(path.clone());
            return Ok(Some((Pin::read(read(path, &origin, Rule::OwnersAlone)?, &origin)?, origin)));
        }
        if let Some(n) = self.descriptor {
            let origin = PinOrigin::Descriptor(n);
            let bytes = read(&PathBuf::from(format!("/proc/self/fd/{n}")), &origin, Rule::Anything)?;
            return Ok(Some((Pin::read(bytes, &origin)?, origin)));
        }
        if let Some(path) = &self.file {
            let origin = PinOrigin::File(path.clone());
            return Ok(Some((Pin::read(read(path, &origin, Rule::OwnersAlone)?, &origin)?, origin)));
        }
        if let Some(source) = question.pin_source {
            // RFC 7512 §2.4: a path, or a `file:` URI.
            let path = PathBuf::from(source.strip_prefix("file://").or_else(|| source.strip_prefix("file:")).unwrap_or(source));
            if source.starts_with('|') {
                let fault = Fault::new("pin_unreadable", "pin-source names a command, which is not run");
                return Err(KeyError::Pin(fault.hint(Hint::say("name a file"))));
            }
            let origin = PinOrigin::Reference(path.clone());
            return Ok(Some((Pin::read(read(&path, &origin, Rule::OwnersAlone)?, &origin)?, origin)));
        }
        if let Some(pin) = &self.variable {
            let origin = PinOrigin::Variable(VARIABLE);
            return Ok(Some((Pin::read(pin.expose_secret().to_vec(), &origin)?, origin)));
        }
        if let Some(path) = &self.credential {
            let origin = PinOrigin::Credential(path.clone());
            return Ok(Some((Pin::read(read(path, &origin, Rule::Anything)?, &origin)?, origin)));
        }
        Ok(None)
    }
}

/// Asks the person who started this to agree to `what`.
///
/// # Errors
/// Usage, where nobody can be asked or the answer is not yes.
pub fn must_agree(what: &str) -> Result<(), Error> {
    let refused = |message: &str| {
        let hint = Some(Hint::say("give --force to do it without asking"));
        Err(Error::Usage { message: format!("{message}: {what}"), hint })
    };
    if !std::io::stdin().is_terminal() {
        return refused("nobody can be asked");
    }
    eprint!("{what}? [yes/no] ");
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        _ => refused("not done"),
    }
}

/// Asks the person who started this, if one did.
fn at_the_terminal(place: &str) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let origin = PinOrigin::Terminal;
    match rpassword::prompt_password(format!("PIN of {place}: ")) {
        Ok(pin) => Ok(Some((Pin::read(pin.into_bytes(), &origin)?, origin))),
        Err(error) => {
            let message = format!("cannot read the PIN from {origin}: {}; no try was used", system_words(&error));
            Err(KeyError::Pin(Fault::new("pin_unreadable", message)))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The caller opened it, or systemd made it: its mode says nothing.
    Anything,
    /// Nobody but its owner may write it, and the owner is root or we.
    OwnersAlone,
}

fn read(path: &Path, origin: &PinOrigin, rule: Rule) -> Result<Vec<u8>, KeyError> {
    let unreadable = |e: std::io::Error| {
        let message = format!("cannot read the PIN from {origin}: {}; no try was used", system_words(&e));
        KeyError::Pin(Fault::new("pin_unreadable", message))
    };
    let file = File::open(path).map_err(unreadable)?;
    // The opened file is judged, not its name: nobody can swap it in between.
    let meta = file.metadata().map_err(unreadable)?;
    if rule == Rule::OwnersAlone && meta.is_file() {
        let unsafe_file = |why: &str, run: String| {
            let fault = Fault::new("pin_file_unsafe", format!("PIN file {} {why}; no try was used", path.display()));
            Err(KeyError::Pin(fault.hint(Hint::run("whoever can write it can lock the token", run))))
        };
        let name = shell_word(&path.to_string_lossy());
        if meta.mode() & 0o022 != 0 {
            return unsafe_file("can be written by others than its owner", format!("chmod go-w {name}"));
        }
        if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
            return unsafe_file("belongs to another user", format!("chown \"$(id -u)\" {name}"));
        }
        if meta.mode() & 0o044 != 0 && !on_read_only_mount(&file) {
            log::warn!("PIN file {} can be read by others than its owner", path.display());
        }
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        let message = format!("what {origin} holds is longer than any PIN; no try was used");
        return Err(KeyError::Pin(Fault::new("pin_unreadable", message)));
    }
    Ok(bytes)
}

/// Secrets that a container mounts read-only have the mode that the orchestrator gives them.
fn on_read_only_mount(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|s| s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}
