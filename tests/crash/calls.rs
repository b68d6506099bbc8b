//! SIGKILL at system calls: strace kills the program as it enters the n-th call of a name, which then does not happen.
//!
//! strace counts the calls of each name by themselves, and in each thread by itself. So a run is recorded once, and a case
//! is a pair of a name and a number that some thread has reached. A pair that does not come again is counted apart.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use ziti_enroller_support::{Controller, Options, Program, Sample, SoftHsm, Token, Tokens, figures, require};

use super::ending::{Finished, all_is_well, cut_off, finish, issued};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report, text};

/// How many are wanted of a sample, and of all.
const WANTED: [usize; 2] = [300, 4000];
/// So many cases at once.
const WORKERS: usize = 2;
/// Calls that nobody outside of the process can notice: a kill there is one at the next of the others.
const INWARD: [&str; 24] = [
    "arch_prctl",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "exit",
    "futex",
    "geteuid",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "prlimit64",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
];

/// The calls that a run makes: of each name, as many as the busiest thread.
type Recorded<'a> = dyn Fn(&Controller) -> BTreeMap<String, usize> + Sync + 'a;
/// A run that is killed as it enters the n-th call of a name, and all that comes after it.
type Survives<'a> = dyn Fn(&Controller, &str, usize) -> Ended + Sync + 'a;

/// One way to enroll.
struct Way<'a> {
    name: &'static str,
    calls: Box<Recorded<'a>>,
    survives: Box<Survives<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ended {
    Well(Finished),
    /// The run did not make so many calls of that name.
    NeverCame,
    /// SoftHSM has emptied its own token.
    TokenDestroyed,
    /// All is well, and SoftHSM has left a piece of a key that it did not come to name.
    WellButForAPiece,
}

/// A way with a `machine` on which something may have been done already.
fn way<'a, F: Fixture>(
    name: &'static str,
    machine: impl Fn(&Controller) -> (Machine<F>, Token) + Copy + Sync + 'a,
    enroll: impl Fn(&Machine<F>, &Token) -> Program + Copy + Sync + 'a,
    is_destroyed: impl Fn(&F) -> bool + Copy + Sync + 'a,
) -> Way<'a> {
    Way {
        name,
        calls: Box::new(move |controller| {
            let (machine, token) = machine(controller);
            let file = machine.path("calls");
            let traced = enroll(&machine, &token).under(require("strace", "strace"), ["-f", "-qq", "-o", &text(&file)]);
            report(&traced.run());
            most_of_each(&fs::read_to_string(file).expect("strace has written it"))
        }),
        survives: Box::new(move |controller, call, n| {
            let (machine, token) = machine(controller);
            let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
            let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let killed = enroll(&machine, &token).under(require("strace", "strace"), strace).run();
            if killed.signal != Some(9) {
                report(&killed);
                return Ended::NeverCame;
            }
            if is_destroyed(&machine.keys) {
                let after = enroll(&machine, &token).run();
                assert!(matches!(after.code, Some(20..=25)), "{after}");
                return Ended::TokenDestroyed;
            }
            machine.keys.after_a_kill();
            let finished = finish(controller, &machine, &token, || enroll(&machine, &token));
            all_is_well(controller, &machine, &token, 0);
            match machine.keys.pieces() {
                0 => Ended::Well(finished),
                pieces => {
                    assert_eq!((pieces, finished), (1, Finished::Again), "nameless pieces of keys");
                    Ended::WellButForAPiece
                }
            }
        }),
    }
}

