//! Each call that an enrollment makes to its module, answered with each error: what a user is told, and what is left.
//!
//! A device that fails once may be asked again or not, but the answer is never a hang, a second refused login, a spent
//! token or a lost key; and the same command finishes when the device works again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use ziti_enroller_support::{Controller, Fault, KeyType, Options, Program, SoftHsm, Token, figures, logins, sample};

use crate::machine::{Failed, Fixture, InToken, Machine, report};

/// Values of CK_RV, and their names in the standard's header.
const ERRORS: [(u64, &str); 12] = [
    (0x05, "CKR_GENERAL_ERROR"),
    (0x06, "CKR_FUNCTION_FAILED"),
    (0x30, "CKR_DEVICE_ERROR"),
    (0x31, "CKR_DEVICE_MEMORY"),
    (0x32, "CKR_DEVICE_REMOVED"),
    (0x70, "CKR_MECHANISM_INVALID"),
    (0xa0, "CKR_PIN_INCORRECT"),
    (0xa4, "CKR_PIN_LOCKED"),
    (0xb3, "CKR_SESSION_HANDLE_INVALID"),
    (0xe0, "CKR_TOKEN_NOT_PRESENT"),
    (0x101, "CKR_USER_NOT_LOGGED_IN"),
    (0x200, "CKR_FUNCTION_REJECTED"),
];

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Describe,
    OpenToRead,
    OpenToWrite,
    Login,
    /// Between C_SignInit and the data.
    LoginToSign,
    Find,
    Read,
    Generate,
    Sign,
    /// With data in parts, as a key wants it that asks for the PIN before every signature.
    SignPart,
}

/// Whether the enrollment goes on, or the exit code and `error.code` that it ends with (design: exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    GoesOn,
    Ends(i32, &'static str),
}

/// What a user should be told when one call answers `error`. Read as a table: the first line that fits.
fn told(step: Step, error: u64) -> Told {
    use Step::*;
    use Told::*;
    match (step, error) {
        // A module that does not start or shows no slots is of no use.
        (Start, _) => Ends(20, "module_refused"),
        // The slot is empty: its token is none of those that could be meant.
        (Describe, 0xe0) => Ends(24, "token_not_found"),
        // About the PIN, where one was given. Elsewhere a module that says so talks nonsense.
        (Login | LoginToSign, 0xa0) => Ends(21, "pin_incorrect"),
        (Login | LoginToSign, 0xa4) => Ends(22, "pin_locked"),
        // Modules without read-only sessions have many words for it; those get one that can write.
        (OpenToRead, 0x05 | 0x06 | 0x30 | 0x31 | 0x70 | 0xa0 | 0xa4 | 0x200) => GoesOn,
        // What is at work when the device or the session goes is done once more, in a new session.
        (Find | Read | Generate | Sign | SignPart | LoginToSign, 0x32 | 0xb3 | 0xe0 | 0x101) => GoesOn,
        // What cannot be read is asked for once more, and then unknown.
        (Read, _) => GoesOn,
        // Where a mechanism was named.
        (Generate | Sign, 0x70) => Ends(20, "key_type_unsupported"),
        // Modules that do not sign in parts have many words for it, and those are not a broken device's.
        (SignPart, 0x05 | 0x06 | 0x70 | 0xa0 | 0xa4 | 0x200) => Ends(20, "key_type_unsupported"),
        (_, 0x32 | 0xb3 | 0xe0) => Ends(25, "device_gone"),
        (_, _) => Ends(25, "device_error"),
    }
}

/// Which enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scene {
    NewKey,
    ExistingKey,
    /// The controller refuses it, and the key that was made for it is deleted.
    Refused,
    /// The new key is not what was promised, and is deleted.
    NotAsPromised,
    /// The key that is there wants the PIN before every signature.
    PinEachTime,
}

impl Scene {
    const ALL: [Self; 5] = [Self::NewKey, Self::ExistingKey, Self::Refused, Self::NotAsPromised, Self::PinEachTime];

    fn has_key(self) -> bool {
        matches!(self, Self::ExistingKey | Self::PinEachTime)
    }

