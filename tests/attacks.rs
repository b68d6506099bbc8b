//! Others on this machine who want the identity, its key, or a file of ours written for them: something stands at every
//! place that is written to, folders belong to others or are open to them, the folder is swapped while we work.

mod race;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ziti_enroller_support::{Controller, Fault, Key, KeyType, Options, Outcome, Program, Token, figures, require};

#[cfg(feature = "tpm")]
use crate::machine::tpm::InTpmFile;
use crate::machine::{Failed, Fixture, IdentityFile, InFiles, Machine, PROGRAM, ending, report, text};

/// Somebody else's number.
const OTHER: u32 = 65534;

/// What stands at a place that we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    Link,
    LinkToNothing,
    HardLink,
    Fifo,
    Folder,
    Socket,
    /// A file of another user.
    Foreign,
}

const TRAPS: [Trap; 7] = [Trap::Link, Trap::LinkToNothing, Trap::HardLink, Trap::Fifo, Trap::Folder, Trap::Socket, Trap::Foreign];

/// A file of ours that nobody may touch, and a name that nobody may make.
struct Victims {
    file: PathBuf,
    nothing: PathBuf,
}

const PRECIOUS: &str = "precious";

impl Victims {
    fn new(folder: &Path) -> Self {
        let victims = Self { file: folder.join("victim"), nothing: folder.join("nothing") };
        fs::write(&victims.file, PRECIOUS).expect("the folder is ours");
        fs::set_permissions(&victims.file, fs::Permissions::from_mode(0o644)).expect("it is ours");
        victims
    }

    fn set(&self, trap: Trap, place: &Path) {
        match trap {
            Trap::Link => symlink(&self.file, place),
            Trap::LinkToNothing => symlink(&self.nothing, place),
            Trap::HardLink => fs::hard_link(&self.file, place),
            Trap::Fifo => {
                Program::new(require("mkfifo", "coreutils")).arg(place).run().success();
                Ok(())
            }
            Trap::Folder => fs::create_dir(place),
            Trap::Socket => UnixListener::bind(place).map(drop),
            Trap::Foreign => fs::write(place, "planted").and_then(|()| give_away(place)),
        }
        .unwrap_or_else(|error| panic!("{trap:?} at {}: {error}", place.display()));
    }

    fn are_untouched(&self) {
        let meta = fs::metadata(&self.file).expect("the victim is there");
        assert_eq!(fs::read_to_string(&self.file).ok().as_deref(), Some(PRECIOUS), "the victim was written to");
        assert_eq!(meta.mode() & 0o7777, 0o644, "the victim has another mode");
        assert!(!self.nothing.exists(), "a link to nothing was followed");
    }
}

/// # Panics
/// Only root can play another user.
fn give_away(path: &Path) -> std::io::Result<()> {
    chown(path, Some(OTHER), Some(OTHER)).map_err(|error| panic!("another user is to be played here: run this as root ({error})"))
}

fn is_still(trap: Trap, place: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(place) else { return false };
    match trap {
        Trap::Link | Trap::LinkToNothing => meta.file_type().is_symlink(),
        Trap::HardLink => meta.nlink() == 2,
        Trap::Fifo => meta.file_type().is_fifo(),
        Trap::Folder => meta.is_dir(),
        Trap::Socket => meta.file_type().is_socket(),
        Trap::Foreign => meta.uid() == OTHER && fs::read_to_string(place).is_ok_and(|text| text == "planted"),
    }
}

/// Where an enrollment writes, how it is brought to write there, and what it must say.
struct Place {
    name: &'static str,
    /// In the folder of the identity.
    at: &'static str,
    /// Whether the request has been sent by then.
    sent: bool,
}

