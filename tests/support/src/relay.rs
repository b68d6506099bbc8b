//! A TCP relay that delays, for measuring round trips where the kernel has no netem (dependencies.md §1.2).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A relay on 127.0.0.1. Every chunk is held for `each_way`; the client's first bytes are held twice as long again, in
/// place of the round trip that a TCP connection costs. Dropping it closes every connection.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    each_way: Duration,
    connections: AtomicUsize,
    stopping: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Starts a relay to `target`.
    pub fn start(target: SocketAddr, each_way: Duration) -> Self {
        Self::start_on(0, target, each_way)
    }

    /// The same on a port of one's choice.
    pub fn start_on(port: u16, target: SocketAddr, each_way: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the loopback port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            each_way,
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            sockets: Mutex::default(),
        });
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    client.and_then(|client| shared.join_up(client)).ok();
                }
            }
        });
        Self { shared, address, accepting: Some(accepting) }
    }

    /// `https://localhost:PORT`, for the `iss` of a token.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the next connections go.
    pub fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// How many came.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
        for socket in self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn join_up(&self, client: TcpStream) -> std::io::Result<()> {
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let server = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let opening = self.each_way * 2;
        pump(client.try_clone()?, server.try_clone()?, self.each_way, opening);
        pump(server.try_clone()?, client.try_clone()?, self.each_way, Duration::ZERO);
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).extend([client, server]);
        Ok(())
    }
}

/// Two threads, so that a chunk that comes while another is held is not held longer than it.
pub(crate) fn pump(mut from: TcpStream, mut to: TcpStream, each_way: Duration, opening: Duration) {
    let (sender, held) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        // Later chunks keep their order behind the first, which is late by `opening`; so is all that depends on it.
        let mut extra = opening;
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 || sender.send((Instant::now() + each_way + extra, buffer[..length].to_vec())).is_err() {
                break;
            }
            extra = Duration::ZERO;
        }
    });
    thread::spawn(move || {
        for (due, chunk) in held {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Write).ok();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_each_chunk_and_the_first_one_longer() {
        let echo = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = echo.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut socket, _) = echo.accept().expect("the relay comes");
            let mut byte = [0];
            while socket.read_exact(&mut byte).is_ok() {
                socket.write_all(&byte).expect("the relay listens");
            }
        });
        let relay = Relay::start(target, Duration::from_millis(20));
        let mut socket = TcpStream::connect(relay.address()).expect("the relay listens");
        let mut round_trip = || {
            let started = Instant::now();
            let mut byte = [7];
            socket.write_all(&byte).and_then(|()| socket.read_exact(&mut byte)).expect("the echo comes back");
            started.elapsed().as_millis()
        };
        let (first, second) = (round_trip(), round_trip());
        assert!((80..160).contains(&first), "{first} ms");
        assert!((40..120).contains(&second), "{second} ms");
        assert_eq!(relay.connections(), 1);
    }
}
