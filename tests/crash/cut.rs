//! The answer cut at each of its bytes: the token is spent, and what arrived is not all of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use ziti_enroller_support::{Controller, Fault, Options, Outcome, Sample, Token, figures};

use super::ending::{Finished, all_is_well, finish};
use crate::machine::{Failed, Fixture, InFiles, Machine, report};

/// One in so many of a sample.
const STEP: usize = 8;
/// Certificates differ in length by as much: so near the end a cut may cut nothing.
const NEAR: usize = 32;

/// An enrollment whose answer ends after `length` bytes.
fn cut(controller: &Controller, length: usize) -> (Machine<InFiles>, Token, Outcome) {
    controller.set_faults([Fault::AnswerCut(length as u64)]);
    let machine = Machine::on_tmpfs(InFiles::new);
    let token = controller.issue("gate-7");
    let ended = machine.enroll(&token).args(["--retry-delay", "10ms"]).run();
    controller.set_faults([]);
    (machine, token, ended)
}

/// The length of an answer, head and all, in bytes.
fn length_of_an_answer(controller: &Controller) -> usize {
    let (mut too_short, mut enough) = (0, 16 * 1024);
    while too_short + 1 < enough {
        let length = usize::midpoint(too_short, enough);
        let (.., ended) = cut(controller, length);
        *(if ended.code == Some(0) { &mut enough } else { &mut too_short }) = length;
    }
    enough
}

fn survives(controller: &Controller, length: usize, whole: usize) {
    let (machine, token, ended) = cut(controller, length);
    if ended.code == Some(0) {
        assert!(length + NEAR > whole, "{ended}");
        report(&ended);
    } else {
        // Within the same run: the same request again shows that the token is gone.
        Failed::with(ended, 33, "answer_lost").spent("yes");
        assert_eq!(finish(controller, &machine, &token, || machine.enroll(&token)), Finished::WithTheCopy);
    }
    all_is_well(controller, &machine, &token, 0);
}

#[test]
fn an_answer_that_is_cut_at_any_byte_is_got_back() {
    let sample = Sample::from_environment();
    let whole = length_of_an_answer(&Controller::start(Options::default()));
    let lengths: Vec<usize> = (0..whole).step_by(if sample.is_whole() { 1 } else { STEP }).collect();
    let (asked, lengths) = (lengths.len(), Mutex::new(lengths.into_iter()));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let controller = Controller::start(Options::default());
                let next = || lengths.lock().expect("no worker panics with it").next();
                while let Some(length) = next() {
                    if let Err(why) = catch_unwind(AssertUnwindSafe(|| survives(&controller, length, whole))) {
                        let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str).to_owned();
                        wrong.lock().expect("no worker panics with it").push(format!("after {length} bytes: {why}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no worker panics with it");
    figures::record("answer cut at a byte and got back", asked, asked - wrong.len(), "");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(whole > 1500, "an answer of {whole} bytes is none");
}
