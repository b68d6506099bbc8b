//! [`FileError`]: what was tried, on what, and what the system said. An errno becomes one here and nowhere else.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// A file or folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {}", .path.display(), .kind.words())]
pub struct FileError {
    /// What was tried: `create`, `read`, …
    pub action: &'static str,
    /// What it was tried on.
    pub path: PathBuf,
    /// What is wrong.
    pub kind: FileErrorKind,
}

/// What is wrong with a file or folder.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileErrorKind {
    /// The output is there already.
    Exists,
    /// The output is a symbolic link.
    Symlink,
    /// The output is a folder, a FIFO, a device.
    NotAFile,
    /// The folder is not there.
    FolderMissing,
    /// The folder does not let us write.
    FolderNotWritable(Errno),
    /// Somebody else could swap our files in the folder.
    FolderUnsafe(Unsafe),
    /// No room on the file system, or in the quota.
    Full(Errno),
    /// Another process works on the same identity.
    InUse,
    /// Anything else that the system says.
    System(Errno),
    /// The file is larger than anything we read.
    TooLarge(u64),
    /// Its content is not what it must be.
    Content(&'static str),
}

/// Why a folder is not safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsafe {
    /// Everyone may write to it, and it has no sticky bit.
    OpenToAll,
    /// It belongs to neither root nor us.
    OfAnother,
    /// A link or a file stands where our folder should.
    NoFolder,
    /// It is to be ours alone, and others may write to it.
    Shared,
    /// A file in it has another name or another owner.
    Planted,
}

impl Unsafe {
    fn words(self) -> &'static str {
        match self {
            Self::OpenToAll => "everyone may write to it",
            Self::OfAnother => "it belongs to another user",
            Self::NoFolder => "it is not a folder of ours",
            Self::Shared => "others may write to it",
            Self::Planted => "that file has another owner or another name beside this one",
        }
    }
}

impl FileErrorKind {
    fn words(&self) -> String {
        match self {
            Self::Exists => "it is there already".into(),
            Self::Symlink => "it is a symbolic link".into(),
            Self::NotAFile => "it is not a regular file".into(),
            Self::FolderMissing => "no such folder".into(),
            Self::FolderNotWritable(errno) => format!("the folder cannot be written ({})", name(*errno)),
            Self::FolderUnsafe(why) => format!("the folder is not safe: {}", why.words()),
            Self::Full(errno @ Errno::FBIG) => format!("files may not be that large here ({})", name(*errno)),
            Self::Full(errno) => format!("no space left ({})", name(*errno)),
            Self::InUse => "another run works on it".into(),
            Self::System(errno) => name(*errno),
            Self::TooLarge(limit) => format!("it is larger than {limit} bytes"),
            Self::Content(why) => (*why).into(),
        }
    }
}

fn name(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

impl FileError {
    /// What `errno` means for what was tried.
    pub(crate) fn of(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        let kind = match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileErrorKind::Full(errno),
            Errno::EXIST => FileErrorKind::Exists,
            Errno::ROFS => FileErrorKind::FolderNotWritable(errno),
            _ => FileErrorKind::System(errno),
        };
        Self { action, path: path.into(), kind }
    }

    /// The same of an error of the standard library.
    pub(crate) fn of_io(action: &'static str, path: impl Into<PathBuf>, source: &io::Error) -> Self {
        Self::of(action, path, Errno::from_io_error(source).unwrap_or(Errno::IO))
    }

    /// Whether what was to be read is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.kind, FileErrorKind::System(Errno::NOENT))
    }
}
