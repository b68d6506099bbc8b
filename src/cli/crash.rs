//! Feature `crash-points`: a [`Watch`] that kills, fails or hangs at the event that ZITI_ENROLLER_CRASH names, and tells
//! tests of all of them.
//!
//! `ZITI_ENROLLER_CRASH=<event>:kill|error|hang`, where an event is `entering-<stage>`, `left-<stage>`,
//! `recorded-<stage>`, or the name of a moment within one (`before_post`). `ZITI_ENROLLER_EVENTS` names a file that gets a
//! line `<pid> event <event>` for each; others may write to it as well. Never in a release.

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::process::{Signal, getpid, kill_process};
use ziti_enroller::flow::{Event, Interrupted, Watch};

/// Another [`Watch`], and an end at one event.
#[derive(Debug)]
pub struct Crash<W> {
    inner: W,
    at: Option<(String, String)>,
    events: Option<File>,
}

impl<W: Watch> Crash<W> {
    /// Reads the variables.
    pub fn around(inner: W) -> Self {
        let at = std::env::var("ZITI_ENROLLER_CRASH").ok();
        let at = at.and_then(|text| text.rsplit_once(':').map(|(event, how)| (event.to_owned(), how.to_owned())));
        let events = std::env::var_os("ZITI_ENROLLER_EVENTS");
        let events = events.and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
        Self { inner, at, events }
    }
}

impl<W: Watch> Watch for Crash<W> {
    fn event(&self, event: &Event<'_>) -> Result<(), Interrupted> {
        self.inner.event(event)?;
        let name = match event {
            Event::Entering(stage) => format!("entering-{stage}"),
            Event::Left(stage) => format!("left-{stage}"),
            Event::Recorded(stage) => format!("recorded-{stage}"),
            Event::Within(moment) => (*moment).to_owned(),
            Event::Waiting { .. } | Event::Note(_) => return Ok(()),
        };
        if let Some(mut events) = self.events.as_ref() {
            // One write, so that lines of processes do not mix. A test misses a line that is not there.
            drop(events.write(format!("{} event {name}\n", std::process::id()).as_bytes()));
        }
        let Some((_, how)) = self.at.as_ref().filter(|(at, _)| *at == name) else { return Ok(()) };
        match how.as_str() {
            "kill" => drop(kill_process(getpid(), Signal::KILL)),
            "hang" => loop {
                std::thread::park();
            },
            _ => {}
        }
        Err(Interrupted(name))
    }
}
