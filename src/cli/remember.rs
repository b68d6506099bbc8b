//! [`Remember`]: which PIN a token has refused, for the next run; never the PIN itself.
//!
//! A service that restarts with a wrong PIN in its file would lock the token in a minute. What is kept is where the PIN came
//! from, and for a file what tells whether it has changed: device, inode, time and size.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ziti_enroller::files::Folder;
use ziti_enroller::key::PinOrigin;
use ziti_enroller::key::encoding::sha256;
use ziti_enroller::key::pin::PinMemory;
use ziti_enroller::text::hex;

/// Largest note that is read, in bytes.
const LARGEST: u64 = 4096;
const FOLDER: &str = "ziti-enroller";

/// The notes of this user: in `$STATE_DIRECTORY`, else in `ziti-enroller` below `$XDG_STATE_HOME` or `~/.local/state`.
#[derive(Debug)]
pub struct Remember {
    folder: Option<PathBuf>,
    retry: bool,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Note {
    origin: String,
    /// Device, inode, seconds and nanoseconds of the last change, size.
    file: Option<(u64, u64, i64, i64, u64)>,
}

impl Note {
    fn of(origin: &PinOrigin) -> Self {
        let path = match origin {
            PinOrigin::File(path) | PinOrigin::Reference(path) => Some(path),
            // A credential is a new file at every start of its service; its name is what stays.
            _ => None,
        };
        let file = path.and_then(|p| p.metadata().ok()).map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()));
        Self { origin: origin.to_string(), file }
    }
}

impl Remember {
    /// `retry`: asks once more for what was refused (`--retry-pin`).
    pub fn new(retry: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        // systemd lists several, separated by colons; the first is as good as any.
        let own = set("STATE_DIRECTORY").map(|list| {
            let text = list.to_string_lossy().into_owned();
            PathBuf::from(text.split(':').next().unwrap_or_default())
        });
        let folder = own.or_else(|| {
            let home = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|h| h.join(".local/state")));
            home.map(|h| h.join(FOLDER))
        });
        Self { folder, retry }
    }

    fn open(&self, make: bool) -> Option<Folder> {
        let path = self.folder.as_deref()?;
        let name = path.file_name()?;
        if make {
            make_parents(path.parent()?);
        }
        let parent = Folder::of(path).ok()?;
        if make { parent.private(name).ok() } else { parent.existing(name).ok() }
    }

    fn note(&self, place: &str) -> Option<Note> {
        let content = self.open(false)?.read(file_of(place), LARGEST).ok().flatten()?;
        serde_json::from_slice(&content).ok()
    }
}

fn make_parents(path: &Path) {
    // A state folder that cannot be made is seen when it is opened.
    drop(std::fs::create_dir_all(path));
}

fn file_of(place: &str) -> String {
    format!("pin-{}", &hex(&sha256(place.as_bytes()))[..32])
}

impl PinMemory for Remember {
    fn refused_before(&self, place: &str, origin: &PinOrigin) -> bool {
        !self.retry && self.note(place).is_some_and(|note| note == Note::of(origin))
    }

    fn remember(&self, place: &str, origin: &PinOrigin) {
        let content = serde_json::to_vec(&Note::of(origin)).unwrap_or_default();
        let kept = self.open(true).map(|folder| folder.fill(file_of(place), &content));
        if !matches!(kept, Some(Ok(()))) {
            log::warn!("that this PIN was refused cannot be remembered: a restart would try it again");
        }
    }

    fn forget(&self, place: &str) {
        if let Some(folder) = self.open(false) {
            // Nothing to forget is the usual case.
            drop(folder.remove(OsStr::new(&file_of(place))));
        }
    }
}
