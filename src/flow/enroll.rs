//! Token to identity: begin, resume, run.
//!
//! A rerun goes the same walk from another door: it begins at the stage that the journal of the work folder leads to. What
//! each stage learns is in [`stage`]; the means to learn it (connection, key, token text) are in `live`.

pub mod stage;

pub(super) mod arrival;
pub(super) mod handshake;
mod live;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use serde::Serialize;

use self::live::Live;
use self::stage::{CertificateWish, Intent, KeyWish, Record, Stage};
use self::work::WorkFolder;
use super::{CertificateSummary, IdentitySummary, Next, Pauses, Stages, World, pause, walk};
use crate::certificate::Anchors;
use crate::error::{Error, Spent};
use crate::files::{self, FileError, FileErrorKind, Folder};
use crate::jwt::{Brings, Method, TokenError, UnverifiedToken};
use crate::key::{Place, Readers};
use crate::origin::Origin;
use crate::text::{Hint, Printable};

/// An enrollment that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// The token; an enrollment whose answer is here already goes on without it.
    pub token: Option<Arc<UnverifiedToken>>,
    /// The file that it came from; `None` for standard input and the environment.
    pub token_file: Option<PathBuf>,
    /// The identity file to write.
    pub out: PathBuf,
    /// The key.
    pub key: KeyWish,
    /// The certificate to show in the handshake, for a method that brings one; `None`: the one beside the key.
    pub certificate: Option<CertificateWish>,
    /// The name that a new identity is to have, for a method that makes one.
    pub name: Option<String>,
    /// The controller's id of the identity provider, where the provider's token does not say it.
    pub issuer: Option<String>,
    /// CA certificates that the controller is trusted by, instead of the token's signature.
    pub given: Option<Anchors>,
    /// What goes into the request and must not be written down: a password, the token of an identity provider.
    pub secret: Option<SecretString>,
    /// Replaces an identity that is there, and sets an unfinished enrollment with another token aside.
    pub force: bool,
    /// Removes the token's file when the identity is in place.
    pub remove_token: bool,
    /// The certificate that the controller has issued and whose answer was lost or cannot be used, PEM.
    pub issued: Option<Vec<u8>>,
    /// Puts the PIN into the identity, for SDKs that look nowhere else.
    pub embed_pin: bool,
    /// Whom the identity file is given to: user and group, as numbers.
    pub owner: Option<(u32, Option<u32>)>,
}

impl Request {
    /// An enrollment with `token` and nothing out of the ordinary.
    pub fn new(token: Option<Arc<UnverifiedToken>>, out: PathBuf, key: KeyWish) -> Self {
        Self {
            token,
            token_file: None,
            out,
            key,
            certificate: None,
            name: None,
            issuer: None,
            given: None,
            secret: None,
            force: false,
            remove_token: false,
            issued: None,
            embed_pin: false,
            owner: None,
        }
    }
}

/// What an enrollment gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrolled {
    /// The identity.
    pub identity: IdentitySummary,
    /// Its key; `null` for a method without one.
    pub key: Option<EnrolledKey>,
    /// The token or device that the key is in; `null` for a file.
    pub token: Option<Place>,
    /// Its certificate; `null` for a method without one.
    pub certificate: Option<CertificateSummary>,
    /// The name that it logs in with, where it does so with a password and the controller says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Printable>,
    /// Who else can open it.
    pub readers: Readers,
}

/// The key of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnrolledKey {
    /// The provider's name.
    pub provider: &'static str,
    /// Its reference, to be pasted after `--key`.
    pub reference: String,
    /// `p256`, …
    pub algorithm: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub spki_sha256: String,
    /// Whether this enrollment made it.
    pub created: bool,
    /// Whether it can leave its device; `null` where the device does not say.
    pub extractable: Option<bool>,
}

