//! The floor plan, held against the source: which module may know which, and what may stand where.
//!
//! ARCHITECTURE.md draws the same arrows. A new arrow is a decision: write it down in both places, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules of ours that it may name. `key/<provider>` is a provider's own part of `key`.
const ARROWS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("origin", &[]),
    ("files", &[]),
    ("journal", &["files", "text"]),
    ("key", &["files", "text"]),
    // r‖s to DER is written once, in key/encoding.rs; controllers and tokens are named by an origin.
    ("jwt", &["key", "origin", "text"]),
    ("certificate", &["key", "text"]),
    ("tls", &["certificate", "key"]),
    ("http", &["origin", "text"]),
    ("trust", &["certificate", "http", "jwt", "origin", "text", "tls"]),
    ("csr", &["certificate", "key"]),
    ("controller", &["certificate", "csr", "http", "jwt", "text", "trust"]),
    ("identity", &["certificate", "files", "key", "origin", "text"]),
    ("identity/opened", &["controller", "files", "http", "key", "tls", "trust"]),
    ("error", &["certificate", "controller", "files", "http", "identity", "journal", "jwt", "key", "text", "trust"]),
    (
        "flow",
        &[
            "certificate",
            "controller",
            "csr",
            "error",
            "files",
            "http",
            "identity",
            "journal",
            "jwt",
            "key",
            "origin",
            "text",
            "tls",
            "trust",
        ],
    ),
];

/// Corridors that may walk through another one, because they are about it.
const CORRIDORS: &[(&str, &[&str])] = &[
    ("enroll", &[]),
    ("verify", &["login"]),
    ("inspect", &[]),
    // The key of an identity is opened as for a login before it is deleted.
    ("keys", &["login"]),
    ("signers", &[]),
    ("doctor", &["enroll"]),
    // It may make a key first.
    ("request", &["keys"]),
    // Not a corridor: the entrance that verify and renew share.
    ("login", &[]),
    // The key that is wanted and the key that was made are the same things in both.
    ("renew", &["enroll", "login"]),
    ("status", &["enroll", "login", "renew"]),
    ("exec", &["login"]),
];

/// What must not stand in `src`, but for the files that begin so.
const NEVER: &[(&str, &[&str], &[&str])] = &[
    ("nobody prints", &["print!", "println!", "dbg!", "io::stdout", "io::stderr"], &["cli/"]),
    ("nobody reads the environment", &["std::env", "env::var", "env::args"], &["cli/"]),
    ("one clock", &["UnixTime::now()", "SystemTime::now()", "Instant::now()"], &["flow.rs", "cli/tell.rs", "cli/watchdog.rs"]),
    ("one place waits", &["thread::sleep"], &["flow.rs"]),
    ("threads", &["thread::"], &["flow.rs", "flow/enroll/live.rs", "cli/"]),
    ("clap", &["clap::"], &["cli/"]),
    ("ureq", &["ureq::"], &["http.rs", "http/"]),
    ("cryptoki", &["cryptoki::"], &["key/pkcs11"]),
    ("tss_esapi", &["tss_esapi::"], &["key/tpm"]),
    ("whom we trust", &["impl ServerCertVerifier"], &["trust.rs"]),
    ("dangerous()", &["dangerous()"], &["trust.rs", "tls.rs"]),
    ("where a key meets rustls", &["SigningKey for", "sign::Signer for"], &["tls.rs"]),
    (
        "who writes",
        &["File::create", "OpenOptions", "fs::write", "fs::rename", "renameat"],
        &["files", "cli/process.rs", "cli/crash.rs"],
    ),
    ("who logs in", &[".login_with_raw(", ".login(UserType"], &["key/pkcs11/session.rs"]),
    (
        "secrets opened",
        &["expose_secret()"],
        &[
            "jwt.rs",
            "jwt/idp.rs",
            "http.rs",
            "http/proxy.rs",
            "controller.rs",
            "controller/session.rs",
            "key.rs",
            "key/file.rs",
            "key/pin.rs",
            "cli/ask.rs",
            "cli/args/proxy.rs",
            "cli/args/secret.rs",
            "cli/process.rs",
        ],
    ),
    ("provider-blind", &["pkcs11", "softhsm", "SoftHSM", "tpm", "CKR_"], &["key.rs", "key/"]),
    ("crash points", &["crash-points"], &["cli.rs", "cli/"]),
    ("providers of this build", &["feature = \"pkcs11\"", "feature = \"tpm\""], &["key.rs"]),
    ("method-blind", &["Method::Ott", "Method::Ca", "Method::Network", "Method::Updb", "Method::Token"], &["jwt.rs"]),
    ("no unsafe", &["unsafe {", "unsafe fn", "unsafe impl"], &[]),
    ("no drawer", &["mod util", "mod helper", "mod common", "mod misc", "mod types"], &[]),
];

