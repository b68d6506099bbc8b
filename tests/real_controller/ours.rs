//! The controller of the tests, with its administrator.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ziti_enroller_support::{Authority, Controller, IdentityProvider, Like, Options, ThirdPartyCa, Token};

use super::controllers::{AnyController, Issued};

/// Ours, with the manners of one version.
pub struct OurController {
    controller: Controller,
    like: Like,
    issued: RefCell<Vec<Token>>,
    cas: RefCell<Vec<ThirdPartyCa>>,
}

impl OurController {
    pub fn start(like: Like) -> Self {
        let controller = Controller::start(Options { like, ..Options::default() });
        Self { controller, like, issued: RefCell::default(), cas: RefCell::default() }
    }

    fn write(&self, token: Token, file: PathBuf) -> Issued {
        fs::write(&file, token.compact()).expect("the folder of the token is writable");
        self.issued.borrow_mut().push(token);
        Issued::read(file)
    }

    fn ca(&self, ca_id: &str) -> ThirdPartyCa {
        self.cas.borrow().iter().find(|ca| ca.id == ca_id).expect("a CA that is known").clone()
    }
}

impl AnyController for OurController {
    fn name(&self) -> String {
        match self.like {
            Like::V1_4 => "ours, as 1.4".into(),
            Like::V2_1 => "ours, as 2.1".into(),
        }
    }

    fn url(&self) -> String {
        self.controller.url()
    }

    fn is_before(&self, major: u32, minor: u32) -> bool {
        let own = match self.like {
            Like::V1_4 => (1, 4),
            Like::V2_1 => (2, 1),
        };
        own < (major, minor)
    }

    fn issue(&self, name: &str, folder: &Path) -> Issued {
        self.write(self.controller.issue(name), folder.join(format!("{name}.jwt")))
    }

    fn issue_briefly(&self, name: &str, folder: &Path) -> Issued {
        self.write(self.controller.token(name).expires_in(Duration::from_secs(1)).issue(), folder.join(format!("{name}.jwt")))
    }

    fn refresh(&self, token: &Issued) -> Issued {
        let old = self.issued.borrow().iter().find(|one| one.jti() == token.jti).expect("a token that was issued").clone();
        self.write(self.controller.refresh(&old), token.file.clone())
    }

    fn identity_called(&self, name: &str) -> String {
        let enrolled = self.controller.authenticators();
        enrolled.iter().find(|one| one.identity_name == name).expect("an identity of this name").identity_id.clone()
    }

    fn certificate(&self, identity_id: &str) -> String {
        self.controller.in_force(identity_id).expect("an identity that is enrolled").cert_pem
    }

    fn re_enroll(&self, identity_id: &str, folder: &Path) -> Issued {
        self.write(self.controller.re_enroll(identity_id), folder.join("again.jwt"))
    }

    fn ask(&self, identity_id: &str, new_key: bool) {
        self.controller.request_renewal(identity_id, new_key);
    }

    fn network_token(&self, folder: &Path) -> PathBuf {
        self.controller.network_token("network").write(folder)
    }

    fn password_token(&self, name: &str, folder: &Path) -> PathBuf {
        self.controller.password_token(name).write(folder)
    }

    fn takes_password(&self, name: &str, password: &str) -> bool {
        self.controller.passwords().iter().any(|known| (&*known.username, &*known.password) == (name, password))
    }

    fn trust_provider(&self, provider: &IdentityProvider, buys_certificates: bool, _: &Path) {
        let mut provider = provider.clone();
        provider.enroll_to_cert = buys_certificates;
        self.controller.trust_provider(&provider);
    }

    fn know_ca(&self, name: &str, root: &Authority, _: &Path) -> String {
        let ca = ThirdPartyCa { name_format: "[caName]-[requestedName]".into(), ..ThirdPartyCa::new(name, root) };
        self.controller.set_ca(&ca);
        let id = ca.id.clone();
        self.cas.borrow_mut().push(ca);
        id
    }

    fn issue_by_ca(&self, ca_id: &str, name: &str, folder: &Path) -> Issued {
        self.write(self.controller.token(name).of_ca(&self.ca(ca_id)).issue(), folder.join(format!("{name}.jwt")))
    }

    fn issue_again_by_ca(&self, ca_id: &str, token: &Issued) -> Issued {
        self.write(self.controller.re_enroll_by(&self.ca(ca_id), &token.identity_id), token.file.clone())
    }

    fn ca_token(&self, ca_id: &str, folder: &Path) -> PathBuf {
        let ca = self.ca(ca_id);
        self.write(self.controller.ca_token(&ca).issue(), folder.join(format!("{}.jwt", ca.name))).file
    }
}