/// For each name the most calls that one thread has made.
fn most_of_each(trace: &str) -> BTreeMap<String, usize> {
    let mut of_threads: HashMap<(&str, &str), usize> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ').map(|(thread, rest)| (thread, rest.trim_start())) else { continue };
        let Some((name, _)) = call.split_once('(') else { continue };
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !INWARD.contains(&name) {
            *of_threads.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in of_threads {
        let known: &mut usize = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

fn new<F: Fixture>(controller: &Controller, keys: impl FnOnce(&std::path::Path) -> F) -> (Machine<F>, Token) {
    (Machine::on_tmpfs(keys), controller.issue("gate-7"))
}

/// With SoftHSM itself: what p11fault writes down is no call of the program.
fn in_softhsm(machine: &Machine<InToken>, token: &Token) -> Program {
    let hsm = &machine.keys.hsm;
    let program = machine.enroll_with(token).args(["--provider", InToken::PROVIDER, "--module"]).arg(hsm.real_module());
    program.args(["--token", hsm.label()])
}

#[test]
fn an_enrollment_that_is_killed_at_a_system_call_is_finished_by_the_same_command() {
    let sample = Sample::from_environment();
    let (empty, used) = (SoftHsm::on_tmpfs(), SoftHsm::on_tmpfs());
    Tokens::make_key(&used, "EC:prime256v1", "6b6579", "key");
    let (empty, used) = (&empty, &used);
    let no = |_: &InFiles| false;
    let is_destroyed = |keys: &InToken| keys.hsm.is_destroyed();
    let ways = vec![
        way("a file key in the identity", |c| new(c, InFiles::new), |m, t| m.enroll(t), no),
        way(
            "a file key of its own",
            |c| new(c, InFiles::new),
            |m: &Machine<InFiles>, t| m.enroll_with(t).args(["--key", &m.keys.reference("key"), "--create"]),
            no,
        ),
        way(
            "a file key, after a kill before the request",
            |c| {
                let (machine, token) = new(c, InFiles::new);
                cut_off(machine.enroll(&token), "before_post");
                (machine, token)
            },
            |m, t| m.enroll(t),
            no,
        ),
        way("a new key in SoftHSM", |c| new(c, |_| InToken { hsm: empty.copy() }), in_softhsm, is_destroyed),
        way(
            "a key in SoftHSM that is there",
            |c| new(c, |_| InToken { hsm: used.copy() }),
            |m: &Machine<InToken>, t| {
                let key = format!("pkcs11:object=key?module-path={}", m.keys.hsm.real_module().display());
                m.enroll_with(t).args(["--key", &key])
            },
            is_destroyed,
        ),
        way(
            "a new key in SoftHSM of which half is there",
            |c| {
                let (machine, token) = new(c, |_| InToken { hsm: empty.copy() });
                cut_off(in_softhsm(&machine, &token), "after_generation");
                let half = machine.keys.of_class("Public Key Object").remove(0);
                machine.keys.remove("pubkey", &half.id);
                (machine, token)
            },
            in_softhsm,
            is_destroyed,
        ),
        way(
            "a certificate that is taken back",
            |c| {
                let (machine, token) = new(c, InFiles::new);
                cut_off(machine.enroll(&token), "after_post");
                Failed::with(machine.enroll(&token).run(), 33, "answer_lost");
                fs::write(machine.path("copy.pem"), &issued(c, &token)[0].cert_pem).expect("the machine's folder is writable");
                (machine, token)
            },
            |m, t| m.resume(t).args(["--certificate", "copy.pem"]),
            no,
        ),
        #[cfg(feature = "tpm")]
        way("a key in a file of the TPM", |c| new(c, InTpmFile::new), |m, t| m.enroll(t), |_: &InTpmFile| false),
        #[cfg(feature = "tpm")]
        way("a key at a handle of the TPM", |c| new(c, InTpmHandle::new), |m, t| m.enroll(t), |_: &InTpmHandle| false),
    ];
    killed_everywhere(sample, &ways);
}

fn killed_everywhere(sample: Sample, ways: &[Way<'_>]) {
    let controller = Controller::start(Options::default());
    let recorded: Vec<_> = ways.iter().map(|way| (way, (way.calls)(&controller))).collect();
    // A name of each way is a group, so that the few calls that matter are not lost among the many that do not.
    let groups = recorded.iter().flat_map(|(way, calls)| {
        calls.iter().map(move |(call, most)| (1..=*most).map(|n| (*way, call.clone(), n)).collect::<Vec<_>>())
    });
    let cases = sample.in_turns(groups.collect());
    let wanted = WANTED[usize::from(sample.is_whole())];
    let all = cases.len();
    for (way, calls) in &recorded {
        eprintln!("{}: {} calls of {} names", way.name, calls.values().sum::<usize>(), calls.len());
    }
    let cases = Mutex::new(cases.into_iter());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let controller = Controller::start(Options::default());
                while let Some((way, call, n)) = next(&cases, &tally, (!sample.is_whole()).then_some(wanted)) {
                    let ended = catch_unwind(AssertUnwindSafe(|| (way.survives)(&controller, &call, n)));
                    let mut tally = tally.lock().expect("no worker panics with it");
                    tally.2 += 1;
                    if tally.2.is_multiple_of(500) {
                        eprintln!("{} of {all}: {:?}, {} wrong", tally.2, tally.0, tally.1.len());
                    }
                    match ended {
                        Ok(ended) => *tally.0.entry(ended).or_default() += 1,
                        Err(why) => {
                            let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
                            tally.1.push(format!("{}, {call} {n}: {why}", way.name));
                        }
                    }
                }
            });
        }
    });
    let (tally, wrong, _) = tally.into_inner().expect("no worker panics with it");
    let count = |ended| tally.get(&ended).copied().unwrap_or_default();
    let copies = count(Ended::Well(Finished::WithTheCopy));
    let pieces = count(Ended::WellButForAPiece);
    let well = count(Ended::Well(Finished::Again)) + copies + pieces;
    let promise = "killed at a system call";
    figures::record(promise, wanted, well, &sample.seed());
    figures::record(&format!("{promise}: needed the controller's copy"), 0, copies, &sample.seed());
    figures::record(&format!("{promise}: the call never came"), 0, count(Ended::NeverCame), &sample.seed());
    figures::record(&format!("{promise}: SoftHSM left a nameless piece"), 0, pieces, &sample.seed());
    figures::record(&format!("{promise}: SoftHSM destroyed its token"), 0, count(Ended::TokenDestroyed), &sample.seed());
    eprintln!("of {all}: {well} well ({copies} with the controller's copy), {tally:?}");
    assert!(wrong.is_empty(), "{} wrong, of {all}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(well >= wanted, "{well} of {wanted}, {tally:?}");
}

/// How often it ended how, what was wrong, and how many were tried.
type Tally = (HashMap<Ended, usize>, Vec<String>, usize);

/// The next case, unless so many are through.
fn next<C>(cases: &Mutex<impl Iterator<Item = C>>, tally: &Mutex<Tally>, enough: Option<usize>) -> Option<C> {
    let through = {
        let tally = tally.lock().expect("no worker panics with it");
        let is_well = |ended: &Ended| matches!(ended, Ended::Well(_) | Ended::WellButForAPiece);
        tally.1.len() + tally.0.iter().filter(|(ended, _)| is_well(ended)).map(|(_, count)| count).sum::<usize>()
    };
    if enough.is_some_and(|enough| through >= enough) {
        return None;
    }
    cases.lock().expect("no worker panics with it").next()
}