    /// What makes it, as rules of p11fault.
    fn rules(self) -> &'static str {
        match self {
            Self::NewKey | Self::ExistingKey | Self::Refused => "",
            Self::NotAsPromised => "lie:extractable",
            Self::PinEachTime => "login:context;sign:in-parts",
        }
    }
}

/// One call of one enrollment, and its answer.
#[derive(Clone, Copy, Debug)]
struct Case {
    scene: Scene,
    function: &'static str,
    n: usize,
    error: u64,
    /// The call reaches the token, and only its answer is lost.
    after: bool,
}

/// The functions whose calls are counted and answered, and what their n-th call is for.
fn step(scene: Scene, function: &str, n: usize) -> Option<Step> {
    Some(match function {
        "C_Initialize" | "C_GetSlotList" => Step::Start,
        // SoftHSM shows the token and then an empty slot, which matters to nobody.
        "C_GetTokenInfo" if n % 2 == 1 => Step::Describe,
        // The second session of an enrollment that makes a key is the one that it is made in.
        "C_OpenSession" if n == 2 && !scene.has_key() => Step::OpenToWrite,
        "C_OpenSession" => Step::OpenToRead,
        "C_Login" if n > 1 => Step::LoginToSign,
        "C_Login" => Step::Login,
        "C_FindObjectsInit" | "C_FindObjects" => Step::Find,
        "C_GetAttributeValue" => Step::Read,
        "C_GenerateKeyPair" => Step::Generate,
        "C_SignUpdate" => Step::SignPart,
        "C_SignInit" | "C_Sign" | "C_SignFinal" => Step::Sign,
        _ => return None,
    })
}

const FUNCTIONS: [&str; 14] = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_Login",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_GetAttributeValue",
    "C_GenerateKeyPair",
    "C_SignInit",
    "C_Sign",
    "C_SignUpdate",
    "C_SignFinal",
    "C_DestroyObject",
];

/// Longer than any call takes here.
const PATIENT: &str = "20s";

/// Tokens that are copied for each case.
struct Templates {
    empty: SoftHsm,
    with_key: SoftHsm,
}

impl Templates {
    fn new() -> Self {
        let empty = SoftHsm::on_tmpfs();
        let with_key = InToken { hsm: empty.copy() };
        with_key.make("mine", KeyType::P256);
        Self { empty, with_key: with_key.hsm }
    }

    fn machine(&self, scene: Scene) -> Machine<InToken> {
        let template = if scene.has_key() { &self.with_key } else { &self.empty };
        Machine::with(|_| InToken { hsm: template.copy() })
    }
}

/// The same command each time, with this `--device-timeout`.
fn enroll(machine: &Machine<InToken>, scene: Scene, token: &Token, patience: &str) -> Program {
    let program = match scene.has_key() {
        true => machine.enroll_with(token).args(["--key", &machine.keys.reference("mine")]),
        false => machine.enroll(token),
    };
    program.args(["--device-timeout", patience]).limit(Duration::from_secs(60))
}

fn refuses(controller: &Controller, scene: Scene) {
    let refusal = Fault::Refuse("COULD_NOT_PROCESS_CSR".into(), 400);
    controller.set_faults([refusal].into_iter().filter(|_| scene == Scene::Refused));
}

/// The functions that an enrollment calls, in order, where nothing goes wrong but what makes its scene.
fn plain(templates: &Templates, controller: &Controller, scene: Scene) -> Vec<String> {
    let machine = templates.machine(scene);
    refuses(controller, scene);
    let outcome = enroll(&machine, scene, &controller.issue("plain"), PATIENT).env("P11FAULT", scene.rules()).run();
    match scene {
        Scene::NewKey | Scene::ExistingKey | Scene::PinEachTime => drop(report(&outcome)),
        Scene::Refused => drop(Failed::with(outcome, 31, "refused_could_not_process_csr")),
        Scene::NotAsPromised => drop(Failed::with(outcome, 23, "key_not_as_promised")),
    }
    machine.keys.hsm.calls()
}

fn counted(calls: &[String]) -> BTreeMap<&'static str, usize> {
    FUNCTIONS.iter().map(|function| (*function, calls.iter().filter(|call| call == function).count())).collect()
}

