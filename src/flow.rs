//! The corridors: what people come for, one file each, and the loop that walks a state machine.
//!
//! A corridor walks through the rooms in the order of the protocol. It reads no flag, no environment and no clock behind
//! the caller's back: all that comes from outside is in the [`World`].

pub mod doctor;
pub mod enroll;
pub mod exec;
pub mod inspect;
pub mod keys;
pub mod renew;
pub mod request;
pub mod signers;
pub mod status;
pub mod verify;

mod login;

use std::fmt;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::certificate::{Summary, rfc3339};
pub use crate::error::Interrupted;
use crate::error::{Error, Spent};
use crate::http::Reach;
use crate::journal::Journal;
use crate::key::{Access, Providers};

/// All that a corridor needs from outside.
pub struct World<'a> {
    /// Where keys live.
    pub providers: Providers,
    /// Where PINs come from, and how often they may be tried.
    pub access: Access<'a>,
    /// Who is told what happens.
    pub watch: &'a dyn Watch,
    /// How the network is reached.
    pub reach: Reach,
    /// How often, and for how long, something is tried again.
    pub patience: Patience,
}

/// How often, and for how long, something is tried again. Never a PIN, and nothing that was refused.
#[derive(Clone, Debug)]
pub struct Patience {
    /// How long to wait for what may heal by itself: not reached, not served now, the device not there yet.
    pub wait: Duration,
    /// Pauses before the same request is sent again, when nobody knows what became of it.
    pub repeats: Vec<Duration>,
}

impl Patience {
    /// As many repeats, the first at once, the second after `delay`, then four and ten times that.
    pub fn new(wait: Duration, repeats: usize, delay: Duration) -> Self {
        let pauses = [Duration::ZERO, delay, delay * 4].into_iter().chain(std::iter::repeat(delay * 10));
        Self { wait, repeats: pauses.take(repeats).collect() }
    }
}

impl Default for Patience {
    /// No waiting; four repeats, at once and after 1, 4 and 10 s.
    fn default() -> Self {
        Self::new(Duration::ZERO, 4, Duration::from_secs(1))
    }
}

/// The pauses of one run that waits for something to heal: 1 s, doubled up to 15 s, in all no longer than it may.
pub(crate) struct Pauses {
    left: Duration,
    next: Duration,
}

impl Pauses {
    pub(crate) fn of(patience: &Patience) -> Self {
        Self { left: patience.wait, next: Duration::from_secs(1) }
    }

    /// The next pause; `None` when the time is over.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        let pause = self.next.min(self.left);
        self.left -= pause;
        self.next = (self.next * 2).min(Duration::from_secs(15));
        (!pause.is_zero()).then_some(pause)
    }
}

impl World<'_> {
    /// The one clock.
    pub fn now(&self) -> UnixTime {
        UnixTime::now()
    }

    /// Tells what a person should know, and that is no error.
    pub fn note(&self, text: &str) {
        self.watch.note(text);
    }

    /// Tells of a moment within a stage.
    fn within(&self, moment: &'static str, spent: Spent) -> Result<(), Error> {
        self.watch.event(&Event::Within(moment)).map_err(|source| Error::Interrupted { source, spent })
    }

    /// Whether the clock is earlier than this program: then it is wrong, and the controller's counts.
    pub fn clock_is_wrong(&self) -> bool {
        env!("ZITI_ENROLLER_BUILT").parse().is_ok_and(|built: u64| self.now().as_secs() < built)
    }
}

impl fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("providers", &self.providers).field("reach", &self.reach).finish_non_exhaustive()
    }
}

/// Who, where, and in which file; in every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentitySummary {
    /// The identity's id; `null` where nobody has said it.
    pub id: Option<String>,
    /// `https://host:port`.
    pub controller: String,
    /// The file, absolute.
    pub file: String,
}

/// The certificate of an identity; in every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateSummary {
    /// SHA-1 of the DER, hexadecimal: the controller's name for it.
    pub fingerprint_sha1: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
}

impl From<&Summary> for CertificateSummary {
    fn from(s: &Summary) -> Self {
        Self { fingerprint_sha1: s.fingerprint_sha1.clone(), not_before: rfc3339(s.not_before), not_after: rfc3339(s.not_after) }
    }
}

