//! `exec`: starts the program that gets the copy, passes signals on to it, and ends as it ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use ziti_enroller::error::Error;
use ziti_enroller::flow::World;
use ziti_enroller::flow::exec::{self, Request};
use ziti_enroller::key::Providers;
use ziti_enroller::text::{Hint, Printable, system_words};

use super::process;

/// How often the copy is looked at. Asking beats being told (inotify) here: one `stat` of a file in memory costs a
/// microsecond, needs no second thing to wait for beside signals and the program's end, and cannot miss a change.
const TICK: Duration = Duration::from_millis(500);
/// What stands for the path of the copy.
const COPY: &[u8] = b"{}";
/// Passed on to the program.
const PASSED_ON: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// What was typed.
#[derive(Debug)]
pub struct Exec {
    /// The identity.
    pub identity: PathBuf,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// The program has ended with this code.
#[derive(Debug, serde::Serialize)]
pub struct Ended {
    /// Its exit code.
    pub exit: u8,
}

/// A signal, and whether the terminal has sent it: then the program has it already.
struct Caught {
    signal: i32,
    by_terminal: bool,
}

/// Proves the PIN, starts the program, and takes over what it changes until it ends.
///
/// `pin_fd`: the descriptor that the PIN came from, which is not the program's.
pub fn exec(typed: &Exec, pin_fd: Option<i32>, world: World<'_>, stdout: Option<&File>) -> Result<Ended, Error> {
    if !typed.command.iter().any(|word| has_copy(word)) {
        return Err(Error::Usage {
            message: "the program would not know where the copy of the identity is".into(),
            hint: Some(Hint::say("write {} where its path belongs: ziti-enroller exec IDENTITY -- PROGRAM -i {}")),
        });
    }
    let request = Request { identity: typed.identity.clone(), memory: folders() };
    let proved = exec::prove(&request, &world)?;
    // The token belongs to the program now: no session and no login of ours stays open.
    let world = World { providers: Providers::none(), ..world };
    pin_fd.into_iter().for_each(process::close_inherited);
    let caught = catch()?;
    let mut held = proved.hold()?;
    let words: Vec<OsString> = typed.command.iter().map(|word| with_path(word, held.path().as_os_str())).collect();
    let mut child = match start(&words, stdout) {
        Ok(child) => child,
        Err(error) => {
            held.end(&world);
            let program = Printable::new(&words[0].to_string_lossy());
            return Err(Error::Usage { message: format!("cannot start `{program}`: {}", system_words(&error)), hint: None });
        }
    };
    let status = loop {
        if let Ok(Caught { signal, by_terminal: false }) = caught.recv_timeout(TICK) {
            pass_on(&child, signal);
        }
        if let Some(status) = child.try_wait().map_err(|e| Error::Unexpected(format!("the program is lost: {e}")))? {
            break status;
        }
        held.keep(&world);
    };
    held.end(&world);
    Ok(Ended { exit: ending_alike(status) })
}

/// Where memory may be: what systemd gives a unit, what it gives a user, and what every Linux has.
fn folders() -> Vec<PathBuf> {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
    let of_a_unit = runtime.as_bytes().split(|byte| *byte == b':').map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let of_a_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    of_a_unit.chain(of_a_user).chain([PathBuf::from("/dev/shm")]).filter(|path| path.is_absolute()).collect()
}

fn has_copy(word: &OsStr) -> bool {
    word.as_bytes().windows(COPY.len()).any(|part| part == COPY)
}

/// `word` with `path` in the place of each `{}`.
fn with_path(word: &OsStr, path: &OsStr) -> OsString {
    let mut rest = word.as_bytes();
    let mut written = Vec::new();
    while let Some(at) = rest.windows(COPY.len()).position(|part| part == COPY) {
        written.extend_from_slice(&rest[..at]);
        written.extend_from_slice(path.as_bytes());
        rest = &rest[at + COPY.len()..];
    }
    written.extend_from_slice(rest);
    OsString::from_vec(written)
}

/// From now on nothing ends this process that the program has not heard of.
fn catch() -> Result<Receiver<Caught>, Error> {
    let failed = |error: std::io::Error| Error::Unexpected(format!("signals cannot be caught: {error}"));
    let wanted = PASSED_ON.into_iter().chain([SIGCHLD, SIGXFSZ]);
    let mut signals = SignalsInfo::<WithOrigin>::new(wanted).map_err(failed)?;
    let (sender, caught) = channel();
    std::thread::spawn(move || {
        for origin in signals.forever() {
            // The kernel itself sends what is typed at a terminal, to all programs in its foreground.
            let by_terminal = matches!(origin.cause, Cause::Kernel);
            if sender.send(Caught { signal: origin.signal, by_terminal }).is_err() {
                break;
            }
        }
    });
    Ok(caught)
}

fn start(words: &[OsString], stdout: Option<&File>) -> std::io::Result<Child> {
    // Ours leads to standard error by now.
    let stdout = match stdout {
        Some(stdout) => Stdio::from(stdout.try_clone()?),
        None => Stdio::null(),
    };
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdout(stdout);
    for name in process::names_of_our_own() {
        command.env_remove(name);
    }
    command.spawn()
}

fn pass_on(child: &Child, signal: i32) {
    // It is not waited for yet, so its number is not given to another process.
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(child), Some(signal)) = (child, Signal::from_named_raw(signal).filter(|_| PASSED_ON.contains(&signal))) {
        let _gone = kill_process(child, signal);
    }
}

/// The program's exit code; where a signal has ended it, the same signal ends this process.
fn ending_alike(status: ExitStatus) -> u8 {
    if let Some(signal) = status.signal() {
        drop(signal_hook::low_level::emulate_default_handler(signal));
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _refused = kill_process(rustix::process::getpid(), signal);
        }
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
