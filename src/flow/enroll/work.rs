//! The work folder `.<out>.enroll/`: lock, journal, the raw answer, the identity before its rename, a new file key.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::stage::{Record, Stage};
use crate::controller::Answer;
use crate::error::{Error, Spent};
use crate::files::{FileError, FileErrorKind, Folder, Lock, Place};
use crate::flow::{Stages, Watch, replay};
use crate::journal::{self, Journal, JournalError};
use crate::text::hex;

const ANSWER: &str = "answer";
const IDENTITY: &str = "identity";
/// Name in the work folder, and the end of the name beside the output.
const REJECTED: &str = ".rejected.pem";
/// An answer that could not be used, beside the one that was handed to us in its place.
const UNUSABLE: &str = "answer.unusable";
/// Largest answer that is read back, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Where the identity is to appear.
#[derive(Clone, Debug)]
pub(super) struct Output(Place);

impl Output {
    pub(super) fn at(out: &Path) -> Result<Self, FileError> {
        Place::of(out, "write", "enroll").map(Self)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path()
    }

    pub(super) fn work_path(&self) -> PathBuf {
        self.0.folder().join(self.0.work_name())
    }

    pub(super) fn has_work(&self) -> bool {
        self.0.has_work()
    }

    /// Makes the work folder with all that it reserves, and removes it again.
    pub(super) fn try_to_write(&self, owner: Option<(u32, Option<u32>)>) -> Result<(), FileError> {
        let folder = self.0.work()?;
        let lock = folder.lock()?;
        let reserved = reserve(&folder, owner);
        drop(lock);
        self.0.remove_work(journal::NAME)?;
        reserved
    }

    /// Where the enrollment of this output stands; `None` where there is none.
    pub(super) fn stage(&self) -> Result<Option<Stage>, Error> {
        if !self.has_work() {
            return Ok(None);
        }
        let folder = self.0.existing_work().map_err(|source| Error::Local { source, spent: Spent::Unknown })?;
        let unknown = |source| Error::Journal { source, spent: Spent::Unknown };
        let records = Journal::read(&folder).map_err(unknown)?.unwrap_or_default();
        Ok(Some(reached(&folder, records)?.0))
    }

    pub(super) fn refuse_existing(&self, replace: bool) -> Result<(), FileError> {
        self.0.refuse_existing(replace)
    }
}

/// The work folder, held by this run.
#[derive(Debug)]
pub(super) struct WorkFolder {
    output: Output,
    folder: Arc<Folder>,
    pub(super) journal: Journal<Record>,
    /// Held until the end of the run.
    lock: Lock,
}

/// First line of the kept answer: a torn file does not fit its own description, so that it can be told from a whole one
/// even where the journal's record of it was lost.
#[derive(Serialize, Deserialize)]
struct Kept {
    status: u16,
    content_type: Option<String>,
    length: usize,
    sha256: String,
}

impl WorkFolder {
    /// Opens or makes it, holds it, and reads where the enrollment stands.
    pub(super) fn open(output: Output) -> Result<(Self, Stage), Error> {
        // What an earlier run has come to is not known yet.
        let spent = if output.has_work() { Spent::Unknown } else { Spent::No };
        let held = output.0.work().and_then(|folder| folder.lock().map(|lock| (folder, lock)));
        let (folder, lock) = held.map_err(|source| {
            // It is not ours, or another run's.
            let elsewhere = matches!(source.kind, FileErrorKind::FolderUnsafe(_) | FileErrorKind::InUse);
            if spent == Spent::No && !elsewhere {
                // Does nothing where something is in it.
                drop(output.0.folder().remove_empty(output.0.work_name()));
            }
            Error::Local { source, spent: if elsewhere { Spent::No } else { spent } }
        })?;
        let folder = Arc::new(folder);
        let opened = Journal::open(&folder, output.0.folder()).map_err(|source| Error::Journal { source, spent });
        let (mut journal, records) = opened.inspect_err(|error| {
            if spent == Spent::No && matches!(error, Error::Journal { source: JournalError::File(_), .. }) {
                drop(output.0.remove_work(journal::NAME));
            }
        })?;
        let (stage, unrecorded) = reached(&folder, records)?;
        if let Some(record) = unrecorded {
            journal.append(&record).map_err(|source| Error::Journal { source, spent: Spent::Yes })?;
        }
        Ok((Self { output, folder, journal, lock }, stage))
    }

    pub(super) fn folder(&self) -> Work {
        Work { output: self.output.clone(), folder: self.folder.clone() }
    }

    /// Finds a full disk now, and not when the token is spent.
    pub(super) fn reserve(&self, owner: Option<(u32, Option<u32>)>) -> Result<(), FileError> {
        reserve(&self.folder, owner)
    }

    /// Where the enrollment stands, by what is written down.
    pub(super) fn stage(&self) -> Option<Stage> {
        let records = Journal::<Record>::read(&self.folder).ok().flatten()?;
        replay(Stage::Fresh, records)
    }

    /// Gives it another name; it stays held.
    pub(super) fn set_aside(&self) -> Result<PathBuf, FileError> {
        let Output(place) = &self.output;
        let aside = place.folder().set_aside(place.work_name())?;
        Ok(place.folder().join(aside))
    }

    /// The identity is in place.
    pub(super) fn remove(self, watch: &dyn Watch) {
        if let Err(error) = self.output.0.remove_work(journal::NAME) {
            watch.note(&format!("the identity is in place, and its work folder stays: {error}"));
        }
        drop(self.lock);
    }

