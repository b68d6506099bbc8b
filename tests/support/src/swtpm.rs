//! swtpm with a TPM of one's own: a folder and two ports per fixture, nothing shared, nothing left behind; and a proxy
//! before it that records, fails, drops and hangs.
//!
//! It is a raw TPM, without a resource manager: three objects at a time, and whatever a killed program had loaded stays
//! loaded. It serves one client at a time; a second one waits until the first has gone, without an error.

use crate::program::{Program, require};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often another pair of ports is tried, when somebody else took one in between.
const ATTEMPTS: usize = 20;
/// How long swtpm may take until it listens; it takes 3 ms.
const START: Duration = Duration::from_secs(10);

/// A fresh TPM. Dropping it kills it.
#[derive(Debug)]
pub struct Swtpm {
    folder: TempDir,
    child: Child,
    port: u16,
}

impl Default for Swtpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Swtpm {
    /// Starts one with an empty state: no persistent key, no auth value, 3 tries until it locks.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (child, port) = start(folder.path());
        Self { folder, child, port }
    }

    /// Its data port; the control channel is on the next one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How libtss2 reaches it.
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// What tpm2-tools, tpm2-openssl and tpm2-pkcs11 need in their environment; libtss2's own talk is silenced.
    pub fn env(&self) -> Vec<(String, String)> {
        let names = ["TPM2TOOLS_TCTI", "TPM2OPENSSL_TCTI", "TPM2_PKCS11_TCTI"];
        let tctis = names.into_iter().map(|name| (name.to_owned(), self.tcti()));
        tctis.chain([("TSS2_LOG".to_owned(), "all+NONE".to_owned())]).collect()
    }

    /// One of tpm2-tools, ready for its arguments.
    pub fn tool(&self, name: &str) -> Program {
        Program::new(require(name, "tpm2-tools")).envs(self.env())
    }

    /// `openssl` with the provider for TPMs, ready for a command that takes `-provider` first among its arguments.
    pub fn openssl(&self, command: &str) -> Program {
        let providers = ["-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"];
        Program::new(require("openssl", "openssl tpm2-openssl")).envs(self.env()).arg(command).args(providers)
    }

    /// Its state lies in here.
    pub fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// The handles of a kind that the TPM holds: `handles-transient`, `handles-loaded-session`, `handles-persistent`, ….
    pub fn handles(&self, kind: &str) -> Vec<u32> {
        let told = self.tool("tpm2_getcap").arg(kind).run().success().stdout;
        let number = |line: &str| u32::from_str_radix(line.trim().strip_prefix("- 0x")?, 16).ok();
        told.lines().filter_map(number).collect()
    }

    /// Objects and sessions that are loaded: none, unless a program was killed or left them.
    pub fn loaded(&self) -> Vec<u32> {
        ["handles-transient", "handles-loaded-session", "handles-saved-session"]
            .iter()
            .flat_map(|kind| self.handles(kind))
            .collect()
    }

    /// How many wrong tries count at the moment.
    pub fn wrong_tries(&self) -> u32 {
        let told = self.tool("tpm2_getcap").arg("properties-variable").run().success().stdout;
        let value = told.lines().find_map(|line| line.trim().strip_prefix("TPM2_PT_LOCKOUT_COUNTER: 0x"));
        value.and_then(|v| u32::from_str_radix(v, 16).ok()).expect("every TPM has the counter")
    }

    /// Frees what killed programs left loaded.
    pub fn flush(&self) {
        for kind in ["-t", "-l", "-s"] {
            self.tool("tpm2_flushcontext").arg(kind).run();
        }
    }

    /// Puts the storage root key (H-2) at 0x81000001, as provisioning does.
    pub fn provision(&self) {
        let context = self.folder.path().join("srk.ctx");
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
        let make =
            self.tool("tpm2_createprimary").args(["-C", "o", "-g", "sha256", "-G", "ecc256:aes128cfb", "-a", attributes, "-c"]);
        make.arg(&context).run().success();
        self.flush();
        self.tool("tpm2_evictcontrol").args(["-C", "o", "-c"]).arg(&context).arg("0x81000001").run().success();
        self.flush();
    }

    /// Sets the auth value of a hierarchy that has none yet: `owner`, `endorsement`, `lockout`.
    pub fn set_auth(&self, hierarchy: &str, value: &str) {
        self.tool("tpm2_changeauth").args(["-c", hierarchy, value]).run().success();
    }

    /// Forgets all keys, as a new owner does.
    pub fn clear(&self) {
        self.tool("tpm2_clear").args(["-c", "p"]).run().success();
    }

    /// It answers nothing, and does not close its connections.
    pub fn pause(&self) {
        self.send(Signal::STOP);
    }

    /// It goes on.
    pub fn resume(&self) {
        self.send(Signal::CONT);
    }

    /// It is gone, as if the machine had lost it.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, signal).ok();
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tcti(port: u16) -> String {
    format!("swtpm:host=127.0.0.1,port={port}")
}

