//! The module as callers meet it: loaded by `p11calls` (cryptoki, as the product) and by OpenSC's `pkcs11-tool`, over a
//! SoftHSM token in a folder of its own for each test.

mod login;
mod new_keys;
mod objects;
mod slots;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PIN: &str = "canary-4711";
const LOGIN: [&str; 4] = ["initialize", "slots", "session", "login"];

/// A new token, and what `P11FAULT` is to be.
struct Token {
    folder: TempDir,
    faults: &'static str,
}

impl Token {
    fn new(faults: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        fs::write(folder.path().join("softhsm2.conf"), conf).unwrap();
        let token = Self { folder, faults };
        token.add("p11fault");
        token
    }

    /// Makes another one in the same module.
    fn add(&self, label: &str) {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "12345678"])
            .env("SOFTHSM2_CONF", self.folder.path().join("softhsm2.conf"))
            .stdin(Stdio::null())
            .output()
            .expect("softhsm2-util is missing: apt-get install softhsm2");
        assert!(made.status.success(), "{made:?}");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("SOFTHSM2_CONF", self.folder.path().join("softhsm2.conf"))
            .env("P11FAULT_MODULE", real_module())
            .env("P11FAULT_LOG", self.log_file())
            .env("P11FAULT_LOGINS", self.folder.path().join("logins.log"))
            .env("P11FAULT_STATE", self.folder.path().join("tries"))
            .env("P11FAULT_PIN", PIN)
            .env("P11FAULT", self.faults)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn caller(&self, calls: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_p11calls"));
        command.arg(module()).arg(PIN).args(calls);
        command
    }

    /// What `p11calls` printed for `calls`.
    fn calls(&self, calls: &[&str]) -> Vec<String> {
        let output = self.caller(calls).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        lines(&output)
    }

    /// What `p11calls` printed for `calls`, made after a login.
    fn after_login(&self, calls: &[&str]) -> Vec<String> {
        self.calls(&[&LOGIN, calls].concat())[LOGIN.len()..].to_vec()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("calls.log")
    }

    /// The log, each line in its four words.
    fn log(&self) -> Vec<[String; 4]> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        text.lines().map(words).collect()
    }

    /// `n answer` of every logged call of `function`.
    fn logged(&self, function: &str) -> Vec<String> {
        let of_it = |words: &[String; 4]| (words[1] == function).then(|| words[2..].join(" "));
        self.log().iter().filter_map(of_it).collect()
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The module that cargo built together with this test.
fn module() -> PathBuf {
    let module = std::env::current_exe().unwrap().with_file_name("libp11fault.so");
    assert!(module.is_file(), "{} is missing: cargo build -p p11fault", module.display());
    module
}

fn real_module() -> PathBuf {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];
    let found = places.into_iter().map(PathBuf::from).find(|place| place.exists());
    found.expect("libsofthsm2.so is missing: apt-get install softhsm2")
}

#[test]
fn passes_calls_on_and_logs_each_with_its_answer() {
    let token = Token::new("");
    let answers = token.after_login(&["generate", "verify", "login", "sign"]);
    assert_eq!(answers, ["generate ok", "verify ok", "login UserAlreadyLoggedIn in Login", "sign ok 64"]);

    assert_eq!(token.logged("C_GetFunctionList"), ["1 0x0"]);
    assert_eq!(token.logged("C_Initialize"), ["1 0x0"]);
    assert_eq!(token.logged("C_Login"), ["1 0x0", "2 0x100"]);
    assert_eq!(token.logged("C_GenerateKeyPair"), ["1 0x0"]);
    assert_eq!(token.logged("C_Verify"), ["1 0x0"]);
    let text =
        fs::read_to_string(token.log_file()).unwrap() + &fs::read_to_string(token.folder.path().join("logins.log")).unwrap();
    assert!(!text.contains(PIN), "{text}");
}

