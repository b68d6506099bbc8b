//! A terminal with somebody at it, who reads what is asked and types the answer unseen.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::program::{Program, require};

/// What open(2) wants so that the terminal does not become the test's own.
const O_NOCTTY: i32 = rustix::fs::OFlags::NOCTTY.bits() as i32;

/// A pseudo-terminal; gone when dropped.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    path: PathBuf,
    /// Without one open end there would be no terminal before the program opens it, and none after.
    program: Option<File>,
    shown: Arc<Mutex<Vec<u8>>>,
    reading: Option<JoinHandle<()>>,
}

impl Terminal {
    /// A new one; a program gets it by [`seat`](Self::seat).
    pub fn open() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal can be made");
        grantpt(&person).and_then(|()| unlockpt(&person)).expect("a new pseudo-terminal is ours");
        let path = ptsname(&person, Vec::new()).expect("a pseudo-terminal has a name");
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        let program = OpenOptions::new().read(true).write(true).custom_flags(O_NOCTTY).open(&path);
        let program = program.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let person = File::from(person);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let reading = thread::spawn({
            let (shown, mut screen) = (shown.clone(), person.try_clone().expect("a descriptor can be copied"));
            move || {
                let mut chunk = [0; 256];
                // The end is an error: the other side is closed.
                while let Ok(length @ 1..) = screen.read(&mut chunk) {
                    shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..length]);
                }
            }
        });
        Self { person, path, program: Some(program), shown, reading: Some(reading) }
    }

    /// Its name: `/dev/pts/7`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives `program` this terminal for its own, and for its standard input.
    pub fn seat(&self, program: Program) -> Program {
        require("setsid", "util-linux");
        let line = ["/bin/sh", "-c", "exec setsid --ctty --wait \"$@\" <\"$TERMINAL\"", "sh"];
        program.within(line).env("TERMINAL", &self.path)
    }

    /// What it shows until now.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Types `answer` and the return key, which appear.
    pub fn types(&self, answer: &str) {
        (&self.person).write_all(format!("{answer}\n").as_bytes()).expect("the terminal is open");
    }

    /// Types `answer` and the return key when `question` is on it and what is typed does not appear.
    ///
    /// # Panics
    /// When that does not come within 20 s.
    pub fn answer(&self, question: &str, answer: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let echoes = || tcgetattr(&self.person).is_ok_and(|modes| modes.local_modes.contains(LocalModes::ECHO));
        while !self.shown().contains(question) || echoes() {
            assert!(Instant::now() < deadline, "nobody asks `{question}` unseen; the terminal shows `{}`", self.shown());
            thread::sleep(Duration::from_millis(1));
        }
        self.types(answer);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.program = None;
        if let Some(reading) = self.reading.take() {
            reading.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_read_and_not_shown() {
        let terminal = Terminal::open();
        let ask = "stty -echo; printf 'who? ' >/dev/tty; read who; echo \"$who\"";
        let running = terminal.seat(Program::new("/bin/sh").args(["-c", ask])).start();
        terminal.answer("who?", "me");
        assert_eq!((running.wait().success().stdout.as_str(), terminal.shown().as_str()), ("me\n", "who? "));
    }
}
