//! The work folder `.<identity>.renew/`: lock, journal, the new identity before its rename, a new file key.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stage::{Record, Stage};
use crate::error::{Error, Spent};
use crate::files::{self, FileError, FileErrorKind, Folder, Lock};
use crate::flow::{Watch, replay};
use crate::identity;
use crate::journal::{self, Journal, JournalError};

const NEXT: &str = "next";
/// Says that the renewal is given up, and that its own key is to be deleted.
const ABANDONED: &str = "abandoned";

/// Where the identity stands: a folder, opened once, and a name in it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: Arc<Folder>,
    name: OsString,
    work_name: OsString,
}

impl Place {
    pub(super) fn of(identity: &Path) -> Result<Self, FileError> {
        let path = files::absolute(identity)?;
        let name =
            path.file_name().ok_or_else(|| FileError { action: "replace", path: path.clone(), kind: FileErrorKind::NotAFile })?;
        let mut work_name = OsString::from(".");
        work_name.push(name);
        work_name.push(".renew");
        Ok(Self { folder: Arc::new(Folder::of(&path)?), name: name.to_owned(), work_name })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The folder of the identity.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Refuses what is no regular file: a link would be replaced, and not what it leads to.
    pub(super) fn must_be_a_file(&self) -> Result<(), FileError> {
        self.folder.refuse_existing(&self.name, true).map_err(|error| FileError { action: "replace", ..error })
    }

    /// What stands there now.
    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        files::read_file(&self.path(), identity::LARGEST).map_err(Error::Read)
    }

    /// Where a renewal stands that has not ended, and nothing is changed; `None` where there is none.
    pub(super) fn stage(&self) -> Result<Option<Stage>, Error> {
        if !self.folder.has(&self.work_name) {
            return Ok(None);
        }
        let folder = self.folder.existing(&self.work_name).map_err(|source| Error::Local { source, spent: Spent::No })?;
        let records = Journal::<Record>::read(&folder).map_err(unknown)?.unwrap_or_default();
        replay(Stage::Fresh, records).map(Some).ok_or_else(|| damaged(&folder))
    }

    /// Makes or opens the work folder, holds it, and reads where the renewal stands.
    pub(super) fn hold(&self) -> Result<(Held, Stage), Error> {
        let local = |source| Error::Local { source, spent: Spent::No };
        let folder = Arc::new(self.folder.private(&self.work_name).map_err(local)?);
        let lock = folder.lock().map_err(local)?;
        let (journal, records) = Journal::open(&folder, &self.folder).map_err(unknown)?;
        let stage = replay(Stage::Fresh, records).ok_or_else(|| damaged(&folder))?;
        Ok((Held { work: Work { place: self.clone(), folder }, journal, lock }, stage))
    }
}

/// The work folder, held by this run.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) work: Work,
    pub(super) journal: Journal<Record>,
    /// Held until the end of the run.
    lock: Lock,
}

impl Held {
    /// Where the renewal stands, by what is written down.
    pub(super) fn stage(&self) -> Option<Stage> {
        replay(Stage::Fresh, Journal::<Record>::read(&self.work.folder).ok().flatten()?)
    }

    /// Gives the renewal up. A run that is killed before all is cleaned up leaves that to the next one.
    pub(super) fn abandon(&self) -> Result<(), FileError> {
        self.work.folder.fill(ABANDONED, b"")?;
        self.work.folder.sync()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.work.folder.has(ABANDONED)
    }

    /// Nothing in it is needed any more.
    pub(super) fn remove(self, watch: &dyn Watch) {
        let Place { folder, work_name, .. } = &self.work.place;
        if let Err(error) = folder.remove_private(work_name, journal::NAME) {
            watch.note(&format!("the work folder stays: {error}"));
        }
        drop(self.lock);
    }

    /// After a failure: keeps what a rerun needs, and leaves nothing where it needs nothing.
    pub(super) fn remove_if_worthless(self, watch: &dyn Watch) {
        let worthless = match self.stage() {
            Some(Stage::Fresh | Stage::Begun(_)) => true,
            // The same key is asked for again in any case.
            Some(Stage::Keyed(keyed)) => !keyed.key.created,
            _ => false,
        };
        if worthless {
            self.remove(watch);
        }
    }
}

/// The part of the work folder that steps write to.
#[derive(Clone, Debug)]
pub(super) struct Work {
    place: Place,
    folder: Arc<Folder>,
}

impl Work {
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Makes the new identity durable, with owner and mode of the old one.
    pub(super) fn write_next(&self, text: &str) -> Result<(), FileError> {
        self.folder.fill(NEXT, text.as_bytes())?;
        self.place.folder.dress(&self.place.name, &self.folder, NEXT)?;
        self.folder.sync()
    }

    /// The new identity, until it is in its place.
    pub(super) fn next(&self) -> Result<Option<Vec<u8>>, FileError> {
        self.folder.read(NEXT, identity::LARGEST)
    }

    /// Puts the new identity into its place; with `backup`, the old one stays as `<identity>.bak`.
    pub(super) fn publish(&self, backup: bool) -> Result<(), FileError> {
        let Place { folder, name, .. } = &self.place;
        if backup {
            let old = files::read_file(&self.place.path(), identity::LARGEST)?;
            let mut copy = name.clone();
            copy.push(".bak");
            folder.keep_copy(name, &old, &self.folder, &copy)?;
        }
        folder.publish(&self.folder, NEXT, name, true)
    }
}

fn unknown(source: JournalError) -> Error {
    Error::Journal { source, spent: Spent::Yes }
}

/// Lines that are whole each, and do not follow on each other.
fn damaged(folder: &Folder) -> Error {
    unknown(JournalError::Damaged { path: folder.join("journal").display().to_string(), line: 0 })
}
