//! A plain HTTP/1.1 client over rustls, and a few command lines.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ziti_enroller_support::{Controller, Key, KeyType, Outcome, Program, Token, require};

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an error has a code").to_owned()
    }
}

pub struct Conversation(StreamOwned<ClientConnection, TcpStream>);

impl Conversation {
    /// With whom the CAs of the controller vouch for.
    pub fn with(controller: &Controller) -> Self {
        Self::try_with(controller, &controller.ca_pem(), None, true).expect("a handshake")
    }

    pub fn with_certificate(controller: &Controller, chain_pem: &str, key: &Key) -> Self {
        Self::try_with(controller, &controller.ca_pem(), Some((chain_pem, key)), true).expect("a handshake")
    }

    pub fn try_with(controller: &Controller, ca: &str, identity: Option<(&str, &Key)>, tls13: bool) -> io::Result<Self> {
        let config = config(ca, identity, tls13);
        let name = ServerName::try_from("localhost").expect("a name");
        let socket = TcpStream::connect(controller.address())?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a configuration"), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    /// `head` is the request line and headers but Host and Content-Length.
    pub fn ask(&mut self, head: &str, body: &str) -> io::Result<Answer> {
        let length = if head.starts_with("POST") { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        self.raw(&format!("{}\r\nHost: localhost\r\n{length}\r\n{body}", head.trim().replace('\n', "\r\n")))
    }

    pub fn raw(&mut self, request: &str) -> io::Result<Answer> {
        self.0.write_all(request.as_bytes())?;
        self.0.flush()?;
        let head = self.until(b"\r\n\r\n")?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let mut body = Vec::new();
        if field("transfer-encoding:").is_some() {
            loop {
                let size = usize::from_str_radix(self.until(b"\r\n")?.trim(), 16).expect("a chunk size");
                body.extend(self.exactly(size)?);
                self.exactly(2)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = field("content-length:").and_then(|value| value.parse().ok()).unwrap_or(0);
            body = self.exactly(length)?;
        }
        Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn until(&mut self, end: &[u8]) -> io::Result<String> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            read.extend(self.exactly(1)?);
        }
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// What the server says once it has said all: 0 for an orderly end.
    pub fn rest(&mut self) -> io::Result<usize> {
        self.0.read(&mut [0; 16])
    }

    pub fn enroll(&mut self, token: &Token, csr: &str) -> io::Result<Answer> {
        let head = format!(
            "POST /edge/client/v1/enroll?method=ott&token={} HTTP/1.1\nContent-Type: application/x-pem-file\nAccept: application/json",
            token.jti()
        );
        self.ask(&head, csr)
    }

    pub fn cacerts(&mut self) -> io::Result<Answer> {
        self.ask("GET /.well-known/est/cacerts HTTP/1.1", "")
    }
}

fn config(ca: &str, identity: Option<(&str, &Key)>, tls13: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca.as_bytes()).flatten());
    let versions: &[_] = if tls13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12] };
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
            let key = PrivateKeyDer::try_from(key.pkcs8_der()).expect("PKCS#8");
            builder.with_client_auth_cert(chain, key).expect("the key fits")
        }
    }
}

/// A key, the answer to its enrollment, and the chain that came.
pub fn enrolled(controller: &Controller, name: &str) -> (Key, Token, String) {
    let (key, token) = (Key::generate(KeyType::P256), controller.issue(name));
    let answer = Conversation::with(controller).enroll(&token, &key.csr_pem(token.sub())).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let chain = answer.json()["data"]["cert"].as_str().expect("a certificate").to_owned();
    (key, token, chain)
}

pub fn openssl(folder: &Path, line: &str) -> Outcome {
    let openssl = require("openssl", "openssl");
    Program::new(openssl).args(line.split_whitespace()).current_dir(folder).run()
}

/// curl that trusts `ca.pem` in `folder` and says the status on the last line.
pub fn curl(folder: &Path) -> Program {
    let curl = require("curl", "curl");
    Program::new(curl).args(["-sS", "--cacert", "ca.pem", "-w", "\n%{http_code}"]).current_dir(folder)
}
