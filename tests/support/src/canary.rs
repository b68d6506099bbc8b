//! A secret that must be nowhere, and the one search that looks for it: in the command line and the environment of a program
//! and its children, in all that they say, show, write and leave behind, and on the bus of a TPM.
//!
//! What is excepted is said here and nowhere else, and each exception is as narrow as what makes it one:
//!
//! - the command line and the environment that the test itself gives, to the letter, and strace that carries them;
//! - the memfd in which the program hands a variable on to itself: named so, holding the secret and nothing else, written
//!   once, by a process that has the variable and starts a program afterwards;
//! - the files that a test names as the place where the secret belongs.

mod forms;
mod trace;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::program::{Outcome, Program, Running, require};
use crate::swtpm::Proxy;

pub use forms::Canary;
use trace::Call;
pub use trace::Trace;
use watch::{Shown, Watch};

/// What a descriptor of the program's own memfd is called.
const HANDED_ON: &[u8] = b"/memfd:ziti-enroller (deleted)";

impl Canary {
    /// The form in which it went over a bus first, and with which command.
    pub fn seen_on(&self, bus: &Proxy) -> Option<(&'static str, String)> {
        bus.exchanges().iter().find_map(|exchange| {
            let form = self.found_in(&exchange.command).or_else(|| self.found_in(&exchange.answer))?;
            Some((form, format!("TPM_CC {:#x}", exchange.code)))
        })
    }
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sink {
    /// The command line of a program that is started.
    StartedWith,
    /// The environment of a program that is started.
    StartedIn,
    /// `/proc/PID/cmdline`.
    CommandLine,
    /// `/proc/PID/environ`.
    Environment,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// What a terminal shows.
    Terminal,
    /// A file that is left.
    Content,
    /// The name of a file that is left, or what a symbolic link names.
    Name,
    /// What a system call writes or sends, or the path that it makes or opens.
    Call,
    /// A command or an answer on the bus of a TPM.
    Bus,
}

impl Sink {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::StartedWith,
        Self::StartedIn,
        Self::CommandLine,
        Self::Environment,
        Self::Stdout,
        Self::Stderr,
        Self::Terminal,
        Self::Content,
        Self::Name,
        Self::Call,
        Self::Bus,
    ];
}

/// A secret where it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Where.
    pub sink: Sink,
    /// Which secret.
    pub secret: &'static str,
    /// In which form.
    pub form: &'static str,
    /// More closely: a path, a call.
    pub at: String,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) in {:?}: {}", self.secret, self.form, self.sink, self.at)
    }
}

/// What is looked for, and where.
#[derive(Debug)]
pub struct Search<'a> {
    secrets: Vec<Canary>,
    /// Everything is in here that a run may leave: `home`, `tmp` and what the test has put there.
    folder: &'a Path,
    folders: Vec<PathBuf>,
    belongs: Vec<PathBuf>,
    bus: Option<&'a Proxy>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Found {
    /// How it ended.
    pub outcome: Outcome,
    /// Where the secrets are.
    pub hits: Vec<Hit>,
    /// How often the program handed a secret on to itself.
    pub handed_on: usize,
    /// How many different command lines and environments /proc showed.
    pub shown: usize,
    /// The system calls.
    pub trace: Trace,
}

impl Found {
    /// The sinks in which something was found, each once.
    pub fn sinks(&self) -> Vec<Sink> {
        let mut sinks: Vec<Sink> = self.hits.iter().map(|hit| hit.sink).collect();
        sinks.sort_unstable();
        sinks.dedup();
        sinks
    }
}

impl<'a> Search<'a> {
    /// For these secrets, in all that is in this folder after a run.
    pub fn new(folder: &'a Path, secrets: impl IntoIterator<Item = Canary>) -> Self {
        Self { secrets: secrets.into_iter().collect(), folder, folders: vec![folder.to_owned()], belongs: Vec::new(), bus: None }
    }

    /// In this folder as well.
    pub fn and_in(mut self, folder: &Path) -> Self {
        self.folders.push(folder.to_owned());
        self
    }