const PLACES: [Place; 9] = [
    Place { name: "the output", at: "gate-7.json", sent: false },
    Place { name: "the work folder", at: ".gate-7.json.enroll", sent: false },
    Place { name: "the lock", at: ".gate-7.json.enroll/lock", sent: false },
    Place { name: "the journal", at: ".gate-7.json.enroll/journal", sent: false },
    Place { name: "the answer", at: ".gate-7.json.enroll/answer", sent: false },
    Place { name: "the identity before its rename", at: ".gate-7.json.enroll/identity", sent: false },
    Place { name: "the key that waits", at: ".gate-7.json.enroll/key.pem", sent: false },
    Place { name: "the new key file before its rename", at: "keys/.gate.pem.part", sent: false },
    Place { name: "what is rejected", at: "gate-7.rejected.pem", sent: true },
];

fn enroll(machine: &Machine<InFiles>, token: &Token, place: &Place) -> Program {
    let program = machine.enroll(token).limit(Duration::from_secs(20));
    match place.at.starts_with("keys/") {
        true => program.args(["--key", &machine.keys.reference("gate"), "--create"]),
        false => program,
    }
}

#[test]
fn nothing_that_stands_at_a_place_is_followed_or_overwritten() {
    let (mut asked, mut wrong) = (0, Vec::new());
    for place in &PLACES {
        for trap in TRAPS {
            asked += 1;
            if let Some(why) = figures::wrong(|| is_not_trapped(place, trap)) {
                wrong.push(format!("{trap:?} at {}: {why}", place.name));
            }
        }
    }
    figures::record("attacks on places that are written to", asked, asked - wrong.len(), "");
    assert!(asked >= 30 && wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}

fn is_not_trapped(place: &Place, trap: Trap) {
    let faults = if place.sent { vec![Fault::OtherKey] } else { Vec::new() };
    let controller = Controller::start(Options { faults, ..Options::default() });
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let elsewhere = tempfile::tempdir_in(machine.folder()).expect("the machine's folder is writable");
    let victims = Victims::new(elsewhere.path());
    if place.at.contains(".enroll/") {
        fs::DirBuilder::new().mode(0o700).create(machine.work(&token)).expect("the machine's folder is writable");
    }
    let at = machine.path(place.at);
    victims.set(trap, &at);
    let ended = enroll(&machine, &token, place).run();
    victims.are_untouched();
    let within = place.at.contains(".enroll/");
    if (within && trap == Trap::Foreign) || (place.at.ends_with(".enroll") && trap == Trap::Folder) {
        // In a folder that is ours alone it can only be ours, whatever its owner is now.
        report(&ended);
        return;
    }
    assert_eq!(controller.enroll_posts(), usize::from(place.sent), "{ended}");
    match place.sent {
        true => {
            let kept = Failed::with(ended, 40, "certificate_other_key");
            kept.spent("yes").says(&text(&machine.work(&token)));
        }
        false => {
            let said: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"));
            let codes = ["output_exists", "output_is_symlink", "output_not_a_file", "folder_unsafe"];
            let code = said["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert!(codes.contains(&code.as_str()), "{ended}");
            // A journal that cannot be read may be one of a token that is spent.
            let exit = if ended.code == Some(51) && within { 51 } else { 50 };
            Failed::with(ended, exit, &code).says(&text(machine.folder()));
        }
    }
    // What is in our own folder is ours to remove.
    assert!(within || is_still(trap, &at), "what stood there is gone");
}

#[cfg(feature = "tpm")]
#[test]
fn nothing_that_stands_at_the_place_of_a_tpm_key_file_is_followed_or_overwritten() {
    let mut asked = 0;
    let controller = Controller::start(Options::default());
    for at in ["gate-7.tss2.pem", ".gate-7.tss2.pem.part"] {
        for trap in TRAPS {
            asked += 1;
            let machine = Machine::<InTpmFile>::new();
            let token = controller.issue("gate-7");
            let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
            let victims = Victims::new(elsewhere.path());
            let at = machine.path(at);
            victims.set(trap, &at);
            let ended = machine.enroll(&token).limit(Duration::from_secs(20)).run();
            victims.are_untouched();
            assert!(matches!(ended.code, Some(20 | 24 | 50)), "{trap:?} at {}: {ended}", at.display());
            assert!(is_still(trap, &at), "{trap:?} at {} is gone", at.display());
            assert!(!controller.is_spent(&token));
        }
    }
    figures::record("attacks on the place of a TPM key file", asked, asked, "");
    assert_eq!(controller.enroll_posts(), 0);
}

/// Where everyone may make files, somebody has made a key file of ours beforehand: its key would be his as well.
#[cfg(feature = "tpm")]
#[test]
fn tpm_key_that_another_user_has_put_there_is_not_taken() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InTpmFile>::new();
    let token = controller.issue("gate-7");
    machine.keys.make("gate-7", KeyType::P256);
    let planted = machine.path("gate-7.tss2.pem");
    give_away(&planted).expect("it is given away");
    fs::set_permissions(machine.folder(), fs::Permissions::from_mode(0o1777)).expect("the folder is ours");
    let refused = Failed::with(machine.enroll(&token).run(), 50, "folder_unsafe");
    refused.says("gate-7.tss2.pem").says("another owner").hints("move it away").spent("no");
    chown(&planted, Some(0), Some(0)).expect("root may");
    report(&machine.enroll(&token).run());
    assert_eq!(machine.keys.private_keys(), 1);
}

#[test]
fn work_folder_and_folder_of_another_user_are_refused() {
    let controller = Controller::start(Options::default());
    // As in /tmp: everyone may make something there, and only its owner may remove it.
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    fs::set_permissions(machine.folder(), fs::Permissions::from_mode(0o1777)).expect("the folder is ours");
    for mode in [0o700, 0o777] {
        fs::create_dir(machine.work(&token)).expect("the folder is ours");
        fs::set_permissions(machine.work(&token), fs::Permissions::from_mode(mode)).expect("it is ours");
        give_away(&machine.work(&token)).expect("it is given away");
        Failed::with(machine.enroll(&token).run(), 50, "folder_unsafe")
            .says("it belongs to another user")
            .hints("see who has put it there")
            .spent("no");
        assert_eq!(fs::metadata(machine.work(&token)).map(|meta| (meta.uid(), meta.mode() & 0o777)).ok(), Some((OTHER, mode)));
        fs::remove_dir(machine.work(&token)).expect("nothing is in it");
    }
    // Without the sticky bit, or with another owner.
    for (mode, owner, words) in [(0o777, None, "everyone may write to it"), (0o755, Some(OTHER), "it belongs to another user")] {
        fs::set_permissions(machine.folder(), fs::Permissions::from_mode(mode)).expect("the folder is ours");
        if owner.is_some() {
            give_away(machine.folder()).expect("it is given away");
        }
        Failed::with(machine.enroll(&token).run(), 50, "folder_unsafe").says(words).spent("no");
        assert!(!machine.work(&token).exists());
    }
    assert_eq!(controller.enroll_posts(), 0);
}

/// A work folder that others could write to is not taken, though it is ours.
#[test]
fn work_folder_that_was_open_to_others_is_refused() {
    let controller = Controller::start(Options::default());
    for mode in [0o770, 0o707, 0o720] {
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        fs::create_dir(machine.work(&token)).expect("the folder is ours");
        fs::set_permissions(machine.work(&token), fs::Permissions::from_mode(mode)).expect("it is ours");
        Failed::with(machine.enroll(&token).run(), 50, "folder_unsafe").says("others may write to it").spent("no");
    }
    assert_eq!(controller.enroll_posts(), 0);
}

/// As nobody, who is no root, with a program that he may run.
fn as_nobody(program: Program) -> Program {
    let who = [format!("--reuid={OTHER}"), format!("--regid={OTHER}"), "--clear-groups".into()];
    program.under(require("setpriv", "util-linux"), who)
}

#[test]
fn modes_are_the_same_under_every_umask() {
    let controller = Controller::start(Options::default());
    // Where nobody can reach it.
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let copy = place.path().join("ziti-enroller");
    fs::copy(PROGRAM, &copy).expect("the program can be copied");
    let mut asked = 0;
    for umask in ["000", "022", "077", "777"] {
        for root in [true, false] {
            for key in ["", "--key"] {
                asked += 1;
                let folder = tempfile::tempdir_in(place.path()).expect("a temporary folder can be made");
                let token = controller.issue("gate-7");
                let jwt = token.write(folder.path());
                fs::set_permissions(&jwt, fs::Permissions::from_mode(0o644)).expect("it is ours");
                give_away(folder.path()).expect("it is given away");
                if root {
                    chown(folder.path(), Some(0), Some(0)).expect("root may");
                }
                let enroll = || {
                    let enroll = Program::new(&copy).current_dir(folder.path()).args(["enroll", "--format", "json", "--jwt"]);
                    let enroll = enroll.arg(&jwt);
                    let enroll = if key.is_empty() { enroll } else { enroll.args([key, "file:gate.pem", "--create"]) };
                    let line = format!("umask {umask}; exec \"$@\"");
                    let enroll = enroll.under(require("sh", "dash"), ["-c", &line, "sh"]);
                    if root { enroll } else { as_nobody(enroll) }
                };
                let ended = ending(enroll(), "answer_synced", "kill").run();
                assert_eq!(ended.code.or(ended.signal), Some(9), "umask {umask}, {root}: {ended}");
                let mut modes = Vec::new();
                list(folder.path(), &mut modes);
                for (path, mode) in modes {
                    let want = if path.is_dir() { 0o700 } else { 0o600 };
                    assert!(path == jwt || path == folder.path() || mode == want, "{mode:o} {} under {umask}", path.display());
                }
                report(&enroll().run());
                IdentityFile::read(&folder.path().join("gate-7.json"));
            }
        }
    }
    figures::record("modes under an umask", asked, asked, "");
}

fn list(folder: &Path, found: &mut Vec<(PathBuf, u32)>) {
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let meta = fs::symlink_metadata(&path).expect("it is there");
        found.push((path.clone(), meta.mode() & 0o7777));
        if meta.is_dir() {
            list(&path, found);
        }
    }
}

