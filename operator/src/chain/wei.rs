//! Amounts of a chain's own coin in configuration: `500gwei`, `1.5 gwei`, or a plain number of wei.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

const PER_GWEI: u128 = 1_000_000_000;

/// An amount in wei.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wei(u128);

/// Why a text is not an amount in wei.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an amount: write gwei, such as 500gwei or 0.1gwei, or a whole number of wei"
)]
pub struct InvalidWei {
    text: String,
}

impl Wei {
    /// An amount from wei.
    #[must_use]
    pub const fn new(wei: u128) -> Self {
        Self(wei)
    }

    /// An amount from gwei (10^9 wei).
    #[must_use]
    pub const fn from_gwei(gwei: u64) -> Self {
        Self(gwei as u128 * PER_GWEI)
    }

    /// The amount in wei.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl FromStr for Wei {
    type Err = InvalidWei;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidWei {
            text: text.to_owned(),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let Some(gwei) = text.strip_suffix("gwei").map(str::trim_end) else {
            return digits(text)
                .then(|| text.parse().ok().map(Self))
                .flatten()
                .ok_or_else(invalid);
        };
        let (whole, fraction) = gwei.split_once('.').unwrap_or((gwei, "0"));
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(invalid());
        }
        let whole: u128 = whole.parse().map_err(|_| invalid())?;
        let fraction: u128 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
        whole
            .checked_mul(PER_GWEI)
            .and_then(|wei| wei.checked_add(fraction))
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Wei(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Wei(wei) => Ok(Self(wei.into())),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gwei_and_wei_are_read_exactly() {
        for (text, wei) in [
            ("0", 0),
            ("7", 7),
            ("1gwei", PER_GWEI),
            ("1 gwei", PER_GWEI),
            ("1.5gwei", 1_500_000_000),
            ("0.000000001gwei", 1),
        ] {
            assert_eq!(text.parse::<Wei>().map(Wei::get), Ok(wei), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in [
            "",
            "gwei",
            "1ether",
            "-1",
            "1.gwei",
            ".5gwei",
            "1e9",
            "0.0000000001gwei",
            "1,5gwei",
        ] {
            let refused = text.parse::<Wei>().unwrap_err().to_string();
            assert!(refused.contains("500gwei"), "{refused}");
        }
    }
}
