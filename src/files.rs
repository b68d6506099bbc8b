//! One opened folder, reserved space, the lock, the final name: nobody else writes. `replace.rs`: a file that is there is replaced.
//! `memory.rs`: folders in memory, and files that others change. `place.rs`: where one file is to stand.
//!
//! Everything is done relative to a folder that was opened once, so that nobody can swap it in between. Files are created in
//! a folder of our own, 0600 by mode and by `fchmod`, folders 0700; links are never followed, and what is there already
//! is looked at once it is open. A final name appears once, by `renameat2(RENAME_NOREPLACE)`. A call that a signal cuts
//! short is made again.

mod error;
mod memory;
mod place;
mod replace;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, retry_on_intr as again};

pub use error::{FileError, FileErrorKind, Unsafe};
pub use memory::Look;
pub use place::Place;

/// Space that is reserved for an answer and for an identity before the token is spent, in bytes.
pub const RESERVED: u64 = 64 * 1024;

/// 0600.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Of all that is opened here: a link is not followed, and a FIFO does not stop us.
const WARY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// The lock of a folder.
const LOCK: &str = "lock";

/// A folder, opened once.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    /// Ours alone: nobody else can have put a file in it.
    private: bool,
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
        // Links on the way to it are the owner's business.
        let fd = match again(|| fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(fail(FileErrorKind::FolderMissing)),
            Err(errno) => return Err(fail(FileErrorKind::System(errno))),
        };
        let stat = fs::fstat(&fd).map_err(|e| fail(FileErrorKind::System(e)))?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX) {
            return Err(fail(FileErrorKind::FolderUnsafe(Unsafe::OpenToAll)));
        }
        if stat.st_uid != 0 && !is_mine(&stat) {
            return Err(fail(FileErrorKind::FolderUnsafe(Unsafe::OfAnother)));
        }
        Ok(Self { fd, path, private: false })
    }

    /// The folder in which `file` is to appear: this one, where it is the same, so that nobody can swap it meanwhile.
    pub fn or_of(&self, file: &Path) -> Result<Self, FileError> {
        if file.parent() != Some(self.path.as_path()) {
            return Self::of(file);
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(|e| FileError::of("open", &self.path, e))?;
        Ok(Self { fd, path: self.path.clone(), private: self.private })
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
        match self.stat(name) {
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

    /// Refuses a file that another user has put there; none is fine, and so is one of root's.
    pub fn refuse_foreign(&self, name: &OsStr) -> Result<(), FileError> {
        match self.stat(name) {
            Ok(stat) if stat.st_uid != 0 && !is_mine(&stat) => {
                let kind = FileErrorKind::FolderUnsafe(Unsafe::Planted);
                Err(FileError { action: "use", path: self.join(name), kind })
            }
            _ => Ok(()),
        }
    }

    fn stat(&self, name: &OsStr) -> Result<Stat, Errno> {
        again(|| fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Opens the private folder `name` in it, made where it is missing: ours, no link, 0700.
    pub fn private(&self, name: &OsStr) -> Result<Self, FileError> {
        match again(|| fs::mkdirat(&self.fd, name, Mode::RWXU)) {
            Ok(()) | Err(Errno::EXIST) => self.existing(name),
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                let kind = FileErrorKind::FolderNotWritable(errno);
                Err(FileError { action: "write to", path: self.path.clone(), kind })
            }
            Err(errno) => Err(FileError::of("create", self.join(name), errno)),
        }
    }

    /// Opens the private folder `name` in it, which must be there.
    ///
    /// # Errors
    /// [`FileErrorKind::FolderUnsafe`] where it is not a folder, not ours, or others could have put something in it.
    pub fn existing(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.join(name);
        let unsafe_ = |why| FileError { action: "use", path: path.clone(), kind: FileErrorKind::FolderUnsafe(why) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.open_mended(name, flags, Mode::RWXU).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => unsafe_(Unsafe::NoFolder),
            errno => FileError::of("open", &path, errno),
        })?;
        let stat = fs::fstat(&fd).map_err(|e| FileError::of("look at", &path, e))?;
        if !is_mine(&stat) {
            return Err(unsafe_(Unsafe::OfAnother));
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if mode.intersects(Mode::WGRP | Mode::WOTH) {
            return Err(unsafe_(Unsafe::Shared));
        }
        if mode != Mode::RWXU {
            again(|| fs::fchmod(&fd, Mode::RWXU)).map_err(|e| FileError::of("make private", &path, e))?;
        }
        Ok(Self { fd, path, private: true })
    }

    /// Opens something in it. An umask may have cut the mode of what we have made so far that we may not open it ourselves.
    fn open_mended(&self, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let open = || again(|| fs::openat(&self.fd, name, flags, mode));
        match open() {
            Err(Errno::ACCESS) if self.stat(name).is_ok_and(|stat| is_mine(&stat) && !is_link(&stat)) => {
                again(|| fs::chmodat(&self.fd, name, mode, AtFlags::empty()))?;
                open()
            }
            opened => opened,
        }
    }

    /// Whether something of that name is there.
    pub fn has(&self, name: impl AsRef<OsStr>) -> bool {
        self.stat(name.as_ref()).is_ok()
    }

    /// Holds the folder until the returned file is dropped.
    ///
    /// # Errors
    /// [`FileErrorKind::InUse`] at once where another process holds it.
    pub fn lock(&self) -> Result<Lock, FileError> {
        let in_use = || FileError { action: "use", path: self.path.clone(), kind: FileErrorKind::InUse };
        let fd = match self.open_own(LOCK.as_ref(), OFlags::RDWR) {
            // The run that held it has removed it just now.
            Err(e) if matches!(e.kind, FileErrorKind::System(Errno::NOENT)) => return Err(in_use()),
            opened => opened?,
        };
        let failed = |e| FileError::of("lock", self.join(LOCK), e);
        match again(|| fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) if fs::fstat(&fd).map_err(failed)?.st_nlink == 0 => Err(in_use()),
            Ok(()) => Ok(Lock { fd: fd.into() }),
            Err(Errno::WOULDBLOCK) => Err(in_use()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Opens a file of ours to write to, made where it is missing: regular, 0600, no link, with no other name. Where others
    /// may make files too, it must also be our own.
    fn open_own(&self, name: &OsStr, access: OFlags) -> Result<File, FileError> {
        let path = self.join(name);
        let fail = |action, errno| match errno {
            Errno::ACCESS | Errno::PERM => {
                FileError { action, path: path.clone(), kind: FileErrorKind::FolderNotWritable(errno) }
            }
            errno => FileError::of(action, &path, errno),
        };
        let new = access | OFlags::CREATE | OFlags::EXCL | WARY;
        let fd = match again(|| fs::openat(&self.fd, name, new, PRIVATE)) {
            Ok(fd) => fd,
            Err(Errno::EXIST) => {
                self.refuse_existing(name, true)?;
                self.open_mended(name, access | WARY, PRIVATE).map_err(|e| fail("open", e))?
            }
            Err(errno) => return Err(fail("create", errno)),
        };
        let stat = fs::fstat(&fd).map_err(|e| FileError::of("look at", &path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError { action: "write", path, kind: FileErrorKind::NotAFile });
        }
        if stat.st_nlink > 1 || !(self.private || is_mine(&stat)) {
            let kind = FileErrorKind::FolderUnsafe(Unsafe::Planted);
            return Err(FileError { action: "write", path, kind });
        }
        again(|| fs::fchmod(&fd, PRIVATE)).map_err(|e| FileError::of("make private", &path, e))?;
        Ok(File::from(fd))
    }

    /// Makes a file with room for [`RESERVED`] bytes, so that a full disk, or a limit on the size of files, is found now and
    /// not later. A file that has something in it is left as it is.
    pub fn reserve(&self, name: &str) -> Result<(), FileError> {
        let mut file = self.open_own(name.as_ref(), OFlags::WRONLY)?;
        let failed = |e| FileError::of("reserve space in", self.join(name), e);
        if fs::fstat(&file).map_err(failed)?.st_size != 0 {
            return Ok(());
        }
        match again(|| fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED)) {
            Ok(()) => Ok(()),
            // The zeros are cut off when the real content comes; until then they hold the place.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all(&[0; RESERVED as usize]).map_err(|e| FileError::of_io("reserve space in", self.join(name), &e))
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Puts `content` into a file of ours, in the place that [`reserve`](Self::reserve) holds, and makes it durable.
    pub fn fill(&self, name: impl AsRef<OsStr>, content: &[u8]) -> Result<(), FileError> {
        let name = name.as_ref();
        let mut file = self.open_own(name, OFlags::WRONLY)?;
        file.write_all(content).map_err(|e| FileError::of_io("write", self.join(name), &e))?;
        again(|| fs::ftruncate(&file, content.len() as u64)).map_err(|e| FileError::of("write", self.join(name), e))?;
        file.sync_all().map_err(|e| FileError::of_io("sync", self.join(name), &e))
    }

    /// Writes a new file: under another name first, durably, so that it has its own only when it is whole.
    ///
    /// # Errors
    /// [`FileErrorKind::Exists`] where something of that name is there.
    pub fn write_new(&self, name: &OsStr, content: &[u8]) -> Result<(), FileError> {
        let part = OsStr::from_bytes(&[b".", name.as_bytes(), b".part"].concat()).to_owned();
        self.fill(&part, content)?;
        self.publish(self, &part, name, false)
    }

    /// Gives a file of it to a user, and a group.
    pub fn give(&self, name: &str, user: u32, group: Option<u32>) -> Result<(), FileError> {
        let (user, group) = (fs::Uid::from_raw(user), group.map(fs::Gid::from_raw));
        again(|| fs::chownat(&self.fd, name, Some(user), group, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|e| FileError::of("give away", self.join(name), e))
    }

    /// Reads a file of it, no link, of at most `limit` bytes; `None` where it is not there.
    pub fn read(&self, name: impl AsRef<OsStr>, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.join(name.as_ref());
        let fail = |kind| Err(FileError { action: "read", path: path.clone(), kind });
        let file = match again(|| fs::openat(&self.fd, name.as_ref(), OFlags::RDONLY | WARY, Mode::empty())) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return fail(FileErrorKind::Symlink),
            // A socket.
            Err(Errno::NXIO) => return fail(FileErrorKind::NotAFile),
            Err(errno) => return Err(FileError::of("read", path, errno)),
            Ok(fd) => File::from(fd),
        };
        match fs::fstat(&file).map_err(|e| FileError::of("read", &path, e))?.st_mode {
            mode if FileType::from_raw_mode(mode) != FileType::RegularFile => fail(FileErrorKind::NotAFile),
            _ => read_limited(file, &path, limit).map(Some),
        }
    }

    /// Opens a file to append to, made where it is missing.
    pub fn append_to(&self, name: &str) -> Result<File, FileError> {
        self.open_own(name.as_ref(), OFlags::RDWR | OFlags::APPEND)
    }

    /// Gives `name` of `from` its final name here, once, and makes that durable.
    ///
    /// # Errors
    /// [`FileErrorKind::Exists`] where something appeared there meanwhile, unless `replace`.
    pub fn publish(&self, from: &Folder, name: impl AsRef<OsStr>, as_name: &OsStr, replace: bool) -> Result<(), FileError> {
        let name = name.as_ref();
        let fail = |errno| FileError::of("write", self.join(as_name), errno);
        if replace {
            again(|| fs::renameat(&from.fd, name, &self.fd, as_name)).map_err(fail)?;
        } else {
            match again(|| fs::renameat_with(&from.fd, name, &self.fd, as_name, RenameFlags::NOREPLACE)) {
                Ok(()) => {}
                // Not every file system knows the flag: a hard link does not replace either.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    again(|| fs::linkat(&from.fd, name, &self.fd, as_name, AtFlags::empty())).map_err(fail)?;
                    from.remove(name)?;
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
        self.sync()
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> Result<(), FileError> {
        again(|| fs::fsync(&self.fd)).map_err(|e| FileError::of("sync", &self.path, e))
    }

    /// Removes a file of it; one that is not there is fine.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        match again(|| fs::unlinkat(&self.fd, name.as_ref(), AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::of("remove", self.join(name.as_ref()), errno)),
        }
    }

    /// Removes the folder `name` of it and the files in it: `last` after all others, and then the lock.
    pub fn remove_private(&self, name: &OsStr, last: &str) -> Result<(), FileError> {
        let folder = self.existing(name)?;
        let mut files = folder.names()?;
        files.sort_by_key(|file| (file == LOCK, file == last));
        files.iter().try_for_each(|file| folder.remove(file))?;
        self.remove_empty(name)
    }

    /// Removes the folder `name` of it, in which nothing is.
    pub fn remove_empty(&self, name: &OsStr) -> Result<(), FileError> {
        again(|| fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)).map_err(|e| FileError::of("remove", self.join(name), e))
    }

    /// Gives the folder `name` of it another, unused name, which is returned.
    pub fn set_aside(&self, name: &OsStr) -> Result<OsString, FileError> {
        for n in 1..1000 {
            let mut aside = name.to_owned();
            aside.push(format!(".{n}"));
            // A folder replaces nothing but an empty folder, also where the file system does not know RENAME_NOREPLACE.
            match again(|| fs::renameat(&self.fd, name, &self.fd, &aside)) {
                Ok(()) => return self.sync().map(|()| aside),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(FileError::of("rename", self.join(name), errno)),
            }
        }
        Err(FileError::of("rename", self.join(name), Errno::EXIST))
    }
}

fn is_mine(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// A held folder; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    fd: OwnedFd,
}

/// Reads a file that a person named, whole, of at most `limit` bytes.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|e| FileError::of_io("read", path, &e))?;
    read_limited(file, path, limit)
}

/// The same of a file that must be a regular one, behind links or not: a FIFO would have us wait for ever.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let failed = |e| FileError::of("read", path, e);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(again(|| fs::open(path, flags, Mode::empty())).map_err(failed)?);
    if FileType::from_raw_mode(fs::fstat(&file).map_err(failed)?.st_mode) != FileType::RegularFile {
        let kind = FileErrorKind::Content("it is not a regular file");
        return Err(FileError { action: "read", path: path.to_owned(), kind });
    }
    read_limited(file, path, limit)
}

fn read_limited(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|e| FileError::of_io("read", path, &e))?;
    if content.len() as u64 > limit {
        return Err(FileError { action: "read", path: path.to_owned(), kind: FileErrorKind::TooLarge(limit) });
    }
    Ok(content)
}

/// Removes a file that a person named.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    again(|| fs::unlink(path)).map_err(|e| FileError::of("remove", path, e))
}

/// `path` as an absolute path, without asking whether it is there.
pub fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(|e| FileError::of_io("find", path, &e))
}
