//! One opened folder, reserved space, the lock, the final name: nobody else writes. `replace.rs`: a file that is there is replaced.
//!
//! Everything is done relative to a folder that was opened once, so that nobody can swap it in between. Files are created
//! new (`O_EXCL|O_NOFOLLOW`), 0600 by mode and by `fchmod`, folders 0700. The final name appears once, by
//! `renameat2(RENAME_NOREPLACE)`.

mod replace;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Space that is reserved for an answer and for an identity before the token is spent, in bytes.
pub const RESERVED: u64 = 64 * 1024;
/// The lock of a folder.
const LOCK: &str = "lock";

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
}

impl Unsafe {
    fn words(self) -> &'static str {
        match self {
            Self::OpenToAll => "everyone may write to it",
            Self::OfAnother => "it belongs to another user",
            Self::NoFolder => "it is not a folder of ours",
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

fn error(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> FileError {
    let kind = match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileErrorKind::Full(errno),
        Errno::EXIST => FileErrorKind::Exists,
        _ => FileErrorKind::System(errno),
    };
    FileError { action, path: path.into(), kind }
}

fn io_error(action: &'static str, path: impl Into<PathBuf>, source: &io::Error) -> FileError {
    error(action, path, Errno::from_io_error(source).unwrap_or(Errno::IO))
}

/// A folder, opened once.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder in which `file` is to appear, and checks that nobody else can swap files in it.
    ///
    /// # Errors
    /// [`FileErrorKind::FolderMissing`], [`FileErrorKind::FolderUnsafe`] where everyone may write to it without the
    /// sticky bit or it belongs to neither root nor us. Writable by its group is accepted.
    pub fn of(file: &Path) -> Result<Self, FileError> {
        let path = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let fail = |kind| FileError { action: "open", path: path.clone(), kind };
        let fd = match fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(fail(FileErrorKind::FolderMissing)),
            Err(errno) => return Err(fail(FileErrorKind::System(errno))),
        };
        let stat = fs::fstat(&fd).map_err(|e| fail(FileErrorKind::System(e)))?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX) {
            return Err(fail(FileErrorKind::FolderUnsafe(Unsafe::OpenToAll)));
        }
        if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(fail(FileErrorKind::FolderUnsafe(Unsafe::OfAnother)));
        }
        Ok(Self { fd, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it, for messages and for devices that take paths.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses what must not stand at the place of the output; a regular file only without `replace`.
    pub fn refuse_existing(&self, name: &OsStr, replace: bool) -> Result<(), FileError> {
        let fail = |kind| Err(FileError { action: "write", path: self.join(name), kind });
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => fail(FileErrorKind::System(errno)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile if replace => Ok(()),
                FileType::RegularFile => fail(FileErrorKind::Exists),
                FileType::Symlink => fail(FileErrorKind::Symlink),
                _ => fail(FileErrorKind::NotAFile),
            },
        }
    }

    /// Opens the private folder `name` in it, made where it is missing: ours, no link, 0700.
    pub fn private(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.join(name);
        match fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                return Err(FileError {
                    action: "write to",
                    path: self.path.clone(),
                    kind: FileErrorKind::FolderNotWritable(errno),
                });
            }
            Err(errno) => return Err(error("create", path, errno)),
        }
        self.existing(name)
    }

    /// Opens the private folder `name` in it, which must be there.
    pub fn existing(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => {
                FileError { action: "use", path: path.clone(), kind: FileErrorKind::FolderUnsafe(Unsafe::NoFolder) }
            }
            errno => error("open", &path, errno),
        })?;
        let stat = fs::fstat(&fd).map_err(|e| error("look at", &path, e))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let kind = FileErrorKind::FolderUnsafe(Unsafe::OfAnother);
            return Err(FileError { action: "use", path, kind });
        }
        if Mode::from_raw_mode(stat.st_mode) != Mode::RWXU {
            // An umask of 0777 has cut the mode of mkdirat; a foreign folder of ours is made private the same way.
            fs::fchmod(&fd, Mode::RWXU).map_err(|e| error("make private", &path, e))?;
        }
        Ok(Self { fd, path })
    }

    /// Whether something of that name is there.
    pub fn has(&self, name: impl AsRef<OsStr>) -> bool {
        fs::statat(&self.fd, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Holds the folder until the returned file is dropped.
    ///
    /// # Errors
    /// [`FileErrorKind::InUse`] at once where another process holds it.
    pub fn lock(&self) -> Result<Lock, FileError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(|e| error("create", self.join(LOCK), e))?;
        match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _fd: fd }),
            Err(Errno::WOULDBLOCK) => Err(FileError { action: "use", path: self.path.clone(), kind: FileErrorKind::InUse }),
            Err(errno) => Err(error("lock", self.join(LOCK), errno)),
        }
    }

    /// Writes a new file: under another name first, durably, so that it has its own only when it is whole.
    ///
    /// # Errors
    /// [`FileErrorKind::Exists`] where something of that name is there.
    pub fn write_new(&self, name: &OsStr, content: &[u8]) -> Result<(), FileError> {
        let part = format!(".{}.part", name.to_string_lossy());
        self.fill(&part, content)?;
        self.publish(self, &part, name, false)
    }

    fn open_new(&self, name: &str, access: OFlags) -> Result<File, FileError> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = fs::openat(&self.fd, name, flags, private).map_err(|e| error("create", self.join(name), e))?;
        fs::fchmod(&fd, private).map_err(|e| error("make private", self.join(name), e))?;
        Ok(File::from(fd))
    }

    /// Makes an empty file with room for [`RESERVED`] bytes, so that a full disk is found now and not later.
    pub fn reserve(&self, name: &str) -> Result<(), FileError> {
        if self.has(name) {
            return Ok(());
        }
        let mut file = self.open_new(name, OFlags::WRONLY)?;
        match fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVED) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                // The zeros are cut off when the real content comes; until then they hold the place.
                file.write_all(&[0; RESERVED as usize]).map_err(|e| io_error("reserve space in", self.join(name), &e))
            }
            Err(errno) => Err(error("reserve space in", self.join(name), errno)),
        }
    }

    /// Puts `content` into a file of ours, in the place that [`reserve`](Self::reserve) holds, and makes it durable.
    pub fn fill(&self, name: &str, content: &[u8]) -> Result<(), FileError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = fs::openat(&self.fd, name, flags, private).map_err(|e| error("open", self.join(name), e))?;
        fs::fchmod(&fd, private).map_err(|e| error("make private", self.join(name), e))?;
        let mut file = File::from(fd);
        file.write_all(content).map_err(|e| io_error("write", self.join(name), &e))?;
        fs::ftruncate(&file, content.len() as u64).map_err(|e| error("write", self.join(name), e))?;
        file.sync_all().map_err(|e| io_error("sync", self.join(name), &e))
    }

    /// Gives a file of it to a user, and a group.
    pub fn give(&self, name: &str, user: u32, group: Option<u32>) -> Result<(), FileError> {
        let (user, group) = (fs::Uid::from_raw(user), group.map(fs::Gid::from_raw));
        fs::chownat(&self.fd, name, Some(user), group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| error("give away", self.join(name), e))
    }

    /// Reads a file of it, no link, of at most `limit` bytes; `None` where it is not there.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(error("read", self.join(name), errno)),
            Ok(fd) => read_limited(File::from(fd), &self.join(name), limit).map(Some),
        }
    }

    /// Opens a file to append to, made where it is missing.
    pub fn append_to(&self, name: &str) -> Result<File, FileError> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = fs::openat(&self.fd, name, flags, private).map_err(|e| error("create", self.join(name), e))?;
        fs::fchmod(&fd, private).map_err(|e| error("make private", self.join(name), e))?;
        Ok(File::from(fd))
    }

    /// Gives `name` of `from` its final name here, once, and makes that durable.
    ///
    /// # Errors
    /// [`FileErrorKind::Exists`] where something appeared there meanwhile, unless `replace`.
    pub fn publish(&self, from: &Folder, name: &str, as_name: &OsStr, replace: bool) -> Result<(), FileError> {
        let fail = |errno| error("write", self.join(as_name), errno);
        if replace {
            fs::renameat(&from.fd, name, &self.fd, as_name).map_err(fail)?;
        } else {
            match fs::renameat_with(&from.fd, name, &self.fd, as_name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                // Not every file system knows the flag: a hard link does not replace either.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    fs::linkat(&from.fd, name, &self.fd, as_name, AtFlags::empty()).map_err(fail)?;
                    fs::unlinkat(&from.fd, name, AtFlags::empty()).map_err(|e| error("remove", from.join(name), e))?;
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
        self.sync()
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> Result<(), FileError> {
        fs::fsync(&self.fd).map_err(|e| error("sync", &self.path, e))
    }

    /// Removes a file of it; one that is not there is fine.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        match fs::unlinkat(&self.fd, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error("remove", self.join(name.as_ref()), errno)),
        }
    }

    /// Removes the folder `name` of it and the files in it: `last` after all others, and then the lock.
    pub fn remove_private(&self, name: &OsStr, last: &str) -> Result<(), FileError> {
        let folder = self.existing(name)?;
        let failed = |e| error("list", &folder.path, e);
        let mut files = Vec::new();
        for entry in fs::Dir::read_from(&folder.fd).map_err(failed)? {
            let file = entry.map_err(failed)?.file_name().to_bytes().to_owned();
            files.extend((file != b"." && file != b"..").then_some(file));
        }
        files.sort_by_key(|file| (file == LOCK.as_bytes(), file == last.as_bytes()));
        files.iter().try_for_each(|file| folder.remove(OsStr::from_bytes(file)))?;
        fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|e| error("remove", self.join(name), e))
    }

    /// Gives the folder `name` of it another, unused name, which is returned.
    pub fn set_aside(&self, name: &OsStr) -> Result<OsString, FileError> {
        for n in 1..1000 {
            let mut aside = name.to_owned();
            aside.push(format!(".{n}"));
            match fs::renameat_with(&self.fd, name, &self.fd, &aside, RenameFlags::NOREPLACE) {
                Ok(()) => return self.sync().map(|()| aside),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(error("rename", self.join(name), errno)),
            }
        }
        Err(error("rename", self.join(name), Errno::EXIST))
    }
}

/// A held folder; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _fd: OwnedFd,
}

/// Reads a file that a person named, whole, of at most `limit` bytes.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|e| io_error("read", path, &e))?;
    read_limited(file, path, limit)
}

fn read_limited(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|e| io_error("read", path, &e))?;
    if content.len() as u64 > limit {
        return Err(FileError { action: "read", path: path.to_owned(), kind: FileErrorKind::TooLarge(limit) });
    }
    Ok(content)
}

/// Removes a file that a person named.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    fs::unlink(path).map_err(|e| error("remove", path, e))
}

/// `path` as an absolute path, without asking whether it is there.
pub fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(|e| io_error("find", path, &e))
}
