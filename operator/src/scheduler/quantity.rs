//! Reads Kubernetes `resource.Quantity` strings ("500m", "80Gi", "1e3") into integers.
//!
//! The rules are those of apimachinery: a value finer than the unit asked for is rounded away from
//! zero (so a request is never understated), and a value beyond 2^63 − 1 is held at that bound.

/// Thousandths of a unit: what `cpu` is counted in.
pub type Milli = i128;

/// The largest magnitude that Kubernetes keeps, 2^63 − 1 units, in milli-units.
const MAX_MILLI: u128 = 9_223_372_036_854_775_807_000;

/// Significant digits that are read exactly; more are refused rather than guessed. Twenty digits
/// times 2^60 still fit 128 bits.
const MAX_DIGITS: usize = 20;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Nothing to read.
    #[error("read quantity: it is empty; write a number such as \"500m\" or \"80Gi\"")]
    Empty,
    /// No digit where the number should be.
    #[error("read quantity {text:?}: no digits; write a number such as \"500m\" or \"80Gi\"")]
    NoDigits {
        /// The text as given.
        text: String,
    },
    /// Letters after the number that are no suffix.
    #[error(
        "read quantity {text:?}: unknown suffix {suffix:?}; use one of n, u, m, k, M, G, T, P, E, \
         Ki, Mi, Gi, Ti, Pi, Ei or an exponent such as e3"
    )]
    UnknownSuffix {
        /// The text as given.
        text: String,
        /// What stands after the number.
        suffix: String,
    },
    /// More digits than are read exactly.
    #[error("read quantity {text:?}: more than 20 significant digits; use a larger suffix")]
    TooManyDigits {
        /// The text as given.
        text: String,
    },
    /// A resource cannot be less than nothing.
    #[error("read quantity {text:?}: it is negative; a resource is zero or more")]
    Negative {
        /// The text as given.
        text: String,
    },
}

/// Reads a quantity as milli-units, rounded away from zero.
pub fn parse_milli(text: &str) -> Result<Milli, QuantityError> {
    let (negative, magnitude) = parse(text, 3)?;
    let magnitude = i128::try_from(magnitude.min(MAX_MILLI)).unwrap_or(i128::MAX);
    Ok(if negative { -magnitude } else { magnitude })
}

/// Reads a quantity that cannot be negative as milli-units.
pub fn parse_milli_unsigned(text: &str) -> Result<u64, QuantityError> {
    unsigned(text, 3)
}

/// Reads a quantity that cannot be negative as whole units (bytes, devices, pods), rounded up.
pub fn parse_units(text: &str) -> Result<u64, QuantityError> {
    unsigned(text, 0)
}

fn unsigned(text: &str, decimals: i64) -> Result<u64, QuantityError> {
    let (negative, magnitude) = parse(text, decimals)?;
    if negative && magnitude != 0 {
        return Err(QuantityError::Negative {
            text: text.to_owned(),
        });
    }
    Ok(u64::try_from(magnitude)
        .unwrap_or(u64::MAX)
        .min(i64::MAX.unsigned_abs()))
}

/// Sign and magnitude in units of 10^−`decimals`, rounded up, saturating at `u128::MAX`.
fn parse(text: &str, decimals: i64) -> Result<(bool, u128), QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Empty);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, rest) = leading_digits(rest);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => leading_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(QuantityError::NoDigits {
            text: text.to_owned(),
        });
    }
    let Some((exponent_of_2, exponent_of_10)) = exponents(suffix) else {
        return Err(QuantityError::UnknownSuffix {
            text: text.to_owned(),
            suffix: suffix.to_owned(),
        });
    };

    let fraction = fraction.trim_end_matches('0');
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.len() > MAX_DIGITS {
        return Err(QuantityError::TooManyDigits {
            text: text.to_owned(),
        });
    }
    let mantissa = digits
        .bytes()
        .fold(0_u128, |value, digit| value * 10 + u128::from(digit - b'0'));
    let scaled = mantissa << exponent_of_2;
    let fraction_digits = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let power = exponent_of_10
        .saturating_add(decimals)
        .saturating_sub(fraction_digits);
    Ok((negative, times_power_of_10(scaled, power)))
}

fn leading_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The powers of 2 and of 10 that a suffix stands for.
fn exponents(suffix: &str) -> Option<(u32, i64)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let signed = suffix.strip_prefix(['e', 'E'])?;
            let digits = signed.strip_prefix(['+', '-']).unwrap_or(signed);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            (0, i64::from(signed.parse::<i32>().ok()?))
        }
    })
}

