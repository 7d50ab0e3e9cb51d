//! Nano-tokens (10⁻⁹ token) as integers. Decimal strings are read and written by `gridstake_crds::TokenAmount` alone.

/// Nano-tokens in one token.
pub const NANO_PER_TOKEN: u128 = 1_000_000_000;
/// The decimals that a nano-token stands for.
const NANO_DECIMALS: u8 = 9;
/// A price on the wire counts 10⁻¹⁸ token per GPU-millisecond: this many for one nano-token per GPU-second.
const WIRE_PER_NANO: u128 = 1_000_000;
/// Wire price units in one nano-token.
const WIRE_UNITS: u128 = 1_000_000_000;
/// The contract holds balances and credits in 63 bits.
pub const MAX_BALANCE: u64 = u64::MAX >> 1;

/// Why an amount cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The price does not fit the wire format.
    #[error(
        "a price of {nano} nano-tokens per GPU-second does not fit the wire format: at most {}",
        u128::from(u64::MAX) / WIRE_PER_NANO
    )]
    PriceTooHigh {
        /// The price in nano-tokens per GPU-second.
        nano: u128,
    },
    /// The amount does not fit a balance.
    #[error("{nano} nano-tokens do not fit a balance: at most {MAX_BALANCE}")]
    TooMuch {
        /// The amount in nano-tokens.
        nano: u128,
    },
    /// The token is too coarse for the amount.
    #[error(
        "{nano} nano-tokens are no whole number of units of a token with {decimals} decimals: write at most {decimals} decimals"
    )]
    TooFine {
        /// The amount in nano-tokens.
        nano: u128,
        /// The token's decimals.
        decimals: u8,
    },
    /// The calculation leaves the range of 128 bits.
    #[error("the amount is out of range")]
    Overflow,
}

/// The price as it stands in a batch, from nano-tokens per GPU-second. Exact.
pub fn price_on_wire(nano_per_gpu_second: u128) -> Result<u64, AmountError> {
    nano_per_gpu_second
        .checked_mul(WIRE_PER_NANO)
        .and_then(|price| u64::try_from(price).ok())
        .ok_or(AmountError::PriceTooHigh {
            nano: nano_per_gpu_second,
        })
}

/// What a group pays in nano-tokens: `floor(units × price ÷ 10⁹)`, as the contract computes it. `units` is the sum over
/// the group's records in GPU-milliseconds, `price` as on the wire.
pub fn group_amount(units: u64, price: u64) -> Result<u64, AmountError> {
    let nano = u128::from(units) * u128::from(price) / WIRE_UNITS;
    balance(nano)
}

/// The part of one record in nano-tokens, rounded down: `floor(gpu_millis × nano_per_gpu_second ÷ 1000)`. Groups are
/// rounded once, so the sum over a group's records may be less than what the group pays.
pub fn record_amount(gpu_millis: u64, nano_per_gpu_second: u128) -> Result<u64, AmountError> {
    let nano = u128::from(gpu_millis)
        .checked_mul(nano_per_gpu_second)
        .ok_or(AmountError::Overflow)?
        / 1000;
    balance(nano)
}

/// The amount as a balance.
pub fn balance(nano: u128) -> Result<u64, AmountError> {
    u64::try_from(nano)
        .ok()
        .filter(|amount| *amount <= MAX_BALANCE)
        .ok_or(AmountError::TooMuch { nano })
}

/// Nano-tokens as units of a token with `decimals`; refused if the token is too coarse to say it exactly.
pub fn to_token_units(nano: u128, decimals: u8) -> Result<u128, AmountError> {
    if decimals >= NANO_DECIMALS {
        let scale = ten_to(decimals - NANO_DECIMALS)?;
        return nano.checked_mul(scale).ok_or(AmountError::Overflow);
    }
    let scale = ten_to(NANO_DECIMALS - decimals)?;
    if nano.is_multiple_of(scale) {
        Ok(nano / scale)
    } else {
        Err(AmountError::TooFine { nano, decimals })
    }
}

/// Units of a token with `decimals` as nano-tokens, rounded down.
pub fn from_token_units(units: u128, decimals: u8) -> Result<u128, AmountError> {
    if decimals >= NANO_DECIMALS {
        return Ok(units / ten_to(decimals - NANO_DECIMALS)?);
    }
    units
        .checked_mul(ten_to(NANO_DECIMALS - decimals)?)
        .ok_or(AmountError::Overflow)
}

fn ten_to(exponent: u8) -> Result<u128, AmountError> {
    10_u128
        .checked_pow(exponent.into())
        .ok_or(AmountError::Overflow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gpu_second_costs_its_price() {
        let price = price_on_wire(720_000).unwrap();
        assert_eq!(price, 720_000_000_000);
        assert_eq!(group_amount(1000, price), Ok(720_000));
        assert_eq!(record_amount(1000, 720_000), Ok(720_000));
    }

    #[test]
    fn a_group_is_rounded_down_once() {
        let price = price_on_wire(1).unwrap();
        assert_eq!(group_amount(999, price), Ok(0));
        assert_eq!(group_amount(1999, price), Ok(1));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_bound() {
        assert_eq!(
            price_on_wire(18_446_744_073_710).unwrap_err().to_string(),
            "a price of 18446744073710 nano-tokens per GPU-second does not fit the wire format: at most 18446744073709"
        );
        assert!(price_on_wire(u128::MAX).is_err());
        assert!(group_amount(u64::MAX, u64::MAX).is_err());
        assert!(record_amount(u64::MAX, u128::MAX).is_err());
    }

    #[test]
    fn a_coarse_token_refuses_what_it_cannot_pay() {
        assert_eq!(to_token_units(1_000, 6), Ok(1));
        assert_eq!(
            to_token_units(1_001, 6),
            Err(AmountError::TooFine {
                nano: 1_001,
                decimals: 6
            })
        );
        assert_eq!(to_token_units(5, 18), Ok(5_000_000_000));
        assert_eq!(from_token_units(1, 6), Ok(1_000));
        assert_eq!(from_token_units(1_999_999_999, 18), Ok(1));
        assert_eq!(to_token_units(1, 255), Err(AmountError::Overflow));
    }

    proptest! {
        #[test]
        fn tokens_survive_the_way_to_units_and_back(nano in 0..10_u128.pow(27), decimals in 9_u8..=18) {
            let units = to_token_units(nano, decimals).unwrap();
            prop_assert_eq!(from_token_units(units, decimals), Ok(nano));
        }

        #[test]
        fn a_group_pays_no_less_than_its_records_and_less_than_one_nano_each_more(
            units in prop::collection::vec(0_u64..1 << 40, 1..20), nano in 0_u128..1 << 26,
        ) {
            let price = price_on_wire(nano).unwrap();
            let group = group_amount(units.iter().sum(), price).unwrap();
            let single: u64 = units.iter().map(|u| record_amount(*u, nano).unwrap()).sum();
            prop_assert!(single <= group && group <= single + units.len() as u64);
        }
    }
}
