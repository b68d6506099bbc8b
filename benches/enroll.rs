//! What an enrollment costs: whole processes against one controller, ours and others, by turns in one run.
//!
//! ```console
//! $ cargo bench --bench enroll
//! $ cargo bench --bench enroll -- --runs 21 --peer 'ziti edge enroll=ziti edge enroll -a EC --jwt {jwt} -o {out}'
//! $ cargo bench --bench enroll -- --delay 20 --only 'file key'
//! $ cargo bench --bench enroll -- --issue 'ziti edge create identity {name} -o {jwt}'
//! ```
//!
//! Each round runs every contender once, each with a fresh token, in an order that moves on by one. A machine is never
//! quiet: look at the medians of one table and at their ratios, never at two tables.

#[path = "enroll/contender.rs"]
mod contender;
#[path = "enroll/measured.rs"]
mod measured;
#[path = "enroll/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::Duration;

use ziti_enroller_support::{Controller, Counts, Options, Outcome, Program, Relay};

use contender::Contender;
use measured::Measured;

const USAGE: &str = "usage: cargo bench --bench enroll -- [--runs N] [--delay MILLISECONDS] [--only NAME]...
       [--peer 'NAME=COMMAND with {jwt} and {out}']... [--issue 'COMMAND with {name} and {jwt}'] [--env NAME=VALUE]...
--only leaves out those of ours that are not named; --issue takes the tokens of another controller, whose connections
nobody counts, and which no delay is put before; --env is for what --peer and --issue start. Commands are split at
spaces.";

/// What the command line asks for.
#[derive(Debug)]
pub struct Asked {
    runs: usize,
    delay: Duration,
    only: Vec<String>,
    peers: Vec<(String, Vec<String>)>,
    issue: Option<Vec<String>>,
    env: Vec<(String, String)>,
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut asked = Self { runs: 15, delay: Duration::ZERO, only: vec![], peers: vec![], issue: None, env: vec![] };
        let split = |command: &str| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        while let Some(word) = words.next() {
            // cargo says it to every benchmark.
            if word == "--bench" {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            let pair = || value.split_once('=').ok_or_else(|| format!("{word} wants NAME=…"));
            match word.as_str() {
                "--runs" => asked.runs = value.parse().map_err(|error| format!("--runs {value}: {error}"))?,
                "--delay" => {
                    let each_way = value.parse().map_err(|error| format!("--delay {value}: {error}"))?;
                    asked.delay = Duration::from_millis(each_way);
                }
                "--only" => asked.only.push(value),
                "--peer" => asked.peers.push(pair().map(|(name, command)| (name.to_owned(), split(command)))?),
                "--issue" => asked.issue = Some(split(&value)),
                "--env" => asked.env.push(pair().map(|(name, value)| (name.to_owned(), value.to_owned()))?),
                _ => return Err(format!("no such option: {word}")),
            }
        }
        if asked.runs == 0 {
            return Err("--runs wants at least one".into());
        }
        Ok(asked)
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == measured::INNER).is_some() {
        return measured::inner(words);
    }
    match Asked::read(words) {
        Ok(asked) => compare(&asked),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Where tokens come from, and where connections are counted.
struct Bench<'a> {
    asked: &'a Asked,
    controller: Controller,
    relay: Option<Relay>,
}

impl Bench<'_> {
    /// A fresh token in `<folder>/<name>.jwt`.
    fn issue(&self, name: &str, folder: &std::path::Path) -> std::path::PathBuf {
        let file = folder.join(format!("{name}.jwt"));
        if let Some(command) = &self.asked.issue {
            let filled = command.iter().map(|word| word.replace("{name}", name).replace("{jwt}", &contender::text(&file)));
            let mut words = filled.collect::<Vec<_>>().into_iter();
            let program = Program::new(words.next().expect("--issue names a command")).args(words);
            program.envs(self.asked.env.iter().cloned()).run().success();
            return file;
        }
        let token = match &self.relay {
            Some(relay) => self.controller.issue_at(name, &relay.url()),
            None => self.controller.issue(name),
        };
        token.write(folder)
    }

    fn counts(&self) -> Counts {
        self.controller.counts()
    }
}

/// What one contender reached, a value each round.
#[derive(Debug, Default)]
pub struct Series {
    measured: Vec<Measured>,
    counts: Vec<[usize; 3]>,
}

fn compare(asked: &Asked) {
    let controller = Controller::start(Options::default());
    let relay = (!asked.delay.is_zero()).then(|| Relay::start(controller.address(), asked.delay));
    let bench = Bench { asked, controller, relay };
    let mut contenders = Contender::all(asked);
    let mut series: Vec<Series> = contenders.iter().map(|_| Series::default()).collect();
    // One round more than asked: the first fills the caches of the machine, and is not kept.
    for round in 0..=asked.runs {
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            let before = bench.counts();
            let name = format!("bench-{round}-{at}");
            let (measured, outcome) = contenders[at].run(&name, |folder| bench.issue(&name, folder));
            check(&contenders[at], &outcome);
            if round > 0 {
                let after = bench.counts();
                series[at].measured.push(measured);
                series[at].counts.push([
                    after.connections - before.connections,
                    after.handshakes - before.handshakes,
                    after.requests - before.requests,
                ]);
            }
        }
    }
    let names: Vec<(&str, bool)> = contenders.iter().map(|one| (one.name(), one.is_ours())).collect();
    table::print(&names, &series, asked.issue.is_none());
    table::print_start(asked.runs);
}

/// An enrollment that failed is no figure.
fn check(contender: &Contender, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}: {outcome}", contender.name());
}
