//! The provider that was named, or no identity: whatever breaks, no software key takes the place of one in hardware.
//!
//! Every step of an enrollment is broken for every provider, and afterwards every place that the program may write to is
//! searched. The same search finds the keys of provider `file`.

use std::fs;
use std::path::Path;

#[cfg(feature = "tpm")]
use ziti_enroller_support::{BusFault, Proxy};
use ziti_enroller_support::{Controller, Options, Outcome, Program, SoftHsm, Tpm2Pkcs11, figures, require, sample};

#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpm, InTpmFile, InTpmHandle};
use crate::machine::{Fixture, InFiles, InTokenOf, Machine, Make, ending, report, text};

/// Beginnings of what a private key looks like without PEM: PKCS#8 of an EC and of an RSA key, SEC 1 of P-256, and the first
/// in base64.
const FORMS: [&[u8]; 4] = [
    &[0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01],
    &[0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
    &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20],
    b"AgEAMBMGByqGSM49AgEG",
];

/// What in `folder`, at any depth, is a private key or says that one is in a file.
fn software_keys(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the machine's folders can be listed") {
        let path = entry.expect("the machine's folders can be listed").path();
        let kind = path.symlink_metadata().expect("nothing runs any more").file_type();
        if kind.is_dir() {
            found.extend(software_keys(&path));
        } else if kind.is_file() {
            let content = fs::read(&path).expect("the machine's files can be read");
            let has = |what: &[u8]| content.windows(what.len()).any(|part| part == what);
            // What a TPM has wrapped is no key outside of it.
            let plain = String::from_utf8_lossy(&content).replace("TSS2 PRIVATE KEY", "");
            if plain.contains("PRIVATE KEY") {
                found.push(format!("{}: PEM", path.display()));
            }
            let dense: String = plain.split_whitespace().collect();
            if ["\"key\":\"pem:", "\"key\":\"file:"].iter().any(|reference| dense.contains(reference)) {
                found.push(format!("{}: a reference to a key in a file", path.display()));
            }
            if FORMS.iter().any(|form| has(form)) {
                found.push(format!("{}: DER", path.display()));
            }
        }
    }
    found
}

/// With home and temporary files where they are searched.
fn at_home<F: Fixture>(machine: &Machine<F>, program: Program) -> Program {
    let [home, temporary] = ["home", "tmp"].map(|name| machine.path(name));
    for folder in [&home, &temporary] {
        fs::create_dir_all(folder).expect("the machine's folder is writable");
    }
    program.env("HOME", home).env("TMPDIR", temporary)
}

/// Every broken step of a provider, and those that left what they must not.
#[derive(Default)]
struct Steps {
    broken: usize,
    wrong: Vec<String>,
}

impl Steps {
    /// Looks at what `outcome` left. `harmless`: the enrollment may do without what was broken.
    fn add<F: Fixture>(&mut self, machine: &Machine<F>, step: &str, harmless: bool, outcome: &Outcome) {
        self.broken += 1;
        let found = software_keys(machine.folder());
        if !found.is_empty() {
            self.wrong.push(format!("{step}: {}; {outcome}", found.join(", ")));
        }
        if outcome.code == Some(0) && !harmless {
            self.wrong.push(format!("{step}: it says that it has enrolled: {outcome}"));
        }
    }

