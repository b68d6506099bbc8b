//! The cost of one process, its children included. `getrusage` tells peak memory of all children of a process together,
//! so each measured one has a parent of its own: this very program, started with [`INNER`] as its first argument.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use ziti_enroller_support::{Outcome, Program};

/// The first argument of the parent.
pub const INNER: &str = "measured-child";

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From before its start to after its end.
    pub wall: Duration,
    /// On all processors, user and system.
    pub cpu: Duration,
    /// KiB of memory at its peak.
    pub peak: u64,
}

/// Runs the command, and what the environment of its child is.
pub fn run(command: &[OsString], env: &[(String, String)], folder: &Path) -> (Measured, Outcome) {
    let figures = folder.join("figures");
    let program = Program::new(std::env::current_exe().expect("a running program knows its path"));
    let outcome = program.arg(INNER).arg(&figures).args(command).envs(env.iter().cloned()).current_dir(folder).run();
    let text = fs::read_to_string(&figures).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let values: Vec<u64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [wall, cpu, peak] = values[..] else { panic!("three figures, not {text:?}") };
    (Measured { wall: Duration::from_micros(wall), cpu: Duration::from_micros(cpu), peak }, outcome)
}

/// The parent of a measured process: writes three numbers to the file that is its next argument, and runs the rest.
pub fn inner(words: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<String> = words.collect();
    let [figures, program, arguments @ ..] = &words[..] else { return ExitCode::from(2) };
    let started = Instant::now();
    let status = Command::new(program).args(arguments).status();
    let wall = started.elapsed();
    let used = match getrusage(UsageWho::RUSAGE_CHILDREN) {
        Ok(used) => used,
        Err(error) => {
            eprintln!("getrusage: {error}");
            return ExitCode::from(2);
        }
    };
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let cpu = micros(used.user_time()) + micros(used.system_time());
    if let Err(error) = fs::write(figures, format!("{} {cpu} {}\n", wall.as_micros(), used.max_rss())) {
        eprintln!("{figures}: {error}");
        return ExitCode::from(2);
    }
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)),
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(127)
        }
    }
}