/// Where an enrollment that has not ended stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The name of the stage.
    pub stage: &'static str,
    /// How it enrolls.
    pub method: Option<Method>,
    /// Where.
    pub origin: Option<Origin>,
    /// The identity's id.
    pub subject: Option<String>,
    /// The file of its token.
    pub token_file: Option<PathBuf>,
    /// The key that was asked for.
    pub key: Option<KeyWish>,
    /// Whether the token is spent.
    pub spent: Spent,
}

/// Reads where the enrollment stands whose output is `out`, and changes nothing; `None` where there is none.
///
/// # Errors
/// [`Error::Local`], [`Error::Journal`].
pub fn standing(out: &Path) -> Result<Option<Standing>, Error> {
    let place = work::Output::at(out).map_err(|source| Error::Local { source, spent: Spent::Unknown })?;
    let Some(stage) = place.stage()? else { return Ok(None) };
    if matches!(stage, Stage::Fresh) && place.path().exists() {
        // Stopped while it tidied up: nothing is left to do, and the next enrollment removes the empty folder.
        return Ok(None);
    }
    let intent = stage.intent().cloned();
    Ok(Some(Standing {
        stage: stage.name(),
        method: intent.as_ref().map(|i| i.method),
        origin: intent.as_ref().map(|i| i.origin.clone()),
        subject: intent.as_ref().and_then(|i| i.subject.clone()),
        token_file: intent.as_ref().and_then(|i| i.token_file.clone()),
        key: intent.map(|i| i.key),
        spent: spent(&stage),
    }))
}

/// Enrolls, or goes on where an earlier run with the same token and output has stopped.
///
/// # Errors
/// [`Error`], which says whether the token is spent.
pub fn enroll(request: Request, world: &World<'_>) -> Result<Enrolled, Error> {
    let (mut work, mut stage) = begin(&request, world)?;
    if request.issued.is_some() && !stage.has_posted() {
        work.remove_if_worthless(world.watch);
        let message = "no request was sent yet, so no certificate can have been issued for it".to_owned();
        return Err(Error::Usage { message, hint: Some(Hint::say("leave out --certificate to go on with the enrollment")) });
    }
    world.within("output_reserved", spent(&stage))?;
    let mut pauses = Pauses::of(&world.patience);
    let ended = loop {
        match go_on(stage, &request, world, &mut work) {
            Err(error) if error.may_heal(world.clock_is_wrong()) => match (pauses.next(), work.stage()) {
                (Some(length), Some(reached)) => {
                    pause(world.watch, &sentence(&error), length);
                    stage = reached;
                }
                _ => break Err(error),
            },
            ended => break ended,
        }
    };
    match ended {
        Ok(enrolled) => {
            work.remove(world.watch);
            remove_token(&request, world);
            Ok(enrolled)
        }
        Err(error) => {
            work.remove_if_worthless(world.watch);
            Err(error)
        }
    }
}

/// The walk from `stage` on, with means of its own.
fn go_on(stage: Stage, request: &Request, world: &World<'_>, work: &mut WorkFolder) -> Result<Enrolled, Error> {
    let mut live = Live::new(request, world, work.folder());
    let reached = walk(stage, &mut work.journal, world.watch, spent, |stage| match stage {
        Stage::Fresh => Ok(Next::Learnt(Record::Intent(intent(request, token_of(request)?, None)))),
        Stage::Intended(s) => live.meet_controller(s),
        Stage::Trusted(s) => live.choose_key(s),
        Stage::Planned(s, plan) => live.make_key(s, plan),
        Stage::Keyed(s) => live.prepare(s),
        Stage::Ready(s) => live.announce(s),
        Stage::Posting(s, _) | Stage::Answered(s) if live.has_a_certificate() => live.take_back(s),
        Stage::Posting(s, n) => live.post(s, *n),
        Stage::Answered(s) => live.accept(s),
        Stage::Lost(s) => live.take_back(s),
        Stage::Refused(s, why) => Err(live.clean_up(s, why)),
        Stage::Done(_) => Ok(Next::Arrived),
    })?;
    live.enrolled(&reached)
}

