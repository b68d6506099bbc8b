//! A file that is there is replaced by another, which takes over whose it is and who may read it.

use std::ffi::OsStr;
use std::fs::File;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid};

use super::{FileError, Folder};

/// The bits of a mode that say who may read and write.
const ACCESS: u32 = 0o777;

impl Folder {
    /// Gives `new` of the folder `from` the owner and the mode that `old` has here, and makes both durable. Done before `new`
    /// takes the place of `old`, so that no reader is shut out and none let in, not even for a moment.
    pub fn dress(&self, old: &OsStr, from: &Folder, new: &str) -> Result<(), FileError> {
        let worn =
            fs::statat(&self.fd, old, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| FileError::of("look at", self.join(old), e))?;
        let path = from.join(new);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&from.fd, new, flags, Mode::empty()).map_err(|e| FileError::of("open", &path, e))?);
        let own = fs::fstat(&file).map_err(|e| FileError::of("look at", &path, e))?;
        if (own.st_uid, own.st_gid) != (worn.st_uid, worn.st_gid) {
            fs::fchown(&file, Some(Uid::from_raw(worn.st_uid)), Some(Gid::from_raw(worn.st_gid)))
                .map_err(|e| FileError::of("give away", &path, e))?;
        }
        fs::fchmod(&file, Mode::from_raw_mode(worn.st_mode & ACCESS)).map_err(|e| FileError::of("open to others", &path, e))?;
        file.sync_all().map_err(|e| FileError::of_io("sync", &path, &e))
    }

    /// Keeps `content`, what `old` says now, under the name `copy`, with owner and mode of `old`; an earlier copy is replaced.
    pub fn keep_copy(&self, old: &OsStr, content: &[u8], through: &Folder, copy: &OsStr) -> Result<(), FileError> {
        const WAITING: &str = "old";
        through.fill(WAITING, content)?;
        self.dress(old, through, WAITING)?;
        self.publish(through, WAITING, copy, true)
    }
}