    /// Not in this file, which is the place of a secret.
    pub fn but_not_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.belongs.push(file.into());
        self
    }

    /// And on this bus.
    pub fn and_on(mut self, bus: &'a Proxy) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Whether a file is the place of a secret.
    pub fn is_place(&self, file: &str) -> bool {
        self.belongs.iter().any(|place| place == Path::new(file))
    }

    /// Runs `program` to its end, with HOME and TMPDIR in the folder, and looks everywhere.
    pub fn run(&self, program: Program) -> Found {
        self.watch(program, Running::wait)
    }

    /// The same, with somebody who does something while it runs.
    ///
    /// # Panics
    /// When strace did not see what the program said: then it saw nothing.
    pub fn watch(&self, program: Program, meanwhile: impl FnOnce(Running) -> Outcome) -> Found {
        let [home, temporary] = ["home", "tmp"].map(|name| self.folder.join(name));
        [&home, &temporary].into_iter().for_each(|folder| fs::create_dir_all(folder).expect("the folder is writable"));
        let program = program.env("HOME", &home).env("TMPDIR", &temporary);
        let variables = program.variables().into_iter().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
        let variables = sorted(variables.collect());
        let seen = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let strace = require("strace", "strace");
        let mut line: Vec<OsString> = [strace.as_os_str(), "-f".as_ref(), "-q".as_ref()].map(Into::into).into();
        line.extend(["-xx", "-y", "-v", "-s", "1000000", "-e", trace::CALLS].map(Into::into));
        if !rustix::process::geteuid().is_root() {
            // What a process hides from its own user it hides from that user's strace; so it is told that it has hidden it.
            line.extend(["-e", "inject=prctl:retval=0"].map(Into::into));
        }
        line.extend([OsString::from("-o"), seen.path().into()]);
        let program = program.within(line);
        let words = program.words().into_iter().map(OsString::into_vec).collect();
        let given = Shown { words, variables };
        let running = program.start();
        let watch = Watch::below(running.id());
        let outcome = meanwhile(running);
        let shown = watch.end();
        let seen = fs::read(seen.path()).expect("strace has written it");
        let trace = Trace::read(&String::from_utf8_lossy(&seen));
        let mut found = Found { outcome, hits: Vec::new(), handed_on: 0, shown: shown.len(), trace };
        must_have_seen(&found);
        self.in_programs(&given, &shown.into_iter().collect::<Vec<_>>(), &mut found);
        self.in_calls(&given, &mut found);
        self.look(&mut found.hits, Sink::Stdout, &found.outcome.stdout, String::new);
        self.look(&mut found.hits, Sink::Stderr, &found.outcome.stderr, String::new);
        for folder in &self.folders {
            self.in_files(folder, &mut found.hits);
        }
        for secret in &self.secrets {
            if let Some((form, at)) = self.bus.and_then(|bus| secret.seen_on(bus)) {
                found.hits.push(Hit { sink: Sink::Bus, secret: secret.name(), form, at });
            }
        }
        found
    }

    /// And what a terminal has shown.
    pub fn at_terminal(&self, shown: &str, found: &mut Found) {
        self.look(&mut found.hits, Sink::Terminal, shown, || shown.to_owned());
    }

    fn look(&self, hits: &mut Vec<Hit>, sink: Sink, bytes: impl AsRef<[u8]>, at: impl Fn() -> String) {
        for canary in &self.secrets {
            if let Some(form) = canary.found_in(bytes.as_ref()) {
                hits.push(Hit { sink, secret: canary.name(), form, at: at() });
            }
        }
    }

    fn in_programs(&self, given: &Shown, shown: &[Shown], found: &mut Found) {
        let hits = &mut found.hits;
        let mut look = |words: &[Vec<u8>], variables: &[Vec<u8>], [with, within]: [Sink; 2]| {
            let line = || String::from_utf8_lossy(&words.join(&b' ')).into_owned();
            // A program may call itself otherwise, and each of several that start one another has the end of the line.
            let as_given = given.words.ends_with(words.get(1..).unwrap_or_default());
            let looked_at = if as_given { &words[..words.len().min(1)] } else { words };
            looked_at.iter().for_each(|word| self.look(hits, with, word, line));
            if sorted(variables.to_vec()) != given.variables {
                variables.iter().for_each(|variable| self.look(hits, within, variable, line));
            }
        };
        for call in found.trace.calls.iter().filter(|call| call.starts_a_program()) {
            let (words, variables) = call.program();
            look(words, variables, [Sink::StartedWith, Sink::StartedIn]);
        }
        for one in shown {
            look(&one.words, &one.variables, [Sink::CommandLine, Sink::Environment]);
        }
    }

    fn in_calls(&self, given: &Shown, found: &mut Found) {
        let mut handed: Vec<usize> = Vec::new();
        for (number, call) in found.trace.calls.iter().enumerate().filter(|(_, call)| !call.starts_a_program()) {
            let at = || format!("{} {}", call.name, String::from_utf8_lossy(&call.path));
            if self.hands_on(given, &found.trace.calls, number) {
                handed.push(number);
                continue;
            }
            for text in &call.texts {
                self.look(&mut found.hits, Sink::Call, text, at);
            }
        }
        found.handed_on = handed.len();
        // What was written in pieces.
        for (path, bytes) in found.trace.streams_but(&handed) {
            self.look(&mut found.hits, Sink::Call, bytes, || format!("one after the other to {}", String::from_utf8_lossy(path)));
        }
    }

    /// Whether this call gives a secret to the next start of the same program.
    fn hands_on(&self, given: &Shown, calls: &[Call], number: usize) -> bool {
        let call = &calls[number];
        let secret = self.secrets.iter().find(|canary| canary.secret() == call.written());
        let Some(secret) = secret.filter(|_| call.name == "write" && call.path == HANDED_ON) else { return false };
        let has_variable = given.variables.iter().any(|variable| {
            variable.split(|byte| *byte == b'=').next().is_some_and(|name| &variable[name.len() + 1..] == secret.secret())
        });
        let same = |other: &&Call| other.path == HANDED_ON && other.written() == secret.secret();
        let first = !calls[..number].iter().any(|other| same(&other));
        let goes_on = calls[number..].iter().any(|later| later.process == call.process && later.starts_a_program());
        has_variable && first && goes_on
    }

    fn in_files(&self, folder: &Path, hits: &mut Vec<Hit>) {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("the folder can be listed").path()) {
            let at = || path.display().to_string();
            self.look(hits, Sink::Name, path.file_name().unwrap_or_default().as_bytes(), at);
            let kind = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", at())).file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&path).expect("a link can be read");
                self.look(hits, Sink::Name, target.as_os_str().as_bytes(), at);
            } else if kind.is_dir() {
                self.in_files(&path, hits);
            } else if kind.is_file() && !self.belongs.contains(&path) {
                let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", at()));
                self.look(hits, Sink::Content, content, at);
            }
        }
    }
}

