//! Faults of this machine: its disk, its folders, its devices. None of them costs a token, shows half a file, or loses what
//! the token has bought.

mod before_the_post;
mod errors;
mod order;
mod trace;
mod watcher;

use std::path::PathBuf;

use ziti_enroller_support::Token;

use crate::machine::{Fixture, Machine};

/// All that an enrollment writes to, there or not: the folder of the identity and what is made in it.
fn written<F: Fixture>(machine: &Machine<F>, token: &Token) -> Vec<PathBuf> {
    let work = machine.work(token);
    let within =
        ["lock", "journal", "answer", "identity", "key.pem", "key.tss2.pem", ".rejected.pem"].map(|name| work.join(name));
    let beside =
        ["gate-7.json", "gate-7.rejected.pem", "gate-7.tss2.pem", ".gate-7.tss2.pem.part"].map(|name| machine.path(name));
    let keys = ["keys", "keys/gate.pem", "keys/.gate.pem.part"].map(|name| machine.path(name));
    [machine.folder().to_owned(), work].into_iter().chain(within).chain(beside).chain(keys).collect()
}
