//! Feature `crash-points`: a [`Watch`] that kills, fails or hangs at the event that ZITI_ENROLLER_CRASH names.
//!
//! `ZITI_ENROLLER_CRASH=<event>:kill|error|hang`, where an event is `entering-<stage>`, `left-<stage>`,
//! `recorded-<stage>`, or the name of a moment within one (`before_post`). Never in a release.

use rustix::process::{Signal, getpid, kill_process};
use ziti_enroller::flow::{Event, Interrupted, Watch};

/// Another [`Watch`], and an end at one event.
#[derive(Debug)]
pub struct Crash<W> {
    inner: W,
    at: Option<(String, String)>,
}

impl<W: Watch> Crash<W> {
    /// Reads the variable.
    pub fn around(inner: W) -> Self {
        let at = std::env::var("ZITI_ENROLLER_CRASH").ok();
        let at = at.and_then(|text| text.rsplit_once(':').map(|(event, how)| (event.to_owned(), how.to_owned())));
        Self { inner, at }
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
