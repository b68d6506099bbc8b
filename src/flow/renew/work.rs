//! The work folder `.<identity>.renew/`: lock, journal, the new identity before its rename, a new file key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stage::{Record, Stage};
use crate::error::{Error, Spent};
use crate::files::{self, FileError, Folder, Lock};
use crate::flow::{Watch, replay};
use crate::identity;
use crate::journal::{self, Journal, JournalError};

const NEXT: &str = "next";
/// Says that the renewal is given up, and that its own key is to be deleted.
const ABANDONED: &str = "abandoned";

/// Where the identity stands.
#[derive(Clone, Debug)]
pub(super) struct Place(files::Place);

impl Place {
    pub(super) fn of(identity: &Path) -> Result<Self, FileError> {
        files::Place::of(identity, "replace", "renew").map(Self)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// The folder of the identity.
    pub(super) fn folder(&self) -> &Folder {
        self.0.folder()
    }

    /// Refuses what is no regular file: a link would be replaced, and not what it leads to.
    pub(super) fn must_be_a_file(&self) -> Result<(), FileError> {
        self.0.refuse_existing(true)
    }

    /// What stands there now.
    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        files::read_file(&self.path(), identity::LARGEST).map_err(Error::Read)
    }

    /// Where a renewal stands that has not ended, and nothing is changed; `None` where there is none.
    pub(super) fn stage(&self) -> Result<Option<Stage>, Error> {
        if !self.0.has_work() {
            return Ok(None);
        }
        let folder = self.0.existing_work().map_err(|source| Error::Local { source, spent: Spent::No })?;
        let records = Journal::<Record>::read(&folder).map_err(unknown)?.unwrap_or_default();
        replay(Stage::Fresh, records).map(Some).ok_or_else(|| damaged(&folder))
    }

    /// Makes or opens the work folder, holds it, and reads where the renewal stands.
    pub(super) fn hold(&self) -> Result<(Held, Stage), Error> {
        let local = |source| Error::Local { source, spent: Spent::No };
        let folder = Arc::new(self.0.work().map_err(local)?);
        let lock = folder.lock().map_err(local)?;
        let (journal, records) = Journal::open(&folder, self.0.folder()).map_err(unknown)?;
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
        if let Err(error) = self.work.place.0.remove_work(journal::NAME) {
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
        self.place.folder().dress(self.place.0.name(), &self.folder, NEXT)?;
        self.folder.sync()
    }

    /// The new identity, until it is in its place.
    pub(super) fn next(&self) -> Result<Option<Vec<u8>>, FileError> {
        self.folder.read(NEXT, identity::LARGEST)
    }

    /// Puts the new identity into its place; with `backup`, the old one stays as `<identity>.bak`.
    pub(super) fn publish(&self, backup: bool) -> Result<(), FileError> {
        let (folder, name) = (self.place.folder(), self.place.0.name());
        if backup {
            let old = files::read_file(&self.place.path(), identity::LARGEST)?;
            let mut copy = name.to_owned();
            copy.push(".bak");
            folder.keep_copy(name, &old, &self.folder, &copy)?;
        }
        folder.publish(&self.folder, NEXT, name, true)
    }
}

fn unknown(source: JournalError) -> Error {
    Error::Journal { source, spent: Spent::Yes }
}

fn damaged(folder: &Folder) -> Error {
    unknown(JournalError::out_of_order(folder))
}
