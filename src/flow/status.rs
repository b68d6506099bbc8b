//! Where an enrollment or an identity stands, and the next command; offline, and nothing is changed.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CertificateSummary;
use super::enroll::{self, Standing};
use super::verify::read_identity;
use crate::error::{Error, Spent, take_back_command};
use crate::files;
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
    Enrolled(CertificateSummary),
    /// An enrollment has not ended.
    Unfinished {
        /// The stage that it reached.
        stage: &'static str,
        /// The identity's id.
        subject: Option<String>,
        /// Whether its token is spent.
        token_spent: Spent,
    },
    /// Something is there that cannot be read; in words.
    Unreadable(String),
}

impl Status {
    /// Whether something is left to do.
    pub fn is_unfinished(&self) -> bool {
        self.paths.iter().any(|p| p.next.is_some())
    }
}

/// Looks at each path: an identity file, there or not.
///
/// # Errors
/// [`Error::Read`] for a path that cannot be made absolute; whatever else is wrong is in the status.
pub fn status(paths: &[PathBuf]) -> Result<Status, Error> {
    paths.iter().map(|path| one(path)).collect::<Result<_, _>>().map(|paths| Status { paths })
}

fn one(path: &Path) -> Result<PathStatus, Error> {
    let file = files::absolute(path).map_err(Error::Read)?;
    let name = shell_word(&file.to_string_lossy());
    let (state, next) = match enroll::standing(&file) {
        Ok(Some(standing)) => {
            let next = next_command(&standing, &file, &name);
            let Standing { stage, subject, spent, .. } = standing;
            (State::Unfinished { stage, subject, token_spent: spent }, Some(next))
        }
        Ok(None) if !file.exists() => (State::Nothing, None),
        Ok(None) => match read_identity(&file).map(|identity| identity.chain.summary()) {
            Ok(Ok(summary)) => (State::Enrolled(CertificateSummary::from(&summary)), None),
            Ok(Err(error)) => (State::Unreadable(error.to_string()), None),
            Err(error) => (State::Unreadable(enroll::sentence(&error)), None),
        },
        Err(error) => (State::Unreadable(enroll::sentence(&error)), None),
    };
    Ok(PathStatus { file: file.display().to_string(), state, next })
}

fn next_command(standing: &Standing, file: &Path, name: &str) -> String {
    let token_is_there = standing.token_file.as_ref().is_some_and(|token| token.exists());
    match (standing.stage, &standing.subject) {
        ("lost", Some(subject)) => take_back_command(subject, file),
        // Whoever was stopped so early has not even said which key.
        (_, None) => format!("ziti-enroller enroll --jwt - --out {name}"),
        ("answered" | "refused" | "done", _) => format!("ziti-enroller resume {name}"),
        (_, Some(_)) if token_is_there => format!("ziti-enroller resume {name}"),
        (_, Some(_)) => format!("ziti-enroller resume {name} --jwt -"),
    }
}
