//! What all threads of a controller share.

use super::face::{Setting, Shown};
use super::log::Recorder;
use super::misbehave::{Fault, Faults};
use super::sessions::Sessions;
use super::store::Store;
use super::{Like, Options};
use crate::pki::{Network, unix_now};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) instance_id: String,
    pub(crate) network: Arc<Network>,
    /// Another network's, for the faults that need one.
    pub(crate) foreign: Network,
    pub(crate) setting: Setting,
    pub(crate) store: Arc<Store>,
    pub(crate) sessions: Sessions,
    pub(crate) faults: Faults,
    pub(crate) recorder: Recorder,
    /// Judges client certificates at login: chain to the network's CAs, clientAuth, dates.
    pub(crate) client_judge: Arc<dyn ClientCertVerifier>,
    pub(crate) shown: Mutex<Arc<Shown>>,
    pub(crate) sockets: Mutex<HashMap<usize, TcpStream>>,
    pub(crate) stopping: Mutex<bool>,
    pub(crate) stopped: Condvar,
}

impl Core {
    pub(crate) fn shown(&self) -> Arc<Shown> {
        locked(&self.shown).clone()
    }

    pub(crate) fn idle(&self) -> Duration {
        let told = self.faults.number(|fault| if let Fault::IdleClose(time) = fault { Some(*time) } else { None });
        told.map_or(self.options.idle, |time| Duration::from_millis(time.max(1)))
    }

    pub(crate) fn slowness(&self) -> Option<Duration> {
        let told = self.faults.number(|fault| if let Fault::Slow(time) = fault { Some(*time) } else { None });
        told.map(Duration::from_millis)
    }

    pub(crate) fn drip(&self) -> Option<u64> {
        self.faults.number(|fault| if let Fault::Drip(speed) = fault { Some(*speed) } else { None })
    }

    pub(crate) fn version(&self) -> &'static str {
        match self.options.like {
            Like::V1_4 => "v1.4.3",
            Like::V2_1 => "v2.1.0",
        }
    }

    pub(crate) fn common_headers(&self) -> Vec<(String, String)> {
        vec![
            ("Server".into(), format!("ziti-controller/{}", self.version())),
            ("Ziti-Instance-Id".into(), self.instance_id.clone()),
            ("Date".into(), http_date(unix_now())),
        ]
    }

    /// Sleeps, but not past the controller's stop.
    pub(crate) fn pause(&self, time: Duration) {
        let stopping = locked(&self.stopping);
        drop(self.stopped.wait_timeout_while(stopping, time, |stopping| !*stopping).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *locked(&self.stopping)
    }

    pub(crate) fn close_connections(&self) {
        for socket in locked(&self.sockets).values() {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// Wakes every thread: the sleeping ones by the condition, the reading ones by the end of their sockets.
    pub(crate) fn stop(&self) {
        *locked(&self.stopping) = true;
        self.close_connections(); // before anybody wakes and answers after all
        self.stopped.notify_all();
        TcpStream::connect(self.address).ok(); // the accepting one
    }
}

pub(crate) fn client_judge(network: &Network) -> Arc<dyn ClientCertVerifier> {
    let mut anchors = RootCertStore::empty();
    anchors.add_parsable_certificates(network.certificates().into_iter().map(Into::into));
    WebPkiClientVerifier::builder_with_provider(anchors.into(), super::face::provider())
        .build()
        .expect("a network has at least one CA")
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 3339, in UTC, of seconds since the Unix epoch.
pub(crate) fn rfc3339(unix: u64) -> String {
    der::DateTime::from_unix_duration(Duration::from_secs(unix)).map(|time| time.to_string()).unwrap_or_default()
}

/// IMF-fixdate (RFC 9110 §5.6.7).
fn http_date(unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // the epoch was a Thursday
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Ok(time) = der::DateTime::from_unix_duration(Duration::from_secs(unix)) else { return String::new() };
    let (day, month) = (DAYS[(unix / 86_400 % 7) as usize], MONTHS[usize::from(time.month()) - 1]);
    let (date, year) = (time.day(), time.year());
    format!("{day}, {date:02} {month} {year} {:02}:{:02}:{:02} GMT", time.hour(), time.minutes(), time.seconds())
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_written_as_http_wants_them() {
        assert_eq!(super::http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(super::rfc3339(784_111_777), "1994-11-06T08:49:37Z");
    }
}