    /// After a failure: keeps what a rerun needs, and leaves nothing where it needs nothing.
    pub(super) fn remove_if_worthless(self, watch: &dyn Watch) {
        let worthless = match self.stage() {
            Some(Stage::Fresh) => true,
            // An abandoned key that is still to be deleted is named in the intent.
            Some(Stage::Intended(intent) | Stage::Trusted(super::stage::Trusted { intent, .. })) => intent.discard.is_none(),
            Some(Stage::Refused(ready, _)) => ready.keyed.made().is_none() || self.folder.has(CLEANED),
            _ => false,
        };
        if worthless && let Err(error) = self.output.0.remove_work(journal::NAME) {
            watch.note(&error.to_string());
        }
        drop(self.lock);
    }
}

/// Says that the key of a refused enrollment is deleted.
const CLEANED: &str = "cleaned";

/// The part of the work folder that steps write to.
#[derive(Clone, Debug)]
pub(super) struct Work {
    output: Output,
    folder: Arc<Folder>,
}

impl Work {
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The folder of the identity.
    pub(super) fn beside(&self) -> &Folder {
        self.output.0.folder()
    }

    pub(super) fn out(&self) -> PathBuf {
        self.output.path()
    }

    /// Makes an answer durable before anyone reads it.
    pub(super) fn keep(&self, answer: &Answer) -> Result<(), FileError> {
        let kept = Kept {
            status: answer.status,
            content_type: answer.content_type.clone(),
            length: answer.body.len(),
            sha256: hex(digest(&SHA256, &answer.body).as_ref()),
        };
        // Numbers and text alone: cannot fail.
        let mut content = serde_json::to_vec(&kept).unwrap_or_default();
        content.push(b'\n');
        content.extend_from_slice(&answer.body);
        self.folder.fill(ANSWER, &content)
    }

    pub(super) fn answer(&self) -> Result<Option<Answer>, FileError> {
        kept(&self.folder)
    }

    /// Keeps another answer in place of one that cannot be used, which is not lost.
    pub(super) fn keep_instead(&self, answer: &Answer) -> Result<(), FileError> {
        if kept(&self.folder)?.is_some()
            && let Some(old) = self.folder.read(ANSWER, LARGEST)?
        {
            self.folder.fill(UNUSABLE, &old)?;
        }
        self.keep(answer)
    }

    /// Puts certificates that cannot be used beside the output, and replaces nothing that is there.
    pub(super) fn reject(&self, pem: &[u8]) -> Result<PathBuf, FileError> {
        let mut name = self.output.path().with_extension("").file_name().unwrap_or(OsStr::new("identity")).to_owned();
        name.push(REJECTED);
        // An earlier run may have put them there.
        if !matches!(self.beside().read(&name, LARGEST), Ok(Some(there)) if there == pem) {
            self.folder.fill(REJECTED, pem)?;
            self.beside().publish(&self.folder, REJECTED, &name, false)?;
        }
        Ok(self.beside().join(name))
    }

    /// Writes the identity durably where nobody looks yet.
    pub(super) fn write_identity(&self, text: &str) -> Result<(), FileError> {
        self.folder.fill(IDENTITY, text.as_bytes())
    }

    /// Gives it its name.
    pub(super) fn publish(&self, replace: bool) -> Result<(), FileError> {
        self.beside().publish(&self.folder, IDENTITY, self.output.0.name(), replace)
    }

    /// What stands at the place of the output.
    pub(super) fn published(&self) -> Result<Option<Vec<u8>>, FileError> {
        self.beside().read(self.output.0.name(), LARGEST)
    }

    /// Makes the name of the identity durable, which an earlier run has given it.
    pub(super) fn sync_published(&self) -> Result<(), FileError> {
        self.beside().sync()
    }

    pub(super) fn note_clean(&self) -> Result<(), FileError> {
        self.folder.fill(CLEANED, b"")
    }
}

fn reserve(folder: &Folder, owner: Option<(u32, Option<u32>)>) -> Result<(), FileError> {
    folder.reserve(ANSWER)?;
    folder.reserve(IDENTITY)?;
    // Found out now whether it may be given away; it keeps its owner when it is filled.
    owner.map_or(Ok(()), |(user, group)| folder.give(IDENTITY, user, group))
}

/// Where the enrollment stands, by its records and by the answer, and the record that is missing: the answer is durable by
/// itself, and what was written of it may have been lost.
fn reached(folder: &Folder, records: Vec<Record>) -> Result<(Stage, Option<Record>), Error> {
    let unknown = |source| Error::Journal { source, spent: Spent::Unknown };
    let stage = replay(Stage::Fresh, records).ok_or_else(|| unknown(JournalError::out_of_order(folder)))?;
    let answered = matches!(stage, Stage::Posting(..))
        && kept(folder).map_err(|source| Error::Local { source, spent: Spent::Unknown })?.is_some();
    if !answered {
        return Ok((stage, None));
    }
    let stage = stage.after(Record::Answered).map_err(|_| unknown(JournalError::out_of_order(folder)))?;
    Ok((stage, Some(Record::Answered)))
}

fn kept(folder: &Folder) -> Result<Option<Answer>, FileError> {
    let Some(content) = folder.read(ANSWER, LARGEST)? else { return Ok(None) };
    let Some(end) = content.iter().position(|b| *b == b'\n') else { return Ok(None) };
    let Ok(kept) = serde_json::from_slice::<Kept>(&content[..end]) else { return Ok(None) };
    // What held the place may still stand behind it.
    let Some(body) = content[end + 1..].get(..kept.length) else { return Ok(None) };
    let whole = kept.sha256 == hex(digest(&SHA256, body).as_ref());
    Ok(whole.then(|| Answer {
        status: kept.status,
        content_type: kept.content_type,
        retry_after: None,
        session: None,
        body: body.to_vec(),
    }))
}