fn start(state: &Path) -> (Child, u16) {
    let swtpm = require("swtpm", "swtpm");
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let (data, control) = pair();
        let port = port_of(&data);
        drop((data, control));
        let mut command = Command::new(&swtpm);
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", state.display()));
        command.args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")]);
        command.args(["--ctrl", &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", swtpm.display()));
        let deadline = Instant::now() + START;
        while child.try_wait().expect("a child of ours can be waited for").is_none() {
            // Not by connecting: at a port that somebody else has taken, somebody else would answer.
            if listens(child.id(), port) && listens(child.id(), port + 1) {
                return (child, port);
            }
            assert!(Instant::now() < deadline, "swtpm does not listen after {START:?}");
            thread::sleep(Duration::from_micros(200));
        }
        said.clear();
        child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut said));
    }
    panic!("swtpm did not start: {said}");
}

/// Two neighbouring ports that are free.
fn pair() -> (TcpListener, TcpListener) {
    for _ in 0..1000 {
        let data = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        if let Some(next) = port_of(&data).checked_add(1)
            && let Ok(control) = TcpListener::bind(("127.0.0.1", next))
        {
            return (data, control);
        }
    }
    panic!("no two neighbouring loopback ports are free");
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("a listener has an address").port()
}

/// Whether this very process listens there.
fn listens(pid: u32, port: u16) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    // local_address (hex), rem_address, st (0A: LISTEN), …, inode as the tenth field.
    let sockets = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = fields.get(1)?.ends_with(&format!(":{port:04X}")) && fields.get(3) == Some(&"0A");
        here.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    });
    let sockets: Vec<String> = sockets.collect();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|link| sockets.iter().any(|s| link.as_os_str() == s.as_str()))
}

/// What the proxy does instead of passing a command on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusFault {
    /// Answers with this response code; the TPM does not see the command.
    Answer(u32),
    /// Closes the connection.
    Drop,
    /// Passes the command on, and closes the connection instead of giving the answer.
    DropAnswer,
    /// Passes the command on, and changes the last byte of what a successful answer says.
    Spoil,
    /// Neither answers nor closes.
    Hang,
}

/// A command that went over the bus, and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// TPM_CC, such as 0x15d for TPM2_Sign.
    pub code: u32,
    /// The whole frame.
    pub command: Vec<u8>,
    /// The whole frame; empty where none came.
    pub answer: Vec<u8>,
}

/// Stands before a [`Swtpm`], on two ports of its own. Dropping it closes every connection.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    exchanges: Vec<Exchange>,
    /// At which command of all, counted from 0, or at which command with this code.
    rules: Vec<(Option<u32>, usize, BusFault)>,
    /// Both ends of every connection that is open, under a number of its own.
    open: BTreeMap<u64, [TcpStream; 2]>,
    next: u64,
    stopping: bool,
}

impl Proxy {
    /// Starts one.
    pub fn before(swtpm: &Swtpm) -> Self {
        let (data, control) = pair();
        let port = port_of(&data);
        let shared = Arc::new(Shared::default());
        let target = swtpm.port();
        accept(data, shared.clone(), target, |shared, client, server| shared.pass_frames(client, server));
        accept(control, shared.clone(), target + 1, |_, client, server| copy_both(client, server));
        Self { shared, port }
    }

