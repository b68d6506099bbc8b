//! The program under test as a child: an environment of its own, a deadline, and all that it said.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A command line with what surrounds it. The child sees `PATH`, an empty `HOME` of its own, and what is given here.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    folder: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Program {
    /// The program at `path`; a bare name is looked up in `PATH`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path_variable = std::env::var_os("PATH").unwrap_or_default();
        Self {
            path: path.into(),
            args: Vec::new(),
            environment: BTreeMap::from([("PATH".into(), path_variable)]),
            folder: None,
            stdin: None,
            limit: Duration::from_secs(60),
        }
    }

    /// One argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.args.push(argument.as_ref().into());
        self
    }

    /// Several arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(arguments.into_iter().map(|argument| argument.as_ref().into()));
        self
    }

    /// Has another program start this one, which gets the whole command line after `arguments`.
    pub fn under<A: AsRef<OsStr>>(self, starter: PathBuf, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.within([starter.into_os_string()].into_iter().chain(arguments))
    }

    /// One variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    /// Several variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(self, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        variables.into_iter().fold(self, |program, (name, value)| program.env(name, value))
    }

    /// The folder that it starts in.
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// What it reads from stdin; without this, stdin is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may take (60 s unless told otherwise); after that it is killed and the test fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Has another program start it: what `line` begins with, which gets the rest of `line` and then the command line.
    pub fn within<A: Into<OsString>>(mut self, line: impl IntoIterator<Item = A>) -> Self {
        let mut line = line.into_iter().map(Into::into);
        let outer = line.next().expect("a line that starts a program has at least its name");
        let own = std::iter::once(std::mem::replace(&mut self.path, outer.into()).into_os_string()).chain(self.args);
        self.args = line.chain(own).collect();
        self
    }

    /// Its command line.
    pub fn words(&self) -> Vec<OsString> {
        std::iter::once(self.path.clone().into_os_string()).chain(self.args.iter().cloned()).collect()
    }

    /// Its environment, as far as it was said; HOME comes to that.
    pub fn variables(&self) -> BTreeMap<OsString, OsString> {
        self.environment.clone()
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().env("HOME", home.path()).envs(&self.environment);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", self.path.display()));
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), self.stdin) {
            // A child that does not read its stdin is no fault of the test.
            thread::spawn(move || pipe.write_all(&bytes).ok());
        }
        let (closed, pipes) = channel();
        gather(child.stdout.take(), Stream::Out, closed.clone());
        gather(child.stderr.take(), Stream::Err, closed);
        let words = std::iter::once(self.path.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        Running { child, line, started, limit: self.limit, pipes, _home: home }
    }
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    Out,
    Err,
}

fn gather(pipe: Option<impl Read + Send + 'static>, stream: Stream, closed: Sender<(Stream, Vec<u8>)>) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        closed.send((stream, bytes)).ok();
    });
}

/// A child that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    started: Instant,
    limit: Duration,
    pipes: Receiver<(Stream, Vec<u8>)>,
    _home: TempDir,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().ok();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// SIGINT.
    pub fn interrupt(&self) {
        self.send(Signal::INT);
    }

    /// SIGABRT.
    pub fn abort(&self) {
        self.send(Signal::ABORT);
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, signal).ok();
        }
    }

    /// Waits for its end; kills it at the limit, and panics with what it had said.
    pub fn wait(mut self) -> Outcome {
        let (mut out, mut err) = (None, None);
        let mut status = None;
        while status.is_none() {
            // A closed pipe is the quickest news of an end; a child may also close its pipes and live on.
            match self.pipes.recv_timeout(Duration::from_millis(5)) {
                Ok(pipe) => keep(pipe, &mut out, &mut err),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(1)),
            }
            status = self.child.try_wait().expect("a child of ours can be waited for");
            if out.is_some() && err.is_some() && status.is_none() {
                thread::sleep(Duration::from_micros(200));
            }
            if status.is_none() && self.started.elapsed() > self.limit {
                break;
            }
        }
        let wall = self.started.elapsed();
        if status.is_none() {
            self.kill();
        }
        // What a grandchild that inherited the pipes says later is nobody's.
        let patience = Instant::now() + Duration::from_secs(2);
        while out.is_none() || err.is_none() {
            match self.pipes.recv_timeout(patience.saturating_duration_since(Instant::now())) {
                Ok(pipe) => keep(pipe, &mut out, &mut err),
                Err(_) => break,
            }
        }
        let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        let outcome = Outcome::new(&self.line, status, text(out), text(err), wall);
        assert!(status.is_some(), "not at its end after {:?}: {outcome}", self.limit);
        outcome
    }
}

fn keep((stream, bytes): (Stream, Vec<u8>), out: &mut Option<Vec<u8>>, err: &mut Option<Vec<u8>>) {
    match stream {
        Stream::Out => *out = Some(bytes),
        Stream::Err => *err = Some(bytes),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a child ended. `Display` is for the message of an assertion.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line.
    pub line: String,
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Lossy UTF-8.
    pub stdout: String,
    /// Lossy UTF-8.
    pub stderr: String,
    /// From before the start to the news of the end.
    pub wall: Duration,
}

impl Outcome {
    fn new(line: &str, status: Option<ExitStatus>, stdout: String, stderr: String, wall: Duration) -> Self {
        let code = status.and_then(|status| status.code());
        let signal = status.and_then(|status| status.signal());
        Self { line: line.into(), code, signal, stdout, stderr, wall }
    }

    /// Itself, if it ended with 0; else a panic with all that it said.
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, signal, stdout, stderr, wall } = self;
        write!(
            f,
            "`{line}` ended with code {code:?}, signal {signal:?} after {wall:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---"
        )
    }
}

/// The path of a tool that a test needs.
///
/// # Panics
/// Names the package when the tool is not on `PATH`.
pub fn require(tool: &str, package: &str) -> PathBuf {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&places).map(|folder| folder.join(tool)).find(|path| is_program(path));
    found.unwrap_or_else(|| panic!("`{tool}` is missing: apt-get install {package}"))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_sees_only_what_it_is_given() {
        let seen = Program::new("/usr/bin/env").env("GIVEN", "1").run().success();
        let mut names: Vec<&str> = seen.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["GIVEN", "HOME", "PATH"]);
    }

    #[test]
    fn tells_code_signal_and_both_streams() {
        let ended = Program::new("/bin/sh").args(["-c", "cat; echo no >&2; exit 7"]).stdin("yes").run();
        assert_eq!((ended.code, ended.signal, &*ended.stdout, &*ended.stderr), (Some(7), None, "yes", "no\n"));
        let killed = Program::new("/bin/sh").args(["-c", "kill -9 $$"]).run();
        assert_eq!((killed.code, killed.signal), (None, Some(9)));
    }

    #[test]
    fn signals_reach_a_running_child() {
        let running = Program::new("/bin/sh").args(["-c", "exec sleep 60"]).start();
        running.terminate();
        assert_eq!(running.wait().signal, Some(15));
    }

    #[test]
    #[should_panic(expected = "not at its end after")]
    fn child_that_hangs_is_killed_at_the_limit() {
        Program::new("/bin/sh").args(["-c", "echo early; sleep 60"]).limit(Duration::from_millis(100)).run();
    }

    #[test]
    #[should_panic(expected = "`no-such-tool` is missing: apt-get install no-such-package")]
    fn names_the_package_of_a_missing_tool() {
        require("no-such-tool", "no-such-package");
    }
}
