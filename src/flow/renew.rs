//! A new certificate for an identity before the old one ends; with a new key where one is wanted.
//!
//! The same walk as an enrollment, over its own stages: what each learns is in [`stage`], the means to learn it in `live`. A
//! software identity moves into a token or a TPM this way, with no administrator and no new token.

pub mod stage;

mod arrival;
mod confirm;
mod due;
mod live;
mod work;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::live::Live;
use self::stage::Stage;
use self::work::{Held, Place};
use super::enroll::EnrolledKey;
use super::enroll::stage::KeyWish;
use super::login;
use super::{CertificateSummary, IdentitySummary, Next, Pauses, World, pause, walk};
use crate::error::{Error, Spent};
use crate::files::FileError;
use crate::key::{KeyAlgorithm, KeyError, Readers};
use crate::text::Printable;

pub use due::Due;

/// A renewal that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// The identity file.
    pub identity: PathBuf,
    /// Renews though nothing is due.
    pub force: bool,
    /// A new key, and where.
    pub rotate: Option<Rotation>,
    /// Puts the PIN into the identity, for SDKs that look nowhere else. A new key beside the old one keeps to what was there.
    pub embed_pin: bool,
    /// Deletes the key that the new one takes the place of, once the new identity has logged in.
    pub delete_old_key: bool,
    /// Keeps the old identity as `<identity>.bak`.
    pub backup: bool,
}

/// Where a new key goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Beside the old one: the next generation; of its type where no other is asked for.
    Beside(Option<KeyAlgorithm>),
    /// Where this says.
    To(KeyWish),
}

/// What a renewal gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// A new certificate.
    Renewed(Box<Renewed>),
    /// Nothing is due.
    NotDue(NotDue),
}

/// A certificate was renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// The identity.
    pub identity: IdentitySummary,
    /// Always true.
    pub renewed: bool,
    /// Its key.
    pub key: EnrolledKey,
    /// The token or device that the key is in; `null` for a file.
    pub token: Option<crate::key::Place>,
    /// Its new certificate.
    pub certificate: CertificateSummary,
    /// SHA-1 of the old certificate, which logs nobody in any more.
    pub replaced: String,
    /// The old key, where a new one has taken its place and it was not in the identity itself.
    pub old_key: Option<Replaced>,
    /// Who else can open the identity.
    pub readers: Readers,
}

/// A key that another one has taken the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// Its reference.
    pub reference: String,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// Nothing is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotDue {
    /// The identity.
    pub identity: IdentitySummary,
    /// Always false.
    pub renewed: bool,
    /// Its certificate.
    pub certificate: CertificateSummary,
    /// Whole days until it ends.
    pub days_left: i64,
    /// When it is due, RFC 3339.
    pub due: String,
}

/// What is done after an identity was renewed and before anything of the renewal is forgotten: a run that is killed meanwhile
/// does it again.
pub type After<'a> = &'a dyn Fn(&Renewed);

/// The name of the stage of a renewal that has not ended; `None` where there is none. Nothing is changed.
///
/// # Errors
/// [`Error::Local`], [`Error::Journal`].
pub fn standing(identity: &Path) -> Result<Option<&'static str>, Error> {
    use super::Stages;
    Ok(place_of(identity)?.stage()?.map(|stage| stage.name()))
}

/// Renews the certificate of an identity where that is due, or goes on where an earlier run has stopped.
///
/// # Errors
/// [`Error`]. The identity file holds a certificate that logs in, unless it is [`Error::RenewalUnknown`], or a run was killed
/// after the point of no return: then the same command finds out.
pub fn renew(request: &Request, world: &World<'_>, after: After<'_>) -> Result<Outcome, Error> {
    let place = place_of(&request.identity)?;
    place.must_be_a_file().map_err(local)?;
    let (mut held, mut stage) = begin(&place, request, world)?;
    let mut pauses = Pauses::of(&world.patience);
    let ended = loop {
        match go_on(stage, request, world, &mut held) {
            Err(error) if error.may_heal(world.clock_is_wrong()) => match (pauses.next(), held.stage()) {
                (Some(length), Some(reached)) => {
                    pause(world.watch, &super::enroll::sentence(&error), length);
                    stage = reached;
                }
                _ => break Err(error),
            },
            ended => break ended,
        }
    };
    match ended {
        Ok(Outcome::Renewed(renewed)) => {
            after(&renewed);
            world.within("after_is_done", Spent::Yes)?;
            held.remove(world.watch);
            Ok(Outcome::Renewed(renewed))
        }
        Ok(not_due) => {
            held.remove(world.watch);
            Ok(not_due)
        }
        // Asking again would give the same answer: nothing of the attempt stays.
        Err(error @ (Error::RenewalRefused(_) | Error::RenewalUnusable(_) | Error::NotRenewable { .. })) => {
            let reached = held.stage();
            if let Err(left) = give_up(held, reached.as_ref(), world) {
                world.note(&super::enroll::sentence(&left));
            }
            Err(error)
        }
        Err(error) => {
            held.remove_if_worthless(world.watch);
            Err(error)
        }
    }
}

