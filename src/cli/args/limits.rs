//! How long others may take, how often something is tried again, and to whom a file is given.

use std::time::Duration;

use ziti_enroller::flow::Patience;
use ziti_enroller::http::Reach;

/// How long a device may take for one call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For any call.
    pub call: Duration,
    /// For one that makes a key.
    pub making_a_key: Duration,
}

/// How long others may take.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitArgs {
    /// How long a request and its answer may take
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s", env = "ZITI_ENROLLER_TIMEOUT", hide_env = true)]
    timeout: Duration,
    /// How long a device may take for one call [default: 2m; 15m for making a key]
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "ZITI_ENROLLER_DEVICE_TIMEOUT", hide_env = true)]
    device_timeout: Option<Duration>,
}

impl Default for LimitArgs {
    fn default() -> Self {
        Self { timeout: Reach::default().request, device_timeout: None }
    }
}

impl LimitArgs {
    /// How the network is reached.
    pub fn reach(&self) -> Reach {
        let usual = Reach::default();
        Reach { connect: usual.connect.min(self.timeout), request: self.timeout, ..usual }
    }

    /// How long a device may take.
    pub fn limits(&self) -> Limits {
        let usual = Limits { call: Duration::from_secs(120), making_a_key: Duration::from_secs(900) };
        self.device_timeout.map_or(usual, |limit| Limits { call: limit, making_a_key: limit })
    }
}

/// How often, and for how long, something is tried again.
#[derive(Clone, Debug, clap::Args)]
pub struct PatienceArgs {
    /// Wait so long for what may heal by itself: network, controller, device not there yet
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0", env = "ZITI_ENROLLER_WAIT", hide_env = true)]
    wait: Duration,
    /// How often the same request is sent again when its outcome is unknown
    #[arg(long, value_name = "N", default_value_t = 4, env = "ZITI_ENROLLER_RETRIES", hide_env = true)]
    retries: u8,
    /// Pause before the second of these (the first is sent at once, later ones after 4 and 10 times that)
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s", env = "ZITI_ENROLLER_RETRY_DELAY", hide_env = true)]
    retry_delay: Duration,
}

impl PatienceArgs {
    /// The library's own type.
    pub fn patience(&self) -> Patience {
        Patience::new(self.wait, self.retries.into(), self.retry_delay)
    }
}

/// `30`, `30s`, `500ms`, `2m`, `1h`, `20d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("use ms, s, m, h or d".into()),
    };
    let number: u64 = number.parse().map_err(|_| "it begins with no number".to_owned())?;
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "it is too long".into())
}

/// `USER[:GROUP]`, by name or number, as numbers.
///
/// # Errors
/// Who is not known here.
pub fn owner(text: &str) -> Result<(u32, Option<u32>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let unknown = |what: &str, name: &str| format!("there is no {what} `{name}`");
    let user_id = match user.parse() {
        Ok(number) => number,
        Err(_) => {
            let known = nix::unistd::User::from_name(user).ok().flatten();
            known.ok_or_else(|| unknown("user", user))?.uid.as_raw()
        }
    };
    let group_id = |group: &str| match group.parse() {
        Ok(number) => Ok(number),
        Err(_) => {
            let known = nix::unistd::Group::from_name(group).ok().flatten();
            known.map(|g| g.gid.as_raw()).ok_or_else(|| unknown("group", group))
        }
    };
    Ok((user_id, group.map(group_id).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        let read = |text| duration(text).ok();
        assert_eq!(read("30"), read("30s"));
        assert_eq!(read("1d"), read("24h"));
        assert_eq!((read("500ms"), read("2m"), read("1h")), (Some(Duration::from_millis(500)), read("120"), read("3600")));
        assert_eq!((read("s"), read("1w"), read("99999999999999999999"), read("")), (None, None, None, None));
    }

    #[test]
    fn reads_owners() {
        assert_eq!(owner("0:0").unwrap(), (0, Some(0)));
        assert_eq!(owner("root").unwrap(), (0, None));
        assert!(owner("nobody-of-that-name").is_err());
    }
}
