//! `renew`: of one identity or of a folder, with what is run after each.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde::Serialize;
use ziti_enroller::error::Error;
use ziti_enroller::files::{self, FileError, FileErrorKind};
use ziti_enroller::flow::World;
use ziti_enroller::flow::renew::{self, Outcome, Renewed, Request};
use ziti_enroller::flow::verify::read_identity;
use ziti_enroller::identity::IdentityError;
use ziti_enroller::text::shell_word;

use super::report::{self, Mistake};

/// One identity.
#[derive(Debug, Serialize)]
pub struct One {
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How the hook ended; `null` where none was run.
    pub hook: Option<Hook>,
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Its exit code; `null` where a signal has ended it, or it could not be started.
    pub exit: Option<i32>,
}

/// The identities of a folder.
#[derive(Debug, Serialize)]
pub struct All {
    /// In the order of their names.
    pub identities: Vec<Each>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct Each {
    /// Its file.
    pub file: String,
    /// What became of it.
    #[serde(flatten)]
    pub result: EachResult,
}

/// What became of one of them.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum EachResult {
    /// It was renewed, or is not due.
    Done(Box<One>),
    /// It was not.
    Failed {
        /// Why.
        error: Mistake,
    },
}

impl One {
    /// 1 where the hook has failed.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.hook.is_some_and(|hook| hook.exit != Some(0)))
    }
}

impl All {
    /// 0 where all went well, the one code with which all have failed, else 1.
    pub fn exit_code(&self) -> u8 {
        let mut codes: Vec<u8> = self
            .identities
            .iter()
            .map(|each| match &each.result {
                EachResult::Done(one) => one.exit_code(),
                EachResult::Failed { error } => error.exit,
            })
            .collect();
        codes.dedup();
        match codes.as_slice() {
            [] => 0,
            [all] => *all,
            _ => 1,
        }
    }
}

/// Renews one identity.
pub fn one(request: &Request, hook: Option<&str>, world: &World<'_>) -> Result<One, Error> {
    let ended = Cell::new(None);
    let outcome = renew::renew(request, world, &|renewed| ended.set(hook.map(|command| run(command, renewed, world))))?;
    Ok(One { outcome, hook: ended.get() })
}

/// Renews what is due among the identities of a folder; one that fails does not stop the others.
pub fn all(folder: &Path, request: &Request, hook: Option<&str>, world: &World<'_>) -> Result<All, Error> {
    let mut identities = Vec::new();
    for file in files_of(folder)? {
        if is_something_else(&file) {
            world.note(&format!("{} is no identity: left alone", file.display()));
            continue;
        }
        let request = Request { identity: file.clone(), ..request.clone() };
        let result = match one(&request, hook, world) {
            Ok(one) => EachResult::Done(Box::new(one)),
            Err(error) => EachResult::Failed { error: report::mistake(&error) },
        };
        identities.push(Each { file: file.display().to_string(), result });
    }
    Ok(All { identities })
}

/// Says that a renewal has not ended, where an identity does not log in: that may be why.
pub fn mention(identity: &Path, world: &World<'_>) {
    if let Ok(Some(stage)) = renew::standing(identity) {
        let name = shell_word(&identity.to_string_lossy());
        world.note(&format!("a renewal of {name} stopped at stage `{stage}`: `ziti-enroller renew {name}` goes on with it"));
    }
}

/// Regular files whose names end in `.json`, sorted; hidden ones are left out.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |error: std::io::Error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Error::Read(FileError { action: "list", path: folder.to_owned(), kind: FileErrorKind::System(errno) })
    };
    let folder = files::absolute(folder).map_err(Error::Read)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let name = entry.file_name();
        let is_named = !name.to_string_lossy().starts_with('.') && name.to_string_lossy().ends_with(".json");
        if is_file && is_named {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file is JSON of another kind than an identity.
fn is_something_else(file: &Path) -> bool {
    matches!(read_identity(file), Err(Error::Identity { source: IdentityError::Missing("id"), .. }))
}

/// By the shell, with the file as its first argument. What it prints goes to standard error.
fn run(command: &str, renewed: &Renewed, world: &World<'_>) -> Hook {
    let ran = Command::new("/bin/sh").args(["-c", command, "hook"]).arg(&renewed.identity.file).status();
    let exit = ran.as_ref().ok().and_then(ExitStatus::code);
    if exit != Some(0) {
        let why = ran.map_or_else(|error| error.to_string(), |status| status.to_string());
        world.note(&format!("the identity is renewed, and the hook has failed: {why}"));
    }
    Hook { exit }
}