struct Source {
    /// Relative to `src`.
    path: String,
    /// Without comments and without its unit tests, which stand last.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a source file can be read");
        let tested = text.find("#[cfg(test)]").unwrap_or(text.len());
        let code = text[..tested].lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let path = file.strip_prefix(&root).expect("it is below src").to_string_lossy().into_owned();
        Source { path, code }
    };
    files.iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The module that a file belongs to, as the table of arrows names it.
fn module(path: &str) -> &str {
    if path.starts_with("identity/opened") {
        return "identity/opened";
    }
    path.trim_end_matches(".rs").split('/').next().unwrap_or(path)
}

/// Every `crate::x`, and the names of `crate::{x, y}`.
fn named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                names.extend(list.split(',').map(|n| word(n.trim())));
            }
            None => {
                names.insert(word(rest));
            }
        }
    }
    names.remove("");
    names
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = module(&source.path);
        if ["lib", "main", "cli"].contains(&module) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(m, _)| *m == module) else {
            wrong.push(format!("{} belongs to no module of the floor plan", source.path));
            continue;
        };
        let own = module.split('/').next().unwrap_or(module);
        for name in named(&source.code) {
            if name != own && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} names {name}, and {module} may not", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_arrows_have_no_circle() {
    // A module whose arrows all lead to modules that are already placed can be placed: all must end up so.
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    loop {
        let next = ARROWS.iter().find(|(m, to)| !placed.contains(m) && to.iter().all(|t| placed.contains(t)));
        match next {
            Some((module, _)) => placed.insert(module),
            None => break,
        };
    }
    let left: Vec<&str> = ARROWS.iter().map(|(m, _)| *m).filter(|m| !placed.contains(m)).collect();
    assert!(left.is_empty(), "in a circle: {left:?}");
}

#[test]
fn no_corridor_walks_through_another() {
    for source in sources() {
        let Some(rest) = source.path.strip_prefix("flow/") else { continue };
        let corridor = rest.trim_end_matches(".rs").split('/').next().unwrap_or(rest);
        let (_, allowed) =
            CORRIDORS.iter().find(|(c, _)| *c == corridor).unwrap_or_else(|| panic!("{corridor} is not in the plan"));
        for (other, _) in CORRIDORS.iter().filter(|(c, _)| *c != corridor) {
            let names_it = [format!("flow::{other}"), format!("super::{other}")].iter().any(|n| source.code.contains(n.as_str()));
            assert!(!names_it || allowed.contains(other), "{} walks through {other}", source.path);
        }
    }
}

#[test]
fn nothing_stands_where_it_must_not() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (rule, texts, places) in NEVER {
            if places.iter().any(|p| source.path.starts_with(p)) || (*rule == "crash points" && source.path == "cli.rs") {
                continue;
            }
            // `cli` builds options from what providers declare; `error.rs` shows how their references look.
            for text in texts.iter().filter(|t| source.code.contains(**t)) {
                wrong.push(format!("{rule}: {} has `{text}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_error_has_its_exit_code_by_name() {
    for error in sources().iter().filter(|s| s.path.starts_with("error")) {
        assert!(!error.code.contains("_ =>"), "{} has a `_ =>`: a new error would get its exit code by accident", error.path);
    }
}

#[test]
fn providers_do_not_know_each_other() {
    let providers = ["file", "pkcs11", "tpm"];
    for source in sources() {
        let Some(own) = providers.iter().find(|p| source.path.starts_with(&format!("key/{p}"))) else { continue };
        for other in providers.iter().filter(|p| *p != own) {
            let names_it =
                [format!("key::{other}::"), format!("super::{other}::")].iter().any(|n| source.code.contains(n.as_str()));
            assert!(!names_it, "{} names provider {other}", source.path);
        }
    }
}

#[test]
fn the_library_is_blind_to_the_command_line() {
    for source in sources().iter().filter(|s| s.path != "main.rs" && !s.path.starts_with("cli")) {
        assert!(!source.code.contains("mod cli") && !source.code.contains("crate::cli"), "{} names cli", source.path);
    }
}