/// Holds the work folder and finds out where the renewal stands. One that does not fit any more is given up, if the old
/// certificate is in force for sure.
fn begin(place: &Place, request: &Request, world: &World<'_>) -> Result<(Held, Stage), Error> {
    let (held, stage) = place.hold()?;
    let Some(renewing) = stage.renewing() else { return Ok((held, stage)) };
    let there = login::parse(&place.path(), &place.read()?)?.chain.fingerprint_sha1();
    let is_other = there != renewing.fingerprint && stage.next() != Some(&there);
    let fits = match (&request.rotate, &renewing.rotate) {
        // Without a word it is this renewal that is meant.
        (None, _) | (Some(Rotation::Beside(_)), Some(_)) => true,
        (Some(Rotation::To(wish)), Some(known)) => wish == known,
        (Some(_), None) => false,
    };
    if held.is_abandoned() || (is_other || !fits) && !stage.may_be_in_force() {
        give_up(held, Some(&stage), world)?;
        return place.hold();
    }
    use super::Stages;
    world.note(&format!("going on with the renewal that stopped at stage `{}`", stage.name()));
    if !fits {
        world.note("it is finished as it was begun; what is asked for now is left to another run");
    }
    Ok((held, stage))
}

/// The walk from `stage` on, with means of its own.
fn go_on(stage: Stage, request: &Request, world: &World<'_>, held: &mut Held) -> Result<Outcome, Error> {
    let entrance = OnceCell::new();
    let mut live = Live::new(request, world, held.work.clone(), &entrance);
    if matches!(stage, Stage::Fresh)
        && let Some(not_due) = live.nothing_is_due()?
    {
        return Ok(Outcome::NotDue(not_due));
    }
    let reached = walk(stage, &mut held.journal, world.watch, spent, |stage| match stage {
        Stage::Fresh => live.begin(),
        Stage::Begun(s) => live.choose_key(s),
        Stage::Planned(s, plan) => live.make_key(s, plan),
        Stage::Keyed(s) => live.extend(s),
        Stage::Extended(_) => Ok(live.announce()),
        Stage::Confirming(s, n) => live.confirm(s, *n),
        Stage::Confirmed(s) => live.publish(s),
        Stage::Done(_) => Ok(Next::Arrived),
    })?;
    match &reached {
        Stage::Done(s) => live.arrive(s).map(|renewed| Outcome::Renewed(Box::new(renewed))),
        _ => Err(Error::Unexpected("the renewal has ended before its end".into())),
    }
}

/// Deletes the key that the renewal has made, and forgets it.
fn give_up(held: Held, stage: Option<&Stage>, world: &World<'_>) -> Result<(), Error> {
    if let Some(uri) = stage.and_then(Stage::own_key) {
        held.abandon().map_err(local)?;
        world.within("giving_up", Spent::No)?;
        let failed = |source| Error::Key { uri: Box::new(uri.clone()), source, spent: Spent::No };
        let provider = world.providers.of(uri).map_err(failed)?;
        match provider.abandon(uri, held.work.folder(), &world.access) {
            Ok(()) => world.note(&format!("{uri} was made for a renewal that did not happen: deleted")),
            // A plan that was never carried out, or a run that was killed right here.
            Err(KeyError::Selection(fault)) if fault.code == "key_not_found" => {}
            Err(error) => return Err(failed(error)),
        }
    }
    held.remove(world.watch);
    Ok(())
}

/// Whether the new certificate may be in force.
fn spent(stage: &Stage) -> Spent {
    match stage {
        Stage::Fresh | Stage::Begun(_) | Stage::Planned(..) | Stage::Keyed(_) | Stage::Extended(_) => Spent::No,
        Stage::Confirming(..) | Stage::Confirmed(_) | Stage::Done(_) => Spent::Yes,
    }
}

fn place_of(identity: &Path) -> Result<Place, Error> {
    Place::of(identity).map_err(local)
}

fn local(source: FileError) -> Error {
    Error::Local { source, spent: Spent::No }
}

/// What the controller calls the identity, for reports.
fn printable(text: &str) -> String {
    Printable::new(text).as_str().to_owned()
}
