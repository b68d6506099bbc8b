//! What strace saw of a run: the programs that were started, and all that they wrote.

use std::collections::BTreeMap;
use std::path::Path;

/// The system calls to look at: what starts programs, what writes, what opens, and what protects a process.
pub(super) const CALLS: &str = "trace=execve,execveat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,openat,open,\
    mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,prctl,setrlimit,prlimit64";

/// One system call, with every text in it as the bytes that it was.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) process: u32,
    pub(super) name: String,
    /// Of a descriptor that is the first argument: `/memfd:x (deleted)`.
    pub(super) path: Vec<u8>,
    /// In order; those of an array one after the other.
    pub(super) texts: Vec<Vec<u8>>,
    /// Lengths of the arrays among the arguments.
    arrays: Vec<usize>,
    /// The line as strace wrote it, arguments and result.
    line: String,
}

impl Call {
    pub(super) fn starts_a_program(&self) -> bool {
        self.name.starts_with("execve")
    }

    /// The words of a command line and the variables of an environment, of a program that is started.
    pub(super) fn program(&self) -> (&[Vec<u8>], &[Vec<u8>]) {
        let words = self.arrays.first().copied().unwrap_or_default();
        let texts = self.texts.get(1..).unwrap_or_default();
        texts.split_at(words.min(texts.len()))
    }

    pub(super) fn writes(&self) -> bool {
        ["write", "pwrite", "send"].iter().any(|start| self.name.starts_with(start))
    }

    /// All that a call of this kind has written.
    pub(super) fn written(&self) -> Vec<u8> {
        self.texts.concat()
    }
}

/// The calls of all processes, in order.
#[derive(Debug)]
pub struct Trace {
    pub(super) calls: Vec<Call>,
}

impl Trace {
    /// Reads what `strace -f -xx -y -v` has written.
    pub(super) fn read(text: &str) -> Self {
        Self { calls: text.lines().filter_map(call).collect() }
    }

    /// What was written to each file, pipe or socket, by whatever process, one after the other; without the calls of these
    /// numbers.
    pub(super) fn streams_but(&self, left_out: &[usize]) -> BTreeMap<&[u8], Vec<u8>> {
        let mut streams: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for (_, call) in self.calls.iter().enumerate().filter(|(n, call)| call.writes() && !left_out.contains(n)) {
            streams.entry(&call.path).or_default().extend(call.written());
        }
        streams
    }

    /// How often `program` opened what `is_secret` says of, and an error for each time that it could have dumped core then.
    pub fn dumps_forbidden_before(&self, program: &Path, is_secret: impl Fn(&str) -> bool) -> Result<usize, String> {
        let (mut ours, mut limited, mut hidden, mut opened) = (false, false, false, 0);
        for call in &self.calls {
            let said = |words: &[&str]| words.iter().all(|word| call.line.contains(word));
            match &*call.name {
                "execve" => {
                    ours = call.texts.first().is_some_and(|path| path == program.as_os_str().as_encoded_bytes());
                    // A limit outlives exec, the other does not.
                    hidden = false;
                }
                "prctl" if said(&["PR_SET_DUMPABLE, SUID_DUMP_DISABLE", "= 0"]) => hidden = true,
                "prlimit64" | "setrlimit" if said(&["RLIMIT_CORE, {rlim_cur=0, rlim_max=0}", "= 0"]) => limited = true,
                "openat" if ours => {
                    let path = String::from_utf8_lossy(call.texts.first().map_or(&[], Vec::as_slice));
                    if is_secret(&path) {
                        opened += 1;
                        if !(limited && hidden) {
                            return Err(format!(
                                "{path} was opened while a core could be dumped (limit {limited}, hidden {hidden})"
                            ));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(opened)
    }
}

/// `1234 write(1<\x2f…>, "\x61…", 6) = 6`; whatever else strace says is no call.
fn call(line: &str) -> Option<Call> {
    let (process, rest) = line.split_once(' ')?;
    let (name, arguments) = rest.trim_start().split_once('(')?;
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let path = arguments.split_once(',').and_then(|(first, _)| first.split_once('<')).map(|(_, path)| {
        let gone = if path.ends_with("(deleted)") { " (deleted)" } else { "" };
        [&decoded(path)[..], gone.as_bytes()].concat()
    });
    let (mut texts, mut arrays) = (Vec::new(), Vec::new());
    let mut in_array = false;
    // Texts are in hex, so every quotation mark is one of strace's.
    for (number, part) in arguments.split('"').enumerate() {
        if number % 2 == 1 {
            texts.push(decoded(part));
            if let Some(length) = arrays.last_mut().filter(|_| in_array) {
                *length += 1;
            }
            continue;
        }
        for c in part.chars() {
            match c {
                '[' => {
                    in_array = true;
                    arrays.push(0);
                }
                ']' => in_array = false,
                _ => {}
            }
        }
    }
    let process = process.parse().ok()?;
    Some(Call { process, name: name.into(), path: path.unwrap_or_default(), texts, arrays, line: line.into() })
}

/// The bytes that are written as `\x2f`.
fn decoded(text: &str) -> Vec<u8> {
    let hex = |part: &str| part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    text.split("\\x").skip(1).filter_map(hex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_strace_writes() {
        let trace = Trace::read(
            "26 execve(\"\\x2f\\x61\", [\"\\x61\", \"\\x62\"], [\"\\x41\\x3d\\x31\"]) = 0\n\
             26 write(3<\\x2f\\x70>(deleted), \"\\x61\\x0a\", 2 <unfinished ...>\n\
             27 sendmsg(4<\\x73>, {msg_iov=[{iov_base=\"\\x61\", iov_len=1}, {iov_base=\"\\x62\", iov_len=1}]}, 0) = 2\n\
             26 <... write resumed>) = 2\n26 +++ exited with 0 +++\n",
        );
        let [program, written, sent] = &trace.calls[..] else { panic!("{trace:?}") };
        let words: Vec<Vec<u8>> = vec![b"a".into(), b"b".into()];
        assert_eq!(program.program(), (&words[..], &[b"A=1".to_vec()][..]));
        assert_eq!((written.process, &*written.path, written.written()), (26, &b"/p (deleted)"[..], b"a\n".to_vec()));
        assert_eq!((sent.name.as_str(), sent.written()), ("sendmsg", b"ab".to_vec()));
    }

    #[test]
    fn tells_when_a_secret_is_opened_too_early() {
        let hide = "1 prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0\n";
        let limit = "1 prlimit64(0, RLIMIT_CORE, {rlim_cur=0, rlim_max=0}, NULL) = 0\n";
        let start = "1 execve(\"\\x61\", [\"\\x61\"], []) = 0\n";
        let open = "1 openat(AT_FDCWD<\\x2f>, \"\\x70\", O_RDONLY) = 3<\\x70>\n";
        let judged = |lines: &[&str]| Trace::read(&lines.concat()).dumps_forbidden_before(Path::new("a"), |path| path == "p");
        assert_eq!(judged(&[start, limit, hide, open]), Ok(1));
        assert_eq!(judged(&[start, limit, start, hide, open]), Ok(1));
        for early in
            [&[start, open, limit, hide][..], &[start, hide, open], &[start, limit, open], &[start, limit, hide, start, open]]
        {
            assert!(judged(early).is_err(), "{early:?}");
        }
    }
}
