//! When something ends, as people write it: a time, or a duration from now.

use std::{fmt, str::FromStr};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What a flag says about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At this time.
    At(Timestamp),
    /// This long from now.
    In(SignedDuration),
}

/// A text that says no end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a time nor a duration: write a time in RFC 3339, such as \"2027-01-01T00:00:00Z\", or a whole number with s, m, h or d, such as \"90d\""
)]
pub struct InvalidEnd(String);

/// An end that is none, seen from now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndFault {
    /// It is not later than now.
    #[error(
        "{flag}: {end} is not later than now, {now:.0}: write a time to come, or a duration such as 30d"
    )]
    Past {
        /// The flag.
        flag: &'static str,
        /// The end.
        end: Timestamp,
        /// When it was judged.
        now: Timestamp,
    },
    /// It is beyond what a time can be.
    #[error("{flag}: it is beyond the year 9999: write an earlier time, or a duration such as 30d")]
    TooLate {
        /// The flag.
        flag: &'static str,
    },
}

/// A time to come, in whole seconds, as it is signed and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTime {
    seconds: u64,
    time: Timestamp,
}

impl FromStr for End {
    type Err = InvalidEnd;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration(text)
            .map(Self::In)
            .or_else(|| text.parse().ok().map(Self::At))
            .ok_or_else(|| InvalidEnd(text.to_owned()))
    }
}

/// A whole number of seconds, minutes, hours or days.
fn duration(text: &str) -> Option<SignedDuration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let count: i64 = digits.parse().ok().filter(|_| plain)?;
    count.checked_mul(seconds).map(SignedDuration::from_secs)
}

impl End {
    /// The time, seen from `now`, for the value of `flag`. Fractions of a second are left off: nobody signs them.
    pub fn seen_from(self, now: Timestamp, flag: &'static str) -> Result<EndTime, EndFault> {
        let too_late = |_| EndFault::TooLate { flag };
        let end = match self {
            Self::At(time) => time,
            Self::In(duration) => now.checked_add(duration).map_err(too_late)?,
        };
        let time = Timestamp::from_second(end.as_second()).map_err(too_late)?;
        match u64::try_from(time.as_second()) {
            Ok(seconds) if time > now => Ok(EndTime { seconds, time }),
            _ => Err(EndFault::Past { flag, end, now }),
        }
    }
}

impl EndTime {
    /// Unix seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.seconds
    }
}

impl fmt::Display for EndTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-06-01T12:00:00.5Z";

    #[allow(clippy::unwrap_in_result, reason = "the times are literals")]
    fn seen(text: &str) -> Result<String, EndFault> {
        let end: End = text.parse().unwrap();
        end.seen_from(NOW.parse().unwrap(), "--expires")
            .map(|time| time.to_string())
    }

    #[test]
    fn an_end_is_a_time_or_a_duration_in_whole_seconds() {
        for (text, expected) in [
            ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2027-01-01T02:00:00+02:00", "2027-01-01T00:00:00Z"),
            ("2027-01-01T00:00:00.75Z", "2027-01-01T00:00:00Z"),
            ("1s", "2026-06-01T12:00:01Z"),
            ("90m", "2026-06-01T13:30:00Z"),
            ("12h", "2026-06-02T00:00:00Z"),
            ("90d", "2026-08-30T12:00:00Z"),
        ] {
            assert_eq!(seen(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_signed_is_what_is_written() {
        let end: End = "2027-01-01T00:00:00.75Z".parse().unwrap();
        let time = end.seen_from(NOW.parse().unwrap(), "--expires").unwrap();
        assert_eq!(time.seconds(), 1_798_761_600);
    }

    #[test]
    fn an_end_that_is_past_or_out_of_reach_is_refused_by_its_flag() {
        for (text, expected) in [
            ("2020-01-01T00:00:00Z", "not later than now"),
            ("1960-01-01T00:00:00Z", "not later than now"),
            ("2026-06-01T12:00:00Z", "not later than now"),
            ("0d", "not later than now"),
            ("9000000d", "beyond the year 9999"),
        ] {
            let words = seen(text).unwrap_err().to_string();
            assert!(
                words.starts_with("--expires: ") && words.contains(expected),
                "{words}"
            );
        }
    }

    #[test]
    fn what_says_no_end_is_refused() {
        for text in [
            "",
            "d",
            "90",
            "-1d",
            "+1d",
            "1.5h",
            "1 d",
            "1w",
            "1h30m",
            "2027-01-01",
            "9999999999999999d",
            "1日",
        ] {
            assert!(text.parse::<End>().is_err(), "{text:?}");
        }
    }
}