fn sorted(mut list: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    list.sort();
    list
}

/// A search that sees nothing finds nothing.
fn must_have_seen(found: &Found) {
    let Outcome { stdout, stderr, .. } = &found.outcome;
    let streams: BTreeMap<_, _> = found.trace.streams_but(&[]);
    for line in [stdout, stderr].into_iter().filter_map(|said| said.lines().last()).filter(|line| !line.is_empty()) {
        let written = |bytes: &Vec<u8>| bytes.windows(line.len()).any(|window| window == line.as_bytes());
        assert!(streams.values().any(written), "strace has not seen `{line}` being written: {}", found.outcome);
    }
    assert!(found.trace.calls.iter().any(Call::starts_a_program), "strace has seen no program: {}", found.outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "Kan4r1e+v";

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn write(process: u32, path: &str, text: &str) -> String {
        format!("{process} write(3<{}>(deleted), \"{}\", 9) = 9\n", hex(path), hex(text))
    }

    /// How often something was handed on, and how often it was found.
    fn judged(variable: &str, lines: &[String]) -> (usize, usize) {
        let search = Search::new(Path::new("/nonexistent"), [Canary::new("PIN", SECRET)]);
        let given = Shown { words: Vec::new(), variables: vec![variable.into()] };
        let outcome = Program::new("/bin/true").run();
        let mut found = Found { outcome, hits: Vec::new(), handed_on: 0, shown: 0, trace: Trace::read(&lines.concat()) };
        search.in_calls(&given, &mut found);
        (found.handed_on, found.hits.len())
    }

    #[test]
    fn only_what_the_program_hands_on_to_itself_is_excepted() {
        let (variable, memfd) = (format!("ZITI_ENROLLER_PIN={SECRET}"), "/memfd:ziti-enroller");
        let again = |process: u32| format!("{process} execve(\"{}\", [\"{}\"], []) = 0\n", hex("/p"), hex("p"));
        assert_eq!(judged(&variable, &[write(7, memfd, SECRET), again(7)]), (1, 0));
        for (variable, lines) in [
            // Nobody has given it so.
            ("OTHER=1", [write(7, memfd, SECRET), again(7)].to_vec()),
            // Nobody reads it.
            (&*variable, [write(7, memfd, SECRET)].to_vec()),
            (&variable, [write(7, memfd, SECRET), again(8)].to_vec()),
            // Another place, or more than the secret.
            (&variable, [write(7, "/memfd:ziti-enrollers", SECRET), again(7)].to_vec()),
            (&variable, [write(7, memfd, &format!("{SECRET}\n")), again(7)].to_vec()),
        ] {
            let (handed_on, found) = judged(variable, &lines);
            assert!(handed_on == 0 && found > 0, "{variable} {lines:?}");
        }
        assert_eq!(judged(&variable, &[write(7, memfd, SECRET), write(7, memfd, SECRET), again(7)]), (1, 2));
    }
}
