//! A controller of OpenZiti's own, and its administrator: the command line of the same binary, and the management API for what
//! that cannot do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use ziti_enroller_support::{Authority, IdentityProvider, Key, KeyType, Leaf, Program, Running, pem};

use super::controllers::{AnyController, Issued};
use super::{curl, machine};

/// How long a controller may take to its first login, and to its end.
const PATIENCE: Duration = Duration::from_secs(300);

/// A controller of OpenZiti's own. Dropping it ends it.
pub struct RealController {
    home: TempDir,
    port: u16,
    version: String,
    running: Option<Running>,
}

impl RealController {
    pub fn start() -> Self {
        let ziti = std::env::var_os("ZITI_BIN").map(PathBuf::from).filter(|path| path.is_file());
        let ziti = ziti.expect("name a `ziti` binary: ZITI_BIN=/path/to/ziti (https://github.com/openziti/ziti/releases)");
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        fs::create_dir(home.path().join("bin")).expect("the temporary folder is writable");
        symlink(ziti, home.path().join("bin/ziti")).expect("the temporary folder is writable");
        let port = free_port();
        let mut controller = Self { home, port, version: String::new(), running: None };

        let mut quickstart = vec!["edge".to_owned(), "quickstart".into(), "--no-router".into()];
        // The router is not started; its address is wanted all the same.
        for (option, value) in [("ctrl-address", "localhost".to_owned()), ("ctrl-port", port.to_string())] {
            quickstart.extend([format!("--{option}"), value.clone(), format!("--{}", option.replace("ctrl", "router")), value]);
        }
        quickstart.extend(["--home".into(), machine::text(&controller.home.path().join("quickstart"))]);
        let program = controller.ziti(&quickstart).limit(PATIENCE * 10);
        let loopback = [("ZITI_CTRL_BIND_ADDRESS", "127.0.0.1"), ("ZITI_CTRL_EDGE_BIND_ADDRESS", "127.0.0.1")];
        controller.running = Some(program.envs(loopback).start());
        controller.wait_until_it_answers();
        let version = json_of(curl().arg(format!("{}/edge/client/v1/version", controller.url())));
        controller.version = version["data"]["version"].as_str().expect("a version").trim_start_matches('v').to_owned();
        controller
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let address = format!("localhost:{}", self.port);
        loop {
            let login = self.ziti(&["edge", "login", &address, "-u", "admin", "-p", "admin", "-y"]).run();
            if login.code == Some(0) {
                return;
            }
            if Instant::now() > deadline {
                let running = self.running.take().expect("it was started");
                running.terminate();
                panic!("no controller after {PATIENCE:?}: {login}\nit said: {}", running.wait());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Its folder, where its own program is `bin/ziti`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The command line of this controller's administrator.
    pub fn ziti<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Program {
        self.in_its_home(Program::new(self.home.path().join("bin/ziti")).args(arguments))
    }

    pub fn in_its_home(&self, program: Program) -> Program {
        let home = self.home.path();
        program.current_dir(home).env("HOME", home).env("ZITI_CONFIG_DIR", home.join("cli")).limit(PATIENCE)
    }

    /// What the administrator's API answers, of a request with these arguments of curl.
    fn managed(&self, path: &str, arguments: &[&str]) -> String {
        let api = format!("{}/edge/management/v1", self.url());
        let admin = json!({"username": "admin", "password": "admin"}).to_string();
        let login = json_of(curl().args(["--json", &admin, &format!("{api}/authenticate?method=password")]));
        let session = format!("zt-session: {}", login["data"]["token"].as_str().expect("a session"));
        curl().args(["-H", &session]).args(arguments).arg(format!("{api}/{path}")).run().success().stdout
    }

    /// What `ziti edge list` says of all that fit.
    fn all_listed(&self, what: &str, filter: &str) -> Vec<Value> {
        let mut listed = json_of(self.ziti(&["edge", "list", what, filter, "-j"]));
        match listed["data"].take() {
            Value::Array(all) => all,
            other => panic!("no list: {other}"),
        }
    }

    /// The same of the one that fits.
    fn listed(&self, what: &str, filter: &str) -> Value {
        self.all_listed(what, filter).into_iter().next().unwrap_or_else(|| panic!("no {what} with {filter}"))
    }

    /// The certificate that logs an identity in.
    fn authenticator(&self, identity_id: &str) -> Value {
        self.listed("authenticators", &format!("identity=\"{identity_id}\" and method=\"cert\""))
    }

    /// Of one that has no enrollment; the command line always gives it one.
    fn id_of_new_identity(&self, name: &str) -> String {
        let identity = json!({"name": name, "type": "Default", "isAdmin": false}).to_string();
        let made = self.managed("identities", &["--json", &identity]);
        let made: Value = serde_json::from_str(&made).unwrap_or_else(|error| panic!("{error}: {made}"));
        id(&made["data"]).to_owned()
    }

    /// The token of the enrollment of this method that is open for an identity.
    pub fn open_token(&self, identity_id: &str, method: &str, file: PathBuf) -> Issued {
        let enrollments = self.all_listed("enrollments", &format!("identity=\"{identity_id}\""));
        let open =
            enrollments.iter().find(|one| one["method"] == method).unwrap_or_else(|| panic!("no {method}: {enrollments:?}"));
        fs::write(&file, open["jwt"].as_str().expect("an enrollment has a token")).expect("a writable folder");
        Issued::read(file)
    }
}

impl Drop for RealController {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.terminate();
            // A test that fails has said enough: then it is killed, on drop.
            if !thread::panicking() {
                running.wait();
            }
        }
    }
}

impl AnyController for RealController {
    fn name(&self) -> String {
        self.version.clone()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn is_before(&self, major: u32, minor: u32) -> bool {
        let mut own = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        (own.next().unwrap_or_default(), own.next().unwrap_or_default()) < (major, minor)
    }

    fn issue(&self, name: &str, folder: &Path) -> Issued {
        let file = folder.join(format!("{name}.jwt"));
        self.ziti(&["edge", "create", "identity", name, "-o"]).arg(&file).run().success();
        Issued::read(file)
    }

    /// Long enough for this machine to ask for it.
    fn issue_briefly(&self, name: &str, folder: &Path) -> Issued {
        let time = Duration::from_secs(10);
        let identity_id = self.id_of_new_identity(name);
        let enrollment = json!({"method": "ott", "identityId": identity_id, "expiresAt": utc_in(time)}).to_string();
        let made = self.managed("enrollments", &["--json", &enrollment]);
        assert!(made.contains("\"id\""), "{made}");
        self.open_token(&identity_id, "ott", folder.join(format!("{name}.jwt")))
    }

    fn refresh(&self, token: &Issued) -> Issued {
        let open = self.listed("enrollments", &format!("identity=\"{}\"", token.identity_id));
        let until = json!({"expiresAt": utc_in(Duration::from_secs(3600))}).to_string();
        let refreshed = self.managed(&format!("enrollments/{}/refresh", id(&open)), &["--json", &until]);
        assert!(!refreshed.contains("\"error\""), "{refreshed}");
        self.open_token(&token.identity_id, "ott", token.file.clone())
    }

    fn identity_called(&self, name: &str) -> String {
        id(&self.listed("identities", &format!("name=\"{name}\""))).to_owned()
    }

    fn certificate(&self, identity_id: &str) -> String {
        self.authenticator(identity_id)["certPem"].as_str().expect("a certificate").to_owned()
    }

    fn re_enroll(&self, identity_id: &str, folder: &Path) -> Issued {
        // Ids may begin with a hyphen.
        let authenticator = self.authenticator(identity_id);
        if self.is_before(1, 6) {
            let until = json!({"expiresAt": utc_in(Duration::from_secs(3600))}).to_string();
            let again = self.managed(&format!("authenticators/{}/re-enroll", id(&authenticator)), &["--json", &until]);
            assert!(!again.contains("\"error\""), "{again}");
        } else {
            self.ziti(&["edge", "update", "authenticator", "cert", "--re-enroll", "--", id(&authenticator)]).run().success();
        }
        self.open_token(identity_id, "ott", folder.join("again.jwt"))
    }

    fn ask(&self, identity_id: &str, new_key: bool) {
        let what = if new_key { "--request-key-roll" } else { "--request-extend" };
        let authenticator = self.authenticator(identity_id);
        self.ziti(&["edge", "update", "authenticator", "cert", what, "--", id(&authenticator)]).run().success();
    }

    fn network_token(&self, folder: &Path) -> PathBuf {
        let listed = json_of(curl().arg(format!("{}/edge/client/v1/network-jwts", self.url())));
        let file = folder.join("network.jwt");
        fs::write(&file, listed["data"][0]["token"].as_str().expect("a network has a token")).expect("a writable folder");
        file
    }

    fn password_token(&self, name: &str, folder: &Path) -> PathBuf {
        let file = folder.join(format!("{name}.jwt"));
        self.ziti(&["edge", "create", "identity", name, "--updb", name, "-o"]).arg(&file).run().success();
        file
    }

    fn takes_password(&self, name: &str, password: &str) -> bool {
        let body = json!({"username": name, "password": password}).to_string();
        let url = format!("{}/edge/client/v1/authenticate?method=password", self.url());
        let status = curl().args(["-o", "/dev/null", "-w", "%{http_code}", "--json", &body, &url]).run().success().stdout;
        assert!(["200", "401"].contains(&&*status), "{status}");
        status == "200"
    }

    fn trust_provider(&self, provider: &IdentityProvider, buys_certificates: bool, folder: &Path) {
        let name = &*provider.name;
        if self.all_listed("ext-jwt-signers", &format!("name=\"{name}\"")).is_empty() {
            let certificate = folder.join("idp.pem");
            fs::write(&certificate, provider.certificate_pem()).expect("a writable folder");
            let (issuer, audience) = (&*provider.issuer, &*provider.audience);
            let create = ["edge", "create", "ext-jwt-signer", name, issuer, "-a", audience, "-k", provider.kid(), "-f"];
            self.ziti(&create).arg(&certificate).run().success();
        }
        if buys_certificates {
            self.ziti(&["edge", "update", "ext-jwt-signer", name, "--enroll-to-cert"]).run().success();
        }
    }

    fn know_ca(&self, name: &str, root: &Authority, folder: &Path) -> String {
        let file = folder.join("known.pem");
        fs::write(&file, pem("CERTIFICATE", root.certificate())).expect("a writable folder");
        let may = ["--autoca", "--ottca", "--auth", "--identity-name-format", "[caName]-[requestedName]"];
        let create = ["edge", "create", "ca", name, &machine::text(&file)];
        self.ziti(&create.iter().chain(&may).collect::<Vec<_>>()).run().success();
        let ca = self.listed("cas", &format!("name=\"{name}\""));
        // The holder of the CA's key proves it by a certificate for this name.
        let proof = Leaf::client_named(ca["verificationToken"].as_str().expect("a CA that is to be verified"));
        let proof = root.sign(&proof, &Key::generate(KeyType::P256).spki_der());
        fs::write(&file, pem("CERTIFICATE", &proof)).expect("a writable folder");
        self.ziti(&["edge", "verify", "ca", name, "--cert", &machine::text(&file)]).run().success();
        id(&ca).to_owned()
    }

    fn issue_by_ca(&self, ca_id: &str, name: &str, folder: &Path) -> Issued {
        let identity_id = self.id_of_new_identity(name);
        self.ziti(&["edge", "create", "enrollment", "ottca", "--", name, ca_id]).run().success();
        self.open_token(&identity_id, "ottca", folder.join(format!("{name}.jwt")))
    }

    fn issue_again_by_ca(&self, ca_id: &str, token: &Issued) -> Issued {
        let authenticator = self.authenticator(&token.identity_id);
        self.ziti(&["edge", "delete", "authenticator", "--", id(&authenticator)]).run().success();
        self.ziti(&["edge", "create", "enrollment", "ottca", "--", &token.identity_id, ca_id]).run().success();
        self.open_token(&token.identity_id, "ottca", token.file.clone())
    }

    /// The command line does not have it.
    fn ca_token(&self, ca_id: &str, folder: &Path) -> PathBuf {
        let ca = self.listed("cas", &format!("id=\"{ca_id}\""));
        let file = folder.join(format!("{}.jwt", ca["name"].as_str().expect("a name")));
        fs::write(&file, self.managed(&format!("cas/{ca_id}/jwt"), &[])).expect("a writable folder");
        file
    }
}

/// Below the ports that a system gives to whoever asks for any: a controller takes seconds to listen, and meanwhile one of those
/// may be a connection's.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    let mut ports = (0..12_000).map(|_| 20_000 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    let free = ports.find_map(|port| {
        let port = u16::try_from(port).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    });
    free.expect("a free port")
}

/// What a program prints as JSON.
fn json_of(program: Program) -> Value {
    let ended = program.run().success();
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
}

fn id(entity: &Value) -> &str {
    entity["id"].as_str().expect("an id")
}

/// RFC 3339, whole seconds.
fn utc_in(time: Duration) -> String {
    let date = Program::new("/bin/date").args(["-u", "-d", &format!("+{} seconds", time.as_secs()), "+%FT%TZ"]);
    date.run().success().stdout.trim().to_owned()
}
