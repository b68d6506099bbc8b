//! [`Tell`]: what happens, said on standard error while it happens.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ziti_enroller::error::Spent;
use ziti_enroller::flow::{Event, Interrupted, Watch};

/// Where the run stands, for somebody who must end it from outside.
#[derive(Debug, Default)]
pub struct Standing(AtomicU8);

impl Standing {
    /// Whether the token is spent.
    pub fn spent(&self) -> Spent {
        match self.0.load(Ordering::Relaxed) {
            0 => Spent::No,
            1 => Spent::Unknown,
            _ => Spent::Yes,
        }
    }

    fn enters(&self, stage: &str) {
        let now = match stage {
            "posting" => 1,
            "answered" | "done" | "lost" => 2,
            _ => 0,
        };
        self.0.store(now, Ordering::Relaxed);
    }
}

/// The program's own [`Watch`]: notes always, stages with `-v`, their times with `-vv`.
#[derive(Debug)]
pub struct Tell {
    verbose: u8,
    entered: Mutex<Instant>,
    standing: Arc<Standing>,
}

impl Tell {
    /// Says as much as `-v` asks for.
    pub fn new(verbose: u8) -> Self {
        Self { verbose, entered: Mutex::new(Instant::now()), standing: Arc::default() }
    }

    /// Where the run stands.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }
}

impl Watch for Tell {
    fn event(&self, event: &Event<'_>) -> Result<(), Interrupted> {
        let mut entered = self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Note(text) => say(&format!("note: {text}")),
            Event::Waiting { why, pause } => {
                let when = match pause.as_millis() {
                    0 => String::new(),
                    length @ 1..1000 => format!(" in {length} ms"),
                    _ => format!(" in {} s", pause.as_secs_f64().ceil()),
                };
                // The controller's own sentences may end with a full stop.
                say(&format!("note: {}; trying again{when}", why.trim_end_matches('.')));
            }
            Event::Entering(stage) => {
                self.standing.enters(stage);
                *entered = Instant::now();
            }
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
