//! Where one file is to stand: found once, and worked on in a folder of our own beside it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FileError, FileErrorKind, Folder, absolute};

/// A folder, opened once, a name in it, and the name of the folder in which the file is made: `.<name>.<purpose>`.
#[derive(Clone, Debug)]
pub struct Place {
    folder: Arc<Folder>,
    name: OsString,
    work_name: OsString,
    /// What is done there, for errors.
    action: &'static str,
}

impl Place {
    /// The place of `file`. `action`, a verb, is what is done there.
    ///
    /// # Errors
    /// [`FileErrorKind::NotAFile`] for a path without a name, and those of [`Folder::of`].
    pub fn of(file: &Path, action: &'static str, purpose: &str) -> Result<Self, FileError> {
        let path = absolute(file)?;
        let name = path.file_name().map(OsStr::to_owned);
        let name = name.ok_or_else(|| FileError { action, path: path.clone(), kind: FileErrorKind::NotAFile })?;
        let mut work_name = OsString::from(".");
        work_name.push(&name);
        work_name.push(format!(".{purpose}"));
        Ok(Self { folder: Arc::new(Folder::of(&path)?), name, work_name, action })
    }

    /// The folder that the file is in.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The name of the file.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The name of the folder in which it is made.
    pub fn work_name(&self) -> &OsStr {
        &self.work_name
    }

    /// Whether that folder is there: something has not ended.
    pub fn has_work(&self) -> bool {
        self.folder.has(&self.work_name)
    }

    /// Makes or opens that folder.
    pub fn work(&self) -> Result<Folder, FileError> {
        self.folder.private(&self.work_name)
    }

    /// Opens that folder, which must be there.
    pub fn existing_work(&self) -> Result<Folder, FileError> {
        self.folder.existing(&self.work_name)
    }

    /// Removes that folder and the files in it, `last` after all others.
    pub fn remove_work(&self, last: &str) -> Result<(), FileError> {
        self.folder.remove_private(&self.work_name, last)
    }

    /// Refuses what must not stand there; a regular file only without `replace`.
    pub fn refuse_existing(&self, replace: bool) -> Result<(), FileError> {
        self.folder.refuse_existing(&self.name, replace).map_err(|error| FileError { action: self.action, ..error })
    }
}
