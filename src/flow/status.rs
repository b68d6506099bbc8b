//! Where an enrollment, a renewal or an identity stands, and the next command; offline, and nothing is changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::enroll::{self, Standing, sentence};
use super::login::read_identity;
use super::{CertificateSummary, World, days_left, renew};
use crate::error::{Error, Spent, take_back_command};
use crate::files;
use crate::identity::{self, Identity, IdentityError, Network};
use crate::jwt::{Brings, Method};
use crate::text::shell_word;

/// Where each of the paths stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// In the order in which they were asked for.
    pub paths: Vec<PathStatus>,
}

/// Where one path stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathStatus {
    /// The identity file, absolute.
    pub file: String,
    /// What is known.
    pub state: State,
    /// What to type next; `null` where nothing is to be done.
    pub next: Option<String>,
}

/// What is known of an identity file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Neither an identity nor an unfinished enrollment.
    Nothing,
    /// An identity is in place.
    Enrolled(Enrolled),
    /// A file without an identity: where a network is, and whom to trust there.
    Network,
    /// An enrollment has not ended.
    Unfinished {
        /// The stage that it reached.
        stage: &'static str,
        /// The identity's id.
        subject: Option<String>,
        /// Whether its token is spent.
        token_spent: Spent,
    },
    /// A renewal has not ended; the identity may hold the certificate that does not log in any more.
    Renewing {
        /// The stage that it reached.
        stage: &'static str,
    },
    /// Something is there that cannot be read; in words.
    Unreadable(String),
}

/// An identity in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrolled {
    /// Its certificate.
    #[serde(flatten)]
    pub certificate: CertificateSummary,
    /// Whole days until it ends; negative once it has.
    pub days_left: i64,
    /// Whether it is due for renewal.
    pub due: bool,
}

impl Status {
    /// Whether something is left to do, or cannot be told.
    pub fn is_unfinished(&self) -> bool {
        self.paths.iter().any(|p| p.next.is_some() || matches!(p.state, State::Unreadable(_)))
    }
}

/// Looks at each path: an identity file, there or not. A certificate is due that has not more than `due_within` left.
///
/// # Errors
/// [`Error::Read`] for a path that cannot be made absolute; whatever else is wrong is in the status.
pub fn status(paths: &[PathBuf], due_within: Duration, world: &World<'_>) -> Result<Status, Error> {
    paths.iter().map(|path| one(path, due_within, world)).collect::<Result<_, _>>().map(|paths| Status { paths })
}

fn one(path: &Path, due_within: Duration, world: &World<'_>) -> Result<PathStatus, Error> {
    let file = files::absolute(path).map_err(Error::Read)?;
    let name = shell_word(&file.to_string_lossy());
    let renewal = || Some(format!("ziti-enroller renew {name}"));
    let (state, next) = match (enroll::standing(&file), renew::standing(&file)) {
        (Ok(Some(standing)), _) => {
            let next = next_command(&standing, &file, &name);
            let Standing { stage, subject, spent, .. } = standing;
            (State::Unfinished { stage, subject, token_spent: spent }, Some(next))
        }
        (Ok(None), Ok(Some(stage))) => (State::Renewing { stage }, renewal()),
        (Ok(None), Ok(None)) if !file.exists() => (State::Nothing, None),
        (Ok(None), Ok(None)) if files::read_file(&file, identity::LARGEST).is_ok_and(|text| Network::is_all_of(&text)) => {
            (State::Network, None)
        }
        (Ok(None), Ok(None)) => match read_identity(&file).and_then(|identity| enrolled(&file, &identity, due_within, world)) {
            Ok(enrolled) => {
                let next = if enrolled.due { renewal() } else { None };
                (State::Enrolled(enrolled), next)
            }
            Err(error) => (State::Unreadable(sentence(&error)), None),
        },
        (Err(error), _) | (_, Err(error)) => (State::Unreadable(sentence(&error)), None),
    };
    Ok(PathStatus { file: file.display().to_string(), state, next })
}

fn enrolled(file: &Path, identity: &Identity, due_within: Duration, world: &World<'_>) -> Result<Enrolled, Error> {
    let unreadable = |e| Error::Identity { path: file.to_owned(), source: IdentityError::Certificates("cert", e) };
    let summary = identity.chain.summary().map_err(unreadable)?;
    Ok(Enrolled {
        certificate: CertificateSummary::from(&summary),
        days_left: days_left(summary.not_after, world),
        due: summary.not_after <= world.now().as_secs().saturating_add(due_within.as_secs()),
    })
}

fn next_command(standing: &Standing, file: &Path, name: &str) -> String {
    let token_is_there = standing.token_file.as_ref().is_some_and(|token| token.exists());
    let secret = match standing.method.map(Method::brings) {
        Some(Brings::IdpToken) => " --idp-token FILE",
        Some(Brings::Password) => " --password-file FILE",
        _ => "",
    };
    match (standing.stage, &standing.key) {
        ("lost", _) => take_back_command(standing.subject.as_deref(), file),
        // Whoever was stopped so early has not even said which key.
        (_, None) => format!("ziti-enroller enroll --jwt - --out {name}"),
        ("answered" | "refused" | "done", _) => format!("ziti-enroller resume {name}"),
        // Its token is the identity provider's.
        (_, Some(_)) if token_is_there || standing.method.map(Method::brings) == Some(Brings::IdpToken) => {
            format!("ziti-enroller resume {name}{secret}")
        }
        (_, Some(_)) => format!("ziti-enroller resume {name} --jwt -{secret}"),
    }
}