/// Every call of every scene with every answer. Of an enrollment that is refused, what comes after the request; of a key
/// that is not as promised, its end; of one that wants its PIN, how it signs: the rest is that of the first two.
fn cases(templates: &Templates, controller: &Controller) -> Vec<Case> {
    let mut cases = Vec::new();
    let new = counted(&plain(templates, controller, Scene::NewKey));
    for scene in Scene::ALL {
        let calls = counted(&plain(templates, controller, scene));
        println!("{scene:?}: {} calls, {calls:?}", calls.values().sum::<usize>());
        for (function, count) in &calls {
            let before = match scene {
                Scene::NewKey | Scene::ExistingKey => 0,
                Scene::Refused => new[function],
                Scene::NotAsPromised if *function == "C_DestroyObject" => 0,
                Scene::PinEachTime if *function == "C_Login" => 1,
                Scene::PinEachTime if function.starts_with("C_Sign") => 0,
                Scene::NotAsPromised | Scene::PinEachTime => *count,
            };
            for n in before + 1..=*count {
                for (error, _) in ERRORS {
                    cases.push(Case { scene, function, n, error, after: false });
                    if ["C_Login", "C_GenerateKeyPair", "C_DestroyObject"].contains(function) {
                        cases.push(Case { scene, function, n, error, after: true });
                    }
                }
            }
        }
    }
    cases
}

impl Case {
    fn fault(&self) -> String {
        let after = if self.after { "-after" } else { "" };
        format!("{}:{}:{:#x}{after};{}", self.function, self.n, self.error, self.scene.rules())
    }

    fn holds(&self, templates: &Templates, controller: &Controller) {
        let machine = templates.machine(self.scene);
        let hsm = &machine.keys.hsm;
        refuses(controller, self.scene);
        let token = controller.issue("gate-7");
        let posts = controller.enroll_posts();
        let outcome = enroll(&machine, self.scene, &token, PATIENT).env("P11FAULT", self.fault()).run();
        let posts = controller.enroll_posts() - posts;
        let answered = format!("{} {} {:#x}", self.function, self.n, self.error);
        assert!(hsm.call_lines().iter().any(|line| line.contains(&answered)), "the call never came: {outcome}");

        let told = match (self.scene, step(self.scene, self.function, self.n)) {
            (Scene::Refused, _) => Told::Ends(31, "refused_could_not_process_csr"),
            (Scene::NotAsPromised, _) => Told::Ends(23, "key_not_as_promised"),
            (_, None) => Told::GoesOn,
            (_, Some(step)) => told(step, self.error),
        };
        let left = machine.keys.private_keys();
        let stderr = outcome.stderr.clone();
        match told {
            Told::GoesOn => {
                let said = report(&outcome);
                assert_eq!((&said["key"]["extractable"], posts), (&false.into(), 1), "{outcome}");
                assert_eq!(machine.keys.public_key_of(machine.identity(&token).key()), machine.identity(&token).public_key());
            }
            Told::Ends(exit, code) => {
                let failed = Failed::with(outcome, exit, code).spent("no");
                if exit != 24 && self.scene != Scene::Refused && self.scene != Scene::NotAsPromised {
                    let name = ERRORS.iter().find_map(|(error, name)| (*error == self.error).then_some(*name));
                    let failed = failed.says(name.expect("it is one of them"));
                    if [21, 22].contains(&exit) {
                        failed.says("PIN")
                    } else {
                        failed.says(self.function)
                    };
                }
                assert_eq!(posts, usize::from(self.scene == Scene::Refused));
            }
        }
        if matches!(self.scene, Scene::Refused | Scene::NotAsPromised) {
            // It is gone, or the user knows that it is not.
            let said = stderr.contains("stays") || stderr.contains("could not be destroyed");
            assert!(left == 0 || said, "a key is left without a word: {stderr}");
        }
        self.logins_were_careful(hsm);

        refuses(controller, Scene::NewKey);
        hsm.clear_calls();
        let again = match (told, self.scene) {
            (Told::GoesOn, _) => None,
            (_, Scene::Refused) => Some(controller.token("gate-7").id(token.sub()).issue()),
            _ => Some(token),
        };
        if let Some(token) = again {
            report(&enroll(&machine, self.scene, &token, PATIENT).run());
            self.logins_were_careful(hsm);
        }
        assert_eq!((machine.keys.private_keys(), machine.keys.of_class("Public Key Object").len()), (1, 1), "key pairs");
    }

