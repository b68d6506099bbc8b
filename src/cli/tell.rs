//! [`Tell`]: what happens, said on standard error while it happens.

use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use ziti_enroller::flow::{Event, Interrupted, Watch};

/// The program's own [`Watch`]: notes always, stages with `-v`, their times with `-vv`.
#[derive(Debug)]
pub struct Tell {
    verbose: u8,
    entered: Mutex<Instant>,
}

impl Tell {
    /// Says as much as `-v` asks for.
    pub fn new(verbose: u8) -> Self {
        Self { verbose, entered: Mutex::new(Instant::now()) }
    }
}

impl Watch for Tell {
    fn event(&self, event: &Event<'_>) -> Result<(), Interrupted> {
        let mut entered = self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Note(text) => say(&format!("note: {text}")),
            Event::Waiting { why, pause } if pause.is_zero() => say(&format!("note: {why}; sending the same request again")),
            Event::Waiting { why, pause } => {
                say(&format!("note: {why}; sending the same request again in {} s", pause.as_secs()))
            }
            Event::Entering(_) => *entered = Instant::now(),
            Event::Left(stage) if self.verbose > 1 => {
                say(&format!("{stage}: {:.1} ms", entered.elapsed().as_secs_f64() * 1000.0));
            }
            Event::Left(stage) if self.verbose == 1 => say(stage),
            Event::Left(_) | Event::Recorded(_) | Event::Within(_) => {}
        }
        Ok(())
    }
}

fn say(line: &str) {
    // Standard error that cannot be written is nothing to fail for.
    drop(writeln!(std::io::stderr(), "{line}"));
}