/// How long before its end a certificate is due for renewal: later than the C SDK's own 30 days, so that the two do not meet.
pub const DUE_WITHIN: Duration = Duration::from_secs(20 * DAY);

/// Seconds.
const DAY: u64 = 24 * 60 * 60;

/// Whole days until `not_after`, seconds since the Unix epoch; negative once that is past.
fn days_left(not_after: u64, world: &World<'_>) -> i64 {
    let seconds = i64::try_from(not_after).unwrap_or(i64::MAX).saturating_sub_unsigned(world.now().as_secs());
    seconds.div_euclid(DAY as i64)
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A stage begins.
    Entering(&'static str),
    /// What it learnt is written down.
    Recorded(&'static str),
    /// A stage is over.
    Left(&'static str),
    /// A moment within a stage that matters to somebody: `before_post`.
    Within(&'static str),
    /// Something will be tried again.
    Waiting {
        /// Why.
        why: &'a str,
        /// How long.
        pause: Duration,
    },
    /// Something that a person should know, and that is no error.
    Note(&'a str),
}

/// Who is told what happens: progress, phase times, and tests that stop a run at a named moment.
pub trait Watch: Send + Sync {
    /// Called in the thread that walks. An error ends the run there, as if the step had failed.
    ///
    /// # Errors
    /// To end the run.
    fn event(&self, event: &Event<'_>) -> Result<(), Interrupted>;

    /// Tells what a person should know, and that is no error. A watcher that wants to end the run does so at the next stage.
    fn note(&self, text: &str) {
        drop(self.event(&Event::Note(text)));
    }
}

/// Nobody is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWatch;

impl Watch for NoWatch {
    fn event(&self, _: &Event<'_>) -> Result<(), Interrupted> {
        Ok(())
    }
}

/// A state machine whose state is the sum of its records.
pub(crate) trait Stages: Sized {
    type Record: Serialize + DeserializeOwned;
    /// Its name in events.
    fn name(&self) -> &'static str;
    /// The stage that it is with one record more.
    fn after(self, record: Self::Record) -> Result<Self, OutOfOrder>;
    /// Whether losing `record` would cost more than repeated work.
    fn must_be_durable(record: &Self::Record) -> bool;
}

/// A record that cannot follow: the journal is not one of ours.
#[derive(Debug)]
pub(crate) struct OutOfOrder;

/// What a step has learnt.
pub(crate) enum Next<R> {
    Learnt(R),
    /// What must be known next time, and why the run ends.
    Stop(R, Error),
    Arrived,
}

/// The stage that `records` lead to; `None` where they are out of order.
pub(crate) fn replay<S: Stages>(start: S, records: Vec<S::Record>) -> Option<S> {
    records.into_iter().try_fold(start, |stage, record| stage.after(record).ok())
}

/// Steps on until the last stage, writing down what each step has learnt before the next begins.
pub(crate) fn walk<S: Stages>(
    mut stage: S,
    journal: &mut Journal<S::Record>,
    watch: &dyn Watch,
    spent: impl Fn(&S) -> Spent,
    mut step: impl FnMut(&S) -> Result<Next<S::Record>, Error>,
) -> Result<S, Error> {
    loop {
        let name = stage.name();
        let here = spent(&stage);
        let tell = |event: &Event<'_>| watch.event(event).map_err(|source| Error::Interrupted { source, spent: here });
        tell(&Event::Entering(name))?;
        let next = step(&stage)?;
        tell(&Event::Left(name))?;
        let (record, end) = match next {
            Next::Arrived => return Ok(stage),
            Next::Learnt(record) => (record, None),
            Next::Stop(record, error) => (record, Some(error)),
        };
        let failed = |source| Error::Journal { source, spent: here };
        journal.append(&record).map_err(failed)?;
        if S::must_be_durable(&record) {
            journal.sync().map_err(failed)?;
        }
        tell(&Event::Recorded(name))?;
        if let Some(error) = end {
            return Err(error);
        }
        stage = stage.after(record).map_err(|OutOfOrder| Error::Unexpected(format!("a step of `{name}` led nowhere")))?;
    }
}

/// Waits, and says so.
pub(crate) fn pause(watch: &dyn Watch, why: &str, pause: Duration) {
    // A watcher that wants to end the run does so at the next stage.
    drop(watch.event(&Event::Waiting { why, pause }));
    std::thread::sleep(pause);
}
