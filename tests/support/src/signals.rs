//! SIGTERM and SIGINT as something to wait for.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// From its making on, SIGTERM and SIGINT no longer end the process: they are waited for.
#[derive(Debug)]
pub struct StopSignal(Signals);

impl StopSignal {
    /// Takes the two signals over.
    pub fn listen() -> Self {
        Self(Signals::new([SIGTERM, SIGINT]).expect("the two signals can be taken over"))
    }

    /// Returns when one of them comes, or came since [`StopSignal::listen`].
    pub fn wait(mut self) {
        self.0.forever().next();
    }
}