fn times_power_of_10(value: u128, power: i64) -> u128 {
    if value == 0 {
        return 0;
    }
    let factor = u32::try_from(power.unsigned_abs())
        .ok()
        .and_then(|exponent| 10_u128.checked_pow(exponent));
    match (power >= 0, factor) {
        (true, Some(factor)) => value.saturating_mul(factor),
        (true, None) => u128::MAX,
        (false, Some(factor)) => value.div_ceil(factor),
        // Less than one unit, but not nothing.
        (false, None) => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_suffix_has_its_value() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1_000),
            ("+1", 1_000),
            ("-1", -1_000),
            ("1.", 1_000),
            (".5", 500),
            ("0.5", 500),
            ("1.50", 1_500),
            ("1500000000n", 1_500),
            ("1500000u", 1_500),
            ("1500m", 1_500),
            ("2k", 2_000_000),
            ("2M", 2_000_000_000),
            ("2G", 2_000_000_000_000),
            ("2T", 2_000_000_000_000_000),
            ("2P", 2_000_000_000_000_000_000),
            ("2E", 2_000_000_000_000_000_000_000),
            ("1Ki", 1_024_000),
            ("1Mi", 1_048_576_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1Ti", 1_099_511_627_776_000),
            ("1Pi", 1_125_899_906_842_624_000),
            ("1Ei", 1_152_921_504_606_846_976_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("12e-1", 1_200),
            ("12E+1", 120_000),
            ("00012", 12_000),
        ] {
            assert_eq!(parse_milli(text), Ok(milli), "{text}");
        }
    }

    #[test]
    fn a_value_finer_than_the_unit_is_rounded_away_from_zero() {
        assert_eq!(parse_milli("1n"), Ok(1));
        assert_eq!(parse_milli("-1n"), Ok(-1));
        assert_eq!(parse_milli("0.0011"), Ok(2));
        assert_eq!(parse_milli("1e-400"), Ok(1));
        assert_eq!(parse_units("1m"), Ok(1));
        assert_eq!(parse_units("1.5"), Ok(2));
        assert_eq!(parse_units("0n"), Ok(0));
    }

    #[test]
    fn a_value_beyond_kubernetes_bound_is_held_at_it() {
        let max = i128::from(i64::MAX) * 1000;
        for text in [
            "9Ei",
            "1e400",
            "100E",
            "9223372036854775807",
            "1.5e19",
            "99999999999999999999Ei",
        ] {
            assert_eq!(parse_milli(text), Ok(max), "{text}");
        }
        assert_eq!(parse_milli("-10E"), Ok(-max));
        assert_eq!(parse_units("1e400"), Ok(i64::MAX.unsigned_abs()));
        assert_eq!(parse_milli_unsigned("1e400"), Ok(i64::MAX.unsigned_abs()));
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_the_reason() {
        assert_eq!(parse_milli(""), Err(QuantityError::Empty));
        for text in ["-", ".", "Gi", "+m", " 1", "--1", "e3"] {
            assert!(
                matches!(parse_milli(text), Err(QuantityError::NoDigits { .. })),
                "{text}"
            );
        }
        for text in [
            "1Gb",
            "1 ",
            "1e",
            "1e+",
            "1e1.5",
            "1K",
            "1ki",
            "1mm",
            "1.2.3",
            "1µ",
            "1e99999999999",
        ] {
            assert!(
                matches!(parse_milli(text), Err(QuantityError::UnknownSuffix { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parse_milli("123456789012345678901n"),
            Err(QuantityError::TooManyDigits { .. })
        ));
        assert!(matches!(
            parse_units("-1"),
            Err(QuantityError::Negative { .. })
        ));
        assert_eq!(parse_units("-0"), Ok(0));
        assert_eq!(
            parse_milli("1Gb").unwrap_err().to_string(),
            "read quantity \"1Gb\": unknown suffix \"Gb\"; use one of n, u, m, k, M, G, T, P, E, \
             Ki, Mi, Gi, Ti, Pi, Ei or an exponent such as e3"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,24}") {
            let _ = parse_milli(&text);
            let _ = parse_units(&text);
        }

        #[test]
        fn whole_milli_values_survive_every_decimal_spelling(milli in 0_i64..1_000_000_000_000) {
            let milli = i128::from(milli);
            prop_assert_eq!(parse_milli(&format!("{milli}m")), Ok(milli));
            prop_assert_eq!(parse_milli(&format!("{}.{:03}", milli / 1000, milli % 1000)), Ok(milli));
            prop_assert_eq!(parse_milli(&format!("{milli}e-3")), Ok(milli));
            prop_assert_eq!(parse_milli(&format!("{milli}000u")), Ok(milli));
            prop_assert_eq!(parse_milli(&format!("-{milli}000000n")), Ok(-milli));
        }

        #[test]
        fn binary_suffixes_are_powers_of_1024(count in 0_u64..8, step in 0_u32..6) {
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi"][step as usize];
            prop_assert_eq!(parse_units(&format!("{count}{suffix}")), Ok(count * 1024_u64.pow(step)));
        }

        #[test]
        fn order_is_kept(a in 0_u64..10_000_000, b in 0_u64..10_000_000) {
            let (small, large) = (a.min(b), a.max(b));
            for suffix in ["n", "u", "m", "k", "Mi"] {
                let read = |count: u64| parse_milli(&format!("{count}{suffix}")).unwrap();
                prop_assert!(read(small) <= read(large));
            }
        }
    }
}