    /// How libtss2 reaches it.
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// Does `fault` at the `n`-th command of all, counted from 0 and from now.
    pub fn fail_at(&self, n: usize, fault: BusFault) {
        let mut state = self.shared.lock();
        let n = state.exchanges.len() + n;
        state.rules.push((None, n, fault));
    }

    /// Does `fault` at the `n`-th command with this TPM_CC, counted from 0 and from now.
    pub fn fail(&self, code: u32, n: usize, fault: BusFault) {
        let mut state = self.shared.lock();
        let n = state.exchanges.iter().filter(|e| e.code == code).count() + n;
        state.rules.push((Some(code), n, fault));
    }

    /// Passes everything on again.
    pub fn behave(&self) {
        self.shared.lock().rules.clear();
    }

    /// All that went over the bus, in order.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.lock().exchanges.clone()
    }

    /// How often `bytes` were in a frame.
    pub fn seen(&self, bytes: &[u8]) -> usize {
        let has = |frame: &[u8]| frame.windows(bytes.len()).any(|w| w == bytes);
        self.exchanges().iter().map(|e| usize::from(has(&e.command)) + usize::from(has(&e.answer))).sum()
    }

    /// Begins the record anew.
    pub fn forget(&self) {
        self.shared.lock().exchanges.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.open.values().flatten().for_each(close);
        drop(state);
        for port in [self.port, self.port + 1] {
            TcpStream::connect(("127.0.0.1", port)).ok();
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>, target: u16, serve: fn(&Shared, TcpStream, TcpStream) -> io::Result<()>) {
    thread::spawn(move || {
        for client in listener.incoming() {
            if shared.lock().stopping {
                break;
            }
            let shared = shared.clone();
            thread::spawn(move || -> io::Result<()> {
                let client = client?;
                let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target)))?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let number = shared.opened([client.try_clone()?, server.try_clone()?]);
                let served = serve(&shared, client, server);
                // Both ways at both ends, or swtpm keeps its one client and the next one waits for ever.
                shared.lock().open.remove(&number).iter().flatten().for_each(close);
                served
            });
        }
    });
}

fn close(end: &TcpStream) {
    // One that the other side has closed is what we want.
    end.shutdown(Shutdown::Both).ok();
}

fn copy_both(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Both).ok();
    });
    let (mut from, mut to) = (client, server);
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Both).ok();
    back.join().ok();
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, ends: [TcpStream; 2]) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.open.insert(number, ends);
        number
    }

    fn pass_frames(&self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        loop {
            let command = frame(&mut client)?;
            let code = u32::from_be_bytes([command[6], command[7], command[8], command[9]]);
            let (number, fault) = self.begin(code, &command);
            let answer = match fault {
                Some(BusFault::Answer(rc)) => [&0x8001_u16.to_be_bytes()[..], &10_u32.to_be_bytes(), &rc.to_be_bytes()].concat(),
                Some(BusFault::Drop) => return Ok(()),
                Some(BusFault::Hang) => {
                    // Until the client, or this proxy, gives up.
                    client.read_exact(&mut [0])?;
                    return Ok(());
                }
                Some(BusFault::DropAnswer) => {
                    server.write_all(&command)?;
                    self.end(number, frame(&mut server)?);
                    return Ok(());
                }
                Some(BusFault::Spoil) => {
                    server.write_all(&command)?;
                    spoilt(frame(&mut server)?)
                }
                None => {
                    server.write_all(&command)?;
                    frame(&mut server)?
                }
            };
            self.end(number, answer.clone());
            client.write_all(&answer)?;
        }
    }

    fn begin(&self, code: u32, command: &[u8]) -> (usize, Option<BusFault>) {
        let mut state = self.lock();
        let all = state.exchanges.len();
        let same = state.exchanges.iter().filter(|e| e.code == code).count();
        let fits = |(only, n, _): &&(Option<u32>, usize, BusFault)| match only {
            Some(only) => *only == code && *n == same,
            None => *n == all,
        };
        let fault = state.rules.iter().find(fits).map(|(_, _, fault)| *fault);
        state.exchanges.push(Exchange { code, command: command.to_vec(), answer: Vec::new() });
        (all, fault)
    }

    fn end(&self, number: usize, answer: Vec<u8>) {
        if let Some(exchange) = self.lock().exchanges.get_mut(number) {
            exchange.answer = answer;
        }
    }
}

