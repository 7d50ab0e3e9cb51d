//! Token amounts as people write them: decimal strings of whole tokens, at most 9 decimals, held as integers.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Decimals of a written amount.
pub const DECIMALS: usize = 9;
/// Nano-tokens in one token.
pub const NANO_PER_TOKEN: u128 = 1_000_000_000;
/// Digits before the point: an amount is below 10^18 tokens, so that it fits a `u128` with room for products.
const MAX_WHOLE_DIGITS: usize = 18;

/// An amount of tokens, held in nano-tokens (10^-9 token). No float ever touches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenAmount(u128);

/// Why a string is not a token amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a token amount: write whole tokens as a decimal string with at most 9 decimals, such as \"0.00072\""
)]
pub struct InvalidAmount {
    text: String,
}

impl TokenAmount {
    /// An amount from nano-tokens.
    #[must_use]
    pub const fn from_nano(nano: u128) -> Self {
        Self(nano)
    }

    /// The amount in nano-tokens.
    #[must_use]
    pub const fn nano(self) -> u128 {
        self.0
    }
}

impl FromStr for TokenAmount {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAmount {
            text: text.to_owned(),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let canonical =
            whole.len() <= MAX_WHOLE_DIGITS && (whole == "0" || !whole.starts_with('0'));
        if !canonical || !digits(whole) || !digits(fraction) || fraction.len() > DECIMALS {
            return Err(invalid());
        }
        let whole: u128 = whole.parse().map_err(|_| invalid())?;
        let nano: u128 = format!("{fraction:0<DECIMALS$}")
            .parse()
            .map_err(|_| invalid())?;
        Ok(Self(whole * NANO_PER_TOKEN + nano))
    }
}

impl fmt::Display for TokenAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nano) = (self.0 / NANO_PER_TOKEN, self.0 % NANO_PER_TOKEN);
        if nano == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{nano:0DECIMALS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl Serialize for TokenAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for TokenAmount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TokenAmount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 28,
            "x-kubernetes-validations": [{
                "rule": r"self.matches('^(0|[1-9][0-9]{0,17})([.][0-9]{1,9})?$')",
                "message": "write whole tokens as a decimal string with at most 9 decimals, without sign or exponent, such as \"0.00072\"",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, nano) in [
            ("0", 0),
            ("0.00072", 720_000),
            ("1", NANO_PER_TOKEN),
            ("20000.000000001", 20_000_000_000_001),
            ("1.10", 1_100_000_000),
        ] {
            assert_eq!(
                text.parse::<TokenAmount>().map(TokenAmount::nano),
                Ok(nano),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e9",
            "0.0000000001",
            "01",
            "1,5",
            " 1",
            "0x1",
            "1000000000000000000",
            "NaN",
            "١",
        ] {
            assert!(text.parse::<TokenAmount>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_survives_being_written_and_read(nano in 0..10u128.pow(27)) {
            let amount = TokenAmount::from_nano(nano);
            prop_assert_eq!(amount.to_string().parse::<TokenAmount>(), Ok(amount));
        }

        #[test]
        fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in ".*") {
            let _ = text.parse::<TokenAmount>();
        }
    }
}
