//! Signs with one key from many threads, and checks each signature: a key is one, however many use it.
//!
//! ```text
//! ZITI_ENROLLER_PIN_FILE=FILE cargo run --example sign_many -- REF THREADS EACH
//! ```
//!
//! REF is what `--key` takes. Prints how many signatures verified, and ends with 1 if one did not.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use ziti_enroller::key::pin::Question;
use ziti_enroller::key::{Access, Key, KeyError, KeyUri, Pin, PinOrigin, PinSource, Providers};

/// The PIN in the file that ZITI_ENROLLER_PIN_FILE names.
struct PinFile;

impl PinSource for PinFile {
    fn pin(&self, _: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        let Some(path) = env::var_os("ZITI_ENROLLER_PIN_FILE") else { return Ok(None) };
        let bytes = std::fs::read(&path).map_err(|error| KeyError::Other(error.into()))?;
        let origin = PinOrigin::File(path.into());
        Ok(Some((Pin::read(bytes, &origin)?, origin)))
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [reference, threads, each] = &words[..] else { return Err("usage: sign_many REF THREADS EACH".into()) };
    let (threads, each): (usize, usize) = (threads.parse()?, each.parse()?);

    let uri: KeyUri = reference.parse()?;
    let providers = Providers::compiled_in();
    let access = Access::new(&PinFile);
    let key = providers.of(&uri)?.open(&uri, &access)?;

    let verified = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (key, verified) = (&*key, &verified);
            scope.spawn(move || verified.fetch_add(sign(key, thread, each), Ordering::Relaxed));
        }
    });
    let verified = verified.into_inner();
    println!("{verified} of {} signatures verify", threads * each);
    Ok(ExitCode::from(u8::from(verified != threads * each)))
}

/// How many of `each` signatures verify; algorithms take turns, and each message is another.
fn sign(key: &dyn Key, thread: usize, each: usize) -> usize {
    let algorithms = key.signature_algorithms();
    let good = |n: &usize| {
        let (algorithm, message) = (algorithms[n % algorithms.len()], format!("message {n} of thread {thread}"));
        match key.sign(algorithm, message.as_bytes()) {
            Ok(signature) => key.public_key().verifies(algorithm, message.as_bytes(), &signature),
            Err(error) => {
                eprintln!("{message}: {error}");
                false
            }
        }
    };
    (0..each).filter(good).count()
}