#[test]
fn says_nothing_and_logs_nothing_when_nothing_is_asked() {
    let token = Token::new("");
    let mut caller = token.caller(&LOGIN);
    for name in ["P11FAULT", "P11FAULT_LOG", "P11FAULT_LOGINS", "P11FAULT_STATE", "P11FAULT_PIN"] {
        caller.env_remove(name);
    }
    let output = caller.output().unwrap();
    assert_eq!(lines(&output), ["initialize ok", "slots ok 1", "session ok", "login ok"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    let mut left: Vec<_> = fs::read_dir(token.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["softhsm2.conf", "tokens"]);
}

#[test]
fn numbers_start_anew_in_each_process() {
    let token = Token::new("");
    token.after_login(&[]);
    token.after_login(&[]);
    assert_eq!(token.logged("C_Login"), ["1 0x0", "1 0x0"]);
    let pids: BTreeSet<_> = token.log().into_iter().map(|[pid, ..]| pid).collect();
    assert_eq!(pids.len(), 2);
}

#[test]
fn answers_the_second_signature_with_the_error_asked_for() {
    let token = Token::new("C_SignInit:2:0x30");
    let answers = token.after_login(&["generate", "sign", "sign", "sign"]);
    assert_eq!(answers[1..], ["sign ok 64", "sign DeviceError in SignInit", "sign ok 64"]);
    assert_eq!(token.logged("C_SignInit"), ["1 0x0", "2 0x30", "3 0x0"]);
}

#[test]
fn an_answered_call_does_not_reach_the_real_module() {
    let token = Token::new("C_GenerateKeyPair:1:0x31;C_GetSlotList:3:0x05");
    assert_eq!(token.after_login(&["generate", "find"]), ["generate DeviceMemory in GenerateKeyPair", "find ok (0, 0)"]);
    assert_eq!(token.after_login(&["slots"]), ["slots GeneralError in GetSlotList"]);
}

#[test]
fn an_answer_after_the_call_hides_what_the_real_module_did() {
    let token = Token::new("C_GenerateKeyPair:1:0x31-after;C_Sign:4:0x30-after");
    let answers = token.after_login(&["generate", "find", "reopen", "sign", "sign", "sign"]);
    assert_eq!(answers[..2], ["generate DeviceMemory in GenerateKeyPair", "find ok (1, 1)"]);
    assert_eq!(answers[3..], ["sign ok 64", "sign DeviceError in Sign", "sign ok 64"]);
    assert_eq!(token.logged("C_GenerateKeyPair"), ["1 0x31"]);
}

#[test]
fn a_starred_rule_answers_every_call() {
    let token = Token::new("C_Login:*:0xa0");
    assert_eq!(token.after_login(&["login", "login"]), ["login PinIncorrect in Login"; 2]);
    assert_eq!(token.logged("C_Login"), ["1 0xa0", "2 0xa0", "3 0xa0"]);
}

#[test]
fn kills_before_the_call_or_after_it() {
    for (faults, keys, logged) in
        [("C_GenerateKeyPair:1:kill", "(0, 0)", "1 kill"), ("C_GenerateKeyPair:1:kill-after", "(1, 1)", "1 0x0")]
    {
        let mut token = Token::new(faults);
        let output = token.caller(&[&LOGIN[..], &["generate", "find"]].concat()).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        assert_eq!(token.logged("C_GenerateKeyPair"), [logged]);
        assert_eq!(token.log().last().unwrap()[1], "C_GenerateKeyPair");
        token.faults = "";
        assert_eq!(token.after_login(&["find"]), [format!("find ok {keys}")]);
    }
}

#[test]
fn hangs_until_it_is_ended_from_outside() {
    let token = Token::new("C_OpenSession:1:hang");
    let mut child = token.caller(&LOGIN).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while token.logged("C_OpenSession").is_empty() {
        assert!(Instant::now() < deadline, "C_OpenSession was never called");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(token.logged("C_OpenSession"), ["1 hang"]);
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(lines(&output), ["initialize ok", "slots ok 1"]);
}

#[test]
fn prints_and_goes_on() {
    let token = Token::new("C_Initialize:1:print");
    let output = token.caller(&LOGIN).output().unwrap();
    assert_eq!(lines(&output)[..2], ["p11fault: C_Initialize 1", "initialize ok"]);
    assert_eq!(token.logged("C_Initialize"), ["1 0x0"]);
}

#[test]
fn counts_and_logs_calls_of_many_threads() {
    let token = Token::new("C_SignInit:200:0x30");
    assert_eq!(token.after_login(&["generate", "sign-8x25"])[1], "sign-8x25 DeviceError in SignInit");
    let token = Token::new("");
    assert_eq!(token.after_login(&["generate", "sign-8x25"])[1], "sign-8x25 ok 200");
    let numbers: BTreeSet<_> = token.logged("C_SignInit").into_iter().collect();
    assert_eq!(numbers, (1..=200).map(|n| format!("{n} 0x0")).collect());
}

#[test]
fn refuses_to_start_with_a_rule_that_it_does_not_know() {
    let token = Token::new("C_Sing:1:kill");
    let output = token.caller(&["initialize"]).output().unwrap();
    assert_eq!(lines(&output), ["initialize GeneralError in Initialize"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "p11fault: P11FAULT rule `C_Sing:1:kill`: no such function\n");
}

#[test]
fn refuses_to_start_without_what_a_rule_needs() {
    let pin = "P11FAULT_PIN or P11FAULT_PIN_FILE, and neither is set";
    for (rule, wants) in
        [("login:null-pin", pin), ("login:not-needed", pin), ("login:tries=3", "P11FAULT_STATE, which is not set")]
    {
        let mut caller = Token::new(rule).caller(&["initialize"]);
        let output = caller.env_remove("P11FAULT_PIN").env_remove("P11FAULT_STATE").output().unwrap();
        assert_eq!(lines(&output), ["initialize GeneralError in Initialize"]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("p11fault: a rule of P11FAULT wants {wants}\n"));
    }
}

#[test]
fn refuses_to_start_without_its_log() {
    let token = Token::new("");
    let output = token.caller(&["initialize"]).env("P11FAULT_LOG", token.folder.path()).output().unwrap();
    assert_eq!(lines(&output), ["initialize GeneralError in Initialize"]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("p11fault: P11FAULT_LOG /"), "{output:?}");
}

#[test]
fn says_what_is_wrong_with_the_real_module() {
    let token = Token::new("");
    let itself = module();
    for (module, why) in [
        (Some(itself.to_str().unwrap()), "P11FAULT_MODULE /"),
        (None, "P11FAULT_MODULE is not set"),
        (Some("/nowhere.so"), "P11FAULT_MODULE /nowhere.so: "),
        (Some(env!("CARGO_BIN_EXE_p11calls")), "P11FAULT_MODULE "),
    ] {
        let mut command = token.caller(&["initialize"]);
        match module {
            None => command.env_remove("P11FAULT_MODULE"),
            Some(path) => command.env("P11FAULT_MODULE", path),
        };
        let output = command.output().unwrap();
        assert_eq!(lines(&output), ["load GeneralError in GetFunctionList"]);
        assert!(String::from_utf8_lossy(&output.stderr).starts_with(&format!("p11fault: {why}")), "{output:?}");
    }
}

#[test]
fn works_under_a_caller_written_in_c() {
    let token = Token::new("C_SignInit:1:0x30");
    let tool = |args: &[&str]| {
        let mut command = token.command("pkcs11-tool");
        command.arg("--module").arg(module()).args(["--token-label", "p11fault", "--login", "--pin", "env:PIN"]).args(args);
        command.env("PIN", PIN).output().expect("pkcs11-tool is missing: apt-get install opensc")
    };
    let made = tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01"]);
    assert!(made.status.success(), "{made:?}");
    let digest = token.folder.path().join("digest");
    fs::write(&digest, [7; 32]).unwrap();
    let signed = tool(&["--sign", "--mechanism", "ECDSA", "--id", "01", "--input-file", digest.to_str().unwrap()]);
    assert!(!signed.status.success(), "{signed:?}");
    assert!(String::from_utf8_lossy(&signed.stderr).contains("CKR_DEVICE_ERROR"), "{signed:?}");
    assert_eq!(token.logged("C_SignInit"), ["1 0x30"]);
    assert_eq!(token.logged("C_Login"), ["1 0x0", "1 0x0"]);
}
