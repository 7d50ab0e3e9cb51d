//! The token, and amounts of it: books are kept in nano-tokens, the token counts in its own smallest unit. Pure.

use alloy::primitives::{Address, U256};
use gridstake_crds::TokenAmount;

/// Decimals of a nano-token.
const NANO_DECIMALS: u8 = 9;
/// The longest symbol that is shown, in bytes.
const LONGEST_SYMBOL: usize = 11;

/// An ERC-20 token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its address.
    pub address: Address,
    /// What it is called, such as `GRID`; `tokens` where it says nothing that can be shown.
    pub symbol: String,
    /// How many decimals its smallest unit has.
    pub decimals: u8,
}

impl Token {
    /// The token at `address`, by what it says of itself.
    #[must_use]
    pub fn new(address: Address, symbol: Option<&str>, decimals: u8) -> Self {
        let plain = |symbol: &&str| {
            (1..=LONGEST_SYMBOL).contains(&symbol.len())
                && symbol.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        Self {
            address,
            symbol: symbol.filter(plain).unwrap_or("tokens").to_owned(),
            decimals,
        }
    }

    /// Nano-tokens in its smallest unit; 1 where that is a nano-token or less.
    #[must_use]
    pub fn nano_per_unit(&self) -> u128 {
        let missing = NANO_DECIMALS.saturating_sub(self.decimals);
        10_u128.pow(missing.into())
    }

    /// An amount in its smallest unit, rounded down.
    #[must_use]
    pub fn units(&self, nano: u128) -> U256 {
        let more = self.decimals.saturating_sub(NANO_DECIMALS);
        U256::from(nano / self.nano_per_unit())
            .saturating_mul(U256::from(10).saturating_pow(U256::from(more)))
    }

    /// An amount of its smallest unit in nano-tokens, rounded down.
    #[must_use]
    pub fn nano(&self, units: U256) -> u128 {
        let more = self.decimals.saturating_sub(NANO_DECIMALS);
        let nano = units / U256::from(10).saturating_pow(U256::from(more));
        nano.saturating_to::<u128>()
            .saturating_mul(self.nano_per_unit())
    }

    /// An amount in words, such as `25000 GRID`.
    #[must_use]
    pub fn amount(&self, nano: u128) -> String {
        format!("{} {}", TokenAmount::from_nano(nano), self.symbol)
    }

    /// What is wrong with an amount that the token cannot move exactly.
    pub fn exact(&self, flag: &str, nano: u128) -> Result<(), String> {
        let unit = self.nano_per_unit();
        if nano.is_multiple_of(unit) {
            return Ok(());
        }
        let down = TokenAmount::from_nano(nano - nano % unit);
        Err(format!(
            "{flag}: {} has {} decimals and cannot move {}: write at most so many decimals, such as {down}",
            self.symbol,
            self.decimals,
            TokenAmount::from_nano(nano),
        ))
    }
}

/// Coins of the chain, from wei: rounded up to a thousand-millionth.
#[must_use]
pub fn coins(wei: u128) -> String {
    TokenAmount::from_nano(wei.div_ceil(1_000_000_000)).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A token of this many decimals.
    pub(crate) fn token(decimals: u8) -> Token {
        Token::new(Address::repeat_byte(0x70), Some("GRID"), decimals)
    }

    #[test]
    fn amounts_are_converted_to_the_tokens_unit_and_back() {
        for (decimals, nano, units) in [
            (18, 1, "1000000000"),
            (18, 25_000_000_000_000, "25000000000000000000000"),
            (9, 7, "7"),
            (6, 1_500_000_000, "1500000"),
            (0, 3_000_000_000, "3"),
        ] {
            let token = token(decimals);
            let units: U256 = units.parse().unwrap();
            assert_eq!(token.units(nano), units, "{decimals}");
            assert_eq!(token.nano(units), nano, "{decimals}");
        }
    }

    #[test]
    fn what_a_coarse_token_cannot_move_is_refused_with_what_it_can() {
        assert_eq!(token(18).exact("--amount", 1), Ok(()));
        assert_eq!(token(6).exact("--amount", 1_000), Ok(()));
        let words = token(6).exact("--amount", 1_500_000_001).unwrap_err();
        assert!(
            words.starts_with("--amount: ") && words.ends_with("such as 1.5"),
            "{words}"
        );
    }

    #[test]
    fn a_symbol_that_could_deceive_is_not_shown() {
        let symbol = |text: &str| Token::new(Address::ZERO, Some(text), 18).symbol;
        assert_eq!(symbol("USDC"), "USDC");
        for bad in ["", "GRID GRID", "a\u{1b}[2Jb", "ABCDEFGHIJKL", "GRІD"] {
            assert_eq!(symbol(bad), "tokens", "{bad:?}");
        }
        assert_eq!(Token::new(Address::ZERO, None, 18).symbol, "tokens");
    }

    #[test]
    fn coins_are_never_told_less_than_they_are() {
        assert_eq!(coins(0), "0");
        assert_eq!(coins(1), "0.000000001");
        assert_eq!(coins(1_000_000_000_000_000_000), "1");
        assert_eq!(coins(u128::MAX), coins(u128::MAX));
    }

    #[test]
    fn an_amount_beyond_all_tokens_does_not_overflow() {
        assert_eq!(token(0).nano(U256::MAX), u128::MAX);
        assert!(token(36).units(u128::MAX) > U256::from(u128::MAX));
    }
}
