//! What some methods put into the request and no file of ours holds: a password, the token of an identity provider.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;
use ziti_enroller::error::Error;
use ziti_enroller::files;
use ziti_enroller::flow::Watch;
use ziti_enroller::jwt::{Brings, IdpToken, Method, UnverifiedToken};
use ziti_enroller::text::system_words;

use super::enroll::{read_token, usage, usage_with};

/// Longest password file that is read, in bytes.
const LONGEST: u64 = 4096;
/// What controllers take, in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 5..=100;

/// The options.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SecretArgs {
    /// Enroll with this token of an identity provider, at the controller of a network token: a file, or `-`
    #[arg(long, value_name = "FILE|-", env = "ZITI_ENROLLER_IDP_TOKEN", hide_env = true)]
    idp_token: Option<OsString>,
    /// Read the new password from this file, for tokens of method updb [default: asked for]
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_PASSWORD_FILE", hide_env = true)]
    password_file: Option<PathBuf>,
    /// Read the new password from this open descriptor
    #[arg(long, value_name = "N", env = "ZITI_ENROLLER_PASSWORD_FD", hide_env = true, value_parser = super::Descriptor)]
    password_fd: Option<i32>,
}

impl SecretArgs {
    /// The token of the identity provider that was named.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn idp_token(&self, watch: &dyn Watch) -> Result<Option<IdpToken>, Error> {
        let Some(named) = &self.idp_token else { return Ok(None) };
        let (text, _) = read_token(named, watch)?;
        IdpToken::parse(&text).map(Some).map_err(Error::Token)
    }

    /// Whether it is standard input that it is read from.
    pub fn reads_stdin(&self) -> bool {
        self.idp_token.as_ref().is_some_and(|named| named == "-")
    }

    /// What goes into the request of a method.
    ///
    /// # Errors
    /// Usage, and files that cannot be read.
    pub fn for_request(&self, method: Method, idp: Option<&IdpToken>) -> Result<Option<SecretString>, Error> {
        let has_password = self.password_file.is_some() || self.password_fd.is_some();
        match method.brings() {
            Brings::Password => self.password().map(Some),
            _ if has_password => {
                Err(usage(format!("a password is for tokens of method updb, and this is one of {}", method.name())))
            }
            Brings::IdpToken => Ok(idp.map(|token| token.compact().clone())),
            Brings::Csr | Brings::Certificate | Brings::Nothing => Ok(None),
        }
    }

    /// From a descriptor, a file, or a person, who types it twice.
    fn password(&self) -> Result<SecretString, Error> {
        let password = match (&self.password_fd, &self.password_file) {
            (Some(n), _) => from_file(Path::new(&format!("/proc/self/fd/{n}")))?,
            (None, Some(file)) => {
                if file.metadata().is_ok_and(|m| m.is_file() && m.mode() & 0o044 != 0) {
                    log::warn!("password file {} can be read by others than its owner", file.display());
                }
                from_file(file)?
            }
            (None, None) => from_terminal()?,
        };
        let length = password.expose_secret().chars().count();
        if !LENGTHS.contains(&length) || password.expose_secret().chars().any(char::is_control) {
            let message = "the controller takes a password of 5 to 100 characters, and none that cannot be typed";
            return Err(usage_with(message, "choose another one; nothing was sent"));
        }
        Ok(password)
    }
}

/// One final line end is not of it.
fn from_file(path: &Path) -> Result<SecretString, Error> {
    let bytes = Zeroizing::new(files::read_file(path, LONGEST).map_err(Error::Read)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| usage("the password is not text in UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

fn from_terminal() -> Result<SecretString, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(usage_with("the new password is not given, and nobody can be asked", "give it with --password-file"));
    }
    let ask = |question: &str| {
        let typed = rpassword::prompt_password(question).map(SecretString::from);
        typed.map_err(|e| usage(format!("cannot read the password from the terminal: {}", system_words(&e))))
    };
    let (first, second) = (ask("New password: ")?, ask("The same once more: ")?);
    if first.expose_secret() != second.expose_secret() {
        return Err(usage_with("the two passwords differ", "run the same command again; nothing was sent"));
    }
    Ok(first)
}

/// The token that enrolls, where `idp` goes with it.
///
/// # Errors
/// A token that enrolls by itself.
pub fn together(token: UnverifiedToken, idp: Option<&IdpToken>) -> Result<UnverifiedToken, Error> {
    match idp {
        Some(idp) => token.with_idp_token(idp).map_err(Error::Token),
        None => Ok(token),
    }
}