fn remove_token(request: &Request, world: &World<'_>) {
    if let Some(file) = request.token_file.as_deref().filter(|_| request.remove_token)
        && let Err(error) = files::remove_file(file)
    {
        world.note(&format!("the identity is in place, and its token stays: {error}"));
    }
}

/// Whether the output could be written, and what waits there; everything is as before afterwards.
pub(super) fn try_output(request: &Request) -> Result<String, Error> {
    let local = |source| Error::Local { source, spent: Spent::No };
    let place = work::Output::at(&request.out).map_err(local)?;
    if place.has_work() {
        let folder = place.work_path();
        return Ok(format!("an enrollment that has not ended is in {}", folder.display()));
    }
    place.refuse_existing(request.force).map_err(local)?;
    place.try_to_write(request.owner).map_err(local)?;
    Ok(format!("{} can be written", place.path().display()))
}

/// The folder of the output, and the output.
pub(super) fn folder_of(request: &Request) -> Result<(Folder, PathBuf), FileError> {
    let out = files::absolute(&request.out)?;
    Ok((Folder::of(&out)?, out))
}

/// Reserves the output and finds out where the enrollment stands. Nothing was sent and no PIN tried.
fn begin(request: &Request, world: &World<'_>) -> Result<(WorkFolder, Stage), Error> {
    let local = |source| Error::Local { source, spent: Spent::No };
    let place = work::Output::at(&request.out).map_err(local)?;
    if !place.has_work() {
        place.refuse_existing(request.force).map_err(local)?;
        check_expiry(token_of(request)?, world)?;
    }
    let (mut work, stage) = WorkFolder::open(place.clone())?;
    match claim(&place, &mut work, stage, request, world) {
        Ok(stage) => Ok((work, stage)),
        Err(error) => {
            work.remove_if_worthless(world.watch);
            Err(error)
        }
    }
}

/// Whether this enrollment may go on in the work folder, and from where.
fn claim(
    place: &work::Output,
    work: &mut WorkFolder,
    stage: Stage,
    request: &Request,
    world: &World<'_>,
) -> Result<Stage, Error> {
    let local = |source| Error::Local { source, spent: Spent::No };
    let known = stage.intent().cloned();
    // Without a token it is this enrollment that is meant, whichever token it began with.
    let other = request.token.as_ref().zip(known).filter(|(token, known)| known.token != token.digest());
    let stage = if let Some((token, known)) = other {
        let same_identity = known.origin == *token.issuer() && known.is_for(token.identity());
        let ended = matches!(stage, Stage::Refused(..) | Stage::Lost(_));
        if stage.has_posted() && !(ended && same_identity) {
            if !request.force {
                return Err(Error::OtherToken { folder: place.work_path() });
            }
            let aside = work.set_aside().map_err(local)?;
            world.note(&format!("the unfinished enrollment is kept in {}", aside.display()));
            let (fresh, stage) = WorkFolder::open(place.clone())?;
            *work = fresh;
            stage
        } else {
            // The same identity finds the same key again; another's unused key is ours to delete, once a login is due. So is one
            // that was to be deleted after a refusal and is still here: half of it may be left.
            let doomed = !same_identity || matches!(stage, Stage::Refused(..));
            let discard = stage.own_key().filter(|_| doomed).cloned();
            let record = Record::Intent(intent(request, token, discard));
            let failed = |source| Error::Journal { source, spent: Spent::No };
            work.journal.append(&record).map_err(failed)?;
            stage.after(record).map_err(|_| Error::Unexpected("an enrollment cannot begin anew here".into()))?
        }
    } else {
        if !matches!(stage, Stage::Fresh) {
            world.note(&format!("going on with the enrollment that stopped at stage `{}`", stage.name()));
        }
        stage
    };
    check_secret(request, &stage)?;
    // What an earlier run may have put there is looked at later.
    let replace = request.force || matches!(stage, Stage::Answered(_) | Stage::Done(_));
    place.refuse_existing(replace).map_err(|source| Error::Local { source, spent: spent(&stage) })?;
    if !stage.has_posted() {
        check_expiry(token_of(request)?, world)?;
    }
    work.reserve(request.owner).map_err(|source| Error::Local { source, spent: spent(&stage) })?;
    Ok(stage)
}