/// One command or answer: tag (2), size of the whole (4), code (4), and what follows (TPM 2.0 Part 1 §18).
fn frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 10];
    from.read_exact(&mut frame)?;
    let size = u32::from_be_bytes([frame[2], frame[3], frame[4], frame[5]]) as usize;
    frame.resize(size.max(10), 0);
    from.read_exact(&mut frame[10..])?;
    Ok(frame)
}

/// With another last byte of its parameters, unless it tells of a failure; after them stands what the sessions say (TPM 2.0 Part 1 §18.10).
fn spoilt(mut answer: Vec<u8>) -> Vec<u8> {
    if answer[6..10] != [0; 4] {
        return answer;
    }
    let has_sessions = answer[..2] == [0x80, 0x02] && answer.len() > 14;
    let end = if has_sessions {
        14 + u32::from_be_bytes([answer[10], answer[11], answer[12], answer[13]]) as usize
    } else {
        answer.len()
    };
    if let Some(last) = answer[..end].last_mut() {
        *last ^= 1;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE_PRIMARY: u32 = 0x131;

    #[test]
    fn is_empty_and_answers() {
        let tpm = Swtpm::new();
        assert_eq!((tpm.handles("handles-persistent"), tpm.loaded(), tpm.wrong_tries()), (vec![], vec![], 0));
        tpm.provision();
        assert_eq!((tpm.handles("handles-persistent"), tpm.loaded()), (vec![0x8100_0001], vec![]));
    }

    #[test]
    fn many_start_side_by_side() {
        let started: Vec<_> = (0..8).map(|_| thread::spawn(Swtpm::new)).collect();
        let mut ports: Vec<u16> = started.into_iter().map(|s| s.join().expect("each starts").port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn leaves_nothing_behind() {
        let tpm = Swtpm::new();
        let (folder, pid) = (tpm.directory().to_owned(), tpm.child.id());
        drop(tpm);
        assert!(!folder.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_proxy_sees_a_password_and_fails_the_command_it_is_told_to() {
        let tpm = Swtpm::new();
        tpm.set_auth("owner", "visible-4711");
        let proxy = Proxy::before(&tpm);
        let make = || {
            let tool = tpm.tool("tpm2_createprimary").env("TPM2TOOLS_TCTI", proxy.tcti());
            tool.args(["-C", "o", "-P", "visible-4711", "-G", "ecc", "-c", "/dev/null"]).run()
        };
        make().success();
        // A new auth value is a parameter, and tpm2-tools does not encrypt it: this is what a listener on the bus sees.
        let change = tpm.tool("tpm2_changeauth").env("TPM2TOOLS_TCTI", proxy.tcti());
        change.args(["-c", "lockout", "visible-4712"]).run().success();
        assert_eq!(proxy.seen(b"visible-4712"), 1);
        proxy.forget();
        proxy.fail(CREATE_PRIMARY, 0, BusFault::Answer(0x921));
        let failed = make();
        assert!(failed.code != Some(0) && failed.stderr.contains("0x921"), "{failed}");
        assert!(proxy.exchanges().iter().any(|e| e.code == CREATE_PRIMARY && e.answer.ends_with(&[0, 0, 0x09, 0x21])));
        tpm.flush();
        make().success();
        proxy.fail(CREATE_PRIMARY, 0, BusFault::Drop);
        assert_ne!(make().code, Some(0));
        // swtpm has let the last client go, and takes the next.
        tpm.flush();
        make().success();
    }
}
