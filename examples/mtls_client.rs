//! Mutual TLS from a program of your own, with a key that stays in its token or TPM: each request is a connection of its own,
//! whose handshake the device signs.
//!
//! ```text
//! ZITI_ENROLLER_PIN_FILE=FILE cargo run --example mtls_client -- IDENTITY THREADS EACH
//! ```
//!
//! Logs in to the identity's controller and out again, EACH times in each of THREADS threads that share one opened identity.
//! HTTP is written by hand over the `ClientConfig`, for a library that takes one can be had in many ways and this works with
//! all of them. Prints how many were answered, and how many a second; ends with 1 if one was not.

use std::env;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use ziti_enroller::identity::Identity;
use ziti_enroller::key::PinSource;
use ziti_enroller::key::pin::{NoPins, OnePin};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [identity, threads, each] = &words[..] else { return Err("usage: mtls_client IDENTITY THREADS EACH".into()) };
    let (threads, each): (usize, usize) = (threads.parse()?, each.parse()?);

    let pins: Box<dyn PinSource> = match env::var_os("ZITI_ENROLLER_PIN_FILE") {
        Some(file) => Box::new(OnePin::new(std::fs::read(file)?)),
        None => Box::new(NoPins),
    };
    let opened = Identity::open(identity, &*pins)?;
    let tls = Arc::new(opened.client_config()?);
    let origin = opened.identity().origin()?;

    let (answered, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (tls, origin, answered) = (&tls, &origin, &answered);
            scope.spawn(move || {
                for _ in 0..each {
                    match log_in_and_out(tls, origin.host(), &origin.authority(), origin.port()) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => eprintln!("{error}"),
                    }
                }
            });
        }
    });
    let (answered, all) = (answered.into_inner(), threads * each);
    println!("{answered} of {all} requests answered, {:.0} a second", answered as f64 / begun.elapsed().as_secs_f64());
    Ok(ExitCode::from(u8::from(answered != all)))
}

fn log_in_and_out(tls: &Arc<ClientConfig>, host: &str, authority: &str, port: u16) -> Result<(), Failure> {
    let host = host.trim_matches(['[', ']']);
    let connection = ClientConnection::new(tls.clone(), ServerName::try_from(host.to_owned())?)?;
    let socket = TcpStream::connect((host, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = StreamOwned::new(connection, socket);
    let login = request(&mut stream, authority, "POST", "authenticate?method=cert", "", "{}")?;
    let token = login["data"]["token"].as_str().ok_or("no token in the answer")?.to_owned();
    request(&mut stream, authority, "DELETE", "current-api-session", &format!("zt-session: {token}\r\n"), "")?;
    Ok(())
}

/// One request and the JSON of its answer.
fn request(
    stream: &mut (impl Read + Write),
    authority: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Value, Failure> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head =
        format!("{method} /edge/client/v1/{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\n{headers}{kind}");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    stream.flush()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let (head, length) = loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the answer ends too early".into());
        }
        answer.extend_from_slice(&buffer[..read]);
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(Ok(0), |n| n.trim().parse())?;
        if answer.len() >= end + 4 + length {
            answer.drain(..end + 4);
            break (head, length);
        }
    };
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("{method} {path}: {}", head.lines().next().unwrap_or_default()).into());
    }
    Ok(if length == 0 { Value::Null } else { serde_json::from_slice(&answer[..length])? })
}
