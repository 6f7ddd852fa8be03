//! The strategy of a deployment, as options.

use capstan_core::config::{ConfigRequest, Mode};

/// Where the help lists these options.
pub(crate) const HEADING: &str = "Strategy";

/// How a deployment goes; what is left out takes its default.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct StrategyArgs {
    /// Share of the group that may be out of service at once, in percent: 1 to 50, or 100 for a group
    /// that may go dark [default: 25; rollback: 50].
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = HEADING)]
    max_unavailable: Option<u8>,
    /// How the servers are cut into batches: a sum of 100 (`5%+20%+75%`) or one share repeated
    /// (`10%`) [default: parts of what may be out; rollback: `50%+50%`].
    #[arg(long, value_name = "SHARES", help_heading = HEADING)]
    batch_pattern: Option<String>,
    /// Share of the group whose failure brakes, in percent; 0 brakes at the first failure [default:
    /// as --max-unavailable].
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = HEADING)]
    max_failure: Option<u8>,
    /// `auto`: batches follow each other; `manual`: each waits for `deployment rollout` [default:
    /// auto].
    #[arg(long, value_name = "MODE", value_parser = mode, help_heading = HEADING)]
    mode: Option<Mode>,
    /// Wait before the second normal batch, up to 30m [default: 0s].
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = HEADING)]
    batch_wait: Option<u32>,
    /// Wait before the third and later ones [default: as --batch-wait].
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = HEADING)]
    tail_wait: Option<u32>,
    /// How long a server may take to start and verify, 3s to 3h [default: 3m].
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = HEADING)]
    startup_timeout: Option<u32>,
}

impl StrategyArgs {
    /// As the API takes it.
    pub(crate) fn request(&self) -> ConfigRequest {
        ConfigRequest {
            max_unavailable: self.max_unavailable,
            batch_pattern: self.batch_pattern.clone(),
            max_failure: self.max_failure,
            mode: self.mode,
            batch_wait_seconds: self.batch_wait,
            tail_wait_seconds: self.tail_wait,
            startup_timeout_seconds: self.startup_timeout,
            ignore_verify: None,
        }
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let number = number.parse::<u8>().ok().filter(|percent| *percent <= 100);
    number.ok_or_else(|| "write whole percent from 0 to 100, like 25 or 25%".to_owned())
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "manual" => Ok(Mode::Manual),
        _ => Err("write auto or manual".to_owned()),
    }
}

/// Reads `90`, `90s`, `1m30s`, `1h`.
fn seconds(text: &str) -> Result<u32, String> {
    let refuse = || "write a time like 30s, 5m, 1m30s or 1h".to_owned();
    let mut sum: u32 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let number: u32 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit_end = rest[digits..].find(|letter: char| letter.is_ascii_digit());
        let end = unit_end.map_or(rest.len(), |length| digits + length);
        let size = match rest[digits..end].trim() {
            "" | "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return Err(refuse()),
        };
        sum = number.checked_mul(size).and_then(|part| sum.checked_add(part)).ok_or_else(refuse)?;
        rest = &rest[end..];
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, expected) in [("90", 90), ("30s", 30), ("1m30s", 90), ("5m", 300), ("1h", 3600)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "5x", "1.5m", "-1", "99999999h", "m5"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_may_carry_their_sign() {
        assert_eq!((percent("25"), percent("100%")), (Ok(25), Ok(100)));
        assert!(percent("101").is_err() && percent("-1").is_err() && percent("a").is_err());
    }
}