    fn end<F: Fixture>(self) {
        let Self { broken, wrong } = self;
        figures::record(&format!("broken steps that left no software key, {}", F::NAME), broken, broken - wrong.len(), "");
        assert!(wrong.is_empty(), "{} of {broken}:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// What an enrollment can do without: these say what a device is like, or tidy up.
const HARMLESS: [&str; 5] =
    ["C_CloseSession", "C_FindObjectsFinal", "C_GetMechanismInfo", "C_GetMechanismList", "C_GetSessionInfo"];

/// Each function of the module fails always, or ends the process; and what else can be wrong with a token.
fn module_breaks<T: Make>(calm: impl Fn(&T)) {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InTokenOf<T>>::new();
    let hsm = &machine.keys.hsm;
    let enroll = |name: &str| at_home(&machine, machine.enroll(&controller.issue(name))).args(["--device-timeout", "1s"]);
    let mut steps = Steps::default();
    steps.add(&machine, "nothing", true, &enroll("plain").run().success());
    calm(hsm);
    let mut functions = hsm.calls();
    functions.sort();
    functions.dedup();
    assert!(functions.len() > 10, "{functions:?}");
    // A hang costs its second.
    let ways: &[&str] = if sample::is_whole() { &["*:0x30", "1:kill", "1:hang"] } else { &["*:0x30", "1:kill"] };
    let of_functions = functions.iter().flat_map(|function| ways.iter().map(move |way| format!("{function}:{way}")));
    let others = ["lie:extractable", "lie:ec-point", "mechanism:-CKM_ECDSA", "token-flags:+0x40000", "C_Login:*:0xa0"];
    for (n, rule) in of_functions.chain(others.map(str::to_owned)).enumerate() {
        let harmless = HARMLESS.iter().any(|function| rule == format!("{function}:*:0x30"));
        steps.add(&machine, &rule, harmless, &enroll(&format!("gate-{n}")).env("P11FAULT", &rule).run());
        calm(hsm);
    }
    for (n, (option, value)) in
        [("--module", "/nonexistent.so"), ("--token", "nowhere"), ("--pin-file", "/nonexistent")].into_iter().enumerate()
    {
        let token = controller.issue(&format!("other-{n}"));
        let places = [machine.keys.place(), machine.keys.pin()].concat();
        let mut words: Vec<String> = places.chunks(2).filter(|words| words[0] != option).flatten().cloned().collect();
        words.extend([option.to_owned(), value.to_owned()]);
        let program = machine.program().args(["enroll", "--provider", "pkcs11", "--jwt"]).arg(token.write(machine.folder()));
        steps.add(&machine, option, false, &at_home(&machine, program.args(words)).run());
    }
    steps.end::<InTokenOf<T>>();
}

#[test]
fn with_a_module_that_breaks() {
    module_breaks::<SoftHsm>(|_| {});
}

#[test]
fn with_tpm2_pkcs11_that_breaks() {
    // Of a process that was killed everything stays loaded.
    module_breaks::<Tpm2Pkcs11>(|hsm| hsm.tpm().flush());
}

#[cfg(feature = "tpm")]
mod with_a_tpm_that_breaks {
    use super::*;

    const FLUSH_CONTEXT: u32 = 0x165;

    #[test]
    fn under_a_key_in_a_file() {
        tpm_breaks::<InTpmFile>();
    }

    #[test]
    fn under_a_key_at_a_handle() {
        tpm_breaks::<InTpmHandle>();
    }

    /// Each command fails, or its answer is lost.
    fn tpm_breaks<F: InTpm>() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<F>::new();
        let proxy = Proxy::before(machine.keys.tpm());
        let enroll = |name: &str, tcti: &str| {
            let program = machine.enroll_with(&controller.issue(name)).args(["--provider", "tpm"]);
            at_home(&machine, program.args(machine.keys.place_behind(tcti))).run()
        };
        // The first signature of its life makes a TPM test itself, and answer once that it does.
        report(&enroll("first", &proxy.tcti()));
        let mut steps = Steps::default();
        proxy.forget();
        steps.add(&machine, "nothing", true, &enroll("plain", &proxy.tcti()).success());
        let commands: Vec<u32> = proxy.exchanges().iter().map(|exchange| exchange.code).collect();
        for (n, command) in commands.iter().enumerate() {
            for fault in [BusFault::Answer(0x101), BusFault::DropAnswer] {
                proxy.forget();
                proxy.fail_at(n, fault);
                let outcome = enroll(&format!("gate-{n}-{}", fault == BusFault::DropAnswer), &proxy.tcti());
                proxy.behave();
                let step = format!("command {n}, {command:#x}, {fault:?}");
                steps.add(&machine, &step, *command == FLUSH_CONTEXT, &outcome);
                // What was loaded stays loaded, and handles are few.
                if fault == BusFault::DropAnswer {
                    machine.keys.tpm().flush();
                }
                machine.keys.tpm().clear();
            }
        }
        assert!(commands.len() > 10, "{commands:x?}");
        steps.add(&machine, "no TPM", false, &enroll("nowhere", "device:/nonexistent"));
        steps.end::<F>();
    }
}

/// The positive control: the search sees what provider `file` leaves, at its end and before, and wherever it lies.
#[test]
fn the_search_finds_software_keys() {
    let controller = Controller::start(Options::default());
    let found = |machine: &Machine<InFiles>| software_keys(machine.folder()).join("\n");
    let enrolled = Machine::<InFiles>::new();
    assert_eq!(found(&enrolled), "");
    let token = controller.issue("gate-7");
    report(&at_home(&enrolled, enrolled.enroll(&token)).run());
    let identity = text(&enrolled.out(&token));
    let said = found(&enrolled);
    assert!(said.contains(&format!("{identity}: PEM")) && said.contains(&format!("{identity}: a reference")), "{said}");

    let killed = Machine::<InFiles>::new();
    let token = controller.issue("gate-8");
    ending(at_home(&killed, killed.enroll(&token)), "before_post", "kill").run();
    assert!(found(&killed).contains(&text(&killed.work(&token))), "{}", found(&killed));

    let elsewhere = Machine::<InFiles>::new();
    let (token, key) = (controller.issue("gate-9"), elsewhere.path("mine.pem"));
    report(&elsewhere.enroll_with(&token).arg("--key").arg(&key).arg("--create").run());
    let said = found(&elsewhere);
    assert!(said.contains("mine.pem: PEM") && said.contains("gate-9.json: a reference"), "{said}");
    // As openssl writes it, deep in the home, and what only stands for one.
    let hidden = elsewhere.path("home/.cache/x");
    fs::create_dir_all(&hidden).expect("the machine's folder is writable");
    for (form, name) in [("DER", "key.der"), ("PEM", "key")] {
        let openssl =
            Program::new(require("openssl", "openssl")).args(["pkcs8", "-topk8", "-nocrypt", "-outform", form, "-in"]).arg(&key);
        openssl.arg("-out").arg(hidden.join(name)).run().success();
    }
    let pem = fs::read_to_string(hidden.join("key")).expect("openssl has written it");
    let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    fs::write(hidden.join("bare"), bare).expect("the folder is ours");
    let said = found(&elsewhere);
    for expected in ["key.der: DER", "key: PEM", "bare: DER"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    fs::write(hidden.join("wrapped"), "-----BEGIN TSS2 PRIVATE KEY-----\nMIHyBgZngQUKAQM=\n").expect("the folder is ours");
    assert!(!found(&elsewhere).contains("wrapped"));
}
