//! HTTP/1.1 as bytes: requests in, answers out, nothing forgiven silently.

use std::io::{self, Read, Write};
use std::time::Duration;

const HEAD_LIMIT: usize = 64 * 1024;
/// Of the controller (from 2.0.3 on).
pub(crate) const BODY_LIMIT: usize = 1024 * 1024;

/// One request as it came.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    /// Names as sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What is wrong with it as HTTP, and the status that it earns if it earns one.
    pub(crate) problems: Vec<(Option<u16>, String)>,
}

impl Incoming {
    /// Each value of the header, in order; `name` in lower case.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Content-Type up to the `;`.
    pub(crate) fn media_type(&self) -> Option<&str> {
        self.value("content-type").map(|value| value.split(';').next().unwrap_or(value))
    }

    fn problem(&mut self, status: impl Into<Option<u16>>, sentence: impl Into<String>) {
        self.problems.push((status.into(), sentence.into()));
    }
}

/// Why there is no next request.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client is not there any more; it may have been killed, which is no fault of its protocol.
    Gone,
    /// The client is there and does not end what it began, or its head is beyond all measure.
    Stalled,
}

/// The rewrites of enrollment-protocol.md §2.0: legacy paths to those with their prefix, and the one form of cacerts.
pub(crate) fn canonical_path(path: &str) -> String {
    const CLIENT: &str = "/edge/client/v1";
    let path = match path.strip_prefix("/edge/v1") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{CLIENT}{rest}"),
        _ => path.to_owned(),
    };
    if let Some(rest) = path.strip_prefix(CLIENT) {
        if rest.starts_with("/.well-known/") {
            return rest.to_owned();
        }
        return path;
    }
    let kept = ["/edge", "/fabric", "/.well-known"].iter().any(|prefix| path.starts_with(prefix));
    if kept { path } else { format!("{CLIENT}{}", path.trim_end_matches('/')) }
}

/// Reads requests off one connection; keeps what came early for the next.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    early: Vec<u8>,
}

impl Reader {
    /// Waits for the first byte of a request. False: the client closed, or was silent as long as the socket allows.
    pub(crate) fn wait(&mut self, stream: &mut impl Read) -> bool {
        !self.early.is_empty() || self.more(stream).is_ok()
    }

    pub(crate) fn next(&mut self, stream: &mut (impl Read + Write)) -> Result<Incoming, NoRequest> {
        let end = loop {
            if let Some(at) = self.early.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.early.len() > HEAD_LIMIT {
                return Err(NoRequest::Stalled);
            }
            self.more(stream)?;
        };
        let head = String::from_utf8_lossy(&self.early[..end - 4]).into_owned();
        self.early.drain(..end);
        let mut request = parse_head(&head);
        let length = body_length(&mut request);
        if length > BODY_LIMIT {
            request.problem(413, format!("a body of {length} bytes: over the limit of 1 MiB"));
            return Ok(request); // the connection is closed after the answer, so the body need not be read
        }
        if length > self.early.len() && request.value("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| stream.flush()).map_err(|_| NoRequest::Gone)?;
        }
        while self.early.len() < length {
            self.more(stream)?;
        }
        request.body = self.early.drain(..length).collect();
        Ok(request)
    }

    fn more(&mut self, stream: &mut impl Read) -> Result<(), NoRequest> {
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(0) => Err(NoRequest::Gone),
            Ok(length) => {
                self.early.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(NoRequest::Stalled),
            Err(_) => Err(NoRequest::Gone),
        }
    }
}

fn parse_head(head: &str) -> Incoming {
    let mut request = Incoming::default();
    let mut lines = head.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first[..] else {
        request.problem(400, "the request line has not three words");
        return request;
    };
    request.method = method.into();
    if version != "HTTP/1.1" {
        request.problem(505, format!("speaks {version} where HTTP/1.1 is due"));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    request.path = path.into();
    if !path.starts_with('/') || target.contains('#') {
        request.problem(400, "the request target is not a path of this server");
    }
    request.query = query.map(parse_query).unwrap_or_default();
    for line in lines {
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                request.headers.push((name.into(), value.trim().into()));
            }
            _ => request.problem(400, "a header line without a name and a colon, or with a space before the colon"),
        }
    }
    match request.values("host").count() {
        0 => request.problem(400, "no Host header"),
        1 => {}
        _ => request.problem(400, "more than one Host header"),
    }
    for name in ["content-length", "content-type", "zt-session", "authorization"] {
        if request.values(name).count() > 1 {
            request.problem(400, format!("more than one {name} header"));
        }
    }
    request
}

fn body_length(request: &mut Incoming) -> usize {
    if request.value("transfer-encoding").is_some() {
        request.problem(411, "a body in chunks instead of with a Content-Length");
        return 0;
    }
    match request.value("content-length").map(str::parse) {
        Some(Ok(length)) => length,
        Some(Err(_)) => {
            request.problem(400, "a Content-Length that is no number");
            0
        }
        None if ["POST", "PUT", "PATCH"].contains(&request.method.as_str()) => {
            request.problem(411, format!("a {} without Content-Length", request.method));
            0
        }
        None => 0,
    }
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decoded(key), decoded(value))).collect()
}

/// Percent-decoding; `+` is a space.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        rest = match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &tail[2..]
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How the body travels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) gzip: bool,
    /// Length of the chunks, if in chunks.
    pub(crate) chunk: Option<usize>,
    /// The announced length is longer than the body.
    pub(crate) overstated: bool,
    pub(crate) bytes_per_second: Option<u64>,
}

/// The bytes of an answer.
pub(crate) fn serialize(status: u16, headers: &[(String, String)], body: &[u8], manner: Manner) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut body = body.to_vec();
    if manner.gzip {
        head.push_str("Content-Encoding: gzip\r\n");
        body = gzip(&body);
    }
    if let Some(length) = manner.chunk {
        head.push_str("Transfer-Encoding: chunked\r\n");
        let mut chunks = Vec::new();
        for chunk in body.chunks(length) {
            chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunks.extend([chunk, b"\r\n"].concat());
        }
        body = [&chunks[..], b"0\r\n\r\n"].concat();
    } else {
        let length = body.len() + if manner.overstated { 100 } else { 0 };
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    [head.as_bytes(), b"\r\n", &body].concat()
}

/// Writes at the speed that `manner` allows.
pub(crate) fn send(stream: &mut impl Write, bytes: &[u8], manner: Manner, pause: impl Fn(Duration)) -> io::Result<()> {
    let Some(speed) = manner.bytes_per_second else {
        stream.write_all(bytes)?;
        return stream.flush();
    };
    // Twenty pieces a second.
    for piece in bytes.chunks((speed / 20).max(1) as usize) {
        stream.write_all(piece)?;
        stream.flush()?;
        pause(Duration::from_millis(50));
    }
    Ok(())
}

/// A gzip member (RFC 1952) with one stored block: no compressor needed.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = body.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        member.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        member.push(u8::from(blocks.peek().is_none()));
        member.extend(length.to_le_bytes());
        member.extend((!length).to_le_bytes());
        member.extend_from_slice(block);
    }
    let sum = !body.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    });
    member.extend(sum.to_le_bytes());
    member.extend((body.len() as u32).to_le_bytes());
    member
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "status code", // what Go writes for numbers it has no word for, as 601
    }
}
