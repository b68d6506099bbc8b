//! Who enrolls: our program with each kind of key, and the commands of `--peer`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use ziti_enroller_support::{Outcome, Program, SoftHsm};

use crate::Asked;
use crate::measured::{self, Measured};

/// The program that is measured.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ziti-enroller");
const EXISTING: &str = "bench";

/// One row of the table.
#[derive(Debug)]
pub struct Contender {
    name: String,
    how: How,
    env: Vec<(String, String)>,
}

#[derive(Debug)]
enum How {
    File,
    /// In a token; a new key finds the token as it was at first, every time.
    Token {
        hsm: Box<SoftHsm>,
        new: Option<TempDir>,
    },
    Peer(Vec<String>),
}

impl Contender {
    /// Ours, but for those that `--only` leaves out, and the peers.
    pub fn all(asked: &Asked) -> Vec<Self> {
        let wanted = |name: &str| asked.only.is_empty() || asked.only.iter().any(|only| only == name);
        let mut all = Vec::new();
        if wanted("file key") {
            all.push(Self { name: "file key".into(), how: How::File, env: Vec::new() });
        }
        for (place, make) in [("SoftHSM", SoftHsm::new as fn() -> SoftHsm), ("SoftHSM on tmpfs", SoftHsm::on_tmpfs)] {
            for kind in ["existing", "new"] {
                let name = format!("{kind} key in {place}");
                if wanted(&name) {
                    all.push(Self::in_token(name, make(), kind == "new"));
                }
            }
        }
        let peers = asked.peers.iter().map(|(name, command)| {
            let (name, how) = (name.clone(), How::Peer(command.clone()));
            Self { name, how, env: asked.env.clone() }
        });
        all.extend(peers);
        all
    }

    fn in_token(name: String, hsm: SoftHsm, new: bool) -> Self {
        let env = vec![("SOFTHSM2_CONF".to_owned(), text(&hsm.conf()))];
        let reference = format!("pkcs11:token={};object={EXISTING}", hsm.label());
        let make = Program::new(PROGRAM).envs(env.clone()).args(["key", "create", "--key", &reference]);
        make.args(at(&hsm)).run().success();
        let kept = new.then(|| {
            let kept = tempfile::tempdir().expect("a temporary folder can be made");
            copy(&hsm.directory().join("tokens"), &kept.path().join("tokens"));
            kept
        });
        Self { name, how: How::Token { hsm: Box::new(hsm), new: kept }, env }
    }

    /// As the table calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is our program.
    pub fn is_ours(&self) -> bool {
        !matches!(self.how, How::Peer(_))
    }

    /// Enrolls once, with the token that `issue` leaves in a folder.
    pub fn run(&mut self, name: &str, issue: impl FnOnce(&Path) -> PathBuf) -> (Measured, Outcome) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let jwt = issue(folder.path());
        let out = folder.path().join(format!("{name}.json"));
        let command: Vec<OsString> = match &self.how {
            How::Peer(words) => {
                let fill = |word: &String| word.replace("{jwt}", &text(&jwt)).replace("{out}", &text(&out)).into();
                words.iter().map(fill).collect()
            }
            How::File => ours(&jwt, &out, ["--provider".into(), "file".into()]),
            How::Token { hsm, new } => {
                let key = match new {
                    Some(kept) => {
                        let tokens = hsm.directory().join("tokens");
                        fs::remove_dir_all(&tokens).expect("the store is ours");
                        copy(&kept.path().join("tokens"), &tokens);
                        "auto".to_owned()
                    }
                    None => format!("pkcs11:token={};object={EXISTING}", hsm.label()),
                };
                let place = at(hsm).into_iter().chain(["--key".into(), key.into()]);
                ours(&jwt, &out, place)
            }
        };
        let (measured, outcome) = measured::run(&command, &self.env, folder.path());
        assert!(outcome.code != Some(0) || out.is_file(), "{}: no identity: {outcome}", self.name);
        (measured, outcome)
    }
}

fn ours(jwt: &Path, out: &Path, more: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let command: [OsString; 6] = [PROGRAM.into(), "enroll".into(), "--jwt".into(), jwt.into(), "--out".into(), out.into()];
    command.into_iter().chain(more).collect()
}

fn at(hsm: &SoftHsm) -> Vec<OsString> {
    let options = ["--provider".into(), "pkcs11".into(), "--module".into(), hsm.real_module().into_os_string()];
    let token = ["--token".into(), hsm.label().into(), "--pin-file".into(), hsm.pin_file().into_os_string()];
    options.into_iter().chain(token).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder is writable");
    for entry in fs::read_dir(from).expect("the store can be listed").flatten() {
        let to = to.join(entry.file_name());
        match entry.file_type().expect("the store can be listed").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("the store can be copied")),
        }
    }
}

/// A path of this machine's own making.
pub fn text(path: &Path) -> String {
    path.to_str().expect("temporary folders have UTF-8 names").to_owned()
}
