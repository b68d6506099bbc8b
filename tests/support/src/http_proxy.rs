//! An HTTP proxy that opens tunnels (`CONNECT`) and nothing else, strict about how it is asked.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::relay::pump;

/// Longest head of a request that is read, in bytes.
const LONGEST: usize = 16 * 1024;

/// What a proxy does wrong, each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFault {
    /// Answers with this status.
    Status(u16),
    /// Reads what it is asked and says nothing.
    Hangs,
    /// Reads what it is asked and ends the connection.
    Closes,
    /// Says something that is not HTTP.
    Garbage,
    /// Begins an answer that has no end.
    Endless,
    /// Opens the way, and takes a tenth of a second for each byte of saying so.
    Slow,
    /// Opens the way and ends the connection at the first byte through it.
    Drops,
}

/// What it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `HOST:PORT`, as it stood in the request.
    pub target: String,
    /// User and password, decoded: `user:password`.
    pub credentials: Option<String>,
    /// The status that it was answered with; `None` for none.
    pub status: Option<u16>,
}

/// A proxy on 127.0.0.1. Dropping it closes every tunnel.
#[derive(Debug)]
pub struct HttpProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `user:password` of those who may use it.
    allowed: Option<String>,
    /// Where every tunnel leads, whatever is asked for.
    leading_to: Option<SocketAddr>,
    fault: Option<ProxyFault>,
    asked: Mutex<Vec<Asked>>,
    violations: Mutex<Vec<String>>,
    stopping: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl HttpProxy {
    /// For everybody, to where they ask for.
    pub fn open() -> Self {
        Self::start(Shared::default())
    }

    /// For who has this user and password.
    pub fn for_user(user: &str, password: &str) -> Self {
        Self::start(Shared { allowed: Some(format!("{user}:{password}")), ..Shared::default() })
    }

    /// Every tunnel leads to `address`: a proxy that knows names that nobody else knows, or one that looks inside.
    pub fn leading_to(address: SocketAddr) -> Self {
        Self::start(Shared { leading_to: Some(address), ..Shared::default() })
    }

    /// One that does this.
    pub fn that(fault: ProxyFault) -> Self {
        Self::start(Shared { fault: Some(fault), ..Shared::default() })
    }

    fn start(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(shared);
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming().flatten() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    locked(&shared.sockets).extend(client.try_clone().ok());
                    let shared = shared.clone();
                    thread::spawn(move || shared.serve(client));
                }
            }
        });
        Self { shared, address, accepting: Some(accepting) }
    }

    /// `http://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// The same with user and password in it, which are percent-encoded already.
    pub fn url_with(&self, user_info: &str) -> String {
        format!("http://{user_info}@localhost:{}", self.address.port())
    }

    /// What it was asked for, in order.
    pub fn asked(&self) -> Vec<Asked> {
        locked(&self.shared.asked).clone()
    }

    /// What a correct client would never have sent.
    pub fn violations(&self) -> Vec<String> {
        locked(&self.shared.violations).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
        for socket in locked(&self.shared.sockets).iter() {
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) {
        client.set_nodelay(true).ok();
        let Some(head) = self.head(&mut client) else {
            // Its copy in the list would keep it open.
            client.shutdown(Shutdown::Both).ok();
            return;
        };
        let (target, credentials) = self.read(&head);
        let refused = self.allowed.as_ref().is_some_and(|allowed| credentials.as_ref() != Some(allowed));
        let server = match self.leading_to {
            _ if refused => Err(std::io::ErrorKind::PermissionDenied.into()),
            Some(address) => TcpStream::connect(address),
            None => TcpStream::connect(&*target),
        };
        let status = match (self.fault, refused, &server) {
            (Some(ProxyFault::Status(status)), ..) => Some(status),
            (Some(ProxyFault::Hangs | ProxyFault::Closes | ProxyFault::Garbage | ProxyFault::Endless), ..) => None,
            (_, true, _) => Some(407),
            (_, _, Err(_)) => Some(502),
            _ => Some(200),
        };
        locked(&self.asked).push(Asked { target, credentials, status });
        let said = self.answer(&mut client, status);
        match (said, status, server) {
            (true, Some(200), Ok(server)) => self.join_up(client, server),
            // As above.
            _ => drop(client.shutdown(Shutdown::Both)),
        }
    }

    /// Whether the connection goes on.
    fn answer(&self, client: &mut TcpStream, status: Option<u16>) -> bool {
        let phrase = match status {
            Some(200) => "200 Connection established".to_owned(),
            Some(407) => "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"way out\"".to_owned(),
            Some(other) => format!("{other} Refused\r\nContent-Type: text/html\r\nContent-Length: 6"),
            None => String::new(),
        };
        let page = if matches!(status, Some(200 | 407)) { "" } else { "<html>" };
        let answer = format!("HTTP/1.1 {phrase}\r\n\r\n{page}");
        match self.fault {
            Some(ProxyFault::Hangs) => self.hold(client),
            Some(ProxyFault::Closes) => false,
            Some(ProxyFault::Garbage) => client.write_all(b"220 mail.example ESMTP\r\n").is_ok(),
            Some(ProxyFault::Endless) => {
                client.write_all(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(64 * 1024)).as_bytes()).is_ok()
            }
            Some(ProxyFault::Slow) => answer.bytes().all(|byte| {
                thread::sleep(Duration::from_millis(100));
                client.write_all(&[byte]).is_ok()
            }),
            _ => client.write_all(answer.as_bytes()).is_ok(),
        }
    }

    fn hold(&self, client: &mut TcpStream) -> bool {
        let _ended = client.read(&mut [0]);
        false
    }

    fn join_up(&self, mut client: TcpStream, server: TcpStream) {
        if self.fault == Some(ProxyFault::Drops) {
            self.hold(&mut client);
            client.shutdown(Shutdown::Both).ok();
            return;
        }
        server.set_nodelay(true).ok();
        if let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) {
            locked(&self.sockets).extend(server.try_clone().ok());
            pump(from_client, server, Duration::ZERO, Duration::ZERO);
            pump(from_server, client, Duration::ZERO, Duration::ZERO);
        }
    }

    /// Up to the empty line; a client says nothing behind it before it is answered.
    fn head(&self, client: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                if head.len() > end + 4 {
                    self.violation("something behind the request, before it was answered");
                }
                return Some(String::from_utf8_lossy(&head[..end]).into_owned());
            }
            match client.read(&mut buffer) {
                // The call that wakes the listener at the end says nothing.
                Ok(0) | Err(_) if head.is_empty() => return None,
                Ok(length) if length > 0 && head.len() < LONGEST => head.extend_from_slice(&buffer[..length]),
                _ => {
                    self.violation("a request without an end");
                    return None;
                }
            }
        }
    }

    /// Target and credentials; whatever else is not as RFC 9110 §9.3.6 and RFC 7617 have it is noted.
    fn read(&self, head: &str) -> (String, Option<String>) {
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let target = line.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).unwrap_or_default();
        let (host, port) = target.rsplit_once(':').unwrap_or_default();
        if host.is_empty()
            || port.parse::<u16>().is_err()
            || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']')))
        {
            self.violation(format!("not CONNECT HOST:PORT HTTP/1.1: {line}"));
        }
        let headers: Vec<(String, &str)> = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v)).collect();
        let one = |name: &str| match headers.iter().filter(|(n, _)| n == name).collect::<Vec<_>>()[..] {
            [(_, value)] => Some(*value),
            [] => None,
            _ => {
                self.violation(format!("{name} twice"));
                None
            }
        };
        if one("host") != Some(target) {
            self.violation("Host is not the target");
        }
        for (name, _) in headers.iter().filter(|(n, _)| !["host", "proxy-authorization"].contains(&n.as_str())) {
            self.violation(format!("a header that is none of a proxy's business: {name}"));
        }
        let credentials = one("proxy-authorization").and_then(|value| {
            let decoded = value.strip_prefix("Basic ").and_then(|base64| STANDARD.decode(base64).ok());
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| text.contains(':'));
            if text.is_none() {
                self.violation("Proxy-Authorization is not Basic");
            }
            text
        });
        (target.to_owned(), credentials)
    }

    fn violation(&self, sentence: impl Into<String>) {
        locked(&self.violations).push(sentence.into());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(proxy: &HttpProxy, request: &str) -> String {
        let mut socket = TcpStream::connect(proxy.address).expect("the proxy listens");
        socket.write_all(request.as_bytes()).expect("the proxy reads");
        socket.shutdown(Shutdown::Write).ok();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn opens_a_way_for_who_may_and_notes_who_asked() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = server.local_addr().expect("an address").to_string();
        thread::spawn(move || server.accept().and_then(|(mut socket, _)| socket.write_all(b"hello")));
        let proxy = HttpProxy::for_user("me", "hush");
        assert!(ask(&proxy, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).starts_with("HTTP/1.1 407 "));
        let with = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic bWU6aHVzaA==\r\n\r\n");
        let answer = ask(&proxy, &with);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        let seen: Vec<_> = proxy.asked().into_iter().map(|one| (one.target, one.credentials, one.status)).collect();
        assert_eq!(seen[0], (target.clone(), None, Some(407)));
        assert_eq!(seen[1], (target, Some("me:hush".into()), Some(200)));
        assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
    }

    #[test]
    fn notes_what_a_correct_client_does_not_send() {
        let proxy = HttpProxy::open();
        for (request, violation) in [
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "not CONNECT"),
            ("CONNECT ::1:1 HTTP/1.1\r\nHost: ::1:1\r\n\r\n", "not CONNECT"),
            ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: b\r\n\r\n", "Host is not the target"),
            ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nCookie: x\r\n\r\n", "none of a proxy's business: cookie"),
            ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nProxy-Authorization: Bearer x\r\n\r\n", "not Basic"),
            ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n\x16\x03", "something behind the request"),
            ("CONNECT a:1 HTTP/1.1\r\n", "a request without an end"),
        ] {
            let before = proxy.violations().len();
            ask(&proxy, request);
            let new = &proxy.violations()[before..];
            assert!(new.iter().any(|one| one.contains(violation)), "{request:?}: {new:?}");
        }
    }
}