    /// No login after one that did not work.
    fn logins_were_careful(&self, hsm: &SoftHsm) {
        let lines = hsm.call_lines();
        let answers = lines.iter().filter(|line| line.contains(" C_Login ")).filter_map(|line| line.rsplit(" 0x").next());
        let answers: Vec<u64> = answers.map(|rv| u64::from_str_radix(rv, 16).expect("a login has an answer")).collect();
        let refused = answers.iter().position(|rv| logins::is_refusal(*rv));
        assert!(refused.is_none_or(|at| at + 1 == answers.len()), "{answers:x?}");
    }
}

/// Those of `cases` that do not hold, by two threads with a controller each.
fn wrong<C: Debug + Send>(cases: Vec<C>, holds: impl Fn(&C, &Controller) + Sync) -> Vec<String> {
    let (waiting, wrong) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let controller = Controller::start(Options::default());
                loop {
                    let next = waiting.lock().expect("nobody panics while holding it").pop();
                    let Some(case) = next else { break };
                    if let Err(why) = catch_unwind(AssertUnwindSafe(|| holds(&case, &controller))) {
                        let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
                        wrong.lock().expect("nobody panics while holding it").push(format!("{case:?}: {why}"));
                    }
                }
                assert!(controller.violations().is_empty(), "{:?}", controller.violations());
            });
        }
    });
    wrong.into_inner().expect("nobody panics while holding it")
}

#[test]
fn each_call_may_fail_in_each_way() {
    let (templates, controller) = (Templates::new(), Controller::start(Options::default()));
    let all = cases(&templates, &controller);
    assert!(all.len() >= 500, "{} cases", all.len());
    let what = "calls of a module that answer an error";
    let (cases, seed) = sample::of(all, 150);
    let asked = cases.len();
    let wrong = wrong(cases, |case, controller| case.holds(&templates, controller));
    figures::record(what, asked, asked - wrong.len(), &seed);
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The first call of a function never comes back: the run ends and says so, and what it had done is not lost.
fn hangs(templates: &Templates, controller: &Controller, scene: Scene, function: &str) {
    let machine = templates.machine(scene);
    let token = controller.issue("gate-7");
    let posts = controller.enroll_posts();
    let rules = format!("{function}:1:hang;{}", scene.rules());
    let outcome = enroll(&machine, scene, &token, "500ms").env("P11FAULT", rules).run();
    Failed::with(outcome, 25, "device_timeout").says("not answered");
    let posts = controller.enroll_posts() - posts;
    if machine.out(&token).exists() {
        assert_eq!(machine.keys.public_key_of(machine.identity(&token).key()), machine.identity(&token).public_key());
        assert_eq!(posts, 1);
    } else {
        assert_eq!(posts, 0);
        report(&enroll(&machine, scene, &token, PATIENT).run());
    }
    assert_eq!((machine.keys.private_keys(), machine.keys.of_class("Public Key Object").len()), (1, 1), "key pairs");
}

#[test]
fn no_function_that_hangs_holds_a_run() {
    let (templates, controller) = (Templates::new(), Controller::start(Options::default()));
    let mut cases = Vec::new();
    for scene in [Scene::NewKey, Scene::PinEachTime] {
        for function in plain(&templates, &controller, scene) {
            // The second of these enrollments only for what the first one does not call.
            if !cases.iter().any(|(_, known)| *known == function) {
                cases.push((scene, function));
            }
        }
    }
    assert!(cases.len() > 15, "{cases:?}");
    let asked = cases.len();
    let wrong = wrong(cases, |(scene, function), controller| hangs(&templates, controller, *scene, function));
    figures::record("functions of a module that never come back", asked, asked - wrong.len(), "");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}
