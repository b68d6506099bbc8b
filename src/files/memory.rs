//! Folders that are in memory alone, and files that somebody else may change while we look.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{self, Access, AtFlags, Dir};
use rustix::io::{FdFlags, retry_on_intr as again};

use super::{FileError, Folder, Lock};

/// `f_type` of tmpfs and ramfs (statfs(2)).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// How a file looked at one moment: another one means that it was written, or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    inode: i128,
    size: i128,
    /// Modified and changed: seconds, nanoseconds.
    times: [i128; 4],
}

impl Folder {
    /// Whether what is in it is in memory alone: tmpfs or ramfs, as the system says.
    pub fn is_in_memory(&self) -> bool {
        again(|| fs::fstatfs(&self.fd)).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32)))
    }

    /// Whether we may make files in it.
    pub fn can_write(&self) -> bool {
        again(|| fs::accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)).is_ok()
    }

    /// The names in it, in no order.
    pub fn names(&self) -> Result<Vec<OsString>, FileError> {
        let failed = |e| FileError::of("list", &self.path, e);
        let mut names = Vec::new();
        for entry in again(|| Dir::read_from(&self.fd)).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_owned();
            names.extend((name != b"." && name != b"..").then(|| OsString::from_vec(name)));
        }
        Ok(names)
    }

    /// How a file of it looks now; `None` where there is none.
    pub fn look(&self, name: &OsStr) -> Option<Look> {
        let stat = self.stat(name).ok()?;
        let times = [stat.st_mtime as i128, stat.st_mtime_nsec as i128, stat.st_ctime as i128, stat.st_ctime_nsec as i128];
        Some(Look { inode: stat.st_ino as i128, size: stat.st_size as i128, times })
    }
}

impl Lock {
    /// Lets programs that this process starts hold the folder too, for as long as they live.
    pub fn hand_on(&self) -> Result<(), FileError> {
        rustix::io::fcntl_setfd(&self.fd, FdFlags::empty()).map_err(|e| FileError::of("hand on", "the lock", e))
    }
}