/// The current folder belongs to somebody who waits there with names of ours.
#[test]
fn hostile_current_folder_changes_nothing() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let hostile = tempfile::tempdir().expect("a temporary folder can be made");
    let victims = Victims::new(machine.folder());
    for name in ["gate-7.json", ".gate-7.json.enroll", "lock", "journal", "answer", "identity", "key.pem"] {
        symlink(&victims.file, hostile.path().join(name)).expect("the folder is ours");
    }
    let folder = machine.path("identities");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::set_permissions(hostile.path(), fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    let enroll = |out: &Path| machine.enroll(&token).current_dir(hostile.path()).arg("--out").arg(out).run();
    // A name without a folder means the current one.
    Failed::with(enroll(Path::new("gate-7.json")), 50, "folder_unsafe").spent("no");
    report(&enroll(&folder.join("gate-7.json")));
    victims.are_untouched();
    IdentityFile::read(&folder.join("gate-7.json"));
}

/// A key file that is handed to us is read, and nothing is written there.
#[test]
fn key_file_behind_a_link_is_read_and_stays_as_it_is() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let key = machine.path("keys/real.pem");
    fs::write(&key, Key::generate(KeyType::P256).pkcs8_pem()).expect("the folder is ours");
    symlink(&key, machine.path("keys/gate.pem")).expect("the folder is ours");
    let before = (fs::read(&key).ok(), fs::metadata(&key).map(|meta| meta.mode()).ok());
    let ended: Outcome = machine.enroll(&token).args(["--key", &machine.keys.reference("gate")]).run();
    report(&ended);
    assert_eq!((fs::read(&key).ok(), fs::metadata(&key).map(|meta| meta.mode()).ok()), before);
}