fn token_of(request: &Request) -> Result<&Arc<UnverifiedToken>, Error> {
    request.token.as_ref().ok_or_else(|| Error::Token(TokenError::Missing("this enrollment cannot go on without it".into())))
}

fn intent(request: &Request, token: &UnverifiedToken, discard: Option<crate::key::KeyUri>) -> Intent {
    Intent {
        token: token.digest(),
        token_file: request.token_file.clone(),
        method: token.method(),
        origin: token.issuer().clone(),
        subject: token.identity().map(str::to_owned),
        key: request.key.clone(),
        certificate: match token.method().brings() {
            Brings::Certificate => Some(request.certificate.clone().unwrap_or(CertificateWish::Beside)),
            Brings::Csr | Brings::IdpToken | Brings::Password | Brings::Nothing => None,
        },
        name: request.name.clone(),
        issuer: request.issuer.clone(),
        given: request.given.clone(),
        discard,
    }
}

/// Finds out before anything is sent whether what goes into the request and stands nowhere is at hand.
fn check_secret(request: &Request, stage: &Stage) -> Result<(), Error> {
    let is_past = matches!(stage, Stage::Answered(_) | Stage::Done(_) | Stage::Lost(_) | Stage::Refused(..));
    if is_past || request.secret.is_some() {
        return Ok(());
    }
    let method = stage.intent().map(|i| i.method).or(request.token.as_ref().map(|t| t.method()));
    let missing = |what: &str, option: &str| {
        let message = format!("this enrollment cannot go on without {what}");
        Err(Error::Usage { message, hint: Some(Hint::say(format!("give it with {option}"))) })
    };
    match method.map(Method::brings) {
        Some(Brings::IdpToken) => missing("the token of the identity provider", "--idp-token"),
        Some(Brings::Password) => missing("the password", "--password-file"),
        Some(Brings::Csr | Brings::Certificate | Brings::Nothing) | None => Ok(()),
    }
}

pub(super) fn check_expiry(token: &UnverifiedToken, world: &World<'_>) -> Result<(), Error> {
    match token.check_expiry(world.now()) {
        Ok(()) => Ok(()),
        Err(TokenError::Expired(_) | TokenError::IdpExpired(_)) if world.clock_is_wrong() => {
            world.note(
                "the clock of this machine is earlier than this program: whether the token has expired is left to the controller",
            );
            Ok(())
        }
        Err(error) => Err(Error::Token(error)),
    }
}

/// Whether the token is spent in a stage.
fn spent(stage: &Stage) -> Spent {
    // Nothing is sent that could be.
    if stage.intent().is_some_and(|i| i.method.brings() == Brings::Nothing) {
        return Spent::No;
    }
    match stage {
        Stage::Fresh | Stage::Intended(_) | Stage::Trusted(_) | Stage::Planned(..) | Stage::Keyed(_) | Stage::Ready(_) => {
            Spent::No
        }
        Stage::Posting(..) => Spent::Unknown,
        Stage::Refused(..) => Spent::No,
        Stage::Answered(_) | Stage::Lost(_) | Stage::Done(_) => Spent::Yes,
    }
}

/// An error and its causes, in one line.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The identity is there already, though it is not the one that this enrollment writes.
fn exists(path: PathBuf) -> FileError {
    FileError { action: "write", path, kind: FileErrorKind::Exists }
}
