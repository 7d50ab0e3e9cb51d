//! Spans of time as Kubernetes writes them, such as `1h30m`: read by kube's type, which panics on numbers that no clock counts to. So
//! nothing is handed to it that is not known to be small enough.

use kube::core::duration::Duration;
use serde::{Deserialize, Deserializer, de};

/// The longest text; the schema allows as much.
const LONGEST: usize = 32;
/// Digits in a row: so many hours, several times added, are fewer seconds than 64 bits count.
const MOST_DIGITS: usize = 9;

/// A text that is no span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a duration: write a number and a unit, such as 30s or 1h30m, with at most 9 digits"
)]
pub struct InvalidDuration {
    text: String,
}

/// Reads a span, which may be negative.
///
/// # Errors
/// When it is none, or longer than anybody means.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration {
        text: text.chars().take(LONGEST).collect(),
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_small = text.len() <= LONGEST
        && !unsigned.contains(['+', '-'])
        && unsigned
            .split(|c: char| !c.is_ascii_digit())
            .all(|digits| digits.len() <= MOST_DIGITS);
    if !is_small {
        return Err(invalid());
    }
    text.parse().map_err(|_| invalid())
}

/// For a field that is a span.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

/// For a field that may be one.
pub(crate) mod optional {
    use super::{Deserialize as _, Deserializer, Duration, de, parse};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text).map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_kubernetes_writes_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("999999999h", 3_599_999_996_400),
            ("+5m", 300),
        ] {
            let span = std::time::Duration::from(parse(text).unwrap());
            assert_eq!(span.as_secs(), seconds, "{text}");
        }
        assert!(parse("-5m").unwrap().is_negative());
    }

    #[test]
    fn what_no_clock_counts_to_is_refused_and_nothing_panics() {
        for text in [
            "9223372036854775808h",
            "9999999999s",
            "1s-3s",
            "--1s",
            "5",
            "",
            "h",
            "1y",
            "infs",
            "1e9s",
        ] {
            let read = parse(text);
            assert!(read.is_err() || text.is_empty(), "{text}: {read:?}");
        }
        let long = format!("{}1s", "0".repeat(4000));
        assert!(parse(&long).unwrap_err().to_string().len() < 200);
    }
}
