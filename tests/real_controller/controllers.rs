//! What a story asks of a controller's administrator, whoever made the controller.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use ziti_enroller_support::{Authority, IdentityProvider};

/// An enrollment token that lies in a file.
#[derive(Clone, Debug)]
pub struct Issued {
    pub file: PathBuf,
    /// The claim `sub`: the identity's id, where the token is for one.
    pub identity_id: String,
    /// The claim `jti`.
    pub jti: String,
    /// The claim `exp`, seconds since the Unix epoch; 0 for a token without an end.
    pub ends_at: u64,
}

impl Issued {
    /// Of a token that was written to `file`; its claims are read here, not by us.
    pub fn read(file: PathBuf) -> Self {
        let token = fs::read_to_string(&file).expect("the token was written");
        let claims = token.trim().split('.').nth(1).expect("three parts");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("claims are JSON");
        let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
        Self { file, identity_id: text("sub"), jti: text("jti"), ends_at: claims["exp"].as_u64().unwrap_or_default() }
    }

    /// Where the identity appears.
    pub fn out(&self) -> PathBuf {
        self.file.with_extension("json")
    }
}

/// A controller and its administrator. Tokens are written to `folder`, as `NAME.jwt`.
pub trait AnyController {
    /// What the table calls it: its version, or whose manners ours has.
    fn name(&self) -> String;
    /// `https://localhost:PORT`.
    fn url(&self) -> String;
    /// Whether its version is older than `major.minor`.
    fn is_before(&self, major: u32, minor: u32) -> bool;
    /// A one-time token for a new identity.
    fn issue(&self, name: &str, folder: &Path) -> Issued;
    /// One that is good for some seconds.
    fn issue_briefly(&self, name: &str, folder: &Path) -> Issued;
    /// In place of a one-time token, another one for the same identity, in the same file.
    fn refresh(&self, token: &Issued) -> Issued;
    /// The id of an identity that the controller has made.
    fn identity_called(&self, name: &str) -> String;
    /// The controller's own copy of the certificate that it issued, PEM.
    fn certificate(&self, identity_id: &str) -> String;
    /// Takes the certificate away; the token that buys another one, as `again.jwt`.
    fn re_enroll(&self, identity_id: &str, folder: &Path) -> Issued;
    /// Asks the identity for a renewal, with a new key or not.
    fn ask(&self, identity_id: &str, new_key: bool);
    /// The token of the network, as `network.jwt`.
    fn network_token(&self, folder: &Path) -> PathBuf;
    /// A token that sets the password of a new identity, whose name is what it logs in with.
    fn password_token(&self, name: &str, folder: &Path) -> PathBuf;
    /// Whether this password logs in.
    fn takes_password(&self, name: &str, password: &str) -> bool;
    /// Makes an identity provider known, or changes what its tokens buy.
    fn trust_provider(&self, provider: &IdentityProvider, buys_certificates: bool, folder: &Path);
    /// Makes a CA known, and proves that its key is at hand; its id. New identities are called `CA-NAME`.
    fn know_ca(&self, name: &str, root: &Authority, folder: &Path) -> String;
    /// A token of method `ottca` for a new identity.
    fn issue_by_ca(&self, ca_id: &str, name: &str, folder: &Path) -> Issued;
    /// What an identity logs in with is gone, and a new token of method `ottca` is out, in the same file.
    fn issue_again_by_ca(&self, ca_id: &str, token: &Issued) -> Issued;
    /// The token of method `ca`, as `CA.jwt`.
    fn ca_token(&self, ca_id: &str, folder: &Path) -> PathBuf;
}
