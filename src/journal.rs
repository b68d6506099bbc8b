//! Append-only records, synced where the caller asks; knows not what they mean.
//!
//! One record a line: `<seq> <first 8 hex digits of SHA-256 over seq and json> <json>`. A torn last line is what a kill
//! leaves and is dropped; any other damage stops, and nothing is deleted.

use std::fs::File;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustix::io::retry_on_intr;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{FileError, FileErrorKind, Folder};
use crate::text::hex;

/// Largest journal that is read, in bytes; one enrollment writes about 20 KiB.
const LARGEST: u64 = 4 * 1024 * 1024;
/// Its name in its folder.
pub const NAME: &str = "journal";

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line is not what was written.
    #[error("{path} is damaged at line {line}; nothing was deleted")]
    Damaged {
        /// Where the journal is.
        path: String,
        /// Counted from 1.
        line: usize,
    },
}

impl JournalError {
    fn damaged(folder: &Folder, line: usize) -> Self {
        Self::Damaged { path: folder.join(NAME).display().to_string(), line }
    }

    /// Lines that are whole each, and do not follow on each other.
    pub(crate) fn out_of_order(folder: &Folder) -> Self {
        Self::damaged(folder, 0)
    }
}

/// The records of one folder.
#[derive(Debug)]
pub struct Journal<R> {
    file: File,
    path: std::path::PathBuf,
    written: u64,
    /// The folder and the one around it, until their names are durable too.
    around: Option<[Arc<Folder>; 2]>,
    of: PhantomData<fn() -> R>,
}

impl<R: Serialize + DeserializeOwned> Journal<R> {
    /// Opens the journal of `folder`, which lies in `parent`, made where it is missing, and reads what is in it.
    pub fn open(folder: &Arc<Folder>, parent: &Arc<Folder>) -> Result<(Self, Vec<R>), JournalError> {
        let content = folder.read(NAME, LARGEST)?.unwrap_or_default();
        let (records, whole) = parse(&content).map_err(|line| JournalError::damaged(folder, line))?;
        let file = folder.append_to(NAME)?;
        let journal = Self {
            file,
            path: folder.join(NAME),
            written: records.len() as u64,
            around: Some([folder.clone(), parent.clone()]),
            of: PhantomData,
        };
        if whole < content.len() {
            let cut = retry_on_intr(|| rustix::fs::ftruncate(&journal.file, whole as u64));
            cut.map_err(|e| FileError::of("write", &journal.path, e))?;
        }
        Ok((journal, records))
    }

    /// Reads the records of `folder` and changes nothing; `None` where there is no journal.
    pub fn read(folder: &Folder) -> Result<Option<Vec<R>>, JournalError> {
        let Some(content) = folder.read(NAME, LARGEST)? else { return Ok(None) };
        parse(&content).map(|(records, _)| Some(records)).map_err(|line| JournalError::damaged(folder, line))
    }

    /// Adds a record. It may be lost in a crash until [`sync`](Self::sync).
    pub fn append(&mut self, record: &R) -> Result<(), JournalError> {
        let json = serde_json::to_string(record).map_err(|_| {
            let kind = FileErrorKind::Content("a record cannot be written as JSON");
            FileError { action: "write", path: self.path.clone(), kind }
        })?;
        let line = format!("{} {} {json}\n", self.written, checksum(self.written, &json));
        self.file.write_all(line.as_bytes()).map_err(|e| FileError::of_io("write", &self.path, &e))?;
        self.written += 1;
        Ok(())
    }

    /// Makes all records durable; the first time also the names of journal and folder.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        retry_on_intr(|| rustix::fs::fdatasync(&self.file)).map_err(|e| FileError::of("sync", &self.path, e))?;
        if let Some(around) = &self.around {
            around.iter().try_for_each(|folder| folder.sync())?;
            self.around = None;
        }
        Ok(())
    }
}

fn checksum(seq: u64, json: &str) -> String {
    hex(&digest(&SHA256, format!("{seq} {json}").as_bytes()).as_ref()[..4])
}

/// The records, and how many bytes of `content` they take; the number of the damaged line otherwise.
fn parse<R: DeserializeOwned>(content: &[u8]) -> Result<(Vec<R>, usize), usize> {
    let mut records = Vec::new();
    let mut whole = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        let number = records.len() + 1;
        let last = whole + line.len() == content.len();
        match record(line, records.len() as u64) {
            Some(record) => records.push(record),
            // Only the end of a line that never got its newline may be missing.
            None if last && !line.ends_with(b"\n") => break,
            None => return Err(number),
        }
        whole += line.len();
    }
    Ok((records, whole))
}

fn record<R: DeserializeOwned>(line: &[u8], seq: u64) -> Option<R> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (number, rest) = line.split_once(' ')?;
    let (sum, json) = rest.split_once(' ')?;
    (number == seq.to_string() && sum == checksum(seq, json)).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(records: &[&str]) -> String {
        records.iter().enumerate().map(|(i, r)| format!("{i} {} \"{r}\"\n", checksum(i as u64, &format!("\"{r}\"")))).collect()
    }

    #[test]
    fn reads_what_it_writes() {
        let text = lines(&["a", "b"]);
        assert_eq!(parse::<String>(text.as_bytes()), Ok((vec!["a".into(), "b".into()], text.len())));
    }

    #[test]
    fn drops_a_torn_last_line_wherever_it_was_torn() {
        let text = lines(&["a", "b"]);
        let first = lines(&["a"]).len();
        for end in first..text.len() {
            assert_eq!(parse::<String>(&text.as_bytes()[..end]), Ok((vec!["a".into()], first)), "cut at {end}");
        }
    }

    #[test]
    fn stops_at_any_other_damage() {
        let text = lines(&["a", "b"]);
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(parse::<String>(&damaged).map_or(true, |(r, _)| r.len() < 2), "byte {at}");
        }
        assert_eq!(parse::<String>(lines(&["a", "b"]).replace("\"a\"", "\"c\"").as_bytes()), Err(1));
    }
}
