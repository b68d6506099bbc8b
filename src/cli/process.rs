//! First thing in `main`: nothing of a secret may stay in the environment, a core dump or a panic message.
//!
//! A variable is not erased by `remove_var`: that is `unsafe` in edition 2024, and `/proc/PID/environ` shows it still. So
//! the program starts itself anew once without it, and hands the value on in an inherited memfd: about 3 ms, and only
//! where such a variable is set.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;

use rustix::fs::MemfdFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroizing;
use ziti_enroller::key::{KeyProvider, Providers};

const PIN: &str = "ZITI_ENROLLER_PIN";
const TOKEN: &str = "ZITI_ENROLL_TOKEN";
/// Names the memfds of the second start: `pin=<fd>,token=<fd>`.
const HANDED_ON: &str = "ZITI_ENROLLER_HANDED_ON";
/// Ends the program at once with this exit code; see [`end_at_once`].
const END_WITH: &str = "ZITI_ENROLLER_END_WITH";
/// Longest value that is handed on, in bytes.
const LONGEST: u64 = 128 * 1024;

/// What the first start had in its environment.
#[derive(Debug, Default)]
pub struct Inherited {
    pin: Option<SecretSlice<u8>>,
    token: Option<SecretSlice<u8>>,
}

impl Inherited {
    /// The PIN of ZITI_ENROLLER_PIN.
    pub fn pin(&self) -> Option<SecretSlice<u8>> {
        self.pin.as_ref().map(|p| p.expose_secret().to_vec().into())
    }

    /// The token of ZITI_ENROLL_TOKEN.
    pub fn token(&self) -> Option<SecretString> {
        self.token.as_ref().map(|t| SecretString::from(String::from_utf8_lossy(t.expose_secret()).into_owned()))
    }
}

/// Forbids core dumps, and panics that show data; starts anew without secrets in the environment where there are any.
pub fn leave_nothing_behind() -> Inherited {
    if let Some(code) = std::env::var(END_WITH).ok().and_then(|code| code.parse::<u8>().ok()) {
        std::process::exit(code.into());
    }
    // Before any secret is read. exec resets the second of them, so each start does both; where they are refused there is
    // nothing more to do.
    let _refused = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _refused = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let silence = wanted_silence();
    if [PIN, TOKEN].iter().any(|name| std::env::var_os(name).is_some()) || !silence.is_empty() {
        start_anew(&silence);
    }
    let inherited = handed_on();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        // The payload may hold anything.
        eprintln!("error: unexpected: a panic at {place}");
    }));
    inherited
}

/// Moves the result to a copy of standard output, and standard output to standard error: a PKCS#11 module that prints
/// cannot spoil the result. Returns the copy.
pub fn keep_stdout_for_the_result() -> Option<File> {
    let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).ok()?;
    let _closed = rustix::stdio::dup2_stdout(rustix::stdio::stderr());
    Some(File::from(copy))
}

/// What keeps the libraries of the providers that this command line may use from printing, and is not set yet. A command line
/// that names no provider and no identity uses none of those.
fn wanted_silence() -> Vec<(&'static str, &'static str)> {
    let asked: Vec<OsString> = std::env::args_os().skip(1).chain(std::env::var_os("ZITI_ENROLLER_PROVIDER")).collect();
    let asked: Vec<_> = asked.iter().map(|a| a.to_string_lossy()).collect();
    let providers = Providers::compiled_in();
    let may_use = |p: &dyn KeyProvider| {
        asked.iter().any(|a| *a == p.name() || a.contains(&format!("{}:", p.scheme())) || a.ends_with(".json") || *a == "--all")
    };
    let wanted = providers.iter().filter(|p| may_use(*p)).flat_map(|p| p.silence().iter().copied());
    wanted.filter(|(name, _)| std::env::var_os(name).is_none()).collect()
}

/// Variables that this program has set for itself: a program that it starts does not get them.
pub fn names_of_our_own() -> Vec<&'static str> {
    if std::env::var_os(HANDED_ON).is_none() {
        return Vec::new();
    }
    let providers = Providers::compiled_in();
    let silence: Vec<_> = providers.iter().flat_map(|p| p.silence().iter().copied()).collect();
    let ours = silence.into_iter().filter(|(name, value)| std::env::var_os(name).is_some_and(|set| set == *value));
    ours.map(|(name, _)| name).chain([HANDED_ON]).collect()
}

/// Ends the process with `code` though a thread of it hangs in a call of C: what `exit` runs at the end could wait for a lock
/// that the thread holds. Replacing the program ends all threads and runs nothing.
pub fn end_at_once(code: u8) -> ! {
    if let Ok(program) = std::env::current_exe() {
        let _error = std::process::Command::new(program).env_clear().env(END_WITH, code.to_string()).exec();
    }
    std::process::exit(code.into())
}

/// Returns only where it cannot: then the value stays where it was put, which is said.
fn start_anew(silence: &[(&str, &str)]) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut handed = Vec::new();
    // Held until exec: the new program inherits them.
    let mut held: Vec<OwnedFd> = Vec::new();
    for (name, key) in [(PIN, "pin"), (TOKEN, "token")] {
        if let Some(value) = std::env::var_os(name) {
            let value = Zeroizing::new(value.as_bytes().to_vec());
            let Some(fd) = memfd(&value) else { return };
            handed.push(format!("{key}={}", fd.as_raw_fd()));
            held.push(fd);
        }
    }
    let mut arguments = std::env::args_os();
    let zero = arguments.next().unwrap_or_else(|| OsString::from("ziti-enroller"));
    let mut again = std::process::Command::new(program);
    again
        .arg0(zero)
        .args(arguments)
        .env_remove(PIN)
        .env_remove(TOKEN)
        .env(HANDED_ON, handed.join(","))
        .envs(silence.iter().copied());
    let error = again.exec();
    eprintln!("warning: cannot start anew without secrets in the environment: {error}");
}

fn memfd(value: &[u8]) -> Option<OwnedFd> {
    // Without CLOEXEC: it is to be inherited.
    let fd = rustix::fs::memfd_create("ziti-enroller", MemfdFlags::empty()).ok()?;
    let mut file = File::from(fd);
    file.write_all(value).ok()?;
    Some(file.into())
}

fn handed_on() -> Inherited {
    let mut inherited = Inherited::default();
    let Some(list) = std::env::var(HANDED_ON).ok() else { return inherited };
    for (key, number) in list.split(',').filter_map(|part| part.split_once('=')) {
        let value = number.parse::<u32>().ok().and_then(take);
        match key {
            "pin" => inherited.pin = value,
            "token" => inherited.token = value,
            _ => {}
        }
    }
    inherited
}

/// Closes a descriptor that was inherited, so that no program that is started gets it; never one of the first three.
pub fn close_inherited(number: i32) {
    if number > 2 {
        // One that is closed already is what we want.
        let _closed = nix::unistd::close(number);
    }
}

/// Reads a memfd of ours, empties it and closes it, so that no child of ours finds anything in it.
fn take(number: u32) -> Option<SecretSlice<u8>> {
    let path = format!("/proc/self/fd/{number}");
    let ours = std::fs::read_link(&path).is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"/memfd:ziti-enroller"));
    if !ours {
        return None;
    }
    let mut value = Vec::new();
    File::open(&path).ok()?.take(LONGEST).read_to_end(&mut value).ok()?;
    if let Ok(file) = OpenOptions::new().write(true).open(&path) {
        drop(file.set_len(0));
    }
    close_inherited(i32::try_from(number).ok()?);
    Some(value.into())
}
