//! What a person reads.

use std::fs;
use std::time::Duration;

use crate::Series;
use crate::contender::PROGRAM;
use crate::measured::{self, Measured};

/// One line a contender: medians, and the wall time over that of each peer.
pub fn print(names: &[(&str, bool)], series: &[Series], counted: bool) {
    let peers: Vec<usize> = (0..names.len()).filter(|at| !names[*at].1).collect();
    let mut head = format!(
        "{:<32} {:>9} {:>9} {:>9}  {:<22}",
        "median of whole processes", "wall ms", "CPU ms", "peak MiB", "conn/handsh/requests"
    );
    peers.iter().for_each(|peer| head += &format!(" {:>18}", format!("wall / {}", names[*peer].0)));
    println!("\n{head}");
    for ((name, _), one) in names.iter().zip(series) {
        let counts = match counted {
            true => counts_of(one),
            false => "not counted".into(),
        };
        let (wall, cpu, peak) = (wall(one), median(one, |m| m.cpu.as_secs_f64() * 1e3), median(one, |m| m.peak as f64 / 1024.0));
        let mut line = format!("{name:<32} {wall:>9.2} {cpu:>9.2} {peak:>9.1}  {counts:<22}");
        for peer in &peers {
            line += &format!(" {:>18.2}", ratio(one, &series[*peer]));
        }
        println!("{line}");
    }
    println!("{} rounds, each with every line once; a ratio is the median of those of the rounds", series[0].measured.len());
}

/// How long the program takes to say its version, and how large it is.
pub fn print_start(runs: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut one = Series::default();
    for _ in 0..runs {
        let (measured, outcome) = measured::run(&[PROGRAM.into(), "--version".into()], &[], folder.path());
        outcome.success();
        one.measured.push(measured);
    }
    let size = fs::metadata(PROGRAM).expect("the program is there").len();
    println!("--version: {:.2} ms; the program: {:.2} MiB", wall(&one), size as f64 / f64::from(1 << 20));
}

fn wall(one: &Series) -> f64 {
    median(one, |m| m.wall.as_secs_f64() * 1e3)
}

fn median(one: &Series, value: impl Fn(&Measured) -> f64) -> f64 {
    middle(one.measured.iter().map(value).collect())
}

fn ratio(one: &Series, peer: &Series) -> f64 {
    let seconds = |measured: &Measured| Duration::as_secs_f64(&measured.wall);
    middle(one.measured.iter().zip(&peer.measured).map(|(one, peer)| seconds(one) / seconds(peer)).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        0 => (values[half - 1] + values[half]) / 2.0,
        _ => values[half],
    }
}

/// The same in every round, or the least and the most.
fn counts_of(one: &Series) -> String {
    let column = |at: usize| one.counts.iter().map(move |counts| counts[at]);
    let span = |at: usize| {
        let (least, most) = (column(at).min().unwrap_or(0), column(at).max().unwrap_or(0));
        if least == most { least.to_string() } else { format!("{least}-{most}") }
    };
    format!("{} / {} / {}", span(0), span(1), span(2))
}
